"""When a batch is closed and handed to the function: full, heavy enough, or old enough.

Decides on counts, bytes and times alone. What a record weighs is `shapes.py`'s; where records come from and who waits
for the window to pass is the loops'. The rule is AWS's for queues and streams alike (Lambda developer guide, «Batching
behavior»): BatchSize reached, MaximumBatchingWindow passed, or the payload at 6 MB.
"""

from __future__ import annotations

from typing import Final

from lambent.model import MAXIMUM_BATCH_BYTES

ENVELOPE_BYTES: Final = 512  # room for what stands around the records in an event
MAXIMUM_RECORDS_BYTES: Final = MAXIMUM_BATCH_BYTES - ENVELOPE_BYTES


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
