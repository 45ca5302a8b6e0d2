"""`lambent run` as a process: what it says, what signals do, and that code which changed is loaded anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from structlog.testing import capture_logs

from lambent import Client, Engine
from lambent.cli import mappings, serving
from lambent.model import EventFact

APP = """
import asyncio
from lambent import Engine

engine = Engine(drain_seconds=60.0)

@engine.function(timeout_seconds=60)
async def slow(event):
    print("running", flush=True)
    await asyncio.sleep(event)
    print("ended", flush=True)
"""


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`lambent run` in this folder, serving; it is killed at the end if it has not ended."""
    command = [sys.executable, "-m", "lambent.cli", "run", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(stream: IO[str] | None, word: str) -> str:
    assert stream is not None
    for line in stream:
        if word in line:
            return line
    raise AssertionError(f"it ended without a word of {word}")


async def test_the_first_signal_lets_what_runs_end(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with running(tmp_path, "app.py") as process:
        started = json.loads(line_with(process.stderr, "serving"))
        assert (started["store"], started["functions"]) == ("sqlite:///lambent.db", ["slow"])
        request_id = await stored(tmp_path / "lambent.db", "slow", "0.2")
        line_with(process.stdout, "running")
        process.send_signal(signal.SIGTERM)
        line_with(process.stderr, "draining")
        output, log = process.communicate(timeout=30)
        assert (output, json.loads(log)["event"], process.returncode) == ("ended\n", "ended", 0)
    fact = await known(tmp_path / "lambent.db", request_id)
    assert (fact.state, fact.event.attempts) == ("succeeded", 1)


async def test_a_second_signal_stops_at_once_and_one_engine_at_a_time_has_a_file(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("Engine(", "Engine('sqlite:///code.db', "))
    with running(tmp_path, "app.py", "--store", "sqlite:///named.db", "--log-format", "text") as process:
        assert "store=sqlite:///named.db" in line_with(process.stderr, "serving")
        request_id = await stored(tmp_path / "named.db", "slow", "50")
        line_with(process.stdout, "running")
        with running(tmp_path, "app.py", "--store", "sqlite:///named.db") as second:
            _, said = second.communicate(timeout=30)
        assert second.returncode == 3
        assert f"named.db is in use by another engine (process {process.pid})" in said
        for number, word in ((signal.SIGINT, "draining"), (signal.SIGTERM, "stopping at once")):
            process.send_signal(number)
            line_with(process.stderr, word)
        output, _ = process.communicate(timeout=30)
        assert (output, process.returncode) == ("", 128 + signal.SIGTERM)
    fact = await known(tmp_path / "named.db", request_id)
    assert (fact.state, fact.event.attempts) == ("waiting", 0)
    assert not (tmp_path / "code.db").exists()


def test_a_wrong_configuration_is_told_and_nothing_is_served(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP + "\nengine.map(engine.queue('q'), 'nobody')\n")
    with running(tmp_path, "app.py") as process:
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (2, "lambent: Function does not exist (nobody)\n")


def test_code_that_changes_is_loaded_anew(tmp_path: Path) -> None:
    inner = tmp_path / "package" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "app.py").write_text(APP)
    with running(tmp_path, "app.py", "--reload", "--log-format", "json") as process:
        line_with(process.stderr, "serving")
        (tmp_path / "app.py").write_text(APP + "\nbroken(\n")
        line_with(process.stderr, "was never closed")
        (tmp_path / "app.py").write_text(APP.replace("slow", "slower"))
        assert json.loads(line_with(process.stderr, "serving"))["functions"] == ["slower"]
        (inner / "deep.py").write_text("")
        line_with(process.stderr, "deep.py changed")
        line_with(process.stderr, "serving")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert "draining" in said
    assert process.returncode == 0


def test_a_password_in_a_sources_url_is_shown_to_nobody() -> None:
    engine = Engine()

    @engine.function
    def count(event: object) -> None: ...

    handle = engine.map("redis-stream://ada:secret@localhost/0/clicks", count)
    with capture_logs() as logs:
        serving._tell(engine, {})
    assert logs[0]["mappings"] == ["redis-stream://localhost/0/clicks → count"]
    assert mappings._shown(handle) == "redis-stream://localhost/0/clicks → count"


def test_without_typer_the_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['typer'] = None; from lambent.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stderr) == (1, "lambent: the command needs typer: pip install 'lambent[cli]'\n")


def test_a_shell_can_complete_commands() -> None:
    asked = {"_LAMBENT_COMPLETE": "complete_bash", "COMP_WORDS": "lambent dead", "COMP_CWORD": "1"}
    program = "import sys; sys.argv = ['lambent']; from lambent.cli import main; main()"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["dead-letters"]


async def stored(file: Path, function: str, payload: str) -> str:
    async with Client(f"sqlite:///{file}") as client:
        return await client.invoke_async(function, payload.encode())


async def known(file: Path, request_id: str) -> EventFact:
    async with Client(f"sqlite:///{file}") as client:
        return await client.event(request_id)
