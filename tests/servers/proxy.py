"""A TCP proxy that does what networks do: cuts in the middle of a command or an answer, delays, trickles, swallows.

Decides what happens to the bytes of one server's connections. A fault holds for all connections until it is taken back,
but for a cut, which strikes once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

Direction = Literal["request", "answer"]


class Proxy:
    """Leads from a port of the loopback to the one of a server.

    delay_seconds: before each piece is passed on.
    piece_bytes: pass on no more at once (0: as it comes).
    swallows: take everything, pass on nothing, close nothing.
    refuses: end each new connection at once."""

    def __init__(self, server_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.delay_seconds = 0.0
        self.piece_bytes = 0
        self.swallows = False
        self.refuses = False
        self.cuts = 0
        self.port = 0
        self._server_port = server_port
        self._tls = tls
        self._planned: deque[tuple[Direction, int]] = deque()
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._healed = asyncio.Event()

    def cut_next(self, direction: Direction, after_bytes: int) -> None:
        """Cut when the next piece in this direction comes, and pass on only its first bytes."""
        self._planned.append((direction, after_bytes))

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in self._open:
            writer.transport.abort()

    def heal(self) -> None:
        """From now on nothing is wrong; what a fault still holds back goes on."""
        self.delay_seconds, self.piece_bytes, self.swallows, self.refuses = 0.0, 0, False, False
        self._planned.clear()
        healed, self._healed = self._healed, asyncio.Event()
        healed.set()

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Proxy]:
        """`port`: where it listens; 0: wherever there is room."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", port, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            for pump in self._pumps:
                pump.cancel()
            if self._pumps:
                await asyncio.wait(self._pumps)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back_writer}
        self._open |= both
        for source, target, direction in ((reader, back_writer, "request"), (back_reader, writer, "answer")):
            pump = asyncio.ensure_future(self._pump(source, target, direction, both))  # type: ignore[arg-type]
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        direction: Direction,
        both: set[asyncio.StreamWriter],
    ) -> None:
        try:
            with suppress(OSError):
                while data := await source.read(65_536):
                    if self._planned and self._planned[0][0] == direction:
                        _, after = self._planned.popleft()
                        self.cuts += 1
                        target.write(data[:after])
                        with suppress(OSError):
                            await target.drain()
                        return
                    for piece in self._pieces(data):
                        await self._hold_up()
                        target.write(piece)
                        await target.drain()
        finally:
            self._open -= both
            for writer in both:
                writer.close() if writer is target else writer.transport.abort()

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        begin = 0
        while begin < len(data):
            end = begin + (self.piece_bytes or len(data))
            yield data[begin:end]
            begin = end

    async def _hold_up(self) -> None:
        while self.swallows or self.delay_seconds:
            healed = self._healed
            if self.swallows:
                await healed.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self.delay_seconds):
                    await healed.wait()
            return
