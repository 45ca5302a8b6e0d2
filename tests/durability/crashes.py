"""kill -9 of `lambent run`, again and again, while clients give it work of all four models; then everything is counted.

    python -m tests.durability.crashes --kills 200

Decides when the engine of `shop.py` is killed: after some lines of its journal, or while it starts. What must hold then
is decided by `accounts.py`, which looks while the engine is dead.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.durability.accounts import END_SECONDS, Accounts, Found

MAXIMUM_LINES = 60  # of the journal, after which an engine is killed
EARLY = 0.2  # of the kills come after a time that it takes at most to start, whatever it has begun by then
START_SECONDS = 1.5


def crashes(kills: int, seed: int, tell: Callable[[str], None] = lambda line: None) -> Found:
    """So many kills of one engine, at moments that depend on the seed and on the machine."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_crashes(kills, random.Random(seed), Path(directory), tell))


async def _crashes(kills: int, chance: random.Random, directory: Path, tell: Callable[[str], None]) -> Found:
    accounts = Accounts(chance, directory, f"sqlite:///{directory / 'shop.db'}")

    async def kill_again_and_again() -> None:
        for number in range(1, kills + 1):
            await _kill(accounts)
            if number % 10 == 0:
                tell(str(accounts.found))
            accounts.engine = await accounts.start()

    return await accounts.live(kill_again_and_again)


async def _kill(accounts: Accounts) -> None:
    """After some lines of its journal; or while it starts."""
    journal, chance = accounts.journal, accounts.chance
    goal = journal.lines + chance.randint(1, MAXIMUM_LINES)
    seconds = chance.uniform(0.0, START_SECONDS) if chance.random() < EARLY else END_SECONDS
    await journal.says(lambda: journal.lines >= goal, seconds)
    if accounts.runs():
        accounts.engine.kill()
        await accounts.engine.wait()
        accounts.found.struck["kill"] += 1
        await accounts.look()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = crashes(asked.kills, asked.seed, print)
    print(found, *found.problems[:20], sep="\n  ")
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
