"""Which settings lose time or events, from the traffic that was observed.

Decides what of the traffic is worth keeping, how long a call takes (a fixed part, and one for each record), how other
settings would have done on the same arrivals (`replay`, by the rule of `batching.py`), and what to say. How traffic is
counted and kept is `observing.py`'s.

A replay is a model: keys are spread evenly over lanes and shards, no call fails, and bytes are not counted. So advice
is given only where the difference is large.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heapreplace
from math import ceil
from typing import Final, Literal

from lambent.arns import without_password
from lambent.model import Function, Queue, QueueMapping, StreamMapping
from lambent.semantics import batching

MAXIMUM_SECONDS: Final = 600  # of arrivals that are kept: the latest in which anything came
MINIMUM_CALLS: Final = 20  # below which nothing is said of a mapping
GRAINS: Final = 3_000  # into which arrivals are cut for a replay
MAXIMUM_REPLAYED: Final = 50_000  # calls of a replay; smaller batches are not tried
BUSY: Final = 0.8  # of the time: a shard or a queue that is worked on for longer falls behind at the next peak
WORTH_SECONDS: Final = 1.0  # of delay, from which a change is worth to be said
WORTH_TIMES: Final = 2.0  # by how much better it must be
VISIBILITY_TIMES: Final = 6  # Lambda guide, «Using Lambda with Amazon SQS»: six times the function's time-out
SIZES: Final = (1, 10, 100, 1_000, 10_000)
WINDOWS: Final = (0.0, 1.0, 5.0, 20.0)
FACTORS: Final = (1, 2, 5, 10)
MAXIMUM_FIFO_BATCH: Final = 10

# --------------------------------------------------------------------------- what is kept


@dataclass(slots=True)
class Traffic:
    """What was observed of a mapping: arrivals by epoch second, and sums over its calls of n records and t seconds."""

    arrivals: dict[int, int] = field(default_factory=dict)
    calls: int = 0
    records: int = 0
    seconds: float = 0.0
    squares: float = 0.0  # sum of n * n
    products: float = 0.0  # sum of n * t
    sizes: dict[int, int] = field(default_factory=dict)  # calls by size, in powers of two: 1, 2, 4 (3 to 4), …
    durations: dict[int, int] = field(default_factory=dict)  # calls by milliseconds, in powers of two

    def ran(self, records: int, seconds: float) -> None:
        """A call with so many records took so long."""
        self.calls += 1
        self.records += records
        self.seconds += seconds
        self.squares += records * records
        self.products += records * seconds
        size, span = _power(records), _power(ceil(seconds * 1000))
        self.sizes[size] = self.sizes.get(size, 0) + 1
        self.durations[span] = self.durations.get(span, 0) + 1

    def add(self, other: Traffic) -> None:
        """Both together; of the arrivals the latest."""
        for mine, theirs in (
            (self.arrivals, other.arrivals), (self.sizes, other.sizes), (self.durations, other.durations),
        ):  # fmt: skip
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        if len(self.arrivals) > MAXIMUM_SECONDS:
            latest = sorted(self.arrivals)[-MAXIMUM_SECONDS:]
            self.arrivals = {second: self.arrivals[second] for second in latest}
        self.calls += other.calls
        self.records += other.records
        self.seconds += other.seconds
        self.squares += other.squares
        self.products += other.products


@dataclass(slots=True)
class Calls:
    """What was observed of a function: how often it ran and was throttled, and how many ran at once when looked at."""

    calls: int = 0
    throttles: int = 0
    seconds: float = 0.0
    at_once: int = 0

    def add(self, other: Calls) -> None:
        """Both together."""
        self.calls += other.calls
        self.throttles += other.throttles
        self.seconds += other.seconds
        self.at_once = max(self.at_once, other.at_once)


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a call takes: so many seconds by itself, and so many for each record."""

    fixed: float
    per_record: float

    def of(self, records: int) -> float:
        return self.fixed + self.per_record * records


def fit(traffic: Traffic) -> Duration:
    """The least squares of what was observed. If all batches had one size, a call is taken to cost nothing by itself:
    then larger batches are not said to help, which nobody could know."""
    calls, n, t = traffic.calls, traffic.records, traffic.seconds
    spread = calls * traffic.squares - n * n
    per_record = (calls * traffic.products - n * t) / spread if spread > 0 else -1.0
    fixed = (t - per_record * n) / calls if calls else 0.0
    if per_record < 0 and spread > 0:
        return Duration(t / calls, 0.0)
    if fixed < 0 or spread <= 0:
        return Duration(0.0, traffic.products / traffic.squares if traffic.squares else 0.0)
    return Duration(fixed, per_record)


# --------------------------------------------------------------------------- how it would have been


@dataclass(frozen=True, slots=True)
class Settings:
    """What a replay is of. `servers`: calls that may run at once."""

    batch_size: int
    window_seconds: float
    servers: int = 1


