"""One reader of many partitions: it fetches from those that are wanted, and answers when there is something.

Decides what is worth an answer, and what follows when the records to be read next are not there. It belongs to no
consumer group, so that no rebalance disturbs what is being read: who reads is `kafka_group.py`'s and the lease's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from lambent.errors import StoreUnavailable
from lambent.model import Read
from lambent.semantics import kafka
from lambent_pollers.kafka_client import begun
from lambent_pollers.kafka_group import GroupMember, Stream

FETCH_SECONDS: Final = 60.0  # how long one wait at the client lasts
TIP_SECONDS: Final = 1.0  # the same, as long as somebody is not told yet that there is nothing
PARTITION_BYTES: Final = 1024 * 1024  # fetched of one partition at once; a larger record comes alone


class _Partition:
    """What is known of one partition. `asked` is the offset that was wanted, `at` where the client goes on."""

    __slots__ = ("asked", "at", "end", "lost", "maximum_bytes", "maximum_records", "records", "said", "tp", "wanted")

    def __init__(self, tp: TopicPartition, offset: int) -> None:
        self.tp = tp
        self.asked = self.at = offset
        self.records: list[ConsumerRecord[Any, Any]] = []
        self.wanted = self.said = False
        self.maximum_records = self.maximum_bytes = self.lost = self.end = 0

    def reached(self, offset: int) -> int:
        """How far is it to who finished everything before this offset? The marks of transactions, which the client
        passes in silence, count with the records before them."""
        return self.at if offset >= self.asked and not self.records else offset


class KafkaReader:
    """A `StreamReader`. What was fetched stays until it is answered: a cancelled wait loses nothing."""

    def __init__(self, stream: Stream, election: GroupMember | None, closed: Callable[[KafkaReader], None]) -> None:
        self.election = election
        self._stream = stream
        self._closed = closed
        self._partitions: dict[str, _Partition] = {}
        self._by_tp: dict[TopicPartition, _Partition] = {}
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._to_seek: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None

    def want(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> None:
        offset = kafka.offset_after(position)
        found = self._partitions.get(shard)
        if found is None or found.asked != offset:
            if found is None:
                found = _Partition(self._stream.partition(shard), offset)
                self._partitions[shard] = self._by_tp[found.tp] = found
            found.asked = found.at = offset
            found.records, found.lost, found.said = [], 0, False
            self._to_seek[shard] = None
        found.wanted, found.maximum_records, found.maximum_bytes = True, maximum_records, maximum_bytes
        self._changed.set()

    def drop(self, shard: str) -> None:
        found = self._partitions.pop(shard, None)
        if found is not None:
            del self._by_tp[found.tp]
        self._to_seek.pop(shard, None)
        if self.election is not None:
            self.election.released(shard)
        self._changed.set()

    def passed(self, shard: str, position: str, counter: int) -> None:
        """Kafka forgets by age and size alone."""

    async def ready(self) -> Sequence[Read]:
        while True:
            self._changed.clear()
            wanted = {shard: each for shard, each in self._partitions.items() if each.wanted}
            if reads := [self._answer(shard, each) for shard, each in wanted.items() if each.records]:
                return reads
            if not wanted:
                await self._changed.wait()
                continue
            consumer = await self._opened()
            self._place(consumer)
            untold = {shard: each for shard, each in wanted.items() if not each.said}
            if untold and (at_tip := await self._tips(consumer, untold)):
                return at_tip
            await self._fetch(consumer, [each.tp for each in wanted.values()], TIP_SECONDS if untold else FETCH_SECONDS)

    def lags(self, positions: Mapping[str, str]) -> Mapping[str, int]:
        """How many offsets each shard has behind these positions, as far as the last answers of the brokers tell."""
        return {
            shard: max(0, end - each.reached(kafka.offset_after(position)))
            for shard, position in positions.items()
            if (each := self._partitions.get(shard)) is not None and (end := self._end(each))
        }

    def reached(self, shard: str, offset: int) -> int:
        """Before which offset nothing is to be read any more, for who finished everything before this one."""
        found = self._partitions.get(shard)
        return offset if found is None else found.reached(offset)

    async def close(self) -> None:
        self._closed(self)
        try:
            if self.election is not None:
                await self.election.close()
        finally:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                with suppress(KafkaError, OSError):
                    await consumer.stop()

    # --- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, shard: str, of: _Partition) -> Read:
        count, size = 0, 0
        for each in of.records[: of.maximum_records]:
            size += len(each.value or b"") + len(each.key or b"")
            if size > of.maximum_bytes and count:
                break
            count += 1
        taken = of.records[:count]
        del of.records[:count]
        of.asked, of.wanted = taken[-1].offset + 1, False
        of.said = not of.records and of.at >= self._end(of)
        lost, of.lost = of.lost, 0
        return Read(shard, list(map(partial(kafka.record, shard), taken)), of.said, lost=lost)

    def _end(self, of: _Partition) -> int:
        """Before which offset all its records are, by the brokers' last word; the client forgets it when others are
        assigned."""
        if self._consumer is not None and of.tp in self._assigned:
            of.end = max(of.end, self._consumer.highwater(of.tp) or 0)
        return of.end

    async def _tips(self, consumer: AIOKafkaConsumer, untold: Mapping[str, _Partition]) -> Sequence[Read]:
        """Those at whose place nothing is yet."""
        with _mapped(self._stream):
            ends = await consumer.end_offsets([each.tp for each in untold.values()])
        reads = []
        for shard, each in untold.items():
            each.end = ends[each.tp]
            if self._partitions.get(shard) is not each or not each.wanted or each.records:
                continue
            each.at = max(each.at, await consumer.position(each.tp))  # behind the marks of transactions
            if each.at == each.end:
                each.said, each.wanted = True, False
                reads.append(Read(shard, [], True))
        return reads

    # --- fetching ----------------------------------------------------------------------------------------------------

    async def _opened(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            url = self._stream.url
            consumer = AIOKafkaConsumer(
                **url.client(),
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level=url.options["isolation"],
                max_partition_fetch_bytes=PARTITION_BYTES,
            )
            with _mapped(self._stream):
                await begun(consumer)
            self._consumer, self._assigned = consumer, frozenset()
        return self._consumer

    def _place(self, consumer: AIOKafkaConsumer) -> None:
        """Have the client read what is ours, from where it is wanted."""
        ours = frozenset(self._by_tp)
        if ours != self._assigned:
            consumer.assign(list(ours))
            self._assigned = ours
            self._to_seek = dict.fromkeys(self._partitions)
        for shard in self._to_seek:
            each = self._partitions[shard]
            consumer.seek(each.tp, each.at)
        self._to_seek = {}

    async def _fetch(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition], seconds: float) -> None:
        """Until something was fetched, or something else is wanted."""
        loop = asyncio.get_running_loop()
        fetching = loop.create_task(
            consumer.getmany(*partitions, timeout_ms=int(seconds * 1e3)), name=f"kafka: fetch from {self._stream.url}"
        )
        fetching.add_done_callback(self._fetched)  # also if we are cancelled
        woken = loop.create_task(self._changed.wait(), name=f"kafka: a request for {self._stream.url}")
        try:
            await asyncio.wait({fetching, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (fetching, woken):
                task.cancel()
            await asyncio.wait({fetching, woken})
        if fetching.cancelled():
            return
        error = fetching.exception()
        if isinstance(error, OffsetOutOfRangeError):
            await self._out_of_range(consumer, error.args[0])
        elif error is not None:
            with _mapped(self._stream):
                raise error

    def _fetched(self, fetching: asyncio.Task[Any]) -> None:
        if fetching.cancelled() or fetching.exception() is not None:
            return
        for tp, records in fetching.result().items():
            found = self._by_tp.get(tp)
            if found is not None and records and records[0].offset >= found.at:
                found.records += records
                found.at = records[-1].offset + 1
                self._end(found)

    async def _out_of_range(self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        """Go on where the URL says; what is missing in between is lost. Raises StoreUnavailable where somebody is to
        hear of it: nobody can count what is missing, or nothing goes on."""
        policy = self._stream.url.options["out_of_range"]
        with _mapped(self._stream):
            first, end = [await ask(list(offsets)) for ask in (consumer.beginning_offsets, consumer.end_offsets)]
        told = []
        for tp, offset in offsets.items():
            found = self._by_tp.get(tp)
            if found is None or found.at != offset or first[tp] <= offset <= end[tp]:
                continue
            what = f"{kafka.shard_id(*tp)} has the offsets {first[tp]} to {end[tp]}, and {offset} was to be read next"
            if policy == "stop":
                self._to_seek[kafka.shard_id(*tp)] = None
                told.append(f"{what}: seek the mapping to where it is to go on")
                continue
            found.at = end[tp] if policy == "latest" else first[tp]
            found.end = end[tp]
            found.lost += max(0, found.at - offset)
            found.said = False
            self._to_seek[kafka.shard_id(*tp)] = None
            if offset > end[tp]:
                told.append(f"{what}, as if the topic had been made anew: it goes on at {found.at}")
        if told:
            raise StoreUnavailable(f"{self._stream.url}: {'; '.join(told)}")


class _mapped:
    """What the client raises becomes StoreUnavailable."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KafkaError | OSError | TimeoutError):
            raise StoreUnavailable(f"{self._stream.url}: {error!r}") from error
