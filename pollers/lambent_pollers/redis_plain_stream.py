"""A stream on Redis that other programs write: FastStream, or anything that says XADD.

Decides what an entry's fields become, and how many entries somebody has trimmed before they were read. Leaves to
`redis_stream_source.py` what its URL says, and to its owner when entries go: nothing is removed here.

An entry becomes a record whose data are its fields as a JSON object of strings (bytes that are not UTF-8 are escaped as
Python's `surrogateescape` has it; of a name that is there twice the last counts), or the bytes of the one field that
was named for that. All of them have one key and so keep their order, unless a field was named that has it.

Ids of others have no places without gaps. What was lost is the number of entries that there ever were less those that
are known to have come before: Redis counts both, and keeps the second in the mapping's consumer group.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import ceil, inf
from typing import Any, Final

from lambent.errors import ResourceNotFound
from lambent.model import Read, Record, Shard
from lambent.ports import World
from lambent.semantics.builtin import StreamView, begins_at, shard_id
from lambent_pollers.redis_connection import RedisServer, Script
from lambent_pollers.redis_stream_entries import id_in, position_at, prefix_of
from lambent_pollers.redis_stream_reader import Passed, Request, RequestReader

_SCRIPT: Final = Script(files(__package__).joinpath("redis_plain_stream.lua").read_text("utf-8"), "allow-oom")
_SHARD: Final = shard_id(0)
_PREFIX: Final = prefix_of(0)
_LAST_PLACE: Final = 2**64 - 1
_BLOCK_SECONDS: Final = 60.0
_ANSWER_BYTES: Final = 4 * 1024 * 1024

_Id = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields have a record's data and its key; none: all of them, and the stream's name."""

    data: str | None = None
    key: str | None = None


class PlainRedisStream(StreamView):
    """The stream in the key `name`: one shard, which may not be there yet. Everything may raise StoreUnavailable."""

    capabilities = frozenset({"AT_TIMESTAMP"})
    retention_seconds = inf  # nobody knows

    def __init__(self, server: RedisServer, name: str, fields: Fields, world: World) -> None:
        super().__init__(name, world.region, world.account_id)
        self.server = server
        self.name = name
        self.fields = fields
        self.counts: dict[_Id, int] = {}
        """How many entries there had been up to the ids where reading began."""
        self._fences = server.keys(_tag_of(name), "fences", name)

    async def shards(self) -> Sequence[Shard]:
        return [Shard(_SHARD)]

    async def position(self, shard: str, starting_position: str, timestamp: float | None) -> str:
        since = begins_at(starting_position, timestamp)
        first = "-" if since is None else str(ceil(round(since * 1e3, 3)))
        (added, length, last, *_), entry = await self.run("first", first)
        if starting_position == "LATEST" or not entry:
            at, place = _parsed(last)
            self.counts[at, place] = added
        else:
            at, place = _before(_parsed(entry))
            if starting_position == "TRIM_HORIZON":
                self.counts[at, place] = added - length
        return position_at(_PREFIX, at, place)

    def reader(self, group: str = "") -> RequestReader:
        return _Reader(self, group)

    def run(self, what: str, *words: str | int) -> asyncio.Future[Any]:
        return self.server.run(_SCRIPT, [self.name, self._fences], what, *words)

    def record(self, entry_id: bytes, words: Sequence[bytes]) -> Record:
        fields = dict(zip(words[::2], words[1::2], strict=True))
        data = key = None
        if self.fields.data is not None:
            data = fields.get(self.fields.data.encode())
        if data is None:
            text = {_text(name): _text(value) for name, value in fields.items()}
            data = json.dumps(text, separators=(",", ":")).encode()
        if self.fields.key is not None:
            key = fields.get(self.fields.key.encode())
        at, place = _parsed(entry_id)
        return Record(
            position_at(_PREFIX, at, place), key.decode("utf-8", "replace") if key else self.name, data, at / 1e3
        )


