"""Seeded faults around a store: what networks, crashes and bad days do to every call of every port.

Decides what strikes which call: a delay before or after, a refusal with nothing done, an answer that is lost after
everything was done, a crash of the caller before or after, an item handed out twice, a standard queue's order. All
of it comes from one seed. Leaves to `simulation.py` which engine is killed, paused or restarted when, and what all
that must come to.

A call is named by its point, "PORT.METHOD": `events.settle_many`, `leases.checkpoint_many`, `queue NAME.receive`,
`stream NAME.put_many`, `reader NAME.ready`, `documents.put`. The code of a killed process touches nothing: its calls
never return.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, NoReturn, cast

from lambent.errors import StoreUnavailable
from lambent.model import Message, Queue, Release, Stream
from lambent.ports import (
    Archive,
    BuiltinQueue,
    BuiltinStream,
    Connection,
    Documents,
    EventQueue,
    Leases,
    Store,
    World,
)
from lambent.testing.loop import PROCESS, VirtualLoop

__all__ = ["CLEAR", "Fault", "Faults", "FaultyStore", "Rates"]

Fault = Literal["crash before", "crash after", "unavailable", "unknown", "drain", "stop"]
Witness = Callable[[str, Sequence[Any], Any], None]

WAITING: Final = frozenset({"receive", "due", "ready", "watch"})
"""Methods that wait for something: their answer is not delayed, for whoever cancels them must lose nothing."""

TOLD_ONCE: Final = frozenset({"due", "resume"})
"""Methods whose answer an adapter does not repeat: it keeps what it has told, so it cannot be lost on the way."""

LEAVING_SECONDS: Final = 0.01
"""Virtual seconds for which a call goes on while its engine is asked to leave."""

TURN_SECONDS: Final = 1e-6
"""Virtual seconds until the first look whether another message has been sent; each next one comes twice as late."""

EARLY: Final = 0.3
"""Of the calls that are neither slow nor at once: a delay of some loop steps, to change the order of what competes."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How likely each fault is, per call, from 0 to 1. The default is a day without faults."""

    slow: float = 0.0
    slow_seconds: float = 1.0  # at most, before the call and again after it
    unavailable: float = 0.0  # nothing done
    unknown: float = 0.0  # done, and the answer lost
    crash: float = 0.0
    twice: float = 0.0  # an item becomes visible to others while it is worked on
    reorder: float = 0.0  # a standard queue's batch


CLEAR: Final = Rates()


