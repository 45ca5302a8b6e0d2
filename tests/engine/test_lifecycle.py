"""How an engine begins and ends: what it opens, what it refuses while it drains, and what signals do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lambent import Engine, EngineStopped, MemoryStore, StoreUnavailable
from lambent.ports import World
from lambent.stores.memory import Connection
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def echo(event: Any, context: Any) -> Any:
    return event


async def test_an_engine_opens_nothing_until_it_is_started() -> None:
    before = asyncio.all_tasks()
    engine = virtual()
    engine.map(engine.queue("q"), engine.function(echo))
    assert asyncio.all_tasks() == before
    async with engine:
        assert asyncio.all_tasks() != before
        with pytest.raises(EngineStopped, match="started already"):
            await engine.start()
    assert asyncio.all_tasks() == before


async def test_an_engine_without_a_store_says_once_that_it_is_in_memory() -> None:
    with capture_logs() as logs:
        async with virtual(None):
            await asyncio.sleep(2)  # a process that lives no longer needs no telling
        async with virtual("memory://"):
            await asyncio.sleep(2)
    assert [log["event"] for log in logs] == ["the store is in memory: what it holds ends with this process"]


async def test_a_store_can_be_named_until_the_start() -> None:
    named = MemoryStore()
    engine = virtual(None)
    engine.store_in(named, unless_named=True)
    assert engine.store is named
    engine.store_in(MemoryStore(), unless_named=True)
    assert engine.store is named
    other = MemoryStore()
    engine.store_in(other)
    async with engine:
        with pytest.raises(EngineStopped, match="its store stays until it is stopped"):
            engine.store_in(named)
    assert engine.store is other


async def test_an_engine_can_be_started_again_with_what_it_held() -> None:
    engine = virtual()
    queue = engine.queue("q")
    for turn in (1, 2):
        async with engine:
            await queue.send(str(turn))
    async with engine:
        assert [message.body for message in await queue.receive()] == ["1", "2"]


async def test_drain_refuses_new_work_and_lets_what_runs_end() -> None:
    engine = virtual()
    queue = engine.queue("q")
    ended: list[str] = []

    @engine.function(timeout_seconds=20)
    async def slow(event: Any) -> str:
        await asyncio.sleep(10)
        ended.append(await engine.invoke(echo, "called"))
        await queue.send("sent")
        return "direct"

    engine.function(echo)
    await engine.start()
    direct = asyncio.create_task(engine.invoke(slow, {}))
    await engine.invoke_async(slow, {})
    await asyncio.sleep(1)
    draining = asyncio.create_task(engine.drain())
    await asyncio.sleep(1)
    for call in (engine.invoke(echo, {}), engine.invoke_async(echo, {}), queue.send("x")):
        with pytest.raises(EngineStopped, match="takes no new work"):
            await call
    await draining
    assert await direct == "direct"
    assert ended == ["called", "called"]


async def test_what_outlasts_the_drain_is_handed_back_and_its_attempt_does_not_count() -> None:
    store = MemoryStore()
    counts: list[str] = []

    async def slow(event: Any) -> None:
        counts.append(event["Records"][0]["attributes"]["ApproximateReceiveCount"])
        await asyncio.sleep(50 if len(counts) == 1 else 0)

    for turn in (1, 2):
        engine = virtual(store, drain_seconds=3.0)
        engine.on(engine.queue("q", visibility_timeout_seconds=100), timeout_seconds=60)(slow)
        began = asyncio.get_running_loop().time()
        async with engine:
            if turn == 1:
                await engine.queue("q").send("x")
            await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() - began < 5
    assert counts == ["1", "1"]


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_second_signal_ends_the_drain_at_once(how: str) -> None:
    engine = virtual(drain_seconds=1000.0)
    queue = engine.queue("q", visibility_timeout_seconds=900)

    @engine.on(queue, timeout_seconds=900)
    async def slow(event: Any) -> None:
        await asyncio.sleep(800)

    await engine.start()
    await queue.send("x")
    await asyncio.sleep(1)
    draining = asyncio.create_task(engine.drain())
    await asyncio.sleep(1)
    assert not draining.done()
    began = asyncio.get_running_loop().time()
    if how == "stop":
        await engine.stop()
        await draining
    else:
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
    assert asyncio.get_running_loop().time() - began < 10
    await engine.stop()  # of what has ended: nothing


async def test_a_start_that_fails_leaves_nothing_open() -> None:
    class Away(MemoryStore):
        async def connect(self, world: World) -> Connection:
            raise StoreUnavailable("away")

    before = asyncio.all_tasks()
    engine = virtual(Away())
    with pytest.raises(StoreUnavailable):
        await engine.start()
    assert asyncio.all_tasks() == before
    with pytest.raises(EngineStopped, match="not started"):
        await engine.invoke_async("f", {})


async def test_an_idle_engine_sleeps() -> None:
    engine = virtual()
    for number in range(20):
        engine.map(engine.queue(f"q{number}"), engine.function(name=f"f{number}")(lambda event: None))
        engine.map(engine.stream(f"s{number}"), f"f{number}")
    async with engine:
        await asyncio.sleep(60)
        loop: Any = asyncio.get_running_loop()
        steps = loop.steps
        await asyncio.sleep(600)
        assert loop.steps - steps < 600 * 30  # heartbeats and long polls: measured are 21 a second


# --------------------------------------------------------------------------- processes

SCRIPT = """
import asyncio
from lambent import Engine

