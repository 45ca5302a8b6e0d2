"""Where a dead letter goes back to, told by its shape and by what is configured."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.model import (
    EventInvokeConfig,
    Function,
    Message,
    MessageAttribute,
    Put,
    Queue,
    Send,
    Stream,
    StreamMapping,
)
from lambent.semantics.kafka import KafkaPut
from lambent.semantics.redriving import (
    Declared,
    Moved,
    Redrive,
    Reinvoke,
    Reput,
    Resend,
    Unclear,
    read,
    redrive,
    senders,
)

ORDERS = Queue(name="orders", max_receive_count=3, dead_letter_queue="dead")
MORE_ORDERS = Queue(name="more", max_receive_count=3, dead_letter_queue="dead")
FIFO = Queue(name="turns.fifo", fifo=True, max_receive_count=3, dead_letter_queue="dead.fifo")
CHARGE = Function(name="charge", dead_letter_queue="queue:dead")
NOTIFY = Function(name="notify", event_invoke=EventInvokeConfig(on_failure="queue:dead"))
DELAYS = StreamMapping(source="stream:departures", function="notify", on_failure="queue:dead")


def declared(*things: Queue | Function) -> Declared:
    dead = (Queue(name="dead"), Queue(name="dead.fifo", fifo=True))
    return Declared(
        {each.name: each for each in things if isinstance(each, Function)},
        {each.name: each for each in (*things, *dead) if isinstance(each, Queue)},
        {"departures": Stream(name="departures")},
        [DELAYS],
    )


def message(body: str, group: str | None = None, **attributes: str) -> Message:
    typed = {name: MessageAttribute(value) for name, value in attributes.items()}
    return Message("m1", body, "r", 1, 0.0, 0.0, group, attributes=typed)


def brought(letter: Message, *things: Queue | Function, queue: str = "dead", **options: Any) -> Redrive:
    return redrive(letter, queue, declared(*things), **options)


def record(payload: str = '{"n": 1}', **members: Any) -> str:
    context = {
        "requestId": "r1",
        "functionArn": "arn:aws:lambda:eu-central-1:123456789012:function:notify:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 3,
    }
    rest = "".join(f', "{name}": {json.dumps(value)}' for name, value in members.items())
    return f'{{"version": "1.0", "requestContext": {json.dumps(context)}, "requestPayload": {payload}{rest}}}'


def batch(*data: bytes, carried: bool = True) -> str:
    records = [{"kinesis": {"partitionKey": "k", "data": b64encode(each).decode()}} for each in data]
    info = {
        "shardId": "shardId-000000000000",
        "startSequenceNumber": "491",
        "endSequenceNumber": "492",
        "batchSize": len(data),
        "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/departures",
    }
    written: dict[str, object] = {
        "requestContext": {"requestId": "r1", "condition": "RetryAttemptsExhausted"},
        "version": "1.0",
        "KinesisBatchInfo": info,
    }
    return json.dumps(written | ({"payload": json.dumps({"Records": records})} if carried else {}))


def topic_batch(*records: dict[str, Any], carried: bool = True) -> str:
    about = {"firstRecordOffset": "7", "lastRecordOffset": "8"}
    info = {"batchSize": len(records), "bootstrapServers": "h:9092", "recordsInfo": {"air-port-0": about}}
    written: dict[str, object] = {
        "requestContext": {"condition": "RetryAttemptsExhausted"}, "version": "1.0", "KafkaBatchInfo": info,
    }  # fmt: skip
    payload = json.dumps({"records": {"air-port-0": records}})
    return json.dumps(written | ({"payload": payload} if carried else {}))


def of_topic(**members: Any) -> dict[str, Any]:
    return {"value": "eA==", "key": "aw==", "headers": [], **members}


def from_topic(body: str, source: str = "kafka://u:secret@h:9092/other,air-port?group=g", **options: Any) -> Redrive:
    mapping = StreamMapping(source=source, function="notify", on_failure="queue:dead")
    return redrive(message(body), "dead", replace(declared(ORDERS), mappings=[mapping]), **options)


def test_a_topics_records_are_put_into_it_again_by_the_url_of_their_mapping() -> None:
    keyless = {"value": "eQ==", "headers": []}
    brought = from_topic(topic_batch(of_topic(), keyless))
    assert brought == Reput(
        "kafka://h:9092/air-port",
        (KafkaPut(b"x", "k", 0, b"k"), KafkaPut(b"y", "")),
        "kafka://u:secret@h:9092/air-port?group=g",
    )
    assert isinstance(brought, Reput)
    assert brought.target == "kafka://h:9092/air-port"
    assert "secret" not in repr(brought)
    edited = from_topic(topic_batch(of_topic()), edited=b"z")
    assert isinstance(edited, Reput)
    assert edited.puts == (KafkaPut(b"z", "k", 0, b"k"),)
    odd = from_topic(topic_batch({"key": "/w==", "headers": [{"a": [1, 255]}, {"a": []}]}))
    assert isinstance(odd, Reput)
    assert odd.puts == (KafkaPut(b"", "\\xff", 0, b"\xff", (("a", b"\x01\xff"), ("a", b"")), valueless=True),)


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (topic_batch(of_topic(headers=[{"a": [256]}])), {}, "its records can't be read"),
        (topic_batch(of_topic(headers=["a"])), {}, "its records can't be read"),
        (topic_batch(of_topic(key="?")), {}, "its records can't be read"),
        (
            topic_batch(of_topic(), carried=False),
            {},
            "too large to carry its records; they are in air-port-0 at h:9092",
        ),
        (topic_batch(of_topic()), {"to": "queue:orders"}, "what failed in a topic goes back into it"),
        (topic_batch(of_topic()), {"source": "kafka://h:9092/other"}, "no mapping reads kafka://h:9092/air-port"),
        (topic_batch(of_topic()), {"source": "kafka://h:9092/air-port?records=json"}, "with records=json"),
    ],
)
def test_what_cannot_go_back_into_its_topic_says_why_and_where_it_is(
    body: str, options: dict[str, Any], reason: str
) -> None:
    refused = from_topic(body, **options)
    assert isinstance(refused, Unclear)
    assert reason in refused.reason
    assert "offsets 7 to 8" in refused.reason


def test_a_message_that_was_received_too_often_goes_back_to_its_queue_with_its_attributes() -> None:
    letter = message("vase", colour="blue")
    assert brought(letter, ORDERS) == Resend("orders", Send("vase", attributes=letter.attributes))


def test_a_fifo_queue_takes_a_message_back_into_its_group_and_not_for_the_one_that_it_moved() -> None:
    sent = brought(message("1", group="a"), FIFO, queue="dead.fifo")
    assert sent == Resend("turns.fifo", Send("1", group="a", deduplication_id="redriven-m1"))


def test_a_functions_dead_letter_is_invoked_again() -> None:
    letter = message('{"n": 1}', RequestID="r1", ErrorCode="200", ErrorMessage="no")
    assert brought(letter, ORDERS, CHARGE, NOTIFY) == Reinvoke("charge", b'{"n": 1}')


def test_the_record_of_a_failed_event_is_invoked_again_with_its_payload() -> None:
    assert brought(message(record()), ORDERS, CHARGE, NOTIFY) == Reinvoke("notify", b'{"n": 1}')


@pytest.mark.parametrize("payload", ["1.10", "1e2", '{"a" :  [ 12345678901234567890.125 ]}', '"\\u00e9"', "null"])
def test_a_payload_is_invoked_again_to_its_last_digit(payload: str) -> None:
    letter = message(record(payload, responsePayload={"errorType": "ValueError"}))
    assert brought(letter, NOTIFY) == Reinvoke("notify", payload.encode())


def test_what_went_wrong_is_read_from_the_letter() -> None:
    def error(letter: Message) -> str:
        found = read(letter)
        assert not isinstance(found, Moved)
        return found.error

    assert error(message("1", RequestID="r1", ErrorCode="200", ErrorMessage="no card")) == "no card"
    assert error(message("1", RequestID="r1", ErrorCode="429")) == "429"
    assert error(message(record())) == "RetriesExhausted"
    assert error(message(record(responsePayload={"errorMessage": "no card"}))) == "RetriesExhausted: no card"
    assert error(message(batch(b"1"))) == "RetryAttemptsExhausted"


def test_a_streams_records_are_put_again_with_their_keys_in_their_order() -> None:
    assert brought(message(batch(b"\x00\xff", b"2"))) == Reput("departures", (Put(b"\x00\xff", "k"), Put(b"2", "k")))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "vase",
        "1",
        "[]",
        "{}",
        '{"version": "1.0"}',
        record()[:-1],
        record().replace("1.0", "2.0"),
        record().replace("requestPayload", "payload"),
        record().replace(":function:", ":"),
        record() + "x",
        "[" * 100_000,
    ],
)
def test_what_only_looks_like_a_record_is_a_message(body: str) -> None:
    assert brought(message(body), ORDERS) == Resend("orders", Send(body))


def test_a_message_with_other_attributes_beside_is_no_functions_dead_letter() -> None:
    letter = message("vase", RequestID="r1", ErrorCode="200", colour="blue")
    assert brought(letter, ORDERS, CHARGE) == Resend("orders", Send("vase", attributes=letter.attributes))


def test_what_may_be_from_several_places_asks_where_to() -> None:
    asked = brought(message("vase"), ORDERS, MORE_ORDERS)
    assert asked == Unclear("it may be from queue:more or queue:orders: say where to")
    assert brought(message("vase"), ORDERS, MORE_ORDERS, to="queue:more") == Resend("more", Send("vase"))


def test_what_is_from_nowhere_that_is_declared_asks_where_to() -> None:
    assert brought(message("vase")) == Unclear("nothing that is declared names dead for it (any more): say where to")
    assert brought(message(record())) == Unclear('there is no function "notify" (any more); say where to')


def test_another_place_can_be_named() -> None:
    letter = message('{"n": 1}', RequestID="r1", ErrorCode="200")
    assert brought(letter, ORDERS, CHARGE, to="queue:orders") == Resend("orders", Send('{"n": 1}'))
    assert brought(message('{"n": 1}'), ORDERS, CHARGE, to="function:charge") == Reinvoke("charge", b'{"n": 1}')
    assert brought(message(batch(b"1")), to="stream:departures") == Reput("departures", (Put(b"1", "k"),))


@pytest.mark.parametrize(
    ("body", "to", "reason"),
    [
        ("vase", "function:charge", "it is not JSON"),
        ("vase", "queue:other", 'there is no queue "other"'),
        ("vase", "orders", "orders is no place for it; say where to: queue:NAME"),
        ("vase", "stream:departures", "what failed in a stream goes into a stream, and nothing else does"),
        ("vase", "queue:turns.fifo", "turns.fifo is a FIFO queue, and the message has no group"),
        (batch(b"1"), "queue:orders", "what failed in a stream goes into a stream"),
        (batch(b"1", carried=False), None, "are in stream departures, shard shardId-000000000000, from 491 to 492"),
        (batch(), None, "it has no records: the last call of a window failed"),
    ],
)
def test_what_cannot_be_brought_back_says_why(body: str, to: str | None, reason: str) -> None:
    refused = brought(message(body), ORDERS, FIFO, CHARGE, to=to)
    assert isinstance(refused, Unclear)
    assert reason in refused.reason


def test_it_can_carry_something_else() -> None:
    edited = b'{"n": 2}'
    failed = message("1", RequestID="r1", ErrorCode="200")
    assert brought(message("vase"), ORDERS, edited=edited) == Resend("orders", Send('{"n": 2}'))
    assert brought(failed, CHARGE, edited=edited) == Reinvoke("charge", edited)
    assert brought(message(record()), NOTIFY, edited=edited) == Reinvoke("notify", edited)
    assert brought(message(batch(b"1")), edited=edited) == Reput("departures", (Put(edited, "k"),))
    assert brought(message(batch(b"1", b"2")), edited=edited) == Unclear("it has 2 records, and only one can be edited")
    assert brought(message("vase"), ORDERS, edited=b"\xff") == Unclear("what it is edited to is not UTF-8")
    assert brought(failed, CHARGE, edited=b"{") == Unclear("it is not JSON, as a function's event must be")


def test_who_names_a_queue_for_what_failed_sends_there() -> None:
    everything = declared(ORDERS, MORE_ORDERS, CHARGE, NOTIFY)
    assert senders("dead", everything) == [
        "queue:orders", "queue:more", "function:charge", "function:notify", "stream:departures of notify",
    ]  # fmt: skip
    assert senders("orders", everything) == []


NAMES = st.sampled_from(["RequestID", "ErrorCode", "ErrorMessage", "x"])


@given(st.text(), st.dictionaries(NAMES, st.text(min_size=1)))
def test_any_message_is_read(body: str, attributes: dict[str, str]) -> None:
    found = brought(message(body, **attributes), ORDERS, CHARGE, NOTIFY)
    assert isinstance(found, Resend | Reinvoke | Unclear)


def test_who_sends_dead_letters_is_told_without_the_password_of_its_url() -> None:
    topic = StreamMapping(source="kafka://u:secret@h:9092/orders", function="f", on_failure="queue:dead")
    everything = Declared({}, {"dead": Queue(name="dead")}, {}, [topic])
    assert senders("dead", everything) == ["kafka://h:9092/orders of f"]
