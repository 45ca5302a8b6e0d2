"""Members of simulated consumer groups: the very `GroupMember` of production, over a client that asks a `Group` in
virtual time instead of a broker.

    Simulation(seed, member=Member)
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaConnectionError

from lambent.errors import StoreUnavailable
from lambent.model import Piece, Progress
from lambent.testing.groups import Group, GroupAway, Membership, NotMember
from lambent_pollers.kafka_group import GroupMember
from lambent_pollers.kafka_url import parse_kafka_url


class Member(GroupMember):
    """Stands for a reader of a built-in stream. Positions there are numbers of full width, which `semantics.kafka`
    reads as offsets; what it makes of a commit is given their looks again."""

    def __init__(self, group: Group, name: str) -> None:
        super().__init__(_Topic(group), name)
        self._co_ordinator = group

    def client(self, **options: Any) -> Any:
        return _Client(self._co_ordinator, options["heartbeat_interval_ms"] / 1e3)

    async def resume(self, shard: str, stored: Progress | None, seek: int) -> Progress | None:
        found = await super().resume(shard, stored, seek)
        return found if found is None or found is stored else _as_builtin(found)


class _Topic:
    """What a member needs of its stream."""

    def __init__(self, group: Group) -> None:
        timing = group.timing
        seconds = f"session_timeout={timing.session_seconds}&rebalance_timeout={timing.rebalance_seconds}"
        self.url = parse_kafka_url(f"kafka://simulated/stream?{seconds}")
        self._group = group

    def partition(self, shard: str) -> TopicPartition:
        topic, _, digits = shard.rpartition("-")
        return TopicPartition(topic, digits)  # so `shard_id` gives the shard's name again

    async def committed(self, group: str, shard: str) -> tuple[int, str] | None:
        await self._group.travel()
        try:
            return self._group.committed(shard)
        except GroupAway as error:
            raise StoreUnavailable("the co-ordinator is away (simulated)") from error


class _Client:
    """As much of an `AIOKafkaConsumer` as a member uses."""

    def __init__(self, group: Group, heartbeat_seconds: float) -> None:
        self._group = group
        self._membership = Membership(group, heartbeat_seconds)
        self._belonging: asyncio.Task[None] | None = None

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        self._listener = listener

    async def start(self) -> None:
        await self._group.travel()
        self._belonging = asyncio.get_running_loop().create_task(
            self._membership.run(self._revoked, self._assigned), name="a simulated client of a group"
        )

    async def getmany(self, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Any]]:
        assert self._belonging is not None
        await asyncio.wait([self._belonging])
        raise KafkaConnectionError(repr(self._belonging.exception()))

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(_partitions(self._membership.share))

    def pause(self, *partitions: TopicPartition) -> None: ...

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        await self._group.travel()
        try:
            self._group.commit(self._membership, {f"{topic}-{digits}": at for (topic, digits), at in offsets.items()})
        except NotMember as error:
            raise CommitFailedError from error
        except GroupAway as error:
            raise KafkaConnectionError from error

    async def stop(self) -> None:
        if self._belonging is not None:  # else it was stopped while it started
            self._belonging.cancel()
            await asyncio.wait([self._belonging])

    async def _revoked(self, share: Sequence[str]) -> None:
        await self._listener.on_partitions_revoked(_partitions(share))

    async def _assigned(self, share: Sequence[str]) -> None:
        await self._listener.on_partitions_assigned(_partitions(share))


def _partitions(share: Collection[str]) -> list[TopicPartition]:
    return [TopicPartition(*shard.rsplit("-", 1)) for shard in share]


def _as_builtin(progress: Progress) -> Progress:
    pieces = tuple(Piece(_position(each.first), _position(each.last), each.attempts) for each in progress.pieces)
    return replace(progress, position=_position(progress.position), pieces=pieces, start=_position(progress.start))


def _position(text: str) -> str:
    return text.rpartition("@")[2]
