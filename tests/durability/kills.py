"""SIGKILL at every system call by which the real store changes files: some in `make test`, all of them at night.

    python -m tests.durability.kills               every call
    python -m tests.durability.kills --point 17    one of them again

The child works on a store and writes its ledger to a file of its own; what it was told before it died is compared with
what a store on the same file holds then. It forks, so it is a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import apsw

from lambent.testing.loop import run
from tests.durability.ledger import Ledger
from tests.durability.power import connect
from tests.durability.tracing import run_and_kill
from tests.durability.work import Work, balanced, drained, held

CALLS = 5  # of each client, in each of two lives
PROGRESS_SECONDS = 10.0


def scenario(path: Path, ledger: int) -> None:
    """Open a new store, work, close it, open it again and work; in the same order each time."""

    async def live() -> None:
        chance = random.Random(4)
        work = Work(chance, Ledger(lambda line: _write(ledger, line)), pace_seconds=0.01)
        for life in (1, 2):
            connection = await connect(path, None, chance, f"engine-{life}")
            await work.live(connection, CALLS)
            await connection.close()
        assert not work.problems, work.problems

    run(live(), seed=4)


def killed(at: int | None, directory: Path) -> tuple[list[str], list[str], int]:
    """Live through it up to this call. The calls, what is wrong afterwards, and how many calls of the store were
    acknowledged."""
    path, written = directory / "lambent.db", directory / "ledger"
    ledger_fd = os.open(written, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    calls = run_and_kill(lambda: scenario(path, ledger_fd), at, ledger_fd)
    os.close(ledger_fd)
    ledger = Ledger()
    for line in written.read_text().splitlines():
        ledger.read(line)

    async def look() -> list[str]:
        connection = await connect(path, None, random.Random(0), "engine-after")
        found = await held(connection, [key for key in ledger.known() if key.startswith("event")])
        problems = ledger.check(found) + await balanced(connection, found)
        problems += await drained(connection, found)
        await connection.close()
        return problems

    problems = run(look(), seed=0)
    raw = apsw.Connection(str(path))
    if (answer := raw.pragma("integrity_check")) != "ok":
        problems.append(f"the file is damaged: {answer}")
    raw.close()
    return calls, problems, ledger.acknowledged


def _spread(calls: Sequence[str], most: int) -> list[int]:
    """The numbers of these calls, `most` of each kind, the first and the last among them."""
    points = []
    for kind in dict.fromkeys(calls):
        of_kind = [number for number, call in enumerate(calls, 1) if call == kind]
        chosen = min(most, len(of_kind))
        points += [of_kind[index * (len(of_kind) - 1) // max(1, chosen - 1)] for index in range(chosen)]
    return sorted(points)


def _write(ledger: int, line: str) -> None:
    os.write(ledger, line.encode() + b"\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, help="so many of each kind of call; by default every one")
    parser.add_argument("--point", type=int, help="only this one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        calls, problems, acknowledged = killed(None, Path(directory))
    wrong = {"the end": problems} if problems else {}
    points = [asked.point] if asked.point else _spread(calls, asked.points or len(calls))
    told, reached = time.monotonic(), Counter[str]()
    for number, point in enumerate(points, 1):
        with tempfile.TemporaryDirectory() as directory:
            before, problems, _ = killed(point, Path(directory))
        if problems or before != calls[:point]:
            wrong[f"{point} ({calls[point - 1]})"] = problems or ["another scenario than the first time"]
        reached[before[-1]] += 1
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            print(f"{number} of {len(points)} points: {len(wrong)} wrong", file=sys.stderr)
    print(json.dumps({"calls": len(calls), "acknowledged": acknowledged, "reached": reached, "wrong": wrong}, indent=1))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
