"""What the rows of a SQLite store have in common: a checksum, a quarantine, and statements for many rows at once.

Decides when a row counts as damaged, and where it goes then: out of its table, as it is, into `quarantine`, so that
whoever reads on meets the others and a person can look at it. What a row holds is its adapter's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final, TypeVar
from zlib import crc32

import apsw

T = TypeVar("T")

SCHEMA: Final = (
    """CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY, source TEXT NOT NULL, name TEXT NOT NULL, content TEXT NOT NULL
    ) STRICT""",
)
_CONFIGURATIONS: Final = {
    table: (
        f"SELECT number, CAST(config AS BLOB) FROM {table}",  # noqa: S608  these two names
        f"UPDATE {table} SET config = ? WHERE number = ?",  # noqa: S608
        f"SELECT config FROM {table} WHERE name = ?",  # noqa: S608
        f"UPDATE {table} SET config = ? WHERE name = ?",  # noqa: S608
    )
    for table in ("queues", "streams")
}
"""Statements about configurations, in the tables of what is declared by name and has rows of its own elsewhere."""
MAXIMUM_QUARANTINED: Final = 10_000  # rows that are kept; the oldest make room
LARGEST_STATEMENT: Final = 256  # rows; SQLite's time for them is long beside the time to begin


class StoreConnection(apsw.Connection):
    """Remembers what was found wrong: `troubles` are sentences, until somebody takes them."""

    troubles: list[str]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.troubles = []


def checksum(*parts: str | bytes | float | None) -> int:
    """CRC-32 of these; what moves from one part to the next is noticed."""
    crc = 0
    for part in parts:
        text = part if type(part) is bytes else repr(part).encode()
        crc = crc32(text, crc)
    return crc


def quarantine(cursor: apsw.Cursor, source: str, name: str, row: Sequence[object]) -> None:
    """Keep a damaged row apart. Its table is left to the caller, who knows how to name it there."""
    content = json.dumps([_shown(each) for each in row])
    cursor.execute("INSERT INTO quarantine (source, name, content) VALUES (?, ?, ?)", (source, name, content))
    cursor.execute("DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", (MAXIMUM_QUARANTINED,))
    left = "The table `quarantine` has what is left of it."
    tell(cursor, f"A row of {source} was damaged and is set aside: {name}. {left}")


def tell(cursor: apsw.Cursor, trouble: str) -> None:
    """Something was found wrong, and gone on from."""
    connection = cursor.connection
    assert isinstance(connection, StoreConnection)
    connection.troubles.append(trouble)


def set_aside_unreadable(cursor: apsw.Cursor) -> None:
    """Put every row into quarantine whose text is not UTF-8 any more: nobody could read it, nor those beside it."""
    tables: Any = cursor.execute(
        "SELECT name, wr FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    ).fetchall()
    for table, without_rowid in tables:
        columns: Any = cursor.execute("SELECT name, type, pk FROM pragma_table_info(?)", (table,)).fetchall()
        key = [name for name, _, part in columns if part] if without_rowid else ["rowid"]
        texts = [name for name, kind, _ in columns if kind == "TEXT" and name != "config"]
        if table in _CONFIGURATIONS:
            _empty_unreadable_configurations(cursor, table)
        raw = [f"CAST({name} AS BLOB)" for name in (*key, *texts)]
        every = f"SELECT {', '.join(raw)} FROM {table}"  # noqa: S608  the names are those of our own schema
        one = f"DELETE FROM {table} WHERE {' AND '.join(f'{each} = ?' for each in raw[: len(key)])}"  # noqa: S608
        for row in [row for row in cursor.execute(every) if not all(map(_is_text, row[len(key) :]))]:
            quarantine(cursor, table, " ".join(part.decode(errors="replace") for part in row[: len(key)]), row)
            cursor.execute(one, row[: len(key)])


def _empty_unreadable_configurations(cursor: apsw.Cursor, table: str) -> None:
    """Its row stays, because others belong to it: `mend_configuration` has another for it."""
    every, change, _, _ = _CONFIGURATIONS[table]
    for number, config in cursor.execute(every).fetchall():
        if not _is_text(config):
            cursor.execute(change, ("", number))
            tell(cursor, f"A configuration in {table} was damaged: what is declared takes its place.")


def mend_configuration(
    cursor: apsw.Cursor, table: str, name: str, declared: str, parse: Callable[[str], object]
) -> None:
    """If there is one that says nothing any more, what is declared takes its place."""
    _, _, one, replace = _CONFIGURATIONS[table]
    stored: str | None = cursor.execute(one, (name,)).get
    try:
        if stored is not None:
            parse(stored)
    except ValueError:
        cursor.execute(replace, (declared, name))
        tell(cursor, f"The configuration of {name}, in {table}, was damaged: what is declared takes its place.")


def many(cursor: apsw.Cursor, statement: str, rows: Sequence[Sequence[Any]]) -> int:
    """Execute a statement for many rows, with few steps: `statement` has one `VALUES` list at the place of `{rows}`, of
    as many values as a row has. Gives how many rows were changed."""
    changed = 0
    for part in _parts(rows):
        cursor.execute(_statement(statement, len(part), len(part[0])), tuple(chain.from_iterable(part)))
        changed += cursor.connection.changes()
    return changed


def _parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """In powers of two, so that there are few statements to be prepared."""
    begin, size = 0, LARGEST_STATEMENT
    while (left := len(rows) - begin) > 0:
        while size > left:
            size //= 2
        yield rows[begin : begin + size]
        begin += size


@lru_cache(maxsize=256)
def _statement(statement: str, rows: int, width: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return statement.replace("{rows}", ",".join([row] * rows))


def _is_text(value: Any) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _shown(value: object) -> object:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
