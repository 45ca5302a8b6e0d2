"""May this invocation start now?

Decides it by Lambda's rules (developer guide, «Understanding Lambda function scaling» and «Configuring reserved
concurrency»): a function with reserved concurrency has a pool of its own, every other shares what the account has left,
of which 100 can't be reserved away; a mapping may have a maximum on top; a function gets at most 1,000 new environments
at once and 100 more each second. Decides too who is next when something becomes free: whoever has waited longest.

Where engines share a store, each decides over the part of a limit that it was granted (`set_block`, `demands`). When
to ask for more, and how a waiter is called, is left to others. An environment, once used, is never counted as new.

Every pool knows its own waiters, so that a release costs the same whatever waits elsewhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from lambent.errors import InvalidParameterValue
from lambent.model import Throttled

ACCOUNT: Final = "account"
"""The name of the unreserved pool in `set_block` and `demands`; the others are `function:NAME` and `mapping:ID`."""
ACCOUNT_CONCURRENCY: Final = 1000
"""Invocations of a whole account at once (Lambda quotas)."""
MINIMUM_UNRESERVED: Final = 100
"""Invocations that reservations must leave to the functions without one."""
SCALING_BURST: Final = 1000
"""New environments that a function may get at once."""
SCALING_PER_SECOND: Final = 100.0

RESERVED: Final = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
RESERVED_ZERO: Final = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded", reserved_zero=True)
UNRESERVED: Final = Throttled("ConcurrentInvocationLimitExceeded")


def check_reservation(amount: int, others: int, account_limit: int) -> None:
    """Raises InvalidParameterValue, with AWS's words, if `amount` beside what `others` have reserved would leave fewer
    than 100 to the functions without a reservation."""
    if amount and account_limit - others - amount < MINIMUM_UNRESERVED:
        raise InvalidParameterValue(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{MINIMUM_UNRESERVED}]."
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What an engine wants of a shared limit: `in_use` run now, `wanted` could run (in_use included)."""

    limit: int
    in_use: int
    wanted: int


class Pool:
    """A limit, the part of it that is granted here, what runs, and who waits, longest first."""

    __slots__ = ("_block", "_limit", "capacity", "in_use", "name", "refused", "waiting")

    def __init__(self, name: str, limit: int, block: int | None) -> None:
        self.name = name
        self.in_use = 0
        self.refused = 0  # since the last demands
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._block = block
        self.limit = limit

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self.capacity = limit if self._block is None else min(limit, self._block)

    @property
    def block(self) -> int | None:
        return self._block

    @block.setter
    def block(self, block: int | None) -> None:
        self._block = block
        self.limit = self._limit


class _Scaling:
    """One function: the pool it runs in, and how many environments it may have."""

    __slots__ = ("environments", "filled_at", "in_use", "pool", "tokens")

    def __init__(self, pool: Pool, now: float) -> None:
        self.pool = pool
        self.in_use = 0
        self.environments = 0
        self.tokens = float(SCALING_BURST)
        self.filled_at = now

    def fill(self, now: float) -> float:
        self.tokens = min(SCALING_BURST, self.tokens + max(0.0, now - self.filled_at) * SCALING_PER_SECOND)
        self.filled_at = now
        return self.tokens


class Permit:
    """The right to run one invocation. It is given back once; a second time is an error of the engine."""

    __slots__ = ("_function", "_lapses", "_mapping", "_open")

    def __init__(self, function: _Scaling, mapping: Pool | None, lapses: int) -> None:
        self._function = function
        self._mapping = mapping
        self._lapses = lapses
        self._open = True


@dataclass(slots=True, eq=False)
class Waiter:
    """Someone who is to be called once there may be room. `cancel` forgets it."""

    callback: Callable[[], None]
    key: tuple[str, str | None]
    pool: Pool | None = None

    def cancel(self) -> None:
        if self.pool is not None:
            self.pool.waiting.pop(self, None)
            self.pool = None


