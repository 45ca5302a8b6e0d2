"""Power cuts under the real store, on virtual time, from a seed: `make test` does it 300 times, `make night` 5,000.

    python -m tests.durability.power --chains 250          5,000 cuts
    python -m tests.durability.power --seed 17             one chain again

A chain is one file that lives through 20 cuts: work, a cut at a random call of the disk (also while it recovers from
the last one), the file as the disk may have it then, and a look at everything in it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from lambent.errors import StoreUnavailable
from lambent.ports import Connection, World
from lambent.stores.sqlite import SqliteStore
from lambent.testing.disk import Disk
from lambent.testing.loop import VirtualClock, run
from tests.durability.work import CLAIM_SECONDS, Work, balanced, drained, held

CUTS = 20
CALLS_OF_THE_DISK = 500  # at most, between two cuts
CHECKPOINT_PAGES = 40
PROGRESS_SECONDS = 10.0
PACE_SECONDS = 0.01


@dataclass
class Found:
    """What came of it. `problems` are broken promises by seed."""

    cuts: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    problems: dict[int, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts, {self.acknowledged} calls acknowledged, {self.unanswered} unanswered; "
            f"broken promises in seeds {sorted(self.problems)}"
        )


def campaign(seeds: Sequence[int], *, lies: bool = False, tell: Callable[[str], None] = lambda line: None) -> Found:
    """Live through these chains. `lies`: on a disk that does not do what it says."""
    found, told = Found(), time.monotonic()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            try:
                run(_Chain(seed, Path(directory), lies, found).live(), seed=seed)
            except Exception:
                found.problems.setdefault(seed, []).append(traceback.format_exc())
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            tell(str(found))
    return found


class _Chain:
    def __init__(self, seed: int, directory: Path, lies: bool, found: Found) -> None:
        self._seed = seed
        self._directory = directory
        self._lies = lies
        self._found = found
        self._chance = random.Random(f"chain {seed}")
        self._work = Work(self._chance, pace_seconds=PACE_SECONDS)
        self._events: dict[str, None] = {}  # every event that there ever was

    async def live(self) -> None:
        here = self._directory / "0"
        here.mkdir()
        for number in range(1, CUTS + 1):
            last, here = here, self._directory / f"{number}"
            here.mkdir()
            with Disk(last, self._seed) as disk:
                disk.lies = self._lies
                await self._life(disk, last / "lambent.db", number)
                disk.cut(self._seed * CUTS + number, here)
            shutil.rmtree(last)
            self._found.cuts += 1
        with Disk(here) as disk:
            await self._life(disk, here / "lambent.db", CUTS + 1, last=True)
        self._found.acknowledged += self._work.ledger.acknowledged
        self._found.unanswered += self._work.ledger.unanswered

    async def _life(self, disk: Disk, path: Path, number: int, last: bool = False) -> None:
        if not last and self._chance.random() < 0.2:
            disk.off_at = self._chance.randint(1, 60)  # it may go off again before the file is open
        connection = client = None
        try:
            connection = await connect(path, disk, self._chance, f"engine-{number}")
            connection.on_trouble(lambda text: self._note([f"a power cut was taken for damage: {text}"]))
            problems, found = await self._look(connection, path, disk)
            if last:
                problems += await drained(connection, found)
            self._note(problems)
            disk.off_at = disk.off_at or len(disk.calls) + self._chance.randint(1, CALLS_OF_THE_DISK)
            if self._chance.random() < 0.3:
                await asyncio.sleep(CLAIM_SECONDS * 2)
            if self._chance.random() < 0.3:
                client = await connect(path, disk, self._chance, f"client-{number}", client=True)
            while not last and not disk.off:
                await self._work.live(connection, 100, client)
            self._note(self._work.problems)
            self._work.problems.clear()
        except StoreUnavailable as error:
            if not disk.off:
                self._note([f"the store is away though the power is on: {error}"])
        finally:
            for opened in (client, connection):
                if opened is not None:
                    await opened.close()

    async def _look(self, connection: Connection, path: Path, disk: Disk) -> tuple[list[str], dict[str, str]]:
        """What is wrong with what is there, and what is there."""
        ledger = self._work.ledger
        self._events |= dict.fromkeys(key for key in ledger.known() if key.startswith("event"))
        found = await held(connection, list(self._events))
        problems = ledger.check(found) + await balanced(connection, found)
        try:
            raw = apsw.Connection(str(path), vfs=disk.name)
            if (answer := raw.pragma("integrity_check")) != "ok":
                problems.append(f"the file is damaged: {answer}")
            raw.close()
        except apsw.Error as error:
            if not disk.off:
                problems.append(f"the file is damaged: {error}")
        return problems, found

    def _note(self, problems: Sequence[str]) -> None:
        if problems:
            self._found.problems.setdefault(self._seed, []).extend(problems)


async def connect(path: Path, disk: Disk | None, chance: random.Random, owner: str, client: bool = False) -> Connection:
    """An engine's or a client's connection to the real store, in which a call takes up to 5 ms of the loop's time."""
    loop = asyncio.get_running_loop()
    world = World(owner, VirtualClock(loop), chance.random, lambda: f"{chance.getrandbits(128):032x}")
    store = SqliteStore(
        str(path),
        vfs=disk and disk.name,
        executor=lambda call: loop.call_later(chance.random() * 0.005, call),
        poll_seconds=None,
        checkpoint_pages=CHECKPOINT_PAGES,
    )
    return await store.connect(world, client)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=15, help=f"how many, of {CUTS} cuts each")
    parser.add_argument("--seed", type=int, help="only this chain")
    asked = parser.parse_args()
    found = campaign(range(asked.chains) if asked.seed is None else [asked.seed], tell=print)
    for seed, problems in found.problems.items():
        print(f"SEED={seed}", *problems[:20], sep="\n  ")
    print(found)
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
