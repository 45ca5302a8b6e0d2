"""Which environment serves which invocation: start one, use one, let one go, wait or refuse.

Decides everything about pools, given what just happened; starting, running and stopping is `runtimes/processes.py`'s.
An environment serves one invocation at a time. Of those that are warm the one used last comes first, so that the others
grow idle and are let go; one that was reset comes after them, for it must begin anew. Whether an invocation may run at
all, and how fast a function may grow, was decided before, by `concurrency.py`.

Sources: Lambda guide, «Understanding the Lambda execution environment lifecycle», «Configuring provisioned
concurrency».
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Final, Generic, Literal, TypeVar

TURNAROUND_SECONDS: Final = 0.1
"""How long one that has answered is waited for, instead of starting another."""
FREE_FAILURES: Final = 2
"""Inits that may fail in a row before the next one has to wait."""
FIRST_PAUSE_SECONDS: Final = 0.5
MAXIMUM_PAUSE_SECONDS: Final = 60.0

Ticket = TypeVar("Ticket")
Status = Literal["IN_PROGRESS", "READY", "FAILED"]
"""Of provisioned concurrency (Lambda API: GetProvisionedConcurrencyConfig)."""
Reason = Literal["idle", "recycled", "outdated", "evicted", "withdrawn", "broken"]


@dataclass(frozen=True, slots=True)
class Start:
    """Make an environment of this number, for this function as it is configured now."""

    number: int
    function: str
    provisioned: bool


@dataclass(slots=True)
class Run(Generic[Ticket]):
    """Let this environment serve it. `spilled`: no provisioned one was free."""

    number: int
    ticket: Ticket
    spilled: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """End an environment that serves nothing."""

    number: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Refuse(Generic[Ticket]):
    """Its init would fail as it did so often: say so at once."""

    ticket: Ticket


Step = Start | Run[Ticket] | Stop | Refuse[Ticket]


@dataclass(slots=True)
class _Environment:
    number: int
    function: str
    generation: int
    provisioned: bool
    state: Literal["starting", "warm", "cold", "busy", "answered"] = "starting"
    uses: int = 0
    since: float = 0.0


@dataclass(slots=True)
class _Pool(Generic[Ticket]):
    generation: int = 0
    provisioned: int = 0
    recycle_after: float = inf
    withdrawn: bool = False
    idle: list[_Environment] = field(default_factory=list)  # the one used last is the last
    all: dict[int, _Environment] = field(default_factory=dict)
    waiting: deque[Ticket] = field(default_factory=deque)
    failures: int = 0
    not_before: float = -inf
    spilled: int = 0


class Fleet(Generic[Ticket]):
    """All environments of an engine. `now` is monotonic seconds.

    maximum: environments at once, of all functions. idle_seconds: for how long one that serves nothing is kept."""

    def __init__(self, maximum: int, idle_seconds: float) -> None:
        self._maximum = maximum
        self._idle_seconds = idle_seconds
        self._pools: dict[str, _Pool[Ticket]] = {}
        self._all: dict[int, _Environment] = {}
        self._hungry: dict[str, None] = {}  # functions whose invocations wait
        self._numbers = 0

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def configure(
        self, function: str, now: float, provisioned: int = 0, recycle_after: int | None = None
    ) -> list[Step[Ticket]]:
        """It is new, or was changed: what runs finishes, and then the environments of before go."""
        pool = self._pools.setdefault(function, _Pool())
        pool.generation += 1
        pool.provisioned = provisioned
        pool.recycle_after = inf if recycle_after is None else recycle_after
        pool.withdrawn = False
        pool.failures, pool.not_before = 0, -inf
        steps: list[Step[Ticket]] = self._let_go(pool, pool.idle[:], "outdated")
        return steps + self._grow(function, pool, now)

    def provision(self, function: str, now: float, provisioned: int) -> list[Step[Ticket]]:
        """As many environments as this are to be ready, and nothing else of it changed: what is warm stays. Of those
        that are too many idle ones go first, others once they have served what they have."""
        pool = self._pools[function]
        pool.provisioned = provisioned
        pool.failures, pool.not_before = 0, -inf
        have = [each for each in pool.all.values() if each.provisioned and each.generation == pool.generation]
        have.sort(key=lambda each: each not in pool.idle)
        surplus = have[: max(0, len(have) - provisioned)]
        for each in surplus:
            each.generation = -1
        steps: list[Step[Ticket]] = self._let_go(pool, [each for each in surplus if each in pool.idle], "outdated")
        return steps + self._grow(function, pool, now)

    def withdraw(self, function: str) -> list[Step[Ticket]]:
        """It is gone: so are its idle environments; those that run finish."""
        pool = self._pools[function]
        pool.withdrawn = True
        pool.provisioned = 0
        if not pool.all and not pool.waiting:
            del self._pools[function]
        return [*self._let_go(pool, pool.idle[:], "withdrawn")]

    def call(self, function: str, ticket: Ticket, now: float) -> list[Step[Ticket]]:
        """An invocation was admitted."""
        pool = self._pools[function]
        if pool.idle and not pool.waiting:
            environment = self._best(pool, now)
            if environment is not None:
                return [self._use(pool, environment, ticket)]
        if now < pool.not_before and not self._busy_or_starting(pool):
            return [Refuse(ticket)]
        pool.waiting.append(ticket)
        self._hungry[function] = None
        return self._grow(function, pool, now)

    def cancel(self, function: str, ticket: Ticket) -> None:
        """Nobody wants it any more; it waits, or is unknown."""
        pool = self._pools.get(function)
        if pool is not None and ticket in pool.waiting:
            pool.waiting.remove(ticket)
            if not pool.waiting:
                del self._hungry[function]

    def give_up(self, function: str) -> list[Ticket]:
        """What waits shall wait no longer; gives it."""
        pool = self._pools[function]
        given_up = list(pool.waiting)
        pool.waiting.clear()
        self._hungry.pop(function, None)
        return given_up

    # --- what happened -----------------------------------------------------------------------------------------------

    def ready(self, number: int, now: float) -> list[Step[Ticket]]:
        """It began, or has served its invocation, and waits for the next."""
        environment = self._all[number]
        pool = self._pools[environment.function]
        pool.failures, pool.not_before = 0, -inf
        return self._free(pool, environment, "warm", now)

    def answered(self, number: int, now: float) -> None:
        """The caller has its answer; it will ask for the next invocation in a moment, for which it is worth waiting."""
        environment = self._all[number]
        environment.state = "answered"
        environment.since = now

    def reset(self, number: int, now: float, *, init_failed: bool) -> list[Step[Ticket]]:
        """Its process ended; with the next invocation it begins anew, and /tmp stays. `init_failed`: it never began."""
        environment = self._all[number]
        pool = self._pools[environment.function]
        if environment in pool.idle:  # it ended while it served nothing
            pool.idle.remove(environment)
        if init_failed and environment.generation == pool.generation:
            pool.failures += 1
            if pool.failures >= FREE_FAILURES:
                pause = FIRST_PAUSE_SECONDS * 2.0 ** (pool.failures - FREE_FAILURES)
                pool.not_before = now + min(MAXIMUM_PAUSE_SECONDS, pause)
        if not pool.waiting and init_failed:
            self._forget(environment)
            return [Stop(number, "broken"), *self._grow(environment.function, pool, now), *self._elsewhere(now)]
        if pool.waiting and now < pool.not_before:
            refused: list[Step[Ticket]] = [Refuse(ticket) for ticket in pool.waiting]
            pool.waiting.clear()
            self._hungry.pop(environment.function, None)
            self._forget(environment)
            return [*refused, Stop(number, "broken"), *self._elsewhere(now)]
        return self._free(pool, environment, "cold", now)

    def gone(self, number: int, now: float) -> list[Step[Ticket]]:
        """It could not even be made, or cannot be used again."""
        environment = self._all[number]
        pool = self._pools[environment.function]
        if environment in pool.idle:
            pool.idle.remove(environment)
        self._forget(environment)
        return self._elsewhere(now)

    def tick(self, now: float) -> list[Step[Ticket]]:
        """Time passed: what was idle for too long goes, what is to be ready is started."""
        steps: list[Step[Ticket]] = []
        for function, pool in list(self._pools.items()):
            over = [each for each in pool.idle if not each.provisioned and now - each.since >= self._idle_seconds]
            steps += self._let_go(pool, over, "idle")
            steps += self._grow(function, pool, now)
        return steps

    # --- what can be seen --------------------------------------------------------------------------------------------

    def counts(self, function: str) -> dict[str, int]:
        """How many environments of a function are in which state."""
        found = dict.fromkeys(("starting", "warm", "cold", "busy"), 0)
        for each in self._pools[function].all.values():
            found["busy" if each.state == "answered" else each.state] += 1
        return found

    def provisioned(self, function: str) -> tuple[Status, int, int]:
        """(status, wanted, ready) of its provisioned concurrency."""
        pool = self._pools[function]
        ready = sum(
            each.provisioned and each.generation == pool.generation and each.state in ("warm", "busy", "answered")
            for each in pool.all.values()
        )
        if ready >= pool.provisioned:
            return "READY", pool.provisioned, ready
        return "FAILED" if pool.failures >= FREE_FAILURES else "IN_PROGRESS", pool.provisioned, ready

    def provisioned_use(self, function: str) -> tuple[int, int]:
        """How many of its provisioned environments run an invocation, of how many that are ready."""
        pool = self._pools[function]
        busy = sum(each.provisioned and each.state in ("busy", "answered") for each in pool.all.values())
        return busy, self.provisioned(function)[2]

    def is_provisioned(self, number: int) -> bool:
        """Is it one of those that are to be ready?"""
        return self._all[number].provisioned

    def spilled(self, function: str) -> int:
        """Invocations that no provisioned environment had room for."""
        return self._pools[function].spilled

    def waiting(self, function: str) -> int:
        """Invocations that wait for an environment."""
        return len(self._pools[function].waiting)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _best(self, pool: _Pool[Ticket], now: float) -> _Environment | None:
        """The warm one that was used last, a provisioned one first; else one that begins anew, unless inits fail."""
        warm = None
        for environment in reversed(pool.idle):
            if environment.state == "warm":
                if environment.provisioned or not pool.provisioned:
                    return environment
                warm = warm or environment
        if warm is not None:
            return warm
        return pool.idle[-1] if now >= pool.not_before else None

    def _use(self, pool: _Pool[Ticket], environment: _Environment, ticket: Ticket) -> Run[Ticket]:
        if pool.idle and pool.idle[-1] is environment:
            pool.idle.pop()
        elif environment in pool.idle:
            pool.idle.remove(environment)
        environment.state = "busy"
        environment.uses += 1
        spilled = pool.provisioned > 0 and not environment.provisioned
        pool.spilled += spilled
        return Run(environment.number, ticket, spilled)

    def _free(
        self, pool: _Pool[Ticket], environment: _Environment, state: Literal["warm", "cold"], now: float
    ) -> list[Step[Ticket]]:
        environment.state = state
        environment.since = now
        if pool.withdrawn and not pool.waiting:
            return self._gone_for_others(environment, "withdrawn", now)
        if environment.generation != pool.generation:
            return self._gone_for_others(environment, "outdated", now)
        if environment.uses >= pool.recycle_after:
            return self._gone_for_others(environment, "recycled", now)
        if pool.waiting:
            ticket = pool.waiting.popleft()
            if not pool.waiting:
                del self._hungry[environment.function]
            return [self._use(pool, environment, ticket)]
        pool.idle.append(environment)
        return self._elsewhere(now) if self._hungry else []

    def _gone_for_others(self, environment: _Environment, reason: Reason, now: float) -> list[Step[Ticket]]:
        self._forget(environment)
        steps: list[Step[Ticket]] = [Stop(environment.number, reason)]
        if (pool := self._pools.get(environment.function)) is not None:
            steps += self._grow(environment.function, pool, now)
        return steps + self._elsewhere(now)

    def _let_go(self, pool: _Pool[Ticket], environments: list[_Environment], reason: Reason) -> list[Step[Ticket]]:
        for each in environments:
            pool.idle.remove(each)
            self._forget(each)
        return [Stop(each.number, reason) for each in environments]

    def _forget(self, environment: _Environment) -> None:
        del self._all[environment.number]
        pool = self._pools[environment.function]
        del pool.all[environment.number]
        if pool.withdrawn and not pool.all and not pool.waiting:
            del self._pools[environment.function]

    def _grow(self, function: str, pool: _Pool[Ticket], now: float) -> list[Step[Ticket]]:
        """One environment for each that waits, and as many as are to be ready."""
        if not pool.waiting and (pool.withdrawn or not pool.provisioned):
            return []
        steps: list[Step[Ticket]] = []
        if now < pool.not_before:
            return steps
        missing, starting = pool.provisioned, 0
        for each in pool.all.values():
            if each.generation == pool.generation:
                missing -= each.provisioned
                starting += each.state == "starting" or (
                    each.state == "answered" and now - each.since < TURNAROUND_SECONDS
                )
        while missing > 0 and self._room(steps):
            steps.append(self._start(function, pool, provisioned=True))
            missing -= 1
            starting += 1
        while starting < len(pool.waiting) and self._room(steps):
            steps.append(self._start(function, pool, provisioned=False))
            starting += 1
        return steps

    def _start(self, function: str, pool: _Pool[Ticket], *, provisioned: bool) -> Start:
        self._numbers += 1
        environment = _Environment(self._numbers, function, pool.generation, provisioned)
        self._all[self._numbers] = pool.all[self._numbers] = environment
        return Start(self._numbers, function, provisioned)

    def _room(self, steps: list[Step[Ticket]]) -> bool:
        """Is there room for one more; the one that was idle longest, of any function, makes it."""
        if len(self._all) < self._maximum:
            return True
        idle = [each for pool in self._pools.values() for each in pool.idle if not each.provisioned]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each.since)
        steps += self._let_go(self._pools[oldest.function], [oldest], "evicted")
        return True

    def _elsewhere(self, now: float) -> list[Step[Ticket]]:
        """Others may wait for room that there is now."""
        steps: list[Step[Ticket]] = []
        for function in list(self._hungry):
            steps += self._grow(function, self._pools[function], now)
        return steps

    def _busy_or_starting(self, pool: _Pool[Ticket]) -> bool:
        return any(each.state in ("busy", "answered", "starting") for each in pool.all.values())
