"""The records of the built-in streams in a SQLite file: what is done to them inside a transaction.

Decides which place a record gets, what can still be read, and what retention removes when. Which shard a key belongs to
is `builtin.py`'s; who waits for records `sqlite_stream.py`'s.

A record's number is its shard's, and below it the place in the shard: a shard's records lie side by side, and a read of
a thousand of them is one range. Places have no gaps but for rows that were put aside as damaged, and within a shard
arrival never goes back: what lies behind a position is counted, and a time is found, without reading all between.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, islice
from operator import add, eq, itemgetter
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple, TypeVar
from zlib import crc32

import apsw

from lambent.errors import InvalidParameterValue, ResourceNotFound
from lambent.model import Backlog, Put, Read, Record, Shard, Stream
from lambent.semantics.builtin import (
    begins_at,
    hash_key,
    hash_ranges,
    middle_of,
    number_of,
    parts_of,
    position_of,
    positions_of,
    prefix_of,
    shard_id,
    size_of,
)
from lambent.semantics.sending import check_room, has_room
from lambent.stores.sqlite_file import FileClock, Perform
from lambent.stores.sqlite_rows import many, mend_configuration, quarantine

Argument = TypeVar("Argument")
Result = TypeVar("Result")

SCHEMA: Final = (
    """CREATE TABLE streams (
        number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL, layout TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE shards (
        number INTEGER PRIMARY KEY, stream INTEGER NOT NULL, ordinal INTEGER NOT NULL, parents TEXT NOT NULL,
        first_hash TEXT NOT NULL, end_hash TEXT NOT NULL, closed INTEGER NOT NULL,
        first INTEGER NOT NULL, first_at REAL NOT NULL, last INTEGER NOT NULL, last_at REAL NOT NULL,
        UNIQUE (stream, ordinal)
    ) STRICT""",
    """CREATE TABLE records (
        number INTEGER PRIMARY KEY, arrived_at REAL NOT NULL, hops INTEGER NOT NULL, crc INTEGER NOT NULL,
        key TEXT NOT NULL, data BLOB NOT NULL
    ) STRICT""",
)

LIMITS: Final = (
    # a mapping's place in a shard, and its lease's counter: what it has not passed is kept
    """CREATE TABLE passed (
        shard INTEGER NOT NULL, mapping TEXT NOT NULL, counter INTEGER NOT NULL, place INTEGER NOT NULL,
        PRIMARY KEY (shard, mapping)
    ) STRICT, WITHOUT ROWID""",
    # those of its records
    "ALTER TABLE shards ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
    """UPDATE shards SET bytes = (SELECT coalesce(sum(length(data) + length(key)), 0) FROM records
        WHERE records.number > shards.number << 40 AND records.number < (shards.number + 1) << 40)""",
)

PLACE_BITS: Final = 40
MAXIMUM_PLACE: Final = 2**PLACE_BITS - 1
TRIM_ROWS: Final = 1_000  # removed in one step at most, besides twice as many as are put
CHUNK_ROWS: Final = 64  # read before their sizes are looked at
MAXIMUM_LAYOUTS: Final = 1_000  # remembered
STEP_SHARDS: Final = 100  # looked at in one transaction for what is too old

_OPEN: Final = "SELECT number, config, layout FROM streams WHERE name = ?"
_NEW_LAYOUT: Final = "UPDATE streams SET layout = hex(randomblob(16)) WHERE number = ?"
_NEW_SHARD: Final = "INSERT INTO shards VALUES (NULL, ?, ?, ?, ?, ?, 0, 1, 0, 0, 0, 0)"
_SHARDS: Final = "SELECT number, ordinal, parents, closed, last FROM shards WHERE stream = ? ORDER BY ordinal"
_NEXT_PLACES: Final = """UPDATE shards SET last = last + ?, last_at = max(last_at, ?), bytes = bytes + ?
    WHERE number = ? RETURNING last, last_at, first, first_at"""
_PUT: Final = "INSERT INTO records (number, arrived_at, hops, crc, key, data) VALUES {rows}"
_READ: Final = """SELECT number, arrived_at, hops, crc, key, data FROM records WHERE number > ? AND number <= ?
    ORDER BY number LIMIT ?"""
_ARRIVALS: Final = "SELECT number, arrived_at FROM records WHERE number >= ? AND number <= ? ORDER BY number LIMIT ?"
_OLDEST: Final = """SELECT shards.number, config, first, first_at, last FROM shards
    JOIN streams ON streams.number = stream WHERE shards.number > ? ORDER BY shards.number LIMIT ?"""

_HEAD: Final = Struct("<qdq")


class Layout(NamedTuple):
    """The open shards of a stream, by their first hash keys."""

    first_hashes: Sequence[int]
    shards: Sequence[tuple[int, str]]  # number and prefix


class Ground(NamedTuple):
    """Where a stream is: its name, the file's time, and what the file's thread remembers of layouts, by their names. A
    layout has a new name after every change, also one that is rolled back, so what is remembered is never wrong."""

    name: str
    clock: FileClock
    layouts: dict[str, Layout]


class Placed(NamedTuple):
    """What was put: the positions, and the last place of each shard that was put to, by its number."""

    positions: Sequence[str]
    lasts: dict[int, int]


class ShardRow(NamedTuple):
    number: int
    shard: Shard
    prefix: str
    closed: bool
    last: int


class Want(NamedTuple):
    """Up to so many records and bytes of a shard that follow a place."""

    shard: ShardRow
    place: int
    maximum_records: int
    maximum_bytes: int


class Passed(NamedTuple):
    """How far a mapping is in a shard, and its lease's counter."""

    shard: str
    mapping: str
    counter: int
    place: int


class Found(NamedTuple):
    """What follows a want's place: rows as they are stored, not looked at yet, from behind `place` on; and what the
    shard was when they were read."""

    want: Want
    place: int
    rows: Sequence[tuple[Any, ...]]
    last: int
    closed: bool

    def read(self) -> tuple[Read, Sequence[int]]:
        """As a reader answers; and the numbers of records that are damaged and were passed over. It costs as much as
        the records are many, and needs no transaction."""
        shard, want, place = self.want.shard, self.want, self.place
        records: list[Record] = []
        damaged: list[int] = []
        tip = len(self.rows) < want.maximum_records  # nothing follows
        if self.rows:
            columns = list(zip(*self.rows, strict=True))
            numbers, arrivals, hops, _, keys, datas = columns
            begin, end = 0, len(numbers)
            sound = _sound(columns)
            if not all(sound) or numbers[-1] - numbers[0] >= end:
                begin, end = _unbroken(numbers, sound)
                damaged = list(numbers[:begin])
            end = _fitting(keys, datas, begin, end, want.maximum_bytes)
            tip = tip and end == len(numbers)
            place = numbers[end - 1] & MAXIMUM_PLACE
            positions = positions_of(shard.prefix, place - (end - begin) + 1, end - begin)
            records = list(map(Record, positions, *(each[begin:end] for each in (keys, datas, arrivals, hops))))
        tip = tip or place >= self.last
        ended = tip and self.closed
        # a loss is told with the records after it: without any, the position would stay before it, to be told again
        lost = (place if records else self.last) - want.place - len(records) if records or ended else 0
        return Read(shard.shard.id, records, tip, ended, max(0, lost)), damaged


@dataclass(frozen=True, slots=True)
class _Stream:
    """One stream inside a transaction; `now` is the file's time in epoch seconds."""

    cursor: apsw.Cursor
    number: int
    config: Stream
    layout_name: str
    layouts: dict[str, Layout]
    now: float

    @property
    def horizon(self) -> float:
        """What arrived before is too old."""
        return self.now - self.config.retention_seconds

    # --- putting ---------------------------------------------------------------------------------------------------

    def put(self, puts: Sequence[Put]) -> Placed:
        """Store checked records, all that several callers have."""
        shards = self._shards_of(puts)
        sizes = Counter[int]()
        for (shard, _), size in zip(shards, map(size_of, puts), strict=True):
            sizes[shard] += size
        if self.config.maximum_bytes is not None:
            self._make_room(sizes.total())
        lasts: dict[int, int] = {}
        numbers: dict[int, Iterator[int]] = {}
        positions: dict[int, Iterator[str]] = {}
        old: list[tuple[int, int, int]] = []
        arrived_at = self.now
        for (shard, prefix), count in Counter(shards).items():
            places: Any = self.cursor.execute(_NEXT_PLACES, (count, self.now, sizes[shard], shard)).fetchall()
            ((last, last_at, first, first_at),) = places
            lasts[shard] = last
            place = last - count + 1
            numbers[shard] = iter(range(shard << PLACE_BITS | place, (shard << PLACE_BITS | last) + 1))
            positions[shard] = iter(positions_of(prefix, place, count))
            arrived_at = max(arrived_at, last_at)  # another process's clock may be ahead of ours
            if first_at < self.horizon:
                old.append((shard, first, last))
        many(self.cursor, _PUT, _rows([next(numbers[shard]) for shard, _ in shards], arrived_at, puts))
        for each in old:
            _trim(self.cursor, *each, self.config, self.horizon, TRIM_ROWS + 2 * len(puts))
        return Placed([next(positions[shard]) for shard, _ in shards], lasts)

    def _make_room(self, more: int) -> None:
        """Raises LimitExceeded if there is none."""
        while not has_room(self.config, self._held(), more):
            found: Any = self.cursor.execute(
                "SELECT number, first, last FROM shards WHERE stream = ? AND first <= last AND first_at < ?",
                (self.number, self.horizon),
            ).fetchall()
            old: list[tuple[int, int, int]] = found
            trimmed = (_trim(self.cursor, *shard, self.config, self.horizon, TRIM_ROWS) for shard in old)
            if not sum(trimmed):  # of none is there more
                return check_room(self.config, self._held(), more)

    def _held(self) -> int:
        held: int = self.cursor.execute("SELECT sum(bytes) FROM shards WHERE stream = ?", (self.number,)).get
        return held

    def _shards_of(self, puts: Sequence[Put]) -> Sequence[tuple[int, str]]:
        first_hashes, shards = self._layout()
        if len(shards) == 1:
            return [shards[0]] * len(puts)
        return [shards[bisect_right(first_hashes, hash_key(put.key)) - 1] for put in puts]

    def _layout(self) -> Layout:
        found = self.layouts.get(self.layout_name)
        if found is None:
            rows: Any = self.cursor.execute(
                "SELECT first_hash, number, ordinal FROM shards WHERE stream = ? AND closed = 0 ORDER BY first_hash",
                (self.number,),
            ).fetchall()
            found = Layout([int(row[0], 16) for row in rows], [(row[1], prefix_of(row[2])) for row in rows])
            while len(self.layouts) >= MAXIMUM_LAYOUTS:
                del self.layouts[next(iter(self.layouts))]
            self.layouts[self.layout_name] = found
        return found

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, wants: Sequence[Want]) -> list[Found]:
        return [self._read(want) for want in wants]

    def _read(self, want: Want) -> Found:
        """Rows within the limits of the want, or a little more."""
        base = want.shard.number << PLACE_BITS
        first, last, closed = self._readable(want.shard.number)
        place = min(max(want.place, first - 1), last)
        found: Any = self.cursor.execute(_READ, (base + place, base + last, want.maximum_records))
        rows: list[tuple[Any, ...]] = []
        left = want.maximum_bytes
        while left >= 0 and (chunk := list(islice(found, CHUNK_ROWS))):
            rows += chunk
            left -= sum([len(row[5]) for row in chunk if type(row[5]) is bytes])
        return Found(want, place, rows, last, closed)

    def position(self, asked: tuple[ShardRow, str, float | None]) -> str:
        """The one after which reading starts."""
        shard, starting_position, timestamp = asked
        since = begins_at(starting_position, timestamp)
        first, last, _ = self._readable(shard.number)
        if starting_position == "LATEST":
            return position_of(shard.prefix, last)
        if since is not None:
            first = _first_since(self.cursor, shard.number, first, last, since)
        return position_of(shard.prefix, first - 1)

    def backlog(self, asked: tuple[ShardRow, int]) -> Backlog:
        """What follows that place."""
        shard, place = asked
        first, last, _ = self._readable(shard.number)
        base, after = shard.number << PLACE_BITS, min(max(place, first - 1), last)
        rows: Any = self.cursor.execute(_ARRIVALS, (base + after + 1, base + last, 1)).fetchall()
        return Backlog(last - after, rows[0][1] if rows else None)

    def find(self, position: str) -> tuple[str, Record] | None:
        parts = parts_of(position)
        if parts is None:
            return None
        shard = next((row for row in self.shards(None) if row.prefix == prefix_of(parts[0])), None)
        if shard is None:
            return None
        found = self._read(Want(shard, parts[1] - 1, 1, 0)).read()[0].records
        return (shard.shard.id, found[0]) if found and found[0].position == position else None

    def _readable(self, number: int) -> tuple[int, int, bool]:
        """The first and the last place of a shard that are not too old, and whether it is closed."""
        row: Any = self.cursor.execute(
            "SELECT first, first_at, last, closed FROM shards WHERE number = ?", (number,)
        ).fetchall()
        ((first, first_at, last, closed),) = row
        if first_at < self.horizon:
            kept = _passed_by_all(self.cursor, number, last, self.config) + 1
            first = max(first, min(kept, _first_since(self.cursor, number, first, last, self.horizon)))
        return first, last, bool(closed)

    # --- shards ----------------------------------------------------------------------------------------------------

    def shards(self, _: None) -> list[ShardRow]:
        """All that there are, parents before their children."""
        rows: Any = self.cursor.execute(_SHARDS, (self.number,)).fetchall()
        return [_shard_row(*row) for row in rows]

    def split(self, name: str) -> list[Shard]:
        """Close it, and open two children, each with half of its hash keys."""
        number, first, end = self._parent(name)
        middle = middle_of(name, first, end)
        self._close([number])
        return [self._add(*hashes, (name,)) for hashes in ((first, middle), (middle, end))]

    def merge(self, names: tuple[str, str]) -> Shard:
        """Close both, which must be neighbours, and open one child."""
        low, high = sorted(map(self._parent, names), key=itemgetter(1))
        if low[2] != high[1]:
            raise InvalidParameterValue(f"{names[0]} and {names[1]} are not neighbours: only these can be merged")
        self._close([low[0], high[0]])
        return self._add(low[1], high[2], names)

    def create(self) -> None:
        for hashes in hash_ranges(self.config.shards):
            self._add(*hashes, ())

    def _parent(self, name: str) -> tuple[int, int, int]:
        """An open shard: its number and its hash keys, from the first to before the end."""
        rows: Any = self.cursor.execute(
            "SELECT number, first_hash, end_hash, closed FROM shards WHERE stream = ? AND ordinal = ?",
            (self.number, number_of(name)),
        ).fetchall()
        if not rows:
            raise unknown_shard(self.config.name, name)
        ((number, first, end, closed),) = rows
        if closed:
            raise InvalidParameterValue(f"{name} is closed already")
        return number, int(first, 16), int(end, 16)

    def _close(self, numbers: Sequence[int]) -> None:
        self.cursor.executemany("UPDATE shards SET closed = 1 WHERE number = ?", [(number,) for number in numbers])

    def _add(self, first_hash: int, end_hash: int, parents: Sequence[str]) -> Shard:
        ordinal: int = self.cursor.execute("SELECT count(*) FROM shards WHERE stream = ?", (self.number,)).get
        hashes = (f"{first_hash:033x}", f"{end_hash:033x}")
        self.cursor.execute(_NEW_SHARD, (self.number, ordinal, json.dumps(parents), *hashes))
        self.cursor.execute(_NEW_LAYOUT, (self.number,))
        return Shard(shard_id(ordinal), tuple(parents))


