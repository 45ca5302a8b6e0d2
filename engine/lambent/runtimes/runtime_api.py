"""The Runtime API of one environment: HTTP on a loopback port of its own, as Lambda's runtime clients speak it.

Decides the wire: paths, headers, sizes, and that only processes of the environment are heard. Which call is in its
place is `semantics/conversation.py`'s; what an answer means is its owner's. Unchanged clients take neither a secret in
the path nor a socket of another kind, so a connection counts if its other end is held by a process of the environment.

The parser is llhttp's (httptools); the few answers are written by hand. A client says the same again and again: what it
says word for word as it did before, but for the id and the length of an answer, means the same and is not parsed again
(`_is_usual`; half of what the parser and its callbacks took of a call: `python -m benchmarks environments`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import socket
from collections.abc import Mapping
from typing import Final, Protocol, cast
from urllib.parse import unquote_to_bytes

from lambent.model import MAXIMUM_RESPONSE_BYTES, MAXIMUM_STREAMED_BYTES
from lambent.semantics.conversation import Conversation, Refusal

MAXIMUM_CONNECTIONS: Final = 64
"""Of one environment at once; further ones are closed."""
MAXIMUM_HEADER_BYTES: Final = 1024 * 1024 + 65_536
"""awslambdaric sends up to 1 MB of X-Ray's cause in a header."""
MAXIMUM_DISCARDED_BYTES: Final = 64 * 1024 * 1024
"""Of an answer that is too large: read and thrown away, so that the client hears why; beyond it the connection ends."""
PREFIX: Final = b"/2018-06-01/runtime/"
_NEXT: Final = PREFIX + b"invocation/next"
_ANSWER: Final = b"POST " + PREFIX + b"invocation/%b/response HTTP/1.1\r\n%b: %d\r\n\r\n"
"""What an answer begins with: its id, its other headers and the name of the last one, which is its length."""

_STATUS: Final = {
    200: b"OK", 202: b"Accepted", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 413: b"Request Entity Too Large", 431: b"Request Header Fields Too Large",
}  # fmt: skip
_TOO_LARGE: Final = Refusal(
    413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({MAXIMUM_RESPONSE_BYTES} bytes)."
)
_FOREIGN: Final = Refusal(403, "Forbidden", "This is the Runtime API of another execution environment.")


class Owner(Protocol):
    """What hears what the runtime says. A call that is refused is not told."""

    conversation: Conversation

    def is_ours(self, peer: tuple[str, int], port: int) -> bool:
        """Is that end of a connection held by a process of this environment?"""
        ...

    def asks_for_next(self) -> None: ...

    def chunk(self, data: bytes) -> asyncio.Future[None] | None:
        """A piece of a streamed answer; as `ports.Respond`."""
        ...

    def broke_off(self) -> None:
        """The connection ended in the middle of a streamed answer."""
        ...

    def answers(self, body: bytes | None, error: bool, error_type: str) -> None:
        """The answer is whole: its body, which is empty if it was streamed; None: it was too large. `error`: an error
        document, or what ended a stream."""
        ...

    def cannot_begin(self, body: bytes, error_type: str) -> None: ...


