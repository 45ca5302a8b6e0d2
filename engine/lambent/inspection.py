"""Where an item is and why, whether a mapping's books balance, and which settings lose time or events: asked by people,
through an engine or a client.

Decides where to look, and what a person is told who asks for what is not there. Changes nothing, and needs no running
engine; one that runs is asked what it serves. What the facts mean is decided in `semantics/explaining.py`, how they add
up in `semantics/auditing.py`, what follows from traffic in `semantics/advising.py`.

Only the store's own queues and streams can be looked into; of a mapping of another source there is what checkpoints
told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lambent.arns import without_password
from lambent.consistency import Known
from lambent.control import Control
from lambent.desk import Snapshot, look
from lambent.errors import InvalidParameterValue, ResourceNotFound
from lambent.model import (
    EventFact,
    Function,
    Lease,
    MessageFact,
    Piece,
    QueueMapping,
    Record,
    Shard,
    ShardFact,
    StreamMapping,
)
from lambent.observing import FUNCTION as OBSERVED_FUNCTION
from lambent.observing import MAPPING as OBSERVED_MAPPING
from lambent.observing import calls_of, traffic_of
from lambent.polling.leases import resume_from
from lambent.ports import BuiltinStream, Connection
from lambent.semantics.advising import (
    Advice,
    Sweep,
    Traffic,
    advise_batches,
    advise_concurrency,
    advise_visibility,
)
from lambent.semantics.auditing import Account, Audit
from lambent.semantics.builtin import place_of
from lambent.semantics.explaining import (
    Explanation,
    Load,
    Placed,
    Reader,
    Service,
    explain_event,
    explain_message,
    explain_record,
    unknown,
    unread_by_all,
)
from lambent.semantics.filtering import Miss, compile_filters
from lambent.semantics.redriving import Declared
from lambent.semantics.routing import named
from lambent.standing import reached
from lambent.stored_mappings import StoredMapping
from lambent.telemetry import CONCURRENT_EXECUTIONS

MAXIMUM_LOOKED_AT: Final = 10_000  # messages of a FIFO queue, for the one that holds another back
PAGE: Final = 1_000


async def event(connection: Connection, request_id: str) -> EventFact:
    """Where an asynchronous event is, or how it ended. Raises ResourceNotFound, StoreUnavailable."""
    fact = await connection.facts.event(request_id)
    if fact is None:
        raise ResourceNotFound(
            f"This store knows no event {request_id}: it was accepted by another one, or it ended so long ago that its "
            "record is gone."
        )
    return fact


async def why(control: Control, connection: Connection, id: str, now: float) -> Sequence[Explanation]:
    """Where the item of this id is: an event's request id, a message's id, or a record's sequence number, alone or as
    `shardId:sequenceNumber`. One explanation for each mapping that reads it; one that says so if nothing is known."""
    asked = await _Asked.of(control, connection, now)
    fact = await connection.facts.event(id)
    if fact is not None:
        name = fact.event.function
        return [
            explain_event(fact, asked.function(name, fact.event.qualifier), asked.service(name), now, asked.load(name))
        ]
    message = await connection.facts.message(id)
    if message is not None:
        return await asked.message(message)
    shard, _, position = id.rpartition(":")
    return await asked.record(position, shard) or [unknown(id)]


async def audit(control: Control, connection: Connection, identity: str) -> Audit:
    """What came to a stream mapping since it began to read (or since its last seek), and what became of it.

    Raises ResourceNotFound; InvalidParameterValue for a queue, of whose messages no fates are kept."""
    stored = await control.get_mapping(identity)
    mapping = stored.mapping
    if not isinstance(mapping, StreamMapping):
        raise InvalidParameterValue(
            f"{without_password(mapping.source)} is a queue: what became of its messages is counted by "
            "metrics only; an audit is for the mapping of a stream"
        )
    facts = {fact.lease.name: fact for fact in await connection.facts.shards(identity)}
    configuration = (await control.known()).streams.get(mapping.source.removeprefix("stream:"))
    if "://" in mapping.source or configuration is None:
        accounts = {name: _told(fact) for name, fact in facts.items()}
        return Audit(identity, mapping.source, mapping.function, accounts)
    stream, accounts = connection.stream(configuration), {}
    leases = {name: fact.lease for name, fact in facts.items()}
    for shard in await stream.shards():
        accounts[shard.id] = await _account(stored, stream, shard, leases, facts.get(shard.id))
    return Audit(identity, mapping.source, mapping.function, accounts)


async def advise(control: Control, connection: Connection) -> tuple[list[Advice], list[Sweep]]:
    """Settings that lose time or events, as far as the observed traffic shows; and what that rests on, by mapping."""
    documents, known = connection.documents, await control.known()
    limit = known.settings.account_concurrency
    traffic = {each.name: traffic_of(each) for each in await documents.list(OBSERVED_MAPPING)}
    calls = {each.name: calls_of(each) for each in await documents.list(OBSERVED_FUNCTION)}
    advice, sweeps = advise_concurrency(known.functions, calls, limit), list[Sweep]()
    for stored in (await control.list_mappings()).values():
        mapping, function = stored.mapping, known.functions.get(stored.mapping.function)
        function = None if function is None else named(function, mapping.qualifier)
        name, servers, fifo = mapping.source.partition(":")[2], 0, False
        if isinstance(mapping, StreamMapping) and name in known.streams:
            shards = await connection.stream(known.streams[name]).shards()
            closed = {parent for shard in shards for parent in shard.parents}
            servers = mapping.parallelization_factor * sum(shard.id not in closed for shard in shards)
        elif isinstance(mapping, QueueMapping) and name in known.queues and function is not None:
            advice += advise_visibility(mapping, known.queues[name], function)
            servers = min(mapping.maximum_concurrency or limit, function.reserved_concurrency or limit)
            fifo = known.queues[name].fifo
        if servers:
            found, sweep = advise_batches(mapping, traffic.get(stored.id, Traffic()), servers, fifo)
            advice += found
            sweeps += [] if sweep is None else [sweep]
    return advice, sweeps


def _told(fact: ShardFact) -> Account:
    """Of a source whose places nobody can count."""
    progress = fact.lease.progress
    pieces = () if progress is None else progress.pieces
    return Account(None, None, fact.counts, None, len(pieces), progress is not None and progress.ended)


async def _account(
    stored: StoredMapping, stream: BuiltinStream, shard: Shard, leases: Mapping[str, Lease], fact: ShardFact | None
) -> Account:
    progress = None if fact is None else resume_from(fact.lease, stored.seek.generation)
    position = await reached(stored, leases, shard, stream)
    tip = await stream.position(shard.id, "LATEST", None)
    if position is None:
        return Account(0, 0, {}, 0)
    start = position if progress is None else progress.start
    waiting = (await stream.backlog(shard.id, position)).records
    return Account(
        came=place_of(tip) - place_of(start),
        passed=place_of(position) - place_of(start),
        fates={} if fact is None or progress is None else fact.counts,
        waiting=waiting,
        trying=0 if progress is None else len(progress.pieces),
        ended=progress is not None and progress.ended,
    )


class _Asked:
    """What is configured and what runs, at the time of one question."""

    def __init__(
        self,
        connection: Connection,
        known: Known,
        mappings: Mapping[str, StoredMapping],
        alive: bool,
        snapshots: Sequence[Snapshot],
        now: float,
    ) -> None:
        self.known = known
        self._connection = connection
        self._mappings = mappings
        self._alive = alive
        self._snapshots = snapshots
        self._now = now

    @classmethod
    async def of(cls, control: Control, connection: Connection, now: float) -> _Asked:
        known, mappings = await control.known(), await control.list_mappings()
        alive = await connection.engines() > 0
        return cls(connection, known, mappings, alive, await look(connection) if alive else [], now)

    def function(self, name: str, qualifier: str | None) -> Function | None:
        """The configuration that counts for calls of this qualifier."""
        found = self.known.functions.get(name)
        return None if found is None else named(found, qualifier)

    def service(self, function: str, mapping: str | None = None) -> Service:
        """Who works on this; an engine that is too busy to tell is taken for one that does."""
        if not self._alive:
            return "away"
        hosts = [each for each in self._snapshots if function in each.functions]
        if self._snapshots and not hosts:
            return "unhosted"
        if mapping is not None and hosts and not any(mapping in each.mappings for each in hosts):
            return "stopped"
        return "served"

    def load(self, function: str, mapping: str = "") -> Load:
        """How many calls run of what holds back an item of this function and mapping."""
        functions, running = self.known.functions, Counter[str]()
        for each in self._snapshots:
            measured = each.metrics.get(CONCURRENT_EXECUTIONS, {})
            running.update({name: int(count) for name, count in measured.items() if not isinstance(count, dict)})
        reserved = {name: each.reserved_concurrency for name, each in functions.items()}
        shown = [each.mappings[mapping] for each in self._snapshots if mapping in each.mappings]
        return Load(
            running[function],
            sum(each.get("limited_calls", 0) for each in shown),
            sum(count for name, count in running.items() if reserved.get(name) is None),
            self.known.settings.account_concurrency - sum(each or 0 for each in reserved.values()),
        )

    async def message(self, fact: MessageFact) -> Sequence[Explanation]:
        queue = self._connection.queue(self.known.queues[fact.queue])
        view = queue.view(fact.message)
        readers = [self._reader(each, view) for each in self._of(f"queue:{fact.queue}")]
        streams = [each.mapping for each in self._mappings.values() if isinstance(each.mapping, StreamMapping)]
        declared = Declared(self.known.functions, self.known.queues, self.known.streams, streams)
        ahead = await self._ahead(fact) if fact.message.group is not None and fact.state != "in_flight" else ""
        return explain_message(fact, self.known.queues[fact.queue], readers, declared, ahead, self._now)

    async def record(self, position: str, shard: str) -> Sequence[Explanation]:
        found: list[Explanation] = []
        for name, configuration in self.known.streams.items():
            stream, source = self._connection.stream(configuration), f"stream:{name}"
            hit = await stream.find(position)
            if hit is not None and shard in ("", hit[0]):
                stored = list(self._of(source))
                found += [await self._placed(each, stream, hit[0], position, hit[1]) for each in stored]
                if not stored:
                    found.append(unread_by_all(Placed(position, hit[0], hit[1], None, None), source))
            elif hit is None:
                found += await self._gone(position, shard, source)
        return found

    async def _placed(
        self, stored: StoredMapping, stream: BuiltinStream, shard: str, position: str, record: Record
    ) -> Explanation:
        reader = self._reader(stored, stream.view(record))
        facts = self._connection.facts
        leases = {fact.lease.name: fact.lease for fact in await facts.shards(stored.id)}
        shards = {each.id: each for each in await stream.shards()}
        progress = resume_from(leases[shard], stored.seek.generation) if shard in leases else None
        reach = await reached(stored, leases, shards[shard], stream)
        pieces: list[tuple[Piece, Record | None]] = []
        for piece in () if progress is None else progress.pieces:
            first = await stream.find(piece.first)
            pieces.append((piece, None if first is None else first[1]))
        unfinished = []
        for parent in shards[shard].parents:
            lease = leases.get(parent)
            before = None if lease is None else resume_from(lease, stored.seek.generation)
            if parent in shards and not (before is not None and before.ended):
                unfinished.append(parent)
        settled = None
        if progress is not None and position <= progress.position:
            settled = await facts.settled(stored.id, shard, position)
        placed = Placed(
            position,
            shard,
            record,
            progress,
            settled,
            before=max(0, place_of(position) - place_of(reach or position) - 1),
            pieces=pieces,
            parents=unfinished,
        )
        return explain_record(placed, reader)

    async def _gone(self, position: str, shard: str, source: str) -> list[Explanation]:
        """Of a record that its stream holds no more, what the mappings' checkpoints told."""
        found = []
        for stored in self._of(source):
            for fact in await self._connection.facts.shards(stored.id):
                if shard in ("", fact.lease.name):
                    settled = await self._connection.facts.settled(stored.id, fact.lease.name, position)
                    progress = resume_from(fact.lease, stored.seek.generation)
                    if settled is not None and progress is not None:
                        placed = Placed(position, fact.lease.name, None, progress, settled)
                        found.append(explain_record(placed, self._reader(stored, None)))
        return found

    def _of(self, source: str) -> Iterable[StoredMapping]:
        return (each for each in self._mappings.values() if each.mapping.source == source)

    def _reader(self, stored: StoredMapping, view: Mapping[str, object] | None) -> Reader:
        mapping = stored.mapping
        misses: Sequence[Miss] = () if view is None else compile_filters(mapping.filters).misses(view)
        service = self.service(mapping.function, stored.id)
        function = self.function(mapping.function, mapping.qualifier)
        return Reader(stored.id, mapping, function, service, misses, self.load(mapping.function, stored.id))

    async def _ahead(self, fact: MessageFact) -> str:
        """The first message of its group that comes before it."""
        queue, after, place = self._connection.queue(self.known.queues[fact.queue]), "", fact.message.sequence_number
        for _ in range(MAXIMUM_LOOKED_AT // PAGE):
            page = await queue.peek(PAGE, after)
            for other in (each.message for each in page):
                if other.group == fact.message.group and (other.sequence_number or "") < (place or ""):
                    return other.id
            if len(page) < PAGE:
                break
            after = page[-1].message.id
        return ""
