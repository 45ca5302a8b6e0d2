"""Pools of real processes: one invocation at a time each, warm ones first, old code until it ends, provisioned ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine, TooManyRequests
from lambent.runtimes.launching import isolation
from tests.environments.conftest import alive, fifos, let_go, waits


async def reaches(engine: Engine, name: str, **wanted: object) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            found = dict(engine.environments(name))
            if wanted.items() <= found.items():
                return found
            await asyncio.sleep(0)


async def test_calls_at_once_have_a_process_each_and_calls_one_after_the_other_share_one(
    engine: Engine, code: Path
) -> None:
    engine.function_from(code, handler="app.handler", timeout_seconds=20)
    async with engine:
        go = [fifos(code, f"go{n}") for n in range(3)]
        calls = [asyncio.create_task(engine.invoke("code", {"do": "wait", "file": str(each)})) for each, _ in go]
        for _, waiting in go:
            await waits(waiting)
        assert engine.environments("code")["busy"] == 3
        for each, _ in go:
            await let_go(each)
        answers = await asyncio.gather(*calls)
        assert len({each["pid"] for each in answers}) == 3
        await reaches(engine, "code", warm=3)
        for _ in range(10):
            await engine.invoke("code")
        assert (await reaches(engine, "code", warm=3))["busy"] == 0
        assert engine.telemetry.snapshot()["InitDuration"]["code"]["count"] == 3  # type: ignore[index]


async def test_no_more_run_than_are_reserved_and_no_more_than_the_machine_holds(code: Path) -> None:
    engine = Engine("memory://", maximum_environments=1)
    engine.function_from(code, handler="app.handler", timeout_seconds=20, reserved_concurrency=2)
    async with engine:
        go, waiting = fifos(code, "go")
        first = asyncio.create_task(engine.invoke("code", {"do": "wait", "file": str(go)}))
        await waits(waiting)
        second = asyncio.create_task(engine.invoke("code"))
        assert (await reaches(engine, "code", waiting=1))["busy"] == 1
        with pytest.raises(TooManyRequests):
            await engine.invoke("code")
        await let_go(go)
        assert (await first)["calls"] == 1
        assert (await second)["calls"] == 2


async def test_what_runs_ends_on_the_old_code_and_the_next_call_has_the_new(engine: Engine, code: Path) -> None:
    engine.function_from(code, handler="app.handler", timeout_seconds=20)
    (code / "newer.py").write_text("def handler(event, context): return 'newer'\n")
    async with engine:
        go, waiting = fifos(code, "go")
        old = asyncio.create_task(engine.invoke("code", {"do": "wait", "file": str(go)}))
        await waits(waiting)
        await engine.update_function("code", handler="newer.handler")
        assert await engine.invoke("code") == "newer"
        await let_go(go)
        pid = (await old)["pid"]
        await reaches(engine, "code", warm=1, busy=0)
        async with asyncio.timeout(10):
            while alive(pid):
                await asyncio.sleep(0)


async def test_an_environment_is_replaced_after_as_many_uses_as_were_said(narrow: Engine, code: Path) -> None:
    narrow.function_from(code, handler="app.handler", recycle_after=2)
    async with narrow:
        assert [(await narrow.invoke("code"))["calls"] for _ in range(5)] == [1, 2, 1, 2, 1]


async def test_idle_environments_are_let_go(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambent.runtimes.processes.IDLE_SECONDS", 0.05)
    engine = Engine("memory://", environment_idle_seconds=0.1)
    engine.function_from(code, handler="app.handler")
    async with engine:
        await engine.invoke("code")
        await reaches(engine, "code", warm=0, busy=0)
        assert (await engine.invoke("code"))["calls"] == 1


async def test_a_process_that_dies_while_it_is_idle_is_begun_anew_by_the_next_call(narrow: Engine, code: Path) -> None:
    (code / "later.py").write_text(
        "import os, threading\ndef handler(event, context):\n"
        "    if event.get('die'): threading.Timer(0.05, os._exit, [5]).start()\n    return os.getpid()\n"
    )
    later = narrow.function_from(code, name="later", handler="later.handler")
    async with narrow:
        pid = await narrow.invoke(later, {"die": True})
        await reaches(narrow, "later", cold=1)
        assert await narrow.invoke(later) != pid


async def test_provisioned_environments_begin_with_the_engine_and_take_the_cold_start_away(
    engine: Engine, code: Path
) -> None:
    engine.function_from(code, handler="app.handler", provisioned_concurrency=2)
    async with engine:
        ready = {"status": "READY", "wanted": 2, "ready": 2, "spilled": 0}
        assert engine.environments("code")["provisioned"] == ready | {"status": "IN_PROGRESS", "ready": 0}
        await reaches(engine, "code", provisioned=ready, warm=2)
        answer = await engine.invoke("code", {"do": "environment"})
        assert answer["variables"]["AWS_LAMBDA_INITIALIZATION_TYPE"] == "provisioned-concurrency"
        await reaches(engine, "code", warm=2)
        busy = [fifos(code, f"go{n}") for n in range(3)]
        calls = [asyncio.create_task(engine.invoke("code", {"do": "wait", "file": str(each)})) for each, _ in busy]
        for _, waiting in busy:
            await waits(waiting)
        shown = engine.telemetry.snapshot()
        assert (shown["ProvisionedConcurrentExecutions"], shown["ProvisionedConcurrencyUtilization"]) == (
            {"code": 2}, {"code": 1}
        )  # fmt: skip
        for each, _ in busy:
            await let_go(each)
        await asyncio.gather(*calls)
        counted = engine.telemetry.snapshot()
        assert counted["ProvisionedConcurrencyInvocations"] == {"code": 3}
        assert counted["ProvisionedConcurrencySpilloverInvocations"] == {"code": 1}
        await engine.update_function("code", provisioned_concurrency=0)
        assert engine.environments("code")["provisioned"] == {"status": "READY", "wanted": 0, "ready": 0, "spilled": 1}
        assert engine.telemetry.snapshot()["ProvisionedConcurrencyUtilization"] == {}


async def test_what_no_process_notices_of_a_change_leaves_it_warm(engine: Engine, code: Path) -> None:
    engine.function_from(code, handler="app.handler", timeout_seconds=10)
    async with engine:
        assert (await engine.invoke("code"))["calls"] == 1
        await engine.update_function("code", provisioned_concurrency=1)
        await reaches(engine, "code", warm=2)
        assert (await engine.invoke("code"))["calls"] == 1, "the provisioned one comes first"
        await engine.update_function("code", provisioned_concurrency=0)
        await engine.update_function("code", reserved_concurrency=5, maximum_retry_attempts=1)
        assert [(await engine.invoke("code"))["calls"] for _ in range(3)] == [2, 3, 4], "the first one is still there"
        assert engine.telemetry.snapshot()["InitDuration"]["code"]["count"] == 2  # type: ignore[index]
        await engine.update_function("code", timeout_seconds=9)
        assert (await engine.invoke("code"))["calls"] == 1


async def test_more_in_tmp_than_allowed_ends_the_environment(engine: Engine, code: Path) -> None:
    """One file cannot be larger, by the kernel; all of them together are looked at."""
    (code / "fill.py").write_text(
        "import os, signal\ndef handler(event, context):\n"
        "    where = os.environ.get('TMPDIR', '/tmp')\n"
        "    for n in range(event['files']):\n"
        "        with open(f'{where}/{n}', 'wb') as file: os.truncate(file.fileno(), event['size'])\n"
        "    while event.get('stay'): signal.pause()\n"
    )
    engine.function_from(code, name="fill", handler="fill.handler", timeout_seconds=30)
    async with engine:
        megabyte = 1024 * 1024
        with pytest.raises(Exception, match="File too large"):
            await engine.invoke("fill", {"files": 1, "size": 513 * megabyte})
        with pytest.raises(Exception, match="signal: killed"):
            await engine.invoke("fill", {"files": 3, "size": 200 * megabyte, "stay": True})
        await engine.invoke("fill", {"files": 1, "size": megabyte})


async def test_what_a_machine_does_not_allow_is_said_by_health_and_is_no_trouble(engine: Engine, code: Path) -> None:
    engine.function_from(code, handler="app.handler")
    async with engine:
        await engine.invoke("code")
        health = engine.health()
        found = [each for each in health.findings if each.subject == "environments"]
    assert not health.red
    assert [sentence for each in found for sentence in each.sentences][: len(isolation().gaps)] == [*isolation().gaps]
