"""The built-in stream in memory: shards by key hash, sequence numbers, retention, resharding, and its reader.

Decides which shard a key belongs to, what a position means, and what was lost to retention. Leaves batches, order of
processing and checkpoints to `semantics/stream.py`. A read is a slice of a list and costs no more a record than that;
an idle shard, and a reader that waits for it, cost nothing: only a put to that very shard wakes it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from lambent.errors import InvalidParameterValue, ResourceNotFound
from lambent.model import Backlog, Put, Read, Record, Shard, Stream
from lambent.ports import Clock, StreamReader, World
from lambent.semantics.builtin import (
    StreamView,
    begins_at,
    hash_key,
    hash_ranges,
    middle_of,
    place_in,
    position_of,
    prefix_of,
    shard_id,
    size_of,
)
from lambent.semantics.sending import check_put, check_room
from lambent.stores.memory_lines import Bell

TRIM_AT_LEAST: Final = 1024  # dropped records that are not worth moving the others for


@dataclass(slots=True, eq=False)
class _Shard:
    """`records[gone:]` can be read; the first of `records` has the place `base + 1`."""

    shard: Shard
    first_hash: int
    end_hash: int
    prefix: str
    records: list[Record] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("Q"))  # bytes of the shard up to and with each record
    base: int = 0
    gone: int = 0
    closed: bool = False
    waiting: dict[MemoryReader, None] = field(default_factory=dict)
    passed: dict[str, tuple[int, int]] = field(default_factory=dict)  # by group: a lease's counter, and a place

    @property
    def last(self) -> int:
        return self.base + len(self.records)

    @property
    def held(self) -> int:
        """Bytes of what can be read."""
        return self.sizes[-1] - self._bytes_before(self.gone) if self.gone < len(self.records) else 0

    def position(self, place: int) -> str:
        return position_of(self.prefix, place)

    def place(self, position: str) -> int:
        return place_in(self.shard.id, self.prefix, position)

    def trim(self, before: float, keep_unread: bool) -> None:
        if self.gone == len(self.records) or self.records[self.gone].arrived_at >= before:
            return
        passed = (place for _, place in self.passed.values()) if keep_unread else ()
        last = min(passed, default=self.last) - self.base
        while self.gone < min(last, len(self.records)) and self.records[self.gone].arrived_at < before:
            self.gone += 1
        if self.gone > TRIM_AT_LEAST and 2 * self.gone > len(self.records):
            del self.records[: self.gone], self.sizes[: self.gone]
            self.base += self.gone
            self.gone = 0

    def read(self, position: str, maximum_records: int, maximum_bytes: int) -> Read:
        asked = self.place(position) - self.base
        start = max(asked, self.gone)
        stop = min(start + maximum_records, len(self.records))
        if stop > start:
            fits = bisect_right(self.sizes, self._bytes_before(start) + maximum_bytes, start, stop)
            stop = max(fits, start + 1)  # one is always given, or a large one would block the shard
        tip = stop >= len(self.records)
        ended = tip and self.closed
        # a loss is told with the records after it: without any, the position would stay before it, to be told again
        lost = start - asked if stop > start or ended else 0
        return Read(self.shard.id, self.records[start:stop], tip, ended, lost)

    def _bytes_before(self, index: int) -> int:
        """Of the shard, before that one of its records."""
        return self.sizes[index - 1] if index else self.sizes[0] - size_of(self.records[0])

    def wake(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for reader in waiting:
            reader.answerable(self.shard.id)


class StreamState:
    """One built-in stream, shared by the store's connections."""

    def __init__(self, config: Stream, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.shards: dict[str, _Shard] = {}
        self.over: set[str] = set()  # mappings that were deleted
        self._open: list[_Shard] = []
        self._starts: list[int] = []
        for first, end in hash_ranges(config.shards):
            self._add(first, end, ())

    def put(self, puts: Sequence[Put]) -> list[str]:
        for put in puts:
            check_put(put)
        hashes = [hash_key(put.key) for put in puts] if len(self._open) > 1 else [0] * len(puts)
        now = self.clock.now()
        if self.config.maximum_bytes is not None:
            for shard in self.shards.values():
                self._trim(shard)
            check_room(self.config, sum(shard.held for shard in self.shards.values()), sum(map(size_of, puts)))
        positions = []
        touched: dict[str, _Shard] = {}
        for put, hashed in zip(puts, hashes, strict=True):
            shard = self._open[bisect_right(self._starts, hashed) - 1]
            record = Record(shard.position(shard.last + 1), put.key, put.data, now, put.hops)
            shard.sizes.append((shard.sizes[-1] if shard.sizes else 0) + size_of(record))
            shard.records.append(record)
            touched[shard.shard.id] = shard
            positions.append(record.position)
        for shard in touched.values():
            self._trim(shard)
            shard.wake()
        return positions

    def get(self, shard: str) -> _Shard:
        """The shard, without what its retention has ended."""
        found = self.shards.get(shard)
        if found is None:
            raise ResourceNotFound(f"stream {self.config.name} has no shard {shard}")
        if found.records:
            self._trim(found)
        return found

    def mapping_is(self, name: str, there: bool) -> None:
        """It was made, or deleted: then nothing is kept for it."""
        if there:
            self.over.discard(name)
            return
        self.over.add(name)
        for shard in self.shards.values():
            shard.passed.pop(name, None)

    def split(self, shard: str) -> Sequence[Shard]:
        parent = self._parent(shard)
        middle = middle_of(shard, parent.first_hash, parent.end_hash)
        self._close(parent)
        edges = ((parent.first_hash, middle), (middle, parent.end_hash))
        return [self._add(first, end, (shard,)).shard for first, end in edges]

    def merge(self, one: str, other: str) -> Shard:
        low, high = sorted((self._parent(one), self._parent(other)), key=attrgetter("first_hash"))
        if low.end_hash != high.first_hash:
            raise InvalidParameterValue(f"{one} and {other} are not neighbours: only these can be merged")
        self._close(low)
        self._close(high)
        return self._add(low.first_hash, high.end_hash, (one, other)).shard

    def _trim(self, shard: _Shard) -> None:
        shard.trim(self.clock.now() - self.config.retention_seconds, self.config.keep_unread)

    def _parent(self, shard: str) -> _Shard:
        found = self.get(shard)
        if found.closed:
            raise InvalidParameterValue(f"{shard} is closed already")
        return found

    def _add(self, first: int, end: int, parents: tuple[str, ...]) -> _Shard:
        number = len(self.shards)
        shard = Shard(shard_id(number), parents)
        added = _Shard(shard, first, end, prefix_of(number))
        self.shards[shard.id] = added
        self._arrange([*self._open, added])
        return added

    def _close(self, shard: _Shard) -> None:
        shard.closed = True
        self._arrange([other for other in self._open if other is not shard])
        shard.wake()

    def _arrange(self, shards: list[_Shard]) -> None:
        self._open = sorted(shards, key=attrgetter("first_hash"))
        self._starts = [shard.first_hash for shard in self._open]


class MemoryReader:
    """One reader of many shards. What can be answered is in a set; `ready` waits only while that is empty."""

    def __init__(self, state: StreamState, group: str) -> None:
        self._state = state
        self._group = group
        self._bell = Bell()
        self._wanted: dict[str, tuple[str, int, int]] = {}
        self._answerable: dict[str, None] = {}
        self._said: set[str] = set()  # shards of which "caught up" was the last word

    def want(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> None:
        found = self._state.get(shard)
        place = found.place(position)
        self._wanted[shard] = (position, maximum_records, maximum_bytes)
        if max(place, found.base + found.gone) < found.last or found.closed or shard not in self._said:
            self.answerable(shard)
        else:
            self._answerable.pop(shard, None)
            found.waiting[self] = None

    def drop(self, shard: str) -> None:
        self._wanted.pop(shard, None)
        self._answerable.pop(shard, None)
        self._said.discard(shard)
        if (found := self._state.shards.get(shard)) is not None:
            found.waiting.pop(self, None)

    async def ready(self) -> Sequence[Read]:
        while not self._answerable:
            await self._bell.wait(float("inf"))
        shards, self._answerable = self._answerable, {}
        return [self._answer(shard) for shard in shards]

    def passed(self, shard: str, position: str, counter: int) -> None:
        found, group = self._state.get(shard), self._group
        if group and group not in self._state.over and counter >= found.passed.get(group, (0, 0))[0]:
            found.passed[group] = counter, found.place(position)

    async def close(self) -> None:
        for shard in list(self._wanted):
            self.drop(shard)

    def answerable(self, shard: str) -> None:
        """There is an answer now to what was asked of this shard."""
        self._answerable[shard] = None
        self._bell.ring()

    def _answer(self, shard: str) -> Read:
        read = self._state.get(shard).read(*self._wanted.pop(shard))
        (self._said.add if read.caught_up else self._said.discard)(shard)
        return read


class MemoryStream(StreamView):
    """The built-in stream as one connection sees it."""

    def __init__(self, state: StreamState, world: World) -> None:
        super().__init__(state.config.name, world.region, world.account_id)
        self._state = state

    @property
    def retention_seconds(self) -> float:
        return self._state.config.retention_seconds

    async def put_many(self, puts: Sequence[Put]) -> Sequence[str]:
        """Raises InvalidParameterValue for what PutRecord would refuse; then none is stored."""
        return self._state.put(puts)

    async def shards(self) -> Sequence[Shard]:
        """All, parents before their children; a closed one stays, so that whoever has not finished it can."""
        return [found.shard for found in self._state.shards.values()]

    async def position(self, shard: str, starting_position: str, timestamp: float | None) -> str:
        found, since = self._state.get(shard), begins_at(starting_position, timestamp)
        if starting_position == "LATEST":
            return found.position(found.last)
        start = found.gone
        if since is not None:
            start = bisect_left(found.records, since, found.gone, key=attrgetter("arrived_at"))
        return found.position(found.base + start)

    def reader(self, group: str = "") -> StreamReader:
        return MemoryReader(self._state, group)

    async def split(self, shard: str) -> Sequence[Shard]:
        """Close it, and open two children, each with half of its hash keys (SplitShard)."""
        return self._state.split(shard)

    async def merge(self, one: str, other: str) -> Shard:
        """Close both, which must be neighbours, and open one child (MergeShards)."""
        return self._state.merge(one, other)

    async def backlog(self, shard: str, position: str | None) -> Backlog:
        found = self._state.get(shard)
        start = max(found.gone, 0 if position is None else found.place(position) - found.base)
        oldest_at = found.records[start].arrived_at if start < len(found.records) else None
        return Backlog(max(len(found.records) - start, 0), oldest_at)

    async def find(self, position: str) -> tuple[str, Record] | None:
        for name, shard in self._state.shards.items():
            if position.startswith(shard.prefix):
                index = self._state.get(name).place(position) - shard.base - 1
                return (name, shard.records[index]) if shard.gone <= index < len(shard.records) else None
        return None
