"""What happened, as the outside world saw it, and whether it was allowed to happen.

Decides which histories break a promise. It knows nothing of how an engine works: the simulated handlers, the workload
and the observers of stores and destinations append what they see, in the order in which it happened, and `check` reads
that afterwards, as Jepsen's checkers do. Leaves to others how the history came about.

The order of rows is the order of events; many share one virtual time. An id names one event, record or queue item in
the whole history. A function is its own consumer: a record read by two functions has a fate with each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

__all__ = ["Expectations", "Function", "History", "Source", "Violation", "check"]

Anomaly = Literal[
    "lost", "duplicate", "two-fates", "phantom", "reordered", "checkpoint-ahead", "checkpoint-backwards",
    "double-owner", "deleted-unfinished", "resurrected", "too-many-attempts", "retried-early", "over-concurrency",
    "too-old",
]  # fmt: skip
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Function:
    """What the workload configured for one function; None checks nothing."""

    maximum_retry_attempts: int | None = None  # a queue's function: its maximum receive count - 1
    retry_delays_seconds: tuple[float, ...] = ()  # least delay after each failure; the last one holds for all further
    maximum_age_seconds: float | None = None
    reserved_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A mapping: the stream or queue that a function reads, and by what its deliveries are ordered.

    order: "shard" (streams, parallelization factor 1), "key" (streams, above 1), "group" (FIFO queues) or None.
    """

    source: str
    function: str
    order: Literal["shard", "key", "group"] | None = None


