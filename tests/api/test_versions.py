"""Versions and aliases of functions that calls made: what was published runs, in processes of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from lambent import Engine
from tests.api.asking import ROLE, zipped
from tests.api.server import ACCOUNT, SkippingClock, served

CLOCK = SkippingClock()
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
CODE = """
import os

def handler(event, context):
    return [{number}, context.function_version, os.environ["AWS_LAMBDA_FUNCTION_VERSION"], context.invoked_function_arn]
"""


@pytest.fixture
def api() -> Iterator[Any]:
    engine = Engine(account_id=ACCOUNT, state_change_seconds=60.0, watchdog_seconds=0, clock=CLOCK)
    with served(engine) as server:
        yield server.client()


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
