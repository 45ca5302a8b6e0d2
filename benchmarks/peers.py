"""Beside a peer that needs no server either: taskiq's broker in memory, which keeps nothing and retries nothing.

Decides no bound. What is compared is a burst of calls put and awaited, JSON in between. It needs the extra `bench`;
without it there is nothing to show. Medians of five interleaved rounds, in seconds of CPU.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, show

CALLS = 2_000
EVENT = {"origin": "JFK", "delay": 42}


async def measure() -> list[Row]:
    from taskiq import InMemoryBroker

    engine, broker = new_engine(), InMemoryBroker(max_async_tasks=1000)
    done, left = asyncio.Event(), 0

    @engine.function
    async def alert(event: dict[str, object], context: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    @broker.task
    async def alert_of_peer(event: dict[str, object]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    async def burst(call: Callable[[], Awaitable[object]]) -> float:
        nonlocal left
        left = CALLS
        done.clear()
        gc.collect()
        began = time.process_time()
        for _ in range(CALLS):
            await call()
        await done.wait()
        seconds = time.process_time() - began
        await asyncio.sleep(0.1)  # for what follows the last handler
        return seconds

    kinds: dict[str, Callable[[], Awaitable[object]]] = {
        "async events, at least once, with retries": lambda: engine.invoke_async(alert, EVENT),
        "  taskiq's InMemoryBroker": lambda: alert_of_peer.kiq(EVENT),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    async with engine:
        await broker.startup()
        for round_number in range(ROUNDS + 1):
            for name, call in kinds.items():
                spent = await burst(call)
                if round_number:  # the first one warms up
                    seconds[name].append(spent)
        await broker.shutdown()
    return [Row(name, CALLS / median(each), "a CPU second") for name, each in seconds.items()]


def rows() -> list[Row]:
    try:
        return asyncio.run(measure())
    except ModuleNotFoundError as error:
        return [Row(f"peers: {error.name} is not installed (pip install 'lambent[bench]')", 0, "")]


if __name__ == "__main__":
    sys.exit(show(rows()))
