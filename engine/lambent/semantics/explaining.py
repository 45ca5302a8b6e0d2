"""Where an item is, and because of what: sentences about what a store knows.

Decides which words stand for which facts. It decides nothing about items: what follows from an attempt, a filter or a
limit is asked of the very functions that decide it. Gathering the facts is `inspection.py`'s.

A verdict is one word for scripts; the sentences are for people. Times are in epoch seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, assert_never

from lambent.arns import without_password
from lambent.model import (
    DESTINATION_FAILED,
    DRAINED,
    EventFact,
    Function,
    MessageFact,
    Piece,
    Progress,
    Queue,
    QueueMapping,
    Record,
    Settled,
    StreamMapping,
)
from lambent.semantics import asynchronous, redriving
from lambent.semantics.concurrency import ACCOUNT_CONCURRENCY, RESERVED, UNRESERVED
from lambent.semantics.filtering import Miss
from lambent.semantics.kafka import retry_limit
from lambent.semantics.shapes import iso_milliseconds
from lambent.semantics.stream import MAXIMUM_SPAN_RECORDS, lane_of

Kind = Literal["event", "message", "record", "unknown"]
Verdict = Literal[
    "waiting", "throttled", "running", "succeeded", "failed", "expired", "dropped", "destination-failed",  # events
    "visible", "in-flight", "delayed", "dead-letter",  # messages
    "delivered", "lost", "trying", "unread", "before-start", "forgotten",  # records
    "filtered", "blocked", "paused", "stopped", "unmapped", "unknown",
]  # fmt: skip
Service = Literal["served", "stopped", "unhosted", "away"]
"""Who works on it: an engine; engines that have the function, but do not declare the mapping; engines without the
function; nobody."""

MAXIMUM_SHOWN: Final = 200  # characters of an answer or an error message in a sentence


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where one item is for one reader of it. `source` and `function` are where it is and whose it is; `mapping` is the
    reader's id; `details` holds what the sentences say, for scripts."""

    kind: Kind
    id: str
    verdict: Verdict
    sentences: tuple[str, ...]
    source: str = ""
    function: str = ""
    mapping: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Load:
    """How many calls run now, in all engines: of the item's function, of the mapping that reads it (counted where that
    has a limit), and of all functions without a reservation; those may be `unreserved_limit`."""

    running: int = 0
    of_mapping: int = 0
    unreserved: int = 0
    unreserved_limit: int = ACCOUNT_CONCURRENCY


@dataclass(frozen=True, slots=True)
class Reader:
    """A mapping that reads where the item is, with what its filters say of it; `function` None: there is none."""

    id: str
    mapping: QueueMapping | StreamMapping
    function: Function | None
    service: Service
    misses: Sequence[Miss] = ()
    load: Load = Load()

    @property
    def what(self) -> str:
        return f"{without_password(self.mapping.source)} -> {self.mapping.function}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A record in its shard, as one mapping stands to it. `record` is None if its stream holds it no more; then it has
    a fate, `settled`. `progress` is the mapping's (None: it has not begun), `before` counts what it has not finished
    before this record, `pieces` are its unfinished batches with their first records, `parents` the shards to be
    finished first."""

    position: str
    shard: str
    record: Record | None
    progress: Progress | None
    settled: Settled | None
    before: int = 0
    pieces: Sequence[tuple[Piece, Record | None]] = ()
    parents: Sequence[str] = ()


# --------------------------------------------------------------------------- events


def explain_event(
    fact: EventFact, function: Function | None, service: Service, now: float, load: Load = Load()
) -> Explanation:
    """An asynchronous event. `function` is its function's configuration, None: there is none of that name."""
    event = fact.event
    details: dict[str, object] = {"state": fact.state, "attempts": event.attempts, "accepted_at": event.accepted_at}
    if fact.state == "waiting":
        details |= {"due_at": fact.due_at, "reason": fact.reason}
        verdict, sentences = _waiting(fact, function, service, now, load)
    elif fact.state == "running":
        details["claimed_until"] = fact.due_at
        verdict = "running"
        sentences = [
            f"Attempt {event.attempts}{_at_most(function)} of {event.function} runs, or its result is being reported.",
            f"If its engine dies, it is due again {_when(fact.due_at, now)}.",
        ]
    else:
        details |= {"ended_at": fact.ended_at, "reason": fact.reason}
        verdict, sentences = _ended(fact, function)
    return Explanation("event", event.request_id, verdict, tuple(sentences), "events", event.function, details=details)


