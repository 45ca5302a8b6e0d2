"""Runs handlers in this process: coroutines in a task of their own, plain functions on daemon threads.

Decides how a time limit is kept where nothing can be killed. A coroutine that passed its deadline is cancelled and left
to itself: if it swallows that, it is held and counted until it ends (`abandoned`). A thread that passed it runs on, is
counted (`overruns`) and replaced, within limits. Either way the caller has its answer in time. Isolation is that of the
boundary: a fresh event for each attempt, but one interpreter for all; `os._exit`, a crash of the interpreter or a
coroutine that blocks the loop need another runtime.

All calls with the same time limit end in the order in which they began, so there is one timer a time limit, and a
call costs an entry in a dictionary.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context as Variables
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Final

from pydantic import type_adapter

from lambent.arns import function_arn
from lambent.context import CURRENT, Surroundings
from lambent.model import LATEST, Failed, Function, Invocation, Outcome, Succeeded, Unavailable
from lambent.ports import World
from lambent.runtimes import error_documents, handlers
from lambent.runtimes.handlers import Handler
from lambent.runtimes.tails import Tails
from lambent.runtimes.threads import DaemonThreads, Executor, Slots

MAXIMUM_CLOSING_ROUNDS: Final = 3
"""Times that `close` cancels a handler which swallows it."""
CLOSING_ROUND_SECONDS: Final = 1.0
"""What a cancelled handler gets each time to clean up behind it."""

_ITS_OWN: Final = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
_NOTHING: Final = contextlib.nullcontext()
_OURS: Final = frozenset({__file__, handlers.__file__, type_adapter.__file__})
_STOPPED: Final = Unavailable("the engine was stopped while the call ran")
_TOO_LATE: Final = Unavailable("it could not be started in time: what it was for may be with others")
_Result = asyncio.Future[Succeeded | Failed | Unavailable | None]  # None: the deadline passed


class InProcess:
    """A Runtime for handlers of this process. Its methods are called in the loop's thread.

    threads: plain functions that run at once; the next ones wait for their turn, and their deadline with them.
    maximum_overruns: threads beyond their deadline that are replaced; above it, calls without a thread are Unavailable.
    executor: what runs plain functions instead of daemon threads (a simulation runs them inline)."""

    def __init__(
        self, *, world: World, threads: int = 64, maximum_overruns: int = 64, executor: Executor | None = None
    ) -> None:
        self._world = world
        self._monotonic = world.clock.monotonic
        self._handlers: dict[str, tuple[Handler, _Line]] = {}
        self._lines: dict[float, _Line] = {}
        self._abandoned: dict[asyncio.Task[None], str] = {}
        self._overruns: Counter[str] = Counter()
        self._slots = Slots(threads, maximum_overruns)
        self._threads = DaemonThreads(threads + maximum_overruns)
        self._executor = executor or self._threads
        self._tails = Tails()
        self._init_seconds: dict[str, float] = {}  # of functions that were not called yet

    def register(self, function: Function, handler: Callable[..., object]) -> None:
        """Make `handler` the function's, in place of any former one; what runs already finishes on that.

        Raises InvalidParameterValue if it cannot be called with (event, context) or (event), or if its annotation
        is a list of something that cannot be validated."""
        began = self._monotonic()
        now = datetime.fromtimestamp(self._world.clock.now(), UTC)
        surroundings = Surroundings(
            function.name,
            function.memory_size_mb,
            function_arn(self._world.region, self._world.account_id, function.name),
            f"{now:%Y/%m/%d}/[{LATEST}]{self._world.new_id().replace('-', '')}",
            self._monotonic,
        )
        seconds = function.timeout_seconds
        line = self._lines.setdefault(seconds, _Line(self._monotonic))
        self._handlers[function.name] = Handler(function, handler, surroundings), line
        self._init_seconds[function.name] = self._monotonic() - began

    def abandoned(self) -> Mapping[str, int]:
        """Coroutine handlers, by function, that were given up and have not ended."""
        return Counter(self._abandoned.values())

    def overruns(self) -> Mapping[str, int]:
        """Threads, by function, whose call was given up and has not ended."""
        return +self._overruns

    async def run(
        self, invocation: Invocation, started: Callable[[], None], respond: Callable[[bytes], None]
    ) -> Outcome:
        """Run it once; see `ports.Runtime`. A plain function's deadline begins when it gets a thread."""
        found = self._handlers.get(invocation.function)
        if found is None:
            return Unavailable(f"no handler is registered for function {invocation.function!r}")
        handler, line = found
        init_seconds = self._init_seconds.pop(invocation.function, None) if self._init_seconds else None
        if invocation.tail:
            return await self._run_with_tail(handler, line, invocation, started, init_seconds)
        if handler.is_plain:
            return await self._run_plain(handler, line, invocation, started)
        return await self._run_coroutine(handler, line, invocation, started)

    async def close(self) -> None:
        """Give up what runs, cancel what was given up, let idle threads end. A handler that will not end is left to the
        process's end."""
        for line in self._lines.values():
            line.close()
        self._slots.close()
        for _ in range(MAXIMUM_CLOSING_ROUNDS):
            await asyncio.sleep(0)  # who waits for a call gives it up
            for task in self._abandoned:
                task.cancel()
            if self._abandoned:
                await asyncio.wait(list(self._abandoned), timeout=CLOSING_ROUND_SECONDS)
        for task in self._abandoned:
            asyncio.tasks._unregister_task(task)  # or asyncio.run would wait for it for ever
        self._threads.close()

    # --- coroutines --------------------------------------------------------------------------------------------------

    async def _run_coroutine(
        self, handler: Handler, line: _Line, invocation: Invocation, started: Callable[[], None]
    ) -> Outcome:
        loop = asyncio.get_running_loop()
        began = self._monotonic()
        if began >= invocation.start_before:
            return _TOO_LATE
        seconds = handler.function.timeout_seconds
        result: _Result = loop.create_future()
        task = loop.create_task(_attempt(handler, invocation, began + seconds, result), name=invocation.function)
        line.add(result, began + seconds)
        started()
        try:
            outcome = await result
        except asyncio.CancelledError:
            self._abandon(task, invocation.function)
            raise
        finally:
            del line.calls[result]
        if isinstance(outcome, Unavailable):
            self._abandon(task, invocation.function)
            return outcome
        if outcome is None:
            self._abandon(task, invocation.function)
            outcome = error_documents.timed_out(invocation.request_id, seconds)
        outcome.run_seconds = self._monotonic() - began
        return outcome

    def _abandon(self, task: asyncio.Task[None], function: str) -> None:
        if not task.done():
            self._abandoned[task] = function
            task.add_done_callback(self._abandoned.pop)
            task.cancel()

    # --- plain functions ---------------------------------------------------------------------------------------------

    async def _run_plain(
        self, handler: Handler, line: _Line, invocation: Invocation, started: Callable[[], None]
    ) -> Outcome:
        if not self._slots.take() and not await self._slots.turn():
            return Unavailable("threads exhausted: too many plain functions run beyond their deadline")
        began = self._monotonic()
        if began >= invocation.start_before:
            self._slots.end(overrun=False)
            return _TOO_LATE
        seconds = handler.function.timeout_seconds
        call = _PlainCall(handler, invocation, began + seconds, self._slots, self._overruns)
        line.add(call.result, began + seconds)
        started()
        try:
            self._executor(partial(call, copy_context()))
            with self._outside(call):
                outcome = await call.result
        except asyncio.CancelledError:
            call.give_up()
            raise
        except RuntimeError as error:  # the system has no thread left
            self._slots.end(overrun=False)
            return Unavailable(f"no thread could be started: {error}")
        finally:
            del line.calls[call.result]
        if isinstance(outcome, Unavailable):
            call.give_up()
            return outcome
        if outcome is None:
            call.give_up()
            outcome = error_documents.timed_out(invocation.request_id, seconds)
        outcome.run_seconds = self._monotonic() - began
        return outcome

    def _outside(self, call: _PlainCall) -> contextlib.AbstractContextManager[None]:
        """A loop on virtual time stands still while a real thread works for it."""
        if self._executor is not self._threads or call.result.done():
            return _NOTHING
        outside_work = getattr(asyncio.get_running_loop(), "outside_work", None)
        return _NOTHING if outside_work is None else outside_work()

    # --- tails -------------------------------------------------------------------------------------------------------

    async def _run_with_tail(
        self,
        handler: Handler,
        line: _Line,
        invocation: Invocation,
        started: Callable[[], None],
        init_seconds: float | None,
    ) -> Outcome:
        run = self._run_plain if handler.is_plain else self._run_coroutine
        outcome: Outcome | None = None
        self._tails.open(invocation)
        try:
            outcome = await run(handler, line, invocation, started)
        finally:
            self._tails.close_tail(invocation, handler.function, outcome, init_seconds)
        return outcome


