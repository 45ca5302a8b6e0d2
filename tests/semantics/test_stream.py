"""What the shell does next with a shard: each test is a sentence of the manual, played by `driver.py`."""

from __future__ import annotations

import pytest

from lambent.model import (
    Fetch,
    Invoke,
    Record,
    ReportBatch,
    Succeeded,
)
from lambent.semantics import batching, stream
from tests.semantics.driver import (
    ERROR,
    THROTTLED,
    driver,
    key_of_lane,
    numbers,
    partially,
    poison,
    position,
)

# --------------------------------------------------------------------------- batches


def test_a_batch_holds_at_most_batch_size_records_and_a_short_one_goes_at_once() -> None:
    play = driver(batch_size=10).put(25).run()
    assert [len(batch) for batch in play.batches] == [10, 10, 5]
    assert play.invoked == list(range(1, 26))
    assert play.times == [0, 0, 0]


def test_thirty_waiting_records_at_size_ten_are_three_full_batches() -> None:
    assert [len(batch) for batch in driver(batch_size=10).put(30).run().batches] == [10, 10, 10]


def test_a_batching_window_waits_for_more_records_until_it_has_passed() -> None:
    play = driver(batch_size=10, maximum_batching_window_seconds=5).put(2).run(3)
    assert play.batches == []
    play.put(2).run()
    assert (play.batches, play.times) == ([[1, 2, 3, 4]], [5])


def test_a_full_batch_does_not_wait_for_its_window() -> None:
    play = driver(batch_size=4, maximum_batching_window_seconds=5).put(6).run(1)
    assert (play.batches, play.times) == ([[1, 2, 3, 4]], [0])
    assert play.run().batches[1:] == [[5, 6]]
    assert play.times[1:] == [5]


def test_a_batch_is_closed_before_the_record_that_would_make_its_event_heavier_than_6_mb() -> None:
    megabyte = 1024 * 1024
    play = driver(batch_size=100, maximum_batching_window_seconds=60).put(11, size=megabyte).run(1)
    assert play.batches == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]  # six would leave no room for the envelope
    assert play.run().batches[2:] == [[11]]


def test_what_is_read_ahead_for_later_batches_makes_no_batch_be_weighed() -> None:
    def exactly(record: Record) -> int:
        raise AssertionError("a batch that is light at a glance was weighed record by record")

    play = driver(batch_size=10, weights=batching.Weights(exactly)).put(80, size=300_000).run()
    assert play.batches == [list(range(first, first + 10)) for first in range(1, 81, 10)]


def test_an_event_of_the_heaviest_batch_has_room_for_its_envelope() -> None:
    size = batching.MAXIMUM_RECORDS_BYTES // 4
    play = driver(batch_size=100).put(8, size=size).run()
    assert play.batches == [[1, 2, 3, 4], [5, 6, 7, 8]]
    play = driver(batch_size=100).put(8, size=size + 1).run()
    assert play.batches == [[1, 2, 3], [4, 5, 6], [7, 8]]


def test_a_record_above_the_limit_is_still_a_batch() -> None:
    play = driver(batch_size=10, maximum_batching_window_seconds=9).put(3, size=7 * 1024 * 1024).run(1)
    assert play.batches == [[1], [2], [3]]


def test_a_shard_waits_without_steps_while_nothing_comes() -> None:
    play = driver(batch_size=10).put(1).run()
    assert play.ask() is None
    assert [type(step) for step in play.in_flight] == [Fetch]


# --------------------------------------------------------------------------- reading ahead


def test_while_a_batch_runs_a_few_more_are_read_ahead() -> None:
    play = driver(batch_size=10).put(1000)
    first = play.until(Invoke)
    while (step := play.ask()) is not None:
        play.answer(step)
    assert numbers(first.records) == list(range(1, 11))
    assert 20 <= play.consumer._watermark.next <= 10 * (1 + stream.READ_AHEAD_BATCHES)


def test_a_batch_that_is_tried_again_for_ever_does_not_read_the_whole_shard() -> None:
    play = driver(batch_size=10, function=poison(1)).put(100_000).run(3600)
    assert play.consumer._watermark.next <= 10 * (1 + stream.READ_AHEAD_BATCHES)


def test_a_blocked_key_stalls_no_other_lane_before_the_spans_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAXIMUM_SPAN_RECORDS", 200)
    stuck, free = key_of_lane(0, 2), key_of_lane(1, 2)
    play = driver(batch_size=5, parallelization_factor=2, function=poison(1)).put(1000, [stuck, free] * 500).run(3600)
    delivered = [number for call in play.calls if call.outcome != ERROR for number in call.records]
    assert delivered == list(range(2, 201, 2))
    assert play.consumer._watermark.next == 200


