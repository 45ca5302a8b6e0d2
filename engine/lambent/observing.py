"""What traffic is counted for advice, and how it is kept: one small document a mapping or function.

Decides when these are written: every `observe_seconds`, only what changed, at most MAXIMUM_WRITES a time, each added to
what is stored. Several engines add to the same documents. Counting costs a few additions a batch; what functions do is
read from the telemetry, which counts it anyway. What the counts mean is `semantics/advising.py`'s.

Observations are worth no more than that: one that could not be written is tried again, and what an engine had not
written when it died is forgotten.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any, Final

from lambent.errors import StoreUnavailable
from lambent.model import Record
from lambent.ports import Document, Documents
from lambent.semantics.advising import Calls, Traffic
from lambent.telemetry import DURATION, INVOCATIONS, THROTTLES, Telemetry

MAPPING: Final = "observed-mapping"
FUNCTION: Final = "observed-function"
MAXIMUM_WRITES: Final = 100  # documents a time
KEPT_SECONDS: Final = 7 * 86_400.0  # after the last traffic

_ARRIVED_AT: Final = attrgetter("arrived_at")


class Watched:
    """The traffic of one mapping since it was last written."""

    __slots__ = ("traffic",)

    def __init__(self) -> None:
        self.traffic = Traffic()

    def read(self, records: Sequence[Record]) -> None:
        """These records of a stream, in their order, are tried for the first time. They came within one second, as
        a rule: then this costs next to nothing."""
        first = int(records[0].arrived_at)
        if first == int(records[-1].arrived_at):
            arrivals = self.traffic.arrivals
            arrivals[first] = arrivals.get(first, 0) + len(records)
        else:
            self.arrived(map(_ARRIVED_AT, records))

    def arrived(self, times: Iterable[float]) -> None:
        """So many came at these times (epoch seconds)."""
        arrivals = self.traffic.arrivals
        for second in map(int, times):
            arrivals[second] = arrivals.get(second, 0) + 1

    def ran(self, records: int, seconds: float) -> None:
        """A call with so many of them took so long."""
        self.traffic.ran(records, seconds)


class Observer:
    """All that one engine observes. `running` tells how many calls of each function run now."""

    def __init__(
        self, documents: Documents, telemetry: Telemetry, running: Callable[[], Mapping[str, int]], seconds: float
    ) -> None:
        self._documents = documents
        self._running = running
        self._seconds = seconds
        self._invocations, self._throttles = telemetry.counter(INVOCATIONS), telemetry.counter(THROTTLES)
        self._duration = partial(telemetry.summary, DURATION)
        self._watched: dict[str, Watched] = {}
        self._at_once: dict[str, int] = {}
        self._written = {name: self._counted(name) for name in (*self._invocations, *self._throttles)}

    def mapping(self, identity: str) -> Watched:
        """Where the loop of this mapping counts."""
        return self._watched.setdefault(identity, Watched())

    async def run(self) -> None:
        """Write what changed, until cancelled."""
        while True:
            await asyncio.sleep(self._seconds)
            with suppress(StoreUnavailable):
                await self.write()

    async def write(self) -> None:
        """Add what was observed to what is stored. Raises StoreUnavailable."""
        for name, count in self._running().items():
            self._at_once[name] = max(self._at_once.get(name, 0), count)
        changed = (name for name, each in self._watched.items() if each.traffic.calls or each.traffic.arrivals)
        for name in list(islice(changed, MAXIMUM_WRITES)):
            self._watched[name] = watched = self._watched.pop(name)  # the others' turn comes next time
            await self._add_traffic(name, watched)
        names = dict.fromkeys((*self._invocations, *self._throttles))
        moved = (name for name in names if self._counted(name) != self._written.get(name, Calls()))
        for name in list(islice(moved, MAXIMUM_WRITES)):
            await self._add_calls(name)

    async def _add_traffic(self, name: str, watched: Watched) -> None:
        fresh, watched.traffic = watched.traffic, Traffic()
        done = False
        try:
            stored = await self._documents.get(MAPPING, name)
            together = traffic_of(stored)
            together.add(fresh)
            done = await self._put(MAPPING, name, asdict(together), stored)
        finally:
            if not done:
                fresh.add(watched.traffic)
                watched.traffic = fresh

    async def _add_calls(self, name: str) -> None:
        now, before = self._counted(name), self._written.get(name, Calls())
        fresh = Calls(now.calls - before.calls, now.throttles - before.throttles, now.seconds - before.seconds)
        fresh.at_once = self._at_once.get(name, 0)
        stored = await self._documents.get(FUNCTION, name)
        together = calls_of(stored)
        together.add(fresh)
        if await self._put(FUNCTION, name, asdict(together), stored):
            self._written[name] = now

    async def _put(self, kind: str, name: str, content: dict[str, Any], stored: Document | None) -> bool:
        """False: another engine was faster."""
        revision = 0 if stored is None else stored.revision
        body = json.dumps(content, separators=(",", ":"))
        return await self._documents.put(kind, name, body, revision, KEPT_SECONDS) is not None

    def _counted(self, name: str) -> Calls:
        calls, throttles = self._invocations.get(name, 0), self._throttles.get(name, 0)
        return Calls(int(calls), int(throttles), self._duration(name).sum if calls else 0.0)


def traffic_of(document: Document | None) -> Traffic:
    """What was observed of a mapping; nothing without a document."""
    if document is None:
        return Traffic()
    content = json.loads(document.body)
    for name in ("arrivals", "sizes", "durations"):
        content[name] = {int(key): count for key, count in content[name].items()}
    return Traffic(**content)


def calls_of(document: Document | None) -> Calls:
    """What was observed of a function; nothing without a document."""
    return Calls() if document is None else Calls(**json.loads(document.body))
