"""Asynchronous invocation: retries, age, conditions, and where results go (the rules behind area 02)."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from lambent import Engine, InvalidParameterValue, RequestTooLarge, StoreUnavailable
from lambent.semantics.recursion import MAXIMUM_HOPS
from tests.engine.running import Away

from .conftest import Calls, bodies, make_engine, messages

pytestmark = pytest.mark.virtual_time(deterministic=True)

ARN = "arn:aws:lambda:us-east-1:111111111111:function:function"
RETRIES = [0.0, 60.0, 180.0]


def failing(event: Any, number: int) -> Exception:
    return ValueError("no such flight")


async def test_a_failed_event_is_tried_again_after_one_minute_and_after_two_more(engine: Engine) -> None:
    calls = Calls(failing)
    engine.function(calls)
    async with engine:
        request_id = await engine.invoke_async(calls, {"flight": 1})
        await asyncio.sleep(7 * 3600)
    assert calls.at == RETRIES
    assert {context.aws_request_id for context in calls.contexts} == {request_id}
    assert calls.events == [{"flight": 1}] * 3


async def test_an_event_that_succeeds_at_last_is_a_success_with_its_number_of_tries(engine: Engine) -> None:
    done, dead = engine.queue("done"), engine.queue("dead")
    calls = Calls(lambda event, number: ValueError() if number == 1 else {"delay": 7})
    engine.function(on_success=done, on_failure=dead, dead_letter_queue=dead)(calls)
    async with engine:
        request_id = await engine.invoke_async(calls, {"flight": 1})
        await asyncio.sleep(3600)
        (record,) = await bodies(done)
        assert await bodies(dead) == []
    assert calls.at == RETRIES[:2]
    timestamp = record["timestamp"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp)
    assert json.dumps(record) == json.dumps(
        {
            "version": "1.0",
            "timestamp": timestamp,
            "requestContext": {
                "requestId": request_id,
                "functionArn": f"{ARN}:$LATEST",
                "condition": "Success",
                "approximateInvokeCount": 2,
            },
            "requestPayload": {"flight": 1},
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
            "responsePayload": {"delay": 7},
        }
    )


async def test_an_event_that_failed_for_good_is_reported_with_its_last_error(engine: Engine) -> None:
    dead = engine.queue("dead")
    calls = Calls(lambda event, number: ValueError(f"try {number}"))
    engine.function(on_failure=dead)(calls)
    async with engine:
        request_id = await engine.invoke_async(calls, {"flight": 1})
        await asyncio.sleep(3600)
        (record,) = await bodies(dead)
    assert json.dumps(record["requestContext"]) == json.dumps(
        {
            "requestId": request_id,
            "functionArn": f"{ARN}:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        }
    )
    assert list(record) == [
        "version", "timestamp", "requestContext", "requestPayload", "responseContext", "responsePayload",
    ]  # fmt: skip
    assert json.dumps(record["responseContext"]) == json.dumps(
        {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    )
    assert list(record["responsePayload"]) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert record["responsePayload"]["errorMessage"] == "try 3"
    assert record["responsePayload"]["requestId"] == request_id


@pytest.mark.parametrize(
    ("options", "tries", "condition"),
    [
        ({"maximum_retry_attempts": 0}, 1, "RetriesExhausted"),
        ({"maximum_retry_attempts": 1}, 2, "RetriesExhausted"),
        ({"maximum_retry_attempts": 2}, 3, "RetriesExhausted"),
        ({"maximum_event_age_seconds": 60}, 1, "EventAgeExceeded"),  # the next try would come at 60 s
        ({"maximum_event_age_seconds": 61}, 2, "EventAgeExceeded"),
        ({"maximum_event_age_seconds": 90}, 2, "EventAgeExceeded"),
        ({"maximum_event_age_seconds": 180}, 2, "EventAgeExceeded"),
        ({"maximum_event_age_seconds": 181}, 3, "RetriesExhausted"),
        ({"maximum_event_age_seconds": 90, "maximum_retry_attempts": 0}, 1, "RetriesExhausted"),
    ],
)
async def test_an_event_is_given_up_as_soon_as_no_try_fits_any_more(
    engine: Engine, options: dict[str, int], tries: int, condition: str
) -> None:
    dead = engine.queue("dead")
    calls = Calls(failing)
    engine.function(on_failure=dead, **options)(calls)
    async with engine:
        await engine.invoke_async(calls)
        await asyncio.sleep(calls_end := RETRIES[tries - 1] + 1)
        (record,) = await bodies(dead)
        await asyncio.sleep(3600 - calls_end)
    assert calls.at == RETRIES[:tries]
    assert record["requestContext"]["condition"] == condition
    assert record["requestContext"]["approximateInvokeCount"] == tries
    assert record["responsePayload"]["errorMessage"] == "no such flight"  # of the last try, also for one too old


async def test_a_throttled_event_waits_longer_and_longer_and_uses_up_no_try(engine: Engine) -> None:
    done = engine.queue("done")
    calls = Calls(seconds=100)
    engine.function(reserved_concurrency=1, timeout_seconds=900, on_success=done)(calls)
    async with engine:
        first = asyncio.create_task(engine.invoke(calls, "sync"))
        await asyncio.sleep(0)
        await engine.invoke_async(calls, "waits")
        await first
        await asyncio.sleep(300)
        (record,) = await bodies(done)
    assert calls.events == ["sync", "waits"]
    assert record["requestContext"]["approximateInvokeCount"] == 1


async def test_an_event_that_is_throttled_until_it_is_too_old_was_never_run(engine: Engine) -> None:
    dead = engine.queue("dead")
    calls = Calls(seconds=800)
    engine.function(
        reserved_concurrency=1,
        timeout_seconds=900,
        maximum_event_age_seconds=120,
        on_failure=dead,
        dead_letter_queue=dead,
    )(calls)
    async with engine:
        first = asyncio.create_task(engine.invoke(calls, "sync"))
        await asyncio.sleep(0)
        await engine.invoke_async(calls, "waits")
        await asyncio.sleep(119)
        assert await bodies(dead) == []
        await asyncio.sleep(300)
        record, letter = sorted(await bodies(dead), key=lambda body: isinstance(body, str))
        await first
    assert calls.events == ["sync"]
    assert letter == "waits"
    assert list(record) == ["version", "timestamp", "requestContext", "requestPayload"]
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert record["requestContext"]["approximateInvokeCount"] == 0


async def test_with_reserved_concurrency_0_an_event_fails_at_once(engine: Engine) -> None:
    dead = engine.queue("dead")
    calls = Calls()
    engine.function(reserved_concurrency=0, on_failure=dead)(calls)
    async with engine:
        request_id = await engine.invoke_async(calls, {"flight": 1})
        await asyncio.sleep(1)
        (record,) = await bodies(dead)
    assert calls.events == []
    assert json.dumps(record) == json.dumps(
        {
            "version": "1.0",
            "timestamp": record["timestamp"],
            "requestContext": {
                "requestId": request_id,
                "functionArn": f"{ARN}:$LATEST",
                "condition": "ZeroReservedConcurrency",
                "approximateInvokeCount": 0,
            },
            "requestPayload": {"flight": 1},
        }
    )


async def test_a_world_that_fails_uses_up_no_try(engine: Engine) -> None:
    done = engine.queue("done")
    calls = Calls(lambda event, number: "done")
    engine.function(on_success=done, maximum_retry_attempts=0)(calls)
    async with engine:
        invoker = engine._living().invoker  # a world without containers fails only if made to
        away = invoker._runtime = Away(invoker._runtime, until=lambda: len(away.tries) >= 4)
        await engine.invoke_async(calls)
        await asyncio.sleep(60)
        (record,) = await bodies(done)
    assert len(away.tries) == 4
    assert 1 + 2 + 4 <= calls.at[0] <= (1 + 2 + 4) * 1.1
    assert record["requestContext"]["approximateInvokeCount"] == 1


async def test_a_dead_letter_is_the_event_itself_with_the_error_in_its_attributes(engine: Engine) -> None:
    dead = engine.queue("dead")
    calls = Calls(failing)
    engine.function(dead_letter_queue=dead)(calls)
    async with engine:
        request_id = await engine.invoke_async(calls, b'{"raise_error" : 1}')
        await asyncio.sleep(3600)
        received = await dead.receive(10)
    assert [each.body for each in received] == ['{"raise_error" : 1}']
    attributes = {name: (each.data_type, each.value) for name, each in received[0].attributes.items()}
    assert attributes == {
        "RequestID": ("String", request_id),
        "ErrorCode": ("Number", "200"),
        "ErrorMessage": ("String", "no such flight"),
    }


async def test_a_destination_and_a_dead_letter_queue_both_get_a_failed_event(engine: Engine) -> None:
    records, letters = engine.queue("records"), engine.queue("letters")
    calls = Calls(failing)
    engine.function(on_failure=records, dead_letter_queue=letters, maximum_retry_attempts=0)(calls)
    async with engine:
        await engine.invoke_async(calls, {"flight": 1})
        await asyncio.sleep(1)
        assert len(await messages(records)) == 1
        assert await bodies(letters) == [{"flight": 1}]


async def test_a_function_as_destination_gets_the_record_as_its_event(engine: Engine) -> None:
    calls, alarm = Calls(failing), Calls()
    engine.function(name="alarm")(alarm)
    engine.function(name="flights", maximum_retry_attempts=0, on_failure="function:alarm")(calls)
    async with engine:
        await engine.invoke_async("flights", {"flight": 1})
        await asyncio.sleep(1)
    (record,) = alarm.events
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestPayload"] == {"flight": 1}


async def test_a_stream_as_destination_gets_the_record_as_its_data(engine: Engine) -> None:
    results = engine.stream("results")
    calls, reader = Calls(lambda event, number: 7), Calls()
    engine.function(name="flights", on_success=results)(calls)
    engine.function(name="reader")(reader)
    engine.map(results, "reader")
    async with engine:
        request_id = await engine.invoke_async("flights", {"flight": 1})
        await asyncio.sleep(1)
    (record,) = reader.records
    assert record["kinesis"]["partitionKey"] == request_id


async def test_a_waiting_event_runs_with_the_functions_configuration_of_that_time(engine: Engine) -> None:
    dead = engine.queue("dead")
    calls = Calls(failing)
    engine.function(on_failure=dead)(calls)
    async with engine:
        await engine.invoke_async(calls)
        await asyncio.sleep(30)
        await engine.update_function(calls, maximum_retry_attempts=1)
        await asyncio.sleep(40)
        (record,) = await bodies(dead)
    assert calls.at == RETRIES[:2]
    assert record["requestContext"]["approximateInvokeCount"] == 2


async def test_a_function_keeps_its_name_and_what_an_update_does_not_mention(engine: Engine) -> None:
    engine.function(maximum_retry_attempts=1, maximum_event_age_seconds=600, timeout_seconds=7)(Calls())
    async with engine:
        updated = await engine.update_function("function", maximum_event_age_seconds=60)
        assert (updated.event_invoke.maximum_retry_attempts, updated.event_invoke.maximum_event_age_seconds) == (1, 60)
        assert updated.timeout_seconds == 7
        for wrong in ({"name": "other"}, {"event_invoke": None}, {"retries": 1}, {"maximum_retry_attempts": 3}):
            with pytest.raises(InvalidParameterValue, match=next(iter(wrong))):
                await engine.update_function("function", **wrong)
        assert await engine.get_function("function") == updated


async def test_an_accepted_event_is_stored_and_may_have_one_megabyte(engine: Engine) -> None:
    calls = Calls(lambda event, number: len(event))
    engine.function(calls)
    async with engine:
        await engine.invoke_async(calls, "x" * (1024 * 1024 - 2))
        with pytest.raises(RequestTooLarge):
            await engine.invoke_async(calls, "x" * (1024 * 1024 - 1))
        await asyncio.sleep(1)
    assert [len(event) for event in calls.events] == [1024 * 1024 - 2]


async def test_an_event_that_could_not_be_stored_was_not_accepted(engine: Engine) -> None:
    calls = Calls()
    engine.function(calls)
    async with engine:

        async def broken(events: Any) -> None:
            raise StoreUnavailable("disk full")

        engine._living().events.put_many = broken  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await engine.invoke_async(calls)
        await asyncio.sleep(3600)
    assert calls.events == []


async def test_retry_delays_may_be_scaled_for_a_whole_engine() -> None:
    engine = make_engine(async_retry_delays_seconds=(0.5, 1.0))
    calls = Calls(failing)
    engine.function(calls)
    async with engine:
        await engine.invoke_async(calls)
        await asyncio.sleep(10)
    assert calls.at == [0.0, 0.5, 1.5]


# --------------------------------------------------------------------------- loops


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_function_that_calls_itself_on_and_on_is_cut_off_after_16_hops(engine: Engine, allowed: bool) -> None:
    dead = engine.queue("dead")
    calls = Calls()

    @engine.function(on_failure=dead, recursive_loop="Allow" if allowed else "Terminate")
    async def again(event: int, context: Any) -> None:
        await calls(event, context)
        if event < 40:
            await engine.invoke_async(again, event + 1)

    async with engine:
        await engine.invoke_async(again, 1)
        await asyncio.sleep(3600)
        records = await bodies(dead)
    assert calls.events == list(range(1, 41 if allowed else MAXIMUM_HOPS + 2))
    assert bool(records) is not allowed


async def test_a_loop_through_a_queue_is_cut_off_too(engine: Engine) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("loop", max_receive_count=1, dead_letter_queue=dead, visibility_timeout_seconds=10)
    seen = []

    @engine.on(queue, batch_size=1)
    async def again(event: Any, context: Any) -> None:
        seen.append(int(event["Records"][0]["body"]))
        await queue.send(str(seen[-1] + 1))

    async with engine:
        await queue.send("1")
        await asyncio.sleep(3600)
        assert await bodies(dead) == [MAXIMUM_HOPS + 2]
    assert seen == list(range(1, MAXIMUM_HOPS + 2))


async def test_a_loop_through_its_own_failure_destination_is_cut_off(engine: Engine) -> None:
    calls = Calls(failing)
    engine.function(name="one", maximum_retry_attempts=0, on_failure="function:two")(calls)
    other = Calls(failing)
    engine.function(name="two", maximum_retry_attempts=0, on_failure="function:one")(other)
    async with engine:
        await engine.invoke_async("one")
        await asyncio.sleep(3600)
    assert len(calls.events) + len(other.events) == MAXIMUM_HOPS + 1
    assert engine.telemetry.snapshot()["AsyncEventsReceived"] == {"one": 9, "two": 8}  # and no report on and on
    assert engine.telemetry.snapshot()["RecursiveInvocationsDropped"] == {"two": 1}
