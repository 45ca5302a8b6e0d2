"""The engine that is measured: everything on, a store in memory of its own.

Decides what differs from a plain `Engine()`: nothing is said of the store, and the watchdog wakes as ever but allows
for a minute, for setting up a million events blocks the loop for long.
"""

from __future__ import annotations

from lambent import Engine, MemoryStore


def engine(drain_seconds: float = 30.0) -> Engine:
    return Engine(MemoryStore(), watchdog_seconds=60.0, drain_seconds=drain_seconds)
