"""Where an item is and why, in words: one for scripts, sentences for people."""

from __future__ import annotations

from typing import Any

import pytest

from lambent.model import (
    Event,
    EventFact,
    EventInvokeConfig,
    Function,
    Message,
    MessageFact,
    Piece,
    Progress,
    Queue,
    QueueMapping,
    Record,
    Settled,
    StreamMapping,
)
from lambent.semantics import stream
from lambent.semantics.explaining import (
    Explanation,
    Load,
    Placed,
    Reader,
    Service,
    explain_event,
    explain_message,
    explain_record,
    unknown,
    unread_by_all,
)
from lambent.semantics.filtering import Miss
from lambent.semantics.redriving import Declared

from .driver import key_of_lane

NOW = 1_000_000.0  # 1970-01-12T13:46:40Z
ERROR = '{"errorType": "ValueError", "errorMessage": "no paper"}'
RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"


def told(explanation: Explanation) -> str:
    return " ".join(explanation.sentences)


# --------------------------------------------------------------------------- events


def event(
    state: str, *, attempts: int = 1, service: Service = "served", known: bool = True, **fields: Any
) -> Explanation:
    options = {name: fields.pop(name) for name in ("reserved_concurrency", "dead_letter_queue") if name in fields}
    age, running = fields.pop("age", 21600), fields.pop("running", 0)
    fact = EventFact(Event("e1", "f", b"{}", NOW - 100, attempts=attempts), state, **fields)
    function = Function(name="f", event_invoke=EventInvokeConfig(maximum_event_age_seconds=age), **options)
    return explain_event(fact, function if known else None, service, NOW, Load(running))


def test_an_event_that_waits_says_until_when_for_which_attempt_and_because_of_what() -> None:
    found = event("waiting", due_at=NOW + 58, reason=ERROR)
    assert (found.verdict, found.function, found.details["due_at"]) == ("waiting", "f", NOW + 58)
    assert found.sentences == (
        "It waits until 1970-01-12T13:47:38.000Z for attempt 2 of at most 3 of f.",
        "Attempt 1 failed: ValueError: no paper.",
        "It is too old at 1970-01-12T19:45:00.000Z, in 21500 s (maximum_event_age_seconds, 21600).",
    )


def test_an_event_that_was_throttled_says_by_which_limit() -> None:
    found = event("waiting", attempts=0, due_at=NOW - 1, reason=RESERVED, reserved_concurrency=5)
    assert found.verdict == "throttled"
    assert "It is due since 1970-01-12T13:46:39.000Z for attempt 1" in told(found)
    assert f"reserved_concurrency, 5 at once ({RESERVED})" in told(found)
    found = event("waiting", due_at=NOW, reason="ConcurrentInvocationLimitExceeded")
    assert (found.verdict, "account_concurrency" in told(found)) == ("throttled", True)
    found = event("waiting", due_at=NOW, reserved_concurrency=0)
    assert (found.verdict, found.sentences[1]) == ("throttled", "f may not run: its reserved_concurrency is 0.")
    found = event("waiting", due_at=NOW, reserved_concurrency=2, running=2)
    assert found.verdict == "throttled"
    assert "f runs 2 times at once, as often as its reserved_concurrency allows." in found.sentences
    assert event("waiting", due_at=NOW + 1, reserved_concurrency=2, running=2).verdict == "waiting"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"reason": "drained"},
            "It came back when its engine was stopped; an attempt that was cut off is not counted.",
        ),
        ({"reason": "no thread"}, "It could not be run: no thread."),
        ({"age": 120, "due_at": NOW + 60}, "It is too old then (maximum_event_age_seconds, 120)."),
        ({"known": False}, "No function f is declared in this store: it waits for one."),
        ({"service": "away"}, "No engine is running on this store: start one with `lambent run FILE.py`."),
        ({"service": "unhosted"}, "No running engine has the function for it: function f."),
    ],
)
def test_an_event_says_what_else_keeps_it_waiting(options: dict[str, Any], sentence: str) -> None:
    assert sentence in event("waiting", **{"due_at": NOW - 1, **options}).sentences


