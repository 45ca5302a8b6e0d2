"""A topic of Kafka passes the suite of destinations on a real broker, and takes a stream's records as they were."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import pytest

from lambent.model import Delivered, Record
from lambent.ports import Clock, Destination, RecordDestination
from lambent_pollers.kafka import source
from lambent_pollers.kafka_producer import FAILURE_HEADER, MAXIMUM_RECORD_BYTES, POSITION_HEADER, KafkaDestination
from tests.servers import kafka_topics
from tests.servers.clock import RealClock
from tests.servers.kafka import KafkaProcess
from tests.servers.redis import free_port

from .suites.destinations import Arrival, DestinationSuite, value


class TestTopic(DestinationSuite):
    capabilities = frozenset({"attributes", "hops", "limit"})

    def make_clock(self) -> Clock:
        return RealClock()

    @pytest.fixture(autouse=True)
    async def _broker(self, _begin: None, kafka_process: KafkaProcess, topic: str) -> AsyncIterator[None]:
        self.address, self.topic = kafka_process.address, topic
        self.opened: list[KafkaDestination] = []
        self.told = 0
        await kafka_topics.create(self.address, topic)
        yield
        for each in self.opened:
            await each.close()

    def open(self, address: str, topic: str) -> KafkaDestination:
        self.opened.append(source.destination(f"kafka://{address}/{topic}?timeout=0.5"))
        return self.opened[-1]

    async def make(self) -> Destination:
        return self.open(self.address, self.topic)

    async def away(self) -> Destination:
        return self.open(f"127.0.0.1:{free_port()}", self.topic)

    async def hopeless(self) -> Destination:
        await kafka_topics.create(self.address, f"{self.topic}.tiny", **{"max.message.bytes": "10"})
        return self.open(self.address, f"{self.topic}.tiny")

    async def arrived(self) -> Sequence[Arrival]:
        found = (await kafka_topics.read_all(self.address, self.topic))[self.told :]
        self.told += len(found)
        arrivals = []
        for record in found:
            headers = {name: told.decode() for name, told in record.headers}
            hops = int(headers.pop("lambent-hops", "0"))
            arrivals.append(Arrival(value(record.value.decode()), headers, hops))
        return arrivals

    async def test_a_streams_records_arrive_themselves_and_the_large_without_what_is_told_of_them(self) -> None:
        destination = await self.make()
        assert isinstance(destination, RecordDestination)
        records = [Record("1", "k", b"x", 0.0), Record("2", "", b"x" * (MAXIMUM_RECORD_BYTES - 100), 0.0)]
        assert await destination.deliver_records(records, json.dumps({"n": "x" * 2000}).encode(), 3) == Delivered()
        small, large = await kafka_topics.read_all(self.address, self.topic)
        assert (small.key, small.value, large.key) == (b"k", b"x", None)
        assert dict(small.headers).keys() == {FAILURE_HEADER, POSITION_HEADER, "lambent-hops"}
        assert dict(large.headers) == {POSITION_HEADER: b"2", "lambent-hops": b"3"}
