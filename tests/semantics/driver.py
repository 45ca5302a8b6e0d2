"""Plays a `ShardConsumer` against a shard in memory, in virtual time, and remembers what happened.

It performs steps and judges nothing: scripts look at what it remembers, `test_stream_properties.py` audits it. Either
every step is asked for and answered at once (`run`), or steps stay in flight and a test, or a seed, chooses which is
answered next (`ask`, `answer`). A crash throws the consumer away; the next one starts from what was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from lambent.model import (
    Checkpoint,
    Delivered,
    Delivery,
    EndShard,
    Failed,
    Fetch,
    Invoke,
    Outcome,
    Progress,
    Read,
    Record,
    ReportBatch,
    Settled,
    StreamMapping,
    StreamStep,
    Succeeded,
    Throttled,
    Unavailable,
    Wait,
    WindowState,
)
from lambent.semantics.batching import Weights
from lambent.semantics.stream import ShardConsumer

EPOCH = 1_000_000.0  # what the wall clock shows when the monotonic one shows 0
START = "000000"
ERROR = Failed({"errorMessage": "poison", "errorType": "ValueError"})
THROTTLED = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded")


def numbers(records: Iterable[Record]) -> list[int]:
    return [int(record.position) for record in records]


def position(number: int) -> str:
    return f"{number:06d}"


def mapping(**options: Any) -> StreamMapping:
    return StreamMapping(source="stream:s", function="f", **options)


@dataclass
class Call:
    """One invocation: which records, which attempt, when, and how it ended (`outcome` None: nobody knows)."""

    records: list[int]
    attempt: int
    at: float
    window: WindowState | None
    final: bool
    lane: int
    outcome: Outcome | None = None
    value: Any = None
    owner: int = 0  # how many crashes were before it


@dataclass
class Report:
    records: list[int]
    condition: str
    attempts: int
    outcome: Outcome | None
    at: float
    delivery: Delivery


@dataclass
class Driver:
    """`function(call)` gives an Outcome, or the value that the handler returned. `report(step)` is the destination."""

    config: StreamMapping
    function: Callable[[Call], Any] = lambda call: None
    report: Callable[[ReportBatch], Delivery] = lambda step: Delivered()
    accepts: Callable[[Record], bool] | None = None
    weights: Weights = field(default_factory=lambda: Weights(lambda record: len(record.data)))
    retention_seconds: float = float("inf")
    progress: Progress = field(default_factory=lambda: Progress(START))
    jitter: float = 0.0
    now: float = 0.0

    records: list[Record] = field(default_factory=list)  # what the shard holds; numbered from 1
    trimmed: int = 0  # so many of them are gone
    closed: bool = False

    calls: list[Call] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    checkpoints: list[Progress] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)  # by stored checkpoints
    steps: list[StreamStep] = field(default_factory=list)
    in_flight: list[StreamStep] = field(default_factory=list)
    running: dict[int, Call] = field(default_factory=dict)  # by the id of the Invoke
    ended: bool = False
    crashes: int = 0

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.in_flight, self.running, self._told, self.ended = [], {}, -1, False
        self.consumer = ShardConsumer(
            self.config,
            self.progress,
            weights=self.weights,
            accepts=self.accepts,
            retention_seconds=self.retention_seconds,
        )

    # ---- the shard

    def put(self, count: int = 1, key: str | Sequence[str] = "k", size: int = 0, age: float = 0.0) -> Driver:
        """So many more records; `key` may give one for each, `age` is how long ago they came."""
        keys = [key] * count if isinstance(key, str) else list(key)
        for each in keys:
            name = position(len(self.records) + 1)
            self.records.append(Record(name, each, bytes(size), EPOCH + self.now - age))
        return self

    def read(self, step: Fetch) -> Read | None:
        """What a Fetch finds; None: nothing new, it waits."""
        after = int(step.position)
        lost = max(0, self.trimmed - after)
        after = max(after, self.trimmed)
        found: list[Record] = []
        size = 0
        for record in self.records[after : after + step.maximum_records]:
            size += len(record.data)
            if found and size > step.maximum_bytes:
                break
            found.append(record)
        at = after + len(found)
        caught_up = at == len(self.records)
        if not found and not lost and self._told == at and not self.closed:
            return None
        self._told = at if caught_up else -1
        return Read("shard", found, caught_up=caught_up, ended=caught_up and self.closed, lost=lost)

    # ---- steps, one by one

    def ask(self) -> StreamStep | None:
        """The next step, in flight from here on."""
        step = self.consumer.next(self.now, EPOCH + self.now)
        match step:
            case Invoke():
                call = Call(numbers(step.records), step.attempt, self.now, step.window, step.final, step.lane)
                call.owner = self.crashes
                self.calls.append(call)
                self.running[id(step)] = call
                self.in_flight.append(step)
            case Fetch() | ReportBatch() | Checkpoint():
                self.in_flight.append(step)
            case EndShard():
                assert not self.ended, "a shard ends once"
                self.ended = True
            case Wait(until):
                assert until > self.now
        if step is not None:
            self.steps.append(step)
        return step

    def answer(self, step: StreamStep, outcome: Any = None) -> bool:
        """Perform a step and answer it. False: a Fetch that waits for records."""
        match step:
            case Fetch():
                read = self.read(step)
                if read is None:
                    return False
                self._done(step)
                self.consumer.fetched(read, self.now)
            case Invoke():
                self._done(step)
                call = self.running.pop(id(step))
                result = outcome if outcome is not None else self.function(call)
                if isinstance(result, Failed | Throttled | Unavailable):
                    call.outcome = result
                else:
                    call.outcome, call.value = Succeeded(b""), result
                self.consumer.invoked(step, call.outcome, self.now, call.value, self.jitter)
            case ReportBatch():
                self._done(step)
                delivery = self.report(step)
                self.reports.append(
                    Report(numbers(step.records), step.condition, step.attempts, step.outcome, self.now, delivery)
                )
                self.consumer.reported(step, delivery)
            case Checkpoint():
                self._done(step)
                self.store(step)
                self.consumer.checkpointed(True)
        return True

    def _done(self, step: StreamStep) -> None:
        self.in_flight = [each for each in self.in_flight if each is not step]

    def store(self, step: Checkpoint) -> None:
        self.progress = step.progress
        self.checkpoints.append(step.progress)
        self.settled.extend(step.settled)

    # ---- steps, many

    def run(self, seconds: float = 100_000.0, limit: int = 100_000) -> Driver:
        """Perform everything at once, wait as told, until there is nothing left or the time is over."""
        until = self.now + seconds
        self.wake()
        for _ in range(limit):
            step = self.ask()
            if step is not None and not isinstance(step, Wait | EndShard):
                self.answer(step)
            elif isinstance(step, Wait):
                if step.until > until:
                    self.now = until
                    return self
                self.now = step.until
            elif step is None and not self.wake():
                return self
        raise AssertionError(f"still busy after {limit} steps")

    def wake(self) -> bool:
        """Answer a Fetch that waited, if there is something now."""
        return any(self.answer(step) for step in self.in_flight if isinstance(step, Fetch))

    def until(self, kind: type[Any]) -> Any:
        """Perform everything up to the next step of this kind, which stays in flight."""
        self.wake()
        for _ in range(10_000):
            step = self.ask()
            if isinstance(step, kind):
                return step
            if isinstance(step, Wait):
                self.now = step.until
            elif step is None:
                assert self.wake(), f"no {kind.__name__} to come"
            else:
                self.answer(step)
        raise AssertionError(f"no {kind.__name__} to come")

    def crash(self) -> Driver:
        """The consumer is gone, with all that was in flight; a new one starts from what was stored."""
        self.crashes += 1
        self._start()
        return self

    def drain(self) -> Driver:
        """Stop kindly, to the end."""
        self.consumer.drain()
        while not self.consumer.drained:
            step = self.ask()
            if step is None:
                step = next(each for each in self.in_flight if not isinstance(each, Fetch))
            self.answer(step)
        return self

    def close(self) -> Driver:
        self.closed = True
        return self

    # ---- what is asked often

    @property
    def batches(self) -> list[list[int]]:
        return [call.records for call in self.calls]

    @property
    def invoked(self) -> list[int]:
        return [number for batch in self.batches for number in batch]

    @property
    def times(self) -> list[float]:
        return [call.at for call in self.calls]

    def fates(self) -> dict[str, int]:
        """How many records found which fate, by the stored checkpoints."""
        found: dict[str, int] = {}
        for settled in self.settled:
            found[settled.fate] = found.get(settled.fate, 0) + settled.count
        return found


def poison(*bad: int) -> Callable[[Call], Any]:
    """A function that fails for every batch that holds one of these."""
    return lambda call: ERROR if set(bad) & set(call.records) else None


def partially(*bad: int) -> Callable[[Call], Any]:
    """A function that names these records as failed."""
    return lambda call: {
        "batchItemFailures": [{"itemIdentifier": position(number)} for number in call.records if number in bad]
    }


def driver(**options: Any) -> Driver:
    """A driver; options of the mapping and of the driver mixed."""
    own = {
        name: options.pop(name) for name in list(options) if name in Driver.__dataclass_fields__ and name != "records"
    }
    return Driver(mapping(**options), **own)


def key_of_lane(lane: int, factor: int) -> str:
    return next(key for key in map(str, range(1000)) if crc32(key.encode()) % factor == lane)
