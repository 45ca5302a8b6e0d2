"""The rows of asynchronous events in a SQLite file, and every statement on them.

Decides what an event is on disk, from its put to its terminal record: one row, whose `body` is the payload and then the
result. Leaves to `sqlite_events.py` when which statement is executed.

A row waits where `ended_at` and `due_at` are null, and is in the index `events_waiting` then, which has the order in
which events are claimed. `due_at` is in the row of an event that waits for its time. A claim has no state of its own:
`life` and `claimed_until` only tell people that it runs, and are void with the life of the engine that claimed it.

Statements take many rows at once, because a statement of some hundred rows runs while the event loop runs, and some
hundred statements do not: the interpreter's lock is taken once for each.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final
from zlib import crc32

import apsw

from lambent.model import Event, EventFact
from lambent.stores.sqlite_rows import many, quarantine

SCHEMA: Final = (
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        request_id TEXT NOT NULL UNIQUE, function TEXT NOT NULL, accepted_at REAL NOT NULL, extras TEXT,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL, body_crc INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0, deferrals INTEGER NOT NULL DEFAULT 0, due_at REAL,
        life INTEGER, claimed_until REAL, reason TEXT, state TEXT, ended_at REAL
    ) STRICT""",
    "CREATE INDEX events_waiting ON events (function, accepted_at) WHERE ended_at IS NULL AND due_at IS NULL",
    "CREATE INDEX events_due ON events (due_at, function) WHERE due_at IS NOT NULL",
    "CREATE INDEX events_ended ON events (ended_at) WHERE ended_at IS NOT NULL",
    # what a client put, until the engine has noticed
    "CREATE TABLE event_arrivals (id INTEGER PRIMARY KEY) STRICT",
    """CREATE TABLE event_counts (
        function TEXT NOT NULL, state TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (function, state)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE event_life (one INTEGER PRIMARY KEY CHECK (one = 1), life INTEGER NOT NULL) STRICT",
    "INSERT INTO event_life VALUES (1, 0)",
)
SWEPT_AT_ONCE: Final = 2_000  # terminal records
SURFACED_AT_ONCE: Final = 2_000  # events that fell due

Key = tuple[float, int]
"""An event's place among those of its function: accepted_at, and the row's id."""


End = tuple[int, str, str, bytes, str, float, bool]
"""An event ended: its row's id, function, state, result, reason, when (of the file's clock), and whether its last claim
was no attempt."""

Return = tuple[int, int, int, float | None, str]
"""An event waits again: its row's id, attempts, deferrals, until when if not at once, and reason."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What is in the file: the functions that have waiting events, each with the time of the oldest; when the first of
    the other events is due; the number of terminal records."""

    waiting: Mapping[str, float]
    due_at: float | None
    ended: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events in their order with their rows' ids. `last`: more may follow this; None: no more do."""

    events: Sequence[tuple[int, Event]]
    last: Key | None


@dataclass(frozen=True, slots=True)
class Surfaced:
    """What fell due and waits now, as (request id, function, a bound before it); and when the next will."""

    surfaced: Sequence[tuple[str, str, Key]]
    due_at: float | None


