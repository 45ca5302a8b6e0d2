"""What begins processes may end at any time: what it began goes on, and the next process is begun all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine
from lambent.runtimes import beginning, kinship
from tests.environments.conftest import PYTHON


def launchers() -> list[int]:
    """Of this process."""
    return [
        each.pid
        for each in kinship.processes()
        if each.parent == os.getpid()
        and not each.dead
        and b"serve" in Path(f"/proc/{each.pid}/cmdline").read_bytes().split(b"\0")
    ]


async def started(engine: Engine, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = await engine.invoke(name, {"do": "environment"})
    return answer


async def test_a_launcher_that_is_killed_is_replaced_and_what_it_began_goes_on(engine: Engine, code: Path) -> None:
    for name in ("a", "b", "c"):
        engine.function_from(code, name=name, runtime=PYTHON, handler="app.handler")
    async with engine:
        assert launchers() == []
        assert (await engine.invoke("a"))["calls"] == 1
        (first,) = launchers()
        os.kill(first, signal.SIGKILL)
        assert (await engine.invoke("a"))["calls"] == 2, "the same process, and warm"
        assert (await started(engine, "b"))["no_new_privileges"] == "1", "begun without a launcher, and as safely"
        await engine.invoke("c")
        (second,) = launchers()
        assert second != first
    assert launchers() == []


async def test_where_a_launcher_is_of_no_use_each_process_is_begun_alone_and_as_safely(
    engine: Engine, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not let a child be its parent's."""
    monkeypatch.setattr(beginning.Launcher, "_ask", lambda *_: 0)
    engine.function_from(code, runtime=PYTHON, handler="app.handler")
    async with engine:
        found = await started(engine, "code")
        assert (found["no_new_privileges"], int(found["capabilities"], 16)) == ("1", 0)
        assert launchers() == []
