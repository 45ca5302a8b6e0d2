"""An HTTP endpoint as a function: what an answer means, how long it may take, and which addresses are reached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from lambent import Engine, FunctionError, InvalidParameterValue
from lambent.errors import LambentError
from lambent.model import MAXIMUM_RESPONSE_BYTES
from lambent.response_stream import MAXIMUM_HELD_BYTES
from tests.engine.running import pieces_until_failure

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer, **options: Any) -> AsyncIterator[Engine]:
    """An engine with the function `f`, which is an endpoint on this machine."""
    runner = web.AppRunner(web.Application(client_max_size=1 << 24), shutdown_timeout=0)
    runner.app.router.add_post("/f", answer)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine = Engine(**{"allow_private_destinations": True} | options)
    assert engine.function_from(f"http://127.0.0.1:{runner.addresses[0][1]}/f", timeout_seconds=1) == "f"
    try:
        async with engine:
            yield engine
    finally:
        await runner.cleanup()


def says(text: str | bytes, status: int = 200, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        body = text.encode() if isinstance(text, str) else text
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=named)

    return answer


async def test_it_gets_the_event_and_the_runtime_apis_headers_and_its_answer_is_the_result() -> None:
    seen: list[tuple[Any, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((await request.json(), request.headers))
        return web.json_response({"sum": 3})

    async with serving(answer) as engine:
        context = {"custom": {"a": 1}}
        response = await engine.invoke_response("f", {"n": [1, 2]}, client_context=context, log_type="Tail")
    ((event, headers),) = seen
    assert json.loads(response.payload) == {"sum": 3}
    assert event == {"n": [1, 2]}
    assert headers["Content-Type"] == "application/json"
    assert headers["Lambda-Runtime-Aws-Request-Id"] == response.request_id
    assert headers["Lambda-Runtime-Invoked-Function-Arn"].endswith(":function:f")
    assert int(headers["Lambda-Runtime-Deadline-Ms"]) > 1_700_000_000_000
    assert json.loads(headers["Lambda-Runtime-Client-Context"]) == {"custom": {"a": 1}}
    assert [line.split(" ")[0] for line in response.log_tail.splitlines()] == ["START", "END", "REPORT"]


async def test_no_body_is_null() -> None:
    async with serving(says("", status=204)) as engine:
        assert await engine.invoke("f") is None


ERRORS: dict[str, tuple[Answer, str, str]] = {
    "no JSON": (says("hello"), "Runtime.MarshalError", "the answer is no JSON"),
    "not found": (says("no such page", status=404), "Runtime.HttpStatus", "answered with HTTP status 404"),
    "a redirect": (says("", status=302, Location="http://127.0.0.1:1/"), "Runtime.HttpStatus", "HTTP status 302"),
    "its own document": (says('{"errorType": "NoStock", "errorMessage": "sold out"}', 500), "NoStock", "sold out"),
    "its own, as a success": (
        says('{"errorType": "NoStock", "errorMessage": "sold out"}', X_Amz_Function_Error="Unhandled"),
        "NoStock",
        "sold out",
    ),
    "only the header": (says("sold out", X_Amz_Function_Error="Unhandled"), "Unhandled", "sold out"),
    "too much": (
        says(b'"' + b"x" * MAXIMUM_RESPONSE_BYTES + b'"'), "Function.ResponseSizeTooLarge", "6291556 bytes"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "message"), ERRORS.values(), ids=ERRORS)
async def test_what_is_no_result_is_an_error_of_the_function(answer: Answer, kind: str, message: str) -> None:
    async with serving(answer) as engine:
        with pytest.raises(FunctionError) as caught:
            await engine.invoke("f")
    assert (caught.value.document["errorType"], message in str(caught.value.document["errorMessage"])) == (kind, True)


async def test_an_answer_that_breaks_off_is_an_error_of_the_function() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"[1,")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with serving(answer) as engine:
        with pytest.raises(FunctionError, match=r"Runtime\.ExitError: .* broke off"):
            await engine.invoke("f")


@pytest.mark.parametrize("status", [429, 503])
async def test_an_endpoint_that_does_not_want_it_now_is_no_error_of_the_function(status: int) -> None:
    async with serving(says("", status=status)) as engine:
        with pytest.raises(LambentError, match=f"does not want it now: HTTP status {status}") as caught:
            await engine.invoke("f")
    assert not isinstance(caught.value, FunctionError)


async def test_an_endpoint_that_does_not_want_it_now_uses_up_no_attempt() -> None:
    calls: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        calls.append(len(calls))
        return web.Response(status=503 if len(calls) == 1 else 204)

    async with serving(answer) as engine:
        request_id = await engine.invoke_async("f", {})
        while (fact := await engine.event(request_id)) is None or fact.state != "succeeded":
            await asyncio.sleep(0)
    assert (len(calls), fact.event.attempts) == (2, 1)


async def test_an_endpoint_that_is_not_there_has_run_nothing() -> None:
    engine = Engine(allow_private_destinations=True)
    engine.function_from("http://127.0.0.1:1/f")
    async with engine:
        with pytest.raises(LambentError, match="cannot be reached") as caught:
            await engine.invoke("f")
    assert not isinstance(caught.value, FunctionError)


async def test_it_has_the_functions_time_and_no_more() -> None:
    done = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await done.wait()
        return web.Response()

    async with serving(answer) as engine:
        with pytest.raises(FunctionError, match=r"Sandbox\.Timedout: .*Task timed out after 1\.00 seconds"):
            await engine.invoke("f")
        done.set()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/f", "http://[::1]:1/f", "http://2130706433/f", "http://169.254.169.254/latest/meta-data"],
)
async def test_addresses_that_are_not_public_are_not_reached(url: str) -> None:
    engine = Engine()
    engine.function_from(url, name="f")
    async with engine:
        with pytest.raises(FunctionError, match=r"its address is not public|not a valid URL"):
            await engine.invoke("f")


@pytest.mark.parametrize("url", ["ftp://example.com/f", "http://", "http:///f", "./folder"])
async def test_what_is_no_url_of_http_is_refused(url: str) -> None:
    engine = Engine()
    engine.function_from(url, name="f", runtime="http")
    with pytest.raises(InvalidParameterValue, match="an HTTP endpoint is"):
        await engine.start()


async def test_a_changed_url_is_used_from_the_next_call_on() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def old(request: web.Request) -> web.Response:
        entered.set()
        await go.wait()
        return web.json_response("old")

    async with serving(old) as engine, serving(says('"new"')) as other:
        call = asyncio.ensure_future(engine.invoke("f"))
        await entered.wait()
        environment = other.control.functions["f"].environment
        assert environment is not None
        await engine.update_function("f", code=environment.code)
        assert await engine.invoke("f") == "new"
        go.set()
        assert await call == "old"


async def test_an_engine_that_stops_cuts_off_what_runs() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        entered.set()
        await go.wait()
        return web.Response()

    async with serving(answer, drain_seconds=0) as engine:
        call = asyncio.ensure_future(engine.invoke("f"))
        await entered.wait()
        await engine.stop()
        go.set()
        with pytest.raises(LambentError):
            await call


# --------------------------------------------------------------------------- answers that are read as they come


def streams(*pieces: bytes, gate: asyncio.Event | None = None, breaks_off: bool = False) -> Answer:
    """An endpoint that sends these pieces, the last one once the gate is open."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"} if breaks_off else {})
        await response.prepare(request)
        for number, piece in enumerate(pieces, 1):
            if gate is not None and number == len(pieces):
                await gate.wait()
            await response.write(piece)
        assert request.transport is not None
        if breaks_off:
            request.transport.abort()
        return response

    return answer


