"""Processes that crash, hang, fork and break themselves at random: each call has its own answer, and nothing is left.

By day 150 calls; by night 10,000. A failure names its seed: CHAOS_SEED=… shows it again.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine
from tests.environments.conftest import alive

CALLERS = 6
DAY, NIGHT = 150, 10_000
ENDS = {
    "exit": "Runtime.ExitError",
    "signal": "Runtime.ExitError",
    "segfault": "Runtime.ExitError",
    "raise": "ValueError",
    "hang": "Sandbox.Timedout",
}


def event(chance: random.Random, number: int, code: Path) -> dict[str, Any]:
    """What a call does; mostly nothing bad."""
    match chance.choices(
        ["echo", "raise", "exit", "signal", "segfault", "fork", "vandal", "hang"], [60, 10, 8, 8, 4, 5, 4, 1]
    )[0]:
        case "exit":
            return {"do": "exit", "status": chance.randrange(4)}
        case "signal":
            return {"do": "signal", "number": chance.choice([6, 9, 11, 15])}
        case "fork":
            return {"do": "fork", "file": str(code / f"daemon{number}")}
        case what:
            return {"do": what, "number": number}


async def campaign(code: Path, calls: int, seed: int) -> Counter[str]:
    chance = random.Random(seed)
    engine = Engine("memory://", maximum_environments=CALLERS)
    engine.function_from(code, handler="app.handler", timeout_seconds=1, memory_size_mb=512)
    numbers = iter(range(calls))
    came: Counter[str] = Counter()

    async def caller() -> None:
        for number in numbers:
            wanted = event(chance, number, code)
            answer = await engine.invoke_response("code", wanted)
            value = json.loads(answer.payload)
            if answer.function_error is None:
                came["answered"] += 1
                assert wanted["do"] not in ENDS, wanted
                assert wanted["do"] != "echo" or value["event"] == wanted
            else:  # what breaks itself may die of it, and on a busy machine a second may pass
                came[value["errorType"]] += 1
                assert value["errorType"] in (ENDS.get(wanted["do"]), "Sandbox.Timedout", "Runtime.ExitError"), wanted

    async with engine:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        assert not engine.telemetry.snapshot()["ConcurrentExecutions"]
        found = engine.environments("code")
        assert found["waiting"] == 0
        assert sum(found[state] for state in ("starting", "warm", "cold", "busy")) <= CALLERS  # type: ignore[misc]
    for file in code.glob("daemon*"):
        assert file.suffix or not alive(int(file.read_text())), f"seed {seed}: {file.name} lives"
    return came


async def run(code: Path, calls: int, seed: int, temporary: Path) -> None:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    print(f"\nchaos: CHAOS_SEED={seed}")
    came = await campaign(code, calls, seed)
    print(dict(came))
    assert sum(came.values()) == calls
    assert came["answered"] > calls / 3
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not list(temporary.iterdir())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this engine keeps what it keeps for a while."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def test_whatever_processes_do_each_call_has_its_own_answer_and_nothing_is_left(
    code: Path, temporary: Path
) -> None:
    await run(code, DAY, int(os.environ.get("CHAOS_SEED", "1")), temporary)


@pytest.mark.night
async def test_in_the_night_ten_thousand_calls_leave_nothing(code: Path, temporary: Path) -> None:
    await run(code, NIGHT, int(os.environ.get("CHAOS_SEED", str(random.randrange(2**32)))), temporary)