def put(cursor: apsw.Cursor, items: Sequence[tuple[Ground, Sequence[Put]]]) -> Sequence[Placed]:
    """What several callers put into one stream is put at once."""
    callers: dict[str, list[int]] = {}
    for index, (ground, _) in enumerate(items):
        callers.setdefault(ground.name, []).append(index)
    placed: dict[int, Placed] = {}
    for indexes in callers.values():
        together = _open(cursor, items[indexes[0]][0]).put([put for index in indexes for put in items[index][1]])
        positions = iter(together.positions)
        for index in indexes:
            placed[index] = Placed(list(islice(positions, len(items[index][1]))), together.lasts)
    return [placed[index] for index in range(len(items))]


def declare(cursor: apsw.Cursor, items: Sequence[tuple[Ground, Stream]]) -> Sequence[None]:
    """The file has the stream, with this configuration. One that it had already keeps its shards."""
    for ground, config in items:
        text = config.model_dump_json()
        cursor.execute(
            "INSERT INTO streams (name, config, layout) VALUES (?, ?, '') ON CONFLICT DO NOTHING", (config.name, text)
        )
        is_new = cursor.connection.changes() > 0
        mend_configuration(cursor, "streams", config.name, text, _parsed)
        stream = _open(cursor, ground)
        if is_new:
            stream.create()
        elif stream.config != config:
            cursor.execute("UPDATE streams SET config = ? WHERE number = ?", (text, stream.number))
    return [None] * len(items)


