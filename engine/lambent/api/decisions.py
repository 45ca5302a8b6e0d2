"""The operations that decide on one function's record: their table, filled by the modules of the resources.

Decides nothing. A decision is pure: it gets what was asked and the record, changes the record if it writes, and gives
the members of the answer; it raises `Refusal`. `operations.py` fetches the record before and stores it after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from lambent.api.records import Asked, Record
from lambent.api.refusals import Refusal, not_found

Answer = dict[str, Any]
Decide = Callable[[Asked, Record], Answer]


@dataclass(frozen=True, slots=True)
class Decision:
    """What decides an operation. `missing`: the refusal if there is no such function. `knows_others`: it looks at the
    other functions, too."""

    decide: Decide
    writes: bool
    missing: Callable[[Asked], Refusal]
    knows_others: bool


DECISIONS: Final[dict[str, Decision]] = {}


def no_function(asked: Asked) -> Refusal:
    """There is no such function, as most operations say it."""
    return not_found(f"Function not found: {asked.reference.arn}")


def decides(
    operation: str,
    *,
    writes: bool = False,
    missing: Callable[[Asked], Refusal] = no_function,
    knows_others: bool = False,
) -> Callable[[Decide], Decide]:
    """The function decides this operation of the API."""

    def register(decide: Decide) -> Decide:
        DECISIONS[operation] = Decision(decide, writes, missing, knows_others)
        return decide

    return register
