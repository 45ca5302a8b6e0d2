"""`lambent logs`: lines for people and for scripts, chosen by invocation and by time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lambent.cli.app import app
from lambent.log_files import LogFiles
from lambent.logs import Logs
from lambent.model import Function, Succeeded
from lambent.world import SystemClock

RID = "8f5a3f7e-1f6b-4f7e-9a53-0c2b4a7f1d11"


def write(directory: Path, request_id: str, *lines: str) -> None:
    files = LogFiles(
        directory, owner=request_id, clock=SystemClock(), retention_seconds=60, maximum_bytes=1 << 30,
        trouble=lambda *lost: None,
    )  # fmt: skip
    log = Logs(SystemClock().now, files.keep).open(Function(name="charge"), "stream").start(request_id)
    for line in lines:
        log.line(line)
    log.close(Succeeded(b"1"), maximum_memory_mb=30)
    files.close()


@pytest.fixture
def store(tmp_path: Path) -> str:
    write(tmp_path / "app.db-logs", RID, "charged 12", f"END RequestId: {RID}\x1b[31m", "one\r\ntwo")
    write(tmp_path / "app.db-logs", "other", "refused")
    return f"sqlite:///{tmp_path / 'app.db'}"


def lambent(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["logs", *arguments])
    return result.exit_code, result.output


def test_people_see_who_says_what_and_nothing_that_steers_their_terminal(store: str) -> None:
    code, output = lambent("charge", "--store", store, "--request-id", RID)
    lines = [line[25:] for line in output.splitlines()]
    assert code == 0
    assert lines[:6] == [
        f"> START RequestId: {RID} Version: $LATEST",
        "| charged 12",
        f"| END RequestId: {RID}\N{REPLACEMENT CHARACTER}[31m",
        "| one",
        "| two",
        f"> END RequestId: {RID}",
    ]
    assert "refused" not in output


def test_scripts_get_a_document_a_line(store: str) -> None:
    code, output = lambent("charge", "--store", store, "--json", "--lines", "3")
    found = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [(each["origin"], each["request_id"]) for each in found] == [
        ("function", "other"), ("platform", "other"), ("platform", "other")
    ]  # fmt: skip
    assert set(found[0]) == {"at", "stream", "request_id", "origin", "text"}


def test_only_what_is_new_enough(store: str) -> None:
    assert lambent("charge", "--store", store, "--since", "1h")[0] == 0
    assert lambent("charge", "--store", store, "--since", "2999-01-01")[0] == 1
    assert lambent("charge", "--store", store, "--since", "2020-01-01T00:00Z")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [("charge", "--since", "soon"), ("../charge",), ("charge", "--store", "memory://")],
)
def test_what_makes_no_sense_is_said(store: str, arguments: tuple[str, ...]) -> None:
    code, output = lambent(*("--store", store), *arguments)
    assert (code, output.startswith("lambent: ")) == (2, True)


def test_nothing_is_said_to_be_nothing(store: str, tmp_path: Path) -> None:
    code, output = lambent("pack", "--store", store)
    assert code == 1
    assert output.startswith(f"Nothing of pack in {tmp_path / 'app.db-logs'}.")
    assert "Engine(log_in_process=True)" in output
    assert lambent("pack", "--directory", str(tmp_path / "elsewhere"))[0] == 1


def test_it_follows_what_comes_until_it_is_interrupted(store: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lambent.cli", "logs", "charge", "--store", store, "--follow", "--lines", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert "REPORT RequestId: other" in process.stdout.readline()
        write(tmp_path / "app.db-logs", "third", "news")
        assert [process.stdout.readline()[25:] for _ in range(2)] == [
            "> START RequestId: third Version: $LATEST\n",
            "| news\n",
        ]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
