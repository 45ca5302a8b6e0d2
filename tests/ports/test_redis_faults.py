"""The queue on Redis while the network and the server fail: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine
from lambent.errors import StoreUnavailable
from lambent.model import Delete, Depth, Queue, Send
from lambent.ports import World
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_queue import RedisQueue, RedisQueues
from tests.servers.clock import RealClock
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisProcess, running

from .suites import bodies

ORDERS = Queue(name="orders", visibility_timeout_seconds=60)
_PREFIXES = itertools.count()


WORLD = World("engine-1", RealClock(), random.Random(1).random, lambda: str(uuid.uuid4()))


class Way:
    """One queue, reached through a proxy and directly."""

    def __init__(self, proxy: Proxy, server: RedisServer, queue: RedisQueue, direct: RedisQueue) -> None:
        self.proxy, self.server, self.queue, self.direct = proxy, server, queue, direct


@asynccontextmanager
async def proxied(process: RedisProcess, timeout: float = 5, queue: Queue = ORDERS) -> AsyncIterator[Way]:
    prefix = f"faults{next(_PREFIXES)}"
    async with Proxy(process.port).running() as proxy:
        servers = [
            RedisServer(f"redis://127.0.0.1:{port}?prefix={prefix}&timeout={timeout}", WORLD.random)
            for port in (proxy.port, process.port)
        ]
        through, direct = (RedisQueues(server).queue(queue, WORLD) for server in servers)
        await through.depth()
        try:
            yield Way(proxy, servers[0], through, direct)
        finally:
            for server in servers:
                await server.close()


# --------------------------------------------------------------------------- an answer that is lost


@pytest.mark.parametrize("after_bytes", [0, 1, 3])
async def test_a_send_whose_answer_was_lost_is_repeated_and_stores_one_message(
    redis_process: RedisProcess, after_bytes: int
) -> None:
    async with proxied(redis_process) as way:
        way.proxy.cut_next("answer", after_bytes)
        [message_id] = await way.queue.send_many([Send("a")])
        assert way.proxy.cuts == 1
        assert [(message.id, message.body) for message in await way.direct.receive(10, 0)] == [(message_id, "a")]
        assert await way.direct.depth() == Depth(0, 1, 0)


async def test_a_repeated_send_stores_nothing_though_its_message_has_been_consumed_meanwhile(
    redis_process: RedisProcess,
) -> None:
    async with proxied(redis_process) as way:
        way.proxy.cut_next("answer", 0)
        way.proxy.refuses = True
        sending = asyncio.ensure_future(way.queue.send_many([Send("a")]))
        [message] = await way.direct.receive(1, 5)
        assert await way.direct.settle_many([Delete(message.receipt)]) == [True]
        way.proxy.heal()
        assert await sending == [message.id]
        assert await way.direct.depth() == Depth(0, 0, 0)


async def test_a_send_that_was_cut_off_on_its_way_arrives_once(redis_process: RedisProcess) -> None:
    async with proxied(redis_process) as way:
        for after_bytes in (0, 1, 40, 200, 1_000):
            way.proxy.cut_next("request", after_bytes)
            await way.queue.send_many([Send(f"{after_bytes} " + "x" * 500)])
        assert way.proxy.cuts == 5
        received = await way.direct.receive(100, 0)
        assert sorted(int(body.split()[0]) for body in bodies(received)) == [0, 1, 40, 200, 1_000]


async def test_a_receive_whose_answer_was_lost_gets_the_same_messages_again_and_counts_once(
    redis_process: RedisProcess,
) -> None:
    async with proxied(redis_process) as way:
        await way.queue.send_many([Send(str(number)) for number in range(20)])
        for after_bytes in (0, 10, 300):
            way.proxy.cut_next("answer", after_bytes)
            messages = await way.queue.receive(5, 1)
            assert [message.receive_count for message in messages] == [1] * 5
            assert all(await way.queue.settle_many([Delete(message.receipt) for message in messages]))
        assert way.proxy.cuts == 3
        assert await way.direct.depth() == Depth(5, 0, 0)


async def test_a_delete_whose_answer_was_lost_says_that_it_was_done(redis_process: RedisProcess) -> None:
    async with proxied(redis_process) as way:
        await way.queue.send_many([Send("a"), Send("b")])
        first, second = await way.queue.receive(2, 0)
        way.proxy.cut_next("answer", 0)
        assert await way.queue.settle_many([Delete(first.receipt), Delete("stale#1")]) == [True, False]
        assert await way.queue.settle_many([Delete(first.receipt), Delete(second.receipt)]) == [False, True]


# --------------------------------------------------------------------------- slow, dead, away


async def test_a_slow_and_trickling_connection_changes_nothing_but_the_time(redis_process: RedisProcess) -> None:
    async with proxied(redis_process) as way:
        way.proxy.delay_seconds, way.proxy.piece_bytes = 0.002, 64
        await way.queue.send_many([Send("x" * 1_000)])
        [message] = await way.queue.receive(1, 1)
        assert await way.queue.settle_many([Delete(message.receipt)]) == [True]


async def test_a_connection_that_swallows_everything_is_given_up_in_time_and_replaced(
    redis_process: RedisProcess,
) -> None:
    async with proxied(redis_process, timeout=0.1) as way:
        way.proxy.swallows = True
        with pytest.raises(StoreUnavailable, match=r"does not answer.*Is the server up"):
            await way.queue.send_many([Send("a")])
        way.proxy.heal()
        way.proxy.cut()
        [second] = await way.queue.send_many([Send("b")])
        assert second in [message.id for message in await way.direct.receive(10, 0)]


async def test_a_receiver_that_waits_is_woken_though_its_connections_were_cut(redis_process: RedisProcess) -> None:
    async with proxied(redis_process) as way, asyncio.timeout(20):
        waiting = asyncio.ensure_future(way.queue.receive(1, 60))
        for _ in range(3):
            way.proxy.cut()
            await way.queue.depth()
        await way.direct.send_many([Send("late")])
        assert bodies(await waiting) == ["late"]


async def test_a_server_without_memory_refuses_sends_says_why_and_lets_consumers_go_on(tmp_path: Path) -> None:
    with running(tmp_path, None, maxmemory="4mb") as process:
        async with proxied(process) as way:
            with pytest.raises(StoreUnavailable, match="raise its maxmemory"):
                await _fill(way.queue)
            assert (await way.queue.depth()).visible > 5
            while messages := await way.queue.receive(5, 0):
                assert all(await way.queue.settle_many([Delete(message.receipt) for message in messages]))
            await way.queue.send_many([Send("again")])


async def _fill(queue: RedisQueue) -> None:
    for _ in range(100):
        await queue.send_many([Send("x" * 100_000)])


# --------------------------------------------------------------------------- campaigns


class Flight:
    """Producers and consumers through the proxy; what was acknowledged, and what arrived."""

    def __init__(self, way: Way, count: int) -> None:
        self.way = way
        self.count = count
        self.sent: list[str] = []
        self.unsure: set[str] = set()
        self.deleted: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    async def fly(self, disturb: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until everything has arrived; `disturb` goes on until then."""
        disturbing = asyncio.ensure_future(disturb())
        try:
            async with asyncio.TaskGroup() as group:
                numbers = iter(range(self.count))
                producing = [group.create_task(self._produce(numbers)) for _ in range(4)]
                consuming = [group.create_task(self._consume()) for _ in range(4)]
                await asyncio.wait(producing)
                await asyncio.wait(consuming)
        finally:
            disturbing.cancel()
            await asyncio.wait([disturbing])

    @property
    def done(self) -> bool:
        return len(self.sent) == self.count and self.deleted.keys() >= set(self.sent)

    async def _produce(self, numbers: Any) -> None:
        for number in numbers:
            body = str(number)
            while True:
                try:
                    await self.way.queue.send_many([Send(body)])
                    break
                except StoreUnavailable:
                    self.unsure.add(body)  # and so it may be there twice
            self.sent.append(body)

    async def _consume(self) -> None:
        while not self.done:
            try:
                messages = await self.way.queue.receive(10, 0.05)
                self.seen.update(bodies(messages))
                answers = await self.way.queue.settle_many([Delete(message.receipt) for message in messages])
            except StoreUnavailable:
                continue
            self.deleted.update(m.body for m, answer in zip(messages, answers, strict=True) if answer)

    def check(self) -> None:
        assert set(self.sent) == {str(number) for number in range(self.count)}
        assert self.deleted.keys() == set(self.sent), "acknowledged, and lost"
        twice = {body for body, count in self.deleted.items() if count > 1}
        assert twice <= self.unsure, "stored twice by one send"


