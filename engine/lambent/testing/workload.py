"""What a simulated day brings, from one seed: functions, sources, mappings, what comes in, and how handlers behave.

Decides the configuration and the input, and with them what `history.check` may expect. How a handler behaves towards
an item depends on the seed, the item's number and how often it was tried, never on who tries it: so a takeover meets
the same poison. Leaves to `simulation.py` who runs all that and what goes wrong meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lambent.settings import EngineSettings
from lambent.testing.history import Expectations, Function, Source

__all__ = ["Behaviour", "Mapped", "Operation", "Workload", "behaviour", "workload"]

HORIZON_SECONDS: Final = 40.0
"""Virtual seconds in which everything comes in."""

RETENTION_SECONDS: Final = 7 * 86400
"""So long that no clock which is set forward makes a stream forget."""

ROUNDING: Final = 1e-5
"""Seconds by which a sum of wall-clock times may be off."""

DESTINATIONS: Final = ("queue:dead", "stream:graves", "function:audit")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How handlers treat one item: `failures` tries fail (many: poison), by raising or by a hang beyond the deadline;
    a try takes `seconds`."""

    seconds: float = 0.0
    failures: int = 0
    hangs: bool = False


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping: its source ("queue:NAME" or "stream:NAME"), its function, its options."""

    source: str
    function: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a client does. `numbers` name the items, `where` the function, queue or stream."""

    at: float
    what: Literal["invoke", "event", "send", "put", "split", "merge"]
    where: str
    numbers: Sequence[int] = ()
    keys: Sequence[str] = ()
    delay_seconds: float | None = None
    directly: bool = False  # not through an engine: another client of the store
    patience_seconds: float | None = None  # after which the caller goes away

    @property
    def pairs(self) -> list[tuple[int, str]]:
        """Each number with its key."""
        return list(zip(self.numbers, self.keys or [""] * len(self.numbers), strict=True))


@dataclass(frozen=True, slots=True)
class Workload:
    """One seed's day. `settings` are the engine's; `filtered` are the numbers that the filters pass over."""

    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mappings: Mapping[str, Mapped] = field(default_factory=dict)
    operations: Sequence[Operation] = ()
    seconds: float = HORIZON_SECONDS
    behave: Callable[[str, int], Behaviour] = lambda function, number: Behaviour()

    @property
    def drain_seconds(self) -> float:
        return EngineSettings().drain_seconds

    def passes(self, number: int) -> bool:
        """Whether a filter lets this item pass."""
        return number % 5 != 0

    def body(self, number: int) -> dict[str, object]:
        """An item as it is sent."""
        return {"n": number, "kind": "wanted" if self.passes(number) else "other"}

    def tries(self, function: str) -> int:
        """How often an item is tried before it is given up; 0: as often as it takes."""
        mapped = self.mapping_of(function)
        if mapped is None:
            return 1 + int(self.functions[function]["maximum_retry_attempts"])
        kind, _, name = mapped.source.partition(":")
        if kind == "queue":
            return int(self.queues[name]["max_receive_count"])
        return 1 + int(mapped.options["maximum_retry_attempts"])

    def uncounted(self, function: str) -> bool:
        """Whether a stream's records are tried for ever, all of a batch together."""
        mapped = self.mapping_of(function)
        if mapped is None or not mapped.source.startswith("stream:"):
            return False
        return not self.tries(function) and not mapped.options["bisect_batch_on_function_error"]

    def mapping_of(self, function: str) -> Mapped | None:
        return next((mapped for mapped in self.mappings.values() if mapped.function == function), None)

    def expectations(self, names: Mapping[str, str], *, times_tell: bool) -> Expectations:
        """What a checker may expect. `names` gives each mapping's id. `times_tell`: wall
        clocks do not jump and claims do not end early, so that ages and delays prove something."""
        functions = {name: self._expected(name, options, times_tell) for name, options in self.functions.items()}
        mappings = {names[name]: self._source(mapped) for name, mapped in self.mappings.items()}
        return Expectations(functions, mappings)

    def _expected(self, name: str, options: Mapping[str, Any], times_tell: bool) -> Function:
        mapped = self.mapping_of(name)
        reserved = options.get("reserved_concurrency")
        if mapped is None:
            return Function(
                options["maximum_retry_attempts"],
                tuple(delay - ROUNDING for delay in self.settings["async_retry_delays_seconds"]) if times_tell else (),
                options["maximum_event_age_seconds"] if times_tell else None,
                reserved,
            )
        if mapped.source.startswith("queue:"):
            queue = self.queues[mapped.source.partition(":")[2]]
            return Function(queue["max_receive_count"] - 1, reserved_concurrency=reserved)
        retries = mapped.options["maximum_retry_attempts"]
        return Function(None if retries < 0 else retries, reserved_concurrency=reserved)

    def _source(self, mapped: Mapped) -> Source:
        kind, _, name = mapped.source.partition(":")
        if kind == "stream":
            by_key = mapped.options.get("parallelization_factor", 1) > 1
            return Source(name, mapped.function, "key" if by_key else "shard")
        return Source(name, mapped.function, "group" if self.queues[name].get("fifo") else None)


