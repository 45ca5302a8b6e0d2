"""What follows for an asynchronous event, before an attempt and after it: run, try again when, or give up how.

Decides from the event's attempts, age and outcome alone. The queue keeps the event, its counts and its claim; where
reports go is `destinations.py`'s. A report always comes before the delete: a crash between them repeats a report and
loses nothing.

The rules are AWS's (Lambda developer guide, «Asynchronous invocation: error handling», and recorded answers): function
errors are retried after 60 s and 120 s; an event whose next try would come after its age limit is given up at once;
throttles and an unavailable world use up no attempt and back off until the age limit; reserved concurrency 0 is final.
Ours: an attempt whose end is unknown (a crash) counts, so that an event which kills the engine does not loop for ever.
Ours too: what is kept of a result for people who ask (`kept`). AWS keeps none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, assert_never

from lambent.model import (
    AsyncCondition,
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
from lambent.semantics import backoff

MAXIMUM_RESULT_BYTES: Final = 64 * 1024  # kept of an answer or an error document, so that results cannot fill a store
MAXIMUM_WORDS: Final = 1024  # characters of the message of an error document that is larger
DROPPED: Final = "dropped"  # how an event ended that no attempt was to be made of
FUNCTION_DELETED: Final = "its function was deleted"
RECURSIVE: Final = Failed(
    {
        "errorType": "RecursiveInvocationException",
        "errorMessage": "The function called itself through others too often.",
    }
)
STATES: Final[dict[AsyncCondition, str]] = {
    "Success": "succeeded",
    "RetriesExhausted": "failed",
    "EventAgeExceeded": "expired",
    "ZeroReservedConcurrency": DROPPED,
}


def before(event: Event, config: EventInvokeConfig, now: float) -> tuple[EventStep, ...]:
    """The steps instead of an attempt that was claimed at `now` (epoch seconds); none: run it. The attempt that does
    not take place is not counted."""
    if now >= age_limit(event, config):
        return _end_unrun(event, "EventAgeExceeded")
    if event.attempts > 1 + config.maximum_retry_attempts:  # only crashes count so far
        return _end_unrun(event, "RetriesExhausted")
    return ()


def recursive(event: Event) -> tuple[EventStep, ...]:
    """The steps instead of an attempt that was claimed, where `recursion.py` cuts the chain; it is not counted."""
    delete = Delete(event.receipt, DROPPED, kept(RECURSIVE), give_back=True)
    return ReportEvent(_given_back(event), "RetriesExhausted", RECURSIVE), delete


def deleted(event: Event) -> tuple[EventStep, ...]:
    """The steps instead of an attempt that was claimed, if the event's function was deleted: nobody is told, for where
    reports go was deleted with it."""
    return (Delete(event.receipt, DROPPED, reason=FUNCTION_DELETED, give_back=True),)


def after(
    event: Event,
    outcome: Outcome,
    config: EventInvokeConfig,
    now: float,
    jitter: float,
    delays: Sequence[float] = backoff.ASYNC_RETRY_SECONDS,
) -> tuple[EventStep, ...]:
    """The steps after the attempt that `event.attempts` includes ended with `outcome` at `now` (epoch seconds).
    `jitter` in [0, 1) lengthens a throttle's backoff; `delays` are the seconds before each retry."""
    match outcome:
        case Succeeded():
            if config.on_success is None:  # nobody is told
                return (Delete(event.receipt, STATES["Success"], kept(outcome)),)
            return _end(event, "Success", outcome)
        case Failed():
            if event.attempts > config.maximum_retry_attempts:
                return _end(event, "RetriesExhausted", outcome)
            retry_at = now + backoff.async_retry(event.attempts, delays)
            if retry_at >= age_limit(event, config):
                return _end(event, "EventAgeExceeded", outcome)
            return (Release(event.receipt, retry_at, reason=kept(outcome).decode()),)
        case Throttled(reserved_zero=True):
            return _end_unrun(event, "ZeroReservedConcurrency", outcome.reason)
        case Throttled() | Unavailable():
            limit = age_limit(event, config)
            if now >= limit:
                return _end_unrun(event, "EventAgeExceeded", outcome.reason)
            retry_at = min(now + backoff.throttle(event.deferrals, jitter), limit)  # `before` ends it at the limit
            return (Release(event.receipt, retry_at, give_back=True, reason=outcome.reason),)
        case _:
            assert_never(outcome)


def kept(outcome: Outcome | None) -> bytes:
    """What is kept of an attempt's outcome, as JSON: the answer (of bytes; the value itself is the caller's to encode)
    or the error document. What is larger than MAXIMUM_RESULT_BYTES is cut to the error's type and the beginning of its
    message, an answer to a note of its size. Nothing without an attempt."""
    match outcome:
        case Succeeded(payload=bytes() as answer):
            if len(answer) > MAXIMUM_RESULT_BYTES:
                return _json({"note": f"not kept: its {len(answer)} bytes are more than {MAXIMUM_RESULT_BYTES}"})
            return answer or b"null"
        case Failed(document):
            text = _json(document)
            if len(text) > MAXIMUM_RESULT_BYTES:
                words = {name: str(document.get(name, ""))[:MAXIMUM_WORDS] for name in ("errorType", "errorMessage")}
                return _json({**words, "note": f"cut: its {len(text)} bytes are more than {MAXIMUM_RESULT_BYTES}"})
            return text
        case _:
            return b""


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _end(event: Event, condition: AsyncCondition, outcome: Outcome) -> tuple[EventStep, ...]:
    return ReportEvent(event, condition, outcome), Delete(event.receipt, STATES[condition], kept(outcome))


def _end_unrun(event: Event, condition: AsyncCondition, reason: str = "") -> tuple[EventStep, ...]:
    """The claim was no attempt: neither the report nor what is kept counts it."""
    delete = Delete(event.receipt, STATES[condition], reason=reason, give_back=True)
    return ReportEvent(_given_back(event), condition, None), delete


def age_limit(event: Event, config: EventInvokeConfig) -> float:
    """When the event is too old (epoch seconds). Its age counts from its acceptance, whatever happened since."""
    return event.accepted_at + config.maximum_event_age_seconds


def _given_back(event: Event) -> Event:
    return replace(event, attempts=max(event.attempts - 1, 0))
