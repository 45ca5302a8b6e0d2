"""What AWS was recorded to answer about functions that run: by boto3 and in environments, with this machine's Python in
the place of the recorded one; each case by its id.

Places that AWS's sandbox has and a machine of one's own has not are compared by name only, as in
tests/environments/test_recorded_environments.py. Of some cases nothing was recorded but that they went well; these say
themselves what that means.
"""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from lambent import Engine
from tests.api.asking import PYTHON, zipped
from tests.api.server import ACCOUNT, REGION, Server, served
from tests.conformance.api_cases import (
    AREAS,
    CLOCK,
    PENDING_SECONDS,
    Ground,
    cases,
    replay,
    replays,
    settle,
)
from tests.conformance.recorded import received
from tests.environments.test_recorded_environments import introspection, variables
from tests.servers import node
from tests.servers.s3 import BUCKET, s3

CODE = Path(__file__).parents[1] / "environments" / "code"
SYSTEM = """#!/usr/bin/env python3
import http.client, json, os

HEADERS = {"Lambda-Runtime-Deadline-Ms": "deadline", "Lambda-Runtime-Invoked-Function-Arn": "invoked_function_arn"}
while True:
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    told = api.getresponse()
    event, request_id = told.read(), told.headers["Lambda-Runtime-Aws-Request-Id"]
    path, body = "response", event
    if b"inspect" in event:
        ctx = {name: told.headers[header] for header, name in HEADERS.items()} | {"aws_request_id": request_id}
        for name in ("FUNCTION_NAME", "FUNCTION_VERSION", "LOG_GROUP_NAME", "LOG_STREAM_NAME"):
            ctx[name.lower()] = os.environ["AWS_LAMBDA_" + name]
        ctx["memory_limit_in_mb"] = int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"])
        surroundings = dict(os.environ, _X_AMZN_TRACE_ID=told.headers["Lambda-Runtime-Trace-Id"])
        body = json.dumps({"ctx": ctx, "environment": surroundings, "packages": []})
    elif b"fail" in event:
        path, body = "error", open("error.json").read()
    api.request("POST", f"/2018-06-01/runtime/invocation/{request_id}/{path}", body)
    api.getresponse().read()
"""
"""A runtime of one's own: it echoes, and tells its context or fails if it is asked to."""


def with_modes(files: dict[str, str]) -> bytes:
    """A zip file of programs."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(entry, text)
    return held.getvalue()


def here(on: Ground) -> str:
    """The runtime in which the case is replayed; it stands in the recording, too."""
    text = json.dumps(on.case.content)
    for number in range(8, 20):
        text = text.replace(f"python3.{number}", PYTHON)
    on.case.content = json.loads(text)
    return "provided.al2023" if "[provided" in on.case.identity else PYTHON


def invoked(on: Ground, event: Any = None, **params: Any) -> Any:
    """The value that a call of the function gives."""
    answer = on.call("invoke", FunctionName=on.name(), Payload=json.dumps(event).encode(), **params)
    assert "FunctionError" not in answer, answer
    return json.loads(answer["Payload"])


def create(on: Ground, text: str, step: str = "", **options: Any) -> Any:
    given = {"Runtime": here(on), "Code": {"ZipFile": zipped(text)}, "Timeout": 30, "MemorySize": 1024}
    recorded = on.case.content.get(step) or {}
    recorded = recorded.get("CreateFunctionResponse", recorded)
    return on.create(step, **{name: value for name, value in {**given, **options}.items() if name not in recorded})


def system(on: Ground, step: str = "", error: Any = None) -> None:
    """The function with a runtime of its own."""
    files = {"bootstrap": SYSTEM, "error.json": json.dumps(error)}
    on.create(step, Runtime=here(on), Code={"ZipFile": with_modes(files)})


# --------------------------------------------------------------------------- 01: payloads, surroundings


@replays("TestLambdaBaseFeatures::test_large_payloads")
def large_payloads(on: Ground, _: str) -> None:
    create(on, "def handler(event, context):\n    return event\n")
    event = {"test": "test123456" * 100 * 1000 * 5}  # recorded by its author: 5 MB
    assert invoked(on, event) == event


@replays("TestLambdaBaseFeatures::test_lambda_large_response")
def large_response(on: Ground, _: str) -> None:
    create(on, "def handler(event, context):\n    return {'length': 'a' * event['size']}\n")
    assert len(invoked(on, {"size": 6_000_000})["length"]) == 6_000_000
    answer = on.call("invoke", FunctionName=on.name(), Payload=b'{"size": 6291600}')
    assert json.loads(answer["Payload"])["errorType"] == "Function.ResponseSizeTooLarge"


@replays("TestLambdaBehavior::test_lambda_init_environment")
def init_environment(on: Ground, _: str) -> None:
    text = "import os\nFOUND = dict(os.environ)\n\ndef handler(event, context):\n    return {'environment': FOUND}\n"
    create(on, text, "create-result", Environment={"Variables": {}})
    recorded = on.case["lambda-init-inspection"]
    answer = on.call("invoke", FunctionName=on.name())
    theirs, ours = [variables(_payload(each)["environment"]) for each in (recorded, answer)]
    assert _without(ours) == _without(theirs)
    for each in (recorded, answer):
        each.pop("Payload")
    on.pairs.append((recorded, answer))


def _payload(answer: Any) -> Any:
    payload = answer["Payload"]
    return json.loads(payload) if isinstance(payload, str) else payload


def _without(environment: dict[str, str]) -> list[str]:
    """The names of variables, without the one that is newer than the recordings, and an invocation's."""
    return sorted(environment.keys() - {"AWS_LAMBDA_LOG_FORMAT", "_X_AMZN_TRACE_ID"})


