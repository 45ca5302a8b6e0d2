"""Tumbling windows: state from call to call, final calls, early ends (AWS's rules; there is no recording of them)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lambent import Engine

from .conftest import Calls, batches, data, fill

pytestmark = pytest.mark.virtual_time(deterministic=True)

SHARD = "shardId-000000000000"


async def test_a_tumbling_window_carries_its_state_and_ends_with_a_final_call(engine: Engine) -> None:
    stream = engine.stream("s")

    def answer(event: Any, number: int) -> object:
        return {"state": {"sum": event["state"].get("sum", 0) + sum(map(data, event["Records"]))}}

    calls = Calls(answer)
    engine.function(calls)
    engine.map(stream, calls, batch_size=2, tumbling_window_seconds=60)
    async with engine:
        await fill(stream, [1, 2, 3])
        await asyncio.sleep(100)
        await fill(stream, [10])
        await asyncio.sleep(200)
    first = calls.events[0]
    assert list(first) == [
        "Records", "window", "state", "shardId", "eventSourceARN", "isFinalInvokeForWindow", "isWindowTerminatedEarly",
    ]  # fmt: skip
    assert first["window"] == {"start": "2023-11-14T22:13:00Z", "end": "2023-11-14T22:14:00Z"}
    assert first["state"] == {}
    assert first["shardId"] == SHARD
    assert first["eventSourceARN"] == "arn:aws:kinesis:us-east-1:111111111111:stream/s"
    told = [
        (event["state"].get("sum"), event["isFinalInvokeForWindow"], len(event["Records"])) for event in calls.events
    ]
    assert told == [(None, False, 2), (3, False, 1), (6, True, 0), (None, False, 1), (10, True, 0)]
    assert [event["isWindowTerminatedEarly"] for event in calls.events] == [False] * 5


async def test_in_a_window_an_answer_without_state_is_a_failure(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(lambda event, number: {} if number == 1 else {"state": {}})
    engine.function(calls)
    engine.map(stream, calls, tumbling_window_seconds=60)
    async with engine:
        await fill(stream, [1])
        await asyncio.sleep(10)
    assert batches(calls) == [[1], [1]]


async def test_a_final_call_that_fails_is_tried_again_before_the_shard_goes_on(engine: Engine) -> None:
    stream = engine.stream("s")

    def answer(event: Any, number: int) -> object:
        return ValueError() if event["isFinalInvokeForWindow"] and number < 5 else {"state": {"seen": number}}

    calls = Calls(answer)
    engine.function(calls)
    engine.map(stream, calls, tumbling_window_seconds=60)
    async with engine:
        await fill(stream, [1])
        await asyncio.sleep(50)
        await fill(stream, [2])
        await asyncio.sleep(60)
    finals = [event["isFinalInvokeForWindow"] for event in calls.events]
    assert finals[:6] == [False, True, True, True, True, False]
    assert [event["state"] for event in calls.events][:6] == [{}] + [{"seen": 1}] * 4 + [{}]


async def test_a_state_above_a_megabyte_ends_its_window_early(engine: Engine) -> None:
    stream = engine.stream("s")
    calls = Calls(lambda event, number: {"state": {"large": "x" * (1024 * 1024) if number == 1 else ""}})
    engine.function(calls)
    engine.map(stream, calls, batch_size=1, tumbling_window_seconds=60)
    async with engine:
        await fill(stream, [1, 2])
        await asyncio.sleep(10)
    told = [
        (
            len(event["Records"]),
            event["isFinalInvokeForWindow"],
            event["isWindowTerminatedEarly"],
            len(event["state"].get("large", "")),
        )
        for event in calls.events
    ]
    assert told == [(1, False, False, 0), (0, True, True, 1024 * 1024), (1, False, False, 0)]
    assert len({json.dumps(event["window"]) for event in calls.events}) == 1