async def _flight_with_cuts(process: RedisProcess, count: int, cuts: int, seed: int) -> None:
    chance = random.Random(seed)
    async with proxied(process) as way, asyncio.timeout(600):
        flight = Flight(way, count)

        async def cut_again_and_again() -> None:
            for number in range(cuts):
                while len(flight.sent) + len(flight.deleted) < 2 * count * number // cuts:
                    await way.direct.depth()  # in the time of which something happens
                way.proxy.cut_next(chance.choice(["request", "answer"]), chance.choice([0, 1, 7, 60, 500]))

        await flight.fly(cut_again_and_again)
        flight.check()
        assert way.proxy.cuts >= cuts * 0.9
        assert await way.direct.depth() == Depth(0, 0, 0)
        assert flight.seen == flight.deleted == Counter(dict.fromkeys(flight.sent, 1))


async def test_fifty_cuts_lose_nothing_and_double_nothing(redis_process: RedisProcess) -> None:
    await _flight_with_cuts(redis_process, 1_000, 50, seed=1)


@pytest.mark.night
@pytest.mark.parametrize("seed", range(20))
async def test_a_thousand_cuts_lose_nothing_and_double_nothing(redis_process: RedisProcess, seed: int) -> None:
    await _flight_with_cuts(redis_process, 20_000, 1_000, seed)


