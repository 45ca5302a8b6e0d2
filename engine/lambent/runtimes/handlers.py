"""How a user's callable is called: what it is given, and what its result becomes.

Decides which callables are coroutines, whether they want the context, what an annotation of the first parameter makes
of the event, and how a result crosses the boundary. `list[Model]` on a mapping gets the decoded items; one item that
does not validate is a reported failure of that item where the mapping reports these, else an error of the function.
What runs it, where and for how long, is `in_process.py`'s.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import pydantic
from pydantic import BaseModel, TypeAdapter

from lambent.context import Context, Surroundings
from lambent.errors import InvalidParameterValue
from lambent.model import MAXIMUM_RESPONSE_BYTES, Failed, Function, Invocation, Message, Record, Succeeded
from lambent.payload import decode_answer, decode_payload, encode_event, encode_result
from lambent.runtimes import error_documents
from lambent.semantics.responses import NoneSucceeded, SomeFailed, judge

NOTHING: Final[Sequence[str]] = ()


class Handler:
    """A user's callable, ready to be called for one function."""

    __slots__ = (
        "_by_reference", "_convert", "_wants_context", "call", "function", "is_plain", "streams", "surroundings",
    )  # fmt: skip

    def __init__(self, function: Function, handler: Callable[..., object], surroundings: Surroundings) -> None:
        """Raises InvalidParameterValue if nothing can be called with (event, context) or (event)."""
        self.function = function
        self.surroundings = surroundings
        self.call: Callable[..., Any] = handler
        self.streams = _is(inspect.isasyncgenfunction, handler)
        """It is an async generator: what it yields is its answer, piece by piece."""
        self.is_plain = not (self.streams or _is(inspect.iscoroutinefunction, handler))
        self._by_reference = function.boundary == "reference"
        self._wants_context = _wants_context(handler, function.name)
        self._convert = _conversion(handler, function.name)

    def arguments(self, invocation: Invocation, deadline: float) -> tuple[tuple[object, ...] | None, Sequence[str]]:
        """What the handler is called with: a fresh event for each attempt, unless it asked for a reference. None: not
        called at all. And the names of the items that are withheld from it, to be given to `outcome`.

        Raises pydantic's ValidationError, or `error_documents.UnreadableEvent`."""
        withheld = NOTHING
        if self._convert is not None:
            event, withheld = self._convert.event(invocation, self._by_reference)
            if withheld and not event:
                return None, withheld
        else:
            event = invocation.event()
            if not self._by_reference or type(event) is bytes:  # an asynchronous event is never an object
                try:
                    event = decode_payload(event if type(event) is bytes else encode_event(event))
                except ValueError as error:
                    raise error_documents.UnreadableEvent(str(error)) from None
        if self._wants_context:
            return (event, Context(self.surroundings, invocation, deadline)), withheld
        return (event,), withheld

    def outcome(self, invocation: Invocation, value: object, withheld: Sequence[str] = NOTHING) -> Succeeded | Failed:
        """What became of it, now that the handler returned `value`."""
        if withheld:
            value = _with(withheld, invocation.items or (), value)
        if inspect.iscoroutine(value):
            value.close()
            return error_documents.not_json(
                "the handler returned a coroutine; declare it 'async def'", invocation.request_id
            )
        if self._by_reference:
            return Succeeded(value, True)
        try:
            payload = encode_result(value)
        except ValueError as error:
            return error_documents.not_json(str(error), invocation.request_id)
        return Succeeded(payload) if len(payload) <= MAXIMUM_RESPONSE_BYTES else error_documents.too_large()

    def streamed(
        self, invocation: Invocation, outcome: Succeeded | Failed, withheld: Sequence[str]
    ) -> Succeeded | Failed:
        """What became of a handler that streams: all that it yielded, which is read only if items were withheld."""
        if not withheld or isinstance(outcome, Failed):
            return outcome
        return self.outcome(invocation, decode_answer(cast(bytes, outcome.payload)), withheld)


def encode_piece(piece: object) -> bytes:
    """A piece of a streamed answer. Raises ValueError for what is neither bytes nor text."""
    if isinstance(piece, str):
        return piece.encode("utf-8", "replace")
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise ValueError(f"an answer is streamed in bytes or str, not in {type(piece).__name__}")


# --------------------------------------------------------------------------- typed handlers


