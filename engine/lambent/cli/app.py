"""The commands of `lambent`, put together. What each does is in its own module."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from lambent.cli import (
    advising,
    calling,
    dead_letters,
    functions,
    health,
    inspecting,
    logs,
    mappings,
    saved_events,
    serving,
    top,
)
from lambent.cli.terminal import say

FIRST_STEPS = """\b
Begin with, in two terminals:
  lambent run app.py                         where app.py makes an Engine
  lambent invoke FUNCTION '{"some": "JSON"}'
"""

app = typer.Typer(
    name="lambent",
    help="AWS Lambda's event-source and invocation semantics: start engines, and look after what they serve.",
    epilog=FIRST_STEPS,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
        say(f"lambent {version('lambent')}")
        raise typer.Exit


@app.callback()
def lambent(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version, and end.")
    ] = False,
) -> None:
    """What all commands have: none so far."""


app.command("run")(serving.run)
app.command("serve")(serving.serve)
app.command("invoke")(calling.invoke)
app.command("send")(calling.send)
app.command("put")(calling.put)
app.add_typer(calling.events, name="events")
app.add_typer(functions.app, name="functions")
app.add_typer(saved_events.app, name="test-events")
app.add_typer(mappings.app, name="mappings")
app.add_typer(dead_letters.app, name="dead-letters")
app.command("why")(inspecting.why)
app.command("audit")(inspecting.audit)
app.command("advise")(advising.advise)
app.command("top")(top.top)
app.command("logs")(logs.logs)
app.command("health")(health.health)
