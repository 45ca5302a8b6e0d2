"""The memory store passes every suite, and keeps its own promises: costs that do not grow, and time that goes on."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.errors import InvalidParameterValue
from lambent.model import Checkpoint, Delete, Event, Progress, Queue, Send, Settled, Stream
from lambent.ports import Store, World
from lambent.semantics.concurrency import Demand
from lambent.stores.memory import MemoryStore
from lambent.stores.memory_events import TERMINAL_RECORDS
from lambent.stores.memory_lines import SWEEP_AT_LEAST
from lambent.stores.memory_queue import MemoryQueue
from lambent.stores.memory_stream import MemoryStream
from lambent.testing.loop import VirtualClock, run

from .suites import Suite, queues, streams
from .suites.archives import ArchiveSuite
from .suites.facts import FactsSuite
from .suites.stores import DocumentsSuite, EventQueueSuite, LeasesSuite

pytestmark = pytest.mark.virtual_time


class _Memory(Suite):
    capabilities = MemoryStore.capabilities

    def make_store(self) -> Store:
        return MemoryStore()


class TestMemoryDocuments(_Memory, DocumentsSuite):
    pass


class TestMemoryEventQueue(_Memory, EventQueueSuite):
    pass


class TestMemoryLeases(_Memory, LeasesSuite):
    pass


class TestMemoryFacts(_Memory, FactsSuite):
    pass


class TestMemoryArchive(_Memory, ArchiveSuite):
    pass


class _MemoryQueues(Suite):
    capabilities = MemoryQueue.capabilities

    async def make_queue(self, config: Queue) -> MemoryQueue:
        if not hasattr(self, "connection"):
            self.connection = await MemoryStore().connect(self.world())
        return self.connection.queue(config)


class TestMemoryQueue(_MemoryQueues, queues.QueueSuite):
    pass


class TestMemoryFifoQueue(_MemoryQueues, queues.FifoQueueSuite):
    pass


class TestMemoryStream(streams.StreamSuite):
    capabilities = MemoryStream.capabilities

    async def make_stream(self, config: Stream) -> MemoryStream:
        return (await MemoryStore().connect(self.world())).stream(config)

    async def test_nothing_is_kept_for_a_mapping_that_was_deleted(self) -> None:
        connection = await MemoryStore().connect(self.world())
        stream = connection.stream(Stream(name="clicks", retention_seconds=3600))
        shard, horizon = await self.start(stream)
        reader = stream.reader("m1")
        for left in (1, 0):
            await connection.documents.put("mapping", "m1", "{}")
            reader.passed(shard, horizon, 1)
            await self.put(stream, "a")
            if left == 0:
                await connection.documents.delete("mapping", "m1")
                reader.passed(shard, horizon, 1)  # a loop's last word
            await self.pass_time(3601)
            assert len(await self.read_all(stream, shard)) == left


def _world(owner: str = "engine-1") -> World:
    ids = itertools.count()
    return World(owner, VirtualClock(asyncio.get_running_loop()), lambda: 0.5, lambda: f"{owner}-{next(ids)}")


async def test_the_last_ten_thousand_endings_can_be_asked_for() -> None:
    world = _world()
    connection = await MemoryStore().connect(world)
    events, facts = connection.events, connection.facts
    ids = [world.new_id() for _ in range(TERMINAL_RECORDS + 1)]
    await events.put_many([Event(request_id, "f", b"{}", world.clock.now()) for request_id in ids])
    claimed = await events.receive("f", len(ids), 60)
    await events.settle_many([Delete(event.receipt, "succeeded") for event in claimed[:-1]])
    await events.settle_many([Delete(claimed[-1].receipt, "expired")])
    last = await facts.event(ids[-1])
    assert last is not None
    assert (last.event.function, last.event.attempts) == ("f", 1)
    assert (last.state, last.ended_at) == ("expired", world.clock.now())
    assert await facts.event(ids[0]) is None
    assert await facts.event(ids[1]) is not None
    assert await facts.ended() == {("f", "succeeded"): TERMINAL_RECORDS, ("f", "expired"): 1}


async def test_what_is_settled_leaves_no_timers_behind() -> None:
    store, world = MemoryStore(), _world()
    connection = await store.connect(world)
    queue = connection.queue(Queue(name="q"))
    for number in range(500):
        await connection.events.put_many([Event(str(number), "f", b"{}", world.clock.now())])
        await queue.send_many([Send("x")])
        [event] = await connection.events.receive("f", 1, 900)
        [message] = await queue.receive(1, 0)
        if number:  # the first stays out, so what is left behind is not at the head
            await connection.events.settle_many([Delete(event.receipt)])
            await queue.settle_many([Delete(message.receipt)])
    state = queue._state
    for timers in (store._lines.timers, state._timers, state._ages):
        assert len(timers._heap) < 4 * SWEEP_AT_LEAST
    assert len(store._lines.items) == len(store._lines._claims) == len(state._out) == 1


def test_a_store_outlives_an_event_loop_whose_time_begins_anew() -> None:
    store = MemoryStore()

    async def before() -> None:
        connection = await store.connect(_world())
        await asyncio.sleep(1000)
        queue = connection.queue(Queue(name="q", visibility_timeout_seconds=30))
        await queue.send_many([Send("x")])
        assert await queue.receive(1, 0)

    async def after() -> None:
        queue = (await store.connect(_world("engine-2"))).queue(Queue(name="q", visibility_timeout_seconds=30))
        assert not await queue.receive(1, 29)
        assert await queue.receive(1, 2)

    run(before())
    run(after())


async def test_setting_the_wall_clock_neither_hides_nor_reveals_messages() -> None:
    world = _world()
    queue = (await MemoryStore().connect(world)).queue(Queue(name="q", visibility_timeout_seconds=30))
    await queue.send_many([Send("x"), Send("later", delay_seconds=60)])
    await queue.receive(1, 0)
    for seconds in (-100_000, 1_000_000):
        assert isinstance(world.clock, VirtualClock)
        world.clock.shift(seconds)
        assert not await queue.receive(1, 1)
    assert [message.body for message in await queue.receive(10, 30)] == ["x"]


async def test_a_queue_with_messages_cannot_change_its_kind() -> None:
    connection = await MemoryStore().connect(_world())
    await connection.queue(Queue(name="q")).send_many([Send("x")])
    with pytest.raises(InvalidParameterValue, match="fifo"):
        connection.queue(Queue(name="q", fifo=True))


async def test_facts_add_up_what_checkpoints_settled() -> None:
    connection = await MemoryStore().connect(_world())
    leases = connection.leases
    seen = (await leases.heartbeat("mapping", ["s0"], 60)).leases["s0"]
    [lease] = await leases.take_many([seen], 60)
    settled = (Settled("1", "3", 3, "delivered"), Settled("4", "4", 1, "failed", "RetryAttemptsExhausted"))
    await leases.checkpoint_many(
        [(lease, Checkpoint(Progress("4"), settled)), (seen, Checkpoint(Progress("9"), settled))]
    )
    [shard] = await connection.facts.shards("mapping")
    assert shard.lease.progress == Progress("4")
    assert shard.counts == {("delivered", ""): 3, ("failed", "RetryAttemptsExhausted"): 1}
    assert await connection.facts.settled("mapping", "s0", "2") == settled[0]
    assert await connection.facts.settled("mapping", "s0", "5") is None
    assert await connection.facts.shards("other") == []


def test_the_ports_are_kept_to_the_letter() -> None:
    store: Store = MemoryStore()
    assert store.capabilities >= {"documents", "events", "leases", "permits", "queue", "stream"}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 9)), max_size=60), st.integers(1, 8))
def test_engines_that_keep_to_their_blocks_never_exceed_the_limit(
    calls: list[tuple[int, int, int]], limit: int
) -> None:
    async def campaign() -> None:
        store = MemoryStore()
        engines = [(await store.connect(_world(f"engine-{number}"))).leases for number in range(4)]
        granted, running = [0] * 4, [0] * 4
        for number, runs, wanted in calls:
            if runs <= granted[number] or runs <= running[number]:
                running[number] = runs  # it starts what it may, or something ended
            demand = Demand(limit, running[number], max(wanted, running[number]))
            granted[number] = (await engines[number].permits({"f": demand}, 900))["f"]
            assert sum(map(max, granted, running)) <= limit

    run(campaign())
