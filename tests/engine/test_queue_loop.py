"""The queue loop and its feed of asynchronous events, with everything real around them but time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import pytest

from lambent.context import current_invocation
from lambent.errors import StoreUnavailable
from lambent.model import (
    Delete,
    EventInvokeConfig,
    ReportEvent,
    Send,
)
from lambent.stores.memory import MemoryStore
from lambent.testing.loop import run
from tests.engine.conftest import Bench, Watched, live_and_die, messages_of, now, running
from tests.engine.running import Away

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def test_an_event_that_succeeds_is_run_once_and_ends(bench: Bench) -> None:
    seen = []

    async def handler(event: Any, context: Any) -> None:
        seen.append((event, context.aws_request_id, current_invocation().hops))

    bench.add(handler)
    (event,) = await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(10)
    assert seen == [({"n": 1}, event.request_id, 1)]
    assert bench.ended() == {"succeeded": 1}
    assert bench.telemetry.snapshot()["AsyncEventAge"]["f"]["count"] == 1


@pytest.mark.parametrize("held_seconds", [inf, 5.0])
async def test_an_event_whose_claim_is_over_when_its_engine_hears_of_it_is_not_run(
    bench: Bench, held_seconds: float
) -> None:
    """The engine was stopped meanwhile; the event may be another's by now, or soon."""
    seen = []

    class Late:
        def __init__(self) -> None:
            self.held_seconds = held_seconds

        def __getattr__(self, name: str) -> Any:
            return getattr(bench.connection.events, name)

        async def receive(self, function: str, limit: int, claim_seconds: float, before: float | None) -> Any:
            events = await bench.connection.events.receive(function, limit, claim_seconds, before)
            if events and not seen:
                seen.append("late")
                await asyncio.sleep(min(claim_seconds, held_seconds) + 1)
            return events

    async def handler(event: Any, context: Any) -> None:
        seen.append(event["n"])

    bench.add(handler)
    await bench.put("f")
    async with running(bench.events_loop(Late())):
        await asyncio.sleep(1000)
    assert seen == ["late", 1]
    assert bench.ended() == {"succeeded": 1}
    assert bench.count("OverrunEventCount", "events") == (held_seconds == inf)


async def test_an_event_that_another_engine_got_meanwhile_is_counted_as_overrun(bench: Bench) -> None:
    """As on a store that takes the claims of an engine that gives no sign of life."""

    class Taken:
        def __getattr__(self, name: str) -> Any:
            return getattr(bench.connection.events, name)

        async def settle_many(self, settlements: Any) -> Any:
            return [False for _ in settlements]

    async def handler(event: Any, context: Any) -> None: ...

    bench.add(handler)
    await bench.put("f")
    async with running(bench.events_loop(Taken())):
        await asyncio.sleep(10)
    assert bench.count("OverrunEventCount", "events") == 1


async def test_a_failing_event_is_retried_after_one_and_two_minutes_and_then_reported(bench: Bench) -> None:
    tries = []

    async def handler(event: Any, context: Any) -> None:
        tries.append((now(), context.aws_request_id))
        raise ValueError("no")

    failures = bench.queue("failures")
    bench.add(handler, event_invoke=EventInvokeConfig(on_failure="queue:failures"))
    (event,) = await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(1000)
    assert [round(at) for at, _ in tries] == [0, 60, 180]
    assert {request_id for _, request_id in tries} == {event.request_id}
    (message,) = await messages_of(failures)
    context = json.loads(message.body)["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetriesExhausted", 3)
    assert bench.ended() == {"failed": 1}
    assert bench.count("AsyncEventsDropped", "f") == 1


