"""`lambent health`, and what `/health` of `lambent run` answers: green or red, for people, scripts and supervisors.

Decides how it is told: exit codes, HTTP statuses, the words around it. What is red is decided in `semantics/health.py`,
and who may ask in `endpoint.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Annotated, Final

import typer

from lambent.cli.endpoint import ADDRESS, HEALTH, Answer, address, in_json
from lambent.cli.terminal import (
    AWAY,
    DEFAULT_STORE,
    FAILED,
    OK,
    USAGE,
    JsonOption,
    StoreOption,
    fail,
    say,
    say_json,
    with_client,
)
from lambent.client import Client
from lambent.errors import EngineStopped, InvalidParameterValue
from lambent.semantics.health import Finding, Health

ANSWER_SECONDS: Final = 5.0  # within which an engine that is well answers
UNANSWERED: Final = "It does not answer ({}): look whether it runs, was started with --health, and is blocked."


def health(
    store: StoreOption = DEFAULT_STORE,
    at: Annotated[
        str | None,
        typer.Option(metavar=ADDRESS, help="Ask the one engine that answers there (`run --health`), not the store's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Are the engines well? Ends with 1 if anything is red.

    Red is: work waits and none gets done, a mapping cannot run, an engine does not tell how it is, or there is none."""

    def tell(found: Health) -> int | None:
        say_json(found.document()) if as_json else say(_for_people(found))
        return FAILED if found.red else None

    async def told(client: Client) -> int | None:
        return tell(await client.health())

    if at is not None:
        raise typer.Exit(tell(_asked(at)) or OK)
    try:
        with_client(store, told)
    except typer.Exit as ended:
        raise typer.Exit(FAILED if ended.exit_code == AWAY else ended.exit_code) from None


def answered(ask: Callable[[], Health]) -> Answer:
    """200 while the engine is green, 503 while it is red or drains, with the JSON of the command. `ask` raises
    EngineStopped while there is nothing to tell."""
    try:
        found = ask()
    except EngineStopped as error:
        found = Health(0, (Finding("", "engine", True, (error.message,)),))
    return in_json(HTTPStatus.SERVICE_UNAVAILABLE if found.red else HTTPStatus.OK, found.document())


def _asked(at: str) -> Health:
    try:
        host, port = address("at", at)
    except InvalidParameterValue as error:
        fail(error.message, USAGE)
    connection = HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", HEALTH)
        return Health.of(json.loads(connection.getresponse().read()))
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        return Health(0, (Finding("", f"engine at {host}:{port}", True, (UNANSWERED.format(repr(error)),)),))
    finally:
        connection.close()


def _for_people(found: Health) -> str:
    """What is red first, then green things of which there is something to know."""
    plural = "s" if found.engines != 1 else ""
    lines = [f"{'red' if found.red else 'green'}  {found.engines} engine{plural}"]
    for each in sorted(found.findings, key=lambda each: (not each.red, each.subject)):
        if each.sentences:
            lines.append("\n    ".join((_title(each), *each.sentences)))
    return "\n  ".join(lines)


def _title(finding: Finding) -> str:
    return f"{'red' if finding.red else 'green'}  {finding.subject}"
