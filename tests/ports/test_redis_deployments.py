"""Redis as it is deployed: a cluster of two nodes, Sentinels, TLS."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lambent.errors import StoreUnavailable
from lambent.model import Depth, Queue, Send
from lambent_pollers.redis_connection import Keys, RedisServer
from lambent_pollers.redis_queue import _SCRIPTS, RedisQueue, RedisQueues
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisProcess, free_port, running, sentinel
from tests.servers.virtual import virtual_server

from .suites import Suite, bodies, queues

CERTIFICATE = Path(__file__).parents[1] / "servers/tls/localhost.pem"
_PREFIXES = itertools.count()

# --------------------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisProcess]]:
    """Two nodes, each with half of the slots."""
    options = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
    directories = [tmp_path_factory.mktemp("node") for _ in range(2)]
    buses = [str(free_port()) for _ in range(2)]
    with (
        running(directories[0], **options, **{"cluster-port": buses[0]}) as one,
        running(directories[1], **options, **{"cluster-port": buses[1]}) as other,
    ):
        one.ask("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        other.ask("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        other.ask("CLUSTER", "SET-CONFIG-EPOCH", "2")
        one.ask("CLUSTER", "MEET", "127.0.0.1", str(other.port), buses[1])
        for node in (one, other):
            node.await_that("CLUSTER", "INFO", says=[b"cluster_state:ok", b"cluster_known_nodes:2"])
        yield [one, other]


def url_of(cluster: list[RedisProcess]) -> str:
    return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in cluster)}?prefix=c{next(_PREFIXES)}"


class _OnCluster(Suite):
    capabilities = RedisQueue.capabilities

    @pytest.fixture(autouse=True)
    async def _server(self, _begin: None, cluster: list[RedisProcess]) -> AsyncIterator[None]:
        self.server = virtual_server(url_of(cluster), self.clock)
        self.queues = RedisQueues(self.server)
        yield
        await self.server.close()

    async def make_queue(self, config: Queue) -> RedisQueue:
        return self.queues.queue(config, self.world())


@pytest.mark.virtual_time
class TestRedisQueueOnCluster(_OnCluster, queues.QueueSuite):
    pass


@pytest.mark.virtual_time
class TestRedisFifoQueueOnCluster(_OnCluster, queues.FifoQueueSuite):
    pass


@pytest.mark.virtual_time
class TestRedisQueuesOnCluster(_OnCluster):
    async def test_dead_letters_go_from_slot_to_slot_and_come_once_though_they_are_moved_twice(self) -> None:
        config = Queue(name="q", visibility_timeout_seconds=5, max_receive_count=1, dead_letter_queue="dead")
        queue = await self.make_queue(config)
        dead = await self.make_queue(Queue(name="dead"))
        state = queue._state
        assert not state.dead_keys
        await queue.send_many([Send("poison")])
        await queue.receive(1, 0)
        await self.pass_time(6)
        _, _, moving = await self.queues.perform(state, _SCRIPTS.goes_on, "receive", 10, 0)
        await queue._move([moving])
        await self.pass_time(300)
        await queue._move([moving])  # as after a crash between the copy and the deletion
        assert bodies(await dead.receive(10, 0)) == ["poison"]
        assert await queue.depth() == Depth(0, 0, 0)

    async def test_a_prefix_in_braces_makes_one_step_of_it(self) -> None:
        self.server.keys = Keys("{shop}")
        config = Queue(name="q", visibility_timeout_seconds=5, max_receive_count=1, dead_letter_queue="dead")
        queue = RedisQueues(self.server).queue(config, self.world())
        assert queue._state.dead_keys


# --------------------------------------------------------------------------- Sentinels


async def test_the_primary_is_the_one_that_the_sentinels_name_also_after_a_failover(
    tmp_path: Path,
) -> None:
    with (
        running(tmp_path / "one") as one,
        running(tmp_path / "other") as other,
        sentinel(tmp_path / "sentinel", one) as watcher,
    ):
        server = RedisServer(f"redis+sentinel://127.0.0.1:{watcher.port}/main/1", lambda: 0.5)
        await server.call("SET", "who", "one")
        watcher.ask("SENTINEL", "REMOVE", "main")
        watcher.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", str(other.port), "1")
        one.kill()
        await server.call("SET", "who", "other")
        assert b"other" in other.ask_all(["SELECT", "1"], ["GET", "who"])
        assert "failover" in (await server.check())[-1]
        await server.close()


# --------------------------------------------------------------------------- TLS


async def test_tls_hides_everything_and_a_certificate_that_is_not_trusted_is_refused(
    redis_process: RedisProcess,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    async with Proxy(redis_process.port, context).running() as proxy:
        host = f"rediss://localhost:{proxy.port}?timeout=0.3"
        server = RedisServer(f"{host}&ssl_ca_certs={CERTIFICATE}", lambda: 0.5)
        assert await server.call("PING")
        await server.close()
        stranger = RedisServer(host, lambda: 0.5)
        with pytest.raises(StoreUnavailable, match="certificate"):
            await stranger.call("PING")
        await stranger.close()