def _waiting(
    fact: EventFact, function: Function | None, service: Service, now: float, load: Load
) -> tuple[Verdict, list[str]]:
    event = fact.event
    due = f"is due since {_moment(fact.due_at)}" if fact.due_at <= now else f"waits until {_moment(fact.due_at)}"
    sentences = [f"It {due} for attempt {event.attempts + 1}{_at_most(function)} of {event.function}."]
    throttled = fact.reason in (RESERVED.reason, UNRESERVED.reason)
    if fact.reason:
        sentences.append(_because(fact.reason, event.attempts, function))
    if fact.due_at <= now and (full := _full(function, load)):
        throttled = True
        sentences += full
    if function is None:
        sentences.append(f"No function {event.function} is declared in this store: it waits for one.")
    else:
        limit = asynchronous.age_limit(event, function.event_invoke)
        age = f"maximum_event_age_seconds, {function.event_invoke.maximum_event_age_seconds}"
        too_late = limit <= max(fact.due_at, now)
        sentences.append(f"It is {'too old then' if too_late else f'too old {_when(limit, now)}'} ({age}).")
        sentences += _unserved(service, f"function {function.name}")
    return "throttled" if throttled else "waiting", sentences


def _ended(fact: EventFact, function: Function | None) -> tuple[Verdict, list[str]]:
    event, at = fact.event, _moment(fact.ended_at)
    last = [_error_of(fact.result)] if _error_of(fact.result) else []
    targets = () if function is None else function.destinations.items()
    where = [f"{option} is {without_password(target)}" for option, target in targets]
    told = [f"What fails for good is told: {', '.join(where)}."] if where else []
    match fact.state:
        case "succeeded":
            return "succeeded", [f"It succeeded at {at}, in attempt {event.attempts}: {_shown(fact.result)}."]
        case "failed":
            return "failed", [f"It was given up at {at}, after {event.attempts} attempts.", *last, *told]
        case "expired":
            because = [_because(fact.reason, event.attempts, function)] if fact.reason and not last else []
            return "expired", [f"It was given up at {at}: it had become too old.", *last, *because, *told]
        case asynchronous.DROPPED:
            because = [_because(fact.reason, event.attempts, function)] if fact.reason else last
            return "dropped", [f"It was dropped at {at}.", *because]
        case _ if fact.state == DESTINATION_FAILED:
            refused = f"It ended at {at}, and its record could not be delivered: {fact.reason}."
            return "destination-failed", [refused, *(last or [f"Its answer was {_shown(fact.result)}."])]
        case _:
            return "unknown", [f"It ended at {at} as {fact.state}."]


def _because(reason: str, attempts: int, function: Function | None) -> str:
    if reason == RESERVED.reason:
        limit = "" if function is None else f", {function.reserved_concurrency} at once"
        return f"It was throttled by its function's reserved_concurrency{limit} ({reason})."
    if reason == UNRESERVED.reason:
        return f"It was throttled by what all functions may run at once, account_concurrency ({reason})."
    if reason == DRAINED:
        return "It came back when its engine was stopped; an attempt that was cut off is not counted."
    if reason == asynchronous.FUNCTION_DELETED:
        return "Its function was deleted."
    return _error_of(reason, f"Attempt {attempts} failed") or f"It could not be run: {reason}."


