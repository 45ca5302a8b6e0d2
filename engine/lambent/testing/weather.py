"""What may befall a simulated day: how often calls fail, and which blows come when.

Decides, from a seed's chance, one of several climates and a few blows. Leaves to `faults.py` what a failing call does,
and to `simulation.py` how a blow strikes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from lambent.testing.faults import Rates
from lambent.testing.workload import HORIZON_SECONDS

__all__ = ["CLIMATES", "Blow", "blows"]

BLOWS: Final = ("kill", "kill", "kill", "drain", "stop", "pause", "cut off", "outage", "destination", "clock")
"""What a day may bring; what stands there thrice comes thrice as often."""

CLIMATES: Final = (
    Rates(),
    Rates(slow=0.2, slow_seconds=2.0, reorder=0.2),
    Rates(slow=0.03, slow_seconds=15.0, reorder=0.2),  # longer than leases hold
    Rates(slow=0.1, unavailable=0.02, unknown=0.01, reorder=0.2),
    Rates(slow=0.05, unavailable=0.02, unknown=0.02, crash=0.0005, twice=0.01, reorder=0.2),
)


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that befalls an engine (`host`, from 0), a store, a destination (`where`) or the clocks, for so many
    virtual seconds; a clock is set by them."""

    at: float
    what: Literal["kill", "drain", "stop", "pause", "cut off", "outage", "destination", "clock"]
    host: int = 0
    seconds: float = 0.0
    where: str = ""


def blows(chance: random.Random, hosts: int) -> list[Blow]:
    """A day's blows, in order."""
    found = []
    for _ in range(chance.choice((0, 1, 2, 4))):
        what = chance.choice(BLOWS)
        host = chance.randrange(hosts)
        seconds = {
            "pause": chance.choice((1.0, 5.0, 60.0, 400.0)),  # longer than a claim holds
            "cut off": chance.choice((2.0, 15.0, 60.0)),
            "outage": chance.choice((1.0, 15.0)),
            "destination": chance.choice((5.0, 60.0, 400.0)),
            "clock": chance.choice((-3600.0, -30.0, 30.0, 3600.0, 86400.0)),
        }.get(what, 0.0)
        where = chance.choice(("queue dead.", "stream graves.", "queue done."))
        found.append(Blow(chance.uniform(0, HORIZON_SECONDS + 20), cast(Any, what), host, seconds, where))
    return sorted(found, key=lambda blow: blow.at)
