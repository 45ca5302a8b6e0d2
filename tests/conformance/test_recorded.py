"""Replays what AWS was recorded to do, case by case, through the engine; each case is named by its recorded id.

A scenario serves every case of its family: what is sent and how a mapping is configured is read from the recording, so
a case that is added beside the others is replayed as it is. Not replayed, because a later stage brings what they need:
the HTTP API's own answers (areas 03, 05 to 08, 13), provisioned concurrency, environment variables of a sandbox, what
Lambda says of a mapping it created, lines that a handler prints (here they go where the process's go), and how records
of DynamoDB look. Of SNS and EventBridge only what they carry is compared.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lambent import Engine, InvalidParameterValue, InvokeResponse, LambentError, TooManyRequests

from .conftest import Calls, make_engine, messages
from .recorded import Recording, parsed, recordings

Scenario = Callable[[Engine, Recording, str], Awaitable[None]]

_SCENARIOS: dict[str, Scenario] = {}


def replays(*families: str) -> Callable[[Scenario], Scenario]:
    """The scenario is for the cases of these names; what stands in brackets behind a name is told to it."""

    def register(scenario: Scenario) -> Scenario:
        _SCENARIOS.update(dict.fromkeys(families, scenario))
        return scenario

    return register


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


def received(recorded: Any) -> list[dict[str, object]]:
    """The messages of a recorded ReceiveMessage, without what differs from one receive to the next."""
    found = recorded["Messages"] if isinstance(recorded, dict) else recorded
    return [
        {name: message[name] for name in ("MessageId", "Body", "MessageAttributes") if name in message}
        for message in found
    ]


def without_payload(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our queues' on-failure records carry the failed records, as AWS's do in S3 and not in SQS."""
    return [{**each, "Body": {k: v for k, v in each["Body"].items() if k != "payload"}} for each in records]


# --------------------------------------------------------------------------- 01: synchronous


@replays("TestLambdaBehavior::test_lambda_cache_local")
async def cache(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls(lambda event, number: {"counter": number - 1}))
    async with engine:
        answers = [view(await engine.invoke_response("function")) for _ in range(2)]
    case.check((case["first_invoke_result"], answers[0]), (case["second_invoke_result"], answers[1]))


@replays("TestLambdaBehavior::test_lambda_invoke_with_timeout", "TestLambdaBehavior::test_lambda_invoke_no_timeout")
async def timeout(engine: Engine, case: Recording, _: str) -> None:
    seconds = case["create-result"]["CreateFunctionResponse"]["Timeout"]
    late = "FunctionError" in case["invoke-result"]
    engine.function(timeout_seconds=seconds)(Calls(seconds=seconds + (1 if late else -1)))
    async with engine:
        case.check((case["invoke-result"], view(await engine.invoke_response("function"))))


@replays("TestLambdaErrors::test_lambda_runtime_exit_segfault")
async def hangs(engine: Engine, case: Recording, _: str) -> None:
    engine.function(timeout_seconds=30)(Calls(seconds=100))
    async with engine:
        case.check((case["invocation_error"], view(await engine.invoke_response("function"))))


@replays(
    "TestLambdaErrors::test_lambda_runtime_wrapper_not_found",
    "TestLambdaErrors::test_lambda_handler_exit",
    "TestLambdaErrors::test_lambda_runtime_exit",
)
async def exits(engine: Engine, case: Recording, _: str) -> None:
    status = re.search(r"exit status (\d+)", case["invocation_error"]["Payload"]["errorMessage"])
    engine.function(Calls(lambda event, number: SystemExit(int(status[1]) if status else 0)))
    async with engine:
        case.check((case["invocation_error"], view(await engine.invoke_response("function"))))


@replays("TestLambdaErrors::test_lambda_handler_error")
async def handler_error(engine: Engine, case: Recording, _: str) -> None:
    @engine.function
    async def handler(event: Any, context: Any) -> None:
        raise Exception("Handler fails")

    async with engine:
        case.check((case["invocation_error"], view(await engine.invoke_response(handler))))


