"""Versions and aliases of functions that calls made: what was published runs, in processes of its own."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from lambent import Engine
from tests.api.asking import PYTHON, ROLE, zipped
from tests.api.server import ACCOUNT, Server, SkippingClock, refused, served

CLOCK = SkippingClock()
CODE = """
import os

def handler(event, context):
    return [{number}, context.function_version, os.environ["AWS_LAMBDA_FUNCTION_VERSION"], context.invoked_function_arn]
"""


@pytest.fixture
def server() -> Iterator[Server]:
    engine = Engine(account_id=ACCOUNT, state_change_seconds=60.0, watchdog_seconds=0, clock=CLOCK)
    with served(engine) as running:
        yield running


@pytest.fixture
def api(server: Server) -> Any:
    return server.client()


def code(number: int) -> bytes:
    return zipped(CODE.replace("{number}", str(number)))


def test_each_version_runs_the_code_that_was_published(api: Any) -> None:
    api.create_function(
        FunctionName="f", Runtime=PYTHON, Handler="handler.handler", Role=ROLE, Code={"ZipFile": code(1)}
    )
    CLOCK.skipped += 60
    assert api.publish_version(FunctionName="f")["Version"] == "1"
    api.update_function_code(FunctionName="f", ZipFile=code(2))
    CLOCK.skipped += 60
    api.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:f"
    for qualifier, number, version in (("", 2, "$LATEST"), ("1", 1, "1"), ("live", 1, "1")):
        answer = api.invoke(FunctionName=f"f:{qualifier}" if qualifier else "f")
        named = f"{arn}:{qualifier}" if qualifier else arn
        assert json.load(answer["Payload"]) == [number, version, version, named]
        assert answer["ExecutedVersion"] == version
    assert api.publish_version(FunctionName="f")["Version"] == "2"
    api.update_alias(FunctionName="f", Name="live", FunctionVersion="2")
    assert json.load(api.invoke(FunctionName="f", Qualifier="live")["Payload"])[:2] == [2, "2"]


def test_a_runtime_that_nothing_here_runs_fails_when_it_is_called_and_says_so(api: Any) -> None:
    api.create_function(FunctionName="f", Runtime="dotnet8", Handler="a::b", Role=ROLE, Code={"ZipFile": zipped()})
    CLOCK.skipped += 60
    answer = api.invoke(FunctionName="f")
    assert answer["FunctionError"] == "Unhandled"
    assert "nothing here runs runtimes of the family 'dotnet'" in json.load(answer["Payload"])["errorMessage"]


def provisioned(api: Any, qualifier: str, status: str) -> dict[str, Any]:
    """As it is shown once it has this status."""
    while (found := api.get_provisioned_concurrency_config(FunctionName="f", Qualifier=qualifier))["Status"] != status:
        assert found["Status"] == "IN_PROGRESS"
    return {name.partition("Prov")[0]: each for name, each in found.items() if name.endswith("Executions")}


def test_provisioned_concurrency_is_ready_when_its_environments_are_and_what_they_have_no_room_for_is_counted(
    server: Server, api: Any
) -> None:
    kind = "import os\ndef handler(event, context):\n    return os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']\n"
    api.create_function(
        FunctionName="f",
        Runtime=PYTHON,
        Handler="handler.handler",
        Role=ROLE,
        Code={"ZipFile": zipped(kind)},
        Publish=True,
    )
    api.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    live = {"FunctionName": "f", "Qualifier": "live"}
    CLOCK.skipped += 60
    put = api.put_provisioned_concurrency_config(ProvisionedConcurrentExecutions=2, **live)
    assert (put["Status"], put["AvailableProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 0)
    CLOCK.skipped += 60
    assert provisioned(api, "live", "READY") == {"Requested": 2, "Available": 2, "Allocated": 2}
    assert server.engine.environments("f", "1")["warm"] == 2, "before anybody called"
    assert json.load(api.invoke(**live)["Payload"]) == "provisioned-concurrency"
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == "on-demand"
    counted = server.engine.telemetry.snapshot()
    assert counted["ProvisionedConcurrencyInvocations"] == {"f": 1}
    assert "ProvisionedConcurrencySpilloverInvocations" not in counted
    api.delete_provisioned_concurrency_config(**live)
    assert json.load(api.invoke(**live)["Payload"]) == "on-demand"
    assert server.engine.environments("f", "1")["provisioned"]["wanted"] == 0


def test_provisioned_concurrency_fails_with_a_reason_when_no_init_ends_well(api: Any) -> None:
    api.create_function(
        FunctionName="f", Runtime=PYTHON, Handler="handler.handler", Role=ROLE, Code={"ZipFile": zipped("1 / 0")}
    )
    CLOCK.skipped += 60
    api.publish_version(FunctionName="f")
    one = {"FunctionName": "f", "Qualifier": "1"}
    api.put_provisioned_concurrency_config(ProvisionedConcurrentExecutions=1, **one)
    CLOCK.skipped += 60
    assert provisioned(api, "1", "FAILED") == {"Requested": 1, "Available": 0, "Allocated": 0}
    assert api.get_provisioned_concurrency_config(**one)["StatusReason"] == "FUNCTION_ERROR_INIT_FAILURE"


def test_an_alias_of_two_versions_has_no_provisioned_concurrency(api: Any) -> None:
    api.create_function(
        FunctionName="f", Runtime=PYTHON, Handler="handler.handler", Role=ROLE, Code={"ZipFile": code(1)}, Publish=True
    )
    CLOCK.skipped += 60
    api.update_function_code(FunctionName="f", ZipFile=code(2))
    CLOCK.skipped += 60
    api.publish_version(FunctionName="f")
    both = {"AdditionalVersionWeights": {"2": 0.5}}
    api.create_alias(FunctionName="f", Name="live", FunctionVersion="1", RoutingConfig=both)
    live = {"FunctionName": "f", "Qualifier": "live", "ProvisionedConcurrentExecutions": 1}
    with refused("InvalidParameterValueException", 400) as error:
        api.put_provisioned_concurrency_config(**live)
    assert error.message == "Alias with weights can not be used with Provisioned Concurrency"
    api.update_alias(FunctionName="f", Name="live", RoutingConfig={})
    api.put_provisioned_concurrency_config(**live)
    with refused("InvalidParameterValueException", 400) as error:
        api.update_alias(FunctionName="f", Name="live", RoutingConfig=both)
    assert error.message == "Invalid alias configuration for Provisioned Concurrency"


CALLS_ITSELF = """
import json, os, urllib.error, urllib.request

