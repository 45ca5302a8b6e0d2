"""What StreamSource and StreamTarget promise, for the built-in stream and for any broker's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import pytest

from lambent.errors import InvalidParameterValue, LimitExceeded
from lambent.model import MAXIMUM_RECORD_BYTES, Backlog, Put, Read, Record, Stream
from lambent.ports import StreamReader, StreamSource, StreamTarget

from . import Suite, needs

LARGE = 10**9


class SourceAndTarget(StreamSource, StreamTarget, Protocol):
    """A stream that can be put to and read."""


class StreamSuite(Suite):
    """`make_stream` gives an empty one."""

    async def make_stream(self, config: Stream) -> SourceAndTarget:
        raise NotImplementedError

    async def stream(self, shards: int = 1, **options: object) -> SourceAndTarget:
        return await self.make_stream(Stream.model_validate({"name": "clicks", "shards": shards, **options}))

    async def put(self, stream: SourceAndTarget, *names: str) -> Sequence[str]:
        return await stream.put_many([Put(name.encode(), name) for name in names])

    async def shard_of(self, stream: SourceAndTarget, key: str) -> str:
        """Where this key goes: a record is put there."""
        [position] = await stream.put_many([Put(b"", key)])
        found = await stream.find(position)
        assert found is not None
        return found[0]

    async def start(self, stream: SourceAndTarget, shard: str | None = None) -> tuple[str, str]:
        shard = shard or (await stream.shards())[0].id
        return shard, await stream.position(shard, "TRIM_HORIZON", None)

    async def read(self, reader: StreamReader, shard: str, position: str, maximum: int = 1000) -> Read:
        reader.want(shard, position, maximum, LARGE)
        async with asyncio.timeout(10):
            [read] = await reader.ready()
        assert read.shard == shard
        return read

    async def read_all(self, stream: SourceAndTarget, shard: str) -> list[Record]:
        """Every record of a shard, to its tip."""
        reader = stream.reader()
        _, position = await self.start(stream, shard)
        records: list[Record] = []
        while True:
            read = await self.read(reader, shard, position)
            records += read.records
            if read.caught_up or read.ended:
                await reader.close()
                return records
            position = read.records[-1].position

    async def test_the_stream_declares_what_its_suites_are_told(self) -> None:
        stream = await self.stream()
        assert stream.capabilities == self.capabilities
        if "retention" in self.capabilities:
            assert stream.retention_seconds == 86_400
        assert "clicks" in stream.arn

    async def test_records_come_as_they_were_put_and_in_order(self) -> None:
        stream = await self.stream()
        before = self.clock.now()
        positions = await stream.put_many([Put(b"\x00\xff", "k1", 2), Put(b"", "é")])
        records = await self.read_all(stream, (await stream.shards())[0].id)
        assert [(record.data, record.key, record.hops) for record in records] == [(b"\x00\xff", "k1", 2), (b"", "é", 0)]
        assert [record.position for record in records] == list(positions)
        assert all(before - 1 <= record.arrived_at <= self.clock.now() + 1 for record in records)

    async def test_reading_goes_on_after_a_position(self) -> None:
        stream = await self.stream()
        await self.put(stream, *"abcde")
        shard, position = await self.start(stream)
        reader = stream.reader()
        read = await self.read(reader, shard, position, 2)
        assert [record.data for record in read.records] == [b"a", b"b"]
        assert not read.caught_up
        again = await self.read(reader, shard, read.records[0].position)
        assert [record.data for record in again.records] == [b"b", b"c", b"d", b"e"]
        assert again.lost == read.lost == 0

    async def test_a_read_keeps_to_its_bytes_but_gives_one_record_at_least(self) -> None:
        stream = await self.stream()
        await stream.put_many([Put(b"x" * 1000, "k")] * 10)
        shard, position = await self.start(stream)
        reader = stream.reader()
        reader.want(shard, position, 100, 3500)
        [read] = await reader.ready()
        assert 1 <= len(read.records) <= 3
        reader.want(shard, read.records[-1].position, 100, 1)
        [read] = await reader.ready()
        assert len(read.records) == 1

    async def test_the_tip_is_told_once_and_then_data_waited_for(self) -> None:
        stream = await self.stream()
        shard, position = await self.start(stream)
        reader = stream.reader()
        read = await self.read(reader, shard, position)
        assert (list(read.records), read.caught_up, read.ended) == ([], True, False)
        reader.want(shard, position, 100, LARGE)
        waiting = asyncio.ensure_future(reader.ready())
        await self.pass_time(1)
        assert not waiting.done()
        await self.put(stream, "a")
        async with asyncio.timeout(10):
            [read] = await waiting
        assert [record.data for record in read.records] == [b"a"]
        await reader.close()

    async def test_what_came_between_two_requests_is_not_waited_for(self) -> None:
        stream = await self.stream()
        shard, position = await self.start(stream)
        reader = stream.reader()
        await self.read(reader, shard, position)
        await self.put(stream, "a")
        read = await self.read(reader, shard, position)
        assert [record.data for record in read.records] == [b"a"]

    async def test_a_dropped_shard_is_not_answered(self) -> None:
        stream = await self.stream()
        shard, position = await self.start(stream)
        reader = stream.reader()
        await self.read(reader, shard, position)
        reader.want(shard, position, 100, LARGE)
        reader.drop(shard)
        waiting = asyncio.ensure_future(reader.ready())
        await self.put(stream, "a")
        await self.pass_time(1)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        read = await self.read(reader, shard, position)
        assert len(read.records) == 1

    async def test_a_shard_dropped_and_wanted_again_is_told_its_tip_again(self) -> None:
        stream = await self.stream()
        shard, position = await self.start(stream)
        reader = stream.reader()
        assert (await self.read(reader, shard, position)).caught_up
        reader.drop(shard)
        assert (await self.read(reader, shard, position)).caught_up

    async def test_two_readers_do_not_take_records_from_each_other(self) -> None:
        stream = await self.stream()
        await self.put(stream, "a")
        shard, position = await self.start(stream)
        for reader in (stream.reader(), stream.reader()):
            assert len((await self.read(reader, shard, position)).records) == 1

    async def test_a_cancelled_wait_loses_no_answer(self) -> None:
        stream = await self.stream()
        shard, position = await self.start(stream)
        reader = stream.reader()
        await self.read(reader, shard, position)
        reader.want(shard, position, 100, LARGE)
        waiting = asyncio.ensure_future(reader.ready())
        await self.pass_time(0.1)
        await self.put(stream, "a")
        waiting.cancel()
        await asyncio.wait([waiting])
        if waiting.cancelled():
            async with asyncio.timeout(10):
                [read] = await reader.ready()
            assert len(read.records) == 1

    async def test_latest_starts_behind_what_is_there(self) -> None:
        stream = await self.stream()
        await self.put(stream, "before")
        shard = (await stream.shards())[0].id
        position = await stream.position(shard, "LATEST", None)
        await self.put(stream, "after")
        read = await self.read(stream.reader(), shard, position)
        assert [record.data for record in read.records] == [b"after"]

    @needs("AT_TIMESTAMP")
    async def test_at_timestamp_starts_with_the_first_record_from_then_on(self) -> None:
        stream = await self.stream()
        await self.put(stream, "before")
        await self.pass_time(1)
        then = self.clock.now()
        await self.pass_time(1)
        await self.put(stream, "after")
        shard = (await stream.shards())[0].id
        for timestamp, expected in ((then, [b"after"]), (0, [b"before", b"after"]), (self.clock.now() + 60, [])):
            position = await stream.position(shard, "AT_TIMESTAMP", timestamp)
            read = await self.read(stream.reader(), shard, position)
            assert [record.data for record in read.records] == expected
        last = (await self.read_all(stream, shard))[-1]
        position = await stream.position(shard, "AT_TIMESTAMP", last.arrived_at)
        assert (await self.read(stream.reader(), shard, position)).records == [last]

    @needs("shards")
    async def test_a_key_stays_in_its_shard_and_keys_spread(self) -> None:
        stream = await self.stream(shards=4)
        shards = await stream.shards()
        assert len({shard.id for shard in shards}) == 4
        keys = [f"k{number}" for number in range(100)]
        await stream.put_many([Put(b"1", key) for key in keys])
        await stream.put_many([Put(b"2", key) for key in keys])
        seen: dict[str, str] = {}
        for shard in shards:
            records = await self.read_all(stream, shard.id)
            assert records
            for record in records:
                assert seen.setdefault(record.key, shard.id) == shard.id
        assert seen.keys() == set(keys)

    @needs("shards")
    async def test_one_wait_answers_for_all_shards_that_have_something(self) -> None:
        stream = await self.stream(shards=8)
        shards = [shard.id for shard in await stream.shards()]
        reader = stream.reader()
        starts = {shard: await stream.position(shard, "TRIM_HORIZON", None) for shard in shards}
        for _ in range(2):
            for shard, position in starts.items():
                reader.want(shard, position, 100, LARGE)
            answered: set[str] = set()
            while len(answered) < 8:
                async with asyncio.timeout(10):
                    answered |= {read.shard for read in await reader.ready()}
                if not answered:
                    break
            await stream.put_many([Put(b"x", f"k{number}") for number in range(200)])
        await reader.close()

    @needs("shards")
    async def test_what_comes_to_an_idle_shard_while_others_are_read_is_not_waited_for(self) -> None:
        stream = await self.stream(shards=2)
        busy, idle = [shard.id for shard in await stream.shards()]
        key_of = {await self.shard_of(stream, key): key for key in map(str, range(20))}
        reader, behind = stream.reader(), {}
        for shard in (busy, idle):
            behind[shard] = await stream.position(shard, "LATEST", None)
            reader.want(shard, behind[shard], 100, LARGE)
        told: set[str] = set()
        async with asyncio.timeout(10):
            while told != {busy, idle}:  # each is told once that there is nothing
                told |= {read.shard for read in await reader.ready()}
        for shard in (busy, idle):
            reader.want(shard, behind[shard], 100, LARGE)
        for shard in (busy, idle):
            await stream.put_many([Put(b"x", key_of[shard])])
            async with asyncio.timeout(10):
                [read] = await reader.ready()
            assert (read.shard, len(read.records)) == (shard, 1)
        await reader.close()

    @needs("retention")
    async def test_what_retention_ended_is_told_as_lost_with_what_comes_after_it(self) -> None:
        stream = await self.stream(retention_seconds=3600)
        shard, position = await self.start(stream)
        await self.put(stream, *"abc")
        await self.pass_time(3601)
        reader = stream.reader()
        read = await self.read(reader, shard, position)
        assert (list(read.records), read.caught_up, read.lost) == ([], True, 0)
        await self.put(stream, *"de")
        read = await self.read(reader, shard, position)
        assert ([record.data for record in read.records], read.lost) == ([b"d", b"e"], 3)
        _, horizon = await self.start(stream)
        assert (await self.read(stream.reader(), shard, horizon)).lost == 0

    @needs("groups")
    async def test_what_a_group_has_not_passed_stays_however_old_and_goes_when_it_has(self) -> None:
        stream = await self.stream(retention_seconds=3600)
        shard, horizon = await self.start(stream)
        reader = stream.reader("m1")
        reader.passed(shard, horizon, 1)
        await self.read(reader, shard, horizon)
        positions = await self.put(stream, *"abcd")
        await self.pass_time(3601)
        assert [record.data for record in await self.read_all(stream, shard)] == [b"a", b"b", b"c", b"d"]
        reader.passed(shard, positions[1], 2)
        reader.passed(shard, positions[3], 1)  # from a former owner
        await reader.close()
        await self.pass_time(0.1)
        await self.put(stream, "e")
        assert [record.data for record in await self.read_all(stream, shard)] == [b"c", b"d", b"e"]
        reader = stream.reader("m1")
        reader.passed(shard, horizon, 3)  # it was sought back
        read = await self.read(reader, shard, horizon)
        assert len(read.records) + read.lost == 5
        reader.passed(shard, positions[3], 3)
        await reader.close()
        await self.pass_time(0.1)
        assert [record.data for record in await self.read_all(stream, shard)] == [b"e"]

    @needs("groups")
    async def test_a_stream_that_keeps_nothing_unread_forgets_by_age_alone(self) -> None:
        stream = await self.stream(retention_seconds=3600, keep_unread=False)
        shard, horizon = await self.start(stream)
        reader = stream.reader("m1")
        reader.passed(shard, horizon, 1)
        await self.read(reader, shard, horizon)
        await self.put(stream, "a")
        await self.pass_time(3601)
        assert await self.read_all(stream, shard) == []

    @needs("maximum_bytes")
    async def test_a_full_stream_refuses_a_put_as_a_whole_and_takes_it_when_there_is_room(self) -> None:
        stream = await self.stream(shards=2, maximum_bytes=1000, retention_seconds=3600)
        await stream.put_many([Put(b"x" * 98, f"k{number}") for number in range(8)])
        for puts in ([Put(b"x" * 201, "k")], [Put(b"x", "k"), Put(b"x" * 200, "l")]):
            with pytest.raises(LimitExceeded, match="full"):
                await stream.put_many(puts)
        await stream.put_many([Put(b"x" * 199, "k")])
        with pytest.raises(LimitExceeded):
            await stream.put_many([Put(b"", "k")])
        held = [record for shard in await stream.shards() for record in await self.read_all(stream, shard.id)]
        assert len(held) == 9
        await self.pass_time(3601)
        with pytest.raises(LimitExceeded):
            await stream.put_many([Put(b"x" * 1000, "k")])
        await stream.put_many([Put(b"x" * 999, "k")])

    @needs("reshard")
    async def test_a_split_shard_ends_and_its_children_name_it(self) -> None:
        stream = await self.stream()
        keys = [f"k{number}" for number in range(50)]
        await self.put(stream, *keys)
        shard, position = await self.start(stream)
        reader = stream.reader()
        last = (await self.read(reader, shard, position)).records[-1].position
        reader.want(shard, last, 100, LARGE)
        waiting = asyncio.ensure_future(reader.ready())
        await self.pass_time(0.1)
        children = await stream.split(shard)  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            [read] = await waiting
        assert (list(read.records), read.ended) == ([], True)
        assert [child.parents for child in children] == [(shard,), (shard,)]
        assert [each.id for each in await stream.shards()] == [shard, *(child.id for child in children)]
        await self.put(stream, *keys)
        halves = [{record.key for record in await self.read_all(stream, child.id)} for child in children]
        assert not halves[0] & halves[1]
        assert halves[0] | halves[1] == set(keys)
        assert all(halves)
        assert len(await self.read_all(stream, shard)) == 50

    @needs("reshard")
    async def test_merged_shards_end_and_their_child_names_both(self) -> None:
        stream = await self.stream(shards=3)
        one, two, three = [shard.id for shard in await stream.shards()]
        with pytest.raises(InvalidParameterValue):
            await stream.merge(one, three)  # type: ignore[attr-defined]
        child = await stream.merge(two, one)  # type: ignore[attr-defined]
        assert set(child.parents) == {one, two}
        for closed in (one, two):
            with pytest.raises(InvalidParameterValue):
                await stream.split(closed)  # type: ignore[attr-defined]
        await self.put(stream, *(f"k{number}" for number in range(60)))
        found = [len(await self.read_all(stream, shard)) for shard in (one, two, three, child.id)]
        assert found[:2] == [0, 0]
        assert sum(found) == 60
        reader = stream.reader()
        assert (await self.read(reader, *await self.start(stream, one))).ended

    @needs("reshard")
    async def test_a_keys_positions_rise_over_a_split(self) -> None:
        stream = await self.stream()
        [before] = await self.put(stream, "k")
        await stream.split((await stream.shards())[0].id)  # type: ignore[attr-defined]
        [after] = await self.put(stream, "k")
        assert len(before) == len(after)
        assert int(before) < int(after)

    @needs("backlog")
    async def test_the_backlog_is_what_lies_behind_a_position(self) -> None:
        stream = await self.stream()
        shard = (await stream.shards())[0].id
        assert await stream.backlog(shard, None) == Backlog(0)  # type: ignore[attr-defined]
        before = self.clock.now()
        positions = await self.put(stream, "a", "b", "c")
        backlog = await stream.backlog(shard, None)  # type: ignore[attr-defined]
        assert backlog.records == 3
        assert before - 1 <= backlog.oldest_at <= self.clock.now() + 1
        assert (await stream.backlog(shard, positions[0])).records == 2  # type: ignore[attr-defined]
        assert await stream.backlog(shard, positions[2]) == Backlog(0)  # type: ignore[attr-defined]

    @needs("backlog")
    async def test_a_record_is_found_by_its_position(self) -> None:
        stream = await self.stream(shards=2)
        positions = await self.put(stream, *(f"k{number}" for number in range(10)))
        for number, position in enumerate(positions):
            shard, record = await stream.find(position)  # type: ignore[attr-defined]
            assert (record.position, record.key) == (position, f"k{number}")
            assert position in [each.position for each in await self.read_all(stream, shard)]
        assert await stream.find(positions[-1][:-6] + "999999") is None  # type: ignore[attr-defined]
        assert await stream.find("no position") is None  # type: ignore[attr-defined]

    @needs("kinesis")
    @pytest.mark.parametrize(
        "bad",
        [Put(b"x" * (MAXIMUM_RECORD_BYTES + 1), "k"), Put(b"x", ""), Put(b"x", "k" * 257)],
        ids=["large", "no key", "long key"],
    )
    async def test_one_bad_record_refuses_all_of_a_put(self, bad: Put) -> None:
        stream = await self.stream()
        with pytest.raises(InvalidParameterValue):
            await stream.put_many([Put(b"good", "k"), bad])
        assert not await self.read_all(stream, (await stream.shards())[0].id)

    @needs("kinesis")
    async def test_the_largest_record_is_taken(self) -> None:
        stream = await self.stream()
        await stream.put_many([Put(b"x" * MAXIMUM_RECORD_BYTES, "k" * 256)])
        assert len(await self.read_all(stream, (await stream.shards())[0].id)) == 1

    @needs("kinesis")
    async def test_a_function_sees_the_records_of_kinesis(self) -> None:
        stream = await self.stream()
        await self.put(stream, "a")
        shard = (await stream.shards())[0].id
        records = await self.read_all(stream, shard)
        [record] = stream.to_event(shard, records)["Records"]  # type: ignore[misc]
        assert record["eventID"] == f"{shard}:{records[0].position}"  # type: ignore[has-type]
        assert record["eventSourceARN"] == stream.arn  # type: ignore[has-type]
        assert stream.view(records[0])