def put_aside(cursor: apsw.Cursor, items: Sequence[Sequence[int]]) -> Sequence[None]:
    """Records that are damaged go where a person can look at them."""
    for number in chain.from_iterable(items):
        for row in cursor.execute("SELECT * FROM records WHERE number = ?", (number,)).fetchall():
            quarantine(cursor, "records", f"{number >> PLACE_BITS}/{number & MAXIMUM_PLACE}", row)
            _delete(cursor, number, number)
    return [None] * len(items)


def passed(cursor: apsw.Cursor, items: Sequence[tuple[Ground, Sequence[Passed]]]) -> Sequence[None]:
    """A lower counter than one that was told is no longer the lease's."""
    for ground, told in items:
        cursor.executemany(
            """INSERT INTO passed SELECT shards.number, ?, ?, ? FROM shards JOIN streams ON streams.number = stream
            WHERE name = ? AND ordinal = ?
            ON CONFLICT DO UPDATE SET counter = excluded.counter, place = excluded.place
            WHERE excluded.counter >= counter""",
            [(each.mapping, each.counter, each.place, ground.name, number_of(each.shard)) for each in told],
        )
    return [None] * len(items)


def sweep(cursor: apsw.Cursor, items: Sequence[tuple[int, FileClock]]) -> Sequence[int]:
    """Remove what is too old from the shards that follow this one; gives the last of them (0: of all). Nothing is kept
    for a mapping that was deleted."""
    cursor.execute(
        "DELETE FROM passed WHERE NOT EXISTS (SELECT 1 FROM documents WHERE kind = 'mapping' AND name = mapping)"
    )
    return [_sweep_after(cursor, number, clock.now()) for number, clock in items]


