"""`lambent health`, and the endpoint of `lambent run --health`: green or red, for people, scripts and supervisors.

Decides how it is told: exit codes, HTTP statuses, the words around it. What is red is decided in `semantics/health.py`.

The endpoint answers GET and HEAD of `/health`, and nothing else: 200 while the engine is green, 503 while it is red or
drains, with the same JSON as the command. It lives in the engine's event loop, so one that is blocked does not answer:
whoever asks needs a time limit, as the health checks of Docker and Kubernetes have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import typer

from lambent.cli.terminal import AWAY, DEFAULT_STORE, FAILED, JsonOption, StoreOption, say, say_json, with_client
from lambent.client import Client
from lambent.errors import EngineStopped, InvalidParameterValue
from lambent.semantics.health import Finding, Health

LOOPBACK: Final = "127.0.0.1"
PATH: Final = "/health"
MAXIMUM_REQUEST_BYTES: Final = 8192
MAXIMUM_CONNECTIONS: Final = 32  # more are closed unanswered
REQUEST_SECONDS: Final = 5.0  # within which a request is sent, and an answer taken


def health(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Are the engines well? Ends with 0 if all is green, with 1 if anything is red.

    Red is: work waits and none gets done, a mapping cannot run, an engine does not tell how it is, or there is none."""

    async def told(client: Client) -> int | None:
        found = await client.health()
        say_json(found.document()) if as_json else say(_for_people(found))
        return FAILED if found.red else None

    try:
        with_client(store, told)
    except typer.Exit as ended:
        raise typer.Exit(FAILED if ended.exit_code == AWAY else ended.exit_code) from None


def _for_people(found: Health) -> str:
    """What is red first, then green things of which there is something to know."""
    plural = "s" if found.engines != 1 else ""
    lines = [f"{'red' if found.red else 'green'}  {found.engines} engine{plural}"]
    for each in sorted(found.findings, key=lambda each: (not each.red, each.subject)):
        if each.sentences:
            lines.append("\n    ".join((_title(each), *each.sentences)))
    return "\n  ".join(lines)


def _title(finding: Finding) -> str:
    return f"{'red' if finding.red else 'green'}  {finding.subject}"


# --------------------------------------------------------------------------- the endpoint


def address(text: str) -> tuple[str, int]:
    """PORT, :PORT or HOST:PORT, on this machine only if no host is named. Raises InvalidParameterValue."""
    with suppress(ValueError):
        parts = urlsplit(f"//{text}" if ":" in text else f"//:{text}")
        if parts.port is not None and not (parts.path or parts.query or parts.username):
            return parts.hostname or LOOPBACK, parts.port
    raise InvalidParameterValue(f"health: {text!r} is no address: write PORT (of {LOOPBACK}) or HOST:PORT")


@asynccontextmanager
async def endpoint(host: str, port: int, ask: Callable[[], Health]) -> AsyncIterator[int]:
    """Answer there until left; gives the port, which is chosen if it was 0. `ask` raises EngineStopped while there is
    nothing to tell. Raises InvalidParameterValue if nothing can listen there."""
    answering: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(answering) >= MAXIMUM_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(_answer(reader, writer, ask), name="health: answer")
        answering.add(task)
        task.add_done_callback(answering.discard)

    try:
        server = await asyncio.start_server(connected, host, port, limit=MAXIMUM_REQUEST_BYTES)
    except OSError as error:
        raise InvalidParameterValue(f"health: nothing can listen on {host}:{port}: {error.strerror}") from error
    async with server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            for task in answering:
                task.cancel()
            if answering:
                await asyncio.wait(answering)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Callable[[], Health]) -> None:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            request = await reader.readuntil(b"\r\n\r\n")
            writer.write(_response(request, ask))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # whoever asks so hears nothing
    finally:
        writer.transport.abort()


def _response(request: bytes, ask: Callable[[], Health]) -> bytes:
    method, path, *_ = [*request.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", ""]
    status, document = HTTPStatus.OK, dict[str, object]()
    if path.partition("?")[0] != PATH:
        status, document = HTTPStatus.NOT_FOUND, {"message": f"Here is only {PATH}."}
    elif method not in ("GET", "HEAD"):
        status, document = HTTPStatus.METHOD_NOT_ALLOWED, {"message": "GET or HEAD it."}
    else:
        try:
            found = ask()
        except EngineStopped as error:
            found = Health(0, (Finding("", "engine", True, (error.message,)),))
        status, document = HTTPStatus.SERVICE_UNAVAILABLE if found.red else HTTPStatus.OK, found.document()
    body = json.dumps(document, ensure_ascii=False).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)
