"""A simulated day of one to three engines over one store in memory: the production code, on virtual time, from a seed.

Decides which engine is killed, cut off, paused, drained or restarted when, what may fail meanwhile (`faults.py` does
it), when all must have come to an end, and what is audited then. What comes in is `workload.py`'s, what was seen
`witness.py`'s, and whether it was allowed `history.py`'s. The store is the world outside of all engines: it stays.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final, cast

from structlog.testing import capture_logs

from lambent.destinations import DESTINATION_RETRY_SECONDS
from lambent.engine import Engine
from lambent.errors import EngineStopped, FunctionError, LambentError, StoreUnavailable, TooManyRequests
from lambent.model import Delete, Message, Put, Queue, Send, Stream
from lambent.ports import World
from lambent.testing.audit import audit, once
from lambent.testing.faults import CLEAR, Fault, Faults, FaultyConnection, FaultyStore
from lambent.testing.grounds import GroundName, at_once, ground, reshard
from lambent.testing.groups import Group, GroupedGround, GroupMember
from lambent.testing.history import History, check
from lambent.testing.loop import PROCESS, Deadlock, TraceHash, VirtualClock, VirtualLoop, describe, run, with_process
from lambent.testing.weather import CLIMATES, Blow, blows
from lambent.testing.witness import Witness, stream_items
from lambent.testing.workload import Operation, Workload, workload

__all__ = ["Blow", "Result", "Simulation"]

DRAIN_SECONDS: Final = 7200.0
"""Virtual seconds without faults after which everything must have ended: longer than any claim, retry or outage."""

JUST_BEFORE: Final = 1e-6
"""Seconds before its deadline at which a handler that hangs counts as ended: it is cancelled only after that."""

MAXIMUM_STEPS: Final = 1_000_000
"""Steps of the loop after which something must go round in circles."""

GIVEN_UP: Final = "a result was not delivered"
"""The one error that an engine may log: a destination was away for too long."""

PATIENCE_SECONDS: Final = 60
"""Virtual seconds within which a free permit is found."""

AGREEMENT_SECONDS: Final = 120
"""Virtual seconds within which a group comes to rest, and every lease to whom it is assigned."""

LAST_STEPS: Final = 60
"""Steps that a failure's report shows."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a simulated day went. `problems` are broken promises, each a sentence; none is a pass."""

    seed: int
    problems: Sequence[str]
    steps: int
    virtual_seconds: float
    runs: int  # of handlers
    faults: Mapping[str, int]
    points: Sequence[str]  # every call of a store by the engines, in order
    trace: str = ""
    last_steps: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class _Host:
    """A machine: one engine at a time, each with a process of its own."""

    number: int
    lives: int = 0
    engine: Engine | None = None
    leaving: asyncio.Future[str] | None = None
    task: asyncio.Task[None] | None = None

    @property
    def process(self) -> str:
        return f"engine-{self.number}/{self.lives}"


@dataclass(slots=True)
class Simulation:
    """One seed. `calm`: no faults but those of `strikes` (by number of the engines' store calls), `kills` (by step of
    the loop: which engine, from 0) and `blows`. `engines`: 1 to 3, by default the seed's choice; one on a `ground` of
    SQLite, whose file one engine has. `member` makes what stands for a reader in a consumer group; then streams are
    shared out by groups (see `groups.py`), and lie in memory."""

    seed: int
    engines: int | None = None
    calm: bool = False
    strikes: Mapping[int, Fault] = field(default_factory=dict)
    kills: Mapping[int, int] = field(default_factory=dict)
    size: float = 1.0
    day: Workload | None = None
    blows: Sequence[Blow] = ()
    ground: GroundName = "memory"
    member: Callable[[Group, str], GroupMember] | None = None

    def run(self, *, trace: bool = False, steps: bool = False) -> Result:
        """Live through the day. `trace`: hash it. `steps`: keep the last ones."""
        return _Run(self, trace, steps).result()

    def explained(self, command: str = "python tests/simulation/campaign.py") -> str:
        """A failure as a text: the seed, what broke, the last steps, and how to see it again."""
        result = self.run(steps=True)
        lines = [f"SEED={self.seed}", *result.problems, "last steps:", *result.last_steps]
        where = self.ground if self.member is None else "groups"
        on = "" if where == "memory" else f" --ground {where}"
        return "\n".join([*lines, f"replay it: {command} --seed {self.seed}{on}"])