def _sweep_after(cursor: apsw.Cursor, number: int, now: float) -> int:
    rows: Any = cursor.execute(_OLDEST, (number, STEP_SHARDS)).fetchall()
    for number, config, first, first_at, last in rows:
        try:
            stream = _parsed(config)
        except ValueError:  # damaged, until it is declared
            continue
        horizon = now - stream.retention_seconds
        if first <= last and first_at < horizon and _trim(cursor, number, first, last, stream, horizon, TRIM_ROWS):
            return number - 1  # there is more
    return number if len(rows) == STEP_SHARDS else 0


def _trim(cursor: apsw.Cursor, number: int, first: int, last: int, config: Stream, horizon: float, limit: int) -> bool:
    """Remove what arrived before the horizon and was passed by all, within limits; True: there is more."""
    base = number << PLACE_BITS
    after, after_at, old = base + last + 1, 0.0, 0
    kept = base + _passed_by_all(cursor, number, last, config) + 1
    if kept <= base + first:
        return False
    rows: Any = cursor.execute(_ARRIVALS, (base + first, base + last, limit + 1))
    for row, arrived_at in rows:
        if arrived_at >= horizon or row >= kept or old == limit:
            after, after_at = row, arrived_at
            break
        old += 1
    _delete(cursor, base + first, after - 1)
    cursor.execute("UPDATE shards SET first = ?, first_at = ? WHERE number = ?", (after - base, after_at, number))
    return old == limit


