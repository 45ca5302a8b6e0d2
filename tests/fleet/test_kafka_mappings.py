"""What a mapping of a topic may ask for beyond batches, on a real broker: lanes, windows, transactions, a gap."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from lambent import Engine
from lambent.semantics.stream import lane_of
from lambent.telemetry import OFFSET_LAG
from lambent_pollers.kafka import KafkaStream
from lambent_pollers.kafka_url import parse_kafka_url
from tests.servers import kafka_topics
from tests.servers.kafka import KafkaProcess

PATIENCE_SECONDS = 30.0
LANES = 4


async def test_keys_of_a_partition_run_in_parallel_and_each_in_its_order(
    kafka_process: KafkaProcess, topic: str
) -> None:
    address, keys = kafka_process.address, "abcdefgh"
    seen: dict[str, list[int]] = {key: [] for key in keys}
    running, together, done = set[int](), asyncio.Event(), asyncio.Event()
    engine = Engine()

    @engine.on(f"kafka://{address}/{topic}?records=json", name="take", batch_size=10, parallelization_factor=LANES)
    async def take(event: dict[str, Any], context: object) -> None:
        records = event["records"][f"{topic}-0"]
        [lane] = {lane_of(record["key"], LANES) for record in records}
        assert lane not in running
        running.add(lane)
        if len(running) > 1:
            together.set()
        await together.wait()
        for record in records:
            seen[record["key"]].append(record["value"])
        running.remove(lane)
        if sum(map(len, seen.values())) == 200:
            done.set()

    await kafka_topics.create(address, topic)
    async with kafka_topics.producer(address) as producer:
        for number in range(200):
            await producer.send(topic, str(number).encode(), key=keys[number % len(keys)].encode())
    async with engine, asyncio.timeout(PATIENCE_SECONDS):
        await done.wait()
    assert seen == {key: list(range(place, 200, len(keys))) for place, key in enumerate(keys)}


@pytest.mark.parametrize("transactional", [False, True])
async def test_a_tumbling_window_ends_with_a_later_record_or_with_the_clock(
    kafka_process: KafkaProcess, topic: str, transactional: bool
) -> None:
    """Behind the records of a transaction there is one of Kafka's own, which nobody gets to see."""
    address, begins = kafka_process.address, 1_700_000_000_000  # ms, and the beginning of a window
    sums: list[tuple[str, int]] = []
    done, engine = asyncio.Event(), Engine()

    @engine.on(f"kafka://{address}/{topic}?records=json", name="add", batch_size=2, tumbling_window_seconds=10)
    async def add(event: dict[str, Any], context: object) -> dict[str, Any]:
        records = event["records"].get(f"{topic}-0", ())
        total = event["state"].get("sum", 0) + sum(record["value"] for record in records)
        if event["isFinalInvokeForWindow"]:
            sums.append((event["window"]["start"], total))
            if len(sums) == 2:
                done.set()
        return {"state": {"sum": total}}

    await kafka_topics.create(address, topic)
    async with kafka_topics.producer(address, **({"transactional_id": topic} if transactional else {})) as producer:
        if transactional:
            await producer.begin_transaction()
        for number, milliseconds in enumerate((0, 1, 9_999, 10_000, 10_001)):
            await producer.send_and_wait(topic, str(number + 1).encode(), timestamp_ms=begins + milliseconds)
        if transactional:
            await producer.commit_transaction()
    async with engine, asyncio.timeout(PATIENCE_SECONDS):
        await done.wait()
    assert sums == [("2023-11-14T22:13:20Z", 6), ("2023-11-14T22:13:30Z", 9)]


async def test_who_reads_what_is_committed_never_sees_a_transaction_that_was_not(
    kafka_process: KafkaProcess, topic: str
) -> None:
    address, seen, done, engine = kafka_process.address, list[int](), asyncio.Event(), Engine()
    await kafka_topics.create(address, topic)

    @engine.on(f"kafka://{address}/{topic}?records=json&isolation=read_committed", name="take")
    async def take(event: dict[str, Any], context: object) -> None:
        seen.extend(record["value"] for record in event["records"][f"{topic}-0"])
        if 3 in seen:
            done.set()

    async with kafka_topics.producer(address, transactional_id=topic) as producer:
        for number in (1, 2, 3):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, str(number).encode())
            await (producer.abort_transaction() if number == 2 else producer.commit_transaction())
    async with engine, asyncio.timeout(PATIENCE_SECONDS):
        await done.wait()
        [mapping] = await engine.list_mappings()
        while engine.telemetry.snapshot()[OFFSET_LAG][f"{mapping}/{topic}-0"]:
            await asyncio.sleep(0)
    assert seen == [1, 3]


async def test_nothing_waits_behind_the_last_record_of_a_transaction(kafka_process: KafkaProcess, topic: str) -> None:
    await kafka_topics.create(kafka_process.address, topic)
    async with kafka_topics.producer(kafka_process.address, transactional_id=topic) as producer, producer.transaction():
        await producer.send_and_wait(topic, b"1")
    stream = KafkaStream(parse_kafka_url(f"kafka://{kafka_process.address}/{topic}"))
    [shard] = await stream.shards()
    reader, position, caught_up = stream.reader(), await stream.position(shard.id, "TRIM_HORIZON", None), False
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not caught_up:
            reader.want(shard.id, position, 10, 1_000)
            [read] = await reader.ready()
            position, caught_up = read.records[-1].position if read.records else position, read.caught_up
    assert (await stream.backlog(shard.id, position)).records == 0
    assert (await stream.backlog(shard.id, None)).records == 2
    await stream.close()


async def test_a_mapping_that_stops_at_a_gap_says_so_and_goes_on_when_it_is_sought(
    kafka_process: KafkaProcess, topic: str
) -> None:
    address, seen, engine = kafka_process.address, list[int](), Engine(lease_seconds=3.0)
    first, done = asyncio.Event(), asyncio.Event()

    @engine.on(f"kafka://{address}/{topic}?records=json&out_of_range=stop", name="take")
    async def take(event: dict[str, Any], context: object) -> None:
        seen.extend(record["value"] for record in event["records"][f"{topic}-0"])
        first.set()
        if 9 in seen:
            done.set()

    await kafka_topics.create(address, topic)
    async with kafka_topics.producer(address) as producer:
        await producer.send_and_wait(topic, b"0")
        async with engine:
            await first.wait()
        for number in range(1, 10):
            await producer.send_and_wait(topic, str(number).encode())
    async with kafka_topics.admin(address) as admin:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=8)})
    async with engine, asyncio.timeout(PATIENCE_SECONDS):
        [mapping] = await engine.list_mappings()
        while "seek the mapping to where it is to go on" not in str(
            (await engine.mapping_details(mapping)).get("trouble")
        ):
            await asyncio.sleep(0)
        assert seen == [0]
        await engine.seek_mapping(mapping, "TRIM_HORIZON")
        await done.wait()
    assert seen == [0, 8, 9]
