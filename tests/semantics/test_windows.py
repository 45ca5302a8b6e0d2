"""Tumbling windows: which invoke is a window's last, and what becomes of its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lambent.model import Failed, Invoke, Record, WindowState
from lambent.semantics import windows
from tests.semantics.driver import EPOCH, ERROR, Call, Driver, mapping, numbers, position

assert EPOCH % 10 == 0  # the windows of these tests begin when their clock shows 0, 10, 20 …


def counting(call: Call) -> Any:
    """Adds what it is handed to the state."""
    assert call.window is not None
    return {"state": {"seen": [*call.window.state.get("seen", []), *call.records]}}


def failing(bad: set[int], times: int = 10**9) -> Callable[[Call], Any]:
    left = dict.fromkeys(bad, times)

    def function(call: Call) -> Any:
        hit = [number for number in call.records if left.get(number, 0) > 0]
        for number in hit:
            left[number] -= 1
        return ERROR if hit else counting(call)

    return function


def driver(function: Callable[[Call], Any] = counting, **options: Any) -> Driver:
    options = {"batch_size": 10, "tumbling_window_seconds": 10} | options
    return Driver(mapping(**options), function=function)


def at(play: Driver, now: float, count: int = 1, **options: Any) -> Driver:
    """`count` records that arrive at `now`; what came before is dealt with."""
    play.run(now - play.now)
    play.now = now
    return play.put(count, **options)


def seen(play: Driver) -> list[tuple[float, list[int]]]:
    """What the finals that succeeded counted: the window's start, its records."""
    found = []
    for call in play.calls:
        if call.final and call.window is not None and not isinstance(call.outcome, Failed | None):
            found.append((call.window.start - EPOCH, [*call.window.state.get("seen", []), *call.records]))
    return found


# --------------------------------------------------------------------------- the last invoke of a window


def test_the_last_batch_of_a_window_is_final_when_a_record_of_a_later_one_is_next() -> None:
    play = driver().put(2)
    play.now = 12
    play.put(1).run(1)
    assert [(call.records, call.final) for call in play.calls] == [([1, 2], True), ([3], False)]
    assert seen(play) == [(0, [1, 2])]


def test_when_the_clock_passes_the_end_with_nothing_unread_an_empty_invoke_is_final() -> None:
    play = at(driver(), 3, 2).run()
    assert [(call.records, call.final, call.at) for call in play.calls] == [([1, 2], False, 3), ([], True, 10)]
    assert seen(play) == [(0, [1, 2])]


def test_a_batch_is_closed_at_the_end_of_its_window() -> None:
    play = at(driver(maximum_batching_window_seconds=60), 8, 2).run()
    assert [(call.records, call.final, call.at) for call in play.calls] == [([1, 2], False, 10), ([], True, 10)]


def test_a_batch_holds_records_of_one_window() -> None:
    play = driver()
    for second in (1, 5, 9, 11, 15, 35):
        play.now = second
        play.put(1)
    play.run()
    assert [(call.records, call.final) for call in play.calls] == [
        ([1, 2, 3], True),
        ([4, 5], True),
        ([6], False),
        ([], True),
    ]
    assert [start for start, _ in seen(play)] == [0, 10, 30]


def test_a_window_without_records_is_never_invoked() -> None:
    play = at(driver(), 3).run(3600)
    assert len(play.calls) == 2
    assert at(play, 7200).run(5).calls[-1].window == WindowState(EPOCH + 7200, EPOCH + 7210, {})


def test_a_record_on_the_border_belongs_to_the_later_window() -> None:
    play = at(at(driver(), 0), 10).run(0.5)
    assert seen(play) == [(0, [1])]
    assert play.calls[-1].window == WindowState(EPOCH + 10, EPOCH + 20, {})


def test_a_window_is_not_closed_while_records_are_unread() -> None:
    play = driver(batch_size=2).put(9)
    play.now = 100
    play.run()
    assert [(call.records, call.final) for call in play.calls] == [
        ([1, 2], False),
        ([3, 4], False),
        ([5, 6], False),
        ([7, 8], False),
        ([9], False),
        ([], True),
    ]


def test_a_closed_shard_ends_its_window_at_once_and_ends_after_it() -> None:
    play = at(driver(), 3, 2).close().run(0)
    assert [(call.records, call.final, call.at) for call in play.calls] == [([1, 2], False, 3), ([], True, 3)]
    assert play.ended
    assert play.progress.window is None


# --------------------------------------------------------------------------- state


def test_the_state_that_a_function_returns_is_handed_to_its_next_invoke() -> None:
    play = at(at(at(driver(), 1), 2), 3).run()
    assert [call.window.state for call in play.calls if call.window] == [
        {},
        {"seen": [1]},
        {"seen": [1, 2]},
        {"seen": [1, 2, 3]},
    ]


