"""How long a caller waits until an asynchronous call is kept, on a SQLite file, beside the disk alone.

Decides a bound that `make bench` holds. A thousand calls a second come at their times, whatever became of the former
ones (open loop), and each is measured from when it was due, as are the pages written and synced beside them; the
functions run meanwhile. Each round is a process of its own, as an engine is that did nothing else before, and the
collector leaves alone what was there at the start, as in `lambent run`. Figures are medians of the rounds' p99.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import durable_raw as raw
from benchmarks.alone import alone, main
from benchmarks.cycles import CALLS_A_SECOND, PAYLOAD, directory, times
from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio
from lambent.stores.sqlite import SqliteStore

CALLS = 3_000
MOST_LATENCY = 3.0


async def latency(path: Path) -> list[float]:
    """Seconds until each call was answered, from when it was due. A thread brings them: the loop's own timers count
    milliseconds."""
    engine, took, answered = new_engine(store=SqliteStore(path)), list[float](), asyncio.Event()
    loop, calls = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    @engine.function
    async def nothing(event: object, context: object) -> None: ...

    async def call(due: float) -> None:
        await engine.invoke_async(nothing, PAYLOAD)
        took.append(time.perf_counter() - due)
        if len(took) == CALLS:
            answered.set()

    def bring() -> None:
        for due in times(CALLS):
            loop.call_soon_threadsafe(lambda due=due: calls.add(loop.create_task(call(due))))  # type: ignore[misc]

    async with engine:
        gc.collect()
        gc.freeze()
        await asyncio.gather(asyncio.to_thread(bring), answered.wait())
        gc.unfreeze()
    return took


async def measured(words: Sequence[str]) -> float:
    """The p99 of one kind, in seconds."""
    kind, file = words
    took = raw.syncs(Path(file), CALLS) if kind == "sync" else await latency(Path(file))
    return sorted(took)[int(len(took) * 0.99)]


def rows() -> Sequence[Row]:
    slowest: dict[str, list[float]] = {"sync": [], "call": []}
    for _ in range(ROUNDS):
        with directory() as files:
            for kind, found in slowest.items():
                found.append(alone("durable_latency", kind, str(Path(files, kind))))
    sync = f"that of a page written and synced is {median(slowest['sync']) * 1e3:.1f} ms"
    return [
        Row(f"p99 of invoke_async, {CALLS_A_SECOND:,} a second", median(slowest["call"]) * 1e3, "ms", note=sync),
        Row("  by p99 of write + fdatasync", ratio(slowest, "call", "sync"), "times", most=MOST_LATENCY),
    ]


if __name__ == "__main__":
    main(measured, rows)
