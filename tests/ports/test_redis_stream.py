"""The stream on Redis passes its suite, on virtual time beside a real server, and keeps what Redis adds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lambent.model import Stream
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
        self.streams = RedisStreams(self.server, self.new_id)
        yield
        await self.server.close()

    async def make_stream(self, config: Stream) -> RedisStream:
        return self.streams.stream(config, self.world())


class TestRedisStream(_OnRedis, streams.StreamSuite):
    pass
