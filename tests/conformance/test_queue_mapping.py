"""Queue mappings: what a function sees of a queue, and what becomes of a batch (the rules behind area 09)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest

from lambent import Engine, InvalidParameterValue
from lambent.model import MessageAttribute

from .conftest import Calls, bodies, messages, now

pytestmark = pytest.mark.virtual_time(deterministic=True)

QUEUE_ARN = "arn:aws:sqs:us-east-1:111111111111:"


def failures(*indexes: int) -> Any:
    """A handler's answer that names these records of its batch."""

    def answer(event: Any, number: int) -> object:
        names = [event["Records"][index]["messageId"] for index in indexes if index < len(event["Records"])]
        return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}

    return answer


@pytest.mark.parametrize("window", [0, 1])
async def test_a_record_has_sqss_keys_in_sqss_order(engine: Engine, window: int) -> None:
    queue = engine.queue("rebook")
    calls = Calls()
    engine.function(calls)
    engine.map(queue, calls, maximum_batching_window_seconds=window)
    async with engine:
        message_id = await queue.send('{"a":  1}')
        await asyncio.sleep(5)
    (event,) = calls.events
    assert list(event) == ["Records"]
    (record,) = event["Records"]
    expected = {
        "messageId": message_id,
        "receiptHandle": record["receiptHandle"],
        "body": '{"a":  1}',
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1700000000000",
            "SenderId": record["attributes"]["SenderId"],
            "ApproximateFirstReceiveTimestamp": "1700000000000",
        },
        "messageAttributes": {},
        "md5OfMessageAttributes": None,  # there if the mapping has a window
        "md5OfBody": hashlib.md5(b'{"a":  1}').hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"{QUEUE_ARN}rebook",
        "awsRegion": "us-east-1",
    }
    if not window:
        del expected["md5OfMessageAttributes"]
    assert json.dumps(record) == json.dumps(expected)
    assert isinstance(record["attributes"]["SenderId"], str)


async def test_message_attributes_reach_the_function(engine: Engine) -> None:
    queue = engine.queue("q")
    calls = Calls()
    engine.function(calls)
    engine.map(queue, calls)
    async with engine:
        attributes = {"colour": MessageAttribute("red"), "n": MessageAttribute("7", "Number")}
        await queue.send("m", attributes=attributes)
        await asyncio.sleep(1)
    (record,) = calls.records
    assert json.dumps(record["messageAttributes"]) == json.dumps(
        {
            "colour": {"stringValue": "red", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
            "n": {"stringValue": "7", "stringListValues": [], "binaryListValues": [], "dataType": "Number"},
        }
    )
    assert len(record["md5OfMessageAttributes"]) == 32


async def test_a_record_of_a_fifo_queue_names_group_deduplication_and_sequence(engine: Engine) -> None:
    queue = engine.queue("q.fifo")
    calls = Calls()
    engine.function(calls)
    engine.map(queue, calls)
    async with engine:
        await queue.send("m", group="UA", deduplication_id="d")
        await asyncio.sleep(1)
    attributes = calls.records[0]["attributes"]
    assert attributes["MessageGroupId"] == "UA"
    assert attributes["MessageDeduplicationId"] == "d"
    assert attributes["SequenceNumber"].isdigit()
    assert all(isinstance(value, str) for value in attributes.values())


async def test_a_failed_batch_comes_back_after_the_visibility_time_out(engine: Engine) -> None:
    queue = engine.queue("q", visibility_timeout_seconds=30)
    calls = Calls(lambda event, number: ValueError() if number == 1 else None)
    engine.function(calls)
    engine.map(queue, calls, batch_size=1)
    async with engine:
        await queue.send("m")
        await asyncio.sleep(300)
        assert await messages(queue) == []
    assert calls.at == [0, 30]
    first, second = calls.records
    assert second["messageId"] == first["messageId"]
    assert second["receiptHandle"] != first["receiptHandle"]
    assert [each["attributes"]["ApproximateReceiveCount"] for each in (first, second)] == ["1", "2"]
    assert second["attributes"]["ApproximateFirstReceiveTimestamp"] == "1700000000000"


async def test_a_handler_chooses_when_a_failed_message_comes_back(engine: Engine) -> None:
    queue = engine.queue("q", visibility_timeout_seconds=30)
    at: list[tuple[float, list[str]]] = []

    @engine.on(queue, report_batch_item_failures=True)
    async def handler(event: Any, context: object) -> object:
        at.append((now(), [record["body"] for record in event["Records"]]))
        failed = [record for record in event["Records"] if record["body"] != "a"] if len(at) < 3 else []
        await queue.change_visibility([record["receiptHandle"] for record in failed], 2)
        return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failed]}

    async with engine:
        await queue.send_many("ab")
        await asyncio.sleep(100)
        assert await messages(queue) == []
    assert at == [(0, ["a", "b"]), (2, ["b"]), (4, ["b"])]


