"""`make run`: plays all departures with live progress, prints the tables, writes flights.png. Exits 1 if any total
differs from the file. What was interrupted, even by `kill -9`, goes on where it was when it is started again.

    python -m examples.flights --store redis://localhost:6379 --engines 3     by three engines that share a Redis
    python -m examples.flights --store redis://localhost:6379 --elsewhere     by engines that others started (served.py)

Decides what it looks like, and which run it is: the one that was interrupted, or a new one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.flights.app import flights
from examples.flights.board import Board
from examples.flights.data import Truth, departures, truth
from examples.flights.engines import Engines, elsewhere, in_processes
from examples.flights.picture import Sample, draw
from examples.flights.play import PUTS_PER_SECOND, Played, audit, in_this_process, lines, play, settled
from lambent import StoreUnavailable

ALL = 336_776
ENGINE_FILE, BOARD_FILE, ENGINES_LOG = Path("flights.db"), Path("flights-board.db"), Path("flights-engines.log")
SQLITE_ENDINGS = ("", "-wal", "-shm")  # of the files that SQLite makes of one


def main() -> int:
    asked = options()
    console = Console()
    count = min(asked.limit or ALL, ALL)
    board = board_of(asked)
    if board.mark("begun"):
        done = int(board.mark("put", "0"))
        console.print(f"A run was interrupted; it goes on after {done:,} departures (--fresh starts over).")
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

        try:
            if asked.elsewhere:
                serving = elsewhere(asked.store)
            elif asked.engines:
                engines = Engines(asked.store, BOARD_FILE, asked.seed, ENGINES_LOG, asked.departures)
                serving = in_processes(engines, asked.engines)
            else:
                serving = in_this_process(flights(board, asked.store, asked.seed, asked.departures))
            played = asyncio.run(play(board, serving, departures(asked.limit), per_second=asked.per_second, show=show))
        except StoreUnavailable as unavailable:
            raise SystemExit(str(unavailable)) from None
    expected = truth(asked.limit)
    console.print(_fates(played), _totals(played, expected))
    draw(played.samples, asked.picture)
    console.print(f"{played.put:,} departures in {played.seconds:.1f} s; the picture is {asked.picture}")
    for complaint in (wrong := audit(played, expected)):
        console.print(f"[red]{complaint}[/red]")
    if played.resumed:
        console.print("It was interrupted: duplicates are what was under way then, and done again.")
    console.print("[red]The totals differ.[/red]" if wrong else "[green]Every total equals the file's.[/green]")
    if settled(played):
        board.note("finished", True)
    return 1 if wrong else 0


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description=__doc__)
    parser.add_argument("--limit", type=int, help="only the first departures")
    parser.add_argument("--seed", type=int, default=2013, help="decides which tries fail (2013)")
    parser.add_argument("--per-second", type=float, default=PUTS_PER_SECOND, help="departures put in a second")
    parser.add_argument("--fresh", action="store_true", help="start over, even if a run was interrupted")
    parser.add_argument("--store", default=f"sqlite:///{ENGINE_FILE}", help="where the engine keeps everything")
    parser.add_argument("--engines", type=int, default=0, help="in processes of their own (default: one, in this one)")
    parser.add_argument("--departures", default="departures", metavar="URL", help="a topic of Kafka that has them")
    parser.add_argument("--elsewhere", action="store_true", help="the engines run already, with this board")
    parser.add_argument("--picture", type=Path, default=Path("flights.png"), help="where the picture goes")
    return parser.parse_args(arguments)


def board_of(asked: argparse.Namespace) -> Board:
    """The board of a run that was interrupted, if it had the same options; else an empty one, and no engine's file.
    One that engines elsewhere have open is not removed: it is the board, or nothing is done."""
    run = f"seed {asked.seed}, {asked.limit} departures, {asked.store}, {asked.departures}"
    if asked.elsewhere:
        board = Board(BOARD_FILE)
        if board.mark("run", run) != run:
            raise SystemExit(f"{BOARD_FILE} and the store are of another run ({board.mark('run')}): remove both.")
        board.note("run", run)
        return board
    own = asked.store == f"sqlite:///{ENGINE_FILE}"
    if not asked.fresh and BOARD_FILE.exists() and (ENGINE_FILE.exists() or not own):
        board = Board(BOARD_FILE)
        if board.mark("run") == run and not board.mark("finished"):
            return board
        board.close()
    for file in (ENGINE_FILE, BOARD_FILE):
        for ending in SQLITE_ENDINGS:
            file.with_name(file.name + ending).unlink(missing_ok=True)
    board = Board(BOARD_FILE)
    board.note("run", run)
    return board


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
    for group in sorted(expected.departed, key=lambda group: (len(group), group)):
        departed, minutes = played.board.total(group)
        figures = (departed, expected.departed[group], minutes, expected.minutes[group])
        table.add_row(group, *(f"{figure:,}" for figure in figures))
    return table


if __name__ == "__main__":
    sys.exit(main())
