"""Invocation records as AWS shapes them, and how they get to where results go (invariants 4 and 5, fault F26)."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from lambent.destinations import (
    DESTINATION_RETRY_SECONDS,
    Destinations,
    QueueDestination,
    StreamDestination,
    dead_letter_attributes,
    embedded,
)
from lambent.errors import RecursiveInvocation, ResourceNotFound, StoreUnavailable
from lambent.model import (
    Delivered,
    Delivery,
    Event,
    EventInvokeConfig,
    Failed,
    Function,
    MessageAttribute,
    Outcome,
    Put,
    Record,
    Refused,
    ReportBatch,
    ReportEvent,
    Send,
    StreamMapping,
    Succeeded,
    Throttled,
    Unavailable,
)
from lambent.ports import Destination, World
from lambent.semantics import shapes
from lambent.telemetry import Telemetry

NOW = 1_700_000_000.25
TIMESTAMP = "2023-11-14T22:13:20.250Z"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:delays"
STREAM_ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/departures"
SHARD = "shardId-000000000000"
DOCUMENT = {"errorMessage": "no such flight", "errorType": "KeyError", "requestId": "id-1", "stackTrace": []}
FAILED = Failed(DOCUMENT)


class StandingClock:
    """The time is NOW; what passes is the loop's."""

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass
class Inbox:
    """A destination that keeps what it gets, after it gave the prepared answers."""

    answers: list[Delivery | Exception] = field(default_factory=list)
    records: list[tuple[bytes, dict[str, str], int]] = field(default_factory=list)
    asked: int = 0
    maximum_record_bytes: int | None = None

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else Delivered()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Delivered):
            self.records.append((record, dict(attributes), hops))
        return answer

    @property
    def parsed(self) -> list[dict[str, object]]:
        return [json.loads(record) for record, _, _ in self.records]


class Departures:
    """As much of a stream source as a report needs."""

    arn = STREAM_ARN
    capabilities: frozenset[str] = frozenset()

    def to_event(self, shard: str, records: Sequence[Record]) -> dict[str, object]:
        return shapes.kinesis_event(shard, records, STREAM_ARN, "us-east-1", "role")


def destinations(telemetry: Telemetry | None = None, **inboxes: Destination) -> Destinations:
    def resolve(ref: str) -> Destination:
        try:
            return inboxes[ref.removeprefix("queue:")]
        except KeyError:
            raise ResourceNotFound(f"no destination {ref}") from None

    chance = random.Random(7)
    world = World("me", StandingClock(), chance.random, lambda: "unused")
    return Destinations(resolve=resolve, telemetry=telemetry or Telemetry(), world=world)


def report(condition: str = "RetriesExhausted", outcome: Outcome | None = FAILED, **options: object) -> ReportEvent:
    values: dict[str, object] = {"payload": b'{"flight": 1}', "attempts": 3, **options}
    return ReportEvent(Event("id-1", "delays", accepted_at=0.0, **values), condition, outcome)  # type: ignore[arg-type]


def function(dead_letter_queue: str | None = None, **refs: str) -> Function:
    return Function(name="delays", dead_letter_queue=dead_letter_queue, event_invoke=EventInvokeConfig(**refs))  # type: ignore[arg-type]


# --------------------------------------------------------------------------- records of asynchronous events


async def test_an_event_that_failed_has_awss_record_to_the_key() -> None:
    inbox = Inbox()
    answer = await destinations(bad=inbox).report_event(report(), function(on_failure="queue:bad"))
    assert answer == Delivered()
    assert json.dumps(inbox.parsed) == json.dumps(
        [
            {
                "version": "1.0",
                "timestamp": TIMESTAMP,
                "requestContext": {
                    "requestId": "id-1",
                    "functionArn": ARN + ":$LATEST",
                    "condition": "RetriesExhausted",
                    "approximateInvokeCount": 3,
                },
                "requestPayload": {"flight": 1},
                "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
                "responsePayload": DOCUMENT,
            }
        ]
    )


async def test_an_event_that_succeeded_has_its_result_and_no_error() -> None:
    good, bad = Inbox(), Inbox()
    where = function(on_success="queue:bad", on_failure="queue:bad", dead_letter_queue="queue:bad")
    events = {"live": EventInvokeConfig(on_success="queue:good", on_failure="queue:bad")}
    where = where.model_copy(update={"event_invoke_of": events})
    success = report("Success", Succeeded(b'{"delay": 7}', executed_version="3"), attempts=1, qualifier="live")
    await destinations(good=good, bad=bad).report_event(success, where)
    (record,) = good.parsed
    assert record["requestContext"] == {
        "requestId": "id-1",
        "functionArn": ARN + ":live",
        "condition": "Success",
        "approximateInvokeCount": 1,
    }
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "3"}
    assert record["responsePayload"] == {"delay": 7}
    assert bad.asked == 0


