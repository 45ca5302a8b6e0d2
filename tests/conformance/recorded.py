"""Compares what we answer with what AWS was recorded to answer.

Decides what counts as the same: values up to a consistent renaming of the recording's tokens (`<uuid:1>`), JSON within
strings parsed first, stack traces by shape, times by form. Key order counts wherever the recorder did not sort the
keys. A scenario serves every case of its family: what is sent and how a mapping is configured is read from the
recording, so that a case which is added beside the others is replayed as it is. The recordings lie beside the
repository and are no part of it: without them there is nothing to compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lambent import Engine

RECORDINGS: Final = Path(__file__).parents[3] / "shared" / "aws-recorded"

_ISO: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_MILLISECONDS: Final = r"\d{13}"
_FORMS: Final = {  # what changes from run to run, and the form that it must have: a pattern, or a type
    "date": _ISO,
    "sent-timestamp": _MILLISECONDS,
    "sender-id": r".+",
    "<sender-id:1>": r".+",  # an AWS principal: we have none, so it does not tell queues apart
    "<approximate-first-receive-timestamp>": _MILLISECONDS,
    "<approximate-arrival-timestamp>": float,
    "<duration>": r"\d+(?:\.\d\d)?",
    "<memory>": r"\d+",
}
_ANYWHERE: Final = {"md5OfMessageAttributes"}  # recorded at two places, even within one batch
_TOKEN: Final = re.compile(r"<[a-z0-9_-]+(?::[^<>]+)?>|(?<=\t)date(?=\t)")
_FRAME: Final = re.compile(r'(\s+File ")[^"]+(", line )\d+(, in )[\w.<>]+')


Scenario = Callable[..., Awaitable[None]]
"""What it is called with is up to its file: an engine, a `Recording` and what stands in brackets, as a rule."""


class Scenarios:
    """The scenarios of one file, each for the cases of its families."""

    def __init__(self, *areas: str) -> None:
        self._areas = areas
        self._families: dict[str, Scenario] = {}

    def replays(self, *families: str) -> Callable[[Scenario], Scenario]:
        """The scenario is for the cases of these names; what stands in brackets behind a name is told to it."""

        def register(scenario: Scenario) -> Scenario:
            self._families.update(dict.fromkeys(families, scenario))
            return scenario

        return register

    def cases(self) -> dict[str, Recording]:
        """The recorded cases that there is a scenario for, by id; none where there are no recordings."""
        return {
            case["id"]: Recording(case["id"], case["content"])
            for area in self._areas
            for path in sorted(RECORDINGS.glob(f"{area}-*.json"))
            for case in json.loads(path.read_text())
            if case["id"].partition("[")[0] in self._families
        }

    def scenario(self, identity: str) -> Scenario:
        """The one for this case."""
        return self._families[identity.partition("[")[0]]

    async def replay(self, engine: Engine, case: Recording) -> None:
        family, _, parameter = case.identity.partition("[")
        await self._families[family](engine, case, parameter.removesuffix("]"))


class Recording:
    """One recorded case: its steps by name."""

    def __init__(self, identity: str, content: Mapping[str, Any]) -> None:
        self.identity = identity
        self.content = content

    def __getitem__(self, step: str) -> Any:
        return self.content[step]

    def check(self, *pairs: tuple[Any, Any]) -> None:
        """Each pair is what was recorded and what we have; tokens mean the same in all of them."""
        names = _Names()
        differences = [
            found for recorded, ours in pairs for found in names.compare(parsed(recorded), parsed(ours), "$")
        ]
        assert not differences, f"{self.identity}:\n" + "\n".join(differences)


def received(recorded: Any) -> list[dict[str, object]]:
    """The messages of a recorded ReceiveMessage, without what differs from one receive to the next."""
    found = recorded["Messages"] if isinstance(recorded, dict) else recorded
    return [
        {name: message[name] for name in ("MessageId", "Body", "MessageAttributes") if name in message}
        for message in found
    ]


def parsed(value: Any) -> Any:
    """The value with every string that holds a JSON object or list replaced by that."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return parsed(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, Mapping):
        return {key: parsed(each) for key, each in value.items() if key != "ResponseMetadata"}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [parsed(each) for each in value]
    return value


