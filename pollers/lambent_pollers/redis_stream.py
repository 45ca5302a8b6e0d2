"""The stream on Redis: a mapping's source and a store's built-in stream, for any number of engines.

Decides in which shard a record goes, when the server is asked for records, and what is repeated when an answer was
lost. What a shard holds, what is gone, and how far each group is, is decided inside the server, each call in one step,
by `redis_stream.lua`; batches, order of processing and checkpoints are `semantics/stream.py`'s.

A shard is a Redis stream, and all of a stream have one slot. Nothing that is read is taken away: a record stays until
it is older than the retention and every consumer group has passed it. A mapping's group is bookkeeping, for that rule
and for who looks in with Redis's own tools; the progress that counts is the lease's.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil
from operator import attrgetter
from typing import Any, Final

from lambent.errors import InvalidParameterValue, ResourceNotFound
from lambent.model import Backlog, Put, Read, Record, Shard, Stream
from lambent.ports import StreamReader, World
from lambent.semantics.builtin import (
    StreamView,
    begins_at,
    hash_key,
    hash_ranges,
    middle_of,
    number_of,
    place_of,
    shard_id,
    size_of,
)
from lambent.semantics.sending import check_put, check_room
from lambent_pollers.redis_calls import Scripts
from lambent_pollers.redis_connection import RedisServer, Script, Word
from lambent_pollers.redis_gathering import Gathering
from lambent_pollers.redis_stream_entries import id_in, parts_of, position_at, positions_at, prefix_of, records_of
from lambent_pollers.redis_stream_reader import Passed, Request, RequestReader

_SCRIPTS: Final = Scripts("redis_stream.lua")
_DONE, _UNDECLARED, _CHANGED, _FULL = range(4)
_ANSWER_BYTES: Final = 4 * 1024 * 1024  # of records in one answer, so that it comes in time over a slow network, too
_STEP_SHARDS: Final = 1_000  # in one call
ELSEWHERE: Final = "@elsewhere"  # how groups end whose mappings are not in this store


class RedisStreams:
    """The streams of one server, as the connections of this process share them."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self._states: dict[str, _State] = {}
        self._names_key = server.keys("streams")

    def stream(self, config: Stream, world: World, adopt: bool = False) -> RedisStream:
        """The stream of that name, with this configuration from its next use on; an existing one keeps its shards.
        `adopt`: with the configuration that it has at the server, if somebody declared it before."""
        return RedisStream(self.state(config, adopt), world)

    async def names(self) -> Sequence[str]:
        """All streams that were ever declared here."""
        return sorted(name.decode() for name in await self.server.call("SMEMBERS", self._names_key))

    async def sweep(self, world: World, mappings: Collection[str] | None = None) -> None:
        """Remove what is gone, in streams that nobody uses too. `mappings`: the ids of all that there are in this
        store; nothing is kept any longer for one that was deleted."""
        for name in await self.names():
            await self.state(Stream(name=name), adopt=True).sweep(mappings)

    def state(self, config: Stream, adopt: bool) -> _State:
        """What this process remembers of a stream, see `stream`."""
        if config.name not in self._states:
            self._states[config.name] = _State(self, config, adopt)
        state = self._states[config.name]
        if not adopt and (state.adopt or state.config != config):
            state.config = config
            state.declared = state.adopt = False
        return state

    async def has_declared(self, name: str) -> None:
        await self.server.call("SADD", self._names_key, name)


@dataclass(frozen=True, slots=True)
class _Known:
    """A shard, with its hash keys from the first to before the end."""

    number: int
    shard: Shard
    first_hash: int
    end_hash: int
    closed: bool

    @property
    def prefix(self) -> str:
        return prefix_of(self.number)


