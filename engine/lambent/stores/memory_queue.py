"""Lines in memory: the queue of asynchronous events, and the built-in queue (standard and FIFO).

Decides what is given next, what is out and until when, and which receipt still counts. Leaves to `semantics/` what a
failure means, and to `memory.py` who is connected. Every operation costs O(1) or O(log n) in what waits: nothing is
ever scanned, and what an abandoned entry leaves behind in a line or a heap is swept out once it is half of it.

Both kinds of queue judge time by the store's monotonic clock, so a wall clock that is set neither hides nor reveals
anything; a release `at` a wall-clock time is taken as a delay from now. A receipt names the latest receive: it counts
until the item is received again, deleted, or given back.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, Generic, TypeVar

from lambent.errors import InvalidParameterValue
from lambent.model import MAXIMUM_RECORD_BYTES, Delete, Event, Message, Queue, Release, Send, Settlement
from lambent.ports import Clock, World
from lambent.semantics.shapes import sqs_event, sqs_view

T = TypeVar("T")

DEDUPLICATION_SECONDS: Final = 300.0  # SQS: "any messages sent with the same deduplication id … within 5 minutes"
TERMINAL_RECORDS: Final = 10_000  # how many ended events can still be asked for
MAXIMUM_DELAY_SECONDS: Final = 900.0  # SQS: SendMessage, DelaySeconds
SWEEP_AT_LEAST: Final = 64  # abandoned entries that are not worth a sweep

# --------------------------------------------------------------------------- what both are made of


class Bell:
    """Wakes all who wait, each at most once for a ring. Nobody waiting: nothing is kept."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done() and not future.get_loop().is_closed():
                    future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Until it rings, at most so long."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await future
        except TimeoutError:
            pass
        finally:
            if future in self._waiting:
                self._waiting.remove(future)


@dataclass(slots=True, eq=False)
class Item(Generic[T]):
    """Something in a queue. `place` names its one valid entry in a line or among the timers; 0: it is gone."""

    value: T
    state: str = ""  # visible, in_flight or delayed
    place: int = 0
    receipt: str = ""
    order: int = 0
    born: float = 0.0  # on the monotonic clock


class Line(Generic[T]):
    """Items in the order of a key. Those that come in order cost O(1), those that come back O(log n)."""

    def __init__(self) -> None:
        self._tail: deque[tuple[float, int, Item[T]]] = deque()
        self._back: list[tuple[float, int, Item[T]]] = []

    def push(self, key: float, item: Item[T]) -> None:
        entry = (key, item.place, item)
        if not self._tail or entry >= self._tail[-1]:
            self._tail.append(entry)
        else:
            heapq.heappush(self._back, entry)

    def peek(self) -> Item[T] | None:
        tail, back = self._tail, self._back
        while tail and tail[0][2].place != tail[0][1]:
            tail.popleft()
        while back and back[0][2].place != back[0][1]:
            heapq.heappop(back)
        if tail and (not back or tail[0] < back[0]):
            return tail[0][2]
        return back[0][2] if back else None

    def pop(self) -> Item[T] | None:
        item = self.peek()
        if item is not None:
            if self._back and self._back[0][2] is item:
                heapq.heappop(self._back)
            else:
                self._tail.popleft()
        return item


class Timers(Generic[T]):
    """Items by the time at which something falls due. `valid(place, item)` says whether an entry still counts."""

    def __init__(self, valid: Callable[[int, Item[T]], bool] = lambda place, item: item.place == place) -> None:
        self._heap: list[tuple[float, int, Item[T]]] = []
        self._valid = valid
        self._abandoned = 0

    def push(self, at: float, item: Item[T]) -> bool:
        """True if it is now the first to fall due."""
        heapq.heappush(self._heap, (at, item.place, item))
        return self._heap[0][2] is item

    def abandon(self) -> None:
        """One entry counts no more."""
        self._abandoned += 1
        if self._abandoned > SWEEP_AT_LEAST and 2 * self._abandoned > len(self._heap):
            self._heap = [entry for entry in self._heap if self._valid(entry[1], entry[2])]
            heapq.heapify(self._heap)
            self._abandoned = 0

    def first(self) -> float:
        """When the next one falls due; infinity if none does."""
        while self._heap and not self._valid(self._heap[0][1], self._heap[0][2]):
            heapq.heappop(self._heap)
            self._abandoned -= 1
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> Iterator[Item[T]]:
        while self.first() <= now:
            yield heapq.heappop(self._heap)[2]


