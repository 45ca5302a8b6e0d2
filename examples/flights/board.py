"""The board: the application's own database, one SQLite file. Every function writes what it found in one transaction.

Decides what counts when something is handed over again, as after a crash (at least once, as on AWS): a flight departed
by the first record that told it, also if that very record comes again; it has one fate of a kind, the first; a window
is named by its first record, and written anew if it ends again. All that is too much is a duplicate, and only counted.

`synchronous=NORMAL` survives `kill -9`, which is what `make run` shows. Where the power may fail, use FULL: the
engine's store does, and must not be ahead of its application.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from examples.flights.data import Flight

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS departed (flight INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fates (kind TEXT, flight INTEGER, fate TEXT, PRIMARY KEY (kind, flight)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (
    airline_or_airport TEXT, first_record TEXT, departed INTEGER, minutes INTEGER,
    PRIMARY KEY (airline_or_airport, first_record)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS duplicates (kind TEXT, amount INTEGER);
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

Told = tuple[str, Flight]
"""A departure, and the record (its sequence number) that told it."""


class Board:
    """May be used by several threads. What is counted in `counts` is in the file; see `failed_attempts` for what is
    only of this process."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._db.executescript(SCHEMA)
        self.counts: Counter[str] = Counter(departed=self._number("SELECT count(*) FROM departed"))
        self.counts.update(dict(self._db.execute("SELECT fate, count(*) FROM fates GROUP BY fate")))
        self.duplicates: Counter[str] = Counter(
            dict(self._db.execute("SELECT kind, sum(amount) FROM duplicates GROUP BY kind"))
        )
        self.failed_attempts: Counter[str] = Counter()  # by function; items that this process tried in vain
        self.iterator_age = 0.0  # seconds; the oldest of any shard since somebody looked

    def close(self) -> None:
        self._db.close()

    # --- what the functions write ------------------------------------------------------------------------------------

    def departed(self, told: Sequence[Told]) -> Sequence[Told]:
        """These departed; gives those that count."""
        if not told:
            return told
        with self._transaction() as db:
            rows = [(flight["id"], record) for record, flight in told]
            new = db.executemany("INSERT OR IGNORE INTO departed VALUES (?, ?)", rows).rowcount
            self.counts["departed"] += new
            if new == len(told):
                return told
            self._too_many("departed", len(told) - new)
            same = "SELECT record = ? FROM departed WHERE flight = ?"
            return [(record, flight) for record, flight in told if self._number(same, record, flight["id"])]

    def closed(self, first_record: str, departed: Mapping[str, int], minutes: Mapping[str, int]) -> None:
        """A window is over: its departures and minutes of delay by airline and airport."""
        with self._transaction() as db:
            db.execute("DELETE FROM windows WHERE first_record = ?", (first_record,))
            rows = [(group, first_record, departed[group], minutes[group]) for group in departed]
            db.executemany("INSERT INTO windows VALUES (?, ?, ?, ?)", rows)

    def forget(self, record: str, flight: Flight) -> None:
        """The engine gave this record up, so it is in no window's state: what it told does not count."""
        with self._transaction() as db:
            told = "DELETE FROM departed WHERE flight = ? AND record = ?"
            self.counts["departed"] -= db.execute(told, (flight["id"], record)).rowcount
            db.execute("DELETE FROM windows WHERE first_record = ?", (record,))

    def settle(self, kind: str, fate: str, flights: Iterable[int]) -> None:
        """The fate of these flights, of this kind."""
        with self._transaction() as db:
            rows = [(kind, flight, fate) for flight in flights]
            new = db.executemany("INSERT OR IGNORE INTO fates VALUES (?, ?, ?)", rows).rowcount if rows else 0
            self.counts[fate] += new
            if new < len(rows):
                self._too_many(kind, len(rows) - new)

    # --- what is asked -----------------------------------------------------------------------------------------------

    def total(self, airline_or_airport: str) -> tuple[int, int]:
        """Departures and minutes of delay in the windows that are over."""
        asked = "SELECT ifnull(sum(departed), 0), ifnull(sum(minutes), 0) FROM windows WHERE airline_or_airport = ?"
        with self._lock:
            departed, minutes = self._db.execute(asked, (airline_or_airport,)).fetchone()
        return departed, minutes

    def flights(self, fate: str = "departed") -> set[int]:
        """The flights that departed, or that have another fate."""
        with self._lock:
            if fate == "departed":
                return {flight for (flight,) in self._db.execute("SELECT flight FROM departed")}
            return {flight for (flight,) in self._db.execute("SELECT flight FROM fates WHERE fate = ?", (fate,))}

    # --- how far the run is ------------------------------------------------------------------------------------------

    def mark(self, name: str, default: str = "") -> str:
        """What was noted under this name."""
        with self._lock:
            found = self._db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return default if found is None else str(found[0])

    def note(self, name: str, value: object) -> None:
        """Note it, for this process and those after it."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, str(value)))

    # --- helpers -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:  # commits, or rolls back
                yield self._db

    def _too_many(self, kind: str, amount: int) -> None:
        self.duplicates[kind] += amount
        self._db.execute("INSERT INTO duplicates VALUES (?, ?)", (kind, amount))

    def _number(self, asked: str, *values: object) -> int:
        return int(self._db.execute(asked, values).fetchone()[0])
