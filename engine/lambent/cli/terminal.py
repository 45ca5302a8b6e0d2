"""What all commands share: options, exit codes, payloads, and how things are shown to people and to scripts.

Decides that people get tables and sentences, scripts JSON; that errors go to stderr; and which error ends with which
code.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from lambent.client import Client
from lambent.errors import (
    EngineStopped,
    InvalidParameterValue,
    InvalidRequestContent,
    LambentError,
    RequestTooLarge,
    ResourceNotFound,
    StoreUnavailable,
)

OK: Final = 0
FAILED: Final = 1  # what was asked for failed
USAGE: Final = 2  # what was asked for makes no sense
AWAY: Final = 3  # the store cannot be used, or no engine is there
SIGNALLED: Final = 128  # and the number of the signal that ended it, as shells have it
INTERRUPTED: Final = SIGNALLED + 2  # Ctrl-C

DEFAULT_STORE: Final = "sqlite:///lambent.db"
WIDE: Final = 250  # columns of a table that no person reads

StoreOption = Annotated[
    str, typer.Option("--store", envvar="LAMBENT_STORE", metavar="URL", help="The store that the engines work on.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts: one document, or one a line.")]


def with_client(store: str, work: Callable[[Client], Awaitable[int | None]]) -> NoReturn:
    """Do something with the store, and end with the exit code that it gives, or with that of its error."""

    async def worked() -> int | None:
        async with Client(store) as client:
            return await work(client)

    try:
        code = asyncio.run(worked())
    except LambentError as error:
        fail(f"{error.message}{_advice(error)}", _code(error))
    except UnicodeEncodeError:
        fail("a name or an id is text in UTF-8, and this is not", USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code or OK)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Say what went wrong, and end."""
    note(f"lambent: {message}")
    raise typer.Exit(code)


def check_order(command: str | None, store: str, as_json: bool) -> None:
    """Options of a list, given before the command of its group, would do nothing there: ends with that advice."""
    if as_json or store != os.environ.get("LAMBENT_STORE", DEFAULT_STORE):
        fail(f"write the options after `{command}`", USAGE)


def note(message: str) -> None:
    """Something for people, beside the answer."""
    typer.echo(message, err=True)


def say(message: str) -> None:
    """An answer."""
    typer.echo(message)


def say_json(value: object) -> None:
    """An answer for scripts, on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def say_members(document: Mapping[str, object]) -> None:
    """A document for people: one member a line, without those that say nothing."""
    for name, value in document.items():
        if value not in (None, "", {}):
            told = moment(value) if name.endswith("_at") and isinstance(value, int | float) else value
            shown = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
            say(f"{name:<14} {plain(shown)}")


def table_of(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table for people. None is a dash; numbers stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    cells = [["–" if cell is None else plain(str(cell)) for cell in row] for row in rows]
    for number, column in enumerate(columns):
        numeric = all(row[number][0].isdigit() or row[number] == "–" for row in cells if row[number])
        side: Literal["left", "right"] = "right" if numeric and cells else "left"
        table.add_column(column, overflow="fold", justify=side, min_width=len(column))
    for row in cells:
        table.add_row(*row)
    return table


def show(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table for people; `empty` is said where there are no rows."""
    table = table_of(columns, rows)
    if not table.row_count:
        note(empty)
        return
    console().print(table)


def console() -> Console:
    """Where tables are printed."""
    found = Console(markup=False, highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = WIDE
    return found


def payload(text: str | None) -> bytes:
    """What an argument stands for: itself, `@file`'s content, or with `-` what comes in. None: nothing."""
    if text is None:
        return b""
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as error:
            fail(f"{text[1:]} cannot be read: {error.strerror}", USAGE)
    return text.encode("utf-8", "surrogateescape")


def text_of(content: bytes) -> str:
    """A payload as text, which a queue's messages are."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        fail("a message is text in UTF-8, and this is not: encode it, as in base64", USAGE)


def moment(epoch_seconds: float) -> str | None:
    """A time as people read it, in UTC; 0 is none."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if epoch_seconds else None


def span(seconds: float | None) -> str | None:
    """A length of time as people read it: 850 ms, 12 s, 3 m 20 s, 5 h 12 m, 2 d 3 h."""
    if seconds is None:
        return None
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    for size, unit, smaller, rest in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // smaller:.0f} {rest}"
    return f"{seconds:.0f} s"


def plain(text: str) -> str:
    """Without what would steer the terminal: what is shown may come from anybody who can send."""
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def json_or_text(content: bytes | str) -> Any:
    """The value of JSON, or else the text itself."""
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace") if isinstance(content, bytes) else content


def _advice(error: LambentError) -> str:
    """What to do next, where AWS's words do not say it."""
    unknown = isinstance(error, ResourceNotFound) and error.message.startswith("Function not found")
    return ": `lambent functions` lists those there are" if unknown else ""


def _code(error: LambentError) -> int:
    match error:
        case InvalidParameterValue() | InvalidRequestContent() | RequestTooLarge():
            return USAGE
        case EngineStopped() | StoreUnavailable():
            return AWAY
        case _:
            return FAILED
