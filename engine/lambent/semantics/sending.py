"""What may be sent to a queue and put into a stream.

Decides which message SendMessage and which record PutRecord would refuse, in one sentence that names the field and what
is allowed: whatever is stored must have a JSON form, or it would stop its mapping for ever; and when a stream is full.
Leaves to the stores that of a refused call nothing is stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NoReturn

from lambent.errors import InvalidParameterValue, LimitExceeded
from lambent.model import MAXIMUM_KEY_CHARACTERS, MAXIMUM_RECORD_BYTES, MessageAttribute, Put, Queue, Send, Stream

MAXIMUM_DELAY_SECONDS: Final = 900  # SQS: SendMessage, DelaySeconds
MAXIMUM_ATTRIBUTES: Final = 10  # SQS: «Amazon SQS message metadata»

_KEY: Final = f"a string of 1 to {MAXIMUM_KEY_CHARACTERS} characters"
_NAME: Final = re.compile(r"[!-~]{1,128}")  # SQS: SendMessage, MessageGroupId and MessageDeduplicationId
_ATTRIBUTE: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_DATA_TYPE: Final = re.compile(r"(String|Number|Binary)(\.[!-~]{1,249})?")


def check_send(send: Send, queue: Queue) -> None:
    """Raise InvalidParameterValue for a message that SendMessage would refuse."""
    size = _size("body", send.body) + (_attributes_size(send.attributes) if send.attributes else 0)
    if size > MAXIMUM_RECORD_BYTES:
        raise InvalidParameterValue(
            f"body and attributes must be at most {MAXIMUM_RECORD_BYTES} bytes together, not {size}"
        )
    delay_seconds = send.delay_seconds
    if delay_seconds is not None and not (
        type(delay_seconds) in (int, float) and 0 <= delay_seconds <= MAXIMUM_DELAY_SECONDS
    ):
        _refuse("delay_seconds", delay_seconds, f"0 to {MAXIMUM_DELAY_SECONDS} (float)")
    for name, value in (("group", send.group), ("deduplication_id", send.deduplication_id)):
        if value and not _matches(_NAME, value):
            _refuse(name, value, "a string of 1 to 128 ASCII letters, digits and punctuation")
    if not queue.fifo:
        if send.deduplication_id is not None:
            raise InvalidParameterValue("deduplication_id is only for FIFO queues (fifo=True)")
    elif not send.group:
        raise InvalidParameterValue("group is required by a FIFO queue")
    elif delay_seconds is not None:
        raise InvalidParameterValue("delay_seconds of one message is not for FIFO queues: set the queue's")
    elif not send.deduplication_id and not queue.content_based_deduplication:
        raise InvalidParameterValue("deduplication_id is required without content_based_deduplication")


def check_put(put: Put) -> None:
    """Raise InvalidParameterValue for a record that PutRecord would refuse."""
    _size("key", put.key, _KEY)
    if len(put.key) > MAXIMUM_KEY_CHARACTERS:
        _refuse("key", put.key, _KEY)
    if len(put.data) > MAXIMUM_RECORD_BYTES:
        raise InvalidParameterValue(f"data must be at most {MAXIMUM_RECORD_BYTES} bytes, not {len(put.data)}")


def has_room(stream: Stream, held: int, more: int) -> bool:
    """For so many bytes more than it holds."""
    return stream.maximum_bytes is None or held + more <= stream.maximum_bytes


def check_room(stream: Stream, held: int, more: int) -> None:
    """Raise LimitExceeded if there is none."""
    if not has_room(stream, held, more):
        raise LimitExceeded(
            f"stream {stream.name} is full: it holds {held} of maximum_bytes={stream.maximum_bytes}, and {more} more do"
            " not fit. Records go when they are older than retention_seconds and every mapping has passed them"
        )


def _attributes_size(attributes: Mapping[str, MessageAttribute]) -> int:
    if len(attributes) > MAXIMUM_ATTRIBUTES:
        raise InvalidParameterValue(f"attributes: at most {MAXIMUM_ATTRIBUTES} are allowed, not {len(attributes)}")
    size = 0
    for name, attribute in attributes.items():
        if not _matches(_ATTRIBUTE, name):
            _refuse("attributes: a name", name, "1 to 256 letters, digits, '_', '-' and '.'")
        if not _matches(_DATA_TYPE, attribute.data_type):
            _refuse(f"attributes: data_type of {name}", attribute.data_type, "String, Number or Binary (or .CUSTOM)")
        size += len(name) + len(attribute.data_type) + _size(f"attributes: {name}", attribute.value)
    return size


def _size(name: str, text: object, allowed: str = "a string that is not empty") -> int:
    """In bytes, of what must be a text that is not empty."""
    if not isinstance(text, str) or not text:
        _refuse(name, text, allowed)
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidParameterValue(f"{name} must be Unicode text: {error.reason}") from None


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    raise InvalidParameterValue(f"{name}: {repr(value)[:100]} is not allowed; it must be {allowed}")
