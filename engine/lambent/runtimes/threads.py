"""Daemon threads for plain functions, and how many of them may be busy.

Decides when a call may have a thread: at most `limit` at once, first come, first served. A thread whose call was given
up (its deadline passed, its invocation was cancelled) cannot be stopped: it is replaced, at most `maximum_overruns`
times; beyond that, calls that find no free thread are refused instead of waiting for something that may never end. What
is called, and what the answer means, is `in_process.py`'s.

Our own threads, because the interpreter waits at exit for those of `concurrent.futures`, even for one that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Call = Callable[[], None]
Executor = Callable[[Call], None]
"""Runs each call once, somewhere, without waiting for it. Raises RuntimeError if it cannot."""


class DaemonThreads:
    """An executor with up to `limit` threads, each started when it is needed first, and kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._idle: deque[None] = deque()  # an entry for each thread that waits; its methods are atomic
        self._started = 0

    def __call__(self, call: Call) -> None:
        if self._idle:
            self._idle.pop()
        elif self._started < self._limit:
            threading.Thread(target=self._serve, name=f"lambent-plain-{self._started}", daemon=True).start()
            self._started += 1
        self._calls.put(call)

    def close(self) -> None:
        """Let the idle threads end, and the busy ones when they are done."""
        for _ in range(self._started):
            self._calls.put(None)
        self._started = 0
        self._idle = deque()

    def _serve(self) -> None:
        idle = self._idle
        for call in iter(self._calls.get, None):
            with contextlib.suppress(BaseException):  # the call has told its outcome; the thread lives on
                call()
            del call  # or an idle thread would keep the last event alive
            idle.append(None)


class Slots:
    """Who may have a thread now. Used by the loop's thread only."""

    def __init__(self, limit: int, maximum_overruns: int) -> None:
        self._limit = limit
        self._maximum_overruns = maximum_overruns
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self.running = 0  # overruns included
        self.overruns = 0

    def take(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self._waiting or self.running >= self._limit + min(self.overruns, self._maximum_overruns):
            return False
        self.running += 1
        return True

    async def turn(self) -> bool:
        """Wait for a slot; False if the threads are exhausted."""
        if self.overruns > self._maximum_overruns:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            granted = turn.done() and not turn.cancelled() and turn.result()
            if granted:
                self.end(overrun=False)
            raise

    def overrun(self) -> None:
        """A call was given up, and runs on."""
        self.overruns += 1
        self._give()

    def end(self, *, overrun: bool) -> None:
        """A call ended."""
        self.running -= 1
        self.overruns -= overrun
        self._give()

    def close(self) -> None:
        """Nobody gets a turn any more."""
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(False)
        self._waiting.clear()

    def _give(self) -> None:
        exhausted = self.overruns > self._maximum_overruns
        while self._waiting:
            free = self.running < self._limit + min(self.overruns, self._maximum_overruns)
            if not free and not exhausted:
                return
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += free
                turn.set_result(free)