@replays("TestLambdaFeatures::test_invocation_type_request_response")
async def request_response(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls(lambda event, number: event))
    async with engine:
        case.check((case["invoke-result"], view(await engine.invoke_response("function", {}))))


@replays("TestLambdaFeatures::test_invocation_type_dry_run")
async def dry_run(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls())
    async with engine:
        case.check((case["invoke-result"], view(await engine.invoke_response("function", {}, dry_run=True))))


@replays("TestLambdaFeatures::test_invocation_with_logs")
async def log_tail(engine: Engine, case: Recording, _: str) -> None:
    engine.function(Calls(lambda event, number: event))
    async with engine:
        response = await engine.invoke_response("function", {}, log_type="Tail")
    lines = [line for line in case["logs"]["logs"] if line != "{}\n"]  # what the handler printed
    lines[-1] = lines[-1].replace("Init Duration: <duration> ms\t", "")  # nothing is initialised here
    recorded = {name: value for name, value in case["invoke"].items() if name != "LogResult"}
    case.check((recorded, view(response)), (lines, response.log_tail.splitlines(keepends=True)))


@replays("TestLambdaFeatures::test_lambda_with_context")
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


@replays("TestLambdaFeatures::test_invoke_exceptions")
async def not_found(engine: Engine, case: Recording, _: str) -> None:
    async with engine:
        with pytest.raises(LambentError) as refused:
            await engine.invoke("doesnotexist")
    case.check((error(case["invoke_function_doesnotexist"]), view_of(refused.value)))


@replays("TestLambdaErrors::test_lambda_invoke_payload_encoding_error")
async def no_json(engine: Engine, case: Recording, parameter: str) -> None:
    engine.function(Calls())
    payload = parameter.partition("-")[2].encode("latin-1").decode("unicode-escape").encode("latin-1")
    async with engine:
        with pytest.raises(LambentError) as refused:
            await engine.invoke("function", payload)
    (recorded,) = case.content.values()
    recorded = error(recorded)
    ours = view_of(refused.value)
    for each in (recorded, ours):  # after AWS's words come those of the parser
        each["Error"]["Message"] = ": ".join(each["Error"]["Message"].split(": ")[:2])
    case.check((recorded, ours))


# --------------------------------------------------------------------------- 02: asynchronous


@replays("TestLambdaConcurrency::test_reserved_concurrency_async_queue")
async def too_many(engine: Engine, case: Recording, _: str) -> None:
    calls = Calls(seconds=10)
    engine.function(reserved_concurrency=case["put_fn_concurrency"]["ReservedConcurrentExecutions"], timeout_seconds=30)(
        calls
    )
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


@replays("TestLambdaDestinationSqs::test_assess_lambda_destination_invocation")
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


@replays("TestLambdaDestinationSqs::test_retries", "TestLambdaDestinationSqs::test_lambda_destination_default_retries")
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


@replays("TestLambdaDestinationEventbridge::test_invoke_lambda_eventbridge")
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


@replays("TestLambdaDLQ::test_dead_letter_queue")
async def dead_letter_queue(engine: Engine, case: Recording, _: str) -> None:
    dead = engine.queue("dead")
    recorded = received(case["receive_result"])

    @engine.function(dead_letter_queue=dead, timeout_seconds=30)
    async def handler(event: Any, context: Any) -> None:
        logging.getLogger("handler").setLevel(logging.INFO)
        logging.getLogger("handler").info("Lambda log message - logging module")
        raise Exception("Test exception (this is intentional)")

    async with engine:
        await engine.invoke_async(handler, parsed(recorded[0]["Body"]))
        await asyncio.sleep(300)
        letters = await messages(dead)
        response = await engine.invoke_response(handler, {"raise_error": 1}, log_type="Tail")
    invoked = {name: value for name, value in case["invoke_result"].items() if name != "LogResult"}
    lines = [line for line in case["log_result"]["result"] if not line.endswith("print function")]
    tail = response.log_tail.splitlines()
    case.check((recorded, letters), (invoked, view(response)), (lines, tail[: len(lines)]))