@dataclass(frozen=True, slots=True)
class Expectations:
    """What must hold. `mappings` goes by the names that `leased` and `checkpointed` use.

    drained: the run went on until nothing was left to do, so what has no fate is lost.
    """

    functions: Mapping[str, Function] = field(default_factory=dict)
    mappings: Mapping[str, Source] = field(default_factory=dict)
    drained: bool = True


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise; `text` is a sentence with ids and virtual times."""

    anomaly: Anomaly
    text: str

    def __str__(self) -> str:
        return f"{self.anomaly}: {self.text}"


@dataclass(frozen=True, slots=True)
class _Born:
    row: int
    at: float
    id: str
    source: str  # a stream or queue; for an event its function
    kind: Literal["event", "record", "item"]
    shard: str = ""
    key: str = ""
    position: int = -1


@dataclass(slots=True)
class _Run:
    row: int
    at: float
    invocation: str
    attempt: int
    function: str
    ids: tuple[str, ...]
    engine: str
    end_row: int = NEVER
    end_at: float = float("inf")
    outcome: str = "unknown"
    done: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"invocation {self.invocation} of {self.function} on {self.engine} at {self.at:g} s"


@dataclass(frozen=True, slots=True)
class _Reported:
    row: int
    at: float
    destination: str
    function: str
    ids: tuple[str, ...]
    condition: str


@dataclass(frozen=True, slots=True)
class _Mark:  # a checkpoint or a lease
    row: int
    at: float
    mapping: str
    shard: str
    engine: str
    counter: int
    position: int = -1


@dataclass(frozen=True, slots=True)
class _Settled:  # deleted, terminal, filtered, kept
    row: int
    at: float
    ids: tuple[str, ...]
    what: str
    function: str | None = None


@dataclass(frozen=True, slots=True)
class _Fault:
    row: int
    at: float
    what: str
    engine: str | None = None
    ids: tuple[str, ...] = ()
    until: float = 0.0

    def between(self, one: _Reported, other: _Reported) -> bool:
        """It struck between the two, or a paused engine went on then with what it had begun before."""
        paused = self.what == "paused" and self.row < one.row and other.at <= self.until
        return paused or one.row < self.row < other.row


class History:
    """An append-only record of what the outside world saw. `clock` gives virtual seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rows = 0
        self.born: dict[str, _Born] = {}
        self.runs: list[_Run] = []
        self.reports: list[_Reported] = []
        self.checkpoints: list[_Mark] = []
        self.leases: list[_Mark] = []
        self.settled: list[_Settled] = []
        self.faults: list[_Fault] = []

    # --- what comes in

    def accepted(self, id: str, function: str) -> None:
        """An async invocation of `function` was accepted (the caller has its 202)."""
        self.born[id] = _Born(*self._next(), id, function, "event")

    def put(self, stream: str, shard: str, key: str, position: int, id: str) -> None:
        """A record stands in a stream; `position` orders the records of one shard."""
        self.born[id] = _Born(*self._next(), id, stream, "record", shard, key, position)

    def sent(self, queue: str, id: str, group: str | None = None) -> None:
        """An item stands in a queue; the items of one group are ordered as they were sent."""
        row, at = self._next()
        self.born[id] = _Born(row, at, id, queue, "item", "" if group is None else f"group {group}", group or "", row)

    # --- what the user's code saw

    def started(self, invocation_id: str, attempt: int, function: str, ids: Iterable[str], engine: str) -> int:
        """A handler begins with these records; returns the number by which `ended` names this run."""
        self.runs.append(_Run(*self._next(), invocation_id, attempt, function, tuple(ids), engine))
        return len(self.runs) - 1

    def ended(self, run: int, outcome: str, done_ids: Iterable[str] = ()) -> None:
        """The handler returned, failed or was cut off.

        outcome: "interrupted" (a drain took the attempt back) does not count as an attempt; other words are the user's.
        done_ids: what this run completes by the source's rules. Of a stream's partial failure: what comes before the
            lowest failed record.
        """
        started = self.runs[run]
        if started.outcome == "killed":
            return  # Python unwinds what a dead engine left behind; nobody saw it
        started.end_row, started.end_at = self._next()
        started.outcome, started.done = outcome, tuple(done_ids)

    # --- what stores and destinations saw

    def reported(self, destination: str, ids: Iterable[str], condition: str, function: str) -> None:
        """A destination or dead-letter queue took a record of these ids; "Success" is an on-success record."""
        self.reports.append(_Reported(*self._next(), destination, function, tuple(ids), condition))

    def checkpointed(self, mapping: str, shard: str, position: int, engine: str, counter: int) -> None:
        """A store took a checkpoint: all records up to and including `position` are done; -1 is the beginning."""
        self.checkpoints.append(_Mark(*self._next(), mapping, shard, engine, counter, position))

    def leased(self, mapping: str, shard: str, engine: str, counter: int) -> None:
        """A store granted a shard to an engine, with this fencing counter. Not for renewals."""
        self.leases.append(_Mark(*self._next(), mapping, shard, engine, counter))

    def deleted(self, queue: str, id: str) -> None:
        """A queue deleted an item because an engine said so."""
        self.settled.append(_Settled(*self._next(), (id,), "deleted"))

    def terminal(self, id: str, state: str) -> None:
        """A store recorded the last state of an async event."""
        self.settled.append(_Settled(*self._next(), (id,), f"recorded as {state}"))

    def filtered(self, ids: Iterable[str], function: str | None = None) -> None:
        """A filter passed these over, or (without a function) the source itself lost them: retention, purge."""
        self.settled.append(_Settled(*self._next(), tuple(ids), "filtered", function))

    def kept(self, ids: Iterable[str]) -> None:
        """At the end the store still holds these: not lost."""
        self.settled.append(_Settled(*self._next(), tuple(ids), "kept"))

    # --- what the faults did

    def killed(self, engine: str) -> None:
        """The engine is dead; what it ran has ended without a result."""
        row, at = self._next()
        self.faults.append(_Fault(row, at, "killed", engine, until=at))
        for run in self.runs:
            if run.engine == engine and run.end_row == NEVER:
                run.end_row, run.end_at, run.outcome = row, at, "killed"

    def paused(self, engine: str, seconds: float) -> None:
        """The engine stands still for so long."""
        row, at = self._next()
        self.faults.append(_Fault(row, at, "paused", engine, until=at + seconds))

    def expired(self, ids: Iterable[str]) -> None:
        """The visibility or claim of these ran out while somebody worked on them: they may come again."""
        row, at = self._next()
        self.faults.append(_Fault(row, at, "expired", None, tuple(ids), until=at))

    def faulted(self, engine: str, what: str) -> None:
        """A store or destination failed this engine in a way that leaves the result unknown."""
        row, at = self._next()
        self.faults.append(_Fault(row, at, what, engine, until=at))

    def _next(self) -> tuple[int, float]:
        self._rows += 1
        return self._rows, self._clock()