def workload(seed: int, size: float = 1.0, *, only: Literal["stream"] | None = None) -> Workload:
    """The day of this seed; `size` multiplies how much comes in, `only` names the one model that it is about."""
    chance = random.Random(f"workload {seed}")
    day = _Day(seed, chance, size)
    if only is not None:
        day.stream()
        return day.finished()
    models = [model for model in (day.calls, day.events, day.stream, day.queue, day.fifo) if chance.random() < 0.6]
    for model in models or [chance.choice((day.events, day.stream, day.queue, day.fifo))]:
        model()
    return day.finished()


class _Day:
    def __init__(self, seed: int, chance: random.Random, size: float) -> None:
        self._seed, self._chance, self._size = seed, chance, size
        self._settings = {
            "async_retry_delays_seconds": chance.choice(((60.0, 120.0), (5.0, 10.0), (0.5, 1.0))),
            "lease_seconds": chance.choice((3.0, 10.0)),
            "watchdog_seconds": 0,
            "observe_seconds": 0,  # it writes what nobody asks for
            "health_seconds": 0,  # nobody asks
        }
        self._functions: dict[str, dict[str, Any]] = {"audit": self._function(0)}
        self._queues: dict[str, dict[str, Any]] = {"dead": {}, "done": {}}
        self._streams: dict[str, dict[str, Any]] = {"graves": {}}
        self._mappings: dict[str, Mapped] = {}
        self._operations: list[Operation] = []
        self._kinds: dict[str, Sequence[str]] = {"audit": ("ok",)}
        self._number = 0

    def finished(self) -> Workload:
        cache: dict[tuple[str, int], Behaviour] = {}

        def behave(function: str, number: int) -> Behaviour:
            if (function, number) not in cache:
                timeout = self._functions[function]["timeout_seconds"]
                cache[function, number] = behaviour(self._seed, function, number, timeout, self._kinds[function])
            return cache[function, number]

        return Workload(
            self._seed,
            self._settings,
            self._functions,
            self._queues,
            self._streams,
            self._mappings,
            sorted(self._operations, key=lambda operation: operation.at),
            behave=behave,
        )

    def calls(self) -> None:
        self._functions["quote"] = function = self._function(0)
        function["reserved_concurrency"] = self._chance.choice((1, 1, 2))
        self._kinds["quote"] = ("ok", "slow", "slow", "flaky")
        for _ in range(self._some(25)):
            self._come("invoke", "quote", 1, patience=self._chance.choice((None, None, 0.1, 1.0)))

    def events(self) -> None:
        chance = self._chance
        for name in ("alert", "notify"):
            self._functions[name] = function = self._function(chance.randrange(3))
            function["reserved_concurrency"] = chance.choice((None, None, 1, 2, 0))
            function["maximum_event_age_seconds"] = chance.choice((60, 90, 300, 21600))
            function["on_failure"] = chance.choice((None, *DESTINATIONS))
            function["on_success"] = chance.choice((None, None, "queue:done"))
            if chance.random() < 0.3:
                function["dead_letter_queue"] = "queue:dead"
            self._kinds[name] = ("ok", "ok", "ok", "slow", "flaky", "poison", "hang")
            for _ in range(self._some(10)):
                self._come("event" if chance.random() < 0.8 else "invoke", name, 1)

    def stream(self) -> None:
        chance = self._chance
        self._streams["flights"] = {"shards": chance.randrange(1, 5), "retention_seconds": RETENTION_SECONDS}
        retries = chance.choice((-1, 0, 1, 3))
        options: dict[str, Any] = {
            "batch_size": chance.choice((1, 3, 10)),
            "maximum_batching_window_seconds": chance.choice((0, 0, 0.5, 5)),
            "maximum_retry_attempts": retries,
            "bisect_batch_on_function_error": chance.random() < 0.5,
            "report_batch_item_failures": chance.random() < 0.5,
            "on_failure": chance.choice(DESTINATIONS),
        }
        if chance.random() < 0.3:
            options["tumbling_window_seconds"] = chance.choice((5, 30))
        else:
            options["parallelization_factor"] = chance.choice((1, 1, 2, 4))
        if chance.random() < 0.4:
            options["maximum_record_age_seconds"] = 60
            options["maximum_retry_attempts"] = retries = chance.choice((-1, retries))
        if chance.random() < 0.3:
            options["filters"] = [{"data": {"kind": ["wanted"]}}]
        self._functions["count"] = function = self._function(0)
        function["reserved_concurrency"] = chance.choice((None, None, None, 1, 3))
        ends = retries >= 0 or "maximum_record_age_seconds" in options
        self._kinds["count"] = ("ok",) * 12 + ("slow", "flaky", "hang") + (("poison",) if ends else ())
        self._mappings["counting"] = Mapped("stream:flights", "count", options)
        for _ in range(self._some(15)):
            self._come("put", "flights", chance.randrange(1, 6), "abcdefgh")
        for _ in range(chance.choice((0, 0, 1, 2))):
            self._operations.append(Operation(self._time(), chance.choice(("split", "split", "merge")), "flights"))

    def queue(self) -> None:
        self._queue_of("rebook", "rebooking", {"reorder": False})

    def fifo(self) -> None:
        self._queue_of("board", "boarding.fifo", {"fifo": True})

    def _queue_of(self, function: str, name: str, kind: Mapping[str, Any]) -> None:
        chance, fifo = self._chance, "fifo" in kind
        self._functions[function] = options = self._function(0)
        options["reserved_concurrency"] = chance.choice((None, None, None, 1, 2))
        dead = "boarding-dead.fifo" if fifo else "rebooking-dead"
        self._queues[dead] = {"fifo": True} if fifo else {}
        self._queues[name] = {
            "visibility_timeout_seconds": options["timeout_seconds"] * chance.choice((3, 6)) + 2,
            "max_receive_count": chance.choice((1, 2, 4)),
            "dead_letter_queue": dead,
            **({"fifo": True} if fifo else {"delay_seconds": chance.choice((0, 0, 2))}),
        }
        mapping: dict[str, Any] = {
            "batch_size": chance.choice((1, 3, 10)),
            "maximum_batching_window_seconds": 0 if fifo else chance.choice((0, 0, 0.5, 5)),
            "report_batch_item_failures": chance.random() < 0.6,
        }
        if chance.random() < 0.3:
            mapping["maximum_concurrency"] = 2
        if chance.random() < 0.3:
            mapping["filters"] = [{"body": {"kind": ["wanted"]}}]
        self._kinds[function] = ("ok",) * 8 + ("slow", "flaky", "poison", "hang")
        self._mappings[function + "ing"] = Mapped(f"queue:{name}", function, mapping)
        for _ in range(self._some(12)):
            self._come("send", name, chance.randrange(1, 4), "xyz" if fifo else "")

    def _function(self, retries: int) -> dict[str, Any]:
        return {
            "timeout_seconds": self._chance.randrange(1, 4),
            "maximum_retry_attempts": retries,
            "maximum_event_age_seconds": 21600,
        }

    def _come(
        self,
        what: Literal["invoke", "event", "send", "put"],
        where: str,
        count: int,
        keys: str = "",
        patience: float | None = None,
    ) -> None:
        chance = self._chance
        numbers = range(self._number + 1, self._number + 1 + count)
        self._number += count
        chosen = [chance.choice(keys) for _ in numbers] if keys else []
        delay = chance.choice((None, None, 1.0)) if what == "send" and not keys else None
        directly = what in ("send", "put") and chance.random() < 0.5
        self._operations.append(Operation(self._time(), what, where, numbers, chosen, delay, directly, patience))

    def _some(self, about: int) -> int:
        return max(1, int(self._chance.uniform(0.3, 1.0) * about * self._size))

    def _time(self) -> float:
        # In gusts: half of what comes in comes at one of a few moments.
        chance = self._chance
        return chance.choice((0.0, 1.0, 10.0, 20.0)) if chance.random() < 0.5 else chance.uniform(0, HORIZON_SECONDS)


def behaviour(seed: int, function: str, number: int, timeout_seconds: float, kinds: Sequence[str]) -> Behaviour:
    """How handlers of `function` treat item `number`; `kinds` are drawn from: ok, slow, flaky, poison, hang."""
    chance = random.Random(f"{seed} {function} {number}")
    quick = chance.choice((0.0, 0.0, 0.01, 0.2))
    match chance.choice(kinds):
        case "slow":
            return Behaviour(timeout_seconds * chance.uniform(0.5, 0.95))
        case "flaky":
            return Behaviour(quick, chance.randrange(1, 4))
        case "poison":
            return Behaviour(quick, 1 << 30)
        case "hang":
            return Behaviour(quick, chance.randrange(1, 3), hangs=True)
        case _:
            return Behaviour(quick)
