"""Replays what AWS's pollers of queues and streams did, case by case; each is named by its recorded id.

Not replayed, because a later stage brings what they need: what Lambda says of a mapping that it created, and how
records of DynamoDB look (how often they come, and what is reported of them, is compared). Of SNS only what it carries.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from lambent import Engine

from .conftest import Calls, make_engine, messages
from .recorded import Recording, Scenarios, parsed, received

AWS = Scenarios("09", "10", "11")


def without_payload(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our queues' on-failure records carry the failed records, as AWS's do in S3 and not in SQS."""
    return [{**each, "Body": {k: v for k, v in each["Body"].items() if k != "payload"}} for each in records]


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


@AWS.replays(
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


@AWS.replays("test_report_batch_item_failures")
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


@AWS.replays("test_report_batch_item_failures_on_lambda_error")
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


@AWS.replays(
    "test_report_batch_item_failures_empty_json_batch_succeeds",
    "test_report_batch_item_failures_invalid_result_json_batch_fails",
)
async def odd_answer(engine: Engine, case: Recording, _: str) -> None:
    steps = [
        parsed(value["Messages"][0]["Body"]) for step, value in case.content.items() if step.endswith("invocation")
    ]
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


@AWS.replays(
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


@AWS.replays(
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


@AWS.replays(
    "TestKinesisSource::test_kinesis_event_source_mapping_with_on_failure_destination_config",
    "TestKinesisSource::test_kinesis_event_source_mapping_with_sns_on_failure_destination_config",
    "TestKinesisSource::test_kinesis_maximum_record_age_exceeded",
)
async def stream_failure(engine: Engine, case: Recording, parameter: str) -> None:
    (step,) = [name for name in case.content if not name.startswith("create")]
    recorded = case[step]
    body = parsed(recorded["Message"] if "Message" in recorded else recorded["Messages"][0]["Body"])
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(lambda event, number: Exception("poison"))
    engine.function(calls)
    async with engine:
        await stream.put("hello", key="test")
        if parameter == "expire-before-ingestion":
            await asyncio.sleep(100)
        engine.map(stream, calls, on_failure=dead, **options(case))
        await asyncio.sleep(200)
        (report,) = without_payload(await messages(dead))
    if parameter == "expire-while-retrying":  # how many tries fit is AWS's affair
        assert abs(report["Body"]["requestContext"]["approximateInvokeCount"] - 8) <= 2
        body["requestContext"]["approximateInvokeCount"] = len(calls.events)
    case.check((body, report["Body"]))


@AWS.replays("TestKinesisEventFiltering::test_kinesis_event_filtering_json_pattern")
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


@AWS.replays(
    "TestDynamoDBEventSourceMapping::test_dynamodb_event_source_mapping_with_on_failure_destination_config",
    "TestDynamoDBEventSourceMapping::test_dynamodb_event_source_mapping_with_sns_on_failure_destination_config",
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
    if "failure_sns_message" in case.content:
        bodies.append(parsed(case["failure_sns_message"]["Message"]))
    case.check((names, ours if names else []), ([_of_both(body, "DDBStreamBatchInfo") for body in bodies], told))


def _of_both(body: Any, info: str) -> dict[str, object]:
    context = {name: value for name, value in body["requestContext"].items() if name != "functionArn"}
    batch = {name: body[info][name] for name in ("startSequenceNumber", "endSequenceNumber", "batchSize")}
    return {"requestContext": context, "responseContext": body["responseContext"], "batch": batch}


# --------------------------------------------------------------------------- the test

CASES = AWS.cases()

if CASES:

    @pytest.mark.virtual_time(deterministic=True)
    @pytest.mark.parametrize("identity", CASES)
    async def test_what_aws_was_recorded_to_do_is_what_we_do(identity: str) -> None:
        await AWS.replay(make_engine(), CASES[identity])
