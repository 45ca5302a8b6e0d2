"""Replays what AWS answered to calls of functions, case by case; each is named by its recorded id.

Not replayed, because a later stage brings what they need: the HTTP API's own answers, provisioned concurrency, and the
environment variables of a sandbox. Of an event bus only what it carries is compared.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from lambent import Engine, InvalidParameterValue, InvokeResponse, LambentError, TooManyRequests

from .conftest import Calls, make_engine, messages
from .recorded import Recording, Scenarios, parsed, received

AWS = Scenarios("01", "02", "04")


def view(response: InvokeResponse) -> dict[str, object]:
    """As boto3 shows it."""
    members = {
        "StatusCode": response.status_code,
        "Payload": response.payload.decode(),
        "ExecutedVersion": response.executed_version,
        "FunctionError": response.function_error,
    }
    return {name: value for name, value in members.items() if value is not None}


def view_of(error: LambentError) -> dict[str, object]:
    return {"Error": {"Code": error.aws_name, "Message": error.message}}


def error(recorded: Any) -> dict[str, object]:
    """The part of a recorded error that does not depend on HTTP."""
    return {"Error": recorded["Error"]}


# --------------------------------------------------------------------------- 01: synchronous


@AWS.replays("TestLambdaBehavior::test_lambda_cache_local")
async def cache(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls(lambda event, number: {"counter": number - 1}))
    async with engine:
        answers = [view(await engine.invoke_response("function")) for _ in range(2)]
    case.check((case["first_invoke_result"], answers[0]), (case["second_invoke_result"], answers[1]))


@AWS.replays("TestLambdaBehavior::test_lambda_invoke_with_timeout", "TestLambdaBehavior::test_lambda_invoke_no_timeout")
async def timeout(engine: Engine, case: Recording, _: str) -> None:
    seconds = case["create-result"]["CreateFunctionResponse"]["Timeout"]
    late = "FunctionError" in case["invoke-result"]
    engine.function(timeout_seconds=seconds)(Calls(seconds=seconds + (1 if late else -1)))
    async with engine:
        case.check((case["invoke-result"], view(await engine.invoke_response("function"))))


@AWS.replays("TestLambdaErrors::test_lambda_runtime_exit_segfault")
async def hangs(engine: Engine, case: Recording, _: str) -> None:
    engine.function(timeout_seconds=30)(Calls(seconds=100))
    async with engine:
        case.check((case["invocation_error"], view(await engine.invoke_response("function"))))


@AWS.replays(
    "TestLambdaErrors::test_lambda_runtime_wrapper_not_found",
    "TestLambdaErrors::test_lambda_handler_exit",
    "TestLambdaErrors::test_lambda_runtime_exit",
)
async def exits(engine: Engine, case: Recording, _: str) -> None:
    status = re.search(r"exit status (\d+)", case["invocation_error"]["Payload"]["errorMessage"])
    engine.function(Calls(lambda event, number: SystemExit(int(status[1]) if status else 0)))
    async with engine:
        case.check((case["invocation_error"], view(await engine.invoke_response("function"))))


@AWS.replays("TestLambdaErrors::test_lambda_handler_error")
async def handler_error(engine: Engine, case: Recording, _: str) -> None:
    @engine.function
    async def handler(event: Any, context: Any) -> None:
        raise Exception("Handler fails")

    async with engine:
        case.check((case["invocation_error"], view(await engine.invoke_response(handler))))


@AWS.replays("TestLambdaFeatures::test_invocation_type_request_response")
async def request_response(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls(lambda event, number: event))
    async with engine:
        case.check((case["invoke-result"], view(await engine.invoke_response("function", {}))))


@AWS.replays("TestLambdaFeatures::test_invocation_type_dry_run")
async def dry_run(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls())
    async with engine:
        case.check((case["invoke-result"], view(await engine.invoke_response("function", {}, dry_run=True))))


@AWS.replays("TestLambdaFeatures::test_invocation_with_logs")
async def log_tail(engine: Engine, case: Recording, _: str) -> None:
    @engine.function(name="function")
    async def handler(event: Any, context: Any) -> Any:
        print(event)
        return event

    async with engine:
        response = await engine.invoke_response("function", {}, log_type="Tail")
    lines = case["logs"]["logs"]
    recorded = {name: value for name, value in case["invoke"].items() if name != "LogResult"}
    case.check((recorded, view(response)), (lines, response.log_tail.splitlines(keepends=True)))


@AWS.replays("TestLambdaFeatures::test_lambda_with_context")
async def with_context(engine: Engine, case: Recording, _: str) -> None:
    sent = case["invocation"]["Payload"]["context"]["clientContext"]

    @engine.function
    async def handler(event: Any, context: Any) -> object:
        seen = context.client_context
        return {
            "context": {
                "callbackWaitsForEmptyEventLoop": True,  # Node's
                "functionVersion": context.function_version,
                "functionName": context.function_name,
                "memoryLimitInMB": context.memory_limit_in_mb,
                "logGroupName": context.log_group_name,
                "logStreamName": context.log_stream_name,
                "clientContext": {"custom": seen.custom, "client": sent["client"], "env": seen.env},
                "invokedFunctionArn": context.invoked_function_arn,
                "awsRequestId": context.aws_request_id,
            }
        }

    async with engine:
        response = await engine.invoke_response(handler, {}, client_context=sent)
    case.check((case["invocation"], view(response)))


@AWS.replays("TestLambdaFeatures::test_invoke_exceptions")
async def not_found(engine: Engine, case: Recording, _: str) -> None:
    async with engine:
        with pytest.raises(LambentError) as refused:
            await engine.invoke("doesnotexist")
    case.check((error(case["invoke_function_doesnotexist"]), view_of(refused.value)))


@AWS.replays("TestLambdaErrors::test_lambda_invoke_payload_encoding_error")
async def no_json(engine: Engine, case: Recording, parameter: str) -> None:
    engine.function(Calls())
    payload = parameter.partition("-")[2].encode("latin-1").decode("unicode-escape").encode("latin-1")
    async with engine:
        with pytest.raises(LambentError) as refused:
            await engine.invoke("function", payload)
    (recorded,) = case.content.values()
    case.check((error(recorded), view_of(refused.value)))


# --------------------------------------------------------------------------- 02: asynchronous


@AWS.replays("TestLambdaConcurrency::test_reserved_concurrency_async_queue")
async def too_many(engine: Engine, case: Recording, _: str) -> None:
    calls = Calls(seconds=10)
    engine.function(
        reserved_concurrency=case["put_fn_concurrency"]["ReservedConcurrentExecutions"], timeout_seconds=30
    )(calls)
    async with engine:
        for number in range(2):
            await engine.invoke_async("function", number)
        await asyncio.sleep(1)
        with pytest.raises(TooManyRequests) as refused:
            await engine.invoke("function", 2)
        await asyncio.sleep(60)
    recorded = case["too_many_requests_exc"]
    ours = {**view_of(refused.value), "Reason": refused.value.reason}
    case.check(({**error(recorded), "Reason": recorded["Reason"]}, ours))
    assert calls.events == [0, 1]


@AWS.replays("TestLambdaDestinationSqs::test_assess_lambda_destination_invocation")
async def destination(engine: Engine, case: Recording, _: str) -> None:
    results = engine.queue("results")
    (message,) = received(case["receive_message_result"])
    (body,) = parsed([message["Body"]])
    attributes = list(body["responsePayload"].get("context", ()))

    @engine.function(name="destined", maximum_retry_attempts=0, on_success=results, on_failure=results)
    async def handler(event: Any, context: Any) -> object:
        if event.get("raise_error"):
            raise Exception(body["responsePayload"]["errorMessage"])
        return {"event": event, "context": {name: getattr(context, name) for name in attributes}}

    async with engine:
        await engine.invoke_async(handler, body["requestPayload"])
        await asyncio.sleep(1)
        case.check(([message], await messages(results)))


@AWS.replays(
    "TestLambdaDestinationSqs::test_retries", "TestLambdaDestinationSqs::test_lambda_destination_default_retries"
)
async def retries(engine: Engine, case: Recording, _: str) -> None:
    results = engine.queue("results")
    recorded = received(case.content.get("queue_destination_payload") or case["receive_message_result"])
    (body,) = parsed([message["Body"] for message in recorded])
    calls = Calls(lambda event, number: Exception(body["responsePayload"]["errorMessage"]))
    engine.function(on_success=results, on_failure=results)(calls)
    async with engine:
        await engine.invoke_async("function", body["requestPayload"])
        await asyncio.sleep(300)
        case.check((recorded, await messages(results)))
    assert calls.at == [0, 60, 180]


@AWS.replays("TestLambdaDestinationEventbridge::test_invoke_lambda_eventbridge")
async def event_bus(engine: Engine, case: Recording, _: str) -> None:
    results = engine.queue("results")
    recorded = [value["detail"] for value in case.content.values()]
    good, bad = (each["responsePayload"] for each in recorded)
    calls = Calls(lambda event, number: good if event["mode"] == "success" else Exception(bad["errorMessage"]))
    engine.function(on_success=results, on_failure=results, maximum_retry_attempts=0)(calls)
    async with engine:
        for each in recorded:
            await engine.invoke_async("function", each["requestPayload"])
            await asyncio.sleep(1)
        case.check((recorded, [message["Body"] for message in await messages(results)]))


@AWS.replays("TestLambdaDLQ::test_dead_letter_queue")
async def dead_letter_queue(engine: Engine, case: Recording, _: str) -> None:
    dead = engine.queue("dead")
    recorded = received(case["receive_result"])

    @engine.function(dead_letter_queue=dead, timeout_seconds=30)
    async def handler(event: Any, context: Any) -> None:
        print("Lambda log message - print function")
        logging.getLogger("handler").setLevel(logging.INFO)
        logging.getLogger("handler").info("Lambda log message - logging module")
        raise Exception("Test exception (this is intentional)")

    async with engine:
        await engine.invoke_async(handler, parsed(recorded[0]["Body"]))
        await asyncio.sleep(300)
        letters = await messages(dead)
        response = await engine.invoke_response(handler, {"raise_error": 1}, log_type="Tail")
    invoked = {name: value for name, value in case["invoke_result"].items() if name != "LogResult"}
    lines = case["log_result"]["result"]
    tail = response.log_tail.splitlines()
    case.check((recorded, letters), (invoked, view(response)), (lines, tail[: len(lines)]))


@AWS.replays("TestLambdaFeatures::test_invocation_type_event_error")
async def event_error(engine: Engine, case: Recording, _: str) -> None:
    class CustomException(Exception):
        pass

    @engine.function(timeout_seconds=30)
    async def handler(event: Any, context: Any) -> None:
        raise CustomException("some error occurred")

    async with engine:
        response = await engine.invoke_response(handler, {}, log_type="Tail")
    logged = [event["message"] for event in case["log_events"][1:4]]  # of the first try, up to its END
    lines = "".join(each if each.endswith("\n") else each + "\n" for each in logged).splitlines()
    case.check((lines, response.log_tail.splitlines()[: len(lines)]))


# --------------------------------------------------------------------------- 04: concurrency


@AWS.replays(
    "TestLambdaConcurrency::test_lambda_concurrency_crud",
    "TestLambdaConcurrency::test_lambda_concurrency_update",
    "TestLambdaReservedConcurrency::test_function_concurrency",
)
async def reservations(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls())

    async def reserved(step: str, value: dict[str, int]) -> object:
        if step.startswith("put"):
            await engine.update_function("function", reserved_concurrency=value["ReservedConcurrentExecutions"])
        elif "delete" in step:
            await engine.update_function("function", reserved_concurrency=None)
        found = (await engine.get_function("function")).reserved_concurrency
        return {} if found is None else {"ReservedConcurrentExecutions": found}

    async with engine:
        for step, recorded in case.content.items():
            value = parsed(recorded.get("Concurrency", recorded))
            case.check((value, await reserved(step, value)))


@AWS.replays("TestLambdaReservedConcurrency::test_function_concurrency_limits")
async def limits(engine: Engine, case: Recording, _: str) -> None:
    for step, reserved in (
        ("put_function_concurrency_account_limit_exceeded", 1001),
        ("put_function_concurrency_below_unreserved_min_value", 901),
    ):
        with pytest.raises(InvalidParameterValue) as refused:
            engine.function(reserved_concurrency=reserved)(Calls())
        ours = {"Error": {"Code": refused.value.aws_name, "Message": refused.value.message.partition(" (")[0]}}
        case.check((error(case[step]), ours))  # our message goes on to name the values


# --------------------------------------------------------------------------- the test

CASES = AWS.cases()

if CASES:

    @pytest.mark.virtual_time(deterministic=True)
    @pytest.mark.parametrize("identity", CASES)
    async def test_what_aws_was_recorded_to_do_is_what_we_do(identity: str) -> None:
        await AWS.replay(make_engine(), CASES[identity])
