"""What it costs to keep everything: asynchronous events, and checkpoints, on a SQLite file beside raw SQLite.

Decides the bounds that `make bench` holds. All kinds run in one process, interleaved, each time on a fresh file on the
disk where the project is; figures are medians of five rounds. Events: see `cycles.py`; from the first put to the last
settlement, the terminal record kept. Stream: batches of 100, by reference, from the resumption of the mapping to the
last checkpoint. How long a single call takes is measured in `durable_latency.py`.
Events a second mean something on a quiet machine only; seconds of CPU are those of all threads, and are shown beside.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks import durable_raw as raw
from benchmarks.cycles import PAYLOAD, POLL_SECONDS, Seconds, Stopwatch, cycle_of, directory
from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio, show
from lambent.stores.sqlite import SqliteStore

EVENTS = 20_000
LEAST_EVENTS = 15_000
LEAST_OF_RAW = 0.15
RECORDS = 50_000
BATCH = 100
LEAST_OF_RAW_STREAM = 0.35


async def events(path: Path) -> Seconds:
    engine = new_engine(store=SqliteStore(path))
    cycle = cycle_of(engine)
    async with engine:
        return await cycle.run(EVENTS)


async def stream(path: Path) -> Seconds:
    """All records are there when the mapping is resumed; until the last one has been checkpointed."""
    engine, seen, done = new_engine(store=SqliteStore(path)), 0, asyncio.Event()
    records = engine.stream("records")

    @engine.function(boundary="reference")
    async def handler(event: dict[str, list[object]], context: object) -> None:
        nonlocal seen
        seen += len(event["Records"])
        if seen == RECORDS:
            done.set()

    mapping = engine.map(records, handler, batch_size=BATCH, enabled=False)
    async with engine:
        for first in range(0, RECORDS, 1000):
            await records.put_many((PAYLOAD, f"N{number % 97}") for number in range(first, first + 1000))
        facts = engine._living().connection.facts
        gc.collect()
        watch = Stopwatch()
        await mapping.resume()
        await done.wait()
        while sum(sum(shard.counts.values()) for shard in await facts.shards(mapping.id)) < RECORDS:
            await asyncio.sleep(POLL_SECONDS)
        return watch.read()


async def measure() -> list[Row]:
    wall: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)

    def note(name: str, seconds: Seconds) -> None:
        wall[name].append(seconds[0])
        cpu[name].append(seconds[1])

    for _ in range(ROUNDS):
        with directory() as files:
            note("raw events", raw.events(Path(files, "raw-events.db"), EVENTS))
            note("events", await events(Path(files, "events.db")))
            note("raw stream", raw.stream(Path(files, "raw-stream.db"), RECORDS))
            note("stream", await stream(Path(files, "stream.db")))

    def beside_raw(name: str, what: str, unit: str, number: int, least: float | None, least_of_raw: float) -> list[Row]:
        each = {kind: f"{median(cpu[kind]) / number * 1e6:.1f} µs of CPU each" for kind in (name, f"raw {name}")}
        note = f"raw {number / median(wall[f'raw {name}']):,.0f} {unit}, {each[f'raw {name}']}"
        return [
            Row(what, number / median(wall[name]), unit, least=least, note=each[name]),
            Row("  by raw SQLite", ratio(wall, f"raw {name}", name), "times", least=least_of_raw, note=note),
        ]

    return [
        *beside_raw("events", "durable events: accepted, run, settled", "events/s", EVENTS, LEAST_EVENTS, LEAST_OF_RAW),
        *beside_raw(
            "stream", "durable stream: read, run, checkpointed", "records/s", RECORDS, None, LEAST_OF_RAW_STREAM
        ),
    ]


def rows() -> list[Row]:
    return asyncio.run(measure())


if __name__ == "__main__":
    sys.exit(show(rows()))
