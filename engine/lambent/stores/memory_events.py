"""The queue of asynchronous events in memory: one line a function, and what each connection was told of it.

Decides which event is claimed next, until when, and which receipt still counts. Leaves to `semantics/asynchronous.py`
what a failure means, and to the dispatcher which function may run now. A million events of one function cost the
others nothing, and a function without events has no line.

Time is the store's monotonic clock: a release `at` a wall-clock time is taken as a delay from now, so a wall clock that
is set neither hides nor reveals an event. A receipt counts until its event is claimed again, released or deleted.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from lambent.model import Delete, Event, EventFact, Release, Settlement
from lambent.ports import Clock, World
from lambent.stores.memory_lines import Bell, Item, Line, Timers

TERMINAL_RECORDS: Final = 10_000  # how many ended events can still be asked for


@dataclass(slots=True)
class _FunctionLine:
    waiting: Line[Event] = field(default_factory=Line)
    count: int = 0


class EventLines:
    """All events of a store, one line a function, shared by its connections. A function without events has no line."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lines: dict[str, _FunctionLine] = {}
        self.timers: Timers[Event] = Timers()
        self.listeners: list[MemoryEvents] = []
        self.ended: OrderedDict[str, EventFact] = OrderedDict()  # a dict is slow to find its first after many deletions
        self.counts: Counter[tuple[str, str]] = Counter()
        self.items: dict[str, Item[Event]] = {}
        self.reasons: dict[str, str] = {}  # of those that wait because of something
        self._claims: dict[str, Item[Event]] = {}
        self.places = itertools.count(1)

    def put(self, event: Event, order: int = 0) -> None:
        """One whose id is here already changes nothing."""
        if event.request_id not in self.items:
            item = self.items[event.request_id] = Item(event, order=order)
            line = self.lines.get(event.function)
            if line is None:
                line = self.lines[event.function] = _FunctionLine()
            line.count += 1
            self.show(item)

    def surface(self) -> None:
        """What fell due (a release's time, an expired claim) waits again."""
        now = self.clock.monotonic()
        if self.timers.first() <= now:
            for item in self.timers.due(now):
                self.show(item)

    def oldest(self, function: str) -> Item[Event] | None:
        """The next one to be claimed."""
        line = self.lines.get(function)
        return line.waiting.peek() if line else None

    def claimable(self, function: str, accepted_before: float | None) -> Item[Event] | None:
        """The next one, if it was accepted before that time."""
        oldest = self.oldest(function)
        young = oldest and accepted_before is not None and oldest.value.accepted_at >= accepted_before
        return None if young else oldest

    def oldest_at(self, function: str) -> float | None:
        """When the next one was accepted; None: there is none."""
        oldest = self.oldest(function)
        return oldest.value.accepted_at if oldest else None

    def claim(self, function: str, claim_seconds: float) -> Event | None:
        line = self.lines.get(function)
        item = line.waiting.pop() if line else None
        if item is None:
            return None
        e = item.value
        self._claims.pop(item.receipt, None)
        item.place = next(self.places)
        item.receipt = f"{e.request_id}#{item.place}"
        item.state = "in_flight"
        item.value = Event(
            e.request_id, e.function, e.payload, e.accepted_at, e.qualifier, e.attempts + 1, e.deferrals, e.hops,
            e.trace_id, e.client_context, item.receipt,
        )  # fmt: skip
        self._claims[item.receipt] = item
        self._time(item, claim_seconds)
        return item.value

    def settle(self, settlement: Settlement) -> Item[Event] | None:
        """Take the event out of what can be claimed, until `end` or `give_back` says what became of it. None: the
        receipt is stale."""
        item = self._claims.get(settlement.receipt)
        if item is None or (isinstance(settlement, Release) and item.state != "in_flight"):
            return None
        del self._claims[settlement.receipt]
        if item.state != "visible":
            self.timers.abandon()
        item.state = "settling"
        item.place = 0
        return item

    def end(self, item: Item[Event]) -> None:
        """It is settled for good."""
        event = item.value
        del self.items[event.request_id]
        line = self.lines[event.function]
        line.count -= 1
        if not line.count:
            del self.lines[event.function]

    def give_back(self, item: Item[Event], delay_seconds: float, give_back: bool) -> None:
        """It waits again, visible after the delay."""
        attempts, deferrals = counted(item.value, give_back)
        item.value = replace(item.value, receipt="", attempts=attempts, deferrals=deferrals)
        item.receipt = ""
        if delay_seconds > 0:
            item.state = "delayed"
            item.place = next(self.places)
            self._time(item, delay_seconds)
        else:
            self.show(item)

    def keep(self, item: Item[Event]) -> None:
        """It could not be settled: its claim goes on."""
        item.state = "in_flight"
        item.place = next(self.places)
        self._claims[item.receipt] = item
        self._time(item, item.due - self.clock.monotonic())

    def record(self, event: Event, end: Delete) -> None:
        """How it ended; kept without its payload."""
        self.counts[event.function, end.state] += 1
        attempts = event.attempts - end.give_back
        kept = Event(event.request_id, event.function, b"", event.accepted_at, event.qualifier, attempts)
        reason = self.reasons.pop(event.request_id, "")
        self.ended[event.request_id] = EventFact(
            kept, end.state, 0.0, end.reason or reason, self.clock.now(), end.result
        )
        if len(self.ended) > TERMINAL_RECORDS:
            self.ended.popitem(last=False)

    def fact(self, request_id: str) -> EventFact | None:
        item = self.items.get(request_id)
        if item is None:
            return self.ended.get(request_id)
        state = "running" if item.state == "in_flight" else "waiting"
        left = 0.0 if item.state == "visible" else item.due - self.clock.monotonic()
        return EventFact(item.value, state, self.clock.now() + left, self.reasons.get(request_id, ""))

    def expire(self, receipt: str) -> None:
        """As if the claim's time were over."""
        item = self._claims.get(receipt)
        if item is not None and item.state == "in_flight":
            self.timers.abandon()
            self.show(item)

    def show(self, item: Item[Event]) -> None:
        """It can be claimed."""
        item.state = "visible"
        item.place = next(self.places)
        event = item.value
        self.lines[event.function].waiting.push(event.accepted_at, item)
        for listener in self.listeners:
            listener.announce(event.function)

    def _time(self, item: Item[Event], delay_seconds: float) -> None:
        if self.timers.push(self.clock.monotonic() + delay_seconds, item):
            for listener in self.listeners:
                listener.bell.ring()  # they sleep until what was first before