def test_an_event_that_runs_says_which_attempt_and_when_it_would_be_due_again() -> None:
    found = event("running", attempts=2, due_at=NOW + 10)
    assert found.verdict == "running"
    assert told(found).startswith("Attempt 2 of at most 3 of f runs")
    assert "due again at 1970-01-12T13:46:50.000Z, in 10 s" in told(found)


@pytest.mark.parametrize(
    ("state", "fields", "sentences"),
    [
        ("succeeded", {"result": b'"ok"'}, ['in attempt 1: "ok".']),
        ("succeeded", {"result": b"x" * 300}, ["x" * 199 + "…"]),
        ("failed", {"result": ERROR.encode(), "dead_letter_queue": "queue:dead"},
         ["after 1 attempts.", "Its last attempt failed: ValueError: no paper.", "dead_letter_queue is queue:dead"]),
        ("expired", {"reason": RESERVED}, ["had become too old.", "throttled by its function's reserved_concurrency"]),
        ("dropped", {"reason": "its function was deleted"}, ["It was dropped", "Its function was deleted."]),
        ("dropped", {"result": b'{"errorType": "RecursiveInvocationException", "errorMessage": "on and on"}'},
         ["RecursiveInvocationException: on and on."]),
        ("destination-failed", {"reason": "HTTP status 404", "result": b"1"},
         ["could not be delivered: HTTP status 404.", "Its answer was 1."]),
    ],
)  # fmt: skip
def test_an_event_that_ended_says_how(state: str, fields: dict[str, Any], sentences: list[str]) -> None:
    found = event(state, ended_at=NOW - 5, **fields)
    assert found.verdict == state
    assert "1970-01-12T13:46:35.000Z" in found.sentences[0]
    for sentence in sentences:
        assert sentence in told(found)


# --------------------------------------------------------------------------- messages


def message(
    state: Any = "visible",
    *readers: Reader,
    received: int = 0,
    ahead: str = "",
    queue: Queue | None = None,
    body: str = "x",
    **declared: Any,
) -> list[Explanation]:
    queue = queue or Queue(name="q")
    fact = MessageFact(queue.name, Message("m1", body, "r", received, NOW, NOW), state, NOW + 9)
    everything = Declared({}, {queue.name: queue, **declared}, {}, ())
    return explain_message(fact, queue, readers, everything, ahead, NOW)


def queue_reader(service: Service = "served", *misses: Miss, reserved: int | None = None, **options: Any) -> Reader:
    mapping = QueueMapping(source="queue:q", function="f", **options)
    return Reader("id", mapping, Function(name="f", reserved_concurrency=reserved), service, misses)


@pytest.mark.parametrize(
    ("state", "reader", "verdict", "sentence"),
    [
        ("visible", queue_reader(), "visible", "queue:q -> f receives it as soon as f has room."),
        ("delayed", queue_reader(), "delayed", "It is delayed until 1970-01-12T13:46:49.000Z."),
        ("in_flight", queue_reader(enabled=False), "in-flight", "received again at 1970-01-12T13:46:49.000Z, in 9 s."),
        ("visible", queue_reader(enabled=False), "paused", "The mapping queue:q -> f is paused."),
        ("visible", queue_reader("stopped"), "stopped", "No running engine declares the mapping queue:q -> f"),
        ("visible", queue_reader("served", Miss("body.n", "is 1")), "filtered", "Filter 1: body.n is 1."),
        ("visible", queue_reader(reserved=0), "throttled", "its reserved_concurrency is 0"),
    ],
)
def test_a_message_says_what_it_waits_for(state: str, reader: Reader, verdict: str, sentence: str) -> None:
    (found,) = message(state, reader)
    assert (found.verdict, found.mapping, found.source) == (verdict, "id", "queue:q")
    assert sentence in told(found)


def test_a_message_of_a_group_waits_for_the_one_before_it() -> None:
    (found,) = message("visible", queue_reader(), ahead="m0")
    assert (found.verdict, found.sentences[-1]) == ("blocked", "Message m0 of its group comes before it.")


