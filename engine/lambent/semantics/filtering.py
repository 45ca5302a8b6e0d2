"""Decides whether a record matches an event pattern, and if not, why not.

The grammar is EventBridge's (user guide, "Comparison operators for use in event patterns"), as Lambda uses it for event
source mappings (developer guide, "Control which events Lambda sends to your function"): fields are joined by AND, the
values in a field's list by OR, `$or` joins whole branches. What the docs leave open follows AWS's library event-ruler.
Which single values an operator accepts is left to `operators`.

The caller builds the view that is matched: `{"body": ...}` for a queue, `{"data": ..., "partitionKey": ...}` for a
stream, with the payload passed through `decoded_view`: the JSON value if the payload is JSON, otherwise a `Text`, which
only a list of values can match (a pattern for fields of JSON never matches it, not even by `exists: false`).

Where AWS is silent: a pattern is at most 64 levels deep; a path may be named once only within what must hold together
(event-ruler would quietly let the last one win); the complexity of wildcards is measured field by field.

Cost: one walk over the parts of the event that the pattern names, whatever the wildcards and however `$or` nests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from lambent.semantics.operators import (
    InvalidPattern,
    Test,
    compile_operator,
    is_number,
    limit_wildcards,
    only_member,
    same_address,
    shortened,
    show,
)

__all__ = [
    "MAXIMUM_COMBINATIONS",
    "MAXIMUM_FILTERS",
    "MAXIMUM_PATTERN_CHARACTERS",
    "MAXIMUM_PATTERN_DEPTH",
    "UNDECODABLE",
    "Filters",
    "InvalidPattern",
    "Miss",
    "Pattern",
    "Text",
    "compile_filters",
    "compile_pattern",
    "decoded_view",
]

MAXIMUM_FILTERS: Final = 10
"""Patterns of one mapping (AWS: 5, or 10 on request)."""
MAXIMUM_PATTERN_CHARACTERS: Final = 4096
MAXIMUM_PATTERN_DEPTH: Final = 64
MAXIMUM_COMBINATIONS: Final = 1000
"""Rules that the `$or`s of one pattern multiply to."""


class Text(str):
    """A payload that is not JSON."""

    __slots__ = ()


class _Undecodable:
    def __repr__(self) -> str:
        return "UNDECODABLE"


UNDECODABLE: Final = _Undecodable()
"""A payload that is neither JSON nor text: it exists, and matches nothing else."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Why an event does not match: the first thing that is wrong, at a dotted `path` ('' is the whole event)."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or 'the record'} {self.reason}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. `text` is its JSON; patterns of the same text are equal."""

    text: str
    _root: _Fields = field(repr=False, compare=False)
    _presences: tuple[_Fields, ...] = field(repr=False, compare=False)

    def matches(self, event: object) -> bool:
        if self._presences:
            return self._root.test(event, self._absent(event))
        return self._root.test(event, _NOTHING_ABSENT)

    def miss(self, event: object) -> Miss | None:
        """None if the event matches, otherwise the reason why it does not."""
        absent = self._absent(event)
        return None if self._root.test(event, absent) else self._root.miss(event, absent, "")

    def _absent(self, event: object) -> frozenset[int]:
        # Absence is a property of the whole event, not of one element of a list in it: it is looked up beforehand.
        return frozenset(n for n, there in enumerate(self._presences) if not there.test(event, _NOTHING_ABSENT))


@dataclass(frozen=True, slots=True)
class Filters:
    """The patterns of a mapping: a record passes if any of them matches, or if there are none."""

    patterns: tuple[Pattern, ...] = ()

    def matches(self, event: object) -> bool:
        for pattern in self.patterns:
            if pattern.matches(event):
                return True
        return not self.patterns

    def misses(self, event: object) -> tuple[Miss, ...]:
        """One reason for each pattern; () if the record passes."""
        found = []
        for pattern in self.patterns:
            if (miss := pattern.miss(event)) is None:
                return ()
            found.append(miss)
        return tuple(found)


def compile_pattern(pattern: str | Mapping[str, object]) -> Pattern:
    """Compile a pattern from JSON text or as a dict. Raises InvalidPattern."""
    try:
        if isinstance(pattern, str):
            if len(pattern) > MAXIMUM_PATTERN_CHARACTERS:
                raise InvalidPattern(f"Filter is longer than {MAXIMUM_PATTERN_CHARACTERS} characters")
            try:
                parsed = json.loads(pattern, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
            except InvalidPattern:
                raise
            except ValueError:
                raise InvalidPattern("Filter is not valid JSON") from None
        else:
            parsed = pattern
        return _Compiler().compile(parsed, pattern if isinstance(pattern, str) else None)
    except RecursionError:
        raise InvalidPattern(f"Filter is nested more than {MAXIMUM_PATTERN_DEPTH} levels deep") from None


def compile_filters(filters: Sequence[str | Mapping[str, object]]) -> Filters:
    """Compile a mapping's filters. Raises InvalidPattern, also for more than MAXIMUM_FILTERS."""
    if len(filters) > MAXIMUM_FILTERS:
        raise InvalidPattern(f"At most {MAXIMUM_FILTERS} filters are allowed, not {len(filters)}")
    return Filters(tuple(compile_pattern(each) for each in filters))


