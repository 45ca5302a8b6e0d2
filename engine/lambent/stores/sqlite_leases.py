"""`Leases` in a SQLite file, which one engine process has for itself.

Decides who holds a lease: this engine, from when it took it until it expires here or is released. Owner, counter and
progress are rows; when a lease ends is known here only, because no other engine can take it while the file is locked,
and all are void when the file is opened again. A shared limit is shared with nobody: the engine gets all of it.
Leaves to `sqlite_facts.py` what is shown of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import apsw

from lambent.model import Checkpoint, Lease, Settled
from lambent.ports import Holdings, World
from lambent.semantics.concurrency import Demand
from lambent.semantics.progress import progress_of, progress_text, seek_of
from lambent.stores.sqlite_file import SqliteFile
from lambent.stores.sqlite_rows import checksum, quarantine

SCHEMA: Final = (
    """CREATE TABLE leases (
        mapping TEXT NOT NULL, shard TEXT NOT NULL, owner TEXT NOT NULL, counter INTEGER NOT NULL, progress TEXT,
        crc INTEGER NOT NULL, PRIMARY KEY (mapping, shard)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE fates (
        mapping TEXT NOT NULL, shard TEXT NOT NULL, number INTEGER NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,
        count INTEGER NOT NULL, fate TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (mapping, shard, number)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE fate_counts (
        mapping TEXT NOT NULL, shard TEXT NOT NULL, fate TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (mapping, shard, fate, reason)
    ) STRICT, WITHOUT ROWID""",
)
MAXIMUM_RANGES: Final = 10_000  # of a shard's settled records that can still be asked for
NOBODY: Final = ""

_Key = tuple[str, str]  # mapping, shard


class SqliteLeases:
    """A lease that expired is free, and must be taken anew; until it is, its progress can still be stored, so that
    finished work isn't done twice."""

    def __init__(self, file: SqliteFile, world: World) -> None:
        self._file = file
        self._owner = world.owner
        self._clock = world.clock
        self._expiries: dict[_Key, float] = {}  # of those that are held here, on the monotonic clock

    async def heartbeat(self, group: str, names: Collection[str], valid_for_seconds: float) -> Holdings:
        now = self._clock.monotonic()
        for name in names:
            if self._expiries.get((group, name), 0.0) > now:
                self._expiries[group, name] = now + valid_for_seconds
        leases = await self._file.read(_see, [(group, name) for name in names])
        return Holdings(1, {lease.name: self._seen(lease) for lease in leases}, valid_for_seconds)

    async def take_many(self, leases: Sequence[Lease], valid_for_seconds: float) -> Sequence[Lease]:
        free = [lease for lease in leases if self._is_free(lease)]
        taken = await self._file.write(_take, (self._owner, free))
        expires_at = self._clock.monotonic() + valid_for_seconds
        self._expiries.update({(lease.group, lease.name): expires_at for lease in taken})
        return taken

    async def release_many(self, leases: Sequence[Lease]) -> None:
        mine = [lease for lease in leases if lease.owner == self._owner]
        for lease, released in zip(mine, await self._file.write(_release, mine), strict=True):
            if released:
                self._expiries.pop((lease.group, lease.name), None)

    async def checkpoint_many(self, checkpoints: Sequence[tuple[Lease, Checkpoint]]) -> Sequence[bool]:
        mine = [checkpoint for checkpoint in checkpoints if checkpoint[0].owner == self._owner]
        written = iter(await self._file.write(_checkpoint, mine))
        return [lease.owner == self._owner and next(written) for lease, _ in checkpoints]

    async def permits(self, demands: Mapping[str, Demand], valid_for_seconds: float) -> Mapping[str, int]:
        return {resource: demand.limit for resource, demand in demands.items()}

    def _is_free(self, lease: Lease) -> bool:
        return self._expiries.get((lease.group, lease.name), 0.0) <= self._clock.monotonic()

    def _seen(self, lease: Lease) -> Lease:
        return replace(lease, free=True) if self._is_free(lease) else lease


# --------------------------------------------------------------------------- in the file's thread


def see(cursor: apsw.Cursor, mapping: str, shard: str) -> Lease:
    """The lease as it is stored; one that nobody ever took is free."""
    owner, counter, progress = _stored(cursor, mapping, shard)
    told = None if progress is None else progress_of(progress)
    return Lease(mapping, shard, owner, counter, told, owner == NOBODY)


def _stored(cursor: apsw.Cursor, mapping: str, shard: str) -> tuple[str, int, str | None]:
    """Owner, counter and the progress as it is written."""
    row: Any = cursor.execute(
        "SELECT owner, counter, progress, crc FROM leases WHERE mapping = ? AND shard = ?", (mapping, shard)
    ).fetchone()
    if row is None:
        return NOBODY, 0, None
    owner, counter, progress, crc = row
    if crc != checksum(mapping, shard, progress):
        quarantine(cursor, "leases", f"{mapping} {shard}", row)
        cursor.execute("DELETE FROM leases WHERE mapping = ? AND shard = ?", (mapping, shard))
        return NOBODY, 0, None
    return owner, counter, progress


def _see(cursor: apsw.Cursor, items: Sequence[Sequence[_Key]]) -> Sequence[Sequence[Lease]]:
    return [[see(cursor, *key) for key in keys] for keys in items]


def _take(cursor: apsw.Cursor, items: Sequence[tuple[str, Sequence[Lease]]]) -> Sequence[Sequence[Lease]]:
    taken: list[list[Lease]] = []
    for owner, leases in items:
        taken.append([])
        for lease in leases:
            seen = see(cursor, lease.group, lease.name)
            if seen.counter == lease.counter:
                mine = replace(seen, owner=owner, counter=seen.counter + 1, free=False)
                taken[-1].append(mine)
                cursor.execute(
                    "INSERT INTO leases VALUES (?, ?, ?, ?, NULL, ?)"
                    " ON CONFLICT DO UPDATE SET owner = excluded.owner, counter = excluded.counter",
                    (mine.group, mine.name, mine.owner, mine.counter, checksum(mine.group, mine.name, None)),
                )
    return taken


def _release(cursor: apsw.Cursor, items: Sequence[Sequence[Lease]]) -> Sequence[Sequence[bool]]:
    released: list[list[bool]] = []
    for leases in items:
        released.append([])
        for lease in leases:
            cursor.execute(
                "UPDATE leases SET owner = '' WHERE mapping = ? AND shard = ? AND owner = ? AND counter = ?",
                (lease.group, lease.name, lease.owner, lease.counter),
            )
            released[-1].append(bool(cursor.connection.changes()))
    return released


def _checkpoint(cursor: apsw.Cursor, items: Sequence[Sequence[tuple[Lease, Checkpoint]]]) -> Sequence[Sequence[bool]]:
    written: list[list[bool]] = []
    for checkpoints in items:
        written.append([])
        for lease, checkpoint in checkpoints:
            where = lease.group, lease.name
            owner, counter, before = _stored(cursor, *where)
            written[-1].append((owner, counter) == (lease.owner, lease.counter))
            progress = progress_text(checkpoint.progress)
            if not written[-1][-1] or before == progress:
                continue
            if before is not None and seek_of(before) != checkpoint.progress.seek:
                cursor.execute("DELETE FROM fates WHERE mapping = ? AND shard = ?", where)
                cursor.execute("DELETE FROM fate_counts WHERE mapping = ? AND shard = ?", where)
            cursor.execute(
                "UPDATE leases SET progress = ?, crc = ? WHERE mapping = ? AND shard = ?",
                (progress, checksum(*where, progress), *where),
            )
            _settle(cursor, *where, checkpoint.settled)
    return written


def _settle(cursor: apsw.Cursor, mapping: str, shard: str, settled: Sequence[Settled]) -> None:
    """Totals, and the latest ranges; neighbours of one fate and reason are one range."""
    before: Any = cursor.execute(
        "SELECT number, fate, reason FROM fates WHERE mapping = ? AND shard = ? ORDER BY number DESC LIMIT 1",
        (mapping, shard),
    ).fetchone()
    number, *fate = before or (0, "", "")
    for each in settled:
        if fate == [each.fate, each.reason]:
            cursor.execute(
                "UPDATE fates SET last = ?, count = count + ? WHERE mapping = ? AND shard = ? AND number = ?",
                (each.last, each.count, mapping, shard, number),
            )
        else:
            number, fate = number + 1, [each.fate, each.reason]
            cursor.execute(
                "INSERT INTO fates VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (mapping, shard, number, each.first, each.last, each.count, *fate),
            )
            cursor.execute(
                "DELETE FROM fates WHERE mapping = ? AND shard = ? AND number <= ?",
                (mapping, shard, number - MAXIMUM_RANGES),
            )
        cursor.execute(
            "INSERT INTO fate_counts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
            (mapping, shard, *fate, each.count),
        )


def void_all(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    """The engine that held them is gone."""
    cursor.execute("UPDATE leases SET owner = '' WHERE owner != ''")
    return items
