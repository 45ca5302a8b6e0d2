"""Topics of Kafka pass the suite of streams on a real broker, and keep what Kafka adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lambent.model import Put, Stream
from lambent.ports import Clock
from lambent_pollers.kafka import KafkaStream
from lambent_pollers.kafka_url import parse_kafka_url
from tests.servers import kafka_topics
from tests.servers.clock import RealClock
from tests.servers.kafka import KafkaProcess

from .suites import Suite, streams
from .suites.streams import SourceAndTarget


class _OnKafka(Suite):
    capabilities = KafkaStream.capabilities

    def make_clock(self) -> Clock:
        return RealClock()

    async def pass_time(self, seconds: float) -> None:
        """As little as makes a difference to a timestamp, or to a request under way."""
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(min(seconds, 0.05), passed.set)
        await passed.wait()

    @pytest.fixture(autouse=True)
    async def _broker(self, _begin: None, kafka_process: KafkaProcess, topic: str) -> AsyncIterator[None]:
        self.address, self.topic = kafka_process.address, f"clicks-{topic}"
        self.opened: list[KafkaStream] = []
        yield
        for stream in self.opened:
            await stream.close()

    async def make_stream(self, config: Stream) -> KafkaStream:
        await kafka_topics.create(self.address, self.topic, partitions=config.shards)
        return self.another()

    def another(self, options: str = "") -> KafkaStream:
        url = parse_kafka_url(f"kafka://{self.address}/{self.topic}?{options}")
        self.opened.append(KafkaStream(url))
        return self.opened[-1]


class TestKafkaStream(_OnKafka, streams.StreamSuite):
    async def shard_of(self, stream: SourceAndTarget, key: str) -> str:
        [position] = await stream.put_many([Put(b"", key)])
        return position.partition("@")[0]
