"""What queue and stream mappings have in common: fresh events, typed handlers, results, restarts and takeovers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from lambent import Engine, RecursiveInvocation
from lambent.semantics.recursion import MAXIMUM_HOPS
from tests.engine.running import Away

from .conftest import Calls, bodies, make_engine, now

pytestmark = pytest.mark.virtual_time(deterministic=True)


class Flight(BaseModel):
    number: int


async def test_a_handler_that_changes_its_event_cannot_be_seen_by_the_retry(engine: Engine) -> None:
    queue, stream = engine.queue("q", visibility_timeout_seconds=10), engine.stream("s")
    seen: dict[str, list[Any]] = {}

    async def spoil(event: Any, context: Any) -> None:
        kept = seen.setdefault(event["Records"][0]["eventSource"] if "Records" in event else "async", [])
        kept.append(json.dumps([sorted(event), len(event.get("Records", ()))]))
        event.clear()
        if len(kept) == 1:
            raise ValueError("the first try")

    engine.function(spoil)
    engine.map(queue, spoil)
    engine.map(stream, spoil)
    async with engine:
        await engine.invoke_async(spoil, {"n": 1})
        await queue.send("m")
        await stream.put("m", key="k")
        await asyncio.sleep(100)
    assert sorted(seen) == ["async", "aws:kinesis", "aws:sqs"]
    assert all(len(kept) == 2 and kept[0] == kept[1] for kept in seen.values())


@pytest.mark.parametrize("kind", ["queue", "stream"])
async def test_an_item_that_does_not_fit_the_handlers_type_is_a_failed_item(engine: Engine, kind: str) -> None:
    dead = engine.queue("dead")
    got: list[int] = []

    @engine.function
    async def typed(flights: list[Flight]) -> None:
        got.extend(flight.number for flight in flights)

    if kind == "queue":
        queue = engine.queue("q", visibility_timeout_seconds=10, max_receive_count=2, dead_letter_queue=dead)
        engine.map(queue, typed, report_batch_item_failures=True)
    else:
        stream = engine.stream("s")
        engine.map(
            stream,
            typed,
            report_batch_item_failures=True,
            bisect_batch_on_function_error=True,  # otherwise what is behind the item is given up with it
            maximum_retry_attempts=1,
            on_failure=dead,
        )
    async with engine:
        items = [{"number": 1}, {"number": "none"}, {"number": 3}]
        if kind == "queue":
            await queue.send_many(items)
        else:
            await stream.put_many((item, "k") for item in items)
        await asyncio.sleep(100)
        (given_up,) = await bodies(dead)
    assert got == [1, 3]
    if kind == "queue":
        assert given_up == {"number": "none"}
    else:
        assert given_up["KinesisBatchInfo"]["batchSize"] == 1
        assert given_up["responseContext"]["functionError"] is None


@pytest.mark.parametrize("kind", ["queue", "stream"])
async def test_a_mapping_tells_its_last_result_in_awss_words(engine: Engine, kind: str) -> None:
    source: Any = engine.queue("q", visibility_timeout_seconds=5) if kind == "queue" else engine.stream("s")
    calls = Calls(lambda event, number: ValueError() if number == 1 else None, seconds=1)
    engine.function(calls)
    mapping = engine.map(source, calls)
    async with engine:
        await mapping.wait_until("Enabled")
        told = [(await mapping.details())["last_processing_result"]]
        await (source.send("m") if kind == "queue" else source.put("m", key="k"))
        await asyncio.sleep(1.1)
        told.append((await mapping.details())["last_processing_result"])
        await asyncio.sleep(60)
        told.append((await mapping.details())["last_processing_result"])
    assert told == ["No records processed", "PROBLEM: Function call failed", "OK"]


async def test_what_a_hard_stop_interrupts_is_done_again_and_is_no_failed_try() -> None:
    store = make_engine().store
    told: list[Any] = []
    for life in (1, 2):
        engine = make_engine(store=store, seed=life)
        dead = engine.queue("dead")
        queue = engine.queue("q", visibility_timeout_seconds=30, max_receive_count=1, dead_letter_queue=dead)
        stream = engine.stream("s")
        calls = Calls(seconds=20)
        engine.function(timeout_seconds=30, maximum_retry_attempts=0, on_failure=dead)(calls)
        engine.map(queue, calls)
        engine.map(stream, calls, maximum_retry_attempts=0, on_failure=dead)
        await engine.start()
        if life == 1:
            await engine.invoke_async(calls, {"async": 1})
            await queue.send("m")
            await stream.put("m", key="k")
            await asyncio.sleep(10)
            await engine.stop()
        else:
            await asyncio.sleep(100)
            assert await bodies(dead) == []
            await engine.drain()
        told.append(sorted(json.dumps(event.get("Records", [event])[0])[:12] for event in calls.events))
    assert len(told[0]) == 3
    assert told[0] == told[1]


async def test_a_drain_lets_what_runs_end_and_begins_nothing_new() -> None:
    engine = make_engine()
    stream, queue = engine.stream("s"), engine.queue("q")
    calls = Calls(seconds=10)
    engine.function(timeout_seconds=20)(calls)
    engine.map(stream, calls, batch_size=1)
    engine.map(queue, calls, batch_size=1)
    await engine.start()
    await queue.send("m")
    await stream.put_many([("a", "k"), ("b", "k")])
    await asyncio.sleep(5)
    await engine.drain()
    assert asyncio.get_running_loop().time() == pytest.approx(10)
    assert calls.sizes == [1, 1]


async def test_another_engine_takes_over_a_shard_where_the_first_one_left_it() -> None:
    store = make_engine().store
    engines = [make_engine(store=store, seed=seed, lease_seconds=10) for seed in (1, 2)]
    handlers = [Calls(), Calls()]
    for each, calls in zip(engines, handlers, strict=True):
        each.function(calls)
        each.map(each.stream("s", shards=4), calls)
    one, other = engines
    async with other:
        await one.start()
        await asyncio.sleep(60)  # they share the shards
        await one.stream("s").put_many((str(number), f"k{number}") for number in range(40))
        await asyncio.sleep(20)
        assert all(calls.records for calls in handlers)
        await one.stop()
        await other.stream("s").put_many((str(number), f"k{number}") for number in range(40))
        await asyncio.sleep(60)
    records = [record for calls in handlers for record in calls.records]
    assert len(records) == len({record["eventID"] for record in records}) == 80


async def test_a_call_within_a_call_is_cut_off_after_16_hops(engine: Engine) -> None:
    deepest: list[int] = []

    @engine.function
    async def again(event: int, context: Any) -> None:
        deepest.append(event)
        await engine.invoke(again, event + 1)

    async with engine:
        response = await engine.invoke_response(again, 1)
    assert deepest == list(range(1, MAXIMUM_HOPS + 2))
    assert response.function_error == "Unhandled"


async def test_the_call_that_is_cut_off_is_told_why(engine: Engine) -> None:
    told: list[str] = []

    @engine.function
    async def again(event: int, context: Any) -> None:
        try:
            await engine.invoke(again, event + 1)
        except RecursiveInvocation as refused:
            told.append(refused.aws_name)

    async with engine:
        await engine.invoke(again, 1)
    assert told == ["RecursiveInvocationException"]


async def test_a_world_that_fails_uses_up_no_receive_and_no_retry(engine: Engine) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=900, max_receive_count=1, dead_letter_queue=dead)
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    engine.map(queue, calls)
    engine.map(stream, calls, maximum_retry_attempts=0, on_failure=dead)
    async with engine:
        invoker = engine._living().invoker
        invoker._runtime = Away(invoker._runtime, until=lambda: now() >= 30)
        await queue.send("m")
        await stream.put("m", key="k")
        await asyncio.sleep(200)
        assert await bodies(dead) == []
    assert sorted(record["eventSource"] for record in calls.records) == ["aws:kinesis", "aws:sqs"]
    assert {record["attributes"]["ApproximateReceiveCount"] for record in calls.records if "body" in record} == {"1"}


async def test_two_mappings_share_an_account_and_what_waits_for_room_is_left_where_it_is() -> None:
    engine = make_engine(account_concurrency=4)
    handlers = {name: Calls(seconds=10) for name in ("one", "other")}
    for name, calls in handlers.items():
        queue = engine.queue(name, visibility_timeout_seconds=60)
        engine.function(name=name, timeout_seconds=30)(calls)
        engine.map(queue, name, batch_size=1)
    async with engine:
        for name in handlers:
            await engine.queue(name).send_many(range(10))
        await asyncio.sleep(25)
        assert all(len(calls.events) >= 3 for calls in handlers.values())
        await asyncio.sleep(100)
    for calls in handlers.values():
        assert sorted(int(record["body"]) for record in calls.records) == list(range(10))
        assert {record["attributes"]["ApproximateReceiveCount"] for record in calls.records} == {"1"}
