"""What a queue loop serves: the asynchronous events of an engine's functions, or the batches of one queue mapping.

Decides when something is received and how much: only what may start. `EventFeed` goes round robin over the functions
that have something due, at most `EVENTS_PER_TURN` a turn; a function that may not start is parked and costs nothing
until room appears or its oldest event expires. `MappingFeed` collects a batch, takes its permit when the batch closes,
and holds it until it has one. What follows an attempt is decided in `semantics/`; running and settling is the loop's
(`queue.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Final

from lambent.destinations import DESTINATION_RETRY_SECONDS, embedded
from lambent.invoker import value_of
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
    Release,
    Settlement,
    Succeeded,
    Throttled,
    Unavailable,
)
from lambent.observing import Watched
from lambent.polling.queue import Attempt, QueueLoop
from lambent.ports import EventQueue, QueueSource
from lambent.semantics import asynchronous, backoff, batching, queue, recursion, shapes
from lambent.semantics.concurrency import Permit
from lambent.semantics.filtering import compile_filters
from lambent.semantics.routing import event_invoke, longest_age_seconds
from lambent.stored_mappings import NOTHING_PROCESSED, PROBLEM, PROCESSED
from lambent.telemetry import (
    ASYNC_EVENT_AGE,
    ASYNC_EVENTS_DROPPED,
    DELETED_EVENT_COUNT,
    FAILED_INVOKE_EVENT_COUNT,
    FILTERED_OUT_EVENT_COUNT,
    INVOKED_EVENT_COUNT,
    POLLED_EVENT_COUNT,
    RECURSIVE_INVOCATIONS_DROPPED,
)

MAXIMUM_IN_FLIGHT_PER_FUNCTION: Final = 1_000  # so that one whose destination is away leaves room for the others
EVENTS_PER_TURN: Final = 100  # of one function, before the next function has its turn
PULLS: Final = 8  # turns under way at once
BATCHES_PER_PULL: Final = 10  # of a queue mapping, received at once while more than that waits
FIRST_TURN: Final = 4  # events; each needs a permit before it is known to be there. A full turn makes the next larger
WAIT_SECONDS: Final = 20.0  # the longest that a store or queue is asked to wait for something (SQS: long polling)
PERMIT_SECONDS: Final = 5.0  # of the time for which a batch is ours, kept for waiting for a permit
LOOK_SECONDS: Final = 60.0  # what may not start is looked at so often, even if nobody says that there is room
HOLD_SECONDS: Final = 60.0  # a batch is held for a permit: longer than those who share one take to have their turns
CLAIM_GRACE_SECONDS: Final = 120.0  # an event is claimed for its time limit, its report, and this
EXPIRY_SLACK_SECONDS: Final = 0.01  # after the age limit, so that rounding cannot hide an expired event


class EventFeed:
    """The asynchronous events of every function in `functions`, a live mapping: who is added is served, who is removed
    is left alone, but if it is in `deleted`, a live set, its events end as they fall due. `delays` are the seconds
    before each retry."""

    subject = "events"
    pulls = PULLS

    def __init__(
        self,
        events: EventQueue,
        functions: Mapping[str, Function],
        delays: Sequence[float] = backoff.ASYNC_RETRY_SECONDS,
        deleted: Set[str] = frozenset(),
    ) -> None:
        self.settle_many = events.settle_many
        self._events = events
        self._functions = functions
        self._delays = delays
        self._deleted = deleted
        self._began_with: dict[str, Function] = {}  # what runs ends as it began, also if its function is deleted
        self._turns: OrderedDict[str, None] = OrderedDict()  # who is next
        self._idle: list[asyncio.Event] = []  # pulls that wait for a turn
        self._oldest: dict[str, float] = {}  # accepted_at, as told last
        self._parked: dict[str, Callable[[], None]] = {}  # waits for room; how to stop that
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._overdue: set[str] = set()  # parked, and to be looked at for expired events
        self._appetite: dict[str, int] = {}  # events that the next turn asks for, after full ones
        self._full: set[str] = set()  # at MAXIMUM_IN_FLIGHT_PER_FUNCTION
        self._in_flight: Counter[str] = Counter()

    def bind(self, loop: QueueLoop[Event]) -> None:
        self._loop = loop

    def function(self, name: str) -> Function:
        return self._functions.get(name) or self._began_with[name]

    async def listen(self) -> None:
        served = {*self._functions, *self._deleted} if self._deleted else self._functions
        for name, oldest in await self._loop.wait(self._events.due(served, WAIT_SECONDS)) or ():
            self._oldest[name] = oldest
            if name in self._parked and name in self._functions:
                self._watch_age(name)
            else:
                self._turn(name)

    async def pull(self, slots: int) -> Sequence[Attempt[Event]]:
        if not self._turns:
            wake = asyncio.Event()
            self._idle.append(wake)
            await self._loop.wait(wake.wait())
            return ()
        name, _ = self._turns.popitem(last=False)
        function = self._functions.get(name)
        limit = min(slots, self._appetite.get(name, FIRST_TURN), MAXIMUM_IN_FLIGHT_PER_FUNCTION - self._in_flight[name])
        if limit <= 0:
            self._full.add(name)
        elif function is not None:
            self._began_with[name] = function
            return await self._receive(function, limit)
        elif name in self._deleted:
            return await self._drop(name, limit)
        else:
            self._later(name, LOOK_SECONDS)
        return ()

    def invocation(self, items: Sequence[Event]) -> Invocation:
        (event,) = items
        age = self._loop.world.clock.now() - event.accepted_at  # below 0 if the clock was set back
        self._loop.telemetry.observe(ASYNC_EVENT_AGE, event.function, max(0.0, age))
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
        world, config = self._loop.world, event_invoke(self.function(event.function), event.qualifier)
        if isinstance(outcome, Succeeded) and outcome.by_reference:  # from here on it is reported and kept, as JSON
            outcome = replace(outcome, payload=embedded(outcome.payload).encode(), by_reference=False)
        return asynchronous.after(event, outcome, config, world.clock.now(), world.random(), self._delays)

    def settled(self, attempt: Attempt[Event], settlements: Sequence[Settlement]) -> None: ...

    def due(self) -> frozenset[str]:
        """Functions with events that could run if there were room for them, or a place in this loop."""
        return frozenset((*self._turns, *self._parked, *self._full))

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
            accepted_before = self._loop.world.clock.now() - longest_age_seconds(function)
        claim_seconds = function.timeout_seconds + DESTINATION_RETRY_SECONDS + CLAIM_GRACE_SECONDS
        asked_at = self._loop.world.clock.monotonic()
        attempts: list[Attempt[Event]] = []
        try:
            events = await self._events.receive(name, limit, claim_seconds, accepted_before)
            for event in events:
                attempts.append(self._attempt(event, function, permits, refusal, asked_at, claim_seconds))
        except BaseException:
            permits += [attempt.permit for attempt in attempts if attempt.permit is not None]
            self._turns[name] = None  # for this pull, when it asks again
            raise
        finally:
            for permit in permits:
                invoker.release(permit)
        self._in_flight[name] += len(attempts)
        if len(events) == limit:
            self._appetite[name] = min(4 * limit, EVENTS_PER_TURN)
        else:
            self._appetite[name] = max(limit // 2, FIRST_TURN)
            self._overdue.discard(name)
        return attempts

    async def _drop(self, name: str, limit: int) -> Sequence[Attempt[Event]]:
        """Claim events of a function that was deleted, and end them."""
        self._unpark(name)
        events = await self._events.receive(name, limit, CLAIM_GRACE_SECONDS)
        self._in_flight[name] += len(events)
        if len(events) == limit:
            self._turn(name)
        self._loop.telemetry.count(ASYNC_EVENTS_DROPPED, name, len(events))
        return [Attempt((event,), None, asynchronous.deleted(event), len(event.payload)) for event in events]

    def _permits(self, name: str, limit: int) -> tuple[list[Permit], Throttled | None]:
        permits: list[Permit] = []
        for _ in range(min(limit, max(self._loop.invoker.room(name), 1))):  # one to hear why not
            answer = self._loop.invoker.admit(name)
            if isinstance(answer, Throttled):
                return permits, None if permits else answer
            permits.append(answer)
        return permits, None

    def _attempt(
        self,
        event: Event,
        function: Function,
        permits: list[Permit],
        refusal: Throttled | None,
        asked_at: float,
        claim_seconds: float,
    ) -> Attempt[Event]:
        now = self._loop.world.clock.now()
        steps: Sequence[EventStep] = asynchronous.before(event, event_invoke(function, event.qualifier), now)
        permit = None
        if not steps and recursion.refused(event.hops, function):
            self._loop.telemetry.count(RECURSIVE_INVOCATIONS_DROPPED, function.name)
            steps = asynchronous.recursive(event)
        elif not steps and permits:
            permit = permits.pop()
        elif not steps and refusal is not None and refusal.reserved_zero:
            steps = self.after([event], refusal)
        elif not steps:
            steps = (Release(event.receipt, now, give_back=True, reason=refusal.reason if refusal else ""),)
        held_until = asked_at + min(claim_seconds, self._events.held_seconds)
        return Attempt((event,), permit, steps, len(event.payload), asked_at + claim_seconds, held_until)

    # --- functions that may not start ------------------------------------------------------------------------------

    def _turn(self, name: str) -> None:
        self._turns[name] = None
        if self._idle:
            self._idle.pop().set()

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
        now, limit = self._loop.world.clock.now(), longest_age_seconds(self._functions[name])
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
    """The batches of one queue mapping. `functions` is the live mapping of what this engine hosts; `watched` counts the
    mapping's traffic for advice.

    A batch is open for at most the batching window, and never so long that the function's time limit no longer fits
    into the visibility time-out of its first message; once that is over, it is not started any more. One that waits for
    a permit is claimed for longer: given back at once it would go round between engines, each of which has the permit
    only while it has no batch.

    Where batches are not waited for, and may run in any order, several are received at once as long as that many come.
    """

    pulls = 1

    def __init__(
        self,
        mapping_id: str,
        mapping: QueueMapping,
        source: QueueSource,
        functions: Mapping[str, Function],
        watched: Watched | None = None,
    ) -> None:
        self.subject = mapping_id
        self._watched = watched
        self.settle_many = source.settle_many
        self._result = NOTHING_PROCESSED
        self._attempts_ended = 0  # also those that failed
        self._mapping = mapping
        self._source = source
        self._functions = functions
        self._filters = compile_filters(mapping.filters)
        self._batch: list[Message] = []
        self._bytes = 0
        self._surplus_bytes = 0  # of the largest message that no longer fitted
        self._opened_at = 0.0
        self._visible_at = 0.0  # to others, its first message
        self._called = asyncio.Event()  # there may be room
        self._leave: Callable[[], None] | None = None  # we are in the line of those who wait for room; how to leave it
        self._troubles = 0  # batches in a row that nothing could run
        self._appetite = 1  # batches to be received at once, after full answers
        self._several = mapping.maximum_batching_window_seconds == 0 and not source.fifo

    def bind(self, loop: QueueLoop[Message]) -> None:
        self._loop = loop

    def function(self, name: str) -> Function:
        return self._functions[name]

    def state(self) -> dict[str, object]:
        """LastProcessingResult, in AWS's words, and how many attempts have ended."""
        return {"last_processing_result": self._result, "attempts_ended": self._attempts_ended}

    async def listen(self) -> None:
        await self._loop.wait(asyncio.Event().wait())  # `pull` hears by itself

    async def pull(self, slots: int) -> Sequence[Attempt[Message]]:
        if self._mapping.function not in self._functions:
            await self._loop.pause(LOOK_SECONDS)
            return [self._given_back(self._take())] if self._batch else ()
        if self._closes():
            return await self._close()
        if not self._batch and not await self._may_start():
            return ()
        size = self._mapping.batch_size - len(self._batch)
        batches, left, patience = 1, WAIT_SECONDS, None
        if self._batch:
            now = self._now()
            left, patience = self._opened_at + self._window_seconds() - now, self._begin_by() - now
        elif self._several and not self._troubles:
            room = self._loop.invoker.room(self._mapping.function, self.subject)
            batches = max(1, min(self._appetite, slots, room))
        received = await self._loop.wait(self._source.receive(batches * size, min(left, WAIT_SECONDS)), patience)
        if self._several:
            full = received is not None and len(received) == batches * size
            self._appetite = min(2 * batches, BATCHES_PER_PULL) if full else 1
        return self._split(received, size) if received else ()

    def invocation(self, items: Sequence[Message]) -> Invocation:
        mapping = self._mapping
        self._count(INVOKED_EVENT_COUNT, len(items))
        return Invocation(
            request_id=self._loop.world.new_id(),
            function=mapping.function,
            payload=self._source.to_event(items, mapping.maximum_batching_window_seconds > 0),
            qualifier=mapping.called_qualifier,
            hops=max(message.hops for message in items) + 1,
            items=items,
            partial=mapping.report_batch_item_failures,
        )

    def after(self, items: Sequence[Message], outcome: Outcome) -> Sequence[EventStep]:
        value = value_of(outcome) if isinstance(outcome, Succeeded) else None
        now, partial = self._loop.world.clock.now(), self._mapping.report_batch_item_failures
        steps = queue.after(items, outcome, value, partial, now)
        self._count(FAILED_INVOKE_EVENT_COUNT, len(items) - sum(isinstance(step, Delete) for step in steps))
        self._result = PROCESSED if isinstance(outcome, Succeeded) else PROBLEM
        self._attempts_ended += isinstance(outcome, Succeeded | Failed)
        if self._watched is not None and isinstance(outcome, Succeeded | Failed):
            self._watched.arrived([message.sent_at for message in items if message.receive_count == 1])
            self._watched.ran(len(items), outcome.run_seconds)
        self._troubles = self._troubles + 1 if isinstance(outcome, Throttled | Unavailable) else 0
        return steps

    def settled(self, attempt: Attempt[Message], settlements: Sequence[Settlement]) -> None:
        if attempt.ran:
            self._count(DELETED_EVENT_COUNT, sum(isinstance(settlement, Delete) for settlement in settlements))

    def ended(self, attempt: Attempt[Message]) -> None: ...

    def close(self) -> None:
        if self._leave is not None:
            self._leave()

    # --- collecting ------------------------------------------------------------------------------------------------

    async def _may_start(self) -> bool:
        """Wait until a batch might be admitted; False: look again."""
        loop, invoker, mapping = self._loop, self._loop.invoker, self._mapping
        if self._troubles:
            await loop.pause(backoff.throttle(self._troubles - 1, loop.world.random()))
        if invoker.room(mapping.function, self.subject) > 0:
            return True
        await self._room(LOOK_SECONDS)
        return False

    async def _room(self, seconds: float) -> None:
        """Wait until there may be room, at most so long; whoever waits again has kept its place."""
        if self._leave is None and not self._loop.stopped:
            self._called.clear()
            self._leave = self._loop.invoker.when_free(self._mapping.function, self.subject, self._called.set)
        if await self._loop.wait(self._called.wait(), seconds):
            self._leave = None

    def _split(self, received: Sequence[Message], size: int) -> list[Attempt[Message]]:
        """Each `size` of them are for one batch; the last one stays open. Without a permit the rest goes back."""
        attempts = self._sort(received[:size])
        for first in range(size, len(received), size):
            if self._batch:
                begun = self._begun()
                if isinstance(begun, Throttled):
                    return [*attempts, self._given_back(received[first:])]
                attempts.append(begun)
            attempts += self._sort(received[first : first + size])
        return attempts

    def _sort(self, received: Sequence[Message]) -> list[Attempt[Message]]:
        """Into the batch, or out: what a filter misses is deleted, what no longer fits is given back."""
        kept: list[Message] = []
        misses: list[Message] = []
        surplus: list[Message] = []
        function = self._functions[self._mapping.function]
        for message in received:
            size_bytes = shapes.sqs_size(message)
            if recursion.refused(message.hops, function):
                self._loop.telemetry.count(RECURSIVE_INVOCATIONS_DROPPED, function.name)
                continue  # left alone: it is the queue's redrive policy that takes it
            passes = self._passes(message)
            if passes is False:
                misses.append(message)
            elif passes and (surplus or self._overflows(size_bytes)):
                surplus.append(message)
                self._surplus_bytes = max(self._surplus_bytes, size_bytes)
            elif passes:
                if not self._batch:
                    self._opened_at = self._now()
                    self._visible_at = self._opened_at + self._source.visibility_timeout_seconds
                self._batch.append(message)
                self._bytes += size_bytes
                kept.append(message)
        self._loop.claim([*kept, *misses, *surplus])
        self._count(POLLED_EVENT_COUNT, len(received))
        self._count(FILTERED_OUT_EVENT_COUNT, len(misses))
        deletes = [Delete(message.receipt) for message in misses]
        return [Attempt(misses, steps=deletes)] * bool(misses) + [self._given_back(surplus)] * bool(surplus)

    def _passes(self, message: Message) -> bool | None:
        """None: its look cannot be had (a bug); then it is left alone, and the queue's redrive policy takes it."""
        if not self._filters.patterns:
            return True
        try:
            return self._filters.matches(self._source.view(message))
        except Exception as error:  # noqa: BLE001  # one message must not hold up the others
            self._loop.say("error", "a bug: a message cannot be filtered", error)
            return None

    def _overflows(self, size_bytes: int) -> bool:
        return bool(self._batch) and self._bytes + size_bytes > batching.MAXIMUM_RECORDS_BYTES

    def _closes(self) -> bool:
        if not self._batch:
            return False
        size, window = self._mapping.batch_size, self._window_seconds()
        return batching.closes(
            len(self._batch), self._bytes, self._opened_at, self._now(), size, window, self._surplus_bytes
        )

    async def _close(self) -> Sequence[Attempt[Message]]:
        """Run the batch, or hold it until there is a permit; then give it back, for perhaps others may run it."""
        if self._now() >= self._begin_by():
            await self._hold()
            return ()
        begun = self._begun()
        if not isinstance(begun, Throttled):
            return [begun]
        left = self._opened_at + self._window_seconds() + HOLD_SECONDS - self._now()
        if begun.reserved_zero or left <= 0:
            return [self._given_back(self._take())]
        await self._room(min(left, self._begin_by() - self._now()))
        return ()

    def _begun(self) -> Attempt[Message] | Throttled:
        """The batch as an attempt, if it is admitted; then the next one is empty."""
        permit = self._loop.invoker.admit(self._mapping.function, self.subject)
        if isinstance(permit, Throttled):
            return permit
        size_bytes, batch = self._bytes, self._take()
        return Attempt(batch, permit, (), size_bytes, self._visible_at, self._visible_at)

    async def _hold(self) -> None:
        """Claim the batch for longer. What is no longer ours, perhaps since we or the queue slept, is left alone."""
        before, seconds = self._now(), max(self._source.visibility_timeout_seconds, self._time_limit() + PERMIT_SECONDS)
        until = self._loop.world.clock.now() + seconds
        releases = [Release(message.receipt, until) for message in self._batch]
        answers = await self._loop.wait(self._source.settle_many(releases))
        if answers is not None:
            self._visible_at = before + seconds
            gone = [message for message, ours in zip(self._batch, answers, strict=True) if not ours]
            self._batch = [message for message, ours in zip(self._batch, answers, strict=True) if ours]
            self._bytes -= sum(map(shapes.sqs_size, gone))
            self._loop.forget(gone)

    def _take(self) -> Sequence[Message]:
        batch = self._batch
        self._batch, self._bytes, self._surplus_bytes = [], 0, 0
        return batch

    def _given_back(self, messages: Sequence[Message]) -> Attempt[Message]:
        now = self._loop.world.clock.now()
        return Attempt(messages, steps=[Release(message.receipt, now, give_back=True) for message in messages])

    def _window_seconds(self) -> float:
        spare = self._spare_seconds()
        return min(self._mapping.maximum_batching_window_seconds, spare - min(spare / 2, PERMIT_SECONDS))

    def _spare_seconds(self) -> float:
        """How long a batch may be held, so that the function's time limit still fits before its first message is
        visible to others."""
        return max(self._source.visibility_timeout_seconds - self._time_limit(), 0.0)

    def _begin_by(self) -> float:
        """Until then its time limit still fits; or, where visibility hardly covers that, half of the visibility."""
        return self._visible_at - min(self._time_limit(), self._source.visibility_timeout_seconds / 2)

    def _time_limit(self) -> float:
        return self._functions[self._mapping.function].timeout_seconds

    def _now(self) -> float:
        return self._loop.world.clock.monotonic()

    def _count(self, metric: str, amount: int) -> None:
        if amount:
            self._loop.telemetry.count(metric, self.subject, amount)
