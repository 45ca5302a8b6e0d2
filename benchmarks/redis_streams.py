"""A stream on Redis, batches of 100 records of 1,000 bytes: lambent beside the plainest consumer and beside peers.

Decides the bounds that `make bench` holds for the boundary by reference, with `appendfsync always` for all: at least
half of a loop over `XREADGROUP COUNT 100` and one `XACK` (redis-py with hiredis, blocking calls, nothing is decoded or
run), twice what FastStream's batch handler gets, ten times what taskiq's broker on a stream does. Beside it stand the
JSON boundary, a stream that others write (`redis-stream://`), and the first bound with `appendfsync everysec`, where
nobody waits for a disk.

All records are there before the time begins, which ends when none is pending any more, or when lambent's checkpoint has
passed the last one. The kinds take turns, each time in a process of its own that keeps to one core, on a fresh server;
figures are medians of five rounds. The peers' settings are the best of their documentation:

- FastStream: a batch handler with a consumer group, `max_records` 100, one `XACK` a batch after the handler; no
  validation of its parameter (`apply_types=False`). Messages are published as JSON, and decoded.
- taskiq: as in `durable_peers.py`. It has no batches: a task gets one record, and is acknowledged alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.alone import alone_on_redis, main, one_core
from benchmarks.cycles import CALLERS, POLL_SECONDS, event_of
from benchmarks.engines import engine as new_engine
from benchmarks.redis_server import CONNECTIONS, missing
from benchmarks.table import ROUNDS, Row, median, ratio
from lambent_pollers.redis_store import RedisStore

BATCH = 100
EVENT = event_of(1_000)
PAYLOAD = json.dumps(EVENT).encode()
KEY, GROUP = "records", "group"
RECORDS = {
    "reference": 30_000, "json": 20_000, "plain": 20_000, "raw": 30_000, "FastStream": 10_000, "taskiq": 1_024,
}  # fmt: skip
PUT = 1_000  # at once
LEAST = {"raw": 0.5, "FastStream": 2.0, "taskiq": 10.0}
NAMES = {
    "raw": "XREADGROUP + XACK", "FastStream": "FastStream's batch handler", "taskiq": "taskiq's stream broker",
    "json": "JSON boundary", "plain": "a stream that others write, by reference",
}  # fmt: skip


class Count:
    """A handler says how many records it saw; when it has seen all, we wait until nothing is left."""

    def __init__(self, expected: int) -> None:
        self._expected = self._left = expected
        self._done = asyncio.Event()

    def saw(self, records: int) -> None:
        self._left -= records
        if not self._left:
            self._done.set()

    async def seconds(self, left: Callable[[], Awaitable[int]]) -> float:
        """For each record, from this call on."""
        began = time.perf_counter()
        await self._done.wait()
        while await left():
            await asyncio.sleep(POLL_SECONDS)
        return (time.perf_counter() - began) / self._expected


async def lambent(kind: str, url: str, records: int) -> float:
    engine, count = new_engine(store=RedisStore(url)), Count(records)
    stream = engine.stream("records") if kind != "plain" else url.replace("redis://", "redis-stream://") + f"/0/{KEY}"

    @engine.function(boundary="json" if kind == "json" else "reference")
    async def handler(event: dict[str, list[object]], context: object) -> None:
        count.saw(len(event["Records"]))

    mapping = engine.map(stream, handler, batch_size=BATCH, enabled=False)
    async with engine:
        if isinstance(stream, str):
            await write(url, records)
        else:
            for _ in range(0, records, PUT):
                await stream.put_many((PAYLOAD, f"N{number % 97}") for number in range(PUT))
        facts = engine._living().connection.facts

        async def left() -> int:
            return records - sum(sum(shard.counts.values()) for shard in await facts.shards(mapping.id))

        await mapping.resume()
        return await count.seconds(left)


async def raw(url: str, records: int) -> float:
    from redis import Redis

    await write(url, records)
    redis: Any = Redis.from_url(url)
    redis.xgroup_create(KEY, GROUP, "0")
    began, seen = time.perf_counter(), 0
    while seen < records:
        [(_, entries)] = redis.xreadgroup(GROUP, "consumer", {KEY: ">"}, count=BATCH)
        redis.xack(KEY, GROUP, *(entry_id for entry_id, _ in entries))
        seen += len(entries)
    return (time.perf_counter() - began) / records


async def faststream(url: str, records: int) -> float:
    from faststream.redis import RedisBroker, StreamSub
    from redis.asyncio import Redis

    silent: Any = None
    broker = RedisBroker(url, apply_types=False, logger=silent)
    redis: Any = Redis.from_url(url)
    count = Count(records)

    @broker.subscriber(stream=StreamSub(KEY, group=GROUP, consumer="consumer", batch=True, max_records=BATCH))
    async def handler(events: list[object]) -> None:
        count.saw(len(events))

    _ = await broker.connect()
    for _ in range(0, records, PUT):
        async with redis.pipeline() as pipeline:
            for _ in range(PUT):
                await broker.publish(EVENT, stream=KEY, pipeline=pipeline)
            await pipeline.execute()
    await redis.xgroup_create(KEY, GROUP, "0")
    started = asyncio.create_task(broker.start())
    seconds = await count.seconds(lambda: pending(redis, KEY, GROUP))
    await started
    return seconds


async def taskiq(url: str, records: int) -> float:
    from redis.asyncio import Redis
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(url, max_connection_pool_size=CONNECTIONS)
    redis: Any = Redis.from_url(url)
    count = Count(records)

    @broker.task
    async def handler(event: dict[str, object]) -> None:
        count.saw(1)

    await broker.startup()
    for _ in range(0, records, CALLERS):
        await asyncio.gather(*(handler.kiq(EVENT) for _ in range(CALLERS)))
    receive = run_receiver_task(broker, validate_params=False, max_async_tasks=CALLERS, max_prefetch=CALLERS)
    working = asyncio.create_task(receive)
    seconds = await count.seconds(lambda: pending(redis, broker.queue_name, broker.consumer_group_name))
    assert not working.done()
    return seconds


async def write(url: str, records: int) -> None:
    """As any program would."""
    from redis.asyncio import Redis

    redis: Any = Redis.from_url(url)
    for _ in range(0, records, PUT):
        async with redis.pipeline() as pipeline:
            for number in range(PUT):
                pipeline.xadd(KEY, {"key": f"N{number % 97}", "data": PAYLOAD})
            await pipeline.execute()
    await redis.aclose()


async def pending(redis: Any, key: str, group: str) -> int:
    found = await redis.xpending(key, group)
    return int(found["pending"])


async def measured(words: Sequence[str]) -> float:
    """Seconds a record."""
    kind, url = words
    one_core()
    if kind in PEERS:
        return await PEERS[kind](url, RECORDS[kind])
    return await lambent(kind, url, RECORDS[kind])


PEERS = {"raw": raw, "FastStream": faststream, "taskiq": taskiq}


def rows() -> list[Row]:
    if lacking := missing("redis_streams", "taskiq_redis", "faststream"):
        return lacking
    seconds: dict[str, list[float]] = {kind: [] for kind in RECORDS}
    unsynced: dict[str, list[float]] = {"reference": [], "raw": []}
    for _ in range(ROUNDS):
        for kind in RECORDS:
            seconds[kind].append(alone_on_redis("redis_streams", kind))
        for kind, each in unsynced.items():
            each.append(alone_on_redis("redis_streams", kind, fsync="everysec"))
    a_second = {kind: 1 / median(each) for kind, each in seconds.items()}
    table = [Row("stream on Redis, 1 KB, by reference", a_second["reference"], "records/s")]
    for kind, least in LEAST.items():
        times, note = ratio(seconds, kind, "reference"), f"{a_second[kind]:,.0f} records/s"
        table.append(Row(f"  by {NAMES.get(kind, kind)}", times, "times", least=least, note=note))
    for kind in ("json", "plain"):
        note = f"{ratio(seconds, kind, 'reference'):.2f} times the time by reference"
        table.append(Row(f"  {NAMES[kind]}", a_second[kind], "records/s", note=note))
    note = " and ".join(f"{1 / median(each):,.0f}" for each in unsynced.values()) + " records/s"
    times = ratio(unsynced, "raw", "reference")
    table.append(Row(f"  by {NAMES['raw']}, appendfsync everysec", times, "times", least=LEAST["raw"], note=note))
    return table


if __name__ == "__main__":
    main(measured, rows)
