"""One pipelined connection to one Redis server, which comes back by itself.

Decides when commands go out (all that were put in one turn of the loop in one write, without waiting for earlier
answers), which answer is whose, when a connection counts as dead, and what becomes of the commands that were under way.
Leaves to `redis_connection.py` which server a command is for and what an error reply means.

Answers are matched by their order alone, and no caller ever touches the connection: one that is cancelled leaves its
command where it is, so its answer cannot be taken for another's (the fault of redis-py's issues 2624 and 2665). An
answer that nobody asked for, or is no RESP, ends the connection. Its commands are then sent again over the next one if
repeating them does no harm, and else fail as `UnknownOutcome`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import hiredis

from lambent.errors import StoreUnavailable
from lambent.semantics import backoff
from lambent_pollers.redis_url import Address, Credentials

Word = str | bytes | int | float
"""One word of a command; text goes as UTF-8."""

_pack: Callable[[Any], bytes] = hiredis.pack_command  # its stub knows only commands of one word
_NOT_YET: Final = object()
_TOO_MUCH: Final = 4 * 1024 * 1024  # bytes that wait in a connection's buffer before more commands are held back


class UnknownOutcome(StoreUnavailable):
    """The command went out and its answer was lost: it was performed once, or not at all."""


class ReplyError(Exception):
    """What the server answered instead of a result; `code` is its first word."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


