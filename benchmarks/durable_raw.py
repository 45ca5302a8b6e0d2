"""What the disk and SQLite do by themselves, with the driver and the settings that the store has.

Decides the least that any program would do for the same work: an event is written, claimed and ended, in groups of 100
with one transaction for each of the three, and its terminal record stays; records of a shard are read in batches of
100, and after each one row says how far it is. Nothing else happens: no ids are made, nothing is run, nobody waits, one
thread does all. And the least below that: bytes that are written to a file and synced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw

from benchmarks.arrivals import Arrivals
from benchmarks.cycles import PAYLOAD, Seconds, Stopwatch
from lambent.stores import sqlite_event_rows, sqlite_records
from lambent.stores.sqlite_opening import PRAGMAS

GROUP = 100
CHECKPOINT_PAGES = 4_000  # of the log, after which it is copied into the file: as often as the store does
PAGE = 4_096
LOG_PAGES = 4_000


@contextmanager
def opened(path: Path) -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(str(path), statementcachesize=256)) as connection:
        for say, _, _ in PRAGMAS:
            connection.execute(say).fetchall()
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}").fetchall()
        yield connection


def events(path: Path, number: int) -> Seconds:
    """Seconds for so many events."""
    rows = [(f"{id:032x}", "f", time.time(), 0, PAYLOAD, 0) for id in range(number)]
    with opened(path) as connection:
        for statement in sqlite_event_rows.SCHEMA:
            connection.execute(statement)
        cursor = connection.cursor()
        watch = Stopwatch()
        for first in range(0, number, GROUP):
            with connection:
                cursor.executemany(
                    "INSERT INTO events (request_id, function, accepted_at, crc, body, body_crc)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    rows[first : first + GROUP],
                )
            with connection:
                claimed = cursor.execute(
                    "UPDATE events SET attempts = attempts + 1, claimed_until = ? WHERE id IN ("
                    " SELECT id FROM events WHERE function = ? AND ended_at IS NULL AND due_at IS NULL"
                    " ORDER BY accepted_at, id LIMIT ?"
                    ") RETURNING id, body",
                    (time.time() + 300, "f", GROUP),
                ).fetchall()
            with connection:
                cursor.executemany(
                    "UPDATE events SET state = ?, body = ?, ended_at = ?, claimed_until = NULL WHERE id = ?",
                    [("succeeded", b"null", time.time(), id) for id, _ in claimed],
                )
        return watch.read()


def stream(path: Path, number: int) -> Seconds:
    """Seconds for so many records, which were put before."""
    with opened(path) as connection:
        for statement in sqlite_records.SCHEMA:
            connection.execute(statement)
        connection.execute("CREATE TABLE progress (shard TEXT PRIMARY KEY, place INTEGER NOT NULL) STRICT")
        cursor = connection.cursor()
        with connection:
            cursor.executemany(
                "INSERT INTO records VALUES (?, ?, 0, 0, ?, ?)",
                ((place, time.time(), f"N{place % 97}", PAYLOAD) for place in range(number)),
            )
        place: Any = -1
        seen = 0
        watch = Stopwatch()
        while True:
            batch = cursor.execute(
                "SELECT number, arrived_at, hops, crc, key, data FROM records WHERE number > ? ORDER BY number LIMIT ?",
                (place, GROUP),
            ).fetchall()
            if not batch:
                break
            place, seen = batch[-1][0], seen + len(batch)
            cursor.execute("INSERT INTO progress VALUES ('0', ?) ON CONFLICT DO UPDATE SET place = ?", (place, place))
        assert seen == number
        return watch.read()


def syncs(path: Path, number: int) -> list[float]:
    """Seconds until each of so many pages was written and synced, from when it was due, or from the end of the former
    one if that was later: a thousand a second, or fewer if the disk takes longer. As a log does, they begin again at
    the front of the file when it is full."""
    took: list[float] = []
    ended = 0.0
    page, arrivals = os.urandom(PAGE), Arrivals(number)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while arrivals.left:
            for due in arrivals.come():
                os.pwrite(file, page, len(took) % LOG_PAGES * PAGE)
                os.fdatasync(file)
                began, ended = max(due, ended), time.perf_counter()
                took.append(ended - began)
    finally:
        os.close(file)
        arrivals.close()
    return took