def test_a_slow_key_stalls_no_other_lane_before_the_spans_limit() -> None:
    slow, quick = key_of_lane(0, 2), key_of_lane(1, 2)
    play = driver(batch_size=5, parallelization_factor=2).put(300, ([slow] * 9 + [quick]) * 30)
    while (step := play.ask()) is not None:
        if not (isinstance(step, Invoke) and step.lane == 0):
            play.answer(step)
    assert [number for call in play.calls if call.lane == 1 for number in call.records] == list(range(10, 301, 10))


def test_bytes_read_ahead_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAXIMUM_SPAN_BYTES", 1000)
    stuck, free = key_of_lane(0, 2), key_of_lane(1, 2)
    play = driver(batch_size=5, parallelization_factor=2, function=poison(1))
    play.put(1000, [stuck, free] * 500, size=10).run(3600)
    assert play.consumer.buffered_bytes <= 1000
    assert play.consumer._watermark.next < 300


def test_a_fetch_never_asks_for_more_than_its_limits() -> None:
    play = driver(batch_size=10_000).put(30_000)
    play.run()
    fetches = [step for step in play.steps if isinstance(step, Fetch)]
    assert max(step.maximum_records for step in fetches) <= stream.MAXIMUM_FETCH_RECORDS
    assert all(0 < step.maximum_bytes <= stream.MAXIMUM_SPAN_BYTES for step in fetches)


# --------------------------------------------------------------------------- retries


@pytest.mark.parametrize("retries", [0, 1, 2, 3, 10])
def test_n_retries_are_n_plus_one_tries(retries: int) -> None:
    play = (
        driver(batch_size=3, maximum_retry_attempts=retries, function=poison(2), on_failure="queue:dead").put(6).run()
    )
    assert play.batches == [[1, 2, 3]] * (retries + 1) + [[4, 5, 6]]
    assert [call.attempt for call in play.calls] == [*range(1, retries + 2), 1]
    [report] = play.reports
    assert (report.records, report.condition) == ([1, 2, 3], "RetryAttemptsExhausted")
    assert (report.attempts, report.outcome) == (retries + 1, ERROR)


def test_by_default_a_batch_is_tried_for_ever() -> None:
    play = driver(batch_size=3, function=poison(2)).put(6).run(86_400)
    assert len(play.batches) > 1000
    assert all(batch == [1, 2, 3] for batch in play.batches)
    assert play.reports == []


def test_only_a_repeated_try_of_the_same_records_waits() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=3, function=poison(2)).put(4).run()
    assert play.times == [0, 0.25, 0.75, 1.75, 1.75]


def test_about_eight_tries_fit_into_a_minute() -> None:
    play = driver(batch_size=2, function=poison(2)).put(2).run(60)
    assert 6 <= len(play.calls) <= 10


def test_jitter_only_lengthens_a_wait() -> None:
    play = driver(batch_size=2, maximum_retry_attempts=1, function=poison(2), jitter=0.5).put(2).run()
    assert play.times == pytest.approx([0, 0.25 * 1.05])


def test_a_batch_that_succeeds_after_failures_is_delivered_and_the_count_starts_anew() -> None:
    tries = iter([ERROR, ERROR, None, ERROR, ERROR, None])
    play = driver(batch_size=2, maximum_retry_attempts=2, function=lambda call: next(tries)).put(4).run()
    assert play.fates() == {"delivered": 4}
    assert [call.attempt for call in play.calls] == [1, 2, 3, 1, 2, 3]


def test_the_next_batch_starts_only_after_the_last_is_done() -> None:
    play = driver(batch_size=2).put(4)
    first = play.until(Invoke)
    while (step := play.ask()) is not None:
        assert not isinstance(step, Invoke)
        play.answer(step)
    play.answer(first)
    assert numbers(play.until(Invoke).records) == [3, 4]


# --------------------------------------------------------------------------- bisect


def test_halves_of_a_batch_run_at_once() -> None:
    play = (
        driver(batch_size=4, bisect_batch_on_function_error=True, maximum_retry_attempts=0, function=poison(2))
        .put(4)
        .run()
    )
    assert play.batches == [[1, 2, 3, 4], [1, 2], [1], [2], [3, 4]]
    assert play.times == [0] * 5


def test_a_halved_batch_does_not_use_up_a_retry() -> None:
    play = (
        driver(
            batch_size=4,
            bisect_batch_on_function_error=True,
            maximum_retry_attempts=2,
            function=poison(3),
            on_failure="queue:dead",
        )
        .put(4)
        .run()
    )
    assert play.batches == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [3], [3], [4]]
    assert [call.attempt for call in play.calls] == [1, 1, 1, 1, 2, 3, 1]
    [report] = play.reports
    assert (report.records, report.attempts) == ([3], 3)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 17, 100])
