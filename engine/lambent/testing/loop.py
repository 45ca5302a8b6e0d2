"""An asyncio loop whose clock moves by itself: a simulated day of sleeping takes a millisecond.

Decides when virtual time moves, in which (seeded) order ready callbacks run, and which of them a simulated process
that was killed or paused still gets to run. Leaves to others what a process *is*, which faults strike when, and
what the outside world refuses from a dead process (see `VirtualLoop.alive`).

Time moves only when nothing can run. Four things can hold it back:

* something is ready: it runs first, time stands still;
* outside work goes on (executor calls, child processes, `VirtualLoop.outside_work`): the clock is frozen and the loop
  really waits, so that a thread which takes 0.2 real seconds never exceeds a virtual time-out of 0.1;
* a connection leads out of this loop: time passes no faster than real time until it brings something (unless its other
  end says when it works, see `VirtualLoop.beside`);
* nothing is ready, no timer is set, nothing is outside: nobody can ever wake up. That is a `Deadlock`.

`deterministic=True` refuses threads, sockets and child processes, so that the same seed gives the same run.
What asyncio itself orders by address stays the user's care: do not iterate over the sets of `asyncio.wait` or
`asyncio.all_tasks`, and run under a fixed PYTHONHASHSEED if sets of strings are iterated.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import os
import random
import selectors
import socket
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

__all__ = ["PROCESS", "Deadlock", "TraceHash", "VirtualClock", "VirtualLoop", "describe", "run", "with_process"]

_T = TypeVar("_T")

PROCESS: ContextVar[str | None] = ContextVar("PROCESS", default=None)
"""The simulated process that the running code belongs to; None is the outside world, which never dies."""

SHUFFLE_WINDOW = 16
"""Callbacks: a seeded loop picks the next one among this many at the head of the ready queue."""

LOOPBACK_GRACE_SECONDS = 0.001
"""Real seconds that the kernel gets to hand loopback bytes over before the clock moves past them."""

SWEEPS = 20
"""Times that `run` cancels what is left at its end before it abandons it."""

SWEEP_SECONDS = 60.0
"""Virtual seconds that a cancelled task gets to clean up before it is cancelled once more."""

_REAL_IO = (
    "run_in_executor", "getaddrinfo", "getnameinfo", "subprocess_exec", "subprocess_shell",
    "create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection", "create_unix_server",
    "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe", "add_reader", "add_writer",
    "sock_accept", "sock_connect", "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into",
    "sock_sendall", "sock_sendto", "sock_sendfile", "sendfile",
)  # fmt: skip


class Deadlock(RuntimeError):
    """Every task waits and nothing can ever wake one. The text names each task and the line on which it waits."""


@contextlib.contextmanager
def with_process(name: str) -> Iterator[None]:
    """What is started inside (tasks, timers, callbacks, and what these start) belongs to the simulated process `name`.

    A name is for one life: give a restarted process a new one ("engine-1/2").
    """
    token = PROCESS.set(name)
    try:
        yield
    finally:
        PROCESS.reset(token)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector loop on virtual time; `time()` begins at 0.0 and counts seconds.

    seed: None runs callbacks first come, first served, as asyncio does. A number shuffles them as far as asyncio's
        promises allow: steps of different tasks and timers of one instant change places; plain callbacks, and all that
        wait for one future, keep their order.
    deterministic: refuse threads, sockets and child processes with a RuntimeError.
    on_step: called as `on_step(number, handle)` before each callback; it may call `kill` and `pause`, also for the
        process whose callback is about to run. See `describe` and `TraceHash`.
    patience_seconds: real seconds of silence after which outside work counts as hanging. Then the clock moves on, so
        that virtual time-outs strike it; without any timer it is a `Deadlock`.
    """

    if TYPE_CHECKING:  # what BaseEventLoop has in CPython 3.11 to 3.14 and its stubs leave out
        _ready: deque[asyncio.Handle]
        _scheduled: list[asyncio.TimerHandle]
        _selector: selectors.BaseSelector
        _ssock: socket.socket
        _stopping: bool
        _timer_cancelled_count: int
        _clock_resolution: float
        _asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]]

        def _process_events(self, event_list: list[tuple[selectors.SelectorKey, int]]) -> None: ...

    def __init__(
        self,
        *,
        seed: int | None = None,
        deterministic: bool = True,
        on_step: Callable[[int, asyncio.Handle], None] | None = None,
        patience_seconds: float = 60.0,
    ) -> None:
        super().__init__()
        self.deterministic = deterministic
        self.on_step = on_step
        self.patience_seconds = patience_seconds
        self.steps = 0
        self._now = 0.0
        self._chance = None if seed is None else random.Random(seed)
        self._polled = 0
        self._outside = 0
        self._beside: list[Callable[[], object]] = []
        self._children: list[asyncio.SubprocessTransport] = []
        self._dead: set[str] = set()
        self._paused: dict[str, float] = {}
        self._held: dict[str, list[asyncio.Handle]] = {}
        self._contexts: weakref.WeakKeyDictionary[asyncio.Future[Any], Context] = weakref.WeakKeyDictionary()
        self._generators: weakref.WeakKeyDictionary[AsyncGenerator[Any, Any], str] = weakref.WeakKeyDictionary()
        self._graves: list[tuple[asyncio.Future[Any], Context]] = []
        self._buried_generators: list[AsyncGenerator[Any, Any]] = []
        if deterministic:
            for name in _REAL_IO:
                setattr(self, name, _refusal(name))

    # --- processes -------------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """Whether the running code may still touch the world: it belongs to no process that was killed."""
        return PROCESS.get() not in self._dead

    def dead(self, name: str) -> bool:
        """Whether the process `name` was killed."""
        return name in self._dead

    def kill(self, name: str) -> None:
        """As kill -9: from now on nothing of this process runs.

        Its tasks stay where they are. When the loop closes, Python must unwind them, so their `finally` blocks run
        then, in their own context, where `alive()` is False. If the process kills itself, the running callback goes on
        to its next `await`; `crash` is that await.
        """
        if name in self._dead:
            return
        self._dead.add(name)
        self._paused.pop(name, None)
        for task, context in list(self._contexts.items()):
            if context.get(PROCESS) == name:
                self._bury(task, context)
        for generator in [generator for generator, process in self._generators.items() if process == name]:
            self._asyncgens.discard(generator)  # or its closing would run as if it were alive
            self._buried_generators.append(generator)
        for handle in [*self._ready, *self._scheduled, *self._held.pop(name, ())]:
            if _process_of(handle) == name:
                handle.cancel()

    async def crash(self) -> NoReturn:
        """Kill the process that the caller belongs to; never returns."""
        name = PROCESS.get()
        if name is None:
            raise RuntimeError("crash() kills the process of its caller, but this code belongs to none")
        self.kill(name)
        await self.create_future()
        raise AssertionError("the dead do not run")

    def pause(self, name: str, seconds: float) -> None:
        """As SIGSTOP, and SIGCONT after so many virtual seconds: what falls due meanwhile runs late, in its order."""
        until = self._now + seconds
        if name in self._dead or until <= self._paused.get(name, self._now):
            return
        self._paused[name] = until
        self.call_at(until, self._resume, name, context=Context())

    def paused(self, name: str) -> bool:
        """Whether the process `name` stands still now."""
        return name in self._paused

    # --- outside work ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def outside_work(self) -> Iterator[None]:
        """Freeze the clock while something that the loop cannot see (a thread of one's own) works for this code."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def beside(self, works: Callable[[], object]) -> None:
        """The connections that lead out of this loop lead to a server that works for it while `works()` is true. Then
        the clock is frozen; otherwise they do not hold it back for longer than what comes unasked takes to come."""
        self._beside.append(works)

    # --- what asyncio calls ----------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def create_task(self, coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T], **options: Any) -> asyncio.Task[_T]:
        context = options.pop("context", None) or copy_context()
        task: asyncio.Task[_T] = super().create_task(coro, context=context, **options)
        if (process := context.get(PROCESS)) is not None:
            self._contexts[task] = context
            if process in self._dead:
                self._bury(task, context)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._work_ended, context=Context())
        return future

    async def shutdown_default_executor(self, *args: Any, **options: Any) -> None:
        with self.outside_work():
            await super().shutdown_default_executor(*args, **options)

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        transport, protocol = await super().subprocess_exec(*args, **options)
        self._children.append(transport)
        return transport, protocol

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        transport, protocol = await super().subprocess_shell(*args, **options)
        self._children.append(transport)
        return transport, protocol

    def close(self) -> None:
        if self.is_closed() or self.is_running():
            super().close()  # says what is wrong, if anything
            return
        self._unwind_the_dead()
        self._ready.clear()
        self._contexts.clear()
        super().close()
        self._buried_generators.clear()

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        super()._asyncgen_firstiter_hook(agen)  # type: ignore[misc]
        if (process := PROCESS.get()) is not None:
            self._generators[agen] = process

    def _run_once(self) -> None:
        """One callback, where asyncio runs all that are ready: so a step can be counted, chosen and cut short."""
        if not self._ready and not self._stopping:
            self._wait()
        elif not self.deterministic and self._polled <= 0:  # once a round of what is ready, as asyncio does
            self._poll(0)
        self._polled = len(self._ready) if self._polled <= 0 else self._polled - 1
        self._wake_timers()
        if (handle := self._next_handle()) is None:
            return
        self.steps += 1
        if self.on_step is not None:
            self.on_step(self.steps, handle)
            if not self._may_run(handle):
                return
        handle._run()

    # --- time ------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Nothing is ready: let the world bring something, or move the clock to the first timer."""
        if self._poll(0):
            return
        self._drop_cancelled_timers()
        first = self._scheduled[0].when() if self._scheduled else None
        if not self.deterministic:
            self._children = [child for child in self._children if child.get_returncode() is None]
            if self._outside or self._children or any(works() for works in self._beside):
                if self._poll(self.patience_seconds) or self._ready:
                    return
            elif (way_out := self._way_out()) == "foreign" or (way_out is not None and first is None):
                began = time.monotonic()
                wait = None if first is None else max(0.0, first - self._now)
                if self._poll(wait):
                    elapsed = time.monotonic() - began
                    self._now += elapsed if wait is None else min(elapsed, wait)
                    return
            elif way_out == "loopback" and self._poll(LOOPBACK_GRACE_SECONDS):
                return
        if first is None:
            raise Deadlock(self._deadlock())
        self._now = max(self._now, first)

    def _poll(self, seconds: float | None) -> bool:
        events = self._selector.select(seconds)
        self._process_events(events)
        return bool(events)

    def _way_out(self) -> str | None:
        """What the registered file descriptors lead to: None, this "loopback" loop itself, or something "foreign"."""
        here: set[Any] = set()
        there: list[Any] = []
        descriptors = [key.fd for key in self._selector.get_map().values() if key.fd != self._ssock.fileno()]
        for descriptor in descriptors:
            try:
                end = socket.socket(fileno=os.dup(descriptor))
            except OSError:
                return "foreign"  # a pipe: no saying who holds its other end
            with end:
                here.add(end.getsockname())
                try:
                    there.append(end.getpeername())
                except OSError:
                    if end.type == socket.SOCK_STREAM and not end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        return "loopback" if self._beside else "foreign"  # still connecting
        if any(peer not in here for peer in there):
            return "loopback" if self._beside else "foreign"
        return "loopback" if descriptors else None

    def _drop_cancelled_timers(self) -> None:
        timers = self._scheduled
        while timers and timers[0].cancelled():
            self._forget(heapq.heappop(timers))
        if self._timer_cancelled_count > 100 and 2 * self._timer_cancelled_count > len(timers):
            for timer in timers:
                if timer.cancelled():
                    timer._scheduled = False  # type: ignore[attr-defined]
            self._scheduled = [timer for timer in timers if not timer.cancelled()]
            heapq.heapify(self._scheduled)
            self._timer_cancelled_count = 0

    def _wake_timers(self) -> None:
        end = self._now + self._clock_resolution
        while self._scheduled and self._scheduled[0].when() <= end:  # not `<`: after a year, now + resolution == now
            timer = heapq.heappop(self._scheduled)
            self._forget(timer)
            if not timer.cancelled():
                self._now = max(self._now, timer.when())  # or who looks at the clock would wait for the rest, for ever
                self._ready.append(timer)

    def _forget(self, timer: asyncio.TimerHandle) -> None:
        timer._scheduled = False  # type: ignore[attr-defined]
        if timer.cancelled():
            self._timer_cancelled_count -= 1

    # --- which callback --------------------------------------------------------------------------------------------

    def _next_handle(self) -> asyncio.Handle | None:
        while self._ready:
            if self._chance is None or len(self._ready) == 1:
                handle = self._ready.popleft()
            else:
                handle = self._choose(self._chance)
            if self._may_run(handle):
                return handle
        return None

    def _choose(self, chance: random.Random) -> asyncio.Handle:
        ready = self._ready
        index = chance.randrange(min(len(ready), SHUFFLE_WINDOW))
        handle = ready[index]
        earlier = 0
        while earlier < index:
            if _keeps_order(ready[earlier], handle):
                index, handle, earlier = earlier, ready[earlier], 0
            else:
                earlier += 1
        del ready[index]
        return handle

    def _may_run(self, handle: asyncio.Handle) -> bool:
        if handle.cancelled():
            return False
        if self._dead or self._paused:
            process = _process_of(handle)
            if process in self._dead:
                return False
            if process in self._paused:
                self._held.setdefault(process, []).append(handle)
                return False
        return True

    def _resume(self, name: str) -> None:
        if self._now >= self._paused.get(name, float("inf")):
            del self._paused[name]
            self._ready.extend(self._held.pop(name, ()))

    def _work_ended(self, _: object) -> None:
        self._outside -= 1

    # --- the dead --------------------------------------------------------------------------------------------------

    def _bury(self, task: asyncio.Future[Any], context: Context) -> None:
        if not task.done():
            asyncio._unregister_task(task)  # type: ignore[arg-type]  # nobody can cancel or await the dead
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            self._graves.append((task, context))

    def _unwind_the_dead(self) -> None:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)  # their `finally` blocks may want to start tasks, which die at once
        try:
            while self._graves:
                task, context = self._graves.pop()
                if not task.done():
                    context.run(_unwind, task.get_coro())  # type: ignore[attr-defined]
        finally:
            asyncio._set_running_loop(before)

    def _deadlock(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: (len(task.get_name()), task.get_name()))
        reason = "nothing is ready, no timer is set, and nothing outside can wake a task"
        if self._outside or self._children:
            reason = f"no timer is set, and outside work said nothing for {self.patience_seconds:g} real seconds"
        lines = [f"virtual time {self._now:g} s: {reason}"]
        lines += [f"  {task.get_name()} waits: {' > '.join(_waits_on(task.get_coro()))}" for task in tasks]
        return "\n".join([*lines, *([] if tasks else ["  (no task is left)"])])