class Concurrency:
    """What runs now, and what may. `now` is a monotonic time in seconds.

    account_limit: invocations of the whole account.
    shared: other engines share the limits, so nothing may run before `set_block` grants it."""

    def __init__(self, account_limit: int = ACCOUNT_CONCURRENCY, *, shared: bool = False) -> None:
        self._account_limit = account_limit
        self._first_block = 0 if shared else None
        self._account = Pool(ACCOUNT, account_limit, self._first_block)
        self._functions: dict[str, _Scaling] = {}
        self._mappings: dict[str, Pool] = {}
        self._pools = {ACCOUNT: self._account}  # by the names of `set_block`
        self._reserved_total = 0
        self._blocks: dict[str, int] = {}
        self._served: dict[tuple[str, str | None], None] = {}  # called, and not admitted since
        self._valid_until = inf  # what the store granted counts for nothing from then on: others may have it
        self._lapses = 0  # how often that came to pass
        self.free: dict[Pool, None] = {}  # pools with room and with waiters: call `wake`

    # --- what may run ------------------------------------------------------------------------------------------------

    def admit(self, function: str, mapping: str | None, now: float) -> Permit | Throttled:
        """Take a permit, or say why not. Nothing is taken when throttled."""
        state = self._functions.get(function) or self._known(function, now)
        pool = state.pool
        if pool.in_use >= pool.capacity or now >= self._valid_until:
            return self._refuse(pool)
        limit = None if mapping is None else self._mappings.get(mapping)
        if limit is not None and limit.in_use >= limit.capacity:
            limit.refused += 1
            return UNRESERVED
        if state.in_use >= state.environments:
            if state.fill(now) < 1:
                return UNRESERVED
            state.tokens -= 1
            state.environments += 1
        pool.in_use += 1
        state.in_use += 1
        if limit is not None:
            limit.in_use += 1
        if self._served:
            self._served.pop((function, mapping), None)
        return Permit(state, limit, self._lapses)

    def lapsed(self, permit: Permit, now: float) -> bool:
        """Has its grant run out since it was taken? Then others may have it, and it must not start anything."""
        return permit._lapses != self._lapses or now >= self._valid_until

    def release(self, permit: Permit) -> None:
        """Give a permit back."""
        assert permit._open, "a permit was given back twice"
        permit._open = False
        state, limit = permit._function, permit._mapping
        state.in_use -= 1
        pool = state.pool
        pool.in_use -= 1
        if pool.waiting:
            self._look(pool)
        if limit is not None:
            limit.in_use -= 1
            if limit.waiting:
                self._look(limit)

    def room(self, function: str, mapping: str | None, now: float) -> int:
        """How many invocations would be admitted now."""
        if now >= self._valid_until:
            return 0
        state = self._functions.get(function) or self._known(function, now)
        pool = state.pool
        room = min(pool.capacity - pool.in_use, int(state.environments - state.in_use + state.fill(now)))
        if mapping is not None and (limit := self._mappings.get(mapping)) is not None:
            room = min(room, limit.capacity - limit.in_use)
        return max(0, room)

    def running(self) -> Mapping[str, int]:
        """How many invocations of each function run now (only functions with any)."""
        return {name: state.in_use for name, state in list(self._functions.items()) if state.in_use}

    def running_of(self, mapping: str) -> int:
        """How many invocations of a mapping run now; 0 for one that has no limit of its own."""
        pool = self._mappings.get(mapping)
        return 0 if pool is None else pool.in_use

    # --- limits ------------------------------------------------------------------------------------------------------

    def reserve(self, function: str, amount: int | None, now: float = 0.0) -> None:
        """Set or remove (None) a function's reserved concurrency; what runs is not disturbed.

        Raises InvalidParameterValue, with AWS's words, if fewer than 100 would be left to the others."""
        name = f"function:{function}"
        others = self._reserved_total - (self._pools[name].limit if name in self._pools else 0)
        check_reservation(amount or 0, others, self._account_limit)
        state = self._functions.get(function) or self._known(function, now)
        before = state.pool
        if amount is None:
            self._pools.pop(name, None)
            state.pool = self._account
        elif before is not self._account:
            before.limit = amount
        else:
            state.pool = self._pool(name, amount)
        if state.pool is not before:
            before.in_use -= state.in_use
            state.pool.in_use += state.in_use
            for waiter in [waiter for waiter in before.waiting if waiter.key[0] == function]:
                before.waiting.pop(waiter)
                self._enqueue(waiter, state.pool)
        self._reserved_total = others + (amount or 0)
        self._account.limit = self._account_limit - self._reserved_total
        self._look(self._account)
        self._look(state.pool)

    def limit_mapping(self, mapping: str, maximum: int | None) -> bool:
        """Set or remove (None) how many invocations of a mapping may run at once (AWS: MaximumConcurrency); has that
        changed it?"""
        pool = self._mappings.get(mapping)
        if pool is None:
            if maximum is not None:
                self._mappings[mapping] = self._pool(f"mapping:{mapping}", maximum)
            return maximum is not None
        if pool.limit == maximum:
            return False
        pool.limit = maximum if maximum is not None else 1 << 31  # for those who wait here
        if maximum is None:
            del self._mappings[mapping], self._pools[pool.name]
        self._look(pool)
        return True

    def renew(self, valid_until: float, now: float) -> None:
        """What the store grants is valid until then; what it granted before, no longer if its time has passed."""
        self._lapses += now >= self._valid_until
        self._valid_until = valid_until

    def set_block(self, resource: str, amount: int) -> None:
        """How much of a limit the store grants to this engine; below what runs, nothing starts before enough ended."""
        self._blocks[resource] = amount
        if (pool := self._pools.get(resource)) is not None:
            pool.block = amount
            self._look(pool)

    def limits(self) -> dict[str, int]:
        """Every limit that there is, by the names of `set_block`."""
        return {name: pool.limit for name, pool in self._pools.items()}

    def demands(self) -> dict[str, Demand]:
        """What this engine wants of each limit that it uses, waits for, or holds a part of; refusals count since the
        last call. Who waits wants all that it needs, or engines would take turns in holding half of it."""
        waiting: dict[Pool, int] = {}
        for pool in self._pools.values():
            for waiter in pool.waiting:
                function, mapping = waiter.key
                for needed in (self._functions[function].pool, self._mappings.get(mapping or "")):
                    if needed is not None:
                        waiting[needed] = waiting.get(needed, 0) + 1
        found = {}
        for pool in self._pools.values():
            wanted = min(pool.limit, pool.in_use + max(waiting.get(pool, 0), pool.refused))
            pool.refused = 0
            if wanted or pool.in_use or pool.block:
                found[pool.name] = Demand(pool.limit, pool.in_use, wanted)
        return found

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, function: str, mapping: str | None, callback: Callable[[], None], now: float) -> Waiter | float:
        """Wait for whatever is full; or until when to wait, if the function only scales too fast. Who was called and
        got nothing waits at the front again."""
        state = self._functions.get(function) or self._known(function, now)
        pool = state.pool
        limit = None if mapping is None else self._mappings.get(mapping)
        if limit is not None and limit.in_use >= limit.capacity and pool.in_use < pool.capacity:
            pool = limit
        if pool.in_use < pool.capacity and state.in_use >= state.environments and state.fill(now) < 1:
            return now + (1 - state.tokens) / SCALING_PER_SECOND
        waiter = Waiter(callback, (function, mapping))
        self._enqueue(waiter, pool)
        if waiter.key in self._served:
            pool.waiting.move_to_end(waiter, last=False)
        self._look(pool)
        return waiter

    def wake(self) -> list[Callable[[], None]]:
        """Those who are next, as many as there is room for. What they do not take goes to the next ones: ask again
        after they had their turn, while `free` holds anything."""
        woken: dict[Waiter, None] = {}
        for pool in list(self.free):
            for _ in range(min(pool.capacity - pool.in_use, len(pool.waiting))):
                waiter, _ = pool.waiting.popitem(last=False)
                waiter.pool = None
                woken[waiter] = None
                self._served[waiter.key] = None
            if not pool.waiting or pool.in_use >= pool.capacity:
                del self.free[pool]
        return [waiter.callback for waiter in woken]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _refuse(self, pool: Pool) -> Throttled:
        pool.refused += 1
        if pool is self._account:
            return UNRESERVED
        return RESERVED if pool.limit else RESERVED_ZERO

    def _known(self, function: str, now: float) -> _Scaling:
        state = self._functions[function] = _Scaling(self._account, now)
        return state

    def _pool(self, name: str, limit: int) -> Pool:
        pool = self._pools[name] = Pool(name, limit, self._blocks.get(name, self._first_block))
        return pool

    def _enqueue(self, waiter: Waiter, pool: Pool) -> None:
        waiter.pool = pool
        pool.waiting[waiter] = None

    def _look(self, pool: Pool) -> None:
        if pool.waiting and pool.in_use < pool.capacity:
            self.free[pool] = None
