"""The messages of the built-in queues in a SQLite file: what is done to them inside a transaction.

Decides which message is given next, when one is visible again, moves to the dead-letter queue, is a duplicate or too
old, and which receipt still counts. Leaves to `sqlite_queue.py` who waits for what.

A message is visible from its `due_at` on: nothing has to be done when that time comes. In flight is one that was
received (`out`) and is not due again; `receipt` counts its receives, so that an older one is stale. A group of a FIFO
queue has a row that says when it has something to give: when its first message is due and none of it is in flight; from
then on it waits for its turn behind those that had something before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, takewhile
from math import inf, nextafter
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from lambent.errors import InvalidParameterValue
from lambent.model import Depth, Message, MessageAttribute, MessageFact, MessageState, Queue, Send
from lambent.semantics.builtin import (
    DEDUPLICATION_SECONDS,
    MAXIMUM_VISIBILITY_SECONDS,
    deduplication_id,
    sequence_number,
)
from lambent.stores.sqlite_file import FileClock, Perform
from lambent.stores.sqlite_rows import checksum, mend_configuration, quarantine, tell

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Call = tuple[str, FileClock, Argument]
"""The name of a queue, the time, and what is asked of it."""

SCHEMA: Final = (
    """CREATE TABLE queues (
        number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE messages (
        number INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, line TEXT,
        due_at REAL NOT NULL, out INTEGER NOT NULL, receives INTEGER NOT NULL, receipt INTEGER NOT NULL,
        first_received_at REAL NOT NULL, born_at REAL NOT NULL, sent_at REAL NOT NULL,
        head TEXT, body TEXT NOT NULL, crc INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX messages_due ON messages (queue, due_at, born_at, out)",
    "CREATE INDEX messages_born ON messages (queue, born_at)",
    "CREATE INDEX messages_line ON messages (queue, line) WHERE line IS NOT NULL",
    "CREATE INDEX messages_out ON messages (queue, line, due_at) WHERE out = 1 AND line IS NOT NULL",
    """CREATE TABLE message_groups (
        queue INTEGER NOT NULL, name TEXT NOT NULL, ready_at REAL NOT NULL, PRIMARY KEY (queue, name)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX message_groups_ready ON message_groups (queue, ready_at)",
    """CREATE TABLE deduplications (
        queue INTEGER NOT NULL, identity TEXT NOT NULL, until REAL NOT NULL, message_id TEXT NOT NULL,
        PRIMARY KEY (queue, identity)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX deduplications_until ON deduplications (until)",
)

STEP_ROWS: Final = 1_000  # swept or purged in one transaction at most, so that nobody waits long behind it
STEP_QUEUES: Final = 20  # looked at in one transaction for what is too old

_SELECT: Final = """SELECT number, id, line, due_at, out, receives, receipt, first_received_at, born_at, sent_at, head,
    body, crc FROM messages """
_DUE: Final = _SELECT + "WHERE queue = ? AND due_at <= ? ORDER BY due_at, born_at LIMIT ?"
_FIRST_IN_LINE: Final = _SELECT + "WHERE queue = ? AND line = ? ORDER BY number LIMIT ?"
_BY_ID: Final = _SELECT + "WHERE id = ? AND queue = ? AND born_at > ?"
_FOLLOWING: Final = _SELECT + "WHERE queue = ? AND (born_at, number) > (?, ?) ORDER BY born_at, number LIMIT ?"
_ADD: Final = """INSERT INTO messages (queue, id, line, due_at, out, receives, receipt, first_received_at, born_at,
    sent_at, head, body, crc) VALUES (?, ?, ?, ?, 0, 0, ?, 0, ?, ?, ?, ?, ?)"""
_GIVE: Final = """UPDATE messages SET due_at = ?, first_received_at = ?, out = 1, receives = receives + 1,
    receipt = receipt + 1 WHERE number = ?"""
_DELETE: Final = "DELETE FROM messages WHERE id = ? AND queue = ? AND receipt = ? AND born_at > ? RETURNING line"
_RELEASE: Final = """UPDATE messages SET due_at = ? WHERE id = ? AND queue = ? AND receipt = ? AND born_at > ?
    AND out = 1 AND due_at > ? RETURNING line"""
_SWEEP: Final = """DELETE FROM messages WHERE number IN
    (SELECT number FROM messages WHERE queue = ? AND born_at <= ? ORDER BY born_at LIMIT ?) RETURNING line"""
_PURGE: Final = """DELETE FROM messages WHERE number IN
    (SELECT number FROM messages WHERE queue = ? AND number <= ? ORDER BY born_at LIMIT ?) RETURNING line"""
_GIVE_BACK: Final = """UPDATE messages SET due_at = ?, receives = receives - 1, receipt = receipt + 1,
    first_received_at = iif(receives > 1, first_received_at, 0)
    WHERE id = ? AND queue = ? AND receipt = ? AND born_at > ? AND out = 1 AND due_at > ? RETURNING line"""


MAXIMUM_NUMBER: Final = 2**63 - 1
RECEIPT_DIGITS: Final = 18


class _Row(NamedTuple):
    number: int
    id: str
    line: str | None
    due_at: float
    out: int
    receives: int
    receipt: int
    first_received_at: float
    born_at: float
    sent_at: float
    head: str | None
    body: str
    crc: int


class Given(NamedTuple):
    """What a receive found. The next message is visible at `next_at` if nothing happens (-inf: ask again at once);
    `moved_to` names the dead-letter queue that got some."""

    messages: Sequence[Message]
    next_at: float
    moved_to: str | None = None


class Settling(NamedTuple):
    """A receipt, and what becomes of its message: deleted, or visible again after so many seconds."""

    receipt: str
    delay_seconds: float | None = None
    give_back: bool = False


@dataclass(frozen=True, slots=True)
class _Rows:
    """One queue inside a transaction; `now` is the file's time in epoch seconds."""

    cursor: apsw.Cursor
    number: int
    config: Queue
    now: float

    @property
    def horizon(self) -> float:
        """What was born by then is too old."""
        return self.now - self.config.message_retention_period_seconds

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, sends: Sequence[tuple[str, Send]]) -> list[str]:
        """Store checked messages; gives the ids of those stored, which for a duplicate is the earlier one's."""
        self.sweep()
        if not self.config.fifo:
            self._add([self._new(message_id, send, None) for message_id, send in sends])
            return [message_id for message_id, _ in sends]
        self._forget_identities()
        stored, fresh = [], []
        for message_id, send in sends:
            identity = deduplication_id(send, self.config)
            earlier = self._earlier(identity, message_id)
            if earlier is None:
                fresh.append(self._new(message_id, send, identity))
            stored.append(earlier or message_id)
        self._add(fresh)
        return stored

    def bury(self, rows: Sequence[_Row]) -> None:
        """Take in what another queue gives up. The ids stay; older receipts are stale."""
        number, now, fifo = self.number, self.now, self.config.fifo
        self.cursor.executemany("DELETE FROM messages WHERE number = ?", [(row.number,) for row in rows])
        self._add(
            [
                (number, row.id, _content(row)[0] or "", now, row.receipt + 1, now, now, row.head, row.body, row.crc)
                if fifo  # there its time begins anew; in a standard queue its age moves with it (SQS guide)
                else (number, row.id, None, now, row.receipt + 1, row.born_at, row.sent_at, row.head, row.body, row.crc)
                for row in rows
            ]
        )

    def _new(self, message_id: str, send: Send, identity: str | None) -> tuple[object, ...]:
        delay_seconds = self.config.delay_seconds if send.delay_seconds is None else send.delay_seconds
        head = None
        if send.group or identity or send.attributes or send.hops:
            attributes = {name: (each.value, each.data_type) for name, each in send.attributes.items()}
            head = json.dumps((send.group, identity, attributes, send.hops))
        line = send.group if self.config.fifo else None
        crc = checksum(message_id, head, send.body)
        return (self.number, message_id, line, self.now + delay_seconds, 0, self.now, self.now, head, send.body, crc)

    def _add(self, rows: Sequence[tuple[object, ...]]) -> None:
        self.cursor.executemany(_ADD, rows)
        if self.config.fifo:
            groups = {row[2]: (self.number, row[2], row[3]) for row in reversed(rows)}
            self.cursor.executemany(
                "INSERT INTO message_groups VALUES (?, ?, ?) ON CONFLICT DO NOTHING", list(groups.values())
            )

    def _earlier(self, identity: str | None, message_id: str) -> str | None:
        """The message that was sent with this identity in the last five minutes; if none was, this one is."""
        key = (self.number, identity)
        found: str | None = self.cursor.execute(
            "SELECT message_id FROM deduplications WHERE queue = ? AND identity = ? AND until > ?", (*key, self.now)
        ).get
        if found is None:
            until = self.now + DEDUPLICATION_SECONDS
            self.cursor.execute("REPLACE INTO deduplications VALUES (?, ?, ?, ?)", (*key, until, message_id))
        return found

    def _forget_identities(self) -> None:
        self.cursor.execute(
            """DELETE FROM deduplications WHERE (queue, identity) IN
            (SELECT queue, identity FROM deduplications WHERE until <= ? ORDER BY until LIMIT ?)""",
            (self.now, STEP_ROWS),
        )

    # --- receiving -------------------------------------------------------------------------------------------------

    def receive(self, limit: int) -> Given:
        """What is visible, at most `limit`; what was received too often moves to the dead-letter queue instead."""
        if self.sweep():
            return Given((), -inf)
        given: list[Message] = []
        most = self.config.max_receive_count or inf
        moved_to = None
        while len(given) < limit and (rows := self._visible(limit - len(given))):
            line = rows[0].line
            sound = self._sound(rows)
            spent = [row for row in sound if row.receives >= most]
            if spent:
                moved_to = self.config.dead_letter_queue
                self._dead_letters().bury(spent)
            good = not spent and len(sound) == len(rows)  # otherwise look again: others are in their places
            if good:
                given += self._give(rows)
            if line is not None:
                self._arrange((line,))
            elif good:
                break
        return Given(given, self._next_at(), moved_to)

    def claim(self, ids: Sequence[str]) -> Given:
        """Those of them that can be received now."""
        given: list[Message] = []
        for message_id in ids:
            row = self._find(message_id)
            if row is not None and self._sound([row]) and row.due_at <= self.now and self._open(row.line):
                given += self._give([row])
                self._arrange((row.line,))
        return Given(given, self._next_at())

    def _visible(self, limit: int) -> Sequence[_Row]:
        """Of a FIFO queue: the first ones of the group whose turn it is."""
        if not self.config.fifo:
            return self._rows(_DUE, (self.number, self.now, limit))
        while (line := self._turn()) is not None:
            rows = self._rows(_FIRST_IN_LINE, (self.number, line, limit))
            visible = list(takewhile(lambda row: not _is_sound(row) or row.due_at <= self.now, rows))
            if visible:
                return visible
            self._arrange((line,))  # what it had was set aside as damaged: the others must not wait behind it
        return ()

    def _turn(self) -> str | None:
        """The group that has had something to give for the longest time."""
        line: str | None = self.cursor.execute(
            "SELECT name FROM message_groups WHERE queue = ? AND ready_at <= ? ORDER BY ready_at LIMIT 1",
            (self.number, self.now),
        ).get
        return line

    def _open(self, line: str | None) -> bool:
        return line is None or bool(
            self.cursor.execute(
                "SELECT count(*) FROM message_groups WHERE queue = ? AND name = ? AND ready_at <= ?",
                (self.number, line, self.now),
            ).get
        )

    def _give(self, rows: Sequence[_Row]) -> list[Message]:
        # never due at this very moment, or one receive would give a message twice
        due_at = max(self.now + self.config.visibility_timeout_seconds, nextafter(self.now, inf))
        self.cursor.executemany(_GIVE, [(due_at, row.first_received_at or self.now, row.number) for row in rows])
        return [
            self._message(row, f"{row.id}#{row.receipt + 1}", row.receives + 1, row.first_received_at or self.now)
            for row in rows
        ]

    def _dead_letters(self) -> _Rows:
        name = self.config.dead_letter_queue
        assert name is not None
        _declare_unless_known(self.cursor, Queue(name=name, fifo=self.config.fifo))
        return _rows_of(self.cursor, name, self.now)

    def _next_at(self) -> float:
        question = (
            "SELECT min(ready_at) FROM message_groups WHERE queue = ?"
            if self.config.fifo
            else "SELECT min(due_at) FROM messages WHERE queue = ?"
        )
        found: float | None = self.cursor.execute(question, (self.number,)).get
        return inf if found is None else found

    # --- settling --------------------------------------------------------------------------------------------------

    def settle(self, settlings: Sequence[Settling]) -> list[bool]:
        """False: a stale receipt, nothing was done. A release moves the time of what is in flight, again and again."""
        lines = [self._settle(each) for each in settlings]
        self._arrange(chain.from_iterable(lines))
        return list(map(bool, lines))

    def last(self, _: None) -> int:
        """The message that was stored last, in whichever queue."""
        return self.cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").get or 0

    def purge(self, last: int) -> bool:
        """Remove some of the messages up to this one; True: there may be more."""
        return self._remove(_PURGE, (self.number, last, STEP_ROWS))

    def _settle(self, settling: Settling) -> list[str | None]:
        """The group of its message; nothing if the receipt is stale."""
        message_id, _, number = settling.receipt.rpartition("#")
        receipt = int(number) if number.isdecimal() and len(number) <= RECEIPT_DIGITS else 0  # what nobody was given
        key = (message_id, self.number, receipt, self.horizon)
        if settling.delay_seconds is None:
            return self._lines(_DELETE, key)
        statement = _GIVE_BACK if settling.give_back else _RELEASE
        return self._lines(statement, (self.now + max(0.0, settling.delay_seconds), *key, self.now))

    # --- looking ---------------------------------------------------------------------------------------------------

    def depth(self, _: None) -> Depth:
        visible, in_flight, delayed = self.cursor.execute(
            """SELECT count(*) FILTER (WHERE due_at <= ?2), count(*) FILTER (WHERE due_at > ?2 AND out = 1),
            count(*) FILTER (WHERE due_at > ?2 AND out = 0) FROM messages WHERE queue = ?1 AND +born_at > ?3""",
            (self.number, self.now, self.horizon),
        ).get
        return Depth(visible, in_flight, delayed)

    def peek(self, asked: tuple[int, str]) -> list[MessageFact]:
        limit, after = asked
        begin = (self.horizon, MAXIMUM_NUMBER)
        if after:
            before = self._find(after)
            if before is None:
                return []
            begin = (before.born_at, before.number)
        return [self._fact(row) for row in self._rows(_FOLLOWING, (self.number, *begin, limit)) if _is_sound(row)]

    def fact(self, message_id: str) -> MessageFact | None:
        row = self._find(message_id)
        return None if row is None or not _is_sound(row) else self._fact(row)

    def _fact(self, row: _Row) -> MessageFact:
        state: MessageState = "visible" if row.due_at <= self.now else "in_flight" if row.out else "delayed"
        receipt = f"{row.id}#{row.receipt}" if row.out else ""
        message = self._message(row, receipt, row.receives, row.first_received_at)
        return MessageFact(self.config.name, message, state, max(row.due_at, self.now))

    # --- what all of them need -------------------------------------------------------------------------------------

    def become(self, config: Queue) -> None:
        """Take a new configuration. Raises InvalidParameterValue if it is of the other kind and messages are here."""
        if self.config.fifo != config.fifo:
            if self.peek((1, "")):
                raise InvalidParameterValue(f"fifo of queue {config.name} cannot change while messages are in it")
            self.cursor.execute("DELETE FROM messages WHERE queue = ?", (self.number,))
            self.cursor.execute("DELETE FROM message_groups WHERE queue = ?", (self.number,))
            self.cursor.execute("DELETE FROM deduplications WHERE queue = ?", (self.number,))
        self.cursor.execute("UPDATE queues SET config = ? WHERE number = ?", (config.model_dump_json(), self.number))

    def mend(self) -> None:
        """A time that no call can have set is damage: it would hide its message for ever. Such a one is visible now."""
        key, latest = self.number, self.now + MAXIMUM_VISIBILITY_SECONDS
        hidden = self._lines(
            "UPDATE messages SET due_at = ? WHERE queue = ? AND due_at > ? RETURNING line", (self.now, key, latest)
        )
        blocked = self._lines("SELECT name FROM message_groups WHERE queue = ? AND ready_at > ?", (key, latest))
        self._arrange([*hidden, *blocked])
        if hidden or blocked:
            found = f"{len(hidden)} messages and {len(blocked)} groups"
            tell(self.cursor, f"Times in queue {self.config.name} were damaged and are now: those of {found}.")

    def sweep(self) -> bool:
        """Remove what is too old, within limits; True: there may be more."""
        return self._remove(_SWEEP, (self.number, self.horizon, STEP_ROWS))

    def _remove(self, statement: str, bindings: Sequence[float]) -> bool:
        """True if it were as many as one step may remove."""
        lines = self._lines(statement, bindings)
        self._arrange(lines)
        return len(lines) == STEP_ROWS

    def _arrange(self, lines: Iterable[str | None]) -> None:
        """These groups have changed: find out when they have something to give, and put them at the end."""
        for line in dict.fromkeys(lines):
            if line is None:
                continue
            key = (self.number, line)
            first = self.cursor.execute(
                "SELECT due_at FROM messages WHERE queue = ? AND line = ? ORDER BY number LIMIT 1", key
            ).get
            if first is None:
                self.cursor.execute("DELETE FROM message_groups WHERE queue = ? AND name = ?", key)
                continue
            back_at = self.cursor.execute(
                "SELECT max(due_at) FROM messages WHERE queue = ? AND line = ? AND out = 1", key
            ).get
            ready_at = max(first, back_at or 0.0, self.now)
            self.cursor.execute("REPLACE INTO message_groups VALUES (?, ?, ?)", (*key, ready_at))

    def _lines(self, statement: str, bindings: Sequence[Any]) -> list[str | None]:
        """The groups of the messages that the statement touched."""
        rows: list[tuple[Any]] = self.cursor.execute(statement, bindings).fetchall()  # type: ignore[assignment]
        return [line for (line,) in rows]

    def _rows(self, question: str, bindings: Sequence[float | str]) -> list[_Row]:
        return list(map(_Row._make, self.cursor.execute(question, bindings).fetchall()))

    def _find(self, message_id: str) -> _Row | None:
        rows = self._rows(_BY_ID, (message_id, self.number, self.horizon))
        return rows[0] if rows else None

    def _sound(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        """Those that are as they were stored. The others are put aside, and reported."""
        damaged = [row for row in rows if not _is_sound(row)]
        for row in damaged:
            quarantine(self.cursor, "messages", row.id, row)
            self.cursor.execute("DELETE FROM messages WHERE number = ?", (row.number,))
        return [row for row in rows if row not in damaged] if damaged else rows

    def _message(self, row: _Row, receipt: str, receives: int, first_received_at: float) -> Message:
        group, identity, attributes, hops = _content(row)
        return Message(
            row.id, row.body, receipt, receives, row.sent_at, first_received_at, group, identity,
            sequence_number(row.number) if self.config.fifo else None, attributes, hops,
        )  # fmt: skip


def sweep(cursor: apsw.Cursor, items: Sequence[tuple[int, FileClock]]) -> Sequence[int]:
    """Remove what is too old from the queues that follow this one; gives the last of them (0: of all)."""
    return [_sweep_after(cursor, number, clock.now()) for number, clock in items]


def _sweep_after(cursor: apsw.Cursor, number: int, now: float) -> int:
    rows: Any = cursor.execute(
        "SELECT number, config FROM queues WHERE number > ? ORDER BY number LIMIT ?", (number, STEP_QUEUES)
    ).fetchall()
    for number, config in rows:
        if (queue := _intact(config)) is not None:
            _Rows(cursor, number, queue, now).sweep()
    return number if len(rows) == STEP_QUEUES else 0


def facts(cursor: apsw.Cursor, items: Sequence[tuple[str, float]]) -> Sequence[MessageFact | None]:
    """Each message (an id, and the time), in whichever queue it is."""
    return [_fact_of(cursor, message_id, now) for message_id, now in items]


def _fact_of(cursor: apsw.Cursor, message_id: str, now: float) -> MessageFact | None:
    name: str | None = cursor.execute(
        "SELECT name FROM messages JOIN queues ON queues.number = messages.queue WHERE id = ?", (message_id,)
    ).get
    return None if name is None else _rows_of(cursor, name, now).fact(message_id)


def _rows_of(cursor: apsw.Cursor, name: str, now: float) -> _Rows:
    number, config = cursor.execute("SELECT number, config FROM queues WHERE name = ?", (name,)).get
    return _Rows(cursor, number, _parsed(config), now)


def declare(cursor: apsw.Cursor, items: Sequence[Call[Queue]]) -> Sequence[None]:
    for name, clock, config in items:
        _declare_unless_known(cursor, config)
        mend_configuration(cursor, "queues", name, config.model_dump_json(), _parsed)
        rows = _rows_of(cursor, name, clock.now())
        if rows.config != config:
            rows.become(config)
        rows.mend()
    return [None] * len(items)


def _declare_unless_known(cursor: apsw.Cursor, config: Queue) -> None:
    cursor.execute(
        "INSERT INTO queues (name, config) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (config.name, config.model_dump_json()),
    )


@lru_cache(maxsize=1024)
def _parsed(config: str) -> Queue:
    return Queue.model_validate_json(config)


def _intact(config: str) -> Queue | None:
    """None if it is damaged: then nobody knows how long what is kept, until it is declared."""
    try:
        return _parsed(config)
    except ValueError:
        return None


def _is_sound(row: _Row) -> bool:
    return None not in row[3:10] and checksum(row.id, row.head, row.body) == row.crc


def _content(row: _Row) -> tuple[str | None, str | None, dict[str, MessageAttribute], int]:
    """Group, deduplication id, attributes and hops."""
    if row.head is None:
        return None, None, {}, 0
    group, identity, attributes, hops = json.loads(row.head)
    return group, identity, {name: MessageAttribute(*each) for name, each in attributes.items()}, hops


def _each(call: Callable[[_Rows, Argument], Result]) -> Perform[Call[Argument], Result]:
    """What is done to one queue, as it is done for several callers."""

    def perform(cursor: apsw.Cursor, items: Sequence[Call[Argument]]) -> Sequence[Result]:
        return [call(_rows_of(cursor, name, clock.now()), argument) for name, clock, argument in items]

    return perform


SEND: Final = _each(_Rows.send)
RECEIVE: Final = _each(_Rows.receive)
CLAIM: Final = _each(_Rows.claim)
SETTLE: Final = _each(_Rows.settle)
LAST: Final = _each(_Rows.last)
PURGE: Final = _each(_Rows.purge)
DEPTH: Final = _each(_Rows.depth)
PEEK: Final = _each(_Rows.peek)
