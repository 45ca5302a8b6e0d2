"""What a built-in queue and a built-in stream are, wherever they are kept.

Decides which deduplication id a message has, which shard a key belongs to, how shards and positions are named, and how
functions and filters see messages and records. Leaves to the stores where these are kept and when they are given.

A position is a sequence number: 56 decimal digits, shard first, then the record's place in it. It reads as "after".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import md5, sha256
from itertools import pairwise
from typing import Final

from lambent.arns import queue_arn, role_arn, stream_arn
from lambent.errors import InvalidParameterValue
from lambent.model import Message, Put, Queue, Record, Send
from lambent.semantics.batching import Weights
from lambent.semantics.shapes import kinesis_event, kinesis_size, kinesis_view, sqs_event, sqs_view

DEDUPLICATION_SECONDS: Final = 300.0  # SQS: a deduplication id holds for five minutes
MAXIMUM_VISIBILITY_SECONDS: Final = 43_200  # SQS API: ChangeMessageVisibility, VisibilityTimeout
HASH_KEYS: Final = 2**128  # Kinesis: the MD5 of the partition key is an integer of 128 bits
PLACE_DIGITS: Final = 24
SHARD_DIGITS: Final = 12
_ENDS: Final = [f"{number:03d}" for number in range(1000)]


class QueueView:
    """A built-in queue as a mapping sees it, but for its messages. `config` is the queue's latest."""

    capabilities = frozenset(
        {"delay", "fifo", "deduplication", "redrive", "retention", "release", "give_back", "purge", "depth", "peek"}
    )

    def __init__(self, name: str, region: str, account_id: str) -> None:
        self.arn = queue_arn(region, account_id, name)
        self._region = region

    @property
    def config(self) -> Queue:
        raise NotImplementedError

    @property
    def visibility_timeout_seconds(self) -> float:
        return self.config.visibility_timeout_seconds

    @property
    def fifo(self) -> bool:
        return self.config.fifo

    def view(self, message: Message) -> Mapping[str, object]:
        return sqs_view(message)

    def to_event(self, messages: Sequence[Message], windowed: bool) -> dict[str, object]:
        return sqs_event(messages, self.arn, self._region, windowed)


def deduplication_id(send: Send, queue: Queue) -> str | None:
    """A FIFO queue's message without its own has that of its content (SQS: SendMessage, MessageDeduplicationId)."""
    if send.deduplication_id or not queue.fifo:
        return send.deduplication_id
    return sha256(send.body.encode()).hexdigest()


def sequence_number(number: int) -> str:
    """Of the message of a FIFO queue that was stored as that one."""
    return f"{number:020d}"


def begins_at(starting_position: str, timestamp: float | None) -> float | None:
    """From which time on a stream is read; None: from its first record (TRIM_HORIZON), or behind its last (LATEST).

    Raises InvalidParameterValue for another position, or a time that is missing."""
    if starting_position == "AT_TIMESTAMP":
        if timestamp is None:
            raise InvalidParameterValue("starting_position_timestamp goes with starting_position='AT_TIMESTAMP'")
        return timestamp
    if starting_position not in ("TRIM_HORIZON", "LATEST"):
        raise InvalidParameterValue("starting_position must be TRIM_HORIZON, LATEST or AT_TIMESTAMP")
    return None


class StreamView:
    """A built-in stream as a mapping sees it, but for its records."""

    capabilities = frozenset(
        {"AT_TIMESTAMP", "backlog", "groups", "kinesis", "maximum_bytes", "reshard", "retention", "shards"}
    )
    weights = Weights(kinesis_size)

    def __init__(self, name: str, region: str, account_id: str) -> None:
        self.arn = stream_arn(region, account_id, name)
        self._region = region
        self._role_arn = role_arn(account_id)

    def view(self, record: Record) -> Mapping[str, object]:
        return kinesis_view(record)

    def to_event(self, shard: str, records: Sequence[Record]) -> dict[str, object]:
        return kinesis_event(shard, records, self.arn, self._region, self._role_arn)


def hash_ranges(shards: int) -> Sequence[tuple[int, int]]:
    """The hash keys of so many shards of a new stream, each from its first to before its end."""
    return list(pairwise(HASH_KEYS * number // shards for number in range(shards + 1)))


def hash_key(key: str) -> int:
    return int.from_bytes(md5(key.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest(), "big")


def shard_id(number: int) -> str:
    return f"shardId-{number:0{SHARD_DIGITS}d}"


def number_of(shard: str) -> int | None:
    """The number of the shard of that name; None: it is no shard's."""
    digits = shard.removeprefix("shardId-")
    known = len(digits) == SHARD_DIGITS and digits.isdecimal() and shard == shard_id(int(digits))
    return int(digits) if known else None


def prefix_of(number: int) -> str:
    """What the positions of that shard begin with."""
    return f"49{number:030d}"


def position_of(prefix: str, place: int) -> str:
    return f"{prefix}{place:0{PLACE_DIGITS}d}"


def place_of(position: str) -> int:
    """How many records of its shard stand up to this position; 0 before the first, as ''."""
    return int(position[-PLACE_DIGITS:] or 0)


def positions_of(prefix: str, first: int, count: int) -> list[str]:
    """Of so many places, one after the other."""
    positions: list[str] = []
    while count > 0:
        thousands, begin = divmod(first, 1000)
        ends = _ENDS[begin : begin + count]
        head = position_of(prefix, thousands * 1000)[:-3]
        positions += [head + end for end in ends]
        first += len(ends)
        count -= len(ends)
    return positions


def place_in(shard: str, prefix: str, position: str) -> int:
    """Raises InvalidParameterValue for what is no position of this shard."""
    if not position.startswith(prefix) or not position[-PLACE_DIGITS:].isdecimal():
        raise InvalidParameterValue(f"{position!r} is no position of {shard}")
    return int(position[-PLACE_DIGITS:])


def parts_of(position: str) -> tuple[int, int] | None:
    """The number of its shard and its place there; None: it is no position."""
    shard, place = position[2:-PLACE_DIGITS], position[-PLACE_DIGITS:]
    if not (shard.isdecimal() and place.isdecimal() and position == position_of(prefix_of(int(shard)), int(place))):
        return None
    return int(shard), int(place)


def middle_of(shard: str, first_hash: int, end_hash: int) -> int:
    """Where a shard is split. Raises InvalidParameterValue if it cannot be."""
    middle = (first_hash + end_hash) // 2
    if middle == first_hash:
        raise InvalidParameterValue(f"{shard} holds one hash key and cannot be split")
    return middle


def size_of(record: Record | Put) -> int:
    """In bytes, as a reader's limit counts them."""
    return len(record.data) + len(record.key)
