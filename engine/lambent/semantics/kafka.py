"""Kafka's records as a function and a filter see them, their places, and what of a shard's progress a commit carries.

Decides names, order and types of the keys (Lambda developer guide, «Using Lambda with self-managed Apache Kafka»), how
a place is written as a position, and what is kept in the metadata of a committed offset. What is read and committed,
and when, is the poller's.

A partition is a shard, named as AWS names it: 'orders-0'. A position names one record of it, with the offset in all of
its digits, so that texts compare as offsets do: 'orders-0@0000000000000000042'.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from pydantic_core import from_json, to_json

from lambent.model import Piece, Progress, Put, Record, StreamMapping
from lambent.semantics.batching import ENVELOPE_BYTES, Weights
from lambent.semantics.filtering import decoded_view
from lambent.semantics.shapes import iso_milliseconds

HOPS_HEADER: Final = "lambent-hops"  # of a record that a function put: the length of its chain
TIMESTAMP_TYPES: Final = ("CREATE_TIME", "LOG_APPEND_TIME")
MAXIMUM_METADATA_BYTES: Final = 3 * 1024  # of a commit; the broker's limit is 4,096 (offset.metadata.max.bytes)
RECORD_OVERHEAD_BYTES: Final = 320  # a record's JSON without topic, key, value and headers
MAXIMUM_TOPIC_CHARACTERS: Final = 249
MAXIMUM_OVERHEAD_BYTES: Final = 1_000  # a record's JSON with the longest topic's name, and nothing in it
MAXIMUM_GROWTH: Final = 6  # of content in an event: a control character is "\\u0001", a header's byte "255, "
RETRIES_WITH_DESTINATION: Final = 10  # in place of endless ones
USUAL_PORT: Final = 9092
_DIGITS: Final = 19
_HEADER_BYTES: Final = 8  # counted for a header beside its name and value; six times that is what it adds to both
_CONTENT: Final = ("key", "value")
_HELD = attrgetter("held")
_JSON_BEGINS: Final = frozenset(bytes([each]) for each in b'{["-0123456789tfn \t\r\n')
_VERSION: Final = 1


class Raw(Protocol):
    """A record as Kafka's client gives it."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class KafkaRecord(Record):
    """A record with what only Kafka knows of it. `held`: how many bytes of content it has, in whatever part;
    `json_bytes` is kept once it was asked for, since a batch that waits is weighed again with each that joins."""

    raw: Raw | None = None
    held: int = 0
    json_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KafkaPut(Put):
    """A record that was in a topic and goes into it again as it was: its key any bytes or none, with headers; and if it
    is `valueless`, and has no data, without a value."""

    raw_key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    valueless: bool = False


def put_again(shown: Mapping[str, Any]) -> KafkaPut:
    """A record as an event shows it (`event`, as on AWS) as what puts it again. Raises ValueError, TypeError or
    AttributeError if it is none."""
    key, value = (None if each is None else a2b_base64(each, strict_mode=True) for each in map(shown.get, _CONTENT))
    headers = tuple((name, bytes(told)) for each in shown.get("headers", ()) for name, told in each.items())
    text = "" if key is None else key.decode("utf-8", "backslashreplace")
    return KafkaPut(value or b"", text, 0, key, headers, value is None)


def record(shard: str, raw: Raw) -> KafkaRecord:
    """Without a key it has the empty one, as all the others have that are without: they keep their order."""
    key = "" if raw.key is None else raw.key.decode("utf-8", "backslashreplace")
    data, held, hops = raw.value or b"", len(raw.key or b"") + len(raw.value or b""), 0
    if raw.headers:
        hops = _hops(raw)
        held += sum([_HEADER_BYTES + len(name.encode()) + len(value or b"") for name, value in raw.headers])
    return KafkaRecord(f"{shard}@{raw.offset:019d}", key, data, raw.timestamp / 1e3, hops, raw, held)


# --------------------------------------------------------------------------- places


def shard_id(topic: str, partition: int) -> str:
    return f"{topic}-{partition}"


def position(shard: str, offset: int) -> str:
    """Of the record at this offset; below 0: before all."""
    return f"{shard}@{offset:0{_DIGITS}d}" if offset >= 0 else f"{shard}@"


def offset_after(position: str) -> int:
    """Where reading goes on after this position."""
    digits = position.rpartition("@")[2]
    return int(digits) + 1 if digits else 0


