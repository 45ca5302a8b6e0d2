"""The least that could serve a Lambda runtime client: one connection's requests, one invocation at a time, no engine.

Decides nothing: it is what `environments.py` measures beside. No request is checked, nothing is limited or logged, and
nobody is kept out.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web


class RuntimeLoop:
    """The client's connections take turns."""

    def __init__(self) -> None:
        self._waiting: asyncio.Transport | None = None
        self._event: bytes | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._number = 0

    async def invoke(self, event: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        self._event = event
        self._deliver()
        return await self._answer

    async def open(self) -> tuple[int, Callable[[], Awaitable[None]]]:
        """Serve; gives the port, and what ends that."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)

        async def close() -> None:
            server.close()
            await server.wait_closed()

        return server.sockets[0].getsockname()[1], close

    def asked(self, transport: asyncio.Transport) -> None:
        self._waiting = transport
        self._deliver()

    def answered(self, body: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(body)

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


class _Connection(asyncio.Protocol):
    def __init__(self, loop: RuntimeLoop) -> None:
        self._loop = loop
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

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


_ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"


class AiohttpLoop(RuntimeLoop):
    """The same by a library for HTTP, as one would write it."""

    async def open(self) -> tuple[int, Callable[[], Awaitable[None]]]:
        from aiohttp import web

        application = web.Application()
        application.router.add_get("/2018-06-01/runtime/invocation/next", self._next)
        application.router.add_post("/2018-06-01/runtime/invocation/{id}/response", self._response)
        self._events: asyncio.Queue[bytes] = asyncio.Queue()
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
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    async def close(self) -> None:
        self._process.kill()
        self._process.wait()
        await self._close()
