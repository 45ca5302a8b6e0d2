"""How records look to a function: SQS's and Kinesis's events to the key."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.model import Message, MessageAttribute, Record, WindowState
from lambent.semantics import shapes

QUEUE_ARN = "arn:aws:sqs:us-east-1:000000000000:rebook"
STREAM_ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/departures"
ROLE_ARN = "arn:aws:iam::000000000000:role/lambent"
SHARD = "shardId-000000000000"
RECORDED = Path(__file__).parents[3] / "shared" / "aws-recorded"


def message(body: str = "{}", **options: object) -> Message:
    return Message("id-1", body, "receipt-1", 2, 1573251510.7744, 1573251511.0, **options)  # type: ignore[arg-type]


def sqs_record(one: Message, windowed: bool = False) -> dict[str, object]:
    event = shapes.sqs_event([one], QUEUE_ARN, "us-east-1", windowed)
    assert list(event) == ["Records"]
    (record,) = event["Records"]  # type: ignore[misc]
    return record  # type: ignore[no-any-return]


def test_a_message_looks_like_sqs() -> None:
    record = sqs_record(message('{"a": 1}'))
    assert json.dumps(record) == json.dumps(
        {
            "messageId": "id-1",
            "receiptHandle": "receipt-1",
            "body": '{"a": 1}',
            "attributes": {
                "ApproximateReceiveCount": "2",
                "SentTimestamp": "1573251510774",
                "SenderId": "lambent",
                "ApproximateFirstReceiveTimestamp": "1573251511000",
            },
            "messageAttributes": {},
            "md5OfBody": hashlib.md5(b'{"a": 1}').hexdigest(),
            "eventSource": "aws:sqs",
            "eventSourceARN": QUEUE_ARN,
            "awsRegion": "us-east-1",
        }
    )


def test_a_fifo_message_has_its_group_deduplication_id_and_sequence_number() -> None:
    attributes = sqs_record(message(group="g", deduplication_id="d", sequence_number="18849496460467696128"))[
        "attributes"
    ]
    assert attributes["MessageGroupId"] == "g"  # type: ignore[index]
    assert attributes["MessageDeduplicationId"] == "d"  # type: ignore[index]
    assert attributes["SequenceNumber"] == "18849496460467696128"  # type: ignore[index]


def test_without_attributes_their_checksum_is_absent_and_with_a_window_it_is_null() -> None:
    assert "md5OfMessageAttributes" not in sqs_record(message(), windowed=False)
    windowed = sqs_record(message(), windowed=True)
    assert windowed["md5OfMessageAttributes"] is None
    assert list(windowed).index("md5OfMessageAttributes") == list(windowed).index("md5OfBody") - 1


@pytest.mark.parametrize("windowed", [False, True])
def test_message_attributes_have_lists_that_are_empty_and_a_checksum(windowed: bool) -> None:
    attributes = {"n": MessageAttribute("7", "Number"), "b": MessageAttribute("AAE=", "Binary")}
    record = sqs_record(message(attributes=attributes), windowed)
    assert record["messageAttributes"] == {
        "n": {"stringValue": "7", "stringListValues": [], "binaryListValues": [], "dataType": "Number"},
        "b": {"binaryValue": "AAE=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"},
    }
    assert record["md5OfMessageAttributes"] == shapes.md5_of_attributes(attributes)


def test_the_checksum_of_attributes_is_sqs_own() -> None:
    """name, type and value each behind its length; the kind is one byte (1 text, 2 binary); sorted by name."""
    attributes = {"b": MessageAttribute("AAE=", "Binary.raw"), "a": MessageAttribute("é", "String")}
    text = b"\0\0\0\x01a\0\0\0\x06String\x01\0\0\0\x02\xc3\xa9"
    binary = b"\0\0\0\x01b\0\0\0\x0aBinary.raw\x02\0\0\0\x02\0\x01"
    assert shapes.md5_of_attributes(attributes) == hashlib.md5(text + binary).hexdigest()


def test_a_binary_attribute_that_is_not_base64_crashes_nothing() -> None:
    assert len(shapes.md5_of_attributes({"b": MessageAttribute("a", "Binary")})) == 32


def test_a_body_that_is_not_unicode_crashes_nothing() -> None:
    record = sqs_record(message("\ud800"))
    assert json.loads(json.dumps(record)) == record
    shapes.sqs_view(message("\ud800"))


def test_a_filter_sees_a_message_with_its_body_decoded() -> None:
    view = shapes.sqs_view(message('{"a": 1}', attributes={"n": MessageAttribute("7")}))
    assert view["body"] == {"a": 1}
    assert view["messageAttributes"]["n"]["stringValue"] == "7"  # type: ignore[index]
    assert shapes.sqs_view(message("plain"))["body"] == "plain"


def record(position: str = "49590338271490256608559692538361571095921575989136588898", **options: object) -> Record:
    values: dict[str, object] = {"key": "N14228", "data": b"hello", "arrived_at": 1545084650.9871, **options}
    return Record(position, **values)  # type: ignore[arg-type]


def test_a_record_looks_like_kinesis() -> None:
    event = shapes.kinesis_event(SHARD, [record("42")], STREAM_ARN, "us-east-1", ROLE_ARN)
    assert json.dumps(event) == json.dumps(
        {
            "Records": [
                {
                    "kinesis": {
                        "kinesisSchemaVersion": "1.0",
                        "partitionKey": "N14228",
                        "sequenceNumber": "42",
                        "data": "aGVsbG8=",
                        "approximateArrivalTimestamp": 1545084650.987,
                    },
                    "eventSource": "aws:kinesis",
                    "eventVersion": "1.0",
                    "eventID": "shardId-000000000000:42",
                    "eventName": "aws:kinesis:record",
                    "invokeIdentityArn": ROLE_ARN,
                    "awsRegion": "us-east-1",
                    "eventSourceARN": STREAM_ARN,
                }
            ]
        }
    )


def test_the_hops_of_a_chain_never_show() -> None:
    queue = shapes.sqs_event([message(hops=7)], QUEUE_ARN, "us-east-1", False)
    stream = shapes.kinesis_event(SHARD, [record(hops=7)], STREAM_ARN, "us-east-1", ROLE_ARN)
    assert "hops" not in json.dumps(
        [queue, stream, shapes.sqs_view(message(hops=7)), shapes.kinesis_view(record(hops=7))]
    )


def test_records_keep_their_order() -> None:
    event = shapes.kinesis_event(SHARD, [record(str(n)) for n in range(5)], STREAM_ARN, "us-east-1", ROLE_ARN)
    assert [each["eventID"] for each in event["Records"]] == [f"{SHARD}:{n}" for n in range(5)]  # type: ignore[attr-defined]


def test_a_filter_sees_a_record_with_its_data_decoded_beside_its_metadata() -> None:
    view = shapes.kinesis_view(record(data=b'{"origin": "JFK"}'))
    assert view["data"] == {"origin": "JFK"}
    assert view["partitionKey"] == "N14228"
    assert view["approximateArrivalTimestamp"] == 1545084650.987


@given(
    key=st.text(max_size=256),
    data=st.binary(max_size=200),
    position=st.text("0123456789", min_size=1, max_size=56),
    arrived_at=st.floats(0, 4e9),
)
def test_a_records_size_bounds_its_json(key: str, data: bytes, position: str, arrived_at: float) -> None:
    one = Record(position, key, data, arrived_at)
    event = shapes.kinesis_event(SHARD, [one], STREAM_ARN.replace("departures", "d" * 80), "ap-southeast-1", ROLE_ARN)
    (built,) = event["Records"]  # type: ignore[misc]
    assert len(json.dumps(built)) + 2 <= shapes.kinesis_size(one)
    assert base64.b64decode(built["kinesis"]["data"]) == data


def test_an_event_in_a_tumbling_window_gains_the_window_and_its_state() -> None:
    state = {"sum": {"JFK": 3}}
    window = WindowState(1596128400.0, 1596128520.0, state)
    event = shapes.windowed_event({"Records": []}, window, SHARD, STREAM_ARN, final=True)
    assert json.dumps(event) == json.dumps(
        {
            "Records": [],
            "window": {"start": "2020-07-30T17:00:00Z", "end": "2020-07-30T17:02:00Z"},
            "state": {"sum": {"JFK": 3}},
            "shardId": SHARD,
            "eventSourceARN": STREAM_ARN,
            "isFinalInvokeForWindow": True,
            "isWindowTerminatedEarly": False,
        }
    )


def test_a_function_that_changes_its_state_and_fails_does_not_change_its_retry() -> None:
    window = WindowState(0.0, 60.0, {"sum": {"JFK": 3}, "seen": [[1]]})
    event = shapes.windowed_event({"Records": []}, window, SHARD, STREAM_ARN, final=False)
    event["state"]["sum"]["JFK"] = 99  # type: ignore[index]
    event["state"]["seen"][0].append(2)  # type: ignore[index]
    assert window.state == {"sum": {"JFK": 3}, "seen": [[1]]}


@given(st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31), timezones=st.just(datetime.UTC)))
def test_times_are_iso_8601_in_utc(moment: datetime.datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert shapes.iso_milliseconds(
        moment.timestamp()
    ) == f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(24, "0")
    assert shapes.iso_seconds(moment.replace(microsecond=0).timestamp()) == f"{moment:%Y-%m-%dT%H:%M:%S}Z".rjust(
        20, "0"
    )


if RECORDED.exists():

    def recorded(file: str, source: str) -> Iterator[dict[str, object]]:
        """Every record of that source that a recorded answer holds, however deep."""

        def walk(value: object) -> Iterator[dict[str, object]]:
            if isinstance(value, dict):
                if value.get("eventSource") == source:
                    yield value
                else:
                    for each in value.values():
                        yield from walk(each)
            elif isinstance(value, list):
                for each in value:
                    yield from walk(each)

        yield from walk(json.loads((RECORDED / file).read_text()))

    def keys(value: object) -> object:
        return {name: keys(each) for name, each in value.items()} if isinstance(value, dict) else type(value)

    def test_messages_have_the_keys_and_types_that_aws_recorded() -> None:
        fifo = message(group="g", deduplication_id="d", sequence_number="1")
        ours = [keys(sqs_record(one, windowed)) for one in (message(), fifo) for windowed in (False, True)]
        seen = 0
        for theirs in recorded("09-sqs-poller.json", "aws:sqs"):
            theirs["body"] = json.dumps(theirs["body"])  # the recording parsed it
            seen += 1
            assert keys(theirs) in ours
        assert seen

    def test_records_have_the_keys_that_aws_recorded_in_their_order() -> None:
        event = shapes.kinesis_event(SHARD, [record()], STREAM_ARN, "us-east-1", ROLE_ARN)
        (ours,) = event["Records"]  # type: ignore[misc]
        seen = 0
        for theirs in recorded("10-kinesis-poller.json", "aws:kinesis"):
            seen += 1
            assert set(theirs) == set(ours)
            assert set(theirs["kinesis"]) == set(ours["kinesis"])  # type: ignore[call-overload]
            if next(iter(theirs)) == "kinesis":  # some recordings were sorted by name
                assert list(theirs) == list(ours)
                assert list(theirs["kinesis"]) == list(ours["kinesis"])  # type: ignore[call-overload]
        assert seen
