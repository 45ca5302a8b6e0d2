"""The Runtime API of an environment, byte by byte: whatever way a request comes in, it means the same.

What a client says word for word as before is not parsed again (`runtime_api.py`); here the same conversation is held in
one piece, request by request and in pieces of any size, and must be heard and answered alike.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.model import MAXIMUM_RESPONSE_BYTES
from lambent.runtimes.runtime_api import RuntimeApi, _Connection
from lambent.semantics.conversation import Conversation

HEAD = "Host: 127.0.0.1:9\r\nAccept: */*\r\ncontent-type: application/json\r\n"
BODIES = (
    "",
    "1",
    '{"a": [1, 2]}',
    "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n",
    "x\r\n\r\ny: 3",
    "z" * 300,
)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close


class Listener:
    """An owner that hands out an invocation whenever it is asked, and keeps what it hears."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.heard: list[object] = []
        self.wire = Wire()
        self.api = RuntimeApi(self)
        self.connection = _Connection(self.api)
        self.connection.connection_made(self.wire)

    def is_ours(self, peer: tuple[str, int], port: int) -> bool:
        return True

    def asks_for_next(self) -> None:
        number = str(sum(each == "next" for each in self.heard))
        self.heard.append("next")
        self.conversation.deliver(number)
        self.api.deliver(b"Lambda-Runtime-Aws-Request-Id: %b\r\n" % number.encode(), b"{}")

    def chunk(self, data: bytes) -> None:
        self.heard.append(data)

    def broke_off(self) -> None:
        self.heard.append("broke off")

    def answers(self, body: bytes | None, error: bool, error_type: str) -> None:
        self.heard.append((body, error, error_type))

    def cannot_begin(self, body: bytes, error_type: str) -> None:
        self.heard.append((body, error_type))

    def say(self, data: bytes) -> None:
        if not self.wire.closed:
            self.connection.data_received(data)


def next_() -> bytes:
    return f"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n{HEAD}\r\n".encode()


def answer(
    number: int, body: str = "1", *, kind: str = "response", more: str = "", name: str = "content-length"
) -> bytes:
    first = f"POST /2018-06-01/runtime/invocation/{number}/{kind} HTTP/1.1\r\n"
    return f"{first}{HEAD}{more}{name}: {len(body.encode())}\r\n\r\n{body}".encode()


Said = st.one_of(
    st.tuples(st.just("next")),
    st.tuples(st.just("right"), st.sampled_from(BODIES)),
    st.tuples(st.sampled_from(["late", "error", "shouted", "traced", "streamed", "closing"]), st.sampled_from(BODIES)),
)


def requests(said: list[tuple[str, ...]]) -> list[bytes]:
    found, invocations = [], 0
    for kind, *rest in said:
        body = rest[0] if rest else ""
        running = invocations - 1
        match kind:
            case "next":
                found.append(next_())
                invocations += 1
            case "late":
                found.append(answer(running - 1, body))
            case "error":
                found.append(answer(running, body, kind="error"))
            case "shouted":
                found.append(answer(running, body, name="CONTENT-LENGTH"))
            case "traced":
                found.append(answer(running, body, more="Lambda-Runtime-Function-Error-Type: E\r\n"))
            case "streamed":
                found.append(answer(running, body, more="Lambda-Runtime-Function-Response-Mode: streaming\r\n"))
            case "closing":
                found.append(answer(running, body, more="Connection: close\r\n"))
            case _:
                found.append(answer(running, body))
    return found


async def held(pieces: list[bytes]) -> tuple[list[object], bytes, bool]:
    listener = Listener()
    for piece in pieces:
        listener.say(piece)
    heard: list[object] = []
    for each in listener.heard:  # how a streamed answer was cut is the network's
        if isinstance(each, bytes) and heard and isinstance(heard[-1], bytes):
            heard[-1] += each
        else:
            heard.append(each)
    return heard, listener.wire.written, listener.wire.closed


@given(st.lists(Said, max_size=12), st.lists(st.integers(1, 400), max_size=40))
def test_a_conversation_means_the_same_in_pieces_of_any_size(said: list[tuple[str, ...]], sizes: list[int]) -> None:
    whole = requests(said)
    text, pieces = b"".join(whole), []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    byte_by_byte = asyncio.run(held([bytes([each]) for each in b"".join(whole)]))
    assert asyncio.run(held(whole)) == byte_by_byte
    assert asyncio.run(held([*filter(None, pieces), *([text] if text else [])])) == byte_by_byte


async def test_what_is_said_as_before_is_heard_each_time() -> None:
    listener = Listener()
    for number in range(5):
        listener.say(next_())
        listener.say(answer(number, f"[{number}]"))
    assert listener.heard == [each for n in range(5) for each in ("next", (b"[%d]" % n, False, ""))]
    assert listener.wire.written.count(b"202 Accepted") == 5


@pytest.mark.parametrize("again", ["answer", "next"])
async def test_what_is_said_as_before_out_of_its_order_is_refused(again: str) -> None:
    listener = Listener()
    for number in range(3):
        listener.say(next_())
        listener.say(answer(number))
    if again == "next":
        listener.say(next_())
    heard = len(listener.heard)
    listener.wire.written = b""
    listener.say(answer(2) if again == "answer" else next_())  # it was answered; it is busy
    assert listener.wire.written.startswith(b"HTTP/1.1 403 ")
    listener.wire.written = b""
    listener.say(answer(1))
    assert listener.wire.written.startswith(b"HTTP/1.1 400 ")
    assert len(listener.heard) == heard


async def test_an_answer_as_before_but_too_large_is_refused() -> None:
    listener = Listener()
    for number in range(2):
        listener.say(next_())
        listener.say(answer(number))
    listener.say(next_())
    listener.wire.written = b""
    listener.say(answer(2, "1" * (MAXIMUM_RESPONSE_BYTES + 1)))
    assert listener.wire.written.startswith(b"HTTP/1.1 413 ")
    assert listener.heard[-1] == (None, False, "")
