"""What a client of a store can do beside its engines, and what it is told when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from lambent import (
    Client,
    EngineStopped,
    FunctionError,
    InvalidParameterValue,
    InvalidRequestContent,
    MemoryStore,
    NotHosted,
    RequestTooLarge,
    ResourceNotFound,
    StoreUnavailable,
    TooManyRequests,
)
from lambent.cli.top import pictures
from lambent.configuration import PublishedVersion
from lambent.desk import ANSWER, FIRST_SNAPSHOT_SECONDS, REQUEST, SNAPSHOT, Request
from lambent.life import Life
from lambent.model import Function
from lambent.ports import Document, World
from lambent.stores.memory import Connection, MemoryDocuments
from lambent.testing.loop import VirtualClock
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def echo(event: Any, context: Any) -> Any:
    return event


async def broken(event: Any, context: Any) -> Any:
    print("about to break")
    raise ValueError("no such flight")


def client_of(store: MemoryStore) -> Client:
    return Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=2)


async def left(client: Client) -> list[str]:
    documents = client._open.documents
    return [each.name for kind in (REQUEST, ANSWER) for each in await documents.list(kind)]


async def test_a_client_calls_a_function_and_waits_for_its_value() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.function(echo)
    async with engine, client_of(store) as client:
        assert await client.invoke("echo", {"flight": "UA 1545"}) == {"flight": "UA 1545"}
        assert await client.invoke("echo") == {}
        assert await left(client) == []


async def test_a_clients_function_error_has_awss_document_and_the_log_tail() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.function(broken)
    async with engine, client_of(store) as client:
        with pytest.raises(FunctionError) as caught:
            await client.invoke("broken", {})
        assert caught.value.document["errorType"] == "ValueError"
        answer = await client.invoke_response("broken", b"{}", log_type="Tail")
    assert (answer.status_code, answer.function_error) == (200, "Unhandled")
    assert "about to break" in answer.log_tail
    assert caught.value.request_id != answer.request_id


async def test_a_client_meets_what_a_caller_of_the_engine_would_meet() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.function(echo)
    engine.function(name="off", reserved_concurrency=0)(lambda event: event)
    async with engine, client_of(store) as client:
        with pytest.raises(TooManyRequests) as throttled:
            await client.invoke("off")
        assert throttled.value.reason == "ReservedFunctionConcurrentInvocationLimitExceeded"
        with pytest.raises(ResourceNotFound, match="Function not found: arn:aws:lambda:us-east-1:000000000000:f"):
            await client.invoke("unknown")
        with pytest.raises(InvalidRequestContent, match="Could not parse request body into json"):
            await client.invoke("echo", b"{")
        with pytest.raises(RequestTooLarge):
            await client.invoke_async("echo", "x" * 1024 * 1024)
        with pytest.raises(InvalidParameterValue, match=r"function: .* is not allowed; it must be a function's name"):
            await client.invoke(echo)  # type: ignore[arg-type]
        with pytest.raises(InvalidParameterValue, match=r"queue: .* is not allowed"):
            await client.send("orders\ud800", "x")
        with pytest.raises(InvalidParameterValue, match="log_type"):
            await client.invoke_response("echo", log_type="tail")
        with pytest.raises(InvalidParameterValue, match="client_context"):
            await client.invoke_async("echo", client_context="x")  # type: ignore[arg-type]


async def test_that_no_engine_is_alive_is_said_at_once() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.function(echo)
    async with engine:
        pass
    began = asyncio.get_running_loop().time()
    async with client_of(store) as client:
        with pytest.raises(EngineStopped, match="No engine is running on this store: start one with `lambent run"):
            await client.invoke("echo")
        assert await client.snapshots() == []
    assert asyncio.get_running_loop().time() == began


async def test_a_function_that_no_running_engine_hosts_is_said_after_a_while() -> None:
    store = MemoryStore()
    async with client_of(store) as client, virtual(store):
        engine = virtual(store)
        engine.function(echo)
        async with engine:
            pass
        with pytest.raises(EngineStopped, match="No running engine hosts echo"):
            await client.invoke("echo")
        assert await left(client) == []


async def test_of_several_engines_the_one_that_hosts_the_function_answers_once() -> None:
    store, ran = MemoryStore(), []

    def count(event: Any, context: Any) -> None:
        ran.append(event)

    others = virtual(store), virtual(store, seed=3), virtual(store, seed=4)
    for engine in others[1:]:
        engine.function(count)
    async with others[0], others[1], others[2], client_of(store) as client:
        await asyncio.sleep(10)  # until each has its share of the account's concurrency
        await asyncio.gather(*(client.invoke("count", number) for number in range(10)))
    assert sorted(ran) == list(range(10))


async def test_a_request_whose_caller_has_gone_is_never_performed() -> None:
    store, ran = MemoryStore(), []

    def count(event: Any, context: Any) -> None:
        ran.append(event)

    engine = virtual(store)
    engine.function(count)
    async with engine:
        pass
    async with virtual(store, seed=7), client_of(store) as client:
        asking = asyncio.create_task(client.invoke("count"))
        await asyncio.sleep(2)
        asking.cancel()
        await asyncio.wait({asking})
        async with engine:
            await asyncio.sleep(60)
    assert ran == []


async def test_an_engine_that_drains_answers_what_it_has_taken_and_takes_nothing_more() -> None:
    store = MemoryStore()
    engine = virtual(store)

    @engine.function(timeout_seconds=30)
    async def slow(event: Any) -> str:
        await asyncio.sleep(5)
        return "done"

    async with client_of(store) as client:
        await engine.start()
        taken = asyncio.create_task(client.invoke("slow"))
        await asyncio.sleep(1)
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(1)
        late = asyncio.create_task(client.invoke("slow"))
        await draining
        assert await taken == "done"
        with pytest.raises(EngineStopped, match="No engine is running"):
            await late


async def test_a_caller_whose_engine_stops_at_once_is_told_so() -> None:
    store = MemoryStore()
    engine = virtual(store)

    @engine.function(timeout_seconds=900)
    async def slow(event: Any) -> None:
        await asyncio.sleep(800)

    async with client_of(store) as client:
        await engine.start()
        asking = asyncio.create_task(client.invoke("slow"))
        await asyncio.sleep(1)
        await engine.stop()
        with pytest.raises(EngineStopped, match="stopped"):
            await asking


class Flaky(MemoryStore):
    """Whose documents of a kind cannot be read while it is away, by engines."""

    away = False
    kind = REQUEST

    async def connect(self, world: World, client: bool = False) -> Connection:
        connection, store = await super().connect(world, client), self

        class Documents(MemoryDocuments):
            async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
                if store.away and kind == store.kind:
                    raise StoreUnavailable("away")
                return await super().list(kind, after)

        if not client:
            connection.documents = Documents(self._documents, self._clock)
        return connection


async def test_an_engine_answers_again_when_its_store_is_back() -> None:
    store = Flaky()
    engine = virtual(store)
    engine.function(echo)
    with capture_logs() as logs:
        async with engine, client_of(store) as client:
            store.away = True
            asking = asyncio.create_task(client.invoke("echo", 1))
            await asyncio.sleep(2)
            assert not asking.done()
            store.away = False
            assert await asking == 1
    assert {(log["event"], log["log_level"]) for log in logs} == {("desk ended and begins again", "warning")}
    assert "exception" not in logs[0]  # where the store was away is no place in our code


async def test_an_engine_answers_soon_after_its_store_is_back_however_long_and_often_it_was_away() -> None:
    store, loop = Flaky(), asyncio.get_running_loop()
    engine = virtual(store)
    engine.function(echo)
    async with engine, client_of(store) as client:
        for hours in (0.01, *[0.001] * 20, 5.0):
            store.away = True
            with pytest.raises(NotHosted):
                await client.invoke("echo", 1)  # that the engine looks, and meets it
            await asyncio.sleep(3600 * hours)
            store.away = False
            asked = loop.time()
            assert await client.invoke("echo", hours) == hours
            assert loop.time() - asked < 3.0


async def test_a_request_of_another_version_is_left_alone() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.function(echo)
    with capture_logs() as logs:
        async with engine, client_of(store) as client:
            await client._open.documents.put(REQUEST, "x", '{"do": "something new"}', expires_in_seconds=60)
            assert await client.invoke("echo", 1) == 1
            assert await left(client) == ["x"]
    assert logs == []


async def test_a_client_stores_events_and_sees_what_became_of_them() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.function(echo)
    async with client_of(store) as client:
        async with engine:
            pass
        request_id = await client.invoke_async("echo", {"flight": 1})
        waits = await client.event(request_id)
        assert (waits.state, waits.event.attempts, waits.event.payload) == ("waiting", 0, b'{"flight": 1}')
        async with engine:
            await asyncio.sleep(1)
        assert (await client.event(request_id)).state == "succeeded"
        with pytest.raises(ResourceNotFound, match="This store knows no event nowhere"):
            await client.event("nowhere")


async def test_a_client_sends_and_puts_as_the_engine_does() -> None:
    store = MemoryStore()
    engine = virtual(store)
    orders = engine.queue("orders.fifo", content_based_deduplication=True)
    clicks = engine.stream("clicks")
    async with engine, client_of(store) as client:
        await client.send("orders.fifo", {"item": 1}, group="a")
        with pytest.raises(InvalidParameterValue, match="group is required"):
            await client.send("orders.fifo", "x")
        assert [message.body for message in await orders.receive()] == ['{"item": 1}']
        position = await client.put("clicks", {"x": 1}, key="k")
        found = await client._open.stream(clicks.configuration).find(position)
        assert found is not None
        assert found[1].data == b'{"x": 1}'
        with pytest.raises(ResourceNotFound, match=r'There is no queue "order" in this store: declare it'):
            await client.send("order", "x")
        with pytest.raises(ResourceNotFound, match='There is no stream "click"'):
            await client.put("click", "x", key="k")


async def test_a_client_pauses_resumes_and_seeks_a_mapping() -> None:
    store, seen = MemoryStore(), []

    def note(event: Any, context: Any) -> None:
        seen.append(len(event["Records"]))

    engine = virtual(store)
    clicks = engine.stream("clicks")
    handle = engine.map(clicks, engine.function(note))
    async with engine, client_of(store) as client:
        mapping = await client.mapping(handle.id)
        assert (mapping.source, mapping.function) == ("stream:clicks", "note")
        await mapping.wait_until("Enabled")
        await mapping.pause()
        await mapping.wait_until("Disabled")
        await clicks.put("1", key="k")
        await asyncio.sleep(60)
        assert seen == []
        await mapping.resume()
        await mapping.wait_until("Enabled")
        await asyncio.sleep(1)
        await mapping.seek("TRIM_HORIZON")
        await asyncio.sleep(5)
        assert seen == [1, 1]
        with pytest.raises(InvalidParameterValue, match="batch_size"):
            await mapping.update(batch_size=0)
        await mapping.delete()
        with pytest.raises(ResourceNotFound):
            await client.mapping(handle.id)


async def test_how_a_mapping_stands_is_known_without_an_engine() -> None:
    store = MemoryStore()
    engine = virtual(store)
    clicks, orders = engine.stream("clicks", shards=2), engine.queue("orders", visibility_timeout_seconds=900)
    engine.function(echo)
    engine.map(clicks, "echo")
    engine.map(orders, "echo", enabled=False)
    async with engine:
        for key in "abcd":
            await clicks.put("1", key=key)
        await asyncio.sleep(1)
    async with client_of(store) as client:
        assert [(each.wanted, each.running, each.backlog) for each in await client.standings()] == [
            ("Disabled", None, 0),
            ("Enabled", None, 0),
        ]
        await client.send("orders", "x")
        await client.put("clicks", "2", key="a")
        await asyncio.sleep(7)
        await client.put("clicks", "2", key="b")
        queue, stream = await client.standings()
        assert (queue.backlog, queue.iterator_age_seconds) == (1, None)
        assert (stream.backlog, stream.iterator_age_seconds) == (2, 7.0)
        await client.seek_mapping(stream.stored.id, "TRIM_HORIZON")
        assert (await client.standings())[1].backlog == 6
        await client.seek_mapping(stream.stored.id, "LATEST")
        assert (await client.standings())[1].backlog == 0


async def test_what_runs_of_a_mapping_is_told_by_the_engines() -> None:
    store = MemoryStore()
    engine = virtual(store)
    clicks, orders = engine.stream("clicks"), engine.queue("orders")
    engine.function(echo)
    engine.function(broken)
    engine.map(clicks, "echo")
    engine.map(orders, "broken")
    async with engine, client_of(store) as client:
        await clicks.put("1", key="k")
        await orders.send("1")
        await asyncio.sleep(1)
        told = await client.standings(await client.snapshots())
        assert [(each.running, each.last_result) for each in told] == [
            ("Enabled", "PROBLEM: Function call failed"),
            ("Enabled", "OK"),
        ]


async def test_a_mapping_that_the_code_no_longer_declares_is_told_so_and_can_be_deleted() -> None:
    store = MemoryStore()
    before, now = virtual(store), virtual(store, seed=3)
    for engine in (before, now):
        engine.function(echo)
        engine.queue("orders")
    before.map("orders", "echo")
    async with before:
        pass
    async with now, client_of(store) as client:
        (told,) = await client.standings(await client.snapshots())
        assert (told.wanted, told.declared, told.running) == ("Enabled", False, None)
        assert await client.mapping_state(told.stored.id) == "Disabled"
        await client.delete_mapping(told.stored.id)
        assert await client.standings() == []


async def test_engines_make_snapshots_only_while_somebody_looks() -> None:
    store = MemoryStore()
    first, second = virtual(store), virtual(store, seed=5)
    first.function(echo)
    async with first, second, client_of(store) as client:
        documents = client._open.documents
        await first.invoke(echo, 1)
        await asyncio.sleep(10)
        assert await documents.list(SNAPSHOT) == ()
        shown = await client.snapshots()
        assert sorted(each.functions for each in shown) == [[], ["echo"]]
        assert {"echo": 1} in [each.metrics.get("Invocations") for each in shown]
        await asyncio.sleep(4)
        assert max(client._clock.now() - each.at for each in await client.snapshots()) <= 1.0
        await asyncio.sleep(20)
        assert await documents.list(SNAPSHOT) == ()
        assert await documents.list(REQUEST) == ()


async def test_whoever_looks_waits_for_every_engine_that_is_there_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, real = MemoryStore(), Life._shown
    first, late = virtual(store), virtual(store, seed=5)
    seconds = [1.0]

    async def shown(life: Life) -> Any:
        if life is late._life:
            await asyncio.sleep(seconds[0])
        return await real(life)

    monkeypatch.setattr(Life, "_shown", shown)
    async with first, late, client_of(store) as client:
        assert len(await client.snapshots()) == 2
        async for picture in pictures(client):
            assert len(picture["engines"]) == 2
            break
        await asyncio.sleep(20)
        seconds[0] = 1000.0
        began = client._clock.monotonic()
        assert len(await client.snapshots()) == 1
        assert client._clock.monotonic() - began == FIRST_SNAPSHOT_SECONDS


async def test_a_client_that_is_not_open_says_how_to_open_it() -> None:
    store = MemoryStore()
    client = client_of(store)
    for call in (client.invoke("echo"), client.send("q", 1), client.list_mappings()):
        with pytest.raises(EngineStopped, match="The client is not open: enter `async with Client"):
            await call
    with pytest.raises(InvalidParameterValue, match="give the object"):
        Client("memory://")


async def test_a_client_is_no_engine() -> None:
    store = MemoryStore()
    async with client_of(store) as one, client_of(store):
        assert not await one.engines()
        world = World("engine", one._clock, lambda: 0.5, lambda: "x")
        connection = await store.connect(world)
        assert await one.engines()
        await connection.close()
        assert not await one.engines()


def test_a_call_is_awaited_for_as_long_as_any_version_may_run() -> None:
    versions = {"1": PublishedVersion(timeout_seconds=60), "2": PublishedVersion(timeout_seconds=5)}
    function = Function(name="slow", timeout_seconds=3, versions=versions)
    assert Request.of(function, b"{}", qualifier="1").timeout_seconds == 60
