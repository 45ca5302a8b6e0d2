"""Bugs that were planted in the store on purpose: each still fits, and a campaign of `make test`'s size finds it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planted.run import ROOT, changes, patched

HERE = Path(__file__).with_name("planted")
PATCHES = pytest.mark.parametrize("patch", sorted(HERE.glob("*.patch")), ids=lambda patch: patch.stem)
HEAD = re.compile(r"(Invariant|Fault) \d+: .+; here .+\.\nFound by: python (?P<command>.+)\.\n\n--- a/engine/")


@PATCHES
def test_a_planted_bug_fits_the_store_and_says_what_it_breaks_and_who_finds_it(patch):
    assert changes(patch, ROOT)
    assert HEAD.match(patch.read_text())


@pytest.mark.night
@PATCHES
def test_a_planted_bug_is_found(patch, tmp_path):
    shutil.copytree(ROOT / "engine", tmp_path / "engine")
    for path, text in patched(patch, ROOT).items():
        (tmp_path / path).write_text(text)
    command = [sys.executable, *shlex.split(HEAD.match(patch.read_text())["command"])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "engine"), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
