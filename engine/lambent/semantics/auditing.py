"""The books of a stream mapping: does what came equal what became of it?

Decides only how counts add up. In a shard, what came since the mapping began to read is what it passed, and what is
still before it; what it passed has one fate each. Where places can be counted, as in a built-in stream, the two must be
equal. Gathering the counts is `inspection.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lambent.model import Fate


@dataclass(frozen=True, slots=True)
class Account:
    """Of one shard, or of all. Counts of records; None: nobody can count them.

    came: since the mapping began to read. passed: of these, what it finished, by places. fates: what was stored of what
    it finished, by fate and reason. waiting: what is there and not finished. trying: unfinished batches with attempts.
    """

    came: int | None
    passed: int | None
    fates: Mapping[tuple[Fate, str], int]
    waiting: int | None
    trying: int = 0
    ended: bool = False

    def count(self, fate: Fate) -> int:
        """How many found this fate, whatever the reason."""
        return sum(count for (each, _), count in self.fates.items() if each == fate)

    @property
    def told(self) -> int:
        """How many found a fate."""
        return sum(self.fates.values())

    @property
    def trimmed(self) -> int | None:
        """What the stream dropped before it was read: it is counted as lost when the mapping comes to it."""
        if self.came is None or self.passed is None or self.waiting is None:
            return None
        return self.came - self.passed - self.waiting

    @property
    def balanced(self) -> bool | None:
        """Does each record that was passed have one fate? None: that cannot be known."""
        return None if self.passed is None else self.passed == self.told


@dataclass(frozen=True, slots=True)
class Audit:
    """The books of a mapping, by shard."""

    mapping: str
    source: str
    function: str
    shards: Mapping[str, Account]

    @property
    def total(self) -> Account:
        """All shards together."""
        accounts = list(self.shards.values())
        fates: Counter[tuple[Fate, str]] = Counter()
        for each in accounts:
            fates.update(each.fates)
        return Account(
            came=_sum([each.came for each in accounts]),
            passed=_sum([each.passed for each in accounts]),
            fates=dict(fates),
            waiting=_sum([each.waiting for each in accounts]),
            trying=sum(each.trying for each in accounts),
            ended=all(each.ended for each in accounts),
        )

    @property
    def balanced(self) -> bool | None:
        """Is every shard balanced? A shortage in one does not make up for an excess in another."""
        found = [each.balanced for each in self.shards.values()]
        return False if False in found else None if None in found else True


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