class VirtualClock:
    """The clock that an engine reads on a `VirtualLoop`.

    epoch: wall-clock seconds since 1970 at virtual time 0.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: float = 1_700_000_000.0) -> None:
        self._loop = loop
        self._epoch = epoch

    def now(self) -> float:
        """Wall-clock seconds since 1970; jumps with `shift`."""
        return self._epoch + self._loop.time()

    def monotonic(self) -> float:
        """Virtual seconds; never jumps."""
        return self._loop.time()

    def shift(self, seconds: float) -> None:
        """Set the wall clock forward (or back, if negative), as an administrator or NTP would."""
        self._epoch += seconds


class TraceHash:
    """An `on_step` hook: two runs whose `hexdigest()` is equal ran the same callbacks in the same order and time."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def __call__(self, step: int, handle: asyncio.Handle) -> None:
        self._hash.update(f"{step} {asyncio.get_running_loop().time()!r} {describe(handle)}\n".encode())

    def hexdigest(self) -> str:
        """Of all steps so far."""
        return self._hash.hexdigest()


def describe(handle: asyncio.Handle) -> str:
    """A callback's name, "process: what it calls", the same in every run (no addresses, no counted task names)."""
    callback = handle._callback  # type: ignore[attr-defined]
    while hasattr(callback, "func"):  # functools.partial
        callback = callback.func
    task = getattr(callback, "__self__", None)
    called = task.get_coro() if isinstance(task, asyncio.Task) else callback
    return f"{_process_of(handle) or 'world'}: {getattr(called, '__qualname__', type(called).__qualname__)}"


