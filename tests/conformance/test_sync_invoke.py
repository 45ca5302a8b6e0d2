"""Synchronous invocation: what comes back, and how errors look (the rules behind AWS's recordings of area 01)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import pytest

from lambent import (
    Engine,
    FunctionError,
    InvalidRequestContent,
    RequestTooLarge,
    ResourceNotFound,
    TooManyRequests,
)

from .conftest import Calls

pytestmark = pytest.mark.virtual_time(deterministic=True)

ARN = "arn:aws:lambda:us-east-1:111111111111:function:"
MEGABYTE = 1024 * 1024


class NoSuchFlight(Exception):
    pass


@pytest.mark.parametrize("value", [{}, {"a": [1, 2.5, None, True]}, [], "text", 7, 0.1, True, None, "é\u2028😀"])
async def test_a_value_goes_through_the_function_and_comes_back(engine: Engine, value: object) -> None:
    @engine.function
    async def echo(event: Any, context: Any) -> Any:
        return event

    async with engine:
        assert await engine.invoke(echo, value) == value
        response = await engine.invoke_response("echo", json.dumps(value).encode())
    assert json.loads(response.payload) == value
    assert (response.status_code, response.function_error, response.executed_version) == (200, None, "$LATEST")


async def test_without_a_payload_the_event_is_an_empty_object(engine: Engine) -> None:
    @engine.function
    async def echo(event: Any, context: Any) -> Any:
        return event

    async with engine:
        assert await engine.invoke(echo) == {}


async def test_a_function_that_returns_nothing_answers_null(engine: Engine) -> None:
    @engine.function
    def nothing(event: Any, context: Any) -> None:
        pass

    async with engine:
        assert (await engine.invoke_response(nothing)).payload == b"null"


async def test_what_a_function_keeps_is_there_at_its_next_call(engine: Engine) -> None:
    counter = iter(range(9))

    @engine.function
    async def count(event: Any, context: Any) -> int:
        return next(counter)

    async with engine:
        assert [await engine.invoke(count), await engine.invoke(count)] == [0, 1]


async def test_a_handler_that_raises_is_a_response_with_awss_error_document(engine: Engine) -> None:
    @engine.function
    async def fails(event: Any, context: Any) -> None:
        raise NoSuchFlight("no flight UA 1")

    async with engine:
        response = await engine.invoke_response(fails)
        with pytest.raises(FunctionError) as raised:
            await engine.invoke(fails)
    assert (response.status_code, response.function_error, response.executed_version) == (200, "Unhandled", "$LATEST")
    document = json.loads(response.payload)
    assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert document["errorMessage"] == "no flight UA 1"
    assert document["errorType"] == "NoSuchFlight"
    assert document["requestId"] == response.request_id
    (frame,) = document["stackTrace"]
    assert re.fullmatch(
        r'  File ".*test_sync_invoke\.py", line \d+, in fails\n    raise NoSuchFlight\("no flight UA 1"\)\n', frame
    )
    assert list(raised.value.document) == list(document)


async def test_a_handler_that_is_late_has_timed_out(engine: Engine) -> None:
    @engine.function(timeout_seconds=1)
    async def late(event: Any, context: Any) -> None:
        await asyncio.sleep(1.001)

    @engine.function(timeout_seconds=2)
    async def in_time(event: Any, context: Any) -> None:
        await asyncio.sleep(1.999)

    async with engine:
        response = await engine.invoke_response(late)
        assert (await engine.invoke_response(in_time)).payload == b"null"
    assert response.function_error == "Unhandled"
    assert json.loads(response.payload) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {response.request_id} Error: Task timed out after 1.00 seconds",
    }


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (None, "exited without providing a reason"),
        (0, "exited without providing a reason"),
        (127, "exited with error: exit status 127"),
        ("a text", "exited with error: exit status 1"),
    ],
)
async def test_a_handler_that_exits_ends_its_call_only(engine: Engine, code: Any, how: str) -> None:
    @engine.function
    async def exits(event: Any, context: Any) -> None:
        raise SystemExit(code)

    async with engine:
        response = await engine.invoke_response(exits)
        again = await engine.invoke_response(exits)
    assert json.loads(response.payload) == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {response.request_id} Error: Runtime {how}",
    }
    assert again.function_error == "Unhandled"


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", float("nan")], ids=["set", "object", "bytes", "NaN"])
async def test_a_value_without_json_is_an_error_of_the_function(engine: Engine, value: object) -> None:
    @engine.function
    async def odd(event: Any, context: Any) -> object:
        return value

    async with engine:
        response = await engine.invoke_response(odd)
    assert response.function_error == "Unhandled"
    assert json.loads(response.payload)["errorType"] == "Runtime.MarshalError"


async def test_a_response_may_have_six_megabytes_and_a_hundred_bytes(engine: Engine) -> None:
    @engine.function
    async def large(event: int, context: Any) -> str:
        return "x" * (event - 2)  # and its quotes

    limit = 6 * MEGABYTE + 100
    async with engine:
        assert len((await engine.invoke_response(large, limit)).payload) == limit
        response = await engine.invoke_response(large, limit + 1)
        assert len((await engine.invoke_response(large, limit)).payload) == limit
    assert response.function_error == "Unhandled"
    assert json.loads(response.payload) == {
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        "errorType": "Function.ResponseSizeTooLarge",
    }


async def test_a_request_may_have_six_megabytes(engine: Engine) -> None:
    @engine.function
    async def size(event: str, context: Any) -> int:
        return len(event)

    async with engine:
        assert await engine.invoke(size, "x" * (6 * MEGABYTE - 2)) == 6 * MEGABYTE - 2
        with pytest.raises(RequestTooLarge) as refused:
            await engine.invoke(size, "x" * (6 * MEGABYTE - 1))
    assert (refused.value.aws_name, refused.value.status) == ("RequestTooLargeException", 413)


@pytest.mark.parametrize("payload", [b"{", b"n\x87r", b"nothing", b"NaN", b'{"a": 1} 2', b"\xff\xfe{\x00"])
async def test_a_payload_that_is_no_json_never_reaches_the_function(engine: Engine, payload: bytes) -> None:
    calls = Calls()
    engine.function(calls)
    async with engine:
        for call in (engine.invoke, engine.invoke_response, engine.invoke_async):
            with pytest.raises(InvalidRequestContent) as refused:
                await call("function", payload)
            assert refused.value.message.startswith(
                "Could not parse request body into json: Could not parse payload into json: "
            )
            assert (refused.value.aws_name, refused.value.status) == ("InvalidRequestContentException", 400)
    assert calls.events == []


@pytest.mark.parametrize(("qualifier", "shown"), [(None, "$LATEST"), ("$LATEST", "$LATEST"), ("live", "live")])
async def test_an_unknown_function_is_not_found_under_its_qualified_name(
    engine: Engine, qualifier: str | None, shown: str
) -> None:
    async with engine:
        for call in (engine.invoke, engine.invoke_response, engine.invoke_async):
            with pytest.raises(ResourceNotFound) as refused:
                await call("nobody", {}, qualifier=qualifier)
            assert refused.value.message == f"Function not found: {ARN}nobody:{shown}"
            assert (refused.value.aws_name, refused.value.status) == ("ResourceNotFoundException", 404)


async def test_a_dry_run_only_checks(engine: Engine) -> None:
    calls = Calls()
    engine.function(calls)
    async with engine:
        response = await engine.invoke_response("function", {}, dry_run=True)
        with pytest.raises(ResourceNotFound):
            await engine.invoke_response("nobody", {}, dry_run=True)
    assert (response.status_code, response.payload, response.executed_version) == (204, b"", None)
    assert calls.events == []


async def test_reserved_concurrency_0_refuses_every_call(engine: Engine) -> None:
    calls = Calls()
    engine.function(reserved_concurrency=0)(calls)
    async with engine:
        with pytest.raises(TooManyRequests) as refused:
            await engine.invoke(calls)
    assert refused.value.message == "Rate Exceeded."
    assert refused.value.reason == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert (refused.value.aws_name, refused.value.status) == ("TooManyRequestsException", 429)
    assert calls.events == []


async def test_the_context_has_awss_attributes(engine: Engine) -> None:
    calls = Calls(seconds=1)
    engine.function(timeout_seconds=3, memory_size_mb=256)(calls)
    async with engine:
        response = await engine.invoke_response(calls)
        left = calls.contexts[0].get_remaining_time_in_millis()
        await engine.invoke_response(calls, qualifier="$LATEST")
    context, qualified = calls.contexts
    assert context.function_name == "function"
    assert context.function_version == "$LATEST"
    assert context.invoked_function_arn == f"{ARN}function"
    assert qualified.invoked_function_arn == f"{ARN}function:$LATEST"
    assert context.memory_limit_in_mb == "256"
    assert context.aws_request_id == response.request_id
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", response.request_id)
    assert context.log_group_name == "/aws/lambda/function"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", context.log_stream_name)
    assert qualified.log_stream_name == context.log_stream_name
    assert context.client_context is None
    assert context.identity.cognito_identity_id is None
    assert left == 2000


async def test_the_callers_context_reaches_the_function(engine: Engine) -> None:
    calls = Calls()
    engine.function(calls)
    sent = {"custom": {"foo": "bar"}, "env": {"fizz": "buzz"}, "client": {"app_title": "boards"}}
    async with engine:
        await engine.invoke(calls, client_context=sent)
        await engine.invoke_async(calls, client_context=sent)
        await asyncio.sleep(1)
    for context in calls.contexts:
        assert context.client_context.custom == {"foo": "bar"}
        assert context.client_context.env == {"fizz": "buzz"}
        assert context.client_context.client.app_title == "boards"
    assert len(calls.contexts) == 2


async def test_the_log_tail_has_awss_lines(engine: Engine) -> None:
    @engine.function
    async def logs(event: Any, context: Any) -> None:
        logging.getLogger("flights").warning("late: %s", "UA 1")
        await asyncio.sleep(0.25)
        raise NoSuchFlight("UA 1")

    async with engine:
        response = await engine.invoke_response(logs, log_type="Tail")
        assert (await engine.invoke_response(logs)).log_tail == ""
    identity = response.request_id
    start, logged, error, traceback, file, source, end, report = response.log_tail.splitlines()
    assert start == f"START RequestId: {identity} Version: $LATEST"
    assert re.fullmatch(rf"\[WARNING\]\t\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\t{identity}\tlate: UA 1", logged)
    assert error == "[ERROR] NoSuchFlight: UA 1"
    assert traceback == "Traceback (most recent call last):"
    assert re.fullmatch('\xa0\xa0File ".*", line \\d+, in logs', file)
    assert source == '\xa0\xa0\xa0\xa0raise NoSuchFlight("UA 1")'
    assert end == f"END RequestId: {identity}"
    assert re.fullmatch(
        rf"REPORT RequestId: {identity}\tDuration: 250\.00 ms\tBilled Duration: 250 ms\t"
        r"Memory Size: 128 MB\tMax Memory Used: \d+ MB\tInit Duration: 0\.00 ms\t",
        report,
    )
    assert response.log_tail.endswith("\n")


async def test_the_log_tail_has_the_last_4_kilobytes(engine: Engine) -> None:
    @engine.function
    async def logs(event: Any, context: Any) -> None:
        for number in range(100):
            logging.getLogger("flights").warning("%d %s", number, "x" * 100)

    async with engine:
        tail = (await engine.invoke_response(logs, log_type="Tail")).log_tail
    assert len(tail.encode()) == 4096
    assert tail.splitlines()[-2].startswith("END RequestId: ")
    assert "\t99 x" in tail
