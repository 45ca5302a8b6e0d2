"""What a streamed answer costs beside the same client at a Runtime API without an engine: bytes a second.

Decides nothing of lambent's. The client is a `bootstrap` that sends what it has at hand in chunks of 64 KB. The bare
side is what `runtime_loop.py` is for whole answers: it parses the request and the chunks by hand, hands each piece to a
reader of its own and waits for him; it has no limits, no time, and looks at nobody's identity.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio

MEGABYTES = 64  # of one answer
CHUNK = 65_536
MOST_HELD = 1024 * 1024  # as the engine has it
LEAST = 0.7

BOOTSTRAP = f"""#!/usr/bin/env python3
import os, socket
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
connection = socket.create_connection((host, int(port)))
piece = b"x" * {CHUNK}
chunk = b"%x\\r\\n%s\\r\\n" % (len(piece), piece)
def answer():
    got = b""
    while b"\\r\\n\\r\\n" not in got:
        got += connection.recv(65536)
    head, _, body = got.partition(b"\\r\\n\\r\\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\\r\\n")[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return headers
while True:
    connection.sendall(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    request_id = answer()["lambda-runtime-aws-request-id"].encode()
    connection.sendall(
        b"POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\\r\\nHost: x\\r\\n"
        b"Lambda-Runtime-Function-Response-Mode: streaming\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n" % request_id
    )
    for _ in range({MEGABYTES} * 1024 * 1024 // {CHUNK}):
        connection.sendall(chunk)
    connection.sendall(b"0\\r\\n\\r\\n")
    answer()
"""


class StreamLoop:
    """Serves one client, one invocation at a time, and gives its answer piece by piece."""

    def __init__(self) -> None:
        self.held = 0
        self._pieces: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._waiting: _Connection | None = None
        self._over = False
        self._number = 0

    async def open(self) -> int:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def invoke(self, event: bytes) -> AsyncIterator[bytes]:
        self._over = False
        while self._waiting is None:
            await self._next_change()
        connection, self._waiting = self._waiting, None
        self._number += 1
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: %d\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (self._number, len(event), event)
        )
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self.held -= len(piece)
                if self.held < MOST_HELD:
                    connection.go_on()
                yield piece
            if self._over:
                return
            await self._next_change()

    def asked(self, connection: _Connection) -> None:
        self._waiting = connection
        self._changed.set()

    def piece(self, data: bytes) -> None:
        """A piece; an empty one ends the answer."""
        self._over = not data
        if data:
            self._pieces.append(data)
            self.held += len(data)
        self._changed.set()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class _Connection(asyncio.Protocol):
    def __init__(self, loop: StreamLoop) -> None:
        self._loop = loop
        self._data = b""
        self._streams = False
        self._left = 0  # of a chunk and its line end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def go_on(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._data:
            data = self._data + data
        at = 0
        while at < len(data):
            after = self._chunk(data, at) if self._streams else self._request(data, at)
            if after == at:  # not all of it has come
                break
            at = after
        self._data = data[at:]

    def _request(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return at
        head = data[at:end].lower()
        if head.startswith(b"get"):
            self._loop.asked(self)
        else:
            self._streams = b"transfer-encoding: chunked" in head
        return end + 4

    def _chunk(self, data: bytes, at: int) -> int:
        """A piece of one, as it came; nothing is copied but that."""
        if not self._left:
            end = data.find(b"\r\n", at)
            if end < 0:
                return at
            size = int(data[at:end], 16)
            if not size:
                if len(data) < end + 4:
                    return at
                self._streams = False
                self.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 16\r\n\r\n" + b'{"status": "OK"}')
                self._loop.piece(b"")
                return end + 4
            self._left, at = size + 2, end + 2
        after = min(len(data), at + self._left)
        if self._left > 2 and after > at:
            self._loop.piece(data[at : min(after, at + self._left - 2)])
            if self._loop.held >= MOST_HELD:
                self._transport.pause_reading()
        self._left -= after - at
        return after


async def measure(folder: Path) -> list[Row]:
    """`folder` is for the code."""
    (folder / "bootstrap").write_text(BOOTSTRAP)
    (folder / "bootstrap").chmod(0o755)
    engine, bare = new_engine(), StreamLoop()
    engine.function_from(folder, name="stream", runtime="provided.al2023", timeout_seconds=60, memory_size_mb=512)
    seconds: dict[str, list[float]] = {"engine": [], "bare": []}
    port = await bare.open()
    variables = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    client = subprocess.Popen([str(folder / "bootstrap")], env=variables, cwd=folder, stdin=subprocess.DEVNULL)
    try:
        async with engine:
            for number in range(ROUNDS + 1):
                for kind in seconds:
                    began = time.perf_counter()
                    if kind == "engine":
                        size = await read(await engine.invoke_with_response_stream("stream", b"{}"))
                    else:
                        size = await read(bare.invoke(b"{}"))
                    assert size == MEGABYTES * 1024 * 1024
                    if number:  # the first round warms up
                        seconds[kind].append(time.perf_counter() - began)
    finally:
        client.kill()
        client.wait()
        await bare.close()
    rate = MEGABYTES / median(seconds["engine"])
    return [
        Row("streamed answer, by a bare Runtime API", 1 / ratio(seconds, "engine", "bare"), "times", least=LEAST),
        Row("  bytes a second", rate, "MB/s"),
    ]  # fmt: skip


async def read(pieces: AsyncIterator[bytes]) -> int:
    size = 0
    async for piece in pieces:
        size += len(piece)
    return size
