"""A user's test of his own engine: on virtual time, from a seed, with faults if he wants them.

Decides what a test marked `lambent` gets: the fixture `lambent_simulation`, whose engines run by the test's clock and
chance over a store in memory that `faults` may strike. Leaves to `plugin.py` how the test gets its loop and seeds, and
to the test what must come out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

from lambent.engine import Engine
from lambent.stores.memory import MemoryStore
from lambent.testing.faults import Faults, FaultyStore
from lambent.testing.loop import VirtualClock, VirtualLoop

__all__ = ["LambentSimulation"]

LOOK_SECONDS: Final = 1.0
"""Virtual seconds between two looks at whether all is done."""

QUIET_SECONDS: Final = 86_400.0
"""Virtual seconds after which `settled` gives up: more than the six hours that an event may live."""


class LambentSimulation:
    """One test's world. Everything in it follows from `seed`, so a failure can be seen again.

    clock: the wall clock (`now`, `shift`) and the monotonic one, in virtual seconds.
    random: the test's own chance, for handlers that fail now and then.
    faults: what happens to every call of the store; nothing, until the test changes `faults.rates`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"user {seed}")
        self.faults = Faults(seed)
        self._restore: list[Callable[[], None]] = []
        self._stores: dict[Engine, MemoryStore] = {}

    @property
    def clock(self) -> VirtualClock:
        """The clock of the running test."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError("lambent_simulation needs @pytest.mark.lambent on an async test")
        if not hasattr(self, "_clock"):
            self._clock = VirtualClock(loop)
        return self._clock

    def engine(self, **settings: Any) -> Engine:
        """A new engine in this world; `settings` are the fields of `EngineSettings`."""
        return self.adopt(Engine(**settings))

    def adopt(self, engine: Engine) -> Engine:
        """Take an engine that exists already, as one that a module makes, into this world until the test ends. It must
        not be started. Plain functions run inline, so that they take no time."""
        store = self._stores[engine] = MemoryStore()
        clock, before = self.clock, {name: getattr(engine, name) for name in _OF_THE_WORLD}
        self._restore.append(lambda: vars(engine).update(before))
        world = {
            "_clock": clock,
            "_chance": random.Random(f"engine {self.seed} {len(self._restore)}"),
            "_executor": _inline,
            "store": FaultyStore(store, self.faults),
            "_in_memory_by_default": False,
        }
        vars(engine).update(world)
        return engine

    async def sleep(self, seconds: float) -> None:
        """Let so many virtual seconds pass; they cost nothing."""
        await asyncio.sleep(seconds)

    async def settled(self, engine: Engine) -> None:
        """Wait until every asynchronous event has ended, every queue that a mapping serves is empty and every stream is
        read: retries, redrives and destinations included. Raises TimeoutError after a virtual day."""
        async with asyncio.timeout(QUIET_SECONDS):
            await asyncio.sleep(LOOK_SECONDS)
            while _busy(engine, self._stores[engine]):  # noqa: ASYNC110  a store does not tell when it is done
                await asyncio.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """Give adopted engines back as they were."""
        while self._restore:
            self._restore.pop()()


_OF_THE_WORLD: Final = ("_clock", "_chance", "_executor", "store", "_in_memory_by_default")


def _busy(engine: Engine, store: MemoryStore) -> bool:
    """Is anything waiting, in flight or unread?"""
    if store._lines.lines:
        return True
    for identity, mapping in engine.control.mappings.items():
        kind, _, name = mapping.source.partition(":")
        if kind == "queue" and mapping.source not in engine.control.sources:
            counts = store.queue_state(engine.control.queues[name]).counts
            if counts["visible"] or counts["in_flight"] or counts["delayed"]:
                return True
        elif kind == "stream" and mapping.source not in engine.control.sources:
            for shard in store.stream_state(engine.control.streams[name]).shards.values():
                progress = store._leases.see(identity, shard.shard.id).progress
                if shard.last and (progress is None or progress.position != shard.position(shard.last)):
                    return True
    return False


def _inline(call: Callable[[], None]) -> None:
    call()
