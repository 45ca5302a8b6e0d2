"""What boto3 gets, unchanged, of a running server: the rules of the Lambda API in our own words."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EventStreamError

from lambent import Engine
from lambent.context import Context
from tests.api.asking import ROLE, zipped
from tests.api.server import ACCOUNT, REGION, Server, SkippingClock, refused, served

FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:orders"
PENDING_SECONDS = 60.0
CLOCK = SkippingClock()
HEARD: list[Any] = []
TOLD = threading.Event()
GATE = threading.Event()
DONE = threading.Event()
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/clicks"


@pytest.fixture(scope="module", params=["memory", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    store = None
    if request.param == "redis":
        store = f"{request.getfixturevalue('redis_process').url}?prefix=boto3"
    engine = Engine(
        store,
        account_id=ACCOUNT,
        state_change_seconds=PENDING_SECONDS,
        watchdog_seconds=0,
        delay_scale=0.001,
        clock=CLOCK,
    )
    HEARD.clear()
    TOLD.clear()

    @engine.function
    async def echo(event: Any, context: Context) -> Any:
        return {"event": event, "arn": context.invoked_function_arn, "id": context.aws_request_id}

    @engine.function
    async def fails(event: Any, context: Context) -> Any:
        raise ValueError("not today")

    engine.function(name="says_version")(version_of)
    engine.function(name="knows_client")(knows_client)
    engine.function(name="streams", timeout_seconds=30)(streams)

    @engine.function
    async def hears(event: Any) -> None:
        HEARD.append([each["body"] for each in event["Records"]])
        TOLD.set()

    engine.queue("orders", visibility_timeout_seconds=60)
    engine.stream("clicks")
    with served(engine) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Server) -> Any:
    return server.client()


@pytest.fixture
def made(api: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a function that is there for this test."""
    name = f"f{abs(hash(request.node.name)) % 10**12}"
    create(api, name)
    yield name
    api.delete_function(FunctionName=name)


def create(api: Any, name: str, **options: Any) -> dict[str, Any]:
    given = {"Runtime": "python3.12", "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": zipped()}}
    answer: dict[str, Any] = api.create_function(FunctionName=name, **{**given, **options})
    active(api, name)
    return answer


def active(api: Any, name: str) -> None:
    """Let the time go by until nothing of it is changing."""
    CLOCK.skipped += PENDING_SECONDS
    found = api.get_function_configuration(FunctionName=name)
    assert (found["State"], found["LastUpdateStatus"]) == ("Active", "Successful")


# --------------------------------------------------------------------------- Invoke


def test_a_declared_function_is_called_and_its_value_is_the_payload(api: Any) -> None:
    answer = api.invoke(FunctionName="echo", Payload=b'{"a": 1}')
    value = json.load(answer["Payload"])
    assert (answer["StatusCode"], answer["ExecutedVersion"], value["event"]) == (200, "$LATEST", {"a": 1})
    assert value["arn"] == f"{FUNCTION}:echo"
    assert value["id"] == answer["ResponseMetadata"]["RequestId"]


@pytest.mark.parametrize("name", ["echo", f"{FUNCTION}:echo", f"{ACCOUNT}:function:echo", "function:echo"])
def test_a_function_has_many_names(api: Any, name: str) -> None:
    assert json.load(api.invoke(FunctionName=name)["Payload"])["event"] == {}


def test_a_qualifier_is_part_of_the_arn_that_the_handler_sees(api: Any) -> None:
    answer = api.invoke(FunctionName="echo", Qualifier="$LATEST")
    assert json.load(answer["Payload"])["arn"] == f"{FUNCTION}:echo:$LATEST"


def test_an_error_of_the_function_is_a_success_of_the_call(api: Any) -> None:
    answer = api.invoke(FunctionName="fails")
    document = json.load(answer["Payload"])
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert (document["errorType"], document["errorMessage"]) == ("ValueError", "not today")


def test_the_tail_of_the_log_comes_with_the_answer(api: Any) -> None:
    answer = api.invoke(FunctionName="echo", LogType="Tail")
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    assert lines[0] == f"START RequestId: {answer['ResponseMetadata']['RequestId']} Version: $LATEST"