def check(history: History, expectations: Expectations) -> list[Violation]:
    """All violations that this history shows, in a fixed order; an empty list is a pass."""
    case = _Case(history, expectations)
    checks = (
        _lost, _phantom, _duplicates, _reordered, _checkpoints, _owners, _deletions, _resurrected, _attempts, _early,
        _concurrency, _old,
    )  # fmt: skip
    return [Violation(anomaly, text) for one in checks for anomaly, text in one(case)]


_Found = Iterator[tuple[Anomaly, str]]


class _Case:
    """A history with the look-ups that several checks share."""

    def __init__(self, history: History, expectations: Expectations) -> None:
        self.history = history
        self.expectations = expectations
        self.readers: dict[str, list[tuple[str, Source]]] = defaultdict(list)
        for name, mapping in expectations.mappings.items():
            self.readers[mapping.source].append((name, mapping))
        self.lanes: dict[tuple[str, str], list[_Born]] = defaultdict(list)  # the records of each shard, in order
        for born in history.born.values():
            self.lanes[born.source, born.shard].append(born)
        for lane in self.lanes.values():
            lane.sort(key=lambda born: born.position)
        self.deliveries: dict[tuple[str, str], list[_Run]] = defaultdict(list)
        self.finished: dict[tuple[str, str], int] = {}  # row of the first fate that (function, id) met
        self.settled: dict[tuple[str, str], int] = {}  # row from which nothing excuses another delivery
        for run in history.runs:
            for id in run.ids:
                self.deliveries[run.function, id].append(run)
            for id in run.done:
                self._first(self.finished, run.function, id, run.end_row)
        self.reports: dict[tuple[str, str], list[_Reported]] = defaultdict(list)
        for report in history.reports:
            for id in report.ids:
                self.reports[report.function, id].append(report)
                self._first(self.finished, report.function, id, report.row)
        for row in history.settled:
            for id in row.ids:
                for function in [row.function] if row.function else self.consumers(id):
                    if row.what != "deleted":
                        self._first(self.finished, function, id, row.row)
                    self._first(self.settled, function, id, row.row)
        behind: dict[tuple[str, str], int] = defaultdict(int)
        for mark in history.checkpoints:
            source, low = expectations.mappings[mark.mapping], behind[mark.mapping, mark.shard]
            lane = self.lanes[source.source, mark.shard]
            while low < len(lane) and lane[low].position <= mark.position:
                self._first(self.settled, source.function, lane[low].id, mark.row)
                low += 1
            behind[mark.mapping, mark.shard] = low

    @staticmethod
    def _first(rows: dict[tuple[str, str], int], function: str, id: str, row: int) -> None:
        rows[function, id] = min(row, rows.get((function, id), NEVER))

    def consumers(self, id: str) -> list[str]:
        born = self.history.born.get(id)
        if born is None:
            return []
        return [born.source] if born.kind == "event" else [mapping.function for _, mapping in self.readers[born.source]]

    def unfinished(self, function: str, id: str, row: int) -> bool:
        return self.finished.get((function, id), NEVER) > row

    def excused(self, first: _Run, id: str, again: _Run | _Reported) -> bool:
        """Whether a fault after the start of `first`, before it was settled, lets `id` come again."""
        if isinstance(again, _Run) and self.just_resumed(again.engine, again.at):
            return True
        before = min(again.row, self.settled.get((first.function, id), NEVER))
        for fault in self.history.faults:
            struck = fault.engine == first.engine or id in fault.ids
            if struck and fault.row < before and (fault.row > first.row or fault.until > first.at):
                return True
        return self.taken_over(first, id, before)

    def taken_over(self, first: _Run, id: str, row: int) -> bool:
        """Whether the shard of `id` was leased anew between the start of `first` and that row."""
        born = self.history.born[id]
        ours = {name for name, mapping in self.readers[born.source] if mapping.function == first.function}
        return any(
            mark.mapping in ours and mark.shard == born.shard and first.row < mark.row <= row
            for mark in self.history.leases
        )

    def just_resumed(self, engine: str, at: float) -> bool:
        """What a paused engine had begun to do before, it does at the moment when it goes on."""
        return any(
            fault.what == "paused" and fault.engine == engine and fault.at <= at <= fault.until
            for fault in self.history.faults
        )


