"""One life of an engine, from start to end: its parts, put together, and the coroutines that run beside the calls.

Decides which part gets which other, and what runs for as long as the engine does. When a life begins and in what order
it ends is `engine.py`'s; what a reference to a queue, stream or destination stands for is `references.py`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lambent.calls import InvokeResponse
from lambent.code_supply import CodeSupply, Needed
from lambent.control import Control
from lambent.desk import REQUEST, SNAPSHOT, Desk, RelayedStream, Request, ask, ask_for_stream
from lambent.destinations import Destinations
from lambent.errors import LambentError, ResourceNotFound, StoreUnavailable
from lambent.logs import Logs
from lambent.model import Backlog, Depth, Function, Message, QueueMapping
from lambent.observing import Observer, Watched
from lambent.polling.feeds import EventFeed, MappingFeed
from lambent.polling.permits import Permits, SharingInvoker
from lambent.polling.queue import QueueLoop
from lambent.polling.stream import ReadAhead, StreamLoop
from lambent.polling.supervisor import Loop, Supervisor, end
from lambent.ports import (
    BuiltinQueue,
    BuiltinStream,
    Clock,
    Connection,
    EventQueue,
    RuntimeSurroundings,
    Store,
    World,
)
from lambent.references import References
from lambent.response_stream import ResponseStream
from lambent.runtimes.in_process import InProcess
from lambent.runtimes.routing import Router
from lambent.semantics import backoff
from lambent.semantics.concurrency import Concurrency
from lambent.semantics.routing import key
from lambent.settings import EngineSettings
from lambent.sources import load_runtime
from lambent.stored import LAYER, code_of_layers
from lambent.stored_mappings import MappingState, StoredMapping
from lambent.telemetry import (
    ABANDONED_HANDLERS,
    INIT_DURATION,
    INVOCATIONS,
    LOG_LINES_LOST,
    OFFSET_LAG,
    OVERRUN_THREADS,
    PROVISIONED_EXECUTIONS,
    PROVISIONED_INVOCATIONS,
    PROVISIONED_UTILIZATION,
    SPILLOVER_INVOCATIONS,
    Telemetry,
)
from lambent.vitals import Vitals
from lambent.watchdog import Watchdog

if TYPE_CHECKING:
    from lambent.log_files import LogFiles

COLLECT_SECONDS: Final = 3600.0  # between two looks for what no function needs
LOOK_SECONDS: Final = 0.02  # between two looks whether calls have ended, while draining


class Life:
    """The parts of an engine that runs. `invoke` is `Engine.invoke_response`, `stream`
    `Engine.invoke_with_response_stream`; `enqueue(function, payload, hops)` stores
    an event; `followed` hears what changed of the functions in the store (None: deleted)."""

    connection: Connection
    events: EventQueue
    invoker: SharingInvoker
    supervisor: Supervisor
    vitals: Vitals
    queue: Callable[[str], BuiltinQueue]
    stream: Callable[[str], BuiltinStream]
    _observer: Observer | None

    def __init__(
        self,
        *,
        control: Control,
        settings: EngineSettings,
        telemetry: Telemetry,
        world: World,
        executor: Callable[[Callable[[], None]], None] | None,
        invoke: Callable[..., Awaitable[InvokeResponse]],
        stream: Callable[..., Awaitable[ResponseStream]],
        enqueue: Callable[[str, bytes, int], Awaitable[None]],
        followed: Callable[[Mapping[str, Function | None]], None],
        log_directory: Path | None = None,
        code_directory: Path | None = None,
    ) -> None:
        self.stopping = asyncio.Event()
        self._control = control
        self._settings = settings
        self._telemetry = telemetry
        self._world = world
        self._invoke = invoke
        self._stream = stream
        self._enqueue = enqueue
        self._followed = followed
        self._closing = AsyncExitStack()
        self._declared = asyncio.Event()
        self._served: set[asyncio.Task[None]] = set()  # end by themselves when `stopping` is set
        self._beside: set[asyncio.Task[None]] = set()  # are ended last
        self._event_feed: EventFeed | None = None
        self._read_ahead = ReadAhead()
        logs = self._kept_logs(log_directory)
        overheard = logs if settings.log_in_process else None
        in_process = InProcess(world=world, threads=settings.threads, executor=executor, logs=overheard)
        self.code = code = CodeSupply(code_directory, world, settings.reload_code)
        self._closing.callback(code.close)
        surroundings = RuntimeSurroundings(
            world,
            telemetry.log,
            logs,
            code.find,
            code.fingerprint,
            settings.reload_code,
            settings.allow_private_destinations,
            partial(telemetry.observe, INIT_DURATION),
            lambda function, spilled: telemetry.count(
                SPILLOVER_INVOCATIONS if spilled else PROVISIONED_INVOCATIONS, function
            ),
            settings.maximum_environments,
            settings.environment_idle_seconds,
        )
        self._runtime = Router(in_process, load_runtime, surroundings)
        self._closing.push_async_callback(self._runtime.close)
        telemetry.gauge(ABANDONED_HANDLERS, in_process.abandoned)
        telemetry.gauge(OVERRUN_THREADS, in_process.overruns)
        use = self._runtime.provisioned_use
        telemetry.gauge(PROVISIONED_EXECUTIONS, lambda: {name: busy for name, (busy, _) in use().items()})
        telemetry.gauge(PROVISIONED_UTILIZATION, lambda: {name: run / max(1, of) for name, (run, of) in use().items()})
        self._concurrency = Concurrency(settings.account_concurrency, shared=True)

    async def open(self, store: Store, handlers: Mapping[str, Callable[..., object] | None]) -> None:
        """Connect, check and publish what is declared, and begin to serve. What fails is raised; `close` follows."""
        control, telemetry, world = self._control, self._telemetry, self._world
        for name, handler in handlers.items():
            self._host(control.functions[name], handler)
        self.connection = await store.connect(world)
        self._closing.push_async_callback(self.connection.close)
        for caution in self.connection.cautions:
            telemetry.log("warning", "the store can lose what it accepted", caution=caution)
        self.connection.on_trouble(lambda trouble: telemetry.log("error", "trouble in the store", trouble=trouble))
        self.events = self.connection.events
        self.code.connect(self.connection.archive)
        control.connect(self.connection.documents)
        self._closing.callback(control.connect, None)
        await control.stored.look()
        if control.stored.deleted:
            await control.stored.forget(await self.events.pending())
        await control.publish()
        await control.learn_destinations(list(control.functions.values()))
        self._permits = Permits(
            concurrency=self._concurrency,
            leases=self.connection.leases,
            lease_seconds=self._settings.lease_seconds,
            telemetry=telemetry,
            world=world,
        )
        self._closing.push_async_callback(self._permits.close)
        self.invoker = SharingInvoker(
            functions=control.functions,
            runtime=self._runtime,
            concurrency=self._concurrency,
            telemetry=telemetry,
            world=world,
        )
        self.invoker.share(self._permits)
        await self._permits.renew()
        self._references = references = References(
            connection=self.connection,
            queues=control.queues,
            streams=control.streams,
            enqueue=self._enqueue,
            allow_private=self._settings.allow_private_destinations,
            closing=self._closing,
            world=world,
        )
        self.queue, self.stream = references.queue, references.stream
        self._destinations = Destinations(resolve=references.destination, telemetry=telemetry, world=world)
        self.supervisor = Supervisor(
            documents=self.connection.documents,
            wanted=self._wanted,
            open_loop=self._open_loop,
            telemetry=telemetry,
            world=world,
        )
        telemetry.gauge(OFFSET_LAG, self.supervisor.lags)
        self._observer = None
        if self._settings.observe_seconds:
            seconds, running = self._settings.observe_seconds, self._concurrency.running
            self._observer = Observer(self.connection.documents, telemetry, running, seconds)
            self._begin(self._beside, "observations", self._observer.run)
        watchdog = Watchdog(telemetry, world.clock, self._settings.watchdog_seconds)
        self.vitals = Vitals(self, lambda: watchdog.blockages, world)
        desk = Desk(
            documents=self.connection.documents,
            hosted=control.functions,
            invoke=self._invoke,
            stream=self._stream,
            follow=self._follow,
            mappings=self._shown,
            health=self.vitals.health,
            telemetry=telemetry,
            world=world,
        )
        await self._follow()
        control.on_declared = self._declared.set
        if self._settings.watchdog_seconds and world.clock.monotonic is time.monotonic:  # not in virtual time
            watchdog.start()
            self._closing.callback(watchdog.stop)
        self._begin(self._served, "events", self._serve_events)
        self._begin(self._served, "supervisor", lambda: self.supervisor.run(self.stopping))
        self._begin(self._served, "desk", lambda: desk.run(self.stopping))
        self._begin(self._beside, "permits", self._permits.run)
        self._begin(self._beside, "what is unused", self._collect)
        if self._settings.health_seconds:
            self._begin(self._beside, "health", partial(self.vitals.run, self._settings.health_seconds))
        self._begin(self._beside, "declarations", self._publish_later)
        self._begin(self._beside, "functions", partial(self._follow_all, "function", self._follow))
        self._begin(self._beside, "queues", partial(self._follow_all, "queue", control.follow_queues))
        self._begin(self._beside, "streams", partial(self._follow_all, "stream", control.follow_streams))

    def host(self, function: Function, handler: Callable[..., object] | None) -> None:
        """Serve a function that is new or was changed."""
        self._host(function, handler)
        self._permits.changed()
        self.supervisor.look()

    def withdraw(self, name: str) -> None:
        """Serve a function no longer: what it reserved is free for others. What runs already ends as it began."""
        self._runtime.withdraw(name)
        self._concurrency.reserve(name, None)
        self._permits.changed()

    async def settled(self) -> None:
        """Everything that was received is settled, and every call from outside has ended; to be awaited after
        `stopping` was set."""
        await asyncio.wait(self._served)
        while self._concurrency.running():  # noqa: ASYNC110  else every call would pay for telling us
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Cancel what runs, hand back what is not settled, release every lease, close the store."""
        self._control.on_declared = lambda: None
        self.stopping.set()
        await end(self._served)
        await end(self._beside)
        await self._closing.aclose()

    # --- for the engine --------------------------------------------------------------------------------------------

    async def more_permits(self) -> bool:
        """Ask the other engines' store for more, if they could have what is missing; has anything come of it?"""
        if not self._permits.short:
            return False
        await self._permits.renew()
        return True

    async def ask(self, function: Function, payload: bytes, **options: Any) -> InvokeResponse:
        """Have another engine invoke it, with the options of `desk.Request`. Raises as `desk.ask`."""
        return await ask(*self._asking(), Request.of(function, payload, asking=1, **options))

    async def ask_for_stream(self, function: Function, payload: bytes, **options: Any) -> RelayedStream:
        """The same with `desk.ask_for_stream`."""
        return await ask_for_stream(*self._asking(), Request.of(function, payload, asking=1, **options))

    def _asking(self) -> tuple[Connection, str, Clock]:
        return self.connection, self._world.new_id(), self._world.clock

    async def mapping_state(self, identity: str) -> MappingState:
        """In which state a mapping is, as this engine sees it. Raises ResourceNotFound."""
        try:
            wanted = await self._control.get_mapping(identity)
        except ResourceNotFound:
            if self.supervisor.runs(identity):
                return "Deleting"
            if identity in self._control.mappings:
                return "Creating"  # declared a moment ago
            raise
        if wanted.mapping.function not in self._control.functions:
            return "Enabled" if wanted.mapping.enabled else "Disabled"  # runs in another engine, if anywhere
        if not self._control.serves(wanted):
            return "Disabled"
        return self.supervisor.state(identity, wanted)

    async def mapping_reaches(self, identity: str, state: MappingState) -> None:
        """Wait until a mapping is in this state."""
        listener = self.supervisor.listen()
        try:
            while await self.mapping_state(identity) != state:
                await listener.wait()
                listener.clear()
        finally:
            self.supervisor.unlisten(listener)

    # --- for its vitals --------------------------------------------------------------------------------------------

    def functions(self) -> Mapping[str, Function]:
        return self._control.functions

    def running(self) -> Mapping[str, int]:
        return self._concurrency.running()

    def calls_done(self, function: str) -> float:
        return self._telemetry.counter(INVOCATIONS).get(function, 0)

    def events_due(self) -> frozenset[str]:
        return frozenset() if self._event_feed is None else self._event_feed.due()

    def mappings(self) -> Mapping[str, tuple[StoredMapping, Mapping[str, object], str]]:
        supervisor = self.supervisor
        return {
            name: (each, supervisor.details(name), supervisor.trouble(name)) for name, each in supervisor.wanted.items()
        }

    def cautions(self) -> Sequence[str]:
        return self._runtime.cautions()

    def environments(self, function: str, version: str) -> Mapping[str, object]:
        return self._runtime.status(key(function, version))

    async def ask_store(self) -> None:
        await self.connection.documents.get(REQUEST, SNAPSHOT)  # there is none: the answer is what counts

    async def depth(self, source: str) -> Depth | None:
        depth: Callable[[], Awaitable[Depth]] | None = getattr(self._references.queue_source(source), "depth", None)
        return None if depth is None else await depth()

    async def backlog(self, source: str, shard: str, position: str) -> int:
        backlog: Callable[[str, str], Awaitable[Backlog]] | None
        backlog = getattr(self._references.stream_source(source), "backlog", None)
        return 0 if backlog is None else (await backlog(shard, position)).records

    # --- what runs -------------------------------------------------------------------------------------------------

    def _host(self, function: Function, handler: Callable[..., object] | None) -> None:
        self._runtime.register(function, handler)
        self._concurrency.reserve(function.name, function.reserved_concurrency)

    def _begin(self, tasks: set[asyncio.Task[None]], name: str, run: Callable[[], Awaitable[None]]) -> None:
        tasks.add(asyncio.create_task(self._keep(name, run), name=f"engine: {name}"))

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Whatever ends one of our coroutines is said aloud, and it begins again after a while."""
        failures, clock = 0, self._world.clock
        while True:
            began = clock.monotonic()
            try:
                return await run()
            except StoreUnavailable as error:
                away = True
                self._telemetry.log("warning", f"{name} ended and begins again", error=error.message)
            except Exception as error:  # noqa: BLE001  one broken part must not end the others
                away = False
                self._telemetry.log("error", f"{name} ended and begins again", exc_info=error)
            if self.stopping.is_set():
                return None
            failures = backoff.in_a_row(failures, clock.monotonic() - began)
            await asyncio.sleep(backoff.restart(failures, away, self._world.random()))

    async def _serve_events(self) -> None:
        self._event_feed = EventFeed(
            self.events, self._control.functions, self._settings.retry_delays_seconds, self._control.stored.deleted
        )
        loop = QueueLoop(self._event_feed, self.invoker, self._destinations, self._telemetry, self._world)
        await loop.run(self.stopping)

    async def _publish_later(self) -> None:
        """What is declared after the start is written as soon as it is declared."""
        while True:
            await self._declared.wait()
            self._declared.clear()
            try:
                await self._control.publish()
            except StoreUnavailable:
                self._declared.set()
                raise
            except LambentError as error:
                self._telemetry.log("error", "what was declared is refused", error=error.message)
            await self._follow()

    async def _collect(self) -> None:
        """Remove versions and code that nothing needs any longer, again and again."""
        while True:
            await self._control.stored.collect()
            await self.code.collect(self._code_needed)
            await asyncio.sleep(COLLECT_SECONDS)

    async def _code_needed(self) -> Needed:
        """By all functions of the store, their versions, and layers."""
        layers = code_of_layers((await self._control.kept(LAYER)).values())
        functions = (await self._control.list_functions()).values()
        found = [function.environment for function in functions]
        found += [version.environment for function in functions for version in function.versions.values()]
        return Needed([each for each in found if each is not None], layers)

    async def _follow_all(self, kind: str, follow: Callable[[], Awaitable[None]]) -> None:
        async for _ in self.connection.documents.watch(kind):
            await follow()

    async def _follow(self) -> None:
        control = self._control
        changes = await control.changed_functions()
        self._followed(changes)
        ours = [each for name, each in changes.items() if each is not None and name in control.functions]
        await control.learn_destinations(ours)
        self.supervisor.look()

    # --- mappings --------------------------------------------------------------------------------------------------

    async def _wanted(self) -> Mapping[str, StoredMapping]:
        stored = await self._control.list_mappings()
        return {name: each for name, each in stored.items() if self._control.serves(each)}

    async def _shown(self) -> dict[str, dict[str, object]]:
        shown: dict[str, dict[str, object]] = {}
        for identity, wanted in (await self._wanted()).items():
            state, details = self.supervisor.state(identity, wanted), self.supervisor.details(identity)
            calls = self._concurrency.running_of(identity)
            shown[identity] = {"revision": wanted.revision, "state": state, "limited_calls": calls, **details}
        return shown

    async def _open_loop(self, stored: StoredMapping) -> Loop:
        mapping = stored.mapping
        await self._control.learn(mapping.source)
        self._telemetry.mappings[stored.id] = mapping.source, mapping.function
        if isinstance(mapping, QueueMapping):
            if self._concurrency.limit_mapping(stored.id, mapping.maximum_concurrency):
                self._permits.changed()
            source, watched = self._references.queue_source(mapping.source), self._watched(stored.id)
            feed = MappingFeed(stored.id, mapping, source, self._control.functions, watched)
            loop = QueueLoop(feed, self.invoker, self._destinations, self._telemetry, self._world)
            return _QueueMappingLoop(loop, feed)
        if mapping.on_failure is not None:
            await self._control.learn(mapping.on_failure)
        return StreamLoop(
            mapping_id=stored.id,
            mapping=mapping,
            source=self._references.stream_source(mapping.source),
            leases=self.connection.leases,
            invoker=self.invoker,
            destinations=self._destinations,
            telemetry=self._telemetry,
            world=self._world,
            lease_seconds=self._settings.lease_seconds,
            read_ahead=self._read_ahead,
            seek=stored.seek,
            watched=self._watched(stored.id),
        )

    def _watched(self, identity: str) -> Watched | None:
        return None if self._observer is None else self._observer.mapping(identity)

    # --- logs ------------------------------------------------------------------------------------------------------

    def _kept_logs(self, directory: Path | None) -> Logs:
        if directory is None:
            return Logs(self._world.clock.now)
        from lambent.log_files import LogFiles  # not every engine has logs

        loop = asyncio.get_running_loop()

        def lost(lines: int, reason: str) -> None:  # in a thread of its own, perhaps after our end
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._telemetry.count, LOG_LINES_LOST, reason, lines)

        files = LogFiles(
            directory,
            owner=self._world.new_id()[:8],
            clock=self._world.clock,
            retention_seconds=self._settings.log_retention_seconds,
            maximum_bytes=self._settings.log_maximum_bytes,
            trouble=lost,
        )
        self._closing.push_async_callback(_close, files)
        return Logs(self._world.clock.now, files.keep)


class _QueueMappingLoop:
    """A queue loop with what can be seen of its mapping."""

    def __init__(self, loop: QueueLoop[Message], feed: MappingFeed) -> None:
        self.run = loop.run
        self._feed = feed

    def state(self) -> dict[str, object]:
        return self._feed.state()


async def _close(files: LogFiles) -> None:
    if files.busy:  # it writes what is left
        await asyncio.to_thread(files.close)