async def test_a_result_is_reported_before_its_event_is_settled(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> str:
        return "done"

    bench.queue("results")
    bench.add(handler, event_invoke=EventInvokeConfig(on_success="queue:results"))
    await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(1)
    assert [type(step) for step, _ in bench.steps if isinstance(step, ReportEvent | Delete)] == [ReportEvent, Delete]


async def test_an_event_whose_destination_refuses_ends_as_destination_failed(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> None: ...

    bench.add(handler, event_invoke=EventInvokeConfig(on_success="queue:nowhere"))
    await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(1)
    assert bench.ended() == {"destination-failed": 1}


async def test_events_of_a_function_with_reserved_concurrency_0_end_without_being_run(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> None:
        raise AssertionError("never")

    failures = bench.queue("failures")
    bench.add(handler, reserved_concurrency=0, event_invoke=EventInvokeConfig(on_failure="queue:failures"))
    await bench.put(*["f"] * 250)
    async with running(bench.events_loop()):
        await asyncio.sleep(1)
    assert bench.ended() == {"dropped": 250}
    context = json.loads((await messages_of(failures))[0].body)["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("ZeroReservedConcurrency", 0)


async def test_throttled_events_run_one_after_the_other_in_the_order_of_their_acceptance(bench: Bench) -> None:
    seen, most = [], 0
    inside = 0

    async def handler(event: Any, context: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(1)
        inside -= 1
        seen.append(context.aws_request_id)

    bench.add(handler, reserved_concurrency=1)
    events = await bench.put(*["f"] * 20)
    async with running(bench.events_loop()):
        await asyncio.sleep(21)
        assert bench.ended() == {"succeeded": 20}
    assert most == 1
    assert seen == [event.request_id for event in events]


async def test_a_mountain_of_events_of_a_throttled_function_costs_nothing_and_delays_nobody(bench: Bench) -> None:
    started = {}

    async def slow(event: Any, context: Any) -> None:
        await asyncio.sleep(800)

    async def quick(event: Any, context: Any) -> None:
        started[context.aws_request_id] = now()

    bench.add(slow, "slow", reserved_concurrency=1, timeout_seconds=900)
    bench.add(quick, "quick")
    await bench.put(*["slow"] * 20_000)
    events = Watched(bench.connection.events)
    async with running(bench.events_loop(events)):
        await asyncio.sleep(100)
        assert events.calls["receive"] <= 4
        await bench.put("quick")
        await asyncio.sleep(1)
        assert list(started.values()) == [100]
        assert len(asyncio.all_tasks()) < 20


async def test_parked_events_expire_on_time_without_waiting_for_room(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> None:
        await asyncio.sleep(700)

    failures = bench.queue("failures")
    config = EventInvokeConfig(maximum_event_age_seconds=90, on_failure="queue:failures")
    bench.add(handler, reserved_concurrency=1, timeout_seconds=900, event_invoke=config)
    await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(5)
        await bench.put(*["f"] * 250)
        await asyncio.sleep(89)
        assert bench.ended() == {}
        await asyncio.sleep(2)
        assert bench.ended() == {"expired": 250}
        await asyncio.sleep(600)
        record = json.loads((await messages_of(failures))[0].body)
        assert record["requestContext"]["condition"] == "EventAgeExceeded"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        await asyncio.sleep(10)
    assert bench.ended() == {"expired": 250, "succeeded": 1}


async def test_functions_with_due_events_have_their_turns_in_rotation(bench: Bench) -> None:
    order = []

    async def handler(event: Any, context: Any) -> None:
        order.append(context.function_name)

    for name in ("a", "b", "c"):
        bench.add(handler, name)
    await bench.put(*["a"] * 2000, "b", "c")
    async with running(bench.events_loop()):
        await asyncio.sleep(1)
    assert len(order) == 2002
    assert order.index("c") < 300


async def test_an_event_of_a_recursive_loop_is_reported_and_not_run(bench: Bench) -> None:
    ran = []

    async def handler(event: Any, context: Any) -> None:
        ran.append(context.function_name)

    letters = bench.queue("letters")
    bench.add(handler, "loops", dead_letter_queue="queue:letters")
    bench.add(handler, "may", recursive_loop="Allow")
    await bench.put("loops", "may", hops=17)
    await bench.put("loops", hops=15)
    async with running(bench.events_loop()):
        await asyncio.sleep(1)
    assert sorted(ran) == ["loops", "may"]
    assert bench.ended() == {"succeeded": 2, "dropped": 1}
    assert len(await messages_of(letters)) == 1
    assert bench.count("RecursiveInvocationsDropped", "loops") == 1


async def test_a_function_that_is_added_later_gets_its_events(bench: Bench) -> None:
    ran = []

    async def handler(event: Any, context: Any) -> None:
        ran.append(now())

    await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(100)
        bench.add(handler)
        await asyncio.sleep(100)
    assert len(ran) == 1


async def test_draining_lets_what_runs_finish_and_starts_nothing_new(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> None:
        await asyncio.sleep(2)

    bench.add(handler, reserved_concurrency=3)
    await bench.put(*["f"] * 10)
    async with running(bench.events_loop()) as stopping:
        await asyncio.sleep(1)
        stopping.set()
    assert now() == 2
    assert bench.ended() == {"succeeded": 3}
    assert await bench.connection.events.pending() == {"f": 7}


async def test_a_hard_stop_hands_back_what_runs_and_its_attempt_is_not_counted(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> None:
        await asyncio.sleep(2)

    bench.add(handler)
    await bench.put("f", "f")
    task = asyncio.create_task(bench.events_loop().run(asyncio.Event()))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(asyncio.all_tasks()) == 1
    assert bench.concurrency.running() == {}
    again = await bench.connection.events.receive("f", 10, 100)
    assert [event.attempts for event in again] == [1, 1]


async def test_a_hard_stop_counts_an_attempt_whose_handler_has_ended(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> None: ...

    bench.add(handler, event_invoke=EventInvokeConfig(on_success="queue:results"))
    bench.queues["results"] = Watched(bench.queue("results"))

    async def never(sends: Sequence[Send]) -> None:
        await asyncio.sleep(50)

    bench.queues["results"].send_many = never
    await bench.put("f")
    task = asyncio.create_task(bench.events_loop().run(asyncio.Event()))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    again = await bench.connection.events.receive("f", 10, 100)
    assert [event.attempts for event in again] == [2]


async def test_an_unavailable_world_uses_up_no_attempt_and_is_asked_ever_more_rarely(bench: Bench) -> None:
    bench.add(lambda event, context: None)  # type: ignore[arg-type, return-value]
    away = bench.invoker._runtime = Away()
    await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(200)
    assert len(away.tries) == 8  # 0, 1, 3, 7, 15, 31, 63, 127 s
    (event,) = await bench.connection.events.receive("f", 1, 1) or [None]  # not due: it waits for its time
    assert event is None


def test_whichever_call_to_the_store_fails_no_event_is_lost_or_run_twice() -> None:
    async def scenario(fails: Callable[[str, int], bool]) -> int:
        bench = await Bench.make()
        ran: Counter[str] = Counter()

        async def handler(event: Any, context: Any) -> None:
            ran[context.aws_request_id] += 1
            if ran[context.aws_request_id] == 1 and ran.total() % 2:
                raise ValueError("once")

        bench.add(handler, reserved_concurrency=2)
        await bench.put(*["f"] * 5)
        events = Watched(bench.connection.events, fails)
        async with running(bench.events_loop(events)):
            await asyncio.sleep(400)
        assert bench.ended() == {"succeeded": 5}
        assert all(count <= 2 for count in ran.values())
        return events.calls["all"]

    calls = run(scenario(lambda name, number: False))
    assert calls < 200
    for broken in range(1, calls + 1):
        run(scenario(lambda name, number, broken=broken: number == broken))  # type: ignore[misc]
    run(scenario(lambda name, number: number % 2 == 0))
    for kind in ("due", "receive", "settle_many"):
        run(scenario(lambda name, number, kind=kind: name == kind and now() < 100))  # type: ignore[misc]


def test_a_loop_that_is_stopped_hard_again_and_again_loses_nothing() -> None:
    async def scenario(seed: int) -> None:
        bench = await Bench.make(seed=seed)
        ran: Counter[str] = Counter()
        chance = random.Random(seed)

        async def handler(event: Any, context: Any) -> None:
            await asyncio.sleep(chance.random())
            ran[context.aws_request_id] += 1
            if chance.random() < 0.3:
                raise ValueError("now and then")

        failures = bench.queue("failures")
        config = EventInvokeConfig(on_failure="queue:failures")
        for name in ("f", "g"):
            bench.add(handler, name, reserved_concurrency=3, event_invoke=config)
        events = await bench.put(*["f", "g"] * 15)
        for _ in range(8):
            task = asyncio.create_task(bench.events_loop().run(asyncio.Event()))
            await asyncio.sleep(chance.random() * 2)
            task.cancel()
            await asyncio.wait([task])
            assert bench.concurrency.running() == {}
            await bench.connection.close()
            bench.connection = await bench.store.connect(bench.world)
        async with running(bench.events_loop()):
            await asyncio.sleep(3600)
        ended = bench.ended()
        assert ended.total() == len(events), ended
        assert set(ended) <= {"succeeded", "failed"}
        assert ended["failed"] <= (await failures.depth()).visible
        assert set(ran) == {event.request_id for event in events}

    for seed in range(25):
        run(scenario(seed), seed=seed)


def test_wherever_the_engine_dies_every_accepted_event_ends_and_what_failed_is_reported() -> None:
    async def life(store: MemoryStore, seed: int, ran: Counter[str]) -> Bench:
        bench = await Bench.make(store, seed)

        async def handler(event: Any, context: Any) -> None:
            await asyncio.sleep(0.5)
            ran[context.aws_request_id] += 1
            raise ValueError("always")

        bench.queue("failures")
        config = EventInvokeConfig(maximum_retry_attempts=1, on_failure="queue:failures")
        bench.add(handler, reserved_concurrency=2, event_invoke=config)
        return bench

    async def scenario(crash: int) -> int:
        ran: Counter[str] = Counter()
        store = MemoryStore()
        bench = await life(store, 1, ran)
        accepted = {event.request_id for event in await bench.put(*["f"] * 3)}
        events = Watched(bench.connection.events, crash=crash)
        await live_and_die(bench.events_loop(events), 100)
        await bench.connection.close()
        bench = await life(store, 2, ran)
        async with running(bench.events_loop()):
            await asyncio.sleep(1000)
        assert bench.ended() == {"failed": 3}
        bodies = [json.loads(message.body) for message in await messages_of(bench.queues["failures"])]
        reported = {body["requestContext"]["requestId"] for body in bodies}
        assert reported == accepted
        assert ran.total() <= 2 * 3 + 2  # what ran at the crash may have run once more
        return 2 * events.calls["all"]

    for crash in range(run(scenario(0)) + 1):
        run(scenario(crash))


async def test_a_hard_stop_hands_back_even_if_it_is_repeated(bench: Bench) -> None:
    async def stubborn(event: Any, context: Any) -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    bench.add(stubborn)
    await bench.put("f")
    task = asyncio.create_task(bench.events_loop().run(asyncio.Event()))
    await asyncio.sleep(0.5)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    (event,) = await bench.connection.events.receive("f", 10, 100)
    assert event.attempts == 1


async def test_a_hard_stop_does_not_wait_for_a_store_that_is_silent(bench: Bench) -> None:
    async def handler(event: Any, context: Any) -> None:
        await asyncio.sleep(100)

    async def silence(*_: object) -> Any:
        await asyncio.Event().wait()

    bench.add(handler, timeout_seconds=900)
    await bench.put("f")
    events = Watched(bench.connection.events)
    loop = bench.events_loop(events)
    task = asyncio.create_task(loop.run(asyncio.Event()))
    await asyncio.sleep(1)
    loop._feed.settle_many = silence  # type: ignore[method-assign]
    task.cancel()
    await asyncio.wait([task])
    assert now() < 15
    assert len(asyncio.all_tasks()) == 1


async def test_a_retry_that_comes_due_while_its_function_is_parked_expires_within_a_minute_of_its_time(
    bench: Bench,
) -> None:
    calls = 0

    async def handler(event: Any, context: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("so that it is due again after 60 s")
        await asyncio.sleep(800)

    config = EventInvokeConfig(maximum_event_age_seconds=90)
    bench.add(handler, reserved_concurrency=1, timeout_seconds=900, event_invoke=config)
    await bench.put("f")
    async with running(bench.events_loop()):
        await asyncio.sleep(1)
        await bench.put("f")  # this one holds the permit
        await asyncio.sleep(49)
        await bench.put("f")  # this one is the oldest that is due when the function is parked
        await asyncio.sleep(65)
        assert bench.ended() == {"expired": 1}
        await asyncio.sleep(30)
        assert bench.ended() == {"expired": 2}


async def test_a_function_whose_destination_is_away_leaves_room_for_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambent.polling.feeds.MAXIMUM_IN_FLIGHT_PER_FUNCTION", 5)
    monkeypatch.setattr("lambent.polling.queue.MAXIMUM_IN_FLIGHT", 10)
    ran: Counter[str] = Counter()

    async def handler(event: Any, context: Any) -> None:
        ran[context.function_name] += 1

    bench.add(handler, "stuck", event_invoke=EventInvokeConfig(on_success="queue:away"))
    bench.add(handler, "free")
    away = Watched(bench.queue("away"))

    async def send_many(sends: Sequence[Send]) -> None:
        if now() < 200:
            raise StoreUnavailable("away")

    away.send_many = send_many
    bench.queues["away"] = away
    await bench.put(*["stuck"] * 20, *["free"] * 20)
    async with running(bench.events_loop()):
        await asyncio.sleep(1)
        assert ran == {"stuck": 5, "free": 20}
        await asyncio.sleep(1000)
    assert bench.ended() == {"succeeded": 40}