class Faults:
    """What strikes, decided from `seed`. Change `rates`, `away` and `strikes` at any time.

    witness: called as `witness(point, arguments, answer)` in the very step in which the store did it.
    crash: called with the process that is to die; must kill it.
    leave: called with the process that is to "drain" or "stop" while it waits for a call.
    """

    def __init__(
        self,
        seed: int,
        rates: Rates = CLEAR,
        *,
        witness: Witness = lambda point, arguments, answer: None,
        crash: Callable[[str], None] | None = None,
        faulted: Callable[[str, str], None] = lambda process, what: None,
        expired: Callable[[Sequence[str]], None] = lambda ids: None,
        leave: Callable[[str, str], None] = lambda process, how: None,
    ) -> None:
        self.rates = rates
        self.away: dict[str, float] = {}
        """What does not answer: the beginning of a point ("" is the store, "queue dead" one queue), or "PROCESS:" with
        one, for an engine that is cut off; and until when, in virtual seconds."""
        self.strikes: dict[int, Fault] = {}
        """Faults for calls by number, for directed tests: the first call has number 1."""
        self.points: list[str] = []
        """The point of every call so far, in order."""
        self.struck: dict[str, int] = {}
        """How often each fault struck."""
        self.doomed: set[str] = set()
        """Processes that do nothing more to the store, and hear nothing more of it."""
        self.inside: dict[asyncio.Task[Any], tuple[str | None, str]] = {}
        """Which process is in the middle of which call."""
        self._random = random.Random(seed)
        self._witness = witness
        self._crash = crash or _kill
        self._faulted = faulted
        self._expired = expired
        self._leave = leave

    async def call(self, point: str, method: Callable[..., Any], *arguments: Any) -> Any:
        """The call of a port's method, and what strikes it."""
        self.points.append(point)
        number = len(self.points)
        fault = self.strikes.get(number) or self._fault()
        waiting = point.rpartition(".")[2] in WAITING
        if fault == "unknown" and point.rpartition(".")[2] in TOLD_ONCE:
            fault = "unavailable"
        await self._take_time()
        fault = self._still(fault, number)
        if fault == "crash before":
            await self._die(fault)
        if fault in ("drain", "stop"):
            self._strike(fault)
            self._leave(PROCESS.get() or "world", fault)
            await asyncio.sleep(LEAVING_SECONDS)
        await self._unless_doomed()
        if fault == "unavailable" or self._is_away(point):
            self._strike("unavailable")
            raise StoreUnavailable(f"{point}: the store is away (simulated)")
        task = asyncio.current_task()
        assert task is not None
        if point.endswith(".send_many"):
            await self._turn(point)  # or answers might come in another order than the messages
        self.inside[task] = PROCESS.get(), point
        self._witness(f"{point} begins", arguments, None)
        try:
            answer = await method(*arguments)
            if (before := _told_of(point)) is not None:
                await self._turn(before)  # or an item might come before the answer that names it
            self._witness(point, arguments, answer)
        except StoreUnavailable:
            self._witness(f"{point} is refused", arguments, None)
            raise
        finally:
            self.inside.pop(task, None)
        await self._unless_doomed()
        fault = self._still(fault, number)
        if fault == "crash after":
            await self._die(fault)
        if fault == "unknown":
            self._strike(fault)
            self._faulted(PROCESS.get() or "world", f"{point}: answer lost")
            raise StoreUnavailable(f"{point}: no answer (simulated)")
        if not waiting:
            await self._take_time()
        return answer

    def closed(self) -> None:
        """A connection was closed: the witness hears of it as of a call."""
        self._witness("connection.close", (), None)

    def chance(self, probability: float) -> bool:
        """A seeded coin; free where it cannot fall."""
        return probability > 0 and self._random.random() < probability

    def shuffle(self, items: Sequence[Any]) -> list[Any]:
        """In an order of the seed's."""
        return self._random.sample(items, len(items))

    def later(self, seconds: float, do: Callable[[], Any]) -> None:
        """Call `do` in the outside world, within so many seconds."""
        _loop().call_later(self._random.uniform(0, seconds), do)

    def expired(self, ids: Sequence[str]) -> None:
        """Tell that these became visible to others too early."""
        self._strike("twice")
        self._expired(ids)

    def _fault(self) -> Fault | None:
        rates = self.rates
        if rates is CLEAR:
            return None
        point = self._random.random()
        for share, fault in (
            (rates.unavailable, "unavailable"),
            (rates.unknown, "unknown"),
            (rates.crash / 2, "crash before"),
            (rates.crash / 2, "crash after"),
        ):
            if point < share:
                return cast(Fault, fault)
            point -= share
        return None

    def _still(self, fault: Fault | None, number: int) -> Fault | None:
        """What chance brought on a bad day does not strike once the day is clear."""
        return fault if number in self.strikes or self.rates is not CLEAR else None

    async def _take_time(self) -> None:
        if self.chance(self.rates.slow):
            self._strike("slow")
            await asyncio.sleep(self._random.random() * self.rates.slow_seconds)
        elif self._random.random() < EARLY:
            for _ in range(self._random.randrange(1, 4)):
                await asyncio.sleep(0)

    def _is_away(self, point: str) -> bool:
        if not self.away:
            return False
        now, process = _loop().time(), f"{PROCESS.get()}:"
        self.away = {where: until for where, until in self.away.items() if until > now}
        return any(point.startswith(where) or where == process for where in self.away)

    async def _turn(self, point: str) -> None:
        """Wait while somebody does this; only where a store's answers come later than what they tell of."""
        seconds = TURN_SECONDS
        while any(point == other for _, other in self.inside.values()):
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, 1.0)  # whoever does it may be paused

    async def _unless_doomed(self) -> None:
        if not _loop().alive() or PROCESS.get() in self.doomed:
            await asyncio.Future()

    async def _die(self, fault: Fault) -> NoReturn:
        process = PROCESS.get()
        if process is None:
            raise RuntimeError(f"{fault}: this call belongs to no simulated process")
        self._strike(fault)
        self._crash(process)
        await asyncio.Future()
        raise AssertionError("the dead do not run")

    def _strike(self, what: str) -> None:
        self.struck[what] = self.struck.get(what, 0) + 1