async def test_a_batch_whose_function_timed_out_has_failed(engine: Engine) -> None:
    queue = engine.queue("q", visibility_timeout_seconds=30)
    calls = Calls(seconds=10)
    engine.function(timeout_seconds=5)(calls)
    engine.map(queue, calls)
    async with engine:
        await queue.send("m")
        await asyncio.sleep(65)
    assert calls.at == [0, 30, 60]


async def test_a_message_that_failed_too_often_is_in_the_dead_letter_queue_as_it_was_sent(engine: Engine) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=30, max_receive_count=2, dead_letter_queue=dead)
    calls = Calls(lambda event, number: ValueError())
    engine.function(calls)
    engine.map(queue, calls, batch_size=1)
    async with engine:
        message_id = await queue.send('{"a":  1}')
        await asyncio.sleep(59)
        assert await dead.receive() == []
        await asyncio.sleep(10)
        (letter,) = await dead.receive()
    assert calls.at == [0, 30]
    assert (letter.id, letter.body) == (message_id, '{"a":  1}')


# --------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("batch_size", "window"), [(10, 0), (15, 2), (100, 2), (1000, 2), (10000, 2)])
async def test_every_message_is_in_a_batch_that_is_not_too_large(engine: Engine, batch_size: int, window: int) -> None:
    queue = engine.queue("q")
    calls = Calls()
    engine.function(calls)
    engine.map(queue, calls, batch_size=batch_size, maximum_batching_window_seconds=window)
    async with engine:
        await queue.send_many(range(10))
        await queue.send_many(range(10, 15))
        await asyncio.sleep(10)
        assert await messages(queue) == []
    assert sorted(int(record["body"]) for record in calls.records) == list(range(15))
    assert max(calls.sizes) <= batch_size


async def test_thirty_messages_at_size_20_are_two_batches(engine: Engine) -> None:
    queue = engine.queue("q")
    calls = Calls(seconds=1)
    engine.function(reserved_concurrency=2)(calls)
    engine.map(queue, calls, batch_size=20, maximum_batching_window_seconds=1, maximum_concurrency=2)
    async with engine:
        await queue.send_many(range(30))
        await asyncio.sleep(20)
    assert sorted(calls.sizes, reverse=True) == [20, 10]


async def test_a_batch_waits_for_its_window_unless_it_is_full(engine: Engine) -> None:
    queue = engine.queue("q")
    calls = Calls()
    engine.function(calls)
    engine.map(queue, calls, batch_size=3, maximum_batching_window_seconds=5)
    async with engine:
        await asyncio.sleep(10)
        await queue.send_many("ab")
        await asyncio.sleep(10)
        await queue.send_many("cde")
        await asyncio.sleep(10)
    assert calls.at == [15, 20]
    assert calls.sizes == [2, 3]


async def test_a_batch_has_at_most_six_megabytes(engine: Engine) -> None:
    queue = engine.queue("q")
    calls = Calls()
    engine.function(calls)
    engine.map(queue, calls, batch_size=10)
    async with engine:
        await queue.send_many(["x" * 1_000_000] * 8)
        await asyncio.sleep(100)
        assert await messages(queue) == []
    assert sum(calls.sizes) == 8
    assert all(len(json.dumps(event)) <= 6 * 1024 * 1024 for event in calls.events)
    assert len({record["messageId"] for record in calls.records}) == 8


# --------------------------------------------------------------------------- partial failures


async def test_only_the_messages_that_were_named_come_back(engine: Engine) -> None:
    queue = engine.queue("q", visibility_timeout_seconds=30)
    calls = Calls(lambda event, number: failures(1)(event, number) if number == 1 else None)
    engine.function(calls)
    engine.map(queue, calls, report_batch_item_failures=True)
    async with engine:
        await queue.send_many("abc")
        await asyncio.sleep(100)
        assert await messages(queue) == []
    assert [[record["body"] for record in event["Records"]] for event in calls.events] == [["a", "b", "c"], ["b"]]
    assert calls.at == [0, 30]