def call(on: Ground, step: str, text: str, event: Any = None, *, options: Any = None, **params: Any) -> None:
    """One call whose answer was recorded, of a function of this code."""
    (created,) = [name for name in on.case.content if name.startswith("creat")] or [""]
    create(on, text, created, **(options or {}))
    payload = event if isinstance(event, bytes) else json.dumps(event).encode()
    on.step(step, "invoke", FunctionName=on.name(), Payload=payload, **params)


ECHO = "def handler(event, context):\n    print(event)\n    return event\n"


@replays("TestLambdaBehavior::test_lambda_cache_local")
def cache(on: Ground, language: str) -> None:
    if language == "nodejs":
        text = "let counter = 0;\nexports.handler = async () => ({counter: counter++});\n"
        code = {"Runtime": "nodejs22.x", "Handler": "index.handler", "Code": {"ZipFile": zipped(text, "index.js")}}
        on.create(Timeout=30, **code)
    else:
        text = "counter = -1\n\ndef handler(event, context):\n    global counter\n    counter += 1\n"
        create(on, f"{text}    return {{'counter': counter}}\n")
    for step in ("first_invoke_result", "second_invoke_result"):
        on.step(step, "invoke", FunctionName=on.name())


@replays("TestLambdaBehavior::test_lambda_invoke_with_timeout", "TestLambdaBehavior::test_lambda_invoke_no_timeout")
def timeout(on: Ground, _: str) -> None:
    seconds = on.case["create-result"]["CreateFunctionResponse"]["Timeout"]
    late = "FunctionError" in on.case["invoke-result"]
    text = f"import time\n\ndef handler(event, context):\n    time.sleep({seconds + 9 if late else 0})\n"
    call(on, "invoke-result", text)


@replays(
    "TestLambdaFeatures::test_invocation_type_request_response", "TestLambdaFeatures::test_invocation_type_dry_run"
)
def invocation_type(on: Ground, _: str) -> None:
    kind = "DryRun" if "dry_run" in on.case.identity else "RequestResponse"
    call(on, "invoke-result", ECHO, {}, InvocationType=kind)


@replays("TestLambdaFeatures::test_invocation_with_logs")
def with_logs(on: Ground, _: str) -> None:
    create(on, ECHO, MemorySize=128)
    answer = on.call("invoke", FunctionName=on.name(), Payload=b"{}", LogType="Tail")
    tail = base64.b64decode(answer.pop("LogResult")).decode().splitlines(keepends=True)
    del on.case["invoke"]["LogResult"]
    on.pairs.append((on.case["invoke"], answer))
    on.pairs.append((on.case["logs"], {"logs": tail, "ResponseMetadata": {"HTTPStatusCode": 200}}))