def _lost(case: _Case) -> _Found:
    for id, born in case.history.born.items() if case.expectations.drained else ():
        for function in case.consumers(id):
            if (function, id) not in case.finished:
                tries = len(case.deliveries.get((function, id), ()))
                yield "lost", f"{born.kind} {id} of {born.at:g} s has no fate with {function} after {tries} tries"


def _phantom(case: _Case) -> _Found:
    for run in case.history.runs:
        for id in run.ids:
            born = case.history.born.get(id)
            if born is None or born.row > run.row:
                yield "phantom", f"{run} got {id}, which nobody had accepted"
            elif run.function not in case.consumers(id):
                yield "phantom", f"{run} got {id} of {born.source}, which it does not read"


def _duplicates(case: _Case) -> _Found:
    for (function, id), runs in case.deliveries.items():
        good = [run for run in runs if id in run.done and id in case.history.born]
        for first, second in pairwise(good):
            if not case.excused(first, id, second):
                yield "duplicate", f"{id} succeeded in {first} and again in {second}; no fault in between explains it"
        for report in case.reports.get((function, id), ()) if good else ():
            if report.condition != "Success" and good[0].end_row < report.row and not case.excused(good[0], id, report):
                text = f"{id} succeeded in {good[0]} and was reported as {report.condition} at {report.at:g} s"
                yield "two-fates", text
    for (function, id), reports in case.reports.items():
        seen: dict[str, _Reported] = {}
        runs = case.deliveries.get((function, id), [])
        born = case.history.born.get(id)
        if not runs and born and sum(mark.shard == born.shard for mark in case.history.leases) > 1:
            continue  # each owner but the first gave it up without a try of its own
        for report in reports:
            earlier = seen.setdefault(report.destination, report)
            if any(run.row < report.row and case.excused(run, id, report) for run in runs):
                continue  # what was run twice is reported twice
            if earlier is not report and not any(f.between(earlier, report) for f in case.history.faults):
                text = f"{id} was reported to {report.destination} at {earlier.at:g} s and at {report.at:g} s"
                yield "duplicate", f"{text}; no fault in between explains it"


def _reordered(case: _Case) -> _Found:
    for mapping in case.expectations.mappings.values():
        if mapping.order is None:
            continue
        lanes: dict[str, list[_Born]] = defaultdict(list)
        for (source, shard), lane in case.lanes.items():
            for born in lane if source == mapping.source else ():
                if mapping.order != "group" or shard:
                    lanes[f"{shard}, key {born.key}" if mapping.order == "key" else shard].append(born)
        for name, lane in lanes.items():
            yield from _reordered_lane(case, mapping.function, name, lane)


def _reordered_lane(case: _Case, function: str, name: str, lane: Sequence[_Born]) -> _Found:
    index = {born.id: number for number, born in enumerate(lane)}
    runs = {run.row: run for id in index for run in case.deliveries.get((function, id), ())}
    low = 0  # all before it are finished
    for row in sorted(runs):
        run, earlier = runs[row], set[str]()
        while low < len(lane) and not case.unfinished(function, lane[low].id, row):
            low += 1
        for id in run.ids:
            for born in lane[low : index.get(id, 0)]:
                if born.id not in earlier and case.unfinished(function, born.id, row):
                    yield "reordered", f"{run} began {id} while {born.id}, before it in {name}, was unfinished"
                    return  # all that follows would be named as well
            earlier.add(id)


