"""The shard loop: asks each owned shard's consumer what next, performs the step, and answers.

It decides nothing about records: that is `semantics/stream.py`. Which shards are ours is `leases.py`'s. One loop
serves all shards of a mapping: one reader for all of them, one writer of checkpoints, a timer where a shard waits, a
task where a step takes time, and nothing at all for an idle shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Final, assert_never

from lambent.destinations import Destinations
from lambent.errors import StoreUnavailable
from lambent.invoker import Invoker, tell, value_of
from lambent.model import (
    DRAINED,
    Checkpoint,
    EndShard,
    Failed,
    Fate,
    Fetch,
    Invocation,
    Invoke,
    Lease,
    Outcome,
    Progress,
    ReportBatch,
    Shard,
    StreamMapping,
    Succeeded,
    Throttled,
    Unavailable,
    Wait,
)
from lambent.observing import Watched
from lambent.polling.leases import Ownership, resume_from
from lambent.ports import Election, Leases, StreamSource, World
from lambent.semantics import backoff, shapes
from lambent.semantics.concurrency import Permit
from lambent.semantics.filtering import compile_filters
from lambent.semantics.stream import ShardConsumer
from lambent.stored_mappings import NOTHING_PROCESSED, PROBLEM, PROCESSED, Seek, first_seek
from lambent.telemetry import (
    DELIVERED_EVENT_COUNT,
    DROPPED_EVENT_COUNT,
    FAILED_INVOKE_EVENT_COUNT,
    FILTERED_OUT_EVENT_COUNT,
    INVOKED_EVENT_COUNT,
    ITERATOR_AGE,
    LOST_EVENT_COUNT,
    OVERRUN_EVENT_COUNT,
    POLLED_EVENT_COUNT,
    Telemetry,
)

READ_AHEAD_BYTES: Final = 256 * 1024 * 1024  # of all shards of an engine together
METRIC_OF_FATE: Final[Mapping[Fate, str]] = {
    "delivered": DELIVERED_EVENT_COUNT,
    "failed": DROPPED_EVENT_COUNT,
    "filtered": FILTERED_OUT_EVENT_COUNT,
    "lost": LOST_EVENT_COUNT,
}
HAND_BACK_SECONDS: Final = 1.0  # for a last checkpoint when stopped at once

_HOPS: Final = attrgetter("hops")
_Tasks = dict[asyncio.Task[None], None]  # strongly held, in the order in which they began


class ReadAhead:
    """One budget of bytes for everything that an engine has read and not yet handed out."""

    def __init__(self, limit_bytes: int = READ_AHEAD_BYTES) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._parked: list[Callable[[], None]] = []

    def may_read(self, when_free: Callable[[], None]) -> bool:
        """Is there room? If not, `when_free` is called once when there is."""
        if self._used < self._limit:
            return True
        self._parked.append(when_free)
        return False

    def changed(self, by_bytes: int) -> None:
        """A shard holds so many bytes more (or less)."""
        self._used += by_bytes
        if self._used < self._limit and self._parked:
            parked, self._parked = self._parked, []
            for when_free in parked:
                when_free()


@dataclass(slots=True, eq=False)
class _OwnedShard:
    lease: Lease
    shard: Shard
    consumer: ShardConsumer
    where: str  # for whoever watches steps: mapping's id and shard
    wanted: Fetch | None = None  # asked of the reader and not answered
    buffered: int = 0  # bytes, as last told to ReadAhead
    timer: asyncio.TimerHandle | None = None
    wakes_at: float = 0.0
    cancel_waiting: Callable[[], None] | None = None  # for the function's capacity
    handed_back: bool = False
    reports: _Tasks = field(default_factory=dict)  # under way


class StreamLoop:
    """One stream mapping. `seek` says where it starts, None: where the mapping itself says; `watched` counts its
    traffic for advice."""

    def __init__(
        self,
        *,
        mapping_id: str,
        mapping: StreamMapping,
        source: StreamSource,
        leases: Leases,
        invoker: Invoker,
        destinations: Destinations,
        telemetry: Telemetry,
        world: World,
        lease_seconds: float,
        read_ahead: ReadAhead,
        seek: Seek | None = None,
        watched: Watched | None = None,
    ) -> None:
        self._id, self._mapping, self._source, self._leases = mapping_id, mapping, source, leases
        self._invoker, self._destinations, self._telemetry, self._world = invoker, destinations, telemetry, world
        self._lease_seconds, self._read_ahead, self._watched = lease_seconds, read_ahead, watched
        self._seek, self._start, self._timestamp = seek or first_seek(mapping)
        self._qualifier = mapping.called_qualifier
        filters = compile_filters(mapping.filters)
        self._accepts = (lambda record: filters.matches(source.view(record))) if mapping.filters else None
        self._shards: dict[str, _OwnedShard] = {}
        self._own: _Tasks = {}
        self._steps: _Tasks = {}
        self._handing_back: _Tasks = {}
        self._to_store: list[tuple[_OwnedShard, Checkpoint]] = []
        self._something_to_store = asyncio.Event()
        self._changed = asyncio.Event()  # a shard was drained or lost
        self._over = asyncio.Event()  # drained, or a bug ended a task
        self._failure: BaseException | None = None
        self._admitted: dict[Invoke, tuple[_OwnedShard, Permit]] = {}  # their tasks have not begun
        self._stopping = False
        self._last_result = NOTHING_PROCESSED
        self._trouble = ""
        self._reader = source.reader(mapping_id)
        self._election: Election | None = getattr(self._reader, "election", None)
        self._ownership = Ownership(
            leases,
            source,
            mapping_id,
            seek=self._seek,
            valid_for_seconds=lease_seconds,
            gained=self._gained,
            lost=self._lost,
            wanted_back=self._wanted_back,
            election=self._election,
            telemetry=telemetry,
            world=world,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set and everything in flight is settled. Cancelled: attempts under way are given back if
        the store still answers, and the leases are released."""
        self._spawn(self._own, self._ownership.run(), "leases")
        self._spawn(self._own, self._read(), "reader")
        self._spawn(self._own, self._store(), "checkpoints")
        self._spawn(self._own, self._until(stopping), "end")
        try:
            await self._over.wait()
            if self._failure is not None:
                raise self._failure
        finally:
            await self._stop()

    async def _until(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        await self._settle(at_once=False)
        self._over.set()

    def state(self) -> dict[str, object]:
        """What can be seen of the loop: shards read here with their positions, how many records of each were read and
        are not finished, and how many it has that are not, if its reader knows; the last result, and what keeps it from
        going on ("": nothing)."""
        shards = sorted(self._shards.items())
        positions = {name: owned.consumer.position for name, owned in shards}
        lags: Callable[[Mapping[str, str]], Mapping[str, int]] | None = getattr(self._reader, "lags", None)
        return {
            "shards": positions,
            "lag": {} if lags is None else lags(positions),
            "unfinished": {name: count for name, owned in shards if (count := owned.consumer.unfinished)},
            "last_processing_result": self._last_result,
            "trouble": self._trouble or self._ownership.trouble,
        }

    # --- owning shards -----------------------------------------------------------------------------------------------

    async def _gained(self, lease: Lease, shard: Shard, from_its_first: bool) -> bool:
        progress = None
        try:
            progress = await self._resumed(lease, shard, from_its_first)
        finally:
            if progress is None:
                self._reader.drop(shard.id)  # or a rebalance would wait for it
        if progress is None:
            return False
        consumer = ShardConsumer(
            self._mapping,
            progress,
            weights=self._source.weights,
            accepts=self._accepts,
            retention_seconds=self._source.retention_seconds,
        )
        self._reader.passed(shard.id, progress.position, lease.counter)
        if self._election is not None:
            self._election.commit(shard.id, progress)  # what its former owner could not, perhaps
        self._shards[shard.id] = owned = _OwnedShard(lease, shard, consumer, f"{self._id}/{shard.id}")
        if self._stopping:
            consumer.drain()
        self._pump(owned)
        return True

    async def _resumed(self, lease: Lease, shard: Shard, from_its_first: bool) -> Progress | None:
        """Where to go on, which the store knows by then; None: the lease is lost."""
        progress = stored = resume_from(lease, self._seek)
        if self._election is not None:
            progress = await self._election.resume(shard.id, stored, self._seek)
        if progress is None:
            start = "TRIM_HORIZON" if from_its_first else self._start
            position = await self._source.position(shard.id, start, self._timestamp)
            progress = Progress(position, seek=self._seek, start=position)
        if progress is not stored:
            (is_stored,) = await self._leases.checkpoint_many([(lease, Checkpoint(progress, ()))])
            if not is_stored:
                return None
        return progress

    def _lost(self, name: str) -> None:
        owned = self._shards.get(name)
        if owned is not None:
            owned.consumer.lost()
            self._forget(owned)
            for task in list(owned.reports):
                task.cancel()  # the next owner reports, and may for minutes

    def _wanted_back(self, name: str) -> None:
        owned = self._shards.get(name)
        if owned is not None:
            owned.consumer.drain()
            self._pump(owned)

    def _forget(self, owned: _OwnedShard) -> None:
        if self._shards.get(owned.shard.id) is not owned:
            return
        del self._shards[owned.shard.id]
        self._reader.drop(owned.shard.id)
        self._read_ahead.changed(-owned.buffered)
        if owned.timer is not None:
            owned.timer.cancel()
        if owned.cancel_waiting is not None:
            owned.cancel_waiting()
        self._changed.set()

    def _hand_back(self, owned: _OwnedShard) -> None:
        if not owned.handed_back:
            owned.handed_back = True
            self._spawn(self._handing_back, self._release(owned), f"release {owned.shard.id}")

    async def _release(self, owned: _OwnedShard) -> None:
        self._ownership.released(owned.shard.id)
        self._forget(owned)
        with suppress(StoreUnavailable):  # then the next heartbeat releases it
            await self._leases.release_many([owned.lease])
        self._ownership.look_now()

    # --- what next, until there is nothing ---------------------------------------------------------------------------

    def _pump(self, owned: _OwnedShard) -> None:
        if not self._ownership.valid:
            return  # the next heartbeat says whether the lease is still ours
        consumer, clock = owned.consumer, self._world.clock
        now, epoch = clock.monotonic(), clock.now()
        while not consumer.void:
            step = consumer.next(now, epoch)
            match step:
                case Fetch():
                    self._fetch(owned, step)
                case Checkpoint():
                    self._to_store.append((owned, step))
                    self._something_to_store.set()
                case Invoke():
                    self._start_invoke(owned, step, now)
                case ReportBatch():
                    self._spawn(self._steps, self._report(owned, step), f"report {owned.shard.id}")
                case EndShard():
                    self._telemetry.log("info", "shard ended", mapping=self._id, shard=owned.shard.id)
                    self._hand_back(owned)
                    return
                case Wait(until):
                    self._wake_at(owned, until, now)
                    break
                case None:
                    break
                case _:
                    assert_never(step)
        before, owned.buffered = owned.buffered, consumer.buffered_bytes
        self._read_ahead.changed(owned.buffered - before)
        if consumer.drained and not consumer.void:
            self._hand_back(owned)

    def _wake_at(self, owned: _OwnedShard, until: float, now: float) -> None:
        if owned.timer is not None:
            if owned.wakes_at == until and not owned.timer.cancelled():
                return
            owned.timer.cancel()

        def wake() -> None:
            owned.timer = None
            self._pump(owned)

        owned.wakes_at = until
        owned.timer = asyncio.get_running_loop().call_later(max(0.0, until - now), wake)

    def _fetch(self, owned: _OwnedShard, step: Fetch) -> None:
        owned.wanted = step
        if self._read_ahead.may_read(lambda: self._want(owned)):
            self._want(owned)

    def _want(self, owned: _OwnedShard) -> None:
        step = owned.wanted
        if step is not None and self._shards.get(owned.shard.id) is owned:
            self._reader.want(owned.shard.id, step.position, step.maximum_records, step.maximum_bytes)

    # --- steps that take time ----------------------------------------------------------------------------------------

    def _start_invoke(self, owned: _OwnedShard, step: Invoke, now: float) -> None:
        admitted = self._invoker.admit(self._mapping.function)
        if not isinstance(admitted, Throttled):
            self._admitted[step] = (owned, admitted)
            self._spawn(self._steps, self._invoke(owned, step, admitted), f"invoke {owned.shard.id}")
            return
        self._telemetry.step(owned.where, step, admitted)
        owned.consumer.invoked(step, admitted, now, jitter=self._world.random())

        def freed() -> None:
            owned.cancel_waiting = None
            owned.consumer.capacity_freed()
            self._pump(owned)

        if owned.cancel_waiting is None and not admitted.reserved_zero:
            owned.cancel_waiting = self._invoker.when_free(self._mapping.function, None, freed)

    async def _invoke(self, owned: _OwnedShard, step: Invoke, permit: Permit) -> None:
        del self._admitted[step]
        mapping, clock, telemetry = self._mapping, self._world.clock, self._telemetry
        records = step.records
        if records:
            age = clock.now() - records[-1].arrived_at
            telemetry.observe(ITERATOR_AGE, self._id, max(0.0, age))
            if self._election is not None:  # partitions are watched one by one, as with any of Kafka's consumers
                telemetry.observe(ITERATOR_AGE, owned.where, max(0.0, age))
        invocation = Invocation(
            request_id=self._world.new_id(),
            function=mapping.function,
            payload=None,
            build=partial(self._event, owned.shard.id, step),
            qualifier=self._qualifier,
            hops=max(map(_HOPS, records), default=0) + 1,
            items=records,
            partial=mapping.report_batch_item_failures,
        )
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        running = self._invoker.start(invocation, permit, tell, ended)
        try:
            outcome = await ended
        except asyncio.CancelledError:
            if running.outcome is None:
                running.abandon()
                self._not_run(owned, step)
                raise
            outcome = running.outcome  # it ended just before it would have been given back: what it did counts
        value: object = None
        telemetry.count(INVOKED_EVENT_COUNT, self._id, len(records))
        if self._watched is not None and records and isinstance(outcome, Succeeded | Failed):
            if step.attempt == 1:
                self._watched.read(records)
            self._watched.ran(len(records), outcome.run_seconds)
        if isinstance(outcome, Succeeded):
            if mapping.report_batch_item_failures or step.window is not None:
                value = value_of(outcome)
            self._last_result = PROCESSED
        else:
            telemetry.count(FAILED_INVOKE_EVENT_COUNT, self._id, len(records))
            self._last_result = PROBLEM
        if owned.consumer.void or not self._ownership.valid:
            telemetry.count(OVERRUN_EVENT_COUNT, self._id, len(records))
        telemetry.step(owned.where, step, outcome)
        owned.consumer.invoked(step, outcome, clock.monotonic(), value, self._world.random())
        self._pump(owned)

    def _event(self, shard: str, step: Invoke) -> object:
        event = self._source.to_event(shard, step.records)
        if step.window is None:
            return event
        return shapes.windowed_event(event, step.window, shard, self._source.arn, step.final)

    def _not_run(self, owned: _OwnedShard, step: Invoke) -> None:
        owned.consumer.invoked(step, Unavailable(DRAINED), self._world.clock.monotonic())
        self._pump(owned)

    async def _report(self, owned: _OwnedShard, step: ReportBatch) -> None:
        task = asyncio.current_task()
        if task is None or owned.consumer.void:
            return
        owned.reports[task] = None
        try:
            delivery = await self._destinations.report_batch(
                step, mapping=self._mapping, mapping_id=self._id, shard=owned.shard.id, source=self._source
            )
        finally:
            del owned.reports[task]
        self._telemetry.step(owned.where, step, delivery)
        owned.consumer.reported(step, delivery)
        self._pump(owned)

    async def _read(self) -> None:
        tries = 0
        while True:
            try:
                reads = await self._reader.ready()
                tries, self._trouble = 0, ""
            except StoreUnavailable as error:
                tries, self._trouble = tries + 1, f"Its stream cannot be read: {error.message}"
                self._telemetry.log("warning", "read failed", mapping=self._id, error=error.message)
                await asyncio.sleep(backoff.reconnection(tries, self._world.random()))
                for owned in list(self._shards.values()):
                    self._want(owned)  # its answer may be what was lost
                continue
            now = self._world.clock.monotonic()
            for read in reads:
                asker = self._shards.get(read.shard)
                if asker is None or asker.wanted is None:
                    continue  # no longer ours, or answered twice
                self._telemetry.count(POLLED_EVENT_COUNT, self._id, len(read.records))
                asker.wanted = None
                asker.consumer.fetched(read, now)
                self._pump(asker)

    async def _store(self) -> None:
        """Write checkpoints, all that are due in one call; while one is under way the next ones gather."""
        tries = 0
        while True:
            await self._something_to_store.wait()
            self._something_to_store.clear()
            batch, self._to_store = self._to_store, []
            batch = [(owned, step) for owned, step in batch if not owned.consumer.void]
            if not batch:
                continue
            try:
                stored = await self._leases.checkpoint_many([(owned.lease, step) for owned, step in batch])
                tries = 0
            except StoreUnavailable as error:
                tries += 1
                self._telemetry.log("warning", "checkpoint failed", mapping=self._id, error=error.message)
                self._to_store[:0] = batch
                self._something_to_store.set()
                await asyncio.sleep(backoff.reconnection(tries, self._world.random()))
                continue
            for (owned, step), is_stored in zip(batch, stored, strict=True):
                self._telemetry.step(owned.where, step, is_stored)
                for settled in step.settled if is_stored else ():
                    self._telemetry.count(METRIC_OF_FATE[settled.fate], self._id, settled.count)
                owned.consumer.checkpointed(is_stored)
                if is_stored:
                    self._reader.passed(owned.shard.id, step.progress.position, owned.lease.counter)
                    if self._election is not None:
                        self._election.commit(owned.shard.id, step.progress)
                    self._pump(owned)
                else:
                    self._forget(owned)
                    self._ownership.look_now()

    # --- ending ------------------------------------------------------------------------------------------------------

    async def _settle(self, at_once: bool) -> None:
        """Start nothing new, and wait until what is in flight is settled, stored and handed back."""
        self._stopping = self._ownership.leaving = True
        for owned in list(self._shards.values()):
            owned.consumer.drain(at_once)
            self._pump(owned)
        while self._shards or self._handing_back:
            self._changed.clear()
            await self._changed.wait()

    async def _stop(self) -> None:
        """Give back the attempts under way, store that if the store answers, and let go of everything."""
        for task in list(self._steps):
            task.cancel()
        for step, (owned, permit) in list(self._admitted.items()):  # cancelled before they began
            self._invoker.release(permit)
            self._not_run(owned, step)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(HAND_BACK_SECONDS):
                    await self._settle(at_once=True)
        finally:
            for owned in list(self._shards.values()):
                owned.consumer.lost()
                self._forget(owned)
            for task in [*self._own, *self._steps, *self._handing_back]:
                task.cancel()
            await self._reader.close()

    def _spawn(self, into: _Tasks, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"{name} of {self._id}")
        into[task] = None
        task.add_done_callback(partial(self._ended, into))

    def _ended(self, among: _Tasks, task: asyncio.Task[None]) -> None:
        del among[task]
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()
            self._over.set()
