"""An engine without its front, for the tests of the loops: everything is real but time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lambent.destinations import Destinations, QueueDestination
from lambent.errors import ResourceNotFound, StoreUnavailable
from lambent.invoker import Invoker
from lambent.model import (
    Event,
    Function,
    Queue,
    QueueMapping,
)
from lambent.polling.feeds import EventFeed, MappingFeed
from lambent.polling.queue import QueueLoop
from lambent.ports import Store, World
from lambent.runtimes.in_process import InProcess
from lambent.semantics.concurrency import Concurrency
from lambent.stores.memory import MemoryStore
from lambent.stores.sqlite import SqliteStore
from lambent.telemetry import Telemetry
from lambent.testing.loop import VirtualClock, VirtualLoop, with_process
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_store import RedisStore
from tests.engine.engines import inline
from tests.servers.virtual import virtual_server

Handler = Callable[[Any, Any], Awaitable[object]]


@pytest.fixture(params=["memory", pytest.param("sqlite", marks=pytest.mark.night), "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store in turn, for what must be the same in all; a new one, without an engine."""
    match request.param:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SqliteStore(tmp_path / "app.db", executor=inline)
        case _:
            return RedisStore(url := request.getfixturevalue("redis_url"), serve=lambda world: _served(url, world))


def _served(url: str, world: World) -> RedisServer:
    server = virtual_server(url, world.clock)
    server._checked = True  # that a test's server may lose the last second is no news
    return server


class Bench:
    """What an Engine composes, for one process."""

    def __init__(self, store: MemoryStore, world: World, connection: Any) -> None:
        self.store, self.world, self.connection = store, world, connection
        self.functions: dict[str, Function] = {}
        self.telemetry = Telemetry()
        self.concurrency = Concurrency(1000)
        self.runtime: Any = InProcess(world=world)
        self.invoker = Invoker(
            functions=self.functions,
            runtime=self.runtime,
            concurrency=self.concurrency,
            telemetry=self.telemetry,
            world=world,
        )
        self.queues: dict[str, Any] = {}
        self.destinations = Destinations(resolve=self._resolve, telemetry=self.telemetry, world=world)
        self.steps: list[tuple[object, object]] = []
        self.telemetry.subscribe(lambda where, step, answer: self.steps.append((step, answer)))

    @classmethod
    async def make(cls, store: MemoryStore | None = None, seed: int = 1) -> Bench:
        loop = asyncio.get_running_loop()
        chance = random.Random(seed)
        world = World(
            owner=f"engine-{seed}",
            clock=VirtualClock(loop),
            random=chance.random,
            new_id=lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        )
        store = store or MemoryStore()
        return cls(store, world, await store.connect(world))

    def add(self, handler: Handler, name: str = "f", **settings: Any) -> None:
        function = Function(name=name, **settings)
        self.functions[name] = function
        self.runtime.register(function, handler)
        self.concurrency.reserve(name, function.reserved_concurrency)

    def queue(self, name: str, **settings: Any) -> Any:
        self.queues[name] = self.connection.queue(Queue(name=name, **settings))
        return self.queues[name]

    async def put(self, *names: str, hops: int = 0) -> list[Event]:
        now = self.world.clock.now()
        events = [Event(self.world.new_id(), name, b'{"n": 1}', now, hops=hops) for name in names]
        await self.connection.events.put_many(events)
        return events

    def events_loop(self, events: Any = None) -> QueueLoop[Event]:
        return self.loop_of(EventFeed(events or self.connection.events, self.functions))

    def mapping_loop(self, source: Any, **settings: Any) -> QueueLoop[Any]:
        mapping = QueueMapping(source="q", function="f", **settings)
        self.concurrency.limit_mapping("mapping-1", mapping.maximum_concurrency)
        return self.loop_of(MappingFeed("mapping-1", mapping, source, self.functions))

    def loop_of(self, feed: Any) -> QueueLoop[Any]:
        return QueueLoop(feed, self.invoker, self.destinations, self.telemetry, self.world)

    def count(self, metric: str, subject: str = "mapping-1") -> object:
        return self.telemetry.snapshot().get(metric, {}).get(subject, 0)

    def ended(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for (_, state), count in self.connection.facts._lines.counts.items():
            found[state] += count
        return found

    def _resolve(self, ref: str) -> QueueDestination:
        name = ref.removeprefix("queue:")
        if name not in self.queues:
            raise ResourceNotFound(f"no queue {name}")
        return QueueDestination(self.queues[name])


class Watched:
    """A real event queue or queue; counts calls, fails those that it is told to, and can kill the process that calls
    at the `crash`-th instant: before call 1, after it, before call 2…"""

    def __init__(
        self, real: Any, fails: Callable[[str, int], bool] = lambda name, number: False, crash: int = 0
    ) -> None:
        self._real = real
        self._fails = fails
        self._crash = crash
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in ("due", "receive", "settle_many"):
            return real

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            self.calls["all"] += 1
            if self._fails(name, self.calls["all"]):
                raise StoreUnavailable("away")
            await self._perhaps_crash(2 * self.calls["all"] - 1)
            answer = await real(*arguments, **named)
            await self._perhaps_crash(2 * self.calls["all"])
            return answer

        return call

    async def _perhaps_crash(self, instant: int) -> None:
        if instant == self._crash:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            await loop.crash()


@pytest.fixture
async def bench() -> Bench:
    return await Bench.make()


@contextlib.asynccontextmanager
async def running(*loops: QueueLoop[Any]) -> AsyncIterator[asyncio.Event]:
    """Run them; then drain, and see that nothing is left: no task, no timer, no permit."""
    stopping = asyncio.Event()
    before = asyncio.all_tasks()
    tasks = [asyncio.create_task(each.run(stopping)) for each in loops]
    try:
        yield stopping
    finally:
        stopping.set()
        await asyncio.gather(*tasks)
    assert asyncio.all_tasks() == before
    assert not [loop.invoker._concurrency.running() for loop in loops if loop.invoker._concurrency.running()]


def now() -> float:
    return asyncio.get_running_loop().time()


async def messages_of(queue: Any) -> list[Any]:
    return list(await queue.receive(10, 0))


async def live_and_die(loop: QueueLoop[Any], seconds: float) -> None:
    """Run the loop in a simulated process of its own, which is killed after so long, if not before."""
    with with_process("a life"):
        task = asyncio.create_task(loop.run(asyncio.Event()))
    await asyncio.sleep(seconds)
    virtual_loop().kill("a life")
    assert not task.done()


def virtual_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