def run(
    main: Coroutine[Any, Any, _T],
    *,
    seed: int | None = None,
    deterministic: bool = True,
    on_step: Callable[[int, asyncio.Handle], None] | None = None,
    patience_seconds: float = 60.0,
) -> _T:
    """`asyncio.run` on a `VirtualLoop`: returns what `main` returns; no task, thread or file is left after it.

    Tasks that are left are cancelled until they end; one that swallows twenty cancellations is abandoned.
    """

    def factory() -> VirtualLoop:
        return VirtualLoop(seed=seed, deterministic=deterministic, on_step=on_step, patience_seconds=patience_seconds)

    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            return runner.run(main)
        finally:
            loop = runner.get_loop()
            assert isinstance(loop, VirtualLoop)
            loop.on_step = None
            loop.run_until_complete(_sweep(loop))


async def _sweep(loop: VirtualLoop) -> None:
    """Cancel what is left, and again: CPython 3.11 can lose a cancellation, and a handler may swallow some."""
    for process in list(loop._paused):
        loop.kill(process)  # nobody waits for SIGCONT at the end
    for _ in range(SWEEPS):
        left = asyncio.all_tasks(loop) - {asyncio.current_task()}
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=SWEEP_SECONDS)
        for task in left:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                report = {"message": "unhandled at the end of run()", "exception": error, "task": task}
                loop.call_exception_handler(report)
    for task in asyncio.all_tasks(loop) - {asyncio.current_task()}:
        loop._bury(task, Context())


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(
            f"loop.{name}() needs a thread, socket or child process, whose timing no seed can repeat. "
            "Give this code an in-process stand-in (an inline executor, a simulated source), "
            "or ask for VirtualLoop(deterministic=False)"
        )

    return refuse