def counted(event: Event, give_back: bool) -> tuple[int, int]:
    """The attempts and deferrals of an event that is released."""
    return event.attempts - give_back, event.deferrals + 1 if give_back else 0


class MemoryEvents:
    """The `EventQueue` of one connection: whom it told what, and what it has claimed."""

    held_seconds = inf

    def __init__(self, lines: EventLines, world: World) -> None:
        self.bell = Bell()
        self._lines = lines
        self._world = world
        self._fresh: dict[str, None] = dict.fromkeys(lines.lines)
        self._elsewhere: dict[str, None] = {}  # not hosted when we looked
        self._told: set[str] = set()
        self._claimed: set[str] = set()
        lines.listeners.append(self)

    def announce(self, function: str) -> None:
        """There is something to run for it."""
        if function not in self._told:
            self._fresh[function] = None
            self.bell.ring()

    async def put_many(self, events: Sequence[Event]) -> None:
        for event in events:
            self._lines.put(event)

    async def due(self, hosted: Collection[str], wait_seconds: float) -> Sequence[tuple[str, float]]:
        clock = self._lines.clock
        deadline = clock.monotonic() + wait_seconds
        while True:
            self._lines.surface()
            found = list(self._tell(hosted))
            if not found and self._elsewhere:
                self._fresh, self._elsewhere = self._elsewhere, {}
                found = list(self._tell(hosted))
            now = clock.monotonic()
            if found or now >= deadline:
                return found
            await self.bell.wait(min(deadline, self._lines.timers.first()) - now)

    async def receive(
        self, function: str, limit: int, claim_seconds: float, accepted_before: float | None = None
    ) -> Sequence[Event]:
        lines = self._lines
        lines.surface()
        self._told.discard(function)
        events: list[Event] = []
        while len(events) < limit and (oldest := lines.claimable(function, accepted_before)) is not None:
            self._claimed.discard(oldest.receipt)
            event = lines.claim(function, claim_seconds)
            assert event is not None
            self._claimed.add(event.receipt)
            events.append(event)
        if lines.oldest_at(function) is not None:
            self.announce(function)
        return events

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self._lines.surface()
        return [self._settle(settlement) for settlement in settlements]

    async def pending(self) -> Mapping[str, int]:
        return {function: line.count for function, line in self._lines.lines.items()}

    def close(self) -> None:
        """What it has claimed is due again at once; the attempt stays counted, as after a crash."""
        if self in self._lines.listeners:
            self._lines.listeners.remove(self)
        self.bell.ring()
        for receipt in sorted(self._claimed):
            self._lines.expire(receipt)
        self._claimed.clear()

    def _tell(self, hosted: Collection[str]) -> Iterator[tuple[str, float]]:
        fresh, self._fresh = self._fresh, {}
        for function in fresh:
            oldest_at = self._lines.oldest_at(function)
            if oldest_at is None:
                continue
            if function in hosted:
                self._told.add(function)
                yield function, oldest_at
            else:
                self._elsewhere[function] = None

    def _settle(self, settlement: Settlement) -> bool:
        self._claimed.discard(settlement.receipt)
        item = self._lines.settle(settlement)
        if item is None:
            return False
        if isinstance(settlement, Delete):
            self._lines.end(item)
            self._lines.record(item.value, settlement)
        else:
            self._lines.give_back(item, settlement.at - self._world.clock.now(), settlement.give_back)
            self._lines.reasons.pop(item.value.request_id, None)
            if settlement.reason:
                self._lines.reasons[item.value.request_id] = settlement.reason
        return True