@replays("TestLambdaFeatures::test_invocation_type_event_error")
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


@replays(
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


@replays("TestLambdaReservedConcurrency::test_function_concurrency_limits")
async def limits(engine: Engine, case: Recording, _: str) -> None:
    for step, reserved in (
        ("put_function_concurrency_account_limit_exceeded", 1001),
        ("put_function_concurrency_below_unreserved_min_value", 901),
    ):
        with pytest.raises(InvalidParameterValue) as refused:
            engine.function(reserved_concurrency=reserved)(Calls())
        ours = {"Error": {"Code": refused.value.aws_name, "Message": refused.value.message.partition(" (")[0]}}
        case.check((error(case[step]), ours))  # our message goes on to name the values


# --------------------------------------------------------------------------- 09, 10, 11: mappings

_OPTIONS = {
    "BatchSize": "batch_size",
    "BisectBatchOnFunctionError": "bisect_batch_on_function_error",
    "MaximumBatchingWindowInSeconds": "maximum_batching_window_seconds",
    "MaximumRecordAgeInSeconds": "maximum_record_age_seconds",
    "MaximumRetryAttempts": "maximum_retry_attempts",
    "ParallelizationFactor": "parallelization_factor",
    "StartingPosition": "starting_position",
}


def options(case: Recording, index: int = 0) -> dict[str, Any]:
    """The options of the mapping that the recording created."""
    created = [
        value for step, value in case.content.items() if "FunctionResponseTypes" in value or "event_source" in step
    ][index : index + 1]
    if not created:
        return {}
    found: dict[str, Any] = {ours: created[0][theirs] for theirs, ours in _OPTIONS.items() if theirs in created[0]}
    found["report_batch_item_failures"] = bool(created[0]["FunctionResponseTypes"])
    found["filters"] = [parsed(each["Pattern"]) for each in created[0].get("FilterCriteria", {}).get("Filters", ())]
    if isinstance(found["maximum_batching_window_seconds"], str):  # masked in the recording
        found["maximum_batching_window_seconds"] = 2
    if "ScalingConfig" in created[0]:
        found["maximum_concurrency"] = created[0]["ScalingConfig"]["MaximumConcurrency"]
    return found


def raw(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)


@replays(
    "test_failing_lambda_retries_after_visibility_timeout",
    "test_redrive_policy_with_failing_lambda",
)
async def failing_queue_function(engine: Engine, case: Recording, _: str) -> None:
    steps = [parsed(case[step]["Messages"][0]["Body"]) for step in ("first_attempt", "second_attempt")]
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=10, max_receive_count=2, dead_letter_queue=dead)

    @engine.on(queue, batch_size=1)
    async def function(event: Any, context: Any) -> None:
        attempt = int(event["Records"][0]["attributes"]["ApproximateReceiveCount"])
        failed = attempt <= json.loads(event["Records"][0]["body"])["fail_attempts"]
        told.append({"error": "failed attempt" if failed else None, "event": event})
        if failed:
            raise Exception("failed attempt")

    told: list[Any] = []
    async with engine:
        await queue.send(json.dumps(steps[0]["event"]["Records"][0]["body"]))
        await asyncio.sleep(60)
        letters = await messages(dead)
    case.check((steps, told), (received(case.content.get("dlq_response", [])), letters))


