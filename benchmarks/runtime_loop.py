"""A Runtime API without an engine, as a good engineer would write one for a client of Lambda's.

Decides nothing of lambent's: it is what `environments.py` measures beside. It does what every Runtime API has to, and
nothing else: requests are parsed (request line, headers, body), what is not understood gets 4xx; an invocation has an
id of its own, a deadline that is kept, an ARN and a trace id; an answer counts once, only for the invocation that is in
flight, and has a limit; what the client prints is read. It has no functions, pools, permits, logs or metrics, looks at
no JSON, keeps nobody out, and does not notice that a process ended. It is written by hand and in bytes, which is faster
than the same in aiohttp (`AiohttpLoop`). `CarelessLoop` shows what is left if none of those duties is done, either.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from lambent.world import ids_of

if TYPE_CHECKING:
    from aiohttp import web

TIMEOUT_SECONDS: Final = 3.0  # as the engine's function has it
MAXIMUM_RESPONSE_BYTES: Final = 6 * 1024 * 1024
MAXIMUM_HEAD_BYTES: Final = 65_536
_INVOCATION: Final = b"/2018-06-01/runtime/invocation/"
_NEXT: Final = _INVOCATION + b"next"
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:bare\r\n"
    b"Lambda-Runtime-Aws-Request-Id: %b\r\nLambda-Runtime-Deadline-Ms: %d\r\n"
    b"Lambda-Runtime-Trace-Id: Root=1-%08x-%b;Sampled=0\r\nContent-Length: %d\r\n\r\n"
)


class RuntimeLoop:
    """One invocation at a time, of one client."""

    def __init__(self) -> None:
        self._waiting: asyncio.Transport | None = None
        self._event: bytes | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._new_id = ids_of(Random())
        self.request_id = b""
        """Of the invocation that is in flight; nothing, if there is none."""

    async def invoke(self, event: bytes) -> bytes:
        """The client's answer. Raises TimeoutError, and RuntimeError with its error document."""
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._event = event
        self._deliver()
        return await self._answer

    async def open(self) -> tuple[int, Callable[[], Awaitable[None]]]:
        """Serve; gives the port, and what ends that."""
        return await _serve(lambda: _Connection(self))

    def asked(self, transport: asyncio.Transport) -> None:
        self._waiting = transport
        self._deliver()

    def answered(self, body: bytes, error: bool = False) -> None:
        """What became of the invocation in flight."""
        self.request_id = b""
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None and not self._answer.done():
            if error:
                self._answer.set_exception(RuntimeError(body.decode("utf-8", "replace")))
            else:
                self._answer.set_result(body)

    def _deliver(self) -> None:
        if self._waiting is None or self._event is None:
            return
        now = time.time()
        made = self.request_id = self._new_id().encode()
        trace = made.replace(b"-", b"")[:24]
        head = _HEAD % (made, (now + TIMEOUT_SECONDS) * 1000, int(now), trace, len(self._event))
        self._waiting.write(head + self._event)
        self._waiting = self._event = None
        self._timer = asyncio.get_running_loop().call_later(TIMEOUT_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        self.request_id = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())


async def _serve(protocol: Callable[[], asyncio.Protocol]) -> tuple[int, Callable[[], Awaitable[None]]]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)

    async def close() -> None:
        server.close()
        await server.wait_closed()

    return server.sockets[0].getsockname()[1], close


