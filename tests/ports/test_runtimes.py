"""Every runtime passes the suite: coroutines and plain functions of this process, and processes with awslambdaric."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lambent.configuration import ExecutionEnvironment
from lambent.logs import Logs
from lambent.ports import Clock, CodePlaces, Runtime, RuntimeSurroundings
from lambent.runtimes.in_process import InProcess
from lambent.runtimes.processes import Processes
from lambent.world import SystemClock

from .suites.runtimes import RuntimeSuite

HANDLER = """
import signal

def handler(event, context):
    if "raise" in event:
        raise ValueError(event["raise"])
    while event.get("hang"):
        signal.pause()
    return event["return"]
"""


@pytest.mark.virtual_time
class TestCoroutines(RuntimeSuite):
    async def make(self) -> Runtime:
        async def handler(event: Any, context: object) -> object:
            if "raise" in event:
                raise ValueError(event["raise"])
            if event.get("hang"):
                await asyncio.Event().wait()
            return event["return"]

        made = InProcess(world=self.world())
        for name in ("good", "brief"):
            made.register(self.function(name), handler)
        return made


class TestPlainFunctions(RuntimeSuite):
    @pytest.fixture(autouse=True)
    def _let_go(self) -> Any:
        self.hung = threading.Event()
        yield
        self.hung.set()

    def make_clock(self) -> Clock:
        return SystemClock()

    async def make(self) -> Runtime:
        def handler(event: Any, context: object) -> object:
            if "raise" in event:
                raise ValueError(event["raise"])
            if event.get("hang"):
                self.hung.wait()
            return event["return"]

        made = InProcess(world=self.world())
        for name in ("good", "brief"):
            made.register(self.function(name), handler)
        return made


class TestProcesses(RuntimeSuite):
    @pytest.fixture(autouse=True)
    def _code(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "code"
        self.folder.mkdir()
        (self.folder / "app.py").write_text(HANDLER)

    def make_clock(self) -> Clock:
        return SystemClock()

    async def make(self) -> Runtime:
        def find_code(environment: ExecutionEnvironment, scratch: Path) -> CodePlaces:
            return CodePlaces(self.folder, None, "")

        world = self.world()
        logs = Logs(world.clock.now)
        made = Processes(RuntimeSurroundings(world, lambda *_, **__: None, logs, find_code, lambda environment: ""))
        runtime = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        environment = ExecutionEnvironment(runtime=runtime, handler="app.handler", code=str(self.folder))
        for name in ("good", "brief"):
            made.register(self.function(name, environment=environment))
        return made
