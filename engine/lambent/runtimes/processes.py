"""Functions with an environment, each in processes of its own: a shell around `semantics/fleet.py`.

Decides nothing about pools: it performs steps and reports what became of them. Fetches the code of a function once for
each configuration, samples memory while something runs, and keeps the places of all environments under one folder that
goes with the engine. Linux only: /proc and pidfds tell whose a connection is and when a process ends.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Final, assert_never

from lambent.errors import InvalidParameterValue, LambentError
from lambent.model import LATEST, Failed, Function, Invocation, Outcome, Unavailable
from lambent.ports import Call, CodePlaces, Respond, RuntimeSurroundings
from lambent.runtimes import cgroups
from lambent.runtimes.beginning import Launcher
from lambent.runtimes.environments import OUT_OF_MEMORY, STOPPED, Environment, Work, stored_bytes
from lambent.runtimes.fetching import fetch
from lambent.runtimes.launching import CannotBegin, Identity, isolation
from lambent.semantics.fleet import Fleet, Refuse, Run, Start, Step, Stop
from lambent.semantics.routing import key

BUSY_SECONDS: Final = 0.25
"""Between two looks at the memory of what runs."""
STORAGE_TICKS: Final = 4
"""Of these looks, until one is at what it keeps in /tmp."""
IDLE_SECONDS: Final = 5.0
"""Between two looks at what is idle, if nothing runs."""


class Processes:
    """An EnvironmentRuntime for the families python, nodejs and provided."""

    def __init__(self, surroundings: RuntimeSurroundings) -> None:
        """Raises InvalidParameterValue on a system without pidfds."""
        if sys.platform != "linux":
            raise InvalidParameterValue("functions with an environment run on Linux only, as yet")
        self._surroundings = surroundings
        self._world = surroundings.world
        self._log = surroundings.log
        self._logs = surroundings.logs
        self._initialized = surroundings.initialized
        self._provisioned = surroundings.provisioned
        self._monotonic = surroundings.world.clock.monotonic
        self._loop = asyncio.get_running_loop()
        own = isolation()
        self._fleet: Fleet[Work] = Fleet(surroundings.maximum_environments, surroundings.idle_seconds)
        self._functions: dict[str, _Registered] = {}
        self._environments: dict[int, Environment] = {}
        self._launcher = Launcher(cgroups.ground(), dropping=own.dropping and own.mounting != "user")
        self._busy: set[Environment] = set()  # also those that begin
        self._tasks: set[asyncio.Task[None]] = set()
        self._folder: Path | None = None
        self._cautions = [*own.gaps, *cgroups.gaps()]
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._ticks = 0
        self._closed = False

    # --- EnvironmentRuntime ------------------------------------------------------------------------------------------

    def register(self, function: Function) -> None:
        """See `ports.EnvironmentRuntime`. Of a change that no process notices what is warm stays warm."""
        environment = function.environment
        assert environment is not None
        name = key(function.name, function.version)
        known = self._functions.get(name)
        if known is None or _surroundings_of(known.function) != _surroundings_of(function):
            self._renew(function)
            return
        known.function = function
        self._perform(self._fleet.provision(name, self._monotonic(), environment.provisioned_concurrency))

    def _renew(self, function: Function) -> None:
        """What runs finishes on what it began with; everything else begins anew."""
        environment = function.environment
        assert environment is not None
        name = key(function.name, function.version)
        self._functions[name] = _Registered(function)
        steps = self._fleet.configure(
            name, self._monotonic(), environment.provisioned_concurrency, environment.recycle_after
        )
        self._perform(steps)
        self._tick_later()

    def withdraw(self, name: str) -> None:
        """See `ports.EnvironmentRuntime`."""
        if self._functions.pop(name, None) is not None:
            for work in self._fleet.give_up(name):
                work.end(Unavailable(f"function {name!r} is served here no longer"))
            self._perform(self._fleet.withdraw(name))

    def start(
        self,
        invocation: Invocation,
        ended: Callable[[Outcome], None],
        started: Callable[[], None],
        respond: Respond,
    ) -> Call:
        """See `ports.Runtime.start`. The deadline begins when an environment takes it, perhaps after an init."""
        name = _key(invocation)
        registered = self._functions.get(name)
        work = Work(invocation, ended, started, respond, self._give_up)
        if registered is None or self._closed:
            work.end(STOPPED if self._closed else Unavailable(f"function {invocation.function!r} is not served here"))
            return work
        if self._surroundings.reload_code:
            self._keep(self._look_and_call(registered, work), f"function {invocation.function}: look at its code")
        else:
            self._perform(self._fleet.call(name, work, self._monotonic()))
        return work

    async def close(self) -> None:
        """See `ports.Runtime.close`. Every process ends, and every file of theirs goes."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for name in list(self._functions):
            for work in self._fleet.give_up(name):
                work.end(STOPPED)
        if self._tasks:
            await asyncio.wait(self._tasks)  # what is being made is made, and then ended
        for number in list(self._environments):
            self._stop(number)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._loop.run_in_executor(None, self._launcher.close)
        if self._folder is not None:
            await self._loop.run_in_executor(None, shutil.rmtree, self._folder, True)

    def status(self, name: str) -> Mapping[str, object]:
        """Of a function that is served here: how many environments begin, are warm, were reset (`cold`) or run; how
        many invocations wait for one; how far its provisioned concurrency is, in AWS's words, and how many invocations
        it had no room for."""
        fleet = self._fleet
        status, wanted, ready = fleet.provisioned(name)
        provisioned = {"status": status, "wanted": wanted, "ready": ready, "spilled": fleet.spilled(name)}
        return {**fleet.counts(name), "waiting": fleet.waiting(name), "provisioned": provisioned}

    def provisioned_use(self) -> Mapping[str, tuple[int, int]]:
        """Of each function with provisioned concurrency, all versions together: how many of those environments run an
        invocation, of how many that are ready."""
        found: dict[str, tuple[int, int]] = {}
        for name, registered in self._functions.items():
            if self._fleet.provisioned(name)[1]:
                busy, ready = self._fleet.provisioned_use(name)
                before = found.get(registered.function.name, (0, 0))
                found[registered.function.name] = before[0] + busy, before[1] + ready
        return found

    def cautions(self) -> Sequence[str]:
        """What this machine does not allow, each a sentence."""
        return self._cautions

    async def _look_and_call(self, registered: _Registered, work: Work) -> None:
        """If its code is another now, it is as if the function had been changed: what runs ends on the old one."""
        if await registered.changed(self._surroundings) and self._functions.get(_key(work.invocation)) is registered:
            self._renew(registered.function)
        if work.tell is None:
            return
        if _key(work.invocation) not in self._functions or self._closed:
            work.end(STOPPED)
        else:
            self._perform(self._fleet.call(_key(work.invocation), work, self._monotonic()))

    # --- performing --------------------------------------------------------------------------------------------------

    def _perform(self, steps: list[Step[Work]]) -> None:
        for step in steps:
            match step:
                case Run(number, work, spilled):
                    environment = self._environments[number]
                    if spilled or self._fleet.is_provisioned(number):
                        self._provisioned(environment.function.name, spilled)
                    self._is_busy(environment)
                    environment.take(work)
                case Start(number, function, provisioned):
                    opening = self._open(number, self._functions[function], provisioned)
                    self._keep(opening, f"environment {number}: open")
                case Stop(number):
                    self._stop(number)
                case Refuse(work):
                    work.end(self._functions[_key(work.invocation)].refusal())
                case _:
                    assert_never(step)

    async def _open(self, number: int, registered: _Registered, provisioned: bool) -> None:
        function = registered.function
        environment: Environment | None = None
        try:
            folder = self._scratch()
            code = await registered.code(self._surroundings, folder / f"code-{number}")
            now = datetime.fromtimestamp(self._world.clock.now(), UTC)
            stream = f"{now:%Y/%m/%d}/[{function.version}]{self._world.new_id().replace('-', '')}"
            environment = Environment(
                number,
                function,
                Identity(self._world.region, stream, provisioned, function.version),
                self._logs.open(function, stream),
                folder / str(number),
                self,
                self._launcher,
                self._world,
            )
            self._environments[number] = environment
            self._is_busy(environment)
            if self._closed:
                return
            await environment.open(code)
        except (CannotBegin, OSError) as error:
            kind = error.error_type if isinstance(error, CannotBegin) else "Runtime.InvalidEntrypoint"
            document = {"errorType": kind, "errorMessage": str(error), "requestId": "", "stackTrace": []}
            registered.init_error = document
            self._log("error", "an environment cannot be made", function=function.name, reason=str(error))
            if environment is not None:
                self._environments.pop(number)
                self._busy.discard(environment)
                await environment.close()
            for work in self._fleet.give_up(key(function.name, function.version)):
                work.end(registered.refusal())
            self._perform(self._fleet.reset(number, self._monotonic(), init_failed=True))

    def _is_busy(self, environment: Environment) -> None:
        if environment not in self._busy:
            self._busy.add(environment)
            if len(self._busy) == 1:
                self._tick_later()

    def _scratch(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="lambent-"))
            self._folder.chmod(0o711)
        return self._folder

    def _stop(self, number: int) -> None:
        if (environment := self._environments.pop(number, None)) is not None:
            self._busy.discard(environment)
            self._keep(environment.close(), f"environment {number}: close")

    def _give_up(self, work: Work) -> None:
        if work.environment is not None:
            work.environment.drop()
        else:
            self._fleet.cancel(_key(work.invocation), work)

    def _keep(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        task = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log("error", f"{task.get_name()} ended", exc_info=error)

    # --- what becomes of environments (environments.Reports) ---------------------------------------------------------

    def initialized(self, environment: Environment, seconds: float) -> None:
        self._initialized(environment.function.name, seconds)

    def cautioned(self, environment: Environment, caution: str) -> None:
        said = f"{environment.function.name}: {caution}"
        if said not in self._cautions:
            self._cautions.append(said)
            self._log("warning", caution, function=environment.function.name)

    def ready(self, environment: Environment) -> None:
        if environment.number in self._environments:
            self._perform(self._fleet.ready(environment.number, self._monotonic()))
            if environment.work is None:
                self._busy.discard(environment)

    def answered(self, environment: Environment) -> None:
        if environment.number in self._environments:
            self._fleet.answered(environment.number, self._monotonic())

    def reset(self, environment: Environment, *, init_failed: bool) -> None:
        if environment.full:
            self._stop(environment.number)
            self._perform(self._fleet.gone(environment.number, self._monotonic()))
        elif environment.number in self._environments:
            self._busy.discard(environment)
            self._perform(self._fleet.reset(environment.number, self._monotonic(), init_failed=init_failed))

    def failed_to_begin(self, environment: Environment, document: Mapping[str, object]) -> None:
        function = environment.function
        if (registered := self._functions.get(key(function.name, function.version))) is not None:
            registered.init_error = document
        self._log("warning", "an init failed", function=environment.function.name, error=document.get("errorType"))

    async def _measure_storage(self, environment: Environment) -> None:
        assert environment.function.environment is not None
        limit = environment.function.environment.ephemeral_storage_mb * 1024 * 1024
        if await self._loop.run_in_executor(None, stored_bytes, environment.temporary) > limit:
            environment.full = True
            environment.kill("it kept too much")
            self._log("warning", "an environment kept more in /tmp than it may", function=environment.function.name)

    # --- time --------------------------------------------------------------------------------------------------------

    def _tick_later(self) -> None:
        """Often while something runs; an engine whose environments are idle is idle, too."""
        if self._closed:
            return
        at = self._loop.time() + (BUSY_SECONDS if self._busy else IDLE_SECONDS)
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self._loop.call_at(at, self._tick), at

    def _tick(self) -> None:
        self._timer, self._timer_at = None, inf
        self._ticks += 1
        for environment in list(self._busy):
            if self._ticks % STORAGE_TICKS == 0:
                self._keep(self._measure_storage(environment), f"environment {environment.number}: measure")
            if environment.exceeds_memory():
                environment.kill(OUT_OF_MEMORY)
                self._log("warning", "an environment used more memory than it has", function=environment.function.name)
        self._perform(self._fleet.tick(self._monotonic()))
        self._tick_later()


def _surroundings_of(function: Function) -> tuple[object, ...]:
    """All of its configuration that an environment is made of."""
    assert function.environment is not None
    environment = function.environment.model_copy(update={"provisioned_concurrency": 0})
    return environment, function.timeout_seconds, function.memory_size_mb


def _key(invocation: Invocation) -> str:
    version = invocation.version
    return invocation.function if version == LATEST else key(invocation.function, version)


class _Registered:
    """A function as it is configured now, and what is known of its code."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.init_error: Mapping[str, object] = {}
        self._fetching: asyncio.Future[CodePlaces] | None = None

    async def code(self, surroundings: RuntimeSurroundings, scratch: Path) -> CodePlaces:
        """Fetched once; after a failure again. Raises CannotBegin, OSError."""
        assert self.function.environment is not None
        if self._fetching is None or (self._fetching.done() and self._fetching.exception() is not None):
            loop = asyncio.get_running_loop()
            self._fetching = loop.run_in_executor(None, fetch, surroundings, self.function.environment, scratch)
        return await asyncio.shield(self._fetching)

    async def changed(self, surroundings: RuntimeSurroundings) -> bool:
        """Is the code another than what was fetched? Not, if there is none to be found now."""
        fetching, environment = self._fetching, self.function.environment
        assert environment is not None
        if fetching is None or not fetching.done() or fetching.exception() is not None:
            return False
        try:
            now = await asyncio.to_thread(surroundings.code_fingerprint, environment)
        except LambentError:
            return False
        return now != fetching.result().fingerprint

    def refusal(self) -> Failed:
        """What an invocation gets that is not even tried."""
        return Failed(self.init_error)
