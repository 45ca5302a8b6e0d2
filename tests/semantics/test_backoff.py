"""How long the engine waits before it tries again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.semantics import backoff

JITTER = st.floats(0, 1, exclude_max=True)
COUNT = st.integers(0, 10**9)


def test_an_asynchronous_event_waits_60_seconds_then_120() -> None:
    assert [backoff.async_retry(1), backoff.async_retry(2)] == [60.0, 120.0]


def test_the_asynchronous_delays_can_be_scaled() -> None:
    assert [backoff.async_retry(attempts, (0.5, 1.0)) for attempts in (1, 2, 3)] == [0.5, 1.0, 1.0]


def test_a_throttle_waits_a_second_and_doubles_up_to_five_minutes() -> None:
    assert [backoff.throttle(deferrals, 0) for deferrals in range(10)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


def test_about_eight_tries_of_a_stream_batch_fit_into_a_minute() -> None:
    times = [0.0]
    while times[-1] <= 60:
        times.append(times[-1] + backoff.stream_retry(len(times), 0.5))
    assert len(times) - 1 == 8


@pytest.mark.parametrize("delay", [backoff.throttle, backoff.stream_retry, backoff.destination])
@given(count=COUNT, jitter=JITTER)
def test_jitter_only_lengthens_and_by_a_tenth_at_most(delay, count: int, jitter: float) -> None:  # type: ignore[no-untyped-def]
    plain = delay(count, 0)
    assert plain <= delay(count, jitter) <= plain * 1.1


@pytest.mark.parametrize("delay", [backoff.throttle, backoff.stream_retry, backoff.destination])
@given(count=COUNT)
def test_a_delay_never_shrinks_and_never_is_zero(delay, count: int) -> None:  # type: ignore[no-untyped-def]
    assert 0 < delay(count, 0) <= delay(count + 1, 0) <= 300


def test_what_a_bug_ends_begins_again_ever_later_and_what_lacks_its_store_in_two_seconds_at_most() -> None:
    assert [backoff.restart(failures, False, 0) for failures in (1, 2, 3, 100)] == [1, 2, 4, 300]
    assert [backoff.restart(failures, True, 0) for failures in (1, 2, 3, 100)] == [0.05, 0.1, 0.2, 2]


def test_what_ran_for_a_minute_begins_its_backoff_anew() -> None:
    assert [backoff.in_a_row(7, seconds) for seconds in (0.0, 60.0, 60.1)] == [8, 8, 1]