class RuntimeApi:
    """The server. `port` is known once it is open."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.port = 0
        self._socket: socket.socket | None = None
        self.connections: set[_Connection] = set()
        self.waiting: _Connection | None = None  # that asked for the next invocation
        self._server: asyncio.Server | None = None
        self.silent: asyncio.Event | None = None

    def listen(self) -> None:
        """From now on there is a port, and who connects waits. Raises OSError if none is left."""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=MAXIMUM_CONNECTIONS)
        self.port = self._socket.getsockname()[1]

    async def open(self) -> None:
        """Serve."""
        assert self._socket is not None, "listen first"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), sock=self._socket)

    def deliver(self, headers: bytes, body: bytes) -> None:
        """Hand the invocation to whoever waits for it."""
        waiting = self.waiting
        assert waiting is not None, "nobody waits for an invocation"
        self.waiting = None
        waiting.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (headers, len(body), body)
        )
        if waiting.closes:
            waiting.transport.close()

    def hang_up(self) -> None:
        """End every connection at once: the process behind them is gone, or about to."""
        for connection in list(self.connections):
            connection.hang_up()
        self.waiting = None

    async def silence(self) -> None:
        """Wait until every connection has ended, and so all that was said was heard, even if nobody takes it yet."""
        if self.connections:
            self.silent = asyncio.Event()
            for connection in self.connections:
                connection.go_on()
            await self.silent.wait()

    async def close(self) -> None:
        self.hang_up()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        elif self._socket is not None:
            self._socket.close()

    def left(self, connection: _Connection) -> None:
        self.connections.discard(connection)
        if self.waiting is connection:
            self.waiting = None
            self.owner.conversation.withdrawn()
        if not self.connections and self.silent is not None:
            self.silent.set()


class _Connection(asyncio.Protocol):
    """One connection of a client: requests, one after the other."""

    transport: asyncio.Transport
    _path: bytes
    _what: bytes

    def __init__(self, api: RuntimeApi) -> None:
        from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser  # an extra, needed only here

        self._api = api
        self._owner = api.owner
        self._parser = HttpRequestParser(self)
        self._not_http = (HttpParserError, HttpParserUpgrade)
        self._known = False  # to be of this environment
        self.closes = False  # after the invocation that it waits for
        self._ended = False
        self._refusal: Refusal | None = None
        self._begun = 0  # requests
        self._between = True  # two requests: nothing of one has come
        self._last = b""  # what the last request was, if the same may be said again
        self._usual_next: bytes | None = None  # such a request
        self._usual_answer: bytes | None = None  # the head of such a request, from its first header to its length
        self._begin()

    # --- asyncio's ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._api.connections.add(self)
        if len(self._api.connections) > MAXIMUM_CONNECTIONS:
            self.transport.abort()
            return
        self._known = self._owner.is_ours(self.transport.get_extra_info("peername"), self._api.port)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._streams:
            self._owner.broke_off()
        self._api.left(self)

    def data_received(self, data: bytes) -> None:
        if not self._known:
            return self._end(_FOREIGN)
        whole, begun = self._between, self._begun
        if whole and self._is_usual(data):
            return None
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except self._not_http:
            return self._end(Refusal(400, "InvalidRequest", "That is not HTTP/1.1."))
        if whole and self._between and self._begun == begun + 1:
            self._remember(data)
        if self._in_headers and self._unread > MAXIMUM_HEADER_BYTES:
            self._end(Refusal(431, "RequestHeaderTooLarge", "The headers are too large."))
        return None

    def go_on(self, room: object = None) -> None:
        """Read what comes: there is room for it."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def hang_up(self) -> None:
        """End it at once; what it was saying is no longer of interest."""
        self._streams = False
        self.transport.abort()

    # --- httptools' --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun += 1
        self._between = False

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name[:1] in b"Ll" and len(value) < 65_536:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._path == _NEXT and self._parser.get_method() == b"GET":
            self._what, self._refusal = b"next", None
            return
        path = self._path.partition(b"?")[0]
        self._what, self._refusal = b"", None
        if not path.startswith(PREFIX):
            self._refusal = _unknown(path)
            return
        parts = path[len(PREFIX) :].split(b"/")
        method = self._parser.get_method()
        if parts == [b"invocation", b"next"]:
            self._what = b"next"
            if method != b"GET":
                self._refusal = Refusal(405, "MethodNotAllowed", "Ask for the next invocation with GET.")
        elif len(parts) == 3 and parts[0] == b"invocation" and parts[2] in (b"response", b"error"):
            self._what = parts[2]
            request_id = unquote_to_bytes(parts[1]).decode("utf-8", "replace")
            self._refusal = self._owner.conversation.may_answer(request_id)
            self._streamed = parts[2] == b"response" and (
                self._headers.get(b"lambda-runtime-function-response-mode", b"").lower() == b"streaming"
            )
        elif parts == [b"init", b"error"]:
            self._what = b"init"
        else:
            self._refusal = _unknown(path)
        if self._what not in (b"next", b"") and method != b"POST":
            self._refusal = Refusal(405, "MethodNotAllowed", "Answer with POST.")
        if self._streamed and self._refusal is None:
            self._owner.conversation.streams()
            self._streams = True

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._streams:
            room = self._owner.chunk(body)
            if room is not None and self._api.silent is None:
                self.transport.pause_reading()
                room.add_done_callback(self.go_on)
        elif self._refusal is None and self._size <= MAXIMUM_RESPONSE_BYTES:
            self._body.append(body)
        else:
            self._body.clear()
        if self._size > (MAXIMUM_STREAMED_BYTES if self._streamed else MAXIMUM_DISCARDED_BYTES):
            self._too_large()
            self._end(_TOO_LARGE)

    def on_message_complete(self) -> None:
        if self._ended:
            return
        what, refusal = self._what, self._refusal
        if refusal is None:
            if what == b"next":
                refusal = self._next()
            elif what == b"init":
                refusal = self._owner.conversation.init_failed()
                if refusal is None:
                    self._owner.cannot_begin(b"".join(self._body), self._error_type())
            elif self._size > MAXIMUM_RESPONSE_BYTES and not self._streamed:
                refusal = _TOO_LARGE
                self._too_large()
            else:
                refusal = self._answer(what == b"error")
        if refusal is not None:
            self._refuse(refusal)
        elif what == b"init":
            self.transport.write(_ACCEPTED)
        goes_on = self._parser.should_keep_alive()
        if not goes_on:
            if what == b"next" and refusal is None:
                self.closes = True
            else:
                self._ended = True
                self.transport.close()
        self._last = what if goes_on and refusal is None and not self._headers else b""
        self._between = True
        self._begin()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._in_headers = True
        self._path = self._what = b""
        self._headers: dict[bytes, bytes] = {}
        self._size = 0
        self._unread = 0  # bytes that came since a request began
        self._body: list[bytes] = []
        self._streamed = False
        self._streams = False  # and is heard

    def _is_usual(self, data: bytes) -> bool:
        """One whole request, as one before: then it is done."""
        if data == self._usual_next:
            if (refusal := self._next()) is not None:
                self._refuse(refusal)
            return True
        conversation = self._owner.conversation
        if self._usual_answer is None or conversation.state != "Running":
            return False
        size = len(data) - data.find(b"\r\n\r\n") - 4
        head = _ANSWER % (conversation.request_id.encode(), self._usual_answer, size)
        if not data.startswith(head) or size > MAXIMUM_RESPONSE_BYTES:
            return False
        self._accept(data[len(head) :])
        return True

    def _remember(self, data: bytes) -> None:
        """It was one whole request, and was understood."""
        if self._last == b"next":
            self._usual_next = data
        elif self._last == b"response":
            before, _, length = data.partition(b"\r\n\r\n")[0].rpartition(b": ")
            headers = before.partition(b"\r\n")[2]
            if length.isdigit() and headers.lower().endswith(b"\r\ncontent-length"):
                self._usual_answer = headers

    def _next(self) -> Refusal | None:
        refusal = self._owner.conversation.next()
        if refusal is None:
            self._api.waiting = self
            self._owner.asks_for_next()
        return refusal

    def _answer(self, error: bool) -> Refusal | None:
        conversation = self._owner.conversation
        if not self._streams and conversation.state != "Running":  # another connection was faster
            return conversation.may_answer(conversation.request_id)
        body, kind = b"".join(self._body), self._error_type()
        if self._streamed and kind:  # trailers: the handler failed within its stream
            error, body = True, _decoded(self._headers.get(b"lambda-runtime-function-error-body", b""))
        self._accept(body, error, kind)
        return None

    def _accept(self, body: bytes, error: bool = False, kind: str = "") -> None:
        self._owner.conversation.answered()
        self.transport.write(_ACCEPTED)  # first: the client goes on while we do
        self._owner.answers(body, error, kind)

    def _too_large(self) -> None:
        conversation = self._owner.conversation
        heard = self._streams or (self._what in (b"response", b"error") and conversation.state == "Running")
        if self._refusal is None and heard:
            self._streams = False
            conversation.answered()
            self._owner.answers(None, False, "")

    def _error_type(self) -> str:
        return self._headers.get(b"lambda-runtime-function-error-type", b"").decode("utf-8", "replace")

    def _refuse(self, refusal: Refusal) -> None:
        self.transport.write(_response(refusal.status, _document(refusal)))

    def _end(self, refusal: Refusal) -> None:
        """Say why, and hang up: what follows on this connection cannot be understood."""
        if not self._ended:
            self._ended = True
            self._refuse(refusal)
            self.transport.close()


def header(name: bytes, value: str) -> bytes:
    """One line of a head."""
    return b"%b: %b\r\n" % (name, one_line(value))


def one_line(value: str) -> bytes:
    """What would end the line is left out."""
    return value.encode("utf-8", "replace").translate(None, b"\r\n\0")


def _response(status: int, document: Mapping[str, str]) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status, _STATUS[status], len(body), body
    )  # fmt: skip


def _document(refusal: Refusal) -> dict[str, str]:
    return {"errorMessage": refusal.message, "errorType": refusal.error_type}


def _unknown(path: bytes) -> Refusal:
    return Refusal(404, "NotFound", f"The Runtime API has no {path[:200].decode('utf-8', 'replace')}.")


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


_ACCEPTED: Final = _response(202, {"status": "OK"})
