"""What a shard reports, stores and takes up again; its filters, lanes and ends. Scripts, played by `driver.py`."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest

from lambent.model import (
    Checkpoint,
    Delivered,
    EndShard,
    Fetch,
    Invoke,
    Piece,
    Progress,
    Read,
    ReportBatch,
    Settled,
    Throttled,
    Unavailable,
    Wait,
)
from lambent.model import Refused as RefusedForGood
from lambent.semantics import backoff, stream
from tests.semantics.driver import (
    ERROR,
    THROTTLED,
    Call,
    driver,
    key_of_lane,
    numbers,
    poison,
    position,
)

# --------------------------------------------------------------------------- reports


def test_without_a_destination_records_are_passed_over_and_counted_as_failed() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=0, function=poison(1)).put(4).run()
    assert play.reports == []
    assert play.settled == [
        Settled(position(1), position(2), 2, "failed", "RetryAttemptsExhausted"),
        Settled(position(3), position(4), 2, "delivered"),
    ]


def test_a_report_is_delivered_before_the_checkpoint_passes_its_records() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=0, function=poison(1), on_failure="queue:dead").put(4)
    report = play.until(ReportBatch)
    while (step := play.ask()) is not None:
        assert not isinstance(step, Invoke), "the next batch waits for the report"
        play.answer(step)
    assert play.progress.position == position(0)
    play.answer(report)
    assert play.run().progress.position == position(4)


def test_a_crash_before_the_checkpoint_repeats_a_report_and_loses_no_record() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=0, function=poison(1), on_failure="queue:dead").put(2)
    play.answer(play.until(ReportBatch))
    play.crash().run()
    assert [report.records for report in play.reports] == [[1, 2], [1, 2]]
    assert play.fates() == {"failed": 2}


@pytest.mark.parametrize("reason", ["too large", ""])
@pytest.mark.parametrize("kind", [RefusedForGood, Unavailable])
def test_the_shard_moves_on_when_the_destination_will_not_have_the_report(kind: Any, reason: str) -> None:
    play = driver(
        batch_size=2,
        maximum_retry_attempts=0,
        function=poison(1),
        on_failure="queue:dead",
        report=lambda step: kind(reason),
    )
    play.put(4).run()
    assert [(settled.fate, settled.reason) for settled in play.settled] == [
        ("failed", f"destination-failed: {reason}"),
        ("delivered", ""),
    ]


# --------------------------------------------------------------------------- attempts


@pytest.mark.parametrize("limited", [{"maximum_retry_attempts": 5}, {"bisect_batch_on_function_error": True}])
def test_an_attempt_is_recorded_before_it_begins(limited: dict[str, Any]) -> None:
    play = driver(batch_size=3, **limited).put(6)
    step = play.until(Checkpoint)
    assert step.progress == Progress(position(0), (Piece(position(1), position(3), 1),))
    asked = play.ask()
    assert asked is None or isinstance(asked, Fetch), "nothing is invoked before that is stored"
    play.answer(step)
    assert numbers(play.until(Invoke).records) == [1, 2, 3]


def test_where_tries_are_endless_an_attempt_begins_while_it_is_being_recorded() -> None:
    play = driver(batch_size=2).put(6)
    first = play.until(Checkpoint)
    assert numbers(play.until(Invoke).records) == [1, 2]
    assert first in play.in_flight


def test_it_runs_a_few_batches_ahead_of_what_is_stored_and_no_more() -> None:
    play = driver(batch_size=2).put(20)
    begins = play.until(Checkpoint)
    for _ in range(1 + stream.MAXIMUM_AHEAD_BATCHES):
        play.answer(play.until(Invoke))
    while (step := play.ask()) is not None:
        assert isinstance(step, Fetch), "the next batch waits until something is stored"
    play.answer(begins)
    settles = play.until(Checkpoint)
    assert settles.progress.position == position(2 * (1 + stream.MAXIMUM_AHEAD_BATCHES)), (
        "all that ended goes into the next"
    )
    assert numbers(play.until(Invoke).records) == [11, 12]


def test_where_tries_are_counted_nothing_runs_ahead_of_what_is_stored() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=1).put(6)
    play.answer(play.until(Checkpoint))
    play.answer(play.until(Invoke))
    settles = play.until(Checkpoint)
    while (step := play.ask()) is not None:
        assert isinstance(step, Fetch)
    play.answer(settles)
    assert numbers(play.until(Invoke).records) == [3, 4]


def test_where_tries_are_endless_an_attempt_ahead_of_what_is_stored_is_stored_with_what_comes_next() -> None:
    play = driver(batch_size=2, function=lambda call: ERROR).put(2)
    begins = play.until(Checkpoint)
    play.answer(play.until(Invoke))
    play.now = play.until(Wait).until
    again = play.until(Invoke)
    assert again.attempt == 2
    play.answer(begins)
    assert [piece.attempts for piece in play.until(Checkpoint).progress.pieces] == [2]


def test_an_attempt_that_fails_before_it_is_recorded_waits_for_its_retry_all_the_same() -> None:
    play = driver(batch_size=2, function=lambda call: ERROR).put(2)
    begins = play.until(Checkpoint)
    play.answer(play.until(Invoke))
    play.answer(begins)
    again = play.until(Wait)
    assert again.until > play.now
    assert [call.attempt for call in play.calls] == [1]


def test_one_checkpoint_settles_a_batch_and_begins_the_next() -> None:
    play = driver(batch_size=2).put(4).run()
    assert play.checkpoints == [
        Progress(position(0), (Piece(position(1), position(2), 1),)),
        Progress(position(2), (Piece(position(3), position(4), 1),)),
        Progress(position(4)),
    ]


def test_throttles_and_unavailability_use_up_no_retry() -> None:
    answers = iter([THROTTLED, Unavailable("store away"), ERROR, THROTTLED, ERROR, THROTTLED, None])
    play = driver(batch_size=2, maximum_retry_attempts=2, function=lambda call: next(answers)).put(2).run()
    assert [call.attempt for call in play.calls] == [1, 1, 1, 2, 2, 3, 3]
    assert play.fates() == {"delivered": 2}


def test_an_attempt_that_was_given_back_is_given_back_in_what_is_stored() -> None:
    play = driver(batch_size=2, function=lambda call: THROTTLED).put(2)
    play.answer(play.until(Invoke))
    assert play.progress.pieces == (Piece(position(1), position(2), 1),)
    step = play.ask()
    while not isinstance(step, Checkpoint):
        assert step is not None
        play.answer(step)
        step = play.ask()
    assert step.progress.pieces == ()


def test_throttles_wait_one_second_doubling_to_five_minutes() -> None:
    play = driver(batch_size=2, function=lambda call: THROTTLED).put(2).run(2000)
    waits = [later - earlier for earlier, later in zip(play.times, play.times[1:], strict=False)]
    assert waits[:4] == [1, 2, 4, 8]
    assert max(waits) == backoff.THROTTLE_MAXIMUM_SECONDS


def test_a_throttled_batch_starts_as_soon_as_capacity_is_free() -> None:
    answers = iter([THROTTLED, THROTTLED, None])
    play = driver(batch_size=2, function=lambda call: next(answers)).put(2).run(1.5)
    assert len(play.calls) == 2
    play.consumer.capacity_freed()
    assert play.run(0.1).fates() == {"delivered": 2}
    assert play.times == [0, 1, 1.5]


def test_freed_capacity_does_not_shorten_the_wait_after_a_failure() -> None:
    play = driver(batch_size=2, function=poison(1)).put(2).run(0.1)
    play.consumer.capacity_freed()
    assert len(play.run(0.1).calls) == 1


# --------------------------------------------------------------------------- crash, drain, loss


def test_a_crash_counts_an_attempt() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=5).put(2)
    for attempt in (1, 2, 3):
        assert play.until(Invoke).attempt == attempt
        play.crash()
    assert play.progress.pieces == (Piece(position(1), position(2), 3),)
    assert play.run().fates() == {"delivered": 2}
    assert [call.attempt for call in play.calls] == [1, 2, 3, 4]


def test_after_a_crash_the_next_attempt_waits_no_more() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=5).put(2)
    play.until(Invoke)
    assert play.crash().run().times == [0, 0]


def test_a_record_that_kills_the_engine_is_reported_when_its_retries_are_used_up() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=2, on_failure="queue:dead").put(4)
    for _ in range(3):
        assert numbers(play.until(Invoke).records) == [1, 2]
        play.crash()
    play.run()
    [report] = play.reports
    assert (report.records, report.condition) == ([1, 2], "RetryAttemptsExhausted")
    assert (report.attempts, report.outcome) == (3, None)
    assert play.fates() == {"failed": 2, "delivered": 2}


def test_a_batch_whose_try_ended_in_a_crash_is_halved() -> None:
    """So a record that kills the engine is isolated like any poison."""
    play = driver(batch_size=4, bisect_batch_on_function_error=True, maximum_retry_attempts=0, on_failure="queue:dead")
    play.put(4)
    assert numbers(play.until(Invoke).records) == [1, 2, 3, 4]
    assert numbers(play.crash().until(Invoke).records) == [1, 2]
    assert numbers(play.crash().until(Invoke).records) == [1]
    play.crash().run()
    assert [report.records for report in play.reports] == [[1]]
    assert play.fates() == {"failed": 1, "delivered": 3}


def test_a_batch_is_formed_again_as_it_was() -> None:
    play = driver(batch_size=10, maximum_batching_window_seconds=5).put(3).run(4.9)
    play.now = 5.0
    assert numbers(play.until(Invoke).records) == [1, 2, 3]
    play.put(7)
    play.crash().run()
    assert [(call.records, call.attempt) for call in play.calls] == [
        ([1, 2, 3], 1),
        ([1, 2, 3], 2),
        ([4, 5, 6, 7, 8, 9, 10], 1),
    ]


def test_a_batch_that_was_begun_waits_until_it_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAXIMUM_FETCH_RECORDS", 2)
    play = driver(batch_size=10, progress=Progress(position(0), (Piece(position(1), position(3), 1),))).put(5).run()
    assert [(call.records, call.attempt) for call in play.calls] == [([1, 2, 3], 2), ([4], 1), ([5], 1)]


def test_a_count_that_was_not_taken_up_yet_stays_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAXIMUM_FETCH_RECORDS", 1)
    first, second = Piece(position(1), position(1), 1), Piece(position(2), position(2), 4)
    play = driver(batch_size=1, parallelization_factor=2, progress=Progress(position(0), (first, second)))
    play.put(2, [key_of_lane(0, 2), key_of_lane(1, 2)])
    assert set(play.until(Checkpoint).progress.pieces) == {Piece(position(1), position(1), 2), second}
    play.crash().run()
    assert {tuple(call.records): call.attempt for call in play.calls} == {(1,): 2, (2,): 5}


def test_every_lane_takes_up_its_own_count() -> None:
    keys = [key_of_lane(lane, 3) for lane in range(3)]
    play = driver(batch_size=4, parallelization_factor=3, maximum_retry_attempts=5).put(12, keys * 4)
    for _ in range(2):
        running = 0
        while running < 3:
            step = play.ask()
            assert step is not None
            if isinstance(step, Invoke):
                running += 1
            else:
                play.answer(step)
        play.crash()
    play.run()
    assert [call.attempt for call in play.calls] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_lanes_that_come_late_keep_their_count() -> None:
    """The first lane has nothing left of a former owner's; it must not throw away what the others have."""
    quiet, stuck = key_of_lane(0, 2), key_of_lane(1, 2)
    play = driver(batch_size=1, parallelization_factor=2, maximum_retry_attempts=1, function=poison(1))
    play.put(1, stuck).put(1, quiet).run(0.1)
    assert play.progress.pieces == (Piece(position(1), position(1), 1),)
    play.crash().run()
    assert [call.attempt for call in play.calls if call.records == [1]] == [1, 2]


def test_counts_of_records_that_the_source_dropped_are_forgotten() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=5).put(4)
    play.until(Invoke)
    play.trimmed = 2
    play.crash().run()
    assert play.progress == Progress(position(4))
    assert play.fates() == {"lost": 2, "delivered": 2}


def test_drain_gives_back_an_attempt_that_was_recorded_and_not_started() -> None:
    play = driver(batch_size=2).put(4)
    step = play.until(Checkpoint)
    play.consumer.drain()
    assert not play.consumer.drained
    play.answer(step)
    play.drain()
    assert play.calls == []
    assert play.progress == Progress(position(0))
    assert play.crash().run().fates() == {"delivered": 4}


def test_drain_lets_what_runs_end_and_stores_it() -> None:
    play = driver(batch_size=2).put(4)
    step = play.until(Invoke)
    play.consumer.drain()
    assert play.ask() is None
    assert not play.consumer.drained
    play.answer(step)
    play.drain()
    assert play.batches == [[1, 2]]
    assert play.progress == Progress(position(2))


def test_an_invocation_cut_short_by_a_drain_gives_its_attempt_back() -> None:
    play = driver(batch_size=2).put(4)
    step = play.until(Invoke)
    play.consumer.drain()
    play.answer(step, Unavailable("drained"))
    play.drain()
    assert play.progress == Progress(position(0))


