"""Stream mappings: what a function sees of a shard, and what becomes of a batch (the rules behind areas 10 and 11)."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from lambent import Engine
from lambent.semantics.filtering import compile_filters
from lambent.testing.loop import VirtualClock

from .conftest import Calls, batches, bodies, data, fill, flat, make_engine, poison

pytestmark = pytest.mark.virtual_time(deterministic=True)

SHARD = "shardId-000000000000"
ARN = "arn:aws:lambda:us-east-1:111111111111:function:function"


async def test_a_record_has_kinesiss_keys_in_kinesiss_order(engine: Engine) -> None:
    stream = engine.stream("departures")
    calls = Calls()
    engine.function(calls)
    engine.map(stream, calls)
    async with engine:
        position = await stream.put("hello", key="test_0")
        await asyncio.sleep(5)
    (event,) = calls.events
    assert list(event) == ["Records"]
    assert json.dumps(event["Records"]) == json.dumps(
        [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "test_0",
                    "sequenceNumber": position,
                    "data": "aGVsbG8=",
                    "approximateArrivalTimestamp": 1700000000.0,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"{SHARD}:{position}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::111111111111:role/lambent",
                "awsRegion": "us-east-1",
                "eventSourceARN": "arn:aws:kinesis:us-east-1:111111111111:stream/departures",
            }
        ]
    )


# --------------------------------------------------------------------------- where reading starts


async def test_trim_horizon_begins_with_the_oldest_record(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(seconds=5)
    engine.function(timeout_seconds=10)(calls)
    async with engine:
        for round_ in range(3):
            await fill(stream, range(10), f"test_{round_}")
        await asyncio.sleep(100)
        engine.map(stream, calls, batch_size=10, starting_position="TRIM_HORIZON")
        await asyncio.sleep(100)
    assert batches(calls) == [list(range(10))] * 3
    assert [b - a for a, b in pairwise(calls.at)] == [5, 5]  # one batch after the other


async def test_latest_begins_with_what_comes_from_now_on(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    async with engine:
        await fill(stream, [1, 2])
        mapping = engine.map(stream, calls, starting_position="LATEST")
        await mapping.wait_until("Enabled")
        await asyncio.sleep(10)
        await fill(stream, [3])
        await asyncio.sleep(10)
    assert batches(calls) == [[3]]


async def test_at_timestamp_begins_with_the_first_record_of_that_time(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    async with engine:
        for value in range(4):
            await fill(stream, [value])
            await asyncio.sleep(10)
        engine.map(stream, calls, starting_position="AT_TIMESTAMP", starting_position_timestamp=1_700_000_015.0)
        await asyncio.sleep(10)
    assert batches(calls) == [[2, 3]]


async def test_a_seek_reads_the_shard_anew(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    mapping = engine.map(stream, calls)
    async with engine:
        await fill(stream, [1, 2])
        await asyncio.sleep(10)
        await mapping.seek("TRIM_HORIZON")
        await asyncio.sleep(10)
    assert batches(calls) == [[1, 2]] * 2


async def test_latest_is_settled_once_and_holds_over_restarts() -> None:
    store = make_engine().store
    seen = []
    for life in range(3):
        engine = make_engine(store=store, seed=life)
        stream = engine.stream("s")
        calls = Calls()
        if life != 1:  # in between, records come while nobody serves the mapping
            engine.function(calls)
            engine.map(stream, calls, starting_position="LATEST")
        async with engine:
            await asyncio.sleep(30)
            if life == 1:
                await fill(stream, [1, 2])
        seen.append(batches(calls))
    assert seen == [[], [], [[1, 2]]]


async def test_a_mapping_paused_before_its_first_record_misses_none(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    mapping = engine.map(stream, calls, starting_position="LATEST")
    async with engine:
        await mapping.wait_until("Enabled")
        await asyncio.sleep(5)
        await mapping.pause()
        await mapping.wait_until("Disabled")
        await fill(stream, [1])
        await mapping.resume()
        await asyncio.sleep(30)
    assert batches(calls) == [[1]]


async def test_a_seek_to_the_latest_record_leaves_a_blocked_batch_behind(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(poison(1))
    engine.function(calls)
    mapping = engine.map(stream, calls, batch_size=1)
    async with engine:
        await fill(stream, [1, 2])
        await asyncio.sleep(10)
        await mapping.seek("LATEST")
        await asyncio.sleep(1)
        tries = len(calls.events)
        await asyncio.sleep(100)
        assert len(calls.events) == tries
        await fill(stream, [3])
        await asyncio.sleep(10)
    assert batches(calls)[tries:] == [[3]]


async def test_each_mapping_has_its_own_place_in_the_stream(engine: Engine) -> None:
    stream = engine.stream("s")
    one, other = Calls(), Calls(poison(1))
    engine.function(name="one")(one)
    engine.function(name="other")(other)
    engine.map(stream, "one")
    engine.map(stream, "other")
    async with engine:
        await fill(stream, [1])
        await asyncio.sleep(5)
        await fill(stream, [2])
        await asyncio.sleep(5)
    assert batches(one) == [[1], [2]]
    assert {tuple(batch) for batch in batches(other)} == {(1,)}


async def test_a_restarted_engine_goes_on_after_its_checkpoint() -> None:
    loop = asyncio.get_running_loop()
    store = make_engine().store
    seen = []
    for life in range(3):
        engine = make_engine(store=store, clock=VirtualClock(loop), seed=life)
        stream = engine.stream("s")
        calls = Calls()
        engine.function(calls)
        engine.map(stream, calls)
        async with engine:
            await fill(stream, [life])
            await asyncio.sleep(30)
        seen.append(batches(calls))
    assert seen == [[[0]], [[1]], [[2]]]


async def test_a_paused_mapping_reads_nothing_and_goes_on_where_it_was(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    mapping = engine.map(stream, calls)
    async with engine:
        await fill(stream, [1])
        await asyncio.sleep(10)
        await mapping.pause()
        await mapping.wait_until("Disabled")
        await fill(stream, [2])
        await asyncio.sleep(60)
        assert batches(calls) == [[1]]
        await mapping.resume()
        await asyncio.sleep(60)
    assert batches(calls) == [[1], [2]]


# --------------------------------------------------------------------------- batches


async def test_a_batch_has_at_most_its_size(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    engine.map(stream, calls, batch_size=4, enabled=True)
    async with engine:
        await fill(stream, range(10))
        await asyncio.sleep(10)
    assert calls.sizes == [4, 4, 2]
    assert flat(batches(calls)) == list(range(10))


async def test_a_batch_waits_for_its_window_unless_it_is_full(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    engine.map(stream, calls, batch_size=3, maximum_batching_window_seconds=5)
    async with engine:
        await asyncio.sleep(10)
        await fill(stream, [1, 2])
        await asyncio.sleep(10)
        await fill(stream, [3, 4, 5])
        await asyncio.sleep(10)
    assert batches(calls) == [[1, 2], [3, 4, 5]]
    assert calls.at == [15, 20]


async def test_a_batch_has_at_most_six_megabytes(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls()
    engine.function(calls)
    engine.map(stream, calls)
    async with engine:
        await stream.put_many((b"x" * 1_000_000, f"k{number}") for number in range(9))
        await asyncio.sleep(30)
    assert sum(calls.sizes) == 9
    assert all(len(json.dumps(event)) <= 6 * 1024 * 1024 for event in calls.events)
    assert len(calls.events) == 3  # base64: four of them fit


async def test_a_batch_never_mixes_shards_and_keeps_the_order_of_each(engine: Engine) -> None:
    stream = engine.stream("s", shards=4)
    calls = Calls(seconds=1)
    engine.function(calls)
    engine.map(stream, calls, batch_size=3)
    async with engine:
        await fill(stream, range(40))
        await asyncio.sleep(60)
    assert sorted(flat(batches(calls))) == list(range(40))
    by_shard: dict[str, list[int]] = {}
    for event in calls.events:
        (shard,) = {record["eventID"].partition(":")[0] for record in event["Records"]}
        by_shard.setdefault(shard, []).extend(map(data, event["Records"]))
    assert len(by_shard) == 4
    assert all(values == sorted(values) for values in by_shard.values())
    assert calls.most == 4


# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
async def test_a_failed_batch_is_tried_again_so_often_then_reported_and_left_behind(
    engine: Engine, retries: int
) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(poison(1))
    engine.function(calls)
    mapping = engine.map(stream, calls, maximum_retry_attempts=retries, on_failure=dead, batch_size=2)
    async with engine:
        first, second, _ = await fill(stream, [1, 2, 3])
        await asyncio.sleep(100)
        (record,) = await bodies(dead)
    assert batches(calls) == [[1, 2]] * (1 + retries) + [[3]]
    event = json.loads(record.pop("payload"))
    assert event == calls.events[0]
    request_id = record["requestContext"]["requestId"]
    assert json.dumps(record) == json.dumps(
        {
            "requestContext": {
                "requestId": request_id,
                "functionArn": ARN,
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": 1 + retries,
            },
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
            "version": "1.0",
            "timestamp": record["timestamp"],
            "KinesisBatchInfo": {
                "shardId": SHARD,
                "startSequenceNumber": first,
                "endSequenceNumber": second,
                "approximateArrivalOfFirstRecord": "2023-11-14T22:13:20.000Z",
                "approximateArrivalOfLastRecord": "2023-11-14T22:13:20.000Z",
                "batchSize": 2,
                "streamArn": "arn:aws:kinesis:us-east-1:111111111111:stream/s",
            },
        }
    )
    assert engine.telemetry.snapshot()["OnFailureDestinationDeliveredEventCount"] == {mapping.id: 2}


async def test_without_a_limit_a_batch_is_tried_until_it_succeeds_and_blocks_its_shard(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(lambda event, number: ValueError() if number <= 12 else None)
    engine.function(calls)
    engine.map(stream, calls, batch_size=1)
    async with engine:
        await fill(stream, [1, 2])
        await asyncio.sleep(3600)
    assert batches(calls) == [[1]] * 13 + [[2]]
    waits = [b - a for a, b in pairwise(calls.at[:13])]
    assert all(after > before for before, after in pairwise(waits[:9]))
    assert 7 <= sum(at < 60 for at in calls.at) <= 9  # as recorded: about 8 tries within a minute
    assert max(waits) <= 66


async def test_a_halved_batch_isolates_what_is_poison(engine: Engine) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(poison(3))
    engine.function(calls)
    engine.map(stream, calls, bisect_batch_on_function_error=True, maximum_retry_attempts=0, on_failure=dead)
    async with engine:
        positions = await fill(stream, range(8))
        await asyncio.sleep(100)
        (record,) = await bodies(dead)
    info = record["KinesisBatchInfo"]
    assert (info["startSequenceNumber"], info["endSequenceNumber"], info["batchSize"]) == (positions[3],) * 2 + (1,)
    succeeded = [batch for batch in batches(calls) if 3 not in batch]
    assert sorted(flat(succeeded)) == [0, 1, 2, 4, 5, 6, 7]
    assert calls.at[-1] == 0  # no waiting between halves


async def test_a_halved_batch_does_not_use_up_its_retries(engine: Engine) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(poison(0))
    engine.function(calls)
    engine.map(stream, calls, bisect_batch_on_function_error=True, maximum_retry_attempts=2, on_failure=dead)
    async with engine:
        await fill(stream, range(4))
        await asyncio.sleep(100)
        assert len(await bodies(dead)) == 1
    assert batches(calls).count([0]) == 3


async def test_a_report_moves_the_checkpoint_and_the_retries_begin_anew(engine: Engine) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")

    def answer(event: Any, number: int) -> object:
        failed = [record["kinesis"]["sequenceNumber"] for record in event["Records"] if data(record) == 5]
        return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}

    calls = Calls(answer)
    engine.function(calls)
    engine.map(stream, calls, batch_size=3, report_batch_item_failures=True, maximum_retry_attempts=3, on_failure=dead)
    async with engine:
        positions = await fill(stream, range(6))
        await asyncio.sleep(100)
        (record,) = await bodies(dead)
    assert batches(calls) == [[0, 1, 2], [3, 4, 5]] + [[5]] * 4
    assert record["requestContext"]["approximateInvokeCount"] == 4
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": None}
    assert record["KinesisBatchInfo"]["startSequenceNumber"] == positions[5]
    assert record["KinesisBatchInfo"]["batchSize"] == 1


async def test_with_bisect_a_batch_is_split_at_the_reported_record(engine: Engine) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")

    def answer(event: Any, number: int) -> object:
        names = [record["kinesis"]["sequenceNumber"] for record in event["Records"] if data(record) == 3]
        return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}

    calls = Calls(answer)
    engine.function(calls)
    engine.map(
        stream,
        calls,
        report_batch_item_failures=True,
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=0,
        on_failure=dead,
    )
    async with engine:
        await fill(stream, range(6))
        await asyncio.sleep(100)
        (record,) = await bodies(dead)
    assert record["KinesisBatchInfo"]["batchSize"] == 1
    assert batches(calls)[:2] == [[0, 1, 2, 3, 4, 5], [3, 4, 5]]
    assert [batch for batch in batches(calls) if 0 in batch] == [[0, 1, 2, 3, 4, 5]]
    assert {4, 5} <= set(flat([batch for batch in batches(calls) if 3 not in batch]))


async def test_what_comes_after_the_first_reported_record_is_tried_again_too(engine: Engine) -> None:
    stream = engine.stream("s")

    def answer(event: Any, number: int) -> object:
        names = [record["kinesis"]["sequenceNumber"] for record in event["Records"] if data(record) in (2, 1)]
        return {"batchItemFailures": [{"itemIdentifier": name} for name in reversed(names)] if number == 1 else []}

    calls = Calls(answer)
    engine.function(calls)
    engine.map(stream, calls, report_batch_item_failures=True)
    async with engine:
        await fill(stream, range(5))
        await asyncio.sleep(100)
    assert batches(calls) == [[0, 1, 2, 3, 4], [1, 2, 3, 4]]


ALL_SUCCEEDED = [None, "", [], {}, {"batchItemFailures": []}, {"batchItemFailures": None}]
NONE_SUCCEEDED = [
    {"batchItemFailures": [{"itemIdentifier": 123}]},
    {"batchItemFailures": [{"itemIdentifier": ""}]},
    {"batchItemFailures": [{"itemIdentifier": None}]},
    {"batchItemFailures": [{"foo": 123}]},
    {"batchItemFailures": [{"foo": None}]},
    {"batchItemFailures": "nonsense"},
    "nonsense",
    ZeroDivisionError("an exception"),
]


@pytest.mark.parametrize("answer", ALL_SUCCEEDED, ids=repr)
async def test_an_answer_without_failures_is_success(engine: Engine, answer: object) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(lambda event, number: answer)
    engine.function(calls)
    engine.map(stream, calls, report_batch_item_failures=True, maximum_retry_attempts=2, on_failure=dead)
    async with engine:
        await fill(stream, [1, 2])
        await asyncio.sleep(100)
        assert await bodies(dead) == []
    assert batches(calls) == [[1, 2]]


@pytest.mark.parametrize("answer", NONE_SUCCEEDED, ids=repr)
async def test_an_answer_that_cannot_be_read_fails_the_whole_batch(engine: Engine, answer: object) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(lambda event, number: answer)
    engine.function(calls)
    engine.map(stream, calls, report_batch_item_failures=True, maximum_retry_attempts=2, on_failure=dead)
    async with engine:
        await fill(stream, [1, 2])
        await asyncio.sleep(100)
        (record,) = await bodies(dead)
    assert batches(calls) == [[1, 2]] * 3
    assert record["requestContext"]["approximateInvokeCount"] == 3
    error = "Unhandled" if isinstance(answer, Exception) else None
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": error}


# --------------------------------------------------------------------------- record age


async def test_a_record_that_grows_too_old_while_it_is_tried_is_given_up(engine: Engine) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(poison(1))
    engine.function(calls)
    engine.map(stream, calls, maximum_record_age_seconds=60, on_failure=dead)
    async with engine:
        await fill(stream, [1])
        await asyncio.sleep(300)
        (record,) = await bodies(dead)
    assert list(record) == ["requestContext", "version", "timestamp", "KinesisBatchInfo", "payload"]
    assert record["requestContext"]["condition"] == "RecordAgeExceeded"
    assert record["requestContext"]["approximateInvokeCount"] == len(calls.events)
    assert max(calls.at) <= 60


async def test_a_record_that_is_too_old_already_is_split_off_and_the_others_run(engine: Engine) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls()
    engine.function(calls)
    async with engine:
        await fill(stream, [0])
        await asyncio.sleep(100)
        await fill(stream, [1, 2, 3, 4, 5])
        engine.map(stream, calls, maximum_record_age_seconds=60, on_failure=dead)
        await asyncio.sleep(30)
        (record,) = await bodies(dead)
    assert batches(calls) == [[1, 2, 3, 4, 5]]
    assert "responseContext" not in record
    assert record["requestContext"]["condition"] == "RecordAgeExceeded"
    assert record["requestContext"]["approximateInvokeCount"] == 1  # recorded so, although nothing was invoked
    assert record["KinesisBatchInfo"]["batchSize"] == 1


# --------------------------------------------------------------------------- lanes, filters


async def test_parallel_lanes_keep_the_order_of_each_key(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(seconds=1)
    engine.function(calls)
    engine.map(stream, calls, batch_size=2, parallelization_factor=5)
    async with engine:
        await stream.put_many((json.dumps(number), f"key {number % 10}") for number in range(100))
        await asyncio.sleep(200)
    assert 2 <= calls.most <= 5
    by_key: dict[str, list[int]] = {}
    for record in calls.records:
        by_key.setdefault(record["kinesis"]["partitionKey"], []).append(data(record))
    assert by_key == {f"key {key}": list(range(key, 100, 10)) for key in range(10)}


async def test_a_blocked_key_does_not_block_the_other_lanes(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(
        lambda event, number: ValueError() if event["Records"][0]["kinesis"]["partitionKey"] == "key 0" else None
    )
    engine.function(calls)
    engine.map(stream, calls, batch_size=1, parallelization_factor=10)
    async with engine:
        await stream.put_many((json.dumps(number), f"key {number % 10}") for number in range(50))
        await asyncio.sleep(30)
    done = {data(record) for record in calls.records if record["kinesis"]["partitionKey"] != "key 0"}
    assert len(done) >= 30  # all but those whose keys share the lane


async def test_what_a_filter_misses_is_passed_over_for_good(engine: Engine) -> None:
    stream = engine.stream("s")
    one, other = Calls(), Calls()
    engine.function(name="one")(one)
    engine.function(name="other")(other)
    first = engine.map(
        stream, "one", filters=[{"data": {"event_type": ["function_1"]}}], maximum_batching_window_seconds=1
    )
    engine.map(stream, "other", filters=[{"data": {"event_type": ["function_2"]}}, {"data": {"event_type": ["x"]}}])
    async with engine:
        await stream.put({"event_type": "function_1", "message": "foo"}, key="k")
        await stream.put({"event_type": "function_2", "message": "foo"}, key="k")
        await stream.put({"event_type": "nobody", "message": "foo"}, key="k")
        await stream.put("plain text", key="k")
        await asyncio.sleep(30)
    assert batches(one) == [[{"event_type": "function_1", "message": "foo"}]]
    assert batches(other) == [[{"event_type": "function_2", "message": "foo"}]]
    assert engine.telemetry.snapshot()["FilteredOutEventCount"][first.id] == 3


def test_a_filter_says_why_it_missed() -> None:
    filters = compile_filters([{"data": {"origin": ["JFK"]}}])
    assert not filters.matches({"data": {"origin": "EWR"}})
    (why,) = filters.misses({"data": {"origin": "EWR"}})
    assert "origin" in str(why)


async def test_records_of_a_shard_that_was_split_come_before_those_of_its_children(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(seconds=1)
    engine.function(calls)
    engine.map(stream, calls, batch_size=2)
    async with engine:
        await fill(stream, range(6), "k")
        opened: Any = engine._living().stream("s")
        one, other = await opened.split(SHARD)
        await fill(stream, range(6, 12), "k")
        await opened.merge(one.id, other.id)
        await fill(stream, range(12, 18), "k")
        await asyncio.sleep(100)
    assert flat(batches(calls)) == list(range(18))
    assert len({record["eventID"].partition(":")[0] for record in calls.records}) == 3