@replays("TestLambdaFeatures::test_lambda_with_context")
def with_context(on: Ground, _: str) -> None:
    sent = base64.b64encode(json.dumps(on.case["invocation"]["Payload"]["context"]["clientContext"]).encode()).decode()
    text = "exports.handler = async (event, context) => ({context});\n"
    code = {"Runtime": "nodejs22.x", "Handler": "index.handler", "Code": {"ZipFile": zipped(text, "index.js")}}
    on.create(Timeout=30, **code)
    on.step("invocation", "invoke", FunctionName=on.name(), Payload=b"{}", ClientContext=sent)


@replays("TestLambdaErrors::test_lambda_runtime_wrapper_not_found")
def wrapper_not_found(on: Ground, _: str) -> None:
    variables = {"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/idontexist.sh"}}
    call(on, "invocation_error", ECHO, options={"Environment": variables})


@replays("TestLambdaErrors::test_lambda_handler_error")
def handler_error(on: Ground, _: str) -> None:
    call(on, "invocation_error", 'def handler(event, context):\n    raise Exception("Handler fails")\n')


@replays("TestLambdaErrors::test_lambda_invoke_payload_encoding_error")
def encoding_error(on: Ground, parameter: str) -> None:
    (step,) = on.case.content
    call(on, step, ECHO, parameter.partition("-")[2].encode("latin-1").decode("unicode-escape").encode("latin-1"))


# --------------------------------------------------------------------------- 02: events and where their results go

RESULTS = f"arn:aws:sqs:{REGION}:{ACCOUNT}:results"
FAILS = """
import logging

logging.getLogger().setLevel(logging.INFO)

def handler(event, context):
    print("Lambda log message - print function")
    logging.getLogger().info("Lambda log message - logging module")
    if event.get("raise_error") or event.get("message"):
        raise Exception("{words}")
    names = (
        "invoked_function_arn", "function_version", "function_name", "memory_limit_in_mb", "aws_request_id",
        "log_group_name", "log_stream_name", "client_context",
    )
    return {"event": event, "context": {name: getattr(context, name) for name in names}}
"""


def results(on: Ground) -> list[dict[str, Any]]:
    """The first message of the queue of results, as SQS's ReceiveMessage would show it."""

    async def taken() -> list[dict[str, Any]]:
        queue = on.server.engine.queue("results")
        (message,) = await queue.receive(1, wait_seconds=20)
        await queue.delete([message])
        shown: dict[str, Any] = {"MessageId": message.id, "Body": json.loads(message.body)}
        if message.attributes:
            shown["MessageAttributes"] = {
                name: {"DataType": each.data_type, "StringValue": each.value}
                for name, each in sorted(message.attributes.items())
            }
        return [shown]

    return on.server.run(taken)


@replays(
    "TestLambdaDestinationSqs::test_assess_lambda_destination_invocation",
    "TestLambdaDestinationSqs::test_lambda_destination_default_retries",
    "TestLambdaDestinationSqs::test_retries",
)
def destination(on: Ground, _: str) -> None:
    recorded = received(on.case.content.get("queue_destination_payload") or on.case["receive_message_result"])
    body = recorded[0]["Body"]
    words = body["responsePayload"].get("errorMessage", "Test exception (this is intentional)")
    create(on, FAILS.replace("{words}", words), MemorySize=128)
    sides = {side: {"Destination": RESULTS} for side in ("OnSuccess", "OnFailure")}
    limits = {"MaximumRetryAttempts": 0} if "test_assess" in on.case.identity else {}
    put = "put_function_event_invoke_config"
    on.step(put, put, FunctionName=on.name(), DestinationConfig=sides, **limits)
    event = json.dumps(body["requestPayload"]).encode()
    on.call("invoke", FunctionName=on.name(), InvocationType="Event", Payload=event)
    done = {"ResponseMetadata": {"HTTPStatusCode": 200}}
    on.pairs.append(({"Messages": recorded, **done}, {"Messages": results(on), **done}))