class _Reader(RequestReader):
    """Waits at the server, on a connection of its own."""

    def __init__(self, stream: PlainRedisStream, group: str) -> None:
        super().__init__(group)
        self._stream = stream
        self._blocking = stream.server.blocking()
        self._counted: tuple[_Id, int] | None = None  # an id up to which the number of entries is known
        self._read: deque[tuple[int, list[str]]] = deque()  # positions, and how many entries there were before them

    def request(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> Request:
        if shard != _SHARD:
            raise ResourceNotFound(f"stream {self._stream.name} has no shard {shard}")
        return Request(shard, 0, *id_in(shard, _PREFIX, position), maximum_records, maximum_bytes)

    async def listen(self) -> None:
        """There is nobody who tells: see `until_changed`."""

    async def until_changed(self, changed: asyncio.Event, waiting: Sequence[Request]) -> None:
        if not waiting:
            await changed.wait()
            return
        loop = asyncio.get_running_loop()
        [request] = waiting
        words = ("XREAD", "COUNT", 1, "BLOCK", ceil(_BLOCK_SECONDS * 1e3), "STREAMS", self._stream.name)
        behind = f"{request.at}-{request.place}"
        blocked = loop.create_task(
            self._blocking.call(*words, behind, block_seconds=_BLOCK_SECONDS), name=f"redis: XREAD {self._stream.name}"
        )
        woken = loop.create_task(changed.wait(), name=f"redis: a request for {self._stream.name}")
        try:
            await asyncio.wait({blocked, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (blocked, woken):
                task.cancel()
            await asyncio.wait({blocked, woken})
        if not blocked.cancelled() and blocked.result():
            self.look_again()

    async def look(self, requests: Sequence[Request]) -> Sequence[Read | None]:
        [request] = requests
        size = min(request.maximum_bytes, _ANSWER_BYTES)
        behind = request.at, request.place
        answer = await self._stream.run("read", _written(behind), request.maximum_records, size, self._group)
        (added, length, _, taken, first), tip, entries, passed, counted = answer
        records = [self._stream.record(*entry) for entry in entries]
        before = self._count(behind, passed, counted)
        if not records:
            return [Read(_SHARD, [], True)]
        lost = 0
        after: int | None = None if before is None else before + len(records)
        if tip:
            after = added  # all that there ever were
            lost = added - before - len(records) if before is not None else _parsed(taken) > behind
        elif before is not None and _parsed(first) > behind:
            lost = added - length - before
            after = added - length + len(records)
        lost = max(0, int(lost))
        last = _parsed(entries[-1][0])
        if after is not None:
            self._counted = last, after
            self._read.append((after - len(records), [record.position for record in records]))
        return [Read(_SHARD, records, bool(tip), False, lost)]

    def _count(self, behind: _Id, passed: bytes, counted: int) -> int | None:
        """How many entries there had been up to this id; None: nobody knows."""
        if self._counted is not None and self._counted[0] == behind:
            return self._counted[1]
        if passed and counted >= 0 and _parsed(passed) == behind:
            return counted
        return self._stream.counts.get(behind)

    def tell(self, group: str, passed: Sequence[Passed]) -> asyncio.Future[Any]:
        [each] = passed
        at = id_in(each.shard, _PREFIX, each.position)
        return self._stream.run("passed", group, each.counter, _written(at), self._count_at(each.position, at))

    def _count_at(self, position: str, at: _Id) -> int:
        while self._read and self._read[0][1][-1] < position:
            self._read.popleft()
        if self._read:
            before, positions = self._read[0]
            index = bisect_left(positions, position)
            if positions[index] == position:
                return before + index + 1
        return self._stream.counts.get(at, -1)

    async def close(self) -> None:
        await super().close()
        await self._blocking.close()


def _parsed(entry_id: bytes) -> _Id:
    at, _, place = entry_id.partition(b"-")
    return int(at), int(place)


def _written(entry_id: _Id) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


def _before(entry_id: _Id) -> _Id:
    """The highest id below it."""
    at, place = entry_id
    return (at, place - 1) if place else (at - 1, _LAST_PLACE)


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


def _tag_of(name: str) -> str:
    """What a cluster makes the slot of."""
    _, opened, rest = name.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else name
