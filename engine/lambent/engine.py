"""The engine: what is called, started and ended.

Decides which calls are taken in which state, what a caller meets of an outcome, and in what order we shut down
(`drain`). What it is told is in `declaring.py` and, once it runs, in `changing.py`; its parts are put together in
`life.py`. Everything about meaning is decided below: what fits together in `consistency.py`, what may start in
`semantics/concurrency.py`, what follows from an outcome in `semantics/`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

from lambent.calls import InvokeResponse, check_context, collects_tail, in_bytes, new_event, payload_bytes, response_of
from lambent.changing import Changes
from lambent.context import CURRENT
from lambent.control import Control
from lambent.declaring import Hosted
from lambent.desk import RelayedStream
from lambent.errors import (
    EngineStopped,
    FunctionError,
    InvalidParameterValue,
    LambentError,
    RecursiveInvocation,
    ResourceNotFound,
    TooManyRequests,
)
from lambent.invoker import value_of
from lambent.life import Life
from lambent.model import (
    LATEST,
    MAXIMUM_ASYNC_PAYLOAD_BYTES,
    Event,
    EventFact,
    Failed,
    Function,
    Invocation,
    Outcome,
    Succeeded,
    Throttled,
)
from lambent.options import EngineOptions
from lambent.payload import NO_PAYLOAD, check_payload, encode_payload
from lambent.ports import Clock, Store, World
from lambent.response_stream import ResponseStream, begin
from lambent.semantics.health import Health
from lambent.semantics.recursion import refused
from lambent.semantics.routing import known
from lambent.settings import EngineSettings
from lambent.signals import serve
from lambent.sources import beside, load_store
from lambent.stored_functions import NOT_STARTED
from lambent.telemetry import ASYNC_EVENTS_RECEIVED, RECURSIVE_INVOCATIONS_DROPPED, Telemetry
from lambent.validation import validated
from lambent.world import SystemClock, ids_of

if TYPE_CHECKING:
    from lambent.code_supply import CodeSupply
    from lambent.semantics.advising import Advice, Sweep
    from lambent.semantics.auditing import Audit
    from lambent.semantics.explaining import Explanation

T = TypeVar("T")
NOTICE_SECONDS: Final = 1.0  # after the start: the first line that is logged loads structlog, a quarter of the start


class Engine(Changes):
    """Functions, their queues, streams and mappings, and the calls to them. Opens nothing until it is started.

    store: where everything durable lives; None is a store in memory of its own.
    settings: an `EngineSettings`, or its fields as keywords.
    clock, random or seed: time and chance; by default the machine's.
    executor: what runs plain functions instead of daemon threads (a simulation runs them inline)."""

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        seed: int | None = None,
        telemetry: Telemetry | None = None,
        executor: Callable[[Callable[[], None]], None] | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        if settings is not None and options:
            raise InvalidParameterValue(f"settings and {', '.join(sorted(options))} are given: give one or the other")
        if settings is not None and not isinstance(settings, EngineSettings):
            raise InvalidParameterValue(f"settings: {settings!r} is not allowed; it must be an EngineSettings or None")
        self.settings = settings = settings or validated(EngineSettings, options, "the engine")
        clock = clock or SystemClock()
        super().__init__(Control(settings, clock), clock)
        self.telemetry = telemetry or Telemetry()
        self.control.log = self.telemetry.log
        self.store = load_store(store)
        self._in_memory_by_default = store is None
        self._chance = random or Random(seed)
        self._executor = executor
        self._life = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that it was started in, last
        self._notice: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._closed = True  # to calls from outside

    def __repr__(self) -> str:
        state = "not started" if self._life is None else "draining" if self._closed else "serving"
        return f"<Engine on {self.store}, {state}, functions: {', '.join(self.control.functions) or 'none'}>"

    def health(self) -> Health:
        """How this engine is, as of its last look at itself (every `health_seconds`): red if what waits does not get
        done. `health().document()` is JSON, for a route of your own.

        Raises EngineStopped if it is not started, or drains."""
        life = self._living()
        if self._closed:
            raise EngineStopped("The engine is being stopped and takes no new work.")
        return life.vitals.health()

    # --- calling ---------------------------------------------------------------------------------------------------

    async def invoke(
        self,
        function: Callable[..., object] | str,
        payload: object = NO_PAYLOAD,
        *,
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> Any:
        """Call a function and wait for its value. `payload` is a value, or bytes of JSON; without any it is `{}`.

        Raises FunctionError with AWS's document if the handler fails, TooManyRequests, ResourceNotFound,
        InvalidRequestContent, RequestTooLarge above 6 MB, RecursiveInvocation, EngineStopped."""
        hosted = self._hosted.get(function)
        if hosted is None or qualifier is not None:
            hosted = self._find(function, qualifier)
        invocation = self._invocation(hosted, payload, qualifier, client_context)
        outcome = await self._invoker.invoke(invocation)
        if type(outcome) is Throttled:
            outcome = await self._once_more(invocation, outcome)
        if type(outcome) is Succeeded:
            return value_of(outcome)
        raise self._error(outcome, invocation)

    async def invoke_response(
        self,
        function: Callable[..., object] | str,
        payload: object = NO_PAYLOAD,
        *,
        log_type: str = "None",
        dry_run: bool = False,
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> InvokeResponse:
        """As `invoke`, but answers as boto3 does: a failure of the handler is a response with `function_error` and
        AWS's document as payload. `log_type="Tail"` collects the last 4 KB of its log; `dry_run` only checks."""
        tail = collects_tail(log_type)
        invocation = self._invocation(self._find(function, qualifier), payload, qualifier, client_context)
        if dry_run:
            return InvokeResponse(204, invocation.request_id)
        invocation.tail = tail
        outcome = await self._invoker.invoke(invocation)
        if isinstance(outcome, Throttled):
            outcome = await self._once_more(invocation, outcome)
        outcome = in_bytes(outcome, invocation.request_id)
        if isinstance(outcome, Succeeded | Failed):
            return response_of(outcome, invocation.request_id)
        raise self._error(outcome, invocation)

    async def invoke_with_response_stream(
        self,
        function: Callable[..., object] | str,
        payload: object = NO_PAYLOAD,
        *,
        log_type: str = "None",
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> ResponseStream:
        """As `invoke`, but gives the answer while the function still makes it: iterate over it for bytes, up to 200 MB.
        What the handler did is raised by the iteration; this raises the rest of what `invoke` does."""
        tail = collects_tail(log_type)
        invocation = self._invocation(self._find(function, qualifier), payload, qualifier, client_context)
        invocation.tail, invocation.streamed = tail, True
        if self._life is not None and not self._invoker.room(invocation.function):
            await self._life.more_permits()
        return begin(self._invoker, invocation, self._error)

    async def invoke_elsewhere(self, function: Function, payload: bytes, **options: Any) -> InvokeResponse:
        """Have another engine of the store call a function that this one does not host: see `Life.ask`."""
        return await self._living().ask(function, payload, **options)

    async def stream_elsewhere(self, function: Function, payload: bytes, **options: Any) -> RelayedStream:
        """The same, for an answer that is read while the function still gives it."""
        return await self._living().ask_for_stream(function, payload, **options)

    async def invoke_async(
        self,
        function: Callable[..., object] | str,
        payload: object = NO_PAYLOAD,
        *,
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> str:
        """Store an event for a function, durably; gives its request id. The function runs later, with retries; it may
        live in another engine of the store.

        Raises ResourceNotFound, InvalidRequestContent, RequestTooLarge above 1 MB, StoreUnavailable, EngineStopped."""
        life = self._open()
        try:
            name = self._find(function, qualifier).name
        except ResourceNotFound:
            if not isinstance(function, str):
                raise
            try:
                stored = await self.control.get_function(function)
                if not known(stored, qualifier):
                    raise ResourceNotFound(function)
                name = stored.name
            except ResourceNotFound:
                raise self._not_found(function, qualifier) from None
        body = payload_bytes(payload, MAXIMUM_ASYNC_PAYLOAD_BYTES)
        event = new_event(self._new_id(), name, body, self._clock.now(), qualifier, client_context)
        await life.events.put_many([event])
        self.telemetry.count(ASYNC_EVENTS_RECEIVED, name)
        return event.request_id

    async def event(self, request_id: str) -> EventFact:
        """Where an asynchronous event is: when it is due and because of what it waits, or how it ended, with the answer
        or the error document. Raises ResourceNotFound, StoreUnavailable."""
        from lambent import inspection  # loads what only those need who ask

        return await inspection.event(self._living().connection, request_id)

    async def why(self, id: str) -> Sequence[Explanation]:
        """Where an item is, and because of what: an asynchronous event by its request id, a message by its id, a record
        by its sequence number (or `shardId:sequenceNumber`). One explanation for each mapping that reads it."""
        from lambent import inspection

        return await inspection.why(self.control, self._living().connection, id, self._clock.now())

    async def audit(self, mapping: str) -> Audit:
        """The books of a stream mapping, by its id: what came, and what became of it. Raises ResourceNotFound,
        InvalidParameterValue for the mapping of a queue."""
        from lambent import inspection

        return await inspection.audit(self.control, self._living().connection, mapping)

    async def advise(self) -> tuple[list[Advice], list[Sweep]]:
        """Settings that lose time or events, as far as the traffic that was observed shows, and what that rests on."""
        from lambent import inspection

        return await inspection.advise(self.control, self._living().connection)

    async def _once_more(self, invocation: Invocation, throttled: Throttled) -> Outcome:
        """Other engines may hold what is missing: a caller waits for one question, and no longer. Looking for room
        first keeps one call from counting as two throttles."""
        if self._life is not None and await self._life.more_permits() and self._invoker.room(invocation.function):
            return await self._invoker.invoke(invocation)
        return throttled

    def _invocation(
        self, hosted: Hosted, payload: object, qualifier: str | None, client_context: Mapping[str, object] | None
    ) -> Invocation:
        if type(payload) is bytes:
            payload = check_payload(payload)
        elif not hosted.by_reference:
            payload = encode_payload(payload)
        if client_context is not None:
            check_context(client_context)
        if asyncio.get_running_loop() is not self._loop:
            self._open()
        caller = CURRENT.get()
        if caller is None:
            if self._closed:
                self._open()
            return Invocation(self._new_id(), hosted.name, payload, qualifier, 1, None, client_context)
        function = self.control.functions[hosted.name]
        if refused(caller.hops, function):
            self.telemetry.count(RECURSIVE_INVOCATIONS_DROPPED, hosted.name)
            raise RecursiveInvocation(
                f"The function {hosted.name} was called by itself, through others, {caller.hops} times "
                '(recursive_loop="Allow" permits it).'
            )
        return Invocation(
            self._new_id(), hosted.name, payload, qualifier, caller.hops + 1, caller.trace_id, client_context
        )

    async def _enqueue(self, name: str, payload: bytes, hops: int) -> None:
        """An event that a destination makes of a record. At the end of a chain it is refused here and not only where it
        would run: its failure would be the next report, and so on."""
        function = self.control.functions.get(name) or await self.control.get_function(name)
        if refused(hops, function):
            self.telemetry.count(RECURSIVE_INVOCATIONS_DROPPED, name)
            raise RecursiveInvocation(f"The function {name} is called on and on by what is reported to it.")
        life = self._living()
        await life.events.put_many([Event(self._new_id(), name, payload, self._clock.now(), hops=hops)])
        self.telemetry.count(ASYNC_EVENTS_RECEIVED, name)

    def _error(self, outcome: Outcome, invocation: Invocation) -> LambentError:
        if isinstance(outcome, Failed):
            return FunctionError(outcome.document, invocation.request_id)
        if isinstance(outcome, Throttled):
            return TooManyRequests(outcome.reason)
        assert not isinstance(outcome, Succeeded)
        return EngineStopped(outcome.reason) if self._closed else LambentError(outcome.reason)

    def environments(self, function: str, version: str = LATEST) -> Mapping[str, object]:
        """Of a version of a function whose code is elsewhere: how many environments begin (`starting`), are `warm`,
        were reset (`cold`) or are `busy` in this engine, how many invocations wait for one, and how far its
        `provisioned` concurrency is: {"status": "READY", "wanted": 2, "ready": 2, "spilled": 0}. Raises
        ResourceNotFound."""
        return self._living().environments(self._find(function, version).name, version)

    def store_in(self, store: str | Store, *, unless_named: bool = False) -> None:
        """Keep everything there instead; `unless_named`: only if the engine was made without a store. Before the start.

        Raises InvalidParameterValue if there is no such store, EngineStopped while the engine runs."""
        if self._life is not None:
            raise EngineStopped("The engine is started: its store stays until it is stopped.")
        if not unless_named or self._in_memory_by_default:
            self.store = load_store(store)
            self._in_memory_by_default = False

    # --- lifecycle -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, publish what is declared, and begin to serve. Raises what is wrong with the configuration."""
        if self._life is not None:
            raise EngineStopped("The engine is started already; one engine runs once at a time.")
        self._loop = asyncio.get_running_loop()
        self._new_id = ids_of(self._chance)
        self._hurry = asyncio.Event()
        world = World(
            owner=self._new_id(),
            clock=self._clock,
            random=self._chance.random,
            new_id=self._new_id,
            region=self.settings.region,
            account_id=self.settings.account_id,
        )
        life = self._life = Life(
            control=self.control,
            settings=self.settings,
            telemetry=self.telemetry,
            world=world,
            executor=self._executor,
            invoke=self.invoke_response,
            stream=self.invoke_with_response_stream,
            enqueue=self._enqueue,
            followed=self._followed,
            log_directory=Path(named) if (named := self.settings.log_directory) else beside(self.store, "logs"),
            code_directory=Path(named) if (named := self.settings.code_directory) else beside(self.store, "code"),
        )
        try:
            await life.open(self.store, self._handlers)
        except BaseException:
            self._life = None
            await life.close()
            raise
        if self._in_memory_by_default:
            self._notice = self._loop.call_later(NOTICE_SECONDS, self._tell_that_nothing_stays)
        self._invoker = life.invoker
        self._ending = None
        self._closed = False

    async def drain(self) -> None:
        """Stop kindly: (1) refuse new work and receive nothing more; (2) let what is in flight settle, for at most
        `drain_seconds`; (3) cancel the rest, hand back what is not settled, release leases, close the store.

        A call of `stop`, or its own cancellation, goes on with (3) at once."""
        await self._end()

    async def stop(self) -> None:
        """Stop at once: (1) and (3) of `drain`. Nothing is lost: what was in flight is done again later."""
        if self._life is not None:
            self.hurry()
        await self._end()

    async def _end(self) -> None:
        life = self._life
        if life is None:
            return
        if self._ending is None:
            self._ending = asyncio.create_task(self._finish(life), name="engine: drain")
        ending, cancelled = self._ending, False
        while not ending.done():
            try:
                await asyncio.wait({ending})
            except asyncio.CancelledError:
                cancelled = True
                self._hurry.set()
        if cancelled:
            raise asyncio.CancelledError
        ending.result()

    async def _finish(self, life: Life) -> None:
        self._closed = True
        if self._notice is not None:
            self._notice.cancel()
        life.stopping.set()
        settling = asyncio.create_task(life.settled(), name="engine: settle")
        hurrying = asyncio.create_task(self._hurry.wait(), name="engine: hurry")
        try:
            await asyncio.wait(
                {settling, hurrying}, timeout=self.settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            settling.cancel()
            hurrying.cancel()
            await asyncio.wait({settling, hurrying})
            await life.close()
            self._life = None
            self._leave_adopted()

    async def __aenter__(self) -> Engine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """For Starlette and FastAPI: `Starlette(lifespan=engine.lifespan)`."""
        async with self:
            yield

    def run(
        self, main: Callable[[], Awaitable[object]] | None = None, *, told: Callable[[bool], None] = lambda again: None
    ) -> int | None:
        """Serve until SIGTERM or SIGINT, as the last line of a script; the first signal drains, a second stops at once.

        With `main`, serve while this coroutine function runs, and drain when it returns. `told(again)` is called at
        each signal; `again`: it is not the first. Gives the number of the signal that stopped it at once, None if it
        drained."""
        if threading.current_thread() is not threading.main_thread():
            raise EngineStopped("engine.run() handles signals: call it in the main thread, or use `async with engine:`")
        if _running_loop() is not None:
            raise EngineStopped("engine.run() starts an event loop, and is in one already: use `async with engine:`")
        return asyncio.run(serve(self, main, told))

    def hurry(self) -> None:
        """Let a drain that is under way go on with (3) at once."""
        self._hurry.set()

    def from_thread(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """For plain functions, which run in threads: have the engine's loop do something, and wait for what it gives,
        as in `engine.from_thread(orders.send(order))`. Raises EngineStopped (also in a simulation, where plain
        functions run in the loop), and what the coroutine raises."""
        if self._loop is None or self._life is None or _running_loop() is self._loop:
            coroutine.close()
            raise EngineStopped(NOT_STARTED if self._life is None else "This is the engine's own loop: await it there.")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @property
    def code(self) -> CodeSupply:
        """The code that was uploaded. Raises EngineStopped if the engine is not started."""
        return self._living().code

    def now(self) -> float:
        """The engine's time, in epoch seconds."""
        return self._clock.now()

    def new_id(self) -> str:
        """A lower-case uuid4, from the engine's chance. Only once it is started."""
        return self._new_id()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _host(self, function: Function, handler: Callable[..., object] | None) -> None:
        if self._life is not None:
            self._life.host(function, handler)

    def _withdraw(self, name: str) -> None:
        if self._life is not None:
            self._life.withdraw(name)

    def _tell_that_nothing_stays(self) -> None:
        self.telemetry.log("info", "the store is in memory: what it holds ends with this process")

    def _open(self) -> Life:
        """The engine's life, if it takes work: in its own loop, and while it drains, only from its own handlers."""
        life = self._living()
        if asyncio.get_running_loop() is not self._loop:
            raise EngineStopped(
                "The engine runs in another event loop: from a thread, write engine.from_thread(engine.invoke(…))."
            )
        if self._closed and CURRENT.get() is None:
            raise EngineStopped("The engine is being stopped and takes no new work.")
        return life

    def _followed(self, changes: Mapping[str, Function | None]) -> None:
        """Another client changed functions in the store."""
        for name, function in changes.items():
            self.follow(name, function, self.control.stored.made)

    def _find(self, function: Callable[..., object] | str, qualifier: str | None) -> Hosted:
        hosted = self._hosted.get(function)
        if hosted is None or not known(self.control.functions[hosted.name], qualifier):
            raise self._not_found(function, qualifier)
        return hosted

    def _not_found(self, function: Callable[..., object] | str, qualifier: str | None) -> ResourceNotFound:
        name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        advice = "" if isinstance(function, str) or function in self._hosted else " (decorate it with @engine.function)"
        return ResourceNotFound(f"Function not found: {self.control.function_arn(name, qualifier or LATEST)}{advice}")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
