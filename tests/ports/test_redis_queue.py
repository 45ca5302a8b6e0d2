"""The queue on Redis passes its suites, on virtual time beside a real server, and keeps what Redis adds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lambent.errors import InvalidParameterValue
from lambent.model import Delete, Queue, Release, Send
from lambent.ports import World
from lambent.testing.loop import VirtualClock
from lambent_pollers.redis_queue import _PARTS, RedisQueue, RedisQueues
from lambent_pollers.redis_queue_source import parse_queue_url, source
from tests.servers.virtual import virtual_server

from .suites import Suite, bodies, queues

pytestmark = pytest.mark.virtual_time


class _OnRedis(Suite):
    capabilities = RedisQueue.capabilities

    @pytest.fixture(autouse=True)
    async def _server(self, _begin: None, redis_url: str) -> AsyncIterator[None]:
        self.url = redis_url
        self.server = virtual_server(redis_url, self.clock)
        self.queues = RedisQueues(self.server)
        yield
        await self.server.close()

    async def make_queue(self, config: Queue) -> RedisQueue:
        return self.queues.queue(config, self.world())


class TestRedisQueue(_OnRedis, queues.QueueSuite):
    pass


class TestRedisFifoQueue(_OnRedis, queues.FifoQueueSuite):
    pass


class TestRedisQueuesOnTheServer(_OnRedis):
    """What the suites do not ask for."""

    async def other_process(self) -> RedisQueues:
        self.other = virtual_server(self.url, self.clock)
        return RedisQueues(self.other)

    def standard(self, name: str = "q", **options: object) -> Queue:
        return Queue.model_validate({"name": name, "visibility_timeout_seconds": 30, **options})

    async def test_a_receipt_counts_for_another_process_too(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("a")])
        [message] = await queue.receive(1, 0)
        elsewhere = (await self.other_process()).queue(self.standard(), self.world())
        assert not await elsewhere.receive(1, 0)
        assert list(await elsewhere.settle_many([Delete(message.receipt)])) == [True]
        assert list(await queue.settle_many([Delete(message.receipt)])) == [False]
        await self.other.close()

    async def test_a_message_from_another_process_wakes_all_who_wait_and_one_gets_it(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        elsewhere = (await self.other_process()).queue(self.standard(), self.world())
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(each.receive(1, 5)) for each in (queue, queue, elsewhere)]
            await self.pass_time(1)
            await elsewhere.send_many([Send("a")])
        assert [body for each in waiting for body in bodies(each.result())] == ["a"]
        await self.other.close()

    async def test_an_idle_queue_is_not_asked_again_and_again(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("a", delay_seconds=600)])
        before = await self.calls()
        assert not await queue.receive(1, 500)
        assert await self.calls() - before <= 3
        assert bodies(await queue.receive(1, 500)) == ["a"]

    async def calls(self) -> int:
        return int((await self.server.call("INFO", "commandstats"))["cmdstat_evalsha"]["calls"])

    async def test_a_configuration_holds_for_every_process_from_its_first_use_on(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("a"), Send("b")])
        await queue.receive(1, 0)
        changed = self.standard(max_receive_count=1, dead_letter_queue="dead")
        await (await self.other_process()).queue(changed, self.world()).depth()
        await self.pass_time(31)
        assert bodies(await queue.receive(10, 0)) == ["b"]
        assert queue.config == changed
        assert bodies(await self.queues.queue(self.standard("dead"), self.world()).receive(1, 0)) == ["a"]
        await self.other.close()

    async def test_a_queue_with_messages_cannot_change_its_kind(self) -> None:
        await self.queues.queue(self.standard(), self.world()).send_many([Send("a")])
        changed = self.queues.queue(self.standard(fifo=True), self.world())
        with pytest.raises(InvalidParameterValue, match="fifo"):
            await changed.depth()
        await self.queues.queue(self.standard(), self.world()).purge()
        changed = self.queues.queue(self.standard(fifo=True), self.world())
        await changed.send_many([Send("a", group="g", deduplication_id="1")])
        assert bodies(await changed.receive(1, 0)) == ["a"]

    async def test_a_receiver_that_was_cancelled_gives_back_what_it_would_have_got(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("a")])
        for steps in range(1, 12):
            receiving = asyncio.ensure_future(queue.receive(1, 10))
            for _ in range(steps):
                await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait([receiving])
            if not receiving.cancelled():
                await queue.settle_many([Release(receiving.result()[0].receipt, self.clock.now(), give_back=True)])
            [message] = await queue.receive(1, 1)
            assert message.receive_count == 1
            await queue.settle_many([Release(message.receipt, self.clock.now(), give_back=True)])

    async def test_a_damaged_message_is_put_aside_and_the_others_come(self) -> None:
        troubles: list[str] = []
        self.server.on_trouble(troubles.append)
        for config in (self.standard(), self.standard("q.fifo", fifo=True, content_based_deduplication=True)):
            queue = self.queues.queue(config, self.world())
            group = "g" if config.fifo else None
            ids = await queue.send_many([Send(body, group=group) for body in ("a", "b", "c")])
            await self.server.call("HSET", self.server.keys(config.name, "queue", "bodies"), ids[0], "x")
            assert [fact.message.body for fact in await queue.peek(10)] == ["b", "c"]
            assert bodies(await queue.receive(10, 0)) == ["b", "c"]
            assert (await queue.depth()).visible == 0
            assert ids[0] in troubles[-1]
            assert await self.server.call("HGET", self.server.keys(config.name, "queue", "quarantine"), ids[0]) == b"x"

    async def test_more_than_one_step_removes_moves_or_gives_is_done_all_the_same(self) -> None:
        queue = self.queues.queue(self.standard(message_retention_period_seconds=60), self.world())
        await queue.send_many([Send("old")] * 2_001)
        await self.pass_time(61)
        assert (await queue.depth()).visible == 0
        assert await queue.peek(10) == []
        many = self.standard("many", max_receive_count=1, dead_letter_queue="dead")
        queue = self.queues.queue(many, self.world())
        await queue.send_many([Send("poison")] * 2_001)
        assert len(await queue.receive(10_000, 0)) == 2_001
        await self.pass_time(31)
        await queue.send_many([Send("good")])
        assert bodies(await queue.receive(10, 0)) == ["good"]
        assert (await self.queues.queue(self.standard("dead"), self.world()).depth()).visible == 2_001

    async def test_queues_that_nobody_uses_are_swept_too_and_messages_found_in_whichever_they_are(self) -> None:
        config = self.standard(max_receive_count=1, dead_letter_queue="dead")
        queue = self.queues.queue(config, self.world())
        [message_id] = await queue.send_many([Send("a")])
        await queue.receive(1, 0)
        await self.pass_time(31)
        assert not await queue.receive(1, 0)
        other = await self.other_process()
        assert await other.names() == ["dead", "q"]
        fact = await other.fact(message_id, self.world())
        assert fact is not None
        assert (fact.queue, fact.state) == ("dead", "visible")
        await self.pass_time(config.message_retention_period_seconds)
        await other.sweep(self.world())
        assert await other.fact(message_id, self.world()) is None
        assert not await self.server.call("EXISTS", self.server.keys("dead", "queue", "bodies"))
        await self.other.close()

    async def test_a_queue_whose_keys_are_gone_is_declared_anew_and_it_is_said(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("lost")])
        troubles: list[str] = []
        self.server.on_trouble(troubles.append)
        for part in (*_PARTS, "quarantine"):
            await self.server.call("DEL", self.server.keys("q", "queue", part))
        await queue.send_many([Send("new")])
        assert bodies(await queue.receive(10, 0)) == ["new"]
        assert "gone" in troubles[-1]


# --------------------------------------------------------------------------- by URL


@pytest.mark.parametrize(
    ("url", "server", "name"),
    [
        ("redis-queue://h:1/0/orders", "redis://h:1/0", "orders"),
        ("rediss-queue://u:p%40@h/orders.fifo", "rediss://u:p%40@h", "orders.fifo"),
        ("redis-queue+sentinel://a,b/main/2/orders?prefix=p", "redis+sentinel://a,b/main/2?prefix=p", "orders"),
        ("redis-queue+cluster://a,b/orders", "redis+cluster://a,b", "orders"),
    ],
)
async def test_a_url_names_a_server_and_a_queue(url: str, server: str, name: str) -> None:
    found, config, declared = parse_queue_url(url)
    assert (found, config, declared) == (server, Queue(name=name, fifo=name.endswith(".fifo")), False)


@pytest.mark.parametrize(
    "url",
    [
        "redis-queue://h", "redis-queue://h/", "redis-queue://h/0/a b", "redis-queue://h/q?x=1",
        "redis-queue://h/q?delay_seconds=x", "redis-queue://h/q?max_receive_count=1",
    ],
)  # fmt: skip
async def test_a_url_that_names_no_queue_is_refused_without_its_password(url: str) -> None:
    world = World("e", VirtualClock(asyncio.get_running_loop()), lambda: 0.5, lambda: "id")
    with pytest.raises(InvalidParameterValue) as refused:
        source(url.replace("://", "://ada:secret@"), world)
    assert "secret" not in str(refused.value)


class TestRedisQueueSource(_OnRedis):
    async def test_a_source_takes_a_queue_as_it_was_declared_or_declares_it(self) -> None:
        declared = Queue(name="q", visibility_timeout_seconds=7)
        await self.queues.queue(declared, self.world()).send_many([Send("a")])
        base, _, options = self.url.replace("redis:", "redis-queue:").partition("?")
        as_it_is = source(f"{base}/0/q?{options}", self.world())
        assert source.kind == "queue"
        await as_it_is.depth()
        assert as_it_is.visibility_timeout_seconds == 7
        anew = source(f"{base}/0/q?{options}&visibility_timeout_seconds=9&delay_seconds=1.5", self.world())
        await anew.depth()
        assert anew.config == Queue(name="q", visibility_timeout_seconds=9, delay_seconds=1.5)
        await as_it_is.close()
        await anew.close()
