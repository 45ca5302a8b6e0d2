"""Planted bugs, and whether the simulation finds them: the measure of how much it sees.

    python tests/planted/run.py                      all: at `make test`'s size, and at the night's what that misses
    python tests/planted/run.py lost_lease_ignored   only these

A bug is a patch of a few lines against `engine/` or `pollers/`. Each is applied to a copy, and a process with that copy
lives through the same days as `make test`: random ones, small ones with a fault at every call, small ones with a kill
at every step. It is found if a day breaks a promise that the untouched engine keeps on that very day.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LANES = 2
RATED_DAYS = 40  # random days that are lived through at least, for the hit rate
CHILD_SECONDS = 6 * 3600.0
WAYS = ("days", "faults", "kills")
GROUP_DAYS = 100  # for bugs that only a consumer group can meet, whose patches are named group_…
FAULTS = ("crash before", "crash after", "unavailable", "unknown", "drain", "stop")
SCENARIOS = ("EVENT", "STREAM", "QUEUE")

Day = Sequence[Any]
"""("days" or "groups", seed), ("faults", scenario, seed, fault, number of call) or ("kills", scenario, seed, step)."""


@dataclass(frozen=True)
class Size:
    """How much is simulated: random days from `first` to before `last`, and as many seeds of each small day."""

    first: int
    last: int
    first_small: int
    last_small: int


TEST = Size(0, 500, 0, 1)
NIGHT = Size(500, 20_000, 1, 50)


@dataclass(frozen=True)
class Finding:
    """The first day that shows a bug, what broke, and how many of so many days did."""

    day: Day
    text: str
    hits: int
    tried: int


@dataclass(frozen=True)
class Verdict:
    name: str
    findings: dict[str, Finding]  # by way
    seconds: float

    def __str__(self) -> str:
        shown = {way: f"number {found.tried}" for way, found in self.findings.items()}
        if (found := self.findings.get("days")) is not None:
            shown["days"] = f"seed {found.day[1]}, {found.hits / found.tried:.1%}"
        if (found := self.findings.get("groups")) is not None:
            shown["days"] = f"groups {found.day[1]}, number {found.tried}"
        ways = "".join(f"{shown.get(way, '-'):<18}" for way in WAYS)
        return f"{self.name:<50}{ways}{self.seconds:5.0f} s"


# --- patches


def patches() -> list[Path]:
    return sorted(HERE.glob("*.patch"))


def patched(patch: Path, root: Path) -> dict[str, str]:
    """The files that this patch changes below `root`, by path, as they are after it. Raises ValueError unless what each
    hunk replaces is there exactly once."""
    texts: dict[str, str] = {}
    path = ""
    for part in re.split(r"^(?=--- a/|@@ )", patch.read_text(), flags=re.MULTILINE)[1:]:
        head, *lines = part.splitlines(keepends=True)
        if head.startswith("--- a/"):
            path = head.removeprefix("--- a/").strip()
            texts[path] = (root / path).read_text()
            continue
        old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        if texts[path].count(old) != 1:
            raise ValueError(f"{patch.name}: {texts[path].count(old)} places of {path} look like\n{old}")
        texts[path] = texts[path].replace(old, new)
    return texts


def changes(patch: Path, root: Path) -> bool:
    """Whether the patch changes what a program does, and leaves it a program."""
    pairs = [((root / path).read_text(), text) for path, text in patched(patch, root).items()]
    return any(ast.dump(ast.parse(before)) != ast.dump(ast.parse(after)) for before, after in pairs)


# --- the days, in a process with the patched engine


def days(way: str, size: Size) -> Iterator[Day]:
    """The days of one way, in a fixed order."""
    if way == "days":
        yield from (("days", seed) for seed in range(size.first, size.last))
        return
    if way == "groups":
        yield from (("groups", seed) for seed in range(size.first, size.first + GROUP_DAYS))
        return
    for seed, name in itertools.product(range(size.first_small, size.last_small), SCENARIOS):
        try:
            calm = simulation((way, name, seed)).run()
        except Exception:  # a bug may break the calm day itself: the day on which nothing is struck shows it
            yield ("kills", name, seed, 0) if way == "kills" else ("faults", name, seed, FAULTS[0], 0)
            continue
        if way == "kills":
            yield from (("kills", name, seed, step) for step in range(1, calm.steps))
        else:
            calls = range(1, len(calm.points) + 1)
            yield from (("faults", name, seed, fault, number) for fault, number in itertools.product(FAULTS, calls))


def simulation(day: Day) -> Any:
    from lambent.testing.simulation import Simulation

    match day:
        case ("days", seed):
            return Simulation(seed)
        case ("groups", seed):
            sys.path.append(str(ROOT))
            from tests.simulation.campaign import simulated

            return simulated(seed, "groups")
        case (_, name, seed):
            return _small(name, seed)
        case ("kills", name, seed, step):
            return _small(name, seed, kills={step: 0})
        case ("faults", name, seed, fault, number):
            return _small(name, seed, strikes={number: fault})
    raise ValueError(day)


def _small(name: str, seed: int, **options: Any) -> Any:
    scenarios = sys.modules.get("crash_points")
    if scenarios is None:
        path = HERE.parent / "simulation" / "test_crash_points.py"
        spec = importlib.util.spec_from_file_location("crash_points", path)
        assert spec is not None
        assert spec.loader is not None
        scenarios = sys.modules["crash_points"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(scenarios)
    return scenarios.simulated(getattr(scenarios, name), seed, **options)


def problems(day: Day) -> Sequence[str]:
    try:
        return simulation(day).run().problems
    except Exception as error:  # a bug may break the simulation itself
        return [f"{type(error).__name__}: {error}"]


def search(way: str, size: Size) -> Finding | None:
    first, text, hits, tried = None, "", 0, 0
    for day in days(way, size):
        broken = problems(day)
        tried += 1
        if broken:
            hits += 1
            first, text = (first, text) if first else (day, broken[0])
        if first and (way != "days" or tried >= RATED_DAYS):
            break
    return Finding(first, text, hits, tried) if first else None


# --- from outside


def judge(patch: Path, size: Size) -> Verdict:
    """Simulate with this bug. A day which the untouched engine does not survive either shows nothing."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name in ("engine", "pollers"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path, text in patched(patch, root).items():
            (root / path).write_text(text)
        found: dict[str, Finding] = {}
        for way in ("groups",) if patch.stem.startswith("group_") else WAYS:
            answer = _child(root, "--search", way, json.dumps(vars(size)))
            if answer is None:
                continue
            finding = Finding(**answer)
            if _child(ROOT, "--again", json.dumps(finding.day)):
                print(f"{patch.stem}: {finding.day} breaks a promise without it too: {finding.text}", flush=True)
                continue
            found[way] = finding
            if size == NIGHT:
                break  # one way is enough, the others would take hours
    return Verdict(patch.stem, found, time.monotonic() - began)


