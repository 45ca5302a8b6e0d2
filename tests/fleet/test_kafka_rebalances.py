"""Engines that join and leave a consumer group while records come: none is lost, none runs twice, counts are exact.

On a real broker, with a store that all engines share.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from lambent import Client, Engine
from lambent.stores.memory import MemoryStore
from lambent_pollers import kafka_group
from tests.servers import kafka_topics
from tests.servers.kafka import KafkaProcess

PARTITIONS = 6
OPTIONS = "records=json&session_timeout=1.2&rebalance_timeout=10"
PATIENCE_SECONDS = 60.0


class Ledger:
    """What handlers saw, by partition and in order; `sent` is what they should see."""

    def __init__(self) -> None:
        self.sent: dict[int, list[int]] = defaultdict(list)
        self.seen: dict[int, list[int]] = defaultdict(list)
        self.by: dict[str, int] = defaultdict(int)
        self.news = asyncio.Event()

    def note(self, engine: str, event: dict[str, Any]) -> None:
        for records in event["records"].values():
            for record in records:
                self.seen[record["partition"]].append(record["value"])
                self.by[engine] += 1
        self.news.set()

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():
                self.news.clear()
                await self.news.wait()

    async def until_all_is_seen(self) -> None:
        await self.until(lambda: all(set(self.seen[each]) >= set(sent) for each, sent in self.sent.items()))


@asynccontextmanager
async def producing(address: str, topic: str, ledger: Ledger) -> AsyncIterator[None]:
    """Some records a millisecond, round the partitions."""

    async def produce() -> None:
        async with kafka_topics.producer(address, linger_ms=5) as producer:
            number = 0
            while not stopping.is_set():
                for partition in range(PARTITIONS):
                    stored = await producer.send(topic, str(number).encode(), partition=partition)
                    ledger.sent[partition].append(number)
                    number += 1
                await stored

    stopping = asyncio.Event()
    running = asyncio.ensure_future(produce())
    try:
        yield
    finally:
        stopping.set()
        await running


def engine(store: MemoryStore, source: str, name: str, ledger: Ledger, **options: Any) -> Engine:
    made = Engine(store=store, lease_seconds=3.0)

    async def take(event: dict[str, Any], context: object) -> None:
        await asyncio.sleep(0)
        ledger.note(name, event)

    made.on(source, name="take", batch_size=50, **options)(take)
    return made


async def joins_and_leaves(address: str, topic: str, count: int, seed: int) -> None:
    chance, ledger, store = random.Random(seed), Ledger(), MemoryStore()
    await kafka_topics.create(address, topic, partitions=PARTITIONS)
    source = f"kafka://{address}/{topic}?{OPTIONS}"
    async with AsyncExitStack() as stack, producing(address, topic, ledger):
        running: dict[str, AsyncExitStack] = {}
        for number in range(count):
            if running and (len(running) == 3 or (len(running) > 1 and chance.random() < 0.5)):
                leaver = chance.choice(sorted(running))
                await running.pop(leaver).aclose()
            else:
                name = f"e{number}"
                running[name] = await stack.enter_async_context(AsyncExitStack())
                await running[name].enter_async_context(engine(store, source, name, ledger))
                await ledger.until(lambda name=name: ledger.by[name] > 0)
        await ledger.until(lambda: sum(map(len, ledger.seen.values())) > 0)
    async with engine(store, source, "last", ledger):
        await ledger.until_all_is_seen()
    for partition, sent in ledger.sent.items():
        assert ledger.seen[partition] == sent, f"partition {partition}: lost, twice or out of order"
    async with Client(store) as client:
        [mapping] = await client.list_mappings()
        books = await client.audit(mapping)
    assert books.total.fates == {("delivered", ""): sum(map(len, ledger.sent.values()))}
    committed = await kafka_topics.committed(address, mapping)
    assert {at.partition: each.offset for at, each in committed.items()} == {
        partition: len(sent) for partition, sent in ledger.sent.items()
    }


async def test_a_poisoned_record_is_tried_as_often_as_it_may_be_however_many_engines_try_it(
    kafka_process: KafkaProcess, topic: str
) -> None:
    """Each engine leaves after one attempt; the next one goes on counting."""
    address, store, attempts = kafka_process.address, MemoryStore(), list[str]()
    await kafka_topics.create(address, topic, f"{topic}.dead")
    source, tried = f"kafka://{address}/{topic}?{OPTIONS}", asyncio.Event()

    def one(name: str) -> Engine:
        made = Engine(store=store)

        async def fail(event: dict[str, Any], context: object) -> None:
            attempts.append(name)
            tried.set()
            raise ValueError("poison")

        made.on(
            source, name="fail", maximum_retry_attempts=4, on_failure=f"kafka://{address}/{topic}.dead"
        )(fail)  # fmt: skip
        return made

    async with kafka_topics.producer(address) as producer:
        await producer.send_and_wait(topic, b"poison")
    async with asyncio.timeout(PATIENCE_SECONDS):
        for number in range(5):
            tried.clear()
            async with one(f"e{number}"):
                await tried.wait()
        async with one("last"):
            while not await kafka_topics.read_all(address, f"{topic}.dead"):
                pass
    assert attempts == [f"e{number}" for number in range(5)]
    [dead] = await kafka_topics.read_all(address, f"{topic}.dead")
    assert json.loads(dict(dead.headers)["lambent-failure"])["requestContext"]["approximateInvokeCount"] == 5


async def test_a_handler_that_outlasts_the_rebalance_keeps_what_it_has_and_runs_once(
    kafka_process: KafkaProcess, topic: str
) -> None:
    address, store, calls = kafka_process.address, MemoryStore(), list[tuple[str, list[int]]]()
    await kafka_topics.create(address, topic, partitions=PARTITIONS)
    source = f"kafka://{address}/{topic}?records=json&session_timeout=1.2&rebalance_timeout=1"
    slow, news = asyncio.Event(), asyncio.Event()

    def one(name: str) -> Engine:
        made = Engine(store=store, lease_seconds=3.0)

        async def take(event: dict[str, Any], context: object) -> None:
            [records] = event["records"].values()
            calls.append((name, [record["value"] for record in records]))
            news.set()
            if name == "first" and len(calls) == 1:
                await slow.wait()

        made.on(source, name="take", timeout_seconds=60, batch_size=1)(take)
        return made

    async def until(count: int) -> None:
        while len(calls) < count:
            news.clear()
            await news.wait()

    async with kafka_topics.producer(address) as producer, asyncio.timeout(PATIENCE_SECONDS):
        await producer.send_and_wait(topic, b"0", partition=0)
        async with one("first"):
            await until(1)
            async with one("second"):
                while "second" not in [name for name, _ in calls]:
                    for partition in range(1, PARTITIONS):
                        await producer.send_and_wait(topic, b"1", partition=partition)
                    await until(len(calls) + 1)
                await producer.send_and_wait(topic, b"2", partition=0)
                slow.set()
                while [2] not in [values for _, values in calls]:
                    await until(len(calls) + 1)
    assert calls[0] == ("first", [0])
    assert [values for _, values in calls if values != [1]] == [[0], [2]]


async def test_partitions_that_are_added_are_read_from_their_first_record(
    kafka_process: KafkaProcess, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_group, "METADATA_SECONDS", 0.3)
    address, ledger = kafka_process.address, Ledger()
    await kafka_topics.create(address, topic)
    made = engine(MemoryStore(), f"kafka://{address}/{topic}?{OPTIONS}", "e", ledger, starting_position="LATEST")
    async with kafka_topics.producer(address, metadata_max_age_ms=100) as producer, made:
        while not ledger.seen[0]:
            await producer.send_and_wait(topic, b"0", partition=0)
        await kafka_topics.grow(address, topic, 3)
        while len(await producer.partitions_for(topic)) < 3:
            await asyncio.sleep(0)
        for partition in (1, 2):
            await producer.send_and_wait(topic, b"1", partition=partition)
        await ledger.until(lambda: ledger.seen[1] == ledger.seen[2] == [1])


async def test_twenty_joins_and_leaves_lose_nothing_and_run_nothing_twice(
    kafka_process: KafkaProcess, topic: str
) -> None:
    await joins_and_leaves(kafka_process.address, topic, 20, seed=1)


@pytest.mark.night
async def test_two_hundred_joins_and_leaves_lose_nothing_and_run_nothing_twice(
    kafka_process: KafkaProcess, topic: str
) -> None:
    await joins_and_leaves(kafka_process.address, topic, 200, seed=2)
