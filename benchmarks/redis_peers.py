"""Asynchronous events and a queue on Redis beside taskiq and SAQ on the same, with events of 1,000 bytes.

Decides the bound that `make bench` holds: at least five times the events a second of either, with `appendfsync always`
for all. How they are measured, and the peers' settings, are those of `durable_peers.py`. The queue is the built-in one,
which is the source `redis-queue://`; its mapping has the defaults: batches of ten, reported whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.alone import alone_on_redis, main
from benchmarks.cycles import Cycle, cycle_of, event_of
from benchmarks.durable_peers import PEERS, by_peers, of_peer, warm
from benchmarks.engines import engine as new_engine
from benchmarks.redis_server import missing
from benchmarks.table import ROUNDS, Row, median
from lambent_pollers.redis_store import RedisStore

SIZE = 1_000
EVENTS = 10_000  # in a round
PAYLOAD = json.dumps(event_of(SIZE))
KINDS = {"events": "asynchronous events on Redis, 1 KB", "queue": "a queue on Redis, 1 KB"}


async def events(url: str) -> float:
    """Seconds an event."""
    engine = new_engine(store=RedisStore(url))
    cycle = cycle_of(engine, PAYLOAD.encode())
    async with engine:
        return await warm(cycle, EVENTS)


async def queue(url: str) -> float:
    """Seconds a message."""
    engine = new_engine(store=RedisStore(url))
    orders = engine.queue("orders")

    @engine.on(orders)
    async def nothing(event: dict[str, list[object]], context: object) -> None:
        for _ in event["Records"]:
            cycle.seen()

    async def left() -> int:
        depth = await engine._living().connection.queue(orders.configuration).depth()
        return depth.visible + depth.in_flight + depth.delayed

    cycle = Cycle(lambda: orders.send(PAYLOAD), left)
    async with engine:
        return await warm(cycle, EVENTS)


async def measured(words: Sequence[str]) -> float:
    kind, url = words
    return await {"events": events, "queue": queue}[kind](url)


def rows() -> list[Row]:
    if lacking := missing("redis_peers", "taskiq_redis", "saq"):
        return lacking
    seconds: dict[str, list[float]] = {kind: [] for kind in (*KINDS, *PEERS)}
    for _ in range(ROUNDS):
        for kind in KINDS:
            seconds[kind].append(alone_on_redis("redis_peers", kind))
        for kind in PEERS:
            seconds[kind].append(of_peer(kind, SIZE))
    table = []
    for kind, what in KINDS.items():
        table += [Row(what, 1 / median(seconds[kind]), "events/s"), *by_peers(seconds, kind)]
    return table


if __name__ == "__main__":
    main(measured, rows)
