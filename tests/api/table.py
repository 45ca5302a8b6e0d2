"""The table of docs/api.md: what becomes of each operation of the model. `python -m tests.api.table` writes it."""

from __future__ import annotations

from pathlib import Path

from lambent.api.invoking import Invoking
from lambent.api.operations import absent, how_done
from lambent.api.shapes import load_wire

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
BEGIN, END = "<!-- operations: begin -->\n", "<!-- operations: end -->\n"


def table() -> str:
    """As it should be."""
    lines = ["| operation | answer |", "|---|---|"]
    for name in sorted(load_wire().operations):
        how = "done" if name in Invoking.operations else how_done(name)
        there_are = {"done": "done", "empty": "an empty list: there are none", "none": f"not found: no {absent(name)}"}
        told = there_are.get(how, f"refused: there are no {how}")
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """As it is on the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def write() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    write()