def test_an_event_is_accepted_and_runs_later(server: Server, api: Any) -> None:
    answer = api.invoke(FunctionName="echo", InvocationType="Event", Payload=b"[1]")
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    request_id = answer["ResponseMetadata"]["RequestId"]
    while (fact := server.run(lambda: server.engine.event(request_id))).state in ("waiting", "running"):
        pass
    assert (fact.state, json.loads(fact.result)["event"]) == ("succeeded", [1])


def test_a_failing_event_is_tried_three_times_without_waiting_minutes(server: Server, api: Any) -> None:
    request_id = api.invoke(FunctionName="fails", InvocationType="Event")["ResponseMetadata"]["RequestId"]
    while (fact := server.run(lambda: server.engine.event(request_id))).state in ("waiting", "running"):
        pass
    assert (fact.state, fact.event.attempts) == ("failed", 3)


def test_a_dry_run_runs_nothing(api: Any) -> None:
    answer = api.invoke(FunctionName="fails", InvocationType="DryRun")
    assert (answer["StatusCode"], answer["Payload"].read()) == (204, b"")


def test_a_payload_that_is_no_json_is_refused(api: Any) -> None:
    with refused("InvalidRequestContentException", 400) as error:
        api.invoke(FunctionName="echo", Payload=b"{no")
    assert error.message.startswith("Could not parse request body into json: Could not parse payload into json: ")


@pytest.mark.parametrize(("kind", "limit"), [("RequestResponse", 6 * 1024 * 1024), ("Event", 1024 * 1024)])
def test_a_payload_above_its_limit_is_refused_and_one_at_it_is_not(api: Any, kind: str, limit: int) -> None:
    fits = b'"' + b"a" * (limit - 2) + b'"'
    assert api.invoke(FunctionName="fails", InvocationType=kind, Payload=fits)["StatusCode"] in (200, 202)
    with refused("RequestEntityTooLargeException", 413) as error:
        api.invoke(FunctionName="echo", InvocationType=kind, Payload=fits + b" ")
    assert (
        error.message
        == {
            "RequestResponse": f"Request must be smaller than {limit} bytes for the InvokeFunction operation",
            "Event": f"{limit + 1} byte payload is too large for the Event invocation type (limit {limit} bytes)",
        }[kind]
    )


def test_a_function_that_is_not_there_is_named_with_its_qualifier(api: Any) -> None:
    with refused("ResourceNotFoundException", 404) as error:
        api.invoke(FunctionName="nothing")
    assert error.message == f"Function not found: {FUNCTION}:nothing:$LATEST"


def test_a_throttled_call_says_why(server: Server, api: Any) -> None:
    api.put_function_concurrency(FunctionName="fails", ReservedConcurrentExecutions=0)
    try:
        with pytest.raises(ClientError) as refusal:
            api.invoke(FunctionName="fails")
    finally:
        api.delete_function_concurrency(FunctionName="fails")
    assert refusal.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert refusal.value.response["Error"]["Code"] == "TooManyRequestsException"


def test_a_function_that_does_not_stream_is_a_stream_of_one_piece(api: Any) -> None:
    found = api.invoke_with_response_stream(FunctionName="echo", Payload=b"[1]", LogType="Tail")
    chunk, complete = found["EventStream"]
    assert (found["StatusCode"], found["ExecutedVersion"]) == (200, "$LATEST")
    assert found["ResponseStreamContentType"] == "application/vnd.amazon.eventstream"
    value = json.loads(chunk["PayloadChunk"]["Payload"])
    assert (value["event"], value["id"]) == ([1], found["ResponseMetadata"]["RequestId"])
    assert list(complete["InvokeComplete"]) == ["LogResult"]
    (complete,) = api.invoke_with_response_stream(FunctionName="fails")["EventStream"]
    assert complete["InvokeComplete"]["ErrorCode"] == "Unhandled"
    assert json.loads(complete["InvokeComplete"]["ErrorDetails"])["errorType"] == "ValueError"
    dry = api.invoke_with_response_stream(FunctionName="fails", InvocationType="DryRun")
    dry["EventStream"].close()
    assert dry["ResponseMetadata"]["HTTPStatusCode"] == 204