def _process_of(handle: asyncio.Handle) -> str | None:
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(PROCESS)


def _keeps_order(earlier: asyncio.Handle, later: asyncio.Handle) -> bool:
    """Whether asyncio promises that `earlier` runs before `later`."""
    if isinstance(earlier, asyncio.TimerHandle) or isinstance(later, asyncio.TimerHandle):
        both = isinstance(earlier, asyncio.TimerHandle) and isinstance(later, asyncio.TimerHandle)
        return both and earlier.when() < later.when()  # type: ignore[attr-defined]
    if earlier._args and later._args and earlier._args[0] is later._args[0] and asyncio.isfuture(later._args[0]):
        return True
    return not _is_task_step(earlier) and not _is_task_step(later)


def _is_task_step(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]


class _Death(BaseException):
    """Ends what a dead process left behind. Not GeneratorExit: closing an outer coroutine would leave an inner one that
    awaits in its `finally` half closed."""


def _unwind(coroutine: Any) -> None:
    with contextlib.suppress(BaseException):  # whatever the dead raise, nobody hears it
        for _ in range(SWEEPS):  # a `finally` block may await, again and again
            coroutine.throw(_Death())
    with contextlib.suppress(Exception, asyncio.CancelledError):
        coroutine.close()


def _waits_on(waiting: Any) -> Iterator[str]:
    """The chain of awaits from a task's coroutine down to what it waits for."""
    while waiting is not None:
        frame = _first(waiting, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            yield f"<{type(waiting).__name__}>"
            return
        yield f"{waiting.__qualname__} ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno})"
        waiting = _first(waiting, "cr_await", "gi_yieldfrom", "ag_await")


def _first(of: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(of, name, None)) is not None), None)
