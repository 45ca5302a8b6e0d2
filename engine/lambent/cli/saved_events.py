"""`lambent test-events`: events that are saved with a function, to call it with again."""

from __future__ import annotations

from typing import Annotated

import typer

from lambent.cli.calling import PAYLOAD
from lambent.cli.terminal import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    json_or_text,
    payload,
    say,
    say_json,
    show,
    with_client,
)
from lambent.client import Client

app = typer.Typer(no_args_is_help=True, help="Events saved with a function, for `invoke --test-event`.")

Function = Annotated[str, typer.Argument(help="A function's name.")]
Name = Annotated[str, typer.Argument(help="The event's name.")]


@app.command("list")
def list_events(function: Function, store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """The test events of a function."""

    async def listed(client: Client) -> None:
        found = await client.test_events(function)
        if as_json:
            for name, text in found.items():
                say_json({"name": name, "event": json_or_text(text.encode())})
            return
        empty = f"No test events: save one with `lambent test-events put {function} NAME EVENT`."
        show(("NAME", "CHARACTERS"), ([name, len(text)] for name, text in found.items()), empty=empty)

    with_client(store, listed)


@app.command()
def put(
    function: Function,
    name: Name,
    event: Annotated[str, typer.Argument(metavar="EVENT", help=PAYLOAD)] = "-",
    force: Annotated[bool, typer.Option("--force", help="In the place of another of this name.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Save an event with a function."""
    content = payload(event)

    async def saved(client: Client) -> None:
        await client.put_test_event(function, name, content, force=force)
        say(f"{function}: {name} saved")

    with_client(store, saved)


@app.command()
def get(function: Function, name: Name, store: StoreOption = DEFAULT_STORE) -> None:
    """Print a test event."""

    async def got(client: Client) -> None:
        say((await client.test_event(function, name)).decode())

    with_client(store, got)


@app.command()
def delete(function: Function, name: Name, store: StoreOption = DEFAULT_STORE) -> None:
    """Delete a test event."""

    async def deleted(client: Client) -> None:
        await client.delete_test_event(function, name)
        say(f"{function}: {name} deleted")

    with_client(store, deleted)
