"""When a batch is closed and handed to the function: full, heavy enough, or old enough.

Decides on counts, bytes and times alone. What a record weighs is its source's to say; where records come from and who
waits for the window to pass is the loops'. The rule is AWS's for queues and streams alike (Lambda developer guide,
«Batching behavior»): BatchSize reached, MaximumBatchingWindow passed, or the payload at 6 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from lambent.model import MAXIMUM_BATCH_BYTES, Record

ENVELOPE_BYTES: Final = 512  # room for what stands around the records in an event
MAXIMUM_RECORDS_BYTES: Final = MAXIMUM_BATCH_BYTES - ENVELOPE_BYTES
_DATA = attrgetter("data")  # faster in C


def data_bytes(records: Sequence[Record]) -> int:
    return sum(map(len, map(_DATA, records)))


@dataclass(frozen=True, slots=True)
class Weights:
    """What a source's records weigh: one exactly, many at a glance.

    in_event: at most so many bytes of JSON is this record in an event. held: so many bytes do these hold. All together
    they are at most `per_byte` bytes of JSON for each byte that they hold, and `per_record` more for each of them; and
    `envelope` bytes are around them."""

    in_event: Callable[[Record], int]
    held: Callable[[Sequence[Record]], int] = data_bytes
    per_byte: float = 4 / 3  # base64
    per_record: int = 4_000  # names, keys of at most 256 characters, and what else there is
    envelope: int = ENVELOPE_BYTES


def closes(
    count: int,
    size_bytes: int,
    opened_at: float,
    now: float,
    batch_size: int,
    window_seconds: float,
    next_bytes: int = 0,
) -> bool:
    """Is a batch of `count` records that weigh `size_bytes` closed at `now`? `opened_at` (in seconds, of the same
    clock) is when its first record came; `next_bytes` is the weight of the record that waits to join, if there is one.
    An empty batch never closes, and a batch of one record is whole however heavy it is."""
    if count <= 0:
        return False
    return (
        count >= batch_size
        or size_bytes >= MAXIMUM_RECORDS_BYTES
        or (next_bytes > 0 and size_bytes + next_bytes > MAXIMUM_RECORDS_BYTES)
        or now >= closes_at(opened_at, window_seconds)
    )


def closes_at(opened_at: float, window_seconds: float) -> float:
    """When an open batch closes by time alone (in seconds, of the clock of `opened_at`)."""
    return opened_at + window_seconds
