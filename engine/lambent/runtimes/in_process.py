"""Runs handlers in this process: coroutines and async generators in a task of their own, plain functions on threads.

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
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from pydantic import type_adapter

from lambent.arns import function_arn
from lambent.context import CURRENT, Surroundings
from lambent.logs import Logs, LogStream
from lambent.model import LATEST, Failed, Function, Invocation, Outcome, Succeeded, Unavailable
from lambent.ports import Call, Respond, World
from lambent.runtimes import error_documents, handlers
from lambent.runtimes.handlers import Handler, encode_piece
from lambent.runtimes.streamed import StreamedAnswer
from lambent.runtimes.tails import Tails
from lambent.runtimes.threads import DaemonThreads, Executor, Slots

MAXIMUM_CLOSING_ROUNDS: Final = 3
"""Times that `close` cancels a handler which swallows it."""
CLOSING_ROUND_SECONDS: Final = 1.0
"""What a cancelled handler gets each time to clean up behind it."""

_ITS_OWN: Final = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
_OURS: Final = frozenset({__file__, handlers.__file__, type_adapter.__file__})
_STOPPED: Final = Unavailable("the engine was stopped while the call ran")
_TOO_LATE: Final = Unavailable("it could not be started in time: what it was for may be with others")
_EXHAUSTED: Final = Unavailable("threads exhausted: too many plain functions run beyond their deadline")


class InProcess:
    """A Runtime for handlers of this process. Its methods are called in the loop's thread.

    threads: plain functions that run at once; the next ones wait for their turn, and their deadline with them.
    maximum_overruns: threads beyond their deadline that are replaced; above it, calls without a thread are Unavailable.
    executor: what runs plain functions instead of daemon threads (a simulation runs them inline).
    logs: where what handlers print and log is kept, of all calls; None: only tails are collected."""

    def __init__(
        self,
        *,
        world: World,
        threads: int = 64,
        maximum_overruns: int = 64,
        executor: Executor | None = None,
        logs: Logs | None = None,
    ) -> None:
        self._world = world
        self._loop = asyncio.get_running_loop()  # asking for it at each call would be felt
        self._monotonic = world.clock.monotonic
        self._handlers: dict[str, tuple[Handler, _Line, LogStream]] = {}
        self._lines: dict[float, _Line] = {}
        self._variables = copy_context()
        self._abandoned: dict[asyncio.Task[None], str] = {}
        self._threads = DaemonThreads(threads + maximum_overruns)
        self._plain = _Plain(Slots(threads, maximum_overruns), executor or self._threads, in_threads=executor is None)
        self._tails = Tails()
        self._listening = logs is not None
        self._logs = logs or Logs(world.clock.now)
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
        line = self._lines.setdefault(seconds, _Line(self._loop, self._monotonic, self._variables))
        stream = self._logs.open(function, surroundings.log_stream_name)
        self._handlers[function.name] = Handler(function, handler, surroundings), line, stream
        self._init_seconds[function.name] = self._monotonic() - began

    def abandoned(self) -> Mapping[str, int]:
        """Coroutine handlers, by function, that were given up and have not ended."""
        return Counter(list(self._abandoned.values()))

    def overruns(self) -> Mapping[str, int]:
        """Threads, by function, whose call was given up and has not ended."""
        return +self._plain.overruns.copy()

    def start(
        self,
        invocation: Invocation,
        ended: Callable[[Outcome], None],
        started: Callable[[], None],
        respond: Respond,
    ) -> Call:
        """Run it once; see `ports.Runtime`. A plain function's deadline begins when it gets a thread."""
        found = self._handlers.get(invocation.function)
        if found is None:
            ended(Unavailable(f"no handler is registered for function {invocation.function!r}"))
            return _Nothing()
        handler, line, stream = found
        call: _CoroutineCall | _PlainCall
        init_seconds = self._init_seconds.pop(invocation.function, None) if self._init_seconds else None
        if handler.is_plain:
            call = _PlainCall(handler, line, invocation, ended, self._plain)
        else:
            call = _CoroutineCall(handler, line, invocation, ended, self._abandoned)
            if handler.streams:
                call.streamed = StreamedAnswer(invocation, respond)
        if invocation.tail or self._listening:
            self._tails.open(invocation, stream)
            call.tail = partial(self._tails.close_tail, invocation, init_seconds)
        call.begin(started)
        return call

    async def close(self) -> None:
        """Give up what runs, cancel what was given up, let idle threads end. A handler that will not end is left to the
        process's end."""
        for line in self._lines.values():
            line.close()
        self._plain.slots.close()
        for _ in range(MAXIMUM_CLOSING_ROUNDS):
            await asyncio.sleep(0)  # what was given up just now ends at its next step, or says that it won't
            for task in self._abandoned:
                task.cancel()
            if self._abandoned:
                await asyncio.wait(list(self._abandoned), timeout=CLOSING_ROUND_SECONDS)
        for task in self._abandoned:
            asyncio.tasks._unregister_task(task)  # or asyncio.run would wait for it for ever
        self._threads.close()


