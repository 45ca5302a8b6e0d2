"""A stream on Redis that other programs write: what becomes of their entries, and of those that they trim."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import uuid
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from lambent import Client, Engine
from lambent.errors import InvalidParameterValue, StoreUnavailable
from lambent.model import Read, Stream
from lambent.ports import StreamReader, World
from lambent.stores.memory import MemoryStore
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_plain_stream import Fields, PlainRedisStream
from lambent_pollers.redis_stream_source import RedisStreamSource, parse_stream_url, source
from tests.servers.clock import RealClock
from tests.servers.redis import RedisProcess

WORLD = World("engine-1", RealClock(), random.Random(1).random, lambda: str(uuid.uuid4()))
SHARD = "shardId-000000000000"
LARGE = 10**9
_NAMES = itertools.count()


class Others:
    """Programs that know nothing of lambent, and what lambent has of their stream."""

    def __init__(self, server: RedisServer, name: str) -> None:
        self.server, self.name = server, name

    def stream(self, **fields: str) -> PlainRedisStream:
        return PlainRedisStream(self.server, self.name, Fields(**fields), WORLD)

    async def add(self, *entries: Sequence[str | bytes], ids: str = "*") -> list[bytes]:
        return [await self.server.call("XADD", self.name, ids, *entry) for entry in entries]

    async def add_numbers(self, *numbers: int) -> list[bytes]:
        return await self.add(*(("n", str(number)) for number in numbers))

    async def lag(self, group: str = "m1") -> object:
        [found] = [each for each in await self.server.call("XINFO GROUPS", self.name) if each["name"] == group.encode()]
        return found["lag"]


@pytest.fixture
async def others(redis_process: RedisProcess) -> AsyncIterator[Others]:
    server = RedisServer(redis_process.url, WORLD.random)
    yield Others(server, f"others:{next(_NAMES)}")
    await server.close()


async def read(reader: StreamReader, position: str, maximum: int = 1000, maximum_bytes: int = LARGE) -> Read:
    reader.want(SHARD, position, maximum, maximum_bytes)
    async with asyncio.timeout(10):
        [found] = await reader.ready()
    return found


def numbers(found: Read) -> list[int]:
    return [int(json.loads(record.data)["n"]) for record in found.records]


# --------------------------------------------------------------------------- entries


async def test_an_entry_is_a_record_whose_data_are_its_fields_as_json(others: Others) -> None:
    [entry_id] = await others.add(("name", "Zoë", "raw", b"\xff\x00", "name", "Ada"))
    stream = others.stream()
    [record] = (await read(stream.reader(), await stream.position(SHARD, "TRIM_HORIZON", None))).records
    fields = json.loads(record.data)
    assert fields["name"] == "Ada"
    assert fields["raw"].encode("utf-8", "surrogateescape") == b"\xff\x00"
    assert record.key == others.name
    assert record.arrived_at == int(entry_id.split(b"-")[0]) / 1e3
    [event] = stream.to_event(SHARD, [record])["Records"]  # type: ignore[misc]
    assert event["eventID"] == f"{SHARD}:{record.position}"  # type: ignore[has-type]


async def test_fields_can_be_named_that_have_the_data_and_the_key(others: Others) -> None:
    await others.add(("__data__", b"\x00bytes", "user", "ada"), ("user", ""))
    stream = others.stream(data="__data__", key="user")
    found = await read(stream.reader(), await stream.position(SHARD, "TRIM_HORIZON", None))
    assert [(record.data, record.key) for record in found.records] == [
        (b"\x00bytes", "ada"),
        (b'{"user":""}', others.name),
    ]


async def test_ids_of_any_kind_are_read_in_their_order(others: Others) -> None:
    for entry_id in ("0-1", "5-18446744073709551615", "18446744073709551615-7"):
        await others.add(("n", "1"), ids=entry_id)
    stream = others.stream()
    position, seen = await stream.position(SHARD, "TRIM_HORIZON", None), []
    reader = stream.reader()
    for _ in range(3):
        found = await read(reader, position, 1)
        position = found.records[0].position
        seen.append(position)
    assert seen == sorted(seen)
    assert len({len(each) for each in seen}) == 1


async def test_reading_starts_where_it_is_asked_to(others: Others) -> None:
    stream = others.stream()
    before = await stream.position(SHARD, "LATEST", None)  # nobody has made it yet
    for entry_id in ("1000-0", "2000-0"):
        await others.add(("n", entry_id[0]), ids=entry_id)
    for start, timestamp, expected in (
        ("TRIM_HORIZON", None, [1, 2]),
        ("LATEST", None, []),
        ("AT_TIMESTAMP", 1.0, [1, 2]),
        ("AT_TIMESTAMP", 1.001, [2]),
        ("AT_TIMESTAMP", 3.0, []),
    ):
        found = await read(stream.reader(), await stream.position(SHARD, start, timestamp))
        assert (numbers(found), found.caught_up, found.lost) == (expected, True, 0)
    assert numbers(await read(stream.reader(), before)) == [1, 2]


async def test_a_read_keeps_to_its_limits_but_gives_one_record_at_least(others: Others) -> None:
    await others.add(*[("n", "1" * 1000)] * 100)
    stream = others.stream()
    reader, position = stream.reader(), await stream.position(SHARD, "TRIM_HORIZON", None)
    for maximum, maximum_bytes, expected, tip in ((7, LARGE, 7, False), (100, 40_100, 40, False), (100, 1, 1, False)):
        found = await read(reader, position, maximum, maximum_bytes)
        assert (len(found.records), found.caught_up) == (expected, tip)
        position = found.records[-1].position
    assert len((await read(reader, position)).records) == 52


async def test_who_is_at_the_tip_waits_at_the_server_and_is_woken_by_the_next_entry(others: Others) -> None:
    stream = others.stream()
    reader, position = stream.reader(), await stream.position(SHARD, "LATEST", None)
    assert (await read(reader, position)).caught_up
    for number in range(3):
        reader.want(SHARD, position, 10, LARGE)
        waiting = asyncio.ensure_future(reader.ready())
        while not await blocked(others.server):
            await asyncio.sleep(0)
        reader.passed(SHARD, position, 1)  # which nobody need be woken for
        await others.add_numbers(number)
        async with asyncio.timeout(10):
            [found] = await waiting
        assert numbers(found) == [number]
        position = found.records[0].position
    reader.want(SHARD, position, 10, LARGE)
    waiting = asyncio.ensure_future(reader.ready())
    while not await blocked(others.server):
        await asyncio.sleep(0)
    reader.drop(SHARD)
    await others.add_numbers(3)
    assert numbers(await read(stream.reader(), position)) == [3]
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert numbers(await read(reader, position)) == [3]
    await reader.close()


async def blocked(server: RedisServer) -> int:
    return int((await server.call("INFO", "clients"))["blocked_clients"])


async def test_somebody_elses_keys_are_no_stream_and_it_is_said(others: Others) -> None:
    await others.server.call("SET", others.name, "x")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await others.stream().position(SHARD, "TRIM_HORIZON", None)


# --------------------------------------------------------------------------- what others trim


async def test_what_others_trim_before_it_is_read_is_told_as_lost_with_what_comes_after_it(others: Others) -> None:
    await others.add_numbers(*range(10))
    stream = others.stream()
    reader, position = stream.reader("m1"), await stream.position(SHARD, "TRIM_HORIZON", None)
    position = (await read(reader, position, 2)).records[-1].position
    await others.server.call("XTRIM", others.name, "MAXLEN", 5)
    found = await read(reader, position, 2)
    assert (numbers(found), found.lost) == ([5, 6], 3)
    position = found.records[-1].position
    await others.server.call("XTRIM", others.name, "MAXLEN", 0)
    found = await read(reader, position)
    assert (numbers(found), found.caught_up, found.lost) == ([], True, 0)
    await others.add_numbers(10)
    found = await read(reader, position)
    assert (numbers(found), found.lost) == ([10], 3)
    assert (await read(stream.reader(), await stream.position(SHARD, "TRIM_HORIZON", None))).lost == 0


async def test_what_others_take_out_of_the_middle_is_told_as_lost_once(others: Others) -> None:
    ids = await others.add_numbers(*range(10))
    stream = others.stream()
    reader, position = stream.reader("m1"), await stream.position(SHARD, "TRIM_HORIZON", None)
    position = (await read(reader, position, 2)).records[-1].position
    await others.server.call("XDEL", others.name, ids[4], ids[7])
    lost, seen = 0, []
    while True:
        found = await read(reader, position, 4)
        lost, seen = lost + found.lost, seen + numbers(found)
        if found.caught_up:
            break
        position = found.records[-1].position
    assert (seen, lost) == ([2, 3, 5, 6, 8, 9], 2)


async def test_a_next_owner_knows_from_the_group_how_many_were_trimmed_before_it_came(others: Others) -> None:
    await others.add_numbers(*range(10))
    stream = others.stream()
    reader, position = stream.reader("m1"), await stream.position(SHARD, "TRIM_HORIZON", None)
    reader.passed(SHARD, position, 1)
    found = await read(reader, position)
    position = found.records[3].position
    reader.passed(SHARD, position, 1)
    await reader.close()
    assert await others.lag() == 6
    await others.server.call("XTRIM", others.name, "MAXLEN", 2)
    taken = others.stream().reader("m1")
    taken.passed(SHARD, position, 2)  # it begins where its lease says, and knows no number
    last = found.records[9].position
    found = await read(taken, position)
    assert (numbers(found), found.lost) == ([8, 9], 4)
    taken.passed(SHARD, found.records[0].position, 2)
    await taken.close()
    assert await others.lag() == 1
    reader = others.stream().reader("m1")
    reader.passed(SHARD, last, 1)  # a former owner's last word counts no more
    await reader.close()
    assert await others.lag() == 1


# --------------------------------------------------------------------------- by URL


@pytest.mark.parametrize(
    ("url", "server", "what", "declared"),
    [
        ("redis-stream://h:1/0/orders%3Anew", "redis://h:1/0", ("orders:new", Fields()), False),
        ("rediss-stream://u:p%40@h/o?data=d&key=k", "rediss://u:p%40@h", ("o", Fields("d", "k")), False),
        ("redis-stream+sentinel://a,b/m/2/o?prefix=p", "redis+sentinel://a,b/m/2?prefix=p", ("o", Fields()), False),
        ("redis-stream+cluster://a,b/o?owner=lambent", "redis+cluster://a,b", Stream(name="o"), False),
        ("redis-stream://h/o?shards=4", "redis://h", Stream(name="o", shards=4), True),
    ],
)  # fmt: skip
def test_a_url_names_a_server_and_a_stream(url: str, server: str, what: object, declared: bool) -> None:
    assert parse_stream_url(url) == (server, what, declared)


@pytest.mark.parametrize(
    "url",
    [
        "redis-stream://h", "redis-stream://h/", "redis-stream://h/s?x=1", "redis-stream://h/s?shards=x",
        "redis-stream://h/s?owner=me", "redis-stream://h/s?owner=lambent&data=d", "redis-stream://h/a b?shards=1",
    ],
)  # fmt: skip
async def test_a_url_that_names_no_stream_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidParameterValue) as refused:
        source(url.replace("://", "://ada:secret@"), WORLD)
    assert "secret" not in str(refused.value)


async def test_a_source_takes_a_stream_of_lambents_as_it_was_declared_or_declares_it(redis_url: str) -> None:
    base, _, options = redis_url.replace("redis:", "redis-stream:").partition("?")
    declared = source(f"{base}/0/s?{options}&shards=3&retention_seconds=7200", WORLD)
    as_it_is = source(f"{base}/0/s?{options}&owner=lambent", WORLD)
    assert isinstance(as_it_is, RedisStreamSource)
    assert source.kind == "stream"
    assert len(await declared.shards()) == len(await as_it_is.shards()) == 3
    assert as_it_is.retention_seconds == 7200
    await declared.close()
    await as_it_is.close()


async def test_an_engine_settles_once_what_others_trimmed_while_it_was_away(others: Others) -> None:
    store, seen, reached = MemoryStore(), list[int](), asyncio.Event()
    [(host, port)] = others.server.url.addresses

    async def take(event: dict[str, Any], context: object) -> None:
        seen.extend(json.loads(b64decode(record["kinesis"]["data"]))["n"] for record in event["Records"])
        if seen[-1] in ("9", "19"):
            reached.set()

    async def until_reached() -> None:
        engine = Engine(store=store)
        engine.on(f"redis-stream://{host}:{port}/0/{others.name}", batch_size=4, name="take")(take)
        async with engine, asyncio.timeout(30):
            await reached.wait()
        reached.clear()

    await others.add_numbers(*range(10))
    await until_reached()
    await others.add_numbers(*range(10, 20))
    await others.server.call("XTRIM", others.name, "MAXLEN", 3)
    await until_reached()
    assert seen == [str(number) for number in (*range(10), 17, 18, 19)]
    [group] = await others.server.call("XINFO GROUPS", others.name)
    assert group["lag"] == 0
    async with Client(store) as client:
        [mapping] = await client.list_mappings()
        audit = await client.audit(mapping)
    assert audit.total.fates == {("delivered", ""): 13, ("lost", "trimmed by the source"): 7}
