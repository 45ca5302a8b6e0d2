"""Decides which single values an operator of an event pattern accepts: `{"prefix": "J"}`, `{"numeric": [">", 0]}`.

The operators, their limits and the wording of their errors are EventBridge's (user guide, "Comparison operators for use
in event patterns"; where it is silent, AWS's library event-ruler). Fields, lists, `$or` and absence are `filtering`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

MAXIMUM_NUMBER: Final = 5_000_000_000
"""Numbers are compared from minus this to plus this; others match only as exact values."""
MAXIMUM_DECIMALS: Final = 6
MAXIMUM_WILDCARD_PREFIXES: Final = 10
"""Beginnings of a field's wildcards that one value can be in at once (measured at AWS, not documented)."""

_MAXIMUM_WILDCARD_STATES: Final = 10_000
_ANY_BYTE: Final = -1

Test = Callable[[Any], bool]
"""Whether a string, number, bool or None is accepted."""


class InvalidPattern(ValueError):
    """Not an event pattern. The message is EventBridge's; Lambda says only 'Invalid filter pattern definition.'"""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Event pattern is not valid. Reason: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Operator:
    """One compiled item. `wanted` says in words what it accepts, `wildcards` what it costs."""

    test: Test
    wanted: str
    wildcards: tuple[str, ...] = ()


def compile_operator(expression: Mapping[Any, object]) -> Operator:
    """Compile `{"operator": operand}`; `exists` is not one of these. Raises InvalidPattern."""
    name, operand = only_member(expression, "Match expression name not found")
    if name in ("prefix", "suffix") and isinstance(operand, Mapping):
        inner, text = only_member(operand, f"{name.capitalize()} expression name not found")
        if inner != "equals-ignore-case":
            raise InvalidPattern(f"Unsupported {name} pattern: {inner}")
        if not isinstance(text, str):
            raise InvalidPattern("equals-ignore-case match pattern must be a string")
        make, wanted = _TEXTS[name, "equals-ignore-case"]
        return Operator(make(text), wanted.format(show(text)))
    if (name, "") in _TEXTS:
        if not isinstance(operand, str):
            raise InvalidPattern(f"{'exact' if name == 'exactly' else name} match pattern must be a string")
        make, wanted = _TEXTS[name, ""]
        return Operator(make(operand), wanted.format(show(operand)), (operand,) if name == "wildcard" else ())
    if name == "numeric":
        return _numeric(operand)
    if name == "cidr":
        return _cidr(operand)
    if name == "anything-but":
        return _anything_but(operand)
    raise InvalidPattern(f"Unrecognized match type {name}")


def only_member(expression: Mapping[Any, object], if_empty: str) -> tuple[str, object]:
    """The name and value of an object with a single member."""
    if len(expression) > 1:
        raise InvalidPattern("Only one key allowed in match expression")
    for name, value in expression.items():
        return str(name), value
    raise InvalidPattern(if_empty)


def same_address(text: str) -> Test | None:
    """An address given as an exact value matches in its other spellings too (::1 is 0:0:0:0:0:0:0:1)."""
    address = _address(text)
    return None if address is None else _between_addresses(address, int(address))


def is_number(value: object) -> bool:
    """A finite JSON number: true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_INFINITY < value < _INFINITY


def show(value: object) -> str:
    """A value as a reason quotes it: JSON, cut to some 80 characters, whatever its size or depth."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        more = f", ... {len(value) - 5} more" if len(value) > 5 else ""
        return f"[{', '.join('[...]' if isinstance(v, (list, tuple)) else show(v) for v in value[:5])}{more}]"
    if isinstance(value, str):
        return shortened(json.dumps(value[:80], ensure_ascii=False) + ("..." if len(value) > 80 else ""), 100)
    if isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    return json.dumps(value) if value is None or isinstance(value, (int, float)) else repr(value)


def shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 3]}..."


def limit_wildcards(operators: Sequence[Operator]) -> None:
    """Refuse a field whose wildcards are too complex, by event-ruler's measure: the greatest number of beginnings of
    wildcards that a single value can match at the same time, after any of its bytes. Raises InvalidPattern."""
    automaton = _Automaton()
    for number, operator in enumerate(operators):
        for wildcard in operator.wildcards:
            automaton.add(number, [ord('"'), *_tokens(wildcard), ord('"')])
    if len(automaton.steps) > 1 and not automaton.is_simple():
        raise InvalidPattern(
            "Rule is too complex - try using fewer wildcard characters or fewer repeating character sequences after a "
            "wildcard character"
        )