@dataclass(slots=True, eq=False)
class Call:
    """A command on its way. It is given up at `deadline` (the loop's time); `again`: to repeat it does no harm; `key`
    decides which node of a cluster has it (none: any); it may block for `blocks` seconds before it is answered."""

    words: tuple[Word, ...]
    future: asyncio.Future[Any]
    deadline: float
    again: bool = True
    key: Word = ""
    blocks: float = 0.0
    due: float = inf  # the loop's time by which a sent one must be answered
    tries: int = 0  # how often the server put it off

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Dial:
    """How a server is reached: `where` is asked at each attempt (a Sentinel may name another), `greeting` is what is
    said first."""

    where: Callable[[], Awaitable[Address]]
    tls: ssl.SSLContext | None
    greeting: Sequence[tuple[Word, ...]]
    answer_seconds: float

    async def connect(self, push: Callable[[list[Any]], None] | None = None) -> Wire:
        """Raises OSError, TimeoutError or ReplyError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.answer_seconds):
            address = await self.where()
            wire = Wire(push)
            await loop.create_connection(lambda: wire, address.host, address.port, ssl=self.tls)
            try:
                await wire.ask(self.greeting, loop.time() + self.answer_seconds)
            except BaseException:
                wire.drop("it was not let in")
                raise
        return wire


def greeting(credentials: Credentials, db: int) -> Sequence[tuple[Word, ...]]:
    """What is said to a server first."""
    named: Word = db
    return [words for words in (credentials.words, ("SELECT", named) if db else ()) if words]


class Wire(asyncio.Protocol):
    """One TCP connection: writes commands, hands out answers in their order."""

    def __init__(self, push: Callable[[list[Any]], None] | None = None) -> None:
        self.sent: deque[Call] = deque()
        self.lost: Callable[[str], None] = lambda reason: None
        self.hear: Callable[[Call, ReplyError], None] = lambda call, error: call.fail(error)
        self.drained: Callable[[], None] = lambda: None
        self.full = False
        self.ended = ""
        self._push = push
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOT_YET)

    async def ask(self, commands: Sequence[tuple[Word, ...]], deadline: float) -> Sequence[Any]:
        """Their answers; raises ReplyError, or ConnectionError if it ends before."""
        loop = asyncio.get_running_loop()
        calls = [Call(words, loop.create_future(), deadline) for words in commands]
        self.send(calls, deadline)
        try:
            return await asyncio.gather(*(call.future for call in calls))
        finally:
            for call in calls:
                call.future.cancel()

    def send(self, calls: Sequence[Call], due: float) -> None:
        if self._transport is None or self.ended:
            for call in calls:
                call.fail(ConnectionError(self.ended))
            return
        for call in calls:
            call.due = due + call.blocks
        self.sent.extend(calls)
        self._transport.write(b"".join([_pack(call.words) for call in calls]))

    def drop(self, reason: str) -> None:
        """End it now, whatever is in its buffer."""
        self.ended = self.ended or reason
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_TOO_MUCH)
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.ended or (str(exc) if exc else "the server closed the connection")
        self.lost(self.ended)
        for call in self.sent:
            call.fail(ConnectionError(self.ended))

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOT_YET:
                self._heard(reply)
        except hiredis.ProtocolError as error:
            self.drop(f"what came is not RESP: {error}")

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.drained()

    def _heard(self, reply: Any) -> None:
        if self._push is not None and type(reply) is list and reply and reply[0] == b"message":
            self._push(reply)
        elif not self.sent:
            self.drop("an answer came that nobody asked for")
        else:
            call = self.sent.popleft()
            if type(reply) is ReplyError:
                self.hear(call, reply)
            elif not call.future.done():
                call.future.set_result(reply)


class Line:
    """Commands for one server, over one connection after the other.

    random: uniform in [0, 1), for the waits between two attempts to connect.
    hear: told of each command that was answered with an error.
    push: told of what the server sends unasked; a line with it stays connected, and calls `hello` each time that it is.
    stranded: told when no connection could be had; it may `take` what waits, to send it elsewhere."""

    def __init__(
        self,
        name: str,
        dial: Dial,
        random: Callable[[], float],
        hear: Callable[[Call, ReplyError], None],
        push: Callable[[list[Any]], None] | None = None,
        hello: Callable[[], None] = lambda: None,
        stranded: Callable[[Line], None] = lambda line: None,
    ) -> None:
        self.trouble = ""
        self._name = name
        self._dial = dial
        self._random = random
        self._hear = hear
        self._push = push
        self._hello = hello
        self._stranded = stranded
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[Call] = deque()
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flushing = False
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many commands have no answer yet."""
        return len(self._unsent) + (len(self._wire.sent) if self._wire is not None else 0)

    @property
    def connected(self) -> bool:
        return self._wire is not None

    def put(self, call: Call) -> None:
        """Send it with the next write; its future hears the answer."""
        if self._closed:
            call.fail(StoreUnavailable(f"{self._name} was closed"))
            return
        self._unsent.append(call)
        self._go_on()
        if self._watch is None:
            self._watch = self._loop.call_at(call.deadline, self._look)

    def take(self) -> Sequence[Call]:
        """What has not gone out yet, which is then no longer this line's."""
        calls = [call for call in self._unsent if not call.future.done()]
        self._unsent.clear()
        return calls

    def drop(self, reason: str) -> None:
        """Go on over a new connection."""
        if self._wire is not None:
            self._wire.drop(reason)

    def close(self) -> None:
        """Now; what waits fails."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._watch is not None:
            self._watch.cancel()
        self.drop("it was closed")
        self._lost("it was closed")
        for call in self._unsent:
            call.fail(StoreUnavailable(f"{self._name} was closed"))
        self._unsent.clear()

    def _go_on(self) -> None:
        if self._wire is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect(), name=f"redis: connect to {self._name}")
        elif not self._flushing and not self._wire.full:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._wire is None or self._wire.full or self._wire.ended:
            return
        if calls := self.take():
            due = self._loop.time() + self._dial.answer_seconds
            self._wire.send(calls, due)
            self._look_at(min(due, calls[0].deadline))

    async def _connect(self) -> None:
        failures = 0
        try:
            while not self._closed and (self._unsent or self._push):
                try:
                    wire = await self._dial.connect(self._push)
                except (OSError, TimeoutError, ReplyError, hiredis.HiredisError) as error:
                    failures += 1
                    self.trouble = str(error) or f"no answer within {self._dial.answer_seconds:g} s"
                    self._stranded(self)
                    await asyncio.sleep(backoff.reconnection(failures, self._random()))
                    continue
                self._adopt(wire)
                return
        finally:
            self._connecting = None

    def _adopt(self, wire: Wire) -> None:
        if wire.ended:
            self._loop.call_soon(self._go_on)
            return
        self.trouble = ""
        self._wire = wire
        wire.lost, wire.hear, wire.drained = self._lost, self._hear, self._go_on
        self._hello()
        self._go_on()

    def _lost(self, reason: str) -> None:
        wire, self._wire = self._wire, None
        if wire is None:
            return
        self.trouble = reason
        wire.lost = lambda _: None
        under_way = [call for call in wire.sent if not call.future.done()]
        wire.sent.clear()
        self._unsent.extendleft(call for call in reversed(under_way) if call.again)
        for call in under_way:
            if not call.again:
                call.fail(UnknownOutcome(f"{self._name}: {reason}, before it had answered"))
        if not self._closed and (self._unsent or self._push):
            self._go_on()

    def _look_at(self, at: float) -> None:
        if self._watch is None or at < self._watch.when():
            if self._watch is not None:
                self._watch.cancel()
            self._watch = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        """Give up what nobody answers in time."""
        self._watch = None
        now = self._loop.time()
        if self._wire is not None and self._wire.sent and self._wire.sent[0].due <= now:
            self.drop(reason := f"no answer within {self._dial.answer_seconds:g} s")
            self._lost(reason)
        for call in [call for call in self._unsent if call.deadline <= now]:
            self._unsent.remove(call)
            call.fail(
                UnknownOutcome(self._unanswered()) if call.due < inf else StoreUnavailable(self._unanswered())
            )
        due = [self._wire.sent[0].due] if self._wire is not None and self._wire.sent else []
        if due or self._unsent:
            self._watch = self._loop.call_at(min(*due, *(call.deadline for call in self._unsent), inf), self._look)

    def _unanswered(self) -> str:
        return f"{self._name} does not answer: {self.trouble or 'it is slow'}. Is the server up, and reachable?"
