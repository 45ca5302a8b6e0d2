"""The queue loop: receive what may start, invoke it, settle it. It serves queue mappings and the async event queue alike.

Decides when something is pulled, how many attempts are in flight, and in which order a step is performed: report first,
settle after. What follows an attempt is decided in `semantics/asynchronous.py` and `semantics/queue.py`, what may start
in `semantics/concurrency.py` behind the invoker, how retries count in the store.

One loop has one feed. `EventFeed` serves the events of all functions of an engine: round robin over those that have
something due, at most `EVENTS_PER_TURN` a turn; a function that may not start is parked and costs nothing until room
appears or its oldest event expires. `MappingFeed` collects the batches of one queue mapping. Whatever was received is
in `_claims` with what should happen to it if the loop is stopped now; so a stop hands back all that is not settled, and a
crash leaves it to the time-out of its claim.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, TypeVar, assert_never

from lambent.destinations import DESTINATION_RETRY_SECONDS, Destinations
from lambent.errors import StoreUnavailable
from lambent.invoker import Invoker, value_of
from lambent.model import (
    Delete,
    Event,
    EventStep,
    Failed,
    Function,
    Invocation,
    Message,
    Outcome,
    QueueMapping,
    Refused,
    Release,
    ReportEvent,
    Settlement,
    Succeeded,
    Throttled,
    Unavailable,
)
from lambent.ports import EventQueue, QueueSource, World
from lambent.semantics import asynchronous, backoff, batching, queue, recursion
from lambent.semantics.concurrency import Permit
from lambent.semantics.filtering import compile_filters
from lambent.telemetry import Telemetry

MAXIMUM_IN_FLIGHT: Final = 4_000  # attempts of one loop, from their receive until they are settled
MAXIMUM_IN_FLIGHT_PER_FUNCTION: Final = 1_000  # so that one whose destination is away leaves room for the others
MAXIMUM_BYTES_IN_FLIGHT: Final = 256 * 1024 * 1024
EVENTS_PER_TURN: Final = 100  # of one function, before the next function has its turn
WAIT_SECONDS: Final = 20.0  # the longest that a store or queue is asked to wait for something (SQS: long polling)
LOOK_SECONDS: Final = 60.0  # what may not start is looked at so often, even if nobody says that there is room
CLAIM_GRACE_SECONDS: Final = 60.0  # an event is claimed for its time limit, its report, and this
EXPIRY_SLACK_SECONDS: Final = 0.01  # after the age limit, so that rounding cannot hide an expired event
HAND_BACK_SECONDS: Final = 5.0  # what a hard stop gives the store to take back what is not settled
RE_CANCELS: Final = 20
RE_CANCEL_SECONDS: Final = 0.1  # CPython 3.11 can lose a cancellation

DESTINATION_FAILED: Final = "destination-failed"
NOTHING_YET, OK, PROBLEM = "No records processed", "OK", "PROBLEM: Function call failed"

RECURSIVE: Final = Failed(
    {"errorType": "RecursiveInvocationException", "errorMessage": "The function called itself through others too often."}
)

Item = TypeVar("Item", Event, Message)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Attempt(Generic[Item]):
    """Claimed items on their way to being settled. With a permit they are run; without, `steps` says how they end."""

    items: Sequence[Item]
    permit: Permit | None = None
    steps: Sequence[EventStep] = ()
    size_bytes: int = 0


class Feed(Protocol[Item]):
    """Where a queue loop's items come from and what they mean."""

    subject: str

    def bind(self, loop: QueueLoop[Item]) -> None: ...

    async def listen(self) -> None:
        """Hear what is due; called again and again beside `pull`."""
        ...

    async def pull(self, slots: int) -> Sequence[Attempt[Item]]:
        """Receive what may start, at most `slots` attempts; none: nothing yet, ask again. Waits only by `loop.wait`."""
        ...

    def invocation(self, items: Sequence[Item]) -> Invocation: ...

    def after(self, items: Sequence[Item], outcome: Outcome) -> Sequence[EventStep]: ...

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]: ...

    def settled(self, attempt: Attempt[Item], settlements: Sequence[Settlement]) -> None:
        """The store took these of the attempt's settlements; the others were void, because their claim timed out."""
        ...

    def ended(self, attempt: Attempt[Item]) -> None: ...

    def close(self) -> None:
        """Nothing will be pulled any more: no timer and no waiting place may stay."""
        ...

    def function(self, name: str) -> Function: ...