def _checkpoints(case: _Case) -> _Found:
    highest: dict[tuple[str, str, int], _Mark] = {}
    done: dict[tuple[str, str], int] = defaultdict(int)  # so many from the beginning are finished
    for mark in case.history.checkpoints:
        where = f"checkpoint {mark.position} of {mark.mapping}, shard {mark.shard}, by {mark.engine} at {mark.at:g} s"
        mapping = case.expectations.mappings[mark.mapping]
        lane, low = case.lanes[mapping.source, mark.shard], done[mark.mapping, mark.shard]
        while low < len(lane) and not case.unfinished(mapping.function, lane[low].id, mark.row):
            low += 1
        done[mark.mapping, mark.shard] = low
        if low < len(lane) and lane[low].position <= mark.position:
            text = f"{where} passes {lane[low].id} (position {lane[low].position}), which is unfinished"
            yield "checkpoint-ahead", text
        before = highest.setdefault((mark.mapping, mark.shard, mark.counter), mark)
        if mark.position < before.position:
            yield "checkpoint-backwards", f"{where} is behind {before.position} of {before.at:g} s, same lease"
        highest[mark.mapping, mark.shard, mark.counter] = max(before, mark, key=lambda each: each.position)


def _owners(case: _Case) -> _Found:
    leases: dict[tuple[str, str], list[_Mark]] = defaultdict(list)
    for lease in case.history.leases:
        held = leases[lease.mapping, lease.shard]
        if held and lease.counter <= held[-1].counter:
            text = f"{lease.engine} got {lease.mapping}, shard {lease.shard}, at {lease.at:g} s with counter"
            yield "double-owner", f"{text} {lease.counter}, which is not above {held[-1].counter} of {held[-1].engine}"
        held.append(lease)

    def owner(mapping: str, shard: str, row: int) -> _Mark | None:
        return next((lease for lease in reversed(leases[mapping, shard]) if lease.row < row), None)

    for mark in case.history.checkpoints:
        holder = owner(mark.mapping, mark.shard, mark.row)
        if holder is not None and (holder.engine, holder.counter) != (mark.engine, mark.counter):
            text = f"a checkpoint of {mark.engine} (counter {mark.counter}) on {mark.mapping}, shard {mark.shard}"
            yield "double-owner", f"{text}, was taken at {mark.at:g} s; {holder.engine} held it ({holder.counter})"
    for run in case.history.runs:
        for id in run.ids[:1]:  # a batch comes from one shard
            born = case.history.born.get(id)
            for name, mapping in case.readers[born.source] if born else ():
                holder = owner(name, born.shard, run.row) if born and mapping.function == run.function else None
                if holder is None or holder.engine == run.engine or case.just_resumed(run.engine, run.at):
                    continue
                yield "double-owner", f"{run} got {id}, but {holder.engine} holds its shard since {holder.at:g} s"
    for (_, id), runs in case.deliveries.items():
        for first, second in pairwise(runs):
            known = id in case.history.born
            if known and second.row < first.end_row and not case.excused(first, id, second):
                yield "double-owner", f"{id} was running in {first} when it was started in {second}"


def _deletions(case: _Case) -> _Found:
    for row in case.history.settled:
        for id in row.ids if row.what == "deleted" else ():
            if any(case.unfinished(function, id, row.row) for function in case.consumers(id)):
                yield "deleted-unfinished", f"{id} was deleted at {row.at:g} s before it was done or reported"


