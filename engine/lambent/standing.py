"""How a mapping stands: what is wanted, what runs, and what lies before it.

Decides what counts as its backlog (all that its function has not finished) and its iterator age (how long the oldest of
that has been in its stream), and how what several engines show of it is one answer. All but what runs is read from the
store, so it is known without an engine; of sources outside the store an engine alone knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lambent.desk import Snapshot
from lambent.model import Backlog, Lease, Queue, Shard, Stream, StreamMapping
from lambent.polling.leases import resume_from
from lambent.ports import BuiltinStream, Connection
from lambent.stored_mappings import NOTHING_PROCESSED, PROBLEM, MappingState, StoredMapping
from lambent.telemetry import ITERATOR_AGE


@dataclass(frozen=True, slots=True)
class MappingStanding:
    """`running` and `last_result` are None if no engine that runs serves it. It is not `declared` if engines have its
    function and none serves it (None: none has). `backlog` counts records or messages and is None where no one knows
    it, as `iterator_age_seconds`, which queues do not have."""

    stored: StoredMapping
    declared: bool | None
    running: MappingState | None
    last_result: str | None
    backlog: int | None
    iterator_age_seconds: float | None

    @property
    def wanted(self) -> MappingState:
        return "Enabled" if self.stored.mapping.enabled else "Disabled"


async def standing(
    stored: StoredMapping,
    connection: Connection,
    queues: Mapping[str, Queue],
    streams: Mapping[str, Stream],
    snapshots: Sequence[Snapshot],
    now: float,
) -> MappingStanding:
    """How this mapping stands `now` (epoch seconds)."""
    kind, _, name = stored.mapping.source.partition(":")
    backlog, age = None, None
    if kind == "queue" and name in queues:
        depth = await connection.queue(queues[name]).depth()
        backlog = depth.visible + depth.in_flight + depth.delayed
    elif kind == "stream" and name in streams:
        ahead = await _ahead(stored, connection, connection.stream(streams[name]))
        backlog, age = ahead.records, 0.0 if ahead.oldest_at is None else max(0.0, now - ahead.oldest_at)
    elif isinstance(stored.mapping, StreamMapping):
        age = max((_last_age(each, stored.id) for each in snapshots), default=None)
    last_result = _last_result(_shown(stored, snapshots))
    return MappingStanding(stored, *running(stored, snapshots), last_result, backlog, age)


def running(stored: StoredMapping, snapshots: Sequence[Snapshot]) -> tuple[bool | None, MappingState | None]:
    """Whether it is declared, and in which state it is in all engines together: on its way while it is so in one."""
    shown = _shown(stored, snapshots)
    hosted = any(stored.mapping.function in each.functions for each in snapshots)
    final = "Enabled" if stored.mapping.enabled else "Disabled"
    on_its_way: MappingState = "Updating" if stored.mapping.enabled else "Disabling"
    states = {each["state"] if each["revision"] == stored.revision else on_its_way for each in shown}
    state = min(states - {final}, default=final) if states else None
    return bool(shown) if hosted else None, cast(MappingState | None, state)


def _shown(stored: StoredMapping, snapshots: Sequence[Snapshot]) -> list[Mapping[str, Any]]:
    return [each.mappings[stored.id] for each in snapshots if stored.id in each.mappings]


def _last_result(shown: Sequence[Mapping[str, Any]]) -> str | None:
    results = [each["last_processing_result"] for each in shown if "last_processing_result" in each]
    if PROBLEM in results:
        return PROBLEM
    return next((each for each in results if each != NOTHING_PROCESSED), results[0] if results else None)


def _last_age(snapshot: Snapshot, identity: str) -> float:
    measured = snapshot.metrics.get(ITERATOR_AGE, {}).get(identity)
    return measured["last"] if isinstance(measured, dict) else 0.0


async def reached(
    stored: StoredMapping, leases: Mapping[str, Lease], shard: Shard, stream: BuiltinStream
) -> str | None:
    """Up to which position a mapping has finished a shard, or after which it would begin now; None: it begins at the
    latest record whenever that is, so nothing lies before it. `leases` are the mapping's, by shard."""
    lease = leases.get(shard.id)
    progress = None if lease is None else resume_from(lease, stored.seek.generation)
    if progress is not None:
        return progress.position
    if any(parent in leases for parent in shard.parents):
        return await stream.position(shard.id, "TRIM_HORIZON", None)
    if stored.seek.starting_position == "LATEST":
        return None
    return await stream.position(shard.id, stored.seek.starting_position, stored.seek.timestamp)


async def _ahead(stored: StoredMapping, connection: Connection, stream: BuiltinStream) -> Backlog:
    """What the mapping has not finished in all shards."""
    leases = {fact.lease.name: fact.lease for fact in await connection.facts.shards(stored.id)}
    records, oldest = 0, []
    for shard in await stream.shards():
        position = await reached(stored, leases, shard, stream)
        if position is None:
            continue
        backlog = await stream.backlog(shard.id, position)
        records += backlog.records
        oldest += [] if backlog.oldest_at is None else [backlog.oldest_at]
    return Backlog(records, min(oldest, default=None))
