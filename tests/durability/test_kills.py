"""A process that dies at a system call: whatever it was told is stored is stored, and nothing is half there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def killed(*arguments: str) -> dict:
    """Die at some system calls that change files, each time anew."""
    command = [sys.executable, "-m", "tests.durability.kills", *arguments]
    done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.stdout, "see its error above"
    return json.loads(done.stdout)


def test_nothing_acknowledged_is_lost_when_the_process_dies_at_a_system_call_that_writes():
    found = killed("--points", "4")
    assert not found["wrong"], found["wrong"]
    assert {"openat", "pwrite64", "fdatasync", "ftruncate"} <= found["reached"].keys()


@pytest.mark.night
def test_nothing_acknowledged_is_lost_whichever_system_call_that_writes_is_the_last():
    found = killed()
    print(found)
    assert not found["wrong"], found["wrong"]
    assert sum(found["reached"].values()) == found["calls"]
