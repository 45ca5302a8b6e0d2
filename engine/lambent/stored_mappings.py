"""A mapping as its document tells it: its id, where it starts, and the way from what runs to what is wanted.

Decides when two mappings are the same one, and in which state one is. What is written when is `control.py`'s. Pure.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from lambent.consistency import AnyMapping
from lambent.model import EventSourceMapping, StreamMapping
from lambent.stored import Origin, Stored

# AWS's words for a mapping's State and its LastProcessingResult (API reference: EventSourceMappingConfiguration)
MappingState = Literal["Creating", "Enabled", "Disabling", "Disabled", "Updating", "Deleting"]
NOTHING_PROCESSED: Final = "No records processed"
PROCESSED: Final = "OK"
PROBLEM: Final = "PROBLEM: Function call failed"
RETIRED: Final = "mapping-retired"
"""The kind of the documents that stand for the ids of mappings that were deleted."""
_IDS: Final = uuid.UUID("5f1c2f0e-6c3c-5d1f-9d4e-4f6f6c616d62")  # the namespace of mapping ids


class Seek(NamedTuple):
    """Where a stream mapping starts. A shard whose progress is of a lower generation starts anew from here."""

    generation: int
    starting_position: str
    timestamp: float | None = None  # epoch seconds, with AT_TIMESTAMP


@dataclass(frozen=True, slots=True)
class StoredMapping:
    """A mapping as its document tells it. Equal if what is wanted is equal; `revision` counts writes."""

    id: str
    mapping: AnyMapping
    seek: Seek
    revision: int = field(default=0, compare=False)
    origin: Origin = field(default="code", compare=False)
    release: int = field(default=0, compare=False)
    api: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def body(self) -> str:
        """Its document's text, without what the document itself knows."""
        return Stored(self.mapping.model_dump(mode="json"), self.origin, self.release, self.seek, self.api).body()


def mapping_id(mapping: EventSourceMapping) -> str:
    """The same for the same name, or without one for the same source, function and qualifier: restarted code finds its
    progress."""
    return str(uuid.uuid5(_IDS, mapping.name or f"{mapping.source}\n{mapping.function}\n{mapping.qualifier}"))


def next_id(identity: str) -> str:
    """Of a mapping whose own id is taken: by one that feeds another function by now, or that was deleted."""
    return str(uuid.uuid5(_IDS, identity))


def is_same(one: EventSourceMapping, other: EventSourceMapping) -> bool:
    """Do both feed the same source to the same function and qualifier, or have the same name?"""
    if one.name is not None and one.name == other.name:
        return True
    return (one.source, one.function, one.qualifier) == (other.source, other.function, other.qualifier)


def first_seek(mapping: AnyMapping) -> Seek:
    """Where a mapping that nobody sought starts. A queue has no such place."""
    if isinstance(mapping, StreamMapping):
        return Seek(0, mapping.starting_position, mapping.starting_position_timestamp)
    return Seek(0, "")


def state_of(wanted: StoredMapping | None, running: StoredMapping | None) -> MappingState:
    """AWS's word for the way from what runs to what is wanted (API reference: EventSourceMappingConfiguration)."""
    if wanted is None:
        return "Deleting"
    if not wanted.mapping.enabled:
        return "Disabled" if running is None else "Disabling"
    if running is None:
        return "Creating"
    return "Enabled" if running == wanted else "Updating"