class QueueLoop(Generic[Item]):
    """Runs one feed. Everything that it starts ends before `run` does."""

    def __init__(
        self, feed: Feed[Item], invoker: Invoker, destinations: Destinations, telemetry: Telemetry, world: World
    ) -> None:
        self.invoker = invoker
        self.telemetry = telemetry
        self.world = world
        self._feed = feed
        self._destinations = destinations
        self._claims: dict[str, Settlement] = {}
        self._attempts: dict[asyncio.Task[None], Attempt[Item]] = {}
        self._bytes = 0
        self._freed = asyncio.Event()
        self._stopped = False
        self._waits: dict[asyncio.Timeout, None] = {}  # a dict keeps its order, so that a run can be repeated
        feed.bind(self)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve the feed until `stopping` is set, then return once all that is in flight is settled.

        Cancelled, it cancels what is in flight, hands back what is not settled if the store answers within
        HAND_BACK_SECONDS, and raises. A loop runs once.
        """
        name = f"queue loop {self._feed.subject}"
        pulling = asyncio.create_task(self._for_ever(self._pull), name=f"{name}: pull")
        listening = asyncio.create_task(self._for_ever(self._feed.listen), name=f"{name}: listen")
        try:
            await stopping.wait()
            self._stop()
            await asyncio.wait([pulling, listening])
            self._begin(Attempt((), steps=self._loose()))
            while self._attempts:
                await asyncio.wait(self._attempts)
        except asyncio.CancelledError:
            ending = asyncio.create_task(self._hard_stop([pulling, listening]), name=f"{name}: hard stop")
            while not ending.done():
                try:
                    await asyncio.wait({ending})
                except asyncio.CancelledError:
                    continue  # it is bounded by HAND_BACK_SECONDS, and cancelling it would only lose time
            raise

    # --- for feeds -------------------------------------------------------------------------------------------------

    def claim(self, items: Sequence[Item]) -> None:
        """These were received: hand them back if the loop stops before they are settled."""
        now = self.world.clock.now()
        for item in items:
            self._claims[item.receipt] = Release(item.receipt, now, give_back=True)

    async def wait(self, waiting: Coroutine[object, object, T], seconds: float | None = None) -> T | None:
        """Its result; None if the loop stops first, or after `seconds`. Only for what may be cancelled."""
        if self._stopped:
            waiting.close()
            return None
        try:
            async with asyncio.timeout(seconds) as limit:
                self._waits[limit] = None
                return await waiting
        except TimeoutError:
            return None
        finally:
            self._waits.pop(limit, None)

    async def pause(self, seconds: float) -> None:
        """Wait, unless the loop stops."""
        await self.wait(asyncio.sleep(seconds), None)

    # --- pulling ---------------------------------------------------------------------------------------------------

    async def _for_ever(self, turn: Callable[[], Awaitable[None]]) -> None:
        """Whatever goes wrong in one turn is said aloud, and the next comes after a while: nothing may end a loop."""
        troubles = 0
        while not self._stopped:
            try:
                await turn()
                troubles = 0
            except StoreUnavailable as error:
                troubles += 1
                self._say("warning", "the store is away", error)
            except Exception as error:  # noqa: BLE001
                troubles += 1
                self._say("error", "a bug in the queue loop", error)
            if troubles:
                await self.pause(backoff.destination(troubles, self.world.random()))

    async def _pull(self) -> None:
        if len(self._attempts) >= MAXIMUM_IN_FLIGHT or self._bytes >= MAXIMUM_BYTES_IN_FLIGHT:
            self._freed.clear()
            await self.wait(self._freed.wait())
            return
        for attempt in await self._feed.pull(MAXIMUM_IN_FLIGHT - len(self._attempts)):
            if self._stopped:
                self._free(attempt)  # its claims are handed back
            else:
                self._begin(attempt)

    def _begin(self, attempt: Attempt[Item]) -> None:
        task = asyncio.create_task(self._perform(attempt), name=f"attempt of {self._feed.subject}")
        self._attempts[task] = attempt
        self._bytes += attempt.size_bytes
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        attempt = self._attempts.pop(task)
        self._bytes -= attempt.size_bytes
        self._free(attempt)
        self._freed.set()

    def _free(self, attempt: Attempt[Item]) -> None:
        if attempt.permit is not None:  # cancelled before its first step
            self.invoker.release(attempt.permit)
        self._feed.ended(attempt)

    # --- one attempt -----------------------------------------------------------------------------------------------

    async def _perform(self, attempt: Attempt[Item]) -> None:
        try:
            if attempt.permit is not None:
                invocation = self._feed.invocation(attempt.items)
                permit, attempt.permit = attempt.permit, None  # from here on it is the invoker's
                outcome = await self.invoker.run(invocation, permit)
                attempt.steps = self._feed.after(attempt.items, outcome)
                if isinstance(outcome, Succeeded | Failed):
                    self._count_attempt(attempt)
            await self._settle(attempt, await self._report(attempt))
        except Exception as error:  # noqa: BLE001
            self._say("error", "a bug: these items are not settled and come back", error)
            self._forget(attempt)

    async def _report(self, attempt: Attempt[Item]) -> Sequence[Settlement]:
        """Perform the reports; gives the settlements, which come after all of them."""
        settlements: list[Settlement] = []
        refused = False
        for step in attempt.steps:
            match step:
                case ReportEvent():
                    answer = await self._destinations.report_event(step, self._feed.function(step.event.function))
                    refused = refused or isinstance(answer, Refused)
                    self.telemetry.step(self._feed.subject, step, answer)
                case Delete():
                    settlements.append(replace(step, state=DESTINATION_FAILED) if refused else step)
                case Release():
                    settlements.append(step)
                case _:
                    assert_never(step)
        return settlements

    async def _settle(self, attempt: Attempt[Item], settlements: Sequence[Settlement]) -> None:
        self._forget(attempt)  # a failed message is not mentioned: it comes back by itself
        self._claims.update((settlement.receipt, settlement) for settlement in settlements)
        tries = 0
        while settlements:
            try:
                answers = await self._feed.settle_many(settlements)
                break
            except StoreUnavailable as error:
                tries += 1
                self._say("warning", "the store is away, nothing is settled", error)
                await asyncio.sleep(backoff.destination(tries, self.world.random()))
        else:
            return
        for settlement, answer in zip(settlements, answers, strict=True):
            self._claims.pop(settlement.receipt, None)
            self.telemetry.step(self._feed.subject, settlement, answer)
        self._feed.settled(attempt, [done for done, answer in zip(settlements, answers, strict=True) if answer])

    def _count_attempt(self, attempt: Attempt[Item]) -> None:
        """The handler has ended: a stop before the settlement no longer makes its attempt undone."""
        for item in attempt.items:
            self._claims[item.receipt] = Release(item.receipt, self.world.clock.now())

    def _forget(self, attempt: Attempt[Item]) -> None:
        for item in attempt.items:
            self._claims.pop(item.receipt, None)

    # --- stopping --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._stopped = True
        self._feed.close()
        for limit in self._waits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def _loose(self) -> Sequence[Settlement]:
        """What to do with claims that no attempt has in hand."""
        held = {item.receipt for attempt in self._attempts.values() for item in attempt.items}
        return [settlement for receipt, settlement in self._claims.items() if receipt not in held]

    async def _hard_stop(self, feeding: Sequence[asyncio.Task[None]]) -> None:
        self._stop()
        for task in self._attempts:
            task.cancel()
        await asyncio.wait(feeding, timeout=HAND_BACK_SECONDS)  # a receive that is under way should end
        for _ in range(RE_CANCELS):
            left = [task for task in (*feeding, *self._attempts) if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=RE_CANCEL_SECONDS)
        try:
            async with asyncio.timeout(HAND_BACK_SECONDS):
                if self._claims:
                    await self._feed.settle_many(list(self._claims.values()))
        except (StoreUnavailable, TimeoutError) as error:
            self._say("warning", "not handed back, comes back when its claim times out", error)

    def _say(self, level: str, event: str, error: BaseException) -> None:
        self.telemetry.log(level, event, subject=self._feed.subject, exc_info=error if level == "error" else None)


class EventFeed:
    """The asynchronous events of every function in `functions`, a live mapping: who is added is served, who is removed
    is left alone. `delays` are the seconds before each retry."""

    subject = "events"

    def __init__(
        self,
        events: EventQueue,
        functions: Mapping[str, Function],
        delays: Sequence[float] = backoff.ASYNC_RETRY_SECONDS,
    ) -> None:
        self.settle_many = events.settle_many
        self._events = events
        self._functions = functions
        self._delays = delays
        self._turns: deque[str] = deque()  # each function once
        self._wake = asyncio.Event()
        self._oldest: dict[str, float] = {}  # accepted_at, as told last
        self._parked: dict[str, Callable[[], None]] = {}  # waits for room; how to stop that
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._overdue: set[str] = set()  # parked, and to be looked at for expired events
        self._full: set[str] = set()  # at MAXIMUM_IN_FLIGHT_PER_FUNCTION
        self._in_flight: Counter[str] = Counter()

    def bind(self, loop: QueueLoop[Event]) -> None:
        self._loop = loop

    def function(self, name: str) -> Function:
        return self._functions[name]

    async def listen(self) -> None:
        for name, oldest in await self._loop.wait(self._events.due(self._functions, WAIT_SECONDS)) or ():
            self._oldest[name] = oldest
            if name in self._parked:
                self._watch_age(name)
            else:
                self._turn(name)

    async def pull(self, slots: int) -> Sequence[Attempt[Event]]:
        if not self._turns:
            self._wake.clear()
            await self._loop.wait(self._wake.wait())
            return ()
        name = self._turns.popleft()
        function = self._functions.get(name)
        limit = min(slots, EVENTS_PER_TURN, MAXIMUM_IN_FLIGHT_PER_FUNCTION - self._in_flight[name])
        if function is None:
            self._later(name, LOOK_SECONDS)
        elif limit <= 0:
            self._full.add(name)
        else:
            return await self._receive(function, limit)
        return ()

    def invocation(self, items: Sequence[Event]) -> Invocation:
        (event,) = items
        age = self._loop.world.clock.now() - event.accepted_at
        self._loop.telemetry.observe("AsyncEventAge", event.function, age * 1000)
        return Invocation(
            request_id=event.request_id,
            function=event.function,
            payload=event.payload,
            qualifier=event.qualifier,
            hops=event.hops + 1,
            trace_id=event.trace_id,
            client_context=event.client_context,
        )

    def after(self, items: Sequence[Event], outcome: Outcome) -> Sequence[EventStep]:
        (event,) = items
        world, config = self._loop.world, self._functions[event.function].event_invoke
        return asynchronous.after(event, outcome, config, world.clock.now(), world.random(), self._delays)

    def settled(self, attempt: Attempt[Event], settlements: Sequence[Settlement]) -> None:
        for settlement, event in zip(settlements, attempt.items, strict=False):
            if isinstance(settlement, Delete) and settlement.state != "succeeded":
                self._loop.telemetry.count("AsyncEventsDropped", event.function)

    def ended(self, attempt: Attempt[Event]) -> None:
        for event in attempt.items:
            self._in_flight[event.function] -= 1
            if event.function in self._full:
                self._full.discard(event.function)
                self._turn(event.function)

    def close(self) -> None:
        for cancel in self._parked.values():
            cancel()
        for timer in self._timers.values():
            timer.cancel()

    async def _receive(self, function: Function, limit: int) -> Sequence[Attempt[Event]]:
        """Claim as many events as have permits; without any, those that end without being run."""
        name, invoker = function.name, self._loop.invoker
        permits, refusal = self._permits(name, limit)
        accepted_before = None
        if permits:
            limit = len(permits)
            self._unpark(name)
        elif refusal is not None and not refusal.reserved_zero:
            if name not in self._overdue:
                self._park(name)
                return ()
            accepted_before = self._loop.world.clock.now() - function.event_invoke.maximum_event_age_seconds
        claim_seconds = function.timeout_seconds + DESTINATION_RETRY_SECONDS + CLAIM_GRACE_SECONDS
        try:
            events = await self._events.receive(name, limit, claim_seconds, accepted_before)
            self._loop.claim(events)
            if len(events) == limit:
                self._turn(name)
            else:
                self._overdue.discard(name)
            attempts = [self._attempt(event, function, permits, refusal) for event in events]
        except BaseException:
            self._turn(name)
            raise
        finally:
            for permit in permits:
                invoker.release(permit)
        self._in_flight[name] += len(attempts)
        return attempts

    def _permits(self, name: str, limit: int) -> tuple[list[Permit], Throttled | None]:
        permits: list[Permit] = []
        for _ in range(min(limit, max(self._loop.invoker.room(name), 1))):  # one to hear why not
            answer = self._loop.invoker.admit(name)
            if isinstance(answer, Throttled):
                return permits, None if permits else answer
            permits.append(answer)
        return permits, None

    def _attempt(
        self, event: Event, function: Function, permits: list[Permit], refusal: Throttled | None
    ) -> Attempt[Event]:
        now = self._loop.world.clock.now()
        steps = asynchronous.before(event, function.event_invoke, now)
        permit = None
        if not steps and recursion.refused(event.hops, function):
            self._loop.telemetry.count("RecursiveInvocationsDropped", function.name)
            uncounted = replace(event, attempts=event.attempts - 1)
            steps = (ReportEvent(uncounted, "RetriesExhausted", RECURSIVE), Delete(event.receipt, "dropped"))
        elif not steps and permits:
            permit = permits.pop()
        elif not steps and refusal is not None and refusal.reserved_zero:
            steps = self.after([event], refusal)
        elif not steps:
            steps = (Release(event.receipt, now, give_back=True),)
        return Attempt((event,), permit, steps, len(event.payload))

    # --- functions that may not start ------------------------------------------------------------------------------

    def _turn(self, name: str) -> None:
        if name not in self._turns:
            self._turns.append(name)
            self._wake.set()

    def _park(self, name: str) -> None:
        if name not in self._parked:
            self._parked[name] = self._loop.invoker.when_free(name, None, lambda: self._roomy(name))
        self._watch_age(name)

    def _unpark(self, name: str) -> None:
        if name in self._parked:
            self._parked.pop(name)()
        if name in self._timers:
            self._timers.pop(name).cancel()
        self._overdue.discard(name)

    def _roomy(self, name: str) -> None:
        self._parked.pop(name, None)
        self._turn(name)

    def _watch_age(self, name: str) -> None:
        """Look for expired events when the oldest one should be; or sooner, for a retry that came due may be older."""
        now, limit = self._loop.world.clock.now(), self._functions[name].event_invoke.maximum_event_age_seconds
        left = self._oldest.get(name, now) + limit - now
        self._later(name, min(max(left, 0.0) + EXPIRY_SLACK_SECONDS, LOOK_SECONDS))

    def _later(self, name: str, seconds: float) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, self._look, name)

    def _look(self, name: str) -> None:
        del self._timers[name]
        self._overdue.add(name)
        self._turn(name)


class MappingFeed:
    """The batches of one queue mapping. `functions` is the live mapping of what this engine hosts.

    A batch is open for at most the batching window, and never so long that the function's time limit no longer fits
    into the visibility time-out of its first message.
    """

    def __init__(
        self, mapping_id: str, mapping: QueueMapping, source: QueueSource, functions: Mapping[str, Function]
    ) -> None:
        self.subject = mapping_id
        self.settle_many = source.settle_many
        self.last_processing_result = NOTHING_YET
        self._mapping = mapping
        self._source = source
        self._functions = functions
        self._filters = compile_filters(mapping.filters)
        self._batch: list[Message] = []
        self._bytes = 0
        self._surplus_bytes = 0  # of a message that no longer fitted
        self._opened_at = 0.0
        self._troubles = 0  # batches in a row that nothing could run

    def bind(self, loop: QueueLoop[Message]) -> None:
        self._loop = loop

    def function(self, name: str) -> Function:
        return self._functions[name]

    async def listen(self) -> None:
        await self._loop.pause(WAIT_SECONDS)  # `pull` hears by itself

    async def pull(self, slots: int) -> Sequence[Attempt[Message]]:
        if self._closes():
            return [self._close()]
        if not self._batch and not await self._may_start():
            return ()
        seconds = self._closes_at() - self._now() if self._batch else WAIT_SECONDS
        limit = self._mapping.batch_size - len(self._batch)
        received = await self._loop.wait(self._source.receive(limit, min(seconds, WAIT_SECONDS)))
        attempts = self._sort(received) if received else []
        if self._closes():
            attempts.append(self._close())
        return attempts

    def invocation(self, items: Sequence[Message]) -> Invocation:
        mapping = self._mapping
        self._count("InvokedEventCount", len(items))
        return Invocation(
            request_id=self._loop.world.new_id(),
            function=mapping.function,
            payload=self._source.to_event(items, mapping.maximum_batching_window_seconds > 0),
            qualifier=mapping.qualifier,
            hops=max(message.hops for message in items) + 1,
            items=items,
            partial=mapping.report_batch_item_failures,
        )

    def after(self, items: Sequence[Message], outcome: Outcome) -> Sequence[EventStep]:
        value = value_of(outcome) if isinstance(outcome, Succeeded) else None
        now, partial = self._loop.world.clock.now(), self._mapping.report_batch_item_failures
        steps = queue.after(items, outcome, value, partial, now)
        self._count("FailedInvokeEventCount", len(items) - sum(isinstance(step, Delete) for step in steps))
        self.last_processing_result = OK if isinstance(outcome, Succeeded) else PROBLEM
        self._troubles = self._troubles + 1 if isinstance(outcome, Throttled | Unavailable) else 0
        return steps

    def settled(self, attempt: Attempt[Message], settlements: Sequence[Settlement]) -> None:
        if attempt.ran:
            self._count("DeletedEventCount", sum(isinstance(settlement, Delete) for settlement in settlements))

    def ended(self, attempt: Attempt[Message]) -> None: ...

    def close(self) -> None: ...

    # --- collecting ------------------------------------------------------------------------------------------------

    async def _may_start(self) -> bool:
        """Wait until a batch might be admitted; False: look again."""
        loop, invoker, mapping = self._loop, self._loop.invoker, self._mapping
        if self._troubles:
            await loop.pause(backoff.throttle(self._troubles - 1, loop.world.random()))
        if mapping.function not in self._functions:
            await loop.pause(LOOK_SECONDS)
            return False
        if invoker.room(mapping.function, self.subject) > 0:
            return True
        wake = asyncio.Event()
        cancel = invoker.when_free(mapping.function, self.subject, wake.set)
        try:
            await loop.wait(wake.wait(), LOOK_SECONDS)
        finally:
            cancel()
        return False

    def _sort(self, received: Sequence[Message]) -> list[Attempt[Message]]:
        """Into the batch, or out: what a filter misses is deleted, what no longer fits is given back."""
        misses: list[Message] = []
        surplus: list[Message] = []
        dropped = 0
        for message in received:
            if recursion.refused(message.hops, self._functions[self._mapping.function]):
                dropped += 1  # left alone: the queue's redrive policy takes it
            elif not self._passes(message):
                misses.append(message)
            elif surplus or self._overflows(message):
                surplus.append(message)
            else:
                if not self._batch:
                    self._opened_at = self._now()
                self._batch.append(message)
                self._bytes += _size(message)
        self._loop.claim([*misses, *surplus, *self._batch])
        self._count("PolledEventCount", len(received))
        self._count("FilteredOutEventCount", len(misses))
        self._count("RecursiveInvocationsDropped", dropped, self._mapping.function)
        return [
            *([Attempt(misses, steps=[Delete(message.receipt) for message in misses])] if misses else []),
            *([self._given_back(surplus)] if surplus else []),
        ]

    def _passes(self, message: Message) -> bool:
        return not self._filters.patterns or self._filters.matches(self._source.view(message))
