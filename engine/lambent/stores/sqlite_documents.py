"""`Documents` in a SQLite file.

Decides when a revision is taken, when a document has expired, and whose watches ring: those of this connection at once,
those of other processes when they notice that the file was changed. Leaves to `control.py` what documents say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import apsw

from lambent.errors import StoreUnavailable
from lambent.ports import Document
from lambent.stores.sqlite_file import SqliteFile
from lambent.stores.sqlite_rows import checksum, quarantine

SCHEMA: Final = (
    """CREATE TABLE documents (
        kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, revision INTEGER NOT NULL, expires_at REAL,
        crc INTEGER NOT NULL, PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX documents_expiring ON documents (expires_at) WHERE expires_at IS NOT NULL",
    # one row a kind, whose number rises with each change of it; `revision` is the highest that was given
    "CREATE TABLE document_kinds (kind TEXT PRIMARY KEY, revision INTEGER NOT NULL) STRICT, WITHOUT ROWID",
)
CHANGES: Final = ("CREATE INDEX documents_written ON documents (kind, revision)",)

RETRY_SECONDS: Final = 1.0  # after the file could not be read


class SqliteDocuments:
    """Revisions come from one counter, so a document made anew never has an old one's."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._changes: dict[str, int] = {}  # by kind, as known here
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._watches = 0
        self._closed = False
        file.on_foreign_change(self._foreign_change)

    async def get(self, kind: str, name: str) -> Document | None:
        return await self._file.read(_get, (kind, name, self._file.clock.now()))

    async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
        return await self._file.read(_list, (kind, after, self._file.clock.now()))

    async def put(
        self, kind: str, name: str, body: str, revision: int | None = None, expires_in_seconds: float | None = None
    ) -> Document | None:
        now = self._file.clock.now()
        expires_at = None if expires_in_seconds is None else now + expires_in_seconds
        document = await self._file.write(_put, (kind, name, body, revision, expires_at, now))
        if document is not None:
            self._ring(kind, document.revision)
        return document

    async def delete(self, kind: str, name: str) -> bool:
        revision = await self._file.write(_delete, (kind, name, self._file.clock.now()))
        if revision is not None:
            self._ring(kind, revision)
        return revision is not None

    async def watch(self, kind: str) -> AsyncIterator[None]:
        """Ends when the connection is closed."""
        seen = None
        self._watches += 1
        try:
            while not self._closed:
                changed, known = self._changed, self._changes.get(kind, 0)
                if seen != known:
                    seen = known
                    yield
                else:
                    await changed.wait()
        finally:
            self._watches -= 1

    async def sweep(self) -> None:
        """Forget what has expired; nobody is told."""
        await self._file.write(_sweep, self._file.clock.now())

    def close(self) -> None:
        """Ends the watches."""
        self._closed = True
        self._wake()

    def _ring(self, kind: str, revision: int) -> None:
        if revision > self._changes.get(kind, 0):
            self._changes[kind] = revision
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _foreign_change(self) -> None:
        if self._watches and self._looking is None and not self._closed:
            self._looking = asyncio.create_task(self._look(), name="documents: what others wrote")

    async def _look(self) -> None:
        while not self._closed:
            self._looking = None  # what changes from here on needs another look
            try:
                for kind, revision in await self._file.read(_kinds, None):
                    self._ring(kind, revision)
                return
            except StoreUnavailable:
                self._looking = asyncio.current_task()
                await asyncio.sleep(RETRY_SECONDS)


# --------------------------------------------------------------------------- in the file's thread


def _get(cursor: apsw.Cursor, items: Sequence[tuple[str, str, float]]) -> Sequence[Document | None]:
    return [_find(cursor, *item) for item in items]


def _find(cursor: apsw.Cursor, kind: str, name: str, now: float) -> Document | None:
    found = cursor.execute(
        "SELECT kind, name, body, revision, crc FROM documents"
        " WHERE kind = ? AND name = ? AND (expires_at IS NULL OR expires_at > ?)",
        (kind, name, now),
    ).fetchall()
    return next(iter(_whole(cursor, found)), None)


def _list(cursor: apsw.Cursor, items: Sequence[tuple[str, int, float]]) -> Sequence[Sequence[Document]]:
    return [
        _whole(
            cursor,
            cursor.execute(
                "SELECT kind, name, body, revision, crc FROM documents"
                " WHERE kind = ? AND revision > ? AND (expires_at IS NULL OR expires_at > ?)",
                item,
            ).fetchall(),
        )
        for item in items
    ]


def _whole(cursor: apsw.Cursor, rows: Sequence[Any]) -> Sequence[Document]:
    """Those that are as they were written."""
    documents = []
    for row in rows:
        kind, name, body, revision, crc = row
        if checksum(kind, name, body, revision) == crc:
            documents.append(Document(kind, name, body, revision))
        else:
            quarantine(cursor, "documents", f"{kind} {name}", row)
            cursor.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))
    return documents


def _put(
    cursor: apsw.Cursor, items: Sequence[tuple[str, str, str, int | None, float | None, float]]
) -> Sequence[Document | None]:
    return [_put_one(cursor, *item) for item in items]


def _put_one(
    cursor: apsw.Cursor, kind: str, name: str, body: str, revision: int | None, expires_at: float | None, now: float
) -> Document | None:
    stored = _find(cursor, kind, name, now)
    if revision is not None and revision != (stored.revision if stored else 0):
        return None
    document = Document(kind, name, body, _next_revision(cursor, kind))
    crc = checksum(kind, name, body, document.revision)
    cursor.execute(
        "INSERT OR REPLACE INTO documents (kind, name, body, revision, expires_at, crc) VALUES (?, ?, ?, ?, ?, ?)",
        (kind, name, body, document.revision, expires_at, crc),
    )
    return document


def _delete(cursor: apsw.Cursor, items: Sequence[tuple[str, str, float]]) -> Sequence[int | None]:
    revisions: list[int | None] = []
    for kind, name, now in items:
        there = _find(cursor, kind, name, now) is not None
        cursor.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))
        revisions.append(_next_revision(cursor, kind) if there else None)
    return revisions


def _next_revision(cursor: apsw.Cursor, kind: str) -> int:
    revision: int = cursor.execute("SELECT coalesce(max(revision), 0) + 1 FROM document_kinds").get
    cursor.execute("INSERT OR REPLACE INTO document_kinds (kind, revision) VALUES (?, ?)", (kind, revision))
    return revision


def _kinds(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[Sequence[tuple[str, int]]]:
    kinds: Any = cursor.execute("SELECT kind, revision FROM document_kinds").fetchall()
    return [kinds] * len(items)


def _sweep(cursor: apsw.Cursor, items: Sequence[float]) -> Sequence[None]:
    cursor.execute("DELETE FROM documents WHERE expires_at <= ?", (max(items),))
    return [None] * len(items)