def _error_of(document: str | bytes, what: str = "Its last attempt failed") -> str:
    """A sentence of an error document; nothing if it is none."""
    try:
        read = json.loads(document)
        kind, message = read["errorType"], read.get("errorMessage", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return f"{what}: {kind}: {_cut(str(message))}."


def _at_most(function: Function | None) -> str:
    return "" if function is None else f" of at most {1 + function.event_invoke.maximum_retry_attempts}"


# --------------------------------------------------------------------------- messages


def explain_message(
    fact: MessageFact, queue: Queue, readers: Sequence[Reader], declared: redriving.Declared, ahead: str, now: float
) -> list[Explanation]:
    """A message, for each mapping that reads its queue. `ahead`: the message of its group (FIFO) that comes before it,
    if there is one."""
    message = fact.message
    details: dict[str, object] = {
        "state": fact.state, "receive_count": message.receive_count, "sent_at": message.sent_at,
        "due_at": fact.due_at or None, "behind": ahead or None,
    }  # fmt: skip
    source, letter = f"queue:{fact.queue}", _letter(fact, declared)
    state, sentences = _message_state(fact, queue, now)
    if not readers:
        verdict: Verdict = state if state != "visible" else "dead-letter" if letter else "unmapped"
        none = [] if letter else [f"No mapping reads {source}: it stays until it is too old."]
        return [Explanation("message", message.id, verdict, (*letter, *sentences, *none), source, details=details)]
    found = []
    for reader in readers:
        verdict, more = state, list[str]()
        if state != "in-flight":
            verdict, more = _message_for(reader, state, ahead)
        found.append(
            Explanation(
                "message", message.id, verdict, (*letter, *sentences, *more), source, reader.mapping.function,
                reader.id, {**details, "misses": [str(miss) for miss in reader.misses]},
            )
        )  # fmt: skip
    return found


def _message_state(fact: MessageFact, queue: Queue, now: float) -> tuple[Verdict, list[str]]:
    received = fact.message.receive_count
    limit = queue.max_receive_count
    where = f"moved to {queue.dead_letter_queue}" if limit is not None and received >= limit else "received again"
    match fact.state:
        case "delayed":
            return "delayed", [f"It is delayed until {_moment(fact.due_at)}."]
        case "in_flight":
            of = "" if limit is None else f" of at most {limit}"
            return "in-flight", [
                f"It was received {_times(received)}{of}, and is in flight or waits for its next try.",
                f"If it is not deleted, it is {where} {_when(fact.due_at, now)}.",
            ]
        case "visible":
            if limit is not None and received >= limit:
                return "visible", [f"It was received {_times(received)}: it is {where} next."]
            return "visible", [f"It can be received; it was {_times(received)} so far."]
        case _:
            assert_never(fact.state)


def _message_for(reader: Reader, state: Verdict, ahead: str) -> tuple[Verdict, list[str]]:
    mapping, unserved = reader.mapping, _unserved(reader.service, f"mapping {reader.what}")
    if reader.misses:
        return "filtered", [f"The filters of {reader.what} miss it, so it is deleted when received.", *_missed(reader)]
    if not mapping.enabled:
        return "paused", [f"The mapping {reader.what} is paused."]
    if unserved:
        return "stopped", unserved
    if ahead:
        return "blocked", [f"Message {ahead} of its group comes before it."]
    if full := _full(reader.function, reader.load, mapping):
        return "throttled", full
    return state, [f"{reader.what} receives it as soon as {mapping.function} has room."] if state == "visible" else []


def _letter(fact: MessageFact, declared: redriving.Declared) -> list[str]:
    senders = redriving.senders(fact.queue, declared)
    if not senders:
        return []
    letter = redriving.read(fact.message)
    whence = " or ".join(redriving.origins(letter, fact.queue, declared)) or "nowhere that is declared"
    match letter:
        case redriving.Moved():
            return [f"It is in the dead-letter queue {fact.queue}, moved there from {whence}."]
        case redriving.FailedEvent():
            event = f"event {letter.request_id} of {whence}"
            return [f"It is the record of {event} in the dead-letter queue {fact.queue}: {_cut(letter.error)}."]
        case redriving.FailedBatch():
            return [f"It is the record of a batch of {whence} in {fact.queue}: {letter.error}; {letter.where}."]
        case _:
            assert_never(letter)


# --------------------------------------------------------------------------- records


def explain_record(placed: Placed, reader: Reader) -> Explanation:
    """A record of a stream, for one mapping that reads it."""
    assert isinstance(reader.mapping, StreamMapping)
    verdict, sentences = _record_for(placed, reader, reader.mapping)
    progress, settled = placed.progress, placed.settled
    details: dict[str, object] = {
        "shard": placed.shard,
        "arrived_at": placed.record and placed.record.arrived_at,
        "finished_up_to": progress and progress.position,
        "before": placed.before,
        "fate": settled and settled.fate,
        "reason": settled and settled.reason,
        "misses": [str(miss) for miss in reader.misses],
    }
    return Explanation(
        "record", placed.position, verdict, tuple(sentences), reader.mapping.source, reader.mapping.function, reader.id,
        details,
    )  # fmt: skip


def unread_by_all(placed: Placed, source: str) -> Explanation:
    """A record of a stream that no mapping reads."""
    details = {"shard": placed.shard, "arrived_at": placed.record and placed.record.arrived_at}
    sentence = f"No mapping reads {without_password(source)}."
    return Explanation("record", placed.position, "unmapped", (sentence,), source, details=details)


def _record_for(placed: Placed, reader: Reader, mapping: StreamMapping) -> tuple[Verdict, list[str]]:
    progress = placed.progress
    if placed.settled is not None:
        return _fate(placed.settled, reader, mapping)
    if progress is not None and placed.position <= progress.start:
        return "before-start", [f"{reader.what} began to read after it, at {progress.start}."]
    if progress is not None and placed.position <= progress.position:
        return "forgotten", [f"{reader.what} has finished it, so long ago that its fate is no longer kept."]
    assert placed.record is not None, "what is gone from its stream is explained by its fate"
    if not mapping.enabled:
        return "paused", [f"The mapping {reader.what} is paused, with {_records(placed.before)} before it."]
    if unserved := _unserved(reader.service, f"mapping {reader.what}"):
        return "stopped", unserved
    if placed.parents:
        parents = ", ".join(placed.parents)
        return "blocked", [f"Its shard is read after {reader.what} has finished the shard's parents: {parents}."]
    if reader.misses:
        passed = f"It is passed over once what is before it is finished: {_records(placed.before)}."
        return "filtered", [f"The filters of {reader.what} miss it.", *_missed(reader), passed]
    return _unfinished(placed, reader, mapping, placed.record)


def _unfinished(placed: Placed, reader: Reader, mapping: StreamMapping, record: Record) -> tuple[Verdict, list[str]]:
    lanes = mapping.parallelization_factor
    lane = lane_of(record.key, lanes)
    behind: tuple[Piece, Record | None] | None = None
    for piece, first in placed.pieces:
        if first is not None and lane_of(first.key, lanes) != lane:
            continue
        if piece.first <= placed.position <= piece.last:
            tried = f"attempt {piece.attempts} of its batch" if piece.attempts else "half of a batch that failed"
            retries = retry_limit(mapping)
            limit = "" if retries < 0 else f" of at most {1 + retries}"
            batch = f"{piece.first} to {piece.last}"
            return "trying", [f"It is in {tried}{limit} ({batch}), which runs or is to be tried again."]
        if piece.last < placed.position and (behind is None or piece.first < behind[0].first):
            behind = piece, first
    if behind is not None:
        piece, _ = behind
        of_its = "of its shard" if lanes == 1 else "of its lane"
        text = f"It comes after the batch {piece.first} to {piece.last} {of_its}, which is in attempt {piece.attempts}."
        return "blocked", [text]
    if placed.before >= MAXIMUM_SPAN_RECORDS:
        text = f"It is {placed.before} records above what is finished, and only {MAXIMUM_SPAN_RECORDS} are read ahead"
        return "blocked", [f"{text}: something before it is blocked."]
    if full := _full(reader.function, reader.load):
        return "throttled", full
    return "unread", [f"{reader.what} has not begun it; before it are {_records(placed.before)}."]


def _fate(settled: Settled, reader: Reader, mapping: StreamMapping) -> tuple[Verdict, list[str]]:
    match settled.fate:
        case "delivered":
            return "delivered", [f"It was delivered to {mapping.function}, which succeeded."]
        case "filtered":
            return "filtered", [f"The filters of {reader.what} missed it.", *_missed(reader)]
        case "lost":
            return "lost", [f"It was lost: {settled.reason}."]
        case "failed" if settled.reason.startswith(DESTINATION_FAILED):
            return "destination-failed", [f"It was given up, and nobody could be told: {settled.reason}."]
        case "failed":
            to = mapping.on_failure
            told = f"; its report went to {without_password(to)}" if to else "; nobody was told"
            return "failed", [f"It was given up: {settled.reason}{told}."]
        case _:
            assert_never(settled.fate)


# --------------------------------------------------------------------------- nothing


def unknown(id: str) -> Explanation:
    """Nothing is known of it."""
    return Explanation(
        "unknown",
        id,
        "unknown",
        (
            "This store knows no event, message or record of this id.",
            "An event that ended long ago, a message that was deleted (delivered, filtered or too old) and a record "
            "that its stream has trimmed leave no trace; or it went to another store.",
        ),
    )


# --------------------------------------------------------------------------- words


def _unserved(service: Service, what: str) -> list[str]:
    match service:
        case "served":
            return []
        case "stopped":
            return [f"No running engine declares the {what}: it is stopped."]
        case "unhosted":
            return [f"No running engine has the function for it: {what}."]
        case "away":
            return ["No engine is running on this store: start one with `lambent run FILE.py`."]
        case _:
            assert_never(service)


def _full(function: Function | None, load: Load, mapping: QueueMapping | StreamMapping | None = None) -> list[str]:
    """The limit that holds it, in the order in which `concurrency.py` looks at them; none: there is room."""
    if function is None:
        return []
    reserved = function.reserved_concurrency
    if reserved == 0:
        return [f"{function.name} may not run: its reserved_concurrency is 0."]
    if reserved is not None and load.running >= reserved:
        return [f"{function.name} runs {_times(load.running)} at once, as often as its reserved_concurrency allows."]
    if reserved is None and load.unreserved >= load.unreserved_limit:
        what = f"All functions without a reservation run {_times(load.unreserved)} at once together"
        return [f"{what}, as often as account_concurrency allows."]
    maximum = mapping.maximum_concurrency if isinstance(mapping, QueueMapping) else None
    if mapping is not None and maximum is not None and load.of_mapping >= maximum:
        what = f"{without_password(mapping.source)} -> {mapping.function} runs {_times(load.of_mapping)} at once"
        return [f"{what}, as often as its maximum_concurrency allows."]
    return []


def _missed(reader: Reader) -> Iterator[str]:
    for number, miss in enumerate(reader.misses, 1):
        yield f"Filter {number}: {miss}."


def _moment(at: float) -> str:
    return iso_milliseconds(at)


def _when(at: float, now: float) -> str:
    return f"at {_moment(at)}" + (f", in {at - now:.0f} s" if at > now else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"


def _shown(result: bytes) -> str:
    return _cut(result.decode("utf-8", "replace")) or "no answer is kept"


def _cut(text: str) -> str:
    return text if len(text) <= MAXIMUM_SHOWN else f"{text[: MAXIMUM_SHOWN - 1]}…"
