"""Test events: events that are saved with a function under a name, to call it with again.

Decides how they are called, how large they may be together, and when one replaces another. AWS has them as shareable
test events in a schema registry (Lambda guide: «Test a Lambda function», SAM's `sam remote test-event`); here they are
part of what is stored of the function, and go with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lambent.control import Control
from lambent.errors import InvalidParameterValue, ResourceConflict, ResourceNotFound
from lambent.payload import check_payload

MAXIMUM_CHARACTERS: Final = 100_000  # all of one function's (EventBridge schemas API: CreateSchema, Content)
MAXIMUM_NAME_CHARACTERS: Final = 25  # as Lambda's console has it
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


async def saved(control: Control, function: str) -> Mapping[str, str]:
    """The function's test events as JSON, by name in its order. Raises ResourceNotFound: no such function."""
    found = await control.stored.get(function)
    if found is None:
        raise _no_function(control, function)
    return dict(sorted(found.stored.test_events.items()))


async def get(control: Control, function: str, name: str) -> bytes:
    """One of them. Raises ResourceNotFound."""
    found = await saved(control, function)
    if name not in found:
        raise _no_event(function, name)
    return found[name].encode()


async def put(control: Control, function: str, name: str, event: bytes, *, force: bool = False) -> None:
    """Save one; `force`: in the place of another of this name.

    Raises ResourceConflict, ResourceNotFound, InvalidParameterValue; InvalidRequestContent if it is no JSON."""
    if not _NAME.fullmatch(name) or len(name) > MAXIMUM_NAME_CHARACTERS:
        raise InvalidParameterValue(
            f"name: {name[:100]!r} is not allowed; it must have up to {MAXIMUM_NAME_CHARACTERS} letters, digits, dots, "
            "hyphens and underscores"
        )
    text = check_payload(event).decode()

    def change(found: Mapping[str, str]) -> dict[str, str]:
        if name in found and not force:
            raise ResourceConflict(f"{function} has a test event {name} already: say so if it is to be replaced.")
        wanted = {**found, name: text}
        if sum(map(len, wanted.values())) > MAXIMUM_CHARACTERS:
            raise InvalidParameterValue(
                f"event: the test events of {function} would have more than {MAXIMUM_CHARACTERS} characters together; "
                "delete others, or call it with a file"
            )
        return wanted

    await control.change_test_events(function, change)


async def delete(control: Control, function: str, name: str) -> None:
    """Raises ResourceNotFound."""

    def change(found: Mapping[str, str]) -> dict[str, str]:
        if name not in found:
            raise _no_event(function, name)
        return {each: text for each, text in found.items() if each != name}

    await control.change_test_events(function, change)


def _no_function(control: Control, function: str) -> ResourceNotFound:
    return ResourceNotFound(f"Function not found: {control.function_arn(function)}")


def _no_event(function: str, name: str) -> ResourceNotFound:
    return ResourceNotFound(f"{function} has no test event {name}.")