ALL_SUCCEEDED = [None, "", [], {}, {"batchItemFailures": []}, {"batchItemFailures": None}]
NONE_SUCCEEDED = [
    {"batchItemFailures": [{"foo": "notvalid"}]},
    {"batchItemFailures": [{"itemIdentifier": ""}]},
    {"batchItemFailures": [{"itemIdentifier": None}]},
    {"batchItemFailures": [{"itemIdentifier": 123}]},
    {"batchItemFailures": [{"itemIdentifier": "not-in-the-batch"}]},
    "not json",
    ValueError("an exception"),
]


@pytest.mark.parametrize("answer", ALL_SUCCEEDED, ids=repr)
async def test_an_answer_without_failures_deletes_the_whole_batch(engine: Engine, answer: object) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=30, max_receive_count=1, dead_letter_queue=dead)
    calls = Calls(lambda event, number: answer)
    engine.function(calls)
    engine.map(queue, calls, report_batch_item_failures=True)
    async with engine:
        await queue.send_many("ab")
        await asyncio.sleep(100)
        assert await messages(dead) == []
    assert calls.sizes == [2]


@pytest.mark.parametrize("answer", NONE_SUCCEEDED, ids=repr)
async def test_an_answer_that_cannot_be_read_fails_the_whole_batch(engine: Engine, answer: object) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=30, max_receive_count=1, dead_letter_queue=dead)
    calls = Calls(lambda event, number: answer)
    engine.function(calls)
    engine.map(queue, calls, report_batch_item_failures=True)
    async with engine:
        await queue.send_many("ab")
        await asyncio.sleep(100)
        assert sorted(await bodies(dead)) == ["a", "b"]
    assert calls.sizes == [2]


async def test_without_the_setting_a_report_of_failures_is_ignored(engine: Engine) -> None:
    queue = engine.queue("q", visibility_timeout_seconds=30)
    calls = Calls(failures(0, 1))
    engine.function(calls)
    engine.map(queue, calls)
    async with engine:
        await queue.send_many("ab")
        await asyncio.sleep(100)
    assert calls.sizes == [2]


# --------------------------------------------------------------------------- FIFO groups


async def test_the_messages_of_a_group_come_one_batch_after_the_other(engine: Engine) -> None:
    queue = engine.queue("q.fifo", content_based_deduplication=True)
    calls = Calls(seconds=5)
    engine.function(timeout_seconds=10)(calls)
    engine.map(queue, calls, batch_size=1)
    async with engine:
        for number in range(5):
            await queue.send(str(number), group="UA")
        await asyncio.sleep(60)
    assert [record["body"] for record in calls.records] == list("01234")
    assert calls.most == 1
    assert calls.at == [0, 5, 10, 15, 20]


async def test_groups_do_not_wait_for_each_other(engine: Engine) -> None:
    queue = engine.queue("q.fifo", content_based_deduplication=True)
    calls = Calls(seconds=5)
    engine.function(timeout_seconds=10)(calls)
    engine.map(queue, calls, batch_size=1)
    async with engine:
        for number in range(3):
            for group in ("UA", "DL"):
                await queue.send(f"{group}{number}", group=group)
        await asyncio.sleep(60)
    assert calls.most == 2
    for group in ("UA", "DL"):
        seen = [record["body"] for record in calls.records if record["attributes"]["MessageGroupId"] == group]
        assert seen == [f"{group}{number}" for number in range(3)]


async def test_a_group_waits_behind_a_message_that_failed(engine: Engine) -> None:
    dead = engine.queue("dead.fifo")
    queue = engine.queue(
        "q.fifo",
        content_based_deduplication=True,
        visibility_timeout_seconds=10,
        max_receive_count=2,
        dead_letter_queue=dead,
    )
    calls = Calls(lambda event, number: ValueError() if event["Records"][0]["body"] == "UA0" else None)
    engine.function(calls)
    engine.map(queue, calls, batch_size=1)
    async with engine:
        for body in ("UA0", "UA1", "DL0"):
            await queue.send(body, group=body[:2])
        await asyncio.sleep(100)
        assert await bodies(dead) == ["UA0"]
    seen = [(record["body"], at) for record, at in zip(calls.records, calls.at, strict=True)]
    assert [body for body, _ in seen if body != "DL0"] == ["UA0", "UA0", "UA1"]
    assert dict(seen)["UA1"] >= 20
    assert dict(seen)["DL0"] == 0


