"""Mappings of Kafka's topics on a real broker: what a function sees, and what becomes of what it says."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from typing import Any

from lambent import Engine
from lambent.stores.memory import MemoryStore
from tests.servers import kafka_topics
from tests.servers.kafka import KafkaProcess


async def test_a_function_sees_the_records_of_kafka_as_aws_shows_them(kafka_process: KafkaProcess, topic: str) -> None:
    seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await kafka_topics.create(kafka_process.address, topic)
    engine = Engine(store=MemoryStore())

    @engine.on(f"kafka://{kafka_process.address}/{topic}", name="see")
    async def see(event: dict[str, Any], context: object) -> None:
        seen.put_nowait(event)

    async with engine, kafka_topics.producer(kafka_process.address) as producer:
        sent = await producer.send_and_wait(
            topic, b'{"n":1}', key=b"k\xff", timestamp_ms=1_700_000_000_123, headers=[("trace", b"ab")]
        )
        async with asyncio.timeout(20):
            event = await seen.get()
    assert event == {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": kafka_process.address,
        "records": {
            f"{topic}-0": [
                {
                    "topic": topic,
                    "partition": 0,
                    "offset": sent.offset,
                    "timestamp": 1_700_000_000_123,
                    "timestampType": "CREATE_TIME",
                    "key": "a/8=",
                    "value": "eyJuIjoxfQ==",
                    "headers": [{"trace": [97, 98]}],
                }
            ]
        },
    }
    assert b64decode(event["records"][f"{topic}-0"][0]["key"]) == b"k\xff"


async def test_what_is_finished_is_committed_to_the_group_and_a_fresh_store_goes_on_there(
    kafka_process: KafkaProcess, topic: str
) -> None:
    seen: list[str] = []
    twice, thrice = asyncio.Event(), asyncio.Event()
    await kafka_topics.create(kafka_process.address, topic)

    async def take(event: dict[str, Any], context: object) -> None:
        for [record] in event["records"].values():
            seen.append(record["value"])
        (twice if len(seen) >= 2 else asyncio.Event()).set()
        (thrice if len(seen) >= 3 else asyncio.Event()).set()

    def engine() -> Engine:
        engine = Engine(store=MemoryStore())
        source = f"kafka://{kafka_process.address}/{topic}?records=json&group=g-{topic}"
        engine.on(source, name="take", batch_size=1)(take)
        return engine

    async with kafka_topics.producer(kafka_process.address) as producer:
        for value in (b"a", b"b"):
            await producer.send_and_wait(topic, value)
        async with asyncio.timeout(20):
            async with engine():
                await twice.wait()
            [(partition, at)] = (await kafka_topics.committed(kafka_process.address, f"g-{topic}")).items()
            assert (partition.topic, at.offset) == (topic, 2)
            await producer.send_and_wait(topic, b"c")
            async with engine():
                await thrice.wait()
    assert seen == ["a", "b", "c"]
