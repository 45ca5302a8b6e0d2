"""What begins processes may end at any time: what it began goes on, and the next process is begun all the same."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine
from lambent.runtimes import beginning, kinship
from tests.environments.conftest import PYTHON


def launchers() -> list[int]:
    """Of this process; not the one that waits to become something."""
    return [
        each.pid
        for each in kinship.processes()
        if each.parent == os.getpid()
        and each.session == each.pid
        and not each.dead
        and b"serve" in Path(f"/proc/{each.pid}/cmdline").read_bytes().split(b"\0")
    ]


async def started(engine: Engine, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = await engine.invoke(name, {"do": "environment"})
    return answer


async def test_a_launcher_that_is_killed_is_replaced_and_what_it_began_goes_on(engine: Engine, code: Path) -> None:
    others = set(launchers())  # of engines that another module's tests keep
    for name in ("a", "b", "c", "d"):
        engine.function_from(code, name=name, runtime=PYTHON, handler="app.handler")
    async with engine:
        assert set(launchers()) == others
        assert (await engine.invoke("a"))["calls"] == 1
        (first,) = set(launchers()) - others
        os.kill(first, signal.SIGKILL)
        assert (await engine.invoke("a"))["calls"] == 2, "the same process, and warm"
        assert (await started(engine, "b"))["no_new_privileges"] == "1", "the one that waited already"
        assert (await started(engine, "c"))["no_new_privileges"] == "1", "begun without a launcher, and as safely"
        await engine.invoke("d")
        (second,) = set(launchers()) - others
        assert second != first
    assert set(launchers()) == others


async def test_where_a_launcher_is_of_no_use_each_process_is_begun_alone_and_as_safely(
    engine: Engine, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not let a child be its parent's."""
    monkeypatch.setattr(beginning.Launcher, "_ask", lambda *_: 0)
    others = launchers()
    engine.function_from(code, runtime=PYTHON, handler="app.handler")
    async with engine:
        found = await started(engine, "code")
        assert (found["no_new_privileges"], int(found["capabilities"], 16)) == ("1", 0)
        assert launchers() == others


async def test_an_engine_that_is_killed_takes_its_launcher_and_its_environments_with_it(code: Path) -> None:
    program = (
        "import asyncio, sys\nfrom lambent import Engine\nfrom tests.environments.test_launcher import launchers\n"
        "async def main():\n"
        f"    engine = Engine('memory://')\n    engine.function_from({str(code)!r}, handler='app.handler')\n"
        "    async with engine:\n        environment = await engine.invoke('code', {'do': 'environment'})\n"
        "        print(*launchers(), flush=True)\n        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    engine = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    assert engine.stdout is not None
    lines = [await engine.stdout.readline()]
    while not lines[-1].strip().isdigit():
        assert lines[-1], "it ended early"
        lines.append(await engine.stdout.readline())
    family = kinship.members(engine.pid, b"no variable")
    launcher = int(lines[-1])
    assert launcher in family
    assert len(family) >= 3
    engine.kill()
    await engine.wait()
    async with asyncio.timeout(20):
        while family & {each.pid for each in kinship.processes() if not each.dead}:
            await asyncio.sleep(0)
