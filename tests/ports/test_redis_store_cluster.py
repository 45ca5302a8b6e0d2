"""The store on a Redis cluster passes its suites: what is changed in one step has one slot."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.servers.redis import RedisProcess

from .suites.facts import FactsSuite
from .suites.stores import DocumentsSuite, EventQueueSuite, LeasesSuite
from .test_redis_deployments import cluster, url_of  # noqa: F401  a fixture
from .test_redis_store import _OnRedis, _Remembering

pytestmark = [pytest.mark.virtual_time, pytest.mark.night]


class _OnCluster(_OnRedis):
    @pytest.fixture(autouse=True)
    async def _server(self, _begin: None, cluster: list[RedisProcess]) -> AsyncIterator[None]:  # noqa: F811
        self.redis = _Remembering(url_of(cluster))
        yield
        for connection in self.redis.connections:
            await connection.close()


class TestRedisDocumentsOnCluster(_OnCluster, DocumentsSuite):
    pass


class TestRedisEventQueueOnCluster(_OnCluster, EventQueueSuite):
    pass


class TestRedisLeasesOnCluster(_OnCluster, LeasesSuite):
    pass


class TestRedisFactsOnCluster(_OnCluster, FactsSuite):
    pass