class FaultyStore:
    """A store behind `faults`: the same ports, the same answers, on days when they come."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self.capabilities = store.capabilities
        self._store = store
        self._faults = faults

    async def connect(self, world: World, client: bool = False) -> FaultyConnection:
        return FaultyConnection(await self._store.connect(world, client), world, self._faults)


class FaultyConnection:
    """One engine's view of a store behind faults. `inner` is the view without."""

    def __init__(self, inner: Connection, world: World, faults: Faults) -> None:
        self.inner = inner
        self.documents = cast(Documents, _Port("documents", inner.documents, faults))
        self.events = cast(EventQueue, _Events("events", inner.events, faults))
        self.leases = cast(Leases, _Port("leases", inner.leases, faults))
        self.archive = None if inner.archive is None else cast(Archive, _Port("archive", inner.archive, faults))
        self.facts = inner.facts
        self.engines = inner.engines
        self.cautions = inner.cautions
        self.on_trouble = inner.on_trouble
        self._world = world
        self._faults = faults

    def queue(self, queue: Queue) -> BuiltinQueue:
        kind = partial(_Queue, world=self._world)
        return cast(BuiltinQueue, kind(f"queue {queue.name}", self.inner.queue(queue), self._faults))

    def stream(self, stream: Stream) -> BuiltinStream:
        return cast(BuiltinStream, _Stream(f"stream {stream.name}", self.inner.stream(stream), self._faults))

    async def close(self) -> None:
        if _loop().alive():
            await self.inner.close()
            self._faults.closed()


class _Port:
    """Every coroutine method of a port goes through `Faults.call`; all else passes."""

    def __init__(self, name: str, inner: Any, faults: Faults) -> None:
        self._name = name
        self._inner = inner
        self._faults = faults

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._inner, attribute)
        if not inspect.iscoroutinefunction(found):
            return found
        call = partial(self._faults.call, f"{self._name}.{attribute}", found)
        setattr(self, attribute, call)
        return call


class _Events(_Port):
    async def receive(self, *arguments: Any) -> Any:
        events = await self._faults.call(f"{self._name}.receive", self._inner.receive, *arguments)
        for event in events:
            if self._faults.chance(self._faults.rates.twice):
                again = (event.request_id, event.receipt, event.accepted_at)
                self._faults.later(
                    self._faults.rates.slow_seconds, partial(_show_again, self._inner, *again, self._faults)
                )
        return events


class _Queue(_Port):
    def __init__(self, name: str, inner: Any, faults: Faults, world: World) -> None:
        super().__init__(name, inner, faults)
        self._world = world

    async def receive(self, *arguments: Any) -> Sequence[Message]:
        faults = self._faults
        messages: Sequence[Message] = await faults.call(f"{self._name}.receive", self._inner.receive, *arguments)
        if not self._inner.fifo and faults.chance(faults.rates.reorder):
            messages = faults.shuffle(messages)
        for message in messages:
            if faults.chance(faults.rates.twice):
                twice = partial(_show_again, self._inner, message.id, message.receipt, message.sent_at, faults)
                faults.later(faults.rates.slow_seconds, twice)
        return messages


class _Stream(_Port):
    def reader(self, group: str = "") -> Any:
        return _Reader(self._name.replace("stream", "reader", 1), self._inner.reader(group), self._faults)


class _Reader(_Port):
    @property
    def election(self) -> Any:
        return _Port(self._name.replace("reader", "election", 1), self._inner.election, self._faults)


def _show_again(inner: Any, id: str, receipt: str, at: float, faults: Faults) -> None:
    """What a queue's partition or a clock of its own does: a claim counts as timed out while somebody works."""
    release = inner.settle_many([Release(receipt, at)])
    try:
        release.send(None)  # in this very step, or not at all: a store whose calls wait can't be simulated so
    except StopIteration as done:
        if done.value[0]:
            faults.expired([id])
    else:
        release.close()


def _told_of(point: str) -> str | None:
    """The call whose answer names the items that this one gives."""
    port, _, method = point.rpartition(".")
    kind, _, name = port.partition(" ")
    match kind, method:
        case "queue", "receive":
            return f"{port}.send_many"
        case "reader", "ready":
            return f"stream {name}.put_many"
    return None


def _kill(process: str) -> None:
    _loop().kill(process)


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop
