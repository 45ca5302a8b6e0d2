"""One execution environment: a Runtime API, a /tmp, and a process that may end and begin anew.

Decides what each event of a process's life means for the invocation that it has: its answer, its end, its deadline. The
order of what a client says is `semantics/conversation.py`'s, which environment serves what `semantics/fleet.py`'s. The
deadline begins when the environment takes the invocation; one whose process was reset, or whose init failed or took
longer than `INIT_SECONDS`, begins anew within the invocation (Lambda guide: «Understanding the Lambda execution
environment lifecycle»). A time-out or exit resets the process and keeps /tmp.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Final, Protocol

from lambent.arns import function_arn
from lambent.logs import InvocationLog, LogStream
from lambent.model import Failed, Function, Invocation, Outcome, Succeeded, Unavailable
from lambent.payload import encode_event
from lambent.ports import CodePlaces, Respond, World
from lambent.runtimes import error_documents, kinship
from lambent.runtimes.beginning import Launcher
from lambent.runtimes.launching import CannotBegin, Identity, Launch, launch
from lambent.runtimes.process import Process
from lambent.runtimes.runtime_api import RuntimeApi, header, one_line
from lambent.runtimes.streamed import StreamedAnswer
from lambent.semantics.conversation import Conversation
from lambent.semantics.logs import Lines, status_of
from lambent.semantics.recursion import told

INIT_SECONDS: Final = 10.0  # Lambda guide: «Init phase»
PROVISIONED_INIT_SECONDS: Final = 130.0  # the same, or the function's time limit if that is longer
SILENCE_SECONDS: Final = 1.0
"""How long what an ended process said last may take to come in; its sockets are closed by then."""

TOO_LATE: Final = Unavailable("it could not be started in time: what it was for may be with others")
ABANDONED: Final = Unavailable("nobody waits for it any more")
OUT_OF_MEMORY: Final = "out of memory"
BROKEN_OFF: Final = "its answer broke off"
MEGABYTE: Final = 1024 * 1024
STOPPED: Final = Unavailable("the engine was stopped while the call ran")


class Work:
    """An invocation on its way through an environment; a `ports.Call`."""

    __slots__ = ("answer", "began", "environment", "give_up", "invocation", "respond", "started", "tell")

    def __init__(
        self,
        invocation: Invocation,
        ended: Callable[[Outcome], None],
        started: Callable[[], None],
        respond: Respond,
        give_up: Callable[[Work], None],
    ) -> None:
        self.invocation = invocation
        self.tell: Callable[[Outcome], None] | None = ended
        self.started = started
        self.respond = respond
        self.give_up = give_up
        self.environment: Environment | None = None
        self.began = 0.0
        self.answer: StreamedAnswer | None = None  # once it streams one

    def end(self, outcome: Outcome) -> None:
        """Say what became of it, unless somebody was faster."""
        tell, self.tell = self.tell, None
        if tell is not None:
            tell(outcome)

    def abandon(self) -> None:
        """Nobody wants to know. It is not left running beyond the permit that it had."""
        if self.tell is not None:
            self.tell = None
            self.give_up(self)


class Reports(Protocol):
    """What becomes of an environment, for whoever decides about it."""

    def initialized(self, environment: Environment, seconds: float) -> None:
        """Its process asked for the first invocation, after so long."""
        ...

    def cautioned(self, environment: Environment, caution: str) -> None:
        """Something about it is less than it should be."""
        ...

    def ready(self, environment: Environment) -> None:
        """It waits for an invocation."""
        ...

    def answered(self, environment: Environment) -> None:
        """Its invocation is over; `ready` or `reset` follows."""
        ...

    def reset(self, environment: Environment, *, init_failed: bool) -> None:
        """It has no process any more. `init_failed`: the last one never asked for an invocation."""
        ...

    def failed_to_begin(self, environment: Environment, document: Mapping[str, object]) -> None:
        """With this error document."""
        ...


class Environment:
    """Opened, it takes one invocation at a time, until it is closed. All methods are called in the loop's thread."""

    def __init__(
        self,
        number: int,
        function: Function,
        identity: Identity,
        log: LogStream,
        folder: Path,
        reports: Reports,
        launcher: Launcher,
        world: World,
    ) -> None:
        self.number = number
        self.function = function
        self.identity = identity
        self._log = log
        self._invocation_log: InvocationLog | None = None
        self._lines = {1: Lines(), 2: Lines()}
        self.conversation = Conversation()
        self.memory_bytes = 0
        """The most that it was seen to use."""
        self.init_seconds: float | None = None
        """What its last init took; taken by the first invocation after it."""
        self.full = False
        """It kept more in /tmp than it may, and is not used again."""
        self.work: Work | None = None
        self._world = world
        self._monotonic = world.clock.monotonic
        self._loop = asyncio.get_running_loop()
        self._folder = folder
        self._temporary = folder / "tmp"
        self._reports = reports
        self._launcher = launcher
        self._api = RuntimeApi(self)
        self._code: CodePlaces | None = None
        self._process: Process | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # by the loop's clock
        self._when_due: Callable[[], None] | None = None
        self._over: asyncio.Task[None] | None = None
        self._closed: asyncio.Event | None = None
        self._why = ""  # it is killed by us
        self._said = False  # the runtime told the error, and so has logged it
        self._arn = self._arn_header(None)
        self._chance = world.new_id().replace("-", "").encode()  # in its trace ids
        self._delivered = 0
        self._initialized = False

    # --- what it is told ---------------------------------------------------------------------------------------------

    async def open(self, code: CodePlaces) -> None:
        """Begin, with this code. Raises OSError: there is no port."""
        self._code = code
        self._api.listen()
        self.begin()
        await asyncio.sleep(0)  # a thread has something to do, while we open: who connects already, waits
        await self._api.open()

    def begin(self) -> None:
        """Start a process; what it has to work on, if anything, it gets once it asks."""
        assert self._process is None, "it has a process"
        self.conversation = Conversation()
        self._why = ""
        self._began = self._monotonic()
        assert self.function.environment is not None
        self._log.init_start(self.function.environment.runtime, self._kind)
        memory_bytes = self.function.memory_size_mb * MEGABYTE
        self._process = Process(self._launcher, self._api.port, memory_bytes, self._heard, self._ended)
        if self.work is None:
            seconds = INIT_SECONDS
            if self.identity.provisioned:
                seconds = max(PROVISIONED_INIT_SECONDS, self.function.timeout_seconds)
            self._set_timer(seconds, self._init_took_too_long)
        self._beginning = self._loop.create_task(self._begin(self._process), name=f"environment {self.number}: begin")

    def take(self, work: Work) -> None:
        """Serve it: its deadline begins now."""
        assert self.work is None, "it serves one invocation at a time"
        work.began = self._monotonic()
        if work.began >= work.invocation.start_before:
            work.end(TOO_LATE)
            if self._process is None:
                self._reports.reset(self, init_failed=False)
            else:
                self._reports.ready(self)
            return
        self.work = work
        work.environment = self
        self._set_timer(self.function.timeout_seconds, self._time_is_up)
        self._said = False
        if self._process is None:
            self.begin()
        else:
            self._deliver(work)
        if self._log.kept or work.invocation.tail:
            self._invocation_log = self._log.start(work.invocation.request_id, work.invocation.tail)
        work.started()

    def kill(self, why: str) -> None:
        """End its process, whatever it does; `reset` is reported once it is gone."""
        self._why = self._why or why
        self._set_timer(0, None)
        if self._process is not None:
            self._process.kill()

    def drop(self) -> None:
        """Nobody wants to know what its invocation comes to."""
        self._leave(ABANDONED)
        self.kill("its invocation was abandoned")

    def measure(self) -> int:
        """What it uses of memory now, in bytes; the most of it is remembered."""
        if self._process is None or not self._process.pid:
            return 0
        now = self._process.resident_bytes()
        self.memory_bytes = max(self.memory_bytes, now)
        return now

    def exceeds_memory(self) -> bool:
        """Does it use more than it has, or did the kernel end a part of it for that?"""
        used = self.measure()
        group = None if self._process is None else self._process.group
        if group is not None and group.killed():
            return True
        return used > self.function.memory_size_mb * MEGABYTE and (group is None or not group.limits())

    @property
    def _kind(self) -> str:
        return "provisioned-concurrency" if self.identity.provisioned else "on-demand"

    @property
    def temporary(self) -> Path:
        """Its /tmp, as seen from outside."""
        return self._temporary

    async def close(self) -> None:
        """End it kindly, and leave nothing of it."""
        self._why = "closed"
        self._set_timer(0, None)
        self._leave(STOPPED)
        if self._process is not None:
            self._closed = asyncio.Event()
            killing = self._process.ask_to_leave()
            await self._closed.wait()
            killing.cancel()
        if self._over is not None:
            await asyncio.wait({self._over})
        await self._api.close()
        await self._loop.run_in_executor(None, _remove, self._folder)

    # --- what its runtime says (runtime_api.Owner) -------------------------------------------------------------------

    def is_ours(self, peer: tuple[str, int], port: int) -> bool:
        process = self._process
        return process is not None and kinship.holds(process.pid, process.marker, peer, port)

    def asks_for_next(self) -> None:
        began = not self._initialized
        if began:
            self._initialized = True
            self.init_seconds = self._monotonic() - self._began
            self._log.init_report(self.init_seconds, "success", None, self._kind)
            self._reports.initialized(self, self.init_seconds)
        if self.work is not None:
            self._deliver(self.work)
        else:
            self._when_due = None
            self._reports.ready(self)
        if began:
            self.measure()  # now, that the client has its work

    def chunk(self, data: bytes) -> asyncio.Future[None] | None:
        work = self.work
        if work is None:
            return None
        if work.answer is None:
            work.answer = StreamedAnswer(work.invocation, work.respond)
        return work.answer.take(data)

    def broke_off(self) -> None:
        self.kill(BROKEN_OFF)

    def answers(self, body: bytes | None, error: bool, error_type: str) -> None:
        work = self.work
        if work is None:
            return
        outcome: Succeeded | Failed
        self._said = error
        if error and body is not None:
            outcome = Failed(_document(body, error_type))
        elif work.answer is not None:
            outcome = work.answer.outcome()
        elif body is None:
            outcome = error_documents.too_large()
        else:
            outcome = Succeeded(body)
        self._finish(outcome)

    def cannot_begin(self, body: bytes, error_type: str) -> None:
        self._said = True
        self._cannot_begin(_document(body, error_type))

    # --- what happens ------------------------------------------------------------------------------------------------

    async def _begin(self, process: Process) -> None:
        try:
            begun = await process.begin(self._prepare)
            if begun.caution:
                self._reports.cautioned(self, begun.caution)
        except (CannotBegin, OSError) as error:
            kind = error.error_type if isinstance(error, CannotBegin) else "Runtime.InvalidEntrypoint"
            self._process = None
            self._set_timer(0, None)
            self._said = False
            self._cannot_begin({"errorType": kind, "errorMessage": str(error), "requestId": "", "stackTrace": []})
            self._has_no_process(init_failed=True)
            return
        if self._why:  # meanwhile somebody ended it
            process.kill()

    def _prepare(self) -> Launch:
        """Its places, and what is to run there. Blocks."""
        assert self._code is not None
        _make(self._temporary)
        return launch(self.function, self._code, self.identity, self._api.port, self._temporary)

    def _cannot_begin(self, document: Mapping[str, object]) -> None:
        status, error_type = status_of(document)
        self._log.init_report(self._monotonic() - self._began, status, error_type, self._kind)
        self._reports.failed_to_begin(self, document)
        if self.work is not None:
            self._finish(Failed(document))
        if self._process is not None:
            self.kill("its init failed")

    def _init_took_too_long(self) -> None:
        self._log.init_report(self._monotonic() - self._began, "timeout", None, self._kind)
        self.kill("its init took too long")

    def _time_is_up(self) -> None:
        if self.work is not None:
            self._finish(error_documents.timed_out(self.work.invocation.request_id, self.function.timeout_seconds))
        self.kill("its time was up")

    def _heard(self, stream: int, data: bytes) -> None:
        log = self._invocation_log or self._log
        if log is self._log and not log.kept:
            return
        for line in self._lines[stream].feed(data):
            log.line(line.replace("\r", "\n"))  # so AWS's clients keep together what belongs together

    def _ended(self, returncode: int) -> None:
        self._over = self._loop.create_task(self._after(returncode), name=f"environment {self.number}: after")

    async def _after(self, returncode: int) -> None:
        """What its process said last is heard before it counts as gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._api.silence()
        self._api.hang_up()
        killed_for_memory = self._process is not None and self._process.killed_for_memory
        self._process = None
        self._set_timer(0, None)
        never_began = not self._initialized
        if killed_for_memory and self.work is not None:
            self._why = self._why or OUT_OF_MEMORY
        if self.work is not None:
            request_id = self.work.invocation.request_id
            if self._why == OUT_OF_MEMORY:
                self._finish(error_documents.out_of_memory(returncode, request_id))
            elif self._why == BROKEN_OFF and returncode == -SIGKILL:
                self._finish(error_documents.broken_off(request_id))
            else:
                self._finish(error_documents.exited(returncode, request_id))
        elif never_began and self.conversation.state == "Initializing" and not self._why:
            self._cannot_begin(error_documents.exited(returncode, "").document)
        self._has_no_process(init_failed=never_began)

    def _has_no_process(self, *, init_failed: bool) -> None:
        self._initialized = False
        if self._closed is not None:
            self._closed.set()
        else:
            self._reports.reset(self, init_failed=init_failed)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _deliver(self, work: Work) -> None:
        invocation = work.invocation
        self.conversation.deliver(invocation.request_id)
        event = invocation.event()
        self._api.deliver(self._headers(work), event if type(event) is bytes else encode_event(event))

    def _headers(self, work: Work) -> bytes:
        invocation = work.invocation
        now = self._world.clock.now()
        deadline = now + self.function.timeout_seconds - (self._monotonic() - work.began)
        arn = self._arn if invocation.qualifier is None else self._arn_header(invocation.qualifier)
        if invocation.trace_id is None:
            traced = self._new_trace(now, invocation.hops)
        else:
            traced = header(b"Lambda-Runtime-Trace-Id", told(invocation.trace_id, invocation.hops))
        if invocation.client_context is not None:
            traced += header(b"Lambda-Runtime-Client-Context", json.dumps(dict(invocation.client_context)))
        return b"Lambda-Runtime-Aws-Request-Id: %b\r\nLambda-Runtime-Deadline-Ms: %d\r\n%b%b" % (
            one_line(invocation.request_id), deadline * 1000, arn, traced
        )  # fmt: skip

    def _arn_header(self, qualifier: str | None) -> bytes:
        arn = function_arn(self._world.region, self._world.account_id, self.function.name, qualifier)
        return header(b"Lambda-Runtime-Invoked-Function-Arn", arn)

    def _new_trace(self, now: float, hops: int) -> bytes:
        """AWS's form, made of the time, the environment's own chance and a count, with the chain as `recursion.told`
        tells it; nobody samples it."""
        self._delivered += 1
        count, chance = self._delivered & 0xFFFF_FFFF, self._chance
        return b"Lambda-Runtime-Trace-Id: Root=1-%08x-%b%08x;Parent=%b%08x;Sampled=0;Lineage=1:%d\r\n" % (
            int(now), chance[:16], count, chance[24:], count, hops
        )  # fmt: skip

    def _finish(self, outcome: Succeeded | Failed) -> None:
        """The invocation is over: tell its caller. The timer runs on until the runtime asks for the next one."""
        work, self.work = self.work, None
        assert work is not None
        work.environment = None
        outcome.run_seconds = self._monotonic() - work.began
        outcome.executed_version = self.identity.version
        outcome.init_seconds, self.init_seconds = self.init_seconds, None
        if self._invocation_log is not None:
            self._close_log(self._invocation_log, outcome)
        self._reports.answered(self)
        work.end(outcome)

    def _leave(self, outcome: Unavailable) -> None:
        """What it has is given up."""
        work, self.work = self.work, None
        if work is not None:
            work.environment = None
            if self._invocation_log is not None:
                self._close_log(self._invocation_log, outcome)
            work.end(outcome)

    def _close_log(self, log: InvocationLog, outcome: Outcome) -> None:
        """All that was printed up to now belongs to the invocation that ended."""
        if self._process is not None:
            self._process.read_all()
        for lines in self._lines.values():
            for line in lines.close():
                log.line(line.replace("\r", "\n"))
        self._invocation_log = None
        if isinstance(outcome, Failed) and not self._said:
            log.fail(outcome)
        init_seconds = outcome.init_seconds if isinstance(outcome, Succeeded | Failed) else None
        tail = log.close(outcome, maximum_memory_mb=-(-self.memory_bytes // MEGABYTE), init_seconds=init_seconds)
        if isinstance(outcome, Succeeded | Failed):
            outcome.log_tail = tail

    def _set_timer(self, seconds: float, callback: Callable[[], None] | None) -> None:
        """One timer serves deadline after deadline: it is moved when it fires, for most never come to pass."""
        self._when_due, self._due = callback, self._loop.time() + seconds
        if self._timer is not None:
            if callback is not None and self._timer.when() <= self._due:
                return
            self._timer.cancel()
        self._timer = None if callback is None else self._loop.call_at(self._due, self._fired, self._due)

    def _fired(self, at: float) -> None:
        self._timer = None
        if self._when_due is None:
            return
        if at < self._due:
            self._timer = self._loop.call_at(self._due, self._fired, self._due)
        else:
            self._when_due()


def _document(body: bytes, error_type: str) -> Mapping[str, object]:
    """What a runtime says of an error, which is JSON if it keeps to the rules."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return {"errorMessage": body.decode("utf-8", "replace"), "errorType": error_type or "Unknown"}


def _make(temporary: Path) -> None:
    """As they are after a reset, too."""
    with suppress(FileExistsError):
        for folder, mode in ((temporary.parent, 0o711), (temporary, 0o1777)):
            os.mkdir(folder)
            os.chmod(folder, mode)  # whatever umask the engine has


def stored_bytes(folder: Path) -> int:
    """How much is kept below. Blocks."""
    found = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                found += os.lstat(os.path.join(path, name)).st_size
    return found


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