@replays("test_report_batch_item_failures")
async def fifo_item_failures(engine: Engine, case: Recording, _: str) -> None:
    steps = [parsed(case[step]["Messages"][0]["Body"]) for step in ("first_invocation", "second_invocation")]
    dead = engine.queue("dead.fifo")
    queue = engine.queue("q.fifo", visibility_timeout_seconds=10, max_receive_count=2, dead_letter_queue=dead)

    @engine.on(queue, batch_size=10, report_batch_item_failures=True)
    async def function(event: Any, context: Any) -> object:
        failed = [
            {"itemIdentifier": record["messageId"]}
            for record in event["Records"]
            if int(record["attributes"]["ApproximateReceiveCount"]) <= json.loads(record["body"])["fail_attempts"]
        ]
        told.append({"event": event, "result": {"batchItemFailures": failed}})
        return {"batchItemFailures": failed}

    told: list[Any] = []
    async with engine:
        for record in steps[0]["event"]["Records"]:
            attributes = record["attributes"]
            await queue.send(
                raw(record["body"]),
                group=attributes["MessageGroupId"],
                deduplication_id=attributes["MessageDeduplicationId"],
            )
        await asyncio.sleep(60)
        letters = await messages(dead)
    case.check((steps, told), (received(case["dlq_response"]), letters))


@replays("test_report_batch_item_failures_on_lambda_error")
async def item_failures_on_error(engine: Engine, case: Recording, _: str) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=10, max_receive_count=1, dead_letter_queue=dead)

    @engine.on(queue, report_batch_item_failures=True)
    async def function(event: Any, context: Any) -> None:
        for record in event["Records"]:
            json.loads(record["body"])

    recorded = received(case["dlq_messages"])
    async with engine:
        await queue.send_many(raw(each["Body"]) for each in recorded)
        await asyncio.sleep(60)
        letters = sorted(await messages(dead), key=lambda each: isinstance(each["Body"], dict))
    case.check((recorded, letters))


@replays(
    "test_report_batch_item_failures_empty_json_batch_succeeds",
    "test_report_batch_item_failures_invalid_result_json_batch_fails",
)
async def odd_answer(engine: Engine, case: Recording, _: str) -> None:
    steps = [parsed(value["Messages"][0]["Body"]) for step, value in case.content.items() if step.endswith("invocation")]
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=10, max_receive_count=2, dead_letter_queue=dead)
    told: list[Any] = []

    @engine.on(queue, report_batch_item_failures=True)
    async def function(event: Any, context: Any) -> object:
        told.append({"event": event, "result": steps[0]["result"]})
        return steps[0]["result"]

    async with engine:
        await queue.send(raw(steps[0]["event"]["Records"][0]["body"]))
        await asyncio.sleep(60)
        letters = await messages(dead)
    case.check((steps, told), (received(case.content.get("dlq_response", [])), letters))


@replays(
    "TestSQSEventSourceMapping::test_sqs_event_source_mapping",
    "TestSQSEventSourceMapping::test_sqs_event_source_mapping_batch_size",
    "TestSQSEventSourceMapping::test_sqs_event_source_mapping_batching_reserved_concurrency",
    "TestSQSEventSourceMapping::test_sqs_event_filter",
)
async def queue_batches(engine: Engine, case: Recording, _: str) -> None:
    events = case.content.get("events") or case.content.get("invocation_events")
    records = [record for event in events for record in event["Records"]] if events else case["Records"]
    queue = engine.queue("q")
    calls = Calls()
    reserved = case.content.get("put_concurrency_resp", {}).get("ReservedConcurrentExecutions")
    engine.function(reserved_concurrency=reserved)(calls)
    engine.map(queue, calls, **options(case))
    async with engine:
        if options(case)["filters"]:
            await queue.send("what no filter lets through")
        await queue.send_many(raw(record["body"]) for record in records)
        await asyncio.sleep(30)
        assert await messages(queue) == []
    by_body = sorted(calls.records, key=lambda record: [raw(each["body"]) for each in records].index(record["body"]))
    case.check((records, by_body))
    if "batch_info" in case.content:
        assert len(calls.events) == case["batch_info"]["total_batches_received"]