class _Line:
    """The calls with one time limit, in the order of their deadlines, and the one timer for the first."""

    __slots__ = ("_monotonic", "_timer", "calls")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._timer: asyncio.TimerHandle | None = None
        self.calls: dict[_Result, float] = {}

    def add(self, result: _Result, deadline: float) -> None:
        self.calls[result] = deadline
        if self._timer is None:
            self._arm(deadline)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for result in self.calls:
            if not result.done():
                result.set_result(_STOPPED)

    def _arm(self, deadline: float) -> None:
        # in variables of nobody: the timer serves all calls, not the one which happened to set it
        self._timer = asyncio.get_running_loop().call_later(
            deadline - self._monotonic(), self._strike, context=Variables()
        )

    def _strike(self) -> None:
        self._timer = None
        now = self._monotonic() + 1e-6  # a timer may be early by the clock's resolution
        for result, deadline in list(self.calls.items()):
            if deadline > now:
                return self._arm(deadline)
            if not result.done():
                result.set_result(None)
        return None


async def _attempt(handler: Handler, invocation: Invocation, deadline: float, result: _Result) -> None:
    """One call of a coroutine; in a task of its own, and in its variables."""
    CURRENT.set(invocation)
    outcome: Succeeded | Failed
    try:
        arguments, withheld = handler.arguments(invocation, deadline)
        value = None if arguments is None else await handler.call(*arguments)
        outcome = handler.outcome(invocation, value, withheld)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - what it did is a value
        outcome = error_documents.raised(error, invocation.request_id, _OURS)
    except BaseException as error:
        # a cancellation, its own or by somebody who ends the loop: the task has to end as such
        if result.get_loop().is_closed():  # an abandoned one, collected after everything
            raise
        if not result.done():
            result.set_result(error_documents.raised(error, invocation.request_id, _OURS))
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(_retrieve)
        raise
    if not result.done():
        result.set_result(outcome)