def position_named(identifier: Mapping[str, object]) -> str | None:
    """The record that a batch response names: `{"partition": "orders-0", "offset": 42}`; None: none."""
    match identifier:
        case {"partition": str(shard), "offset": int(offset)} if not isinstance(offset, bool) and offset >= 0:
            return position(shard, offset)
    return None


# --------------------------------------------------------------------------- how it looks


def event(shard: str, records: Sequence[Record], bootstrap_servers: str, decoded: bool) -> dict[str, object]:
    """A partition's batch as AWS's event, `decoded`: with texts and JSON values where AWS has base64 and numbers."""
    look = _decoded if decoded else _as_aws
    raws = [each.raw for each in records if isinstance(each, KafkaRecord) and each.raw is not None]
    return {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": bootstrap_servers,
        "records": {shard: [look(raw) for raw in raws]} if raws else {},
    }


def view(record: Record) -> dict[str, object]:
    """A record as a filter sees it: value and key as JSON values beside the metadata, all on one level (Lambda guide,
    «Event filtering with Apache Kafka»: data filtering on `value`, and on `key`)."""
    assert isinstance(record, KafkaRecord)
    assert record.raw is not None
    return {**_metadata(record.raw), **_key_and_value(record.raw, decoded_view), "headers": _headers(record.raw, _text)}


def weights(decoded: bool, bootstrap_servers: str = "") -> Weights:
    """Of a topic's records, by how they look in an event that names these servers. What is decoded must be written to
    be weighed: it may be as long as it was, or six times that."""
    envelope = ENVELOPE_BYTES + MAXIMUM_TOPIC_CHARACTERS + len(bootstrap_servers.encode())
    size = _decoded_size if decoded else _size
    return Weights(size, _held, MAXIMUM_GROWTH, MAXIMUM_OVERHEAD_BYTES, envelope)


def _held(records: Sequence[Record]) -> int:
    return sum(map(_HELD, records))


def _size(record: Record) -> int:
    assert isinstance(record, KafkaRecord)
    assert record.raw is not None
    if not record.json_bytes:
        raw = record.raw
        headers = sum([40 + 6 * (len(name.encode()) + len(value or b"")) for name, value in raw.headers])
        content = len(raw.key or b"") + len(record.data)
        record.json_bytes = RECORD_OVERHEAD_BYTES + 2 * len(raw.topic) + content * 4 // 3 + 8 + headers
    return record.json_bytes


def _decoded_size(record: Record) -> int:
    assert isinstance(record, KafkaRecord)
    assert record.raw is not None
    if not record.json_bytes:
        record.json_bytes = len(to_json(_decoded(record.raw))) + 1  # the comma
    return record.json_bytes


def batch_info(event: Mapping[str, object], records: Sequence[KafkaRecord], payload_bytes: int) -> dict[str, object]:
    """What an invocation record says of records that were given up, KafkaBatchInfo (Lambda developer guide, «Capturing
    discarded batches for Amazon MSK and self-managed Apache Kafka»)."""
    first, last = records[0], records[-1]
    return {
        "batchSize": len(records),
        "bootstrapServers": event["bootstrapServers"],
        "payloadSize": payload_bytes,
        "recordsInfo": {
            first.position.partition("@")[0]: {
                "firstRecordOffset": str(offset_after(first.position) - 1),
                "lastRecordOffset": str(offset_after(last.position) - 1),
                "firstRecordTimestamp": iso_milliseconds(first.arrived_at),
                "lastRecordTimestamp": iso_milliseconds(last.arrived_at),
            }
        },
    }


def _as_aws(raw: Raw) -> dict[str, object]:
    # The dearest loop of this source: nothing called that need not be.
    found: dict[str, object] = {
        "topic": raw.topic,
        "partition": raw.partition,
        "offset": raw.offset,
        "timestamp": raw.timestamp,
        "timestampType": TIMESTAMP_TYPES[raw.timestamp_type == 1],
    }
    if raw.key is not None:
        found["key"] = b2a_base64(raw.key, newline=False).decode("ascii")
    if raw.value is not None:
        found["value"] = b2a_base64(raw.value, newline=False).decode("ascii")
    found["headers"] = _headers(raw, list) if raw.headers else []
    return found


def _decoded(raw: Raw) -> dict[str, object]:
    found = _metadata(raw)
    if raw.key is not None:
        found["key"] = _value_or_text(raw.key)
    if raw.value is not None:
        found["value"] = _value_or_text(raw.value)
    found["headers"] = _headers(raw, _text) if raw.headers else []
    return found