class Whole:
    """The event is one model."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self._adapter = adapter

    def event(self, invocation: Invocation, by_reference: bool) -> tuple[object, Sequence[str]]:
        """The validated event, and the names of the items that are not in it."""
        event = invocation.event()
        if by_reference and type(event) is not bytes:
            return self._adapter.validate_python(event), NOTHING
        return self._adapter.validate_json(event if type(event) is bytes else encode_event(event)), NOTHING


class Items(Whole):
    """The event is a list of models: a mapping's items, or what a caller sent."""

    def __init__(self, adapter: TypeAdapter[Any], item: TypeAdapter[Any]) -> None:
        super().__init__(adapter)
        self._item = item

    def event(self, invocation: Invocation, by_reference: bool) -> tuple[object, Sequence[str]]:
        items = invocation.items
        if items is None:
            return super().event(invocation, by_reference)
        if not invocation.partial:
            return [self._item.validate_json(_data(item)) for item in items], NOTHING
        return self._sorted(items)

    def _sorted(self, items: Sequence[Record] | Sequence[Message]) -> tuple[list[object], list[str]]:
        """After an invalid record of a shard, or message of a FIFO group, none is handed over: it comes again first."""
        valid: list[object] = []
        invalid: list[str] = []
        closed: set[str] = set()
        for item in items:
            if isinstance(item, Message) and item.group in closed:
                invalid.append(item.id)
                continue
            try:
                valid.append(self._item.validate_json(_data(item)))
            except ValueError:
                invalid.append(_name(item))
                if isinstance(item, Record):
                    break
                if item.group is not None:
                    closed.add(item.group)
        return valid, invalid


def _with(withheld: Sequence[str], items: Sequence[Record] | Sequence[Message], value: object) -> dict[str, object]:
    """The handler's own report, with the items that it was not given."""
    names = [_name(item) for item in items]
    if isinstance(items[0], Record):
        names = names[: names.index(withheld[0]) + 1]
    missing = set(withheld)
    given = [name for name in names if name not in missing]
    match judge(value, given):
        case SomeFailed(failed):
            missing |= failed
        case NoneSucceeded():
            missing.update(given)
    failures = [{"itemIdentifier": name} for name in names if name in missing]
    return {**(value if isinstance(value, dict) else {}), "batchItemFailures": failures}


def _data(item: Record | Message) -> bytes | str:
    return item.data if isinstance(item, Record) else item.body


def _name(item: Record | Message) -> str:
    return item.position if isinstance(item, Record) else item.id


def _conversion(handler: Callable[..., object], name: str) -> Whole | None:
    annotation: Any = _first_annotation(handler)
    if get_origin(annotation) in (list, Sequence):
        (item,) = get_args(annotation) or (Any,)
        try:
            return Items(TypeAdapter(list[item]), TypeAdapter(item))  # type: ignore[valid-type]
        except pydantic.errors.PydanticUserError as error:
            raise InvalidParameterValue(
                f"function {name!r}: the handler's list[{item!r}] cannot be validated: {error}"
            ) from None
    if not _is_model(annotation):
        return None
    try:
        return Whole(TypeAdapter(annotation))
    except pydantic.errors.PydanticUserError:  # a TypedDict of typing before Python 3.12: it is handed over as a dict
        return None


def _is_model(annotation: object) -> bool:
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(map(_is_model, get_args(annotation)))
    if not isinstance(annotation, type):
        annotation = get_origin(annotation)  # Model[int]
    return isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation)
    )


# --------------------------------------------------------------------------- what is this callable?


def _is(kind: Callable[[object], bool], handler: Callable[..., object]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return kind(handler) or kind(type(handler).__call__)


def _parameters(handler: Callable[..., object]) -> list[inspect.Parameter] | None:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # written in C
        return None
    return [each for each in parameters if each.kind is not each.VAR_KEYWORD]


def _wants_context(handler: Callable[..., object], name: str) -> bool:
    parameters = _parameters(handler)
    if parameters is None or any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return True
    positional = [each for each in parameters if each.kind is not each.KEYWORD_ONLY]
    needed = [each for each in parameters if each.default is each.empty]
    if (
        not positional
        or len([each for each in needed if each in positional]) > 2
        or any(each.kind is each.KEYWORD_ONLY for each in needed)
    ):
        raise InvalidParameterValue(f"function {name!r}: its handler must take (event, context) or (event)")
    return len(positional) > 1


def _first_annotation(handler: Callable[..., object]) -> object:
    parameters = _parameters(handler)
    if not parameters or parameters[0].annotation is inspect.Parameter.empty:
        return None
    first = parameters[0]
    if not isinstance(first.annotation, str):
        return first.annotation
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not inspect.isfunction(handler) and not inspect.ismethod(handler):
        handler = type(handler).__call__
    try:
        return typing.get_type_hints(inspect.unwrap(handler), include_extras=True).get(first.name)
    except Exception:  # noqa: BLE001 - a name known to the type checker only
        return None
