"""A clock that a test moves by hand."""

from __future__ import annotations

EPOCH = 1_700_000_000.0


class ManualClock:
    """The wall clock may be set; the monotonic one only goes on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.epoch = EPOCH

    def now(self) -> float:
        return self.epoch + self.seconds

    def monotonic(self) -> float:
        return self.seconds