class _Automaton:
    """Every wildcard of a field as one non-deterministic automaton over bytes; used to measure, not to match."""

    def __init__(self) -> None:
        self.steps: list[dict[int, set[int]]] = [{}]
        self.shared: dict[tuple[object, ...], int] = {}

    def add(self, operator: int, tokens: list[int]) -> None:
        previous = state = 0
        begun, text = False, bytearray()
        for place, token in enumerate(tokens):
            # The alternatives of one anything-but share what they have in common up to the first star.
            text.append(token if token != _ANY_BYTE else ord("*"))
            last = place == len(tokens) - 1
            key = (operator,) if last else (operator, begun, bytes(text)) if not begun else (operator, len(self.steps))
            if (following := self.shared.setdefault(key, len(self.steps))) == len(self.steps):
                self.steps.append({})
            self.steps[state].setdefault(token, set()).add(following)
            if token == _ANY_BYTE:
                self.steps[following].setdefault(token, set()).add(following)
                begun = True
            elif place and tokens[place - 1] == _ANY_BYTE:
                self.steps[previous].setdefault(token, set()).add(following)
            previous, state = state, following

    def is_simple(self) -> bool:
        start = frozenset({0})
        seen, pending = {start}, [start]
        while pending:
            active = pending.pop()
            anyway = set().union(*(self.steps[state].get(_ANY_BYTE, ()) for state in active))
            for token in {token for state in active for token in self.steps[state]}:
                reached = frozenset(anyway.union(*(self.steps[state].get(token, ()) for state in active)))
                stars = (self.steps[state].get(_ANY_BYTE, ()) for state in reached)
                if len(reached.union(*stars)) > MAXIMUM_WILDCARD_PREFIXES or len(seen) > _MAXIMUM_WILDCARD_STATES:
                    return False
                if reached not in seen:
                    seen.add(reached)
                    pending.append(reached)
        return True


_INFINITY: Final = float("inf")


def _equals(text: str) -> Test:
    return lambda value: isinstance(value, str) and value == text


def _prefix(text: str) -> Test:
    return lambda value: isinstance(value, str) and value.startswith(text)


def _suffix(text: str) -> Test:
    return lambda value: isinstance(value, str) and value.endswith(text)


def _in_any_case(make: Callable[[str], Test]) -> Callable[[str], Test]:
    def made(text: str) -> Test:
        test = make(text.lower())
        return lambda value: isinstance(value, str) and test(value.lower())

    return made


def _wildcard(text: str) -> Test:
    # A star matches as little as it can: the first place of each literal part is always a right one.
    parts: list[bytearray] = [bytearray()]
    for token in _tokens(text):
        if token == _ANY_BYTE:
            parts.append(bytearray())
        else:
            parts[-1].append(token)
    first, *rest = (part.decode("utf-8", "surrogatepass") for part in parts)
    if not rest:
        return _equals(first)
    *middle, last = rest

    def test(value: object) -> bool:
        if not (isinstance(value, str) and value.startswith(first) and value.endswith(last)):
            return False
        at, end = len(first), len(value) - len(last)
        for part in middle:
            if (found := value.find(part, at, end)) < 0:
                return False
            at = found + len(part)
        return at <= end

    return test


def _tokens(wildcard: str) -> list[int]:
    """The bytes of a wildcard, each star as _ANY_BYTE; positions in errors count an opening quote."""
    data = wildcard.encode("utf-8", "surrogatepass")
    tokens: list[int] = []
    at = 0
    while at < len(data):
        if data[at] == ord("\\"):
            at += 1
            if data[at : at + 1] not in (b"*", b"\\"):
                raise InvalidPattern(f"Invalid escape character at pos {at}")
            tokens.append(data[at])
        elif data[at] == ord("*"):
            if data[at + 1 : at + 2] == b"*":
                raise InvalidPattern(f"Consecutive wildcard characters at pos {at + 1}")
            tokens.append(_ANY_BYTE)
        else:
            tokens.append(data[at])
        at += 1
    return tokens


_TEXTS: Final[Mapping[tuple[str, str], tuple[Callable[[str], Test], str]]] = {
    ("exactly", ""): (_equals, "{}"),
    ("prefix", ""): (_prefix, "text beginning with {}"),
    ("suffix", ""): (_suffix, "text ending with {}"),
    ("wildcard", ""): (_wildcard, "text like {}"),
    ("equals-ignore-case", ""): (_in_any_case(_equals), "{} in any case"),
    ("prefix", "equals-ignore-case"): (_in_any_case(_prefix), "text beginning with {} in any case"),
    ("suffix", "equals-ignore-case"): (_in_any_case(_suffix), "text ending with {} in any case"),
}


def _anything_but(operand: object) -> Operator:
    name = ""
    if isinstance(operand, Mapping):
        name, operand = only_member(operand, "Anything-But expression name not found")
        if name not in ("equals-ignore-case", "prefix", "suffix", "wildcard"):
            raise InvalidPattern(f"Unsupported anything-but pattern: {name}")
    if not (isinstance(operand, (str, list, tuple)) or is_number(operand)):
        raise InvalidPattern("Value of anything-but must be an array or single string/number value.")
    values = list(operand) if isinstance(operand, (list, tuple)) else [operand]
    if not name:
        return Operator(_none_of(values), f"anything but {show(operand)}")
    texts = [value for value in values if isinstance(value, str)]
    for value in values:
        if not isinstance(value, str):
            raise InvalidPattern(_NOT_TEXT.get(name, "prefix/suffix match pattern must be a string"))
        if not value and name in ("prefix", "suffix"):
            raise InvalidPattern("Null prefix/suffix not allowed")
    if not texts:
        raise InvalidPattern("Empty arrays are not allowed")
    make, wanted = _TEXTS[name, ""]
    tests = tuple(make(text) for text in texts)

    def test(value: object) -> bool:
        return not any(refuses(value) for refuses in tests)

    words = " or ".join(wanted.format(show(text)) for text in texts)
    return Operator(test, f"anything but {words}", tuple(texts) if name == "wildcard" else ())