async def streams(event: Any) -> AsyncIterator[Any]:
    """An event's pieces; between two of them it waits for a gate, if there are two."""
    GATE.clear()
    for number, piece in enumerate(event["pieces"]):
        if number:
            await asyncio.to_thread(GATE.wait)
        yield piece * event.get("times", 1)
    if "error" in event:
        raise ValueError(event["error"])
    DONE.set()


def pieces(api: Any, **event: Any) -> Any:
    return api.invoke_with_response_stream(FunctionName="streams", Payload=json.dumps(event))["EventStream"]


def test_an_answer_comes_while_the_function_still_runs(api: Any) -> None:
    events = iter(pieces(api, pieces=["first", "last"]))
    assert next(events) == {"PayloadChunk": {"Payload": b"first"}}
    GATE.set()
    assert list(events) == [{"PayloadChunk": {"Payload": b"last"}}, {"InvokeComplete": {}}]


def test_an_error_in_the_middle_of_a_stream_ends_it(api: Any) -> None:
    chunk, complete = pieces(api, pieces=["half"], error="no more")
    assert chunk["PayloadChunk"]["Payload"] == b"half"
    assert complete["InvokeComplete"]["ErrorCode"] == "Unhandled"
    assert json.loads(complete["InvokeComplete"]["ErrorDetails"])["errorMessage"] == "no more"


def test_a_call_that_does_not_ask_for_a_stream_gets_the_whole(api: Any) -> None:
    GATE.set()
    payload = json.dumps({"pieces": ['{"a": 1}']})
    assert json.load(api.invoke(FunctionName="streams", Payload=payload)["Payload"]) == {"a": 1}


def test_a_large_answer_is_more_than_one_event(api: Any) -> None:
    *chunks, complete = pieces(api, pieces=["x"], times=20 * 1024 * 1024)
    assert [len(each["PayloadChunk"]["Payload"]) for each in chunks] == [4 * 1024 * 1024] * 5
    assert complete == {"InvokeComplete": {}}


def test_a_function_runs_on_when_who_reads_its_stream_hangs_up(server: Server, api: Any) -> None:
    DONE.clear()
    stream = pieces(api, pieces=["a", "b", "c"])
    next(iter(stream))
    stream.close()
    GATE.set()
    assert DONE.wait(10)


def test_a_stream_that_cannot_go_on_ends_in_an_error_of_its_own() -> None:
    engine = Engine(account_id=ACCOUNT, watchdog_seconds=0, drain_seconds=0)
    engine.function(name="streams")(streams)
    with served(engine) as running:
        stream = pieces(running.client(), pieces=["a", "b"])
        events = iter(stream)
        next(events)
        ending = threading.Thread(target=running.run, args=(engine.stop,))
        ending.start()
        with pytest.raises(EventStreamError, match="the engine was stopped"):
            list(events)
        stream.close()
        GATE.set()
        ending.join()


def version_of(event_and_more: Any, context: Context) -> str:
    return context.function_version


def test_a_client_context_is_for_synchronous_calls_only(server: Server, api: Any) -> None:
    sent = base64.b64encode(b'{"custom": {"a": "b"}}').decode()
    assert json.load(api.invoke(FunctionName="knows_client", ClientContext=sent)["Payload"]) == {"a": "b"}
    answer = api.invoke(FunctionName="knows_client", ClientContext=sent, InvocationType="Event")
    fact = server.run(lambda: ended(server.engine, answer["ResponseMetadata"]["RequestId"]))
    assert (fact.state, fact.result) == ("succeeded", b"null")
    with refused("InvalidRequestContentException", 400):
        api.invoke(FunctionName="knows_client", ClientContext="?", InvocationType="Event")


def knows_client(event: Any, context: Context) -> Any:
    return context.client_context and context.client_context.custom


async def ended(engine: Engine, request_id: str) -> Any:
    while (fact := await engine.event(request_id)).state in ("waiting", "running"):
        await asyncio.sleep(0)
    return fact


