"""aws-lambda-ric, AWS's client for Node, unchanged: all four models, errors, ends and logs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine, FunctionError
from tests.servers import node


@pytest.fixture
def function(engine: Engine, code: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine with the function `app` of app.js."""
    monkeypatch.setenv("PATH", f"{node.client().parent}{os.pathsep}{os.environ['PATH']}")
    engine.function_from(
        code, name="app", runtime="nodejs20.x", handler="app.handler", timeout_seconds=2, maximum_retry_attempts=0,
        memory_size_mb=256, variables={"STAGE": "test"},
    )  # fmt: skip
    return engine


async def failed(engine: Engine, event: Any) -> Any:
    with pytest.raises(FunctionError) as caught:
        await engine.invoke("app", event)
    return caught.value.document


async def test_a_caller_gets_the_value_and_the_globals_stay_warm(function: Engine) -> None:
    async with function as engine:
        assert await engine.invoke("app", {"it": "ü"}) == {"event": {"it": "ü"}, "calls": 1}
        assert await engine.invoke("app", [1, 2.5, None]) == {"event": [1, 2.5, None], "calls": 2}
        context = await engine.invoke("app", {"do": "context"}, client_context={"custom": {"a": 1}})
        variables = await engine.invoke("app", {"do": "variables"})
    assert context["arn"].endswith(":function:app")
    assert 0 < context.pop("left") <= 2000
    assert (context["name"], context["version"], context["memory"], context["custom"]) == (
        "app", "$LATEST", "256", {"a": 1}
    )  # fmt: skip
    assert (variables["STAGE"], variables["AWS_EXECUTION_ENV"]) == ("test", "AWS_Lambda_nodejs20.x")


async def test_errors_are_those_that_aws_answers(function: Engine) -> None:
    async with function as engine:
        raised = await failed(engine, {"do": "raise"})
        assert list(raised) == ["errorType", "errorMessage", "trace"]
        assert (raised["errorType"], raised["errorMessage"]) == ("RangeError", "that is not right")
        assert raised["trace"][0] == "RangeError: that is not right"
        ended = await failed(engine, {"do": "exit", "status": 3})
        assert ended["errorType"] == "Runtime.ExitError"
        assert ended["errorMessage"].endswith("Error: Runtime exited with error: exit status 3")
        late = await failed(engine, {"do": "hang"})
        assert late["errorType"] == "Sandbox.Timedout"
        assert late["errorMessage"].endswith("Task timed out after 2.00 seconds")
        assert (await engine.invoke("app", {}))["calls"] == 1


async def test_what_it_prints_stands_between_start_and_end(function: Engine) -> None:
    async with function as engine:
        await engine.invoke("app", {})
        response = await engine.invoke_response("app", {"do": "print", "text": "x"}, log_type="Tail")
    start, printed, end, report = response.log_tail.splitlines()
    assert start == f"START RequestId: {response.request_id} Version: $LATEST"
    assert printed.split("\t")[1:] == [response.request_id, "INFO", "printed x"]
    assert (end.split(" ")[0], report.split(" ")[0]) == ("END", "REPORT")


async def test_an_event_a_queue_and_a_shard_are_served(function: Engine) -> None:
    engine = function
    orders = engine.queue("orders", max_receive_count=1, dead_letter_queue="dead", visibility_timeout_seconds=2)
    clicks, told = engine.stream("clicks"), engine.queue("told")
    engine.map(orders, "app", report_batch_item_failures=True)
    engine.map(
        clicks, "app", batch_size=4, bisect_batch_on_function_error=True, maximum_retry_attempts=0,
        report_batch_item_failures=True, on_failure=told,
    )  # fmt: skip
    async with engine, asyncio.timeout(30):
        good = await engine.invoke_async("app", {"n": 1})
        bad = await engine.invoke_async("app", {"do": "raise"})
        await orders.send_many([f"{name} thing" for name in ("good", "bad", "fine")])
        await clicks.put_many([(f"{name} click", "key") for name in ("one", "bad", "three", "four")])
        while (await engine.event(good)).state != "succeeded" or (await engine.event(bad)).state != "failed":
            await asyncio.sleep(0)
        while not (dead := await engine.queue("dead").receive(10, 1)):
            pass
        while not (reports := await told.receive(10, 1)):
            pass
        document = json.loads((await engine.event(bad)).result)
    assert document["errorType"] == "RangeError"
    assert [each.body for each in dead] == ["bad thing"]
    report = json.loads(reports[0].body)
    assert report["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert report["KinesisBatchInfo"]["batchSize"] == 1