class _Layout:
    """The shards of a stream as of one version, parents before their children."""

    def __init__(self, shards: Sequence[_Known], version: str = "") -> None:
        self.version = version
        self.shards = {known.shard.id: known for known in shards}
        self._open = sorted((known for known in shards if not known.closed), key=attrgetter("first_hash"))
        self._starts = [known.first_hash for known in self._open]

    @classmethod
    def parsed(cls, text: bytes, version: str) -> _Layout:
        return cls(
            [
                _Known(number, Shard(shard_id(number), tuple(parents)), int(first, 16), int(end, 16), closed)
                for number, (parents, first, end, closed) in enumerate(json.loads(text))
            ],
            version,
        )

    def text(self) -> str:
        return json.dumps(
            [
                (known.shard.parents, f"{known.first_hash:x}", f"{known.end_hash:x}", known.closed)
                for known in self.shards.values()
            ],
            separators=(",", ":"),
        )

    def of(self, key: str) -> _Known:
        """Where this key goes."""
        if len(self._open) == 1:
            return self._open[0]
        return self._open[bisect_right(self._starts, hash_key(key)) - 1]

    def split(self, shard: str) -> tuple[_Layout, Sequence[int], Sequence[Shard]]:
        """What comes of it: the numbers of what is closed, and what is new."""
        parent = self._parent(shard)
        middle = middle_of(shard, parent.first_hash, parent.end_hash)
        return self._changed([parent], [(parent.first_hash, middle), (middle, parent.end_hash)], (shard,))

    def merge(self, one: str, other: str) -> tuple[_Layout, Sequence[int], Sequence[Shard]]:
        low, high = sorted((self._parent(one), self._parent(other)), key=attrgetter("first_hash"))
        if low.end_hash != high.first_hash:
            raise InvalidParameterValue(f"{one} and {other} are not neighbours: only these can be merged")
        return self._changed([low, high], [(low.first_hash, high.end_hash)], (one, other))

    def _parent(self, shard: str) -> _Known:
        found = self.shards.get(shard)
        if found is None:
            raise ResourceNotFound(f"there is no shard {shard}")
        if found.closed:
            raise InvalidParameterValue(f"{shard} is closed already")
        return found

    def _changed(
        self, closed: Sequence[_Known], ranges: Sequence[tuple[int, int]], parents: tuple[str, ...]
    ) -> tuple[_Layout, Sequence[int], Sequence[Shard]]:
        count = len(self.shards)
        new = [
            _Known(number, Shard(shard_id(number), parents), first, end, False)
            for number, (first, end) in enumerate(ranges, count)
        ]
        left = [
            _Known(each.number, each.shard, each.first_hash, each.end_hash, each.closed or each in closed)
            for each in self.shards.values()
        ]
        return _Layout([*left, *new]), [each.number for each in closed], [each.shard for each in new]