@replays("TestLambdaDLQ::test_dead_letter_queue")
def dead_letter_queue(on: Ground, _: str) -> None:
    name, text = on.name(), FAILS.replace("{words}", "Test exception (this is intentional)")
    target = {"TargetArn": RESULTS}
    here(on)
    on.create("create_lambda_with_dlq", Code={"ZipFile": zipped(text)}, DeadLetterConfig=target)
    event = b'{"raise_error": 1}'
    on.call("invoke", FunctionName=name, InvocationType="Event", Payload=event)
    done = {"ResponseMetadata": {"HTTPStatusCode": 200}}
    on.pairs.append(({"Messages": received(on.case["receive_result"]), **done}, {"Messages": results(on), **done}))
    on.step("delete_dlq", "update_function_configuration", FunctionName=name, DeadLetterConfig={})
    settle()
    answer = on.call("invoke", FunctionName=name, Payload=event, LogType="Tail")
    tail = base64.b64decode(answer.pop("LogResult")).decode().splitlines()
    del on.case["invoke_result"]["LogResult"]
    on.pairs.append((on.case["invoke_result"], answer))
    lines = on.case["log_result"]["result"]
    on.pairs.append(({"result": lines, **done}, {"result": tail[: len(lines)], **done}))


@replays("TestLambdaConcurrency::test_reserved_concurrency_async_queue")
def too_many(on: Ground, _: str) -> None:
    create(on, "import time\n\ndef handler(event, context):\n    time.sleep(event)\n")
    on.step("put_fn_concurrency", "put_function_concurrency", FunctionName=on.name(), ReservedConcurrentExecutions=1)
    on.call("invoke", FunctionName=on.name(), InvocationType="Event", Payload=b"3")
    while "Error" not in (answer := on.call("invoke", FunctionName=on.name(), Payload=b"0")):
        pass
    on.pairs.append((on.case["too_many_requests_exc"], answer))


# --------------------------------------------------------------------------- 04, 05: concurrency, versions


@replays("TestLambdaConcurrency::test_lambda_provisioned_concurrency_scheduling")
def scheduling(on: Ground, _: str) -> None:
    text = (
        "import os, time\n\ndef handler(event, context):\n    time.sleep(event['wait'])\n"
        "    return os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']\n"
    )
    create(on, text, Publish=True)
    one = {"FunctionName": on.name(), "Qualifier": "1"}
    on.call("put_provisioned_concurrency_config", ProvisionedConcurrentExecutions=1, **one)
    settle()
    while on.call("get_provisioned_concurrency_config", **one)["Status"] == "IN_PROGRESS":
        pass
    on.step("get_provisioned_postwait", "get_provisioned_concurrency_config", **one)
    assert invoked(on, {"wait": 0}, Qualifier="1") == "provisioned-concurrency"
    assert invoked(on, {"wait": 0}) == "on-demand"
    on.call("delete_provisioned_concurrency_config", **one)
    assert invoked(on, {"wait": 0}, Qualifier="1") == "on-demand"


@replays("TestLambdaVersions::test_lambda_versions_with_code_changes")
def code_changes(on: Ground, _: str) -> None:
    def code(number: int) -> bytes:
        return zipped(
            f"def handler(event, context):\n    return {{'version_id': 'version{number}', 'invoked_arn': "
            "context.invoked_function_arn, 'version_from_ctx': context.function_version}\n"
        )

    def called(step: str, **params: Any) -> None:
        on.step(step, "invoke", FunctionName=on.name(), Payload=b"{}", **params)

    def published(step: str) -> None:
        on.step(step, "publish_version", FunctionName=on.name(), Description=on.case[step]["Description"])

    here(on)
    step = "update_lambda_response_with_publish"
    of_code = {"create_response": 1, "first_publish_response": 1, "update_lambda_response": 2}
    for name, number in {**of_code, "second_publish_response": 2, step: 3}.items():
        on.case[name]["CodeSha256"] = f"<code-sha256:{number}>"  # recorded as one word
    on.create("create_response", Code={"ZipFile": code(1)})
    published("first_publish_response")
    on.step("update_lambda_response", "update_function_code", FunctionName=on.name(), ZipFile=code(2))
    settle()
    called("invocation_result_latest")
    called("invocation_result_v1", Qualifier="1")
    published("second_publish_response")
    called("invocation_result_v2", Qualifier="2")
    on.step(step, "update_function_code", FunctionName=on.name(), ZipFile=code(3), Publish=True)
    settle()
    for name, version in (("v3", "3"), ("latest_end", "$LATEST"), ("v2_end", "2"), ("v1_end", "1")):
        called(f"invocation_result_{name}", **({} if version == "$LATEST" else {"Qualifier": version}))


