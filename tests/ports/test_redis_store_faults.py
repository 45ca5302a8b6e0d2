"""The store on Redis while answers are lost: what was done is not done again, and nothing is counted twice."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import uuid
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lambent import Client, Engine
from lambent.errors import StoreUnavailable
from lambent.model import Checkpoint, Delete, Event, Lease, Progress, Release, Settled
from lambent.ports import World
from lambent.semantics.concurrency import Demand
from lambent_pollers import redis_documents, redis_events, redis_leases
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_store import Connection, RedisStore
from tests.servers.clock import RealClock
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisProcess, running

_PREFIXES = itertools.count()
CLOCK = RealClock()


class Way:
    """One store, reached through a proxy and directly."""

    def __init__(self, proxy: Proxy, through: Connection, direct: Connection) -> None:
        self.proxy, self.through, self.direct = proxy, through, direct


@asynccontextmanager
async def proxied(process: RedisProcess, timeout: float = 5) -> AsyncIterator[Way]:
    prefix = f"storefaults{next(_PREFIXES)}"
    async with Proxy(process.port).running() as proxy:
        connections = []
        for owner, port in (("engine-1", proxy.port), ("engine-2", process.port)):
            world = World(owner, CLOCK, random.Random(1).random, lambda: str(uuid.uuid4()))
            connections.append(
                await RedisStore(f"redis://127.0.0.1:{port}?prefix={prefix}&timeout={timeout}").connect(world)
            )
        for module in (redis_documents, redis_events, redis_leases):  # or the answer that is cut says: unknown script
            for script in (module._SCRIPTS.adds, module._SCRIPTS.goes_on):
                await connections[0].server.call("SCRIPT LOAD", script.text)
        try:
            yield Way(proxy, *connections)
        finally:
            for connection in connections:
                await connection.close()


@pytest.fixture
async def way(redis_process: RedisProcess) -> AsyncIterator[Way]:
    async with proxied(redis_process) as found:
        yield found


def event(request_id: str = "e1") -> Event:
    return Event(request_id, "f", b"{}", CLOCK.now())


async def taken(connection: Connection, *names: str) -> list[Lease]:
    seen = (await connection.leases.heartbeat("mapping", names, 60)).leases
    return list(await connection.leases.take_many([seen[name] for name in names], 60))


# --------------------------------------------------------------------------- documents


async def test_a_write_on_a_revision_whose_answer_was_lost_was_not_refused(way: Way) -> None:
    documents = way.through.documents
    first = await documents.put("function", "f", "1")
    assert first is not None
    way.proxy.cut_next("answer", 0)
    second = await documents.put("function", "f", "2", revision=first.revision)
    assert way.proxy.cuts == 1
    assert second == await way.direct.documents.get("function", "f")


async def test_a_deletion_whose_answer_was_lost_did_delete(way: Way) -> None:
    await way.through.documents.put("function", "f", "1")
    way.proxy.cut_next("answer", 0)
    assert await way.through.documents.delete("function", "f")
    assert way.proxy.cuts == 1


async def test_a_watch_whose_connection_is_cut_speaks_of_what_it_missed(way: Way) -> None:
    watch = way.through.documents.watch("mapping")
    await anext(watch, None)
    waiting = asyncio.ensure_future(anext(watch))
    way.proxy.refuses = True
    way.proxy.cut()
    await way.direct.documents.put("mapping", "m", "{}")
    way.proxy.heal()
    async with asyncio.timeout(10):
        assert await waiting is None


# --------------------------------------------------------------------------- events


async def test_a_put_that_is_repeated_after_its_event_has_ended_runs_nothing_again(way: Way) -> None:
    way.proxy.cut_next("answer", 0)
    way.proxy.refuses = True
    putting = asyncio.ensure_future(way.through.events.put_many([event()]))
    assert await way.direct.events.due({"f"}, 5)
    [claimed] = await way.direct.events.receive("f", 1, 60)
    assert await way.direct.events.settle_many([Delete(claimed.receipt, "succeeded")]) == [True]
    way.proxy.heal()
    await putting
    assert await way.direct.events.pending() == {}
    assert await way.direct.facts.ended() == {("f", "succeeded"): 1}


async def test_a_claim_whose_answer_was_lost_gets_the_same_events_and_counts_one_attempt(way: Way) -> None:
    await way.direct.events.put_many([event("e1"), event("e2"), event("e3")])
    way.proxy.cut_next("answer", 0)
    claimed = await way.through.events.receive("f", 2, 60)
    assert way.proxy.cuts == 1
    assert [(each.request_id, each.attempts) for each in claimed] == [("e1", 1), ("e2", 1)]
    assert [each.request_id for each in await way.direct.events.receive("f", 10, 60)] == ["e3"]
    held = await way.direct.server.call("HGETALL", way.direct.server.keys("events", "claims"))
    assert held == {b"e1": b"engine-1", b"e2": b"engine-1", b"e3": b"engine-2"}


async def test_what_a_claim_got_that_was_never_answered_is_given_back_when_the_server_is_there(
    redis_process: RedisProcess,
) -> None:
    async with proxied(redis_process, timeout=0.1) as way, asyncio.timeout(30):
        await way.direct.events.put_many([event()])
        way.proxy.cut_next("answer", 0)
        way.proxy.refuses = True
        with pytest.raises(StoreUnavailable):
            await way.through.events.receive("f", 1, 60)
        assert not await way.direct.events.receive("f", 1, 60)
        way.proxy.heal()
        assert await way.through.events.due({"f"}, 10)
        assert not await way.direct.server.call("EXISTS", way.direct.server.keys("events", "claims"))
        [claimed] = await way.through.events.receive("f", 1, 60)
        assert claimed.attempts == 1


async def test_a_settlement_whose_answer_was_lost_counts_once_and_is_answered_as_it_was(way: Way) -> None:
    await way.direct.events.put_many([event("e1"), event("e2")])
    one, two = await way.through.events.receive("f", 2, 60)
    way.proxy.cut_next("answer", 0)
    settled = [Delete(one.receipt, "succeeded"), Release(two.receipt, CLOCK.now(), give_back=True)]
    assert await way.through.events.settle_many(settled) == [True, True]
    assert way.proxy.cuts == 1
    assert await way.direct.facts.ended() == {("f", "succeeded"): 1}
    [again] = await way.direct.events.receive("f", 2, 60)
    assert (again.request_id, again.attempts, again.deferrals) == ("e2", 1, 1)


async def test_a_receive_that_was_cancelled_gives_back_what_it_would_have_got(way: Way) -> None:
    await way.direct.events.put_many([event()])
    for steps in range(1, 8):
        receiving = asyncio.ensure_future(way.through.events.receive("f", 1, 60))
        for _ in range(steps):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        while not (given := await way.direct.events.receive("f", 1, 60)):  # it may be on its way back
            assert await way.direct.events.due({"f"}, 5)
        [claimed] = given
        assert claimed.attempts == 1
        await way.direct.events.settle_many([Release(claimed.receipt, CLOCK.now(), give_back=True)])


# --------------------------------------------------------------------------- leases


async def test_a_lease_whose_taking_got_no_answer_is_told_to_whoever_took_it(way: Way) -> None:
    seen = (await way.through.leases.heartbeat("mapping", ["s0"], 60)).leases["s0"]
    way.proxy.cut_next("answer", 0)
    [lease] = await way.through.leases.take_many([seen], 60)
    assert way.proxy.cuts == 1
    assert (lease.owner, lease.counter) == ("engine-1", seen.counter + 1)


async def test_a_checkpoint_whose_answer_was_lost_adds_its_fates_once(way: Way) -> None:
    [lease] = await taken(way.through, "s0")
    way.proxy.cut_next("answer", 0)
    checkpoint = Checkpoint(Progress("3"), (Settled("1", "3", 3, "delivered"),))
    assert await way.through.leases.checkpoint_many([(lease, checkpoint)]) == [True]
    assert way.proxy.cuts == 1
    [fact] = await way.direct.facts.shards("mapping")
    assert fact.counts == {("delivered", ""): 3}


async def test_a_checkpoint_that_comes_late_does_not_move_a_shard_back(way: Way) -> None:
    """As one that a slow connection held back while it was repeated, and the next one was written."""
    [lease] = await taken(way.through, "s0")
    sent: list[asyncio.Future[object]] = []
    server, run = way.through.server, way.through.server.run

    def remembered(script: object, keys: object, *words: object, **options: object) -> asyncio.Future[object]:
        sent.append((script, keys, words))  # type: ignore[arg-type]
        return run(script, keys, *words, **options)  # type: ignore[arg-type]

    server.run = remembered  # type: ignore[method-assign]
    for position in ("3", "6"):
        settled = (Settled(position, position, 3, "delivered"),)
        assert await way.through.leases.checkpoint_many([(lease, Checkpoint(Progress(position), settled))]) == [True]
    script, keys, words = sent[0]  # type: ignore[misc]
    assert await run(script, keys, *words) == b"1"
    [fact] = await way.direct.facts.shards("mapping")
    assert (fact.lease.progress, fact.counts) == (Progress("6"), {("delivered", ""): 6})


async def test_permits_that_two_engines_ask_for_at_once_are_not_granted_twice(way: Way) -> None:
    asked = [each.leases.permits({"f": Demand(4, 0, 4)}, 60) for each in (way.through, way.direct) for _ in range(5)]
    granted = await asyncio.gather(*asked)
    assert granted[4]["f"] + granted[9]["f"] <= 4
    assert max(each["f"] for each in granted) > 0


# --------------------------------------------------------------------------- the server as a whole


async def test_a_server_that_evicts_is_refused(redis_process: RedisProcess) -> None:
    redis_process.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        world = World("engine-1", CLOCK, random.random, lambda: str(uuid.uuid4()))
        with pytest.raises(StoreUnavailable, match="maxmemory-policy is allkeys-lru"):
            await RedisStore(f"{redis_process.url}?prefix=evicts").connect(world)
    finally:
        redis_process.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_an_engine_whose_server_lost_everything_says_so_and_serves_what_comes_then(tmp_path: Path) -> None:
    with running(tmp_path) as server, capture_logs() as logs:
        await _flushed(server)
    told = [log["trouble"] for log in logs if log["event"] == "trouble in the store"]
    assert len(told) == 2
    assert all("Did somebody delete keys?" in trouble for trouble in told)


async def _flushed(server: RedisProcess) -> None:
    engine = Engine(store=server.url, lease_seconds=1.0)
    orders, clicks = engine.queue("orders"), engine.stream("clicks")
    seen, news = set[str](), asyncio.Event()

    @engine.on(orders)
    async def pack(event: dict[str, Any], context: object) -> None:
        seen.update(record["body"] for record in event["Records"])
        news.set()

    @engine.on(clicks)
    async def count(event: dict[str, Any], context: object) -> None:
        seen.update(b64decode(record["kinesis"]["data"]).decode() for record in event["Records"])
        news.set()

    @engine.function()
    async def charge(event: str, context: object) -> None:
        seen.add(event)
        news.set()

    async def serves(which: str) -> None:
        names = {f"{kind} {which}" for kind in ("order", "click", "charge")}
        await orders.send(f"order {which}")
        await clicks.put(f"click {which}", key="k")
        await engine.invoke_async("charge", f"charge {which}")
        async with asyncio.timeout(10):  # half as long as a receiver waits that nobody wakes
            while not names <= seen:
                news.clear()
                await news.wait()

    async with engine:
        await serves("before")
        server.ask("FLUSHALL")
        await serves("at once")
        await serves("later")


async def test_a_caller_who_cannot_hear_the_answer_is_told_that_the_store_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path) as server:
        await _asked_in_vain(server)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def _asked_in_vain(server: RedisProcess) -> None:
    runs, ends = asyncio.Event(), asyncio.Event()
    async with Proxy(server.port).running() as proxy, asyncio.timeout(30):
        engine = Engine(store=server.url)

        @engine.function()
        async def slow(event: object, context: object) -> None:
            runs.set()
            await ends.wait()

        async with engine, Client(f"redis://127.0.0.1:{proxy.port}") as client:
            asking = asyncio.ensure_future(client.invoke("slow", {}))
            await runs.wait()
            server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            proxy.cut()  # who listens looks, when it hears again, and is refused
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                await asking
            server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
            ends.set()
            await client.invoke("slow", {})


async def test_a_damaged_event_is_set_aside_and_the_others_come(way: Way) -> None:
    troubles: list[str] = []
    way.through.on_trouble(troubles.append)
    server: RedisServer = way.through.server
    await way.through.events.put_many([event("e1"), event("e2")])
    await server.call("HSET", server.keys("events", "bodies"), "e1", "x")
    assert [each.request_id for each in await way.through.events.receive("f", 10, 60)] == ["e2"]
    assert "e1" in troubles[-1]
    assert await way.through.events.pending() == {"f": 1}
    assert await server.call("HGET", server.keys("events", "quarantine"), "e1") == b"x"
    assert await server.call("HKEYS", server.keys("events", "claims")) == [b"e2"]


async def test_what_the_settings_can_lose_is_a_warning_at_the_start_of_an_engine_and_no_trouble(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(store=redis_url)
    orders = engine.queue("orders")
    with capture_logs() as logs:
        async with engine:
            await orders.send("a")
    [said] = [log for log in logs if "appendfsync is everysec" in str(log)]
    assert (said["log_level"], said["event"]) == ("warning", "the store can lose what it accepted")
    assert not [log for log in logs if log["log_level"] == "error"]
    assert not caplog.records


async def test_a_client_says_nothing_of_the_settings(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    troubles: list[str] = []
    way.direct.on_trouble(troubles.append)
    assert "appendfsync is everysec" in way.direct.cautions[0]
    assert not troubles
    assert not caplog.records
