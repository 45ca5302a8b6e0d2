"""Virtual time, simulated sources, seeded faults and a history checker, for users and for ourselves.

Decides which names are public here. Nothing is imported before it is asked for: pytest loads the plugin in every
project that has lambent installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambent.testing.disk import Disk
    from lambent.testing.faults import CLEAR, Faults, FaultyStore, Rates
    from lambent.testing.fixture import LambentSimulation
    from lambent.testing.history import Expectations, History, Violation, check
    from lambent.testing.loop import Deadlock, VirtualClock, VirtualLoop, run
    from lambent.testing.simulation import Blow, Result, Simulation

__all__ = [
    "CLEAR",
    "Blow",
    "Deadlock",
    "Disk",
    "Expectations",
    "Faults",
    "FaultyStore",
    "History",
    "LambentSimulation",
    "Rates",
    "Result",
    "Simulation",
    "Violation",
    "VirtualClock",
    "VirtualLoop",
    "check",
    "run",
]

_HOMES = {
    "disk": ("Disk",),
    "faults": ("CLEAR", "Faults", "FaultyStore", "Rates"),
    "fixture": ("LambentSimulation",),
    "history": ("Expectations", "History", "Violation", "check"),
    "loop": ("Deadlock", "VirtualClock", "VirtualLoop", "run"),
    "simulation": ("Blow", "Result", "Simulation"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
