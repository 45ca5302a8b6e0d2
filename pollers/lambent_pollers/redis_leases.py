"""`Leases` on Redis: who reads which shard, for any number of engines.

Decides how leases, fates and grants are written, and that a grant is decided anew when another engine's came between.
Who holds a lease is decided in one step by `redis_leases.lua`, how a limit is divided by `semantics/sharing.py`, who
should take which lease by `polling/leases.py`. All of it has one slot of a cluster.

A lease that expired is free, and its owner must take it anew; until somebody does, its progress can still be stored, so
that finished work isn't done twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from lambent.model import Checkpoint, Fate, Lease, Settled, ShardFact
from lambent.ports import Holdings
from lambent.semantics.concurrency import Demand
from lambent.semantics.progress import progress_of, progress_text
from lambent.semantics.sharing import Block, grant
from lambent_pollers.redis_calls import Calls, Scripts
from lambent_pollers.redis_connection import RedisServer, Word

_SCRIPTS: Final = Scripts("redis_leases.lua")
_RANGES_AT_ONCE: Final = 1000
_PERMITS: Final = "permits"


class RedisLeases:
    """What one engine, or client, has of them."""

    def __init__(self, server: RedisServer, owner: str) -> None:
        self._server = server
        self._owner = owner
        self._calls = Calls(server, _SCRIPTS, "leases")
        self._groups: set[str] = set()
        self._limits: set[str] = set()

    async def heartbeat(self, group: str, names: Collection[str], valid_for_seconds: float) -> Holdings:
        self._groups.add(group)
        keys = (self._members(group), self._held(group))
        words: list[Word] = [self._owner, _us(valid_for_seconds), *names]
        members, found = await self._calls.run("heartbeat", keys, *words, adds=True)
        return Holdings(members, {lease.name: lease for lease in _leases(group, found)}, valid_for_seconds)

    async def take_many(self, leases: Sequence[Lease], valid_for_seconds: float) -> Sequence[Lease]:
        if not leases:
            return []
        self._groups.update(lease.group for lease in leases)
        keys = tuple(self._held(lease.group) for lease in leases)
        words = [word for lease in leases for word in (lease.name, lease.counter)]
        found = await self._calls.run("take", keys, self._owner, _us(valid_for_seconds), *words, adds=True)
        return [
            Lease(leases[number - 1].group, name.decode(), owner.decode(), int(counter), _progress(progress))
            for name, owner, counter, progress, number in _grouped(found)
        ]

    async def release_many(self, leases: Sequence[Lease]) -> None:
        if ours := [lease for lease in leases if lease.owner == self._owner]:
            keys = tuple(self._held(lease.group) for lease in ours)
            words = [word for lease in ours for word in (lease.name, lease.counter)]
            await self._calls.run("release", keys, self._owner, *words)

    async def checkpoint_many(self, checkpoints: Sequence[tuple[Lease, Checkpoint]]) -> Sequence[bool]:
        if not checkpoints:
            return []
        keys, words = list[str](), list[Word]()
        for lease, checkpoint in checkpoints:
            keys += (self._held(lease.group), self._counts(lease.group), self._ranges(lease.group, lease.name))
            counter = lease.counter if lease.owner == self._owner else 0  # nobody's
            progress = checkpoint.progress
            words += (lease.name, counter, self._calls.number(), progress.seek, progress_text(progress))
            words.append(_settled_text(checkpoint.settled))
        answers = await self._calls.run("checkpoint", tuple(keys), self._owner, *words, adds=True)
        return [answer == ord("1") for answer in answers]

    async def permits(self, demands: Mapping[str, Demand], valid_for_seconds: float) -> Mapping[str, int]:
        """Decided here, and stored if nobody else was granted anything meanwhile; otherwise decided anew."""
        granted: dict[str, int] = {}
        left = dict(demands)
        self._limits.update(demands)
        while left:

            def answer(name: str, blocks: dict[str, Block], now: float, left: Mapping[str, Demand] = left) -> None:
                granted[name] = grant(blocks, self._owner, left[name], now, now + valid_for_seconds)

            done = await self._exchange(list(left), answer)
            left = {name: demand for name, demand in left.items() if name not in done}
        return granted

    async def leave(self) -> None:
        """Its leases, memberships and permits are free at once."""
        for group in sorted(self._groups):
            await self._calls.run("leave", (self._members(group), self._held(group)), self._owner)
        left = sorted(self._limits)
        while left:
            done = await self._exchange(left, lambda name, blocks, now: blocks.pop(self._owner, None))
            left = [name for name in left if name not in done]

    # --- for `Facts` -------------------------------------------------------------------------------------------------

    async def shards(self, group: str) -> Sequence[ShardFact]:
        """As `Facts`."""
        found, fates = await self._calls.run("look", (self._held(group), self._counts(group)), self._owner)
        counts: dict[str, dict[tuple[Fate, str], int]] = {}
        for field, count in zip(fates[::2], fates[1::2], strict=True):
            name, fate, reason = field.decode().split("\0", 2)
            counts.setdefault(name, {})[fate, reason] = int(count)
        leases = sorted(_leases(group, found), key=lambda lease: lease.name)
        return [ShardFact(lease, counts.get(lease.name, {})) for lease in leases]

    async def settled(self, group: str, shard: str, position: str) -> Settled | None:
        """As `Facts`."""
        key, end = self._ranges(group, shard), -1
        while found := await self._server.call("LRANGE", key, end - _RANGES_AT_ONCE + 1, end):
            for each in map(_settled, reversed(found)):
                if each.first <= position <= each.last:
                    return each
            end -= _RANGES_AT_ONCE
        return None

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _exchange(
        self, names: Sequence[str], change: Callable[[str, dict[str, Block], float], object]
    ) -> Collection[str]:
        """Change what engines were granted of these limits; those of which nobody else changed anything meanwhile."""
        keys = (self._calls.key(_PERMITS),)
        now, stored = await self._calls.run("blocks", keys, self._owner, *names)
        words = list[Word]()
        for name, text in zip(names, stored, strict=True):
            blocks = _blocks(text)
            change(name, blocks, int(now) / 1e6)
            words += (name, text or "", _blocks_text(blocks))
        answers = await self._calls.run("grant", keys, self._owner, *words, adds=True)
        return {name for name, answer in zip(names, answers, strict=True) if answer == ord("1")}

    def _members(self, group: str) -> str:
        return self._calls.key("members", group)

    def _held(self, group: str) -> str:
        return self._calls.key("held", group)

    def _counts(self, group: str) -> str:
        return self._calls.key("counts", group)

    def _ranges(self, group: str, name: str) -> str:
        return self._calls.key("ranges", group, name)


def _leases(group: str, found: Sequence[Any]) -> Iterator[Lease]:
    for name, owner, counter, progress, free in _grouped(found):
        yield Lease(group, name.decode(), owner.decode(), int(counter), _progress(progress), bool(free))


def _progress(text: bytes) -> Any:
    return progress_of(text) if text else None


def _settled_text(settled: Sequence[Settled]) -> str:
    if not settled:
        return ""
    return json.dumps([(each.first, each.last, each.count, each.fate, each.reason) for each in settled])


def _settled(text: bytes) -> Settled:
    return Settled(*json.loads(text))


def _blocks(text: bytes | None) -> dict[str, Block]:
    stored = json.loads(text or "{}")
    return {
        owner: Block(Demand(limit, in_use, wanted), turn, expires_at, granted)
        for owner, (limit, in_use, wanted, turn, expires_at, granted) in stored.items()
    }


def _blocks_text(blocks: Mapping[str, Block]) -> str:
    stored = {
        owner: (b.demand.limit, b.demand.in_use, b.demand.wanted, b.turn, b.expires_at, b.granted)
        for owner, b in blocks.items()
    }
    return json.dumps(stored, separators=(",", ":"))


def _grouped(words: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (words[first : first + 5] for first in range(0, len(words), 5))


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
