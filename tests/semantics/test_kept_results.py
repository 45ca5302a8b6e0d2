"""What is kept of an asynchronous event's results, for whoever asks."""

from __future__ import annotations

import json

import pytest

from lambent.model import Delete, Failed, Outcome, Release, ReportEvent, Succeeded, Throttled, Unavailable
from lambent.semantics.asynchronous import MAXIMUM_RESULT_BYTES, after, before, kept, recursive

from .test_asynchronous import AWAY, DEFAULTS, FAILED, SUCCEEDED, THROTTLED, ZERO, event


def step(attempts: int, outcome: Outcome, now: float = 1.0) -> Delete | Release:
    last = after(event(attempts), outcome, DEFAULTS, now, jitter=0.0)[-1]
    assert not isinstance(last, ReportEvent)
    return last


def test_an_event_that_succeeded_keeps_the_answer_of_its_handler() -> None:
    last = step(1, SUCCEEDED)
    assert isinstance(last, Delete)
    assert last.result == b"1"
    assert kept(Succeeded(b"")) == b"null"


def test_an_event_that_failed_waits_because_of_its_error_document_and_ends_with_it() -> None:
    waiting, ended = step(1, FAILED), step(3, FAILED)
    assert isinstance(waiting, Release)
    assert isinstance(ended, Delete)
    assert json.loads(waiting.reason) == json.loads(ended.result) == FAILED.document


@pytest.mark.parametrize("outcome", [THROTTLED, AWAY])
def test_an_event_that_could_not_start_waits_because_of_the_reason(outcome: Throttled | Unavailable) -> None:
    last = step(1, outcome)
    assert isinstance(last, Release)
    assert last.reason == outcome.reason
    late = step(1, outcome, now=1e6)
    assert isinstance(late, Delete)
    assert (late.state, late.result, late.reason) == ("expired", b"", outcome.reason)


def test_an_event_that_ends_without_an_attempt_says_why_as_far_as_its_state_does_not() -> None:
    last = step(1, ZERO)
    assert isinstance(last, Delete)
    assert (last.state, last.result, last.reason, last.give_back) == ("dropped", b"", ZERO.reason, True)
    assert before(event(4), DEFAULTS, 1.0)[-1] == Delete("r", "failed", give_back=True)
    (_, cut) = recursive(event(1))
    assert isinstance(cut, Delete)
    assert cut.give_back
    assert json.loads(cut.result)["errorType"] == "RecursiveInvocationException"


def test_an_answer_over_the_limit_is_kept_as_a_note_of_its_size() -> None:
    just = b'"' + b"x" * (MAXIMUM_RESULT_BYTES - 2) + b'"'
    assert kept(Succeeded(just)) == just
    note = json.loads(kept(Succeeded(just + b" ")))
    assert note == {"note": "not kept: its 65537 bytes are more than 65536"}


def test_an_error_document_over_the_limit_is_kept_with_its_type_and_the_beginning_of_its_message() -> None:
    document = {"errorMessage": "no " * 50_000, "errorType": "ValueError", "stackTrace": ["line\n"] * 5}
    short = json.loads(kept(Failed(document)))
    assert short["errorType"] == "ValueError"
    assert short["errorMessage"] == ("no " * 400)[:1024]
    assert short["note"].startswith("cut: its 150")