def test_drain_keeps_the_count_of_failed_attempts() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=3, function=poison(1)).put(2).run(0.3)
    assert len(play.calls) == 2
    play.drain()
    assert play.progress.pieces == (Piece(position(1), position(2), 2),)
    play.crash().run()
    assert [call.attempt for call in play.calls] == [1, 2, 3, 4]


def test_drain_lets_a_report_go_out() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=0, function=poison(1), on_failure="queue:dead").put(4)
    play.answer(play.until(Invoke))
    play.drain()
    assert [report.records for report in play.reports] == [[1, 2]]
    assert play.progress == Progress(position(2))


def test_a_drain_at_once_leaves_reports_that_are_due_to_the_next_owner() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=0, function=poison(1), on_failure="queue:dead").put(4)
    play.answer(play.until(Invoke))
    play.consumer.drain(at_once=True)
    play.drain()
    assert (play.reports, play.progress.pieces) == ([], (Piece(position(1), position(2), 1),))
    play.crash().run()
    assert [report.records for report in play.reports] == [[1, 2]]
    assert play.fates() == {"failed": 2, "delivered": 2}


def test_drain_starts_no_new_report() -> None:
    play = driver(
        batch_size=2, maximum_record_age_seconds=60, function=lambda call: THROTTLED, on_failure="queue:dead"
    ).put(2)
    play.run(30)
    play.drain()
    play.now = 1000
    assert play.ask() is None
    assert play.consumer.drained


def test_a_lost_lease_voids_what_is_in_flight() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=0, on_failure="queue:dead").put(4)
    step = play.until(Invoke)
    play.consumer.lost()
    assert play.consumer.void
    assert play.consumer.drained
    play.answer(step, ERROR)
    assert play.ask() is None
    assert play.checkpoints[-1].position == position(0)


def test_a_refused_checkpoint_is_a_lost_lease() -> None:
    play = driver(batch_size=2).put(4)
    play.until(Checkpoint)
    play.consumer.checkpointed(False)
    assert play.consumer.void
    assert play.ask() is None


# --------------------------------------------------------------------------- filters


def test_records_that_the_filter_misses_are_passed_over_and_counted() -> None:
    play = driver(batch_size=3, accepts=lambda record: int(record.position) % 2 == 0).put(7).run()
    assert play.batches == [[2, 4, 6]]
    assert play.fates() == {"filtered": 4, "delivered": 3}
    assert play.progress == Progress(position(7))


def test_the_checkpoint_advances_over_records_that_are_all_missed() -> None:
    play = driver(batch_size=3, accepts=lambda record: False).put(100).run()
    assert play.calls == []
    assert play.progress == Progress(position(100))
    assert play.fates() == {"filtered": 100}


def test_a_missed_record_between_does_not_let_the_checkpoint_pass_an_unfinished_one() -> None:
    play = driver(batch_size=1, accepts=lambda record: record.position != position(2)).put(3)
    play.until(Invoke)
    while (step := play.ask()) is not None:
        play.answer(step)
    assert play.progress.position == position(0)
    assert play.settled == []


# --------------------------------------------------------------------------- lanes


def test_lanes_run_at_once_and_keep_the_order_of_each_key() -> None:
    keys = [key_of_lane(lane, 4) for lane in range(4)]
    play = driver(batch_size=2, parallelization_factor=4).put(16, keys * 4)
    running = []
    while (step := play.ask()) is not None:
        if isinstance(step, Invoke):
            running.append(step)
        else:
            play.answer(step)
    assert [numbers(step.records) for step in running] == [[1, 5], [2, 6], [3, 7], [4, 8]]
    play.answer(running[2])
    assert numbers(play.until(Invoke).records) == [11, 15]
    assert play.progress.position == position(0)  # 1 is not finished


def test_a_key_is_in_the_same_lane_in_every_process() -> None:
    play = driver(batch_size=1, parallelization_factor=10).put(3, ["N14228", "JFK", "é"]).run()
    assert {tuple(call.records): call.lane for call in play.calls} == {
        (number,): crc32(key.encode()) % 10 for number, key in enumerate(["N14228", "JFK", "é"], 1)
    }


