"""The built-in queue against a model of a few lines, in sequences of calls that nobody would think of.

The model keeps a plain list and scans it. What it allows is what SQS promises: any visible messages of a standard
queue; of a FIFO queue, from each group that has none in flight, its first ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lambent.model import Delete, Message, Queue, Release, Send
from lambent.ports import World
from lambent.stores.memory import MemoryStore
from lambent.stores.memory_queue import MemoryQueue

T = TypeVar("T")
VISIBILITY, RETENTION, MAXIMUM_RECEIVES = 10, 60, 1


class ManualClock:
    """The wall clock may be set; the monotonic one only goes on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.epoch = 1_700_000_000.0

    def now(self) -> float:
        return self.epoch + self.seconds

    def monotonic(self) -> float:
        return self.seconds


def done(call: Coroutine[Any, Any, T]) -> T:
    """The result of a call that has nothing to wait for."""
    try:
        call.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waited")


@dataclass(eq=False)
class Modelled:
    """A message as the model knows it; `until`: when it is visible, `ends`: when retention removes it."""

    id: str
    body: str
    group: str
    until: float
    ends: float
    receives: int = 0
    receipt: str = ""
    out: bool = False


class QueueMachine(RuleBasedStateMachine):
    fifo = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        ids = itertools.count()
        self.store = MemoryStore()
        world = World("engine-1", self.clock, lambda: 0.5, lambda: f"m{next(ids)}")
        self.connection = done(self.store.connect(world))
        self.queue = self.declare("q", max_receive_count=MAXIMUM_RECEIVES, dead_letter_queue="dead")
        self.dead = self.declare("dead")
        self.messages: list[Modelled] = []
        self.buried: list[Modelled] = []
        self.receipts: list[str] = []
        self.sent = 0

    def declare(self, name: str, **options: object) -> MemoryQueue:
        return self.connection.queue(
            Queue.model_validate(
                {
                    "name": name,
                    "fifo": self.fifo,
                    "content_based_deduplication": self.fifo,
                    "visibility_timeout_seconds": VISIBILITY,
                    "message_retention_period_seconds": RETENTION,
                    **options,
                }
            )
        )

    # --- the model

    @property
    def now(self) -> float:
        return self.clock.seconds

    def age(self) -> None:
        self.messages = [message for message in self.messages if message.ends > self.now]
        self.buried = [message for message in self.buried if message.ends > self.now]
        for message in self.messages:
            message.out = message.out and message.until > self.now

    def visible(self) -> list[Modelled]:
        locked = {message.group for message in self.messages if message.out} if self.fifo else set()
        return [message for message in self.messages if message.until <= self.now and message.group not in locked]

    def receipt(self, back: int) -> str:
        return self.receipts[-1 - back] if back < len(self.receipts) else "nobody's"

    def owner(self, receipt: str) -> Modelled | None:
        return next((message for message in self.messages if message.receipt == receipt), None)

    # --- what is done

    @rule(group=st.sampled_from("abc"), delay=st.sampled_from([None, 0, 1, 7]))
    def send(self, group: str, delay: float | None) -> None:
        self.sent += 1
        body = f"{group}{self.sent}"
        delay = None if self.fifo else delay
        [message_id] = done(self.queue.send_many([Send(body, delay, group if self.fifo else None)]))
        self.messages.append(Modelled(message_id, body, group, self.now + (delay or 0), self.now + RETENTION))

    @rule(limit=st.integers(1, 4))
    def receive_some(self, limit: int) -> None:
        self.receive(limit)

    def receive(self, limit: int) -> None:
        self.age()
        visible = self.visible()
        given = done(self.queue.receive(limit, 0))
        assert len({message.id for message in given}) == len(given) <= limit
        spent = [message for message in visible if message.receives >= MAXIMUM_RECEIVES]
        fresh = [message for message in visible if message.receives < MAXIMUM_RECEIVES]
        for message in given:
            self.check_given(message, fresh)
        if len(given) < limit:  # everything was looked at
            assert len(given) == len(fresh)
        moved = {entry[2].value.id for entry in self.dead._state._ages._heap if entry[2].place}
        assert len(given) == limit or moved >= {message.id for message in spent}
        for modelled in [message for message in spent if message.id in moved]:
            self.messages.remove(modelled)
            self.buried.append(modelled)
            if self.fifo:
                modelled.ends = self.now + RETENTION

    def check_given(self, message: Message, fresh: list[Modelled]) -> None:
        modelled = next(each for each in fresh if each.id == message.id)
        if self.fifo:
            earlier = next(each for each in fresh if each.group == modelled.group)
            assert earlier is modelled, "a later message of its group came first"
        fresh.remove(modelled)
        fresh.append(modelled)
        modelled.receives += 1
        modelled.receipt, modelled.until, modelled.out = message.receipt, self.now + VISIBILITY, True
        assert (message.body, message.receive_count) == (modelled.body, modelled.receives)
        self.receipts.append(message.receipt)

    @rule(seconds=st.sampled_from([3, VISIBILITY]))
    def wait_and_receive(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.receive(4)

    @rule(back=st.integers(0, 7))
    def delete(self, back: int) -> None:
        self.age()
        receipt = self.receipt(back)
        message = self.owner(receipt)
        assert done(self.queue.settle_many([Delete(receipt)])) == [message is not None]
        if message is not None:
            self.messages.remove(message)

    @rule(back=st.integers(0, 7), delay=st.sampled_from([0, 3, 20]), give_back=st.booleans())
    def release(self, back: int, delay: float, give_back: bool) -> None:
        self.age()
        receipt = self.receipt(back)
        message = self.owner(receipt)
        taken = message is not None and message.out
        assert done(self.queue.settle_many([Release(receipt, self.clock.now() + delay, give_back)])) == [taken]
        if message is not None and taken:
            message.until, message.out = self.now + delay, delay > 0
            if give_back:
                message.receives -= 1
                message.receipt = ""

    @rule(seconds=st.sampled_from([1, 4, 11, 31]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule(seconds=st.sampled_from([-10_000, 10_000]))
    def set_the_wall_clock(self, seconds: float) -> None:
        self.clock.epoch += seconds

    @rule()
    def purge(self) -> None:
        if self.sent % 7 == 0:
            done(self.queue.purge())
            self.messages = []

    @invariant()
    def the_depth_is_exact(self) -> None:
        self.age()
        depth = done(self.queue.depth())
        assert depth.visible + depth.in_flight + depth.delayed == len(self.messages)
        assert depth.in_flight == sum(message.out for message in self.messages)
        assert depth.delayed == sum(not message.out and message.until > self.now for message in self.messages)

    @invariant()
    def the_dead_letters_are_all_there_once(self) -> None:
        self.age()
        depth = done(self.dead.depth())
        assert depth.visible == len(self.buried)


class FifoMachine(QueueMachine):
    fifo = True


SIZE = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestStandardQueueAgainstTheModel = QueueMachine.TestCase
TestFifoQueueAgainstTheModel = FifoMachine.TestCase
TestStandardQueueAgainstTheModel.settings = SIZE
TestFifoQueueAgainstTheModel.settings = SIZE
