"""Does an event cost the same whatever else is there? From 1 to 10,000 functions, 1 to 1,000 shards, 1,000 to 1,000,000
waiting events.

Decides the bound that `make bench` holds: nowhere more than 1.3 times the cost at the smallest size. All sizes of a
series are alive in one process and measured in turn, five rounds; the figure is the median of the rounds' ratios, in
seconds of CPU, so that a busy machine does not matter. `results/scale.png` shows cost against growing work.

One series is shown without a bound: of many events of one function a hundred are claimed at a time, while each of a
thousand functions with one event has its own turn.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import md5
from itertools import cycle
from pathlib import Path

from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio, show
from lambent import Engine

MOST = 1.3
CALLS = 2_000
RECORDS = 20_000
BATCH = 100
RESULTS = Path(__file__).parent / "results"

Measure = Callable[[], Awaitable[float]]  # does the work once; gives seconds of CPU for one event
Cycle = Iterator[str]
Prepare = Callable[[AsyncExitStack, int], Awaitable[Measure]]


@dataclass(frozen=True, eq=False)
class Series:
    """One thing that grows, and what is measured beside it."""

    name: str
    axis: str
    sizes: Sequence[int]
    prepare: Prepare
    most: float | None = MOST


class Counted:
    """A handler's count of events, and somebody who waits until there were enough."""

    def __init__(self) -> None:
        self._left = 0
        self._done = asyncio.Event()

    def seen(self, number: int = 1) -> None:
        self._left -= number
        if self._left <= 0:
            self._done.set()

    async def more(self, number: int, begin: Callable[[], Awaitable[object]]) -> float:
        """Seconds of CPU for one event, from `begin` on until so many were seen."""
        self._left = number
        self._done.clear()
        began = time.process_time()
        await begin()
        await self._done.wait()
        return (time.process_time() - began) / number


# --------------------------------------------------------------------------- functions


async def many(stack: AsyncExitStack, size: int, handler: Callable[..., object]) -> tuple[Engine, Cycle]:
    """An engine with so many functions, each called once, and their names in turn."""
    engine = new_engine()
    names = [f"f{index}" for index in range(size)]
    for name in names:
        engine.function(name=name)(handler)
    await stack.enter_async_context(engine)
    for name in names:
        await engine.invoke(name, {})
    return engine, cycle(names)


async def sync_functions(stack: AsyncExitStack, size: int) -> Measure:
    async def handler(event: object, context: object) -> object:
        return event

    engine, names = await many(stack, size, handler)

    async def measure() -> float:
        began = time.process_time()
        for index in range(CALLS):
            await engine.invoke(next(names), {"n": index})
        return (time.process_time() - began) / CALLS

    return measure


