"""Where a dead letter came from, and what brings it back there.

Decides from the message and from what is configured, as the shapes of dead letters tell (Lambda developer guide,
«Capturing records of asynchronous invocations», «Retaining discarded batches»; SQS: StartMessageMoveTask): a message
that was received too often goes back to the queue whose redrive policy names the dead-letter queue; a function's dead
letter, and the record of an asynchronous event that failed, are invoked again; the records of a stream batch that was
given up are put into their stream, or topic, again. Doing it, and the order of doing (send first, then delete), are
`dead_letters.py`'s.

What was redriven begins anew: no attempts, no hops, no age. Within five minutes a FIFO queue takes a dead letter back
once, however often it is redriven.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in its stubs
from typing import Any, Final, assert_never
from urllib.parse import urlsplit

from lambent.arns import without_password
from lambent.model import Function, Message, Put, Queue, Send, Stream, StreamMapping
from lambent.semantics.kafka import put_again, same_topic

_DEAD_LETTER: Final = frozenset({"RequestID", "ErrorCode", "ErrorMessage"})  # a function's dead letter has no others
_NOT_UTF8: Final = "what it is edited to is not UTF-8"


@dataclass(frozen=True, slots=True)
class Declared:
    """What is configured, by name; of mappings those of streams."""

    functions: Mapping[str, Function]
    queues: Mapping[str, Queue]
    streams: Mapping[str, Stream]
    mappings: Collection[StreamMapping]


@dataclass(frozen=True, slots=True)
class Resend:
    """Send it to this queue."""

    queue: str
    send: Send

    @property
    def target(self) -> str:
        return f"queue:{self.queue}"


@dataclass(frozen=True, slots=True)
class Reinvoke:
    """Invoke this function with it, asynchronously."""

    function: str
    payload: bytes

    @property
    def target(self) -> str:
        return f"function:{self.function}"


@dataclass(frozen=True, slots=True)
class Reput:
    """Put these into this stream, in this order."""

    stream: str
    puts: tuple[Put, ...]
    url: str = field(default="", repr=False)  # of a topic, perhaps with a password in it

    @property
    def target(self) -> str:
        return self.stream if self.url else f"stream:{self.stream}"


@dataclass(frozen=True, slots=True)
class Unclear:
    """It cannot be known, or not be done; `reason` says what would help."""

    reason: str


Way = Resend | Reinvoke | Reput
Redrive = Way | Unclear


@dataclass(frozen=True, slots=True)
class Moved:
    """A message that its queue moved here."""

    message: Message


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """An asynchronous event that was given up. `function` is its function, if the letter says so."""

    payload: bytes
    function: str | None
    request_id: str
    error: str


@dataclass(frozen=True, slots=True)
class FailedBatch:
    """Records of a stream, or of a topic ('kafka://HOST:PORT/TOPIC'), that were given up. `puts` is None if the letter
    does not carry them; `lacking` says why."""

    stream: str
    puts: tuple[Put, ...] | None
    error: str
    where: str
    lacking: str = "it was too large to carry its records"

    @property
    def of_topic(self) -> bool:
        return self.stream.startswith("kafka://")


Letter = Moved | FailedEvent | FailedBatch


def read(message: Message) -> Letter:
    """What kind of dead letter this is."""
    names = message.attributes.keys()
    if {"RequestID", "ErrorCode"} <= names <= _DEAD_LETTER:
        said = message.attributes.get("ErrorMessage") or message.attributes["ErrorCode"]
        return FailedEvent(message.body.encode(), None, message.attributes["RequestID"].value, said.value)
    try:
        return _record(message.body) or Moved(message)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return Moved(message)


def origins(letter: Letter, queue: str, declared: Declared) -> list[str]:
    """Where a dead letter in this queue may have come from: 'queue:NAME', 'function:NAME' or 'stream:NAME'."""
    match letter:
        case Moved():
            return [f"queue:{name}" for name, each in declared.queues.items() if each.dead_letter_queue == queue]
        case FailedEvent(function=None):
            named = (name for name, each in declared.functions.items() if each.dead_letter_queue == f"queue:{queue}")
            return [f"function:{name}" for name in named]
        case FailedEvent():
            return [f"function:{letter.function}"]
        case FailedBatch():
            return [letter.stream if letter.of_topic else f"stream:{letter.stream}"]
        case _:
            assert_never(letter)


def senders(queue: str, declared: Declared) -> list[str]:
    """Who names this queue for what failed; none: it is no dead-letter queue."""
    reference = f"queue:{queue}"
    functions = declared.functions.values()
    return [
        *(f"queue:{each.name}" for each in declared.queues.values() if each.dead_letter_queue == queue),
        *(
            f"function:{each.name}"
            for each in functions
            if reference in (each.dead_letter_queue, each.event_invoke.on_failure)
        ),
        *(
            f"{without_password(each.source)} of {each.function}"
            for each in declared.mappings
            if each.on_failure == reference
        ),
    ]


def redrive(
    message: Message, queue: str, declared: Declared, to: str | None = None, edited: bytes | None = None
) -> Redrive:
    """What brings back a message of this dead-letter queue.

    to: 'queue:NAME', 'function:NAME' or 'stream:NAME' where its origin is not meant, or not known. edited: what it
    carries instead of what failed; of a stream batch, the data of its only record."""
    letter = read(message)
    if isinstance(letter, FailedBatch) and letter.of_topic:
        return _reput_to_topic(letter, queue, declared, to, edited)
    found = [to] if to is not None else origins(letter, queue, declared)
    if len(found) != 1:
        return Unclear(_which(found, queue))
    kind, _, name = found[0].partition(":")
    known: Mapping[str, Collection[str]] = {
        "queue": declared.queues, "function": declared.functions, "stream": declared.streams,
    }  # fmt: skip
    if kind not in known:
        return Unclear(f"{found[0]} is no place for it; say where to: queue:NAME, function:NAME or stream:NAME")
    if name not in known[kind]:
        return Unclear(f'there is no {kind} "{name}" (any more); say where to')
    if isinstance(letter, FailedBatch) or kind == "stream":
        return _reput(letter, kind, name, edited)
    payload = edited
    if payload is None:
        payload = message.body.encode("utf-8", "surrogatepass") if isinstance(letter, Moved) else letter.payload
    return _resend(letter, message, declared.queues[name], payload) if kind == "queue" else _reinvoke(name, payload)


# --------------------------------------------------------------------------- bringing it back


def _which(found: list[str], queue: str) -> str:
    if found:
        return f"it may be from {' or '.join(sorted(found))}: say where to"
    return f"nothing that is declared names {queue} for it (any more): say where to"


def _resend(letter: Letter, message: Message, target: Queue, payload: bytes) -> Redrive:
    try:
        body = payload.decode()
    except UnicodeDecodeError:
        return Unclear(_NOT_UTF8)
    attributes = message.attributes if isinstance(letter, Moved) else {}
    if not target.fifo:
        return Resend(target.name, Send(body, attributes=attributes))
    if message.group is None:
        return Unclear(f"{target.name} is a FIFO queue, and the message has no group: send it yourself")
    once = f"redriven-{message.id}"  # else the queue may take it for the message that it moved here, and drop it
    return Resend(target.name, Send(body, None, message.group, once, attributes))


def _reinvoke(function: str, payload: bytes) -> Redrive:
    try:
        json.loads(payload)
    except ValueError:
        return Unclear("it is not JSON, as a function's event must be")
    return Reinvoke(function, payload)


def _reput(letter: Letter, kind: str, name: str, edited: bytes | None) -> Redrive:
    if kind != "stream" or not isinstance(letter, FailedBatch):
        return Unclear("what failed in a stream goes into a stream, and nothing else does: say where to")
    return _put_again(letter, name, edited)


def _reput_to_topic(
    letter: FailedBatch, queue: str, declared: Declared, to: str | None, edited: bytes | None
) -> Redrive:
    """By the URL of a mapping that reads the topic and sends here what fails; it may know a password."""
    if to not in (None, letter.stream):
        return Unclear(f"what failed in a topic goes back into it: leave out where to; {letter.where}")
    sources = [
        mapping.source
        for mapping in declared.mappings
        if mapping.on_failure == f"queue:{queue}" and same_topic(mapping.source, letter.stream)
    ]
    if not sources:
        return Unclear(f"no mapping reads {letter.stream} and names {queue} for it (any more); {letter.where}")
    if any("records=json" in urlsplit(source).query.split("&") for source in sources):
        return Unclear(f"with records=json it does not carry its records as they were; {letter.where}")
    parts = urlsplit(sources[0])
    topic = urlsplit(letter.stream).path
    return _put_again(letter, letter.stream, edited, f"kafka://{parts.netloc}{topic}?{parts.query}")


def _put_again(letter: FailedBatch, name: str, edited: bytes | None, url: str = "") -> Redrive:
    puts = letter.puts
    if puts is None:
        return Unclear(f"{letter.lacking}; {letter.where}")
    if not puts:
        return Unclear("it has no records: the last call of a window failed, and its state is not kept")
    if edited is None:
        return Reput(name, puts, url)
    if len(puts) != 1:
        return Unclear(f"it has {len(puts)} records, and only one can be edited")
    return Reput(name, (replace(puts[0], data=edited),), url)


# --------------------------------------------------------------------------- reading


def _record(body: str) -> FailedEvent | FailedBatch | None:
    """An invocation record's content; None, or an error, if it is none."""
    members = _members(body)
    context = json.loads(members["requestContext"])
    if json.loads(members["version"]) != "1.0":
        return None
    error = context["condition"]
    if "KinesisBatchInfo" in members:
        info = json.loads(members["KinesisBatchInfo"])
        shard, first, last = info["shardId"], info["startSequenceNumber"], info["endSequenceNumber"]
        stream = info["streamArn"].split(":stream/")[1]
        where = f"they are in stream {stream}, shard {shard}, from {first} to {last}, while it keeps them"
        payload = json.loads(members["payload"]) if "payload" in members else None
        return FailedBatch(stream, None if payload is None else _puts(json.loads(payload)), error, where)
    if "KafkaBatchInfo" in members:
        return _of_topic(json.loads(members["KafkaBatchInfo"]), json.loads(members.get("payload", "null")), error)
    if isinstance(response := json.loads(members.get("responsePayload", "null")), dict) and "errorMessage" in response:
        error = f"{error}: {response['errorMessage']}"
    function = context["functionArn"].split(":function:")[1].partition(":")[0]
    return FailedEvent(members["requestPayload"].encode(), function, context["requestId"], error)


