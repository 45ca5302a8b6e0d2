"""`engine.why` and `engine.audit`: where an item is, and whether a mapping's books balance, with engines that run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lambent import Client, Engine, InvalidParameterValue, ResourceNotFound
from lambent.configuration import PublishedVersion
from lambent.model import EventInvokeConfig
from lambent.ports import Store
from lambent.semantics.explaining import Explanation
from lambent.testing.loop import VirtualClock
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time


async def ok(event: Any, context: Any) -> str:
    return "ok"


def numbers(event: Any) -> list[int]:
    import base64
    import json

    return [json.loads(base64.b64decode(record["kinesis"]["data"]))["n"] for record in event["Records"]]


def fails_for(*bad: int) -> Callable[[Any, Any], Any]:
    async def handler(event: Any, context: Any) -> None:
        if set(bad) & set(numbers(event)):
            raise ValueError("poison")

    return handler


def reading(store: Store, handler: Callable[..., Any] = ok, **options: Any) -> Engine:
    """An engine that reads the stream 's'."""
    engine = virtual(store)
    engine.on(engine.stream("s"), name="f", **options)(handler)
    return engine


async def put(engine: Engine, *items: int, key: str = "k") -> list[str]:
    return await engine.stream("s").put_many([({"n": n}, key) for n in items])


async def why(engine: Engine | Client, id: str) -> Explanation:
    (found,) = await engine.why(id)
    return found


def client_of(engine: Engine) -> Client:
    return Client(engine.store, clock=VirtualClock(asyncio.get_running_loop()), seed=3)


async def only_mapping(engine: Engine) -> str:
    (identity,) = await engine.list_mappings()
    return identity


# --------------------------------------------------------------------------- why: events


async def test_an_event_is_explained_from_its_acceptance_to_its_end(store: Store) -> None:
    engine = virtual(store)
    gate = asyncio.Event()

    @engine.function(name="f")
    async def waits(event: Any) -> str:
        await gate.wait()
        if event["n"] == 1:
            raise ValueError("no paper")
        return "done"

    async with engine:
        first, second = [await engine.invoke_async("f", {"n": n}) for n in (1, 2)]
        await asyncio.sleep(1)
        assert (await why(engine, first)).verdict == "running"
        gate.set()
        await asyncio.sleep(1)
        found = await why(engine, first)
        assert (found.verdict, found.sentences[1]) == ("waiting", "Attempt 1 failed: ValueError: no paper.")
        assert (await why(engine, second)).verdict == "succeeded"


async def test_an_event_that_has_no_room_is_throttled_by_its_functions_limit(store: Store) -> None:
    engine = virtual(store)

    @engine.function(name="f", reserved_concurrency=1, timeout_seconds=60)
    async def slow(event: Any) -> None:
        await asyncio.sleep(50)

    async with engine:
        _, second = [await engine.invoke_async("f", {}) for _ in range(2)]
        await asyncio.sleep(10)
        found = await why(engine, second)
        assert found.verdict == "throttled"
        assert "f runs once at once, as often as its reserved_concurrency allows." in found.sentences


async def test_what_holds_a_message_an_event_or_a_record_is_named_whichever_limit_it_is(store: Store) -> None:
    engine = virtual(store, account_concurrency=102)
    orders, stream = engine.queue("orders", visibility_timeout_seconds=600), engine.stream("s")

    @engine.function(name="f", timeout_seconds=300)
    async def slow(event: Any) -> None:
        await asyncio.sleep(250)

    engine.function(ok, name="reserved", reserved_concurrency=1)
    engine.map(orders, slow, batch_size=1, maximum_concurrency=2)
    async with engine:
        *_, last = await orders.send_many(range(3))
        await asyncio.sleep(5)
        found = await why(engine, last)
        said = "queue:orders -> f runs 2 times at once, as often as its maximum_concurrency allows."
        assert (found.verdict, found.sentences[-1]) == ("throttled", said)
        *_, event = [await engine.invoke_async("f", {}) for _ in range(100)]
        await asyncio.sleep(5)
        engine.map(stream, "f")
        record = await stream.put("1", key="k")
        await asyncio.sleep(20)
        said = "All functions without a reservation run 101 times at once together, as often as account_concurrency"
        for item in (event, last, record):
            found = await why(engine, item)
            assert found.verdict == "throttled"
            assert f"{said} allows." in found.sentences


async def test_an_event_without_an_engine_says_what_to_start(store: Store) -> None:
    async with reading(store) as engine:
        pass
    async with client_of(engine) as client:
        request_id = await client.invoke_async("f", {})
        found = await why(client, request_id)
        assert (found.verdict, found.details["state"]) == ("waiting", "waiting")
        assert "No engine is running on this store: start one with `lambent run FILE.py`." in found.sentences


# --------------------------------------------------------------------------- why: messages


async def test_a_message_is_explained_on_its_way_to_the_dead_letter_queue(store: Store) -> None:
    engine = virtual(store)
    orders = engine.queue("orders", max_receive_count=1, dead_letter_queue="dead", visibility_timeout_seconds=10)

    @engine.on(orders, name="f")
    async def fails(event: Any) -> None:
        raise ValueError("no")

    async with engine:
        message_id = await orders.send("a", delay_seconds=5)
        assert (await why(engine, message_id)).verdict == "delayed"
        await asyncio.sleep(6)
        found = await why(engine, message_id)
        assert (found.verdict, found.mapping) == ("in-flight", await only_mapping(engine))
        await asyncio.sleep(30)
        found = await why(engine, message_id)
        assert found.verdict == "dead-letter"
        assert found.sentences[0] == "It is in the dead-letter queue dead, moved there from queue:orders."


async def test_a_message_that_is_held_back_or_filtered_says_so(store: Store) -> None:
    engine = virtual(store)
    orders = engine.queue("orders.fifo")
    mapping = engine.on(orders, name="f", filters=[{"body": {"n": [1]}}])(ok)
    assert mapping is ok
    async with engine:
        await (await engine.mapping(await only_mapping(engine))).pause()
        await asyncio.sleep(1)
        first = await orders.send({"n": 1}, group="a", deduplication_id="1")
        second = await orders.send({"n": 1}, group="a", deduplication_id="2")
        third = await orders.send({"n": 3}, group="b", deduplication_id="3")
        found = await why(engine, third)
        assert (found.verdict, found.details["misses"]) == ("filtered", ["body.n is 3, not 1"])
        assert (await why(engine, first)).verdict == "paused"
        assert (await why(engine, second)).details["behind"] == first


# --------------------------------------------------------------------------- why: records


async def test_a_record_is_explained_by_the_fate_that_it_found(store: Store) -> None:
    engine = reading(
        store, fails_for(3), batch_size=1, maximum_retry_attempts=0, filters=[{"data": {"n": [1, 3]}}],
        on_failure="queue:dead",
    )  # fmt: skip
    engine.queue("dead")
    async with engine:
        one, two, three = await put(engine, 1, 2, 3)
        await asyncio.sleep(5)
        found = await why(engine, f"shardId-000000000000:{one}")
        assert (found.kind, found.verdict, found.function) == ("record", "delivered", "f")
        filtered = await why(engine, two)
        assert filtered.verdict == "filtered"
        assert filtered.sentences[-1].startswith("Filter 1: data.n is 2")
        assert (await why(engine, three)).sentences == (
            "It was given up: RetryAttemptsExhausted; its report went to queue:dead.",
        )
        assert (await why(engine, f"shardId-000000000009:{one}")).verdict == "unknown"


async def test_a_record_behind_poison_says_behind_which_batch_and_a_paused_one_how_far_it_is(store: Store) -> None:
    engine = reading(store, fails_for(1), batch_size=1)
    async with engine:
        one, two, three = await put(engine, 1, 2, 3)
        await asyncio.sleep(30)
        poison, behind = await why(engine, one), await why(engine, three)
        assert (poison.verdict, behind.verdict) == ("trying", "blocked")
        assert behind.sentences[0].startswith(f"It comes after the batch {one} to {one} of its shard")
        assert behind.details["before"] == 2
        await (await engine.mapping(await only_mapping(engine))).pause()
        await engine.mapping_reaches(await only_mapping(engine), "Disabled")
        assert (await why(engine, two)).verdict == "paused"


async def test_a_record_before_the_start_of_a_mapping_and_one_in_a_child_shard_say_so(store: Store) -> None:
    engine = reading(store, fails_for(2), starting_position="LATEST", batch_size=1)
    without = virtual(store)
    without.stream("s")
    async with without:
        (early,) = await put(without, 1)
        assert (await why(without, early)).verdict == "unmapped"
    async with engine:
        await asyncio.sleep(1)
        assert (await why(engine, early)).verdict == "before-start"
        await put(engine, 2)
        await asyncio.sleep(1)
        (shard,) = await engine.stream("s").shards()
        await engine.stream("s").split(shard.id)
        (late,) = await put(engine, 3)
        await asyncio.sleep(20)
        found = await why(engine, late)
        assert (found.verdict, shard.id in found.sentences[0]) == ("blocked", True)


async def test_a_record_that_its_stream_has_trimmed_keeps_its_fate(store: Store) -> None:
    engine = virtual(store)
    engine.on(engine.stream("s", retention_seconds=3600), name="f")(ok)
    async with engine:
        (early,) = await put(engine, 1)
        await asyncio.sleep(3700)
        await put(engine, 2)
        await asyncio.sleep(1)
        assert await engine._living().stream("s").find(early) is None
        assert (await why(engine, early)).verdict == "delivered"


async def test_a_record_is_explained_for_each_mapping_and_what_is_unknown_says_so(store: Store) -> None:
    engine = reading(store)
    engine.on("stream:s", name="g", enabled=False)(fails_for())
    async with engine:
        (one,) = await put(engine, 1)
        await asyncio.sleep(1)
        assert {each.function: each.verdict for each in await engine.why(one)} == {"f": "delivered", "g": "paused"}
        for nothing in ("x", "", "a:b", one[:-1] + "9"):
            assert (await why(engine, nothing)).verdict == "unknown"


# --------------------------------------------------------------------------- audit


async def test_the_totals_of_a_mapping_equal_its_input_by_shard_and_together(store: Store) -> None:
    engine = virtual(store)
    stream = engine.stream("s", shards=3)
    engine.on(
        stream, name="f", batch_size=2, parallelization_factor=2, maximum_retry_attempts=0, filters=[{"data": {"n": [
            {"numeric": ["<", 90]}]}}], bisect_batch_on_function_error=True,
    )(fails_for(7, 40))  # fmt: skip
    async with engine:
        await stream.put_many([({"n": n}, str(n)) for n in range(100)])
        await asyncio.sleep(60)
        identity = await only_mapping(engine)
        audit = await engine.audit(identity)
        total = audit.total
        assert audit.balanced
        assert (total.came, total.passed, total.waiting, total.trimmed) == (100, 100, 0, 0)
        assert total.fates == {("delivered", ""): 88, ("filtered", ""): 10, ("failed", "RetryAttemptsExhausted"): 2}
        assert len(audit.shards) == 3
        await (await engine.mapping(identity)).pause()
        await engine.mapping_reaches(identity, "Disabled")
        await put(engine, *range(5), key="k")
        async with client_of(engine) as client:
            audit = await client.audit(identity)
            assert (audit.balanced, audit.total.came, audit.total.waiting, audit.total.told) == (True, 105, 5, 100)


async def test_an_audit_begins_where_the_mapping_began_or_was_sought(store: Store) -> None:
    engine = reading(store, starting_position="LATEST")
    without = virtual(engine.store)
    without.stream("s")
    async with without:
        await put(without, *range(5))
    async with engine:
        await asyncio.sleep(1)
        identity = await only_mapping(engine)
        await put(engine, *range(3))
        await asyncio.sleep(1)
        assert (await engine.audit(identity)).total.came == 3
        await (await engine.mapping(identity)).seek("TRIM_HORIZON")
        await asyncio.sleep(5)
        audit = await engine.audit(identity)
        assert (audit.balanced, audit.total.came, audit.total.count("delivered")) == (True, 8, 8)


async def test_an_audit_says_what_was_dropped_unread_and_then_counts_it_as_lost(store: Store) -> None:
    engine = virtual(store)
    engine.on(engine.stream("s", retention_seconds=3600, keep_unread=False), name="f")(ok)
    async with engine:
        identity = await only_mapping(engine)
        mapping = await engine.mapping(identity)
        await put(engine, 1)
        await asyncio.sleep(1)
        await mapping.pause()
        await engine.mapping_reaches(identity, "Disabled")
        await put(engine, 2, 3)
        await asyncio.sleep(4000)
        await put(engine, 4)
        audit = await engine.audit(identity)
        assert (audit.total.came, audit.total.waiting, audit.total.trimmed) == (4, 1, 2)
        await mapping.resume()
        await asyncio.sleep(5)
        audit = await engine.audit(identity)
        assert audit.balanced
        assert audit.total.fates == {("delivered", ""): 2, ("lost", "trimmed by the source"): 2}


async def test_only_the_mapping_of_a_stream_can_be_audited(store: Store) -> None:
    engine = virtual(store)
    mapping = engine.map(engine.queue("q"), "f")
    engine.function(name="f")(ok)
    async with engine:
        with pytest.raises(InvalidParameterValue, match="queue:q is a queue"):
            await engine.audit(mapping.id)
        with pytest.raises(ResourceNotFound):
            await engine.audit("nothing")


async def test_an_event_is_explained_by_the_configuration_of_the_qualifier_that_it_names(store: Store) -> None:
    engine = virtual(store)

    @engine.function(name="f", maximum_retry_attempts=0)
    async def fails(event: Any) -> None:
        raise ValueError("no paper")

    engine.queue("failed")
    async with engine:
        live = EventInvokeConfig(maximum_retry_attempts=1, on_failure="queue:failed")
        changes = {"versions": {"1": PublishedVersion()}, "event_invoke_of": {"1": live}}
        await engine.control.update_function("f", changes)
        plain, named = [await engine.invoke_async("f", {}, qualifier=each) for each in (None, "1")]
        await asyncio.sleep(1)
        assert (await why(engine, plain)).verdict == "failed"
        waiting = await why(engine, named)
        assert waiting.verdict == "waiting"
        assert waiting.sentences[0].endswith("attempt 2 of at most 2 of f.")
        await asyncio.sleep(100)
        ended = await why(engine, named)
        assert "What fails for good is told: on_failure is queue:failed." in ended.sentences
        assert not any("on_failure" in each for each in (await why(engine, plain)).sentences)
