"""The queue loop: receive what may start, invoke it, settle it. It serves queue mappings and async events alike.

Decides how many attempts are in flight and in which order steps are performed: report first, settle after. What
follows an attempt is decided in `semantics/asynchronous.py` and `semantics/queue.py`, what may start in
`semantics/concurrency.py` behind the invoker, how receives count in the store.

One loop has one feed (`feeds.py`): the events of all functions of an engine, or the batches of one mapping. Whatever
was received is in an attempt, or loose in the feed's hands; both know what should happen to it if the loop is stopped
now. So a stop hands back all that is not settled, and a crash leaves it to the time-out of its claim. Attempts that end
in the same step of the event loop are settled together: a store's time goes by calls more than by what is in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar, assert_never

from lambent.destinations import Destinations
from lambent.errors import StoreUnavailable
from lambent.invoker import Invoker, Running
from lambent.model import (
    DESTINATION_FAILED,
    DRAINED,
    Delete,
    Event,
    EventStep,
    Failed,
    Function,
    Invocation,
    Message,
    Outcome,
    Refused,
    Release,
    ReportEvent,
    Settlement,
    Succeeded,
)
from lambent.ports import World
from lambent.semantics import backoff
from lambent.semantics.concurrency import Permit
from lambent.telemetry import OVERRUN_EVENT_COUNT, Level, Telemetry

MAXIMUM_IN_FLIGHT: Final = 4_000  # attempts of one loop, from their receive until they are settled
MAXIMUM_BYTES_IN_FLIGHT: Final = 256 * 1024 * 1024
HAND_BACK_SECONDS: Final = 5.0  # what a hard stop gives the store to take back what is not settled
RE_CANCELS: Final = 20
RE_CANCEL_SECONDS: Final = 0.1  # CPython 3.11 can lose a cancellation

Item = TypeVar("Item", Event, Message)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Attempt(Generic[Item]):
    """Claimed items on their way to being settled. With a permit they are run; without, `steps` says how they end."""

    items: Sequence[Item]
    permit: Permit | None = None
    steps: Sequence[EventStep] = ()
    size_bytes: int = 0
    over_at: float = inf  # monotonic seconds: then others see the items
    start_before: float = inf  # perhaps earlier: then they may, if this engine gave no sign of life
    overrun: bool = False  # what it ran is void: its items are another's
    ran: bool = False
    running: Running[Any] | None = None
    counts: bool = False  # its handler has ended: a stop before the settlement no longer makes it undone
    settlements: Sequence[Settlement] | None = None  # of items that are not mentioned: they come back by themselves

    def owed(self, now: float) -> Sequence[Settlement]:
        """What should happen to the items if the loop is stopped at `now` (epoch seconds)."""
        if self.settlements is None:
            return [Release(item.receipt, now, give_back=not self.counts, reason=DRAINED) for item in self.items]
        return self.settlements


class Feed(Protocol[Item]):
    """Where a queue loop's items come from and what they mean."""

    subject: str
    pulls: int  # that may be under way at once: each waits for the store, which serves many with one sync

    def bind(self, loop: QueueLoop[Item]) -> None:
        """Know the loop that it feeds: said once, before anything else."""
        ...

    async def listen(self) -> None:
        """Hear what is due; called again and again beside `pull`."""
        ...

    async def pull(self, slots: int) -> Sequence[Attempt[Item]]:
        """Receive what may start, at most `slots` attempts; none: nothing yet, ask again. Waits only by `loop.wait`."""
        ...

    def invocation(self, items: Sequence[Item]) -> Invocation:
        """The call that an attempt of these is."""
        ...

    def after(self, items: Sequence[Item], outcome: Outcome) -> Sequence[EventStep]:
        """What follows that outcome, as `semantics/` decides."""
        ...

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """As the `EventQueue` or `QueueSource` does where the items come from."""
        ...

    def settled(self, attempt: Attempt[Item], settlements: Sequence[Settlement]) -> None:
        """The store took these of the attempt's settlements; the others were void, because their claim timed out."""
        ...

    def ended(self, attempt: Attempt[Item]) -> None:
        """It is over, settled or not: its place is free."""
        ...

    def close(self) -> None:
        """Nothing will be pulled any more: no timer and no waiting place may stay."""
        ...

    def function(self, name: str) -> Function:
        """The configuration by which an event is reported."""
        ...


