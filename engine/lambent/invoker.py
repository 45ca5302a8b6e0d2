"""The one way to a handler: admitted, run under its deadline, counted; what came of it is an Outcome.

Decides nothing about meaning: whether an invocation may start is `semantics/concurrency.py`, how its time limit is kept
and what counts as an error of the function is the runtime's, what follows from an Outcome is the caller's. Takes care
that a permit is given back whatever happens, and that those who wait for one get their turn, longest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import copy_context

from lambent.errors import ResourceNotFound
from lambent.model import Failed, Function, Invocation, Outcome, Succeeded, Throttled, Unavailable
from lambent.payload import decode_payload
from lambent.ports import Runtime, World
from lambent.semantics.concurrency import Concurrency, Permit, Waiter
from lambent.telemetry import CONCURRENT_EXECUTIONS, DURATION, ERRORS, INVOCATIONS, THROTTLES, UNAVAILABLE, Telemetry


def value_of(outcome: Succeeded) -> object:
    """What the handler returned: decoded anew, or the object itself where the function asked for it by reference."""
    return outcome.payload if outcome.by_reference else decode_payload(outcome.payload)  # type: ignore[arg-type]


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
        self._invocations = telemetry.counter(INVOCATIONS)
        self._durations: dict[str, Callable[[float], None]] = {}
        self._pumping = False
        self._context = copy_context()  # the engine's: a waiter is not called in the name of a handler
        telemetry.gauge(CONCURRENT_EXECUTIONS, concurrency.running)

    # --- running -----------------------------------------------------------------------------------------------------

    async def invoke(self, invocation: Invocation, mapping: str | None = None) -> Outcome:
        """Admit, then run."""
        permit = self.admit(invocation.function, mapping)
        if type(permit) is Throttled:
            return permit
        return await self.run(invocation, permit)  # type: ignore[arg-type]  # not seen by `type(...) is`

    async def run(self, invocation: Invocation, permit: Permit) -> Outcome:
        """Run it. Never raises for what the handler did; gives the permit back in any case, also when cancelled."""
        if self._concurrency.lapsed(permit, self._monotonic()):
            self.release(permit)
            return Unavailable("the permit ran out")
        try:
            outcome = await self._runtime.run(invocation, _nothing, _ignore)
        finally:
            self._concurrency.release(permit)
            if self._concurrency.free:
                self._pump()
        name = invocation.function
        kind = type(outcome)
        if kind is Succeeded or kind is Failed:
            self._invocations[name] += 1
            duration = self._durations.get(name)
            if duration is None:
                duration = self._durations[name] = self._telemetry.summary(DURATION, name).add
            duration(outcome.run_seconds)  # type: ignore[union-attr]
        if kind is not Succeeded:
            self._telemetry.count(ERRORS if kind is Failed else UNAVAILABLE, name)
        if self._telemetry.watched:
            self._telemetry.step("invoker", invocation, outcome)
        return outcome

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
            asyncio.get_running_loop().call_soon(self._wake, context=self._context)

    def _wake(self) -> None:
        """Call as many as there is room for; when they had time to take it, see what is left for the next ones."""
        try:
            for callback in self._concurrency.wake():
                callback()
        finally:
            loop = asyncio.get_running_loop()
            if self._concurrency.free:
                loop.call_soon(loop.call_soon, self._wake, context=self._context)
            else:
                self._pumping = False


def _nothing() -> None:
    """The deadline began."""


def _ignore(chunk: bytes) -> None:
    """Streamed answers are not for callers of `Invoker`."""
