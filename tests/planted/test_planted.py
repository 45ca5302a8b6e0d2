"""Bugs that were planted on purpose: every patch still fits the engine, and the simulation finds it."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("run.py"))
planted = importlib.util.module_from_spec(SPEC)
sys.modules["planted"] = planted  # its dataclasses look themselves up
SPEC.loader.exec_module(planted)

FOUND_AT_TEST_SIZE = 0.9
PATCHES = pytest.mark.parametrize("patch", planted.patches(), ids=lambda patch: patch.stem)


def test_there_are_enough_planted_bugs():
    assert len(planted.patches()) >= 15


@PATCHES
def test_a_planted_bug_fits_the_engine_and_changes_what_it_does(patch):
    assert planted.changes(patch, planted.ROOT)


@PATCHES
def test_a_planted_bug_says_which_promise_it_breaks_and_who_finds_it(patch):
    assert re.match(r"Invariants? \d+.*: .+; here .+\.\nFound by: .+\.\n\n--- a/(engine|pollers)/", patch.read_text())


def test_a_patch_that_no_longer_fits_is_refused(tmp_path):
    patch = planted.patches()[0]
    for path in re.findall(r"^--- a/(.+)$", patch.read_text(), re.MULTILINE):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text("nothing = 0\n")
    with pytest.raises(ValueError, match="0 places"):
        planted.patched(patch, tmp_path)


@pytest.mark.night
def test_the_simulation_finds_every_planted_bug(capsys):
    chosen = planted.patches()
    with capsys.disabled():
        missed, never_found = planted.hunt_both(chosen, lambda line: print(line, flush=True))
    assert not never_found
    assert len(missed) <= (1 - FOUND_AT_TEST_SIZE) * len(chosen), missed