ANSWERS: dict[str, object] = {
    "empty_string_success": "",
    "empty_list_success": [],
    "null_success": None,
    "empty_dict_success": {},
    "empty_batch_item_failure_success": {"batchItemFailures": []},
    "null_batch_item_failure_success": {"batchItemFailures": None},
    "empty_string_item_identifier_failure": {"batchItemFailures": [{"itemIdentifier": ""}]},
    "null_item_identifier_failure": {"batchItemFailures": [{"itemIdentifier": None}]},
    "item_identifier_not_present_failure": {"batchItemFailures": [{"itemIdentifier": 123}]},
    "invalid_key_foo_failure": {"batchItemFailures": [{"foo": 123}]},
    "invalid_key_foo_null_value_failure": {"batchItemFailures": [{"foo": None}]},
    "unhandled_exception_in_function": ZeroDivisionError("division by zero"),
}


def events_of(case: Recording) -> list[Any]:
    for step in ("kinesis_events", "invocation_events"):
        if step in case.content:
            return [event.get("event", event) for event in parsed(case[step])]
    return [parsed(case["kinesis_records"])]


def puts(events: list[Any]) -> list[tuple[bytes, str]]:
    """What was put into the stream, once each, in order."""
    found = {record["kinesis"]["sequenceNumber"]: record["kinesis"] for event in events for record in event["Records"]}
    return [(base64.b64decode(each["data"]), each["partitionKey"]) for each in found.values()]


@replays(
    "TestKinesisSource::test_create_kinesis_event_source_mapping",
    "TestKinesisSource::test_kinesis_event_source_mapping_with_async_invocation",
    "TestKinesisSource::test_kinesis_event_source_trim_horizon",
    "TestKinesisSource::test_disable_kinesis_event_source_mapping",
    "TestKinesisSource::test_kinesis_report_batch_item_success_scenarios",
    "TestKinesisSource::test_kinesis_report_batch_item_failure_scenarios",
)
async def stream_batches(engine: Engine, case: Recording, parameter: str) -> None:
    events = events_of(case)
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(lambda event, number: ANSWERS.get(parameter), seconds=5)
    engine.function(timeout_seconds=30)(calls)
    latest = options(case)["starting_position"] == "LATEST"
    async with engine:
        if not latest:
            await stream.put_many(puts(events))
        mapping = engine.map(stream, calls, on_failure=dead, **options(case))
        await mapping.wait_until("Enabled")
        await asyncio.sleep(5)
        if latest:
            await stream.put_many(puts(events))
        await asyncio.sleep(100)
        await mapping.pause()
        await mapping.wait_until("Disabled")
        await stream.put("after the pause", key="test")
        await asyncio.sleep(100)
        reports = without_payload(await messages(dead))
    ours = [{"Records": calls.records}] if len(events) == 1 else calls.events
    case.check((received(case.content.get("sqs_payload", [])), reports), (events, ours))


@replays(
    "TestKinesisSource::test_kinesis_event_source_mapping_with_on_failure_destination_config",
    "TestKinesisSource::test_kinesis_event_source_mapping_with_sns_on_failure_destination_config",
    "TestKinesisSource::test_kinesis_maximum_record_age_exceeded",
)
async def stream_failure(engine: Engine, case: Recording, _: str) -> None:
    (step,) = [name for name in case.content if not name.startswith("create")]
    recorded = case[step]
    body = parsed(recorded["Message"] if "Message" in recorded else recorded["Messages"][0]["Body"])
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(lambda event, number: Exception("poison"))
    engine.function(calls)
    engine.map(stream, calls, on_failure=dead, **options(case))
    async with engine:
        await stream.put("hello", key="test")
        await asyncio.sleep(200)
        (report,) = without_payload(await messages(dead))
    if body["requestContext"]["condition"] == "RecordAgeExceeded":  # how many tries fit is AWS's affair
        assert abs(report["Body"]["requestContext"]["approximateInvokeCount"] - 8) <= 2
        body["requestContext"]["approximateInvokeCount"] = len(calls.events)
    case.check((body, report["Body"]))


