"""How the records of each source look to a function, and to a filter, key by key.

Decides names, order and types of the keys: a built-in queue's events are SQS's and a built-in stream's are Kinesis's,
so that code written for Lambda (and Powertools) reads them unchanged. What is in a batch is decided elsewhere; the
hops of a chain never show. Shapes as recorded on AWS and in the Lambda developer guide, «Using Lambda with Amazon SQS»,
«… Kinesis» and «Tumbling windows».
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Final

from lambent.model import Message, MessageAttribute, Record, WindowState
from lambent.semantics.filtering import decoded_view

SENDER_ID: Final = "lambent"  # AWS names the sending principal here; we have none
SQS_OVERHEAD_BYTES: Final = 1_024  # a message's JSON without body, group, receipt and attributes
KINESIS_OVERHEAD_BYTES: Final = 640  # a record's JSON without data, key and positions; ARNs of any built-in stream fit

# --------------------------------------------------------------------------- queues


def sqs_event(messages: Sequence[Message], arn: str, region: str, windowed: bool) -> dict[str, object]:
    """A queue batch as SQS's event. `windowed`: the mapping has a batching window; then a message without attributes
    has md5OfMessageAttributes null, otherwise it lacks the key (AWS's two pollers differ)."""
    return {"Records": [_sqs_record(message, arn, region, windowed) for message in messages]}


def sqs_view(message: Message) -> dict[str, object]:
    """A queue message as a filter sees it: its keys, with the body's JSON value in place of its text."""
    return {
        "messageId": message.id,
        "body": decoded_view(message.body.encode("utf-8", "surrogatepass")),
        "attributes": _sqs_attributes(message),
        "messageAttributes": _message_attributes(message.attributes),
        "eventSource": "aws:sqs",
    }


def sqs_size(message: Message) -> int:
    """At most this many bytes of JSON are this message in an event."""
    attributes = {name: attribute.value for name, attribute in message.attributes.items()}
    text = json.dumps([message.body, message.group, message.deduplication_id, attributes], ensure_ascii=False)
    overhead = SQS_OVERHEAD_BYTES * (1 + len(attributes) // 8) + len(message.receipt)
    return len(_utf8(text)) + overhead


def md5_of_attributes(attributes: Mapping[str, MessageAttribute]) -> str:
    """SQS's checksum of message attributes (SQS developer guide, «Calculating the MD5 message digest for message
    attributes»): by name, each of name, type and value behind its length in 4 bytes, a value's kind in one byte."""
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(attributes):
        attribute = attributes[name]
        binary = attribute.data_type.startswith("Binary")
        value = _unbase64(attribute.value) if binary else _utf8(attribute.value)
        for part in (_utf8(name), _utf8(attribute.data_type)):
            digest.update(len(part).to_bytes(4, "big") + part)
        digest.update((b"\x02" if binary else b"\x01") + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()


def _sqs_record(message: Message, arn: str, region: str, windowed: bool) -> dict[str, object]:
    record: dict[str, object] = {
        "messageId": message.id,
        "receiptHandle": message.receipt,
        "body": message.body,
        "attributes": _sqs_attributes(message),
        "messageAttributes": _message_attributes(message.attributes),
    }
    if message.attributes or windowed:
        record["md5OfMessageAttributes"] = md5_of_attributes(message.attributes) if message.attributes else None
    record["md5OfBody"] = hashlib.md5(_utf8(message.body), usedforsecurity=False).hexdigest()
    record["eventSource"] = "aws:sqs"
    record["eventSourceARN"] = arn
    record["awsRegion"] = region
    return record


def _sqs_attributes(message: Message) -> dict[str, str]:
    """AWS's system attributes, all text; the FIFO ones only where there are such."""
    found = {
        "ApproximateReceiveCount": str(message.receive_count),
        "SentTimestamp": str(milliseconds(message.sent_at)),
        "SequenceNumber": message.sequence_number,
        "MessageGroupId": message.group,
        "SenderId": SENDER_ID,
        "MessageDeduplicationId": message.deduplication_id,
        "ApproximateFirstReceiveTimestamp": str(milliseconds(message.first_received_at)),
    }
    return {name: value for name, value in found.items() if value is not None}


def _message_attributes(attributes: Mapping[str, MessageAttribute]) -> dict[str, dict[str, object]]:
    return {
        name: {
            "binaryValue" if attribute.data_type.startswith("Binary") else "stringValue": attribute.value,
            "stringListValues": [],
            "binaryListValues": [],
            "dataType": attribute.data_type,
        }
        for name, attribute in attributes.items()
    }


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return _utf8(text)


# --------------------------------------------------------------------------- streams


def kinesis_event(shard: str, records: Sequence[Record], arn: str, region: str, role_arn: str) -> dict[str, object]:
    """A shard's batch as Kinesis's event: data as base64, arrival in seconds to the millisecond."""
    # This is the stream path's dearest loop: one literal a record, nothing called that need not be.
    event_id = shard + ":"
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": record.key,
                    "sequenceNumber": record.position,
                    "data": b2a_base64(record.data, newline=False).decode("ascii"),
                    "approximateArrivalTimestamp": int(record.arrived_at * 1000.0 + 0.5) / 1000.0,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": event_id + record.position,
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": role_arn,
                "awsRegion": region,
                "eventSourceARN": arn,
            }
            for record in records
        ]
    }