class _Connection(asyncio.Protocol):
    def __init__(self, loop: RuntimeLoop) -> None:
        self._loop = loop
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        while self._data and self._request():
            pass

    def _request(self) -> bool:
        """One whole request, if there is one."""
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            if len(self._data) > MAXIMUM_HEAD_BYTES:
                self._end(431)
            return False
        first, *lines = head.split(b"\r\n")
        try:
            method, path, version = first.split(b" ")
            headers = {}
            for line in lines:
                name, value = line.split(b":", 1)
                headers[name.lower()] = value.strip()
            length = int(headers.get(b"content-length", b"0"))
        except ValueError:
            self._end(400)
            return False
        if version != b"HTTP/1.1" or b"transfer-encoding" in headers or length < 0:
            self._end(400)
            return False
        if length > MAXIMUM_RESPONSE_BYTES:
            self._end(413)
            return False
        if len(rest) < length:
            return False
        body, self._data = rest[:length], rest[length:]
        self._route(method, path, body)
        if headers.get(b"connection", b"").lower() == b"close":
            self._transport.close()
        return True

    def _route(self, method: bytes, path: bytes, body: bytes) -> None:
        if method == b"GET" and path == _NEXT:
            self._loop.asked(self._transport)
            return
        request_id, _, kind = path.removeprefix(_INVOCATION).partition(b"/")
        if method != b"POST" or not path.startswith(_INVOCATION) or kind not in (b"response", b"error"):
            self._transport.write(_response(404))
        elif not request_id or request_id != self._loop.request_id:
            self._transport.write(_response(400))
        else:
            self._transport.write(_ACCEPTED)
            self._loop.answered(body, kind == b"error")

    def _end(self, status: int) -> None:
        self._transport.write(_response(status))
        self._transport.close()


def _response(status: int) -> bytes:
    body = b'{"status": "OK"}' if status == 202 else b'{"errorType": "Refused", "errorMessage": "Refused"}'
    head = "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return (head % (status, "Accepted" if status == 202 else "Refused", len(body))).encode() + body


_ACCEPTED: Final = _response(202)


class CarelessLoop(RuntimeLoop):
    """No Runtime API, only what makes one client go round: nothing is parsed or checked, ids count, no deadline."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    async def open(self) -> tuple[int, Callable[[], Awaitable[None]]]:
        return await _serve(lambda: _Careless(self))

    def _deliver(self) -> None:
        if self._waiting is None or self._event is None:
            return
        self._number += 1
        self._waiting.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: %d\r\n"
            b"Lambda-Runtime-Deadline-Ms: 4000000000000\r\nLambda-Runtime-Invoked-Function-Arn: arn\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self._number, len(self._event), self._event)
        )
        self._waiting = self._event = None


class _Careless(_Connection):
    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET"):
            self._data = rest
            self._loop.asked(self._transport)
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(rest) >= length:
            self._data = rest[length:]
            self._transport.write(_ACCEPTED)
            self._loop.answered(rest[:length])


class AiohttpLoop(RuntimeLoop):
    """The same by a library for HTTP, as one would write it."""

    async def open(self) -> tuple[int, Callable[[], Awaitable[None]]]:
        from aiohttp import web

        application = web.Application()
        application.router.add_get("/2018-06-01/runtime/invocation/next", self._next)
        application.router.add_post("/2018-06-01/runtime/invocation/{id}/response", self._response)
        self._events: asyncio.Queue[bytes] = asyncio.Queue()
        self._number = 0
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0][1], runner.cleanup

    async def invoke(self, event: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self._events.put_nowait(event)
        return await self._answer

    async def _next(self, request: web.Request) -> web.Response:
        from aiohttp import web

        body = await self._events.get()
        self._number += 1
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": str(self._number),
            "Lambda-Runtime-Deadline-Ms": "4000000000000",
            "Lambda-Runtime-Invoked-Function-Arn": "arn",
        }
        return web.Response(body=body, headers=headers)

    async def _response(self, request: web.Request) -> web.Response:
        from aiohttp import web

        self.answered(await request.read())
        return web.Response(status=202)


class BareClient:
    """AWS's client for Python in a process, served by a loop without an engine."""

    def __init__(self, code: Path, handler: str, loop: RuntimeLoop) -> None:
        self._code = code
        self._handler = handler
        self.loop = loop

    async def open(self) -> None:
        port, self._close = await self.loop.open()
        variables: Mapping[str, str] = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": "bare",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_REGION": "us-east-1",
            "_HANDLER": self._handler,
            "LAMBDA_TASK_ROOT": str(self._code),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", self._handler], env=dict(variables), cwd=self._code,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        asyncio.get_running_loop().add_reader(self._output, self._read)

    def _read(self) -> None:
        """What it prints is nobody's; unread, it would stand still."""
        if not os.read(self._output, 65_536):
            asyncio.get_running_loop().remove_reader(self._output)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._output)
        self._process.kill()
        self._process.communicate()
        await self._close()
