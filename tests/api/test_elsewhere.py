"""Invoke of a function whose code only another engine of the store has: it is carried there."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from lambent import Engine, MemoryStore
from lambent.api.event_stream import event
from lambent.context import current_invocation
from tests.api.asking import Api, api_of, carried

FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function"


def declare(engine: Engine) -> None:
    @engine.function(reserved_concurrency=1)
    async def echo(event: Any, context: Any) -> Any:
        print("it was here")
        return {"event": event, "custom": context.client_context and context.client_context.custom}

    @engine.function
    async def fails(event: Any) -> Any:
        raise ValueError("not today")


@asynccontextmanager
async def two(store: MemoryStore, declared: Callable[[Engine], None] = declare) -> AsyncIterator[Api]:
    """The API of an engine without functions, beside another that has some."""
    other, served = Engine(store, watchdog_seconds=0), Engine(store, watchdog_seconds=0)
    declared(other)
    async with other, served:
        yield api_of(served)


async def test_its_answer_comes_as_if_it_were_here() -> None:
    async with two(MemoryStore()) as api:
        context = base64.b64encode(b'{"custom": {"a": "b"}}').decode()
        reply = await api.ask("Invoke", FunctionName="echo", Payload=b"[1]", LogType="Tail", ClientContext=context)
        assert (reply.status, reply.document) == (200, {"event": [1], "custom": {"a": "b"}})
        assert reply.headers["x-amz-executed-version"] == "$LATEST"
        assert "it was here" in base64.b64decode(reply.headers["x-amz-log-result"]).decode()
        assert (await api.ask("Invoke", FunctionName="echo", InvocationType="DryRun")).status == 204
        streamed = await api.ask("InvokeWithResponseStream", FunctionName="echo", Payload=b"2")
        piece = event("PayloadChunk", b'{"event": 2, "custom": null}', "application/octet-stream")
        assert streamed.body == piece + event("InvokeComplete", b"{}", "application/json")


async def test_its_error_is_a_success_of_the_call() -> None:
    async with two(MemoryStore()) as api:
        reply = await api.ask("Invoke", FunctionName="fails")
        assert (reply.status, reply.headers["x-amz-function-error"]) == (200, "Unhandled")
        assert (reply.document["errorType"], reply.document["errorMessage"]) == ("ValueError", "not today")
        streamed = await api.ask("InvokeWithResponseStream", FunctionName="fails")
        assert b"not today" in streamed.body
        assert b'"ErrorCode": "Unhandled"' in streamed.body


async def test_an_answer_that_is_streamed_comes_piece_by_piece() -> None:
    read = asyncio.Event()

    def streaming(engine: Engine) -> None:
        @engine.function
        async def report(event: Any) -> AsyncIterator[bytes]:
            yield b"head"
            await read.wait()
            yield b"body"

    def piece(content: bytes) -> bytes:
        return event("PayloadChunk", content, "application/octet-stream")

    def heard(content: bytes) -> None:
        if content == piece(b"head"):
            read.set()

    async with two(MemoryStore(), streaming) as api:
        asked = carried(api.wire.operations["InvokeWithResponseStream"], {"FunctionName": "report"})
        reply = await api.request(*asked, heard=heard)
        ended = event("InvokeComplete", b"{}", "application/json")
        assert reply.body == piece(b"head") + piece(b"body") + ended


async def test_what_is_refused_there_is_refused_here() -> None:
    async with two(MemoryStore()) as api:
        refused = await api.ask("Invoke", FunctionName="echo", Payload=b"{")
        assert (refused.status, refused.error) == (400, "InvalidRequestContentException")
        assert await api.ask("PutFunctionConcurrency", FunctionName="echo", ReservedConcurrentExecutions=0)
        throttled = await api.ask("Invoke", FunctionName="echo")
        assert throttled.status == 429
        assert throttled.document["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        for params in ({"FunctionName": "echo", "Qualifier": "7"}, {"FunctionName": "nothing"}):
            gone = await api.ask("Invoke", **params)
            assert (gone.status, gone.error) == (404, "ResourceNotFoundException")
            assert gone.message.startswith(f"Function not found: {FUNCTION}:{params['FunctionName']}")


async def test_each_call_gets_the_qualifier_that_it_names() -> None:
    def versioned(engine: Engine) -> None:
        @engine.function
        async def says(event: Any, context: Any) -> Any:
            return context.function_version

    async with two(MemoryStore(), versioned) as api:
        assert (await api.ask("PublishVersion", FunctionName="says")).document["Version"] == "1"
        reply = await api.ask("Invoke", FunctionName="says", Qualifier="1")
        assert (reply.document, reply.headers["x-amz-executed-version"]) == ("1", "1")


async def test_with_no_engine_that_has_it_the_answer_says_so_and_an_event_waits() -> None:
    store = MemoryStore()
    ran: asyncio.Queue[Any] = asyncio.Queue()

    def hears(engine: Engine) -> None:
        @engine.function
        async def hears(event: Any) -> None:
            ran.put_nowait(event)

    async with two(store, hears):
        pass
    async with Engine(store, watchdog_seconds=0) as engine:
        api = api_of(engine)
        reply = await api.ask("Invoke", FunctionName="hears", Payload=b"1")
        assert (reply.status, reply.error) == (502, "ResourceNotReadyException")
        assert reply.message == "No running engine hosts hears: start one that does with `lambent run FILE.py`."
        accepted = await api.ask("Invoke", FunctionName="hears", Payload=b"2", InvocationType="Event")
        assert accepted.status == 202
    assert ran.empty()
    again = Engine(store, watchdog_seconds=0)
    hears(again)
    async with again:
        assert await ran.get() == 2


async def test_a_chain_of_carried_calls_keeps_its_length_and_its_trace() -> None:
    seen = list[Any]()
    asked = list[Api]()

    def calling_itself(engine: Engine) -> None:
        @engine.function
        async def loops(event: Any) -> Any:
            invocation = current_invocation()
            assert invocation is not None
            seen.append((invocation.hops, invocation.trace_id))
            reply = await asked[0].ask("Invoke", FunctionName="loops")
            return reply.error if reply.status != 200 else reply.document

    async with two(MemoryStore(), calling_itself) as api:
        asked.append(api)
        path = "/2015-03-31/functions/loops/invocations"
        sent = {"X-Amzn-Trace-Id": "Root=1-0-0;Sampled=0;Lineage=1:13"}
        reply = await api.request("POST", path, headers=sent)
    assert reply.document == "RecursiveInvocationException"
    assert seen == [(hops, "Root=1-0-0;Sampled=0") for hops in range(14, 18)]
