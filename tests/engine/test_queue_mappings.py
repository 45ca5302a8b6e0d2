"""The queue loop as it serves a mapping, with everything real around it but time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lambent.context import current_invocation
from lambent.model import (
    Delete,
    Queue,
    Release,
    Send,
)
from lambent.runtimes.in_process import InProcess
from lambent.stores.memory import MemoryStore
from lambent.testing.loop import run, with_process
from tests.engine.conftest import Bench, Watched, live_and_die, messages_of, now, running, virtual_loop
from tests.engine.running import Away

pytestmark = pytest.mark.virtual_time(deterministic=True)


class Batches:
    """A handler that keeps what it got."""

    def __init__(self, seconds: float = 0, answer: Callable[[list[str]], object] = lambda bodies: None) -> None:
        self.got: list[list[str]] = []
        self.at: list[float] = []
        self.hops: list[int] = []
        self.most = 0
        self._inside = 0
        self._seconds = seconds
        self._answer = answer

    async def __call__(self, event: Any, context: Any) -> object:
        bodies = [record["body"] for record in event["Records"]]
        self.got.append(bodies)
        self.at.append(now())
        self.hops.append(current_invocation().hops)  # type: ignore[union-attr]
        self._inside += 1
        self.most = max(self.most, self._inside)
        await asyncio.sleep(self._seconds)
        self._inside -= 1
        answer = self._answer([*bodies])
        if isinstance(answer, Exception):
            raise answer
        if answer == "fail the second":
            return {"batchItemFailures": [{"itemIdentifier": event["Records"][1]["messageId"]}]}
        return answer


def sends(*bodies: object, **more: Any) -> list[Send]:
    return [Send(str(body), **more) for body in bodies]


async def test_a_batch_that_succeeds_is_deleted(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q")
    await queue.send_many(sends(*range(10)))
    loop = bench.mapping_loop(queue)
    feed: Any = loop._feed
    assert feed.state()["last_processing_result"] == "No records processed"
    async with running(loop):
        await asyncio.sleep(1)
    assert [len(batch) for batch in batches.got] == [10]
    depth = await queue.depth()
    assert (depth.visible, depth.in_flight) == (0, 0)
    assert bench.count("PolledEventCount") == bench.count("InvokedEventCount") == bench.count("DeletedEventCount") == 10
    assert bench.count("FailedInvokeEventCount") == 0
    assert feed.state()["last_processing_result"] == "OK"


async def test_a_batch_is_collected_until_its_window_has_passed(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q")
    async with running(bench.mapping_loop(queue, batch_size=100, maximum_batching_window_seconds=5)):
        for number in range(3):
            await asyncio.sleep(1)
            await queue.send_many(sends(number))
        await asyncio.sleep(10)
    assert batches.got == [["0", "1", "2"]]
    assert batches.at == [pytest.approx(6)]


async def test_a_full_batch_does_not_wait_for_its_window(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q")
    async with running(bench.mapping_loop(queue, batch_size=2, maximum_batching_window_seconds=5)):
        await queue.send_many(sends(1, 2, 3))
        await asyncio.sleep(4)
        assert batches.got == [["1", "2"]]
        await asyncio.sleep(4)
    assert batches.got == [["1", "2"], ["3"]]


async def test_a_window_never_outlasts_the_visibility_of_the_first_message(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches, timeout_seconds=10)
    queue = bench.queue("q", visibility_timeout_seconds=30)
    async with running(bench.mapping_loop(queue, batch_size=100, maximum_batching_window_seconds=300)):
        await queue.send_many(sends(1))
        await asyncio.sleep(100)
    assert batches.at == [pytest.approx(15)]  # 5 s are left to wait for a permit


async def test_a_batch_closes_before_it_would_exceed_six_megabytes(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q")
    await queue.send_many(sends(*(str(number) * 1_000_000 for number in range(8))))
    async with running(bench.mapping_loop(queue)):
        await asyncio.sleep(1)
    assert [[body[0] for body in batch] for batch in batches.got] == [list("012345"), list("67")]
    assert bench.count("DeletedEventCount") == 8


async def test_a_message_that_no_filter_matches_is_deleted_at_once_and_counted(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q")
    await queue.send_many(sends('{"kind": "a"}', '{"kind": "b"}', "no json"))
    async with running(bench.mapping_loop(queue, filters=[{"body": {"kind": ["a"]}}])):
        await asyncio.sleep(1)
    assert batches.got == [['{"kind": "a"}']]
    assert bench.count("FilteredOutEventCount") == 2
    assert bench.count("DeletedEventCount") == 1
    assert (await queue.depth()).in_flight == 0


async def test_a_failed_batch_comes_back_at_the_visibility_timeout_until_the_queue_gives_it_up(bench: Bench) -> None:
    batches = Batches(answer=lambda bodies: ValueError("no"))
    bench.add(batches)
    dead = bench.queue("dead")
    queue = bench.queue("q", visibility_timeout_seconds=30, max_receive_count=3, dead_letter_queue="dead")
    await queue.send_many(sends("x"))
    loop = bench.mapping_loop(queue)
    async with running(loop):
        await asyncio.sleep(200)
    assert batches.at == [pytest.approx(0), pytest.approx(30), pytest.approx(60)]
    assert [message.body for message in await messages_of(dead)] == ["x"]
    shown = loop._feed.state()  # type: ignore[attr-defined]
    assert shown == {"last_processing_result": "PROBLEM: Function call failed", "attempts_ended": 3}
    assert bench.count("FailedInvokeEventCount") == 3


async def test_a_partial_failure_deletes_the_others(bench: Bench) -> None:
    batches = Batches(answer=lambda bodies: "fail the second" if len(bodies) > 1 else None)
    bench.add(batches)
    queue = bench.queue("q", visibility_timeout_seconds=30)
    await queue.send_many(sends("a", "b", "c"))
    async with running(bench.mapping_loop(queue, report_batch_item_failures=True)):
        await asyncio.sleep(31)
    assert batches.got == [["a", "b", "c"], ["b"]]
    assert bench.count("DeletedEventCount") == 3
    assert bench.count("FailedInvokeEventCount") == 1


async def test_batches_of_a_mapping_run_side_by_side_up_to_its_maximum_concurrency(bench: Bench) -> None:
    batches = Batches(seconds=1)
    bench.add(batches)
    queue = bench.queue("q")
    await queue.send_many(sends(*range(10)))
    async with running(bench.mapping_loop(queue, batch_size=1, maximum_concurrency=2)):
        await asyncio.sleep(6)
    assert batches.most == 2
    assert sorted(batches.got) == [[str(number)] for number in range(10)]
    assert max(batches.at) == pytest.approx(4)


@pytest.mark.parametrize(("busy_seconds", "given_back", "runs_at"), [(40, False, 41), (90, True, 93)])
async def test_a_batch_that_may_not_start_is_held_for_a_minute_and_then_given_back_uncounted(
    bench: Bench, busy_seconds: float, given_back: bool, runs_at: float
) -> None:
    counts: list[str] = []
    at: list[float] = []

    async def handler(event: Any, context: Any) -> None:
        if "Records" not in event:
            await asyncio.sleep(busy_seconds)
            return
        counts.extend(record["attributes"]["ApproximateReceiveCount"] for record in event["Records"])
        at.append(now())

    bench.add(handler, reserved_concurrency=1, timeout_seconds=100)
    queue = bench.queue("q", visibility_timeout_seconds=110)
    async with running(bench.mapping_loop(queue, maximum_batching_window_seconds=2), bench.events_loop()):
        await queue.send_many(sends("x"))
        await asyncio.sleep(1)
        await bench.put("f")
        await asyncio.sleep(65)
        assert (await queue.depth()).visible == given_back
        await asyncio.sleep(200)
    assert counts == ["1"]
    assert at == [pytest.approx(runs_at)]


async def test_a_batch_that_waits_for_a_permit_stays_ours_beyond_its_visibility(bench: Bench) -> None:
    counts: list[str] = []

    async def handler(event: Any, context: Any) -> None:
        if "Records" in event:
            counts.extend(record["attributes"]["ApproximateReceiveCount"] for record in event["Records"])
        else:
            await asyncio.sleep(20)

    bench.add(handler, reserved_concurrency=1, timeout_seconds=30)
    queue = bench.queue("q", visibility_timeout_seconds=40)
    async with running(bench.mapping_loop(queue, maximum_batching_window_seconds=5), bench.events_loop()):
        await queue.send_many(sends("x"))
        await asyncio.sleep(4)
        await bench.put("f", "f", "f")
        for _ in range(59):
            await asyncio.sleep(1)
            assert (await queue.depth()).visible == 0
        await asyncio.sleep(10)
    assert counts == ["1"]


async def test_a_batch_that_others_may_have_by_now_is_left_to_them(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches, timeout_seconds=2)
    queue = bench.queue("q", visibility_timeout_seconds=8)
    await queue.send_many(sends("x"))
    stopping = asyncio.Event()
    with with_process("paused"):
        task = asyncio.create_task(bench.mapping_loop(queue, maximum_batching_window_seconds=5).run(stopping))
    await asyncio.sleep(1)
    virtual_loop().pause("paused", 10)
    await asyncio.sleep(8)
    assert [message.receive_count for message in await messages_of(queue)] == [2]
    await asyncio.sleep(5)
    assert batches.got == []
    await asyncio.sleep(10)  # nor did those finish it
    assert batches.got == [["x"]]
    stopping.set()
    await task


async def test_a_queue_that_is_slow_does_not_hold_up_a_batch_that_is_open(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches, timeout_seconds=2)
    queue = bench.queue("q", visibility_timeout_seconds=8)
    real, calls = queue.receive, itertools.count()

    async def receive(limit: int, wait_seconds: float) -> Any:
        await asyncio.sleep(15 * (next(calls) % 2))
        return await real(limit, wait_seconds)

    queue.receive = receive
    await queue.send_many(sends("x"))
    async with running(bench.mapping_loop(queue, maximum_batching_window_seconds=5)):
        await asyncio.sleep(1)
        await queue.send_many(sends("y"))
        await asyncio.sleep(30)
    assert batches.got[0] == ["x"]
    assert batches.at[0] <= 6
    assert bench.count("DeletedEventCount") == 2


async def test_a_result_that_comes_after_the_visibility_timeout_is_void(bench: Bench) -> None:
    batches = Batches(seconds=3)
    bench.add(batches, timeout_seconds=10)
    queue = bench.queue("q", visibility_timeout_seconds=2)
    await queue.send_many(sends("x"))
    async with running(bench.mapping_loop(queue)):
        await asyncio.sleep(2.5)
        queue._state.config = Queue(name="q", visibility_timeout_seconds=30)
        await asyncio.sleep(20)
    answers = [answer for step, answer in bench.steps if isinstance(step, Delete)]
    assert answers[0] is False
    assert answers.count(True) == 1
    assert bench.count("DeletedEventCount") == 1


async def test_a_batch_is_not_started_once_its_messages_are_visible_to_others(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q", visibility_timeout_seconds=2)

    class Stalls(Watched):
        """Its process stands still after the first receive, as on a machine that has no time for it."""

        async def receive(self, limit: int, wait_seconds: float) -> Any:
            messages = await queue.receive(limit, wait_seconds)
            if messages and now() < 2:
                virtual_loop().pause("a life", 5)
            return messages

    await queue.send_many(sends("x"))
    await live_and_die(bench.mapping_loop(Stalls(queue)), 60)
    assert batches.got == [["x"]]
    assert batches.at[0] >= 5
    depth = await queue.depth()
    assert (depth.visible, depth.in_flight) == (0, 0)


async def test_a_batch_that_waited_for_a_thread_until_its_messages_were_visible_is_not_started(bench: Bench) -> None:
    bench.runtime = bench.invoker._runtime = InProcess(world=bench.world, threads=1, executor=lambda call: call())
    got: list[list[str]] = []

    def plain(event: Any, context: Any) -> None:
        got.append([record["body"] for record in event["Records"]])

    bench.add(plain)  # type: ignore[arg-type]
    queue = bench.queue("q", visibility_timeout_seconds=2)
    await queue.send_many(sends("x"))
    assert bench.runtime._plain.slots.take()
    async with running(bench.mapping_loop(queue)):
        await asyncio.sleep(1)
        assert (await queue.depth()).in_flight == 1
        await asyncio.sleep(2)
        assert got == []
        bench.runtime._plain.slots.end(overrun=False)
        await asyncio.sleep(10)
    assert got == [["x"]]
    assert bench.runtime._plain.slots.running == 0


async def test_a_mapping_backs_off_while_nothing_can_run_and_no_receive_is_counted(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    away = bench.invoker._runtime = Away(bench.runtime, until=lambda: now() >= 60)
    queue = bench.queue("q", max_receive_count=3, dead_letter_queue="dead")
    await queue.send_many(sends("x"))
    async with running(bench.mapping_loop(queue)):
        await asyncio.sleep(200)
    assert batches.got == [["x"]]
    assert len(away.tries) < 12


async def test_a_fifo_group_is_handled_strictly_in_order_and_one_batch_at_a_time(bench: Bench) -> None:
    batches = Batches(seconds=1)
    bench.add(batches)
    queue = bench.queue("q.fifo", fifo=True, content_based_deduplication=True)
    await queue.send_many([Send(f"{group}{number}", group=group) for number in range(5) for group in "ab"])
    async with running(bench.mapping_loop(queue, batch_size=1)):
        await asyncio.sleep(20)
    order = [batch[0] for batch in batches.got]
    for group in "ab":
        assert [body for body in order if body[0] == group] == [f"{group}{number}" for number in range(5)]
    assert batches.most == 2
    assert max(batches.at) == pytest.approx(4)


class Asked:
    """A queue that keeps how many messages it was asked for, and does what it is told to after a receive."""

    def __init__(self, real: Any, then: Callable[[list[Any]], None] = lambda messages: None) -> None:
        self._real, self._then = real, then
        self.limits: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def receive(self, limit: int, wait_seconds: float) -> Any:
        self.limits.append(limit)
        messages = await self._real.receive(limit, wait_seconds)
        self._then(messages)
        return messages


async def test_several_batches_are_received_at_once_as_long_as_that_many_come(bench: Bench) -> None:
    batches, queue = Batches(), Asked(bench.queue("q"))
    bench.add(batches)
    await queue.send_many(sends(*range(255)))
    async with running(bench.mapping_loop(queue, batch_size=10)):
        await asyncio.sleep(1)
        assert queue.limits == [10, 20, 40, 80, 100, 100, 10]
        await queue.send_many(sends("last"))
        await asyncio.sleep(1)
    assert [len(batch) for batch in batches.got] == [10] * 25 + [5, 1]
    assert [body for batch in batches.got for body in batch] == [*map(str, range(255)), "last"]
    assert bench.count("PolledEventCount") == bench.count("DeletedEventCount") == 256


async def test_no_more_batches_are_received_than_may_run(bench: Bench) -> None:
    batches, queue = Batches(seconds=1), Asked(bench.queue("q"))
    bench.add(batches)
    await queue.send_many(sends(*range(20)))
    async with running(bench.mapping_loop(queue, batch_size=1, maximum_concurrency=3)):
        await asyncio.sleep(10)
    assert max(queue.limits) <= 3
    assert (len(batches.got), batches.most) == (20, 3)


@pytest.mark.parametrize("settings", [{"maximum_batching_window_seconds": 1}, {"fifo": True}])
async def test_one_batch_at_a_time_is_received_where_it_is_waited_for_or_order_counts(
    bench: Bench, settings: dict[str, Any]
) -> None:
    fifo = settings.pop("fifo", False)
    queue = Asked(bench.queue("q.fifo" if fifo else "q", fifo=fifo, content_based_deduplication=fifo))
    batches = Batches()
    bench.add(batches)
    await queue.send_many([Send(str(number), group="a" if fifo else None) for number in range(100)])
    async with running(bench.mapping_loop(queue, batch_size=10, **settings)):
        await asyncio.sleep(10)
    assert max(queue.limits) == 10
    assert [body for batch in batches.got for body in batch] == [*map(str, range(100))]


async def test_of_several_batches_those_that_may_no_longer_start_go_back_uncounted(bench: Bench) -> None:
    batches, counts = Batches(), list[str]()

    async def handler(event: Any, context: Any) -> object:
        counts.extend(record["attributes"]["ApproximateReceiveCount"] for record in event["Records"])
        return await batches(event, context)

    bench.add(handler, reserved_concurrency=3)
    taken: list[Any] = []

    def rob(messages: list[Any]) -> None:
        """Others take what room there is for all but one."""
        if len(messages) == 3:
            taken.extend(bench.invoker.admit("f") for _ in range(2))

    queue = Asked(bench.queue("q"), rob)
    await queue.send_many(sends(*range(6)))
    async with running(bench.mapping_loop(queue, batch_size=1)):
        await asyncio.sleep(1)
        while taken:
            bench.invoker.release(taken.pop())
        await asyncio.sleep(100)
    assert sorted(body for batch in batches.got for body in batch) == [*map(str, range(6))]
    assert counts == ["1"] * 6


async def test_the_hops_of_a_batch_are_those_of_its_farthest_message_and_one_more(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q")
    await queue.send_many([*sends("a", hops=2), *sends("b", hops=7), *sends("too far", hops=17)])
    async with running(bench.mapping_loop(queue)):
        await asyncio.sleep(1)
    assert batches.hops == [8]
    assert batches.got == [["a", "b"]]
    assert bench.count("RecursiveInvocationsDropped", "f") == 1
    assert (await queue.depth()).in_flight == 1  # the queue's redrive policy has the word


async def test_draining_hands_back_a_batch_that_is_still_being_collected(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    queue = bench.queue("q")
    async with running(bench.mapping_loop(queue, maximum_batching_window_seconds=10)):
        await queue.send_many(sends("x"))
        await asyncio.sleep(5)
    assert now() == 5
    assert batches.got == []
    assert [message.receive_count for message in await messages_of(queue)] == [1]


async def test_a_hard_stop_hands_back_the_messages_of_a_running_batch(bench: Bench) -> None:
    bench.add(Batches(seconds=2))
    queue = bench.queue("q")
    await queue.send_many(sends("x", "y"))
    task = asyncio.create_task(bench.mapping_loop(queue).run(asyncio.Event()))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert bench.concurrency.running() == {}
    assert [message.receive_count for message in await messages_of(queue)] == [1, 1]
    assert {step.give_back for step, _ in bench.steps if isinstance(step, Release)} <= {True}


async def test_a_bug_in_one_batch_is_survived_and_the_batch_comes_back(bench: Bench) -> None:
    batches = Batches()
    bench.add(batches)
    real = bench.queue("q", visibility_timeout_seconds=30)
    queue = Watched(real)
    broken = iter([True, False, False, False])

    def to_event(messages: Any, windowed: bool) -> Any:
        if next(broken):
            raise ZeroDivisionError("a bug")
        return real.to_event(messages, windowed)

    queue.to_event = to_event
    await queue.send_many(sends("x"))
    async with running(bench.mapping_loop(queue)):
        await asyncio.sleep(1)
        await queue.send_many(sends("y"))
        await asyncio.sleep(40)
    assert batches.got == [["y"], ["x"]]


def test_whichever_call_to_the_queue_fails_no_message_is_lost() -> None:
    async def scenario(fails: Callable[[str, int], bool]) -> int:
        bench = await Bench.make()
        batches = Batches(seconds=1)
        bench.add(batches)
        real = bench.queue("q")
        await real.send_many(sends(*range(5)))
        queue = Watched(real, fails)
        async with running(bench.mapping_loop(queue, batch_size=2, maximum_concurrency=2)):
            await asyncio.sleep(100)
        assert sorted(body for batch in batches.got for body in batch) == list("01234")
        assert (await real.depth()).in_flight == 0
        return queue.calls["all"]

    calls = run(scenario(lambda name, number: False))
    assert calls < 50
    for broken in range(1, calls + 1):
        run(scenario(lambda name, number, broken=broken: number == broken))  # type: ignore[misc]
    for kind in ("receive", "settle_many"):
        run(scenario(lambda name, number, kind=kind: name == kind and now() < 10))  # type: ignore[misc]


@pytest.mark.parametrize("fifo", [False, True])
def test_wherever_the_engine_dies_every_message_is_handled_and_in_the_order_of_its_group(fifo: bool) -> None:
    name = "q.fifo" if fifo else "q"
    settings: dict[str, Any] = {"batch_size": 2, "filters": [{"body": [0, 1, 2, 4]}]}

    async def life(store: MemoryStore, seed: int, batches: Batches) -> Bench:
        bench = await Bench.make(store, seed)
        bench.add(batches)
        bench.queue(name, fifo=fifo, content_based_deduplication=fifo)
        return bench

    async def scenario(crash: int) -> int:
        batches, store = Batches(seconds=1), MemoryStore()
        bench = await life(store, 1, batches)
        await bench.queues[name].send_many([Send(str(number), group="g" if fifo else None) for number in range(5)])
        queue = Watched(bench.queues[name], crash=crash)
        await live_and_die(bench.mapping_loop(queue, **settings), 60)
        await bench.connection.close()
        bench = await life(store, 2, batches)
        async with running(bench.mapping_loop(bench.queues[name], **settings)):
            await asyncio.sleep(200)
        handled = [body for batch in batches.got for body in batch]
        assert set(handled) == set("0124")
        if fifo:
            first = [handled.index(body) for body in "0124"]
            assert first == sorted(first)
        depth = await bench.queues[name].depth()
        assert (depth.visible, depth.in_flight) == (0, 0)
        return 2 * queue.calls["all"]

    for crash in range(run(scenario(0)) + 1):
        run(scenario(crash))


def test_a_mapping_that_is_stopped_hard_again_and_again_loses_nothing_and_counts_no_receive() -> None:
    async def scenario(seed: int) -> None:
        chance = random.Random(seed)
        bench = await Bench.make(seed=seed)
        counts: Counter[str] = Counter()

        async def handler(event: Any, context: Any) -> None:
            await asyncio.sleep(chance.random())
            for record in event["Records"]:
                assert record["attributes"]["ApproximateReceiveCount"] == "1"
                counts[record["body"]] += 1

        bench.add(handler, reserved_concurrency=2)
        queue = bench.queue("q", visibility_timeout_seconds=3600)
        await queue.send_many(sends(*range(30)))
        settings = {"batch_size": 4, "maximum_batching_window_seconds": 0.5}
        for _ in range(6):
            task = asyncio.create_task(bench.mapping_loop(queue, **settings).run(asyncio.Event()))
            await asyncio.sleep(chance.random() * 3)
            task.cancel()
            await asyncio.wait([task])
            assert bench.concurrency.running() == {}
        async with running(bench.mapping_loop(queue, **settings)):
            await asyncio.sleep(100)
        assert set(counts) == {str(number) for number in range(30)}
        depth = await queue.depth()
        assert (depth.visible, depth.in_flight) == (0, 0)

    for seed in range(25):
        run(scenario(seed), seed=seed)


async def test_a_mapping_waits_for_its_function_and_a_batch_goes_back_if_that_is_removed(bench: Bench) -> None:
    batches = Batches()
    queue = bench.queue("q")
    await queue.send_many(sends("x"))
    async with running(bench.mapping_loop(queue, maximum_batching_window_seconds=10)):
        await asyncio.sleep(100)
        assert (await queue.depth()).visible == 1
        bench.add(batches)
        await asyncio.sleep(21)
        assert (await queue.depth()).in_flight == 1
        del bench.functions["f"]
        await asyncio.sleep(100)
        assert (await queue.depth()).visible == 1
        bench.add(batches)
        await asyncio.sleep(100)
    assert batches.got == [["x"]]
