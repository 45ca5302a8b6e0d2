"""`lambent functions`: what the store knows of functions, and forgetting one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lambent.cli.terminal import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    check_order,
    note,
    say,
    say_json,
    show,
    with_client,
)
from lambent.client import Client
from lambent.semantics.health import NOBODY

HELP = """Functions: which there are, and who runs them; delete them.

Without a command: list all. Which of them run is told by the running engines."""

app = typer.Typer(invoke_without_command=True, help=HELP)


@app.callback()
def functions(
    context: typer.Context,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand is None:
        with_client(store, lambda client: _list(client, as_json))
    check_order(context.invoked_subcommand, store, as_json)


async def _list(client: Client, as_json: bool) -> None:
    snapshots, waiting = await client.snapshots(), await client.pending()
    told: list[dict[str, Any]] = [
        {
            "function": name,
            "engines": sum(name in each.functions for each in snapshots),
            "waiting_events": waiting.get(name, 0),
            "timeout_seconds": function.timeout_seconds,
            "reserved_concurrency": function.reserved_concurrency,
        }
        for name, function in sorted((await client.list_functions()).items())
    ]
    if as_json:
        for each in told:
            say_json(each)
        return
    show(
        ("FUNCTION", "ENGINES", "EVENTS", "TIMEOUT", "RESERVED"),
        (list(each.values()) for each in told),
        empty="No functions: declare one with @engine.function.",
    )
    if told and not snapshots:
        note(NOBODY)


@app.command()
def delete(
    function: Annotated[str, typer.Argument(help="A function's name.")], store: StoreOption = DEFAULT_STORE
) -> None:
    """Forget a function, and drop its events that wait. Code that declares it makes it anew at its next start."""

    async def deleted(client: Client) -> None:
        await client.delete_function(function)
        say(f"{function}: deleted")

    with_client(store, deleted)