def test_a_call_by_a_version_or_an_alias_says_which_version_ran(api: Any) -> None:
    api.publish_version(FunctionName="says_version")
    api.create_alias(FunctionName="says_version", Name="live", FunctionVersion="1")
    for qualifier, version in ((None, "$LATEST"), ("$LATEST", "$LATEST"), ("1", "1"), ("live", "1")):
        answer = api.invoke(FunctionName="says_version", **({"Qualifier": qualifier} if qualifier else {}))
        assert (json.load(answer["Payload"]), answer["ExecutedVersion"]) == (version, version)
    with refused("ResourceNotFoundException", 404) as error:
        api.invoke(FunctionName="says_version", Qualifier="2")
    assert error.message == f"Function not found: {FUNCTION}:says_version:2"


def test_both_versions_of_a_routed_alias_are_met(api: Any) -> None:
    api.update_function_configuration(FunctionName="says_version", Description="another")
    CLOCK.skipped += PENDING_SECONDS
    other = api.publish_version(FunctionName="says_version")["Version"]
    weights = {"AdditionalVersionWeights": {other: 0.5}}
    api.create_alias(FunctionName="says_version", Name="both", FunctionVersion="1", RoutingConfig=weights)
    met: set[str] = set()
    while met != {"1", other}:
        met.add(api.invoke(FunctionName="says_version", Qualifier="both")["ExecutedVersion"])


# --------------------------------------------------------------------------- functions


def test_a_function_is_pending_until_it_is_active_and_its_revision_changes(api: Any) -> None:
    created = api.create_function(
        FunctionName="slowly", Runtime="python3.12", Handler="a.b", Role=ROLE, Code={"ZipFile": zipped()}
    )
    assert (created["State"], created["StateReasonCode"], created["Version"]) == ("Pending", "Creating", "$LATEST")
    with refused("ResourceConflictException", 409):
        api.invoke(FunctionName="slowly")
    active(api, "slowly")
    found = api.get_function(FunctionName="slowly")["Configuration"]
    assert found["RevisionId"] != created["RevisionId"]
    api.delete_function(FunctionName="slowly")
    with refused("ResourceNotFoundException", 404) as error:
        api.get_function(FunctionName="slowly")
    assert error.message == f"Function not found: {FUNCTION}:slowly"


def test_what_has_no_effect_is_kept_and_shown(api: Any) -> None:
    created = create(
        api,
        "inert",
        VpcConfig={"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
        TracingConfig={"Mode": "Active"},
        KMSKeyArn="arn:aws:kms:us-east-1:111111111111:key/k",
        Tags={"team": "blue"},
    )
    vpc = {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert created["VpcConfig"] == {**vpc, "VpcId": "", "Ipv6AllowedForDualStack": False}
    assert (created["TracingConfig"], created["KMSKeyArn"][-5:]) == ({"Mode": "Active"}, "key/k")
    assert api.get_function(FunctionName="inert")["Tags"] == {"team": "blue"}
    api.delete_function(FunctionName="inert")


def test_a_name_is_taken_once(api: Any, made: str) -> None:
    with refused("ResourceConflictException", 409) as error:
        create(api, made)
    assert error.message == f"Function already exist: {made}"


def test_an_update_needs_the_latest_revision_and_one_at_a_time(api: Any, made: str) -> None:
    known = api.get_function_configuration(FunctionName=made)["RevisionId"]
    updated = api.update_function_configuration(FunctionName=made, Timeout=10, RevisionId=known)
    assert (updated["Timeout"], updated["LastUpdateStatus"], updated["State"]) == (10, "InProgress", "Active")
    with refused("ResourceConflictException", 409) as error:
        api.update_function_code(FunctionName=made, ZipFile=zipped("x = 1\n"))
    assert error.message.endswith(f"An update is in progress for resource: {FUNCTION}:{made}")
    active(api, made)
    with refused("PreconditionFailedException", 412):
        api.update_function_configuration(FunctionName=made, Timeout=11, RevisionId=known)


def test_a_declared_function_keeps_its_code_but_may_have_another_time_limit(api: Any) -> None:
    assert api.update_function_configuration(FunctionName="echo", Timeout=7)["Timeout"] == 7
    active(api, "echo")
    with refused("InvalidParameterValueException", 400) as error:
        api.update_function_code(FunctionName="echo", ZipFile=zipped())
    assert "is a callable of the code" in error.message


def test_functions_are_listed_by_pages(api: Any) -> None:
    names = [f"page{number}" for number in range(3)]
    for name in names:
        create(api, name)
    pages = list(api.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}))
    listed = [each["FunctionName"] for page in pages for each in page["Functions"]]
    assert len(pages) > 1
    assert set(names) <= set(listed)
    assert listed == sorted(listed)
    for name in names:
        api.delete_function(FunctionName=name)


