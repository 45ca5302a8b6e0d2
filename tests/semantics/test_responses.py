"""How the answer to a batch is read where the mapping reports batch item failures (invariant 19, fault F38)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.semantics.responses import AllSucceeded, NoneSucceeded, SomeFailed, judge

IDS = ("a", "b", "c")


def failures(*items: object) -> dict[str, object]:
    return {"batchItemFailures": list(items)}


def item(identifier: object) -> dict[str, object]:
    return {"itemIdentifier": identifier}


@pytest.mark.parametrize(
    "value",
    [None, "", [], (), {}, failures(), {"batchItemFailures": None}, {"state": {"sum": 1}}, {"statusCode": 200}],
    ids=repr,
)
def test_an_answer_without_failures_is_full_success(value: object) -> None:
    assert judge(value, IDS) == AllSucceeded()


@pytest.mark.parametrize(
    "value",
    [
        failures(item(123)),
        failures(item("")),
        failures(item(None)),
        failures(item("unknown")),
        failures(item(["a"])),
        failures({"foo": 123}),
        failures({"foo": None}),
        failures({"foo": "notvalid"}),
        failures({}),
        failures(None),
        failures("a"),
        failures(item("a"), item("unknown")),
        failures(item("a"), {}),
        {"batchItemFailures": "a"},
        {"batchItemFailures": ""},
        {"batchItemFailures": {}},
        {"batchItemFailures": item("a")},
        {"batchItemFailures": 0},
        {"batchItemFailures": False},
        [item("a")],
        "a",
        "{}",
        " ",
        0,
        1,
        False,
        True,
        1.5,
    ],
    ids=repr,
)
def test_an_answer_that_cannot_be_read_is_full_failure(value: object) -> None:
    assert judge(value, IDS) == NoneSucceeded()


def test_the_records_that_are_named_failed() -> None:
    assert judge(failures(item("b"), item("c")), IDS) == SomeFailed(frozenset({"b", "c"}))


def test_a_record_named_twice_failed_once() -> None:
    assert judge(failures(item("b"), item("b")), IDS) == SomeFailed(frozenset({"b"}))


def test_naming_every_record_is_full_failure() -> None:
    assert judge(failures(*map(item, IDS)), IDS) == NoneSucceeded()


def test_a_failure_may_carry_other_members() -> None:
    assert judge(failures({"itemIdentifier": "a", "why": "closed"}), IDS) == SomeFailed(frozenset({"a"}))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from([*IDS, "", "itemIdentifier"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["batchItemFailures", "itemIdentifier", "state"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_no_answer_crashes_and_only_records_of_the_batch_can_fail(value: object) -> None:
    match judge(json.loads(json.dumps(value)), IDS):
        case SomeFailed(failed):
            assert failed < set(IDS)
            assert failed
        case judgement:
            assert judgement in (AllSucceeded(), NoneSucceeded())
