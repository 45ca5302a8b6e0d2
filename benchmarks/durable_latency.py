"""How long a caller waits until an asynchronous call is kept, on a SQLite file, beside the disk alone.

Decides a bound that `make bench` holds. A thousand calls a second come at their times, whatever became of the former
ones (open loop), and each is measured from when it was due, as are the pages written and synced beside them; the
functions run meanwhile. Each round is a process of its own, as an engine is that did nothing else before, and the
collector leaves alone what was there at the start, as in `lambent run`. Figures are medians of the rounds' p99.

A machine that stands still for a few milliseconds now and then, as virtual ones do, holds up one page but every call
that comes meanwhile. What an asyncio program pays that does nothing but have a thread write and sync its pages is shown
beside, to tell what is the machine's from what is ours.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import durable_raw as raw
from benchmarks.alone import alone, main
from benchmarks.arrivals import CALLS_A_SECOND, Arrivals
from benchmarks.cycles import PAYLOAD, directory
from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio
from lambent.stores.sqlite import SqliteStore

CALLS = 3_000
MOST_LATENCY = 3.0


async def waits(call: Callable[[], Awaitable[object]]) -> list[float]:
    """Seconds until each call was answered, from when it was due."""
    took, answered = list[float](), asyncio.Event()
    loop, calls = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    async def one(due: float) -> None:
        await call()
        took.append(time.perf_counter() - due)
        if len(took) == CALLS:
            answered.set()

    def come() -> None:
        for due in arrivals.come():
            calls.add(begun := loop.create_task(one(due)))
            begun.add_done_callback(calls.discard)
        if not arrivals.left:
            loop.remove_reader(arrivals.fd)

    gc.collect()
    gc.freeze()
    arrivals = Arrivals(CALLS)
    loop.add_reader(arrivals.fd, come)
    await answered.wait()
    arrivals.close()
    return took


async def kept(path: Path) -> list[float]:
    engine = new_engine(store=SqliteStore(path))

    @engine.function
    async def nothing(event: object, context: object) -> None: ...

    async with engine:
        return await waits(lambda: engine.invoke_async(nothing, PAYLOAD))


async def by_a_thread(path: Path) -> list[float]:
    """The page of `durable_raw.py`, by the least that an asyncio program can do."""
    loop, page = asyncio.get_running_loop(), os.urandom(raw.PAGE)
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as thread:

        def sync() -> None:
            file.write(page)
            os.fdatasync(file.fileno())

        return await waits(lambda: loop.run_in_executor(thread, sync))


async def alone_on_the_disk(path: Path) -> list[float]:
    return raw.syncs(path, CALLS)


KINDS = {"call": kept, "thread": by_a_thread, "sync": alone_on_the_disk}


async def measured(words: Sequence[str]) -> float:
    """The p99 of one kind, in seconds."""
    kind, file = words
    took = await KINDS[kind](Path(file))
    return sorted(took)[int(len(took) * 0.99)]


def rows() -> Sequence[Row]:
    slowest: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        with directory() as files:
            for kind, found in slowest.items():
                found.append(alone("durable_latency", kind, str(Path(files, kind))))
    sync = f"that of a page written and synced is {median(slowest['sync']) * 1e3:.1f} ms"
    return [
        Row(f"p99 of invoke_async, {CALLS_A_SECOND:,} a second", median(slowest["call"]) * 1e3, "ms", note=sync),
        Row("  by p99 of write + fdatasync", ratio(slowest, "call", "sync"), "times", most=MOST_LATENCY),
        Row("  by the same in a thread of an asyncio program", ratio(slowest, "call", "thread"), "times"),
    ]


if __name__ == "__main__":
    main(measured, rows)
