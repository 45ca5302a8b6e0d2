"""Books balance if each record that was passed has one fate."""

from __future__ import annotations

import pytest

from lambent.semantics.auditing import Account, Audit

DELIVERED = ("delivered", "")
EXHAUSTED = ("failed", "RetryAttemptsExhausted")
TOO_OLD = ("failed", "RecordAgeExceeded")


def test_a_shard_is_balanced_if_what_was_passed_has_one_fate_each() -> None:
    account = Account(10, 7, {DELIVERED: 4, EXHAUSTED: 1, TOO_OLD: 2}, 3)
    assert (account.told, account.count("failed"), account.count("lost"), account.trimmed) == (7, 3, 0, 0)
    assert account.balanced


@pytest.mark.parametrize("delivered", [6, 8])
def test_a_record_without_a_fate_or_with_two_is_noticed(delivered: int) -> None:
    assert Account(7, 7, {DELIVERED: delivered}, 0).balanced is False


def test_what_a_stream_dropped_unread_is_told() -> None:
    assert Account(10, 4, {DELIVERED: 4}, 1).trimmed == 5


def test_an_excess_in_one_shard_does_not_make_up_for_a_shortage_in_another() -> None:
    few, many = Account(5, 5, {DELIVERED: 4}, 0), Account(5, 5, {DELIVERED: 6}, 0, 1, True)
    audit = Audit("id", "stream:s", "f", {"a": few, "b": many})
    assert (audit.total.told, audit.total.came, audit.total.trying, audit.total.ended) == (10, 10, 1, False)
    assert audit.balanced is False


def test_where_places_cannot_be_counted_nothing_is_claimed() -> None:
    audit = Audit("id", "kafka://x/t", "f", {"a": Account(None, None, {DELIVERED: 4}, None)})
    assert audit.balanced is None
    assert (audit.total.came, audit.total.passed, audit.total.told, audit.total.trimmed) == (None, None, 4, None)
    wrong = {"a": Account(None, None, {}, None), "b": Account(1, 1, {}, 0)}
    assert Audit("id", "s", "f", wrong).balanced is False
