"""`EventQueue` in a SQLite file: what is known here of the events in it, and which of them are held in memory.

Decides what is written before a caller hears of it: an event before it counts as accepted, its raised count of attempts
before it is handed out, how it ended before it is forgotten. Which event is next, until when a claim holds and which
receipt counts is `memory_events.py`'s, over the events that are in memory; the statements are `sqlite_event_rows.py`'s.

Claims are in memory only: one engine has the file for itself, and when another opens it they are void. Up to a limit
an event stays in memory from its put to its end, and is never read. Beyond it events are in the file alone, and of each
function a bound is known: what is only in the file is not older. They are read, in their order, when those in memory
run out. So a million waiting events take no memory, and opening the file does not read them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from lambent.errors import StoreUnavailable
from lambent.model import Delete, Event, Settlement
from lambent.ports import Clock, World
from lambent.stores import sqlite_event_rows as rows
from lambent.stores.memory_events import EventLines, MemoryEvents, counted
from lambent.stores.memory_lines import Item
from lambent.stores.sqlite_event_rows import Key
from lambent.stores.sqlite_file import SqliteFile

LIVE_EVENTS: Final = 20_000  # events that are held in memory
LIVE_BYTES: Final = 32 * 1024 * 1024  # of their payloads
LIVE_EVENTS_PER_FUNCTION: Final = 2_000  # so that one whose events pile up leaves room for the others
READ_EVENTS: Final = 500  # that are read at once when a function's run out
MAXIMUM_ENDED: Final = 100_000  # terminal records that are kept
SURFACE_SECONDS: Final = 0.1  # between two looks for what fell due in the file
RETRY_SECONDS: Final = 1.0  # after the file could not be read


class SqliteEvents:
    """The queue as the engine sees it. `recover` first."""

    held_seconds = inf

    def __init__(self, file: SqliteFile, world: World) -> None:
        self._file = file
        self._world = world
        self._lines = _DeepLines(world.clock)
        self._view = MemoryEvents(self._lines, world)
        self.due = self._view.due
        self._ended = 0  # terminal records
        self._bytes = 0
        self._life = 0
        self._surfacing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def recover(self) -> None:
        """Begin a life: every claim of a former one is void, its attempts stay counted."""
        self._life = await self._file.write(rows.begin_life, None)
        self._lines.begin(self._life)
        await self._overview()
        self._file.on_foreign_change(lambda: self._begin(self._newcomers))
        self._file.on_reopened(lambda: self._begin(self._overview))

    async def put_many(self, events: Sequence[Event]) -> None:
        await self._file.write(rows.put, events, lambda ids: self._accepted(events, ids))

    async def receive(
        self, function: str, limit: int, claim_seconds: float, accepted_before: float | None = None
    ) -> Sequence[Event]:
        lines = self._lines
        events = [*await self._view.receive(function, limit, claim_seconds, accepted_before)]
        try:
            while len(events) < limit and lines.lacks(function, accepted_before):
                await self._read_on(function, limit - len(events))
                events += await self._view.receive(function, limit - len(events), claim_seconds, accepted_before)
            if not events:
                return events
            ids = [(lines.items[event.request_id].order, event.attempts) for event in events]
            claim = (self._life, self._file.clock.now() + claim_seconds, ids)
            gone = await self._file.write(rows.claim, claim, patient=True)  # a caller's put comes first
        except (StoreUnavailable, asyncio.CancelledError):  # nobody has them
            for event in events:
                lines.unclaim(event.receipt)
            raise
        return self._still_there(events, gone) if gone else events

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        lines = self._lines
        lines.surface()
        now, wall = self._file.clock.now(), self._world.clock.now()
        taken: list[tuple[Item[Event], Settlement]] = []
        ends: list[rows.End] = []
        returns: list[rows.Return] = []
        answers: list[bool] = []
        for end in settlements:
            item = lines.settle(end)
            answers.append(item is not None)
            if item is None:
                continue
            taken.append((item, end))
            event = item.value
            if isinstance(end, Delete):
                ends.append((item.order, event.function, end.state, end.result, end.reason, now, end.give_back))
            else:
                due_at = now + end.at - wall if end.at > wall else None
                returns.append((item.order, *counted(event, end.give_back), due_at, end.reason))
        if taken:
            try:
                await self._file.write(rows.settle, (ends, returns), lambda _: self._settled(taken, wall), patient=True)
            except StoreUnavailable:
                for item, _ in taken:
                    lines.keep(item)
                raise
        return answers

    async def pending(self) -> Mapping[str, int]:
        return await self._file.read(rows.pending, None)

    async def sweep(self) -> None:
        """Forget the oldest terminal records above the limit."""
        while self._ended > MAXIMUM_ENDED:
            excess = min(self._ended - MAXIMUM_ENDED, rows.SWEPT_AT_ONCE)
            await self._file.write(rows.forget_ended, excess)
            self._ended -= excess

    async def close(self) -> None:
        """Its claims are void at once; the attempts stay counted, as after a crash."""
        if self._closed or not self._life:
            return  # it has claimed nothing
        self._closed = True
        self._view.close()
        if self._surfacing is not None:
            self._surfacing.cancel()
        for task in self._tasks:
            task.cancel()
        with suppress(StoreUnavailable):
            await self._file.write(rows.begin_life, None)

    # --- what is in memory -----------------------------------------------------------------------------------------

    def _accepted(self, events: Sequence[Event], ids: Sequence[int]) -> None:
        for event, id in zip(events, ids, strict=True):
            if id and self._is_full(event.function):
                self._left_to_the_file(event.function, (event.accepted_at, id - 1))
            elif id:
                self._hold(event, id)

    def _settled(self, taken: Sequence[tuple[Item[Event], Settlement]], wall: float) -> None:
        """It is written: what ended is forgotten here, the rest waits again."""
        for item, end in taken:
            if isinstance(end, Delete):
                self._ended += 1
                self._forget(item)
            elif end.at > wall and len(self._lines.items) >= LIVE_EVENTS:
                self._forget(item)
                self._surface_at(self._file.clock.now() + end.at - wall)
            else:
                self._lines.give_back(item, end.at - self._world.clock.now(), end.give_back)

    def _is_full(self, function: str) -> bool:
        """Must an event of it be left to the file? Always behind others that were."""
        lines = self._lines
        if function in lines.beyond or len(lines.items) >= LIVE_EVENTS or self._bytes >= LIVE_BYTES:
            return True
        line = lines.lines.get(function)
        return line is not None and line.count >= LIVE_EVENTS_PER_FUNCTION

    def _left_to_the_file(self, function: str, bound: Key) -> None:
        self._lines.put_beyond(function, bound)
        self._view.announce(function)

    def _hold(self, event: Event, id: int) -> None:
        if event.request_id not in self._lines.items:
            self._bytes += len(event.payload)
            self._lines.put(event, id)

    def _forget(self, item: Item[Event]) -> None:
        self._bytes -= len(item.value.payload)
        self._lines.end(item)

    def _still_there(self, events: Sequence[Event], gone: Collection[int]) -> Sequence[Event]:
        """Without those that somebody else removed from the file, or ended there."""
        there = []
        for event in events:
            if self._lines.items[event.request_id].order not in gone:
                there.append(event)
            elif (item := self._lines.settle(Delete(event.receipt))) is not None:
                self._forget(item)
        return there

    async def _read_on(self, function: str, limit: int) -> None:
        """Take more of a function's events into memory: as many as are wanted, and some that will be if there is
        room."""
        beyond = self._lines.beyond[function]
        async with beyond.reading:
            if self._lines.beyond.get(function) is beyond:
                room = len(self._lines.items) < LIVE_EVENTS and self._bytes < LIVE_BYTES
                wanted = max(limit, READ_EVENTS) if room else limit
                beyond.arrived = None
                await self._file.read(
                    rows.waiting, (function, beyond.bound, wanted), lambda found: self._read(function, beyond, found)
                )

    def _read(self, function: str, beyond: _Beyond, found: rows.Waiting) -> None:
        for id, event in found.events:
            self._hold(event, id)
        if beyond.advance(found.last):
            del self._lines.beyond[function]

    # --- what is in the file ---------------------------------------------------------------------------------------

    async def _overview(self) -> None:
        """Learn what is in the file, and may not be here."""
        found = await self._file.write(rows.overview, None)
        self._ended = found.ended
        for function, accepted_at in found.waiting.items():
            self._left_to_the_file(function, (accepted_at, 0))
        if found.due_at is not None:
            self._surface_at(found.due_at)

    async def _newcomers(self) -> None:
        """Events that clients have put."""
        for function, bound in await self._file.write(rows.newcomers, None):
            self._left_to_the_file(function, bound)

    def _surface_at(self, due_at: float) -> None:
        """See then to what falls due in the file."""
        seconds = max(due_at - self._file.clock.now(), 0.0)
        when = asyncio.get_running_loop().time() + seconds
        if self._surfacing is None or self._surfacing.when() > when:
            if self._surfacing is not None:
                self._surfacing.cancel()
            self._surfacing = asyncio.get_running_loop().call_later(seconds, self._begin, self._surface)

    async def _surface(self) -> None:
        self._surfacing = None
        found = await self._file.write(rows.surface, self._file.clock.now())
        for request_id, function, bound in found.surfaced:
            if request_id not in self._lines.items:
                self._left_to_the_file(function, bound)
        if found.due_at is not None:
            self._surface_at(max(found.due_at, self._file.clock.now() + SURFACE_SECONDS))

    def _begin(self, see: Callable[[], Awaitable[None]]) -> None:
        if not self._closed:
            task = asyncio.create_task(self._until_seen(see), name="events: look into the file")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _until_seen(self, see: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await see()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)


@dataclass(slots=True)
class _Beyond:
    """Events of a function that are in the file only: none is at or before `bound`. `arrived`: the lowest bound of
    those that came since the last read began."""

    bound: Key
    arrived: Key | None = None
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def advance(self, last: Key | None) -> bool:
        """All up to `last` were read, or all; is nothing left?"""
        if last is not None:
            self.bound = min(last, self.arrived or last)
        return last is None and self.arrived is None


class _DeepLines(EventLines):
    """Lines that go on in the file."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.beyond: dict[str, _Beyond] = {}

    def begin(self, life: int) -> None:
        """Receipts of different lives differ."""
        self.places = itertools.count(life << 40)

    def put_beyond(self, function: str, bound: Key) -> None:
        beyond = self.beyond.get(function)
        if beyond is None:
            self.beyond[function] = _Beyond(bound, bound)
        else:
            beyond.bound = min(beyond.bound, bound)
            beyond.arrived = min(beyond.arrived or bound, bound)

    def oldest_at(self, function: str) -> float | None:
        here, beyond = super().oldest_at(function), self.beyond.get(function)
        if beyond is None:
            return here
        return beyond.bound[0] if here is None else min(here, beyond.bound[0])

    def claimable(self, function: str, accepted_before: float | None) -> Item[Event] | None:
        oldest, beyond = super().claimable(function, accepted_before), self.beyond.get(function)
        passed = oldest and beyond and (oldest.value.accepted_at, oldest.order) > beyond.bound
        return None if passed else oldest

    def lacks(self, function: str, accepted_before: float | None) -> bool:
        """Is an event that could be claimed next in the file only, if anywhere?"""
        beyond = self.beyond.get(function)
        if beyond is None or (accepted_before is not None and beyond.bound[0] >= accepted_before):
            return False
        return self.claimable(function, accepted_before) is None

    def unclaim(self, receipt: str) -> None:
        """As if it had not been claimed."""
        item = self.settle(Delete(receipt))
        if item is not None:
            item.value = replace(item.value, attempts=item.value.attempts - 1, receipt="")
            item.receipt = ""
            self.show(item)
