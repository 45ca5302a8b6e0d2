"""What the API keeps of one function: versions, aliases and the rest, as one value that is changed in one write.

Decides the form of a record, and what has become of a change that takes its time: `Pending` until it is `Active`, each
with a RevisionId of its own. What changes a record is in the module of each resource; everything here is pure.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote

from lambent.api.names import Reference
from lambent.api.refusals import invalid, not_found
from lambent.consistency import Known
from lambent.model import LATEST, Function
from lambent.settings import EngineSettings

T = TypeVar("T")

CODE_PATH: Final = "/lambent/code/"  # on this server, before the hash of a zip file
CREATING: Final = "The function is being created."
_CREATING: Final = "Creating"


@dataclass(slots=True)
class Change:
    """A change that is under way until `until` (epoch seconds); what it changed then has the revision `revision`."""

    kind: str  # "create" or "update"
    until: float
    revision: str


@dataclass(slots=True)
class Configuration:
    """A version of a function, or $LATEST. `members` are those of FunctionConfiguration that were chosen."""

    members: dict[str, Any]
    code: dict[str, Any]
    revision: str
    modified: float  # epoch seconds
    change: Change | None = None

    def settle(self, now: float) -> bool:
        """Let a change that has taken its time be done; was there one?"""
        if self.change is None or now < self.change.until:
            return False
        self.revision = self.change.revision
        self.change = None
        return True

    @property
    def states(self) -> dict[str, str]:
        """State and LastUpdateStatus, with their reasons."""
        if self.change is None:
            return {"State": "Active", "LastUpdateStatus": "Successful"}
        if self.change.kind == "create":
            return {"State": "Pending", "StateReason": CREATING, "StateReasonCode": _CREATING}
        return {
            "State": "Active",
            "LastUpdateStatus": "InProgress",
            "LastUpdateStatusReason": CREATING,
            "LastUpdateStatusReasonCode": _CREATING,
        }


class Versions(MutableMapping[str, Configuration]):
    """Published versions by number, in their order. They never change, and one of a thousand is made of its document
    only when it is asked for. `published`: those that are new."""

    def __init__(self, documents: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._documents = dict(documents or {})
        self.published: dict[str, Configuration] = {}
        self.now = 0.0  # epoch seconds, up to which they are settled

    def __getitem__(self, number: str) -> Configuration:
        found = self.published.get(number) or _configuration(self._documents[number])
        found.settle(self.now)
        return found

    def __setitem__(self, number: str, version: Configuration) -> None:
        self._documents[number] = asdict(version)
        self.published[number] = version

    def __delitem__(self, number: str) -> None:
        del self._documents[number]
        self.published.pop(number, None)

    def __contains__(self, number: object) -> bool:
        return number in self._documents

    def __iter__(self) -> Iterator[str]:
        return iter(self._documents)

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def documents(self) -> Mapping[str, Mapping[str, Any]]:
        """They as JSON."""
        return self._documents

    @property
    def code_bytes(self) -> int:
        """Of all of them, zipped."""
        return sum(int(each["code"]["size"]) for each in self._documents.values())


@dataclass(slots=True)
class Record:
    """All that is kept of a function. `declared`: it is a callable of an engine's code, whose options count."""

    name: str
    latest: Configuration
    declared: bool = False
    reserved: int | None = None
    recursive_loop: str = "Terminate"
    versions: Versions = field(default_factory=Versions)  # each is stored on its own
    last_version: int = 0
    published_from: str = ""  # the fingerprint of the last version
    aliases: dict[str, dict[str, Any]] = field(default_factory=dict)
    event_invoke: dict[str, dict[str, Any]] = field(default_factory=dict)  # by qualifier
    provisioned: dict[str, dict[str, Any]] = field(default_factory=dict)  # by qualifier
    tags: dict[str, str] = field(default_factory=dict)
    runtime_management: dict[str, dict[str, Any]] = field(default_factory=dict)  # by qualifier; shown, no effect

    def settle(self, now: float) -> None:
        """Let everything be done that has taken its time."""
        self.latest.settle(now)
        self.versions.now = now

    @property
    def code_bytes(self) -> int:
        """Of all of its versions, zipped."""
        return int(self.latest.code["size"]) + self.versions.code_bytes

    def document(self) -> dict[str, Any]:
        """It as JSON, but for its versions."""
        kept = {name: getattr(self, name) for name in self.__slots__ if name != "versions"}
        return {**kept, "latest": asdict(self.latest)}

    @classmethod
    def read(cls, document: Mapping[str, Any], versions: Mapping[str, Mapping[str, Any]]) -> Record:
        """The record of this JSON, and of that of its versions."""
        latest = _configuration(document["latest"])
        return cls(**{**document, "latest": latest, "versions": Versions(versions)})

    def at(self, reference: Reference) -> tuple[str, Configuration]:
        """The version that a reference means, through an alias if it names one. Raises `Refusal`."""
        version = reference.resolved
        if version in self.aliases:
            version = self.aliases[version]["FunctionVersion"]
        found = self.latest if version == LATEST else self.versions.get(version)
        if found is None:
            raise not_found(f"Function not found: {reference.arn}")
        return version, found


