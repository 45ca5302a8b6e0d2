"""What becomes of a queue's messages after their batch (invariants 26 and 33)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.model import Delete, Failed, Message, Outcome, Release, Succeeded, Throttled, Unavailable
from lambent.semantics import queue

SUCCEEDED = Succeeded(b"null")
FAILED = Failed({"errorMessage": "no", "errorType": "ValueError"})


def messages(*ids: str, group: str | None = None) -> list[Message]:
    return [Message(each, "{}", f"receipt-{each}", 1, 100.0, 101.0, group=group) for each in ids]


def named(*ids: object) -> dict[str, object]:
    return {"batchItemFailures": [{"itemIdentifier": each} for each in ids]}


def deleted(*ids: str) -> tuple[Delete, ...]:
    return tuple(Delete(f"receipt-{each}") for each in ids)


def test_a_batch_that_succeeded_is_deleted() -> None:
    assert queue.after(messages("a", "b"), SUCCEEDED, None, partial=False, now=5.0) == deleted("a", "b")


def test_a_batch_that_failed_comes_back_by_its_visibility_timeout() -> None:
    assert queue.after(messages("a", "b"), FAILED, None, partial=True, now=5.0) == ()


def test_of_a_batch_that_failed_in_part_only_the_rest_is_deleted() -> None:
    batch = messages("a", "b", "c")
    assert queue.after(batch, SUCCEEDED, named("b"), partial=True, now=5.0) == deleted("a", "c")


def test_without_report_batch_item_failures_the_answer_is_ignored() -> None:
    batch = messages("a", "b")
    assert queue.after(batch, SUCCEEDED, named("a"), partial=False, now=5.0) == deleted("a", "b")


@pytest.mark.parametrize("value", [named("unknown"), named(None), named(""), {"batchItemFailures": [{"foo": 1}]}, "no"])
def test_an_answer_that_cannot_be_read_deletes_nothing(value: object) -> None:
    assert queue.after(messages("a", "b"), SUCCEEDED, value, partial=True, now=5.0) == ()


@pytest.mark.parametrize("value", [None, "", {}, [], named(), {"batchItemFailures": None}])
def test_an_answer_that_names_nothing_deletes_the_batch(value: object) -> None:
    assert queue.after(messages("a", "b"), SUCCEEDED, value, partial=True, now=5.0) == deleted("a", "b")


def test_of_a_fifo_group_the_messages_behind_a_failed_one_are_deleted_unless_named_too() -> None:
    batch = messages("a", "b", "c", group="g")
    assert queue.after(batch, SUCCEEDED, named("b"), partial=True, now=5.0) == deleted("a", "c")
    assert queue.after(batch, SUCCEEDED, named("b", "c"), partial=True, now=5.0) == deleted("a")


@pytest.mark.parametrize("outcome", [Throttled("ConcurrentInvocationLimitExceeded"), Unavailable("no environment")])
def test_a_throttled_batch_goes_back_at_once_and_its_receive_is_not_counted(outcome: Outcome) -> None:
    assert queue.after(messages("a", "b"), outcome, None, partial=True, now=5.0) == (
        Release("receipt-a", 5.0, give_back=True),
        Release("receipt-b", 5.0, give_back=True),
    )


IDS = ("a", "b", "c", "d")


@given(
    failed=st.lists(st.sampled_from([*IDS, "unknown", None]), max_size=6),
    outcome=st.sampled_from([SUCCEEDED, FAILED, Throttled("x"), Unavailable("x")]),
    partial=st.booleans(),
)
def test_a_message_is_deleted_only_after_a_success_that_covers_it(
    failed: list[object], outcome: Outcome, partial: bool
) -> None:
    settlements = queue.after(messages(*IDS), outcome, named(*failed), partial, now=5.0)
    gone = {settlement.receipt for settlement in settlements if isinstance(settlement, Delete)}
    if gone:
        assert outcome is SUCCEEDED
        assert not partial or gone.isdisjoint(f"receipt-{each}" for each in failed)
    assert len({settlement.receipt for settlement in settlements}) == len(settlements)
