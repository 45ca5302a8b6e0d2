"""Which values the model allows, and what is said about others, in AWS's words and order.

Decides, for all members of a request at once, what is missing, too long, too short, too large, too small, of another
form or not one of the words allowed. What needs to know other things is decided by the operations.

Recorded of AWS: the members of a request come in the reverse of the model's order, the length of a value before its
form; of the members of a list or map all constraints are named at once. A sensitive value is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from lambent.api.shapes import Shape

MAXIMUM_MATCHED: Final = 10_000  # characters that are held against a form; longer ones are too long anyway
MAXIMUM_SHOWN: Final = 2048  # characters of a value that an answer shows
_AS_RECORDED: Final = {  # AWS keeps these words in sets, without an order of their own
    "EventSourcePosition": ("LATEST", "AT_TIMESTAMP", "TRIM_HORIZON"),
    "RecursiveLoop": ("Terminate", "Allow"),
    "InvokeMode": ("RESPONSE_STREAM", "BUFFERED"),
}
_ELSEWHERE: Final = {"runtime"}  # the member whose words are another error: see configurations.py
_UNICODE: Final = {  # classes that Python's `re` does not know; \w knows letters and digits
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}


def problems(shape: Shape, values: Mapping[str, Any], path: str = "") -> list[str]:
    """What is wrong with the members of a structure, a sentence each; empty if nothing is."""
    return list(_structure(shape, values, path))


def _structure(shape: Shape, values: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, member in reversed(shape.members.items()):
        at = f"{path}{name[:1].lower()}{name[1:]}"
        value = values.get(name)
        if value is None:
            if name in shape.required:
                yield f"Value null at '{at}' failed to satisfy constraint: Member must not be null"
        else:
            yield from _value(member.shape, value, at)


def _value(shape: Shape, value: Any, path: str) -> Iterator[str]:
    for broken in _broken(shape, value, path):
        yield _sentence(shape, value, path, broken)
    if shape.type == "structure":
        yield from _structure(shape, value, f"{path}.")
    elif shape.type == "list" and shape.member is not None:
        yield from _members(shape, shape.member, list(value), value, path, "Member")
    elif shape.type == "map" and shape.member is not None and shape.key is not None:
        if any(list(_broken(shape.key, key)) for key in value):
            allowed = ", ".join(_allowed(shape.key))
            yield _sentence(shape, value, path, f"Map keys must satisfy constraint: [{allowed}]")
        yield from _members(shape, shape.member, list(value.values()), value, path, "Map value")


def _members(shape: Shape, member: Shape, values: list[Any], whole: Any, path: str, what: str) -> Iterator[str]:
    if member.type in ("structure", "list", "map"):
        for index, each in enumerate(values, 1):
            if each is None:
                yield f"Value null at '{path}.{index}.member' failed to satisfy constraint: Member must not be null"
            else:
                yield from _value(member, each, f"{path}.{index}.member")
    elif any(each is None or list(_broken(member, each)) for each in values):
        allowed = ", ".join((*_allowed(member), "Member must not be null"))
        yield _sentence(shape, whole, path, f"{what} must satisfy constraint: [{allowed}]")


def _sentence(shape: Shape, value: Any, path: str, constraint: str) -> str:
    hidden = shape.sensitive or (shape.member is not None and shape.member.sensitive)
    shown = "" if hidden else f" '{_shown(value)[:MAXIMUM_SHOWN]}'"
    return f"Value{shown} at '{path}' failed to satisfy constraint: {constraint}"


def _broken(shape: Shape, value: Any, path: str = "") -> Iterator[str]:
    low, high, pattern, words = _limits(shape, path)
    size = value if shape.type in ("integer", "long", "double", "float") else None
    if size is None and shape.type in ("string", "list", "map", "blob"):
        size = len(value)
    if size is not None:
        if high is not None and size > high:
            yield _at_most(shape)
        if low is not None and size < low:
            yield _at_least(shape)
    if pattern is not None and len(value) <= MAXIMUM_MATCHED and not _compiled(pattern).fullmatch(value):
        yield f"Member must satisfy regular expression pattern: {pattern}"
    if words is not None and value not in words:
        yield _one_of(words)


def _allowed(shape: Shape) -> Iterator[str]:
    """All that a member of a list or map must be."""
    low, high, pattern, words = _limits(shape)
    if high is not None:
        yield _at_most(shape)
    if low is not None:
        yield _at_least(shape)
    if pattern is not None:
        yield f"Member must satisfy regular expression pattern: {pattern}"
    if words is not None:
        yield _one_of(words)


def _limits(shape: Shape, path: str = "") -> tuple[Any, Any, str | None, tuple[str, ...] | None]:
    model = shape.model
    words = None if path in _ELSEWHERE else model.get("enum")
    return (
        model.get("min"),
        model.get("max"),
        model.get("pattern") if shape.type == "string" else None,
        None if words is None else _AS_RECORDED.get(shape.name, tuple(words)),
    )


def _at_most(shape: Shape) -> str:
    return f"Member must have {_measure(shape)} less than or equal to {_number(shape, 'max')}"


def _at_least(shape: Shape) -> str:
    return f"Member must have {_measure(shape)} greater than or equal to {_number(shape, 'min')}"


def _measure(shape: Shape) -> str:
    return "length" if shape.type in ("string", "list", "map", "blob") else "value"


def _number(shape: Shape, limit: str) -> str:
    number = shape.model[limit]
    return str(float(number) if shape.type in ("double", "float") else number)


def _one_of(words: tuple[str, ...]) -> str:
    return f"Member must satisfy enum value set: [{', '.join(words)}]"


def _shown(value: Any) -> str:
    """As Java shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}={_shown(each)}' for key, each in value.items())}}}"
    return "null" if value is None else str(value)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    for theirs, ours in _UNICODE.items():
        pattern = pattern.replace(theirs, ours)
    return re.compile(pattern, re.DOTALL if pattern == ".*" else 0)
