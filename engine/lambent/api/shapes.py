"""The wire, as botocore's model of Lambda describes it: which operation a request is, and what it and its answer carry.

Decides how values become JSON, headers, parts of a path and of a query, and back; compiled at the start from the model
that botocore has on disk, so that a new botocore brings new fields. Which values are allowed is `constraints.py`'s.
(REST-JSON: Smithy specification, «AWS restJson1 protocol».)
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

from lambent.api.refusals import Refusal, unknown_operation, unreadable

MAXIMUM_ROUTES: Final = 4096  # paths that are remembered
MAXIMUM_TIMESTAMP: Final = 32_503_680_000  # epoch seconds: the year 3000
_RANGES: Final = {"integer": 2**31, "long": 2**63}
_LABEL: Final = ""  # stands in a route for a part of the path that is a value


@dataclass(slots=True)
class Shape:
    """A type of the model. `model` has its constraints."""

    name: str
    type: str
    model: Mapping[str, Any]
    members: dict[str, Member] = field(default_factory=dict)  # of a structure
    required: tuple[str, ...] = ()
    member: Shape | None = None  # of a list, or the values of a map
    key: Shape | None = None  # of a map

    @property
    def sensitive(self) -> bool:
        return bool(self.model.get("sensitive"))

    def read(self, value: Any) -> Any:
        """The value of this JSON. Raises `Refusal`: it is of another type."""
        return _READERS[self.type](self, value)

    def write(self, value: Any) -> Any:
        """The JSON of this value."""
        if self.type == "structure":
            return {
                self.members[name].wire: self.members[name].shape.write(each)
                for name, each in value.items()
                if each is not None
            }
        if self.type == "blob":
            return base64.b64encode(value).decode()
        if self.member is not None and self.type == "list":
            return [self.member.write(each) for each in value]
        if self.member is not None and self.type == "map":
            return {key: self.member.write(each) for key, each in value.items()}
        return value


@dataclass(slots=True)
class Member:
    """A member of a structure: where it is on the wire, and its name there."""

    name: str
    wire: str
    location: str  # "", "uri", "querystring", "header", "statusCode"
    shape: Shape


@dataclass(slots=True)
class Operation:
    """An operation of the model, and how it is carried."""

    name: str
    method: str
    path: tuple[str, ...]  # its parts; `_LABEL` for a value
    labels: tuple[str, ...]  # members in the path, in their order
    constants: Mapping[str, str]  # of the query, which tell it from another operation
    status: int
    input: Shape
    output: Shape
    payload: str | None  # the member that is the whole body
    answer_payload: str | None
    has_body: bool  # are there members in a JSON body

    def values(
        self, path: Iterable[str], query: Mapping[str, list[str]], headers: Mapping[bytes, bytes], body: bytes
    ) -> dict[str, Any]:
        """The members of a request. Raises `Refusal` for what cannot be read."""
        found: dict[str, Any] = {}
        if self.has_body:
            found = self.input.read(_json(body)) if body else {}
        for name, text in zip(self.labels, path, strict=True):
            found[name] = _from_text(self.input.members[name].shape, text)
        for name, member in self.input.members.items():
            if member.location == "querystring" and member.wire in query:
                found[name] = _from_query(member.shape, query[member.wire])
            elif member.location == "header" and (value := headers.get(member.wire.lower().encode())) is not None:
                found[name] = _from_text(member.shape, value.decode("latin-1"))
        if self.payload is not None:
            whole = self.input.members[self.payload].shape
            found[self.payload] = whole.read(_json(body or b"{}")) if whole.type == "structure" else body
        return found

    def answer(self, values: Mapping[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body of this answer."""
        status = int(values.get("StatusCode", self.status)) if "StatusCode" in self.output.members else self.status
        headers: list[tuple[bytes, bytes]] = []
        document: dict[str, Any] = {}
        for name, value in values.items():
            member = self.output.members[name]
            if value is None or member.location == "statusCode" or name == self.answer_payload:
                continue
            if member.location == "header":
                headers.append((member.wire.lower().encode(), str(value).encode("latin-1", "replace")))
            else:
                document[member.wire] = member.shape.write(value)
        if self.answer_payload is not None:
            return status, headers, bytes(values.get(self.answer_payload) or b"")
        if status == 204:
            return status, headers, b""
        return status, headers, json.dumps(document, separators=(",", ":")).encode()


