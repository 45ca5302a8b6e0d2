"""When a batch is handed to the function."""

from __future__ import annotations

import pytest

from lambent.model import MAXIMUM_BATCH_BYTES
from lambent.semantics import batching


@pytest.mark.parametrize(
    ("count", "size_bytes", "now", "closed"),
    [
        (0, 0, 500.0, False),  # an empty batch never closes
        (1, 10, 100.0, False),
        (9, 90, 104.9, False),
        (10, 100, 100.0, True),  # full
        (11, 110, 100.0, True),
        (1, 10, 105.0, True),  # its window has passed
        (2, batching.MAXIMUM_RECORDS_BYTES - 1, 100.0, False),
        (2, batching.MAXIMUM_RECORDS_BYTES, 100.0, True),  # heavy
        (1, 2 * MAXIMUM_BATCH_BYTES, 100.0, True),
    ],
)
def test_a_batch_closes_when_it_is_full_or_heavy_or_its_window_has_passed(
    count: int, size_bytes: int, now: float, closed: bool
) -> None:
    assert batching.closes(count, size_bytes, 100.0, now, batch_size=10, window_seconds=5.0) is closed


def test_without_a_window_a_batch_closes_with_what_is_there() -> None:
    assert batching.closes(1, 10, 100.0, 100.0, batch_size=10, window_seconds=0)


def test_a_batch_closes_before_the_record_that_would_make_it_too_heavy() -> None:
    room = batching.MAXIMUM_RECORDS_BYTES - 1000
    assert not batching.closes(5, room, 100.0, 100.0, 10, 5.0, next_bytes=1000)
    assert batching.closes(5, room, 100.0, 100.0, 10, 5.0, next_bytes=1001)


def test_a_closed_batch_with_its_envelope_stays_below_six_megabytes() -> None:
    assert batching.MAXIMUM_RECORDS_BYTES + batching.ENVELOPE_BYTES == 6 * 1024 * 1024


def test_the_window_counts_from_the_first_record() -> None:
    assert batching.closes_at(100.0, 0.2) == pytest.approx(100.2)