def _delete(cursor: apsw.Cursor, first: int, last: int) -> None:
    """Of one shard, from the first number to the last."""
    cursor.execute(
        """UPDATE shards SET bytes = max(0, bytes - (
            SELECT coalesce(sum(length(data) + length(key)), 0) FROM records WHERE number BETWEEN ? AND ?
        )) WHERE number = ?""",
        (first, last, first >> PLACE_BITS),
    )
    cursor.execute("DELETE FROM records WHERE number BETWEEN ? AND ?", (first, last))


def _passed_by_all(cursor: apsw.Cursor, shard: int, last: int, config: Stream) -> int:
    """The place up to which no mapping needs a shard's records any more."""
    if not config.keep_unread:
        return last
    place: int | None = cursor.execute("SELECT min(place) FROM passed WHERE shard = ?", (shard,)).get
    return last if place is None else place


def _first_since(cursor: apsw.Cursor, number: int, first: int, last: int, since: float) -> int:
    """The first place, from `first` on, whose record did not arrive before; one behind the last if there is none."""
    base, end = number << PLACE_BITS, last + 1
    while first < end:
        middle = (first + end) // 2
        rows: Any = cursor.execute(_ARRIVALS, (base + middle, base + end - 1, 1)).fetchall()
        if rows and rows[0][1] < since:
            first = rows[0][0] - base + 1
        else:
            end = middle
    return first


