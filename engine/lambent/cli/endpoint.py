"""The HTTP endpoint of `lambent run`: `/health` and `/metrics`, for supervisors and Prometheus.

Decides who may ask, how and for how long: GET and HEAD of the paths it is given, and nothing else. It lives in the
engine's event loop, so one that is blocked does not answer: whoever asks needs a time limit, as the health checks of
Docker and Kubernetes and the scrapes of Prometheus have. What is answered is `health.py`'s and `prometheus.py`'s.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from lambent.errors import InvalidParameterValue

ADDRESS: Final = "[HOST:]PORT"  # as options show it
LOOPBACK: Final = "127.0.0.1"
HEALTH: Final = "/health"
METRICS: Final = "/metrics"
MAXIMUM_REQUEST_BYTES: Final = 8192
MAXIMUM_CONNECTIONS: Final = 32  # more are closed unanswered
REQUEST_SECONDS: Final = 5.0  # within which a request is sent, and an answer taken

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""


def in_json(status: HTTPStatus, document: Mapping[str, object]) -> Answer:
    """An answer that is a document."""
    return status, "application/json", json.dumps(document, ensure_ascii=False).encode()


def address(option: str, text: str) -> tuple[str, int]:
    """PORT, :PORT or HOST:PORT, on this machine only if no host is named. Raises InvalidParameterValue."""
    with suppress(ValueError):
        parts = urlsplit(f"//{text}" if ":" in text else f"//:{text}")
        if parts.port is not None and not (parts.path or parts.query or parts.username):
            return parts.hostname or LOOPBACK, parts.port
    raise InvalidParameterValue(
        f"{option}: {text!r} is no address: write PORT (of {LOOPBACK}, up to 65535) or HOST:PORT"
    )


@asynccontextmanager
async def endpoint(host: str, port: int, paths: Mapping[str, Callable[[], Answer]]) -> AsyncIterator[str]:
    """Answer these paths there until left; gives the URL before them, its port chosen if it was 0. Raises
    InvalidParameterValue if nothing can listen there."""
    answering: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(answering) >= MAXIMUM_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(_answer(reader, writer, paths), name="endpoint: answer")
        answering.add(task)
        task.add_done_callback(answering.discard)

    try:
        server = await asyncio.start_server(connected, host, port, limit=MAXIMUM_REQUEST_BYTES)
    except OSError as error:
        named = " and ".join(path.strip("/") for path in paths)
        reason = str(error.strerror).rpartition(": ")[2]  # asyncio says the address once more
        advice = "name another port, or 0 for any that is free"
        raise InvalidParameterValue(f"{named}: nothing can listen on {host}:{port} ({reason}): {advice}") from error
    async with server:
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{server.sockets[0].getsockname()[1]}"
        finally:
            for task in answering:
                task.cancel()
            if answering:
                await asyncio.wait(answering)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, paths: Mapping[str, Callable[[], Answer]]
) -> None:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            request = await reader.readuntil(b"\r\n\r\n")
            writer.write(_response(request, paths))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # whoever asks so hears nothing
    finally:
        writer.transport.abort()


def _response(request: bytes, paths: Mapping[str, Callable[[], Answer]]) -> bytes:
    method, path, *_ = [*request.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", ""]
    ask = paths.get(path.partition("?")[0])
    if ask is None:
        status, content_type, body = in_json(HTTPStatus.NOT_FOUND, {"message": f"Here is {' and '.join(paths)}."})
    elif method not in ("GET", "HEAD"):
        status, content_type, body = in_json(HTTPStatus.METHOD_NOT_ALLOWED, {"message": "GET or HEAD it."})
    else:
        status, content_type, body = ask()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)
