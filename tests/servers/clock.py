"""The machine's own time, for tests beside servers that have no other."""

from __future__ import annotations

import time


class RealClock:
    """A `Clock`."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
