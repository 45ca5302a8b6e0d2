"""The built-in stream in a SQLite file passes its suite, and keeps what a file adds: restarts and other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from lambent.errors import InvalidParameterValue, ResourceNotFound
from lambent.model import Backlog, Put, Read, Stream
from lambent.ports import StreamReader
from lambent.semantics.builtin import hash_key
from lambent.stores.sqlite_documents import SqliteDocuments
from lambent.stores.sqlite_records import READ, SHARDS, TRIM_ROWS, Found, Want
from lambent.stores.sqlite_stream import SqliteStream, SqliteStreams

from .manual import ManualClock
from .sqlite_files import open_file
from .suites import streams

pytestmark = pytest.mark.virtual_time

LARGE = 10**9


class TestSqliteStream(streams.StreamSuite):
    capabilities = SqliteStream.capabilities

    @pytest.fixture(autouse=True)
    async def _file(self, _begin: None, tmp_path: Path) -> None:
        self.path = tmp_path / "streams.db"
        self.file = await open_file(self.path, self.clock)
        self.streams = SqliteStreams(self.file)

    async def make_stream(self, config: Stream) -> SqliteStream:
        return self.streams.stream(config, self.world())

    # --- what the suite does not ask for

    async def other_process(self, config: Stream) -> SqliteStream:
        return SqliteStreams(await open_file(self.path, self.clock)).stream(config, self.world())

    async def at_tip(self, stream: SqliteStream) -> StreamReader:
        """A reader that waits in every shard for what comes."""
        reader = stream.reader()
        positions = {shard.id: await stream.position(shard.id, "LATEST", None) for shard in await stream.shards()}
        for _ in range(2):
            for shard, position in positions.items():
                reader.want(shard, position, 100, LARGE)
            if _ == 0:
                assert len(await reader.ready()) == len(positions)
        return reader

    async def test_after_a_kill_records_shards_and_positions_are_as_they_were(self) -> None:
        config = Stream(name="s", shards=2)
        stream = await self.make_stream(config)
        positions = await stream.put_many([Put(b"1", f"k{number}", 3) for number in range(20)])
        children = await stream.split((await stream.shards())[0].id)
        before = {shard.id: await self.read_all(stream, shard.id) for shard in await stream.shards()}
        restarted = await self.other_process(replace_shards(config, 7))
        assert [shard.id for shard in await restarted.shards()] == list(before)
        assert {shard: await self.read_all(restarted, shard) for shard in before} == before
        [position] = await restarted.put_many([Put(b"2", next(key for key in KEYS if hash_key(key) < 2**126))])
        assert position == await restarted.position(children[0].id, "LATEST", None)
        assert position not in positions

    @pytest.mark.parametrize("damaged", [b"{", b"\xff"])
    async def test_a_stream_whose_configuration_is_damaged_keeps_its_records_and_that_is_told(
        self, damaged: bytes
    ) -> None:
        troubles: list[str] = []
        self.file.on_trouble(troubles.append)
        config = Stream(name="s")
        await (await self.make_stream(Stream(name="other"))).put_many([Put(b"2", "k")])
        stream = await self.make_stream(config)
        await stream.put_many([Put(b"1", "k")])
        [shard] = await stream.shards()
        before = await self.read_all(stream, shard.id)
        await self.file.write(_spoilt, damaged)
        await self.streams.sweep()
        again = SqliteStreams(self.file).stream(config, self.world())
        assert await self.read_all(again, shard.id) == before != []
        assert "The configuration of s, in streams, was damaged: what is declared takes its place." in troubles

    async def test_nothing_is_kept_for_a_mapping_that_was_deleted(self) -> None:
        documents = SqliteDocuments(self.file)
        await documents.put("mapping", "m1", "{}")
        stream = await self.stream(retention_seconds=3600)
        shard, horizon = await self.start(stream)
        stream.reader("m1").passed(shard, horizon, 1)
        await self.put(stream, "a")
        await self.pass_time(3601)
        await self.streams.sweep()
        assert len(await self.read_all(stream, shard)) == 1
        await documents.delete("mapping", "m1")
        await self.streams.sweep()
        assert await self.read_all(stream, shard) == []

    async def test_a_put_by_another_process_wakes_a_reader(self) -> None:
        config = Stream(name="s")
        stream = await self.make_stream(config)
        reader = await self.at_tip(stream)
        async with asyncio.TaskGroup() as group:
            ready = group.create_task(reader.ready())
            await (await self.other_process(config)).put_many([Put(b"a", "k")])
            await self.pass_time(1)
            assert not ready.done()
            await self.file.read(_nothing, None)  # what the file does ten times a second
        assert [record.data for record in ready.result()[0].records] == [b"a"]

    async def test_a_put_goes_where_another_process_has_split(self) -> None:
        config = Stream(name="s")
        stream = await self.make_stream(config)
        await stream.put_many([Put(b"before", "k")])
        reader = await self.at_tip(stream)
        children = await (await self.other_process(config)).split("shardId-000000000000")
        [position] = await stream.put_many([Put(b"after", "k")])
        found = await stream.find(position)
        assert found is not None
        assert found[0] in [child.id for child in children]
        [read] = await reader.ready()
        assert read.ended

    async def test_a_put_costs_the_idle_shards_nothing(self) -> None:
        stream = await self.make_stream(Stream(name="s", shards=1000))
        reader = await self.at_tip(stream)
        statements: list[str] = []
        assert self.file._opened is not None

        def note(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
            statements.append(sql)
            return True

        self.file._opened.connection.exec_trace = note
        async with asyncio.TaskGroup() as group:
            ready = group.create_task(reader.ready())
            await stream.put_many([Put(b"a", "k"), Put(b"b", "k")])
        assert [len(read.records) for read in ready.result()] == [2]
        assert len(statements) < 20

    async def test_a_reader_hears_of_a_put_whose_caller_was_cancelled(self) -> None:
        stream = await self.make_stream(Stream(name="s"))
        reader = await self.at_tip(stream)
        async with asyncio.TaskGroup() as group:
            ready = group.create_task(reader.ready())
            putting = group.create_task(stream.put_many([Put(b"a", "k")]))
            await asyncio.sleep(0)
            putting.cancel()
        assert putting.cancelled()
        assert len(ready.result()[0].records) == 1

    async def test_a_damaged_record_is_put_aside_and_told_as_lost(self) -> None:
        stream = await self.make_stream(Stream(name="s"))
        positions = await self.put(stream, *"abcdefg")
        for place, statement in ((1, "key = 'x'"), (3, "hops = 1"), (4, "data = x'00'"), (7, "arrived_at = 7")):
            await self.file.write(_update, (statement, (1 << 40) + place))
        shard, position = await self.start(stream)
        reader = stream.reader()
        reads: list[Read] = []
        for _ in range(3):
            reader.want(shard, position, 100, LARGE)
            reads += await reader.ready()
            position = reads[-1].records[-1].position if reads[-1].records else position
        assert [[record.data for record in read.records] for read in reads] == [[b"b"], [b"e", b"f"], []]
        assert [read.lost for read in reads] == [1, 2, 0]
        assert await stream.find(positions[2]) is None
        await self.put(stream, "h")
        read = await self.read(reader, shard, position)
        assert ([record.data for record in read.records], read.lost) == ([b"h"], 1)
        assert await self.file.read(_quarantined, None) == ["1/1", "1/3", "1/4", "1/7"]

    async def test_a_record_of_the_wrong_types_hides_no_other(self) -> None:
        stream = await self.make_stream(Stream(name="s"))
        await self.put(stream, *"abc")
        found: Found = await self.file.read(_first_shard, stream)
        good, bad, other = found.rows
        for place, value in ((1, None), (2, "x"), (4, 7), (5, "text"), (5, None)):
            spoiled = (*bad[:place], value, *bad[place + 1 :])
            read, damaged = found._replace(rows=[good, spoiled, other]).read()
            assert ([record.data for record in read.records], read.lost, list(damaged)) == ([b"a"], 0, [])
            read, damaged = found._replace(rows=[spoiled, other]).read()
            assert ([record.data for record in read.records], read.lost, list(damaged)) == ([b"c"], 2, [bad[0]])

    async def test_a_record_stays_until_it_is_older_than_its_retention(self) -> None:
        stream = await self.make_stream(Stream(name="s", retention_seconds=3600))
        await self.put(stream, "a")
        await self.pass_time(1)
        [position] = await self.put(stream, "b")
        shard = (await stream.shards())[0].id
        await self.pass_time(3600)
        await self.streams.sweep()
        assert (await stream.backlog(shard, None)).records == await self.file.read(_count, None) == 1
        await self.pass_time(0.001)
        assert await stream.backlog(shard, None) == Backlog(0)
        assert await stream.find(position) is None

    async def test_what_is_too_old_leaves_the_file_in_steps(self) -> None:
        stream = await self.make_stream(Stream(name="s", shards=3, retention_seconds=3600))
        await stream.put_many([Put(b"old", f"k{number}") for number in range(6 * TRIM_ROWS)])
        await self.pass_time(3601)
        counts = []
        for _ in range(12):
            await self.streams.sweep()
            counts.append(await self.file.read(_count, None))
        assert counts[0] == 5 * TRIM_ROWS
        assert counts[-1] == 0

    async def test_puts_alone_keep_a_stream_within_its_retention(self) -> None:
        stream = await self.make_stream(Stream(name="s", retention_seconds=3600))
        for _ in range(30):
            await stream.put_many([Put(b"x", "k")] * 500)
            await self.pass_time(400)
        assert await self.file.read(_count, None) == 10 * 500

    async def test_arrival_never_goes_back_though_a_clock_is_behind(self) -> None:
        stream = await self.make_stream(Stream(name="s"))
        stopped = ManualClock()
        stopped.epoch = self.clock.now()
        behind = SqliteStreams(await open_file(self.path, stopped)).stream(Stream(name="s"), self.world())
        await self.pass_time(100)
        await self.put(stream, "ours")
        await behind.put_many([Put(b"theirs", "k")])
        one, other = await self.read_all(stream, "shardId-000000000000")
        assert (one.key, other.key) == ("ours", "k")
        assert one.arrived_at == other.arrived_at

    async def test_what_is_no_shard_and_no_position_is_refused(self) -> None:
        stream = await self.make_stream(Stream(name="s"))
        reader = stream.reader()
        for shard in ("shardId-1", "shardId-000000000001", "s"):
            with pytest.raises(ResourceNotFound):
                await stream.position(shard, "LATEST", None)
            with pytest.raises(ResourceNotFound):
                reader.want(shard, "49" + "0" * 54, 1, 1)
        for shard in ("shardId-000000000001", "shardId-" + "9" * 30):
            with pytest.raises(ResourceNotFound):
                await stream.split(shard)
        with pytest.raises(InvalidParameterValue):
            reader.want("shardId-000000000000", "49", 1, 1)
        beyond = f"49{0:030d}" + "9" * 24
        assert await stream.find(beyond) is None
        assert await stream.backlog("shardId-000000000000", beyond) == Backlog(0)
        assert (await self.read(reader, "shardId-000000000000", beyond)).caught_up
        with pytest.raises(InvalidParameterValue):
            await stream.position("shardId-000000000000", "HORIZON", None)

    async def test_a_changed_retention_holds_for_what_is_there_already(self) -> None:
        stream = await self.make_stream(Stream(name="s", retention_seconds=86_400))
        await self.put(stream, *"ab")
        await self.pass_time(4000)
        stream = await self.make_stream(Stream(name="s", retention_seconds=3600))
        assert (await stream.backlog("shardId-000000000000", None)).records == 0


KEYS = [f"k{number}" for number in range(100)]


def replace_shards(config: Stream, shards: int) -> Stream:
    return config.model_copy(update={"shards": shards})


def _nothing(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    return items


def _update(cursor: apsw.Cursor, items: Sequence[tuple[str, int]]) -> Sequence[None]:
    for change, number in items:
        cursor.execute("UPDATE records SET " + change + " WHERE number = ?", (number,))
    return [None] * len(items)


def _first_shard(cursor: apsw.Cursor, items: Sequence[SqliteStream]) -> Sequence[Found]:
    grounds = [stream._state._ground() for stream in items]
    shards = [rows[0] for rows in SHARDS(cursor, [(ground, None) for ground in grounds])]
    wants = [(ground, [Want(row, 0, 100, LARGE)]) for ground, row in zip(grounds, shards, strict=True)]
    return [found for (found,) in READ(cursor, wants)]


def _quarantined(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[list[object]]:
    return [[name for (name,) in cursor.execute("SELECT name FROM quarantine ORDER BY name")] for _ in items]


def _count(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[object]:
    return [cursor.execute("SELECT count(*) FROM records").get for _ in items]


def _spoilt(cursor: apsw.Cursor, items: Sequence[bytes]) -> Sequence[bytes]:
    cursor.executemany("UPDATE streams SET config = CAST(? AS TEXT)", [(item,) for item in items])
    return items
