"""Code from folders, zips and layers, run in environments; and anew when it changes, where that is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine, FunctionError
from lambent.log_files import LogReader
from tests.environments.conftest import PYTHON, fifos, waits
from tests.semantics.zip_files import file, zipped

TELLING = b"""
import os, sys
with open("/opt/python/layer.txt") if os.path.exists("/opt/python/layer.txt") else open(os.devnull) as layer:
    text = layer.read()

def handler(event, context):
    print("told", event)
    if isinstance(event, dict) and "wait" in event:
        with open(event["wait"] + ".waits", "w"):
            pass
        with open(event["wait"]) as go:
            go.read()
    return [VERSION, text]
"""


def version(text: str) -> bytes:
    return TELLING.replace(b"VERSION", repr(text).encode())


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.py").write_bytes(version("one"))
    return folder


async def test_a_zip_file_and_layers_are_run(tmp_path: Path) -> None:
    (tmp_path / "app.zip").write_bytes(zipped(file("app.py", version("zipped"), method=8)))
    (tmp_path / "under.zip").write_bytes(zipped(file("python/layer.txt", b"under")))
    (tmp_path / "over.zip").write_bytes(zipped(file("python/layer.txt", b"over")))
    engine = Engine(f"sqlite:///{tmp_path / 'app.db'}")
    layers = [str(tmp_path / name) for name in ("under.zip", "over.zip")]
    engine.function_from(tmp_path / "app.zip", runtime=PYTHON, handler="app.handler", layers=layers)
    async with engine:
        assert (await engine.invoke("app"))[0] == "zipped"
        assert len(list((tmp_path / "app.db-code" / "folders").iterdir())) == 2
    said = [entry.text for entry in LogReader(tmp_path / "app.db-logs", "app").news() if entry.origin == "function"]
    assert said == ["told {}"]


async def test_code_that_no_function_needs_any_longer_is_collected_at_the_next_start(tmp_path: Path) -> None:
    path, folders = tmp_path / "app.zip", tmp_path / "app.db-code" / "folders"
    for version_ in ("first", "second"):
        path.write_bytes(zipped(file("app.py", version(version_))))
        engine = Engine(f"sqlite:///{tmp_path / 'app.db'}")
        engine.function_from(path, runtime=PYTHON, handler="app.handler")
        async with engine:
            assert (await engine.invoke("app"))[0] == version_
        for each in (*folders.iterdir(), *(tmp_path / "app.db-code" / "zips").iterdir()):
            os.utime(each, (1, 1))  # long ago
    assert len(list(folders.iterdir())) == 1
    assert (next(folders.iterdir()) / "app.py").read_bytes() == version("second")


async def test_a_zip_that_lies_is_an_error_of_the_function_and_writes_nothing(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "app.zip").write_bytes(zipped(file("../escaped.py", b"x")))
    engine.function_from(tmp_path / "app.zip", runtime=PYTHON, handler="app.handler")
    async with engine:
        with pytest.raises(FunctionError, match="Could not unzip uploaded file"):
            await engine.invoke("app")
    assert not (tmp_path / "escaped.py").exists()


def edit(app: Path) -> None:
    """To another size: Python takes a file of the same second and size for the one that it has compiled."""
    (app / "app.py").write_bytes(version("another"))


def touch(app: Path) -> None:
    (app / "app.py").write_bytes(version("one"))


@pytest.mark.parametrize(("change", "answers"), [(edit, ["one", "another"]), (touch, ["one", "one"])])
async def test_changed_code_is_run_anew_from_the_next_call_on(
    app: Path, change: Callable[[Path], None], answers: list[str]
) -> None:
    engine = Engine("memory://", reload_code=True)
    engine.function_from(app, runtime=PYTHON, handler="app.handler")
    async with engine:
        found: list[Any] = [await engine.invoke("app")]
        started = engine.telemetry.snapshot()["InitDuration"]["app"]
        change(app)
        found.append(await engine.invoke("app"))
        restarted = engine.telemetry.snapshot()["InitDuration"]["app"]
    assert [each[0] for each in found] == answers
    assert (started == restarted) == (answers == ["one", "one"])


async def test_what_runs_when_code_changes_ends_on_the_old(app: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    fifo, waiting = fifos(app, "go")
    engine = Engine("memory://", reload_code=True)
    engine.function_from(app, runtime=PYTHON, handler="app.handler", timeout_seconds=30)
    async with engine:
        call = asyncio.ensure_future(engine.invoke("app", {"wait": str(fifo)}))
        await waits(waiting)
        (app / "app.py").write_bytes(version("another"))
        assert (await engine.invoke("app"))[0] == "another"
        await asyncio.to_thread(fifo.write_bytes, b"go")
        assert (await call)[0] == "one"
