"""Kafka's consumer groups pass the suite of elections on a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lambent.ports import Clock
from lambent.semantics import kafka
from lambent_pollers.kafka import KafkaStream
from lambent_pollers.kafka_url import parse_kafka_url
from tests.servers import kafka_topics
from tests.servers.clock import RealClock
from tests.servers.kafka import KafkaProcess

from .suites import elections
from .suites.elections import Candidate


class TestKafkaGroup(elections.ElectionSuite):
    def make_clock(self) -> Clock:
        return RealClock()

    @pytest.fixture(autouse=True)
    async def _broker(self, _begin: None, kafka_process: KafkaProcess, topic: str) -> AsyncIterator[None]:
        self.url = parse_kafka_url(f"kafka://{kafka_process.address}/{topic}?session_timeout=1.2")
        self.shards = tuple(kafka.shard_id(topic, number) for number in range(4))
        self.opened: list[KafkaStream] = []
        await kafka_topics.create(kafka_process.address, topic, partitions=4)
        async with kafka_topics.producer(kafka_process.address) as producer:
            for number in range(40):
                await producer.send(topic, b"x", partition=number % 4)
        yield
        for stream in self.opened:
            await stream.close()

    async def candidate(self) -> Candidate:
        stream = KafkaStream(self.url)
        self.opened.append(stream)
        reader = stream.reader("m1")
        assert reader.election is not None
        return reader  # type: ignore[return-value]

    def position(self, shard: str, number: int) -> str:
        return kafka.position(shard, number)