@dataclass(frozen=True, slots=True)
class Replayed:
    """Calls made; seconds from a record's arrival to the end of its call, on average and for all but one in a hundred;
    and for which part of the time in which records came the servers had work: above 1 they cannot keep up."""

    settings: Settings
    calls: int
    mean_seconds: float
    p99_seconds: float
    busy: float


def replay(arrivals: Mapping[int, int], duration: Duration, settings: Settings) -> Replayed:
    """These arrivals, spread evenly within their seconds, batched and run with these settings."""
    coming = deque(_grains(arrivals))
    waiting: deque[tuple[float, int]] = deque()
    free = [0.0] * settings.servers
    heapify(free)
    delays: list[tuple[float, int]] = []
    count, calls, worked, opened = 0, 0, 0.0, 0.0
    while coming or waiting:
        if not waiting:
            opened = coming[0][0]
        now = max(free[0], opened)
        while True:
            while coming and coming[0][0] <= now:
                waiting.append(coming.popleft())
                count += waiting[-1][1]
            if batching.closes(count, 0, opened, now, settings.batch_size, settings.window_seconds):
                break
            closing = batching.closes_at(opened, settings.window_seconds)
            now = min(coming[0][0], closing) if coming else closing
        left = taken = min(count, settings.batch_size)
        done = now + duration.of(taken)
        while left:
            at, size = waiting.popleft()
            part = min(size, left)
            left -= part
            delays.append((done - at, part))
            if part < size:
                waiting.appendleft((at, size - part))
        count -= taken
        opened = now
        calls += 1
        worked += done - now
        heapreplace(free, done)
    total = sum(size for _, size in delays)
    mean = sum(delay * size for delay, size in delays) / total if total else 0.0
    span = max(arrivals, default=0) + 1 - min(arrivals, default=0)
    busy = worked / (settings.servers * span)
    return Replayed(settings, calls, mean, _percentile(delays, total * 0.99), busy)


def sweep(arrivals: Mapping[int, int], duration: Duration, sizes: Sequence[int], windows: Sequence[float], servers: int
) -> list[Replayed]:  # fmt: skip
    """All of these batch sizes and windows."""
    return [replay(arrivals, duration, Settings(size, window, servers)) for size in sizes for window in windows]


# --------------------------------------------------------------------------- what to say


@dataclass(frozen=True, slots=True)
class Advice:
    """`subject` has this `setting` at `now`, and `better` would lose less: time, or events."""

    subject: str
    setting: str
    now: object
    better: object
    loses: Literal["time", "events"]
    reason: str


def advise_visibility(mapping: QueueMapping, queue: Queue, function: Function) -> list[Advice]:
    """A message that becomes visible while its batch is still tried is delivered twice, and used up by receives."""
    window, timeout = mapping.maximum_batching_window_seconds, function.timeout_seconds
    needed = ceil(VISIBILITY_TIMES * timeout + window)
    if queue.visibility_timeout_seconds >= needed:
        return []
    reason = (
        f"below six time-outs of {function.name} ({timeout} s) and the window ({window:g} s), throttles and slow calls "
        "let messages come back before their time, and in the end to the dead-letter queue"
    )
    now = queue.visibility_timeout_seconds
    return [Advice(f"queue {queue.name}", "visibility_timeout_seconds", now, needed, "events", reason)]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What advice on a mapping's batches rests on: how long a call takes, how it is now, and how it would be."""

    subject: str
    traffic: Traffic
    duration: Duration
    now: Replayed
    swept: Sequence[Replayed]


def advise_batches(
    mapping: QueueMapping | StreamMapping, traffic: Traffic, servers: int, fifo: bool = False
) -> tuple[list[Advice], Sweep | None]:
    """Batch size, window and parallelization of a mapping, on what was observed of it. No sweep: that was too little.
    `servers`: how many of its calls may run at once."""
    subject = f"mapping {without_password(mapping.source)} -> {mapping.function}"
    if traffic.calls < MINIMUM_CALLS or not traffic.arrivals:
        return [], None
    duration = fit(traffic)
    size, window = mapping.batch_size, mapping.maximum_batching_window_seconds
    records, most = sum(traffic.arrivals.values()), MAXIMUM_FIFO_BATCH if fifo else SIZES[-1]
    sizes = sorted({size, *(each for each in SIZES if each <= most and records <= MAXIMUM_REPLAYED * each)})
    windows = (0.0,) if fifo else sorted({window, *WINDOWS})
    swept = [
        each
        for each in sweep(traffic.arrivals, duration, sizes, windows, servers)
        if isinstance(mapping, StreamMapping) or each.settings.batch_size <= 10 or each.settings.window_seconds > 0
    ]
    now = replay(traffic.arrivals, duration, Settings(size, window, servers))
    best = min(swept, key=lambda each: (round(each.p99_seconds, 3), each.calls), default=now)
    found = []
    if now.p99_seconds > WORTH_TIMES * best.p99_seconds and now.p99_seconds - best.p99_seconds > WORTH_SECONDS:
        reason = f"99 of 100 records would be done after {best.p99_seconds:.1f} s instead of {now.p99_seconds:.1f} s"
        found.append(_batching(subject, now, best, reason))
    else:
        best = now
        near = [each for each in swept if each.p99_seconds <= now.p99_seconds + WORTH_SECONDS]
        fewest = min(near, key=lambda each: (each.calls, each.p99_seconds), default=now)
        if now.calls > WORTH_TIMES * fewest.calls and duration.fixed * now.calls > 0.2 * traffic.seconds:
            reason = f"{fewest.calls} calls would do instead of {now.calls}, and nothing would be a second later"
            found.append(_batching(subject, now, fewest, reason))
    idlest = min(swept, key=lambda each: each.busy, default=now)  # without a window a call takes whatever is there
    if idlest.busy > BUSY:
        if traffic.records == traffic.calls * size and size < sizes[-1]:
            reason = "its batches are always full, so that nobody knows what a larger one would cost: try it"
            found.append(Advice(subject, "batch_size", size, min(10 * size, sizes[-1]), "time", reason))
        if isinstance(mapping, StreamMapping) and not mapping.tumbling_window_seconds:
            found += _lanes(subject, mapping, traffic, duration, best, idlest)
    return found, Sweep(subject, traffic, duration, now, swept)


