"""Code declares, the store remembers: what becomes of configuration over restarts, versions and deletions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from lambent import Client, Engine, MemoryStore, ResourceNotFound, TooManyRequests
from lambent.model import Queue
from lambent.ports import Store
from lambent.stored import Stored, difference
from lambent.stored_functions import FORGOTTEN_SECONDS
from lambent.stored_mappings import StoredMapping
from lambent.telemetry import ASYNC_EVENTS_DROPPED
from lambent.testing.loop import VirtualClock
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time

REPLACED = "what is declared replaces what is stored"
HELD = "a higher release declared it otherwise, which holds"


async def pack(event: Any, context: Any) -> None: ...


def declared(store: Store, handler: Callable[..., Any] = pack, **options: Any) -> Engine:
    """An engine whose code maps the stream 'orders' to `handler`, named pack."""
    settings = {name: options.pop(name) for name in ("release", "seed") if name in options}
    engine = virtual(store, **settings)
    engine.on(engine.stream("orders"), name="pack", **options)(handler)
    return engine


def other(store: Store, **options: Any) -> Engine:
    """An engine whose code has the function, and does not map it."""
    engine = virtual(store, seed=2, **options)
    engine.function(name="pack")(pack)
    return engine


def said(logs: Sequence[MutableMapping[str, Any]], event: str) -> dict[str, Any]:
    return {entry["name"]: entry["changes"] for entry in logs if entry["event"] == event}


async def mapping_of(engine: Engine) -> StoredMapping:
    (stored,) = (await engine.list_mappings()).values()
    return stored


# --------------------------------------------------------------------------- what replaces what


async def test_what_is_declared_replaces_what_is_stored_and_the_difference_is_logged_field_by_field(
    store: Store,
) -> None:
    async with declared(store, batch_size=5, timeout_seconds=9, maximum_retry_attempts=3) as engine:
        before = await mapping_of(engine)
    with capture_logs() as logs:
        async with declared(store, batch_size=6, maximum_retry_attempts=3) as engine:
            after = await mapping_of(engine)
            assert (await engine.get_function("pack")).timeout_seconds == 3
    assert after.mapping.batch_size == 6
    assert after.revision > before.revision
    assert said(logs, REPLACED) == {"pack": {"timeout_seconds": "9 -> 3"}, after.id: {"batch_size": "5 -> 6"}}
    with capture_logs() as logs:
        async with declared(store, batch_size=6, maximum_retry_attempts=3) as engine:
            assert (await mapping_of(engine)).revision == after.revision
    assert logs == []


def test_a_difference_goes_into_what_is_nested() -> None:
    before = {"timeout": 3, "events": {"retries": 2, "age": 60}, "gone": 1}
    assert difference(before, {"timeout": 3, "events": {"retries": 0, "age": 60}, "new": "x"}) == {
        "events.retries": "2 -> 0",
        "gone": "1 -> None",
        "new": "None -> 'x'",
    }


async def test_an_engine_does_not_replace_what_was_changed_after_it_declared_it(store: Store) -> None:
    async with declared(store, batch_size=5) as engine:
        async with Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=3) as client:
            await client.update_mapping((await mapping_of(engine)).id, batch_size=7)
        engine.function(name="late")(lambda event, context: None)  # makes it write once more
        await asyncio.sleep(1)
        assert "late" in await engine.list_functions()
        assert (await mapping_of(engine)).mapping.batch_size == 7


async def test_a_queue_that_is_only_mentioned_is_as_another_engine_declared_it() -> None:
    store = MemoryStore()
    first, second = virtual(store), virtual(store, seed=2, release=7)
    first.queue("orders", max_receive_count=3, dead_letter_queue="dead")
    second.queue("orders")
    async with first:
        async with second:
            assert second.control.queues["orders"].max_receive_count == 3
        assert (await first.control.get_queue("orders")).max_receive_count == 3
    async with virtual(store) as third:
        assert (await third.control.get_queue("orders")).max_receive_count == 3


async def test_what_another_engine_declares_later_holds_for_an_engine_that_runs() -> None:
    store = MemoryStore()
    early, late = virtual(store), virtual(store, seed=2)
    early.queue("orders")
    early.stream("flights", retention_seconds=3600)
    async with early:
        late.queue("orders", max_receive_count=3, dead_letter_queue="dead")
        late.stream("flights", retention_seconds=7200)
        async with late:
            await asyncio.sleep(1)
            assert early.control.queues["orders"].max_receive_count == 3
            opened = late._living().stream("flights")
            await early.stream("flights").put({}, key="k")  # opens it only now
            assert opened.retention_seconds == 7200


async def test_a_queue_that_an_engine_only_knows_of_is_never_written_by_it() -> None:
    store = MemoryStore()
    owner, user = virtual(store), virtual(store, seed=2)
    owner.queue("results", visibility_timeout_seconds=60)
    async with owner:
        pass
    user.function(name="f", on_success="queue:results")(pack)
    async with user:
        assert user.control.queues["results"].visibility_timeout_seconds == 60
    async with virtual(store, seed=3) as other:
        await other._living().connection.documents.put(
            "queue", "results", Stored(Queue(name="results").model_dump(mode="json")).body()
        )
    async with user:
        assert (await user.control.get_queue("results")).visibility_timeout_seconds == 30


async def test_a_mention_yields_to_a_declaration_of_any_release() -> None:
    store = MemoryStore()
    mentions, declares = virtual(store, release=7), virtual(store, seed=2)
    mentions.queue("orders")
    declares.queue("orders", visibility_timeout_seconds=60)
    async with mentions, declares:
        assert (await mentions.control.get_queue("orders")).visibility_timeout_seconds == 60


# --------------------------------------------------------------------------- releases


async def test_a_lower_release_runs_its_code_with_what_a_higher_one_declared(store: Store) -> None:
    seen: list[int] = []

    async def counts(event: Any, context: Any) -> None:
        seen.append(len(event["Records"]))
        assert context.get_remaining_time_in_millis() > 6000

    async with declared(store, release=2, batch_size=2, timeout_seconds=7, reserved_concurrency=0):
        pass
    old = declared(store, counts, release=1, batch_size=50)
    with capture_logs() as logs:
        async with old:
            assert old.control.functions["pack"].timeout_seconds == 7
            with pytest.raises(TooManyRequests):
                await old.invoke("pack")
            await old.update_function("pack", reserved_concurrency=None)
            await old.stream("orders").put_many([({"n": n}, "k") for n in range(4)])
            await asyncio.sleep(2)
            assert (await mapping_of(old)).mapping.batch_size == 2
    assert seen == [2, 2]
    held = said(logs, HELD)
    assert held["pack"] == {"timeout_seconds": "3 -> 7", "reserved_concurrency": "None -> 0"}
    assert {entry["log_level"] for entry in logs if entry["event"] == HELD} == {"warning"}


async def test_a_higher_release_and_the_same_one_replace_what_is_stored(store: Store) -> None:
    for release, batch_size in ((1, 5), (2, 6), (2, 7)):
        async with declared(store, release=release, batch_size=batch_size) as engine:
            stored = await mapping_of(engine)
            assert (stored.mapping.batch_size, stored.release) == (batch_size, release)


async def test_a_change_by_a_call_keeps_the_release(store: Store) -> None:
    async with declared(store, release=2) as engine:
        await engine.update_mapping((await mapping_of(engine)).id, batch_size=9)
        await engine.update_function("pack", timeout_seconds=8)
    async with declared(store, release=1) as engine:
        assert (await mapping_of(engine)).mapping.batch_size == 9
        assert engine.control.functions["pack"].timeout_seconds == 8


# --------------------------------------------------------------------------- no longer declared


async def test_a_mapping_that_is_no_longer_declared_is_stopped_and_goes_on_when_it_is_declared_again(
    store: Store,
) -> None:
    seen: list[str] = []

    async def reads(event: Any, context: Any) -> None:
        seen.extend(record["kinesis"]["partitionKey"] for record in event["Records"])

    async with declared(store, reads) as engine:
        await engine.stream("orders").put({}, key="first")
        await asyncio.sleep(1)
        identity = (await mapping_of(engine)).id
    without = virtual(store)
    without.function(name="pack")(reads)
    with capture_logs() as logs:
        async with without:
            await without.stream("orders").put({}, key="second")
            await asyncio.sleep(5)
            assert await without.mapping_state(identity) == "Disabled"
            async with Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=3) as client:
                assert await client.mapping_state(identity) == "Disabled"
                (standing,) = await client.standings(await client.snapshots())
                assert (standing.running, standing.backlog) == (None, 1)
    assert seen == ["first"]
    assert [entry["mapping"] for entry in logs if "not declared by this code" in entry["event"]] == [identity]
    async with declared(store, reads):
        await asyncio.sleep(1)
    assert seen == ["first", "second"]


async def test_an_engine_runs_what_it_declares_while_another_version_declares_more() -> None:
    store = MemoryStore()
    old, new = declared(store), other(store)
    async with old, new:
        identity = (await mapping_of(old)).id
        await old.mapping_reaches(identity, "Enabled")
        assert new.control.functions.keys() == {"pack"}
        assert not new._living().supervisor.runs(identity)


async def test_a_mapping_made_by_a_call_is_remembered_and_runs_wherever_its_function_is(store: Store) -> None:
    async with other(store) as engine:
        mapping = await engine.create_mapping(engine.stream("orders"), "pack")
        assert (await mapping_of(engine)).origin == "api"
    async with other(store) as engine:
        await engine.mapping_reaches(mapping.id, "Enabled")
        await engine.delete_mapping(mapping.id)
    async with other(store) as engine:
        assert await engine.list_mappings() == {}


async def test_a_mapping_made_by_a_call_becomes_the_codes_once_it_is_declared(store: Store) -> None:
    async with other(store) as engine:
        await engine.create_mapping(engine.stream("orders"), "pack", batch_size=7)
    async with declared(store, batch_size=8) as engine:
        stored = await mapping_of(engine)
        assert (stored.origin, stored.mapping.batch_size) == ("code", 8)
    async with other(store) as engine:
        assert await engine.mapping_state(stored.id) == "Disabled"


async def test_a_mapping_that_was_deleted_is_there_again_when_code_that_declares_it_starts(store: Store) -> None:
    async with declared(store) as engine:
        await engine.delete_mapping((await mapping_of(engine)).id)
        assert await engine.list_mappings() == {}
    async with declared(store) as engine:
        assert await engine.list_mappings()


async def test_a_deleted_mapping_that_comes_back_goes_on_where_it_was_with_balanced_books(store: Store) -> None:
    seen: list[str] = []

    async def handler(event: Any, context: Any) -> None:
        seen.extend(record["kinesis"]["sequenceNumber"] for record in event["Records"])

    async with declared(store, handler) as engine:
        first = await engine.stream("orders").put("1", key="k")
        await asyncio.sleep(2)
        await engine.delete_mapping((await mapping_of(engine)).id)
        await asyncio.sleep(120)
        second = await engine.stream("orders").put("2", key="k")
        await asyncio.sleep(2)
        assert seen == [first]
    async with declared(store, handler) as engine:
        await asyncio.sleep(2)
        assert seen == [first, second]
        audit = await engine.audit((await mapping_of(engine)).id)
        assert (audit.balanced, audit.total.came, audit.total.count("delivered")) == (True, 2, 2)


async def test_a_pause_and_a_seek_survive_a_restart(store: Store) -> None:
    async with declared(store) as engine:
        mapping = await engine.mapping((await mapping_of(engine)).id)
        await mapping.pause()
        await mapping.seek("LATEST")
    async with declared(store, batch_size=3) as engine:
        stored = await mapping_of(engine)
        assert (stored.mapping.enabled, stored.seek.generation, stored.seek.starting_position) == (False, 1, "LATEST")


async def test_events_of_a_function_that_is_no_longer_declared_wait_for_it(store: Store) -> None:
    begun: list[Any] = []

    async def handles(event: Any, context: Any) -> None:
        begun.append(event)

    first = virtual(store, drain_seconds=0)
    first.function(name="pack", reserved_concurrency=0)(handles)
    async with first:
        pass
    async with virtual(store, seed=2) as without:
        request_id = await without.invoke_async("pack", {"n": 1})
        await asyncio.sleep(3600)
        assert (await without.event(request_id)).state == "waiting"
    again = virtual(store)
    again.function(name="pack")(handles)
    async with again:
        await asyncio.sleep(1)
        assert (await again.event(request_id)).state == "succeeded"
    assert begun == [{"n": 1}]


# --------------------------------------------------------------------------- deleting a function


async def test_events_that_wait_for_a_function_that_is_deleted_end_as_dropped_when_they_fall_due(
    store: Store,
) -> None:
    engine = virtual(store)

    @engine.function(on_failure="queue:failures")
    async def fails(event: Any) -> None:
        raise ValueError("no")

    failures = engine.queue("failures")
    async with engine:
        retried = await engine.invoke_async(fails, {})
        await asyncio.sleep(1)
        waits = (await engine.event(retried)).due_at
        await engine.delete_function(fails)
        with pytest.raises(ResourceNotFound):
            await engine.invoke_async("fails", {})
        with pytest.raises(ResourceNotFound):
            await engine.delete_function("fails")
        assert (await engine.event(retried)).state == "waiting"
        await asyncio.sleep(90)
        fact = await engine.event(retried)
        assert (fact.state, fact.reason) == ("dropped", "its function was deleted")
        assert waits <= fact.ended_at <= waits + 30
        assert await failures.receive(1) == [], "nobody is told"
        assert engine.telemetry.snapshot()[ASYNC_EVENTS_DROPPED] == {"fails": 1}


async def test_what_runs_ends_as_it_began_although_its_function_is_deleted(store: Store) -> None:
    engine = virtual(store)
    begun = asyncio.Event()

    @engine.function(timeout_seconds=60)
    async def slow(event: Any) -> str:
        begun.set()
        await asyncio.sleep(30)
        return "done"

    with capture_logs() as logs:
        async with engine:
            request_id = await engine.invoke_async(slow, {})
            await begun.wait()
            await engine.delete_function(slow)
            await asyncio.sleep(31)
            fact = await engine.event(request_id)
            assert (fact.state, fact.result) == ("succeeded", b'"done"')
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_events_of_a_function_that_a_client_deleted_are_ended_by_the_next_engine_and_then_nothing_is_left(
    store: Store,
) -> None:
    async with declared(store):
        pass
    async with Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=3) as client:
        request_id = await client.invoke_async("pack", {})
        await client.delete_function("pack")
        assert await client.list_functions() == {}
        with pytest.raises(ResourceNotFound):
            await client.invoke_async("pack", {})
        async with virtual(store) as engine:
            await asyncio.sleep(1)
            assert (await engine.event(request_id)).state == "dropped"
        async with virtual(store) as engine:
            await asyncio.sleep(FORGOTTEN_SECONDS + 2)
            assert await engine._living().connection.documents.list("function") in ((), [])


async def test_a_function_that_is_declared_again_takes_the_events_over_that_are_left(store: Store) -> None:
    async with declared(store):
        pass
    async with Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=3) as client:
        request_id = await client.invoke_async("pack", {})
        await client.delete_function("pack")
        async with declared(store):
            await asyncio.sleep(1)
            assert (await client.event(request_id)).state == "succeeded"
