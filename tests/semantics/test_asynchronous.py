"""What becomes of an asynchronous event (invariants 3, 4 and 8 to 10)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.model import (
    Delete,
    Event,
    EventInvokeConfig,
    EventStep,
    Failed,
    Outcome,
    Release,
    ReportEvent,
    Succeeded,
    Throttled,
    Unavailable,
)
from lambent.semantics import asynchronous

DEFAULTS = EventInvokeConfig()
SUCCEEDED = Succeeded(b"1")
FAILED = Failed({"errorMessage": "no", "errorType": "ValueError"})
THROTTLED = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
ZERO = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded", reserved_zero=True)
AWAY = Unavailable("no environment")
NO = '{"errorMessage":"no","errorType":"ValueError"}'


def event(attempts: int = 1, accepted_at: float = 0.0, deferrals: int = 0) -> Event:
    return Event("id", "f", b"{}", accepted_at, attempts=attempts, deferrals=deferrals, receipt="r")


def after(
    event: Event, outcome: Outcome, config: EventInvokeConfig = DEFAULTS, now: float = 1.0
) -> tuple[EventStep, ...]:
    return asynchronous.after(event, outcome, config, now, jitter=0.0)


def ended(steps: tuple[EventStep, ...]) -> tuple[str, int, Outcome | None, str]:
    """Condition, attempts and outcome of the report, and the state that the event is deleted with."""
    report, delete = steps
    assert isinstance(report, ReportEvent)
    assert isinstance(delete, Delete)
    assert delete.receipt == "r"
    return report.condition, report.event.attempts, report.outcome, delete.state


def test_a_success_is_reported_then_deleted() -> None:
    config = EventInvokeConfig(on_success="queue:done")
    assert ended(after(event(), SUCCEEDED, config)) == ("Success", 1, SUCCEEDED, "succeeded")


def test_a_success_of_which_nobody_is_told_is_deleted_at_once() -> None:
    (delete,) = after(event(), SUCCEEDED)
    assert isinstance(delete, Delete)
    assert delete.state == "succeeded"


def test_a_success_counts_however_late_it_comes() -> None:
    (delete,) = after(event(), SUCCEEDED, now=1e9)
    assert isinstance(delete, Delete)
    assert delete.state == "succeeded"


def test_a_function_error_is_retried_after_60_seconds_then_120_then_given_up() -> None:
    assert after(event(1), FAILED, now=10.0) == (Release("r", 70.0, reason=NO),)
    assert after(event(2), FAILED, now=71.0) == (Release("r", 191.0, reason=NO),)
    assert ended(after(event(3), FAILED, now=192.0)) == ("RetriesExhausted", 3, FAILED, "failed")


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_maximum_retry_attempts_is_one_less_than_the_attempts(retries: int) -> None:
    config = EventInvokeConfig(maximum_retry_attempts=retries)
    for attempts in range(1, retries + 1):
        assert isinstance(after(event(attempts), FAILED, config)[0], Release)
    assert ended(after(event(retries + 1), FAILED, config)) == ("RetriesExhausted", retries + 1, FAILED, "failed")


def test_the_retry_delays_can_be_scaled() -> None:
    steps = asynchronous.after(event(2), FAILED, DEFAULTS, 10.0, 0.0, delays=(0.5, 1.0))
    assert steps == (Release("r", 11.0, reason=NO),)


@pytest.mark.parametrize(("limit", "attempts"), [(60, 1), (90, 2), (181, 3), (21600, 3)])
def test_an_event_whose_next_try_would_come_too_late_is_given_up_at_once(limit: int, attempts: int) -> None:
    config = EventInvokeConfig(maximum_event_age_seconds=limit)
    now, attempt = 0.0, 1
    while isinstance((step := after(event(attempt), FAILED, config, now)[0]), Release):
        now, attempt = step.at, attempt + 1
        assert asynchronous.before(event(attempt), config, now) == ()
    condition = "RetriesExhausted" if attempts == 3 else "EventAgeExceeded"
    assert ended(after(event(attempt), FAILED, config, now))[:3] == (condition, attempts, FAILED)


def test_a_last_failure_is_exhausted_retries_even_if_the_event_is_too_old_too() -> None:
    config = EventInvokeConfig(maximum_retry_attempts=0, maximum_event_age_seconds=60)
    assert ended(after(event(1), FAILED, config, now=100.0))[0] == "RetriesExhausted"


@pytest.mark.parametrize("outcome", [THROTTLED, AWAY])
def test_a_throttled_event_backs_off_and_gives_its_attempt_back(outcome: Throttled | Unavailable) -> None:
    for deferrals, delay in enumerate((1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300)):
        (step,) = after(event(1, deferrals=deferrals), outcome, now=10.0)
        assert step == Release("r", 10.0 + delay, give_back=True, reason=outcome.reason)


@pytest.mark.parametrize("outcome", [THROTTLED, AWAY])
def test_a_throttled_event_is_planned_no_later_than_its_age_limit_and_ends_there(
    outcome: Throttled | Unavailable,
) -> None:
    config = EventInvokeConfig(maximum_event_age_seconds=60)
    throttled = event(2, accepted_at=0.1, deferrals=20)
    (step,) = after(throttled, outcome, config, now=30.0)
    assert step == Release("r", 60.1, give_back=True, reason=outcome.reason)
    assert ended(asynchronous.before(throttled, config, step.at)) == ("EventAgeExceeded", 1, None, "expired")


def test_a_throttled_event_that_is_too_old_ends_at_once() -> None:
    config = EventInvokeConfig(maximum_event_age_seconds=60)
    assert ended(after(event(1), THROTTLED, config, now=60.0)) == ("EventAgeExceeded", 0, None, "expired")


def test_zero_reserved_concurrency_is_final_and_no_attempt_was_made() -> None:
    assert ended(after(event(1), ZERO)) == ("ZeroReservedConcurrency", 0, None, "dropped")


def test_an_event_in_time_runs() -> None:
    assert asynchronous.before(event(3), DEFAULTS, 21_599.9) == ()


def test_an_event_that_reached_its_age_limit_does_not_run() -> None:
    assert ended(asynchronous.before(event(1), DEFAULTS, 21_600.0)) == ("EventAgeExceeded", 0, None, "expired")


def test_an_event_that_killed_the_engine_in_every_attempt_is_given_up() -> None:
    assert asynchronous.before(event(3), DEFAULTS, 500.0) == ()
    assert ended(asynchronous.before(event(4), DEFAULTS, 500.0)) == ("RetriesExhausted", 3, None, "failed")


def test_an_event_accepted_before_the_clock_was_put_back_still_runs() -> None:
    assert asynchronous.before(event(1, accepted_at=1000.0), DEFAULTS, 10.0) == ()


@given(
    config=st.builds(
        EventInvokeConfig,
        maximum_retry_attempts=st.integers(0, 2),
        maximum_event_age_seconds=st.integers(60, 21600),
    ),
    accepted_at=st.floats(0, 2e9),
    turns=st.lists(
        st.tuples(
            st.sampled_from([SUCCEEDED, FAILED, THROTTLED, AWAY, ZERO, "crash"]),
            st.floats(0, 900),  # how long the attempt takes
            st.floats(0, 1000),  # how late the event is picked up
            st.floats(0, 1, exclude_max=True),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_every_event_ends_once_in_time_and_within_its_attempts(
    config: EventInvokeConfig, accepted_at: float, turns: list[tuple[Outcome | str, float, float, float]]
) -> None:
    current = Event("id", "f", b"{}", accepted_at, receipt="r")
    limit, due, ran = accepted_at + config.maximum_event_age_seconds, accepted_at, 0
    for outcome, seconds, late, jitter in turns:
        now = due + late
        current.attempts += 1  # the claim
        steps = asynchronous.before(current, config, now)
        if not steps:
            assert now < limit
            if outcome == "crash":
                ran, due = ran + 1, now + seconds
                continue
            assert not isinstance(outcome, str)
            ran += isinstance(outcome, Succeeded | Failed)
            now += seconds
            steps = asynchronous.after(current, outcome, config, now, jitter)
        assert ran <= 1 + config.maximum_retry_attempts
        if isinstance(steps[0], ReportEvent):
            assert len(steps) == 2
            assert ended(steps)[1] == ran
            return
        (release,) = steps
        if isinstance(release, Delete):
            assert isinstance(outcome, Succeeded)
            return
        assert isinstance(release, Release)
        assert now < release.at <= limit
        if release.give_back:
            assert release.at >= min(now + min(2.0 ** min(current.deferrals, 32), 300), limit)
            current.attempts, current.deferrals = current.attempts - 1, current.deferrals + 1
        else:
            assert release.at >= now + (60, 120)[current.attempts - 1]
            current.deferrals = 0
        due = release.at
