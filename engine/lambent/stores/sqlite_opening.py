"""How a SQLite file is opened: its pragmas, its permissions, its schema and the upgrades to it.

Decides what a file must be before a byte is written to it: ours, of a version that we know, with a log that is synced
at every commit. Every pragma is read back, because SQLite may keep another value and say nothing (an unwritable
directory leaves `journal_mode` as it was). Leaves to `sqlite_file.py` when what is done with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import apsw

from lambent.errors import StoreUnavailable
from lambent.stores.sqlite_log import lost_in_log
from lambent.stores.sqlite_rows import StoreConnection

APPLICATION_ID: Final = 0x6C616D62  # "lamb": in the file's header, for `file` and for us
BUSY_SECONDS: Final = 5.0  # that a writer waits for another process's short transaction
CACHE_KIB: Final = 16_384
LOG_LIMIT_BYTES: Final = 64 * 1024 * 1024  # what the log may keep on disk once it was emptied
FILE_MODE: Final = 0o600
CHECKPOINT_PAGES: Final = 4_000  # of the log, above which it is copied into the file
LONG_LOG_PAGES: Final = 64_000  # of a log that cannot be emptied, from which on this is said
FREE_PAGES: Final = 1_000  # that the file may keep for what comes, or a quarter of it if that is more
SEEN_SECONDS: Final = 1.0  # after which the time is written down anew
CHECKED_PAGES: Final = 8_192  # of a file that is checked at opening: 32 MiB take a fraction of a second

Upgrade = Callable[[apsw.Cursor], None]
"""A step from one version of the schema to the next; in the same transaction as the version's number."""

PRAGMAS: Final[Sequence[tuple[str, str, object]]] = (  # what is said, what is asked, what must be answered
    ("PRAGMA auto_vacuum=INCREMENTAL", "PRAGMA auto_vacuum", 2),
    ("PRAGMA journal_mode=WAL", "PRAGMA journal_mode", "wal"),
    ("PRAGMA synchronous=FULL", "PRAGMA synchronous", 2),
    ("PRAGMA wal_autocheckpoint=0", "PRAGMA wal_autocheckpoint", 0),  # ours reports its errors
    ("PRAGMA journal_size_limit=67108864", "PRAGMA journal_size_limit", LOG_LIMIT_BYTES),
    ("PRAGMA cell_size_check=ON", "PRAGMA cell_size_check", 1),
    ("PRAGMA temp_store=MEMORY", "PRAGMA temp_store", 2),
    ("PRAGMA cache_size=-16384", "PRAGMA cache_size", -CACHE_KIB),
)

META: Final = (
    # the latest time that is known, and when the monotonic clock was 0, for the engine that opened the file last
    "CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), seen_at REAL NOT NULL, began_at REAL) STRICT",
    "INSERT INTO meta VALUES (1, 0, NULL)",
)