# --------------------------------------------------------------------------- asynchronous events


@dataclass(frozen=True, slots=True)
class Terminal:
    """How an event ended: `state` as its Delete said; `ended_at` in epoch seconds."""

    request_id: str
    function: str
    state: str
    attempts: int
    ended_at: float


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
        self.ended: dict[str, Terminal] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self._items: dict[str, Item[Event]] = {}
        self._claims: dict[str, Item[Event]] = {}
        self._places = itertools.count(1)

    def put(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.request_id not in self._items:
                item = self._items[event.request_id] = Item(event)
                line = self.lines.get(event.function)
                if line is None:
                    line = self.lines[event.function] = _FunctionLine()
                line.count += 1
                self._show(item)

    def surface(self) -> None:
        """What fell due (a release's time, an expired claim) waits again."""
        for item in self.timers.due(self.clock.monotonic()):
            self._show(item)

    def oldest(self, function: str) -> Event | None:
        line = self.lines.get(function)
        item = line.waiting.peek() if line else None
        return item.value if item else None

    def claim(self, function: str, claim_seconds: float) -> Event | None:
        line = self.lines.get(function)
        item = line.waiting.pop() if line else None
        if item is None:
            return None
        e = item.value
        self._claims.pop(item.receipt, None)
        item.place = next(self._places)
        item.receipt = f"{e.request_id}#{item.place}"
        item.state = "in_flight"
        item.value = Event(
            e.request_id, e.function, e.payload, e.accepted_at, e.qualifier, e.attempts + 1, e.deferrals, e.hops,
            e.trace_id, e.client_context, item.receipt,
        )  # fmt: skip
        self._claims[item.receipt] = item
        self._time(item, claim_seconds)
        return item.value

    def delete(self, receipt: str, state: str) -> bool:
        item = self._claims.pop(receipt, None)
        if item is None:
            return False
        event = item.value
        if item.state != "visible":
            self.timers.abandon()
        item.place = 0
        del self._items[event.request_id]
        line = self.lines[event.function]
        line.count -= 1
        if not line.count:
            del self.lines[event.function]
        self.counts[event.function, state] += 1
        self.ended[event.request_id] = Terminal(
            event.request_id, event.function, state, event.attempts, self.clock.now()
        )
        if len(self.ended) > TERMINAL_RECORDS:
            del self.ended[next(iter(self.ended))]
        return True

    def release(self, receipt: str, delay_seconds: float, give_back: bool) -> bool:
        item = self._claims.get(receipt)
        if item is None or item.state != "in_flight":
            return False
        event = item.value
        del self._claims[receipt]
        self.timers.abandon()
        item.value = replace(
            event,
            receipt="",
            attempts=event.attempts - give_back,
            deferrals=event.deferrals + 1 if give_back else 0,
        )
        item.receipt = ""
        if delay_seconds > 0:
            item.state = "delayed"
            item.place = next(self._places)
            self._time(item, delay_seconds)
        else:
            self._show(item)
        return True

    def expire(self, receipt: str) -> None:
        """As if the claim's time were over."""
        item = self._claims.get(receipt)
        if item is not None and item.state == "in_flight":
            self.timers.abandon()
            self._show(item)

    def _show(self, item: Item[Event]) -> None:
        item.state = "visible"
        item.place = next(self._places)
        event = item.value
        self.lines[event.function].waiting.push(event.accepted_at, item)
        for listener in self.listeners:
            listener.announce(event.function)

    def _time(self, item: Item[Event], delay_seconds: float) -> None:
        if self.timers.push(self.clock.monotonic() + delay_seconds, item):
            for listener in self.listeners:
                listener.bell.ring()  # they sleep until what was first before


class MemoryEvents:
    """The `EventQueue` of one connection: whom it told what, and what it has claimed."""

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
        self._lines.put(events)

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
        while (oldest := lines.oldest(function)) is not None:
            if len(events) >= limit or (accepted_before is not None and oldest.accepted_at >= accepted_before):
                self.announce(function)
                break
            event = lines.claim(function, claim_seconds)
            assert event is not None
            self._claimed.discard(oldest.receipt)
            self._claimed.add(event.receipt)
            events.append(event)
        return events

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self._lines.surface()
        return [self._settle(settlement) for settlement in settlements]

    async def pending(self) -> Mapping[str, int]:
        return {function: line.count for function, line in self._lines.lines.items()}

    def terminal(self, request_id: str) -> Terminal | None:
        """How an event ended, of the last 10,000 that did."""
        return self._lines.ended.get(request_id)

    def ended(self) -> Mapping[tuple[str, str], int]:
        """How many events ended, by (function, state)."""
        return dict(self._lines.counts)

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
            oldest = self._lines.oldest(function)
            if oldest is None:
                continue
            if function in hosted:
                self._told.add(function)
                yield function, oldest.accepted_at
            else:
                self._elsewhere[function] = None

    def _settle(self, settlement: Settlement) -> bool:
        self._claimed.discard(settlement.receipt)
        if isinstance(settlement, Delete):
            return self._lines.delete(settlement.receipt, settlement.state)
        delay_seconds = settlement.at - self._world.clock.now()
        return self._lines.release(settlement.receipt, delay_seconds, settlement.give_back)


# --------------------------------------------------------------------------- the built-in queue


@dataclass(slots=True)
class _Group:
    """One message group of a FIFO queue, in order; a standard queue is one group that is never locked."""

    waiting: Line[Message] = field(default_factory=Line)
    in_flight: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages can be received now, are out, or are delayed."""

    visible: int
    in_flight: int
    delayed: int


class QueueState:
    """One built-in queue, shared by the store's connections. Says nothing of a message twice; never waits."""

    def __init__(self, config: Queue, clock: Clock, dead_letters: Callable[[Queue], QueueState]) -> None:
        self.config = config
        self.bell = Bell()
        self._clock = clock
        self._dead_letters = dead_letters
        self._places = itertools.count(1)
        self._sequence = itertools.count(1)
        self._sent: dict[str, tuple[float, str]] = {}  # deduplication id: until when, and which message
        self.purge()

    def empty(self) -> bool:
        return not self._groups

    def purge(self) -> None:
        """Forget every message, also those that are out. What was sent in the last five minutes stays deduplicated."""
        self.counts: Counter[str] = Counter()
        self._groups: dict[str, _Group] = {}
        self._open: dict[str, None] = {}  # groups that have something to give, in the order of becoming so
        self._out: dict[str, Item[Message]] = {}
        self._timers: Timers[Message] = Timers()
        self._ages: Timers[Message] = Timers(lambda _, item: item.place != 0)

    def check(self, send: Send) -> None:
        """Raise InvalidParameterValue for what SendMessage would refuse."""
        size = len(send.body) if send.body.isascii() else len(_utf8(send.body))
        for name, attribute in send.attributes.items():
            size += len(_utf8(name)) + len(_utf8(attribute.data_type)) + len(_utf8(attribute.value))
        if not send.body:
            raise InvalidParameterValue("body must not be empty")
        if size > MAXIMUM_RECORD_BYTES:
            raise InvalidParameterValue(
                f"body and attributes must be at most {MAXIMUM_RECORD_BYTES} bytes together, not {size}"
            )
        if send.delay_seconds is not None and not 0 <= send.delay_seconds <= MAXIMUM_DELAY_SECONDS:
            raise InvalidParameterValue(f"delay_seconds must be 0 to 900, not {send.delay_seconds}")
        if not self.config.fifo:
            if send.deduplication_id is not None:
                raise InvalidParameterValue("deduplication_id is only for FIFO queues (fifo=True)")
        elif not send.group:
            raise InvalidParameterValue("group is required by a FIFO queue")
        elif send.delay_seconds is not None:
            raise InvalidParameterValue("delay_seconds of one message is not for FIFO queues: set the queue's")
        elif not send.deduplication_id and not self.config.content_based_deduplication:
            raise InvalidParameterValue("deduplication_id is required without content_based_deduplication")

    def send(self, send: Send, message_id: str) -> str:
        """Store a checked message; gives the id of the one stored, which for a duplicate is the earlier one's."""
        identity = send.deduplication_id
        if self.config.fifo:
            identity = identity or sha256(_utf8(send.body)).hexdigest()
            if (earlier := self._duplicate(identity)) is not None:
                return earlier
            self._sent[identity] = (self._clock.monotonic() + DEDUPLICATION_SECONDS, message_id)
        delay_seconds = self.config.delay_seconds if send.delay_seconds is None else send.delay_seconds
        self._add(
            Message(
                message_id, send.body, "", 0, self._clock.now(), 0.0, send.group, identity,
                None, send.attributes, send.hops,
            ),
            delay_seconds,
        )  # fmt: skip
        return message_id

    def receive(self, limit: int) -> list[Message]:
        """What is visible, at most `limit`; what was received too often moves to the dead-letter queue instead."""
        self.surface()
        given: list[Message] = []
        while len(given) < limit and self._open:
            name = next(iter(self._open))
            group = self._groups[name]
            while len(given) < limit and (item := group.waiting.pop()) is not None:
                if self.config.max_receive_count and item.value.receive_count >= self.config.max_receive_count:
                    self._bury(item)
                else:
                    given.append(self._give(item))
            self._open.pop(name, None)  # it goes to the end
            self._offer(name)
        return given

    def delete(self, receipt: str) -> bool:
        item = self._out.get(receipt)
        if item is None:
            return False
        self._remove(item)
        return True

    def release(self, receipt: str, delay_seconds: float, give_back: bool) -> bool:
        """ChangeMessageVisibility: the receipt goes on counting, unless it was given back."""
        item = self._out.get(receipt)
        if item is None or item.state != "in_flight":
            return False
        self._timers.abandon()
        if give_back:
            self._out.pop(item.receipt)
            first = item.value.first_received_at if item.value.receive_count > 1 else 0.0
            item.value = replace(item.value, receive_count=item.value.receive_count - 1, first_received_at=first)
            item.receipt = ""
        if delay_seconds > 0:
            self._hide(item, "in_flight", delay_seconds)
        else:
            self._show(item)
        return True

    def surface(self) -> None:
        """What fell due is visible; what is too old is gone."""
        now = self._clock.monotonic()
        for item in self._ages.due(now):
            self._remove(item, aged=True)
        for item in self._timers.due(now):
            self._show(item)

    def first_timer(self) -> float:
        """When the next message becomes visible by itself."""
        return self._timers.first()

    def _add(self, message: Message, delay_seconds: float, born: float | None = None) -> None:
        item = Item(message, order=next(self._sequence), born=self._clock.monotonic() if born is None else born)
        if self.config.fifo:
            item.value = replace(message, sequence_number=f"{item.order:020d}")
        name = self._name(item)
        if name not in self._groups:
            self._groups[name] = _Group()
        self._groups[name].count += 1
        if delay_seconds > 0:
            self._hide(item, "delayed", delay_seconds)
        else:
            self._show(item)
        self._ages.push(item.born + self.config.message_retention_period_seconds, item)

    def _give(self, item: Item[Message]) -> Message:
        m, now = item.value, self._clock.now()
        self._out.pop(item.receipt, None)
        self._hide(item, "in_flight", self.config.visibility_timeout_seconds)
        item.receipt = f"{m.id}#{item.place}"
        self._out[item.receipt] = item
        item.value = Message(
            m.id, m.body, item.receipt, m.receive_count + 1, m.sent_at, m.first_received_at or now,
            m.group, m.deduplication_id, m.sequence_number, m.attributes, m.hops,
        )  # fmt: skip
        return item.value

    def _bury(self, item: Item[Message]) -> None:
        self._remove(item)
        target = self._dead_letters(self.config)
        message = replace(item.value, receipt="", receive_count=0, first_received_at=0.0)
        if target.config.fifo:  # here its time begins anew; in a standard queue its age moves with it (SQS guide)
            target._add(replace(message, sent_at=self._clock.now()), 0)
        else:
            target._add(message, 0, item.born)

    def _remove(self, item: Item[Message], aged: bool = False) -> None:
        name = self._name(item)
        if item.state != "visible":
            self._timers.abandon()
        if not aged:
            self._ages.abandon()
        self._move(item, "")
        item.place = 0
        self._out.pop(item.receipt, None)
        group = self._groups[name]
        group.count -= 1
        if group.count:
            self._offer(name)
        else:
            del self._groups[name]
            self._open.pop(name, None)

    def _show(self, item: Item[Message]) -> None:
        self._move(item, "visible")
        item.place = next(self._places)
        name = self._name(item)
        self._groups[name].waiting.push(item.order if self.config.fifo else item.place, item)
        self._offer(name)

    def _hide(self, item: Item[Message], state: str, seconds: float) -> None:
        self._move(item, state)
        item.place = next(self._places)
        if self._timers.push(self._clock.monotonic() + seconds, item):
            self.bell.ring()  # they sleep until what was first before

    def _move(self, item: Item[Message], state: str) -> None:
        self.counts[item.state] -= 1
        self.counts[state] += 1
        group = self._groups[self._name(item)]
        group.in_flight += (state == "in_flight") - (item.state == "in_flight")
        item.state = state

    def _offer(self, name: str) -> None:
        group = self._groups.get(name)
        if group is None:
            return
        if (group.in_flight and self.config.fifo) or group.waiting.peek() is None:
            self._open.pop(name, None)
        else:
            self._open[name] = None
            self.bell.ring()

    def _name(self, item: Item[Message]) -> str:
        return item.value.group or "" if self.config.fifo else ""

    def _duplicate(self, identity: str) -> str | None:
        now = self._clock.monotonic()
        while self._sent and (oldest := next(iter(self._sent.items())))[1][0] <= now:
            del self._sent[oldest[0]]
        earlier = self._sent.get(identity)
        return earlier[1] if earlier else None


class MemoryQueue:
    """The built-in queue as one connection sees it."""

    capabilities = frozenset(
        {"delay", "fifo", "deduplication", "redrive", "retention", "release", "give_back", "purge", "depth"}
    )

    def __init__(self, state: QueueState, world: World) -> None:
        self._state = state
        self._world = world
        self._clock = state._clock
        self.arn = f"arn:aws:sqs:{world.region}:{world.account_id}:{state.config.name}"

    @property
    def visibility_timeout_seconds(self) -> float:
        return self._state.config.visibility_timeout_seconds

    @property
    def fifo(self) -> bool:
        return self._state.config.fifo

    async def send_many(self, sends: Sequence[Send]) -> Sequence[str]:
        """Raises InvalidParameterValue for what SendMessage would refuse; then none is stored."""
        for send in sends:
            self._state.check(send)
        return [self._state.send(send, self._world.new_id()) for send in sends]

    async def receive(self, limit: int, wait_seconds: float) -> Sequence[Message]:
        deadline = self._clock.monotonic() + wait_seconds
        while True:
            messages = self._state.receive(limit)
            now = self._clock.monotonic()
            if messages or now >= deadline:
                return messages
            await self._state.bell.wait(min(deadline, self._state.first_timer()) - now)

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self._state.surface()
        return [self._settle(settlement) for settlement in settlements]

    def view(self, message: Message) -> Mapping[str, object]:
        return sqs_view(message)

    def to_event(self, messages: Sequence[Message], windowed: bool) -> dict[str, object]:
        return sqs_event(messages, self.arn, self._world.region, windowed)

    async def depth(self) -> Depth:
        """How many messages there are, as GetQueueAttributes counts them (but exact)."""
        self._state.surface()
        counts = self._state.counts
        return Depth(counts["visible"], counts["in_flight"], counts["delayed"])

    async def purge(self) -> None:
        """Forget every message, also those that are out (PurgeQueue)."""
        self._state.purge()

    def _settle(self, settlement: Settlement) -> bool:
        if isinstance(settlement, Release):
            delay_seconds = settlement.at - self._world.clock.now()
            return self._state.release(settlement.receipt, delay_seconds, settlement.give_back)
        return self._state.delete(settlement.receipt)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidParameterValue(f"what is sent to a queue must be Unicode text: {error.reason}") from error
