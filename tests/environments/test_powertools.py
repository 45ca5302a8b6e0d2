"""Powertools' batch processors under the queue and stream loops: only what they report as failed comes back."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from lambent import Engine
from tests.conformance.conftest import make_engine
from tests.environments import batches

pytestmark = pytest.mark.virtual_time(deterministic=True)


class Seen:
    """A handler of `batches`, with what it got."""

    def __init__(self, handler: Any) -> None:
        self.__name__ = handler.__name__
        self._handler = handler
        self.batches: list[list[int]] = []

    def __call__(self, event: Any, context: Any) -> Any:
        self.batches.append([json.loads(data(record))["n"] for record in event["Records"]])
        return self._handler(event, context)


def data(record: Any) -> str:
    return record["body"] if "body" in record else base64.b64decode(record["kinesis"]["data"]).decode()


@pytest.fixture
async def engine() -> Engine:
    return make_engine()


async def test_of_a_queues_batch_only_the_failed_messages_come_back_and_end_as_dead_letters(engine: Engine) -> None:
    dead = engine.queue("dead")
    queue = engine.queue("orders", visibility_timeout_seconds=10, max_receive_count=2, dead_letter_queue="dead")
    handler = Seen(batches.queue)
    engine.function(handler)
    engine.map(queue, handler, batch_size=10, maximum_batching_window_seconds=1, report_batch_item_failures=True)
    async with engine:
        await queue.send_many([{"n": n, "poison": n in (2, 5)} for n in range(8)])
        await asyncio.sleep(60)
        left = [json.loads(message.body)["n"] for message in await dead.receive(10)]
    assert sorted(n for batch in handler.batches for n in batch) == sorted([*range(8), 2, 5])
    assert sorted(left) == [2, 5]


async def test_of_a_fifo_queues_batch_everything_behind_the_first_failure_comes_back_in_order(engine: Engine) -> None:
    engine.queue("dead.fifo", fifo=True)
    queue = engine.queue(
        "orders.fifo", fifo=True, content_based_deduplication=True, visibility_timeout_seconds=10,
        max_receive_count=2, dead_letter_queue="dead.fifo",
    )  # fmt: skip
    handler = Seen(batches.fifo)
    engine.function(handler)
    engine.map(queue, handler, batch_size=10, report_batch_item_failures=True)
    async with engine:
        for n in range(5):
            await queue.send({"n": n, "poison": n == 2}, group="one")
        await asyncio.sleep(120)
    seen = [n for batch in handler.batches for n in batch]
    assert list(dict.fromkeys(seen)) == [0, 1, 2, 3, 4]
    assert seen.count(2) == 2
    assert seen[-2:] == [3, 4]


async def test_of_a_streams_batch_the_records_before_the_first_failure_are_done(engine: Engine) -> None:
    stream = engine.stream("clicks")
    reports = engine.queue("reports")
    handler = Seen(batches.stream)
    engine.function(handler)
    engine.map(
        stream, handler, batch_size=10, maximum_batching_window_seconds=1, report_batch_item_failures=True,
        maximum_retry_attempts=2, bisect_batch_on_function_error=True, on_failure=reports.destination,
    )  # fmt: skip
    async with engine:
        await stream.put_many([({"n": n, "poison": n == 3}, "key") for n in range(6)])
        await asyncio.sleep(120)
        (report,) = [json.loads(message.body) for message in await reports.receive(10)]
    assert handler.batches[0] == [0, 1, 2, 3, 4, 5]
    assert {n for batch in handler.batches[1:] for n in batch} == {3, 4, 5}
    assert report["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert report["KinesisBatchInfo"]["batchSize"] == 1


async def test_a_batch_that_fails_as_a_whole_is_an_error_of_the_function(engine: Engine) -> None:
    queue = engine.queue("orders", visibility_timeout_seconds=10, max_receive_count=1, dead_letter_queue="dead")
    dead = engine.queue("dead")
    handler = Seen(batches.queue)
    engine.function(handler)
    engine.map(queue, handler, report_batch_item_failures=True)
    async with engine:
        await queue.send_many([{"n": n, "poison": True} for n in range(3)])
        await asyncio.sleep(60)
        assert len(await dead.receive(10)) == 3
    assert engine.telemetry.snapshot()["Errors"]["queue"] == len(handler.batches)
