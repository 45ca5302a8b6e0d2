"""Who reads this shard? One engine at a time, by a lease in the store.

Decides which free leases this engine takes and which of its own it hands on, so that the engines of a mapping share its
shards evenly, and that a shard is read only after its parents are finished. Expiry, counters and the conditional write
are the store's; what happens in a shard is `stream.py`'s.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from lambent.errors import StoreUnavailable
from lambent.model import Lease, Progress, Shard
from lambent.ports import HEARTBEATS_PER_LEASE, Election, Holdings, Leases, StreamSource, World
from lambent.telemetry import Telemetry

SHARD_LISTING_SECONDS: Final = 10.0  # how often the source is asked for new shards when nothing else says so


@dataclass(frozen=True, slots=True)
class Share:
    """What to do with the leases that were seen."""

    take: Sequence[Lease]
    give: Sequence[str]


def share(
    holdings: Holdings, shards: Sequence[Shard], owner: str, seek: int, assigned: Collection[str] | None = None
) -> Share:
    """Which free leases to take and which of ours to give, so that each engine has its even share, or what an election
    assigned to it. Only shards whose parents are finished count, and finished ones count no more. `seek`: the mapping's
    seek generation."""
    leases = holdings.leases
    listed = {shard.id for shard in shards}

    def finished(name: str) -> bool:
        progress = leases[name].progress if name in leases else None
        return progress is not None and progress.ended and progress.seek >= seek

    readable = [
        shard.id
        for shard in shards
        if not finished(shard.id) and all(finished(parent) for parent in shard.parents if parent in listed)
    ]
    held = [leases[name] for name in readable if name in leases and not leases[name].free]
    free = [leases[name] for name in readable if name in leases and leases[name].free]
    ours = [lease.name for lease in held if lease.owner == owner]
    if assigned is not None:
        tried = [lease for lease in free if lease.name in assigned]
        return Share(tried, [name for name in ours if name not in assigned])
    members = max(1, holdings.members)
    least, most = len(readable) // members, -(-len(readable) // members)
    by_owner = Counter(lease.owner for lease in held)
    by_owner.pop(owner, None)
    others = [*by_owner.values(), *[0] * (members - 1 - len(by_owner))]
    for_others = sum(max(0, least - count) for count in others)  # or we would take back what we gave them
    take = min(most - len(ours), max(least - len(ours), len(free) - for_others))
    keep = least if for_others and least and not free else most
    return Share(free[: max(0, take)], ours[keep:])


def _held(lease: Lease, owner: str) -> bool:
    return lease.owner == owner and not lease.free


class Ownership:
    """Keeps this engine's share of a mapping's shards, or those that the source's election assigned to it: `gained` is
    called with each lease got (and whether the shard is read from its first record on, whatever the mapping says: a
    parent was read before it, or it was not there in the beginning; False: it came to nothing), `lost` with the name of
    one that is gone (nothing may be written any more), `wanted_back` with one that should be drained and released."""

    def __init__(
        self,
        leases: Leases,
        source: StreamSource,
        group: str,
        *,
        seek: int,
        valid_for_seconds: float,
        gained: Callable[[Lease, Shard, bool], Awaitable[bool]],
        lost: Callable[[str], None],
        wanted_back: Callable[[str], None],
        telemetry: Telemetry,
        world: World,
        election: Election | None = None,
    ) -> None:
        self._leases, self._source, self._group, self._seek = leases, source, group, seek
        self._valid_for = valid_for_seconds
        self._gained, self._lost, self._wanted_back = gained, lost, wanted_back
        self._telemetry, self._world, self._election = telemetry, world, election
        self._from_the_start: frozenset[str] | None = None  # shards that there were when we began
        self._held: set[str] = set()
        self.trouble = ""  # why shards can't be shared out at the moment
        self.leaving = False  # take nothing more; what is held is renewed until it is released
        self._valid_until = 0.0
        self._look_now = asyncio.Event()

    @property
    def valid(self) -> bool:
        """May anything be started in the name of these leases? Judged by our own clock, before asking the store."""
        return self._world.clock.monotonic() < self._valid_until

    def look_now(self) -> None:
        """A shard ended or was released: do not wait for the next heartbeat."""
        self._look_now.set()

    def released(self, name: str) -> None:
        """The shard was handed back and is no longer ours."""
        self._held.discard(name)

    async def run(self) -> None:
        """Heartbeat until cancelled."""
        clock = self._world.clock
        if self._election is not None:
            self._election.listen(self.look_now)
        shards: Sequence[Shard] = ()
        listed_at = -inf
        while True:
            before = clock.monotonic()
            if self._look_now.is_set():
                self._look_now.clear()  # also if what follows fails: the next try has time until the next heartbeat
                listed_at = -inf
            try:
                if before - listed_at >= SHARD_LISTING_SECONDS:
                    shards, listed_at = await self._listed(shards), before
                await self._beat(shards, before)
                self.trouble = ""
            except StoreUnavailable as error:
                self.trouble = f"Its shards cannot be shared out: {error.message}"
                self._telemetry.log("warning", "lease heartbeat failed", mapping=self._group, error=error.message)
            try:
                async with asyncio.timeout(self._valid_for / HEARTBEATS_PER_LEASE):
                    await self._look_now.wait()
            except TimeoutError:
                pass

    async def _listed(self, known: Sequence[Shard]) -> Sequence[Shard]:
        """What the source has now; while it is away, what is known: leases are renewed without it."""
        try:
            return await self._source.shards()
        except StoreUnavailable as error:
            if not known:
                raise
            self._telemetry.log("warning", "shards can't be listed", mapping=self._group, error=error.message)
            return known

    async def _beat(self, shards: Sequence[Shard], before: float) -> None:
        holdings = await self._leases.heartbeat(self._group, [shard.id for shard in shards], self._valid_for)
        owner = self._world.owner
        if not self.valid:
            self._lose_all()  # they may have had another owner in between
        self._valid_until = before + holdings.valid_for_seconds
        for name in sorted(self._held):
            if name not in holdings.leases or not _held(holdings.leases[name], owner):
                self._lose(name)
        by_id = {shard.id: shard for shard in shards}
        if self._from_the_start is None:
            self._from_the_start = frozenset(by_id)
        assigned = None if self._election is None else self._election.assigned()
        due = share(holdings, shards, owner, self._seek, assigned)
        for name in due.give:
            if name in self._held:
                self._wanted_back(name)
        stray = [
            lease for name, lease in sorted(holdings.leases.items()) if _held(lease, owner) and name not in self._held
        ]
        if stray:  # taken in a call whose answer was lost, or before we lost them: start over with a fresh counter
            await self._leases.release_many(stray)
        if due.take and not self.leaving:
            for lease in await self._leases.take_many(due.take, self._valid_for):
                parents = [holdings.leases[parent] for parent in by_id[lease.name].parents if parent in holdings.leases]
                new = lease.name not in self._from_the_start
                if await self._gained(lease, by_id[lease.name], new or any(parent.progress for parent in parents)):
                    self._held.add(lease.name)

    def _lose_all(self) -> None:
        for name in sorted(self._held):
            self._lose(name)

    def _lose(self, name: str) -> None:
        self._held.discard(name)
        self._telemetry.log("warning", "lease lost", mapping=self._group, shard=name)
        self._lost(name)


def resume_from(lease: Lease, seek: int) -> Progress | None:
    """The stored progress, if it belongs to the mapping's present seek generation."""
    progress = lease.progress
    return progress if progress is not None and progress.seek >= seek else None