def test_constraints_that_are_broken_come_in_one_message(api: Any) -> None:
    with refused("ValidationException", 400) as error:
        api.get_function(FunctionName="not!", Qualifier="a" * 129)
    first, second = error.message.split("; ")
    assert first.startswith("2 validation errors detected: Value 'aaa")
    assert second.startswith("Value 'not!' at 'functionName' failed to satisfy constraint: Member must satisfy regular")


def test_every_runtime_of_the_model_is_accepted_and_others_are_not(server: Server, api: Any) -> None:
    from lambent.api.shapes import load_wire

    for runtime in load_wire().shape("Runtime").model["enum"]:
        api.create_function(FunctionName="any", Runtime=runtime, Handler="a.b", Role=ROLE, Code={"ZipFile": zipped()})
        api.delete_function(FunctionName="any")
    with refused("InvalidParameterValueException", 400) as error:
        create(api, "any", Runtime="cobol")
    assert error.message.startswith("Value cobol at 'runtime' failed to satisfy constraint: Member must satisfy enum")


def test_a_folder_or_an_image_may_be_the_code(api: Any, tmp_path: Path) -> None:
    found = create(api, "folder", Code={"S3Bucket": "folder", "S3Key": str(tmp_path)})
    assert (found["PackageType"], found["CodeSize"]) == ("Zip", 0)
    image = {"Code": {"ImageUri": "registry/image:1"}, "PackageType": "Image", "FunctionName": "image", "Role": ROLE}
    assert api.create_function(**image)["PackageType"] == "Image"
    assert api.get_function(FunctionName="image")["Code"]["ImageUri"] == "registry/image:1"
    for name in ("folder", "image"):
        api.delete_function(FunctionName=name)


# --------------------------------------------------------------------------- versions, aliases, concurrency


def test_publishing_twice_without_a_change_gives_the_same_version(api: Any, made: str) -> None:
    first = api.publish_version(FunctionName=made)
    assert (first["Version"], first["FunctionArn"]) == ("1", f"{FUNCTION}:{made}:1")
    assert api.publish_version(FunctionName=made)["RevisionId"] == first["RevisionId"]
    api.update_function_configuration(FunctionName=made, Description="new")
    active(api, made)
    assert api.publish_version(FunctionName=made)["Version"] == "2"
    with refused("InvalidParameterValueException", 400) as error:
        api.publish_version(FunctionName=made, CodeSha256="other")
    assert error.message.startswith("CodeSHA256 (other) is different from current CodeSHA256 in $LATEST (")


def test_an_alias_may_send_a_part_of_the_calls_to_one_other_version(api: Any, made: str) -> None:
    api.publish_version(FunctionName=made)
    api.update_function_configuration(FunctionName=made, Description="new")
    active(api, made)
    api.publish_version(FunctionName=made)
    alias = api.create_alias(
        FunctionName=made, Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.25}}
    )
    assert alias["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.25}}
    moved = api.update_alias(FunctionName=made, Name="live", FunctionVersion="2", RoutingConfig={})
    assert (moved["FunctionVersion"], "RoutingConfig" in moved) == ("2", False)
    with refused("ResourceConflictException", 409):
        api.delete_function(FunctionName=made, Qualifier="2")
    api.delete_alias(FunctionName=made, Name="live")
    assert api.list_aliases(FunctionName=made)["Aliases"] == []


def test_reservations_leave_a_hundred_to_the_others(api: Any, made: str) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        api.put_function_concurrency(FunctionName=made, ReservedConcurrentExecutions=901)
    assert error.message.endswith("UnreservedConcurrentExecution below its minimum value of [100].")
    api.put_function_concurrency(FunctionName=made, ReservedConcurrentExecutions=900)
    limits = api.get_account_settings()["AccountLimit"]
    assert (limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]) == (1000, 100)


