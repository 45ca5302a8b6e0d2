"""Bits that rot: a flipped bit, a byte that became another or a file cut short, anywhere in the files of a real store;
or a byte of a value, with which a text is another one or none.

Decides what must hold then: the store refuses with a sentence that says what to do; or it serves everything that is
whole, and says what it has put aside. It never hands out what was not stored. A log that ends early is the one damage
that nobody can tell from a power failure: then the store is as it was some time before.

    python -m tests.durability.rot --seeds 2000      as `make night` does
    python -m tests.durability.rot --seed 17         one of them again
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lambent.errors import StoreUnavailable
from lambent.semantics.builtin import MAXIMUM_VISIBILITY_SECONDS
from lambent.testing.disk import Disk
from lambent.testing.loop import run
from tests.durability.power import connect
from tests.durability.work import Work, drained, held, lost

CALLS = 25  # of each client, that are in the file
CALLS_IN_LOG = 2
LAST = "last"  # a document which is all that the last transaction has written, and which may be lost with it unheard
LOG_DAMAGED = "The log was damaged"
PROGRESS_SECONDS = 10.0
SHARE_OF_VALUES = 0.3  # of the damages: the others are of any byte
NO_TEXT = 0xFF  # is in no UTF-8
VALUES = """
SELECT t.name, c.name, c.type FROM sqlite_schema t, pragma_table_info(t.name) c
WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND c.type IN ('TEXT', 'BLOB') AND NOT c.pk
AND t.name <> 'shards' AND c.name NOT IN ('state', 'reason') -- no checksum has these
AND NOT EXISTS (
    SELECT 1 FROM pragma_index_list(t.name) i, pragma_index_info(i.name) part WHERE part.name = c.name
) ORDER BY 1, 2
"""


@dataclass
class Found:
    """What came of it: how many were harmless, refused or reported; `problems` by seed, each a sentence."""

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: dict[int, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{dict(self.outcomes)}; something untrue in seeds {sorted(self.problems)}"


def campaign(seeds: Sequence[int], tell: Callable[[str], None] = lambda line: None) -> Found:
    """Let something rot, for each seed."""
    found, told = Found(), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory) / "whole"
        whole.mkdir()
        stored = run(_fill(whole), seed=6)
        for seed in seeds:
            rotten = Path(directory) / "rotten"
            shutil.copytree(whole, rotten)
            what = _rot(rotten, random.Random(seed))
            try:
                outcome, problems = run(_look(rotten, stored, what), seed=6)
            except Exception:
                outcome, problems = "an error", [traceback.format_exc()]
            found.outcomes[outcome] += 1
            if problems:
                found.problems[seed] = [what, *problems]
            shutil.rmtree(rotten)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                tell(str(found))
    return found


async def _fill(directory: Path) -> dict[str, str]:
    """A store with some of everything, and some more in the log; gives what is in it."""
    with tempfile.TemporaryDirectory() as elsewhere, Disk(Path(elsewhere)) as disk:
        work = Work(random.Random(6))
        path = Path(elsewhere) / "lambent.db"
        connection = await connect(path, disk, work.chance, "first")
        await work.live(connection, CALLS)
        await connection.close()
        connection = await connect(path, disk, work.chance, "second")
        await work.live(connection, CALLS_IN_LOG)
        await connection.documents.put(LAST, LAST, LAST)
        stored = await held(connection, [key for key in work.ledger.known() if key.startswith("event")])
        assert not work.ledger.check(stored)
        disk.cut(0, directory)
        with contextlib.suppress(StoreUnavailable):
            await connection.close()
    return stored


def _rot(directory: Path, chance: random.Random) -> str:
    if chance.random() < SHARE_OF_VALUES:
        return _spoil(directory / "lambent.db", chance)
    path = chance.choice(sorted(directory.iterdir()))
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    match chance.randrange(4):
        case 0:
            del data[at:]
            what = f"{path.name} ends at {at}"
        case 1:
            data[at] = chance.randrange(256)
            what = f"byte {at} of {path.name} is {data[at]}"
        case _:
            data[at] ^= 1 << chance.randrange(8)
            what = f"a bit of byte {at} of {path.name} is another"
    path.write_bytes(data)
    return what


def _spoil(path: Path, chance: random.Random) -> str:
    """A byte of one value, which is in no index: few bytes of a file are of such a one, and many are of nothing."""
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        values: list[tuple[Any, ...]] = []
        while not values:
            table, column, kind = chance.choice(file.execute(VALUES).fetchall())
            columns = file.execute("SELECT name FROM pragma_table_info(?) WHERE pk", (table,)).fetchall()
            key = ", ".join(name for (name,) in columns) or "rowid"
            every = f"SELECT CAST({column} AS BLOB), {key} FROM {table} WHERE length({column}) ORDER BY {key}"
            values = file.execute(every).fetchall()
        value, *row = chance.choice(values)
        data = bytearray(value)
        at = chance.randrange(len(data))
        data[at] = NO_TEXT if chance.random() < 0.5 else data[at] ^ 1
        places = ", ".join("?" * len(row))
        file.execute(f"UPDATE {table} SET {column} = CAST(? AS {kind}) WHERE ({key}) = ({places})", (data, *row))
    return f"byte {at} of {column} of {table} {row} is {data[at]}"


async def _look(directory: Path, stored: dict[str, str], what: str) -> tuple[str, list[str]]:
    told, found, untrue = list[str](), dict[str, str](), list[str]()
    connection = None
    with Disk(directory) as disk:
        try:
            connection = await connect(directory / "lambent.db", disk, random.Random(6), "engine")
            connection.on_trouble(told.append)
            found = await held(connection, [key for key in stored if key.startswith("event")])
            untrue = await drained(connection, found, MAXIMUM_VISIBILITY_SECONDS)
            if missing := await lost(connection):
                told.append(f"{missing} records are missing")
        except StoreUnavailable as error:
            told.append(str(error))
            return "refused", []
        finally:
            if connection is not None:
                await connection.close()
    if "wal ends" in what:
        return "an earlier state", untrue
    if not any(LOG_DAMAGED in sentence for sentence in told):  # else it is as it was before what the log has lost
        other = [key for key, state in found.items() if stored.get(key) != state]
        untrue += [f"{key} is {found[key]}, and was {stored.get(key)}" for key in other]
    untrue += [f"{key} is missing, and nobody says so" for key in stored if key not in found and not told]
    return ("reported" if told else "harmless"), untrue


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--seed", type=int, help="only this one")
    asked = parser.parse_args()
    found = campaign(range(asked.seeds) if asked.seed is None else [asked.seed], print)
    for seed, problems in found.problems.items():
        print(f"SEED={seed}", *problems[:10], sep="\n  ")
    print(found)
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