def _resurrected(case: _Case) -> _Found:
    final: dict[str, _Settled] = {}
    for row in case.history.settled:
        for id in row.ids if row.what.startswith(("deleted", "recorded")) else ():
            before = final.setdefault(id, row)
            if before is not row and before.what != row.what:
                yield "two-fates", f"{id} was {before.what} at {before.at:g} s and {row.what} at {row.at:g} s"
    for run in case.history.runs:
        for id in run.ids:
            ended = final.get(id)
            if ended and ended.row < run.row and not case.just_resumed(run.engine, run.at):
                yield "resurrected", f"{run} got {id}, which was {ended.what} at {ended.at:g} s"


def _attempts(case: _Case) -> _Found:
    counts: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
    partly: dict[tuple[str, tuple[str, ...]], _Run] = {}  # the last run that did a part of its records
    for run in case.history.runs:
        limit = case.expectations.functions.get(run.function, Function()).maximum_retry_attempts
        if limit is None or run.outcome == "interrupted":
            continue
        born = case.history.born.get(run.ids[0]) if run.ids else None
        # A stream counts tries of a batch (its halves count anew), all else counts tries of each id.
        for unit in [run.ids] if born and born.kind == "record" else [(id,) for id in run.ids]:
            if not any(case.unfinished(run.function, id, run.row) for id in unit):
                continue  # delivered again after its fate: that is another check's
            before = partly.pop((run.function, unit), None)
            if before is not None and case.taken_over(before, unit[0], run.row):
                counts[run.function, unit] = 0  # what was left counted anew; what was done lay above the checkpoint
            if run.done and born and born.kind == "record":
                partly[run.function, unit] = run
            counts[run.function, unit] += 1
            tries = max(counts[run.function, unit], run.attempt)
            if tries > 1 + limit:
                what = ", ".join(unit)
                yield "too-many-attempts", f"{run} is try {tries} of {what}; {run.function} allows {1 + limit}"


def _early(case: _Case) -> _Found:
    for (function, id), runs in case.deliveries.items():
        delays = case.expectations.functions.get(function, Function()).retry_delays_seconds
        failures = 0
        for first, second in pairwise(runs if delays else ()):
            if id in first.done or first.outcome in ("killed", "interrupted") or first.end_row > second.row:
                continue
            failures += 1
            if case.excused(first, id, second):
                continue  # nobody knew of the failure
            least = delays[min(failures, len(delays)) - 1]
            if second.at < first.end_at + least:
                text = f"{second} tried {id} again {second.at - first.end_at:g} s after failure {failures}"
                yield "retried-early", f"{text}; {function} waits {least:g} s"


def _concurrency(case: _Case) -> _Found:
    # From a pause on a run counts no more: its permit may run out while its engine cannot notice.
    pauses = [fault for fault in case.history.faults if fault.what == "paused"]
    # A handler that is cancelled hears of it in the next step, when its permit is free already.
    running: dict[str, list[tuple[int, float]]] = defaultdict(list)  # row and time at which runs stop counting
    for run in case.history.runs:
        limit = case.expectations.functions.get(run.function, Function()).reserved_concurrency
        if limit is None:
            continue
        before = running[run.function]
        now = running[run.function] = [end for end in before if end[0] > run.row and end[1] > run.at]
        if len(now) >= limit and not case.just_resumed(run.engine, run.at):
            yield "over-concurrency", f"{run} is number {len(now) + 1} at once; {run.function} has {limit} reserved"
        row = min([run.end_row, *(p.row for p in pauses if p.engine == run.engine and p.row > run.row)])
        now.append((row, run.end_at if run.outcome == "interrupted" else float("inf")))


def _old(case: _Case) -> _Found:
    for run in case.history.runs:
        limit = case.expectations.functions.get(run.function, Function()).maximum_age_seconds
        if limit is None:
            continue
        for id in run.ids:
            age = run.at - case.history.born[id].at if id in case.history.born else 0.0
            if age > limit and not case.just_resumed(run.engine, run.at):
                yield "too-old", f"{run} got {id}, {age:g} s after it came; {run.function} allows {limit:g} s"
