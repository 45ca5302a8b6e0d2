"""A member of a consumer group: who tries to read which partition, and the offsets that the group shows.

Decides when partitions that are taken back may go (when nothing of them is in flight, or time is up), what is
committed, and what a commit that was refused means (nothing: the store has it). Reads no records. Who may read a
partition is the lease's in the engine's store, and how far it is, the store's; see `kafka.py`.

aiokafka assigns eagerly: at each rebalance every member gives back all partitions, and gets its share anew. Its clock
of polls stands still here: this consumer always polls, for nothing, so a handler may take as long as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from lambent.errors import StoreUnavailable
from lambent.model import Progress
from lambent.semantics import kafka
from lambent_pollers.kafka_client import begin
from lambent_pollers.kafka_url import KafkaUrl

COMMIT_SECONDS: Final = 0.1  # how long a commit waits for company
DRAIN_SHARE: Final = 0.8  # of the rebalance time-out
METADATA_SECONDS: Final = 3.0  # how old may be what is known of partitions: new ones are given out then
AGAIN_SECONDS: Final = 1.0  # after a failure
LAST_WORD_SECONDS: Final = 2.0
_NEVER_MS: Final = 2**31 - 1


class Stream(Protocol):
    """What a member and a reader need of the stream that they are of."""

    url: KafkaUrl

    def partition(self, shard: str) -> TopicPartition: ...

    async def committed(self, group: str, shard: str) -> tuple[int, str] | None: ...


class GroupMember(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """An `Election`. `released` says that nothing of a shard is in flight any more."""

    def __init__(self, stream: Stream, group: str) -> None:
        self._stream = stream
        self.group = group
        self._changed: Callable[[], None] = lambda: None
        self._assigned: frozenset[str] = frozenset()
        self._in_use: set[str] = set()
        self._none_in_use = asyncio.Event()
        self._none_in_use.set()
        self._trouble = ""
        self._consumer: AIOKafkaConsumer | None = None
        self._to_commit: dict[str, Progress] = {}
        self._something_to_commit = asyncio.Event()
        self._committing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    # --- the election ------------------------------------------------------------------------------------------------

    def listen(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [
                loop.create_task(self._belong(), name=f"kafka: member of {self.group}"),
                loop.create_task(self._commit_all(), name=f"kafka: commits of {self.group}"),
            ]

    def assigned(self) -> Collection[str]:
        if self._trouble:
            raise StoreUnavailable(self._trouble)
        return self._assigned

    async def resume(self, shard: str, stored: Progress | None, seek: int) -> Progress | None:
        found = await self._stream.committed(self.group, shard)
        self._in_use.add(shard)
        self._none_in_use.clear()
        return kafka.further(shard, stored, None if found is None else kafka.committed(shard, *found), seek)

    def commit(self, shard: str, progress: Progress) -> None:
        self._to_commit[shard] = progress
        self._something_to_commit.set()

    def released(self, shard: str) -> None:
        self._in_use.discard(shard)
        if not self._in_use:
            self._none_in_use.set()

    async def close(self) -> None:
        """Commit what there is, and leave the group, but wait for neither for long. Cancelled, it leaves all the same:
        what nobody reads any more must not stay assigned to us."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD_SECONDS):
                    await self._commit()
        finally:
            self._in_use.clear()
            self._none_in_use.set()  # a rebalance must not wait for what nobody will release
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    # --- rebalances --------------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._assigned = frozenset()
        self._changed()
        with suppress(TimeoutError):  # then the lease holds it, and its commits are refused
            async with asyncio.timeout(self._stream.url.seconds["rebalance_timeout"] * DRAIN_SHARE):
                await self._none_in_use.wait()
                await self._commit()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        if self._consumer is not None:
            self._consumer.pause(*assigned)  # it is not for reading
        self._assigned = frozenset(kafka.shard_id(*each) for each in assigned)
        self._changed()

    # --- belonging ---------------------------------------------------------------------------------------------------

    async def _belong(self) -> None:
        while True:
            try:
                await self._be_member()
            except (KafkaError, OSError) as error:
                self._trouble = f"{self._stream.url}: not in the group {self.group}: {error!r}"
                self._assigned = frozenset()
                self._changed()
                await asyncio.sleep(AGAIN_SECONDS)

    def client(self, **options: Any) -> AIOKafkaConsumer:
        """What belongs to the group; simulated days have another."""
        return AIOKafkaConsumer(**options)

    async def _be_member(self) -> None:
        url = self._stream.url
        session, rebalance = url.seconds["session_timeout"], url.seconds["rebalance_timeout"]
        # Who hears of a rebalance only at its next heartbeat has less time: too late, and it is thrown out for ever.
        self._consumer = consumer = self.client(
            **url.client(),
            group_id=self.group,
            enable_auto_commit=False,
            session_timeout_ms=int(session * 1e3),
            heartbeat_interval_ms=int(min(session / 4, rebalance * (1 - DRAIN_SHARE) / 2) * 1e3),
            rebalance_timeout_ms=int(rebalance * 1e3),
            max_poll_interval_ms=_NEVER_MS,
            metadata_max_age_ms=int(METADATA_SECONDS * 1e3),
        )
        consumer.subscribe(list(url.topics), listener=self)
        try:
            await begin(consumer)
            self._trouble = ""
            while True:
                await consumer.getmany(timeout_ms=60_000)  # of nothing: it raises what befell the membership
        finally:
            self._consumer = None
            with suppress(KafkaError, OSError):
                await consumer.stop()

    # --- commits -----------------------------------------------------------------------------------------------------

    async def _commit_all(self) -> None:
        while True:
            await self._something_to_commit.wait()
            await asyncio.sleep(COMMIT_SECONDS)
            await self._commit()

    async def _commit(self) -> None:
        """Until somebody answers. What the group refuses is not tried again: whoever has it now commits it."""
        async with self._committing:
            self._something_to_commit.clear()
            progress, self._to_commit = self._to_commit, {}
            consumer = self._consumer
            if consumer is None:
                return
            ours: dict[TopicPartition, Any] = {}
            held = consumer.assignment()
            for shard, each in progress.items():
                partition = self._stream.partition(shard)
                if partition in held:
                    ours[partition] = (kafka.offset_after(each.position), kafka.metadata(each))
            if not ours:
                return
            with suppress(CommitFailedError, IllegalStateError, KafkaError, OSError):
                await consumer.commit(ours)