def decoded_view(data: bytes) -> object:
    """A payload as patterns see it: its JSON value; Text if it is not JSON; UNDECODABLE if it is not UTF-8 either
    (or JSON nested deeper than can be read)."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return UNDECODABLE
    try:
        return _JSON.decode(text)
    except RecursionError:
        return UNDECODABLE
    except ValueError:
        return Text(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidPattern(f"Path `{key}` cannot be allowed multiple times")
        found[key] = value
    return found


_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_NOTHING_ABSENT: Final[frozenset[int]] = frozenset()
_MISSING: Final = object()


class _Leaf:
    """The list of values and operators of one field."""

    __slots__ = ("absence", "constants", "exists", "literals", "tests", "wanted")

    def __init__(self, values: Sequence[object], absence: int) -> None:
        exact = [value for value in values if not isinstance(value, Mapping)]
        for value in exact:
            if not (value is None or isinstance(value, (str, bool)) or is_number(value)):
                raise InvalidPattern("Match value must be String, number, true, false, or null")
        objects = [value for value in values if isinstance(value, Mapping)]
        existences = [_existence(value) for value in objects if "exists" in value]
        operators = [compile_operator(value) for value in objects if "exists" not in value]
        limit_wildcards(operators)
        # In Python True == 1, in JSON not: the three constants have a set of their own.
        self.constants = frozenset(value for value in exact if value is None or isinstance(value, bool))
        self.literals = frozenset(value for value in exact if not (value is None or isinstance(value, bool)))
        addresses = [same_address(value) for value in exact if isinstance(value, str)]
        self.tests: tuple[Test, ...] = (*(t for t in addresses if t), *(operator.test for operator in operators))
        self.exists = True in existences
        self.tests += (_anything,) * self.exists
        self.absence = absence if False in existences else -1
        wanted = [show(exact[0]) if len(exact) == 1 else f"one of {show(exact)}"] if exact else []
        wanted += ["anything that exists" if there else "absent" for there in existences]
        self.wanted = shortened(" or ".join([*wanted, *(operator.wanted for operator in operators)]), 300)

    def test(self, value: object, absent: frozenset[int]) -> bool:
        if isinstance(value, str):
            return value in self.literals or (bool(self.tests) and self._is_accepted(value))
        if isinstance(value, list):
            return any(self.test(each, _NOTHING_ABSENT) for each in _flat(value)) or self.absence in absent
        if value is None or isinstance(value, bool):
            return value in self.constants or self._is_accepted(value)
        if isinstance(value, (int, float)):
            return value in self.literals or self._is_accepted(value)
        # Nothing, an object, or a payload that cannot be read, of which only the last exists as a value.
        return self.absence in absent or (self.exists and value is UNDECODABLE)

    def _is_accepted(self, value: object) -> bool:
        return any(test(value) for test in self.tests)

    def miss(self, value: object, _absent: frozenset[int], path: str) -> Miss:
        if value is _MISSING:
            return Miss(path, f"is missing, and should be {self.wanted}")
        return Miss(path, f"is {show(value)}, not {self.wanted}")


class _Fields:
    """What must hold for the fields of one object."""

    __slots__ = ("alternatives", "conditions", "dotted", "names")

    def __init__(
        self, conditions: Iterable[tuple[str, _Leaf | _Fields]], alternatives: Sequence[Sequence[_Fields]]
    ) -> None:
        self.conditions = tuple((key, child.test, child) for key, child in conditions)
        self.alternatives = tuple(tuple(branches) for branches in alternatives)
        inner: set[str] = {
            f"{k}.{name}" for k, _, child in self.conditions if isinstance(child, _Fields) for name in child.names
        }
        branches = [branch for each in self.alternatives for branch in each]
        inner.update(*(branch.dotted for branch in branches))
        # A field may be spelt {"a": {"b": ...}} or {"a.b": ...}, in the pattern and in the event alike.
        self.dotted: frozenset[str] = frozenset(inner)
        self.names: set[str] = inner.union((c[0] for c in self.conditions), *(branch.names for branch in branches))

    def test(self, value: object, absent: frozenset[int]) -> bool:
        if not isinstance(value, dict):
            return self._test_other(value, absent)
        if self.dotted and not self.dotted.isdisjoint(value):
            value = _undotted(value, self.dotted)
        for key, test, _ in self.conditions:
            if not test(value.get(key, _MISSING), absent):
                return False
        for branches in self.alternatives:
            for branch in branches:
                if branch.test(value, absent):
                    break
            else:
                return False
        return True

    def _test_other(self, value: object, absent: frozenset[int]) -> bool:
        if isinstance(value, list):
            for each in _flat(value):
                if isinstance(each, dict) and self.test(each, absent):
                    return True
        # Where there is no object, only fields that should be absent can be right; a payload that is not JSON has none.
        return bool(absent) and not isinstance(value, (Text, _Undecodable)) and self.test({}, absent)

    def miss(self, value: object, absent: frozenset[int], path: str) -> Miss:
        if isinstance(value, dict):
            return self._miss(value, absent, path)
        if isinstance(value, list):
            objects = [each for each in _flat(value) if isinstance(each, dict)]
            if len(objects) == 1:
                return self._miss(objects[0], absent, path)
            if objects:
                first = self._miss(objects[0], absent, path)
                return Miss(path, f"has {len(objects)} elements, of which none matches: in the first, {first}")
        if value is _MISSING:
            return self._miss({}, absent, path)
        if isinstance(value, Text):
            return Miss(path, f"is the text {show(value)}, not JSON with the fields of the pattern")
        return Miss(path, f"is {show(value)}, not an object")

    def _miss(self, fields: dict[str, object], absent: frozenset[int], path: str) -> Miss:
        fields = _undotted(fields, self.dotted)
        for key, test, child in self.conditions:
            value = fields.get(key, _MISSING)
            if not test(value, absent):
                return child.miss(value, absent, f"{path}.{key}" if path else key)
        for branches in self.alternatives:
            if not any(branch.test(fields, absent) for branch in branches):
                reasons = "; ".join(str(branch._miss(fields, absent, path)) for branch in branches[:3])
                more = f"; and {len(branches) - 3} more" if len(branches) > 3 else ""
                return Miss(path, shortened(f"matches none of {len(branches)} alternatives: {reasons}{more}", 600))
        raise AssertionError("a miss of a match was asked for")


class _Compiler:
    """Reads a pattern into `items`: (path from here, a leaf or the branches of an `$or`)."""

    def __init__(self) -> None:
        self.absences: list[tuple[str, ...]] = []

    def compile(self, parsed: object, text: str | None) -> Pattern:
        if not isinstance(parsed, Mapping):
            raise InvalidPattern("Filter is not an object")
        root, _, _ = self._object(parsed, (), depth=1, in_or=False)
        presences = tuple(_assembled([(path, _Leaf([{"exists": True}], -1))]) for path in self.absences)
        if text is None:
            try:
                text = json.dumps(parsed, ensure_ascii=False, separators=(",", ":"), default=dict)
            except ValueError:
                raise InvalidPattern("Filter is not valid JSON") from None
            if len(text) > MAXIMUM_PATTERN_CHARACTERS:
                raise InvalidPattern(f"Filter is longer than {MAXIMUM_PATTERN_CHARACTERS} characters")
        return Pattern(text, _assembled(root), presences)

    def _object(
        self, pattern: Mapping[Any, object], path: tuple[str, ...], *, depth: int, in_or: bool
    ) -> tuple[list[_Item], set[tuple[str, ...]], int]:
        """The items, the paths that they name, and how many combinations of branches they make."""
        if not pattern:
            raise InvalidPattern("Empty objects are not allowed")
        items: list[_Item] = []
        named: set[tuple[str, ...]] = set()
        combinations = 1
        for key, value in pattern.items():
            if not isinstance(key, str):
                raise InvalidPattern(f"Field name {key!r} is not a string")
            steps = tuple(key.split("."))
            full = path + steps
            if max(depth, len(full)) > MAXIMUM_PATTERN_DEPTH:
                raise InvalidPattern(f"Filter is nested more than {MAXIMUM_PATTERN_DEPTH} levels deep")
            if key == "$or":
                branches, paths, count = self._branches(value, path, depth=depth)
                items.append(((), branches))
            elif in_or and key in _RESERVED:
                raise InvalidPattern(f"{key} is Ruler reserved fieldName which cannot be used inside $or.")
            elif isinstance(value, Mapping):
                inner, paths, count = self._object(value, full, depth=depth + 1, in_or=in_or)
                items.extend((steps + rest, what) for rest, what in inner)
            elif isinstance(value, (list, tuple)):
                if not value:
                    raise InvalidPattern("Empty arrays are not allowed")
                leaf, paths, count = _Leaf(value, len(self.absences)), {full}, 1
                if leaf.absence >= 0:
                    self.absences.append(full)
                items.append((steps, leaf))
            else:
                raise InvalidPattern(f'"{key}" must be an object or an array')
            if twice := named & paths:
                raise InvalidPattern(f"Path `{'.'.join(min(twice))}` cannot be allowed multiple times")
            named |= paths
            combinations *= count
        if combinations > MAXIMUM_COMBINATIONS:
            raise InvalidPattern(f"Rule is too complex - $or makes more than {MAXIMUM_COMBINATIONS} combinations")
        return items, named, combinations

    def _branches(
        self, value: object, path: tuple[str, ...], *, depth: int
    ) -> tuple[list[_Fields], set[tuple[str, ...]], int]:
        if not isinstance(value, (list, tuple)):
            raise InvalidPattern("It must be an Array followed with $or.")
        if not all(isinstance(each, Mapping) for each in value):
            raise InvalidPattern("Only JSON object is allowed in array of $or relationship.")
        if len(value) < 2:
            raise InvalidPattern("There must have at least 2 Objects in $or relationship.")
        read = [self._object(each, path, depth=depth + 1, in_or=True) for each in value]
        named = set().union(*(paths for _, paths, _ in read))
        return [_assembled(items) for items, _, _ in read], named, sum(count for _, _, count in read)


_Item = tuple[tuple[str, ...], _Leaf | list[_Fields]]

_RESERVED: Final = (
    frozenset({"exactly", "equals-ignore-case", "prefix", "suffix", "anything-but", "exists", "wildcard", "numeric"})
    | frozenset({"cidr", "html", "=", "<", "<=", ">", ">=", "regex", "not-wildcard", "not-equals-ignore-case"})
    | frozenset({"date-after", "date-on-or-after", "date-before", "date-on-or-before", "in-date-range"})
    | frozenset({"ip-address-in-range", "ip-address-not-in-range"})
)


def _assembled(items: list[_Item]) -> _Fields:
    conditions: list[tuple[str, _Leaf | _Fields]] = []
    deeper: dict[str, list[_Item]] = {}
    alternatives: list[list[_Fields]] = []
    for path, what in items:
        if isinstance(what, list) and not path:
            alternatives.append(what)
        elif isinstance(what, _Leaf) and len(path) == 1:
            conditions.append((path[0], what))
        else:
            deeper.setdefault(path[0], []).append((path[1:], what))
    conditions += [(key, _assembled(inner)) for key, inner in deeper.items()]
    return _Fields(conditions, alternatives)


def _anything(_value: object) -> bool:
    return True


def _existence(expression: Mapping[Any, object]) -> bool:
    _, there = only_member(expression, "")
    if not isinstance(there, bool):
        raise InvalidPattern("exists match pattern must be either true or false.")
    return there


def _flat(values: list[object]) -> Iterator[object]:
    """The elements of a list and of the lists in it, at any depth."""
    open_lists = [iter(values)]
    while open_lists:
        for value in open_lists[-1]:
            if isinstance(value, list):
                open_lists.append(iter(value))
                break
            yield value
        else:
            open_lists.pop()


def _undotted(fields: dict[str, object], dotted: frozenset[str]) -> dict[str, object]:
    """The same object with {"a.b": ...} written as {"a": {"b": ...}} where a pattern asks for it."""
    found = dotted.intersection(fields)
    if not found:
        return fields
    plain = {key: value for key, value in fields.items() if key not in found}
    for name in sorted(found):
        *steps, last = name.split(".")
        inner = plain
        for step in steps:
            there = inner.get(step, _MISSING)
            below: dict[str, object] = dict(there) if isinstance(there, dict) else {}
            inner[step] = below if there is _MISSING or isinstance(there, dict) else [below, there]
            inner = below
        inner[last] = [inner[last], fields[name]] if last in inner else fields[name]
    return plain