class Wire:
    """All operations of the model, and which one a request is."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._shapes: dict[str, Shape] = {}
        self._model = model
        self.operations = {name: self._operation(name, each) for name, each in model["operations"].items()}
        self.errors = {
            name: (each["error"]["httpStatusCode"], "Message" if "Message" in each["members"] else "message")
            for name, each in model["shapes"].items()
            if each.get("exception")
        }
        """What the model knows of errors: status, and the name of the member that has the words."""
        self._routes: dict[tuple[str, ...], list[Operation]] = {}
        for operation in self.operations.values():
            self._routes.setdefault((operation.method, *operation.path), []).append(operation)
        for found in self._routes.values():
            found.sort(key=lambda each: -len(each.constants))
        self._known: dict[tuple[str, bytes], tuple[list[Operation], tuple[str, ...]]] = {}

    def route(self, method: str, raw_path: bytes, query: Mapping[str, list[str]]) -> tuple[Operation, tuple[str, ...]]:
        """The operation that a request is, and the values in its path. Raises `Refusal`."""
        known = self._known.get((method, raw_path))
        if known is None:
            known = self._find(method, raw_path)
            if len(self._known) >= MAXIMUM_ROUTES:
                self._known.clear()
            self._known[method, raw_path] = known
        candidates, labels = known
        for operation in candidates:
            if all(query.get(name) == [value] for name, value in operation.constants.items()):
                return operation, labels
        raise unknown_operation()

    def _find(self, method: str, raw_path: bytes) -> tuple[list[Operation], tuple[str, ...]]:
        parts = raw_path.split(b"/")[1:]
        if len(parts) > 1 and not parts[-1]:
            parts.pop()  # botocore's own paths end so here and there
        for candidate in self._routes:
            if candidate[0] == method and len(candidate) == len(parts) + 1:
                pairs = list(zip(candidate[1:], parts, strict=True))
                if all(wanted == _LABEL or wanted.encode() == part for wanted, part in pairs):
                    labels = tuple(_text(part) for wanted, part in pairs if wanted == _LABEL)
                    if all(labels):
                        return self._routes[candidate], labels
        raise unknown_operation()

    def _operation(self, name: str, model: Mapping[str, Any]) -> Operation:
        path, _, constants = model["http"]["requestUri"].partition("?")
        parts = path.strip("/").split("/")
        nothing = Shape("", "structure", {})
        given = self.shape(model["input"]["shape"]) if "input" in model else nothing
        answered = self.shape(model["output"]["shape"]) if "output" in model else nothing
        payload = given.model.get("payload")
        wires = {f"{{{each.wire}}}": each.name for each in given.members.values() if each.location == "uri"}
        return Operation(
            name,
            model["http"]["method"],
            tuple(_LABEL if part in wires else part for part in parts),
            tuple(wires[part] for part in parts if part in wires),
            dict(parse_qsl(constants, keep_blank_values=True)),
            model["http"].get("responseCode", 200),
            given,
            answered,
            payload,
            answered.model.get("payload"),
            payload is None and any(not each.location for each in given.members.values()),
        )

    def shape(self, name: str) -> Shape:
        known = self._shapes.get(name)
        if known is not None:
            return known
        model = self._model["shapes"][name]
        shape = self._shapes[name] = Shape(name, model["type"], model)
        shape.required = tuple(model.get("required", ()))
        for each, member in model.get("members", {}).items():
            wire, location = member.get("locationName", each), member.get("location", "")
            shape.members[each] = Member(each, wire, location, self.shape(member["shape"]))
        if shape.type == "list":
            shape.member = self.shape(model["member"]["shape"])
        elif shape.type == "map":
            shape.key, shape.member = self.shape(model["key"]["shape"]), self.shape(model["value"]["shape"])
        return shape


@cache
def load_wire() -> Wire:
    """Lambda's, as the botocore that is installed has it. Raises ImportError if there is none."""
    from botocore.loaders import Loader

    return Wire(Loader().load_service_model("lambda", "service-2"))


