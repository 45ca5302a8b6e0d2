"""Keeps this engine's part of the limits that all engines of a store share.

Decides when to ask: every third of a lease, each `ASK_SECONDS` while something waits for more than was granted, at once
when something begins to. How a limit is divided is the store's; what may start under a grant is decided in
`semantics/concurrency.py`. A grant that could not be renewed in time counts for nothing: then nothing new starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from lambent.errors import StoreUnavailable
from lambent.invoker import Invoker
from lambent.ports import HEARTBEATS_PER_LEASE, Leases, World
from lambent.semantics.concurrency import Concurrency, Demand
from lambent.telemetry import Telemetry

ASK_SECONDS: Final = 1.0


class Permits:
    """A part of every limit that `concurrency` knows is held before it is first needed."""

    def __init__(
        self,
        *,
        concurrency: Concurrency,
        leases: Leases,
        lease_seconds: float,
        telemetry: Telemetry,
        world: World,
    ) -> None:
        self._concurrency = concurrency
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._telemetry = telemetry
        self._world = world
        self._granted: Mapping[str, int] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._wake: Callable[[], None] = lambda: None
        self.short = True  # something was granted less than its whole limit
        self._waiting = False

    def serve(self, invoker: Invoker) -> None:
        """Tell those who wait in this invoker when more is granted."""
        self._wake = invoker.wake

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            seconds = self._lease_seconds / HEARTBEATS_PER_LEASE
            with suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, ASK_SECONDS) if self._waiting else seconds):
                    await self._wanted.wait()
            self._wanted.clear()
            await self.renew()

    def ask(self) -> None:
        """Something waits, or a limit is new: renew at once, if other engines could have what is missing."""
        if self.short:
            self._wanted.set()

    def changed(self) -> None:
        """There is a limit that was not there before."""
        self.short = True
        self._wanted.set()

    async def renew(self) -> None:
        """Ask now; calls at the same time share one answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="permits")
        await asyncio.shield(self._asking)

    async def close(self) -> None:
        """End a renewal that is under way."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self) -> None:
        if await self._exchange():
            await self._exchange()  # only now may others have what we have lost

    async def _exchange(self) -> bool:
        """One question and its answer; True: something is less than before.

        What is said to be in use is what may run until the answer is here: all of what was granted."""
        before = self._world.clock.monotonic()
        demands = {name: Demand(limit, 0, 0) for name, limit in self._concurrency.limits().items()}
        demands.update(self._concurrency.demands())
        for name, held in self._granted.items():
            if name in demands and held > demands[name].in_use:
                demands[name] = replace(demands[name], in_use=held)
        try:
            granted = await self._leases.permits(demands, self._lease_seconds)
        except StoreUnavailable as error:
            self._telemetry.log("warning", "permits can't be renewed", error=error.message)
            return False
        self.short = any(granted.get(name, 0) < demand.limit for name, demand in demands.items())
        self._waiting = any(granted.get(name, 0) < demand.wanted for name, demand in demands.items())
        less = any(granted.get(name, 0) < held for name, held in self._granted.items())
        now, valid_until = self._world.clock.monotonic(), before + self._lease_seconds
        self._concurrency.renew(valid_until, now)
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(max(0.0, valid_until - now), self._expired)
        self._grant(granted)
        return less

    def _expired(self) -> None:
        """Not renewed in time: others may have it."""
        self.short = True
        self._grant(dict.fromkeys(self._granted, 0))

    def _grant(self, granted: Mapping[str, int]) -> None:
        for name, amount in granted.items():
            if self._granted.get(name) != amount:
                self._concurrency.set_block(name, amount)
        self._granted = granted
        self._wake()


class SharingInvoker(Invoker):
    """An invoker whose waiting callers make the engine ask for a larger part of what engines share."""

    def share(self, permits: Permits) -> None:
        self._permits = permits
        permits.serve(self)

    def when_free(self, function: str, mapping: str | None, callback: Callable[[], None]) -> Callable[[], None]:
        self._permits.ask()
        return super().when_free(function, mapping, callback)
