"""docs/api.md says of each operation what becomes of it."""

from __future__ import annotations

from tests.api.table import table, written


def test_the_page_says_of_every_operation_how_it_is_answered() -> None:
    assert written() == table(), "python -m tests.api.table writes it anew"