def async_functions(burst: int) -> Prepare:
    """So many events are put before the last of them has been seen."""

    async def prepare(stack: AsyncExitStack, size: int) -> Measure:
        counted = Counted()

        async def handler(event: object, context: object) -> None:
            counted.seen()

        engine, names = await many(stack, size, handler)

        async def begin() -> None:
            for _ in range(burst):
                await engine.invoke_async(next(names), b"{}")

        async def measure() -> float:
            return sum([await counted.more(burst, begin) for _ in range(CALLS // burst)]) * burst / CALLS

        return measure

    return prepare


# --------------------------------------------------------------------------- shards


def key_of_each(shards: int) -> list[str]:
    """One key for each shard."""
    keys: dict[int, str] = {}
    number = 0
    while len(keys) < shards:
        number += 1
        digest = md5(str(number).encode(), usedforsecurity=False).digest()
        keys.setdefault(int.from_bytes(digest, "big") * shards >> 128, str(number))
    return list(keys.values())


def shards(busy: int | None) -> Prepare:
    """Records in all shards, or in so many while the others idle."""

    async def prepare(stack: AsyncExitStack, size: int) -> Measure:
        counted = Counted()

        async def handler(event: dict[str, list[object]], context: object) -> None:
            counted.seen(len(event["Records"]))

        engine = new_engine()
        stream = engine.stream("flights", shards=size, retention_seconds=3600)
        engine.function(name="handler", boundary="reference")(handler)
        mapping = engine.map(stream, handler, batch_size=BATCH)
        await stack.enter_async_context(engine)
        while len((await mapping.details()).get("shards", ())) < size:  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
        keys = key_of_each(size)[:busy]
        each = max(BATCH, RECORDS // len(keys))  # whole batches, or small ones would be what is measured
        records = [(b'{"origin":"JFK"}', key) for key in keys for _ in range(each)]

        async def measure() -> float:
            await stream.put_many(records)  # in memory this lets nothing else run
            gc.collect()
            gc.freeze()  # what a stream keeps is not what is measured
            return await counted.more(len(records), nothing)

        return measure

    return prepare


async def nothing() -> None: ...


# --------------------------------------------------------------------------- waiting events


async def waiting_for_another(stack: AsyncExitStack, size: int) -> Measure:
    counted = Counted()

    async def handler(event: object, context: object) -> None:
        counted.seen()

    async def blocked(event: object, context: object) -> None:
        await asyncio.Event().wait()

    engine = new_engine(drain_seconds=0.0)
    engine.function(handler)
    engine.function(reserved_concurrency=1, timeout_seconds=900)(blocked)
    await stack.enter_async_context(engine)
    for _ in range(size):
        await engine.invoke_async(blocked, b"{}")
    await asyncio.sleep(0.1)

    async def begin() -> None:
        for _ in range(CALLS):
            await engine.invoke_async(handler, b"{}")

    return lambda: counted.more(CALLS, begin)


async def waiting_for_it(stack: AsyncExitStack, size: int) -> Measure:
    counted, gate = Counted(), asyncio.Event()

    async def handler(event: object, context: object) -> None:
        counted.seen()
        await gate.wait()

    engine = new_engine(drain_seconds=0.0)
    engine.function(reserved_concurrency=10, timeout_seconds=900)(handler)
    await stack.enter_async_context(engine)
    for _ in range(size):
        await engine.invoke_async(handler, b"{}")
    await asyncio.sleep(0.1)

    async def begin() -> None:
        gate.set()

    async def measure() -> float:
        """As many come in as are run, so that the number of those that wait stays."""
        for _ in range(CALLS):
            await engine.invoke_async(handler, b"{}")
        seconds = await counted.more(CALLS, begin)
        gate.clear()
        return seconds

    return measure


async def messages_waiting(stack: AsyncExitStack, size: int) -> Measure:
    counted, gate = Counted(), asyncio.Event()

    async def handler(event: dict[str, list[object]], context: object) -> None:
        counted.seen(len(event["Records"]))
        await gate.wait()

    engine = new_engine(drain_seconds=0.0)
    queue = engine.queue("flights", visibility_timeout_seconds=3600)
    engine.function(reserved_concurrency=10, timeout_seconds=900)(handler)
    engine.map(queue, handler, batch_size=10)
    await stack.enter_async_context(engine)
    for _ in range(0, size, 1000):
        await queue.send_many(["{}"] * 1000)
    await asyncio.sleep(0.1)

    async def begin() -> None:
        gate.set()

    async def measure() -> float:
        await queue.send_many(["{}"] * CALLS)
        seconds = await counted.more(CALLS, begin)
        gate.clear()
        return seconds

    return measure


FUNCTIONS = (1, 10, 100, 1_000, 10_000)
SHARDS = (1, 10, 100, 1_000)
WAITING = (1_000, 10_000, 100_000, 1_000_000)
ALL = (
    Series("sync invoke, functions in turn", "functions", FUNCTIONS, sync_functions),
    Series("async event at a time, functions in turn", "functions", FUNCTIONS, async_functions(1)),
    Series("async events at once, functions in turn", "functions", FUNCTIONS, async_functions(CALLS), most=None),
    Series("stream record, all shards busy", "shards", SHARDS, shards(None)),
    Series("stream record, one shard busy", "shards", SHARDS, shards(1)),
    Series("async event, others wait for another function", "waiting events", WAITING, waiting_for_another),
    Series("async event, others wait for the same", "waiting events", WAITING, waiting_for_it),
    Series("queue message, others wait in its queue", "waiting messages", WAITING, messages_waiting),
)


async def costs(series: Series) -> dict[str, list[float]]:
    """Seconds of CPU for one event, by size and round."""
    async with AsyncExitStack() as stack:
        measures = {str(size): await series.prepare(stack, size) for size in series.sizes}
        seconds: dict[str, list[float]] = {size: [] for size in measures}
        gc.collect()
        gc.freeze()  # or the collector's full passes over all sizes would fall on one of them
        for round_number in range(ROUNDS + 1):
            for size, measure in measures.items():
                cost = await measure()
                if round_number:  # the first one warms up
                    seconds[size].append(cost)
        return seconds


def draw(found: dict[Series, dict[str, list[float]]]) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, (len(found) + 1) // 2, figsize=(18, 8), squeeze=False)
    for panel, (series, seconds) in zip(panels.flat, found.items(), strict=False):
        cost = [median(each) * 1e6 for each in seconds.values()]
        panel.plot(series.sizes, cost, marker="o")
        panel.axhspan(cost[0] * (2 - MOST), cost[0] * MOST, alpha=0.15)
        panel.set(xscale="log", xlabel=series.axis, ylabel="µs of CPU an event", title=series.name)
        panel.set_ylim(bottom=0)
    for panel in list(panels.flat)[len(found) :]:
        panel.remove()
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "scale.png"
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def rows(words: Sequence[str] = ()) -> list[Row]:
    found = {each: asyncio.run(costs(each)) for each in ALL if all(word in each.name for word in words)}
    draw(found)
    table = []
    for series, seconds in found.items():
        smallest = str(series.sizes[0])
        worst = max(ratio(seconds, size, smallest) for size in seconds)
        shown = " ".join(f"{median(each) * 1e6:.1f}" for each in seconds.values())
        span = f"{series.sizes[0]:,} to {series.sizes[-1]:,} {series.axis}"
        table.append(Row(f"{series.name}: {span}", worst, "times", most=series.most, note=f"{shown} µs"))
    return table


if __name__ == "__main__":
    sys.exit(show(rows(sys.argv[1:])))
