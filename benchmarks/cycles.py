"""The cycle that the durable benchmarks share: so many callers put events, a function that does nothing runs for each,
and each is settled, acknowledged, done with.

Decides what an event is, how many callers there are and between which moments time is taken: from before the first put
until nothing is left. Whoever is measured says how to put an event and how many are left.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from lambent import Engine

CALLERS = 256
SIZE = 200


def event_of(size: int) -> dict[str, object]:
    """Of so many bytes, as JSON."""
    head = {"order": "2a7c5f0e-3d43-4c3a-9a39-6f0f8a5a4b1e", "customer": 7, "items": ["book", "vase"]}
    return {**head, "note": "x" * (size - len(json.dumps({**head, "note": ""})))}


PAYLOAD = json.dumps(event_of(SIZE)).encode()
assert len(PAYLOAD) == SIZE
RESULTS = Path(__file__).parent / "results"
POLL_SECONDS = 0.001


Seconds = tuple[float, float]
"""Of wall clock, and of CPU by all threads of this process."""


class Stopwatch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Seconds:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


class Cycle:
    """One engine or worker of this process, whose function says `seen` for each event.

    put: puts one event; returns when it is kept. left: how many are not done with."""

    def __init__(self, put: Callable[[], Awaitable[object]], left: Callable[[], Awaitable[int]]) -> None:
        self._put = put
        self._left = left
        self._expected = 0
        self._done = asyncio.Event()

    def seen(self) -> None:
        self._expected -= 1
        if not self._expected:
            self._done.set()

    async def run(self, events: int) -> Seconds:
        """From the first put to the last settlement."""
        self._expected = events
        self._done.clear()
        gc.collect()
        gc.freeze()  # what was there before is not what is measured
        turns = iter(range(events))

        async def caller() -> None:
            for _ in turns:
                await self._put()

        watch = Stopwatch()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
        await self._done.wait()
        while await self._left():
            await asyncio.sleep(POLL_SECONDS)
        return watch.read()


def cycle_of(engine: Engine, payload: bytes = PAYLOAD) -> Cycle:
    """Of asynchronous events; to be run when the engine is."""

    @engine.function
    async def nothing(event: object, context: object) -> None:
        cycle.seen()

    async def left() -> int:
        return sum((await engine._living().events.pending()).values())

    cycle = Cycle(lambda: engine.invoke_async(nothing, payload), left)
    return cycle


def directory() -> TemporaryDirectory[str]:
    """A place for files on the disk where the project is: the system's own for such may be memory, which syncs for
    nothing."""
    RESULTS.mkdir(exist_ok=True)
    return TemporaryDirectory(dir=RESULTS, prefix="files-")
