"""What is secret in a function's environment is in nothing that the engine says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from lambent import Engine, InvalidParameterValue
from lambent.cli.app import app

CANARY = "canary-3f8c1e"


async def test_a_secret_variable_reaches_the_function_and_no_log_error_metric_or_report(
    code: Path, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'app.db'}"
    engine = Engine(store, log_in_process=True)
    seen: list[object] = []
    engine.telemetry.subscribe(lambda *step: seen.append(repr(step)))
    dead = engine.queue("dead")
    engine.function_from(
        code, handler="app.handler", variables={"SECRET": CANARY}, timeout_seconds=1,
        maximum_retry_attempts=0, on_failure=dead, dead_letter_queue=dead,
    )  # fmt: skip
    with structlog.testing.capture_logs() as logs:
        async with engine:
            assert await engine.invoke("code", {"do": "backwards", "name": "SECRET"}) == CANARY[::-1]
            for event in ({"do": "raise"}, {"do": "exit", "status": 3}, {"do": "segfault"}, {"do": "hang"}):
                answer = await engine.invoke_response("code", event, log_type="Tail")
                seen += [answer.payload, answer.log_tail]
            await engine.invoke_async("code", {"do": "raise"})
            reports = []
            while len(reports) < 2:
                reports += await dead.receive(10, 5)
            await engine.update_function("code", variables={"SECRET": CANARY + "2"})
            await engine.update_function("code", handler="nowhere.handler", variables={"SECRET": CANARY + "3"})
            seen += [(await engine.invoke_response("code")).payload, engine.health().document()]
            seen += [engine.environments("code"), repr(await engine.get_function("code")), engine.telemetry.snapshot()]
            with pytest.raises(InvalidParameterValue) as refused:
                await engine.update_function("code", variables={"SECRET": CANARY, "AWS_REGION": CANARY})
            seen.append(refused.value.message)
    engine = Engine(store)
    engine.function_from(code, handler="app.handler", variables={"SECRET": CANARY + "4"})
    with structlog.testing.capture_logs() as again:
        async with engine:
            pass
    assert again, "the code declares it otherwise, which is said"
    files = [file for file in Path(f"{tmp_path / 'app.db'}-logs").rglob("*") if file.is_file()]
    kept = [file.read_text("utf-8", "replace") for file in files]
    assert "START RequestId" in "".join(kept)
    said = await asyncio.to_thread(CliRunner().invoke, app, ["functions", "--json", "--store", store])
    assert '"function": "code"' in said.output
    for each in (logs, again, seen, [report.body for report in reports], kept, said.output):
        assert CANARY not in json.dumps(each, default=repr)
