"""`lambent mappings`: how they stand, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from lambent.arns import without_password
from lambent.cli.terminal import (
    DEFAULT_STORE,
    USAGE,
    JsonOption,
    StoreOption,
    check_order,
    fail,
    note,
    say,
    say_json,
    show,
    span,
    with_client,
)
from lambent.client import Client
from lambent.resources import MappingHandle
from lambent.semantics.health import NOBODY
from lambent.standing import MappingStanding

SHORT = 8  # characters of an id that people see; as many of them as tell it from others are enough to name it
COLUMNS = ("ID", "SOURCE", "FUNCTION", "WANTED", "RUNNING", "ITERATOR AGE", "BACKLOG", "LAST RESULT")

HELP = """Mappings: how they stand; pause, resume, seek, delete them.

Without a command: list all. What runs, and with what result, is told by the running engines."""

app = typer.Typer(invoke_without_command=True, help=HELP)
Mapping = Annotated[
    str, typer.Argument(metavar="MAPPING", help="Its id or the beginning of it, its name, or SOURCE/FUNCTION.")
]


@app.callback()
def mappings(
    context: typer.Context,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand is None:
        with_client(store, lambda client: _list(client, as_json))
    check_order(context.invoked_subcommand, store, as_json)


async def _list(client: Client, as_json: bool) -> None:
    snapshots = await client.snapshots()
    standings = await client.standings(snapshots)
    if as_json:
        for each in standings:
            say_json(document(each))
        return
    rows = (cells(document(each)) for each in standings)
    show(COLUMNS, rows, empty="No mappings: declare one with engine.map(source, function).")
    if standings and not snapshots:
        note(NOBODY)


@app.command()
def pause(mapping: Mapping, store: StoreOption = DEFAULT_STORE) -> None:
    """Deliver nothing more; what is in flight ends."""
    _change(mapping, store, MappingHandle.pause, "paused")


@app.command()
def resume(mapping: Mapping, store: StoreOption = DEFAULT_STORE) -> None:
    """Go on where it was paused."""
    _change(mapping, store, MappingHandle.resume, "resumed")


@app.command()
def seek(
    mapping: Mapping,
    to: Annotated[str, typer.Option(metavar="TRIM_HORIZON|LATEST|TIME", help="TIME as 2026-03-01T12:00:00+01:00.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Read a stream from another place on.

    That is its oldest record (TRIM_HORIZON), what comes from now on (LATEST), or the first of a time."""
    place: Any = to if to in ("TRIM_HORIZON", "LATEST") else _time(to)
    _change(mapping, store, lambda handle: handle.seek(place), f"reads from {to}")


@app.command()
def delete(mapping: Mapping, store: StoreOption = DEFAULT_STORE) -> None:
    """Forget a mapping. Code that declares it brings it back at its next start, with its progress."""
    _change(mapping, store, MappingHandle.delete, "deleted")


def document(each: MappingStanding) -> dict[str, Any]:
    """How a mapping stands, for scripts."""
    mapping = each.stored.mapping
    return {
        "id": each.stored.id,
        "name": mapping.name,
        "source": without_password(mapping.source),
        "function": mapping.function,
        "wanted": each.wanted,
        "declared": each.declared,
        "running": each.running,
        "iterator_age_seconds": each.iterator_age_seconds,
        "backlog": each.backlog,
        "last_result": each.last_result,
    }


def cells(told: dict[str, Any]) -> Sequence[object]:
    """A row of the table, of a mapping's document."""
    return (
        told["name"] or told["id"][:SHORT],
        told["source"],
        told["function"],
        told["wanted"],
        "not declared" if told["declared"] is False else told["running"],
        span(told["iterator_age_seconds"]),
        told["backlog"],
        told["last_result"],
    )


async def find(client: Client, text: str) -> MappingHandle:
    """The only mapping that is meant; ends the command otherwise."""
    stored = await client.list_mappings()
    found = [
        identity
        for identity, each in stored.items()
        if text in (identity, each.mapping.name)
        or text in {f"{shown}/{each.mapping.function}" for shown in _written(each.mapping.source)}
    ]
    found = found or [identity for identity in stored if identity.startswith(text)]
    if len(found) == 1:
        return await client.mapping(found[0])
    if found:
        fail(f"{text} may be any of {', '.join(found)}: write more of it", USAGE)
    fail(f"there is no mapping {text}: `lambent mappings` lists all")


def _written(source: str) -> tuple[str, str, str]:
    """As it is, as it is shown, and by its name alone."""
    return source, without_password(source), source.partition(":")[2]


def _change(mapping: str, store: str, change: Callable[[MappingHandle], Coroutine[Any, Any, None]], said: str) -> None:
    async def changed(client: Client) -> None:
        handle = await find(client, mapping)
        await change(handle)
        say(f"{_shown(handle)}: {said}")

    with_client(store, changed)


def _shown(handle: MappingHandle) -> str:
    return f"{without_password(handle.source)} → {handle.function}"


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--to {text}: it must be TRIM_HORIZON, LATEST or a time as 2026-03-01T12:00:00+01:00", USAGE)
    return found if found.tzinfo else found.astimezone()
