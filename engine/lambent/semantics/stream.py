"""A shard of a stream: given what just happened, what next?

`ShardConsumer` decides what is fetched, which records make a batch, when a failed batch is halved, tried again,
reported or passed over, and what may be checkpointed. It performs nothing: `next` hands out a step, the shell performs
it and answers by `fetched`, `invoked`, `reported` or `checkpointed`, each once, in any order. How far a checkpoint may
go is in `watermark.py`, a window's arithmetic in `windows.py`, what a batch response means in `responses.py`, delays in
`backoff.py`.

Rules: Lambda developer guide, «Kinesis: processing and error handling», and recordings of AWS's pollers. Where AWS is
silent: halves of a batch run at once and use up no retry; only a repeated try of the same records waits.

An attempt begins when it is recorded, so that a record which kills the engine is given up some time. Where tries are
endless that changes nothing, and the attempt is recorded while it runs: a checkpoint that takes long holds up no batch
until a few are ahead of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from math import inf
from operator import attrgetter
from typing import Final, assert_never
from zlib import crc32

from lambent.model import (
    DESTINATION_FAILED,
    MAXIMUM_BATCH_BYTES,
    Checkpoint,
    Delivered,
    Delivery,
    EndShard,
    Failed,
    Fate,
    Fetch,
    Invoke,
    Outcome,
    Piece,
    Progress,
    Read,
    Record,
    ReportBatch,
    StreamCondition,
    StreamMapping,
    StreamStep,
    Succeeded,
    Throttled,
    Unavailable,
    Wait,
    WindowState,
)
from lambent.semantics import backoff, batching, responses, windows
from lambent.semantics.kafka import retry_limit
from lambent.semantics.watermark import Watermark

MAXIMUM_FETCH_RECORDS: Final = 10_000
READ_AHEAD_BATCHES: Final = 4  # for each lane: a read costs as much as a batch, whatever it brings
MAXIMUM_SPAN_RECORDS: Final = 100_000  # read above the watermark: how far other lanes may run past a blocked one
MAXIMUM_SPAN_BYTES: Final = 24 * 1024 * 1024  # of records read and not yet finished, per shard
MAXIMUM_AHEAD_BATCHES: Final = 4  # of a lane, begun while one checkpoint is under way
_ARRIVED_AT, _POSITION = attrgetter("arrived_at"), attrgetter("position")  # faster in C


class _Batch:
    """Records that are tried together. `attempts` includes the one that has begun."""

    __slots__ = (
        "attempts", "begun", "deferrals", "final", "half", "oldest", "ordinals", "records", "retry_at", "throttled",
    )  # fmt: skip

    def __init__(
        self, records: Sequence[Record], ordinals: Sequence[int], final: bool = False, half: bool = False
    ) -> None:
        self.records = records
        self.ordinals = ordinals
        self.final = final  # the last invoke of its tumbling window
        self.half = half  # of a batch that failed: it must not be put together with the other half again
        self.attempts = 0
        self.deferrals = 0  # attempts given back in a row
        self.begun = False  # the attempt is recorded: it may be invoked
        self.throttled = False
        self.retry_at = -inf
        self.oldest = min(map(_ARRIVED_AT, records), default=inf)


class _Lane:
    """A parallel part of a shard: the records of its keys, one batch of them at a time."""

    __slots__ = ("ahead", "batches", "bytes", "handed_out", "index", "opened_at", "ordinals", "records", "report")

    def __init__(self, index: int) -> None:
        self.index = index
        self.records: list[Record] = []  # read, in no batch yet
        self.ordinals: list[int] = []
        self.bytes = 0
        self.opened_at = inf  # when the first of `records` was there to be batched
        self.batches: deque[_Batch] = deque()  # the first is tried now, the others are what is left of a split
        self.report: ReportBatch | None = None  # the first batch was given up, its report is due
        self.handed_out = False  # an Invoke or ReportBatch is unanswered
        self.ahead = 0  # batches begun that no checkpoint names yet


class ShardConsumer:
    """One mapping's reading of one shard, from `progress` on.

    `accepts` is the mapping's filter; `weights` are those of the source's records; `retention_seconds` is when the
    source forgets a record. Times: `now` is monotonic seconds, `epoch` wall-clock seconds (ages are on the wall clock,
    waiting is not).
    """

    def __init__(
        self,
        config: StreamMapping,
        progress: Progress,
        *,
        weights: batching.Weights,
        accepts: Callable[[Record], bool] | None = None,
        retention_seconds: float = inf,
    ) -> None:
        self._config = config
        self._weights = weights
        self._accepts = accepts
        age = config.maximum_record_age_seconds
        self._maximum_age = retention_seconds if age == -1 else min(age, retention_seconds)
        self._retries = retry_limit(config)
        self._endless = self._retries == -1 and not config.bisect_batch_on_function_error
        self._watermark = Watermark(progress.position)
        self._read_to = progress.position
        self._restored = {piece.first: piece for piece in progress.pieces}
        self._window = progress.window
        self._start, self._seek = progress.start, progress.seek
        self._lanes = [_Lane(index) for index in range(config.parallelization_factor)]
        self._beginning: list[_Batch] = []  # their attempts are in the checkpoint under way
        self._under_way: Checkpoint | None = None
        self._fetching = self._dirty = self._draining = self._leave_reports = self._void = False
        self._caught_up = False
        self._source_ended = progress.ended
        self._ended_stored = progress.ended
        self._end_told = False

    # --- what next ---------------------------------------------------------------------------------------------------

    def next(self, now: float, epoch: float) -> StreamStep | None:
        """The next step, marked as in flight; None: nothing until something is answered."""
        if self._void:
            return None
        begin: list[_Batch] = []
        wake = inf
        for lane in self._lanes:
            what = self._lane_next(lane, now, epoch)
            if isinstance(what, float):
                wake = min(wake, what)
            elif isinstance(what, _Batch):
                begin.append(what)
            elif what is not None:
                return what
        if (begin or self._dirty) and self._under_way is None:
            return self._checkpoint(begin)
        fetch = self._fetch(now)
        if fetch is not None:
            return fetch
        if self._ended_stored and not self._end_told:
            self._end_told = True
            return EndShard()
        return Wait(wake) if wake < inf else None

    def _lane_next(self, lane: _Lane, now: float, epoch: float) -> Invoke | ReportBatch | _Batch | float | None:
        """A step, a batch whose attempt is to be recorded before it, a time to look again, or nothing."""
        if lane.handed_out:
            return None
        while lane.report is None:
            if not lane.batches:
                look_again = None if self._draining else self._form(lane, now, epoch)
                if not lane.batches:
                    return look_again
                continue
            batch = lane.batches[0]
            if self._endless and batch in self._beginning and not self._draining:
                self._beginning.remove(batch)
                batch.begun = True
            if batch.begun:
                lane.handed_out = True
                return Invoke(lane.index, batch.records, batch.attempts, self._window, batch.final)
            if self._draining or batch in self._beginning:
                return None
            expires_at = batch.oldest + self._maximum_age
            if epoch >= expires_at:
                self._split_off_expired(lane, batch, epoch)
            elif batch.retry_at > now:
                return min(batch.retry_at, now + (expires_at - epoch))
            elif batch.records:
                if not self._endless or self._under_way is None:
                    return batch
                if lane.ahead == MAXIMUM_AHEAD_BATCHES:
                    return None
                batch.begun = self._dirty = True
                batch.attempts += 1
                lane.ahead += 1
            else:  # the final invoke of a window: nothing that a checkpoint could name
                batch.begun = True
                batch.attempts += 1
        if self._leave_reports:
            return None
        lane.handed_out = True
        return lane.report

    def _form(self, lane: _Lane, now: float, epoch: float) -> float | None:
        """Make the lane's next batch out of what waits, or say when to look again."""
        config, waiting = self._config, lane.records
        if self._window is not None and self._window_closes(lane, epoch):
            lane.batches.append(_Batch((), (), final=True))
            return None
        window_end = inf
        if config.tumbling_window_seconds:
            if waiting and self._window is None:
                start = windows.start_of(waiting[0].arrived_at, config.tumbling_window_seconds)
                self._window = WindowState(start, start + config.tumbling_window_seconds, {})
            window_end = self._window.end if self._window is not None else inf
        if not waiting:
            return now + (window_end - epoch) if epoch < window_end < inf else None
        count, size = self._cut_to_size(lane, windows.count_within(waiting, config.batch_size, window_end))
        if self._restored:
            cut = self._cut_to_restored(lane, count)
            if cut is None:
                return None
            count = cut
            if waiting[0].position in self._restored:
                self._resume(lane, count, now)
                return None
        final = count < len(waiting) and waiting[count].arrived_at >= window_end
        was_cut = count < min(len(waiting), config.batch_size)
        seconds = config.maximum_batching_window_seconds
        whole = was_cut or final or self._source_ended or epoch >= window_end
        if not whole and not batching.closes(count, size, lane.opened_at, now, config.batch_size, seconds):
            return min(batching.closes_at(lane.opened_at, seconds), now + (window_end - epoch))
        lane.batches.append(self._take(lane, count, now, final))
        return None

    def _window_closes(self, lane: _Lane, epoch: float) -> bool:
        """The final invoke is due: the next record is of a later window, or the clock passed with nothing unread."""
        assert self._window is not None
        if self._window.terminated_early:
            return True
        if lane.records:
            return lane.records[0].arrived_at >= self._window.end
        return self._source_ended or (self._caught_up and epoch >= self._window.end)

    def _take(self, lane: _Lane, count: int, now: float, final: bool = False) -> _Batch:
        if count == len(lane.records):
            batch = _Batch(lane.records, lane.ordinals, final)
            lane.records, lane.ordinals, lane.bytes, lane.opened_at = [], [], 0, inf
        else:
            batch = _Batch(lane.records[:count], lane.ordinals[:count], final)
            del lane.records[:count], lane.ordinals[:count]
            lane.bytes -= self._weights.held(batch.records)
            lane.opened_at = now
        return batch

    def _cut_to_size(self, lane: _Lane, count: int) -> tuple[int, int]:
        """How many of the first `count` records fit into one event, and their bytes (at least one always goes)."""
        weights, limit = self._weights, MAXIMUM_BATCH_BYTES - self._weights.envelope
        more = count < len(lane.records)  # what is read ahead for later batches weighs nothing in this one
        held = weights.held(lane.records[:count]) if more else lane.bytes
        rough = int(held * weights.per_byte) + count * weights.per_record
        if rough <= limit:
            return count, rough
        size = 0
        for index in range(count):
            size += weights.in_event(lane.records[index])
            if size > limit and index:
                return index, limit
        return count, size

    # --- taking up what a former owner left --------------------------------------------------------------------------

    def _cut_to_restored(self, lane: _Lane, count: int) -> int | None:
        """A batch with recorded attempts is formed again as it was: None if its end was not read yet."""
        piece = self._restored.get(lane.records[0].position)
        if piece is None:
            for index in range(1, count):
                if lane.records[index].position in self._restored:
                    return index
            return count
        for index in range(count):
            if lane.records[index].position == piece.last:
                return index + 1
        whole = count == self._config.batch_size or self._caught_up or self._source_ended
        return count if whole or count < len(lane.records) else None

    def _resume(self, lane: _Lane, count: int, now: float) -> None:
        """The result of the last attempt is unknown: it counts as one that failed, and waits no more. Without any
        attempt it is half of a batch."""
        piece = self._restored.pop(lane.records[0].position)
        batch = self._take(lane, count, now)
        batch.attempts = piece.attempts
        lane.batches.append(batch)
        if not piece.attempts:
            batch.half = True
            return
        self._failed(lane, batch, None, now, jitter=0.0)
        batch.retry_at = -inf

    # --- answers -----------------------------------------------------------------------------------------------------

    def fetched(self, read: Read, now: float) -> None:
        """What a Fetch found."""
        self._fetching = False
        self._caught_up = read.caught_up
        self._source_ended = self._source_ended or read.ended
        if read.lost:
            self._watermark.lose(read.lost)
        if read.ended and not read.records and self._idle():
            self._dirty = True
        if read.records:
            self._read_to = read.records[-1].position
            self._hand_round(read.records, now)
        if read.caught_up and self._restored:  # what is not there by now was trimmed by the source
            waiting = {record.position for lane in self._lanes for record in lane.records}
            self._restored = {first: piece for first, piece in self._restored.items() if first in waiting}

    def _hand_round(self, records: Sequence[Record], now: float) -> None:
        """To each lane the records of its keys, without those that the filter misses."""
        ordinals: Sequence[int] = self._watermark.read(list(map(_POSITION, records)))
        if self._accepts is not None:
            records, ordinals = self._filter(records, ordinals, self._accepts)
        if len(self._lanes) == 1:
            self._enqueue(self._lanes[0], records, ordinals, now)
            return
        parts: list[tuple[list[Record], list[int]]] = [([], []) for _ in self._lanes]
        for record, ordinal in zip(records, ordinals, strict=True):
            part = parts[lane_of(record.key, len(parts))]
            part[0].append(record)
            part[1].append(ordinal)
        for lane, part in zip(self._lanes, parts, strict=True):
            self._enqueue(lane, *part, now)

    def _enqueue(self, lane: _Lane, records: Sequence[Record], ordinals: Sequence[int], now: float) -> None:
        if records:
            lane.opened_at = min(lane.opened_at, now)
            lane.records.extend(records)
            lane.ordinals.extend(ordinals)
            lane.bytes += self._weights.held(records)

    def _filter(
        self, records: Sequence[Record], ordinals: Sequence[int], accepts: Callable[[Record], bool]
    ) -> tuple[Sequence[Record], Sequence[int]]:
        passed = [accepts(record) for record in records]
        if all(passed):
            return records, ordinals
        missed = [index for index, good in enumerate(passed) if not good]
        self._watermark.finish([ordinals[index] for index in missed], "filtered")
        self._dirty = True
        return (
            [record for record, good in zip(records, passed, strict=True) if good],
            [ordinal for ordinal, good in zip(ordinals, passed, strict=True) if good],
        )

    def invoked(self, step: Invoke, outcome: Outcome, now: float, value: object = None, jitter: float = 0.0) -> None:
        """How an Invoke ended. `value` is the decoded response, needed with partial failures and windows."""
        if self._void:
            return
        lane = self._lanes[step.lane]
        lane.handed_out = False
        batch = lane.batches[0]
        match outcome:
            case Succeeded():
                self._answered(lane, batch, outcome, value, now, jitter)
            case Failed():
                self._failed(lane, batch, outcome, now, jitter)
            case Throttled() | Unavailable():
                self._give_back(batch)
                batch.throttled = isinstance(outcome, Throttled)
                batch.retry_at = now + backoff.throttle(batch.deferrals, jitter)
                batch.deferrals += 1
            case _:
                assert_never(outcome)

    def _answered(
        self, lane: _Lane, batch: _Batch, outcome: Succeeded, value: object, now: float, jitter: float
    ) -> None:
        first_failed = len(batch.records)
        if self._config.report_batch_item_failures and batch.records:
            match responses.judge(value, [record.position for record in batch.records]):
                case responses.NoneSucceeded():
                    first_failed = 0
                case responses.SomeFailed(failed):
                    first_failed = next(i for i, record in enumerate(batch.records) if record.position in failed)
                case responses.AllSucceeded():
                    pass
        if first_failed == 0 and batch.records:
            self._failed(lane, batch, outcome, now, jitter)
            return
        if self._window is not None:
            window = windows.after(self._window, value, batch.final and first_failed == len(batch.records))
            if isinstance(window, Failed):
                self._failed(lane, batch, window, now, jitter)
                return
            self._window = window
            self._dirty = True
        lane.batches.popleft()
        if first_failed < len(batch.records):
            rest = _Batch(batch.records[first_failed:], batch.ordinals[first_failed:], batch.final)
            if self._config.bisect_batch_on_function_error:
                rest.half = True
            else:
                rest.retry_at = now + backoff.stream_retry(1, jitter)
            lane.batches.appendleft(rest)
            batch = _Batch(batch.records[:first_failed], batch.ordinals[:first_failed])
        if self._window is not None and self._window.terminated_early:  # before what is left of a split
            lane.batches.appendleft(_Batch((), (), final=True))
        self._settle(batch, "delivered")

    def _failed(self, lane: _Lane, batch: _Batch, outcome: Outcome | None, now: float, jitter: float) -> None:
        """Halve, try again, or give up. `outcome` None: the attempt's result is unknown."""
        batch.begun = False
        batch.deferrals = 0
        self._dirty = True
        retries = self._retries
        if self._config.bisect_batch_on_function_error and len(batch.records) > 1:
            half = len(batch.records) // 2
            lane.batches.popleft()
            lane.batches.appendleft(_Batch(batch.records[half:], batch.ordinals[half:], batch.final, half=True))
            lane.batches.appendleft(_Batch(batch.records[:half], batch.ordinals[:half], half=True))
        elif batch.records and 0 <= retries < batch.attempts:
            self._give_up(lane, batch, "RetryAttemptsExhausted", outcome)
        else:
            batch.retry_at = now + backoff.stream_retry(batch.attempts, jitter)

    def _split_off_expired(self, lane: _Lane, batch: _Batch, epoch: float) -> None:
        """Records above the age limit are given up, the others are tried as before."""
        age = self._maximum_age
        old = [index for index, record in enumerate(batch.records) if epoch >= record.arrived_at + age]
        young = [index for index, record in enumerate(batch.records) if epoch < record.arrived_at + age]
        lane.batches.popleft()
        if young:
            rest = _Batch([batch.records[i] for i in young], [batch.ordinals[i] for i in young], batch.final)
            rest.attempts, rest.retry_at, rest.half = batch.attempts, batch.retry_at, batch.half
            rest.deferrals, rest.throttled = batch.deferrals, batch.throttled
            lane.batches.appendleft(rest)
        expired = _Batch([batch.records[i] for i in old], [batch.ordinals[i] for i in old])
        expired.attempts = batch.attempts
        lane.batches.appendleft(expired)
        self._dirty = True
        self._give_up(lane, expired, "RecordAgeExceeded", None)

    def _give_up(self, lane: _Lane, batch: _Batch, condition: StreamCondition, outcome: Outcome | None) -> None:
        if self._config.on_failure is None:
            self._passed_over(lane, condition)
        else:
            attempts = max(1, batch.attempts)  # recorded: 1 also for what was never invoked
            lane.report = ReportBatch(lane.index, batch.records, condition, attempts, outcome)

    def reported(self, step: ReportBatch, delivery: Delivery) -> None:
        """The destination has the report, or will never take it: the shard moves on."""
        if self._void:
            return
        lane = self._lanes[step.lane]
        lane.handed_out, lane.report = False, None
        reason = step.condition if isinstance(delivery, Delivered) else f"{DESTINATION_FAILED}: {delivery.reason}"
        self._passed_over(lane, reason)

    def _passed_over(self, lane: _Lane, reason: str) -> None:
        """If the batch was the last of its window, the window is still open: an empty final invoke is formed next."""
        self._settle(lane.batches.popleft(), "failed", reason)

    def checkpointed(self, stored: bool) -> None:
        """The Checkpoint is durable; False: the lease is gone."""
        under_way, self._under_way = self._under_way, None
        if not stored or under_way is None:
            self.lost()
            return
        for batch in self._beginning:
            batch.begun = True
        self._beginning.clear()
        if self._draining:
            self.drain()
        self._ended_stored = under_way.progress.ended

    def capacity_freed(self) -> None:
        """Something may start again: throttled batches need not wait for their time."""
        for lane in self._lanes:
            if lane.batches and lane.batches[0].throttled:
                lane.batches[0].throttled = False
                lane.batches[0].retry_at = -inf

    def drain(self, at_once: bool = False) -> None:
        """Start nothing new; attempts that were recorded and not started are given back. `at_once`: reports that are
        due are left to the next owner."""
        self._draining = True
        self._leave_reports = self._leave_reports or at_once
        for lane in self._lanes:
            if lane.batches and lane.batches[0].begun and not lane.handed_out:
                self._give_back(lane.batches[0])

    def lost(self) -> None:
        """The lease is gone: all that is in flight is void."""
        self._void = True

    # --- state that is derived ---------------------------------------------------------------------------------------

    @property
    def void(self) -> bool:
        return self._void

    @property
    def drained(self) -> bool:
        """After `drain`: nothing is in flight and everything known is stored."""
        busy = any(not self._leave_reports if lane.report is not None else lane.handed_out for lane in self._lanes)
        return self._void or (self._draining and not (busy or self._dirty or self._under_way is not None))

    @property
    def buffered_bytes(self) -> int:
        """Bytes of records that were read and are in no batch yet."""
        return sum([lane.bytes for lane in self._lanes])

    @property
    def unfinished(self) -> int:
        """How many records were read and not passed yet."""
        return self._watermark.next - self._watermark.low

    @property
    def position(self) -> str:
        return self._watermark.position

    def _fetch(self, now: float) -> Fetch | None:
        """Read ahead when a lane has less than a batch; a blocked one stalls the others only at the span's limits."""
        if self._fetching or self._source_ended or self._draining:
            return None
        size = self._config.batch_size
        ahead = sum([min(len(lane.records), size) for lane in self._lanes])
        held = self.buffered_bytes
        wanted = size * len(self._lanes)
        span = self._watermark.next - self._watermark.low
        if ahead >= wanted or span >= MAXIMUM_SPAN_RECORDS or held >= MAXIMUM_SPAN_BYTES:
            return None
        self._fetching = True
        count = min(READ_AHEAD_BATCHES * wanted - ahead, MAXIMUM_FETCH_RECORDS, MAXIMUM_SPAN_RECORDS - span)
        return Fetch(self._read_to, count, MAXIMUM_SPAN_BYTES - held)

    def _checkpoint(self, begin: Collection[_Batch]) -> Checkpoint:
        for batch in begin:
            batch.attempts += 1
        self._beginning.extend(begin)
        for lane in self._lanes:
            lane.ahead = 0
        pieces = [
            Piece(batch.records[0].position, batch.records[-1].position, batch.attempts)
            for lane in self._lanes
            for batch in lane.batches
            if (batch.attempts or batch.half) and batch.records
        ]
        pieces.extend(self._restored.values())
        self._dirty = False
        ended = self._finished()
        settled = self._watermark.settled(ended)
        progress = Progress(self._watermark.position, tuple(pieces), self._window, ended, self._seek, self._start)
        self._under_way = Checkpoint(progress, settled)
        return self._under_way

    def _give_back(self, batch: _Batch) -> None:
        batch.begun = False
        batch.attempts -= 1
        self._dirty = True

    def _settle(self, batch: _Batch, fate: Fate, reason: str = "") -> None:
        self._watermark.finish(batch.ordinals, fate, reason)
        self._dirty = True

    def _idle(self) -> bool:
        return self._watermark.low == self._watermark.next and not any(lane.batches for lane in self._lanes)

    def _finished(self) -> bool:
        return self._source_ended and self._window is None and self._idle()


def lane_of(key: str, lanes: int) -> int:
    """Which parallel part of a shard the records of a key are in."""
    return crc32(key.encode()) % lanes
