"""The in-process runtime: how a time limit is kept, threads, the context object, log tails."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from lambent.context import Context, current_invocation
from lambent.model import Failed, Function, Invocation, Outcome, Succeeded, Unavailable
from lambent.ports import World
from lambent.runtimes.in_process import InProcess
from tests.engine.running import RID, failed, inline, outcome, ran, runtime, value

# --------------------------------------------------------------------------- time limits


@pytest.mark.virtual_time
async def test_a_handler_beyond_its_time_limit_is_cancelled() -> None:
    ended = []

    async def slow(event: object) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(asyncio.get_running_loop().time())

    runs = runtime()
    document = await failed(slow, runs=runs, timeout=900)
    assert document == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {RID} Error: Task timed out after 900.00 seconds",
    }
    assert ended == [pytest.approx(900)]
    assert runs.abandoned() == {}


@pytest.mark.virtual_time
async def test_each_call_has_its_own_deadline() -> None:
    runs, loop, ended = runtime(), asyncio.get_running_loop(), []

    async def handler(event: dict[str, float]) -> None:
        await asyncio.sleep(event["seconds"])

    runs.register(Function(name="f", timeout_seconds=2), handler)

    async def call(seconds: float, after: float) -> None:
        await asyncio.sleep(after)
        result = await ran(runs, Invocation(RID, "f", {"seconds": seconds}))
        ended.append((type(result).__name__, round(loop.time(), 3)))

    await asyncio.gather(call(9, 0), call(1, 0.5), call(9, 0.7), call(1.9, 1), call(9, 10))
    assert ended == [("Succeeded", 1.5), ("Failed", 2), ("Failed", 2.7), ("Succeeded", 2.9), ("Failed", 12)]


@pytest.mark.virtual_time
async def test_a_handler_that_swallows_its_cancellation_is_abandoned_and_counted_until_it_ends() -> None:
    release = asyncio.Event()

    async def stubborn(event: object) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    runs = runtime()
    result = await outcome(stubborn, runs=runs, timeout=1)
    assert isinstance(result, Failed)
    assert result.run_seconds == pytest.approx(1)
    gc.collect()
    assert runs.abandoned() == {"f": 1}
    release.set()
    await asyncio.sleep(1)
    assert runs.abandoned() == {}


@pytest.mark.virtual_time
async def test_closing_gives_an_abandoned_handler_time_to_clean_up() -> None:
    ended = asyncio.Event()

    async def slow_to_end(event: object) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.5)
            ended.set()

    runs = runtime()
    runs.register(Function(name="f", timeout_seconds=1), slow_to_end)
    assert isinstance(await ran(runs, Invocation(RID, "f", b"{}")), Failed)
    assert runs.abandoned() == {"f": 1}
    await runs.close()
    assert ended.is_set()
    assert runs.abandoned() == {}


@pytest.mark.virtual_time
async def test_cancelling_the_call_cancels_the_handler() -> None:
    ended = asyncio.Event()

    async def handler(event: object) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    call = asyncio.create_task(outcome(handler, timeout=900))
    await asyncio.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0)
    assert ended.is_set()


@pytest.mark.virtual_time
async def test_the_deadline_begins_with_the_call_and_the_context_counts_down() -> None:
    times = []

    async def handler(event: object, context: Context) -> None:
        times.append(context.get_remaining_time_in_millis())
        await asyncio.sleep(2)
        times.append(context.get_remaining_time_in_millis())

    await value(handler, timeout=3)
    assert times == [pytest.approx(3000, abs=1), pytest.approx(1000, abs=1)]


# --------------------------------------------------------------------------- plain functions


async def test_a_plain_function_runs_in_a_daemon_thread_of_ours() -> None:
    seen = []

    def handler(event: object) -> None:
        seen.append((threading.current_thread().daemon, threading.current_thread() is threading.main_thread()))

    await value(handler)
    assert seen == [(True, False)]


async def test_threads_are_bounded_and_reused_and_waiting_for_one_is_not_running() -> None:
    runs = runtime(threads=2)
    busy, most, names = [0], [0], set()
    lock = threading.Lock()
    both = threading.Barrier(2)

    def handler(event: object) -> None:
        with lock:
            busy[0] += 1
            most[0] = max(most)
            most[0] = max(most[0], busy[0])
            names.add(threading.current_thread().name)
        both.wait(30)
        with lock:
            busy[0] -= 1

    runs.register(Function(name="f"), handler)
    starts: list[int] = []

    async def call() -> Outcome:
        return await ran(runs, Invocation(RID, "f", b"{}"), lambda: starts.append(busy[0]))

    results = await asyncio.gather(*(call() for _ in range(20)))
    assert all(isinstance(result, Succeeded) for result in results)
    assert most == [2]
    assert len(starts) == 20
    await runs.close()


async def test_a_thread_that_outlives_its_deadline_is_counted_replaced_and_capped() -> None:
    clock = Shifted()
    runs = InProcess(world=World("e", clock, lambda: 0.5, lambda: "id"), threads=1, maximum_overruns=1)
    release, entered = threading.Event(), [threading.Event() for _ in range(2)]

    def hangs(event: int) -> None:
        entered[event].set()
        release.wait(30)

    runs.register(Function(name="hangs", timeout_seconds=1), hangs)
    runs.register(Function(name="quick"), lambda event: event)

    async def hang(number: int) -> Outcome:
        call = asyncio.create_task(ran(runs, Invocation(RID, "hangs", b"%d" % number)))
        while not entered[number].is_set():
            await asyncio.sleep(0)
        runs._lines[1].monotonic = lambda: float("inf")  # the deadline has come
        runs._lines[1]._strike()
        runs._lines[1].monotonic = clock.monotonic
        return await call

    assert isinstance(await hang(0), Failed)
    assert runs.overruns() == {"hangs": 1}
    assert isinstance(await ran(runs, Invocation(RID, "quick", b"1")), Succeeded)
    assert isinstance(await hang(1), Failed)
    assert runs.overruns() == {"hangs": 2}
    refused = await ran(runs, Invocation(RID, "quick", b"1"))
    assert isinstance(refused, Unavailable)
    assert refused.reason.startswith("threads exhausted")
    release.set()
    while runs.overruns():
        await asyncio.sleep(0)
    assert isinstance(await ran(runs, Invocation(RID, "quick", b"1")), Succeeded)
    assert runs._plain.slots.running == 0
    await runs.close()


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(5))
async def test_a_thread_that_ends_as_its_deadline_strikes_is_no_overrun(seed: int) -> None:
    calls: list[Callable[[], None]] = []
    runs = runtime(executor=calls.append, threads=1)
    runs.register(Function(name="f", timeout_seconds=1), lambda event: event)
    call = asyncio.create_task(ran(runs, Invocation(RID, "f", b"1")))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    loop.call_at(1 + (seed - 2) * 1e-7, calls[0])
    await call
    await asyncio.sleep(1)
    assert runs.overruns() == {}
    assert (runs._plain.slots.running, runs._plain.slots.overruns) == (0, 0)
    await runs.close()


class Shifted:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def test_a_cancelled_call_leaves_its_thread_to_itself() -> None:
    runs = runtime()
    release, entered = threading.Event(), threading.Event()

    def handler(event: object) -> None:
        entered.set()
        release.wait(30)

    runs.register(Function(name="f"), handler)
    call = asyncio.create_task(ran(runs, Invocation(RID, "f", b"{}")))
    while not entered.is_set():
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert runs.overruns() == {"f": 1}
    release.set()
    while runs.overruns():
        await asyncio.sleep(0)
    assert runs._plain.slots.running == 0
    await runs.close()


@pytest.mark.virtual_time(deterministic=True)
async def test_a_simulation_runs_plain_functions_inline() -> None:
    assert await value(lambda event: event, b"[1]", runs=runtime(executor=inline)) == [1]


@pytest.mark.virtual_time
async def test_virtual_time_stands_still_while_a_real_thread_works() -> None:
    entered = threading.Event()

    def handler(event: object) -> str:
        return "in time" if entered.wait(0.05) or True else ""

    assert await value(handler, timeout=1) == "in time"
    assert asyncio.get_running_loop().time() == 0


async def test_a_system_without_threads_makes_a_call_unavailable() -> None:
    def no_thread(call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    runs = runtime(executor=no_thread)
    assert isinstance(await outcome(lambda event: 1, runs=runs), Unavailable)
    assert runs._plain.slots.running == 0


# --------------------------------------------------------------------------- context


def facts(context: Context) -> dict[str, object]:
    names = [name for name in dir(context) if not name.startswith("_") and name != "get_remaining_time_in_millis"]
    return {name: getattr(context, name) for name in names}


async def test_the_context_has_awss_attributes() -> None:
    seen: list[Context] = []

    async def handler(event: object, context: Context) -> None:
        seen.append(context)

    await value(handler, qualifier="live", client_context={"custom": {"foo": "bar"}, "client": {"app_title": "t"}})
    found = facts(seen[0])
    identity, client = found.pop("identity"), found.pop("client_context")
    assert identity.cognito_identity_id is None  # type: ignore[attr-defined]
    assert client.custom == {"foo": "bar"}  # type: ignore[attr-defined]
    assert client.client.app_title == "t"  # type: ignore[attr-defined]
    stream = str(found.pop("log_stream_name"))
    assert stream == "2023/11/14/[$LATEST]" + "ab" * 16 or stream.endswith("/[$LATEST]" + "ab" * 16)
    assert found == {
        "aws_request_id": RID,
        "function_name": "f",
        "function_version": "$LATEST",
        "invoked_function_arn": "arn:aws:lambda:us-east-1:000000000000:function:f:live",
        "memory_limit_in_mb": "128",
        "log_group_name": "/aws/lambda/f",
    }


async def test_without_a_qualifier_the_arn_has_none_and_the_client_context_is_none() -> None:
    seen: list[Context] = []

    def handler(event: object, context: Context) -> None:
        seen.append(context)

    await value(handler)
    assert seen[0].invoked_function_arn == "arn:aws:lambda:us-east-1:000000000000:function:f"
    assert seen[0].client_context is None


async def test_code_inside_a_handler_knows_its_invocation_also_in_a_thread() -> None:
    async def inner() -> int:
        invocation = current_invocation()
        assert invocation is not None
        return invocation.hops

    async def handler(event: object) -> object:
        return await asyncio.create_task(inner())

    def plain(event: object) -> object:
        invocation = current_invocation()
        assert invocation is not None
        return invocation.hops

    assert await value(handler, hops=3) == 3
    assert await value(plain, hops=4) == 4
    assert current_invocation() is None


# --------------------------------------------------------------------------- log tails


@pytest.mark.parametrize("plain", [True, False])
async def test_a_tail_has_awss_lines_around_what_this_invocation_logged(plain: bool) -> None:
    log = logging.getLogger("user")

    async def handler(event: object) -> None:
        log.warning("seen %s", 1)

    def function(event: object) -> None:
        log.warning("seen %s", 1)

    handlers = list(logging.getLogger().handlers)
    result = await outcome(function if plain else handler, tail=True)
    assert isinstance(result, Succeeded)
    start, line, end, report, rest = result.log_tail.split("\n")
    assert start == f"START RequestId: {RID} Version: $LATEST"
    assert line.startswith("[WARNING]\t20")
    assert line.endswith(f"Z\t{RID}\tseen 1")
    assert end == f"END RequestId: {RID}"
    parts = report.split("\t")
    assert parts[0] == f"REPORT RequestId: {RID}"
    assert [part.split(":")[0] for part in parts[1:]] == [
        "Duration",
        "Billed Duration",
        "Memory Size",
        "Max Memory Used",
        "Init Duration",
        "",
    ]
    assert rest == ""
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("plain", [True, False])
async def test_a_tail_has_what_this_invocation_printed_and_it_is_printed_all_the_same(
    plain: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async def handler(event: object) -> None:
        function(event)

    def function(event: object) -> None:
        print("hello", 1)
        print("oh", file=sys.stderr)

    streams = sys.stdout, sys.stderr
    result = await outcome(function if plain else handler, tail=True)
    assert isinstance(result, Succeeded)
    assert result.log_tail.split("\n")[1:3] == ["hello 1", "oh"]
    assert capsys.readouterr() == ("hello 1\n", "oh\n")
    assert (sys.stdout, sys.stderr) == streams


async def test_a_tail_is_the_last_four_kilobytes_and_shows_the_error() -> None:
    async def handler(event: object) -> None:
        for number in range(1000):
            logging.getLogger().error("line %d é", number)
        raise ValueError("at the end")

    result = await outcome(handler, tail=True)
    assert isinstance(result, Failed)
    assert 4000 < len(result.log_tail.encode()) <= 4096
    assert "line 999 é" in result.log_tail
    assert "[ERROR] ValueError: at the end\nTraceback (most recent call last):\n\xa0\xa0File" in result.log_tail


async def test_who_asks_for_no_tail_gets_none_and_is_in_nobody_elses() -> None:
    runs, go = runtime(), asyncio.Event()

    async def handler(event: str) -> None:
        await go.wait()
        logging.getLogger().warning("I am %s", event)

    runs.register(Function(name="f"), handler)
    calls = [
        asyncio.ensure_future(ran(runs, Invocation(RID, "f", json.dumps(name).encode(), tail=tail)))
        for name, tail in (("a", True), ("b", False), ("c", True))
    ]
    await asyncio.sleep(0)
    go.set()
    a, b, c = [call.log_tail for call in await asyncio.gather(*calls)]  # type: ignore[union-attr]
    assert "I am a" in a
    assert "I am c" not in a
    assert b == ""
    assert "I am c" in c
