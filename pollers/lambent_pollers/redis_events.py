"""`EventQueue` on Redis: the asynchronous events of all engines, one line a function.

Decides how an event is written, when the server is asked what is due, what each connection was told, and what is
repeated when an answer was lost. Which event is claimed next, until when, and which receipt counts is decided inside
the server, each call in one step, by `redis_events.lua`; what a failure means, by `semantics/asynchronous.py`.

Nothing is ever popped: what is claimed stays at the server, and is due again when its claim ends. All of it has one
slot of a cluster, so that a put of many functions' events is one step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, Final
from zlib import crc32

from lambent.errors import StoreUnavailable
from lambent.model import Delete, Event, EventFact, Settlement
from lambent.ports import World
from lambent_pollers.redis_calls import Calls, Scripts
from lambent_pollers.redis_connection import RedisServer, Word
from lambent_pollers.redis_gathering import Gathering

LOOK_SECONDS: Final = 5.0  # at most, between two looks for what a dead engine had claimed

_SCRIPTS: Final = Scripts("redis_events.lua")
_PARTS: Final = ("lines", "timers", "states", "bodies", "counts", "last", "ended", "endings", "totals", "claims")
_SETTLE_BYTES: Final = 150  # about what one settlement takes in a call, beside its result and reason
_FIELDS: Final = 5  # of an event in an answer


class RedisEvents:
    """The queue as one connection sees it: whom it told what, and what it has claimed. Everything may raise
    StoreUnavailable: nothing is known to be done."""

    def __init__(self, server: RedisServer, world: World, held_seconds: float) -> None:
        self.held_seconds = held_seconds
        self._server = server
        self._world = world
        self._calls = Calls(server, _SCRIPTS, "events")
        self._keys = tuple(self._calls.key(part) for part in _PARTS)
        self._bell = server.bell(self._keys[0])
        self._bell.on_ring[self] = self._ring
        self._wake = asyncio.Event()
        self._look_at = -inf  # when the server has to be asked (the loop's time)
        self._fresh: dict[str, float] = {}  # functions with something to claim, of which nobody was told
        self._told: set[str] = set()
        self._claimed: set[str] = set()
        self._unheard: dict[str, None] = {}  # claims that may have got something, and were not answered
        self._putting = Gathering(self._put)
        self._settling = Gathering(self._settle)

    async def put_many(self, events: Sequence[Event]) -> None:
        words, size = list[Word](), 0
        for event in events:
            body = _packed(event)
            words += (event.request_id, round(event.accepted_at * 1e6), event.function, body)
            size += len(body)
        if events:
            await self._putting.put(words, 0, size)

    async def due(self, hosted: Collection[str], wait_seconds: float) -> Sequence[tuple[str, float]]:
        """As the port says. Who waits is woken by a put, in whichever process, and by the next time-out."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        if wait_seconds > 0:
            await self._bell.listen()
        while True:
            self._wake.clear()
            if loop.time() >= self._look_at:
                await self._look(loop)
            if found := [(function, at) for function, at in self._fresh.items() if function in hosted]:
                for function, _ in found:
                    del self._fresh[function]
                    self._told.add(function)
                return found
            now = loop.time()
            if now >= deadline:
                return found
            try:
                async with asyncio.timeout(min(deadline, self._look_at) - now):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def receive(
        self, function: str, limit: int, claim_seconds: float, accepted_before: float | None = None
    ) -> Sequence[Event]:
        self._told.discard(function)
        before = "" if accepted_before is None else round(accepted_before * 1e6)
        words = (self._world.owner, function, limit, round(claim_seconds * 1e6), before)
        call = self._calls.name()
        future = self._calls.start("claim", self._keys, *words, call=call)
        try:
            left, *rows = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(partial(self._unwanted, call))
            raise
        except StoreUnavailable:
            self._give_back(call)
            raise
        if left:
            self._announce(function, int(left) / 1e6)
        self._look_at = min(self._look_at, asyncio.get_running_loop().time() + claim_seconds)
        events = [_event(row) for row in _grouped(rows)]
        if None in events:
            await self._set_aside([row[0] for row in _grouped(rows) if _event(row) is None])
        claimed = [event for event in events if event is not None]
        self._claimed.update(event.receipt for event in claimed)
        return claimed

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        loop, now = asyncio.get_running_loop(), self._world.clock.now()
        words, size = list[Word](), 0
        for each in settlements:
            request_id, _, number = each.receipt.rpartition("#")
            if isinstance(each, Delete):
                words += (request_id, number or 0, "", int(each.give_back), each.reason, each.state, each.result)
                size += len(each.result)
            else:
                delay = max(0.0, each.at - now)
                words += (request_id, number or 0, round(delay * 1e6), int(each.give_back), each.reason, "", b"")
                self._look_at = min(self._look_at, loop.time() + delay)
            size += _SETTLE_BYTES + len(each.reason)
        if not settlements:
            return []
        answers = await self._settling.put(words, len(settlements), size)
        self._claimed.difference_update(each.receipt for each in settlements)
        self._wake.set()  # it may be due sooner than whoever waits would look
        return [answer == ord("1") for answer in answers]

    async def pending(self) -> Mapping[str, int]:
        return _counted(await self._server.call("HGETALL", self._keys[4]))

    async def leave(self) -> None:
        """What it has claimed is due again at once; the attempt stays counted, as after a crash."""
        self._bell.on_ring.pop(self, None)
        self._wake.set()
        claimed, self._claimed = sorted(self._claimed), set()
        await self._unclaim()
        if claimed:
            await self._calls.run("expire", self._keys, *(word for each in claimed for word in each.rsplit("#", 1)))

    async def others(self, engines: Collection[str]) -> Sequence[str]:
        """Who has something claimed and is none of these."""
        return [name.decode() for name in await self._calls.run("others", self._keys, *engines)]

    async def bury(self, engines: Collection[str]) -> None:
        """What these had claimed is due again, the attempt counted. One that lives after all keeps what nobody else
        claims before it settles."""
        await self._calls.run("bury", self._keys, *engines)

    # --- for `Facts` -------------------------------------------------------------------------------------------------

    async def fact(self, request_id: str) -> EventFact | None:
        """As `Facts.event`."""
        now, state, body, timer, ended = await self._calls.run("look", self._keys, request_id)
        if state is None:
            return ended and _ended(request_id, ended)
        number, attempts, deferrals, rest = state.split(b" ", 3)
        event = _event((request_id.encode(), number, int(attempts), int(deferrals), body))
        if event is None:
            return None
        due_at = float(timer or 0)
        waits = due_at <= int(now)
        running = not waits and event.receipt
        event.receipt = event.receipt if running else ""
        reason = rest.split(b"\n", 1)[1].decode()
        return EventFact(event, "running" if running else "waiting", max(due_at, int(now)) / 1e6, reason)

    async def ended(self) -> Mapping[tuple[str, str], int]:
        """As `Facts`."""
        totals = _counted(await self._server.call("HGETALL", self._keys[8]))
        parts = {tuple(total.split("\0", 1)): count for total, count in totals.items()}
        return {(function, state): count for (function, state), count in parts.items()}

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _put(self, words: Sequence[Word]) -> Sequence[Any]:
        await self._calls.run("put", self._keys, *words, adds=True)
        return ()

    async def _settle(self, words: Sequence[Word]) -> Sequence[Any]:
        answers: bytes = await self._calls.run("settle", self._keys, *words)
        return answers

    async def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Learn who has something to claim, and when that may change by itself."""
        before, self._look_at = self._look_at, loop.time() + LOOK_SECONDS
        try:
            await self._unclaim()
            next_in, *ready = await self._calls.run("due", self._keys)
        except BaseException:
            self._look_at = before
            raise
        for function, accepted_at in zip(ready[::2], ready[1::2], strict=True):
            self._announce(function.decode(), int(accepted_at) / 1e6)
        if next_in >= 0:
            self._look_at = min(self._look_at, loop.time() + next_in / 1e6)

    async def _unclaim(self) -> None:
        for call in list(self._unheard):
            await self._calls.run("unclaim", self._keys, call=call)
            self._unheard.pop(call, None)

    def _announce(self, function: str, accepted_at: float) -> None:
        if function not in self._told:
            self._fresh[function] = accepted_at
            self._wake.set()

    def _ring(self) -> None:
        self._look_at = -inf
        self._wake.set()

    def _unwanted(self, call: str, future: asyncio.Future[Any]) -> None:
        """A caller was cancelled: what it would have got is given back."""
        if future.cancelled() or future.exception() is not None:
            self._give_back(call)
            return
        _, *rows = future.result()
        if rows:
            words = [word for row in _grouped(rows) for word in (row[0], row[1], 0, 1, "", "", b"")]
            self._calls.start("settle", self._keys, *words).add_done_callback(_heard)

    def _give_back(self, call: str) -> None:
        """What this claim got, if anything, as soon as the server is there: it would be out of reach until its end."""
        self._unheard[call] = None
        self._ring()

    async def _set_aside(self, ids: Sequence[bytes]) -> None:
        quarantine = self._calls.key("quarantine")
        await self._server.run(
            _SCRIPTS.goes_on, (*self._keys, self._calls.key("call", ""), quarantine), "set_aside", 0, *ids
        )
        names = ", ".join(each.decode() for each in ids)
        self._server.trouble(
            f"{self._server}: damaged events are set aside: {names}. The hash {quarantine} has what is left of them"
        )


def _packed(event: Event) -> bytes:
    """An event as it is kept: a checksum, what stands beside its payload as JSON, and after a line break the payload.
    What changes is not in it."""
    head = (
        event.function, event.accepted_at, event.qualifier, event.hops, event.trace_id, event.client_context,
    )  # fmt: skip
    content = b"%b\n%b" % (json.dumps(head).encode(), event.payload)
    return b"%08x%b" % (crc32(content, crc32(event.request_id.encode())), content)


def _event(row: Sequence[Any]) -> Event | None:
    """None: it is damaged."""
    request_id, number, attempts, deferrals, packed = row
    if packed is None or packed[:8] != b"%08x" % crc32(packed[8:], crc32(request_id)):
        return None
    head, _, payload = packed[8:].partition(b"\n")
    function, accepted_at, qualifier, hops, trace_id, client_context = json.loads(head)
    name = request_id.decode()
    receipt = "" if number in (b"0", 0) else f"{name}#{number.decode()}"
    return Event(
        name, function, payload, accepted_at, qualifier, attempts, deferrals, hops, trace_id, client_context, receipt
    )


def _ended(request_id: str, text: bytes) -> EventFact:
    """How it ended; kept without its payload."""
    numbers, _, rest = text.partition(b"\n")
    at, attempts, *sizes = map(int, numbers.split())
    parts, begin = [], 0
    for size in sizes:
        parts.append(rest[begin : begin + size])
        begin += size
    state, reason, head = parts
    function, accepted_at, qualifier, *_ = json.loads(head or '["", 0.0, null]')
    event = Event(request_id, function, b"", accepted_at, qualifier, attempts)
    return EventFact(event, state.decode(), 0.0, reason.decode(), at / 1e6, rest[begin:])


def _grouped(words: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (words[first : first + _FIELDS] for first in range(0, len(words), _FIELDS))


def _counted(found: Any) -> Mapping[str, int]:
    return {name.decode(): int(count) for name, count in found.items()}


def _heard(future: asyncio.Future[Any]) -> None:
    """Nobody waits for its answer."""
    if not future.cancelled():
        future.exception()
