"""Beside peers that keep events too: taskiq and SAQ on a real Redis with `appendonly yes` and `appendfsync always`.

Decides the bound that `make bench` holds: at least five times the events a second of either, on a SQLite file; all of
them on Redis are `redis_peers.py`'s. The cycle is the same for all (`cycles.py`): 256 callers put an event of 200 bytes
each, a function that does nothing runs, and the event is acknowledged when it has returned. Producer and worker are one
process with one event loop; the kinds take turns, each time in a process of its own, on a store of its own; figures are
medians of five rounds.

The peers' settings are the best that their documentation offers, and were found better here than their defaults:

- taskiq: `RedisStreamBroker`, the broker that acknowledges, after the function ended (`when_saved`, the default);
  100 messages are read at once (its default), 256 run at a time (default 100) with as many prefetched (default 0),
  parameters are not validated; no result is kept, which saves it a write that lambent and SAQ do.
- SAQ: `concurrency` 256 (default 10), `max_concurrent_ops` 256 (default 20); results kept for ten minutes (the
  default).
- Both: hiredis as the parser; no limit to the number of connections.

It needs the extra `bench`, and a server (`redis_server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from benchmarks.alone import alone, alone_on_redis, main
from benchmarks.cycles import CALLERS, SIZE, Cycle, cycle_of, directory, event_of
from benchmarks.engines import engine as new_engine
from benchmarks.redis_server import CONNECTIONS, missing
from benchmarks.table import ROUNDS, Row, median, ratio
from lambent.stores.sqlite import SqliteStore

LEAST = 5.0
EVENTS = {"lambent": 20_000, "taskiq": 1_000, "SAQ": 1_000}  # in a round: some seconds of each
PEERS = ("taskiq", "SAQ")


async def taskiq(url: str, event: dict[str, object]) -> float:
    """Seconds an event."""
    from redis.asyncio import Redis
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(url, max_connection_pool_size=CONNECTIONS)
    redis: Redis = Redis.from_url(url)

    @broker.task
    async def nothing(event: dict[str, object]) -> None:
        cycle.seen()

    async def left() -> int:
        found = await redis.xpending(broker.queue_name, broker.consumer_group_name)
        return int(found["pending"])

    cycle = Cycle(lambda: nothing.kiq(event), left)
    await broker.startup()
    receive = run_receiver_task(broker, validate_params=False, max_async_tasks=CALLERS, max_prefetch=CALLERS)
    return await warm(cycle, EVENTS["taskiq"], receive)


async def saq(url: str, event: dict[str, object]) -> float:
    """Seconds an event."""
    from redis.asyncio import Redis
    from saq import Worker
    from saq.queue.redis import RedisQueue

    async def nothing(context: object, *, event: dict[str, object]) -> None:
        cycle.seen()

    queue = RedisQueue(Redis.from_url(url, max_connections=CONNECTIONS), max_concurrent_ops=CALLERS)
    cycle = Cycle(lambda: queue.enqueue("nothing", event=event), lambda: queue.count("incomplete"))
    worker: Worker[Any] = Worker(queue, functions=[("nothing", nothing)], concurrency=CALLERS)
    return await warm(cycle, EVENTS["SAQ"], worker.start())


async def warm(cycle: Cycle, events: int, working: Coroutine[object, object, object] | None = None) -> float:
    """Seconds an event, while that coroutine works."""
    worker = asyncio.create_task(working) if working is not None else None
    await cycle.run(events // 5)  # opens connections, loads scripts
    wall, _ = await cycle.run(events)
    assert worker is None or not worker.done()
    return wall / events


async def lambent(path: str) -> float:
    """Seconds an event."""
    engine = new_engine(store=SqliteStore(path))
    async with engine:
        return await warm(cycle_of(engine), EVENTS["lambent"])


async def measured(words: Sequence[str]) -> float:
    """Seconds an event of so many bytes, by that kind, there."""
    kind, size, where = words
    if kind == "lambent":
        return await lambent(where)
    return await {"taskiq": taskiq, "SAQ": saq}[kind](where, event_of(int(size)))


def of_peer(kind: str, size: int) -> float:
    return alone_on_redis("durable_peers", kind, str(size))


def by_peers(seconds: dict[str, list[float]], ours: str) -> list[Row]:
    table = []
    for kind in PEERS:
        note = f"{1 / median(seconds[kind]):,.0f} events/s on Redis"
        table.append(Row(f"  by {kind}'s", ratio(seconds, kind, ours), "times", least=LEAST, note=note))
    return table


def rows() -> list[Row]:
    if lacking := missing("durable_peers", "taskiq_redis", "saq"):
        return lacking
    seconds: dict[str, list[float]] = {kind: [] for kind in EVENTS}
    for _ in range(ROUNDS):
        with directory() as files:
            seconds["lambent"].append(alone("durable_peers", "lambent", str(SIZE), str(Path(files, "events.db"))))
        for kind in PEERS:
            seconds[kind].append(of_peer(kind, SIZE))
    events = 1 / median(seconds["lambent"])
    return [Row("durable events, in a process of its own", events, "events/s"), *by_peers(seconds, "lambent")]


if __name__ == "__main__":
    main(measured, rows)
