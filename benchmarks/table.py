"""What a benchmark answers: rows of a table, each with the bound that it must keep, if any.

Decides how rows are shown and when one is broken. Figures that are compared come from one process, interleaved, and are
medians, so that a busy machine disturbs all of them alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One figure. `most` and `least` are its bounds; `note` says how to read it."""

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def broken(self) -> bool:
        return (self.most is not None and self.value > self.most) or (
            self.least is not None and self.value < self.least
        )


def show(rows: Iterable[Row]) -> int:
    """Print the table; gives the exit status: 1 if a bound is broken."""
    rows = list(rows)
    width = max(len(row.name) for row in rows)
    for row in rows:
        bound = f"≤ {row.most:,g}" if row.most is not None else f"≥ {row.least:,g}" if row.least is not None else ""
        verdict = "BROKEN" if row.broken else "ok" if bound else ""
        print(f"{row.name:{width}}  {number(row.value):>11} {row.unit:12} {bound:>10} {verdict:7}{row.note}".rstrip())
    return int(any(row.broken for row in rows))


def rows_of(name: str) -> list[Row]:
    """What one benchmark answers; named, so that another process can be asked."""
    rows: list[Row] = import_module(f"benchmarks.{name}").rows()
    return rows


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def ratio(seconds: Mapping[str, Sequence[float]], measured: str, base: str) -> float:
    """The median over the rounds of one by the other, so that what disturbs a round cancels out."""
    return statistics.median(a / b for a, b in zip(seconds[measured], seconds[base], strict=True))


def median(values: Iterable[float]) -> float:
    return statistics.median(values)