def test_the_next_window_starts_with_an_empty_state() -> None:
    play = at(at(driver(), 3), 13).run()
    assert [call.window.state for call in play.calls if call.window and not call.final] == [{}, {}]
    assert seen(play) == [(0, [1]), (10, [2])]


@pytest.mark.parametrize("value", [None, {}, {"state": None}, {"state": []}, "state", 1, [{"state": {}}]], ids=repr)
def test_an_answer_without_a_state_is_a_failed_invocation(value: object) -> None:
    play = driver(lambda call: value, maximum_retry_attempts=1, on_failure="queue:dead").put(2).run(5)
    [report] = play.reports
    assert report.attempts == 2
    assert isinstance(report.outcome, Failed)
    assert report.outcome.document["errorType"] == "Function.InvalidWindowResponse"


def test_a_failed_invocation_leaves_the_state_as_it_was() -> None:
    play = at(at(driver(failing({2}, times=3)), 1), 2).run()
    assert [call.window.state for call in play.calls if call.records == [2] and call.window] == [{"seen": [1]}] * 4
    assert seen(play) == [(0, [1, 2])]


def test_the_state_survives_a_restart() -> None:
    play = at(at(driver(), 1), 2).run(1)
    assert play.progress.window == WindowState(EPOCH, EPOCH + 10, {"seen": [1, 2]})
    play.crash()
    at(play, 5).run()
    assert seen(play) == [(0, [1, 2, 3])]


def test_state_and_position_are_stored_as_one() -> None:
    """A crash after the handler's success and before its checkpoint counts no record twice."""
    play = at(driver(), 1)
    play.answer(play.until(Invoke))
    play.crash().run()
    assert seen(play) == [(0, [1])]


def test_a_crash_in_the_final_invoke_repeats_it() -> None:
    play = at(driver(), 1)
    while not play.until(Invoke).final:
        play.answer(play.in_flight[-1])
    play.crash().run()
    assert [(call.records, call.final) for call in play.calls] == [([1], False), ([], True), ([], True)]
    assert seen(play) == [(0, [1])]


def test_an_open_window_is_finished_by_the_next_owner_though_no_record_comes() -> None:
    play = at(driver(), 1).run(1)
    play.drain()
    play.now = 500
    play.crash().run()
    assert [(call.records, call.final, call.at) for call in play.calls] == [([1], False, 1), ([], True, 500)]


# --------------------------------------------------------------------------- failures


def test_a_final_invoke_that_fails_is_tried_again_for_ever() -> None:
    def function(call: Call) -> Any:
        return ERROR if call.final else counting(call)

    play = at(driver(function, maximum_retry_attempts=1, on_failure="queue:dead"), 1).run(3600)
    finals = [call for call in play.calls if call.final]
    assert len(finals) > 50
    assert all(call.records == [] for call in finals)
    assert play.reports == []


def test_records_that_wait_behind_a_failing_final_are_not_started() -> None:
    def function(call: Call) -> Any:
        return ERROR if call.final else counting(call)

    play = at(at(driver(function), 1), 11).run(600)
    assert 2 not in play.invoked


def test_exhausted_records_of_a_final_batch_are_reported_and_an_empty_final_follows() -> None:
    play = driver(failing({2}), maximum_retry_attempts=1, on_failure="queue:dead").put(2)
    play.now = 12
    play.put(1).run(1)
    assert [(call.records, call.final) for call in play.calls[:3]] == [([1, 2], True), ([1, 2], True), ([], True)]
    assert [report.records for report in play.reports] == [[1, 2]]
    assert seen(play) == [(0, [])]


def test_expired_records_of_a_final_batch_are_reported_and_an_empty_final_follows() -> None:
    play = driver(failing({1, 2}), maximum_record_age_seconds=60, on_failure="queue:dead").put(2)
    play.now = 12
    play.put(1).run(49)
    assert [report.condition for report in play.reports] == ["RecordAgeExceeded"]
    assert seen(play)[0] == (0, [])


def test_of_a_final_batch_in_halves_only_the_last_half_is_final() -> None:
    play = driver(failing({1}), bisect_batch_on_function_error=True, maximum_retry_attempts=0).put(4)
    play.now = 12
    play.put(1).run(1)
    assert [(call.records, call.final) for call in play.calls[:5]] == [
        ([1, 2, 3, 4], True),
        ([1, 2], False),
        ([1], False),
        ([2], False),
        ([3, 4], True),
    ]
    assert seen(play) == [(0, [2, 3, 4])]