def _configuration(document: Mapping[str, Any]) -> Configuration:
    change = document["change"]
    return Configuration(**{**document, "change": None if change is None else Change(**change)})


@dataclass(slots=True)
class Asked:
    """A request that an operation decides about."""

    operation: str
    params: Mapping[str, Any]
    reference: Reference
    now: float  # epoch seconds
    new_id: Callable[[], str]
    settings: EngineSettings
    runtimes: frozenset[str]  # that botocore's model knows
    there: Known | None = None  # what is declared or stored, where it matters
    layers: Mapping[str, Any] = field(default_factory=dict)  # by name, where they matter: see layers.py
    url: str = ""  # of this server
    provisioned: Callable[[str], Mapping[str, Any]] = lambda version: {}
    """What there is of a version's provisioned concurrency (status, ready) in this engine; empty: it needs none."""

    @property
    def others(self) -> Mapping[str, Function]:
        """All functions, where they matter."""
        return {} if self.there is None else self.there.functions

    def get(self, name: str, default: Any = None) -> Any:
        """A parameter; the default if it was not given."""
        value = self.params.get(name)
        return default if value is None else value

    def code_url(self, code: Mapping[str, Any]) -> str:
        """Where a zip file can be had."""
        return code_url(self.url, code)

    def change(self, kind: str) -> Change:
        """One that begins now."""
        return Change(kind, self.now + self.settings.state_change_seconds, self.new_id())


def code_url(url: str, code: Mapping[str, Any]) -> str:
    """Where a server of this URL gives a zip file, by its hash."""
    return f"{url}{CODE_PATH}{quote(code['sha256'], safe='')}" if code["kind"] == "zip" else ""


def page(
    items: Iterable[T], params: Mapping[str, Any], order: Callable[[T], list[Any]], most: int = 50
) -> tuple[list[T], str | None]:
    """Up to MaxItems of these after Marker, and the marker of the next ones. A marker says what the last one was in the
    `order`: whatever is made or deleted meanwhile, nothing is left out by it or comes twice. Raises `Refusal`."""
    found = sorted(items, key=order)
    start, size = 0, min(params.get("MaxItems") or most, most)
    if marker := params.get("Marker"):
        try:
            start = bisect_right(found, json.loads(base64.b64decode(marker, validate=True)), key=order)
        except (ValueError, TypeError, RecursionError):
            raise invalid("Invalid pagination token: give the NextMarker of an earlier answer.") from None
    end = start + size
    last = json.dumps(order(found[end - 1])).encode() if end < len(found) else b""
    return found[start:end], base64.b64encode(last).decode() or None