async def _flight_with_kills(directory: Path, count: int, kills: int) -> None:
    queue = ORDERS.model_copy(update={"visibility_timeout_seconds": 2.0})
    with running(directory, "always") as process:
        async with proxied(process, queue=queue) as way, asyncio.timeout(600):
            flight, killed = Flight(way, count), 0

            async def kill_again_and_again() -> None:
                nonlocal killed
                while killed < kills:
                    reached = len(flight.sent) + count // (kills + 1)
                    while len(flight.sent) < min(reached, count):
                        await asyncio.sleep(0)
                    process.kill()
                    await asyncio.to_thread(process.start)
                    killed += 1

            await flight.fly(kill_again_and_again)
            flight.check()
            assert killed == kills
            assert await way.direct.depth() == Depth(0, 0, 0)


async def test_a_server_killed_and_started_again_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    await _flight_with_kills(tmp_path, 600, 3)


@pytest.mark.night
async def test_a_server_killed_two_hundred_times_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    await _flight_with_kills(tmp_path, 20_000, 200)


async def test_what_is_in_flight_stays_so_over_a_kill_and_its_receipt_counts(tmp_path: Path) -> None:
    with running(tmp_path, "always") as process:
        async with proxied(process) as way:
            await way.queue.send_many([Send("out"), Send("waiting")])
            [out] = await way.queue.receive(1, 0)
            process.kill()
            process.start()
            assert await way.queue.depth() == Depth(1, 1, 0)
            assert await way.queue.settle_many([Delete(out.receipt)]) == [True]


async def _cancel_storm(process: RedisProcess, cancels: int, seed: int) -> None:
    chance = random.Random(seed)
    async with proxied(process) as way:
        way.proxy.delay_seconds = 0.0005
        await way.queue.receive(1, 0.01)
        tasks, got = _own_tasks(), list[str]()
        for number in range(cancels):
            sending = asyncio.ensure_future(way.queue.send_many([Send(str(number))]))
            receiving = asyncio.ensure_future(way.queue.receive(3, 1))
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            for call in chance.sample([sending, receiving], chance.randrange(3)):
                call.cancel()
            await asyncio.wait([sending, receiving])
            if not receiving.cancelled():
                received = receiving.result()
                assert await way.queue.settle_many([Delete(message.receipt) for message in received]) == [True] * len(
                    received
                )
                got += bodies(received)
            if number % 10 == 0:
                assert await way.server.call("ECHO", f"echo {number}") == b"echo %d" % number
        while await way.queue.depth() != Depth(0, 0, 0):  # nothing waits for a time-out of 60 s
            received = await way.queue.receive(100, 0)
            assert all(await way.queue.settle_many([Delete(message.receipt) for message in received]))
            got += bodies(received)
        assert len(got) == len(set(got)) <= cancels
        assert way.server.waiting == 0
        assert _own_tasks() == tasks


def _own_tasks() -> set[str]:
    """All but the proxy's, which has some for each connection."""
    return {task.get_name() for task in asyncio.all_tasks() if not task.get_name().startswith("Task-")}


async def test_a_storm_of_cancels_loses_nothing_confuses_nothing_and_leaks_nothing(redis_process: RedisProcess) -> None:
    await _cancel_storm(redis_process, 200, seed=1)


@pytest.mark.night
async def test_a_long_storm_of_cancels(redis_process: RedisProcess) -> None:
    for seed in range(20):
        await _cancel_storm(redis_process, 2_000, seed)


# --------------------------------------------------------------------------- an engine


async def test_an_engine_serves_a_queue_that_a_url_names_over_cut_connections(redis_process: RedisProcess) -> None:
    async with proxied(redis_process) as way, asyncio.timeout(30):
        engine, seen, all_seen = Engine(), Counter[str](), asyncio.Event()
        url = f"redis-queue://127.0.0.1:{way.proxy.port}/0/orders?prefix={way.server.url.prefix}"

        @engine.on(url, batch_size=10)
        async def pack(event: dict[str, Any], context: object) -> None:
            seen.update(record["body"] for record in event["Records"])
            if len(seen) == 100:
                all_seen.set()

        async with engine:
            for first in range(0, 100, 20):
                await way.direct.send_many([Send(str(number)) for number in range(first, first + 20)])
                way.proxy.cut()
            await all_seen.wait()
        assert set(seen.values()) == {1}
        assert await way.direct.depth() == Depth(0, 0, 0)