@replays("TestLambdaVersions::test_function_update_during_invoke")
def update_during_invoke(on: Ground, _: str) -> None:
    text = (
        "import os\n\ndef handler(event, context):\n    return {'function_version': context.function_version, "
        "'request_id': context.aws_request_id, 'request_prefix': event['request_prefix'], "
        "'function_variant': os.environ['FUNCTION_VARIANT']}\n"
    )
    here(on)
    variant = {"Variables": {"FUNCTION_VARIANT": "variant-1"}}
    on.create(Runtime=PYTHON, Code={"ZipFile": zipped(text)}, Environment=variant)
    event = json.dumps({"request_prefix": "1-sleep"}).encode()
    on.step("invoke_response_before", "invoke", FunctionName=on.name(), Payload=event)
    changed = {"Variables": {"FUNCTION_VARIANT": "variant-2"}}
    on.call("update_function_configuration", FunctionName=on.name(), Environment=changed)
    settle()
    assert invoked(on, {"request_prefix": "2"})["function_variant"] == "variant-2"


# --------------------------------------------------------------------------- 14: runtimes


@replays("TestLambdaRuntimesCommon::test_echo_invoke")
def echo(on: Ground, _: str) -> None:
    text = "def handler(event, context):\n    return event\n"
    system(on) if here(on).startswith("provided") else create(on, text)
    for event in ("string", 'quoted "string"', 1, 2.5, True, None, [], ["a", {}], {}, {"a": {"ü": ["\u2028😀"]}}):
        assert invoked(on, event) == event


@replays("TestLambdaRuntimesCommon::test_introspection_invoke")
def told(on: Ground, _: str) -> None:
    if here(on).startswith("provided"):
        system(on, "create_function_result")
    else:
        text = (CODE / "recorded.py").read_text().replace("def told", "def handler")
        create(on, text, "create_function_result")
    plain, qualified = invoked(on, "inspect"), invoked(on, "inspect", Qualifier="$LATEST")
    for step, answer in (("invocation_result_payload", plain), ("invocation_result_payload_qualified", qualified)):
        theirs, ours = introspection(on.case[step]), introspection(answer)
        assert _without(ours["environment"]) == _without(theirs["environment"])
        assert ours["ctx"].keys() == theirs["ctx"].keys()
        for each in ("ctx", "environment"):
            assert {type(value) for value in ours[each].values()} <= {str, int}
        same = ("function_name", "function_version", "invoked_function_arn", "log_group_name", "memory_limit_in_mb")
        done = {"ResponseMetadata": {"HTTPStatusCode": 200}}
        on.pairs.append((*({name: each["ctx"][name] for name in same} | done for each in (theirs, ours)),))


@replays("TestLambdaRuntimesCommon::test_uncaught_exception_invoke")
def uncaught(on: Ground, _: str) -> None:
    here(on)
    recorded = on.case["error_result"]
    if "stackTrace" in recorded["Payload"]:
        recorded["Payload"]["stackTrace"] = []  # how deep it lies is the code's
        create(on, "def handler(event, context):\n    raise Exception('Failed: ' + event)\n", "create_function_result")
    else:
        system(on, "create_function_result", recorded["Payload"])
    event = b'"some_error_msg"' if "stackTrace" in recorded["Payload"] else b'"fail"'
    answer = on.call("invoke", FunctionName=on.name(), Payload=event)
    document = json.loads(answer["Payload"])
    answer["Payload"] = json.dumps(document | ({"stackTrace": []} if "stackTrace" in document else {}))
    on.pairs.append((recorded, answer))