def _value_or_text(data: bytes) -> object:
    """JSON's value, or else the text itself; bytes that are no text are escaped in it."""
    if data[:1] in _JSON_BEGINS:  # most keys are no JSON, and to be told so costs more than a value
        try:
            return from_json(data, allow_inf_nan=False)
        except ValueError:
            pass
    return _text(data)


def _metadata(raw: Raw) -> dict[str, object]:
    return {
        "topic": raw.topic,
        "partition": raw.partition,
        "offset": raw.offset,
        "timestamp": raw.timestamp,
        "timestampType": TIMESTAMP_TYPES[raw.timestamp_type == 1],
    }


def _key_and_value(raw: Raw, look: object) -> dict[str, object]:
    assert callable(look)
    both = {"key": raw.key, "value": raw.value}
    return {name: look(each) for name, each in both.items() if each is not None}


def _headers(raw: Raw, look: object) -> list[dict[str, object]]:
    assert callable(look)
    return [{name: look(value or b"")} for name, value in raw.headers if name != HOPS_HEADER]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _hops(raw: Raw) -> int:
    for name, value in raw.headers:
        if name == HOPS_HEADER and value is not None and value.isdigit() and len(value) < 4:
            return int(value)
    return 0


# --------------------------------------------------------------------------- what a mapping may


def retry_limit(mapping: StreamMapping) -> int:
    """How many retries there are, -1: endless. A topic's are not where a destination waits for what fails (Lambda
    developer guide, «Using a Kafka topic as an on-failure destination»)."""
    ends = mapping.source.startswith("kafka://") and mapping.on_failure is not None
    return RETRIES_WITH_DESTINATION if ends and mapping.maximum_retry_attempts == -1 else mapping.maximum_retry_attempts


def same_topic(source: str, destination: str) -> bool:
    """Does this destination put into what this source reads? Both are URLs; of another kind, they do not."""
    read, put = urlsplit(source), urlsplit(destination)
    if read.scheme != "kafka" or put.scheme != "kafka":
        return False
    return bool(_hosts(read.netloc) & _hosts(put.netloc)) and put.path.strip("/") in read.path.strip("/").split(",")


def destination(source: str, named: str) -> str:
    """Where what fails of this source goes. 'kafka://TOPIC', as AWS writes it, is a topic of the cluster that is read,
    and is reached as this is (Lambda developer guide, «Using a Kafka topic as an on-failure destination»)."""
    read, put = urlsplit(source), urlsplit(named)
    if (read.scheme, put.scheme, put.path) != ("kafka", "kafka", ""):
        return named
    return read._replace(path=f"/{put.netloc}").geturl()


def _hosts(netloc: str) -> set[str]:
    hosts = netloc.rpartition("@")[2].split(",")
    return {host if host.rpartition(":")[2].isdecimal() else f"{host}:{USUAL_PORT}" for host in hosts}


# --------------------------------------------------------------------------- what a commit carries


def metadata(progress: Progress) -> str:
    """Of a commit: what else there is to this progress, as far as it fits; all of it is in the store."""
    pieces = [
        [offset_after(piece.first) - 1, offset_after(piece.last) - 1, piece.attempts] for piece in progress.pieces
    ]
    about = {"lambent": _VERSION, "seek": progress.seek, "pieces": pieces}
    text = json.dumps(about, separators=(",", ":"))
    return text if len(text) <= MAXIMUM_METADATA_BYTES else json.dumps({**about, "pieces": []}, separators=(",", ":"))


def committed(shard: str, offset: int, text: str) -> Progress:
    """What a commit of this offset and metadata says, whoever made it: others know neither seeks nor pieces."""
    at = position(shard, offset - 1)
    try:
        about = json.loads(text)
        if about["lambent"] != _VERSION:
            return Progress(at, start=at)
        pieces = tuple(
            Piece(position(shard, first), position(shard, last), attempts) for first, last, attempts in about["pieces"]
        )
        return Progress(at, pieces, seek=int(about["seek"]), start=at)
    except (ValueError, TypeError, KeyError):
        return Progress(at, start=at)


def further(shard: str, stored: Progress | None, committed: Progress | None, seek: int) -> Progress | None:
    """Where to go on, in a mapping's seek generation: the store's word holds, unless it knows nothing of the shard or
    the group was taken further by others, as another store's engines or kafka-consumer-groups. None: at the start."""
    if committed is None or committed.seek < max(seek, 0 if stored is None else stored.seek):
        return stored
    if stored is None or offset_after(committed.position) > offset_after(stored.position):
        return committed
    return stored