def kinesis_view(record: Record) -> dict[str, object]:
    """A stream record as a filter sees it: its data's JSON value beside its metadata, all on one level."""
    return {
        "kinesisSchemaVersion": "1.0",
        "partitionKey": record.key,
        "sequenceNumber": record.position,
        "data": decoded_view(record.data),
        "approximateArrivalTimestamp": milliseconds(record.arrived_at) / 1000.0,
    }


def kinesis_size(record: Record) -> int:
    """At most this many bytes of JSON are this record in an event, with `json`'s default spacing and escapes."""
    key = record.key
    escaped = 2 * len(key) if key.isascii() and key.isprintable() else 12 * len(key)
    return KINESIS_OVERHEAD_BYTES + (len(record.data) + 2) // 3 * 4 + escaped + 2 * len(record.position)


def windowed_event(
    event: dict[str, object], window: WindowState, shard: str, arn: str, final: bool
) -> dict[str, object]:
    """A shard's event in a tumbling window: what the source built, and the window beside it. The state is a copy: a
    handler that changes it and fails does not change what its retry sees."""
    return {
        **event,
        "window": {"start": iso_seconds(window.start), "end": iso_seconds(window.end)},
        "state": _copied(window.state),
        "shardId": shard,
        "eventSourceARN": arn,
        "isFinalInvokeForWindow": final,
        "isWindowTerminatedEarly": window.terminated_early,
    }


def _copied(value: object) -> object:
    if type(value) is dict:  # it was decoded from JSON, so there are no other kinds
        return {key: _copied(each) for key, each in value.items()}
    if type(value) is list:
        return [_copied(each) for each in value]
    return value


# --------------------------------------------------------------------------- times


def milliseconds(epoch_seconds: float) -> int:
    """To the nearest millisecond."""
    return int(epoch_seconds * 1000.0 + 0.5)


def iso_seconds(epoch_seconds: float) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ` of the second that has begun."""
    return f"{_to_the_second(int(epoch_seconds // 1))}Z"


def iso_milliseconds(epoch_seconds: float) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`, to the nearest millisecond."""
    seconds, rest = divmod(milliseconds(epoch_seconds), 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


def _to_the_second(seconds: int) -> str:
    days, second = divmod(seconds, 86_400)
    year, month, day = _civil(days)
    return f"{year:04d}-{month:02d}-{day:02d}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


def _civil(days: int) -> tuple[int, int, int]:
    """The Gregorian date `days` after 1970-01-01. Years are counted from March, so that the leap day ends one."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return year_of_era + era * 400 + (month <= 2), month, day