def begin_life(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[int]:
    """Whatever is claimed is so no longer."""
    life: Any = cursor.execute("UPDATE event_life SET life = life + 1 RETURNING life").get
    return [life] * len(items)


def overview(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[Overview]:
    """Costs as much as there are functions, not events."""
    cursor.execute("DELETE FROM event_arrivals")  # they are seen now
    waiting: Any = cursor.execute(
        "WITH RECURSIVE functions (name) AS ("
        " SELECT min(function) FROM events WHERE ended_at IS NULL AND due_at IS NULL"
        " UNION ALL SELECT (SELECT min(function) FROM events WHERE function > name AND ended_at IS NULL"
        " AND due_at IS NULL) FROM functions WHERE name IS NOT NULL"
        ") SELECT name, (SELECT min(accepted_at) FROM events WHERE function = name AND ended_at IS NULL"
        " AND due_at IS NULL) FROM functions WHERE name IS NOT NULL"
    ).fetchall()
    due_at: Any = cursor.execute("SELECT min(due_at) FROM events WHERE due_at IS NOT NULL").get
    ended: Any = cursor.execute("SELECT count(*) FROM events WHERE ended_at IS NOT NULL").get
    return [Overview(dict(waiting), due_at, ended)] * len(items)


def put(cursor: apsw.Cursor, items: Sequence[Sequence[Event]]) -> Sequence[Sequence[int]]:
    """Gives each event's id; 0: one of its request id is there already."""
    before: int = cursor.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'").get
    new = []
    id = before
    for events in items:
        for e in events:
            id += 1
            extras = None
            if e.hops or e.qualifier is not None or e.trace_id is not None or e.client_context is not None:
                extras = json.dumps([e.qualifier, e.hops, e.trace_id, e.client_context])
            accepted_at, body = float(e.accepted_at), e.payload
            crc = _crc(e.request_id, e.function, accepted_at, extras)
            new.append((id, e.request_id, e.function, accepted_at, extras, crc, body, crc32(body)))
    stored = many(
        cursor,
        "INSERT INTO events (id, request_id, function, accepted_at, extras, crc, body, body_crc) VALUES {rows}"
        " ON CONFLICT (request_id) DO NOTHING",
        new,
    )
    there = None
    if stored != len(new):
        there = {id for (id,) in cursor.execute("SELECT id FROM events WHERE id > ?", (before,))}
    ends = accumulate(map(len, items), initial=before + 1)
    return [
        [id if there is None or id in there else 0 for id in range(first, first + len(events))]
        for first, events in zip(ends, items, strict=False)
    ]


def put_as_client(cursor: apsw.Cursor, items: Sequence[Sequence[Event]]) -> Sequence[Sequence[int]]:
    """As `put`, so that the engine notices."""
    ids = put(cursor, items)
    many(cursor, "INSERT INTO event_arrivals (id) VALUES {rows}", [(id,) for each in ids for id in each if id])
    return ids


def newcomers(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[Sequence[tuple[str, Key]]]:
    """What clients put since the last call, as (function, a bound before it)."""
    found = [
        (function, (accepted_at, id - 1))
        for function, accepted_at, id in cursor.execute(
            "SELECT function, accepted_at, id FROM events JOIN event_arrivals USING (id) WHERE ended_at IS NULL"
        )
    ]
    cursor.execute("DELETE FROM event_arrivals")
    return [found, *([] for _ in items[1:])]


def claim(
    cursor: apsw.Cursor, items: Sequence[tuple[int, float, Sequence[tuple[int, int]]]]
) -> Sequence[Collection[int]]:
    """Raise these events' attempts: (life, until, (id, attempts) of each). Gives the ids that are not waiting there."""
    of_one_kind: defaultdict[tuple[int, int, float], list[int]] = defaultdict(list)
    for life, until, events in items:
        for id, attempts in events:
            of_one_kind[attempts, life, until].append(id)
    gone: set[int] = set()
    for kind, ids in of_one_kind.items():
        text = json.dumps(ids)
        cursor.execute(
            "UPDATE events SET attempts = ?, life = ?, claimed_until = ?, due_at = NULL"
            " WHERE id IN (SELECT value FROM json_each(?)) AND ended_at IS NULL",
            (*kind, text),
        )
        if cursor.connection.changes() != len(ids):
            there = cursor.execute(
                "SELECT id FROM events WHERE id IN (SELECT value FROM json_each(?)) AND ended_at IS NULL", (text,)
            )
            gone.update(set(ids) - {id for (id,) in there})
    return [gone] * len(items)


def settle(cursor: apsw.Cursor, items: Sequence[tuple[Sequence[End], Sequence[Return]]]) -> Sequence[None]:
    """All in one: terminal records, and what waits again. What ended already stays as it is."""
    ends = [end for of_one, _ in items for end in of_one]
    returns = [back for _, of_one in items for back in of_one]
    if ends:
        changed = many(
            cursor,
            "UPDATE events SET state = e.column2, body = e.column3, body_crc = e.column4, ended_at = e.column5,"
            " reason = coalesce(e.column6, reason), attempts = attempts - e.column7, due_at = NULL, life = NULL,"
            " claimed_until = NULL"
            " FROM (VALUES {rows}) AS e WHERE events.id = e.column1 AND ended_at IS NULL",
            [
                (id, state, result, crc32(result), ended_at, reason or None, given_back)
                for id, _, state, result, reason, ended_at, given_back in ends
            ],
        )
        if changed == len(ends):  # else it was done before, and nobody knew: it is counted already
            counts = Counter((function, state) for _, function, state, *_ in ends)
            many(
                cursor,
                "INSERT INTO event_counts VALUES {rows} ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [(*kind, number) for kind, number in counts.items()],
            )
    if returns:
        many(
            cursor,
            "UPDATE events SET attempts = r.column2, deferrals = r.column3, due_at = r.column4, reason = r.column5,"
            " life = NULL, claimed_until = NULL"
            " FROM (VALUES {rows}) AS r WHERE events.id = r.column1 AND ended_at IS NULL",
            [(id, attempts, deferrals, due_at, reason or None) for id, attempts, deferrals, due_at, reason in returns],
        )
    return [None] * len(items)


def surface(cursor: apsw.Cursor, items: Sequence[float]) -> Sequence[Surfaced]:
    """What is due at that time waits from now on."""
    rows: Any = cursor.execute(
        "UPDATE events SET due_at = NULL"
        " WHERE id IN (SELECT id FROM events WHERE due_at <= ? ORDER BY due_at LIMIT ?)"
        " RETURNING request_id, function, accepted_at, id",
        (max(items), SURFACED_AT_ONCE),
    ).fetchall()
    surfaced = [(request_id, function, (accepted_at, id - 1)) for request_id, function, accepted_at, id in rows]
    due_at: Any = cursor.execute("SELECT min(due_at) FROM events WHERE due_at IS NOT NULL").get
    return [Surfaced(surfaced, due_at)] * len(items)


def waiting(cursor: apsw.Cursor, items: Sequence[tuple[str, Key, int]]) -> Sequence[Waiting]:
    """Up to so many events of a function that wait, following that place."""
    return [_waiting(cursor, function, *key, limit) for function, key, limit in items]


def _waiting(cursor: apsw.Cursor, function: str, accepted_at: float, id: int, limit: int) -> Waiting:
    rows: Any = cursor.execute(
        "SELECT id, request_id, function, accepted_at, extras, crc, body, body_crc, attempts, deferrals FROM events"
        " WHERE function = ? AND (accepted_at, id) > (?, ?) AND ended_at IS NULL AND due_at IS NULL"
        " ORDER BY accepted_at, id LIMIT ?",
        (function, accepted_at, id, limit),
    ).fetchall()
    events = [(row[0], event) for row in rows if (event := _whole(cursor, row)) is not None]
    last = (rows[-1][3], rows[-1][0]) if len(rows) == limit else None
    return Waiting(events, last)


def _whole(cursor: apsw.Cursor, row: Sequence[Any]) -> Event | None:
    """The row's event, if it is what was written."""
    id, request_id, function, accepted_at, extras, crc, body, body_crc, attempts, deferrals = row
    if crc32(body) != body_crc or _crc(request_id, function, accepted_at, extras) != crc:
        quarantine(cursor, "events", request_id, row)
        cursor.execute("DELETE FROM events WHERE id = ?", (id,))
        return None
    qualifier, hops, trace_id, client_context = json.loads(extras) if extras else (None, 0, None, None)
    return Event(
        request_id, function, body, accepted_at, qualifier, attempts, deferrals, hops, trace_id, client_context
    )


def _crc(request_id: str, function: str, accepted_at: float, extras: str | None) -> int:
    """Of what never changes, but for the body; a tenth of the time that an event's put takes here, so in one piece."""
    return crc32(f"{request_id}\0{function}\0{accepted_at!r}\0{extras}".encode())


def facts(cursor: apsw.Cursor, items: Sequence[tuple[str, float]]) -> Sequence[EventFact | None]:
    """By (request id, now)."""
    return [_fact(cursor, request_id, now) for request_id, now in items]


def _fact(cursor: apsw.Cursor, request_id: str, now: float) -> EventFact | None:
    row: Any = cursor.execute(
        "SELECT id, request_id, function, accepted_at, extras, crc, body, body_crc, attempts, deferrals,"
        " due_at, life = (SELECT life FROM event_life) AND claimed_until > ?, claimed_until, reason, state, ended_at"
        " FROM events WHERE request_id = ?",
        (now, request_id),
    ).fetchone()
    if row is None or (event := _whole(cursor, row[:10])) is None:
        return None
    due_at, running, claimed_until, reason, state, ended_at = row[10:]
    reason = reason or ""
    if ended_at is not None:
        event.payload, result = b"", event.payload
        event.deferrals = 0
        return EventFact(event, state, 0.0, reason, ended_at, result)
    if running:
        return EventFact(event, "running", claimed_until, reason)
    return EventFact(event, "waiting", now if due_at is None else due_at, reason)


def ended(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[Mapping[tuple[str, str], int]]:
    """How many events ended, by (function, state)."""
    rows: Any = cursor.execute("SELECT function, state, count FROM event_counts").fetchall()
    return [{(function, state): number for function, state, number in rows}] * len(items)


def pending(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[Mapping[str, int]]:
    """How many events wait or run, by function."""
    events: Counter[str] = Counter()
    for function, number in cursor.execute(
        "SELECT function, count(*) FROM events WHERE ended_at IS NULL AND due_at IS NULL GROUP BY function"
        " UNION ALL SELECT function, count(*) FROM events WHERE due_at IS NOT NULL GROUP BY function"
    ):
        events[function] += number
    return [events] * len(items)


def forget_ended(cursor: apsw.Cursor, items: Sequence[int]) -> Sequence[None]:
    """Remove the oldest terminal records, so many."""
    cursor.execute(
        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE ended_at IS NOT NULL ORDER BY ended_at LIMIT ?)",
        (sum(items),),
    )
    return [None] * len(items)