class _Line:
    """The calls with one time limit, in the order of their deadlines, and the one timer for the first."""

    __slots__ = ("_timer", "_variables", "calls", "loop", "monotonic")

    def __init__(self, loop: asyncio.AbstractEventLoop, monotonic: Callable[[], float], variables: Variables) -> None:
        self.loop = loop
        self.monotonic = monotonic
        self._variables = variables
        self._timer: asyncio.TimerHandle | None = None
        self.calls: dict[_Call, float] = {}

    def add(self, call: _Call, deadline: float) -> None:
        self.calls[call] = deadline
        if self._timer is None:
            self._arm(deadline)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in list(self.calls):
            call.answer(_STOPPED)
            call.give_up()

    def _arm(self, deadline: float) -> None:
        # in the runtime's variables: the timer serves all calls, not the one which happened to set it
        self._timer = self.loop.call_later(deadline - self.monotonic(), self._strike, context=self._variables)

    def _strike(self) -> None:
        self._timer = None
        now = self.monotonic() + 1e-6  # a timer may be early by the clock's resolution
        for call, deadline in list(self.calls.items()):
            if deadline > now:
                return self._arm(deadline)
            call.time_out()
        return None


class _Nothing:
    """What there is no handler for."""

    def abandon(self) -> None: ...


class _Call:
    """One call. What becomes of it is said by whoever is first: the handler, its deadline, or the stop."""

    __slots__ = ("_began", "_ended", "_handler", "_invocation", "_line", "_shared", "tail")

    def __init__(  # the only one: a chain of them would be felt
        self, handler: Handler, line: _Line, invocation: Invocation, ended: Callable[[Outcome], None], shared: Any
    ) -> None:
        self._handler = handler
        self._line = line
        self._invocation = invocation
        self._ended: Callable[[Outcome], None] | None = ended
        self._shared = shared  # with all calls of this kind
        self.tail: Callable[[Outcome | None], None] | None = None

    def answer(self, outcome: Succeeded | Failed | Unavailable) -> None:
        if (ended := self._ended) is not None:
            if type(outcome) is not Unavailable:
                outcome.run_seconds = self._line.monotonic() - self._began  # type: ignore[union-attr]
            self._leave(outcome)
            ended(outcome)

    def time_out(self) -> None:
        seconds = self._handler.function.timeout_seconds
        self.answer(error_documents.timed_out(self._invocation.request_id, seconds))
        self.give_up()

    def abandon(self) -> None:
        if self._ended is not None:
            self._leave(None)
        self.give_up()

    def give_up(self) -> None:
        """Cancel it, or let it run on."""
        raise NotImplementedError

    def _in_time(self, started: Callable[[], None]) -> bool:
        """The deadline begins; False: it is too late for this call."""
        self._began = began = self._line.monotonic()
        if began >= self._invocation.start_before:
            self.answer(_TOO_LATE)
            return False
        self._line.add(self, began + self._handler.function.timeout_seconds)
        started()
        return True

    def _leave(self, outcome: Outcome | None) -> None:
        self._ended = None
        self._line.calls.pop(self, None)
        if self.tail is not None:
            self.tail(outcome)


# --------------------------------------------------------------------------- coroutines


class _CoroutineCall(_Call):
    """In a task of its own."""

    __slots__ = ("_task", "streamed")

    _shared: dict[asyncio.Task[None], str]  # that were given up
    streamed: StreamedAnswer  # of a handler that streams

    def begin(self, started: Callable[[], None]) -> None:
        self._task: asyncio.Task[None] | None = None
        if self._in_time(started):
            self._task = self._line.loop.create_task(self._run(), name=self._invocation.function)

    def give_up(self) -> None:
        task = self._task
        if task is not None and not task.done() and task not in self._shared:
            self._shared[task] = self._invocation.function
            task.add_done_callback(self._shared.pop)
            task.cancel()

    async def _run(self) -> None:
        CURRENT.set(self._invocation)
        handler, invocation = self._handler, self._invocation
        outcome: Succeeded | Failed
        try:
            deadline = self._began + handler.function.timeout_seconds
            arguments, withheld = handler.arguments(invocation, deadline)
            if handler.streams:
                outcome = await self._stream(arguments, withheld)
            else:
                value = None if arguments is None else await handler.call(*arguments)
                outcome = handler.outcome(invocation, value, withheld)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - what it did is a value
            outcome = error_documents.raised(error, invocation.request_id, _OURS)
        except BaseException as error:
            # a cancellation, its own or by somebody who ends the loop: the task has to end as such
            task = self._task
            if self._line.loop.is_closed():  # an abandoned one, collected after everything
                raise
            self.answer(error_documents.raised(error, invocation.request_id, _OURS))
            if task is not None:
                task.add_done_callback(_retrieve)
            raise
        self.answer(outcome)

    async def _stream(self, arguments: tuple[object, ...] | None, withheld: Sequence[str]) -> Succeeded | Failed:
        """Take what it yields, no faster than it is read, until it is too much or nobody waits any more."""
        handler, answer = self._handler, self.streamed
        if arguments is None:
            return handler.outcome(self._invocation, None, withheld)
        async with contextlib.aclosing(handler.call(*arguments)) as pieces:
            async for piece in pieces:
                if self._ended is None:
                    break
                if type(piece) is not bytes:
                    try:
                        piece = encode_piece(piece)
                    except ValueError as error:
                        return error_documents.not_json(str(error), self._invocation.request_id)
                room = answer.take(piece)
                if answer.too_large:
                    break
                if room is not None:
                    await room
        return handler.streamed(self._invocation, answer.outcome(), withheld)