# --------------------------------------------------------------------------- reading


def parse_query(query: bytes) -> dict[str, list[str]]:
    """The values of a query by name. Raises `Refusal` if it is no UTF-8."""
    if not query:
        return {}
    found: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100
        ):
            found.setdefault(name, []).append(value)
    except ValueError:
        raise unreadable("The query of the request is not what a query can be.") from None
    return found


def _text(part: bytes) -> str:
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise unreadable("The path of the request is no UTF-8.") from None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise unreadable("The body of the request is nested too deeply.") from None
    except ValueError:
        raise unreadable("The body of the request is not JSON.") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _from_query(shape: Shape, texts: list[str]) -> Any:
    if shape.type == "list" and shape.member is not None:
        return [_from_text(shape.member, text) for text in texts]
    return _from_text(shape, texts[-1])


def _from_text(shape: Shape, text: str) -> Any:
    if shape.type in ("integer", "long"):
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > 20:
            raise unreadable(f"{shape.name}: a value of the request is not a number.")
        return shape.read(int(text))
    if shape.type == "boolean":
        if text not in ("true", "false"):
            raise unreadable(f"{shape.name}: a value of the request is not true or false.")
        return text == "true"
    if shape.type in ("double", "timestamp"):
        try:
            return shape.read(float(text))
        except ValueError:
            raise unreadable(f"{shape.name}: a value of the request is not a number.") from None
    return text


def _wrong(shape: Shape, value: Any) -> Refusal:
    tokens: dict[type, str] = {str: "STRING_VALUE", list: "START_ARRAY", dict: "START_OBJECT"}
    token = tokens.get(type(value), "NUMBER_VALUE")
    if isinstance(value, bool):
        token = f"{str(value).upper()}_VALUE"
    kind = {"structure": "Structure", "integer": "Integer", "long": "Long"}.get(shape.type, shape.type.capitalize())
    return unreadable(f"{token} can not be converted to {'an' if kind[0] in 'I' else 'a'} {kind}")


def _structure(shape: Shape, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _wrong(shape, value)
    return {
        name: member.shape.read(value[member.wire])
        for name, member in shape.members.items()
        if not member.location and value.get(member.wire) is not None
    }


def _list(shape: Shape, value: Any) -> Any:
    if not isinstance(value, list) or shape.member is None:
        raise _wrong(shape, value)
    return [None if each is None else shape.member.read(each) for each in value]


def _map(shape: Shape, value: Any) -> Any:
    if not isinstance(value, dict) or shape.member is None or shape.key is None:
        raise _wrong(shape, value)
    return {shape.key.read(key): None if each is None else shape.member.read(each) for key, each in value.items()}


def _string(shape: Shape, value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong(shape, value)
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise unreadable("The body of the request has half a character (a lone surrogate).")
    return value


def _integer(shape: Shape, value: Any) -> Any:
    if type(value) is not int:
        raise _wrong(shape, value)
    limit = _RANGES[shape.type]
    if not -limit <= value < limit:
        raise unreadable(f"A number of the request is out of the range of {shape.type}s.")
    return value


def _double(shape: Shape, value: Any) -> Any:
    if type(value) not in (int, float):
        raise _wrong(shape, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise unreadable("A number of the request is out of range.")
    return number


def _boolean(shape: Shape, value: Any) -> Any:
    if type(value) is not bool:
        raise _wrong(shape, value)
    return value


def _blob(shape: Shape, value: Any) -> Any:
    if not isinstance(value, str):
        raise _wrong(shape, value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise unreadable("A value of the request that must be base64 is not.") from None


def _timestamp(shape: Shape, value: Any) -> Any:
    seconds = _double(shape, value)
    if not 0 <= seconds <= MAXIMUM_TIMESTAMP:
        raise unreadable("A time of the request is out of range: it is in seconds since 1970.")
    return seconds


_READERS: Final[Mapping[str, Callable[[Shape, Any], Any]]] = {
    "structure": _structure,
    "list": _list,
    "map": _map,
    "string": _string,
    "integer": _integer,
    "long": _integer,
    "double": _double,
    "float": _double,
    "boolean": _boolean,
    "blob": _blob,
    "timestamp": _timestamp,
}