def _retrieve(task: asyncio.Task[None]) -> None:
    """What it raised was told already."""
    if not task.cancelled():
        task.exception()


class _PlainCall:
    """One call of a plain function: made and ended in the loop's thread, run in another."""

    __slots__ = (
        "_deadline",
        "_ended",
        "_given_up",
        "_handler",
        "_invocation",
        "_loop",
        "_overruns",
        "_slots",
        "_thread",
        "result",
    )

    def __init__(
        self, handler: Handler, invocation: Invocation, deadline: float, slots: Slots, overruns: Counter[str]
    ) -> None:
        self._handler = handler
        self._invocation = invocation
        self._deadline = deadline
        self._slots = slots
        self._overruns = overruns
        self._ended = False
        self._given_up = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.result: _Result = self._loop.create_future()

    def __call__(self, variables: Variables) -> None:
        """Call the handler; answers in the loop's thread."""
        try:
            outcome: Succeeded | Failed = variables.run(self._attempt)
        except _ITS_OWN as error:
            outcome = error_documents.raised(error, self._invocation.request_id, _OURS)
        except BaseException as error:  # of a kind which somebody around us may know
            self._answer(error_documents.raised(error, self._invocation.request_id, _OURS))
            raise
        self._answer(outcome)

    def give_up(self) -> None:
        """Nobody waits for it any longer; it runs on."""
        if not self._ended:
            self._given_up = True
            self._overruns[self._invocation.function] += 1
            self._slots.overrun()

    def _attempt(self) -> Succeeded | Failed:
        CURRENT.set(self._invocation)
        handler = self._handler
        arguments, withheld = handler.arguments(self._invocation, self._deadline)
        value = None if arguments is None else handler.call(*arguments)
        return handler.outcome(self._invocation, value, withheld)

    def _answer(self, outcome: Succeeded | Failed) -> None:
        if threading.get_ident() == self._thread:
            self._end(outcome)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
                self._loop.call_soon_threadsafe(self._end, outcome)

    def _end(self, outcome: Succeeded | Failed) -> None:
        if self._given_up:
            self._overruns[self._invocation.function] -= 1
        self._slots.end(overrun=self._given_up)
        self._ended = True
        if not self.result.done():
            self.result.set_result(outcome)
