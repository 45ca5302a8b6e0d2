"""Topics of Apache Kafka as a stream that a mapping reads, and as one that can be put to.

Decides what of Kafka is what of a stream: a partition is a shard, a record's offset its position. Leaves to
`kafka_url.py` what a URL says, to `kafka_reader.py` how records come, to `kafka_group.py` who tries to read which
partition, to `kafka_producer.py` how records go, and to `lambent.semantics.kafka` how a record looks.

Who may read a partition is decided by a lease of the engine's store, as with every stream, and how far it is stands
there, with the counts of tries. The consumer group only says who is to try, and its offsets are a mirror of the store:
Kafka's own tools show the lag, another program or a fresh store can go on from there. With the store as the one truth
nothing is read differently on SQLite, Redis or in memory, and no commit that a rebalance refuses costs a count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from lambent.errors import ResourceNotFound, StoreUnavailable
from lambent.model import Backlog, Put, Record, Shard
from lambent.ports import World
from lambent.semantics import kafka
from lambent.semantics.builtin import begins_at
from lambent_pollers.kafka_client import begun
from lambent_pollers.kafka_group import GroupMember
from lambent_pollers.kafka_producer import KafkaDestination, KafkaProducer
from lambent_pollers.kafka_reader import KafkaReader
from lambent_pollers.kafka_url import KafkaUrl, parse_kafka_url

_NO_SUCH_TOPIC: Final = 3


class KafkaStream:
    """The topics that a URL names. Everything may raise StoreUnavailable, if no broker answers in time."""

    capabilities = frozenset({"AT_TIMESTAMP", "shards"})
    retention_seconds = float("inf")  # the brokers' business: what they still have is not too old

    def __init__(self, url: KafkaUrl) -> None:
        self.url = url
        self.arn = str(url)
        self.weights = kafka.weights(url.options["records"] == "json", url.servers)
        self._partitions: dict[str, TopicPartition] = {}
        self._admin: AIOKafkaAdminClient | None = None
        self._asking: AIOKafkaConsumer | None = None
        self._opening = asyncio.Lock()
        self._producer: KafkaProducer | None = None
        self._readers: set[KafkaReader] = set()

    async def shards(self) -> Sequence[Shard]:
        """All partitions. Raises ResourceNotFound where one of the topics is not there."""
        async with self._asked():
            topics = await (await self._opened()).describe_topics(list(self.url.topics))
        found: dict[str, TopicPartition] = {}
        for topic in topics:
            if topic["error_code"] == _NO_SUCH_TOPIC:
                raise ResourceNotFound(f"There is no topic {topic['topic']!r} at {self.url.servers}: create it there.")
            for number in sorted(partition["partition"] for partition in topic["partitions"]):
                found[kafka.shard_id(topic["topic"], number)] = TopicPartition(topic["topic"], number)
        self._partitions = found
        return [Shard(name) for name in found]

    async def position(self, shard: str, starting_position: str, timestamp: float | None) -> str:
        since = begins_at(starting_position, timestamp)
        partition = self.partition(shard)
        async with self._asked():
            consumer = await self._consumer()
            if since is not None:
                at = (await consumer.offsets_for_times({partition: max(0, round(since * 1e3))}))[partition]
                if at is not None:
                    return kafka.position(shard, at.offset - 1)
            ask = consumer.beginning_offsets if starting_position == "TRIM_HORIZON" else consumer.end_offsets
            return kafka.position(shard, (await ask([partition]))[partition] - 1)

    async def backlog(self, shard: str, position: str | None) -> Backlog:
        """What lies behind a position, by offsets, and as far as our readers know no records are there: Kafka does not
        count them."""
        partition = self.partition(shard)
        async with self._asked():
            consumer = await self._consumer()
            first = (await consumer.beginning_offsets([partition]))[partition]
            end = (await consumer.end_offsets([partition]))[partition]
        after = 0 if position is None else kafka.offset_after(position)
        return Backlog(max(0, end - max([first, after, *(reader.reached(shard, after) for reader in self._readers)])))

    async def committed(self, group: str, shard: str) -> tuple[int, str] | None:
        """The group's offset and its metadata, which aiokafka's consumer does not give."""
        partition = self.partition(shard)
        async with self._asked():
            found = await (await self._opened()).list_consumer_group_offsets(group, partitions=[partition])
        at = found.get(partition)
        return None if at is None or at.offset < 0 else (at.offset, at.metadata)

    def reader(self, group: str = "") -> KafkaReader:
        election = GroupMember(self, self.url.options["group"] or group) if group else None
        reader = KafkaReader(self, election, self._readers.discard)
        self._readers.add(reader)
        return reader

    def view(self, record: Record) -> Mapping[str, object]:
        return kafka.view(record)

    def to_event(self, shard: str, records: Sequence[Record]) -> dict[str, object]:
        return kafka.event(shard, records, self.url.servers, self.url.options["records"] == "json")

    async def put_many(self, puts: Sequence[Put]) -> Sequence[str]:
        """Store them durably; gives their positions. Raises StoreUnavailable if not all are known to be stored; then
        some may be."""
        return await self.producer().put_many(puts)

    def producer(self) -> KafkaProducer:
        if self._producer is None:
            self._producer = KafkaProducer(self.url)
        return self._producer

    def partition(self, shard: str) -> TopicPartition:
        """Raises ResourceNotFound."""
        found = self._partitions.get(shard)
        if found is None:
            topic, _, number = shard.rpartition("-")
            if topic not in self.url.topics or not number.isdecimal():
                raise ResourceNotFound(f"{self.url} has no partition {shard}")
            found = TopicPartition(topic, int(number))
        return found

    async def close(self) -> None:
        for reader in list(self._readers):
            await reader.close()
        for each in (self._producer, self._admin, self._asking):
            if each is not None:
                with suppress(KafkaError, OSError, TimeoutError):
                    async with asyncio.timeout(self.url.seconds["timeout"]):
                        await (each.close() if isinstance(each, KafkaProducer | AIOKafkaAdminClient) else each.stop())

    # --- asking ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.url.seconds["timeout"]):
                yield
        except TimeoutError:
            raise StoreUnavailable(f"{self.url}: no answer within {self.url.seconds['timeout']:g} seconds") from None
        except KafkaConnectionError as error:  # which does not tell why
            why = "no broker answers, or it refuses us: see to user, password and certificates"
            raise StoreUnavailable(f"{self.url}: {why}") from error
        except (KafkaError, OSError) as error:
            raise StoreUnavailable(f"{self.url}: {error!r}") from error

    async def _opened(self) -> AIOKafkaAdminClient:
        async with self._opening:
            if self._admin is None:
                self._admin = await begun(AIOKafkaAdminClient(**self.url.client()))
            return self._admin

    async def _consumer(self) -> AIOKafkaConsumer:
        """One that reads nothing, and may be asked for offsets."""
        async with self._opening:
            if self._asking is None:
                self._asking = await begun(AIOKafkaConsumer(**self.url.client(), enable_auto_commit=False))
            return self._asking


class _Factory:
    """`lambent.sources`: called with a URL and the engine's world. Raises InvalidParameterValue that says what to
    write."""

    kind: Final[Literal["stream"]] = "stream"

    def __call__(self, url: str, world: World) -> KafkaStream:
        parsed = parse_kafka_url(url)
        parsed.client()
        return KafkaStream(parsed)

    def check(self, url: str) -> None:
        """Whether the URL makes sense. Whether its password is there is seen where it is used."""
        parse_kafka_url(url, variable=lambda name: name)

    def destination(self, url: str) -> KafkaDestination:
        """As a destination of results."""
        return KafkaDestination(parse_kafka_url(url))


source: Final = _Factory()
