"""The stream on Redis passes its suite, on virtual time beside a real server, and keeps what Redis adds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lambent.model import Put, Stream
from lambent_pollers.redis_stream import RedisStream, RedisStreams
from tests.servers.virtual import virtual_server

from .suites import Suite, streams

pytestmark = pytest.mark.virtual_time


class _OnRedis(Suite):
    capabilities = RedisStream.capabilities

    @pytest.fixture(autouse=True)
    async def _server(self, _begin: None, redis_url: str) -> AsyncIterator[None]:
        self.url = redis_url
        self.server = virtual_server(redis_url, self.clock)
        self.streams = RedisStreams(self.server)
        yield
        await self.server.close()

    async def make_stream(self, config: Stream) -> RedisStream:
        return self.streams.stream(config, self.world())


class TestRedisStream(_OnRedis, streams.StreamSuite):
    # --- what the suite does not ask for

    async def other_process(self) -> RedisStreams:
        self.other = virtual_server(self.url, self.clock)
        return RedisStreams(self.other)

    async def test_streams_that_nobody_uses_are_swept_and_keep_nothing_for_a_mapping_that_was_deleted(self) -> None:
        stream = await self.stream(retention_seconds=3600)
        shard, horizon = await self.start(stream)
        for group in ("m1", "m2@elsewhere"):
            reader = stream.reader(group)
            reader.passed(shard, horizon, 1)
            await reader.close()
        await stream.put_many([Put(b"x" * 1000, "k")] * 100)
        other = await self.other_process()
        assert await other.names() == ["clicks"]
        await self.pass_time(3601)
        for mappings, left in ((["m1"], 100), ([], 100)):
            await other.sweep(self.world(), mappings)
            assert len(await self.read_all(stream, shard)) == left
        groups = await self.server.call("XINFO GROUPS", self.shard_key)
        assert [group["name"] for group in groups] == [b"m2@elsewhere"]
        await self.server.call("XGROUP DESTROY", self.shard_key, "m2@elsewhere")
        await other.sweep(self.world())
        assert await self.read_all(stream, shard) == []
        assert await self.server.call("XLEN", self.shard_key) < 10
        await self.other.close()

    @property
    def shard_key(self) -> str:
        return self.server.keys("clicks", "stream") + ":0"