def advise_concurrency(
    functions: Mapping[str, Function], observed: Mapping[str, Calls], account_concurrency: int
) -> list[Advice]:
    """Reservations that starve their own function, or the functions that have none."""
    found = []
    for name, calls in sorted(observed.items()):
        function = functions.get(name)
        if function is None or not function.reserved_concurrency or calls.throttles <= 0.01 * (calls.calls or 1):
            continue
        now = function.reserved_concurrency
        better = max(now + 1, ceil(now * (calls.calls + calls.throttles) / max(calls.calls, 1)))
        reason = f"{calls.throttles} of {calls.throttles + calls.calls} calls were throttled"
        found.append(Advice(f"function {name}", "reserved_concurrency", now, min(better, 2 * now), "time", reason))
    throttled = {name: calls.throttles for name, calls in observed.items() if calls.throttles}
    starved = {name: count for name, count in throttled.items() if _unreserved(functions, name)}
    if starved:
        for name, function in sorted(functions.items()):
            reserved, used = function.reserved_concurrency or 0, observed.get(name, Calls()).at_once
            if reserved > 10 and used < reserved / 4:
                left = account_concurrency - sum(each.reserved_concurrency or 0 for each in functions.values())
                reason = (
                    f"at most {used} were seen to run at once, and the functions without a reservation "
                    f"({', '.join(sorted(starved))}) share {left} and were throttled {sum(starved.values())} times"
                )
                better = max(10, 2 * used)
                found.append(Advice(f"function {name}", "reserved_concurrency", reserved, better, "time", reason))
    return found


def _batching(subject: str, now: Replayed, better: Replayed, reason: str) -> Advice:
    names = "batch_size, maximum_batching_window_seconds"
    return Advice(subject, names, _pair(now.settings), _pair(better.settings), "time", reason)


def _lanes(
    subject: str, mapping: StreamMapping, traffic: Traffic, duration: Duration, best: Replayed, idlest: Replayed
) -> Iterator[Advice]:
    now = mapping.parallelization_factor
    for factor in (each for each in FACTORS if each > now):
        servers = best.settings.servers // now * factor
        busy = replay(traffic.arrivals, duration, replace(idlest.settings, servers=servers)).busy
        if busy < BUSY or factor == FACTORS[-1]:
            wider = replay(traffic.arrivals, duration, replace(best.settings, servers=servers))
            reason = (
                f"its shards have work for {idlest.busy:.0%} of the time at least, and then {busy:.0%}; 99 of 100 "
                f"records would be done after {wider.p99_seconds:.1f} s instead of {best.p99_seconds:.1f} s (by key)"
            )
            yield Advice(subject, "parallelization_factor", now, factor, "time", reason)
            return


def _unreserved(functions: Mapping[str, Function], name: str) -> bool:
    return name in functions and functions[name].reserved_concurrency is None


def _pair(settings: Settings) -> str:
    return f"{settings.batch_size}, {settings.window_seconds:g}"


# --------------------------------------------------------------------------- arithmetic


def _power(number: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(0, number - 1).bit_length()


def _grains(arrivals: Mapping[int, int]) -> Iterator[tuple[float, int]]:
    """(time, records), at most about GRAINS of them."""
    most = max(1, GRAINS // max(1, len(arrivals)))
    for second, count in sorted(arrivals.items()):
        grains = min(count, most)
        for number in range(grains):
            yield second + number / grains, count * (number + 1) // grains - count * number // grains


def _percentile(delays: list[tuple[float, int]], wanted: float) -> float:
    passed = 0
    for delay, size in sorted(delays):
        passed += size
        if passed >= wanted:
            return delay
    return 0.0