class _State:
    """What a process remembers of a stream."""

    def __init__(self, streams: RedisStreams, config: Stream, adopt: bool) -> None:
        self.streams = streams
        self.server = streams.server
        self.config = config
        self.adopt = adopt
        self.declared = False
        self.layout = _Layout([])
        self.meta_key = self.server.keys(config.name, "stream")
        self.bell = self.server.bell(self.meta_key)
        self.putting = Gathering(self.put)

    async def known(self, shard: str) -> _Known:
        """Raises ResourceNotFound."""
        await self.declare()
        if shard not in self.layout.shards:
            await self.look()
        found = self.layout.shards.get(shard)
        if found is None:
            raise ResourceNotFound(f"stream {self.config.name} has no shard {shard}")
        return found

    async def look(self) -> None:
        """Learn how it is declared, and which shards there are."""
        self._learn(*await self.perform(_SCRIPTS.goes_on, "look", ()))

    async def reshard(
        self, change: Callable[[_Layout], tuple[_Layout, Sequence[int], Sequence[Shard]]]
    ) -> Sequence[Shard]:
        """Gives what is new."""
        call = self.streams.server.name_call()
        await self.look()
        while True:
            layout, closed, new = change(self.layout)
            words = (self.layout.version, layout.text())
            code, *answer = await self.run(_SCRIPTS.adds, "reshard", closed, *words, call=call)
            if code == _UNDECLARED:
                await self.declare()
                continue
            self._learn(*answer)
            if code == _DONE:
                return new

    async def sweep(self, mappings: Collection[str] | None = None) -> None:
        """Remove what is gone, and first the groups of this store whose mapping is not among these."""
        await self.look()
        numbers = [known.number for known in self.layout.shards.values()]
        for first in range(0, len(numbers), _STEP_SHARDS):
            some = numbers[first : first + _STEP_SHARDS]
            if mappings is not None:
                [groups] = await self.perform(_SCRIPTS.goes_on, "groups", some)
                over = {group.decode() for group in groups} - set(mappings)
                if over := {group for group in over if not group.endswith(ELSEWHERE)}:
                    await self.perform(_SCRIPTS.goes_on, "forget", some, *sorted(over))
            await self.perform(_SCRIPTS.goes_on, "sweep", some)

    async def perform(self, script: Script, what: str, numbers: Sequence[int], *words: Word) -> list[Any]:
        """A call that does no harm when repeated, until it is done."""
        while True:
            await self.declare()
            code, *answer = await self.run(script, what, numbers, *words)
            if code == _DONE:
                return list(answer)
            self._is_gone()

    async def declare(self) -> None:
        """The server knows the configuration from its first use on."""
        while not self.declared:
            await self.server.checked()
            config = self.config
            shards = [
                _Known(number, Shard(shard_id(number)), first, end, False)
                for number, (first, end) in enumerate(hash_ranges(config.shards))
            ]
            answer = await self.run(
                _SCRIPTS.adds, "declare", (), config.model_dump_json(), config.retention_seconds * 1000,
                config.maximum_bytes or "", int(config.keep_unread), _Layout(shards).text(), int(self.adopt),
            )  # fmt: skip
            await self.streams.has_declared(config.name)
            if self.config is config:
                self.declared = True
                self._learn(*answer[1:])

    async def put(self, words: Sequence[Any]) -> Sequence[str]:
        """Of puts, the positions. All of them or none are stored."""
        call, swept = self.streams.server.name_call(), False
        while True:
            await self.declare()
            shards = [self.layout.of(put.key) for put in words]
            numbers = list(dict.fromkeys(known.number for known in shards))
            key_of = {number: key for key, number in enumerate(numbers, 1)}
            told: list[Word] = [self.layout.version]
            for known, put in zip(shards, words, strict=True):
                told += (key_of[known.number], put.key, put.data, put.hops)
            code, *answer = await self.run(_SCRIPTS.adds, "put", numbers, *told, call=call)
            if code == _DONE:
                return self._positions(shards, numbers, answer[0].split())
            if code == _CHANGED:
                self._learn(*answer)
            elif code == _UNDECLARED:
                self._is_gone()
            else:
                if swept:
                    check_room(self.config, *answer)
                await self.sweep()  # there may be room, or more than we know of
                swept = True

    def _positions(self, shards: Sequence[_Known], numbers: Sequence[int], answer: Sequence[bytes]) -> list[str]:
        if len(numbers) == 1:
            return positions_at(shards[0].prefix, int(answer[0]), int(answer[1]) + 1, len(shards))
        counts = dict.fromkeys(numbers, 0)
        for known in shards:
            counts[known.number] += 1
        positions = {
            number: iter(positions_at(prefix_of(number), int(at), int(before) + 1, counts[number]))
            for number, at, before in zip(numbers, answer[::2], answer[1::2], strict=True)
        }
        return [next(positions[known.number]) for known in shards]

    def run(
        self, script: Script, what: str, numbers: Sequence[int], *words: Word, call: str = ""
    ) -> asyncio.Future[Any]:
        keys = [f"{self.meta_key}:{number}" for number in numbers]
        call_key = f"{self.meta_key}:call:{call}" if call else self.meta_key
        words = (self.server.remember_ms, *numbers, *words)
        return self.server.run(script, [self.meta_key, call_key, *keys], what, *words)

    def _learn(self, config: bytes, version: bytes, layout: bytes) -> None:
        if version.decode() != self.layout.version:
            self.layout = _Layout.parsed(layout, version.decode())
            if self.declared:  # otherwise ours is to be
                self.config = Stream.model_validate_json(config)

    def _is_gone(self) -> None:
        self.declared = False
        self.layout = _Layout([])
        self.server.trouble(
            f"{self.server}: stream {self.config.name} was declared, and is gone with what was known of it. "
            "Did somebody delete keys? It is declared anew"
        )


