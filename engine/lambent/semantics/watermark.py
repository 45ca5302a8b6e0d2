"""Which record of a shard may be checkpointed, and which fates a checkpoint stores.

Decides only that: lanes finish records in any order, the watermark passes those below which nothing is unfinished, and
each record's fate is told once, when it is passed. What is finished above it is not told: a next owner reads it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from lambent.model import Fate, Settled

LOST: Final[tuple[Fate, str]] = ("lost", "trimmed by the source")


class Watermark:
    """Records go by ordinals, their places among what this owner has read."""

    __slots__ = ("_chunks", "_fates", "_losses", "_runs", "low", "next", "position")

    def __init__(self, position: str) -> None:
        self.position = position
        self.low = 0  # every ordinal below is finished
        self.next = 0  # the ordinal of the next record to be read
        self._chunks: deque[tuple[int, list[str]]] = deque()  # positions by first ordinal
        self._fates: dict[int, tuple[Fate, str]] = {}  # and reasons, of ordinals finished above `low`
        self._losses: deque[tuple[int, int]] = deque()  # (the ordinal that follows, how many records)
        self._runs: list[tuple[str, str, int, tuple[Fate, str]]] = []  # passed since they were last taken

    def read(self, positions: list[str]) -> range:
        """Number what was read, in its order."""
        first = self.next
        self.next += len(positions)
        self._chunks.append((first, positions))
        return range(first, self.next)

    def lose(self, count: int) -> None:
        """So many records are missing before the next one that is read. They are passed together with it: a position
        that stayed before them would make a next owner miss them again."""
        self._losses.append((self.next, count))

    def finish(self, ordinals: Sequence[int], fate: Fate, reason: str = "") -> None:
        """These are finished; the watermark moves as far as nothing unfinished lies below."""
        if not ordinals:
            return
        if ordinals[0] == self.low and ordinals[-1] - ordinals[0] == len(ordinals) - 1:
            self._pass(ordinals[-1] + 1, (fate, reason))
        else:
            self._fates.update(dict.fromkeys(ordinals, (fate, reason)))
        fates = self._fates
        while (found := fates.pop(self.low, None)) is not None:
            end = self.low + 1
            while fates.get(end) == found:
                del fates[end]
                end += 1
            self._pass(end, found)

    def settled(self, ended: bool) -> tuple[Settled, ...]:
        """The fates of what was passed since this was last asked; `ended`: nothing follows, what is missing is lost."""
        if ended:
            self._pass(self.low + 1, None)
        runs, self._runs = self._runs, []
        return tuple([Settled(first, last, count, *what) for first, last, count, what in runs])

    def _pass(self, end: int, what: tuple[Fate, str] | None) -> None:
        """Everything below this ordinal found this fate (None: there is only what is missing)."""
        while self._losses and self._losses[0][0] < end:
            at, lost = self._losses.popleft()
            if what is not None:
                self._move(at, what)
            self._runs.append(("", "", lost, LOST))
        if what is not None:
            self._move(end, what)

    def _move(self, end: int, what: tuple[Fate, str]) -> None:
        count = end - self.low
        if not count:
            return
        first, positions = self._chunks[0]
        begin = positions[self.low - first]
        self.low = end
        while self._chunks and self._chunks[0][0] < end:
            first, positions = self._chunks[0]
            self.position = positions[min(end - first, len(positions)) - 1]
            if first + len(positions) > end:
                break
            self._chunks.popleft()
        if self._runs and self._runs[-1][3] == what:
            begin, _, before, _ = self._runs[-1]
            self._runs[-1] = (begin, self.position, before + count, what)
        else:
            self._runs.append((begin, self.position, count, what))
