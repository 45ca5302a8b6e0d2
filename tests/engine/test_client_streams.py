"""A streamed answer that a client of the store reads: its pieces, its end, and what either side sees of the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent import (
    Client,
    Engine,
    EngineStopped,
    FunctionError,
    MemoryStore,
    NotHosted,
    ResourceNotFound,
    TooManyRequests,
    desk,
)
from lambent.desk import ANSWER, ANSWER_SECONDS, PIECE, PIECE_BYTES, PIECES_AHEAD, REQUEST
from lambent.response_stream import MAXIMUM_HELD_BYTES
from tests.engine.engines import virtual
from tests.engine.running import pieces_until_failure
from tests.engine.test_client import client_of

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def counts(event: dict[str, Any], context: Any) -> AsyncIterator[object]:
    """An event's pieces, one each second."""
    print("counting")
    for piece in event["pieces"]:
        yield piece
        await asyncio.sleep(1)
    if "error" in event:
        raise ValueError(event["error"])


def streaming(store: MemoryStore, handler: Any = counts, **options: Any) -> Engine:
    engine = virtual(store)
    engine.function(name="f", timeout_seconds=10, **options)(handler)
    return engine


async def left(client: Client) -> list[str]:
    documents = client._open.documents
    return [each.name for kind in (REQUEST, ANSWER, PIECE) for each in await documents.list(kind)]


async def test_pieces_reach_a_client_while_the_function_still_runs() -> None:
    store, loop, came = MemoryStore(), asyncio.get_running_loop(), []
    async with streaming(store), client_of(store) as client:
        began = loop.time()
        stream = await client.invoke_with_response_stream("f", {"pieces": ["ü", "more"]}, log_type="Tail")
        async for piece in stream:
            came.append((piece, loop.time() - began))
        assert came == [("ü".encode(), 0), (b"more", 1)]
        assert (stream.executed_version, "counting" in stream.log_tail) == ("$LATEST", True)
        assert f"END RequestId: {stream.request_id}" in stream.log_tail
        assert await left(client) == []


async def test_what_is_there_at_once_is_one_piece_and_what_is_large_several() -> None:
    async def much(event: Any) -> AsyncIterator[bytes]:
        yield b"a"
        for _ in range(3):
            yield b"b"
        yield b"c" * (2 * PIECE_BYTES + 1)

    store = MemoryStore()
    async with streaming(store, much), client_of(store) as client:
        pieces = [piece async for piece in await client.invoke_with_response_stream("f")]
    assert b"".join(pieces) == b"abbb" + b"c" * (2 * PIECE_BYTES + 1)
    assert max(map(len, pieces)) == PIECE_BYTES
    assert len(pieces) <= 6


async def test_a_function_that_does_not_stream_is_a_stream_of_one_piece() -> None:
    async def echo(event: Any) -> Any:
        return event

    store = MemoryStore()
    async with streaming(store, echo), client_of(store) as client:
        assert [piece async for piece in await client.invoke_with_response_stream("f", {"a": 1})] == [b'{"a": 1}']


async def test_a_failure_in_the_middle_follows_what_came() -> None:
    store = MemoryStore()
    async with streaming(store), client_of(store) as client:
        stream = await client.invoke_with_response_stream("f", {"pieces": ["some"], "error": "no more"})
        assert await anext(stream) == b"some"
        with pytest.raises(FunctionError) as caught:
            await anext(stream)
        assert caught.value.document["errorMessage"] == "no more"
        assert caught.value.request_id == stream.request_id
        assert [piece async for piece in stream] == []
        assert await left(client) == []


async def test_a_client_that_asks_for_a_stream_meets_what_a_caller_of_the_engine_would_meet() -> None:
    store = MemoryStore()
    engine = streaming(store, reserved_concurrency=0)
    async with engine, client_of(store) as client:
        with pytest.raises(ResourceNotFound, match="Function not found"):
            await client.invoke_with_response_stream("nobody")
        with pytest.raises(TooManyRequests):
            await client.invoke_with_response_stream("f", {"pieces": []})
    async with client_of(store) as client:
        with pytest.raises(NotHosted):
            await client.invoke_with_response_stream("f", {"pieces": []})
        assert await left(client) == []


async def test_a_client_that_does_not_read_holds_the_function_up() -> None:
    given = 0

    async def endless(event: Any) -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            yield b"x" * PIECE_BYTES
            given += PIECE_BYTES

    store = MemoryStore()
    async with streaming(store, endless), client_of(store) as client:
        stream = await client.invoke_with_response_stream("f")
        await asyncio.sleep(5)
        most = MAXIMUM_HELD_BYTES + (PIECES_AHEAD + 2) * PIECE_BYTES
        assert PIECES_AHEAD * PIECE_BYTES <= given <= most
        assert await anext(stream) == b"x" * PIECE_BYTES
        await asyncio.sleep(1)
        assert given <= most + PIECE_BYTES
        await asyncio.sleep(10)
        came, document = await pieces_until_failure(stream)
        assert document["errorType"] == "Sandbox.Timedout"
        assert len(came) <= most


async def test_a_client_that_leaves_ends_the_function() -> None:
    events: list[str] = []

    async def endless(event: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(1)
        finally:
            events.append("ended")

    store = MemoryStore()
    async with streaming(store, endless), client_of(store) as client:
        async with await client.invoke_with_response_stream("f") as stream:
            assert await anext(stream) == b"x"
        await asyncio.sleep(1)
        assert events == ["ended"]


async def test_a_client_that_is_gone_without_a_word_leaves_nothing_for_ever() -> None:
    store = MemoryStore()
    async with streaming(store), client_of(store) as client:
        async with client_of(store) as gone:
            await gone.invoke_with_response_stream("f", {"pieces": ["x"] * 9})
        await asyncio.sleep(2 * ANSWER_SECONDS + 20)
        assert await left(client) == []


async def test_a_stream_goes_on_while_its_engine_drains() -> None:
    store = MemoryStore()
    async with client_of(store) as client:
        async with streaming(store):
            stream = await client.invoke_with_response_stream("f", {"pieces": ["x"] * 4})
            assert await anext(stream) == b"x"
        assert [piece async for piece in stream] == [b"x"] * 3


async def test_an_engine_that_stops_at_once_within_a_stream_says_so() -> None:
    store = MemoryStore()
    engine = streaming(store)
    async with client_of(store) as client:
        await engine.start()
        stream = await client.invoke_with_response_stream("f", {"pieces": ["x"] * 9})
        assert await anext(stream) == b"x"
        await engine.stop()
        with pytest.raises(EngineStopped, match="stopped"):
            await anext(stream)


async def test_an_engine_that_goes_within_a_stream_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unheard(*_: object) -> None:
        """A store that does not hear it any more."""

    store = MemoryStore()
    engine = streaming(store)
    async with client_of(store) as client:
        await engine.start()
        stream = await client.invoke_with_response_stream("f", {"pieces": ["x"] * 9})
        assert await anext(stream) == b"x"
        monkeypatch.setattr(desk._Pieces, "put", unheard)
        await engine.stop()
        with pytest.raises(EngineStopped, match="gone without an answer"):
            await anext(stream)
