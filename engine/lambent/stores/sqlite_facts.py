"""`Facts` in a SQLite file: everything is read from its rows, the same for engines and clients.

Decides nothing: it puts together what the other adapters' rows say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from lambent.model import EventFact, Fate, MessageFact, Settled, ShardFact
from lambent.stores import sqlite_event_rows, sqlite_messages
from lambent.stores.sqlite_file import SqliteFile
from lambent.stores.sqlite_leases import see


class SqliteFacts:
    """Of ended events the latest are known, of settled records the latest ranges."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def event(self, request_id: str) -> EventFact | None:
        return await self._file.read(sqlite_event_rows.facts, (request_id, self._file.clock.now()))

    async def ended(self) -> Mapping[tuple[str, str], int]:
        return await self._file.read(sqlite_event_rows.ended, None)

    async def message(self, message_id: str) -> MessageFact | None:
        return await self._file.read(sqlite_messages.facts, (message_id, self._file.clock.now()))

    async def shards(self, group: str) -> Sequence[ShardFact]:
        return await self._file.read(_shards, group)

    async def settled(self, group: str, shard: str, position: str) -> Settled | None:
        return await self._file.read(_settled, (group, shard, position))


def _shards(cursor: apsw.Cursor, items: Sequence[str]) -> Sequence[Sequence[ShardFact]]:
    return [_shards_of(cursor, group) for group in items]


def _shards_of(cursor: apsw.Cursor, group: str) -> Sequence[ShardFact]:
    counts: defaultdict[str, dict[tuple[Fate, str], int]] = defaultdict(dict)
    rows: Any = cursor.execute("SELECT shard, fate, reason, count FROM fate_counts WHERE mapping = ?", (group,))
    for shard, fate, reason, count in rows:
        counts[shard][fate, reason] = count
    names: Any = cursor.execute("SELECT shard FROM leases WHERE mapping = ? ORDER BY shard", (group,)).fetchall()
    return [ShardFact(see(cursor, group, name), counts.get(name, {})) for (name,) in names]


def _settled(cursor: apsw.Cursor, items: Sequence[tuple[str, str, str]]) -> Sequence[Settled | None]:
    found: list[Settled | None] = []
    for item in items:
        row: Any = cursor.execute(
            "SELECT first, last, count, fate, reason FROM fates"
            " WHERE mapping = ?1 AND shard = ?2 AND first <= ?3 AND last >= ?3 ORDER BY number DESC LIMIT 1",
            item,
        ).fetchone()
        found.append(row and Settled(*row))
    return found