class RedisStream(StreamView):
    """The stream as one connection sees it. Everything may raise StoreUnavailable: nothing is known to be done."""

    def __init__(self, state: _State, world: World) -> None:
        super().__init__(state.config.name, world.region, world.account_id)
        self._state = state

    @property
    def retention_seconds(self) -> float:
        return self._state.config.retention_seconds

    async def put_many(self, puts: Sequence[Put]) -> Sequence[str]:
        """Raises InvalidParameterValue for what PutRecord would refuse, and LimitExceeded when the stream is full; then
        none is stored."""
        for each in puts:
            check_put(each)
        if not puts:
            return []
        if self._state.config.maximum_bytes is not None:  # one that fits shall not be refused with one that does not
            return await self._state.put(puts)
        return await self._state.putting.put(puts, len(puts), sum(map(size_of, puts)))

    async def shards(self) -> Sequence[Shard]:
        """All, parents before their children; a closed one stays, so that whoever has not finished it can."""
        await self._state.look()
        return [known.shard for known in self._state.layout.shards.values()]

    async def position(self, shard: str, starting_position: str, timestamp: float | None) -> str:
        since = begins_at(starting_position, timestamp)
        if since is not None:
            starting_position = str(ceil(round(since * 1e3, 3)))
        known = await self._state.known(shard)
        at, place = await self._state.perform(_SCRIPTS.goes_on, "position", [known.number], starting_position)
        return position_at(known.prefix, int(at), int(place))

    def reader(self, group: str = "") -> StreamReader:
        return _Reader(self._state, group)

    async def split(self, shard: str) -> Sequence[Shard]:
        """Close it, and open two children, each with half of its hash keys (SplitShard)."""
        return await self._state.reshard(lambda layout: layout.split(shard))

    async def merge(self, one: str, other: str) -> Shard:
        """Close both, which must be neighbours, and open one child (MergeShards)."""
        [child] = await self._state.reshard(lambda layout: layout.merge(one, other))
        return child

    async def backlog(self, shard: str, position: str | None) -> Backlog:
        known = await self._state.known(shard)
        after = (0, 0) if position is None else id_in(shard, known.prefix, position)
        count, at = await self._state.perform(_SCRIPTS.goes_on, "backlog", [known.number], *after)
        return Backlog(count, at / 1e3 if count else None)

    async def find(self, position: str) -> tuple[str, Record] | None:
        parts = parts_of(position)
        if parts is None:
            return None
        number, at, place = parts
        await self._state.declare()
        known = next((each for each in self._state.layout.shards.values() if each.number == number), None)
        if known is None or place == 0:
            return None
        words = (1, 0, at, place - 1, 1, 1)
        [_, (_, _, told)] = await self._state.perform(_SCRIPTS.goes_on, "read", [number], *words)
        records = records_of(known.prefix, told)
        return (known.shard.id, records[0]) if records and records[0].position == position else None


class _Reader(RequestReader):
    """Asks for all of its shards in one call, and waits for the stream's bell."""

    def __init__(self, state: _State, group: str) -> None:
        super().__init__(group)
        self._state = state
        state.bell.on_ring[self] = self.look_again

    def request(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> Request:
        known, number = self._state.layout.shards, number_of(shard)
        if number is None or (known and shard not in known):
            raise ResourceNotFound(f"stream {self._state.config.name} has no shard {shard}")
        at, place = id_in(shard, prefix_of(number), position)
        return Request(shard, number, at, place, maximum_records, maximum_bytes)

    def tell(self, group: str, passed: Sequence[Passed]) -> asyncio.Future[Any]:
        numbers, words = [], list[Word]()
        for each in passed:
            numbers.append(number := number_of(each.shard) or 0)
            words += (group, each.counter, *id_in(each.shard, prefix_of(number), each.position))
        return self._state.run(_SCRIPTS.goes_on, "passed", numbers, *words)

    async def listen(self) -> None:
        await self._state.bell.listen()

    async def look(self, requests: Sequence[Request]) -> Sequence[Read | None]:
        state = self._state
        words: list[Word] = [_ANSWER_BYTES, 1]
        for each in requests:
            words += (each.at, each.place, each.maximum_records, each.maximum_bytes)
        _, *answers = await state.perform(_SCRIPTS.goes_on, "read", [each.number for each in requests], *words)
        return [self._read(*each) for each in zip(requests, answers, strict=True)]

    def _read(self, request: Request, answer: Sequence[Any]) -> Read | None:
        if not answer:
            return None
        last, closed, told = answer
        records = _unbroken(records_of(prefix_of(request.number), told))
        place = place_of(records[-1].position) if records else last
        ended = bool(closed) and place >= last
        # a loss is told with the records after it: without any, the position would stay before it, to be told again
        lost = place - request.place - len(records) if records or ended else 0
        return Read(request.shard, records, place >= last, ended, max(0, lost))

    async def close(self) -> None:
        self._state.bell.on_ring.pop(self, None)
        await super().close()


def _unbroken(records: list[Record]) -> list[Record]:
    """Up to the first gap, which somebody else made: what is missing there is told with what comes after it."""
    if records and place_of(records[-1].position) - place_of(records[0].position) >= len(records):
        for index in range(1, len(records)):
            if place_of(records[index].position) != place_of(records[index - 1].position) + 1:
                return records[:index]
    return records
