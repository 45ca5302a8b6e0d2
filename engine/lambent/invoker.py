"""The one way to a handler: admitted, run under its deadline, counted; what came of it is an Outcome.

Decides nothing about meaning: whether an invocation may start is `semantics/concurrency.py`, how its time limit is kept
and what counts as an error of the function is the runtime's, what follows from an Outcome is the caller's. Takes care
that a permit is given back whatever happens, and that those who wait for one get their turn, longest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from typing import Final, Generic, TypeVar

from lambent.errors import ResourceNotFound
from lambent.model import Failed, Function, Invocation, Outcome, Succeeded, Throttled, Unavailable
from lambent.payload import decode_answer
from lambent.ports import Call, Respond, Runtime, World
from lambent.semantics.concurrency import Concurrency, Permit, Waiter
from lambent.semantics.routing import resolve
from lambent.telemetry import CONCURRENT_EXECUTIONS, DURATION, ERRORS, INVOCATIONS, THROTTLES, UNAVAILABLE, Telemetry

_LAPSED: Final = Unavailable("the permit ran out")
Whom = TypeVar("Whom")


def value_of(outcome: Succeeded) -> object:
    """What the handler returned: decoded anew, or the object itself where the function asked for it by reference."""
    return outcome.payload if outcome.by_reference else decode_answer(outcome.payload)  # type: ignore[arg-type]


class Invoker:
    """Runs invocations of the functions in `functions`, which may grow."""

    def __init__(
        self,
        *,
        functions: Mapping[str, Function],
        runtime: Runtime,
        concurrency: Concurrency,
        telemetry: Telemetry,
        world: World,
    ) -> None:
        self._functions = functions
        self._runtime = runtime
        self._concurrency = concurrency
        self._telemetry = telemetry
        self._monotonic = world.clock.monotonic
        self._random = world.random
        self._invocations = telemetry.counter(INVOCATIONS)
        self._durations: dict[str, Callable[[float], None]] = {}
        self._pumping = False
        self.context = copy_context()  # the engine's: a waiter is not called in the name of a handler
        telemetry.gauge(CONCURRENT_EXECUTIONS, concurrency.running)

    # --- running -----------------------------------------------------------------------------------------------------

    async def invoke(self, invocation: Invocation, mapping: str | None = None) -> Outcome:
        """Admit, then run."""
        permit = self.admit(invocation.function, mapping)
        return permit if isinstance(permit, Throttled) else await self.run(invocation, permit)

    async def run(self, invocation: Invocation, permit: Permit) -> Outcome:
        """Run it. Never raises for what the handler did; gives the permit back in any case, also when cancelled."""
        if self._concurrency.lapsed(permit, self._monotonic()):  # others may have it by now
            self.release(permit)
            return _LAPSED
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if invocation.qualifier is not None and (missing := self._route(invocation)) is not None:
            self.release(permit)
            return missing
        call = self._runtime.start(invocation, partial(tell, future), _nothing, _ignore)
        try:
            outcome = await future
        except asyncio.CancelledError:
            call.abandon()
            raise
        finally:
            self.release(permit)
        self.count(invocation, outcome)
        return outcome

    def start(
        self,
        invocation: Invocation,
        permit: Permit,
        ended: Callable[[Whom, Outcome], None],
        whom: Whom,
        respond: Respond | None = None,
    ) -> Running[Whom]:
        """As `run`, without waiting: `ended(whom, outcome)` is called, perhaps before this returns; never once it was
        abandoned. `respond` gets a streamed answer's chunks."""
        running = Running(self, invocation, permit, ended, whom)
        if self._concurrency.lapsed(permit, self._monotonic()):  # others may have it by now
            running(_LAPSED)
        elif invocation.qualifier is not None and (missing := self._route(invocation)) is not None:
            running(missing)
        else:
            running.call = self._runtime.start(invocation, running, _nothing, respond or _ignore)
        return running

    def _route(self, invocation: Invocation) -> Failed | None:
        """Find the version that is meant; what comes of the call if there is none any more."""
        version = resolve(self._functions[invocation.function], invocation.qualifier, self._random())
        if version is None:
            named = f"{invocation.function}:{invocation.qualifier}"
            words = f"Function not found: {named} (its version or alias was deleted)"
            return Failed({"errorType": "ResourceNotFoundException", "errorMessage": words})
        invocation.version = version
        return None

    def count(self, invocation: Invocation, outcome: Outcome) -> None:
        """Count and show what became of it."""
        name = invocation.function
        kind = type(outcome)
        if kind is Succeeded or kind is Failed:
            outcome.executed_version = invocation.version  # type: ignore[union-attr]
            self._invocations[name] += 1
            duration = self._durations.get(name)
            if duration is None:
                duration = self._durations[name] = self._telemetry.summary(DURATION, name).add
            duration(outcome.run_seconds)  # type: ignore[union-attr]
        if kind is not Succeeded:
            self._telemetry.count(ERRORS if kind is Failed else UNAVAILABLE, name)
        if self._telemetry.watched:
            self._telemetry.step("invoker", invocation, outcome)

    # --- permits -----------------------------------------------------------------------------------------------------

    def admit(self, function: str, mapping: str | None = None) -> Permit | Throttled:
        """Take a permit, or say why not. A permit is used once, by `run`, or given back by `release`.

        Raises ResourceNotFound for a function that is not here."""
        if function not in self._functions:
            raise ResourceNotFound(f"Function not found: {function}")
        permit = self._concurrency.admit(function, mapping, self._monotonic())
        if type(permit) is Throttled:
            self._telemetry.count(THROTTLES, function)
        return permit

    def release(self, permit: Permit) -> None:
        """Give back a permit that was not used."""
        self._concurrency.release(permit)
        if self._concurrency.free:
            self._pump()

    def room(self, function: str, mapping: str | None = None) -> int:
        """How many invocations would be admitted now; takes nothing."""
        return self._concurrency.room(function, mapping, self._monotonic())

    def when_free(self, function: str, mapping: str | None, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once, soon after there may be room; gives what cancels that.

        First come, first called. It should take a permit in that call, or in a task which it wakes, else the next one
        is called; whoever finds the room gone again and waits again is then the first."""
        now = self._monotonic()
        waiting = self._concurrency.wait(function, mapping, callback, now)
        if not isinstance(waiting, Waiter):
            return asyncio.get_running_loop().call_later(waiting - now, callback).cancel
        if self._concurrency.free:
            self._pump()
        return waiting.cancel

    def wake(self) -> None:
        """Look for those who can start after limits or blocks were changed in `Concurrency`."""
        if self._concurrency.free:
            self._pump()

    def _pump(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._wake, context=self.context)

    def _wake(self) -> None:
        """Call as many as there is room for; when they had time to take it, see what is left for the next ones."""
        try:
            for callback in self._concurrency.wake():
                callback()
        finally:
            loop = asyncio.get_running_loop()
            if self._concurrency.free:
                loop.call_soon(loop.call_soon, self._wake, context=self.context)
            else:
                self._pumping = False


class Running(Generic[Whom]):
    """An invocation that runs with a permit, for somebody who is told."""

    __slots__ = ("_ended", "_invocation", "_invoker", "_permit", "_whom", "call", "outcome")

    def __init__(
        self,
        invoker: Invoker,
        invocation: Invocation,
        permit: Permit,
        ended: Callable[[Whom, Outcome], None],
        whom: Whom,
    ) -> None:
        self._invoker = invoker
        self._invocation = invocation
        self._permit: Permit | None = permit
        self._ended = ended
        self._whom = whom
        self.call: Call | None = None
        self.outcome: Outcome | None = None
        """Once it has ended, unless it was abandoned before."""

    def __call__(self, outcome: Outcome) -> None:
        """It ended, in the handler's variables; what follows happens in the engine's."""
        self._invoker.context.run(self._end, outcome)

    def abandon(self) -> None:
        """Give the permit back, and tell nobody."""
        if self._permit is not None:
            self._invoker.release(self._permit)
            self._permit = None
            if self.call is not None:
                self.call.abandon()

    def _end(self, outcome: Outcome) -> None:
        if self._permit is not None:
            self._invoker.release(self._permit)
            self._permit = None
            self.outcome = outcome
            self._invoker.count(self._invocation, outcome)
            self._ended(self._whom, outcome)


def tell(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    """Whoever waits for it."""
    if not future.done():  # else it was cancelled just now
        future.set_result(outcome)


def _nothing() -> None:
    """The deadline began."""


def _ignore(chunk: bytes) -> None:
    """Whoever did not ask for a streamed answer gets the whole."""
