"""docs/guarantees.md names a test for each promise: each of them exists, and `make test` runs it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
FAULTS = [*range(1, 37), *range(39, 51), 59]
NUMBERS = [*map(str, [*range(1, 13), 16, 17, *range(25, 39), *range(44, 50), 53]), *(f"F{n}" for n in FAULTS)]
SHOWN = {part[0]: re.findall(r"^- `(.+?)` (.+)$", part[1], re.MULTILINE) for part in re.findall(
    r"^\*\*(F?\d+)\.\*\* (.+?)(?=^\*\*|^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
)}  # fmt: skip


@cache
def known(path):
    """The names of a file's tests, and whether they are for the night."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            found[node.name] = any(ast.unparse(each) == "pytest.mark.night" for each in node.decorator_list)
    return found


def test_every_promise_stands_on_the_page_once():
    assert list(SHOWN) == NUMBERS
    assert len(re.findall(r"^\*\*F?\d+\.\*\*", PAGE, re.MULTILINE)) == len(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_promise_is_shown_by_tests_that_exist_and_run(number):
    assert SHOWN[number]
    for path, sentence in SHOWN[number]:
        name = "test_" + sentence.replace(" ", "_")
        assert name in known(path), f"{number}: {path} has no {name}"
        assert not known(path)[name], f"{number}: {name} runs at night only"
