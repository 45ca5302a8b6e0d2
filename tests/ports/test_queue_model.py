"""The built-in queues against a model of a few lines, in sequences of calls that nobody would think of.

The model keeps a plain list and scans it. What it allows is what SQS promises: any visible messages of a standard
queue; of a FIFO queue, from each group that has none in flight, its first ones.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lambent.model import Delete, Message, Queue, Release, Send
from lambent.ports import BuiltinQueue, World
from lambent.stores.memory import MemoryStore
from lambent.stores.sqlite_queue import SqliteQueues
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_queue import RedisQueues
from tests.servers.redis import RedisProcess

from .manual import EPOCH, ManualClock
from .sqlite_files import open_file

T = TypeVar("T")
VISIBILITY, RETENTION, MAXIMUM_RECEIVES = 10, 60, 1


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
        self.world = World("engine-1", self.clock, lambda: 0.5, lambda: f"m{next(ids)}")
        self.open()
        self.declare_both()
        self.messages: list[Modelled] = []
        self.buried: list[Modelled] = []
        self.receipts: list[str] = []
        self.sent = 0

    # --- the queue under test

    def open(self) -> None:
        self.connection = self.done(MemoryStore().connect(self.world))
        self.open_queue: Callable[[Queue], BuiltinQueue] = self.connection.queue

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call that has nothing to wait for."""
        try:
            call.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        raise AssertionError("it waited")

    def declare_both(self) -> None:
        self.queue = self.declare("q", max_receive_count=MAXIMUM_RECEIVES, dead_letter_queue="dead")
        self.dead = self.declare("dead")

    def declare(self, name: str, **options: object) -> BuiltinQueue:
        return self.open_queue(
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
        [message_id] = self.done(self.queue.send_many([Send(body, delay, group if self.fifo else None)]))
        self.messages.append(Modelled(message_id, body, group, self.now + (delay or 0), self.now + RETENTION))

    @rule(limit=st.integers(1, 4))
    def receive_some(self, limit: int) -> None:
        self.receive(limit)

    def receive(self, limit: int) -> None:
        self.age()
        visible = self.visible()
        given = self.done(self.queue.receive(limit, 0))
        assert len({message.id for message in given}) == len(given) <= limit
        spent = [message for message in visible if message.receives >= MAXIMUM_RECEIVES]
        fresh = [message for message in visible if message.receives < MAXIMUM_RECEIVES]
        for message in given:
            self.check_given(message, fresh)
        if len(given) < limit:  # everything was looked at
            assert len(given) == len(fresh)
        moved = {fact.message.id for fact in self.done(self.dead.peek(1000))}
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
        self.taken(message, modelled)

    def taken(self, message: Message, modelled: Modelled) -> None:
        modelled.receives += 1
        modelled.receipt, modelled.until, modelled.out = message.receipt, self.now + VISIBILITY, True
        assert (message.body, message.receive_count) == (modelled.body, modelled.receives)
        self.receipts.append(message.receipt)

    @rule(seconds=st.sampled_from([3, VISIBILITY]))
    def wait_and_receive(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.receive(4)

    @rule(which=st.integers(0, 7))
    def claim(self, which: int) -> None:
        self.age()
        fresh = self.visible()
        if which < len(self.messages):
            asked = self.messages[which]
            given = self.done(self.queue.claim_many([asked.id, "unknown"]))
            assert [message.id for message in given] == [asked.id] * (asked in fresh)
            for message in given:
                self.taken(message, asked)

    @rule(back=st.integers(0, 7))
    def delete(self, back: int) -> None:
        self.age()
        receipt = self.receipt(back)
        message = self.owner(receipt)
        assert self.done(self.queue.settle_many([Delete(receipt)])) == [message is not None]
        if message is not None:
            self.messages.remove(message)

    @rule(back=st.integers(0, 7), delay=st.sampled_from([0, 3, 20]), give_back=st.booleans())
    def release(self, back: int, delay: float, give_back: bool) -> None:
        self.age()
        receipt = self.receipt(back)
        message = self.owner(receipt)
        taken = message is not None and message.out
        assert self.done(self.queue.settle_many([Release(receipt, self.clock.now() + delay, give_back)])) == [taken]
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
            self.done(self.queue.purge())
            self.messages = []

    @invariant()
    def the_depth_is_exact(self) -> None:
        self.age()
        depth = self.done(self.queue.depth())
        assert depth.visible + depth.in_flight + depth.delayed == len(self.messages)
        assert depth.in_flight == sum(message.out for message in self.messages)
        assert depth.delayed == sum(not message.out and message.until > self.now for message in self.messages)

    @invariant()
    def the_dead_letters_are_all_there_once(self) -> None:
        self.age()
        depth = self.done(self.dead.depth())
        assert depth.visible == len(self.buried)


class FifoMachine(QueueMachine):
    fifo = True


class SqliteMachine(QueueMachine):
    """The same on a file, whose process may be killed at any time."""

    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = TemporaryDirectory()
        self.begin()

    def begin(self) -> None:
        self.file = self.done(open_file(Path(self.directory.name) / "q.db", self.clock))
        queues = SqliteQueues(self.file)
        self.open_queue = lambda config: queues.queue(config, self.world)

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    @rule()
    def kill(self) -> None:
        self.clock.epoch = EPOCH  # the wall clock is right again: a new process has no other
        self.begin()
        self.declare_both()

    def teardown(self) -> None:
        self.done(self.file.close())
        self.loop.close()
        self.directory.cleanup()


class SqliteFifoMachine(SqliteMachine):
    fifo = True


class RedisMachine(QueueMachine):
    """The same on a Redis server, whose engines may be killed at any time."""

    process: RedisProcess
    prefixes = itertools.count()

    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.url = f"{self.process.url}?prefix=model{next(self.prefixes)}"
        self.done(self.begin())

    async def begin(self) -> None:
        self.server = RedisServer(self.url, self.world.random, time=lambda: EPOCH + self.clock.seconds)
        self.open_queue = lambda config: self.done(self.opened(RedisQueues(self.server), config))

    async def opened(self, queues: RedisQueues, config: Queue) -> BuiltinQueue:
        return queues.queue(config, self.world)

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    @rule()
    def kill(self) -> None:
        self.done(self.server.close())
        self.done(self.begin())
        self.queue, self.dead = self.open_queue(self.queue.config), self.open_queue(self.dead.config)

    def teardown(self) -> None:
        self.done(self.server.close())
        self.loop.close()


class RedisFifoMachine(RedisMachine):
    fifo = True


@pytest.fixture(scope="module", autouse=True)
def _redis(redis_process: RedisProcess) -> None:
    RedisMachine.process = redis_process


SIZE = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestStandardQueueAgainstTheModel = QueueMachine.TestCase
TestFifoQueueAgainstTheModel = FifoMachine.TestCase
TestSqliteStandardQueueAgainstTheModel = SqliteMachine.TestCase
TestSqliteFifoQueueAgainstTheModel = SqliteFifoMachine.TestCase
TestRedisStandardQueueAgainstTheModel = RedisMachine.TestCase
TestRedisFifoQueueAgainstTheModel = RedisFifoMachine.TestCase
TestStandardQueueAgainstTheModel.settings = SIZE
TestFifoQueueAgainstTheModel.settings = SIZE
TestSqliteStandardQueueAgainstTheModel.settings = settings(SIZE, max_examples=25)
TestSqliteFifoQueueAgainstTheModel.settings = settings(SIZE, max_examples=25)
TestRedisStandardQueueAgainstTheModel.settings = settings(SIZE, max_examples=6)
TestRedisFifoQueueAgainstTheModel.settings = settings(SIZE, max_examples=6)


@pytest.mark.night
@pytest.mark.parametrize(
    "machine", [QueueMachine, FifoMachine, SqliteMachine, SqliteFifoMachine, RedisMachine, RedisFifoMachine]
)
def test_no_long_sequence_of_calls_leads_a_queue_astray(machine: type[QueueMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(SIZE, max_examples=2000, stateful_step_count=100))
