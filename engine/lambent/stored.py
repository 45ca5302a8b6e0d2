"""What a document of configuration says, beside the configuration itself: how it came to be, and of which release.

Decides the form in which configurations are stored, how two of them differ, and whether what is declared now gives way
to what is stored. What is written when is `control.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lambent.arns import without_password
from lambent.ports import Document

Origin = Literal["code", "api"]
"""code: declared, and runs only where it is declared. api: made by a call, and runs wherever its function is."""

DELETED: Final = json.dumps({"deleted": True})
"""Stands for a function that was deleted, until none of its events is left."""
FORGOTTEN: Final = json.dumps({"deleted": True, "forgotten": True})
"""Stands for it from then on, until everybody has noticed."""

LAYER: Final = "layer"
"""The kind of the documents of layers, which Lambda's API keeps."""


def code_of_layers(bodies: Iterable[str]) -> list[str]:
    """References of the code that these layers have."""
    return [each["code"]["path"] for body in bodies for each in json.loads(body)["versions"].values()]


_LEFT_OUT_IF_EMPTY: Final = ("seek", "api", "test_events", "versions", "code_bytes")


@dataclass(frozen=True, slots=True)
class Stored:
    """A document's content. `release` is the `EngineSettings.release` of the code that declared it; `seek` is a
    mapping's; `api` is what Lambda's API keeps of a function beside what engines need of it; `test_events` are events
    that were saved with a function, as JSON by their names; `versions` are references of a function's versions, by
    number, and `code_bytes` is what their code takes of the account."""

    configuration: Mapping[str, Any]
    origin: Origin = "code"
    release: int = 0
    seek: tuple[Any, ...] = ()
    api: Mapping[str, Any] = field(default_factory=dict)
    test_events: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    code_bytes: int = 0

    def body(self) -> str:
        """The document's text."""
        found: dict[str, Any] = {"configuration": self.configuration, "origin": self.origin, "release": self.release}
        for name in _LEFT_OUT_IF_EMPTY:
            if value := getattr(self, name):
                found[name] = value
        return json.dumps(found)


def content(document: Document | None) -> Stored | None:
    """None: there is no document, or what it was about is deleted."""
    if document is None or is_deleted(document):
        return None
    found = json.loads(document.body)
    known = {name: found[name] for name in Stored.__slots__ if name in found}
    return Stored(**{**known, "seek": tuple(found.get("seek", ()))})


def is_deleted(document: Document) -> bool:
    return document.body in (DELETED, FORGOTTEN)


def difference(before: Mapping[str, Any], after: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """What changed, field by field: {"batch_size": "5 -> 6"}, {"event_invoke.maximum_retry_attempts": "2 -> 0"}. Of
    an environment's variables only the names, and of URLs not the password: this is for logs."""
    found: dict[str, str] = {}
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= difference(old, new, f"{within}{name}.")
        elif old != new:
            secret = within.endswith("variables.")
            found[f"{within}{name}"] = "changed" if secret else f"{_shown(old)!r} -> {_shown(new)!r}"
    return found


def _shown(value: object) -> object:
    if isinstance(value, str):
        return without_password(value)
    return {**value, "variables": "…"} if isinstance(value, Mapping) and "variables" in value else value
