"""`make run`: plays all departures with live progress, prints the tables, writes flights.png. Exits 1 if any total
differs from the file.

Decides only what it looks like.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.flights.data import Truth, departures, truth
from examples.flights.picture import Sample, draw
from examples.flights.play import PUTS_PER_SECOND, Played, audit, lines, play

ALL = 336_776


def main() -> int:
    options = _options()
    console = Console()
    count = min(options.limit or ALL, ALL)
    with _progress(console) as progress:
        bars = {
            name: progress.add_task(text, total=count if name == "put" else None, figure="")
            for name, text in (
                ("put", "departures put into the stream"),
                ("delivered", "stream: departures added up"),
                ("isolated", "stream: poison isolated"),
                ("rebooked", "queue: passengers rebooked"),
                ("alerts", "async: long delays alerted"),
                ("queries", "sync: airports queried"),
            )
        }

        def show(sample: Sample) -> None:
            for name, bar in bars.items():
                amount = getattr(sample, name)
                total = count if name == "put" else sample.put - sample.isolated if name == "delivered" else None
                progress.update(bar, completed=amount, total=total, figure=f"{amount:,}")

        played = asyncio.run(
            play(departures(options.limit), seed=options.seed, per_second=options.per_second, show=show)
        )
    expected = truth(options.limit)
    console.print(_fates(played), _totals(played, expected))
    draw(played.samples, options.picture)
    console.print(f"{len(played.put):,} departures in {played.seconds:.1f} s; the picture is {options.picture}")
    for complaint in (wrong := audit(played, expected)):
        console.print(f"[red]{complaint}[/red]")
    console.print("[red]The totals differ.[/red]" if wrong else "[green]Every total equals the file's.[/green]")
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description=__doc__)
    parser.add_argument("--limit", type=int, help="only the first departures")
    parser.add_argument("--seed", type=int, default=2013, help="decides which tries fail (2013)")
    parser.add_argument("--per-second", type=float, default=PUTS_PER_SECOND, help="departures put in a second")
    parser.add_argument("--picture", type=Path, default=Path("flights.png"), help="where the picture goes")
    return parser.parse_args()


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figure]:>9}"))
    return Progress(*columns, TaskProgressColumn(show_speed=True), TimeElapsedColumn(), console=console)


def _fates(played: Played) -> Table:
    names = ("", "input", "delivered", "filtered", "failed", "duplicates", "failed attempts")
    table = Table(*names, title="What became of every departure, rebooking, alert and query")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in lines(played):
        figures = (line.input, line.delivered, line.filtered, line.failed, line.duplicates, line.failed_attempts)
        table.add_row(line.model, *(f"{figure:,}" for figure in figures))
    return table


def _totals(played: Played, expected: Truth) -> Table:
    table = Table("", "departures", "in the file", "minutes of delay", "in the file", title="Totals")
    for column in table.columns[1:]:
        column.justify = "right"
    found = played.board.total
    for group in sorted(expected.departed, key=lambda group: (len(group), group)):
        figures = (
            found["departed"].get(group, 0),
            expected.departed[group],
            found["minutes"].get(group, 0),
            expected.minutes[group],
        )
        table.add_row(group, *(f"{figure:,}" for figure in figures))
    return table


if __name__ == "__main__":
    sys.exit(main())
