"""The store in memory: documents, event queue, leases and permits, the built-in queues and streams of one process.

Decides who holds what. Leaves to `polling/leases.py` who should take which lease, to `semantics/sharing.py` how a limit
is divided between the engines that want it, and to `semantics/concurrency.py` what may start under a granted block.
A real store in all but one respect: it ends with its process. Several engines of one event loop may share it, each by
its own connection; no call waits unless it is asked to, so each is one atomic step.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from lambent.errors import InvalidParameterValue
from lambent.model import (
    Checkpoint,
    EventFact,
    Fate,
    Lease,
    MessageFact,
    Queue,
    Settled,
    ShardFact,
    Stream,
)
from lambent.ports import Clock, Document, Holdings, World
from lambent.semantics.concurrency import Demand
from lambent.semantics.sharing import Block, grant
from lambent.stores.memory_archive import MemoryArchive
from lambent.stores.memory_events import EventLines, MemoryEvents
from lambent.stores.memory_lines import Bell
from lambent.stores.memory_queue import MemoryQueue, QueueState
from lambent.stores.memory_stream import MemoryStream, StreamState

NOBODY: Final = ""
MAXIMUM_RANGES: Final = 10_000  # of a shard's settled records that can still be asked for


class MemoryStore:
    """Everything of one or several engines in this process's memory. Give the same one to each that shall share it."""

    capabilities = frozenset({"documents", "events", "leases", "permits", "queue", "stream", "archive", "shared"})

    def __init__(self) -> None:
        self._clock = _StoreClock()
        self._documents = _DocumentState()
        self._lines = EventLines(self._clock)
        self._leases = _LeaseState(self._clock)
        self._archive = MemoryArchive(self._clock)
        self._queues: dict[str, QueueState] = {}
        self._streams: dict[str, StreamState] = {}
        self._engines: dict[Connection, None] = {}

    def __str__(self) -> str:
        return "memory://"

    async def connect(self, world: World, client: bool = False) -> Connection:
        """The store's own time is from now on the clock of this world."""
        self._clock.adopt(world.clock)
        return Connection(self, world, client)

    def queue_state(self, config: Queue) -> QueueState:
        """The queue of that name, with this configuration from now on. Raises InvalidParameterValue if messages of a
        FIFO queue are in it and it is declared a standard one, or the reverse."""
        state = self._queues.get(config.name)
        if state is not None and state.config.fifo != config.fifo:
            if not state.empty():
                raise InvalidParameterValue(f"fifo of queue {config.name} cannot change while messages are in it")
            state = None
        if state is None:
            state = self._queues[config.name] = QueueState(config, self._clock, self._dead_letters)
        state.config = config
        return state

    def stream_state(self, config: Stream) -> StreamState:
        """The stream of that name. An existing one keeps its shards, whose number changes only by split and merge."""
        state = self._streams.get(config.name)
        if state is None:
            state = self._streams[config.name] = StreamState(config, self._clock)
        state.config = config
        return state

    def mapping_is(self, name: str, there: bool) -> None:
        """No stream keeps anything for a mapping that is no more, whatever its loop still has to say."""
        for state in self._streams.values():
            state.mapping_is(name, there)

    def _dead_letters(self, config: Queue) -> QueueState:
        name = config.dead_letter_queue
        assert name is not None
        return self._queues.get(name) or self.queue_state(Queue(name=name, fifo=config.fifo))


class Connection:
    """One engine's view of the store."""

    def __init__(self, store: MemoryStore, world: World, client: bool) -> None:
        self.documents = MemoryDocuments(store._documents, store._clock, store.mapping_is)
        self.events = MemoryEvents(store._lines, world)
        self.leases = MemoryLeases(store._leases, world.owner)
        self.archive = store._archive
        self.facts = MemoryFacts(store._lines, store._leases, store._queues)
        self._store = store
        self._world = world
        if not client:
            store._engines[self] = None

    async def engines(self) -> int:
        return len(self._store._engines)

    def queue(self, queue: Queue) -> MemoryQueue:
        return MemoryQueue(self._store.queue_state(queue), self._world)

    def stream(self, stream: Stream) -> MemoryStream:
        return MemoryStream(self._store.stream_state(stream), self._world)

    cautions = ()

    def on_trouble(self, callback: Callable[[str], None]) -> None:
        """Memory has none."""

    async def close(self) -> None:
        """Its leases, memberships, permits and claims are free at once. Closing twice is allowed."""
        self._store._engines.pop(self, None)
        self.documents.close()
        self.events.close()
        self.leases.close()


class _StoreClock:
    """The clock of the latest world, but its monotonic time goes on from where the former one's stood, so that what
    waits in a store survives an event loop whose time begins anew."""

    def __init__(self) -> None:
        self._clock: Clock | None = None
        self._ahead = 0.0

    def adopt(self, clock: Clock) -> None:
        if self._clock is not None and self._clock is not clock:
            self._ahead = self.monotonic() - clock.monotonic()
        self._clock = clock

    def now(self) -> float:
        assert self._clock is not None, "the store is used before an engine connected"
        return self._clock.now()

    def monotonic(self) -> float:
        assert self._clock is not None, "the store is used before an engine connected"
        return self._ahead + self._clock.monotonic()


