"""Many simulated days, on all cores: what `make test` runs for a minute and `make night` for hours.

    python tests/simulation/campaign.py --seeds 20000 --hours 200     the night
    python tests/simulation/campaign.py --seed 4711                   one day again, with its last steps
    python tests/simulation/campaign.py --ground groups               days on which a consumer group shares shards out

Each lane is a process of its own that lives through every n-th seed and writes a line of JSON a day.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryDirectory

from lambent.testing.simulation import Simulation

ROOT = Path(__file__).resolve().parents[2]
LANES = 2
PROGRESS_SECONDS = 10.0


@dataclass
class Campaign:
    """What came of it. `broken` are seeds with the promises that they broke; `traces` are hashes by seed."""

    seeds: int = 0
    hours: float = 0.0
    runs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    broken: dict[int, list[str]] = field(default_factory=dict)
    traces: dict[int, list[str]] = field(default_factory=dict)

    def add(self, day: dict) -> None:
        self.seeds += 1
        self.hours += day["seconds"] / 3600
        self.runs += day["runs"]
        self.faults.update(day["faults"])
        if day["problems"]:
            self.broken[day["seed"]] = day["problems"]
        if day["traces"]:
            self.traces[day["seed"]] = day["traces"]

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.seeds} days, {self.hours:.1f} simulated hours, {self.runs} handler runs, {faults}; "
            f"{len(self.broken)} broke a promise {sorted(self.broken)[:10]}"
        )


def campaign(
    first: int = 0,
    *,
    seeds: int,
    hours: float = 0.0,
    seconds: float = float("inf"),
    twice: int = 0,
    ground: str = "memory",
    environment: dict[str, str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Campaign:
    """Live through the days from `first` on: until there are `seeds` of them and `hours` simulated hours, for at most
    so many real `seconds`. The first `twice` of them are lived through twice, and traced."""
    with TemporaryDirectory() as place:  # what a lane leaves behind when it is killed
        environment = {**(environment or {}), "TMPDIR": place}
        return _campaign(first, seeds, hours, seconds, twice, ground, environment, tell)


def _campaign(
    first: int,
    seeds: int,
    hours: float,
    seconds: float,
    twice: int,
    ground: str,
    environment: dict[str, str],
    tell: Callable[[str], None],
) -> Campaign:
    found = Campaign()
    lanes = [_start(first + lane, twice // LANES, ground, environment) for lane in range(LANES)]
    try:
        began = told = time.monotonic()
        for day in _days(lanes):
            found.add(day)
            now = time.monotonic()
            if now - told > PROGRESS_SECONDS:
                told = now
                tell(f"{now - began:.0f} s: {found}")
            if now - began > seconds or (found.seeds >= seeds and found.hours >= hours):
                break
    finally:
        for lane in lanes:
            lane.kill()
            lane.wait()
            lane.stdout.close()
    return found


def _start(first: int, twice: int, ground: str, environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, __file__, "--lane", str(first), "--twice", str(twice), "--ground", ground]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment})


def _days(lanes: list[subprocess.Popen]) -> Iterator[dict]:
    with DefaultSelector() as selector:
        for lane in lanes:
            selector.register(lane.stdout, EVENT_READ, [b""])
        while True:
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                if not data:
                    raise RuntimeError("a lane ended")
                *lines, key.data[0] = (key.data[0] + data).split(b"\n")
                yield from map(json.loads, lines)


def simulated(seed: int, ground: str) -> Simulation:
    if ground != "groups":
        return Simulation(seed, ground=ground)
    from tests.simulation.kafka_members import Member

    return Simulation(seed, member=Member)


def _lane(first: int, twice: int, ground: str) -> None:
    seed, parent = first, os.getppid()
    while os.getppid() == parent:
        traced = (seed - first) // LANES < twice
        result = simulated(seed, ground).run(trace=traced)
        day = {
            "seed": seed,
            "problems": result.problems,
            "seconds": result.virtual_seconds,
            "runs": result.runs,
            "faults": result.faults,
            "traces": [result.trace, simulated(seed, ground).run(trace=True).trace] if traced else [],
        }
        sys.stdout.write(json.dumps(day) + "\n")
        sys.stdout.flush()
        seed += LANES


def _main() -> int:
    parser = argparse.ArgumentParser(description="Simulated days of the engine.")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="only this one, with its last steps")
    grounds = ("memory", "sqlite", "groups")
    parser.add_argument("--ground", choices=grounds, default="memory", help="what the days lie on")
    parser.add_argument("--lane", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--twice", type=int, default=0)
    options = parser.parse_args()
    if options.lane is not None:
        _lane(options.lane, options.twice, options.ground)
    if options.seed is not None:
        print(simulated(options.seed, options.ground).explained())
        return 0
    found = campaign(
        options.first,
        seeds=options.seeds,
        hours=options.hours,
        twice=options.twice,
        ground=options.ground,
        tell=lambda line: print(line, flush=True),
    )
    print(found)
    for seed in sorted(found.broken)[:3]:
        print(simulated(seed, options.ground).explained())
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.path.append(str(ROOT))
    sys.exit(_main())
