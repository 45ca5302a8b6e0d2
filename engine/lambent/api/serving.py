"""The server: uvicorn's HTTP, within limits, in the engine's event loop.

Decides what a connection may cost before a request is there: how many there are, how large the head of a request is,
how long it takes to come and an answer to be taken. A request that breaks HTTP itself is answered with 400 and its
connection closed. It listens on this machine's own addresses only, for nobody is asked who they are.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from lambent.api.application import LOOPBACK_HOSTS, Application
from lambent.api.operations import Operations
from lambent.api.shapes import load_wire
from lambent.api.trail import Trail
from lambent.engine import Engine
from lambent.errors import InvalidParameterValue

CLOSING_SECONDS: Final = 5.0  # for requests that run when the server is left


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may cost."""

    connections: int = 1000  # more are closed unanswered
    head_bytes: int = 65_536  # request line and headers
    headers: int = 100
    head_seconds: float = 10.0  # within which the head of a request is sent
    body_seconds: float = 60.0  # within which its body is sent
    idle_seconds: int = 60  # after which a connection without a request is closed
    taking_seconds: float = 30.0  # within which an answer is taken that does not fit into the buffers


class _Connection(HttpToolsProtocol):
    """A connection of uvicorn's, with limits."""

    limits = Limits()
    _head_timer: asyncio.TimerHandle | None = None
    _taking_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self.send_400_response("The head of the request is too large.")
            elif self._head_timer is None:
                self._await_head()
        elif self._head_timer is None and getattr(self.cycle, "more_body", False):  # None before the first request
            self._head_timer = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self.limits.headers:
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head_came()

    def on_response_complete(self) -> None:
        more = self.cycle.more_body
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_taking()
        elif more and self._head_timer is None:
            self._await_head()  # refused before its end, which is read so that the answer is, but not for ever

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._await_taking()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self.transport.abort)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _await_taking(self) -> None:
        if self._taking_timer is None:
            self._taking_timer = self.loop.call_later(self.limits.taking_seconds, self.transport.abort)

    def _taken(self) -> None:
        if self._taking_timer is not None:
            self._taking_timer.cancel()
            self._taking_timer = None


@asynccontextmanager
async def serving(engine: Engine, host: str, port: int, limits: Limits = Limits()) -> AsyncIterator[str]:
    """Serve the API of an engine that runs until left; gives the URL, its port chosen if it was 0. Raises
    InvalidParameterValue if nothing can listen there, or others than this machine could ask."""
    check_loopback(host)
    wire = load_wire()
    operations = Operations(engine, wire)
    hosts = LOOPBACK_HOSTS | {host.lower(), f"[{host.lower()}]"}
    async with listening(Application(engine, wire, operations, Trail(engine), hosts), host, port, limits) as url:
        operations.url = url
        yield url


@asynccontextmanager
async def listening(application: Any, host: str, port: int, limits: Limits = Limits()) -> AsyncIterator[str]:
    """Serve an ASGI application there until left."""
    connection = type("Connection", (_Connection,), {"limits": limits})
    config = Config(
        application,
        http=connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=limits.idle_seconds,
    )
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            lambda: connection(config=config, server_state=state, app_state={}, _loop=loop), host, port, backlog=2048
        )
    except OSError as error:
        raise InvalidParameterValue(f"api: nothing can listen on {host}:{port}: {error.strerror}") from error
    dating = loop.create_task(_tell_the_date(state), name="api: date")
    try:
        chosen = server.sockets[0].getsockname()[1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
    finally:
        server.close()
        for each in list(state.connections):
            each.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=CLOSING_SECONDS)
        for each in list(state.connections):
            each.transport.abort()
        dating.cancel()
        await asyncio.wait([dating])


def check_loopback(host: str) -> None:
    """Raises InvalidParameterValue for an address that others than this machine can reach."""
    try:
        found = {each[4][0] for each in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise InvalidParameterValue(f"api: {host} is no address: {error.strerror}") from error
    if not all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found):
        raise InvalidParameterValue(
            f"api: {host} can be reached from other machines, and the API asks nobody who they are: whoever reaches it "
            "can run code here. Use 127.0.0.1, and an authenticating proxy before it if others shall have it."
        )


async def _tell_the_date(state: ServerState) -> None:
    while True:
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)
