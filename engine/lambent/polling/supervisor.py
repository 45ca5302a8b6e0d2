"""Mappings wanted against loops running.

Decides which loop is started, stopped and started anew, so that what runs becomes what the documents want: one loop a
mapping, at most one of them at a time, a new one only after the old has settled its last batch. What a loop does is its
own; which mappings are this engine's is told by `wanted`.

A loop that ends with an error is a bug or a store that is away: it is logged, and started again after a backoff.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from lambent.errors import LambentError, StoreUnavailable
from lambent.ports import Documents, World
from lambent.semantics import backoff
from lambent.stored_mappings import MappingState, StoredMapping, state_of
from lambent.telemetry import Telemetry

RE_CANCEL_SECONDS: Final = 1.0  # CPython 3.11 can lose a cancellation


class Loop(Protocol):
    """What serves one mapping."""

    async def run(self, stopping: asyncio.Event) -> None: ...

    def state(self) -> dict[str, object]: ...


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are done, however often it takes, and however often we are cancelled meanwhile."""
    cancelled = False
    tasks = sorted(tasks, key=asyncio.Task.get_name)
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=RE_CANCEL_SECONDS)
        except asyncio.CancelledError:
            cancelled = True  # whoever ends us wants these to end too
    if cancelled:
        raise asyncio.CancelledError


class _Running:
    """One mapping's loop, and what it was started for."""

    __slots__ = ("failures", "loop", "stopping", "stored", "task", "trouble")

    def __init__(self, stored: StoredMapping) -> None:
        self.stored = stored
        self.stopping = asyncio.Event()
        self.loop: Loop | None = None
        self.failures = 0
        self.trouble = ""
        self.task: asyncio.Task[None]


class Supervisor:
    """`wanted` reads the mappings whose functions are here out of the documents; `open_loop` makes a mapping's loop."""

    def __init__(
        self,
        *,
        documents: Documents,
        wanted: Callable[[], Awaitable[Mapping[str, StoredMapping]]],
        open_loop: Callable[[StoredMapping], Awaitable[Loop]],
        telemetry: Telemetry,
        world: World,
    ) -> None:
        self._documents = documents
        self._read_wanted = wanted
        self._open_loop = open_loop
        self._telemetry = telemetry
        self._world = world
        self._wanted: Mapping[str, StoredMapping] = {}
        self._running: dict[str, _Running] = {}
        self._changed = asyncio.Event()
        self._stale = True
        self._listeners: set[asyncio.Event] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set and every loop has settled. Cancelled: every loop is cancelled, and awaited."""
        self._stale = True
        watching = {
            asyncio.create_task(self._watch(), name="supervisor: watch"),
            asyncio.create_task(self._wake_at(stopping), name="supervisor: stopping"),
        }
        try:
            while not stopping.is_set():
                self._changed.clear()
                await self._reconcile()
                await self._changed.wait()
            for running in self._running.values():
                running.stopping.set()
            while self._running:
                await asyncio.wait([running.task for running in self._running.values()])
                self._reap()
        finally:
            await end(watching | {running.task for running in self._running.values()})

    def look(self) -> None:
        """A function came or went: a mapping may have become this engine's."""
        self._stale = True
        self._changed.set()

    def runs(self, identity: str) -> bool:
        """Has it a loop here, or one that is about to end?"""
        return identity in self._running

    def state(self, identity: str, wanted: StoredMapping | None) -> MappingState:
        """Where a mapping is on its way from what runs here to what is wanted."""
        running = self._running.get(identity)
        return state_of(wanted, running.stored if running is not None and running.loop is not None else None)

    def details(self, identity: str) -> dict[str, object]:
        """What its loop shows, and what ended it; nothing if none runs here."""
        running = self._running.get(identity)
        if running is None:
            return {}
        shown = running.loop.state() if running.loop is not None else {}
        return {**shown, "trouble": running.trouble} if running.trouble else shown

    def lags(self) -> Mapping[str, float]:
        """How far shards are behind, by mapping and shard ('ID/SHARD'), where a loop knows."""
        found: dict[str, float] = {}
        for identity in self._running:
            lags = self.details(identity).get("lag")
            if isinstance(lags, Mapping):
                found |= {f"{identity}/{shard}": lag for shard, lag in lags.items()}
        return found

    @property
    def wanted(self) -> Mapping[str, StoredMapping]:
        """What should run here, as it was last read."""
        return self._wanted

    def trouble(self, identity: str) -> str:
        """What ended its loop, while it waits to begin again; "": nothing did."""
        running = self._running.get(identity)
        return "" if running is None else running.trouble

    def listen(self) -> asyncio.Event:
        """An event that is set at each change of any state here; to be given back to `unlisten`."""
        listener = asyncio.Event()
        self._listeners.add(listener)
        return listener

    def unlisten(self, listener: asyncio.Event) -> None:
        self._listeners.discard(listener)

    # --- becoming what is wanted -----------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        self._reap()
        if self._stale:
            self._stale = False
            try:
                self._wanted = await self._read_wanted()
            except StoreUnavailable as error:
                self._stale = True
                self._telemetry.log("warning", "mappings can't be read", error=error.message)
                asyncio.get_running_loop().call_later(backoff.reconnection(1, self._world.random()), self._changed.set)
                return
        for identity, running in self._running.items():
            if self._wanted.get(identity) != running.stored:
                running.stopping.set()
        for identity, stored in self._wanted.items():
            if stored.mapping.enabled and identity not in self._running:
                running = self._running[identity] = _Running(stored)
                running.task = asyncio.create_task(self._keep(running), name=f"mapping {identity}")
                running.task.add_done_callback(lambda _: self._changed.set())
        self._tell_listeners()

    def _reap(self) -> None:
        for identity in [identity for identity, running in self._running.items() if running.task.done()]:
            del self._running[identity]
        self._tell_listeners()

    async def _keep(self, running: _Running) -> None:
        """Run the mapping's loop until it is stopped; after an error again, later each time."""
        identity, clock = running.stored.id, self._world.clock
        while not running.stopping.is_set():
            began, away = clock.monotonic(), False
            try:
                running.loop = await self._open_loop(running.stored)
                running.trouble = ""
                self._tell_listeners()
                await running.loop.run(running.stopping)
                continue
            except StoreUnavailable as error:
                away = True
                running.trouble = f"It stopped, because the store is away: {error.message}"
                self._telemetry.log(
                    "warning", "mapping stopped: the store is away", mapping=identity, error=error.message
                )
            except LambentError as error:
                running.trouble = f"It can't run: {error.message}"
                self._telemetry.log("error", "mapping can't run", mapping=identity, error=error.message)
            except Exception as error:  # noqa: BLE001  a bug in one mapping's loop must not end the others
                running.trouble = f"A bug ended its loop, the log has where: {error!r}"
                self._telemetry.log("error", "a bug ended a mapping's loop", mapping=identity, exc_info=error)
            running.failures = backoff.in_a_row(running.failures, clock.monotonic() - began)
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.restart(running.failures, away, self._world.random())):
                    await running.stopping.wait()

    async def _watch(self) -> None:
        tries = 0
        while True:
            try:
                async for _ in self._documents.watch("mapping"):
                    tries = 0
                    self._stale = True
                    self._changed.set()
            except StoreUnavailable as error:
                self._telemetry.log("warning", "mappings can't be watched", error=error.message)
            tries += 1
            await asyncio.sleep(backoff.reconnection(tries, self._world.random()))

    async def _wake_at(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._changed.set()

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            listener.set()