def _puts(event: dict[str, Any]) -> tuple[Put, ...]:
    records = (each["kinesis"] for each in event["Records"])
    return tuple(Put(binascii.a2b_base64(each["data"]), each["partitionKey"]) for each in records)


def _of_topic(info: dict[str, Any], payload: str | None, error: str) -> FailedBatch:
    [(partition, about)] = info["recordsInfo"].items()
    servers, topic = info["bootstrapServers"], partition.rpartition("-")[0]
    first, last = about["firstRecordOffset"], about["lastRecordOffset"]
    where = f"they are in {partition} at {servers}, offsets {first} to {last}, while it keeps them"
    letter = FailedBatch(f"kafka://{servers}/{topic}", None, error, where)
    if payload is None:
        return letter
    try:
        return replace(letter, puts=tuple(map(put_again, json.loads(payload)["records"][partition])))
    except (ValueError, TypeError, AttributeError):
        return replace(letter, lacking="its records can't be read")


def _members(text: str) -> dict[str, str]:
    """A JSON object's members as they are written: a payload is invoked again to its last digit."""
    decoder, found = json.JSONDecoder(), {}
    place = _next(text, 0, "{")
    while True:
        name, place = scanstring(text, _next(text, place, '"'))
        start = _next(text, place, ":")
        start += len(text[start:]) - len(text[start:].lstrip())
        _, place = decoder.raw_decode(text, start)
        found[name] = text[start:place]
        rest = text[place:].lstrip()
        if rest == "}":
            return found
        place = _next(text, place, ",")


def _next(text: str, place: int, expected: str) -> int:
    """The place after this character, with nothing but spaces before it."""
    found = text.index(expected, place)
    if text[place:found].strip():
        raise ValueError(f"{expected} expected at {place}")
    return found + 1
