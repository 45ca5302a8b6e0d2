"""`lambent advise`: settings that lose time or events, and a picture of how others would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lambent.cli.terminal import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    fail,
    note,
    say,
    say_json,
    show,
    with_client,
)
from lambent.client import Client
from lambent.semantics.advising import MINIMUM_CALLS, Advice, Replayed, Sweep


def advise(
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw delay against calls, a panel a mapping (PNG, SVG, PDF).")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Settings that lose time or events, as traffic shows.

    On the traffic that engines observed: batch sizes, windows and lanes are replayed on what came, and on how long
    calls took: a model, without failures."""

    async def advised(client: Client) -> None:
        advice, sweeps = await client.advise()
        if as_json:
            say_json({"advice": [asdict(each) for each in advice], "sweeps": [document(each) for each in sweeps]})
        else:
            for each in advice:
                _tell(each)
            if not advice:
                note("Nothing that was observed loses time or events.")
            for sweep in sweeps:
                _show(sweep)
            if not sweeps:
                note(f"No mapping was observed in {MINIMUM_CALLS} calls yet.")
        if plot is not None:
            draw(sweeps, plot)

    with_client(store, advised)


def document(sweep: Sweep) -> dict[str, Any]:
    """A sweep, for scripts."""
    return {
        "subject": sweep.subject,
        "calls": sweep.traffic.calls,
        "records": sweep.traffic.records,
        "seconds_of_a_call": sweep.duration.fixed,
        "seconds_of_a_record": sweep.duration.per_record,
        "now": asdict(sweep.now),
        "swept": [asdict(each) for each in sweep.swept],
    }


def draw(sweeps: Sequence[Sweep], path: Path) -> None:
    """One panel a mapping: what 99 of 100 records wait, against calls; batch sizes are lines, the present is marked."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        fail("--plot needs matplotlib: pip install 'lambent[plot]'")
    figure = Figure(figsize=(8, 4.5 * max(1, len(sweeps))), layout="constrained")
    for number, sweep in enumerate(sweeps, 1):
        panel = figure.add_subplot(len(sweeps), 1, number)
        for size in sorted({each.settings.batch_size for each in sweep.swept}):
            line = sorted((each for each in sweep.swept if each.settings.batch_size == size), key=_calls)
            panel.plot([each.calls for each in line], [each.p99_seconds for each in line], "o-", label=f"{size}")
        panel.plot([sweep.now.calls], [sweep.now.p99_seconds], "k*", markersize=14, label="now")
        panel.set(title=sweep.subject, xlabel="calls", ylabel="seconds to the end of 99 of 100", xscale="log")
        panel.set_yscale("log")
        panel.legend(title="batch_size")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        fail(f"--plot {path}: {error}")


def _calls(each: Replayed) -> int:
    return each.calls


def _tell(each: Advice) -> None:
    say(f"{each.subject} loses {each.loses}: {each.setting} is {each.now}; {each.better} would be better")
    say(f"  {each.reason}")


def _show(sweep: Sweep) -> None:
    cost = f"{1000 * sweep.duration.fixed:.1f} ms, and {1000 * sweep.duration.per_record:.2f} ms a record"
    say(f"{sweep.subject}: {sweep.traffic.calls} calls observed; one takes {cost}")
    rows = [_row("now", sweep.now), *(_row("", each) for each in sweep.swept)]
    show(("", "BATCH", "WINDOW", "CALLS", "MEAN", "99 %", "BUSY"), rows, empty="")


def _row(name: str, each: Replayed) -> list[object]:
    of = each.settings
    seconds = (f"{each.mean_seconds:.2f} s", f"{each.p99_seconds:.2f} s")
    return [name, of.batch_size, f"{of.window_seconds:g} s", each.calls, *seconds, f"{each.busy:.0%}"]