# --------------------------------------------------------------------------- documents


class _DocumentState:
    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, Document]] = {}
        self.written: defaultdict[str, dict[str, None]] = defaultdict(dict)  # names of a kind, the latest last
        self.expiries: dict[tuple[str, str], float] = {}  # on the monotonic clock
        self.expires_first = float("inf")  # or later: none of them earlier
        self.changes: Counter[str] = Counter()
        self.revisions = itertools.count(1)
        self.bell = Bell()

    def sweep(self, now: float) -> None:
        """What expired is gone; nobody is told."""
        if now < self.expires_first:
            return
        for kind, name in [key for key, at in self.expiries.items() if at <= now]:
            del self.expiries[kind, name]
            self.kinds[kind].pop(name, None)
            self.written[kind].pop(name, None)
        self.expires_first = min(self.expiries.values(), default=float("inf"))

    def changed(self, kind: str) -> None:
        self.changes[kind] += 1
        self.bell.ring()


class MemoryDocuments:
    """`Documents` in memory. Revisions come from one counter, so a recreated document never has an old one's."""

    def __init__(
        self, state: _DocumentState, clock: Clock, mapping_is: Callable[[str, bool], None] = lambda *_: None
    ) -> None:
        self._state = state
        self._clock = clock
        self._mapping_is = mapping_is
        self._closed = False

    async def get(self, kind: str, name: str) -> Document | None:
        self._state.sweep(self._clock.monotonic())
        return self._state.kinds.get(kind, {}).get(name)

    async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
        self._state.sweep(self._clock.monotonic())
        documents = self._state.kinds.get(kind, {})
        if not after:
            return tuple(documents.values())
        latest = (documents[name] for name in reversed(self._state.written[kind]))
        return tuple(itertools.takewhile(lambda each: each.revision > after, latest))

    async def put(
        self, kind: str, name: str, body: str, revision: int | None = None, expires_in_seconds: float | None = None
    ) -> Document | None:
        self._state.sweep(self._clock.monotonic())
        documents = self._state.kinds.setdefault(kind, {})
        stored = documents.get(name)
        if revision is not None and revision != (stored.revision if stored else 0):
            return None
        document = documents[name] = Document(kind, name, body, next(self._state.revisions))
        self._state.written[kind].pop(name, None)
        self._state.written[kind][name] = None
        self._state.expiries.pop((kind, name), None)
        if expires_in_seconds is not None:
            self._state.expiries[kind, name] = at = self._clock.monotonic() + expires_in_seconds
            self._state.expires_first = min(self._state.expires_first, at)
        if kind == "mapping":
            self._mapping_is(name, True)
        self._state.changed(kind)
        return document

    async def delete(self, kind: str, name: str) -> bool:
        self._state.sweep(self._clock.monotonic())
        if self._state.kinds.get(kind, {}).pop(name, None) is None:
            return False
        self._state.written[kind].pop(name, None)
        self._state.expiries.pop((kind, name), None)
        if kind == "mapping":
            self._mapping_is(name, False)
        self._state.changed(kind)
        return True

    async def watch(self, kind: str) -> AsyncIterator[None]:
        """Ends when the connection is closed."""
        seen = -1
        while not self._closed:
            if seen != self._state.changes[kind]:
                seen = self._state.changes[kind]
                yield
            else:
                await self._state.bell.wait(float("inf"))

    def close(self) -> None:
        self._closed = True
        self._state.bell.ring()


# --------------------------------------------------------------------------- leases and permits


@dataclass(slots=True)
class _Held:
    lease: Lease
    expires_at: float = 0.0


