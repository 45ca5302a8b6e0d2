"""How long to wait before the next try, as functions of (how often, jitter).

Decides only lengths in seconds. When a wait begins, what may cut it short (an age limit) and whether there is a next
try at all is decided where the failure is judged. `jitter` is in [0, 1) and only ever lengthens, by at most 10 %.

The asynchronous schedule (60 s, then 120 s) and the throttle backoff (1 s doubling to 5 minutes) are AWS's (Lambda
developer guide, «Asynchronous invocation: error handling»). AWS says only "exponential" of streams; recorded are about
8 tries within 60 s. The rest is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ASYNC_RETRY_SECONDS: Final = (60.0, 120.0)
THROTTLE_FIRST_SECONDS: Final = 1.0
THROTTLE_MAXIMUM_SECONDS: Final = 300.0
STREAM_FIRST_SECONDS: Final = 0.25
STREAM_MAXIMUM_SECONDS: Final = 60.0
DESTINATION_FIRST_SECONDS: Final = 0.5
DESTINATION_MAXIMUM_SECONDS: Final = 30.0
RECONNECTION_FIRST_SECONDS: Final = 0.05
RECONNECTION_MAXIMUM_SECONDS: Final = 2.0
STEADY_SECONDS: Final = 60.0  # what ran so long begins its backoff anew
JITTER: Final = 0.1  # the largest lengthening, as a share


def async_retry(attempts: int, delays: Sequence[float] = ASYNC_RETRY_SECONDS) -> float:
    """Before the retry that follows the `attempts`-th (1, 2, …) failed attempt of an asynchronous event."""
    return delays[min(max(attempts, 1), len(delays)) - 1] if delays else 0.0


def throttle(deferrals: int, jitter: float) -> float:
    """Before an event that was throttled is tried again; `deferrals` (0, 1, …) attempts in a row were given back
    before this one."""
    return _doubling(deferrals, THROTTLE_FIRST_SECONDS, THROTTLE_MAXIMUM_SECONDS, jitter)


def stream_retry(attempts: int, jitter: float) -> float:
    """Before the retry that follows the `attempts`-th (1, 2, …) failed attempt of the same records."""
    return _doubling(attempts - 1, STREAM_FIRST_SECONDS, STREAM_MAXIMUM_SECONDS, jitter)


def destination(attempt: int, jitter: float) -> float:
    """Before a destination that did not answer is asked again, after the `attempt`-th (1, 2, …) time."""
    return _doubling(attempt - 1, DESTINATION_FIRST_SECONDS, DESTINATION_MAXIMUM_SECONDS, jitter)


def reconnection(failures: int, jitter: float) -> float:
    """Before a server is dialled or asked again that was away, after the `failures`-th (1, 2, …) time."""
    return _doubling(failures - 1, RECONNECTION_FIRST_SECONDS, RECONNECTION_MAXIMUM_SECONDS, jitter)


def restart(failures: int, away: bool, jitter: float) -> float:
    """Before a part of an engine begins again that ended with an error, after the `failures`-th (1, 2, …) time in a
    row. `away`: it ended because a store was, and goes on soon after that is back, however late. A bug stays."""
    return reconnection(failures, jitter) if away else throttle(failures - 1, jitter)


def in_a_row(failures: int, ran_seconds: float) -> int:
    """How many failures there were in a row with the one that ended what had run for so long."""
    return 1 if ran_seconds > STEADY_SECONDS else failures + 1


def _doubling(exponent: int, first: float, maximum: float, jitter: float) -> float:
    # The exponent is bounded before the power is taken: a count may be in the millions.
    return float(min(first * 2 ** min(max(exponent, 0), 32), maximum) * (1.0 + JITTER * jitter))