def test_a_message_says_how_often_it_was_received_and_when_it_is_a_dead_letter() -> None:
    queue = Queue(name="q", max_receive_count=2, dead_letter_queue="dead")
    (found,) = message("in_flight", queue_reader(), received=1, queue=queue)
    assert "It was received once of at most 2" in told(found)
    (found,) = message("in_flight", queue_reader(), received=2, queue=queue)
    assert "it is moved to dead at" in told(found)
    dead = message(queue=Queue(name="dead"), q=queue)
    assert [each.verdict for each in dead] == ["dead-letter"]
    assert "It is in the dead-letter queue dead, moved there from queue:q." in told(dead[0])


def test_a_message_that_no_mapping_reads_says_so() -> None:
    (found,) = message()
    assert (found.verdict, found.sentences[-1]) == (
        "unmapped",
        "No mapping reads queue:q: it stays until it is too old.",
    )


def test_a_message_is_explained_for_each_mapping_that_reads_its_queue() -> None:
    found = message("visible", queue_reader(), queue_reader(enabled=False))
    assert [each.verdict for each in found] == ["visible", "paused"]


# --------------------------------------------------------------------------- records


def record(
    position: str = "05",
    *,
    key: str = "k",
    reached: str = "02",
    pieces: list[tuple[Piece, str]] | None = None,
    settled: Settled | None = None,
    misses: tuple[Miss, ...] = (),
    service: Service = "served",
    reserved: int | None = None,
    parents: tuple[str, ...] = (),
    before: int = 2,
    start: str = "",
    gone: bool = False,
    **options: Any,
) -> Explanation:
    mapping = StreamMapping(source="stream:s", function="f", **options)
    reader = Reader("id", mapping, Function(name="f", reserved_concurrency=reserved), service, misses)
    firsts = [(piece, Record(piece.first, of, b"", NOW)) for piece, of in pieces or []]
    progress = Progress(reached, tuple(piece for piece, _ in firsts), start=start)
    here = None if gone else Record(position, key, b"{}", NOW)
    return explain_record(Placed(position, "shard", here, progress, settled, before, firsts, parents), reader)


