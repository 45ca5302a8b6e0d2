"""The built-in queue in memory, standard and FIFO, as SQS behaves.

Decides which message is given next, when one is visible again, moves to the dead-letter queue, is a duplicate or too
old, and which receipt still counts. Leaves to `semantics/queue.py` what a failed batch means.

Time is the store's monotonic clock: a release `at` a wall-clock time is taken as a delay from now, so a wall clock that
is set neither hides nor reveals a message. A receipt counts until its message is received again, deleted or given back.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile, islice
from typing import cast

from lambent.model import Depth, Message, MessageFact, MessageState, Queue, Release, Send, Settlement
from lambent.ports import Clock, World
from lambent.semantics.builtin import DEDUPLICATION_SECONDS, QueueView, deduplication_id, sequence_number
from lambent.semantics.sending import check_send
from lambent.stores.memory_lines import Bell, Item, Line, Timers


@dataclass(slots=True)
class _Group:
    """One message group of a FIFO queue, in order; a standard queue is one group that is never locked."""

    waiting: Line[Message] = field(default_factory=Line)
    in_flight: int = 0
    count: int = 0


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
        self._items: dict[str, Item[Message]] = {}  # by message id, in the order of their coming
        self._groups: dict[str, _Group] = {}
        self._open: dict[str, None] = {}  # groups that have something to give, in the order of becoming so
        self._out: dict[str, Item[Message]] = {}
        self._timers: Timers[Message] = Timers()
        self._ages: Timers[Message] = Timers(lambda _, item: item.place != 0)

    def send(self, send: Send, message_id: str) -> str:
        """Store a checked message; gives the id of the one stored, which for a duplicate is the earlier one's."""
        identity = deduplication_id(send, self.config)
        if self.config.fifo and identity is not None:
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

    def claim(self, ids: Sequence[str]) -> list[Message]:
        """Those of them that can be received now."""
        self.surface()
        given = []
        for message_id in ids:
            item = self._items.get(message_id)
            if item is not None and item.state == "visible" and self._name(item) in self._open:
                given.append(self._give(item))
                self._offer(self._name(item))
        return given

    def facts(self) -> Iterator[MessageFact]:
        self.surface()
        return map(self._fact, self._items.values())

    def fact(self, message_id: str) -> MessageFact | None:
        self.surface()
        item = self._items.get(message_id)
        return None if item is None else self._fact(item)

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
            item.value = replace(message, sequence_number=sequence_number(item.order))
        self._items[message.id] = item
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
        del self._items[item.value.id]
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

    def _fact(self, item: Item[Message]) -> MessageFact:
        left = 0.0 if item.state == "visible" else item.due - self._clock.monotonic()
        due_at = self._clock.now() + left
        return MessageFact(self.config.name, item.value, cast(MessageState, item.state), due_at)

    def _name(self, item: Item[Message]) -> str:
        return item.value.group or "" if self.config.fifo else ""

    def _duplicate(self, identity: str) -> str | None:
        now = self._clock.monotonic()
        while self._sent and (oldest := next(iter(self._sent.items())))[1][0] <= now:
            del self._sent[oldest[0]]
        earlier = self._sent.get(identity)
        return earlier[1] if earlier else None


class MemoryQueue(QueueView):
    """The built-in queue as one connection sees it."""

    def __init__(self, state: QueueState, world: World) -> None:
        super().__init__(state.config.name, world.region, world.account_id)
        self._state = state
        self._world = world
        self._clock = state._clock

    @property
    def config(self) -> Queue:
        return self._state.config

    async def send_many(self, sends: Sequence[Send]) -> Sequence[str]:
        """Raises InvalidParameterValue for what SendMessage would refuse; then none is stored."""
        for send in sends:
            check_send(send, self._state.config)
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

    async def depth(self) -> Depth:
        self._state.surface()
        counts = self._state.counts
        return Depth(counts["visible"], counts["in_flight"], counts["delayed"])

    async def purge(self) -> None:
        self._state.purge()

    async def peek(self, limit: int, after: str = "") -> Sequence[MessageFact]:
        facts = self._state.facts()
        if after:
            facts = islice(dropwhile(lambda fact: fact.message.id != after, facts), 1, None)
        return list(islice(facts, limit))

    async def claim_many(self, ids: Sequence[str]) -> Sequence[Message]:
        return self._state.claim(ids)

    def _settle(self, settlement: Settlement) -> bool:
        if isinstance(settlement, Release):
            delay_seconds = settlement.at - self._world.clock.now()
            return self._state.release(settlement.receipt, delay_seconds, settlement.give_back)
        return self._state.delete(settlement.receipt)
