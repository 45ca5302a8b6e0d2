"""A consumer group without a broker: rebalances at any time, from a seed, over any stream.

Decides as Kafka's co-ordinator does with eager members: at each join and leave every member hears of it within a
heartbeat, gives back all its shards, is waited for while it has something in use, and gets its share anew; a commit of
what a member no longer has is refused. `Group.reader` makes an elected reader of any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from lambent.model import Progress, Read
from lambent.ports import StreamReader
from lambent.semantics import kafka


class Group:
    """`chance` is uniform in [0, 1): when within a heartbeat somebody hears of a rebalance. A member that has something
    in use is waited for `drain_seconds`."""

    def __init__(
        self,
        shards: Collection[str],
        chance: Callable[[], float],
        *,
        heartbeat_seconds: float = 3.0,
        drain_seconds: float = 24.0,
    ) -> None:
        self.shards = sorted(shards)
        self.rebalances = self.refused = 0
        self.commits: dict[str, Progress] = {}
        self._chance, self._heartbeat, self._drain = chance, heartbeat_seconds, drain_seconds
        self._members: list[Member] = []
        self._stale = False
        self._rebalancing: asyncio.Task[None] | None = None

    def reader(self, reader: StreamReader) -> ElectedReader:
        """The same reader, as one that stands for election here."""
        return ElectedReader(reader, Member(self))

    def join(self, member: Member) -> None:
        self._members.append(member)
        self.rebalance()

    def leave(self, member: Member) -> None:
        if member in self._members:
            self._members.remove(member)
            self.rebalance()

    def rebalance(self) -> None:
        """Begin one, or another after the one that is under way."""
        self._stale = True
        if self._rebalancing is None or self._rebalancing.done():
            self._rebalancing = asyncio.get_running_loop().create_task(self._rebalance(), name="group: rebalance")

    def commit(self, member: Member, shard: str, progress: Progress) -> None:
        if shard in member.held:
            self.commits[shard] = replace(progress, window=None, start=progress.position)
        else:
            self.refused += 1

    async def _rebalance(self) -> None:
        while self._stale:
            self._stale = False
            self.rebalances += 1
            if waiting := [self._given_back(member) for member in self._members]:
                await asyncio.gather(*waiting)
            if self._stale:
                continue
            for number, member in enumerate(self._members):
                member.assign(self.shards[number :: len(self._members)])

    async def _given_back(self, member: Member) -> None:
        await asyncio.sleep(self._heartbeat * self._chance())
        await member.give_back(self._drain)


class Member:
    """An `Election`. `held`: what it may commit."""

    def __init__(self, group: Group) -> None:
        self.held: frozenset[str] = frozenset()
        self._group = group
        self._assigned: frozenset[str] = frozenset()
        self._in_use: set[str] = set()
        self._none_in_use = asyncio.Event()
        self._none_in_use.set()
        self._changed: Callable[[], None] = lambda: None

    def listen(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._group.join(self)

    def assigned(self) -> Collection[str]:
        return self._assigned

    async def resume(self, shard: str, stored: Progress | None, seek: int) -> Progress | None:
        self._in_use.add(shard)
        self._none_in_use.clear()
        return kafka.further(shard, stored, self._group.commits.get(shard), seek)

    def commit(self, shard: str, progress: Progress) -> None:
        self._group.commit(self, shard, progress)

    def released(self, shard: str) -> None:
        """Nothing of it is in flight any more."""
        self._in_use.discard(shard)
        if not self._in_use:
            self._none_in_use.set()

    def leave(self) -> None:
        self._none_in_use.set()
        self._group.leave(self)

    async def give_back(self, seconds: float) -> None:
        self._assigned = frozenset()
        self._changed()
        try:
            async with asyncio.timeout(seconds):
                await self._none_in_use.wait()
        except TimeoutError:
            pass  # the lease holds it
        self.held = frozenset()

    def assign(self, shards: Sequence[str]) -> None:
        self.held = self._assigned = frozenset(shards)
        self._changed()


class ElectedReader:
    """A `StreamReader` that stands for election."""

    def __init__(self, reader: StreamReader, election: Member) -> None:
        self.election = election
        self._reader = reader
        self.want, self.passed = reader.want, reader.passed

    def drop(self, shard: str) -> None:
        self._reader.drop(shard)
        self.election.released(shard)

    async def ready(self) -> Sequence[Read]:
        return await self._reader.ready()

    async def close(self) -> None:
        self.election.leave()
        await self._reader.close()
