"""Turns a refused configuration value into one sentence that names the field and what is allowed.

Decides the wording, for every model alike: the range is read from the model, never written a second time. Which values
are allowed is decided in `model.py` and `settings.py`; what must fit to other things, in `consistency.py`.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lambent.configuration import Configuration
from lambent.errors import InvalidParameterValue

C = TypeVar("C", bound=Configuration)


def validated(model: type[C], fields: Mapping[str, object], what: str = "") -> C:
    """The configuration made of these fields. Raises InvalidParameterValue; `what` says of what in its message."""
    try:
        return model(**fields)
    except ValidationError as refused:
        raise InvalidParameterValue(explain(refused, model, what)) from None


def changed(configuration: C, fields: Mapping[str, object], what: str = "") -> C:
    """The same configuration with some fields replaced, validated anew."""
    kept = {name: getattr(configuration, name) for name in configuration.model_fields_set}
    return validated(type(configuration), {**kept, **fields}, what)


def explain(refused: ValidationError, model: type[Configuration], what: str = "") -> str:
    """'batch_size: 10001 is not allowed; it must be 1 to 10000 (int)', one sentence for each refused field."""
    sentences: dict[str, str] = {}
    for error in refused.errors():
        name = str(error["loc"][0]) if error["loc"] else ""
        sentences.setdefault(name, _sentence(error, name, model, what))
    return "; ".join(sentences.values())


def allowed(model: type[Configuration], name: str) -> str:
    """What a field takes, in words: '1 to 10000 (int) or None'."""
    info = model.model_fields[name]
    return info.description or _describe(info.annotation, info.metadata)


def unknown(name: str, known: Iterable[str], what: str) -> str:
    """The sentence about an option that does not exist, with the likeliest one that does."""
    import difflib  # only who errs pays for it

    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{name} is not an option of {what}; {hint}the options are {', '.join(options)}"


def _sentence(error: Mapping[str, Any], name: str, model: type[Configuration], what: str) -> str:
    kind = error["type"]
    if not name:  # a rule over several fields names them itself
        return str(error["ctx"]["error"]) if kind == "value_error" else str(error["msg"])
    if kind == "extra_forbidden":
        return unknown(name, model.model_fields, what or model.__name__)
    if kind == "missing":
        return f"{name} is missing; it must be {allowed(model, name)}"
    reason = str(error["ctx"]["error"]) if kind == "value_error" else f"it must be {allowed(model, name)}"
    # a field that is not in the repr may hold secrets
    given = _short(error["input"]) if model.model_fields[name].repr or error["input"] is None else "what was given"
    return f"{name}: {given} is not allowed; {reason}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "…"


def _describe(annotation: object, metadata: Sequence[object] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _describe(inner, [*_flat(more), *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(part) for part in get_args(annotation))) + _bounds(metadata, " of ")
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(annotation)))
    if origin is tuple:
        return "a tuple of (" + ", ".join(_describe(part) for part in get_args(annotation)) + ")"
    if origin is list:
        return (
            "a list"
            + _bounds(metadata, " of ")
            + (" items, each " if metadata else " of ")
            + _describe(get_args(annotation)[0])
        )
    if origin is dict:
        return "a dict"
    if annotation is None or annotation is type(None):
        return "None"
    name = getattr(annotation, "__name__", str(annotation))
    if annotation is str:
        return "a string" + _bounds(metadata, " of ", " characters")
    bounds = _bounds(metadata)
    return f"{bounds} ({name})" if bounds else f"of type {name}"


def _flat(metadata: Iterable[object]) -> list[object]:
    return [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _bounds(metadata: Sequence[object], before: str = "", after: str = "") -> str:
    def found(name: str) -> Any:
        return next((getattr(item, name) for item in metadata if getattr(item, name, None) is not None), None)

    if (pattern := found("pattern")) is not None:
        return f" that matches {pattern}"
    low = found("ge") if found("ge") is not None else found("min_length")
    high = found("le") if found("le") is not None else found("max_length")
    if low is not None and high is not None:
        return f"{before}{low} to {high}{after}"
    if low is not None:
        return f"{before}at least {low}{after}"
    if high is not None:
        return f"{before}at most {high}{after}"
    return ""
