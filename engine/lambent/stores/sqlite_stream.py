"""The built-in stream in a SQLite file, as connections see it: its handle and its reader.

Decides when the file is asked for records. What is in it, and what becomes of it, is `sqlite_records.py`'s; batches,
order of processing and checkpoints are `semantics/stream.py`'s. An idle shard, and a reader that waits for it, cost
nothing: a put wakes the readers of the shards that it was to. What another process has put is found out by one look at
all shards of the stream, once the file says that something has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from lambent.model import Backlog, Put, Read, Record, Shard, Stream
from lambent.ports import StreamReader, World
from lambent.semantics.builtin import StreamView, number_of, place_in, prefix_of
from lambent.semantics.sending import check_put
from lambent.stores.memory_lines import Bell
from lambent.stores.sqlite_file import Perform, SqliteFile
from lambent.stores.sqlite_records import (
    BACKLOG,
    FIND,
    MERGE,
    POSITION,
    READ,
    SHARDS,
    SPLIT,
    Ground,
    Layout,
    Passed,
    Placed,
    ShardRow,
    Want,
    declare,
    passed,
    put,
    put_aside,
    sweep,
    unknown_shard,
)

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class SqliteStreams:
    """The streams of one file, as one connection knows them."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._states: dict[str, _State] = {}
        self._layouts: dict[str, Layout] = {}
        self._swept = 0
        file.on_foreign_change(self._changed)
        file.on_reopened(self._changed)

    def stream(self, config: Stream, world: World) -> SqliteStream:
        """The stream of that name, with this configuration from its next use on. An existing one keeps its shards."""
        state = self._states.get(config.name)
        if state is None:
            state = self._states[config.name] = _State(self._file, config, self._layouts)
        if state.config != config:
            state.config, state.declared = config, False
        return SqliteStream(state, world)

    async def sweep(self) -> None:
        """Remove what is too old from the next few shards, whoever uses them or not."""
        for state in self._states.values():
            state.tell_passed()
        self._swept = await self._file.write(sweep, (self._swept, self._file.clock))

    def _changed(self) -> None:
        for state in self._states.values():
            state.changed()