class _Names:
    """The renaming so far: one token is one value, and two tokens of a kind are two."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def compare(self, recorded: Any, ours: Any, path: str) -> Iterator[str]:
        if isinstance(recorded, Mapping) and isinstance(ours, Mapping):
            yield from self._objects(recorded, ours, path)
        elif isinstance(recorded, list) and isinstance(ours, list):
            if path.endswith(".stackTrace"):
                recorded, ours = recorded[-1:], ours[-1:]  # the frame that raised; how deep it lies is the code's
            if len(recorded) != len(ours):
                yield f"{path}: AWS has {len(recorded)} items, we have {len(ours)}"
            for index, (theirs, mine) in enumerate(zip(recorded, ours, strict=False)):
                yield from self.compare(theirs, mine, f"{path}[{index}]")
        elif isinstance(recorded, str):
            yield from self._text(recorded, ours, path)
        elif type(recorded) is not type(ours) or recorded != ours:
            yield f"{path}: AWS has {recorded!r}, we have {ours!r}"

    def _objects(self, recorded: Mapping[str, Any], ours: Mapping[str, Any], path: str) -> Iterator[str]:
        if missing := [key for key in recorded if key not in ours]:
            yield f"{path}: we lack {missing}"
        if more := [key for key in ours if key not in recorded]:
            yield f"{path}: we have {more}, too"
        order, ours_order = ([key for key in each if key not in _ANYWHERE] for each in (recorded, ours))
        if not missing and not more and order != sorted(order) and order != ours_order:
            yield f"{path}: AWS's order is {order}, ours is {ours_order}"
        for key, value in recorded.items():
            if key in ours:
                yield from self.compare(value, ours[key], f"{path}.{key}")

    def _text(self, recorded: str, ours: Any, path: str) -> Iterator[str]:
        form = _FORMS.get(recorded)
        if isinstance(form, type):
            if type(ours) is not form:
                yield f"{path}: {recorded} is a {form.__name__}, we have {ours!r}"
            return
        if not isinstance(ours, str):
            yield f"{path}: AWS has {recorded!r}, we have {ours!r}"
            return
        if path.rpartition("[")[0].endswith(".stackTrace"):
            recorded, ours = _stack_shape(recorded), _stack_shape(ours)
        else:
            recorded, ours = _FRAME.sub(r"\1FILE\2N\3F", recorded), _FRAME.sub(r"\1FILE\2N\3F", ours)
        pattern, tokens = self._pattern(recorded)
        found = re.fullmatch(pattern, ours, re.DOTALL)
        if found is None:
            yield f"{path}: AWS has {recorded!r}, we have {ours!r}, where {self._values}"
            return
        for token, value in zip(tokens, found.groups(), strict=True):
            kind = token.partition(":")[0]
            same = [
                other for other, known in self._values.items() if known == value and other.partition(":")[0] == kind
            ]
            if same and same != [token]:
                yield f"{path}: {value!r} is {token} here and {same[0]} before"
            self._values[token] = value

    def _pattern(self, recorded: str) -> tuple[str, list[str]]:
        """A pattern in which known tokens stand for their values; and the tokens that its groups will tell."""
        if recorded in ("date", "sent-timestamp", "sender-id"):
            return str(_FORMS[recorded]), []
        parts, new, end = [], [], 0
        for token in _TOKEN.finditer(recorded):
            name = token[0]
            parts.append(re.escape(recorded[end : token.start()]))
            end = token.end()
            if name.startswith("<timestamp:"):
                parts.append(re.sub(r"\d", r"\\d", re.escape(name[11:-1])))
            elif name in _FORMS:
                parts.append(str(_FORMS[name]))
            elif name in self._values:
                parts.append(re.escape(self._values[name]))
            elif name in new:
                parts.append(f"(?P=g{new.index(name)})")
            else:
                parts.append(f"(?P<g{len(new)}>\\S+?)")
                new.append(name)
        return "".join(parts) + re.escape(recorded[end:]), new


def _stack_shape(frame: str) -> str:
    """A frame without its file, line number, function and source: what AWS's traces have in common."""
    return re.sub(r'^  File "[^"]+", line \d+, in \S+\n    [^\n]+\n(?:[ ^~]+\n)?$', "a frame", frame)
