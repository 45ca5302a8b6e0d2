"""One thing goes wrong with the disk, at one of its calls: every error, at every call that one scenario makes.

Decides what is struck and what must hold then: whoever asked is told that the store is away, or was served; as soon as
the disk works, the store works by itself; and what was acknowledged is there, also after a power cut.

    python -m tests.durability.troubles                          all of them, as `make night` does
    python -m tests.durability.troubles --call 17 --trouble EIO  one of them again
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lambent.errors import StoreUnavailable
from lambent.ports import Connection
from lambent.testing.disk import TROUBLES, Disk, Trouble
from lambent.testing.loop import run
from tests.durability.power import connect
from tests.durability.work import Work, balanced, held

LIVES = 2
CALLS = 3  # of each client, in each life
PROGRESS_SECONDS = 10.0

Strike = tuple[int, str, Trouble, bool]  # at this call, with this name, what, and does it last


@dataclass
class Found:
    """What came of it: how many strikes there were, how many were felt by whoever asked, and what is wrong."""

    strikes: int = 0
    felt: Counter[str] = field(default_factory=Counter)
    problems: dict[Strike, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.strikes} strikes, {self.felt.total()} felt by callers; wrong after {list(self.problems)[:5]}"


def strikes() -> Iterator[Strike]:
    """Everything that can go wrong in the scenario."""
    calls, problems = struck(None)
    assert not problems, problems
    for (number, call), lasts in itertools.product(enumerate(calls, 1), (False, True)):
        for trouble in TROUBLES[call.split()[0]]:
            yield number, call, trouble, lasts


def sampled(every: Sequence[Strike], number: int) -> Sequence[Strike]:
    """So many of them, the same each time; of every trouble with every call one, before there is a second."""
    before = Counter[tuple[str, Trouble, bool]]()
    ranked = []
    for strike in random.Random(3).sample(every, len(every)):
        ranked.append((before[strike[1:]], strike))
        before[strike[1:]] += 1
    return [strike for _, strike in sorted(ranked)[:number]]


def campaign(chosen: Iterable[Strike], tell: Callable[[str], None] = lambda line: None) -> Found:
    """Let each of them happen."""
    found, told = Found(), time.monotonic()
    for strike in chosen:
        found.strikes += 1
        _, problems = struck(strike, found)
        if problems:
            found.problems[strike] = problems
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            tell(str(found))
    return found


def struck(strike: Strike | None, found: Found | None = None) -> tuple[Sequence[str], list[str]]:
    """Live through the scenario with this one trouble: the disk's calls, and what is wrong."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            return run(_scenario(strike, Path(directory), found or Found()), seed=2)
        except Exception:
            return (), [traceback.format_exc()]


async def _scenario(strike: Strike | None, directory: Path, found: Found) -> tuple[Sequence[str], list[str]]:
    before, after = directory / "before", directory / "after"
    before.mkdir()
    after.mkdir()
    work, problems = Work(random.Random(2), pace_seconds=0.001), list[str]()
    with Disk(before, seed=2) as disk:
        if strike is not None:
            disk.strikes[strike[0]], disk.lasting = strike[2], strike[3]
        for life in range(1, LIVES + 1):
            connection = await _connected(before, disk, work)
            with contextlib.suppress(StoreUnavailable):
                problems += await _look(connection, work)
                await work.live(connection, CALLS)
            if life < LIVES:
                await connection.close()
        calls = list(disk.calls)
        if work.refused and strike is not None:
            found.felt[strike[1]] += 1
        disk.trouble, work.refused = None, 0
        problems += await _look(connection, work)
        await work.live(connection, CALLS)
        if work.refused:
            problems.append(f"{work.refused} clients are refused although the disk works")
        problems += await _look(connection, work)
        await connection.close()
        disk.cut(2, after)
    with Disk(after) as again:
        connection = await _connected(after, again, work)
        problems += await _look(connection, work)
        await connection.close()
    return calls, problems + work.problems


async def _connected(directory: Path, disk: Disk, work: Work) -> Connection:
    """On a disk that does not work it may be refused; on one that works it is not."""
    try:
        return await connect(directory / "lambent.db", disk, work.chance, "engine-1")
    except StoreUnavailable:
        work.refused += 1
        disk.trouble = None
    return await connect(directory / "lambent.db", disk, work.chance, "engine-1")


async def _look(connection: Connection, work: Work) -> list[str]:
    found = await held(connection, [key for key in work.ledger.known() if key.startswith("event")])
    return work.ledger.check(found) + await balanced(connection, found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", type=int, help="only at this call of the disk")
    parser.add_argument("--trouble", help="only this: EIO, ENOSPC, EROFS or short")
    parser.add_argument("--sample", type=int, help="only so many, taken by chance, the same each time")
    asked = parser.parse_args()
    chosen = [each for each in strikes() if asked.call in (None, each[0]) and asked.trouble in (None, each[2])]
    if asked.sample:
        chosen = sampled(chosen, asked.sample)
    found = campaign(chosen, print)
    for strike, problems in found.problems.items():
        print(strike, *problems[:10], sep="\n  ")
    print(found)
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
