"""An answer that is read while the function still gives it: its pieces, its end, its limits, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from lambent import Context, Engine, EngineStopped, FunctionError, ResourceNotFound, TooManyRequests
from lambent.response_stream import MAXIMUM_HELD_BYTES, ResponseStream
from tests.engine.engines import virtual
from tests.engine.running import pieces_until_failure

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def counts(event: dict[str, Any], context: Context) -> AsyncIterator[object]:
    """An event's pieces, one each second."""
    for piece in event["pieces"]:
        yield piece
        await asyncio.sleep(1)
    if "error" in event:
        raise ValueError(event["error"])


def streaming(handler: Any = counts, **options: Any) -> Engine:
    engine = virtual()
    engine.function(name="f", timeout_seconds=10, **options)(handler)
    return engine


async def read(stream: ResponseStream) -> list[bytes]:
    return [piece async for piece in stream]


async def test_what_an_async_generator_yields_comes_as_it_is_yielded() -> None:
    loop, came = asyncio.get_running_loop(), []
    async with streaming() as engine:
        began = loop.time()
        pieces = ["text", b"bytes", bytearray(b"more")]
        stream = await engine.invoke_with_response_stream("f", {"pieces": ["ü"]}, log_type="Tail")
        assert await read(stream) == ["ü".encode()]
        assert stream.executed_version == "$LATEST"
        assert f"END RequestId: {stream.request_id}" in stream.log_tail
        engine.function(name="g", timeout_seconds=10)(yields(pieces))
        async for piece in await engine.invoke_with_response_stream("g"):
            came.append((piece, loop.time() - began))
    assert came == [(b"text", 1), (b"bytes", 2), (b"more", 3)]


def yields(pieces: list[Any]) -> Any:
    async def handler(event: Any) -> AsyncIterator[object]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(1)

    return handler


async def test_who_waits_for_the_whole_gets_it_put_together() -> None:
    async with streaming() as engine:
        assert await engine.invoke("f", {"pieces": ['{"a"', ": 1}"]}) == {"a": 1}
        assert await engine.invoke("f", {"pieces": ["no", " JSON"]}) == "no JSON"
        assert await engine.invoke("f", {"pieces": []}) is None
        engine.function(name="large", timeout_seconds=10)(yields(["x" * 1024 * 1024] * 7))
        with pytest.raises(FunctionError, match="ResponseSizeTooLarge"):
            await engine.invoke("large")
        with pytest.raises(FunctionError, match="no more"):
            await engine.invoke("f", {"pieces": ["half"], "error": "no more"})


async def test_a_function_that_does_not_stream_answers_in_one_piece() -> None:
    engine = virtual()

    @engine.function
    async def echo(event: Any) -> Any:
        return event

    @engine.function(boundary="reference")
    def refers(event: Any) -> Any:
        return object() if event == {} else event

    async with engine:
        assert await read(await engine.invoke_with_response_stream(echo, {"a": 1})) == [b'{"a": 1}']
        assert await read(await engine.invoke_with_response_stream(refers, [1])) == [b"[1]"]
        came, document = await pieces_until_failure(await engine.invoke_with_response_stream(refers))
        assert (came, document["errorType"]) == (b"", "Runtime.MarshalError")


async def test_an_error_comes_after_the_pieces_before_it() -> None:
    async with streaming() as engine:
        came, document = await pieces_until_failure(
            await engine.invoke_with_response_stream("f", {"pieces": ["a"], "error": "no"})
        )
        assert came == b"a"
        assert (document["errorType"], document["errorMessage"]) == ("ValueError", "no")
        (frame,) = document["stackTrace"]
        assert 'raise ValueError(event["error"])' in frame
        came, document = await pieces_until_failure(
            await engine.invoke_with_response_stream("f", {"pieces": ["a", 1, "b"]})
        )
        assert came == b"a"
        assert (document["errorType"], document["errorMessage"]) == (
            "Runtime.MarshalError",
            "Unable to marshal response: an answer is streamed in bytes or str, not in int",
        )
        came, document = await pieces_until_failure(
            await engine.invoke_with_response_stream("f", {"pieces": list("0123456789ab")})
        )
        assert came == b"0123456789"
        assert document["errorType"] == "Sandbox.Timedout"


