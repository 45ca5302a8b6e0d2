"""The same handlers with Powertools' batch processors, unchanged, in execution environments."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from lambent import Engine
from tests.environments.conftest import PYTHON


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    folder = tmp_path / "batches"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("batches.py"), folder)
    return folder


async def test_what_they_report_as_failed_and_only_that_comes_back(engine: Engine, batches: Path) -> None:
    for name in ("queue", "fifo", "stream"):
        engine.function_from(
            batches, name=name, runtime=PYTHON, handler=f"batches.{name}", timeout_seconds=3, memory_size_mb=256
        )
    dead, dead_in_order, told = engine.queue("dead"), engine.queue("dead.fifo", fifo=True), engine.queue("told")
    orders = engine.queue("orders", visibility_timeout_seconds=3, max_receive_count=1, dead_letter_queue="dead")
    ordered = engine.queue(
        "orders.fifo", fifo=True, content_based_deduplication=True, visibility_timeout_seconds=3,
        max_receive_count=1, dead_letter_queue="dead.fifo",
    )  # fmt: skip
    clicks = engine.stream("clicks")
    engine.map(orders, "queue", report_batch_item_failures=True)
    engine.map(ordered, "fifo", batch_size=1, report_batch_item_failures=True)
    engine.map(
        clicks, "stream", batch_size=10, maximum_batching_window_seconds=1, report_batch_item_failures=True,
        maximum_retry_attempts=0, on_failure=told,
    )  # fmt: skip
    things = [{"n": n, "poison": n == 2} for n in range(4)]
    async with engine, asyncio.timeout(60):
        await orders.send_many(things)
        for thing in things:
            await ordered.send(thing, group="one")
        await clicks.put_many([(thing, "key") for thing in things])
        found = []
        for queue in (dead, dead_in_order, told):
            while not (messages := await queue.receive(10, 1)):
                pass
            found.append([json.loads(message.body) for message in messages])
    assert [each["n"] for each in found[0]] == [2]
    assert [each["n"] for each in found[1]] == [2]
    assert found[2][0]["KinesisBatchInfo"]["batchSize"] == 2  # the records before the failed one were done