engine = Engine("memory://", drain_seconds=60.0)

@engine.function(timeout_seconds=60)
async def slow(event):
    print("running", flush=True)
    await asyncio.sleep(event)
    print("ended", flush=True)

async def main():
    await engine.invoke_async(slow, {seconds})
    await asyncio.Event().wait()

engine.run(main)
print("after", flush=True)
"""


@pytest.mark.parametrize(
    ("seconds", "signals", "said"),
    [
        (0.3, [signal.SIGTERM], ["running", "ended", "after"]),
        (0.3, [signal.SIGINT], ["running", "ended", "after"]),
        (50, [signal.SIGTERM, signal.SIGTERM], ["running", "after"]),
        (50, [signal.SIGINT, signal.SIGTERM], ["running", "after"]),
    ],
)
def test_a_script_drains_at_the_first_signal_and_stops_at_the_second(
    seconds: float, signals: list[signal.Signals], said: list[str]
) -> None:
    script = textwrap.dedent(SCRIPT).replace("{seconds}", str(seconds))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip()]
        for number in signals:
            os.kill(process.pid, number)
            _until_handled(process.pid, number)
        lines += process.stdout.read().split()
        assert process.wait(30) == 0
    assert lines == said


def _until_handled(pid: int, number: signal.Signals) -> None:
    """Two signals at once would be one: wait until the kernel has handed over the first."""
    status = Path(f"/proc/{pid}/status")
    while status.exists():
        pending = [line for line in status.read_text().splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
        if not any(int(line.split()[1], 16) & 1 << (number - 1) for line in pending):
            return


def test_run_belongs_into_the_main_thread() -> None:
    raised: list[BaseException] = []

    def run(target: Callable[[], None]) -> None:
        try:
            target()
        except EngineStopped as error:
            raised.append(error)

    thread = threading.Thread(target=run, args=[Engine("memory://").run])
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


async def test_a_hard_stop_ends_a_direct_call_that_is_under_way() -> None:
    engine, began = virtual(), asyncio.Event()

    @engine.function(timeout_seconds=900)
    async def slow(event: Any) -> None:
        began.set()
        await asyncio.sleep(800)

    await engine.start()
    call = asyncio.create_task(engine.invoke(slow, {}))
    await began.wait()
    before = asyncio.get_running_loop().time()
    await engine.stop()
    with pytest.raises(EngineStopped, match="stopped while the call ran"):
        await call
    assert asyncio.get_running_loop().time() - before < 10
