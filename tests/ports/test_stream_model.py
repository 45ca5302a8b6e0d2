"""The built-in streams against a model of a few lines, in sequences of calls that nobody would think of.

The model keeps every record ever put, in a list for each shard, and scans it. It knows what a reader must be told: what
is young enough, in order and within the limits, and how many were lost before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lambent.model import Backlog, Put, Read, Record, Stream
from lambent.ports import BuiltinStream, World
from lambent.semantics.builtin import hash_key, place_of
from lambent.stores.memory import MemoryStore
from lambent.stores.sqlite_file import SqliteFile
from lambent.stores.sqlite_stream import SqliteStreams

from .manual import ManualClock
from .sqlite_files import open_file

T = TypeVar("T")
RETENTION, MAXIMUM_SHARDS = 3600, 6
CONFIG = Stream(name="s", shards=2, retention_seconds=RETENTION)


@dataclass(eq=False)
class Modelled:
    """A shard as the model knows it: its hash keys, and the records that it ever had."""

    id: str
    first: int
    end: int
    closed: bool = False
    records: list[Record] = field(default_factory=list)


class StreamMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.world = World("engine-1", self.clock, lambda: 0.5, lambda: "id")
        self.put_count = 0
        self.open()
        self.reader = self.stream.reader()
        self.said: set[str] = set()
        ids = [shard.id for shard in self.done(self.stream.shards())]
        half = 2**127
        self.shards = [Modelled(ids[0], 0, half), Modelled(ids[1], half, 2 * half)]

    # --- the stream under test

    def open(self) -> None:
        self.stream: BuiltinStream = self.done(MemoryStore().connect(self.world)).stream(CONFIG)

    def writer(self, elsewhere: bool) -> BuiltinStream:
        """What is put and changed through; elsewhere: in another process."""
        return self.stream

    def notice(self) -> None:
        """What other processes did is known from now on."""

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        async def soon() -> T:
            async with asyncio.timeout(10):
                return await call

        return self.loop.run_until_complete(soon())

    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    # --- the model

    def live(self, shard: Modelled, place: int) -> list[Record]:
        horizon = self.clock.now() - RETENTION
        return [record for record in shard.records[place:] if record.arrived_at >= horizon]

    def expected(self, shard: Modelled, place: int, maximum_records: int, maximum_bytes: int) -> Read:
        live = self.live(shard, place)
        records: list[Record] = []
        for record in live[:maximum_records]:
            maximum_bytes -= len(record.data) + len(record.key)
            if records and maximum_bytes < 0:
                break
            records.append(record)
        tip = len(records) == len(live)
        ended = tip and shard.closed
        lost = len(shard.records) - len(live) - place if records or ended else 0
        return Read(shard.id, records, tip, ended, lost)

    def pick(self, which: int, back: int) -> tuple[Modelled, int, str]:
        """A shard, a place in it, and the position of that."""
        shard = self.shards[which % len(self.shards)]
        place = max(0, len(shard.records) - back)
        first = self.done(self.stream.position(shard.id, "TRIM_HORIZON", None))
        return shard, place, f"{first[:-24]}{place:024d}"

    # --- what is done

    @rule(
        seconds=st.sampled_from([0, 1, RETENTION / 2, RETENTION]),
        keys=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
        size=st.integers(0, 30),
        elsewhere=st.booleans(),
    )
    def put(self, seconds: float, keys: list[str], size: int, elsewhere: bool) -> None:
        self.clock.seconds += seconds
        puts = [Put(b"x" * size + str(self.put_count + number).encode(), key) for number, key in enumerate(keys)]
        self.put_count += len(keys)
        positions = self.done(self.writer(elsewhere).put_many(puts))
        for put, position in zip(puts, positions, strict=True):
            hashed = hash_key(put.key)
            shard = next(each for each in self.shards if not each.closed and each.first <= hashed < each.end)
            assert place_of(position) == len(shard.records) + 1
            shard.records.append(Record(position, put.key, put.data, self.clock.now()))

    @rule(which=st.integers(0, 9), back=st.integers(0, 30), records=st.integers(1, 9), size=st.integers(1, 200))
    def read(self, which: int, back: int, records: int, size: int) -> None:
        self.notice()
        shard, place, position = self.pick(which, back)
        self.reader.want(shard.id, position, records, size)
        expected = self.expected(shard, place, records, size)
        if not expected.records and not expected.ended and shard.id in self.said:
            self.reader.drop(shard.id)
            self.said.discard(shard.id)
            return
        assert list(self.done(self.reader.ready())) == [expected]
        (self.said.add if expected.caught_up else self.said.discard)(shard.id)

    @rule(which=st.integers(0, 9), elsewhere=st.booleans())
    def wait_for_a_put(self, which: int, elsewhere: bool) -> None:
        """A reader at the tip is woken by a put to its shard."""
        self.notice()
        open_shards = [shard for shard in self.shards if not shard.closed]
        shard = open_shards[which % len(open_shards)]
        key = next(name for name in map(str, range(10_000)) if shard.first <= hash_key(name) < shard.end)
        _, place, position = self.pick(self.shards.index(shard), 0)

        async def wait() -> list[Read]:
            self.reader.want(shard.id, position, 9, 1000)
            if shard.id not in self.said:
                await self.reader.ready()
                self.reader.want(shard.id, position, 9, 1000)
            async with asyncio.TaskGroup() as group:
                ready = group.create_task(self.reader.ready())
                await asyncio.sleep(0)
                putting = group.create_task(self.writer(elsewhere).put_many([Put(b"woken", key)]))
                [put_at] = await putting
                shard.records.append(Record(put_at, key, b"woken", self.clock.now()))
                await self.anotice()
                return list(await ready)

        assert self.done(wait()) == [self.expected(shard, place, 9, 1000)]
        self.said.add(shard.id)

    async def anotice(self) -> None: ...

    @rule(which=st.integers(0, 9), elsewhere=st.booleans())
    def split(self, which: int, elsewhere: bool) -> None:
        shard = self.shards[which % len(self.shards)]
        if shard.closed or len(self.shards) > MAXIMUM_SHARDS - 2:
            return
        middle = (shard.first + shard.end) // 2
        one, other = self.done(self.writer(elsewhere).split(shard.id))
        shard.closed = True
        self.shards += [Modelled(one.id, shard.first, middle), Modelled(other.id, middle, shard.end)]

    @rule(which=st.integers(0, 9), elsewhere=st.booleans())
    def merge(self, which: int, elsewhere: bool) -> None:
        shards = sorted((shard for shard in self.shards if not shard.closed), key=lambda shard: shard.first)
        if len(shards) < 2 or len(self.shards) >= MAXIMUM_SHARDS:
            return
        low, high = (shards * 2)[which % (len(shards) - 1) :][:2]
        child = self.done(self.writer(elsewhere).merge(high.id, low.id))
        low.closed = high.closed = True
        self.shards.append(Modelled(child.id, low.first, high.end))

    @rule(seconds=st.sampled_from([1, RETENTION / 2, RETENTION + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule(which=st.integers(0, 9), back=st.integers(0, 15))
    def look(self, which: int, back: int) -> None:
        self.notice()
        shard, place, position = self.pick(which, back)
        live = self.live(shard, place)
        oldest = live[0].arrived_at if live else None
        assert self.done(self.stream.backlog(shard.id, position)) == Backlog(len(live), oldest)
        for record in shard.records[-3:]:
            found = self.done(self.stream.find(record.position))
            assert found == ((shard.id, record) if record in self.live(shard, 0) else None)

    @rule(which=st.integers(0, 9), ago=st.sampled_from([0, 1, 1000, RETENTION]))
    def begin(self, which: int, ago: float) -> None:
        self.notice()
        shard = self.shards[which % len(self.shards)]
        live = self.live(shard, 0)
        since = [record for record in live if record.arrived_at >= self.clock.now() - ago]
        for start, behind in (("TRIM_HORIZON", live), ("AT_TIMESTAMP", since), ("LATEST", [])):
            position = self.done(self.stream.position(shard.id, start, self.clock.now() - ago))
            assert place_of(position) == len(shard.records) - len(behind)

    @invariant()
    def the_shards_are_known(self) -> None:
        assert [shard.id for shard in self.done(self.stream.shards())] == [shard.id for shard in self.shards]


class SqliteMachine(StreamMachine):
    """The same on a file, to which another process puts too, and whose process may be killed at any time."""

    def open(self) -> None:
        self.directory = TemporaryDirectory()
        self.begin_process()
        self.other = SqliteStreams(self.done(self.open_file())).stream(CONFIG, self.world)

    def begin_process(self) -> None:
        self.file = self.done(self.open_file())
        self.streams = SqliteStreams(self.file)
        self.stream = self.streams.stream(CONFIG, self.world)

    async def open_file(self) -> SqliteFile:
        return await open_file(Path(self.directory.name) / "s.db", self.clock)

    def writer(self, elsewhere: bool) -> BuiltinStream:
        return self.other if elsewhere else self.stream

    def notice(self) -> None:
        self.done(self.anotice())

    async def anotice(self) -> None:
        await self.file.read(_nothing, None)  # as the file does ten times a second

    @rule()
    def kill(self) -> None:
        self.begin_process()
        self.reader = self.stream.reader()
        self.said = set()

    @rule()
    def sweep(self) -> None:
        self.done(self.streams.sweep())

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


def _nothing(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    return items


SIZE = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStreamAgainstTheModel = StreamMachine.TestCase
TestSqliteStreamAgainstTheModel = SqliteMachine.TestCase
TestStreamAgainstTheModel.settings = SIZE
TestSqliteStreamAgainstTheModel.settings = SIZE


@pytest.mark.night
@pytest.mark.parametrize("machine", [StreamMachine, SqliteMachine])
def test_no_long_sequence_of_calls_leads_a_stream_astray(machine: type[StreamMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(SIZE, max_examples=2000, stateful_step_count=100))