class QueueLoop(Generic[Item]):
    """Runs one feed. Everything that it starts ends before `run` does."""

    def __init__(
        self, feed: Feed[Item], invoker: Invoker, destinations: Destinations, telemetry: Telemetry, world: World
    ) -> None:
        self.invoker = invoker
        self.telemetry = telemetry
        self.world = world
        self.stopped = False  # nothing more is pulled
        self._feed: Feed[Item] = feed
        self._name = f"attempt of {feed.subject}"
        self._destinations = destinations
        self._loose: dict[str, Item] = {}  # received and in no attempt, by receipt
        self._attempts: dict[Attempt[Item], None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}  # that report or settle
        self._handed_in: list[Attempt[Item]] | None = None  # to be settled in the next step
        self._bytes = 0
        self._freed = asyncio.Event()
        self._waits: dict[asyncio.Timeout, None] = {}  # a dict keeps its order, so that a run can be repeated
        feed.bind(self)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve the feed until `stopping` is set, then return once all that is in flight is settled.

        Cancelled, it cancels what is in flight, hands back what is not settled if the store answers within
        HAND_BACK_SECONDS, and raises. A loop runs once.
        """
        name = f"queue loop {self._feed.subject}"
        turns = [("listen", self._feed.listen), *[("pull", self._pull)] * self._feed.pulls]
        feeding = [asyncio.create_task(self._for_ever(turn), name=f"{name}: {what}") for what, turn in turns]
        try:
            await stopping.wait()
            self._stop()
            await asyncio.wait(feeding)
            loose = self._received()
            loose.steps = loose.owed(self.world.clock.now())
            self._begin(loose)
            while self._attempts:
                self._freed.clear()
                await self._freed.wait()
        except asyncio.CancelledError:
            ending = asyncio.create_task(self._hard_stop(feeding), name=f"{name}: hard stop")
            while not ending.done():
                try:
                    await asyncio.wait({ending})
                except asyncio.CancelledError:
                    continue  # it is bounded by HAND_BACK_SECONDS, and cancelling it would only lose time
            raise

    # --- for feeds -------------------------------------------------------------------------------------------------

    def claim(self, items: Sequence[Item]) -> None:
        """These were received, and are in no attempt yet: hand them back if the loop stops first."""
        for item in items:
            self._loose[item.receipt] = item

    def forget(self, items: Sequence[Item]) -> None:
        """These come back by themselves."""
        for item in items:
            self._loose.pop(item.receipt, None)

    async def wait(self, waiting: Coroutine[object, object, T], seconds: float | None = None) -> T | None:
        """Its result; None if the loop stops first, or after `seconds`. Only for what may be cancelled."""
        if self.stopped:
            waiting.close()
            return None
        try:
            async with asyncio.timeout(seconds) as limit:
                self._waits[limit] = None
                return await waiting
        except TimeoutError:
            if not limit.expired():
                raise  # not ours
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
        while not self.stopped:
            try:
                await turn()
                troubles = 0
                continue
            except StoreUnavailable as error:
                away = True
                self.say("warning", "the store is away", error)
            except Exception as error:  # noqa: BLE001
                away = False
                self.say("error", "a bug in the queue loop", error)
            troubles += 1
            await self.pause(backoff.restart(troubles, away, self.world.random()))

    async def _pull(self) -> None:
        if len(self._attempts) >= MAXIMUM_IN_FLIGHT or self._bytes >= MAXIMUM_BYTES_IN_FLIGHT:
            self._freed.clear()
            await self.wait(self._freed.wait())
            return
        for attempt in await self._feed.pull(MAXIMUM_IN_FLIGHT - len(self._attempts)):
            if self.stopped:
                self.claim(attempt.items)
                self._return_permit(attempt)
            else:
                self._begin(attempt)
        await asyncio.sleep(0)  # what was begun begins before more is pulled

    def _end(self, attempt: Attempt[Item]) -> None:
        """Settled or not, its place is free."""
        self._attempts.pop(attempt, None)
        self._bytes -= attempt.size_bytes
        self._return_permit(attempt)
        self._feed.ended(attempt)
        self._freed.set()

    def _return_permit(self, attempt: Attempt[Item]) -> None:
        if attempt.permit is not None:
            self.invoker.release(attempt.permit)
            attempt.permit = None

    # --- one attempt -----------------------------------------------------------------------------------------------

    def _begin(self, attempt: Attempt[Item]) -> None:
        if self._loose:
            self.forget(attempt.items)
        self._bytes += attempt.size_bytes
        self._attempts[attempt] = None
        try:
            if attempt.permit is None:
                return self._finish(attempt)
            invocation = self._feed.invocation(attempt.items)
            invocation.start_before = attempt.start_before
            permit, attempt.permit, attempt.ran = attempt.permit, None, True  # now the permit is the invoker's
            attempt.running = self.invoker.start(invocation, permit, self._ran, attempt)
        except Exception as error:  # noqa: BLE001
            self._fail(attempt, error)
        return None

    def _ran(self, attempt: Attempt[Item], outcome: Outcome) -> None:
        if attempt.over_at <= self.world.clock.monotonic():
            self._overrun(attempt)
        try:
            attempt.steps = self._feed.after(attempt.items, outcome)
            attempt.counts = isinstance(outcome, Succeeded | Failed)
            self._finish(attempt)
        except Exception as error:  # noqa: BLE001
            self._fail(attempt, error)

    def _overrun(self, attempt: Attempt[Item]) -> None:
        if not attempt.overrun:
            attempt.overrun = True
            self.telemetry.count(OVERRUN_EVENT_COUNT, self._feed.subject, len(attempt.items))

    def _finish(self, attempt: Attempt[Item]) -> None:
        """Perform its steps: the reports, then the settlements."""
        settlements = [step for step in attempt.steps if not isinstance(step, ReportEvent)]
        if len(settlements) < len(attempt.steps):
            self._spawn(self._report(attempt))
        else:
            self._hand_in(attempt, settlements)

    async def _report(self, attempt: Attempt[Item]) -> None:
        settlements: list[Settlement] = []
        refusals: list[str] = []
        try:
            for step in attempt.steps:
                match step:
                    case ReportEvent():
                        answer = await self._destinations.report_event(step, self._feed.function(step.event.function))
                        if isinstance(answer, Refused):
                            refusals.append(answer.reason)
                        self.telemetry.step(self._feed.subject, step, answer)
                    case Delete():
                        if refusals:
                            step = replace(step, state=DESTINATION_FAILED, reason="; ".join(refusals))
                        settlements.append(step)
                    case Release():
                        settlements.append(step)
                    case _:
                        assert_never(step)
            self._hand_in(attempt, settlements)
        except Exception as error:  # noqa: BLE001
            self._fail(attempt, error)

    def _hand_in(self, attempt: Attempt[Item], settlements: Sequence[Settlement]) -> None:
        """To be settled with all others that end in this step."""
        attempt.settlements = settlements
        if not settlements:
            return self._end(attempt)
        if self._handed_in is None:
            self._handed_in = []
            self._spawn(self._settle(self._handed_in))
        self._handed_in.append(attempt)
        return None

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work, name=self._name)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _fail(self, attempt: Attempt[Item], error: Exception) -> None:
        self.say("error", "a bug: these items are not settled and come back", error)
        self._end(attempt)

    async def _settle(self, attempts: Sequence[Attempt[Item]]) -> None:
        self._handed_in = None
        settlements = [settlement for attempt in attempts for settlement in attempt.settlements or ()]
        try:
            answers = await self._settled(settlements)
            for attempt in attempts:
                of_attempt = [(settlement, next(answers)) for settlement in attempt.settlements or ()]
                for settlement, answer in of_attempt:
                    self.telemetry.step(self._feed.subject, settlement, answer)
                if attempt.ran and not all(answer for _, answer in of_attempt):
                    self._overrun(attempt)
                self._feed.settled(attempt, [settlement for settlement, answer in of_attempt if answer])
        except Exception as error:  # noqa: BLE001
            self.say("error", "a bug: these items are not settled and come back", error)
        for attempt in attempts:
            self._end(attempt)

    async def _settled(self, settlements: Sequence[Settlement]) -> Iterator[bool]:
        """The store's answers, however long it is away."""
        tries = 0
        while True:
            try:
                return iter(await self._feed.settle_many(settlements))
            except StoreUnavailable as error:
                tries += 1
                self.say("warning", "the store is away, nothing is settled", error)
                await asyncio.sleep(backoff.reconnection(tries, self.world.random()))

    # --- stopping --------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self.stopped = True
        self._feed.close()
        for limit in self._waits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def _received(self) -> Attempt[Item]:
        """What is in no attempt yet."""
        return Attempt(tuple(self._loose.values()))

    async def _hard_stop(self, feeding: Sequence[asyncio.Task[None]]) -> None:
        self._stop()
        for attempt in self._attempts:
            if attempt.running is not None:
                attempt.running.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(feeding, timeout=HAND_BACK_SECONDS)  # a receive that is under way should end
        for _ in range(RE_CANCELS):
            left = [task for task in (*feeding, *self._tasks) if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=RE_CANCEL_SECONDS)
        unsettled = [self._received()]
        unsettled.extend(self._attempts)
        for attempt in unsettled:
            self._return_permit(attempt)  # it was cancelled before its first step
        now = self.world.clock.now()
        try:
            async with asyncio.timeout(HAND_BACK_SECONDS):
                if owed := [settlement for attempt in unsettled for settlement in attempt.owed(now)]:
                    await self._feed.settle_many(owed)
        except (StoreUnavailable, TimeoutError) as error:
            self.say("warning", "not handed back, comes back when its claim times out", error)

    def say(self, level: Level, event: str, error: BaseException) -> None:
        """Log it; a bug with its traceback."""
        self.telemetry.log(level, event, subject=self._feed.subject, exc_info=error if level == "error" else None)
