"""The queue on Redis passes its suites in real time too, by the server's own clock: minutes, so at night."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from lambent.model import Queue
from lambent.ports import Clock
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_queue import RedisQueue, RedisQueues
from tests.servers.clock import RealClock

from .suites import Suite, queues

pytestmark = pytest.mark.night


class _InRealTime(Suite):
    capabilities = RedisQueue.capabilities

    def make_clock(self) -> Clock:
        return RealClock()

    @pytest.fixture(autouse=True)
    async def _server(self, _begin: None, redis_url: str) -> AsyncIterator[None]:
        self.server = RedisServer(redis_url, random.Random(0).random)
        self.queues = RedisQueues(self.server)
        yield
        await self.server.close()

    async def make_queue(self, config: Queue) -> RedisQueue:
        return self.queues.queue(config, self.world())


class TestRedisQueueInRealTime(_InRealTime, queues.QueueSuite):
    pass


class TestRedisFifoQueueInRealTime(_InRealTime, queues.FifoQueueSuite):
    pass
