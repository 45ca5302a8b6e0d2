"""Notices that the event loop does not answer, and says where it hangs.

Decides when a loop counts as blocked, and reports it once a blockage, with the stack of the loop's thread. A coroutine
that computes or waits without `await` blocks every other; nothing in this process can stop it. Wakes twice in the time
that it watches for, and costs nothing in between.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from typing import Final

from lambent.ports import Clock
from lambent.telemetry import LOOP_BLOCKED, Telemetry

MINIMUM_INTERVAL_SECONDS: Final = 0.05
"""A watchdog that wakes more often would be felt on an idle machine."""


class Watchdog:
    """Watches the running loop between `start` and `stop`. A blockage of 1.5 times `blocked_seconds` is always seen."""

    def __init__(self, telemetry: Telemetry, clock: Clock, blocked_seconds: float) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._blocked_seconds = blocked_seconds
        self.blockages = 0  # so far
        self._answered = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the loop that runs in this thread."""
        assert self._thread is None, "the watchdog watches already"
        watched = asyncio.get_running_loop(), threading.get_ident()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, args=watched, name="lambent-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopping.set()
        self._answered.set()
        self._thread = None

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        interval = max(MINIMUM_INTERVAL_SECONDS, self._blocked_seconds / 2)
        while not self._stopping.wait(interval):
            self._answered.clear()
            asked_at = self._clock.monotonic()
            try:
                loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # the loop is closed
                return
            if self._stopping.is_set() or self._answered.wait(self._blocked_seconds):
                continue
            self.blockages += 1
            frame = sys._current_frames().get(thread)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            self._telemetry.log("warning", "the event loop is blocked", seconds=self._blocked_seconds, stack=stack)
            self._answered.wait()
            self._telemetry.observe(LOOP_BLOCKED, "loop", self._clock.monotonic() - asked_at)