class _Run:
    def __init__(self, plan: Simulation, trace: bool, steps: bool) -> None:
        self._plan = plan
        self._day = plan.day or workload(plan.seed, plan.size, only="stream" if plan.member else None)
        self._chance = random.Random(f"nemesis {plan.seed} {plan.strikes} {plan.kills}")
        self._trace = TraceHash() if trace else None
        self._last: deque[str] | None = deque(maxlen=LAST_STEPS) if steps else None
        self._problems: list[str] = []
        usual = (1, 1, 2, 3) if plan.member is None else (1, 2, 2, 3)
        engines = 1 if plan.ground == "sqlite" else plan.engines or self._chance.choice(usual)
        self._hosts = [_Host(number) for number in range(1, engines + 1)]
        self._ground = ground(plan.ground) if plan.member is None else GroupedGround(plan.member, plan.seed)
        self._dying: dict[str, None] = {}
        self._operating: dict[asyncio.Task[None], str | None] = {}
        self._tries: dict[tuple[str, int], int] = {}
        self._over = False
        self._blows = list(plan.blows) if plan.calm else blows(self._chance, len(self._hosts))

    def result(self) -> Result:
        with capture_logs() as self._logs:
            try:
                run(self._main(), seed=self._plan.seed, on_step=self._hook())
            except (_Circles, Deadlock) as error:
                self._problem(str(error))
            finally:
                self._ground.close()
        return Result(
            self._plan.seed,
            self._problems,
            self._loop.steps,
            self._loop.time(),
            len(self._history.runs),
            {**self._faults.struck, **{f"{blow.what}": 1 for blow in self._blows}, **self._ground.befallen},
            self._faults.points,
            self._trace.hexdigest() if self._trace else "",
            list(self._last or ()),
        )

    # --- the day ---------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        loop = self._loop = cast(VirtualLoop, asyncio.get_running_loop())
        loop.set_exception_handler(self._unhandled)
        self._clock = VirtualClock(loop)
        self._history = History(loop.time)
        times = loop.time, self._clock.now
        self._witness = Witness(self._history, self._day, *times, self._buried, self._parents)
        self._faults = Faults(
            self._plan.seed,
            CLEAR if self._plan.calm else self._ground.climate(self._chance.choice(CLIMATES)),
            witness=self._witness,
            crash=self._kill,
            faulted=self._history.faulted,
            expired=self._witness.expired,
            leave=self._ask_to_leave,
        )
        gentle = all(blow.what in ("drain", "stop", "destination", "clock") for blow in self._blows)
        gentle = gentle and not self._plan.kills and {*self._plan.strikes.values()} <= {"drain", "stop"}
        self._witness.strict = self._faults.rates == CLEAR and gentle
        self._faults.strikes.update(self._plan.strikes)
        world = World("world", self._clock, self._chance.random, self._new_id)
        calm = Faults(self._plan.seed, witness=self._witness)
        calm.inside = self._faults.inside
        await self._ground.open(world)
        self._outside = FaultyConnection(self._ground.outside, world, calm)
        self._queues = {name: Queue(name=name, **options) for name, options in self._day.queues.items()}
        self._streams = {name: Stream(name=name, **options) for name, options in self._day.streams.items()}
        for host in self._hosts:
            self._boot(host)
        working = asyncio.create_task(self._work())
        suffering = asyncio.create_task(self._suffer())
        await asyncio.gather(working, suffering)
        await self._heal()
        await self._drained()
        self._over = True
        self._faults.strikes.clear()
        await self._all_free()
        await self._agreed()
        await self._leave()
        self._audit_end()

    async def _work(self) -> None:
        for operation in self._day.operations:
            await asyncio.sleep(max(0.0, operation.at - self._loop.time()))
            if operation.directly or operation.what in ("split", "merge"):
                await self._operate(None, operation)
                continue
            while not (there := [host for host in self._hosts if host.engine is not None]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            host = self._chance.choice(there)
            with with_process(host.process):
                task = asyncio.create_task(self._operate(host.engine, operation), name=operation.what)
            self._operating[task] = host.process
            task.add_done_callback(self._operating.pop, context=Context())

    async def _operate(self, engine: Engine | None, operation: Operation) -> None:
        day, where = self._day, operation.where
        try:
            match operation.what:
                case "event":
                    assert engine is not None
                    request_id = await engine.invoke_async(where, day.body(operation.numbers[0]))
                    if request_id not in self._history.born:
                        self._problem(f"{request_id} was answered as accepted, but is not stored")
                case "invoke":
                    assert engine is not None
                    (number,) = operation.numbers
                    async with asyncio.timeout(operation.patience_seconds):
                        answer = await engine.invoke(where, {**day.body(number), "sync": True})
                    if answer != {"n": number}:
                        self._problem(f"the call of {where} with {number} was answered {answer}")
                case "put":
                    bodies = [(json.dumps(day.body(number)), key) for number, key in operation.pairs]
                    if engine is None:
                        await self._outside.stream(self._streams[where]).put_many(
                            [Put(body.encode(), key) for body, key in bodies]
                        )
                    else:
                        await engine.stream(where).put_many(bodies)
                case "send":
                    delay = operation.delay_seconds
                    sends = [
                        Send(json.dumps(day.body(number)), delay, key or None, str(number) if key else None)
                        for number, key in operation.pairs
                    ]
                    if engine is None:
                        await self._outside.queue(self._queues[where]).send_many(sends)
                    else:
                        await engine.queue(where).send_many(sends)
                case "split" | "merge":
                    number = operation.numbers[0] if operation.numbers else 0
                    reshard(self._ground, self._streams[where], operation.what, number)
        except (StoreUnavailable, EngineStopped, TooManyRequests, FunctionError, TimeoutError):
            pass
        except LambentError as error:
            self._problem(f"{operation.what} of {where} raised {error!r}")

    # --- handlers --------------------------------------------------------------------------------------------------

    def _handler(self, function: str) -> Callable[[Any, Any], Coroutine[Any, Any, object]]:
        async def handle(event: Any, context: Any) -> object:
            return await self._handle(function, event, context)

        return handle

    async def _handle(self, function: str, event: Any, context: Any) -> object:
        mapped = self._day.mapping_of(function)
        if mapped is None:
            number = event.get("n", 0)
            ids = [] if event.get("sync") else [context.aws_request_id]
            await self._try(function, [number], ids, context, 0)
            return {"n": number}
        if mapped.source.startswith("stream"):
            numbers, names = [list(each) for each in zip(*stream_items(event), strict=True)] or [[], []]
            ids, attempt = [f"r{number}" for number in numbers], 0
        else:
            numbers = [json.loads(record["body"])["n"] for record in event["Records"]]
            names = ids = [record["messageId"] for record in event["Records"]]
            attempt = max(int(record["attributes"]["ApproximateReceiveCount"]) for record in event["Records"])
        if mapped.options.get("filters") and not all(map(self._day.passes, numbers)):
            self._problem(f"{function} got what its filter does not let pass, of {numbers}")
        partial, began_at = mapped.options["report_batch_item_failures"], self._loop.time()
        failed = await self._try(function, numbers, ids, context, attempt, partial, mapped.source.startswith("stream"))
        answer: dict[str, object] = {}
        if "window" in event:
            done = next((i for i, number in enumerate(numbers) if number in failed), len(numbers))
            answer["state"] = {"numbers": self._witness.windowed(function, event, numbers[:done], began_at)}
        if partial:
            failures = [name for name, number in zip(names, numbers, strict=True) if number in failed]
            answer["batchItemFailures"] = [{"itemIdentifier": name} for name in failures]
        return answer

    async def _try(
        self,
        function: str,
        numbers: Sequence[int],
        ids: Sequence[str],
        context: Any,
        attempt: int,
        partial: bool = False,
        in_order: bool = False,
    ) -> set[int]:
        """Behave as the seed wants towards these items; gives the numbers that failed."""
        engine = PROCESS.get() or "world"
        began, limit = self._loop.time(), self._day.functions[function]["timeout_seconds"]
        ids = list(dict.fromkeys(ids))  # an open batch may receive an item twice
        row = self._history.started(context.aws_request_id, attempt, function, ids, engine)
        seconds, failed, hangs = 0.0, set[int](), False
        for number in numbers:
            behaviour = self._day.behave(function, number)
            tries = self._tries[function, number] = self._tries.get((function, number), 0) + 1
            seconds = max(seconds, behaviour.seconds)
            if tries <= behaviour.failures:
                failed.add(number)
                hangs = hangs or behaviour.hangs
        done: Sequence[str] = ids
        if failed:
            first = next(index for index, number in enumerate(numbers) if number in failed)
            wrong = {id for id, number in zip(ids, dict.fromkeys(numbers), strict=False) if number in failed}
            done = [id for id in (ids[:first] if in_order else ids) if id not in wrong]
        try:
            await asyncio.sleep(limit - JUST_BEFORE if hangs else seconds)
        except asyncio.CancelledError:
            over = self._loop.time() >= began + limit - JUST_BEFORE
            self._history.ended(row, "timed out" if over else "interrupted")
            raise
        if hangs:
            self._history.ended(row, "timed out")
            await asyncio.sleep(limit * 10.0)
        if failed and (not partial or not done):
            self._history.ended(row, "failed")
            if partial:
                return set(numbers)
            raise ValueError(f"{function} does not like {sorted(failed)}")
        self._history.ended(row, "ok", done)
        return failed

    # --- engines ---------------------------------------------------------------------------------------------------

    def _boot(self, host: _Host) -> None:
        host.lives += 1
        host.leaving = self._loop.create_future()
        if self._plan.ground == "sqlite" and any(blow.what == "clock" for blow in self._blows):
            self._witness.timeless()
        with with_process(host.process):
            host.task = asyncio.create_task(self._live(host, host.leaving), name=host.process)

    async def _live(self, host: _Host, leaving: asyncio.Future[str]) -> None:
        process = host.process
        while True:
            engine = self._build(process)
            try:
                await engine.start()
                break
            except StoreUnavailable:
                await asyncio.sleep(1.0)
        host.engine = engine
        how = await leaving
        host.engine = None
        await (engine.stop() if how == "stop" else engine.drain())

    def _build(self, process: str) -> Engine:
        day = self._day
        store = FaultyStore(self._ground.store, self._faults)
        chance = random.Random(f"{self._plan.seed} {process}")
        engine = Engine(store, clock=self._clock, random=chance, **day.settings)
        engine.telemetry.subscribe(self._witness.step)
        for name, options in day.queues.items():
            engine.queue(name, **options)
        for name, options in day.streams.items():
            engine.stream(name, **options)
        for name, options in day.functions.items():
            engine.function(name=name, **options)(self._handler(name))
        for name, mapped in day.mappings.items():
            handle = engine.map(mapped.source, mapped.function, **mapped.options)
            self._witness.mappings[handle.id] = name
        return engine

    def _kill(self, process: str) -> None:
        host = next((host for host in self._hosts if host.process == process), None)
        if host is None or self._loop.dead(process):
            return
        host.engine = None
        if not self._ground.quiet(process, self._faults):
            self._faults.doomed.add(process)
            self._dying[process] = None
            return
        self._dying.pop(process, None)
        self._history.killed(process)
        self._loop.kill(process)
        if self._ground.died(process, lambda: self._chance.random() < 0.5):  # the store notices, or time must tell
            self._witness.disconnected(process)
        self._loop.call_later(self._chance.choice((0.0, 0.5, 5.0, 20.0)), self._boot, host, context=Context())

    # --- what goes wrong -------------------------------------------------------------------------------------------

    async def _suffer(self) -> None:
        until = self._day.seconds
        for blow in self._blows:
            await asyncio.sleep(max(0.0, blow.at - self._loop.time()))
            self._befall(blow, self._hosts[blow.host])
            until = max(until, blow.at + (0 if blow.what == "clock" else blow.seconds))
        await asyncio.sleep(max(0.0, until - self._loop.time()))

    def _befall(self, blow: Blow, host: _Host) -> None:
        until = self._loop.time() + blow.seconds
        match blow.what:
            case "kill":
                self._kill(host.process)
            case "drain" | "stop":
                if host.leaving is not None and not host.leaving.done() and host.engine is not None:
                    assert host.task is not None
                    host.engine = None
                    # From then on what is in flight is cut off, as by a crash.
                    patience = 0.0 if blow.what == "stop" else self._day.drain_seconds
                    process = host.process
                    self._loop.call_later(patience, self._history.faulted, process, "cut off", context=Context())
                    host.leaving.set_result(blow.what)
                    host.task.add_done_callback(lambda _: self._again(host), context=Context())
            case "pause":
                if not self._loop.dead(host.process):
                    self._history.paused(host.process, blow.seconds)
                    self._loop.pause(host.process, blow.seconds)
            case "cut off":
                self._faults.away[f"{host.process}:"] = until
            case "outage":
                self._faults.away[""] = until
            case "destination":
                self._faults.away[blow.where] = until
            case "clock":
                self._clock.shift(blow.seconds)

    def _ask_to_leave(self, process: str, how: str) -> None:
        host = next((host for host in self._hosts if host.process == process), None)
        if host is not None:
            self._befall(Blow(self._loop.time(), cast(Any, how)), host)

    def _again(self, host: _Host) -> None:
        if not self._loop.dead(host.process):
            self._boot(host)

    def _hook(self) -> Callable[[int, asyncio.Handle], None]:
        trace, last, kills = self._trace, self._last, self._plan.kills

        def on_step(step: int, handle: asyncio.Handle) -> None:
            if step > MAXIMUM_STEPS:
                raise _Circles(f"still busy after {step} steps, at {self._loop.time():g} s")
            if trace is not None:
                trace(step, handle)
            if last is not None:
                last.append(f"  {step} at {asyncio.get_running_loop().time():g} s  {describe(handle)}")
            for process in list(self._dying):
                self._kill(process)
            if step in kills and self._hosts[kills[step]].lives and not self._over:
                self._kill(self._hosts[kills[step]].process)

        return on_step

    # --- the end ---------------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        self._faults.rates = CLEAR
        self._faults.away.clear()
        self._ground.heal()

    async def _drained(self) -> None:
        set_back = sum(max(0.0, -blow.seconds) for blow in self._blows if blow.what == "clock")  # ages take longer
        deadline = self._loop.time() + DRAIN_SECONDS + set_back
        wait = 0.5
        while left := await self._left():
            if self._loop.time() > deadline:
                self._problem(f"after {DRAIN_SECONDS:g} s without faults there is still work: {left}")
                return
            await asyncio.sleep(wait)
            wait = min(wait * 1.2, 15.0)

    async def _left(self) -> str:
        if any(host.engine is None for host in self._hosts):
            return "an engine has not started"
        if any(not self._loop.dead(process or "") for process in self._operating.values()):
            return "a call is unanswered"
        if pending := await self._ground.outside.events.pending():
            return f"events {dict(pending)}"
        for mapped in self._day.mappings.values():
            kind, _, name = mapped.source.partition(":")
            if kind == "queue":
                self._witness.redriven(name)
                depth = await self._ground.outside.queue(self._queues[name]).depth()
                if depth.visible or depth.in_flight or depth.delayed:
                    return f"queue {name} {depth}"
        return next(iter(self._witness.unread()), "")

    async def _all_free(self) -> None:
        """Nothing runs any more: whoever calls a function gets one of its permits soon."""
        for host in self._hosts:
            for name, options in self._day.functions.items():
                if host.engine is None or not options.get("reserved_concurrency") or self._day.mapping_of(name):
                    continue
                with with_process(host.process):
                    calling = asyncio.create_task(self._called(host.engine, name))
                if not await calling:
                    self._problem(f"{host.process} gets no permit for {name}, though nothing runs")

    async def _agreed(self) -> None:
        """Who is to try a shard is who may."""
        deadline = self._loop.time() + AGREEMENT_SECONDS
        while text := self._ground.unsettled(self._witness.holders):
            if self._loop.time() > deadline:
                self._problem(f"after {AGREEMENT_SECONDS} s without faults, {text}")
                return
            await asyncio.sleep(1.0)

    async def _called(self, engine: Engine, function: str) -> bool:
        for _ in range(PATIENCE_SECONDS):
            try:
                await engine.invoke(function, {"n": 0, "sync": True})
            except TooManyRequests:
                await asyncio.sleep(1.0)
                continue
            except FunctionError:
                pass
            return True
        return False

    async def _leave(self) -> None:
        leaving = [host for host in self._hosts if host.engine is not None]
        for host in leaving:
            assert host.leaving is not None
            host.leaving.set_result(self._chance.choice(("drain", "drain", "stop")))
        tasks = [host.task for host in leaving if host.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=300.0)
        for host in leaving:
            if host.task is not None and not host.task.done():
                self._problem(f"{host.process} did not end within 300 s")
            elif host.task is not None and (error := host.task.exception()) is not None:
                self._problem(f"{host.process} ended with {error!r}")
        await asyncio.sleep(1.0)

    def _audit_end(self) -> None:
        names = self._witness.mappings
        ids = {name: id for id, name in names.items()}
        steady = all(blow.what != "clock" for blow in self._blows)
        times_tell = steady and not self._faults.struck.get("twice")
        expectations = self._day.expectations(ids, times_tell=times_tell)
        for violation in check(self._history, expectations):
            if violation.anomaly in ("lost", "phantom") or not any(id in violation.text for id in self._witness.twice):
                self._problem(str(violation))
        self._problems += self._witness.findings
        given_up_rightly = self._away_for(DESTINATION_RETRY_SECONDS)
        self._problems += [
            f"logged: {entry}"
            for entry in self._logs
            if entry["log_level"] in ("error", "critical") and not (entry["event"] == GIVEN_UP and given_up_rightly)
        ]
        undisturbed = self._witness.strict and not self._away_for(0.0)
        self._problems += audit(self._history, self._day, undisturbed=undisturbed, times_tell=times_tell)
        if self._plan.calm and not (self._plan.strikes or self._plan.kills or self._blows):
            self._problems += once(self._history, self._day)
        books = {id: [fact.counts for fact in at_once(self._ground.outside.facts.shards(id))] for id in names}
        self._problems += self._witness.audit(books, steady=steady)
        for task in asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
            self._problem(f"a task is left: {task.get_name()}")
        leases = {id: [shard for group, shard in self._witness.holders if group == id] for id in names}
        for id, shards in leases.items():
            for shard, lease in at_once(self._ground.outside.leases.heartbeat(id, shards, 1.0)).leases.items():
                process, _ = self._witness.holders[id, shard]
                if not lease.free and not self._loop.dead(process):
                    self._problem(f"the lease of {shard} was not released by {process}")

    def _away_for(self, seconds: float) -> bool:
        return any(blow.what == "destination" and blow.seconds >= seconds for blow in self._blows)

    # --- small things ----------------------------------------------------------------------------------------------

    def _buried(self, queue: str) -> list[Message]:
        name = self._queues[queue].dead_letter_queue
        assert name is not None
        dead, found = self._ground.outside.queue(self._queues[name]), list[Message]()
        while messages := at_once(dead.receive(100, 0)):
            found += messages
            at_once(dead.settle_many([Delete(message.receipt) for message in messages]))
        return found

    def _parents(self, stream: str, shard: str) -> Sequence[str]:
        shards = at_once(self._ground.outside.stream(self._streams[stream]).shards())
        return next(each.parents for each in shards if each.id == shard)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._problem(f"unhandled: {context.get('message')}: {context.get('exception')!r}")

    def _problem(self, text: str) -> None:
        self._problems.append(text)

    def _new_id(self) -> str:
        return f"{self._chance.getrandbits(128):032x}"


class _Circles(Exception):
    """The day does not end."""
