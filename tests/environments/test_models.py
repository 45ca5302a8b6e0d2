"""Real runtime clients, unchanged, under all four models: awslambdaric, and a bootstrap in nothing but bash."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lambent import Engine
from tests.environments.conftest import PYTHON

CLIENTS = [(PYTHON, "app.handler"), ("provided.al2023", "")]
each_client = pytest.mark.parametrize(("runtime", "handler"), CLIENTS, ids=["awslambdaric", "bootstrap"])


@each_client
async def test_a_caller_waits_for_the_value(engine: Engine, code: Path, runtime: str, handler: str) -> None:
    engine.function_from(code, runtime=runtime, handler=handler)
    async with engine:
        value = await engine.invoke("code", {"it": "ü", "n": [1, 2.5, None]})
        assert (value["event"] if runtime == PYTHON else value) == {"it": "ü", "n": [1, 2.5, None]}
        answer = await engine.invoke_response("code", {"again": True}, log_type="Tail")
        assert answer.status_code == 200
        assert answer.executed_version == "$LATEST"
        assert answer.log_tail.startswith(f"START RequestId: {answer.request_id} Version: $LATEST\n")
        assert "Init Duration" not in answer.log_tail


@each_client
async def test_an_event_is_run_later_and_its_answer_can_be_asked_for(
    engine: Engine, code: Path, runtime: str, handler: str
) -> None:
    engine.function_from(code, runtime=runtime, handler=handler, maximum_retry_attempts=0)
    async with engine:
        good = await engine.invoke_async("code", {"do": "echo"})
        bad = await engine.invoke_async("code", {"do": "raise", "fail": True})
        for request_id, state in ((good, "succeeded"), (bad, "failed")):
            async with asyncio.timeout(10):
                while (fact := await engine.event(request_id)).state != state:
                    await asyncio.sleep(0)
        assert json.loads(fact.result)["errorType"] == ("ValueError" if runtime == PYTHON else "Wished")


@each_client
async def test_a_queue_is_emptied_but_for_what_fails(engine: Engine, code: Path, runtime: str, handler: str) -> None:
    engine.function_from(code, runtime=runtime, handler=handler, timeout_seconds=1)
    orders = engine.queue("orders", max_receive_count=1, dead_letter_queue="dead", visibility_timeout_seconds=1)
    partial = runtime == PYTHON
    engine.map(orders, "code", report_batch_item_failures=partial, batch_size=10 if partial else 1)
    async with engine:
        await orders.send_many([f"{name} thing" for name in ("good", "bad", "fine")])
        async with asyncio.timeout(20):
            while not (dead := await engine.queue("dead").receive(10, 1)):
                pass
    assert [each.body for each in dead] == ["bad thing"]


@each_client
async def test_a_shard_is_read_in_order_and_halved_until_the_poison_stands_alone(
    engine: Engine, code: Path, runtime: str, handler: str
) -> None:
    engine.function_from(code, runtime=runtime, handler=handler, timeout_seconds=10)
    clicks = engine.stream("clicks")
    told = engine.queue("told")
    engine.map(
        clicks,
        "code",
        batch_size=4,
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=0,
        report_batch_item_failures=runtime == PYTHON,
        on_failure=told,
    )
    async with engine:
        await clicks.put_many([(f"{name} click", "key") for name in ("one", "bad", "three", "four")])
        async with asyncio.timeout(20):
            while not (reports := await told.receive(10, 1)):
                pass
    report = json.loads(reports[0].body)
    assert report["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert report["KinesisBatchInfo"]["batchSize"] == 1
