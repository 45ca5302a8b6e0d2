"""What clients of a store were told, kept outside of it, and whether a store that comes back has kept its word.

Decides what must be found after a crash: what was acknowledged, exactly; and of each call that was never answered all
or nothing. Knows keys and states, which are texts, and nothing of stores: `work.py` says which call leads to which
state, and reads what a store holds. Every entry is JSON, so that a child process can write its ledger to a pipe.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ANY = "*"
"""A state that only the answer tells: whatever is found is right, as long as there is something."""

Changes = Mapping[str, str | None]  # None: gone


class Ledger:
    """Call `began` before a call of a store, and `done` after its answer; entries may be written out and read back."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.acknowledged = 0
        """How many calls were answered."""
        self.unanswered = 0
        """How many were not, up to now."""
        self.states: dict[str, str] = {}
        """What must be there."""
        self._open: dict[int, tuple[Changes, bool]] = {}
        self._before: dict[int, dict[str, str]] = {}  # what was there when a call began
        self._number = 0
        self._tell = tell

    def began(self, changes: Changes, together: bool = True) -> int:
        """A call is about to be made that leads to these states: to all or none, or (not `together`) to any of them."""
        self._number += 1
        self._write("began", self._number, changes, together)
        return self._number

    def widened(self, number: int, changes: Changes) -> None:
        """A call that is not yet answered may lead to these, too."""
        self._write("widened", number, changes)

    def done(self, number: int, changes: Changes | None = None) -> None:
        """It was answered, which tells what it led to. None: to what it should, unless that has gone on already: who
        sends something may hear of it later than who has received it."""
        if changes is None:
            before = self._before[number]
            changes = {key: to for key, to in self._open[number][0].items() if self.states.get(key) == before.get(key)}
        self._write("done", number, changes)

    def read(self, line: str) -> None:
        """What another process wrote."""
        what, *rest = json.loads(line)
        getattr(self, f"_{what}")(*rest)

    def possible(self) -> dict[str, str]:
        """What must be there, and what may be because a call that brings it is not yet answered."""
        coming = {key: state for changes, _ in self._open.values() for key, state in changes.items() if state}
        return {**coming, **self.states}

    def known(self) -> set[str]:
        """Every key that may be there."""
        return {*self.states}.union(*(changes for changes, _ in self._open.values()))

    def check(self, found: Mapping[str, str]) -> list[str]:
        """What is wrong with what a store holds now, each a sentence. From then on what is found is what must be."""
        problems = []
        doubtful: dict[str, list[str | None]] = {}  # what it was, and then would be by each of the calls in turn
        for changes, _ in self._open.values():
            for key, state in changes.items():
                doubtful.setdefault(key, [self.states.get(key)]).append(state)
        before = Counter[str]()
        for number, (changes, together) in self._open.items():
            self.unanswered += 1
            before.update(changes.keys())
            came = {key: _is_one(found.get(key), doubtful[key][before[key] :]) for key in changes}
            stayed = {key: _is_one(found.get(key), doubtful[key][: before[key]]) for key in changes}
            if not all(came[key] or stayed[key] for key in changes):
                key = next(key for key in changes if not came[key] and not stayed[key])
                problems.append(
                    f"{key} is {found.get(key)}: neither {self.states.get(key)}, as it was, nor {changes[key]}, as the "
                    f"unanswered call {number} would have it"
                )
            elif together and not all(came.values()) and not all(stayed.values()):
                problems.append(f"call {number} was not answered and is half done: {came}")
        for key in sorted(self.states.keys() | found.keys()):
            if key not in doubtful and found.get(key) != self.states.get(key):
                problems.append(f"{key} is {found.get(key)} and was acknowledged as {self.states.get(key)}")
        self.states = dict(found)
        self._open.clear()
        self._before.clear()
        return problems

    def _write(self, *entry: Any) -> None:
        if self._tell is not None:
            self._tell(json.dumps(entry))
        what, *rest = entry
        getattr(self, f"_{what}")(*rest)

    def _began(self, number: int, changes: Changes, together: bool) -> None:
        self._open[number] = changes, together
        self._before[number] = {key: self.states[key] for key in changes if key in self.states}

    def _widened(self, number: int, changes: Changes) -> None:
        before, together = self._open[number]
        self._open[number] = {**before, **changes}, together

    def _done(self, number: int, changes: Changes) -> None:
        del self._open[number], self._before[number]
        self.acknowledged += 1
        for key, state in changes.items():
            if state is None:
                self.states.pop(key, None)
            else:
                self.states[key] = state


def _is_one(found: str | None, states: Sequence[str | None]) -> bool:
    return found in states or (found is not None and ANY in states)
