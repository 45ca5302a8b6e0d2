"""The Kafka broker of the benchmarks, and what is in it before the time begins.

Decides which broker it is: the one that LAMBENT_BENCH_KAFKA names (HOST:PORT), or else that of the tests, a real one
with its jars from Maven; and what a topic has: records of 1,000 bytes of JSON under a thousand keys.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cycles import POLL_SECONDS, event_of
from benchmarks.table import Row

SIZE = 1_000
EVENT = event_of(SIZE - len(', "poison": 0'))
KEYS = 1_000
PUT = 1_000  # at once


@contextmanager
def kafka(files: str) -> Iterator[str]:
    """A broker; gives its address."""
    if named := os.environ.get("LAMBENT_BENCH_KAFKA"):
        yield named
        return
    from tests.servers.kafka import running

    with running(Path(files)) as broker:
        yield broker.address


def missing(name: str, *peers: str) -> list[Row]:
    """What to show instead, if there is no broker or a peer is not installed."""
    lacking = [peer for peer in peers if find_spec(peer) is None]
    if not os.environ.get("LAMBENT_BENCH_KAFKA"):
        from tests.servers.kafka import Missing, fetch

        try:
            fetch()
        except Missing as reason:
            lacking.append(f"a Kafka broker ({reason})")
    if not lacking:
        return []
    return [Row(f"{name}: {', '.join(lacking)} missing, pip install 'lambent[bench]' brings the packages", 0, "")]


def payload(poison: bool = False) -> bytes:
    return json.dumps({**EVENT, "poison": int(poison)}).encode()


async def fill(address: str, topic: str, partitions: int, records: int, poison_every: int = 0) -> None:
    """A new topic. Every so many-th record is poison; 0: none is."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, partitions, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=5, max_batch_size=256 * 1024)
    await producer.start()
    plain, poison = payload(), payload(True)
    for first in range(0, records, PUT):
        sent = [
            await producer.send(
                topic,
                poison if poison_every and number % poison_every == 0 else plain,
                key=b"N%d" % (number % KEYS),
                partition=number % KEYS % partitions,
            )
            for number in range(first, min(first + PUT, records))
        ]
        await asyncio.gather(*sent)
    await producer.stop()


async def await_committed(address: str, group: str, records: int) -> None:
    """Until the group has committed all of them."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin: Any = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    while sum(each.offset for each in (await admin.list_consumer_group_offsets(group)).values()) < records:
        await asyncio.sleep(POLL_SECONDS)
    await admin.close()