def test_a_failed_batch_blocks_only_its_lane() -> None:
    stuck, free = key_of_lane(0, 2), key_of_lane(1, 2)
    play = driver(batch_size=1, parallelization_factor=2, function=poison(1)).put(6, [stuck, free] * 3).run(10)
    assert [number for call in play.calls if call.outcome != ERROR for number in call.records] == [2, 4, 6]
    assert play.progress.position == position(0)
    assert play.progress.pieces[0].first == position(1)


# --------------------------------------------------------------------------- the ends of a shard


def test_a_closed_shard_ends_after_its_last_checkpoint() -> None:
    play = driver(batch_size=2).put(3).close().run()
    assert play.ended
    assert play.progress == Progress(position(3), ended=True)
    assert [type(step) for step in play.steps[-2:]] == [Checkpoint, EndShard]


def test_a_shard_that_is_closed_later_ends_then() -> None:
    play = driver(batch_size=2).put(3).run()
    assert not play.ended
    play.close().run()
    assert play.ended
    assert play.progress.ended


def test_an_empty_closed_shard_ends() -> None:
    play = driver(batch_size=2).close().run()
    assert play.ended
    assert play.progress == Progress(position(0), ended=True)


def test_a_shard_does_not_end_before_its_records_are_finished() -> None:
    play = driver(batch_size=2, function=poison(1)).put(2).close().run(100)
    assert not play.ended
    assert not play.progress.ended


def test_a_closed_shard_does_not_wait_for_a_batching_window() -> None:
    play = driver(batch_size=10, maximum_batching_window_seconds=300).put(3).close().run(1)
    assert play.ended


def test_a_shard_that_was_ended_before_is_ended_at_once() -> None:
    play = driver(batch_size=2, progress=Progress(position(3), ended=True)).put(3)
    assert isinstance(play.ask(), EndShard)
    assert play.ask() is None


def test_records_that_the_source_dropped_are_counted_as_lost() -> None:
    play = driver(batch_size=2).put(5)
    play.trimmed = 3
    play.run()
    assert play.fates() == {"lost": 3, "delivered": 2}
    assert play.progress == Progress(position(5))


def test_a_seek_generation_stays_with_its_progress() -> None:
    play = driver(batch_size=2, progress=Progress(position(0), seek=3)).put(2).run()
    assert play.progress == Progress(position(2), seek=3)


def test_one_lanes_settled_ranges_are_joined() -> None:
    play = driver(batch_size=2).put(4)
    checkpoint = play.until(Checkpoint)
    play.answer(checkpoint)
    play.answer(play.until(Invoke))
    first = play.until(Checkpoint)
    assert first.settled == (Settled(position(1), position(2), 2, "delivered"),)


def test_answers_may_come_in_any_order() -> None:
    keys = [key_of_lane(lane, 3) for lane in range(3)]
    play = driver(batch_size=1, parallelization_factor=3).put(3, keys)
    running = []
    while (step := play.ask()) is not None:
        if isinstance(step, Invoke):
            running.append(step)
        else:
            play.answer(step)
    for step in reversed(running):
        play.answer(step)
    assert play.run().progress == Progress(position(3))


def test_a_wait_is_over_when_something_is_answered() -> None:
    play = driver(batch_size=2, maximum_batching_window_seconds=60).put(1).run(1)
    step = play.ask()
    assert isinstance(step, Wait)
    assert step.until == 60
    play.put(1)
    [fetch] = play.in_flight
    assert isinstance(fetch, Fetch)
    play.consumer.fetched(Read("shard", play.records[1:], caught_up=True), play.now)
    assert isinstance(play.ask(), Checkpoint)


def test_the_call_after_the_first_report_of_two_is_in_order() -> None:
    play = driver(batch_size=1, maximum_retry_attempts=0, function=poison(1, 2), on_failure="queue:dead").put(3).run()
    assert [report.records for report in play.reports] == [[1], [2]]
    assert isinstance(play.reports[0].delivery, Delivered)
    assert play.batches == [[1], [2], [3]]


def test_a_reserved_concurrency_of_zero_is_a_throttle_for_a_shard() -> None:
    never = Throttled("ReservedFunctionConcurrentInvocationLimitExceeded", reserved_zero=True)

    def function(call: Call) -> Any:
        return never

    play = driver(batch_size=2, maximum_retry_attempts=0, function=function, on_failure="queue:dead").put(2).run(100)
    assert play.reports == []
    assert {call.attempt for call in play.calls} == {1}