async def test_what_the_caller_did_wrong_is_raised_before_there_is_a_stream() -> None:
    async with streaming(reserved_concurrency=0) as engine:
        with pytest.raises(TooManyRequests):
            await engine.invoke_with_response_stream("f")
        with pytest.raises(ResourceNotFound):
            await engine.invoke_with_response_stream("nothing")
        with pytest.raises(ResourceNotFound):
            await engine.invoke_with_response_stream("f", qualifier="3")


async def test_a_function_that_is_not_read_is_held_up_and_its_time_runs_on() -> None:
    yielded, closed = [], []

    async def fast(event: Any) -> AsyncIterator[bytes]:
        try:
            for number in range(300):
                yielded.append(number)
                yield bytes(MAXIMUM_HELD_BYTES // 8)
        finally:
            closed.append(asyncio.get_running_loop().time())

    async with streaming(fast) as engine:
        stream = await engine.invoke_with_response_stream("f")
        await asyncio.sleep(5)
        assert len(yielded) == 8
        assert len(await anext(stream)) == MAXIMUM_HELD_BYTES // 8
        await asyncio.sleep(1)
        assert len(yielded) == 9
        assert len(await read(stream)) == 299
        stream = await engine.invoke_with_response_stream("f")
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(20)
        came, document = await pieces_until_failure(stream)
        assert (len(came), document["errorType"]) == (MAXIMUM_HELD_BYTES, "Sandbox.Timedout")
        assert closed[1] - began == 10


async def test_a_stream_ends_where_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambent.runtimes.streamed.MAXIMUM_STREAMED_BYTES", 5)
    async with streaming() as engine:
        came, document = await pieces_until_failure(
            await engine.invoke_with_response_stream("f", {"pieces": ["abc", "de", "f", "g"]})
        )
        assert came == b"abcde"
        assert document["errorMessage"] == "Response payload size exceeded maximum allowed payload size (5 bytes)."


async def test_a_reader_that_leaves_ends_the_function_and_gives_its_concurrency_back() -> None:
    cleaned = []

    async def endless(event: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(MAXIMUM_HELD_BYTES)
        finally:
            cleaned.append(True)

    async with streaming(endless, reserved_concurrency=1) as engine:
        for _ in range(3):
            async with await engine.invoke_with_response_stream("f") as stream:
                await anext(stream)
                with pytest.raises(TooManyRequests):
                    await engine.invoke_with_response_stream("f")
            assert await read(stream) == []
            await asyncio.sleep(0)
        assert cleaned == [True] * 3


async def test_a_reader_that_waits_is_told_when_another_task_leaves() -> None:
    async with streaming(yields([])) as engine:
        engine.function(name="silent", timeout_seconds=10)(waits_for_ever)
        stream = await engine.invoke_with_response_stream("silent")
        reading = asyncio.create_task(read(stream))
        await asyncio.sleep(1)
        await stream.aclose()
        assert await reading == []


async def waits_for_ever(event: Any) -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def test_an_engine_that_stops_ends_a_stream() -> None:
    engine = streaming(waits_for_ever)
    await engine.start()
    stream = await engine.invoke_with_response_stream("f")
    await engine.stop()
    with pytest.raises(EngineStopped):
        await read(stream)


async def test_a_generator_that_swallows_its_cancellation_is_heard_no_more() -> None:
    async def stubborn(event: Any) -> AsyncIterator[bytes]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield b"late"
            heard.append("went on")

    heard: list[str] = []
    async with streaming(stubborn) as engine:
        came, document = await pieces_until_failure(await engine.invoke_with_response_stream("f"))
        assert (came, document["errorType"]) == (b"", "Sandbox.Timedout")
        await asyncio.sleep(1)
    assert heard == []


class Order(BaseModel):
    item: str


async def test_a_batch_may_be_answered_by_a_stream() -> None:
    engine, seen = virtual(), []
    orders = engine.queue("orders", visibility_timeout_seconds=30, max_receive_count=2, dead_letter_queue="dead")
    dead = engine.queue("dead")

    @engine.on(orders, report_batch_item_failures=True)
    async def pack(event: list[Order]) -> AsyncIterator[str]:
        seen.append([each.item for each in event])
        yield '{"batchItemFailures"'
        yield ": []}"

    async with engine:
        await orders.send_many([{"item": "book"}, {"no": "item"}])
        await asyncio.sleep(120)
        (message,) = await dead.receive()
    assert (seen, message.body) == ([["book"]], '{"no": "item"}')