def _rows(numbers: Sequence[int], arrived_at: float, puts: Sequence[Put]) -> list[tuple[object, ...]]:
    arrivals = [arrived_at] * len(puts)
    hops, keys, datas = [put.hops for put in puts], [put.key for put in puts], [put.data for put in puts]
    crcs = _checksums(numbers, arrivals, hops, keys, datas)
    return list(zip(numbers, arrivals, hops, crcs, keys, datas, strict=True))


def _checksums(
    numbers: Sequence[int], arrivals: Sequence[float], hops: Sequence[int], keys: Sequence[str], datas: Sequence[bytes]
) -> list[int]:
    """Of all that a record is, column by column: so it is C that loops."""
    heads = map(crc32, map(_HEAD.pack, numbers, arrivals, hops))
    return list(map(crc32, datas, map(crc32, map(str.encode, keys), heads)))


def _sound(columns: Sequence[Sequence[Any]]) -> list[bool]:
    """Which rows are as they were stored?"""
    numbers, arrivals, hops, crcs, keys, datas = columns
    try:
        return list(map(eq, _checksums(numbers, arrivals, hops, keys, datas), crcs))
    except (TypeError, StructError):  # not even of the right types: find out which
        return [len(numbers) > 1 and _sound([[value] for value in row])[0] for row in zip(*columns, strict=True)]


def _fitting(keys: Sequence[str], datas: Sequence[bytes], begin: int, end: int, maximum_bytes: int) -> int:
    """Where those that fit end: after the first one at least."""
    sizes = list(map(add, map(len, keys[begin:end]), map(len, datas[begin:end])))
    if sum(sizes) <= maximum_bytes:
        return end
    return begin + max(1, bisect_right(list(accumulate(sizes)), maximum_bytes))


def _unbroken(numbers: Sequence[int], sound: Sequence[bool]) -> tuple[int, int]:
    """Where the first records that are sound, and follow each other without a gap, begin and end. What is missing
    before them is told with them; what is missing behind, with what comes after that."""
    begin = sound.index(True) if True in sound else len(sound)
    end = begin + 1
    while end < len(sound) and sound[end] and numbers[end] == numbers[end - 1] + 1:
        end += 1
    return begin, min(end, len(sound))


def _shard_row(number: int, ordinal: int, parents: str, closed: int, last: int) -> ShardRow:
    shard = Shard(shard_id(ordinal), tuple(json.loads(parents)))
    return ShardRow(number, shard, prefix_of(ordinal), bool(closed), last)


def unknown_shard(stream: str, shard: str) -> ResourceNotFound:
    return ResourceNotFound(f"stream {stream} has no shard {shard}")


def _open(cursor: apsw.Cursor, ground: Ground) -> _Stream:
    row: Any = cursor.execute(_OPEN, (ground.name,)).fetchall()
    ((number, config, layout),) = row
    return _Stream(cursor, number, _parsed(config), layout, ground.layouts, ground.clock.now())


@lru_cache(maxsize=1024)
def _parsed(config: str) -> Stream:
    return Stream.model_validate_json(config)


def _each(call: Callable[[_Stream, Argument], Result]) -> Perform[tuple[Ground, Argument], Result]:
    """What is done to one stream, as it is done for several callers."""

    def perform(cursor: apsw.Cursor, items: Sequence[tuple[Ground, Argument]]) -> Sequence[Result]:
        return [call(_open(cursor, ground), argument) for ground, argument in items]

    return perform


READ: Final = _each(_Stream.read)
POSITION: Final = _each(_Stream.position)
BACKLOG: Final = _each(_Stream.backlog)
FIND: Final = _each(_Stream.find)
SHARDS: Final = _each(_Stream.shards)
SPLIT: Final = _each(_Stream.split)
MERGE: Final = _each(_Stream.merge)