@replays("TestKinesisEventFiltering::test_kinesis_event_filtering_json_pattern")
async def stream_filters(engine: Engine, case: Recording, _: str) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    engine.function(name="other")(Calls())
    engine.map(stream, "function", **options(case, 0))
    engine.map(stream, "other", **options(case, 1))
    async with engine:
        for number in (1, 2):
            await stream.put({"event_type": f"function_{number}", "message": "foo"}, key="test")
        await asyncio.sleep(30)
    seen = [json.loads(base64.b64decode(record["kinesis"]["data"])) for record in calls.records]
    case.check((case["kinesis-record-lambda-payload"], seen))


@replays(
    "TestDynamoDBEventSourceMapping::test_dynamodb_event_source_mapping_with_on_failure_destination_config",
    "TestDynamoDBEventSourceMapping::test_dynamodb_report_batch_item_failures",
    "TestDynamoDBEventSourceMapping::test_dynamodb_report_batch_item_failure_scenarios",
    "TestDynamoDBEventSourceMapping::test_dynamodb_report_batch_item_success_scenarios",
)
async def table_batches(engine: Engine, case: Recording, parameter: str) -> None:
    """What does not depend on how a table's records look: how often they come, and what is reported."""
    recorded = case.content.get("dynamodb_events") or case.content.get("dynamodb_records") or []
    events = [recorded] if isinstance(recorded, dict) else recorded
    names = [record["dynamodb"]["SequenceNumber"] for event in events for record in event["Records"]]
    partly = parameter == "" and bool(events)

    def answer(event: Any, number: int) -> object:
        if parameter:
            return ANSWERS[parameter]
        if not partly:
            return Exception("poison")
        failed = [record for record in event["Records"] if base64.b64decode(record["kinesis"]["data"]) == b"6"]
        return {"batchItemFailures": [{"itemIdentifier": each["kinesis"]["sequenceNumber"]} for each in failed]}

    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(answer)
    engine.function(calls)
    settings = {"maximum_retry_attempts": 3, **options(case), "report_batch_item_failures": bool(parameter) or partly}
    engine.map(stream, calls, on_failure=dead, **{"batch_size": 1, **settings, "filters": []})
    async with engine:
        await stream.put_many([(str(number), "k") for number in range(1, 1 + len(set(names) or [0]))])
        await asyncio.sleep(100)
        reports = await messages(dead)
    ours = [record["kinesis"]["sequenceNumber"] for record in calls.records]
    told = [_of_both(message["Body"], "KinesisBatchInfo") for message in reports]
    bodies = [parsed(each["Body"]) for each in received(case.content.get("destination_queue_messages", []))]
    case.check((names, ours if names else []), ([_of_both(body, "DDBStreamBatchInfo") for body in bodies], told))


def _of_both(body: Any, info: str) -> dict[str, object]:
    context = {name: value for name, value in body["requestContext"].items() if name != "functionArn"}
    batch = {name: body[info][name] for name in ("startSequenceNumber", "endSequenceNumber", "batchSize")}
    return {"requestContext": context, "responseContext": body["responseContext"], "batch": batch}


# --------------------------------------------------------------------------- the test

CASES = {
    identity: case
    for area in ("01", "02", "04", "09", "10", "11")
    for identity, case in recordings(area).items()
    if identity.partition("[")[0] in _SCENARIOS
}

if CASES:

    @pytest.mark.virtual_time(deterministic=True)
    @pytest.mark.parametrize("identity", CASES)
    async def test_what_aws_was_recorded_to_do_is_what_we_do(identity: str) -> None:
        family, _, parameter = identity.partition("[")
        await _SCENARIOS[family](make_engine(), CASES[identity], parameter.removesuffix("]"))