def test_to_isolate_one_poison_takes_at_most_twice_the_batch_less_one(size: int) -> None:
    for bad in range(1, size + 1):
        play = (
            driver(
                batch_size=size,
                bisect_batch_on_function_error=True,
                maximum_retry_attempts=0,
                function=poison(bad),
                on_failure="queue:dead",
            )
            .put(size)
            .run()
        )
        assert [report.records for report in play.reports] == [[bad]]
        assert len(play.calls) <= 2 * size - 1
        assert play.fates() == ({"delivered": size - 1, "failed": 1} if size > 1 else {"failed": 1})


def test_a_poison_in_ten_thousand_is_isolated_in_29_invocations() -> None:
    play = (
        driver(batch_size=10_000, bisect_batch_on_function_error=True, maximum_retry_attempts=0, function=poison(7777))
        .put(10_000)
        .run()
    )
    assert len(play.calls) <= 29
    assert play.fates() == {"delivered": 9_999, "failed": 1}


def test_halves_stay_in_order() -> None:
    play = (
        driver(
            batch_size=8, bisect_batch_on_function_error=True, maximum_retry_attempts=0, function=poison(*range(1, 9))
        )
        .put(8)
        .run()
    )
    assert [batch[0] for batch in play.batches if len(batch) == 1] == list(range(1, 9))
    assert len(play.calls) == 15


# --------------------------------------------------------------------------- partial failures


def test_the_records_before_the_lowest_failed_one_are_done_and_the_rest_is_tried_again() -> None:
    play = driver(batch_size=4, report_batch_item_failures=True, maximum_retry_attempts=1, function=partially(4, 2))
    play.put(4).run()
    assert play.batches == [[1, 2, 3, 4], [2, 3, 4], [2, 3, 4]]
    assert play.fates() == {"delivered": 1, "failed": 3}


def test_the_count_starts_anew_when_a_partial_failure_moves_the_checkpoint() -> None:
    """Recorded: the sixth of six always fails; size 3 and 3 retries hand it over 5 times, and the report says 4."""
    play = (
        driver(
            batch_size=3,
            report_batch_item_failures=True,
            maximum_retry_attempts=3,
            function=partially(6),
            on_failure="queue:dead",
        )
        .put(6)
        .run()
    )
    assert play.batches == [[1, 2, 3], [4, 5, 6], [6], [6], [6], [6]]
    [report] = play.reports
    assert (report.records, report.attempts) == ([6], 4)
    assert isinstance(report.outcome, Succeeded)  # so the record says "functionError": null
    assert play.progress.position == position(6)


def test_a_partial_failure_waits_before_the_failed_record_comes_again() -> None:
    play = driver(batch_size=3, report_batch_item_failures=True, maximum_retry_attempts=1, function=partially(3))
    assert play.put(3).run().times == [0, 0.25, 0.5]


def test_a_failure_of_the_first_record_counts_as_an_attempt() -> None:
    play = driver(batch_size=3, report_batch_item_failures=True, maximum_retry_attempts=2, function=partially(1))
    assert play.put(3).run().batches == [[1, 2, 3]] * 3
    assert [call.attempt for call in play.calls] == [1, 2, 3]


def test_with_bisect_a_batch_is_split_at_the_reported_record() -> None:
    play = (
        driver(
            batch_size=8,
            report_batch_item_failures=True,
            bisect_batch_on_function_error=True,
            maximum_retry_attempts=0,
            function=partially(6),
        )
        .put(8)
        .run()
    )
    assert play.batches == [[1, 2, 3, 4, 5, 6, 7, 8], [6, 7, 8], [6], [7, 8]]
    assert play.times == [0] * 4  # as halves do
    assert play.fates() == {"delivered": 7, "failed": 1}


def test_with_bisect_a_batch_whose_first_record_is_reported_is_halved() -> None:
    play = (
        driver(
            batch_size=4,
            report_batch_item_failures=True,
            bisect_batch_on_function_error=True,
            maximum_retry_attempts=0,
            function=partially(1),
        )
        .put(4)
        .run()
    )
    assert play.batches == [[1, 2, 3, 4], [1, 2], [1], [2], [3, 4]]


FULL_SUCCESS: list[object] = ["", [], None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}]
FULL_FAILURE: list[object] = [
    {"batchItemFailures": [{"itemIdentifier": 123}]},
    {"batchItemFailures": [{"itemIdentifier": "not in the batch"}]},
    {"batchItemFailures": [{"itemIdentifier": ""}]},
    {"batchItemFailures": [{"itemIdentifier": None}]},
    {"batchItemFailures": [{"foo": 123}]},
    {"batchItemFailures": [{"foo": None}]},
    {"batchItemFailures": [position(2)]},
    {"batchItemFailures": [{"itemIdentifier": position(2)}, {"itemIdentifier": ""}]},
    {"batchItemFailures": [{"itemIdentifier": position(n)} for n in (1, 2, 3)]},
    {"batchItemFailures": "all"},
    {"batchItemFailures": 1},
    "a text",
    17,
    [1],
    True,
]


