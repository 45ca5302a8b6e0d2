"""What a user does with an engine: declare, start, call, put and send, pause and seek, and end it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import uuid
from typing import Any

import pytest

from lambent import (
    Engine,
    FunctionError,
    InvalidParameterValue,
    InvalidRequestContent,
    InvokeResponse,
    MemoryStore,
    RecursiveInvocation,
    RequestTooLarge,
    ResourceNotFound,
    TooManyRequests,
)
from lambent.context import current_invocation
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def echo(event: Any, context: Any) -> Any:
    return event


def bodies(event: Any) -> list[str]:
    return [record["body"] for record in event["Records"]]


# --------------------------------------------------------------------------- calling


async def test_invoke_gives_the_value_of_the_handler() -> None:
    engine = virtual()
    engine.function(echo)

    @engine.function
    def plain(event: Any) -> Any:
        return [event, 1]

    async with engine:
        assert await engine.invoke(echo, {"a": [1, None]}) == {"a": [1, None]}
        assert await engine.invoke("echo", b' {"a": 2}') == {"a": 2}
        assert await engine.invoke(plain, "text") == ["text", 1]
        assert await engine.invoke(echo) == {}
        assert await engine.invoke(echo, None) is None
        assert await engine.invoke(echo, 1, qualifier="$LATEST") == 1
    assert await echo(5, None) == 5


async def test_by_reference_the_very_object_goes_in_and_out() -> None:
    engine = virtual()
    engine.function(boundary="reference")(echo)
    thing = object()
    async with engine:
        assert await engine.invoke(echo, thing) is thing
        assert (await engine.invoke_response(echo, {"a": 1})).payload == b'{"a": 1}'
        response = await engine.invoke_response(echo, thing)
        assert response.function_error == "Unhandled"
        assert json.loads(response.payload)["errorType"] == "Runtime.MarshalError"


async def test_a_failure_of_the_handler_is_an_error_with_awss_document() -> None:
    engine = virtual()

    @engine.function
    async def fails(event: Any) -> None:
        raise ValueError("no such flight")

    async with engine:
        with pytest.raises(FunctionError, match="ValueError: no such flight") as caught:
            await engine.invoke(fails, {})
        assert caught.value.document["errorType"] == "ValueError"
        assert caught.value.document["requestId"] == caught.value.request_id
        response = await engine.invoke_response("fails", {})
        assert (response.status_code, response.function_error, response.executed_version) == (
            200,
            "Unhandled",
            "$LATEST",
        )
        assert json.loads(response.payload)["errorMessage"] == "no such flight"
        assert json.loads(response.payload)["requestId"] == response.request_id


async def test_a_response_is_boto3s_view() -> None:
    engine = virtual()
    engine.function(echo)
    async with engine:
        response = await engine.invoke_response(echo, {"a": 1}, log_type="Tail")
        assert (response.status_code, response.payload, response.function_error) == (200, b'{"a": 1}', None)
        assert f"START RequestId: {response.request_id} Version: $LATEST" in response.log_tail
        dry = await engine.invoke_response(echo, dry_run=True)
        assert dry == InvokeResponse(204, dry.request_id)
        with pytest.raises(InvalidParameterValue, match="log_type: 'tail' is not allowed"):
            await engine.invoke_response(echo, log_type="tail")


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"[" * 100_000, b"NaN", {1, 2}, float("nan"), "\ud800", object()])
async def test_a_payload_that_is_no_json_is_refused(payload: Any) -> None:
    engine = virtual()
    engine.function(echo)
    async with engine:
        for call in (engine.invoke, engine.invoke_response, engine.invoke_async):
            with pytest.raises(InvalidRequestContent, match="Could not parse request body into json"):
                await call(echo, payload)
        assert not await engine._living().events.pending()


async def test_payloads_have_limits() -> None:
    engine = virtual()
    engine.function(echo)
    async with engine:
        with pytest.raises(RequestTooLarge, match="6291456"):
            await engine.invoke(echo, "x" * (6 * 1024 * 1024))
        with pytest.raises(RequestTooLarge, match="1048576"):
            await engine.invoke_async(echo, "x" * 1024 * 1024)
        assert await engine.invoke_async(echo, "x" * (1024 * 1024 - 2))
        for call in (engine.queue("q").send, lambda body: engine.stream("s").put(body, key="k")):
            with pytest.raises(RequestTooLarge, match="1048576 bytes"):
                await call("x" * 1024 * 1025)


async def test_an_unknown_function_is_not_found_in_awss_words() -> None:
    engine = virtual()
    engine.function(echo)
    arn = "arn:aws:lambda:us-east-1:000000000000:function"
    async with engine:
        for call in (engine.invoke, engine.invoke_response, engine.invoke_async):
            with pytest.raises(ResourceNotFound) as caught:
                await call("nobody", {})
            assert caught.value.message == f"Function not found: {arn}:nobody:$LATEST"
            with pytest.raises(ResourceNotFound) as caught:
                await call(echo, {}, qualifier="blue")
            assert caught.value.message == f"Function not found: {arn}:echo:blue"


async def test_a_function_at_its_limit_is_throttled() -> None:
    engine = virtual()
    release = asyncio.Event()

    @engine.function(reserved_concurrency=1)
    async def one(event: Any) -> None:
        await release.wait()

    engine.function(name="off", reserved_concurrency=0)(echo)
    async with engine:
        first = asyncio.create_task(engine.invoke(one, {}))
        await asyncio.sleep(0.1)
        with pytest.raises(TooManyRequests, match=r"Rate Exceeded\.") as caught:
            await engine.invoke(one, {})
        assert caught.value.reason == "ReservedFunctionConcurrentInvocationLimitExceeded"
        with pytest.raises(TooManyRequests):
            await engine.invoke("off", {})
        release.set()
        await first


async def test_an_asynchronous_event_is_stored_then_run() -> None:
    engine = virtual()
    got: list[Any] = []

    @engine.function
    async def keep(event: Any, context: Any) -> None:
        got.append((event, context.aws_request_id, context.client_context.custom))

    async with engine:
        request_id = await engine.invoke_async(keep, {"a": 1}, client_context={"custom": {"x": 1}})
        assert not got
        await asyncio.sleep(1)
        assert got == [({"a": 1}, request_id, {"x": 1})]
        assert engine.telemetry.snapshot()["AsyncEventsReceived"] == {"keep": 1}


async def test_an_asynchronous_event_is_retried_as_the_settings_say_then_reported() -> None:
    engine = virtual(async_retry_delays_seconds=(1.0, 2.0))
    at: list[float] = []

    @engine.function(on_failure=engine.queue("dead"), dead_letter_queue=engine.queue("letters"))
    async def fails(event: Any) -> None:
        at.append(asyncio.get_running_loop().time())
        raise ValueError("no")

    async with engine:
        await engine.invoke_async(fails, {"n": 1})
        await asyncio.sleep(10)
        assert [round(later - earlier, 1) for earlier, later in itertools.pairwise(at)] == [1.0, 2.0]
        (dead,) = await engine.queue("dead").receive()
        assert json.loads(dead.body)["requestContext"]["condition"] == "RetriesExhausted"
        (letter,) = await engine.queue("letters").receive()
        assert letter.body == '{"n": 1}'
        await engine.queue("letters").delete([letter])
        await asyncio.sleep(31)
        assert not await engine.queue("letters").receive()


async def test_a_result_goes_to_another_function() -> None:
    engine = virtual()
    got: list[Any] = []

    @engine.function
    async def after(event: Any) -> None:
        got.append(event)

    engine.function(on_success=after)(echo)
    async with engine:
        await engine.invoke_async(echo, 5)
        await asyncio.sleep(1)
    assert [record["responsePayload"] for record in got] == [5]


async def test_an_event_for_a_function_of_another_engine_waits_for_it() -> None:
    store = MemoryStore()
    client, host = virtual(store, seed=1), virtual(store, seed=2)
    got: list[Any] = []
    host.function(name="far")(got.append)
    async with client:
        async with host:
            pass
        await client.invoke_async("far", 1)
        await asyncio.sleep(1)
        assert not got
        async with host:
            await asyncio.sleep(10)  # the client has all permits until its next heartbeat
        assert got == [1]


@pytest.mark.parametrize("option", ["on_success", "on_failure", "dead_letter_queue"])
async def test_a_destination_may_be_a_queue_that_another_engine_declared(option: str) -> None:
    store = MemoryStore()
    owner, host = virtual(store, seed=1), virtual(store, seed=2)
    results = owner.queue("results")

    @host.function(maximum_retry_attempts=0, **{option: "queue:results"})
    def ends(event: Any) -> None:
        if option != "on_success":
            raise ValueError(event)

    async with owner, host:
        await host.invoke_async(ends, {})
        await asyncio.sleep(10)  # the owner has all permits until its next heartbeat
        assert len(await results.receive()) == 1


async def test_what_a_deleted_function_reserved_is_free_for_others() -> None:
    engine = virtual(account_concurrency=105)
    engine.function(name="gone", reserved_concurrency=5)(lambda event: None)

    @engine.function(timeout_seconds=60)
    async def other(event: Any) -> int:
        await asyncio.sleep(30)
        return 1

    async with engine:
        await engine.delete_function("gone")
        await asyncio.sleep(1)
        answers = await asyncio.gather(*(engine.invoke(other) for _ in range(105)))
    assert sum(answers) == 105


async def test_a_call_inside_a_handler_adds_a_hop_and_the_loop_is_cut() -> None:
    engine = virtual()
    hops: list[int] = []

    @engine.function(timeout_seconds=60)
    async def again(event: Any) -> None:
        invocation = current_invocation()
        assert invocation is not None
        hops.append(invocation.hops)
        await engine.invoke(again, {})

    @engine.function(recursive_loop="Allow", timeout_seconds=60)
    async def deep(event: int) -> int:
        return await engine.invoke(deep, event - 1) if event else 0

    async with engine:
        with pytest.raises(FunctionError) as caught:
            await engine.invoke(again, {})
        assert caught.value.document["errorType"] == "FunctionError"
        assert hops == list(range(1, len(hops) + 1))
        assert 16 <= len(hops) <= 17
        assert engine.telemetry.snapshot()["RecursiveInvocationsDropped"] == {"again": 1}
        assert await engine.invoke(deep, 40) == 0
    assert RecursiveInvocation.status == 400


async def test_hops_are_carried_through_events_queues_and_streams() -> None:
    engine = virtual()
    queue, stream = engine.queue("q"), engine.stream("s")
    seen: dict[str, int] = {}

    def note(name: str) -> None:
        invocation = current_invocation()
        assert invocation is not None
        seen[name] = invocation.hops

    @engine.function
    async def first(event: Any) -> None:
        note("first")
        await engine.invoke_async(second, {})

    @engine.function
    async def second(event: Any) -> None:
        note("second")
        await queue.send({})

    @engine.on(queue)
    async def third(event: Any) -> None:
        note("third")
        await stream.put({}, key="k")

    @engine.on(stream)
    async def fourth(event: Any) -> None:
        note("fourth")

    async with engine:
        await engine.invoke(first, {})
        await asyncio.sleep(5)
    assert seen == {"first": 1, "second": 2, "third": 3, "fourth": 4}


async def test_ids_are_version_4_uuids_that_follow_from_the_seed() -> None:
    found = []
    for _ in range(2):
        engine = virtual(seed=7)
        engine.function(echo)
        async with engine:
            found.append([(await engine.invoke_response(echo)).request_id for _ in range(50)])
    assert found[0] == found[1]
    assert len({*found[0]}) == 50
    assert all(str(uuid.UUID(each)) == each and uuid.UUID(each).version == 4 for each in found[0])
    assert virtual(random=random.Random(3), seed=None)


# --------------------------------------------------------------------------- mappings


async def test_a_queue_feeds_its_function() -> None:
    engine = virtual()
    queue = engine.queue("q")
    got: list[str] = []

    @engine.on(queue, batch_size=10)
    def take(event: Any) -> None:
        got.extend(bodies(event))

    async with engine:
        await queue.send({"a": 1})
        await queue.send_many(["text", [1]])
        await queue.send("later", delay_seconds=100, attributes={"colour": "red"})
        await asyncio.sleep(1)
        assert sorted(got) == ["[1]", "text", '{"a": 1}']
        await asyncio.sleep(100)
        assert got[-1] == "later"


async def test_a_stream_feeds_its_function_through_a_filter() -> None:
    engine = virtual()
    departures = engine.stream("departures", shards=3)
    got: list[Any] = []

    @engine.function
    async def delays(event: Any) -> None:
        got.extend(record["kinesis"]["partitionKey"] for record in event["Records"])

    engine.map(departures, delays, filters=[{"data": {"origin": ["JFK", "LGA"]}}])
    async with engine:
        await departures.put_many([({"origin": origin}, f"key-{origin}") for origin in ("JFK", "EWR", "LGA")])
        await asyncio.sleep(2)
    assert sorted(got) == ["key-JFK", "key-LGA"]


async def test_a_mapping_is_paused_resumed_and_sought() -> None:
    engine = virtual()
    stream = engine.stream("s")
    got: list[int] = []

    @engine.function
    async def take(event: Any) -> None:
        got.extend(int(record["kinesis"]["partitionKey"]) for record in event["Records"])

    mapping = engine.map(stream, take)
    async with engine:
        await mapping.wait_until("Enabled")
        await stream.put({}, key="1")
        await asyncio.sleep(1)
        await mapping.pause()
        await mapping.wait_until("Disabled")
        assert await mapping.details() == {}
        await stream.put({}, key="2")
        await asyncio.sleep(60)
        assert got == [1]
        await mapping.resume()
        await mapping.wait_until("Enabled")
        await asyncio.sleep(1)
        assert got == [1, 2]
        assert (await mapping.details())["last_processing_result"] == "OK"
        await mapping.seek("TRIM_HORIZON")
        await asyncio.sleep(2)
        assert got == [1, 2, 1, 2]
        await mapping.seek("LATEST")
        await asyncio.sleep(2)
        await stream.put({}, key="3")
        await asyncio.sleep(2)
        assert got == [1, 2, 1, 2, 3]
        assert await mapping.state() == "Enabled"


async def test_an_update_applies_after_the_batch_in_flight() -> None:
    engine = virtual()
    queue = engine.queue("q")
    sizes: list[int] = []

    @engine.function(timeout_seconds=10)
    async def take(event: Any) -> None:
        sizes.append(len(event["Records"]))
        await asyncio.sleep(5)

    mapping = engine.map(queue, take, batch_size=1)
    async with engine:
        await queue.send("a")
        await asyncio.sleep(1)
        await mapping.update(batch_size=10)
        await asyncio.sleep(1)
        assert await mapping.state() == "Updating"
        await queue.send_many(["b", "c"])
        await mapping.wait_until("Enabled")
        await asyncio.sleep(10)
    assert sizes == [1, 2]


async def test_what_is_declared_after_the_start_works_at_once() -> None:
    engine = virtual()
    async with engine:
        engine.function(reserved_concurrency=5)(echo)
        assert await engine.invoke(echo, 1) == 1
        got: list[Any] = []
        mapping = engine.map(engine.queue("late"), engine.function(name="take")(got.append))
        assert await mapping.state() == "Creating"
        await mapping.wait_until("Enabled")
        await engine.queue("late").send("x")
        await asyncio.sleep(1)
        assert [bodies(event) for event in got] == [["x"]]


async def test_several_engines_share_a_reserved_limit_and_nobody_starves() -> None:
    store = MemoryStore()
    running, most, done = 0, 0, {1: 0, 2: 0}

    def host(number: int) -> Engine:
        engine = virtual(store, seed=number, lease_seconds=3.0)

        @engine.function(name="scarce", reserved_concurrency=1, timeout_seconds=10)
        async def scarce(event: Any) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.5)
            running -= 1
            done[number] += 1

        return engine

    one, two = host(1), host(2)
    async with one, two:
        for _ in range(200):
            await one.invoke_async("scarce", {})
        await asyncio.sleep(90)
    assert most == 1
    assert min(done.values()) > 20


@pytest.mark.parametrize("apart", [[0, 2], [0, 1, 2], [0.2, 0.1, 2.7]])
async def test_a_message_does_not_go_round_between_engines_that_share_a_permit(apart: list[float]) -> None:
    store, sent_at = MemoryStore(), 0.0
    waited: list[float] = []

    def host(number: int) -> Engine:
        engine = virtual(store, seed=number, lease_seconds=10.0)

        @engine.function(name="scarce", reserved_concurrency=1, timeout_seconds=1)
        async def scarce(event: Any) -> None:
            waited.append(asyncio.get_running_loop().time() - sent_at)

        queue = engine.queue("q", visibility_timeout_seconds=5)
        engine.map(queue, scarce, maximum_batching_window_seconds=5)
        return engine

    async with contextlib.AsyncExitStack() as stack:
        for number, seconds in enumerate(apart):
            await asyncio.sleep(seconds)
            engine = await stack.enter_async_context(host(number))
        for number in range(30):
            sent_at = asyncio.get_running_loop().time()
            await engine.queue("q").send(number)
            await asyncio.sleep(40.37)
            assert len(waited) == number + 1
    assert max(waited) < 20  # a window, and everybody's turn
