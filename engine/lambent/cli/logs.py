"""`lambent logs`: what a function printed and logged, and what the platform said of its invocations.

Decides how a line looks to people: what the platform says stands out, and nothing that a function prints can pass for
it or steer the terminal. Where lines come from is `log_files.py`'s.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from lambent.cli.terminal import (
    DEFAULT_STORE,
    FAILED,
    INTERRUPTED,
    USAGE,
    JsonOption,
    StoreOption,
    fail,
    note,
    plain,
    say,
    say_json,
)
from lambent.errors import InvalidParameterValue
from lambent.log_files import LogReader, document
from lambent.logs import LogEntry, timestamp
from lambent.sources import beside, load_store
from lambent.world import SystemClock

FOLLOW_SECONDS: Final = 0.25  # between two looks for what is new
LINES: Final = 1000
HANDLERS: Final = "What a handler in the engine's own process prints is kept with Engine(log_in_process=True)."
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def logs(
    function: Annotated[str, typer.Argument(help="A function's name.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    request_id: Annotated[str | None, typer.Option(metavar="ID", help="Only of this invocation.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="10m, 2h, 3d, or a time as 2026-11-26T15:00Z.")] = (
        None
    ),
    lines: Annotated[int, typer.Option(min=0, help="The last so many of what is there; 0: all.")] = LINES,
    directory: Annotated[
        Path | None,
        typer.Option(envvar="LAMBENT_LOG_DIRECTORY", help="Where logs are, if not beside the store's file."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """What a function printed, and what became of its calls.

    What the platform says of them, START, END and REPORT, is marked `>`. Ends with 1 if there is nothing."""
    try:
        found = directory or beside(load_store(store), "logs")
        if found is None:
            fail(f"{store} is no file with logs beside it: name the engines' log_directory with --directory", USAGE)
        reader = LogReader(found, function, request_id=request_id, since=_epoch(since))
    except InvalidParameterValue as error:
        fail(error.message, USAGE)
    news = reader.news()
    for entry in deque(news, maxlen=lines) if lines else news:
        _show(entry, as_json)
    if not news and not follow:
        note(f"Nothing of {function} in {found}. {HANDLERS}")
        raise typer.Exit(FAILED)
    if follow:
        try:
            asyncio.run(_follow(reader, as_json))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


async def _follow(reader: LogReader, as_json: bool) -> None:
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        for entry in reader.news():
            _show(entry, as_json)


def _show(entry: LogEntry, as_json: bool) -> None:
    if as_json:
        say_json(document(entry))
        return
    at, *more = plain(entry.text.replace("\r", "")).split("\n")
    mark = "|" if entry.origin == "function" else ">"
    say("\n".join([f"{timestamp(entry.at)} {mark} {at}", *(f"{'':24} {mark} {line}" for line in more)]))


def _epoch(since: str | None) -> float:
    if since is None:
        return 0.0
    if span := re.fullmatch(r"(\d{1,9})([smhd])", since):
        return SystemClock().now() - int(span[1]) * _UNITS[span[2]]
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        fail(f"--since {since}: write a span as 10m, 2h or 3d, or a time as 2026-11-26T15:00Z", USAGE)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
