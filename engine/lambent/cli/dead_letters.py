"""`lambent dead-letters`: what failed for good, looked at and brought back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, assert_never

import typer

from lambent.cli.terminal import (
    DEFAULT_STORE,
    FAILED,
    USAGE,
    JsonOption,
    StoreOption,
    excerpt,
    fail,
    json_or_text,
    moment,
    note,
    payload,
    say,
    say_json,
    say_members,
    show,
    with_client,
)
from lambent.client import Client
from lambent.dead_letters import DeadLetters, Redriven
from lambent.model import MessageFact
from lambent.semantics.redriving import (
    Declared,
    FailedBatch,
    FailedEvent,
    Letter,
    Moved,
    Unclear,
    origins,
    read,
)
from lambent.semantics.redriving import redrive as way_of

SHOWN = 20  # messages that are listed where nothing else is said

app = typer.Typer(no_args_is_help=True, help="What failed for good: list it, look at it, bring it back.")
FilterOption = Annotated[
    str | None,
    typer.Option("--filter", metavar="PATTERN", help='Only those that a mapping would: {"body": {"item": ["vase"]}}.'),
]


@app.command("list")
def list_(
    queue: Annotated[str | None, typer.Argument(metavar="QUEUE", help="A dead-letter queue; without: all.")] = None,
    pattern: FilterOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many messages.")] = SHOWN,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Queues that hold dead letters; of one, the letters.

    With a filter it is the letters of all."""

    async def listed(client: Client) -> None:
        if queue is None and pattern is None:
            await _list_queues(client.dead_letters, as_json)
        else:
            await _list_letters(client.dead_letters, queue, pattern, limit, as_json)

    with_client(store, listed)


@app.command("show")
def show_(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="A message's id.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """All of one dead letter, and where `redrive` would bring it."""

    async def shown(client: Client) -> None:
        letters = client.dead_letters
        told = document(await letters.letter(message_id), await letters.declared())
        if as_json:
            say_json(told)
            return
        say_members(told)

    with_client(store, shown)


@app.command()
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="The ids of messages.")] = None,
    queue: Annotated[str | None, typer.Option(help="With --filter or --all: only this dead-letter queue.")] = None,
    pattern: FilterOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    rate: Annotated[float | None, typer.Option(min=0.001, metavar="N", help="At most so many a second.")] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="KIND:NAME", help="queue:, function: or stream:, where its origin is not meant or known."),
    ] = None,
    edit: Annotated[
        str | None, typer.Option(metavar="PAYLOAD", help="What they shall carry instead: text, @FILE, or -.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Bring dead letters back to where they failed.

    A message goes back to its queue, an asynchronous event is invoked again, records of a stream are put again. Each is
    sent, then deleted: one that is cut off in between is there twice, never gone. Ends with 1 if one stayed."""
    if (ids is not None) + (pattern is not None) + everything != 1:
        fail("name messages by their ids, or some with --filter, or all with --all", USAGE)
    edited = None if edit is None else payload(edit)

    async def redriven(client: Client) -> int | None:
        letters = client.dead_letters
        chosen = await _chosen(letters, ids, queue, pattern)
        done, stayed = 0, 0
        async for told in letters.redrive(chosen, to=to, edited=edited, rate=rate, dry_run=dry_run):
            done, stayed = done + (not told.failure), stayed + bool(told.failure)
            _tell(told, as_json, dry_run)
        if not as_json:
            note(f"{'would be ' if dry_run else ''}brought back: {done}, not: {stayed}")
        return FAILED if stayed else None

    with_client(store, redriven)


def document(fact: MessageFact, declared: Declared) -> dict[str, Any]:
    """A dead letter, for scripts; times in epoch seconds."""
    message, letter = fact.message, read(fact.message)
    way = way_of(message, fact.queue, declared)
    return {
        "id": message.id,
        "queue": fact.queue,
        "state": fact.state,
        "sent_at": message.sent_at,
        "from": " or ".join(origins(letter, fact.queue, declared)) or None,
        "error": None if isinstance(letter, Moved) else letter.error,
        "request_id": letter.request_id if isinstance(letter, FailedEvent) else None,
        "records": len(letter.puts or ()) if isinstance(letter, FailedBatch) else None,
        "redrive": None if isinstance(way, Unclear) else way.target,
        "why_not": way.reason if isinstance(way, Unclear) else None,
        "group": message.group,
        "attributes": {name: each.value for name, each in message.attributes.items()},
        "body": json_or_text(message.body),
    }


def _carried(letter: Letter) -> str:
    match letter:
        case Moved():
            return letter.message.body
        case FailedEvent():
            return letter.payload.decode("utf-8", "replace")
        case FailedBatch():
            return f"{len(letter.puts or ())} records"
        case _:
            assert_never(letter)


async def _list_queues(letters: DeadLetters, as_json: bool) -> None:
    queues = await letters.queues()
    if as_json:
        for each in queues:
            depth = {"visible": each.depth.visible, "in_flight": each.depth.in_flight, "delayed": each.depth.delayed}
            say_json({"queue": each.name, **depth, "from": list(each.senders)})
        return
    show(
        ("QUEUE", "VISIBLE", "IN FLIGHT", "FROM"),
        ((each.name, each.depth.visible, each.depth.in_flight, ", ".join(each.senders)) for each in queues),
        empty="Nothing that fails is kept: give queues and functions dead_letter_queue=, stream mappings on_failure=.",
    )


async def _list_letters(
    letters: DeadLetters, queue: str | None, pattern: str | None, limit: int, as_json: bool
) -> None:
    declared, more = await letters.declared(), False
    found: list[MessageFact] = []
    async for fact in letters.letters(queue, pattern):
        more = len(found) == limit
        if more:
            break
        found.append(fact)
    told = [document(fact, declared) for fact in found]
    if as_json:
        for each in told:
            say_json(each)
        return
    show(
        ("ID", "QUEUE", "SENT", "FROM", "ERROR", "CARRIES"),
        (
            (
                each["id"],
                each["queue"],
                moment(each["sent_at"]),
                each["from"],
                each["error"] and excerpt(each["error"]),
                excerpt(_carried(read(fact.message))),
            )
            for fact, each in zip(found, told, strict=True)
        ),
        empty="No dead letters.",
    )
    if more:
        note(f"There are more: --limit shows more than {limit}.")


async def _chosen(
    letters: DeadLetters, ids: Sequence[str] | None, queue: str | None, pattern: str | None
) -> list[tuple[str, str]]:
    if ids is not None:
        return [((await letters.letter(each)).queue, each) for each in ids]
    return [(fact.queue, fact.message.id) async for fact in letters.letters(queue, pattern)]


def _tell(told: Redriven, as_json: bool, dry_run: bool) -> None:
    target = None if told.what is None or isinstance(told.what, Unclear) else told.what.target
    if as_json:
        failure = told.failure or None
        say_json({"id": told.id, "queue": told.queue, "to": target, "failure": failure, "dry_run": dry_run})
    else:
        say(f"{told.id}  {'stays: ' + told.failure if told.failure else f'→ {target}'}")
