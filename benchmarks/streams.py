"""How many records a second a shard hands to a function: batches of 100 from memory, through `Engine`, all of it on.

Decides the floors that `make bench` holds, and shows beside them a raw loop that does the least for the same calls:
slices of a list, the event in AWS's shape, the handler. All kinds run in one process, interleaved; each figure is the
median of five rounds. Floors are in wall-clock seconds, and mean something on a quiet machine; the same figure in
seconds of CPU is shown beside.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio, show
from lambent.model import Record
from lambent.payload import decode_payload, encode_event
from lambent.semantics.shapes import kinesis_event

RECORDS = 100_000
BATCH = 100
DATA = b'{"origin":"JFK","dep_delay":2,"carrier":"UA","x":123}'
LEAST = {"reference": 400_000, "json": 150_000}

Run = Callable[[], Awaitable[tuple[float, float]]]  # seconds of wall clock and of CPU


class Stopwatch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


async def through_engine(boundary: str, shards: int = 1) -> tuple[float, float]:
    """All records are there when the mapping is resumed; until the last one was handed over."""
    engine = new_engine()
    flights = engine.stream("flights", shards=shards)
    seen = 0
    done = asyncio.Event()

    async def handler(event: dict[str, list[object]], context: object) -> None:
        nonlocal seen
        seen += len(event["Records"])
        if seen == RECORDS:
            done.set()

    engine.function(name="handler", boundary=boundary)(handler)
    mapping = engine.map(flights, handler, batch_size=BATCH, enabled=False)
    async with engine:
        for first in range(0, RECORDS, 1000):
            await flights.put_many((DATA, f"N{number % 97}") for number in range(first, first + 1000))
        gc.collect()
        watch = Stopwatch()
        await mapping.resume()
        await done.wait()
        return watch.read()


async def raw(boundary: str) -> tuple[float, float]:
    now = time.time()
    shard = [Record(f"49{number:054d}", f"N{number % 97}", DATA, now) for number in range(RECORDS)]
    arn, role = "arn:aws:kinesis:us-east-1:000000000000:stream/flights", "arn:aws:iam::000000000000:role/lambent"
    seen = 0

    async def handler(event: Any, context: object) -> None:
        nonlocal seen
        seen += len(event["Records"])

    gc.collect()
    watch = Stopwatch()
    for first in range(0, RECORDS, BATCH):
        event = kinesis_event("shardId-000000000000", shard[first : first + BATCH], arn, "us-east-1", role)
        await handler(decode_payload(encode_event(event)) if boundary == "json" else event, None)
    assert seen == RECORDS
    return watch.read()


async def measure() -> list[Row]:
    kinds: dict[str, Run] = {
        "reference": lambda: through_engine("reference"),
        "json": lambda: through_engine("json"),
        "raw reference": lambda: raw("reference"),
        "raw json": lambda: raw("json"),
        "8 shards": lambda: through_engine("reference", 8),
    }
    wall: dict[str, list[float]] = {name: [] for name in kinds}
    cpu: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, run in kinds.items():
            seconds = await run()
            wall[name].append(seconds[0])
            cpu[name].append(seconds[1])
    words = {"reference": "by reference", "json": "JSON boundary"}
    rows = []
    for name, least in LEAST.items():
        per_cpu = f"{RECORDS / median(cpu[name]):,.0f} a second of CPU"
        rows.append(Row(f"stream, {words[name]}", RECORDS / median(wall[name]), "records/s", least=least, note=per_cpu))
        rows.append(Row("  a raw loop", RECORDS / median(wall[f"raw {name}"]), "records/s"))
        rows.append(Row("  the engine's time by the raw loop's", ratio(cpu, name, f"raw {name}"), "(CPU)"))
    rows.append(Row("stream, 8 shards, by reference", RECORDS / median(wall["8 shards"]), "records/s"))
    return rows


def rows() -> list[Row]:
    return asyncio.run(measure())


if __name__ == "__main__":
    sys.exit(show(rows()))