async def test_pieces_of_an_endpoints_answer_are_handed_on_as_they_come() -> None:
    gate = asyncio.Event()
    async with serving(streams(b"no JSON: ", b"first", b"last", gate=gate)) as engine:
        stream = await engine.invoke_with_response_stream("f", log_type="Tail")
        came = await anext(stream)
        while came != b"no JSON: first":
            came += await anext(stream)
        gate.set()
        assert [piece async for piece in stream] == [b"last"]
        assert f"END RequestId: {stream.request_id}" in stream.log_tail


async def test_an_endpoint_that_breaks_off_within_a_stream_is_an_error_after_what_came() -> None:
    async with serving(streams(b"some", breaks_off=True)) as engine:
        came, document = await pieces_until_failure(await engine.invoke_with_response_stream("f"))
    assert came == b"some"
    assert (document["errorType"], "within its answer" in document["errorMessage"]) == ("Runtime.ExitError", True)


async def test_what_is_no_result_is_no_stream_either() -> None:
    async with serving(says('{"errorType": "NoStock", "errorMessage": "sold out"}', 500)) as engine:
        came, document = await pieces_until_failure(await engine.invoke_with_response_stream("f"))
    assert (came, document["errorType"]) == (b"", "NoStock")


async def test_an_endpoint_is_held_up_while_nobody_reads() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):  # its time is up
            while True:
                await response.write(b"x" * 65_536)
        return response

    async with serving(answer) as engine:
        stream = await engine.invoke_with_response_stream("f", log_type="Tail")
        while not stream.log_tail:  # until it ended
            await asyncio.sleep(0)
        came, document = await pieces_until_failure(stream)
    assert document["errorType"] == "Sandbox.Timedout"
    assert MAXIMUM_HELD_BYTES <= len(came) < 2 * MAXIMUM_HELD_BYTES