@pytest.mark.parametrize("condition", ["EventAgeExceeded", "ZeroReservedConcurrency"])
async def test_an_event_that_never_ran_has_no_response(condition: str) -> None:
    inbox = Inbox()
    never = report(condition, None, attempts=0)
    await destinations(bad=inbox).report_event(never, function(on_failure="queue:bad"))
    (record,) = inbox.parsed
    assert list(record) == ["version", "timestamp", "requestContext", "requestPayload"]
    assert record["requestContext"]["condition"] == condition  # type: ignore[index]
    assert record["requestContext"]["approximateInvokeCount"] == 0  # type: ignore[index]


async def test_an_event_that_grew_too_old_after_a_failure_has_that_failures_response() -> None:
    inbox = Inbox()
    await destinations(bad=inbox).report_event(report("EventAgeExceeded"), function(on_failure="queue:bad"))
    assert inbox.parsed[0]["responsePayload"] == DOCUMENT


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"id": 12345678901234567890.10, "a": 1, "a": 2}', '{"id": 12345678901234567890.10, "a": 1, "a": 2}'),
        (b"{broken", '"{broken"'),
        (b"\xff\xfe", '"\\ufffd\\ufffd"'),
        (b"NaN", '"NaN"'),
        (b'1,"injected":2', '"1,\\"injected\\":2"'),
        (b"[" * 100_000, json.dumps("[" * 100_000)),
        ({1, 2}, '"<set>"'),
        ({"when": object()}, '{"when":"<object>"}'),
        (float("nan"), '"<float>"'),
        ("\ud800", '"\\ud800"'),
        (None, "null"),
    ],
    ids=["exact", "broken", "not UTF-8", "NaN", "injection", "deep", "set", "object", "nan", "surrogate", "null"],
)
def test_a_payload_stays_as_it_is_or_becomes_a_string(payload: object, text: str) -> None:
    assert embedded(payload) == text


@pytest.mark.parametrize("payload", [b"", b"{broken", b"\xff", b"[" * 5000])
async def test_a_payload_that_cannot_be_embedded_is_still_reported(payload: bytes) -> None:
    good, dead = Inbox(), Inbox()
    where = function(on_failure="queue:good", dead_letter_queue="queue:dead")
    await destinations(good=good, dead=dead).report_event(report(payload=payload), where)
    assert good.parsed[0]["requestPayload"] == (payload.decode("utf-8", "replace") or {})
    assert dead.asked == 1


# --------------------------------------------------------------------------- dead-letter queues


async def test_a_dead_letter_is_the_event_itself_with_the_error_beside_it() -> None:
    dead, bad = Inbox(), Inbox()
    where = function(on_failure="queue:bad", dead_letter_queue="queue:dead")
    await destinations(bad=bad, dead=dead).report_event(report(hops=2), where)
    attributes = {"RequestID": "id-1", "ErrorCode": "200", "ErrorMessage": "no such flight"}
    assert dead.records == [(b'{"flight": 1}', attributes, 3)]
    assert len(bad.records) == 1  # both fire


@pytest.mark.parametrize("character", ["x", "é", "\N{AIRPLANE}", "\U0001f6eb"])
def test_a_dead_letters_error_is_cut_at_a_kilobyte_between_characters(character: str) -> None:
    message = dead_letter_attributes(report(outcome=Failed({"errorMessage": character * 2000})))["ErrorMessage"]
    assert set(message) == {character}
    assert 1024 - 4 < len(message.encode()) <= 1024


def test_an_attribute_without_a_value_is_left_out() -> None:
    assert dead_letter_attributes(report(outcome=Failed({"errorMessage": ""}))) == {
        "RequestID": "id-1",
        "ErrorCode": "200",
    }
    assert "ErrorMessage" not in dead_letter_attributes(report("EventAgeExceeded", None))


def test_a_dead_letter_of_zero_reserved_concurrency_says_that_it_was_throttled() -> None:
    attributes = dead_letter_attributes(report("ZeroReservedConcurrency", None))
    assert attributes == {"RequestID": "id-1", "ErrorCode": "429", "ErrorMessage": "Rate Exceeded."}


# --------------------------------------------------------------------------- records of streams

RECORDS = [Record("41", "N1", b"one", NOW - 2, hops=1), Record("42", "N2", b"two", NOW - 1, hops=4)]
MAPPING = StreamMapping(source="departures", function="delays", on_failure="queue:poison")


