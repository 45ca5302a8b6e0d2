"""`lambent invoke`, `send`, `put` and `events`: what goes to functions, queues and streams, and what became of it."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from lambent.cli.terminal import (
    DEFAULT_STORE,
    FAILED,
    USAGE,
    JsonOption,
    StoreOption,
    fail,
    json_or_text,
    note,
    payload,
    say,
    say_json,
    say_members,
    text_of,
    with_client,
)
from lambent.client import Client
from lambent.errors import FunctionError
from lambent.model import EventFact, MessageAttribute

PAYLOAD = "JSON, @FILE, or - for what comes in."

events = typer.Typer(no_args_is_help=True, help="Asynchronous events: where they are and what became of them.")


def invoke(
    function: Annotated[str, typer.Argument(help="A function's name.")],
    event: Annotated[str | None, typer.Argument(metavar="PAYLOAD", help=PAYLOAD)] = None,
    asynchronously: Annotated[bool, typer.Option("--async", help="Store it as an event, and do not wait.")] = False,
    tail: Annotated[bool, typer.Option("--tail", help="Print the end of the function's log on stderr.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    client_context: Annotated[str | None, typer.Option(metavar="JSON", help="For the handler's context.")] = None,
    test_event: Annotated[
        str | None, typer.Option("--test-event-name", "--test-event", metavar="NAME", help="An event saved with it.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Call a function in a running engine, and print its value.

    Ends with 1, and AWS's error document, if the function fails; with --stream the document is on stderr, for what came
    before it has been printed. With --async no engine need be running."""
    if stream and (asynchronously or as_json):
        fail("invoke: --stream prints the answer itself: leave out --async and --json", USAGE)
    if event is not None and test_event is not None:
        fail("invoke: give an event or the name of one, not both", USAGE)
    given = payload(event)
    context: Any = None if client_context is None else json_or_text(client_context)
    if not isinstance(context, dict | None):
        fail(f'--client-context {client_context}: it must be an object in JSON, as {{"custom": {{…}}}}', USAGE)

    async def called(client: Client) -> int | None:
        content = given if test_event is None else await client.test_event(function, test_event)
        if asynchronously:
            request_id = await client.invoke_async(function, content, client_context=context)
            say_json({"request_id": request_id}) if as_json else say(request_id)
            return None
        if stream:
            return await _streamed(client, function, content, context, tail)
        answer = await client.invoke_response(
            function, content, client_context=context, log_type="Tail" if tail else "None"
        )
        if answer.log_tail:
            note(answer.log_tail.rstrip())
        if as_json:
            say_json(
                {
                    "status_code": answer.status_code,
                    "request_id": answer.request_id,
                    "function_error": answer.function_error,
                    "executed_version": answer.executed_version,
                    "payload": json_or_text(answer.payload),
                }
            )
        else:
            say(answer.payload.decode())
        if answer.function_error is None:
            return None
        if not as_json:
            note(f"lambent: {function} failed ({answer.function_error}), request {answer.request_id}")
        return FAILED

    with_client(store, called)


async def _streamed(client: Client, function: str, content: object, context: Any, tail: bool) -> int | None:
    log_type = "Tail" if tail else "None"
    answer = await client.invoke_with_response_stream(function, content, client_context=context, log_type=log_type)
    failure: FunctionError | None = None
    async with answer:
        try:
            async for piece in answer:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
        except FunctionError as error:
            failure = error
    if answer.log_tail:
        note(answer.log_tail.rstrip())
    if failure is None:
        return None
    note(json.dumps(failure.document, ensure_ascii=False))
    note(f"lambent: {function} failed (Unhandled), request {answer.request_id}")
    return FAILED


def send(
    queue: Annotated[str, typer.Argument(help="A queue's name.")],
    body: Annotated[str, typer.Argument(help="The message's text, @FILE, or - for what comes in.")],
    delay: Annotated[float | None, typer.Option(metavar="SECONDS", help="Before it can be received.")] = None,
    group: Annotated[str | None, typer.Option(help="Its message group (FIFO queues).")] = None,
    deduplication_id: Annotated[str | None, typer.Option(help="Its deduplication id (FIFO queues).")] = None,
    attribute: Annotated[list[str] | None, typer.Option(metavar="NAME=TEXT", help="One of its attributes.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Send a message to a queue, and print its id."""
    text = text_of(payload(body))
    attributes = dict(_attribute(each) for each in attribute or ())

    async def sent(client: Client) -> None:
        message_id = await client.send(
            queue, text, delay_seconds=delay, group=group, deduplication_id=deduplication_id, attributes=attributes
        )
        say_json({"message_id": message_id}) if as_json else say(message_id)

    with_client(store, sent)


def put(
    stream: Annotated[str, typer.Argument(help="A stream's name.")],
    data: Annotated[str, typer.Argument(help="The record's data, @FILE, or - for what comes in.")],
    key: Annotated[str, typer.Option(help="Records of one key keep their order.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Put a record into a stream, and print its sequence number."""
    content = payload(data)

    async def stored(client: Client) -> None:
        position = await client.put(stream, content, key=key)
        say_json({"sequence_number": position}) if as_json else say(position)

    with_client(store, stored)


@events.command("get")
def get(
    request_id: Annotated[str, typer.Argument(help="What `invoke --async` printed.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Where an asynchronous event is: due when and why, or ended how."""

    async def got(client: Client) -> None:
        fact = await client.event(request_id)
        if as_json:
            say_json(event_document(fact))
        else:
            say_members(event_document(fact))

    with_client(store, got)


def event_document(fact: EventFact) -> dict[str, Any]:
    """What is known of an event; times in epoch seconds."""
    event = fact.event
    ended = fact.ended_at > 0
    return {
        "request_id": event.request_id,
        "function": event.function,
        "state": fact.state,
        "attempts": event.attempts,
        "accepted_at": event.accepted_at,
        "due_at": None if ended else fact.due_at,
        "reason": json_or_text(fact.reason) if fact.reason else None,
        "ended_at": fact.ended_at or None,
        "result": json_or_text(fact.result) if fact.result else None,
        "payload": None if ended else json_or_text(event.payload),
    }


def _attribute(text: str) -> tuple[str, MessageAttribute]:
    name, found, value = text.partition("=")
    if not found:
        fail(f"--attribute {text}: write NAME=TEXT", USAGE)
    return name, MessageAttribute(value)