_NOT_TEXT: Final = {
    "equals-ignore-case": "Inside anything-but/equals-ignore-case list, number|start|null|boolean is not supported.",
    "wildcard": "wildcard match pattern must be a string",
}


def _none_of(values: Sequence[object]) -> Test:
    if not all(isinstance(value, str) or is_number(value) for value in values):
        raise InvalidPattern("Inside anything but list, start|null|boolean is not supported.")
    if len({isinstance(value, str) for value in values}) != 1:
        raise InvalidPattern(
            "Inside anything but list, either all values are number or string, mixed type is not supported"
        )
    refused = frozenset(value if isinstance(value, str) else _comparable(value) for value in values)
    return lambda value: isinstance(value, bool) or value not in refused


def _comparable(value: Any) -> float:
    if round(value, MAXIMUM_DECIMALS) != value:
        raise InvalidPattern(f"Only values upto {MAXIMUM_DECIMALS} decimals are supported")
    if not -MAXIMUM_NUMBER <= value <= MAXIMUM_NUMBER:
        raise InvalidPattern("Value must be between -5.0E9 and 5.0E9, inclusive")
    number: float = value
    return number


def _numeric(operand: object) -> Operator:
    if not isinstance(operand, (list, tuple)):
        raise InvalidPattern("Value of numeric must be an array.")
    name, *rest = operand or [None]
    if not isinstance(name, str):
        raise InvalidPattern(f"Invalid member in numeric match: {']' if not operand else show(name)}")
    if name not in ("=", "<", "<=", ">", ">="):
        raise InvalidPattern(f"Unrecognized numeric range operator: {name}")
    if not (rest and is_number(rest[0])):
        raise InvalidPattern(f"Value of {'equals' if name == '=' else name} must be numeric")
    value, *more = _comparable(rest[0]), *rest[1:]
    low: float = -MAXIMUM_NUMBER
    high: float = MAXIMUM_NUMBER
    above, below = False, False
    wanted = f"a number {name} {value}"
    if name in ("=", "<", "<="):
        if more:
            raise InvalidPattern("Too many elements in numeric expression")
        high, below = value, name == "<"
        low = value if name == "=" else low
    else:
        low, above = value, name == ">"
        if more:
            high, below = _upper_bound(more, value)
            wanted += f" and {more[0]} {high}"

    def test(number: object) -> bool:
        return (
            isinstance(number, (int, float))
            and (low < number if above else low <= number)
            and (number < high if below else number <= high)
            and not isinstance(number, bool)
        )

    return Operator(test, wanted)


def _upper_bound(terms: Sequence[object], bottom: float) -> tuple[float, bool]:
    name, *rest = terms
    if not isinstance(name, str):
        raise InvalidPattern(f"Bad value in numeric range: {show(name)}")
    if name not in ("<", "<="):
        raise InvalidPattern(f"Bad numeric range operator: {name}")
    if not (rest and is_number(rest[0])):
        raise InvalidPattern(f"Value of {name} must be numeric")
    if len(rest) > 1:
        raise InvalidPattern("Too many terms in numeric range expression")
    top = _comparable(rest[0])
    if bottom >= top:
        raise InvalidPattern("Bottom must be less than top")
    return top, name == "<"


def _cidr(operand: object) -> Operator:
    if not isinstance(operand, str):
        raise InvalidPattern("prefix match pattern must be a string")
    head, slash, bits = operand.partition("/")
    if not slash or not bits or "/" in bits:
        raise InvalidPattern("Malformed CIDR, one '/' required")
    digits = bits[1:] if bits[0] in "+-" else bits
    if not digits.isdecimal() or len(digits) > 9:
        raise InvalidPattern("Malformed CIDR, mask bits must be an integer")
    mask = int(bits)
    if mask < 0:
        raise InvalidPattern("Malformed CIDR, mask bits must not be negative")
    if (address := _address(head)) is None:
        raise InvalidPattern(f"Nonstandard IP address: {head}")
    if mask >= address.max_prefixlen:
        raise InvalidPattern(f"IPv{address.version} mask bits must be < {address.max_prefixlen}")
    # The range begins at the address as written, even if the mask would reach further down.
    top = int(address) | ((1 << (address.max_prefixlen - mask)) - 1)
    return Operator(_between_addresses(address, top), f"an address in {show(operand)}")


def _between_addresses(bottom: IPv4Address | IPv6Address, top: int) -> Test:
    def test(value: object) -> bool:
        address = _address(value) if isinstance(value, str) else None
        return address is not None and address.version == bottom.version and int(bottom) <= int(address) <= top

    return test


def _address(text: str) -> IPv4Address | IPv6Address | None:
    # 45 characters hold any address; no scope ids, no IPv4 inside IPv6.
    if len(text) > 45 or "%" in text or (":" in text and "." in text):
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None