def hunt(chosen: Sequence[Path], size: Size, tell: Callable[[str], None]) -> list[Verdict]:
    """Judge each, on all lanes; tells as it goes."""
    verdicts = []
    with ThreadPoolExecutor(LANES) as lanes:
        for verdict in lanes.map(lambda patch: judge(patch, size), chosen):
            verdicts.append(verdict)
            tell(f"{len(verdicts):3} of {len(chosen)}  {verdict}")
    return verdicts


def hunt_both(chosen: Sequence[Path], tell: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """At `make test`'s size, and what that misses at the night's: the names of the bugs that each did not find."""
    tell(f"{'':11}{'bug':<50}{'random days':<18}{'faults':<18}{'kills':<18}   time")
    missed = [verdict.name for verdict in hunt(chosen, TEST, tell) if not verdict.findings]
    tell(f"found {len(chosen) - len(missed)} of {len(chosen)} at the size of `make test`; missed {missed}")
    again = [patch for patch in chosen if patch.stem in missed]
    return missed, [verdict.name for verdict in hunt(again, NIGHT, tell) if not verdict.findings]


def _child(root: Path, *arguments: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": f"{root / 'engine'}:{root / 'pollers'}", "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(HERE / "run.py"), *arguments]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, timeout=CHILD_SECONDS).stdout
    return json.loads(output.splitlines()[-1])


def _main() -> int:
    parser = argparse.ArgumentParser(description="Does the simulation find the planted bugs?")
    parser.add_argument("names", nargs="*", help="bugs; by default all")
    parser.add_argument("--search", nargs=2, metavar=("WAY", "SIZE"), help=argparse.SUPPRESS)
    parser.add_argument("--again", metavar="DAY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        way, size = options.search
        found = search(way, Size(**json.loads(size)))
        print(json.dumps(found and vars(found)))
        return 0
    if options.again:
        print(json.dumps(list(problems(json.loads(options.again)))))
        return 0
    chosen = [patch for patch in patches() if not options.names or patch.stem in options.names]
    _, missed = hunt_both(chosen, lambda line: print(line, flush=True))
    print(f"never found: {missed}" if missed else "all found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(_main())
