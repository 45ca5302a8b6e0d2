"""The board: the application's own database, one SQLite file. Every function writes what it found in one transaction.

Decides what counts when something is handed over again, as after a crash (at least once, as on AWS): a flight departed
by the first record that told it, also if that very record comes again; it has one fate of a kind, the first; a window
is named by its first record, and written anew if it ends again. All that is too much is a duplicate, and only counted.
Any number of processes may use it at once.

`synchronous=NORMAL` survives `kill -9`, which is what `make run` shows. Where the power may fail, use FULL: the
engine's store does, and must not be ahead of its application.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from examples.flights.data import Flight

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 8000;
CREATE TABLE IF NOT EXISTS departed (place INTEGER PRIMARY KEY, flight INTEGER UNIQUE, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fates (kind TEXT, flight INTEGER, fate TEXT, PRIMARY KEY (kind, flight)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (
    airline_or_airport TEXT, first_record TEXT, departed INTEGER, minutes INTEGER,
    PRIMARY KEY (airline_or_airport, first_record)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (kind TEXT, name TEXT, amount INTEGER, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

ADD = "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
AGE = "INSERT INTO counts VALUES ('age', '', ?) ON CONFLICT DO UPDATE SET amount = max(amount, excluded.amount)"
PATIENCE_SECONDS = 30.0  # with other processes that write

Told = tuple[str, Flight]
"""A departure, and the record (its sequence number) that told it."""


class Board:
    """May be used by several threads. What only counts (`counts`) is written with the next transaction."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self._db = sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._db.executescript(SCHEMA)
        self._news: Counter[tuple[str, str]] = Counter()
        self._oldest = 0.0

    def close(self) -> None:
        self._db.close()

    # --- what the functions write ------------------------------------------------------------------------------------

    def departed(self, told: Sequence[Told], age: float = 0.0) -> Sequence[Told]:
        """These departed; gives those that count. `age`: of the last record, in seconds."""
        if not told:
            return told
        with self._transaction() as db:
            self._oldest = max(self._oldest, age)
            rows = [(flight["id"], record) for record, flight in told]
            new = db.executemany("INSERT OR IGNORE INTO departed (flight, record) VALUES (?, ?)", rows).rowcount
            self._news["fate", "departed"] += new
            if new == len(told):
                return told
            self._news["duplicates", "departed"] += len(told) - new
            same = "SELECT record = ? FROM departed WHERE flight = ?"
            return [(record, flight) for record, flight in told if self._number(same, record, flight["id"])]

    def closed(self, first_record: str, departed: Mapping[str, int], minutes: Mapping[str, int]) -> None:
        """A window is over: its departures and minutes of delay by airline and airport."""
        with self._transaction() as db:
            db.execute("DELETE FROM windows WHERE first_record = ?", (first_record,))
            rows = [(group, first_record, departed[group], minutes[group]) for group in departed]
            db.executemany("INSERT INTO windows VALUES (?, ?, ?, ?)", rows)

    def forget(self, record: str, flight: Flight) -> None:
        """The engine gave this record up, so it is in no window's state: what it told does not count. It is put again,
        out of its order."""
        with self._transaction() as db:
            told = "DELETE FROM departed WHERE flight = ? AND record = ?"
            self._news["fate", "departed"] -= db.execute(told, (flight["id"], record)).rowcount
            db.execute("DELETE FROM windows WHERE first_record = ?", (record,))
            db.execute("INSERT OR IGNORE INTO fates VALUES ('order', ?, 'put again')", (flight["id"],))

    def settle(self, kind: str, fate: str, flights: Sequence[int]) -> None:
        """The fate of these flights, of this kind."""
        if not flights:
            return
        with self._transaction() as db:
            rows = [(kind, flight, fate) for flight in flights]
            new = db.executemany("INSERT OR IGNORE INTO fates VALUES (?, ?, ?)", rows).rowcount
            self._news["fate", fate] += new
            self._news["duplicates", kind] += len(rows) - new

    def failed(self, function: str, items: int = 1) -> None:
        """A function tried these in vain."""
        with self._lock:
            self._news["failed attempts", function] += items

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

    def order(self) -> list[int]:
        """The flights that departed, as they were told."""
        with self._lock:
            return [flight for (flight,) in self._db.execute("SELECT flight FROM departed ORDER BY place")]

    def counts(self, kind: str) -> Counter[str]:
        """How many, of this kind ("fate", "duplicates", "failed attempts"), by name."""
        with self._lock:
            asked = "SELECT name, amount FROM counts WHERE kind = ? AND amount > 0"
            return Counter(dict(self._db.execute(asked, (kind,))))

    def oldest(self) -> float:
        """The largest age of a record, in seconds, since somebody asked."""
        with self._lock:
            found = self._db.execute("UPDATE counts SET amount = 0 WHERE kind = 'age' RETURNING amount").fetchone()
        return found[0] / 1000 if found else 0.0

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
            news = self._news.copy()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                with self._db:  # commits, or rolls back
                    yield self._db
                    self._db.executemany(ADD, [(*name, amount) for name, amount in self._news.items()])
                    self._db.execute(AGE, (round(1000 * self._oldest),))
            except BaseException:
                self._news = news
                raise
            self._news.clear()
            self._oldest = 0.0

    def _number(self, asked: str, *values: object) -> int:
        return int(self._db.execute(asked, values).fetchone()[0])
