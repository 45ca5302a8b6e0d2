"""Topics for tests: made, changed, written and read with Kafka's client itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

SEEN_SECONDS = 20.0


@asynccontextmanager
async def admin(address: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=address)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create(address: str, *names: str, partitions: int = 1, **settings: str) -> None:
    async with admin(address) as client:
        topics = [NewTopic(name, partitions, 1, topic_configs=settings) for name in names]
        answer = await client.create_topics(topics)
        failed = [each for each in answer.topic_errors if each[1]]
        assert not failed, failed
        async with asyncio.timeout(SEEN_SECONDS):  # the broker knows of them a moment after its controller
            while any(
                each["error_code"] or any(part["error_code"] for part in each["partitions"])
                for each in await client.describe_topics(list(names))
            ):
                pass


async def grow(address: str, name: str, partitions: int) -> None:
    async with admin(address) as client:
        await client.create_partitions({name: NewPartitions(partitions)})


async def delete(address: str, name: str) -> None:
    async with admin(address) as client:
        await client.delete_topics([name])


@asynccontextmanager
async def producer(address: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=address, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def read_all(address: str, name: str, partitions: int = 1) -> Sequence[Any]:
    """Every record that a topic has now."""
    found: list[Any] = []
    async with AIOKafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest") as client:
        tps = [TopicPartition(name, number) for number in range(partitions)]
        client.assign(tps)
        ends = await client.end_offsets(tps)
        firsts = await client.beginning_offsets(tps)
        left = sum(ends.values()) - sum(firsts.values())
        while len(found) < left:
            for records in (await client.getmany(timeout_ms=1000)).values():
                found += records
    return found


async def committed(address: str, group: str) -> dict[TopicPartition, Any]:
    async with admin(address) as client:
        found: dict[TopicPartition, Any] = await client.list_consumer_group_offsets(group)
        return found