async def report_batch(
    inbox: Inbox, outcome: Outcome | None = FAILED, condition: str = "RetryAttemptsExhausted", **options: object
) -> dict[str, object]:
    values: dict[str, object] = {"lane": 0, "records": RECORDS, "attempts": 2, **options}
    given_up = ReportBatch(condition=condition, outcome=outcome, **values)  # type: ignore[arg-type]
    answer = await destinations(poison=inbox).report_batch(
        given_up,
        mapping=MAPPING,
        mapping_id="m-1",
        shard=SHARD,
        source=Departures(),  # type: ignore[arg-type]
    )
    assert answer == Delivered()
    return inbox.parsed[-1]


async def test_records_given_up_have_awss_record_with_the_event_as_a_string() -> None:
    inbox = Inbox()
    record = await report_batch(inbox)
    context = record["requestContext"]
    assert isinstance(context, dict)
    event = Departures().to_event(SHARD, RECORDS)
    assert json.loads(record.pop("payload")) == event  # type: ignore[arg-type]
    assert json.dumps(record) == json.dumps(
        {
            "requestContext": {
                "requestId": context["requestId"],
                "functionArn": ARN,
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": 2,
            },
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
            "version": "1.0",
            "timestamp": TIMESTAMP,
            "KinesisBatchInfo": {
                "shardId": SHARD,
                "startSequenceNumber": "41",
                "endSequenceNumber": "42",
                "approximateArrivalOfFirstRecord": "2023-11-14T22:13:18.250Z",
                "approximateArrivalOfLastRecord": "2023-11-14T22:13:19.250Z",
                "batchSize": 2,
                "streamArn": STREAM_ARN,
            },
        }
    )
    assert inbox.records[0][2] == 5  # one hop more than the longest chain


async def test_a_last_try_that_reported_failures_has_a_null_error() -> None:
    record = await report_batch(Inbox(), Succeeded(b'{"batchItemFailures": [{"itemIdentifier": ""}]}'))
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": None}


@pytest.mark.parametrize("outcome", [None, FAILED, Throttled("x"), Unavailable("x")])
async def test_records_that_grew_too_old_have_no_response_and_count_one_try_at_least(outcome: Outcome | None) -> None:
    record = await report_batch(Inbox(), outcome, "RecordAgeExceeded", attempts=0)
    assert list(record) == ["requestContext", "version", "timestamp", "KinesisBatchInfo", "payload"]
    assert record["requestContext"]["approximateInvokeCount"] == 1  # type: ignore[index]


async def test_records_whose_last_try_never_completed_have_no_response() -> None:
    assert "responseContext" not in await report_batch(Inbox(), None)


async def test_a_repeated_report_carries_the_same_request_id() -> None:
    inbox = Inbox()
    first, again = await report_batch(inbox), await report_batch(inbox)
    other = await report_batch(inbox, records=RECORDS[1:])
    ids = [each["requestContext"]["requestId"] for each in (first, again, other)]  # type: ignore[index]
    assert ids[0] == ids[1] != ids[2]


async def test_the_event_is_left_out_where_it_would_be_too_large() -> None:
    record = await report_batch(Inbox(maximum_record_bytes=900))
    assert "payload" not in record
    assert record["KinesisBatchInfo"]["batchSize"] == 2  # type: ignore[index]


async def test_a_last_call_of_a_window_without_records_can_be_reported() -> None:
    info = (await report_batch(Inbox(), records=[]))["KinesisBatchInfo"]
    assert info["batchSize"] == 0  # type: ignore[index]
    assert info["startSequenceNumber"] is None  # type: ignore[index]


async def test_without_a_destination_there_is_nothing_to_deliver() -> None:
    sender = destinations()
    assert await sender.report_event(report(), function()) == Delivered()
    bare = StreamMapping(source="departures", function="delays")
    given_up = ReportBatch(0, RECORDS, "RetryAttemptsExhausted", 1, FAILED)
    answer = await sender.report_batch(given_up, mapping=bare, mapping_id="m", shard=SHARD, source=Departures())  # type: ignore[arg-type]
    assert answer == Delivered()


# --------------------------------------------------------------------------- trying again


@pytest.mark.virtual_time
async def test_a_destination_that_is_away_is_tried_again_until_it_takes_the_record() -> None:
    telemetry = Telemetry()
    inbox = Inbox([Unavailable("away"), StoreUnavailable("disk full"), OSError("bug of a third party")])
    loop = asyncio.get_running_loop()
    assert (
        await destinations(telemetry, bad=inbox).report_event(report(), function(on_failure="queue:bad")) == Delivered()
    )
    assert 0.5 + 1 + 2 <= loop.time() <= 1.1 * (0.5 + 1 + 2)
    assert telemetry.snapshot()["DestinationDeliveryFailures"] == {"delays": 3}
    assert telemetry.snapshot()["AsyncEventsDropped"] == {"delays": 1}