@replays("TestPythonRuntimes::test_python_runtime_correct_versions")
def correct_version(on: Ground, _: str) -> None:
    create(on, "import sys\n\ndef handler(event, context):\n    return 'python%d.%d' % sys.version_info[:2]\n")
    assert invoked(on) == PYTHON


@replays("TestPythonRuntimes::test_handler_in_submodule")
def submodule(on: Ground, _: str) -> None:
    files = {"func/handler.py": "def handler(event, context):\n    return '/function/'\n", "func/__init__.py": ""}
    create(on, "", Code={"ZipFile": with_modes(files)}, Handler="func.handler.handler")
    assert invoked(on) == "/function/"


# --------------------------------------------------------------------------- 13: code in S3


def stored(key: str, data: bytes) -> dict[str, str]:
    """Where this code lies now."""
    boto3.client("s3", region_name=REGION).put_object(Bucket=BUCKET, Key=key, Body=data)
    return {"S3Bucket": BUCKET, "S3Key": key}


@replays("TestLambdaFunction::test_lambda_code_location_s3")
def code_location(on: Ground, _: str) -> None:
    on.create("create_response_s3", Code=stored("a.zip", zipped()))
    on.step("get-function-response", "get_function", FunctionName=on.name())
    changed = stored("a.zip", zipped("x = 2\n"))
    on.step("update-function-response", "update_function_code", FunctionName=on.name(), **changed)
    on.step("get-function-response-updated", "get_function", FunctionName=on.name())


@replays("TestLambdaFeatures::test_upload_lambda_from_s3")
def from_s3(on: Ground, _: str) -> None:
    names = (
        "invoked_function_arn", "function_version", "function_name", "memory_limit_in_mb", "aws_request_id",
        "log_group_name", "log_stream_name", "client_context",
    )  # fmt: skip
    text = f"def handler(event, context):\n    found = {{name: getattr(context, name) for name in {names}}}\n"
    text += "    return {'event': event, 'context': found}\n"
    here(on)
    on.create("creation-response", Code=stored("b.zip", zipped(text)))
    event = on.case["invocation-response"]["Payload"]["event"]
    on.step("invocation-response", "invoke", FunctionName=on.name(), Payload=json.dumps(event).encode())


@replays("TestLambdaSizeLimits::test_large_lambda")
def large(on: Ground, _: str) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("handler.py", "def handler(event, context):\n    return event\n")
        archive.writestr("large", os.urandom(1024 * 1024) * 51)  # more than may be uploaded
    here(on)
    on.create("create_function_large_zip", Code=stored("c.zip", held.getvalue()))
    assert invoked(on, 1) == 1


@replays("TestLambdaSizeLimits::test_oversized_unzipped_lambda")
def oversized(on: Ground, _: str) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large", bytes(262_144_001))
    on.pairs.append((on.case["invalid_param_exc"], on.create(Code=stored("d.zip", held.getvalue()))))


CASES = cases(__name__, *AREAS, empty=True)
OF_NODE = ("[nodejs", "test_lambda_with_context")

if CASES:

    @pytest.fixture(scope="module")
    def server() -> Iterator[Server]:
        engine = Engine(
            account_id=ACCOUNT, state_change_seconds=PENDING_SECONDS, clock=CLOCK, delay_scale=0.001, watchdog_seconds=0
        )
        engine.queue("results")
        with s3(), pytest.MonkeyPatch.context() as patch, served(engine) as running:
            patch.setenv("PATH", str(node.client().parent), prepend=os.pathsep)
            yield running

    @pytest.mark.parametrize(
        "identity", sorted(name for name in CASES if not (node.left_out() and any(part in name for part in OF_NODE)))
    )
    def test_functions_that_run_answer_as_aws_was_recorded_to(server: Server, identity: str) -> None:
        replay(server, CASES[identity])
