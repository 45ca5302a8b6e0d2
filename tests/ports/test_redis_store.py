"""The store on Redis passes its suites, on virtual time beside a real server, and keeps what Redis adds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lambent.model import Put, Stream
from lambent.ports import Connection, Store, World
from lambent_pollers.redis_store import BEAT_SECONDS, SWEEP_BEATS, RedisStore
from tests.servers.virtual import virtual_server

from .suites import Suite
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
    pass


class TestRedisEventQueue(_OnRedis, EventQueueSuite):
    pass


class TestRedisLeases(_OnRedis, LeasesSuite):
    pass


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
