"""Calls that come at their times, whatever became of the former ones (open loop).

Decides when each is due, and how a measurement hears of it: from a timer of the kernel that is read as a file is, so
that neither a thread, which would share the interpreter with what is measured, nor a loop's timers, which count
milliseconds, stand between. On Linux only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator

CALLS_A_SECOND = 1_000
SECOND_NS = 1_000_000_000
FIRST_NS = 10_000_000  # from now to the first
TFD_TIMER_ABSTIME = 1  # <sys/timerfd.h>


class Arrivals:
    """So many calls, a thousand a second. `fd` can be read when one has come; `left` are still to come."""

    def __init__(self, number: int) -> None:
        libc, first = ctypes.CDLL(None, use_errno=True), time.perf_counter_ns() + FIRST_NS
        self.fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        begins = struct.pack("4q", 0, SECOND_NS // CALLS_A_SECOND, *divmod(first, SECOND_NS))
        if self.fd < 0 or libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, begins, None):
            raise OSError(ctypes.get_errno(), "no timer that can be read as a file is: measure this on Linux")
        self.left = number
        self._first = first / SECOND_NS
        self._number = number

    def come(self) -> Iterator[float]:
        """When each was due, on `time.perf_counter`, that has come since this was asked last; waits for one."""
        (come,) = struct.unpack("Q", os.read(self.fd, 8))
        for _ in range(min(come, self.left)):
            yield self._first + (self._number - self.left) / CALLS_A_SECOND
            self.left -= 1

    def close(self) -> None:
        os.close(self.fd)