@dataclass(slots=True, eq=False)
class _Known:
    """A shard, the last place in it that is known, and the readers that wait for more."""

    row: ShardRow
    last: int
    waiting: dict[SqliteReader, None] = field(default_factory=dict)

    def wake(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for reader in waiting:
            reader.answerable(self.row.shard.id)


class _State:
    """What a connection remembers of a stream. `stale`: another process may have changed it since."""

    def __init__(self, file: SqliteFile, config: Stream, layouts: dict[str, Layout]) -> None:
        self.file = file
        self.config = config
        self.declared = False
        self.shards: dict[str, _Known] = {}
        self.stale = True
        self.readers: dict[SqliteReader, None] = {}
        self._passing: dict[tuple[str, str], Passed] = {}
        self._told: dict[tuple[str, str], int] = {}
        self._numbers: dict[int, _Known] = {}
        self._layouts = layouts

    def changed(self) -> None:
        self.stale = True
        for reader in self.readers:
            reader.bell.ring()

    def has_put(self, placed: Placed) -> None:
        for number, last in placed.lasts.items():
            known = self._numbers.get(number)  # one that another process has made is found by the next look
            if known is not None and last > known.last:
                known.last = last
                known.wake()

    def passed(self, each: Passed) -> None:
        """A new owner's word is written at once, what follows now and then: what the file does not know of yet keeps a
        few records longer."""
        which = each.shard, each.mapping
        if each.counter >= self._told.get(which, 0):
            self._passing[which] = each
            if each.counter > self._told.get(which, 0):
                self._told[which] = each.counter
                self.tell_passed()

    def tell_passed(self) -> None:
        if self._passing:
            passing, self._passing = self._passing, {}
            self.file.tell(passed, (self._ground(), list(passing.values())))

    async def look(self) -> None:
        """Learn what shards there are, and which of them have got more."""
        self.stale = False  # what comes to be known from now on may be later than what is read
        try:
            await self.read(SHARDS, None, self._learn)
        except BaseException:
            self.stale = True
            raise

    def known(self, name: str) -> _Known:
        """Raises ResourceNotFound."""
        found = self.shards.get(name)
        if found is None:
            raise unknown_shard(self.config.name, name)
        return found

    async def row(self, name: str) -> ShardRow:
        """Raises ResourceNotFound."""
        if self.stale or name not in self.shards:
            await self.look()
        return self.known(name).row

    async def read(
        self,
        perform: Perform[tuple[Ground, Argument], Result],
        argument: Argument,
        then: Callable[[Result], None] | None = None,
    ) -> Result:
        await self._declare()
        return await self.file.read(perform, (self._ground(), argument), then)

    async def write(
        self,
        perform: Perform[tuple[Ground, Argument], Result],
        argument: Argument,
        then: Callable[[Result], None],
    ) -> Result:
        await self._declare()
        return await self.file.write(perform, (self._ground(), argument), then)

    async def _declare(self) -> None:
        """The file knows the configuration from its first use on."""
        while not self.declared:
            config = self.config
            await self.file.write(declare, (self._ground(), config))
            self.declared = self.config is config

    def _ground(self) -> Ground:
        return Ground(self.config.name, self.file.clock, self._layouts)

    def _learn(self, rows: Sequence[ShardRow]) -> None:
        for row in rows:
            known = self.shards.get(row.shard.id)
            if known is None:
                known = self.shards[row.shard.id] = self._numbers[row.number] = _Known(row, row.last)
            elif row.last > known.last or row.closed != known.row.closed:
                known.row, known.last = row, max(row.last, known.last)
                known.wake()


class SqliteStream(StreamView):
    """The built-in stream as one connection sees it. Everything may raise StoreUnavailable: nothing is known to be
    done."""

    def __init__(self, state: _State, world: World) -> None:
        super().__init__(state.config.name, world.region, world.account_id)
        self._state = state

    @property
    def retention_seconds(self) -> float:
        return self._state.config.retention_seconds

    async def put_many(self, puts: Sequence[Put]) -> Sequence[str]:
        """Raises InvalidParameterValue for what PutRecord would refuse; then none is stored."""
        for each in puts:
            check_put(each)
        if not puts:
            return []
        return (await self._state.write(put, puts, self._state.has_put)).positions

    async def shards(self) -> Sequence[Shard]:
        """All, parents before their children; a closed one stays, so that whoever has not finished it can."""
        await self._state.look()
        return [known.row.shard for known in self._state.shards.values()]

    async def position(self, shard: str, starting_position: str, timestamp: float | None) -> str:
        return await self._state.read(POSITION, (await self._state.row(shard), starting_position, timestamp))

    def reader(self, group: str = "") -> StreamReader:
        return SqliteReader(self._state, group)

    async def split(self, shard: str) -> Sequence[Shard]:
        """Close it, and open two children, each with half of its hash keys (SplitShard)."""
        return await self._state.write(SPLIT, shard, lambda _: self._state.changed())

    async def merge(self, one: str, other: str) -> Shard:
        """Close both, which must be neighbours, and open one child (MergeShards)."""
        return await self._state.write(MERGE, (one, other), lambda _: self._state.changed())

    async def backlog(self, shard: str, position: str | None) -> Backlog:
        row = await self._state.row(shard)
        place = 0 if position is None else place_in(shard, row.prefix, position)
        return await self._state.read(BACKLOG, (row, place))

    async def find(self, position: str) -> tuple[str, Record] | None:
        return await self._state.read(FIND, position)


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    place: int
    maximum_records: int
    maximum_bytes: int


class SqliteReader:
    """One reader of many shards. What may be answered is in a set, and asked of the file at once; what is at its tip
    waits in its shard."""

    def __init__(self, state: _State, group: str) -> None:
        self._group = group
        self.bell = Bell()
        self._state = state
        self._wanted: dict[str, _Wanted] = {}
        self._answerable: dict[str, None] = {}
        self._said: set[str] = set()  # shards of which "caught up" was the last word
        state.readers[self] = None

    def want(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> None:
        number, known = number_of(shard), self._state.shards.get(shard)
        if number is None or (known is None and self._state.shards):
            raise unknown_shard(self._state.config.name, shard)
        place = place_in(shard, prefix_of(number), position)
        self._wanted[shard] = _Wanted(place, maximum_records, maximum_bytes)
        if known is None or known.row.closed or shard not in self._said or place < known.last:
            self.answerable(shard)
        else:
            self._wait(known)

    def drop(self, shard: str) -> None:
        self._wanted.pop(shard, None)
        self._answerable.pop(shard, None)
        self._said.discard(shard)
        if (known := self._state.shards.get(shard)) is not None:
            known.waiting.pop(self, None)

    async def ready(self) -> Sequence[Read]:
        while True:
            if self._state.stale:
                await self._state.look()
            elif not self._answerable:
                await self.bell.wait(float("inf"))
            elif reads := await self._ask():
                return reads

    def passed(self, shard: str, position: str, counter: int) -> None:
        if self._group and (number := number_of(shard)) is not None:
            place = place_in(shard, prefix_of(number), position)
            self._state.passed(Passed(shard, self._group, counter, place))

    async def close(self) -> None:
        self._state.tell_passed()
        self._state.readers.pop(self, None)
        for shard in list(self._wanted):
            self.drop(shard)

    def answerable(self, shard: str) -> None:
        """There may be an answer now to what was asked of this shard."""
        if shard in self._wanted:
            self._answerable[shard] = None
            self.bell.ring()

    async def _ask(self) -> Sequence[Read]:
        """What of it has an answer. A request stays until then: nothing is lost if this is cancelled."""
        asked = [(self._state.known(shard), self._wanted[shard]) for shard in self._answerable]
        wants = [Want(known.row, each.place, each.maximum_records, each.maximum_bytes) for known, each in asked]
        found = await self._state.read(READ, wants)
        answered: list[Read] = []
        for (known, wanted), each in zip(asked, found, strict=True):
            if self._wanted.get(known.row.shard.id) is not wanted:
                continue  # dropped, or asked anew
            read, damaged = each.read()
            if damaged:
                self._state.file.tell(put_aside, damaged)
            if self._answers(known, read, each.last):
                answered.append(read)
        return answered

    def _answers(self, known: _Known, read: Read, last: int) -> bool:
        """Is it worth telling? If not, it waits for what is put behind `last`."""
        shard = known.row.shard.id
        if shard in self._said and not read.records and not read.ended:
            if known.last <= last and not known.row.closed:
                self._wait(known)
            return False
        del self._wanted[shard], self._answerable[shard]
        (self._said.add if read.caught_up else self._said.discard)(shard)
        return True

    def _wait(self, known: _Known) -> None:
        self._answerable.pop(known.row.shard.id, None)
        known.waiting[self] = None
