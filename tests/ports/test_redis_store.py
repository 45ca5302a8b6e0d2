"""The store on Redis passes its suites, on virtual time beside a real server, and keeps what Redis adds."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from lambent.errors import StoreUnavailable
from lambent.model import Delete, Event, Put, Release, Stream
from lambent.ports import Connection, Store, World
from lambent_pollers.redis_archive import RedisArchive
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_store import BEAT_SECONDS, BELIEVED_SECONDS, BURIAL_BEATS, SWEEP_BEATS, RedisStore
from tests.servers.virtual import virtual_server

from .suites import Suite
from .suites.archives import ArchiveSuite
from .suites.facts import FactsSuite
from .suites.stores import DocumentsSuite, EventQueueSuite, LeasesSuite

pytestmark = pytest.mark.virtual_time


class _Remembering(RedisStore):
    """Its connections have servers of their own, as in several processes, and are closed at the end."""

    def __init__(self, url: str) -> None:
        super().__init__(url, serve=lambda world: virtual_server(url, world.clock))
        self.connections: list[Connection] = []

    async def connect(self, world: World, client: bool = False):  # type: ignore[no-untyped-def]
        connection = await super().connect(world, client)
        self.connections.append(connection)
        return connection


class _OnRedis(Suite):
    capabilities = RedisStore.capabilities

    @pytest.fixture(autouse=True)
    async def _server(self, _begin: None, redis_url: str) -> AsyncIterator[None]:
        self.redis = _Remembering(redis_url)
        yield
        for connection in self.redis.connections:
            await connection.close()

    def make_store(self) -> Store:
        return self.redis


class TestRedisDocuments(_OnRedis, DocumentsSuite):
    async def test_after_a_failover_that_lost_revisions_a_list_has_all(self) -> None:
        connection = await self.connect()
        documents, server = connection.documents, connection.server
        for name in ("a", "b", "c"):
            await documents.put("function", name, "{}")
        seen = max(each.revision for each in await documents.list("function"))
        await server.call("SET", server.keys("documents", "revision"), seen - 1)  # the new primary has not got the last
        assert {each.name for each in await documents.list("function", seen)} == {"a", "b", "c"}


class TestRedisEventQueue(_OnRedis, EventQueueSuite):
    pass


class TestRedisLeases(_OnRedis, LeasesSuite):
    pass


def _cut_off(server: RedisServer, after: int) -> RedisServer:
    """A server that is away after so many SETs."""

    class CutOff:
        left = after

        def __getattr__(self, name: str) -> Any:
            return getattr(server, name)

        def call(self, *words: Any) -> Any:
            if words[0] == "SET":
                self.left -= 1
                if self.left < 0:
                    raise StoreUnavailable("away")
            return server.call(*words)

    return cast(RedisServer, CutOff())


class TestRedisArchive(_OnRedis, ArchiveSuite):
    async def test_an_upload_that_is_cut_off_is_no_zip_and_harms_none(self) -> None:
        connection = await self.connect()
        data = b"0123456789" * 200_000
        archive, name = connection.archive, hashlib.sha256(data).hexdigest()
        with pytest.raises(StoreUnavailable):
            await RedisArchive(_cut_off(connection.server, after=1)).put(name, data)
        assert (await archive.get(name), await archive.ages()) == (None, {})
        left = await connection.server.call("KEYS", f"{connection.server.keys('archive')}*")
        assert left
        for key in left:
            assert await connection.server.call("PTTL", key) > 0, "it goes by itself"
        await archive.put(name, data)
        assert await archive.get(name) == data
        for key in await connection.server.call("KEYS", f"{connection.server.keys('archive')}:zip:*"):
            assert await connection.server.call("PTTL", key) == -1, "it stays"


class TestRedisFacts(_OnRedis, FactsSuite):
    pass


class TestRedisStore(_OnRedis):
    async def test_nothing_is_kept_for_a_mapping_that_was_deleted(self) -> None:
        connection = await self.redis.connect(self.world())
        await connection.documents.put("mapping", "m1", "{}")
        stream = connection.stream(Stream(name="clicks", retention_seconds=3600))
        [shard] = await stream.shards()
        horizon = await stream.position(shard.id, "TRIM_HORIZON", None)
        reader = stream.reader("m1")
        reader.passed(shard.id, horizon, 1)
        await reader.close()
        await stream.put_many([Put(b"a", "k")])
        await self.pass_time(3601 + 2 * SWEEP_BEATS * BEAT_SECONDS)
        assert (await stream.backlog(shard.id, horizon)).records == 1
        await connection.documents.delete("mapping", "m1")
        await self.pass_time(2 * SWEEP_BEATS * BEAT_SECONDS)
        assert (await stream.backlog(shard.id, horizon)).records == 0


BURIED_SECONDS = BELIEVED_SECONDS + (BURIAL_BEATS + 1) * BEAT_SECONDS  # after the last beat of an engine, at most


class TestEngineThatClaimedEvents(_OnRedis):
    """Claims of 900 seconds: what comes back sooner was given back, or its engine is dead."""

    @pytest.fixture(autouse=True)
    async def _engines(self, _server: None) -> None:
        self.ours, self.theirs = [await self.redis.connect(self.world(name)) for name in ("engine-1", "engine-2")]

    async def claim(self, connection: Any, count: int = 1) -> list[Event]:
        await connection.events.put_many([Event(self.new_id(), "f", b"{}", self.clock.now()) for _ in range(count)])
        return [*await connection.events.receive("f", count, 900)]

    def part(self, connection: Any) -> Callable[[], None]:
        """The server is away for this engine, until what is returned is called."""
        run = connection.server.run

        def refuse(*words: object, **options: object) -> None:
            raise StoreUnavailable("away")

        connection.server.run = refuse

        def join() -> None:
            connection.server.run = run

        return join

    async def kept(self, connection: Any) -> int:
        return int(await connection.server.call("HLEN", connection.server.keys("events", "claims")))

    async def test_what_it_had_comes_back_when_it_is_dead_and_no_sooner(self) -> None:
        claimed = await self.claim(self.theirs, 3)
        self.part(self.theirs)
        await self.pass_time(2 * BELIEVED_SECONDS - BEAT_SECONDS)
        assert not await self.ours.events.receive("f", 10, 900)
        begin = self.clock.now()
        assert await self.ours.events.due({"f"}, 900)
        assert self.clock.now() - begin <= BURIED_SECONDS - 2 * BELIEVED_SECONDS + BEAT_SECONDS
        again = await self.ours.events.receive("f", 10, 900)
        assert [(each.request_id, each.attempts) for each in again] == [(each.request_id, 2) for each in claimed]

    async def test_what_it_had_comes_back_to_the_engine_that_starts_after_it(self) -> None:
        for connection in (self.ours, self.theirs):
            await self.claim(connection)
            self.part(connection)
        await self.pass_time(BELIEVED_SECONDS)
        later = await self.redis.connect(self.world("engine-0"))
        await self.pass_time(BURIED_SECONDS - BELIEVED_SECONDS)
        assert [each.attempts for each in await later.events.receive("f", 10, 900)] == [2, 2]

    async def test_if_it_wakes_it_settles_nothing_that_another_has_claimed(self) -> None:
        first, second = await self.claim(self.theirs, 2)
        wake = self.part(self.theirs)
        await self.pass_time(BURIED_SECONDS)
        [again] = await self.ours.events.receive("f", 1, 900)
        wake()
        settled = [Delete(first.receipt, "succeeded"), Delete(second.receipt, "succeeded")]
        assert list(await self.theirs.events.settle_many(settled)) == [False, True]
        assert list(await self.ours.events.settle_many([Delete(again.receipt, "succeeded")])) == [True]
        assert await self.ours.events.pending() == {}

    async def test_it_keeps_what_it_has_over_an_outage_after_which_it_comes_back_later_than_others(self) -> None:
        await self.claim(self.theirs)
        theirs_is_back = self.part(self.theirs)
        await self.pass_time(BELIEVED_SECONDS + (BURIAL_BEATS - 2) * BEAT_SECONDS)
        ours_is_back = self.part(self.ours)
        await self.pass_time(100)
        ours_is_back()
        await self.pass_time((BURIAL_BEATS - 2) * BEAT_SECONDS)
        theirs_is_back()
        await self.pass_time(100)
        assert not await self.ours.events.receive("f", 1, 900)

    async def test_it_is_there_again_after_a_while_and_missed_from_the_beginning(self) -> None:
        await self.claim(self.theirs)
        for _ in range(5):
            join = self.part(self.theirs)
            await self.pass_time(BELIEVED_SECONDS + (BURIAL_BEATS - 2) * BEAT_SECONDS)
            join()
            await self.pass_time(2 * BEAT_SECONDS)
        assert not await self.ours.events.receive("f", 1, 900)

    async def test_nothing_is_kept_of_claims_that_are_over(self) -> None:
        now = self.clock.now()
        for _ in range(20):
            one, two, three, four = await self.claim(self.theirs, 4)
            assert await self.kept(self.theirs) == 4
            deleted = [Delete(one.receipt, "succeeded"), Delete(two.receipt, "succeeded")]
            released = [Release(three.receipt, now, give_back=True), Release(four.receipt, self.clock.now() + 5)]
            assert all(await self.theirs.events.settle_many([*deleted, *released]))
            assert await self.kept(self.theirs) == 0
        await self.theirs.events.receive("f", 30, 5)
        assert await self.kept(self.theirs) == 20
        await self.pass_time(5)
        assert await self.ours.events.due({"f"}, 0)
        assert await self.kept(self.theirs) == 0
        assert len(await self.theirs.events.receive("f", 100, 900)) == 40
        await self.theirs.close()
        assert await self.kept(self.ours) == 0
        assert len(await self.ours.events.receive("f", 100, 900)) == 40
        self.part(self.ours)
        third = await self.redis.connect(self.world("engine-3"))
        await self.pass_time(BURIED_SECONDS)
        assert await self.kept(third) == 0