async def test_a_fifo_function_that_names_all_from_the_failed_one_on_keeps_the_order(engine: Engine) -> None:
    dead = engine.queue("dead.fifo")
    queue = engine.queue("q.fifo", visibility_timeout_seconds=30, max_receive_count=2, dead_letter_queue=dead)
    calls = Calls(lambda event, number: failures(1, 2, 3)(event, number) if number == 1 else failures(2)(event, number))
    engine.function(calls)
    engine.map(queue, calls, report_batch_item_failures=True)
    async with engine:
        for number in range(1, 5):
            await queue.send({"message": number}, group="1", deduplication_id=f"dedup-{number}")
        await asyncio.sleep(300)
        assert await bodies(dead) == [{"message": 4}]
    seen = [[json.loads(record["body"])["message"] for record in event["Records"]] for event in calls.events]
    assert seen == [[1, 2, 3, 4], [2, 3, 4]]
    counts = [record["attributes"]["ApproximateReceiveCount"] for record in calls.events[1]["Records"]]
    assert counts == ["2", "2", "2"]


# --------------------------------------------------------------------------- filters

FILTERS: list[tuple[object, object, object]] = [
    ({"body": {"my-key": ["my-value"]}}, {"my-key": "my-value"}, {"my-key": "other"}),
    ({"body": {"my-key": ["one", "two"]}}, {"my-key": "two"}, {"my-key": "three"}),
    ({"body": {"my-key": [{"prefix": "yes"}]}}, {"my-key": "yes-value"}, {"my-key": "no-value"}),
    ({"body": {"my-number": [{"numeric": [">", 100]}]}}, {"my-number": 101}, {"my-number": 99}),
    ({"body": {"my-number": [{"numeric": ["<", 100]}]}}, {"my-number": 99}, {"my-number": 101}),
    ({"body": {"my-key": [{"exists": True}]}}, {"my-key": None}, {"other": 1}),
    ({"body": {"a": ["x"], "b": [1]}}, {"a": "x", "b": 1.0}, {"a": "x", "b": "1"}),
    ({"body": {"a": ["x"]}}, {"a": "x"}, "plain text"),
]


@pytest.mark.parametrize(("pattern", "hit", "miss"), FILTERS, ids=lambda value: json.dumps(value))
async def test_what_a_filter_misses_is_deleted_and_never_seen(
    engine: Engine, pattern: object, hit: object, miss: object
) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("q", visibility_timeout_seconds=10, max_receive_count=1, dead_letter_queue=dead)
    calls = Calls()
    engine.function(calls)
    mapping = engine.map(queue, calls, filters=[pattern], maximum_batching_window_seconds=1)
    async with engine:
        await queue.send(miss)
        await queue.send(json.dumps(hit, indent=1))
        await asyncio.sleep(100)
        assert await messages(queue) == []
        assert await messages(dead) == []
    assert [record["body"] for record in calls.records] == [json.dumps(hit, indent=1)]  # its text is left alone
    assert engine.telemetry.snapshot()["FilteredOutEventCount"] == {mapping.id: 1}


@pytest.mark.parametrize(
    "pattern", [{"body": {"a": "x"}}, {"body": {"a": []}}, {"eventSource": "aws:sqs"}, "text", "[1]"]
)
async def test_a_pattern_that_is_none_is_refused_when_it_is_declared(engine: Engine, pattern: object) -> None:
    engine.function(Calls())
    with pytest.raises(InvalidParameterValue, match=r"Invalid filter pattern definition\."):
        engine.map(engine.queue("q"), "function", filters=[pattern])


async def test_two_functions_on_one_queue_share_its_messages(engine: Engine) -> None:
    queue = engine.queue("q")
    one, other = Calls(seconds=1), Calls(seconds=1)
    engine.function(name="one")(one)
    engine.function(name="other")(other)
    engine.map(queue, "one", batch_size=1)
    engine.map(queue, "other", batch_size=1)
    async with engine:
        await queue.send_many(range(20))
        await asyncio.sleep(60)
    assert sorted(int(record["body"]) for record in one.records + other.records) == list(range(20))
    assert one.records
    assert other.records


async def test_a_paused_mapping_receives_nothing_until_it_is_resumed(engine: Engine) -> None:
    queue = engine.queue("q")
    calls = Calls()
    engine.function(calls)
    mapping = engine.map(queue, calls, batch_size=10)
    async with engine:
        await mapping.wait_until("Enabled")
        await mapping.pause()
        await mapping.wait_until("Disabled")
        await queue.send_many("ab")
        await asyncio.sleep(60)
        assert calls.events == []
        await mapping.resume()
        await asyncio.sleep(60)
    assert [record["body"] for record in calls.records] == ["a", "b"]
    assert {record["attributes"]["ApproximateReceiveCount"] for record in calls.records} == {"1"}
