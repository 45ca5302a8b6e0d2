"""An engine looks after itself: does what waits get done?

Decides what is looked at, and how often: every `health_seconds` the events of each function that has some due, the
queue of each mapping of which no attempt ended since the last look, the shards that are read here, and whether the
store answers. When that is red is decided in `semantics/health.py`.

Looking costs next to nothing while work flows: the store is asked only for the depth of queues that stand still, and
for what lies ahead in some shards of which nothing is read, in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest
from typing import Any, Final, Protocol

from lambent.arns import without_password
from lambent.errors import LambentError, StoreUnavailable
from lambent.model import Depth, Function, QueueMapping
from lambent.ports import World
from lambent.semantics.health import BLOCKED, Health, Seen, Sight, judge, look
from lambent.semantics.routing import named
from lambent.stored_mappings import PROBLEM, StoredMapping

SHARDS_A_LOOK: Final = 20  # of those where nothing seems to wait
ANSWER_SECONDS: Final = 5.0  # within which a store that is well answers a read

RESERVED_ZERO: Final = "Its function {} is stopped by reserved_concurrency=0: raise it when it shall run again."
NO_ANSWER: Final = f"The store has not answered for {ANSWER_SECONDS:.0f} seconds: look at its server or its disk."
BUG: Final = "It cannot see how it is, for a bug: {!r}"
AWAY: Final = "The store cannot be used: {}"


class Engine(Protocol):
    """What is looked at."""

    def functions(self) -> Mapping[str, Function]:
        """That are hosted here."""
        ...

    def running(self) -> Mapping[str, int]:
        """How many calls of each function run."""
        ...

    def calls_done(self, function: str) -> float:
        """How many calls of it have ended."""
        ...

    def events_due(self) -> frozenset[str]:
        """Functions with events that could run, if there were room for them."""
        ...

    def mappings(self) -> Mapping[str, tuple[StoredMapping, Mapping[str, Any], str]]:
        """Those that should run here, each with what its loop shows, and with what keeps it from running ("":
        nothing)."""
        ...

    def cautions(self) -> Sequence[str]:
        """What execution environments lack on this machine, each a sentence."""
        ...

    async def ask_store(self) -> None:
        """Have the store answer anything at all. Raises StoreUnavailable."""
        ...

    async def depth(self, source: str) -> Depth | None:
        """Of a queue; None: it cannot be known. Raises StoreUnavailable."""
        ...

    async def backlog(self, source: str, shard: str, position: str) -> int:
        """How many records follow this position; 0 also where it cannot be known. Raises StoreUnavailable."""
        ...


class Vitals:
    """`blocked` tells how often the event loop was found blocked."""

    def __init__(self, engine: Engine, blocked: Callable[[], int], world: World) -> None:
        self._engine = engine
        self._blocked_so_far = blocked
        self._world = world
        self._seen: dict[str, Seen] = {}
        self._troubles: list[str] = []
        self._blocked = 0
        self._asked: dict[str, int] = {}  # at which look for what lies ahead in a shard, by the name of its sight
        self._looks = 0

    async def run(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(seconds)

    def health(self) -> Health:
        """As of the last look."""
        now, cautions = self._world.clock.monotonic(), self._engine.cautions()
        return judge(self._world.owner, self._seen, now, self._troubles, cautions)

    async def look(self) -> None:
        """Look now."""
        blocked, before = self._blocked_so_far(), self._blocked
        troubles, self._blocked = [BLOCKED] if blocked > before else [], blocked
        sights = self._events()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._engine.ask_store()
                sights |= await self._mappings()
        except TimeoutError:
            troubles.append(NO_ANSWER)
        except StoreUnavailable as error:
            troubles.append(AWAY.format(error.message))
        except Exception as error:  # noqa: BLE001  who cannot see how it is must not say that it is well
            troubles.append(BUG.format(error))
        else:
            self._seen = {name: seen for name, seen in self._seen.items() if name in sights}
        now = self._world.clock.monotonic()
        self._seen |= look(self._seen, sights, now)
        self._troubles = troubles

    def _events(self) -> dict[str, Sight]:
        sights, functions = {}, self._engine.functions()
        for name in self._engine.events_due() & functions.keys():
            sight = self._sight(f"events of {name}", "events", functions[name])
            sights[f"events/{name}"] = replace(sight, waiting=1, done=self._engine.calls_done(name))
        return sights

    async def _mappings(self) -> dict[str, Sight]:
        sights: dict[str, Sight] = {}
        functions = self._engine.functions()
        for identity, (stored, shown, trouble) in self._engine.mappings().items():
            mapping, function = stored.mapping, functions.get(stored.mapping.function)
            if function is None or not mapping.enabled:
                continue
            items = "messages" if isinstance(mapping, QueueMapping) else "records"
            limit = named(function, mapping.qualifier).timeout_seconds
            sight = replace(
                self._sight(f"{without_password(mapping.source)} → {mapping.function}", items, function),
                within_seconds=limit + mapping.maximum_batching_window_seconds,
                failed=shown.get("last_processing_result") == PROBLEM,
                trouble=trouble or str(shown.get("trouble", "")),
            )
            if isinstance(mapping, QueueMapping):
                sights[identity] = await self._queue(identity, mapping.source, shown, sight)
            else:
                sights |= await self._shards(identity, mapping.source, shown, sight)
        self._asked = {name: look for name, look in self._asked.items() if name in sights}
        return sights

    async def _queue(self, identity: str, source: str, shown: Mapping[str, Any], sight: Sight) -> Sight:
        sight, before = replace(sight, done=shown.get("attempts_ended", 0)), self._seen.get(identity)
        if before is None or before.sight.done != sight.done:
            return sight  # whatever waits, it moves
        try:
            depth = await self._engine.depth(source)
        except LambentError as error:
            if "://" not in source:
                raise
            return replace(sight, trouble=f"Its queue cannot be used: {error.message}")
        return sight if depth is None else replace(sight, waiting=depth.visible)

    async def _shards(self, identity: str, source: str, shown: Mapping[str, Any], sight: Sight) -> dict[str, Sight]:
        if sight.trouble:
            return {identity: sight}
        unfinished, positions = shown.get("unfinished", {}), shown.get("shards", {})
        sights, idle = {}, list[tuple[int, str, str]]()
        for shard, position in positions.items():
            name = f"{identity}/{shard}"
            waiting, before = unfinished.get(shard, 0), self._seen.get(name)
            if not waiting and before is not None and before.sight.done == position:
                waiting = before.sight.waiting
                idle.append((self._asked.get(name, 0), name, shard))
            sights[name] = replace(sight, waiting=waiting, done=position)
        self._looks += 1
        for _, name, shard in nsmallest(SHARDS_A_LOOK, idle):  # perhaps its reader does not hear what came
            self._asked[name] = self._looks
            waiting = await self._engine.backlog(source, shard, positions[shard])
            sights[name] = replace(sights[name], waiting=waiting)
        return sights

    def _sight(self, subject: str, items: str, function: Function) -> Sight:
        held = RESERVED_ZERO.format(function.name) if function.reserved_concurrency == 0 else ""
        running = self._engine.running().get(function.name, 0)
        return Sight(subject, function.name, 0, items, 0, function.timeout_seconds, running, held=held)