def test_after_a_partial_failure_of_a_final_batch_the_rest_is_final() -> None:
    tried = set()

    def function(call: Call) -> Any:
        if 3 in call.records and 3 not in tried:
            tried.add(3)
            assert call.window is not None
            return {"state": {"seen": [1, 2]}, "batchItemFailures": [{"itemIdentifier": position(3)}]}
        return counting(call)

    play = driver(function, report_batch_item_failures=True).put(4)
    play.now = 12
    play.put(1).run(1)
    assert [(call.records, call.final) for call in play.calls[:2]] == [([1, 2, 3, 4], True), ([3, 4], True)]
    assert seen(play)[1:] == [(0, [1, 2, 3, 4])]


def test_a_state_alone_says_that_no_record_failed() -> None:
    assert at(driver(report_batch_item_failures=True), 1, 3).run(1).fates() == {"delivered": 3}


# --------------------------------------------------------------------------- too much state


def growing(call: Call) -> Any:
    """Its state is above 1 MB after the first records of a window."""
    state = {"seen": counting(call)["state"]["seen"]}
    return {"state": state | ({} if call.final else {"ballast": "x" * windows.MAXIMUM_STATE_BYTES})}


def test_a_state_above_1_mb_ends_the_window_early_and_the_next_invoke_goes_on_in_it_with_a_fresh_state() -> None:
    play = at(at(driver(growing), 1), 2).run(1)
    told = [(call.records, call.final, call.window.terminated_early) for call in play.calls if call.window]
    assert told == [([1], False, False), ([], True, True), ([2], False, False), ([], True, True)]
    assert play.calls[2].window == WindowState(EPOCH, EPOCH + 10, {})
    assert seen(play) == [(0, [1]), (0, [2])]


def test_a_state_of_1_mb_is_allowed() -> None:
    room = windows.MAXIMUM_STATE_BYTES - len('{"s":""}')
    states = iter([{"s": "x" * room}, {"s": "x" * (room + 1)}, {}])
    play = at(driver(lambda call: {"state": next(states, {})}), 1).run(0.5)
    assert play.progress.window is not None
    assert not play.progress.window.terminated_early
    at(play, 2).run(0.5)
    assert [call.final for call in play.calls] == [False, False, True]


def test_a_window_ended_early_ends_before_what_is_left_of_a_halved_batch() -> None:
    failed = failing({1, 2, 3, 4}, times=1)

    def function(call: Call) -> Any:
        outcome = failed(call)
        return outcome if isinstance(outcome, Failed) else growing(call)

    play = driver(function, bisect_batch_on_function_error=True).put(4).run(1)
    told = [(call.records, call.final, call.window.terminated_early) for call in play.calls if call.window]
    assert told == [
        ([1, 2, 3, 4], False, False),
        ([1, 2], False, False),
        ([], True, True),
        ([3, 4], False, False),
        ([], True, True),
    ]


def test_a_window_ended_early_is_finished_after_a_restart() -> None:
    play = at(driver(growing), 1)
    play.answer(play.until(Invoke))
    while not play.until(Invoke).final:
        play.answer(play.in_flight[-1])
    play.crash().run()
    assert seen(play)[0] == (0, [1])
    assert play.progress.window is None


def test_a_state_that_is_not_json_is_a_failed_invocation() -> None:
    """Only a function with boundary="reference" can return one."""
    circle: dict[str, object] = {}
    circle["circle"] = circle
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"": deep}
    for state in ({"set": {1}}, {b"key": 1}, circle, deep):
        window = WindowState(0, 10, {})
        assert isinstance(windows.after(window, {"state": state}, final=False), Failed)


def test_a_state_by_reference_does_not_change_after_it_was_taken() -> None:
    mine = {"seen": [1]}
    after = windows.after(WindowState(0, 10, {}), {"state": mine}, final=False)
    mine["seen"].append(2)
    assert isinstance(after, WindowState)
    assert after.state == {"seen": [1]}


# --------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("arrived_at", "seconds", "start"),
    [(0, 10, 0), (9.999, 10, 0), (10, 10, 10), (1_700_000_123.4, 60, 1_700_000_100), (899.9, 900, 0), (5, 1, 5)],
)
def test_a_window_starts_at_a_multiple_of_its_length(arrived_at: float, seconds: int, start: float) -> None:
    assert windows.start_of(arrived_at, seconds) == start


def test_a_batch_stops_before_the_first_record_of_a_later_window() -> None:
    records = [Record(position(n), "k", b"", float(n)) for n in range(1, 6)]
    assert numbers(records[: windows.count_within(records, 10, 3.5)]) == [1, 2, 3]
    assert windows.count_within(records, 2, 3.5) == 2
    assert windows.count_within(records, 10, 1.0) == 0
    assert windows.count_within(records, 10, float("inf")) == 5
