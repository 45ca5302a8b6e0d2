"""The engine that is measured: everything on, a store in memory of its own if no other is given.

Decides what differs from a plain `Engine()`: nothing is said of the store, and the watchdog wakes as ever but allows
for a minute, for setting up a million events blocks the loop for long.
"""

from __future__ import annotations

from lambent import Engine, MemoryStore
from lambent.ports import Store


def engine(drain_seconds: float = 30.0, store: str | Store | None = None) -> Engine:
    return Engine(store or MemoryStore(), watchdog_seconds=60.0, drain_seconds=drain_seconds)