def handler(event, context):
    headers = {"X-Amzn-Trace-Id": os.environ["_X_AMZN_TRACE_ID"]}  # as AWS's SDKs do
    url = event["url"] + "/2015-03-31/functions/f/invocations"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode(), headers))
        return [context.aws_request_id, *json.load(answer)]
    except urllib.error.HTTPError as error:
        return [error.headers["x-amzn-ErrorType"]]
"""


def test_a_function_in_a_process_that_calls_itself_on_and_on_is_cut_off(server: Server, api: Any) -> None:
    api.create_function(
        FunctionName="f",
        Runtime=PYTHON,
        Handler="handler.handler",
        Role=ROLE,
        Timeout=30,
        Code={"ZipFile": zipped(CALLS_ITSELF)},
    )
    CLOCK.skipped += 60
    headers = {"X-Amzn-Trace-Id": "Root=1-0-0;Lineage=1:14"}
    url = f"{server.url}/2015-03-31/functions/f/invocations"
    request = urllib.request.Request(url, json.dumps({"url": server.url}).encode(), headers)
    *calls, end = json.load(urllib.request.urlopen(request))
    assert (len(calls), end) == (2, "RecursiveInvocationException")


def test_what_was_provisioned_is_shown_as_it_was_while_its_alias_moves(server: Server, api: Any) -> None:
    given = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": code(1)}}
    api.create_function(FunctionName="f", Publish=True, **given)
    CLOCK.skipped += 60
    api.update_function_code(FunctionName="f", ZipFile=code(2))
    CLOCK.skipped += 60
    api.publish_version(FunctionName="f")
    live = {"FunctionName": "f", "Qualifier": "live"}
    api.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
    api.put_provisioned_concurrency_config(ProvisionedConcurrentExecutions=2, **live)
    CLOCK.skipped += 60
    provisioned(api, "live", "READY")
    api.update_alias(FunctionName="f", Name="live", FunctionVersion="2")
    moving = api.get_provisioned_concurrency_config(**live)
    assert (moving["Status"], moving["AvailableProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 2)
    with refused("ProvisionedConcurrencyConfigNotFoundException", 404):
        api.get_provisioned_concurrency_config(FunctionName="f", Qualifier="1")
    CLOCK.skipped += 60
    assert provisioned(api, "live", "READY") == {"Requested": 2, "Available": 2, "Allocated": 2}
    more = api.put_provisioned_concurrency_config(ProvisionedConcurrentExecutions=3, **live)
    assert (more["Status"], more["AvailableProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 2)
    assert json.load(api.invoke(**live)["Payload"])[:2] == [2, "2"]


def test_a_function_that_was_made_just_now_is_not_changed_yet(api: Any) -> None:
    given = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": code(1)}}
    api.create_function(FunctionName="f", **given)
    for change in (
        lambda: api.update_function_code(FunctionName="f", ZipFile=code(2)),
        lambda: api.update_function_configuration(FunctionName="f", Timeout=4),
        lambda: api.publish_version(FunctionName="f"),
        lambda: api.invoke(FunctionName="f"),
    ):
        with refused("ResourceConflictException", 409) as error:
            change()
        assert error.message.endswith("The function is currently in the following state: Pending")


def test_a_function_is_told_the_log_group_that_it_was_given(api: Any) -> None:
    text = "def handler(event, context):\n    return context.log_group_name\n"
    given = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": zipped(text)}}
    api.create_function(FunctionName="f", LoggingConfig={"LogGroup": "shop/all"}, **given)
    CLOCK.skipped += 60
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == "shop/all"
    api.update_function_configuration(FunctionName="f", LoggingConfig={"LogGroup": "/aws/lambda/f"})
    CLOCK.skipped += 60
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == "/aws/lambda/f"
