"""No answer before what it promises is on disk."""

import json
import subprocess
import sys
from pathlib import Path

from tests.durability.answers import CALLERS, CALLS, FRAME_HEADER_BYTES, too_early
from tests.durability.tracing import Call

ROOT = Path(__file__).resolve().parents[2]
FRAME = Call("pwrite64", "/a-wal", bytes(FRAME_HEADER_BYTES))
COMMIT = Call("pwrite64", "/a-wal", bytes([0, 0, 0, 1, 0, 0, 0, 9]).ljust(FRAME_HEADER_BYTES))
PAGE = Call("pwrite64", "/a-wal", b"..text..")
SYNC = Call("fdatasync", "/a-wal")
ANSWER = Call("write", "pipe:[1]", b"text")


def test_no_answer_leaves_before_a_sync_of_the_log_that_has_what_it_promises():
    command = [sys.executable, "-m", "tests.durability.answers"]
    done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.stdout, "see its error above"
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["answers"] == found["wrong_without_syncs"] == 3 * CALLERS * CALLS
    assert found["syncs"] >= CALLS, "the callers of one kind wait for each other's commits, and for no more"


def test_an_answer_that_leaves_too_early_is_found():
    assert too_early([COMMIT, PAGE, SYNC, ANSWER], "-wal") == (1, [])
    assert too_early([FRAME, PAGE, COMMIT, Call("pwrite64", "/a-wal", b"page"), SYNC, ANSWER], "-wal") == (1, [])
    for early in ([COMMIT, PAGE, ANSWER, SYNC], [FRAME, PAGE, SYNC, ANSWER], [SYNC, COMMIT, PAGE, ANSWER]):
        assert too_early(early, "-wal") == (1, ["text"])
    elsewhere = Call("fdatasync", "/a")
    assert too_early([COMMIT, PAGE, elsewhere, ANSWER], "-wal") == (1, ["text"])
