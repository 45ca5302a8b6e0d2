"""Who watches the store: turns what passes through its ports into rows of a `History`.

Decides what a call of a port means for an item: accepted, put, sent, claimed, settled, checkpointed, reported. It
trusts a store's answers but not its promises: a claim that is given to somebody else too early is a finding of its
own, and so are books that do not balance. Leaves to `history.py` whether the rest was allowed.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from lambent.model import (
    Checkpoint,
    Delete,
    Event,
    Fate,
    Lease,
    Message,
    Progress,
    Put,
    Refused,
    ReportBatch,
    Send,
    Settled,
    Settlement,
)
from lambent.ports import Holdings
from lambent.semantics.concurrency import Demand
from lambent.testing.history import History
from lambent.testing.loop import PROCESS
from lambent.testing.workload import ROUNDING, Workload

__all__ = ["Witness"]

PLACE_DIGITS: Final = 24  # of the built-in stream's positions


class Witness:
    """`Faults` calls it in the very step in which the store did something. `drained`: receives all that a redrive moved
    into the dead-letter queue of a queue, at once. `parents`: of a stream's shard. `mappings` names each mapping by its
    id."""

    def __init__(
        self,
        history: History,
        workload: Workload,
        clock: Callable[[], float],
        wall: Callable[[], float],
        buried: Callable[[str], Sequence[Message]] = lambda queue: (),
        parents: Callable[[str, str], Sequence[str]] = lambda stream, shard: (),
    ) -> None:
        self.mappings: dict[str, str] = {}
        self.findings: list[str] = []
        self.twice: set[str] = set()
        """What the store gave to two at once: nothing that happens to these twice is a finding."""
        self.strict = False
        """Nothing happens that takes a lease away from an engine that still works under it."""
        self.holders: dict[tuple[str, str], tuple[str, int]] = {}
        """Who has each lease that nobody released, by (mapping id, shard): process and counter."""
        self.terminal: Counter[str] = Counter()
        self.settled: dict[tuple[str, str], int] = defaultdict(int)  # (mapping, fate): records
        self._history = history
        self._workload = workload
        self._clock = clock
        self._wall = wall
        self._buried = buried
        self._parents = parents
        self._ended: set[tuple[str, str]] = set()  # (mapping id, shard)
        self._closed: set[tuple[str, str, str]] = set()  # windows whose final call succeeded
        self._windows: dict[tuple[str, str, str], list[int]] = {}  # (function, shard, start): what its state covers
        self._numbers: dict[str, int] = {}  # of items, by id
        self._claims: dict[str, tuple[str, float]] = {}  # by id: receipt, until
        self._claimants: dict[str, str] = {}  # by id: the process
        self._stored: dict[tuple[str, str], Progress] = {}  # by (mapping id, shard)
        self._progress: dict[tuple[str, str], int] = defaultdict(lambda: -1)  # (mapping id, shard): place
        self._owners: dict[tuple[str, str], int] = defaultdict(int)  # (mapping id, shard): how many there were
        self._ids: dict[str, str] = {}  # by receipt
        self._places: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)  # (stream, shard): ids by place
        self._grants: dict[str, tuple[float, bool]] = {}  # by process: until, told
        self._leased: dict[tuple[str, str], tuple[str, float]] = {}  # (mapping id, shard): by whom, until

    def __call__(self, point: str, arguments: Sequence[Any], answer: Any) -> None:
        port, _, method = point.rpartition(".")
        kind, _, name = port.partition(" ")
        match kind, method:
            case "events", "put_many begins":  # they may run before their put is answered
                self._accepted(arguments[0])
            case "events", "put_many is refused":
                for event in arguments[0]:
                    self._history.born.pop(event.request_id, None)
            case "events", "receive":
                for event in answer:
                    self._claimed(event.request_id, event.receipt, arguments[2])
            case "events", "settle_many":
                self._events_settled(arguments[0], answer)
            case "queue", "send_many":
                self._sent(name, arguments[0], answer)
            case "queue", "receive":
                self._received(name, answer)
            case "queue", "settle_many":
                self._messages_settled(name, arguments[0], answer)
            case "stream", "put_many":
                self._put(name, arguments[0], answer)
            case "leases", "heartbeat":
                self._renewed(arguments[0], answer, arguments[2])
            case "leases", "take_many":
                for lease in answer:
                    self._taken(lease, arguments[1])
                    self._began(lease)
                    self._owners[lease.group, lease.name] += 1
                    if not self.strict and self._owners[lease.group, lease.name] > 1:
                        self._history.faulted(_engine(), "another lease")
                    self.holders[lease.group, lease.name] = _engine(), lease.counter
                    self._history.leased(lease.group, lease.name, _engine(), lease.counter)
            case "leases", "release_many":
                for lease in arguments[0]:
                    self._freed(_engine(), (lease.group, lease.name))
                    if self.holders.get((lease.group, lease.name)) == (_engine(), lease.counter):
                        del self.holders[lease.group, lease.name]
            case "leases", "checkpoint_many":
                for (lease, checkpoint), stored in zip(arguments[0], answer, strict=True):
                    if stored:
                        self._checkpointed(lease, checkpoint)
            case "connection", "close":
                self.disconnected(_engine())
            case "leases", "permits":
                self._granted(arguments[0], arguments[1])

    # --- what the simulation tells

    def step(self, where: str, step: object, answer: object) -> None:
        """Hears what no store sees: nobody took the report of these records, and their shard moves on."""
        if isinstance(step, ReportBatch) and isinstance(answer, Refused):
            function = self._workload.mappings[self.mappings[where.partition("/")[0]]].function
            ids = [f"r{json.loads(record.data)['n']}" for record in step.records]
            self._history.reported("nobody", ids, step.condition, function)

    def expired(self, ids: Sequence[str]) -> None:
        """The store was made to forget these claims."""
        self.twice.update(ids)
        for id in ids:
            self._claims.pop(id, None)
        self._history.expired(ids)

    def timeless(self) -> None:
        """A clock was set, and the engine that goes by it began anew: claims may end sooner."""
        self._claims.clear()

    def disconnected(self, process: str) -> None:
        """The store noticed that this engine is gone: its claims of events are void, its leases free."""
        for where in list(self._leased):
            self._freed(process, where)
        for id, (_, _) in list(self._claims.items()):
            born = self._history.born.get(id)
            if born is not None and born.kind == "event" and self._claimants.get(id) == process:
                del self._claims[id]

    # --- events

    def _accepted(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.request_id in self._history.born:
                continue
            self._history.accepted(event.request_id, event.function)
            if event.function == "audit":
                self._reported("function:audit", event.payload)

    def _events_settled(self, settlements: Sequence[Settlement], answers: Sequence[bool]) -> None:
        for settlement, done in zip(settlements, answers, strict=True):
            if not done:
                continue
            id = self._ids[settlement.receipt]
            self._claims.pop(id, None)
            if isinstance(settlement, Delete):
                self.terminal[id] += 1
                self._history.terminal(id, settlement.state)

    # --- claims

    def _claimed(self, id: str, receipt: str, seconds: float) -> None:
        now = self._clock()
        before = self._claims.get(id)
        if before is not None:
            if now < before[1] - ROUNDING:
                self.findings.append(f"{id} was claimed again at {now:g} s, before {before[1]:g} s")
            self._history.expired([id])
        self._claims[id] = receipt, now + seconds
        self._ids[receipt] = id
        self._claimants[id] = _engine()

    # --- leases

    def _taken(self, lease: Lease, seconds: float) -> None:
        where, now = (lease.group, lease.name), self._clock()
        process, until = self._leased.get(where, ("", 0.0))
        if now < until:
            text = f"{lease.name} was taken by {_engine()} at {now:g} s"
            self.findings.append(f"{text}, but {process} has it until {until:g} s")
        self._leased[where] = _engine(), now + seconds

    def _renewed(self, group: str, holdings: Holdings, seconds: float) -> None:
        for name, lease in holdings.leases.items():
            if not lease.free and self._leased.get((group, name), ("", 0.0))[0] == _engine():
                self._leased[group, name] = _engine(), self._clock() + seconds

    def _freed(self, process: str, where: tuple[str, str]) -> None:
        if self._leased.get(where, ("", 0.0))[0] == process:
            del self._leased[where]

    # --- queues

    def _sent(self, queue: str, sends: Sequence[Send], ids: Sequence[str]) -> None:
        if queue not in self._sources:
            for send in sends:
                attribute = send.attributes.get("RequestID")
                if attribute is not None:
                    function = self._history.born[attribute.value].source
                    self._history.reported(f"queue:{queue} as dead letter", [attribute.value], "failed", function)
                else:
                    self._reported(f"queue:{queue}", send.body)
            return
        for send, id in zip(sends, ids, strict=True):
            if id not in self._history.born:
                self._history.sent(queue, id, send.group)
                self._filter([(id, json.loads(send.body)["n"])], f"queue:{queue}")

    def _received(self, queue: str, messages: Sequence[Message]) -> None:
        if queue not in self._sources:
            return
        self.redriven(queue)
        seconds = self._workload.queues[queue]["visibility_timeout_seconds"]
        for message in messages:
            self._claimed(message.id, message.receipt, seconds)

    def redriven(self, queue: str) -> None:
        """Whatever the queue's redrive policy moved has found its fate."""
        for message in self._buried(queue):
            if message.id not in self._history.born:
                self.findings.append(f"{message.id} is in the dead-letter queue of {queue}, and nobody sent it")
                continue
            (mapped,) = [each for each in self._workload.mappings.values() if each.source == f"queue:{queue}"]
            if self._claims.pop(message.id, None) is not None:
                self._history.expired([message.id])
            self._history.reported(f"dead-letter queue of {queue}", [message.id], "redriven", mapped.function)

    def _messages_settled(self, queue: str, settlements: Sequence[Settlement], answers: Sequence[bool]) -> None:
        for settlement, done in zip(settlements, answers, strict=True):
            if queue not in self._sources or not done:
                continue
            id = self._ids[settlement.receipt]
            if isinstance(settlement, Delete):
                self._claims.pop(id, None)
                self._history.deleted(queue, id)
            elif id in self._claims:
                seconds = settlement.at - self._wall() - ROUNDING
                self._claims[id] = settlement.receipt, self._clock() + seconds

    # --- streams

    def _put(self, stream: str, puts: Sequence[Put], positions: Sequence[str]) -> None:
        for put, position in zip(puts, positions, strict=True):
            if stream not in self._sources:
                self._reported(f"stream:{stream}", put.data)
                continue
            number = json.loads(put.data)["n"]
            id, shard, place = f"r{number}", shard_of(position), place_of(position)
            self._history.put(stream, shard, put.key, place, id)
            self._places[stream, shard][place] = id
            self._filter([(id, number)], f"stream:{stream}")

    def _checkpointed(self, lease: Lease, checkpoint: Checkpoint) -> None:
        mapped, where = self._workload.mappings[self.mappings[lease.group]], (lease.group, lease.name)
        place, before = place_of(checkpoint.progress.position), self._progress[where]
        if self._stored.get(where) != checkpoint.progress:  # else it was written again, and the fates are known
            self._told(lease, checkpoint.settled, before, place)
        self._stored[where] = checkpoint.progress
        self._progress[where] = place
        if checkpoint.progress.ended:
            self._ended.add((lease.group, lease.name))
            places = self._places.get((mapped.source.partition(":")[2], lease.name), {})
            if place < max(places, default=-1):
                self.findings.append(f"{lease.name} is said to be finished at {place}, but goes on to {max(places)}")
        self._history.checkpointed(lease.group, lease.name, place, _engine(), lease.counter)

    def _told(self, lease: Lease, settled: Sequence[Settled], before: int, place: int) -> None:
        at = before
        for each in settled:
            self.settled[lease.group, each.fate] += each.count
            if each.fate != "lost" and (place_of(each.first), place_of(each.last)) != (at + 1, at + each.count):
                break
            at += each.count
        if at != place:
            text = f"{lease.name} went from {before} to {place} at {self._clock():g} s"
            self.findings.append(f"{text}, but the fates told are {list(settled)}")

    def _began(self, lease: Lease) -> None:
        stream = self._workload.mappings[self.mappings[lease.group]].source.partition(":")[2]
        for parent in self._parents(stream, lease.name):
            if (lease.group, parent) not in self._ended:
                at = self._clock()
                self.findings.append(f"{lease.name} is read at {at:g} s, but its parent {parent} is unfinished")

    def windowed(self, function: str, event: Mapping[str, Any], done: Sequence[int], began_at: float) -> list[int]:
        """A handler finished these numbers in a tumbling window; gives what its state covers now. It counts for nothing
        if somebody else has got the shard since it began."""
        covered = [*event["state"].get("numbers", ()), *done]
        if len(set(covered)) < len(covered):
            self.findings.append(f"a window of {function} counts something twice: {covered}")
        if self._taken_since(began_at, function, event["shardId"]):
            return covered
        window = function, event["shardId"], event["window"]["start"]
        if window in self._closed and not event["state"]:  # what was still on its way opens it once more
            self._windows[*window[:2], f"{window[2]}, {len(self._windows)}"] = self._windows[window]
        self._closed.discard(window)
        if event["isFinalInvokeForWindow"]:
            self._closed.add(window)
        self._windows[window] = covered
        return covered

    def _taken_since(self, at: float, function: str, shard: str) -> bool:
        mapped = {id for id, name in self.mappings.items() if self._workload.mappings[name].function == function}
        return any(
            mark.at > at and mark.shard == shard and mark.mapping in mapped for mark in reversed(self._history.leases)
        )

    def _uncovered(self) -> Iterator[str]:
        """What was done and is in no window's state, although every window was lived to its end."""
        for function in dict.fromkeys(function for function, _, _ in self._windows):
            states = [numbers for (name, _, _), numbers in self._windows.items() if name == function]
            covered = {f"r{number}" for numbers in states for number in numbers}
            reported = {id for report in self._history.reports if report.function == function for id in report.ids}
            done = {id for run in self._history.runs if run.function == function for id in run.done}
            for id in sorted(done - covered - reported):
                yield f"{id} was done by {function} and is in no window's state"

    def unread(self) -> Iterator[str]:
        """Shards of which something is not yet done."""
        for id, name in self.mappings.items():
            stream = self._workload.mappings[name].source.partition(":")[2]
            for (where, shard), places in self._places.items():
                if where == stream and self._progress[id, shard] < max(places):
                    yield f"{name}, {shard}: {self._progress[id, shard]} of {max(places)}"

    def audit(self, books: Mapping[str, Sequence[Mapping[tuple[Fate, str], int]]], *, steady: bool) -> Iterator[str]:
        """What the stores' own books do not balance; `books`: of each mapping, what each of its shards counted by fate
        and reason. `steady`: no clock was set, or a window that was closed may open anew."""
        yield from self._uncovered() if steady else ()
        for id, born in self._history.born.items():
            if born.kind == "event" and self.terminal[id] != 1:
                yield f"event {id} of {born.source} has {self.terminal[id]} terminal records"
        for id, name in self.mappings.items():
            stream = self._workload.mappings[name].source.partition(":")[2]
            came = sum(len(places) for (where, _), places in self._places.items() if where == stream)
            fates = {fate: count for (mapping, fate), count in self.settled.items() if mapping == id}
            if sum(fates.values()) != came:
                yield f"mapping {name} settled {fates}, but {came} records came"
            stored = sum(count for counts in books[id] for count in counts.values())
            if stored != came:
                yield f"the store counts {stored} records of mapping {name}, but {came} came"

    # --- fates

    def _filter(self, items: Sequence[tuple[str, int]], source: str) -> None:
        for id, number in items:
            for mapped in self._workload.mappings.values():
                if mapped.source == source and mapped.options.get("filters") and not self._workload.passes(number):
                    self._history.filtered([id], mapped.function)

    def _reported(self, destination: str, record: bytes | str) -> None:
        told = json.loads(record)
        context = told["requestContext"]
        function = context["functionArn"].split(":")[6]
        if "KinesisBatchInfo" in told:
            event = json.loads(told["payload"])
            ids = [f"r{number}" for number, _ in stream_items(event)]
        else:
            ids = [context["requestId"]]
        self._history.reported(destination, ids, context["condition"], function)

    def _granted(self, demands: Mapping[str, Demand], seconds: float) -> None:
        """An engine whose grant ran out while it could not ask may go on with what runs, but not begin anything."""
        now = self._clock()
        for process, (until, told) in list(self._grants.items()):
            if until <= now and not told and process != _engine():
                self._history.paused(process, 0.0)
                self._grants[process] = until, True
        if demands:
            self._grants[_engine()] = now + seconds, False

    @property
    def _sources(self) -> set[str]:
        return {mapped.source.partition(":")[2] for mapped in self._workload.mappings.values()}


def stream_items(event: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Number and sequence number of each record in an event of a stream."""
    for record in event["Records"]:
        yield json.loads(b64decode(record["kinesis"]["data"]))["n"], record["kinesis"]["sequenceNumber"]


def shard_of(position: str) -> str:
    return f"shardId-{int(position[2:-PLACE_DIGITS]):012d}"


def place_of(position: str) -> int:
    """0 for the first record of a shard, -1 for what comes before it."""
    return int(position[-PLACE_DIGITS:]) - 1


def _engine() -> str:
    return PROCESS.get() or "world"