@pytest.mark.virtual_time
async def test_a_destination_that_stays_away_has_refused_after_five_minutes() -> None:
    inbox = Inbox([Unavailable("away")] * 1000)
    answer = await destinations(bad=inbox).report_event(report(), function(on_failure="queue:bad"))
    assert isinstance(answer, Refused)
    assert "away" in answer.reason
    assert 0.8 * DESTINATION_RETRY_SECONDS < asyncio.get_running_loop().time() <= DESTINATION_RETRY_SECONDS
    assert 10 < inbox.asked < 30


@pytest.mark.virtual_time
async def test_a_destination_that_never_answers_is_away() -> None:
    class Silent(Inbox):
        async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
            await asyncio.Event().wait()
            raise AssertionError

    assert isinstance(
        await destinations(bad=Silent()).report_event(report(), function(on_failure="queue:bad")), Refused
    )


@pytest.mark.virtual_time
async def test_that_this_process_stood_still_is_not_held_against_a_destination() -> None:
    """One that was stopped for longer than a destination is tried finds its delivery timed out when it goes on."""

    class Stopped(Inbox):
        async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
            if not self.asked:
                self.asked += 1
                until = asyncio.get_running_loop().time() + 2 * DESTINATION_RETRY_SECONDS
                while (left := until - asyncio.get_running_loop().time()) > 0:
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(left)
                raise asyncio.CancelledError
            return await super().deliver(record, attributes, hops)

    dead = Stopped()
    assert await destinations(dead=dead).report_event(report(), function(on_failure="queue:dead")) == Delivered()
    assert dead.asked == 2


@pytest.mark.virtual_time
async def test_while_one_of_two_is_away_the_other_gets_its_record_once() -> None:
    telemetry, bad, dead = Telemetry(), Inbox(), Inbox([Unavailable("away")] * 3)
    where = function(on_failure="queue:bad", dead_letter_queue="queue:dead")
    assert await destinations(telemetry, bad=bad, dead=dead).report_event(report(), where) == Delivered()
    assert (bad.asked, dead.asked) == (1, 4)
    assert telemetry.snapshot()["DeadLetterErrors"] == {"delays": 3}


@pytest.mark.parametrize("refusal", [Refused("too large"), RecursiveInvocation("a loop")])
async def test_a_refusal_is_final_and_the_other_destination_still_gets_its_record(
    refusal: Delivery | Exception,
) -> None:
    bad, dead = Inbox([refusal]), Inbox()
    where = function(on_failure="queue:bad", dead_letter_queue="queue:dead")
    assert isinstance(await destinations(bad=bad, dead=dead).report_event(report(), where), Refused)
    assert (bad.asked, len(dead.records)) == (1, 1)


async def test_a_destination_that_does_not_exist_refuses() -> None:
    answer = await destinations().report_event(report(), function(on_failure="queue:gone"))
    assert answer == Refused("queue:gone: no destination queue:gone")


async def test_delivered_records_of_a_stream_are_counted() -> None:
    telemetry = Telemetry()
    given_up = ReportBatch(0, RECORDS, "RetryAttemptsExhausted", 1, FAILED)
    await destinations(telemetry, poison=Inbox()).report_batch(
        given_up,
        mapping=MAPPING,
        mapping_id="m-1",
        shard=SHARD,
        source=Departures(),  # type: ignore[arg-type]
    )
    assert telemetry.snapshot()["OnFailureDestinationDeliveredEventCount"] == {"m-1": 2}


# --------------------------------------------------------------------------- queues, streams, functions


class Target:
    """A queue and a stream that keep what they get."""

    def __init__(self) -> None:
        self.kept: list[Send | Put] = []

    async def send_many(self, sends: Sequence[Send]) -> Sequence[str]:
        self.kept += sends
        return ["id"] * len(sends)

    async def put_many(self, puts: Sequence[Put]) -> Sequence[str]:
        self.kept += puts
        return ["1"] * len(puts)


async def test_a_queue_gets_attributes_whose_error_code_is_a_number() -> None:
    target = Target()
    attributes = {"RequestID": "id-1", "ErrorCode": "200", "ErrorMessage": "no"}
    assert await QueueDestination(target).deliver(b'{"a": 1}', attributes, 3) == Delivered()
    typed = {
        "RequestID": MessageAttribute("id-1"),
        "ErrorCode": MessageAttribute("200", "Number"),
        "ErrorMessage": MessageAttribute("no"),
    }
    assert target.kept == [Send('{"a": 1}', attributes=typed, hops=3)]


async def test_a_stream_gets_the_record_under_its_request_id() -> None:
    target = Target()
    sender = destinations(s=StreamDestination(target))
    await sender.report_event(report(), function(on_failure="queue:s", dead_letter_queue="queue:s"))
    assert [put.key for put in target.kept if isinstance(put, Put)] == ["id-1", "id-1"]