@pytest.mark.parametrize(
    ("settled", "verdict", "sentence"),
    [
        (Settled("01", "09", 9, "delivered"), "delivered", "It was delivered to f, which succeeded."),
        (Settled("01", "09", 9, "failed", "RetryAttemptsExhausted"), "failed",
         "It was given up: RetryAttemptsExhausted; its report went to queue:dead."),
        (Settled("01", "09", 9, "failed", "destination-failed: away"), "destination-failed",
         "nobody could be told: destination-failed: away."),
        (Settled("01", "09", 9, "lost", "trimmed by the source"), "lost", "It was lost: trimmed by the source."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("gone", [False, True])
def test_a_record_that_was_finished_says_its_fate(settled: Settled, verdict: str, sentence: str, gone: bool) -> None:
    found = record("05", settled=settled, reached="09", on_failure="queue:dead", gone=gone)
    assert (found.verdict, found.details["fate"]) == (verdict, settled.fate)
    assert sentence in told(found)


def test_a_record_that_was_filtered_says_by_which_rule_of_which_mapping() -> None:
    misses = (Miss("data.n", "is not one of [1]"), Miss("partitionKey", "does not begin with 'a'"))
    done = record("05", reached="09", settled=Settled("05", "05", 1, "filtered"), misses=misses)
    assert (done.verdict, done.mapping) == ("filtered", "id")
    assert done.sentences == (
        "The filters of stream:s -> f missed it.",
        "Filter 1: data.n is not one of [1].",
        "Filter 2: partitionKey does not begin with 'a'.",
    )
    ahead = record("05", misses=misses, before=2)
    assert ahead.verdict == "filtered"
    assert ahead.sentences[-1] == "It is passed over once what is before it is finished: 2 records."


def test_a_record_above_a_batch_that_is_tried_is_blocked_behind_it() -> None:
    pieces = [(Piece("03", "04", 7), "k")]
    found = record("05", pieces=pieces)
    assert (found.verdict, told(found)) == (
        "blocked",
        "It comes after the batch 03 to 04 of its shard, which is in attempt 7.",
    )
    found = record("04", pieces=pieces, maximum_retry_attempts=9)
    assert found.verdict == "trying"
    assert "It is in attempt 7 of its batch of at most 10 (03 to 04)" in told(found)


def test_with_lanes_only_a_batch_of_its_own_lane_blocks_a_record() -> None:
    ours, other = key_of_lane(0, 4), key_of_lane(1, 4)
    pieces = [(Piece("03", "09", 2), other)]
    assert record("05", key=ours, pieces=pieces, parallelization_factor=4).verdict == "unread"
    assert record("05", key=other, pieces=pieces, parallelization_factor=4).verdict == "trying"
    found = record("15", key=other, pieces=pieces, parallelization_factor=4)
    assert (found.verdict, "of its lane" in told(found)) == ("blocked", True)
    found = record("15", key=ours, pieces=pieces, parallelization_factor=4, before=stream.MAXIMUM_SPAN_RECORDS)
    assert (found.verdict, "only 100000 are read ahead" in told(found)) == ("blocked", True)


@pytest.mark.parametrize(
    ("options", "verdict", "sentence"),
    [
        ({}, "unread", "stream:s -> f has not begun it; before it are 2 records."),
        ({"enabled": False, "before": 1}, "paused", "The mapping stream:s -> f is paused, with 1 record before it."),
        ({"service": "stopped"}, "stopped", "it is stopped."),
        ({"service": "away"}, "stopped", "No engine is running on this store"),
        ({"parents": ("p1", "p2")}, "blocked", "has finished the shard's parents: p1, p2."),
        ({"reserved": 0}, "throttled", "f may not run: its reserved_concurrency is 0."),
        ({"position": "05", "start": "07", "reached": "08"}, "before-start", "began to read after it, at 07."),
        ({"position": "05", "reached": "08"}, "forgotten", "so long ago that its fate is no longer kept."),
    ],
)
def test_a_record_says_what_keeps_it(options: dict[str, Any], verdict: str, sentence: str) -> None:
    found = record(**options)
    assert found.verdict == verdict
    assert sentence in told(found)


def test_no_sentence_shows_the_password_of_a_url() -> None:
    topic, dead = "kafka://ada:secret@h:9092/orders", "kafka://ada:secret@h:9092/dead"
    mapping = StreamMapping(source=topic, function="f", on_failure=dead, enabled=False)
    reader = Reader("id", mapping, Function(name="f"), "served")
    here, progress = Record("05", "k", b"{}", NOW), Progress("02", start="")
    failed = Settled("01", "09", 9, "failed", "RetryAttemptsExhausted")
    queue = QueueMapping(source="redis-queue://ada:secret@h/0/q", function="f", maximum_concurrency=2)
    event = EventFact(Event("e1", "f", b"{}", NOW, attempts=1), "failed", ended_at=NOW)
    function = Function(name="f", event_invoke=EventInvokeConfig(on_failure=dead))
    dying = mapping.model_copy(update={"on_failure": "queue:dead"})
    everything = Declared({}, {"dead": Queue(name="dead")}, {}, [dying])
    busy = Reader("id", queue, Function(name="f"), "served", (), Load(of_mapping=2))
    fact = MessageFact("dead", Message("m1", "x", "r", 1, NOW, NOW), "visible", NOW)
    explanations = [
        explain_record(Placed("05", "s", here, progress, None), reader),
        explain_record(Placed("05", "s", here, progress, failed), reader),
        unread_by_all(Placed("05", "s", here, None, None), topic),
        explain_event(event, function, "served", NOW),
        *explain_message(fact, Queue(name="dead"), [busy], everything, "", NOW),
    ]
    words = " ".join(map(told, explanations))
    assert words.count("h:9092/dead") == 2
    assert words.count("h:9092/orders") == 2
    assert "redis-queue://h/0/q -> f runs 2 times at once" in words
    assert "secret" not in words


def test_what_nobody_knows_says_where_it_may_have_gone() -> None:
    found = unknown("x")
    assert (found.kind, found.verdict, found.id) == ("unknown", "unknown", "x")
    assert "went to another store" in told(found)