def _retrieve(task: asyncio.Task[None]) -> None:
    """What it raised was told already."""
    if not task.cancelled():
        task.exception()


# --------------------------------------------------------------------------- plain functions


@dataclass(slots=True)
class _Plain:
    """What all calls of plain functions share."""

    slots: Slots
    executor: Executor
    in_threads: bool
    overruns: Counter[str] = field(default_factory=Counter)


class _PlainCall(_Call):
    """Begun and ended in the loop's thread, run in another."""

    __slots__ = ("_frozen", "_given_up", "_running", "_thread", "_turn")

    _shared: _Plain

    def begin(self, started: Callable[[], None]) -> None:
        self._thread = threading.get_ident()
        self._running = False
        self._given_up = False
        self._turn: asyncio.Task[None] | None = None
        self._frozen: contextlib.AbstractContextManager[None] | None = None
        if self._shared.slots.take():
            self._begin(started)
        else:
            self._turn = self._line.loop.create_task(self._in_turn(started), name=self._invocation.function)

    def give_up(self) -> None:
        if self._running and not self._given_up:
            self._given_up = True
            self._shared.overruns[self._invocation.function] += 1
            self._shared.slots.overrun()
        elif self._turn is not None:
            self._turn.cancel()

    async def _in_turn(self, started: Callable[[], None]) -> None:
        if await self._shared.slots.turn():
            self._begin(started)
        else:
            self.answer(_EXHAUSTED)

    def _begin(self, started: Callable[[], None]) -> None:
        """It has a thread."""
        if not self._in_time(started):
            return self._shared.slots.end(overrun=False)
        self._running = True
        self._freeze()
        try:
            self._shared.executor(partial(self._call, copy_context()))
        except RuntimeError as error:  # the system has no thread left
            self._end(Unavailable(f"no thread could be started: {error}"))
        return None

    def _call(self, variables: Variables) -> None:
        """Call the handler; answers in the loop's thread."""
        try:
            outcome: Succeeded | Failed = variables.run(self._attempt)
        except _ITS_OWN as error:
            outcome = error_documents.raised(error, self._invocation.request_id, _OURS)
        except BaseException as error:  # of a kind which somebody around us may know
            self._tell(error_documents.raised(error, self._invocation.request_id, _OURS))
            raise
        self._tell(outcome)

    def _attempt(self) -> Succeeded | Failed:
        CURRENT.set(self._invocation)
        handler = self._handler
        arguments, withheld = handler.arguments(self._invocation, self._began + handler.function.timeout_seconds)
        value = None if arguments is None else handler.call(*arguments)
        return handler.outcome(self._invocation, value, withheld)

    def _tell(self, outcome: Succeeded | Failed) -> None:
        if threading.get_ident() == self._thread:
            self._end(outcome)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
                self._line.loop.call_soon_threadsafe(self._end, outcome)

    def _end(self, outcome: Succeeded | Failed | Unavailable) -> None:
        self._running = False
        if self._given_up:
            self._shared.overruns[self._invocation.function] -= 1
        self._shared.slots.end(overrun=self._given_up)
        self.answer(outcome)

    # A loop on virtual time stands still while a real thread works for it.

    def _freeze(self) -> None:
        outside_work = getattr(self._line.loop, "outside_work", None)
        if outside_work is not None and self._shared.in_threads:
            self._frozen = outside_work()
            self._frozen.__enter__()

    def _leave(self, outcome: Outcome | None) -> None:
        super()._leave(outcome)
        if self._frozen is not None:
            self._frozen.__exit__(None, None, None)
            self._frozen = None