class Opened:
    """An open file. `seen_at` is the latest time that is known to it, in epoch seconds."""

    def __init__(self, connection: StoreConnection, checkpoint_pages: int) -> None:
        self.connection = connection
        self.seen_at: float = _answer(connection, "SELECT seen_at FROM meta")
        self._data_version = 0
        self._log_pages = 0
        self._checkpoint_pages = self._checkpoint_at = checkpoint_pages
        connection.set_wal_hook(self._logged)
        self.foreign_change()

    def foreign_change(self) -> bool:
        """Has another connection written since this was asked last?"""
        before, self._data_version = self._data_version, _answer(self.connection, "PRAGMA data_version")
        return self._data_version != before

    def began_at(self) -> float | None:
        """When the monotonic clock was 0, for the engine that opened the file last."""
        began_at: float | None = _answer(self.connection, "SELECT began_at FROM meta")
        return began_at

    def see(self, now: float) -> None:
        """Within a transaction: remember the time, now and then."""
        if now >= self.seen_at + SEEN_SECONDS:
            self.connection.execute("UPDATE meta SET seen_at = ?", (now,))
            self.seen_at = now

    def checkpoint(self) -> None:
        """Copy the log into the file if it has grown long. A reader in another process may keep it from beginning anew:
        it grows until he is done, and is tried again each time when it has grown by as much."""
        if self._log_pages < self._checkpoint_at:
            return
        done: Any = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        _, pages, copied = done[0]
        self._checkpoint_at = self._checkpoint_pages + (0 if copied == pages else pages)
        if self._log_pages >= LONG_LOG_PAGES and copied != pages:
            self.connection.troubles.append(
                f"The log has {pages} pages of 4 KiB and cannot be emptied: another process has been reading for too "
                "long. End it, or the disk fills up."
            )

    def shrink(self) -> None:
        """Within a transaction: give some of the file's free pages back to the disk, if there are many."""
        free, pages = _answer(self.connection, "PRAGMA freelist_count"), _answer(self.connection, "PRAGMA page_count")
        if free > max(FREE_PAGES, pages // 4):
            self.connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()

    def close(self) -> None:
        with suppress(apsw.Error):  # what is in the log stays there
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        with suppress(apsw.Error):
            self.connection.close()

    def abandon(self) -> None:
        """Close it without copying anything: the system may believe pages written that are not."""
        with suppress(apsw.Error):
            self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self.connection.close(True)

    def _logged(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK


@dataclass(frozen=True, slots=True)
class Opening:
    """How to open one file. `upgrades[n]` leads from version n to n + 1. `vfs`: SQLite's, by name; it needs shared
    memory, as one that inherits from the default has. A client neither creates, upgrades nor checks the file.
    `checkpoint_pages`: of the log, above which it is copied into the file."""

    path: str
    upgrades: Sequence[Upgrade]
    vfs: str | None = None
    client: bool = False
    checkpoint_pages: int = CHECKPOINT_PAGES

    def open(self, distrust: bool = False) -> Opened:
        """Raises StoreUnavailable that says what to do. `distrust`: a write has failed, so that what the log holds may
        be on the disk or not; it is written anew into the file, and emptied, before anything is added to it."""
        try:
            connection = self._connect()
        except (apsw.Error, OSError) as error:
            raise unavailable(error, self.path) or error from error
        try:
            self._version(connection)  # is it ours?
            for say, ask, expected in PRAGMAS:
                if _answer(connection, ask) != expected:  # to say it again may write
                    connection.execute(say).fetchall()
                if (answer := _answer(connection, ask)) != expected:
                    raise StoreUnavailable(
                        f"{self.path}: SQLite answers {ask} with {answer!r} instead of {expected!r}, so it would not "
                        "keep what it promises. Put the file on a local disk that this process may write to."
                    )
            if distrust:
                busy, left, done = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
                if busy or left != done:
                    raise StoreUnavailable(f"{self.path} is read by another process; the engine goes on when it ends.")
            if not self.client and not distrust:
                _check_log(connection, f"{self.path}-wal")
            self._upgrade(connection)
            if not self.client:
                _check(connection)
            return Opened(connection, self.checkpoint_pages)
        except BaseException as error:
            with suppress(apsw.Error):
                connection.close(True)
            if isinstance(error, Exception) and (known := unavailable(error, self.path)) is not None:
                raise known from error
            raise

    def _connect(self) -> StoreConnection:
        if self.client and not os.path.exists(self.path):
            raise StoreUnavailable(f"There is no {self.path}: name another store, or start the engine that makes it.")
        with suppress(FileExistsError):  # to open and close one that exists would drop this process's locks on it
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
        connection = StoreConnection(self.path, vfs=self.vfs, statementcachesize=256)  # -wal and -shm: as the file
        connection.set_busy_timeout(int(BUSY_SECONDS * 1000))
        return connection

    def _upgrade(self, connection: apsw.Connection) -> None:
        """One transaction: a crash at any statement leaves the file as it was."""
        cursor, newest = connection.cursor(), len(self.upgrades)
        if (version := self._version(connection)) == newest:
            return
        if self.client:
            raise StoreUnavailable(
                f"{self.path} was written by an older lambent (schema {version}; this one has {newest}). Start an "
                "engine of this version with it: that upgrades it."
            )
        cursor.execute("BEGIN IMMEDIATE")
        try:
            for upgrade in self.upgrades[self._version(connection) :]:
                upgrade(cursor)
            connection.pragma("user_version", newest)
            connection.pragma("application_id", APPLICATION_ID)
            cursor.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise

    def _version(self, connection: apsw.Connection) -> int:
        version: int = _answer(connection, "PRAGMA user_version")
        application: int = _answer(connection, "PRAGMA application_id")
        empty = not _answer(connection, "SELECT count(*) FROM sqlite_schema")
        if application != APPLICATION_ID and not (empty and not application and not version):
            raise StoreUnavailable(f"{self.path} is a SQLite file of something else. Name another file.")
        if version > len(self.upgrades):
            raise StoreUnavailable(
                f"{self.path} was written by a newer lambent (schema {version}; this one knows up to "
                f"{len(self.upgrades)}). Install that version or a newer one, or name another file."
            )
        return version


def creating(*statements: str) -> Upgrade:
    """The step that executes these."""

    def upgrade(cursor: apsw.Cursor) -> None:
        for statement in statements:
            cursor.execute(statement)

    return upgrade


def _check_log(connection: StoreConnection, path: str) -> None:
    """Has SQLite left out something of the log that had been committed?"""
    before = _answer(connection, "PRAGMA data_version")
    read: Any = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    lost = lost_in_log(path, read[0][1])
    if lost is not None and _answer(connection, "PRAGMA data_version") == before:  # else it is another process's work
        connection.troubles.append(lost)


def _check(connection: StoreConnection) -> None:
    """Look for damage where that takes no time to speak of; an index that is damaged is made anew from its table."""
    if _answer(connection, "PRAGMA page_count") > CHECKED_PAGES or not (found := _damage(connection)):
        return
    connection.execute("REINDEX")
    if _damage(connection):
        raise apsw.CorruptError(found)
    connection.troubles.append(f"An index was damaged and has been made anew: {found}.")


def _damage(connection: apsw.Connection) -> str:
    found: str = _answer(connection, "PRAGMA integrity_check(1)")
    return "" if found == "ok" else found


_ADVICE: Final[Sequence[tuple[type[Exception], str]]] = (
    (apsw.BusyError, "another process has held it for too long. Ask again; if it goes on, end that process"),
    (apsw.LockedError, "another connection holds it. Ask again"),
    (apsw.ProtocolError, "another process is in the way. Ask again"),
    (apsw.FullError, "the disk is full. Free some space; the engine goes on by itself"),
    (apsw.ReadOnlyError, "it cannot be written. Give this user write permission to the file and its directory"),
    (apsw.PermissionsError, "it cannot be written. Give this user write permission to the file and its directory"),
    (apsw.CantOpenError, "it cannot be opened. Its directory must exist, and this user may write to both"),
    (apsw.NotADBError, "it is no SQLite file. Name another file, or restore it from a backup"),
    (apsw.CorruptError, "it is damaged. Stop the engine, and restore it from a backup or with sqlite3's .recover"),
    (apsw.NoMemError, "there is no memory left. Free some; the engine goes on by itself"),
    (apsw.InterruptError, "the work was interrupted. Ask again"),
    (apsw.IOError, "the disk reports an error. The engine opens the file anew; if it goes on, look at the disk"),
    (OSError, "the system refuses it. Its directory must exist, and this user may write to both"),
)


def unavailable(error: Exception, path: str) -> StoreUnavailable | None:
    """What a caller meets of an error of SQLite or of the system; None: it is a bug of ours."""
    if isinstance(error, StoreUnavailable):
        return error
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return StoreUnavailable(f"{path}: {advice}. Nothing is known to be stored. ({error})")
    return None


def _answer(connection: apsw.Connection, question: str) -> Any:
    return connection.execute(question).get
