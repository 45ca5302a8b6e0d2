"""The README keeps its word: its quick start runs, and the places it names exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from lambent.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_quick_start_runs() -> None:
    program, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    command = [sys.executable, "-W", "error", "-c", program]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["Hello Ada"]), ran.stderr


def test_the_test_that_is_shown_is_the_examples() -> None:
    *_, shown = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = (ROOT / "examples/test_with_fixture.py").read_text("utf-8").replace(": LambentSimulation) -> None", ")")
    assert shown in example


def test_every_piece_of_python_in_the_documents_is_python() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for piece in re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
            compile(piece, document.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_command_and_option_in_the_documents_is_one() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = 0
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for line in re.findall(r"(?:^\$ |`)(lambent [a-z][^`\n]*)", document.read_text("utf-8"), re.MULTILINE):
            words = line.partition("#")[0].split()[1:]
            command = commands.get(words[0])
            assert command is not None, f"{document.name}: {line}"
            if words[1:] and words[1] in getattr(command, "commands", {}):
                command = command.commands[words[1]]
            options = {name for each in command.params for name in each.opts}
            assert {word for word in words if word.startswith("--")} <= options, f"{document.name}: {line}"
            shown += 1
    assert shown > 20


def test_where_it_is_decided_names_places_that_exist() -> None:
    table = README.partition("## Where is it decided?")[2].partition("\n## ")[0]
    for line in table.splitlines():
        for path in re.findall(r"`([\w/]+\.py)`", line):
            text = (ROOT / "engine/lambent" / path).read_text("utf-8")
            for name in re.findall(r"· `([\w.]+)`", line):
                assert re.search(rf"(def|class) {name.rpartition('.')[2]}\b", text), f"{path} has no {name}"


def test_every_link_into_the_repository_leads_somewhere() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
