"""When an engine is red: lag that grows while nothing completes, and work that cannot begin."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.semantics.health import (
    BLOCKED,
    NOBODY,
    STALLED_SECONDS,
    Finding,
    Health,
    Seen,
    Sight,
    judge,
    look,
    together,
)

WITHIN = 3.0
PATIENCE = STALLED_SECONDS + WITHIN
MESSAGES = Sight("queue:q → f", "f", 5, "messages", 7, WITHIN)
LOOKS = st.lists(
    st.tuples(st.sampled_from((5.0, 30.0, PATIENCE)), st.integers(0, 3), st.integers(0, 2), st.booleans()),
    min_size=1,
    max_size=40,
)


def sight(waiting: int = 5, done: float | str = 7, **fields: Any) -> Sight:
    return replace(MESSAGES, waiting=waiting, done=done, **fields)


def seen_at(*looks: tuple[float, Sight], name: str = "m") -> dict[str, Seen]:
    seen: dict[str, Seen] = {}
    for now, each in looks:
        seen = look(seen, {name: each}, now)
    return seen


def red_at(now: float, *looks: tuple[float, Sight]) -> bool:
    return judge("e", seen_at(*looks), now).red


@pytest.mark.parametrize(
    ("red", "looks"),
    [
        (True, [(0, sight()), (PATIENCE, sight())]),
        (True, [(0, sight()), (30, sight(9)), (PATIENCE, sight(6))]),  # it went up and down, never below the first
        (False, [(0, sight()), (PATIENCE - 0.1, sight())]),
        (False, [(0, sight()), (PATIENCE, sight(done=8))]),  # an attempt ended
        (False, [(0, sight()), (PATIENCE, sight(4))]),  # others work on it
        (False, [(0, sight()), (30, sight(0)), (PATIENCE, sight())]),  # nothing waited in between
        (False, [(0, sight(0)), (PATIENCE, sight(0))]),
        (False, [(0, sight(0)), (PATIENCE, sight())]),  # it came just now
        (False, [(0, sight(held="stopped")), (PATIENCE, sight(held="stopped"))]),
        (False, [(0, sight(held="stopped")), (PATIENCE, sight())]),  # it may run only since now
        (False, [(0, sight(within_seconds=900)), (PATIENCE, sight(within_seconds=900))]),  # a call may take so long
        (True, [(0, sight(0, trouble="it can't run"))]),
        (True, [(0, sight(0, trouble="it can't run", held="stopped"))]),
    ],
)
def test_lag_that_grows_while_nothing_completes_is_red(red: bool, looks: list[tuple[float, Sight]]) -> None:
    assert red_at(looks[-1][0], *looks) is red


@given(LOOKS)
def test_it_is_red_exactly_if_something_waited_all_the_time_and_nothing_was_done(
    looks: list[tuple[float, int, int, bool]],
) -> None:
    now, history, seen = 0.0, list[tuple[float, Sight]](), dict[str, Seen]()
    for pause, waiting, done, held in looks:
        now += pause
        history.append((now, sight(waiting, done, held="stopped" if held else "")))
        seen = look(seen, {"m": history[-1][1]}, now)
        since = now
        least = history[-1][1].waiting
        for at, each in reversed(history):  # back as far as it was the same, and never less than at its beginning
            if each.done != history[-1][1].done or not each.waiting or each.held:
                break
            least = min(least, each.waiting)
            if each.waiting == least:
                since = at
        last = history[-1][1]
        expected = last.waiting > 0 and not last.held and now - since >= PATIENCE
        assert judge("e", seen, now).red is expected


def test_progress_makes_it_green_again_at_once() -> None:
    looks = [(0.0, sight()), (PATIENCE, sight())]
    assert red_at(PATIENCE, *looks)
    assert not red_at(PATIENCE + 5, *looks, (PATIENCE + 5, sight(9, 8)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"failed": True, "running": 1}, "The last attempt failed, and it is tried again and again: `lambent invoke f"),
        ({"running": 2}, "2 calls of f run: look what they wait for."),
        ({}, "No call of f runs: `lambent why ID` of one of the messages tells what holds it up"),
    ],
)
def test_what_is_red_says_what_to_do_next(fields: dict[str, Any], said: str) -> None:
    (found,) = judge("e", seen_at((0, sight(**fields)), (80, sight(**fields))), 80).findings
    assert found.sentences[0] == "Of its messages at least 5 wait, and for 80 seconds nothing was done."
    assert found.sentences[1].startswith(said)


def test_shards_of_a_mapping_are_one_finding_that_names_those_that_stand_still() -> None:
    still = sight(2, "p", items="records", subject="stream:s → f")
    moving = [replace(still, done="p"), replace(still, done="q")]
    seen: dict[str, Seen] = {}
    for now, other in zip((0.0, 70.0), moving, strict=True):
        seen = look(seen, {**{f"m/shard-{n}": still for n in range(5)}, "m/shard-9": other}, now)
    (found,) = judge("e", seen, 70).findings
    assert found.red
    assert found.sentences[0] == (
        "Of its records at least 10 wait in shard-0, shard-1, shard-2 and 2 more, and for 70 seconds nothing was done."
    )


def test_a_function_that_is_stopped_on_purpose_is_stated_and_green() -> None:
    found = judge("e", seen_at((0, sight(held="It is stopped.")), (90, sight(held="It is stopped."))), 90)
    assert found == Health(1, (Finding("e", "queue:q → f", False, ("It is stopped.",)),))


def test_what_is_no_longer_there_is_forgotten() -> None:
    assert look(seen_at((0, sight())), {}, 5) == {}


def test_engines_are_well_together_if_each_says_so() -> None:
    one, other = judge("one", {}, 0), judge("other", {}, 0, [BLOCKED])
    assert not together(1, [one]).red
    assert together(2, [one, other]).findings == (Finding("other", "engine", True, (BLOCKED,)),)
    assert together(0, []).findings[0].sentences == (NOBODY,)
    silent = together(3, [one, one])
    assert silent.red
    assert silent.findings[0].sentences[0].startswith("1 of 3 engines do not tell how they are")
    assert not together(1, [one, one]).red  # one of them has just ended well
    assert Health.of(json.loads(json.dumps(silent.document()))) == silent