def test_the_configuration_of_events_is_what_the_engine_goes_by(server: Server, api: Any) -> None:
    api.put_function_event_invoke_config(FunctionName="fails", MaximumRetryAttempts=0)
    request_id = api.invoke(FunctionName="fails", InvocationType="Event")["ResponseMetadata"]["RequestId"]
    while (fact := server.run(lambda: server.engine.event(request_id))).state in ("waiting", "running"):
        pass
    assert (fact.state, fact.event.attempts) == ("failed", 1)
    api.delete_function_event_invoke_config(FunctionName="fails")


def test_each_qualifier_has_a_configuration_of_events_of_its_own(server: Server, api: Any) -> None:
    api.publish_version(FunctionName="fails")
    api.create_alias(FunctionName="fails", Name="once", FunctionVersion="1")
    api.put_function_event_invoke_config(FunctionName="fails", Qualifier="once", MaximumRetryAttempts=0)
    for qualifier, attempts in (("once", 1), ("1", 3), ("$LATEST", 3)):
        answer = api.invoke(FunctionName="fails", Qualifier=qualifier, InvocationType="Event")
        request_id = answer["ResponseMetadata"]["RequestId"]
        while (fact := server.run(lambda: server.engine.event(request_id))).state in ("waiting", "running"):  # noqa: B023
            pass
        assert (fact.state, fact.event.attempts) == ("failed", attempts)


# --------------------------------------------------------------------------- mappings


def test_a_mapping_feeds_a_queue_to_a_function(server: Server, api: Any) -> None:
    created = api.create_event_source_mapping(EventSourceArn=QUEUE, FunctionName="hears", BatchSize=5)
    assert (created["State"], created["BatchSize"], created["FunctionResponseTypes"]) == ("Creating", 5, [])
    while api.get_event_source_mapping(UUID=created["UUID"])["State"] != "Enabled":
        pass
    queue = server.engine.queue("orders")
    server.run(lambda: queue.send("hello"))
    assert TOLD.wait(10)
    assert HEARD == [["hello"]]
    with refused("ResourceConflictException", 409):
        api.create_event_source_mapping(EventSourceArn=QUEUE, FunctionName="hears")
    assert api.update_event_source_mapping(UUID=created["UUID"], Enabled=False)["State"] == "Disabling"
    while api.get_event_source_mapping(UUID=created["UUID"])["State"] != "Disabled":
        pass
    assert api.delete_event_source_mapping(UUID=created["UUID"])["State"] == "Deleting"
    with refused("ResourceNotFoundException", 404):
        api.get_event_source_mapping(UUID=created["UUID"])


def test_a_mapping_of_a_stream_says_where_it_starts(api: Any) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        api.create_event_source_mapping(EventSourceArn=STREAM, FunctionName="echo")
    assert error.message.startswith("1 validation error detected: Value null at 'startingPosition'")
    created = api.create_event_source_mapping(EventSourceArn=STREAM, FunctionName="echo", StartingPosition="LATEST")
    assert created["LastProcessingResult"] == "No records processed"
    listed = api.list_event_source_mappings(FunctionName="echo")["EventSourceMappings"]
    assert [each["UUID"] for each in listed] == [created["UUID"]]
    api.delete_event_source_mapping(UUID=created["UUID"])


# --------------------------------------------------------------------------- all of it


def test_what_is_not_there_is_named(api: Any) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        api.get_capacity_provider(CapacityProviderName="a")
    assert error.message.startswith("GetCapacityProvider is not there: lambent has no capacity providers")


def test_who_changed_what_is_kept(server: Server, api: Any, made: str) -> None:
    entries = [json.loads(each) for each in server.run(lambda: server.engine.control.kept("api-call")).values()]
    mine = [each for each in entries if each.get("FunctionName") == made]
    assert [(each["operation"], each["result"]) for each in mine] == [("CreateFunction", "done")]
    assert mine[0]["caller"] == "AKIDEXAMPLE at 127.0.0.1"