@pytest.mark.parametrize("value", FULL_SUCCESS, ids=repr)
def test_these_answers_say_that_all_records_are_done(value: object) -> None:
    play = driver(batch_size=3, report_batch_item_failures=True, maximum_retry_attempts=0, function=lambda call: value)
    assert play.put(3).run().fates() == {"delivered": 3}


@pytest.mark.parametrize("value", FULL_FAILURE, ids=repr)
def test_these_answers_say_that_no_record_is_done_and_the_report_has_no_function_error(value: object) -> None:
    play = driver(
        batch_size=3,
        report_batch_item_failures=True,
        maximum_retry_attempts=1,
        on_failure="queue:dead",
        function=lambda call: value,
    )
    assert play.put(3).run().batches == [[1, 2, 3]] * 2
    [report] = play.reports
    assert (report.records, report.attempts) == ([1, 2, 3], 2)
    assert isinstance(report.outcome, Succeeded)


def test_names_given_twice_are_one_failure() -> None:
    value = {"batchItemFailures": [{"itemIdentifier": position(3)}] * 2}
    answers = iter([value, None])
    play = driver(batch_size=3, report_batch_item_failures=True, function=lambda call: next(answers))
    assert play.put(3).run().batches == [[1, 2, 3], [3]]


@pytest.mark.parametrize("value", FULL_FAILURE, ids=repr)
def test_without_the_setting_the_answer_is_ignored(value: object) -> None:
    assert driver(batch_size=3, function=lambda call: value).put(3).run().fates() == {"delivered": 3}


# --------------------------------------------------------------------------- record age


def test_records_above_the_age_limit_are_split_off_and_the_rest_is_delivered() -> None:
    """Recorded: one expired and five fresh ones: five delivered, a report of one."""
    play = driver(batch_size=10, maximum_record_age_seconds=60, on_failure="queue:dead")
    play.put(1, age=61).put(5).run()
    assert play.batches == [[2, 3, 4, 5, 6]]
    [report] = play.reports
    assert (report.records, report.condition) == ([1], "RecordAgeExceeded")
    assert (report.attempts, report.outcome) == (1, None)  # 1, although it was never invoked
    assert play.fates() == {"failed": 1, "delivered": 5}


def test_a_record_expires_while_its_batch_is_tried_again() -> None:
    play = driver(batch_size=10, maximum_record_age_seconds=60, on_failure="queue:dead", function=poison(1)).put(2)
    play.run()
    [report] = play.reports
    assert (report.condition, report.at, report.outcome) == ("RecordAgeExceeded", 60, None)
    assert report.attempts == len(play.calls)
    assert play.fates() == {"failed": 2}


def test_what_stays_young_keeps_its_count_when_others_expire() -> None:
    play = driver(batch_size=10, maximum_record_age_seconds=60, on_failure="queue:dead", function=poison(2))
    play.put(1, age=59.9).put(1).run(0.5)
    assert [(report.records, report.attempts) for report in play.reports] == [([1], 1)]
    assert [(call.records, call.attempt) for call in play.calls] == [([1, 2], 1), ([2], 2)]
    assert play.times == [0, 0.25]


def test_a_record_expires_while_the_function_is_throttled() -> None:
    play = driver(
        batch_size=10, maximum_record_age_seconds=60, on_failure="queue:dead", function=lambda call: THROTTLED
    ).put(2)
    play.run()
    [report] = play.reports
    assert (report.condition, report.at, report.attempts) == ("RecordAgeExceeded", 60, 1)


def test_what_the_source_forgets_is_given_up_as_too_old() -> None:
    play = driver(batch_size=10, retention_seconds=3600, on_failure="queue:dead", function=poison(1)).put(2).run()
    [report] = play.reports
    assert (report.condition, report.at) == ("RecordAgeExceeded", 3600)


def test_a_hundred_thousand_expired_records_are_passed_over() -> None:
    stuck, free = key_of_lane(0, 2), key_of_lane(1, 2)
    play = driver(batch_size=1, parallelization_factor=2, maximum_record_age_seconds=60, function=poison(1))
    play.put(5000, [stuck] * 4999 + [free]).run()
    assert play.fates()["failed"] == 4999
    assert play.fates()["delivered"] == 1


def test_a_report_of_records_that_were_never_invoked_leaves_no_attempt_behind() -> None:
    play = driver(batch_size=10, maximum_record_age_seconds=60, maximum_retry_attempts=0, on_failure="queue:dead")
    play.put(2, age=100)
    play.until(ReportBatch)
    while (step := play.ask()) is not None:
        play.answer(step)
    play.crash().run()
    [report] = play.reports
    assert (report.condition, report.attempts) == ("RecordAgeExceeded", 1)
