"""One SQLite file: its one thread, its transactions, and what happens to callers when the disk misbehaves.

Decides when callers' work is committed and answered (together with all that waits meanwhile: one sync serves many),
which errors of SQLite a caller meets, and that nothing is written after a failed write before the file was opened anew.
Leaves to `sqlite_opening.py` how a file is opened and upgraded, and to the adapters (`sqlite_*.py`) what is in it.

An adapter gives a function `perform(cursor, items)` and an item. The items of all callers that wait with the same
function are performed together, in one transaction with those of other functions; it gives one result for each item. It
runs in the file's thread: it may touch nothing that the event loop touches. It may be called again with the same items
after a rollback, so it keeps nothing for itself; what it raises for several items is found out by trying each alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import apsw

from lambent.errors import StoreUnavailable
from lambent.ports import Clock
from lambent.stores.sqlite_opening import Opened, Opening, unavailable
from lambent.stores.sqlite_rows import set_aside_unreadable

Item = TypeVar("Item")
Result = TypeVar("Result")
Perform = Callable[[apsw.Cursor, Sequence[Item]], Sequence[Result]]
Executor = Callable[[Callable[[], None]], None]
"""Runs each call once, somewhere, one after the other, without waiting for it."""

Then = Callable[[Result], None]
"""Called on the loop with what was done, before its caller is answered, and also if that was cancelled meanwhile."""

_Asked = tuple[asyncio.Future[Any], Then[Any] | None]
_Job = tuple[Callable[[apsw.Cursor, Sequence[Any]], Sequence[Any]], Any, _Asked]

WRITE: Final = "BEGIN IMMEDIATE"
READ: Final = "BEGIN"
PATIENCE_SECONDS: Final = 0.002  # for which a write waits for others, if it can
POLL_SECONDS: Final = 0.1  # within which a write by another process is noticed
TROUBLES: Final = 100  # of those that were found that are told to who asks later


class FileClock:
    """The store's own time. `now()` is epoch seconds and never goes back in an engine's life: the wall clock as it was
    at opening, or what the file had seen before if that is later, and from there on the monotonic clock. It is the same
    for all who have the file open: clients go by the engine that opened it last, wherever wall clocks have been set to
    since. All processes of a machine have one monotonic clock."""

    def __init__(self, clock: Clock, seen_at: float) -> None:
        self._monotonic = clock.monotonic
        self._seen_at = seen_at
        self.began_at = max(clock.now(), seen_at) - clock.monotonic()

    def follow(self, began_at: float | None) -> None:
        """Go by that of an engine; unless the machine was started anew since."""
        if began_at is not None and began_at + self._monotonic() >= self._seen_at:
            self.began_at = began_at

    def now(self) -> float:
        return self.began_at + self._monotonic()


class SqliteFile:
    """The file as an event loop sees it. Open it before use. A cancelled caller never cancels what it asked for.

    executor: runs the file's work; None is a thread of its own. Answers come in a later step of the loop, always.
    poll_seconds: how often to look for other processes' writes; None: never."""

    clock: FileClock

    def __init__(
        self,
        opening: Opening,
        clock: Clock,
        executor: Executor | None = None,
        poll_seconds: float | None = POLL_SECONDS,
    ) -> None:
        self.path = opening.path
        self._opening = opening
        self._world_clock = clock
        self._thread = None if executor else _Thread()
        self._executor: Executor = executor or self._thread  # type: ignore[assignment]
        self._poll_seconds = poll_seconds
        self._writes: deque[_Job] = deque()
        self._reads: deque[_Job] = deque()
        self._patient: deque[_Job] = deque()  # writes that wait for company
        self._patience: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()  # held for what waits and for `_busy`, never for long
        self._busy = False  # a group is under way, or its handing over is
        self.unanswered = 0
        """How much was asked for and is not answered yet."""
        self._on_foreign_change: list[Callable[[], None]] = []
        self._on_reopened: list[Callable[[], None]] = []
        self._on_trouble: list[Callable[[str], None]] = []
        self._troubles: deque[str] = deque(maxlen=TROUBLES)
        self._poll: asyncio.TimerHandle | None = None
        self._closed = True
        # what only the thread touches:
        self._opened: Opened | None = None
        self._broken = False
        self._told: list[tuple[Callable[..., None], Sequence[object]]] = []

    async def open(self) -> None:
        """Raises StoreUnavailable that says what to do."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        await self._run(self._open)
        if not self._opening.client:
            await self.write(_keep_time, self.clock.began_at)
        if self._poll_seconds is not None:
            self._poll = self._loop.call_later(self._poll_seconds, self._look_around)

    def write(
        self, perform: Perform[Item, Result], item: Item, then: Then[Result] | None = None, patient: bool = False
    ) -> asyncio.Future[Result]:
        """To be awaited: answers after the durable commit. Raises StoreUnavailable (nothing is known to be stored), or
        what `perform` raises for this item. `patient`: nobody is held up if it waits a moment for others, so that it
        costs no sync of its own."""
        future: asyncio.Future[Result] = self._future()
        job: _Job = (perform, item, (future, then))
        if not patient:
            self._ask(self._writes, job)
            return future
        self.unanswered += 1
        with self._lock:
            self._patient.append(job)
        if self._patience is None:
            self._be_patient(job)
        return future

    def tell(self, perform: Perform[Item, Result], item: Item, then: Then[Result] | None = None) -> None:
        """As `write`, for who does not wait, and has no interest in what goes wrong."""
        if not self._closed:
            self._ask(self._writes, (perform, item, (self._nobody(), then)))

    def read(
        self, perform: Perform[Item, Result], item: Item, then: Then[Result] | None = None
    ) -> asyncio.Future[Result]:
        """To be awaited. Sees everything that was committed before it was asked for, and the items of one function in
        one state. Raises as `write`."""
        future: asyncio.Future[Result] = self._future()
        self._ask(self._reads, (perform, item, (future, then)))
        return future

    def on_foreign_change(self, callback: Callable[[], None]) -> None:
        """Called on the loop when another connection has written."""
        self._on_foreign_change.append(callback)

    def on_reopened(self, callback: Callable[[], None]) -> None:
        """Called on the loop when the file was opened anew after a failed write: what was refused may be in it."""
        self._on_reopened.append(callback)

    def on_trouble(self, callback: Callable[[str], None]) -> None:
        """Called on the loop with a sentence for each thing that was found wrong and gone on from; with what was found
        so far at once."""
        for trouble in self._troubles:
            callback(trouble)
        self._on_trouble.append(callback)

    async def close(self) -> None:
        """After what was asked for is done. Closing twice is allowed."""
        if self._poll is not None:
            self._poll.cancel()
        while self.unanswered and not self._closed:
            with suppress(StoreUnavailable):
                await self.read(_nothing, None)
        if not self._closed:
            self._closed = True
            await self._run(self._close)
            if self._thread is not None:
                self._thread.close()

    def look(self) -> None:
        """Look whether another connection has written; as every group does."""
        if not self._closed:
            self._ask(self._reads, (_nothing, None, (self._nobody(), None)))

    def abandon(self) -> None:
        """Close it as the death of this process would. Only where its work is done in the caller's thread."""
        self._closed = True
        if self._poll is not None:
            self._poll.cancel()
        if self._opened is not None:
            self._opened.abandon()
            self._opened = None

    # --- on the loop -----------------------------------------------------------------------------------------------

    def _future(self) -> asyncio.Future[Any]:
        if self._closed:
            raise StoreUnavailable(f"{self.path} is not open.")
        return self._loop.create_future()

    def _ask(self, jobs: deque[_Job], job: _Job) -> None:
        """Begin in the next step, so that all who ask in this one share a group."""
        self.unanswered += 1
        with self._lock:
            jobs.append(job)
            begin, self._busy = not self._busy, True
        if begin:
            self._begin()

    def _begin(self) -> None:
        self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        with self._lock:
            self._busy = bool(self._writes or self._reads)
        if self._busy:  # else the thread would be woken for nothing
            self._executor(self._work)

    def _be_patient(self, first: _Job) -> None:
        self._patience = self._loop.call_later(PATIENCE_SECONDS, self._lose_patience, first)

    def _lose_patience(self, first: _Job) -> None:
        """Of the one that has waited longest; if a group took it along meanwhile, those after it wait in their turn."""
        self._patience = None
        with self._lock:
            longest = self._patient[0] if self._patient else None
            if longest is first:
                self._patient.popleft()
        if longest is first:  # the others come along
            self.unanswered -= 1
            self._ask(self._writes, first)
        elif longest is not None:
            self._be_patient(longest)

    def _nobody(self) -> asyncio.Future[Any]:
        nobody: asyncio.Future[Any] = self._loop.create_future()
        nobody.cancel()
        return nobody

    def _answer(self, answers: Sequence[tuple[_Asked, Any]]) -> None:
        self.unanswered -= len(answers)
        for (future, then), answer in answers:
            raised = type(answer) is _Raised
            if then is not None and not raised:
                then(answer)
            if future.done():
                continue  # its caller was cancelled
            if raised:
                future.set_exception(answer.error)
            else:
                future.set_result(answer)

    def _hear(self, told: Sequence[tuple[Callable[..., None], Sequence[object]]]) -> None:
        for callback, arguments in told:
            try:
                callback(*arguments)
            except Exception as error:  # noqa: BLE001  one that breaks keeps nobody else waiting
                self._loop.call_exception_handler(
                    {"message": f"{self.path}: an answer was not heard", "exception": error}
                )

    def _call(self, callbacks: Sequence[Callable[..., None]], *arguments: object) -> None:
        for callback in callbacks:
            callback(*arguments)

    def _trouble(self, troubles: Sequence[str]) -> None:
        for trouble in troubles:
            self._troubles.append(trouble)
            self._call(self._on_trouble, trouble)

    def _look_around(self) -> None:
        """The next group looks, too: this only sees to it that there is one."""
        self.look()
        assert self._poll_seconds is not None
        self._poll = self._loop.call_later(self._poll_seconds, self._look_around)

    async def _run(self, call: Callable[[], Result]) -> Result:
        """In the thread, alone."""
        future: asyncio.Future[Result] = self._loop.create_future()

        def run() -> None:
            try:
                answer: Any = call()
            except Exception as error:  # noqa: BLE001  it is the caller's
                answer = _Raised(error)
            self._tell(self._answer, [((future, None), answer)])
            self._wake()

        self.unanswered += 1
        self._executor(run)
        return await asyncio.shield(future)

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        """The loop is to hear of it, with all that is told until it is woken: that costs more than what it hears."""
        self._told.append((callback, arguments))

    def _wake(self) -> None:
        told, self._told = self._told, []
        if told:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._hear, told)

    def _tell_troubles(self, opened: Opened) -> None:
        if troubles := opened.connection.troubles:
            opened.connection.troubles = []
            self._tell(self._trouble, troubles)

    def _open(self) -> None:
        opened = self._opened = self._opening.open()
        self.clock = FileClock(self._world_clock, opened.seen_at)
        self._follow(opened)
        self._tell_troubles(opened)

    def _follow(self, opened: Opened) -> None:
        if self._opening.client:
            self.clock.follow(opened.began_at())

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _work(self) -> None:
        """Groups of all that waits. One that waits for a commit already need not wait for the loop, too; else the next
        begins when the loop has had a step with the answers: what those who waited ask for then comes along, and syncs
        are fewer."""
        go_on = True
        while go_on:
            with self._lock:
                writes, reads = [*self._writes], [*self._reads]
                self._writes.clear()
                self._reads.clear()
                if writes:
                    writes += self._patient
                    self._patient.clear()
            self._group(writes, reads)
            if not (go_on := bool(self._writes)):
                self._tell(self._begin)
            self._wake()
            self._look()
            self._wake()

    def _group(self, writes: Sequence[_Job], reads: Sequence[_Job]) -> None:
        """Reads come first: they see what was committed before they were asked for, and those who asked go on while the
        writes are synced."""
        try:
            opened = self._open_again() if self._broken else self._opened
            if opened is None:
                raise StoreUnavailable(f"{self.path} is not open.")
            if reads:
                self._tell(self._answer, self._transaction(opened, reads, READ))
                reads = ()
                if writes:
                    self._wake()
            if writes:
                self._tell(self._answer, self._transaction(opened, writes, WRITE))
                writes = ()
        except Exception as error:  # noqa: BLE001  whatever it is, nobody may wait for ever
            self._distrust(error)
            raised = _Raised(unavailable(error, self.path) or error)
            self._tell(self._answer, [(asked, raised) for _, _, asked in (*writes, *reads)])

    def _look(self) -> None:
        """What comes of a group beside its answers, which have gone: what others wrote, and the log if it is long."""
        if self._broken or self._opened is None:
            return
        try:
            if self._opened.foreign_change():
                self._follow(self._opened)
                self._tell(self._call, self._on_foreign_change)
            self._opened.checkpoint()
            self._tell_troubles(self._opened)
        except Exception as error:  # noqa: BLE001  whoever asks next meets it, if it is still there
            self._distrust(error)

    def _transaction(self, opened: Opened, jobs: Sequence[_Job], begin: str) -> list[tuple[_Asked, Any]]:
        try:
            return self._together(opened, jobs, begin)
        except Exception as error:  # noqa: BLE001  told to those whom it concerns
            self._distrust(error)
            refused = unavailable(error, self.path)
            if isinstance(error, UnicodeDecodeError) and self._set_aside(opened):
                return self._transaction(opened, jobs, begin)
            if len(jobs) == 1 or self._broken or (refused and not isinstance(error, apsw.CorruptError)):
                return [(asked, _Raised(refused or error)) for _, _, asked in jobs]
        return [answer for job in jobs for answer in self._transaction(opened, [job], begin)]

    def _together(self, opened: Opened, jobs: Sequence[_Job], begin: str) -> list[tuple[_Asked, Any]]:
        if self._broken:
            raise StoreUnavailable(f"{self.path} is opened anew after a failed write; nothing was stored. Ask again.")
        cursor, answers = opened.connection.cursor(), list[tuple[_Asked, Any]]()
        of_one_kind: dict[Any, list[_Job]] = {}
        for job in jobs:
            of_one_kind.setdefault(job[0], []).append(job)
        found, before = len(opened.connection.troubles), opened.connection.total_changes()
        cursor.execute(begin)
        try:
            for perform, kind in of_one_kind.items():
                results = perform(cursor, [item for _, item, _ in kind])
                answers += zip([asked for _, _, asked in kind], results, strict=True)
            if shrink in of_one_kind:
                opened.shrink()
            if opened.connection.total_changes() != before:
                opened.see(self.clock.now())
            cursor.execute("COMMIT")
        except BaseException:
            del opened.connection.troubles[found:]  # it is found again
            if opened.connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        return answers

    def _set_aside(self, opened: Opened) -> bool:
        """Text that cannot be read makes way for what can; False: there was none."""
        before = len(opened.connection.troubles)
        with opened.connection:
            set_aside_unreadable(opened.connection.cursor())
        return len(opened.connection.troubles) > before

    def _distrust(self, error: Exception) -> None:
        """After a failed write or sync, pages that the system calls written may be lost: begin anew."""
        if isinstance(error, apsw.IOError | OSError) and self._opened is not None:
            self._broken = True
            self._opened.abandon()

    def _open_again(self) -> Opened:
        self._opened = None
        opened = self._opening.open(distrust=True)
        self._opened, self._broken = opened, False
        self._tell(self._call, self._on_reopened)
        self._tell(self._call, self._on_foreign_change)
        return opened


class _Raised:
    """An answer that is an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Thread:
    """A daemon thread that runs calls one after the other; the interpreter does not wait for it at exit."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = False

    def __call__(self, call: Callable[[], None]) -> None:
        if not self._started:
            threading.Thread(target=self._serve, name="lambent-sqlite", daemon=True).start()
            self._started = True
        self._calls.put(call)

    def close(self) -> None:
        self._calls.put(None)

    def _serve(self) -> None:
        for call in iter(self._calls.get, None):
            call()
            del call  # or an idle thread would keep the last group alive


def shrink(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    """To be written now and then: the file's transaction gives free pages back to the disk."""
    return items


def _keep_time(cursor: apsw.Cursor, items: Sequence[float]) -> Sequence[None]:
    cursor.execute("UPDATE meta SET began_at = ?", (items[-1],))
    return [None] * len(items)


def _nothing(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    return items
