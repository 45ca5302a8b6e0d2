"""What a batch's answer says of its records: all succeeded, none did, or these failed.

Decides how a returned value is read where the mapping reports batch item failures (FunctionResponseTypes
ReportBatchItemFailures); without that the value is ignored and this is not asked. What follows from the judgement is
`queue.py`'s and `stream.py`'s.

The table of odd answers is AWS's (Lambda developer guide, «Reporting batch item failures», and recorded answers):
nothing, an empty text or list, and an object whose failures are missing, null or empty count as full success; a name
that is missing, null, empty, not a text or not in the batch, and any other shape, as full failure: where the answer
cannot be read, a record too many is tried again, never one too few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lambent.semantics.kafka import position_named

_ITEMS: Final = "batchItemFailures"
_IDENTIFIER: Final = "itemIdentifier"


@dataclass(frozen=True, slots=True)
class AllSucceeded:
    """Every record is done."""


@dataclass(frozen=True, slots=True)
class NoneSucceeded:
    """No record is done."""


@dataclass(frozen=True, slots=True)
class SomeFailed:
    """These records failed (never empty); of a queue the others are done, of a stream those before the first."""

    failed: frozenset[str]


Judgement = AllSucceeded | NoneSucceeded | SomeFailed


def judge(value: object, ids: Sequence[str]) -> Judgement:
    """Judge the decoded answer `value` to a batch whose records are named `ids`: message ids of a queue, positions of
    a shard, or a Kafka partition with an offset. All ids named is `NoneSucceeded` too."""
    if value is None or (isinstance(value, str | list | tuple) and not value):
        return AllSucceeded()
    if not isinstance(value, Mapping):
        return NoneSucceeded()
    items = value.get(_ITEMS)
    if items is None:  # also where it is missing: a tumbling window's answer has `state` alone
        return AllSucceeded()
    if not isinstance(items, list | tuple):
        return NoneSucceeded()
    known = frozenset(ids)
    failed: set[str] = set()
    for item in items:
        identifier = item.get(_IDENTIFIER) if isinstance(item, Mapping) else None
        if isinstance(identifier, Mapping):
            identifier = position_named(identifier)
        if not isinstance(identifier, str) or identifier not in known:
            return NoneSucceeded()
        failed.add(identifier)
    if not failed:
        return AllSucceeded()
    return NoneSucceeded() if failed == known else SomeFailed(frozenset(failed))