class Fates:
    """What became of a shard's records: totals by (fate, reason), and the latest ranges. Neighbours of one fate and
    reason are one range."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[Fate, str]] = Counter()
        self.ranges: deque[Settled] = deque(maxlen=MAXIMUM_RANGES)

    def add(self, settled: Sequence[Settled]) -> None:
        for each in settled:
            self.counts[each.fate, each.reason] += each.count
            before = self.ranges[-1] if self.ranges else None
            if before is not None and (before.fate, before.reason) == (each.fate, each.reason):
                self.ranges[-1] = Settled(before.first, each.last, before.count + each.count, each.fate, each.reason)
            else:
                self.ranges.append(each)


class _LeaseState:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.members: dict[str, dict[str, float]] = {}
        self.held: dict[tuple[str, str], _Held] = {}
        self.fates: dict[tuple[str, str], Fates] = {}  # by (mapping, shard)
        self.blocks: defaultdict[str, dict[str, Block]] = defaultdict(dict)

    def see(self, group: str, name: str) -> Lease:
        held = self.held.get((group, name))
        if held is None:
            return Lease(group, name, NOBODY, 0, free=True)
        if not held.lease.free and held.expires_at <= self.clock.monotonic():
            held.lease = replace(held.lease, free=True)
        return held.lease

    def holder(self, lease: Lease) -> _Held | None:
        """Where this lease is stored, if its owner and counter still hold."""
        held = self.held.get((lease.group, lease.name))
        same = held is not None and (held.lease.owner, held.lease.counter) == (lease.owner, lease.counter)
        return held if same else None


class MemoryLeases:
    """`Leases` in memory. A lease that expired is free, and its owner must take it anew; until somebody does, its
    progress can still be stored, so that finished work isn't done twice."""

    def __init__(self, state: _LeaseState, owner: str) -> None:
        self._state = state
        self._owner = owner

    async def heartbeat(self, group: str, names: Collection[str], valid_for_seconds: float) -> Holdings:
        state, now = self._state, self._state.clock.monotonic()
        members = state.members.setdefault(group, {})
        members[self._owner] = now + valid_for_seconds
        for gone in [member for member, expires_at in members.items() if expires_at <= now]:
            del members[gone]
        leases = {name: state.see(group, name) for name in names}
        for name, lease in leases.items():
            if lease.owner == self._owner and not lease.free:
                state.held[group, name].expires_at = now + valid_for_seconds
        return Holdings(len(members), leases, valid_for_seconds)

    async def take_many(self, leases: Sequence[Lease], valid_for_seconds: float) -> Sequence[Lease]:
        state, taken = self._state, []
        for lease in leases:
            seen = state.see(lease.group, lease.name)
            if seen.free and seen.counter == lease.counter:
                mine = replace(seen, owner=self._owner, counter=seen.counter + 1, free=False)
                expires_at = state.clock.monotonic() + valid_for_seconds
                state.held[lease.group, lease.name] = _Held(mine, expires_at)
                taken.append(mine)
        return taken

    async def release_many(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if (held := self._mine(lease)) is not None:
                held.lease = replace(held.lease, owner=NOBODY, free=True)

    async def checkpoint_many(self, checkpoints: Sequence[tuple[Lease, Checkpoint]]) -> Sequence[bool]:
        return [self._checkpoint(lease, checkpoint) for lease, checkpoint in checkpoints]

    async def permits(self, demands: Mapping[str, Demand], valid_for_seconds: float) -> Mapping[str, int]:
        state, now = self._state, self._state.clock.monotonic()
        return {
            resource: grant(state.blocks[resource], self._owner, demand, now, now + valid_for_seconds)
            for resource, demand in demands.items()
        }

    def close(self) -> None:
        state = self._state
        for held in state.held.values():
            if held.lease.owner == self._owner:
                held.lease = replace(held.lease, owner=NOBODY, free=True)
        for members in state.members.values():
            members.pop(self._owner, None)
        for blocks in state.blocks.values():
            blocks.pop(self._owner, None)

    def _mine(self, lease: Lease) -> _Held | None:
        return self._state.holder(lease) if lease.owner == self._owner else None

    def _checkpoint(self, lease: Lease, checkpoint: Checkpoint) -> bool:
        held = self._mine(lease)
        if held is None:
            return False
        mine = held.lease  # `replace` would take as long as all the rest
        before, where = mine.progress, (lease.group, lease.name)
        if before is not None and before.seek != checkpoint.progress.seek:
            self._state.fates.pop(where, None)
        held.lease = Lease(mine.group, mine.name, mine.owner, mine.counter, checkpoint.progress, mine.free)
        if checkpoint.settled and before != checkpoint.progress:
            fates = self._state.fates.get(where)
            if fates is None:
                fates = self._state.fates[where] = Fates()
            fates.add(checkpoint.settled)
        return True


# --------------------------------------------------------------------------- facts


class MemoryFacts:
    """`Facts` in memory: of ended events the latest are known, of settled records the latest ranges."""

    def __init__(self, lines: EventLines, leases: _LeaseState, queues: Mapping[str, QueueState]) -> None:
        self._lines = lines
        self._leases = leases
        self._queues = queues

    async def event(self, request_id: str) -> EventFact | None:
        self._lines.surface()
        return self._lines.fact(request_id)

    async def ended(self) -> Mapping[tuple[str, str], int]:
        return dict(self._lines.counts)

    async def message(self, message_id: str) -> MessageFact | None:
        found = (queue.fact(message_id) for queue in self._queues.values())
        return next((fact for fact in found if fact is not None), None)

    async def shards(self, group: str) -> Sequence[ShardFact]:
        known = self._leases
        names = [name for of_group, name in known.held if of_group == group]
        return [ShardFact(known.see(group, name), self._counts(group, name)) for name in names]

    async def settled(self, group: str, shard: str, position: str) -> Settled | None:
        fates = self._leases.fates.get((group, shard))
        ranges = reversed(fates.ranges) if fates else ()
        return next((each for each in ranges if each.first <= position <= each.last), None)

    def _counts(self, group: str, shard: str) -> Mapping[tuple[Fate, str], int]:
        fates = self._leases.fates.get((group, shard))
        return dict(fates.counts) if fates else {}
