"""What is said about settings, given the traffic that was observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.model import Function, Queue, QueueMapping, StreamMapping
from lambent.semantics.advising import (
    MAXIMUM_SECONDS,
    MINIMUM_CALLS,
    Calls,
    Duration,
    Settings,
    Traffic,
    advise_batches,
    advise_concurrency,
    advise_visibility,
    fit,
    replay,
)


def traffic(arrivals: dict[int, int], *calls: tuple[int, float]) -> Traffic:
    found = Traffic(dict(arrivals))
    for records, seconds in calls:
        found.ran(records, seconds)
    return found


def steady(seconds: int, each: int) -> dict[int, int]:
    return dict.fromkeys(range(1000, 1000 + seconds), each)


# --------------------------------------------------------------------------- what a call costs


def test_the_cost_of_a_call_and_of_a_record_are_told_apart() -> None:
    found = fit(traffic({}, *((n, 0.05 + 0.002 * n) for n in (1, 10, 100, 400))))
    assert (round(found.fixed, 6), round(found.per_record, 6)) == (0.05, 0.002)


def test_with_batches_of_one_size_a_call_is_not_said_to_cost_anything_by_itself() -> None:
    assert fit(traffic({}, (10, 0.5), (10, 0.7))) == Duration(0.0, pytest.approx(0.06))
    assert fit(Traffic()) == Duration(0.0, 0.0)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.001, 900)), max_size=20))
def test_no_part_of_the_cost_is_negative(calls: list[tuple[int, float]]) -> None:
    found = fit(traffic({}, *calls))
    assert found.fixed >= 0
    assert found.per_record >= 0


# --------------------------------------------------------------------------- replays


def test_a_replay_batches_by_the_rule_that_the_engine_has() -> None:
    """Ten records a second, evenly; with a window of one second the next batch waits for the window, or for ten."""
    found = replay(steady(10, 10), Duration(0.0, 0.0), Settings(5, 1.0))
    assert found.calls == 20
    assert found.p99_seconds == pytest.approx(0.4)
    windowed = replay(steady(10, 10), Duration(0.0, 0.0), Settings(1000, 2.0))
    assert windowed.calls == 5
    assert windowed.p99_seconds == pytest.approx(2.0, abs=0.11)


def test_a_replay_falls_behind_where_calls_cannot_keep_up_and_more_servers_help() -> None:
    arrivals, duration = steady(60, 20), Duration(0.1, 0.0)
    slow = replay(arrivals, duration, Settings(1, 0.0))
    assert slow.busy == pytest.approx(2.0)
    assert slow.p99_seconds > 50
    fast = replay(arrivals, duration, Settings(1, 0.0, servers=4))
    assert fast.p99_seconds < 0.2
    assert fast.busy == pytest.approx(0.5, abs=0.02)


@given(
    st.dictionaries(st.integers(0, 50), st.integers(1, 5_000), min_size=1, max_size=10),
    st.sampled_from([1, 7, 100, 10_000]),
    st.sampled_from([0.0, 0.5, 20.0]),
    st.integers(1, 5),
)
def test_a_replay_runs_every_record_once_and_none_before_it_came(
    arrivals: dict[int, int], size: int, window: float, servers: int
) -> None:
    found = replay(arrivals, Duration(0.01, 0.0001), Settings(size, window, servers))
    assert found.calls >= sum(arrivals.values()) / size
    assert found.mean_seconds >= 0.01
    assert found.busy * servers * 51 >= found.calls * 0.01


def test_of_arrivals_the_latest_seconds_are_kept() -> None:
    kept = traffic(steady(MAXIMUM_SECONDS, 1))
    kept.add(traffic({5000: 3}, (3, 0.1)))
    assert len(kept.arrivals) == MAXIMUM_SECONDS
    assert (min(kept.arrivals), kept.arrivals[5000], kept.calls) == (1001, 3, 1)


# --------------------------------------------------------------------------- advice


def test_a_visibility_below_six_time_outs_and_the_window_loses_events() -> None:
    function, queue = Function(name="f", timeout_seconds=10), Queue(name="q", visibility_timeout_seconds=65)
    mapping = QueueMapping(source="queue:q", function="f", maximum_batching_window_seconds=5)
    assert advise_visibility(mapping, queue, function) == []
    (found,) = advise_visibility(mapping, queue, function.model_copy(update={"timeout_seconds": 11}))
    assert (found.loses, found.setting, found.now, found.better) == ("events", "visibility_timeout_seconds", 65, 71)


def stream_mapping(**options: object) -> StreamMapping:
    return StreamMapping.model_validate({"source": "stream:s", "function": "f", **options})


COSTLY = [(n, 0.2 + 0.0001 * n) for n in (1, 2, 5, 10)] * 10


def test_batches_that_are_too_small_to_keep_up_lose_time() -> None:
    advice, sweep = advise_batches(stream_mapping(batch_size=10), traffic(steady(60, 100), *COSTLY), 1)
    assert sweep is not None
    assert [(each.setting, each.loses) for each in advice] == [("batch_size, maximum_batching_window_seconds", "time")]
    size, window = str(advice[0].better).split(", ")
    assert int(size) >= 100
    assert window == "0"
    assert sweep.now.p99_seconds > 10 > min(each.p99_seconds for each in sweep.swept)


def test_a_window_that_saves_most_calls_is_said_if_nothing_waits_a_second_longer() -> None:
    advice, _ = advise_batches(stream_mapping(batch_size=100), traffic(steady(60, 50), *COSTLY), 10)
    (found,) = advice
    assert found.better == "100, 1"
    assert "calls would do instead of" in found.reason


def test_a_shard_that_is_worked_on_all_the_time_needs_lanes() -> None:
    slow = traffic(steady(60, 20), *[(n, 0.045 * n) for n in (1, 5, 20)] * 10)
    advice, _ = advise_batches(stream_mapping(), slow, 1)
    (found,) = advice
    assert (found.setting, found.now, found.better) == ("parallelization_factor", 1, 2)
    windowed, _ = advise_batches(stream_mapping(tumbling_window_seconds=60), slow, 1)
    assert not [each for each in windowed if each.setting == "parallelization_factor"]


def test_batches_that_are_always_full_and_fall_behind_should_be_larger_whatever_that_costs() -> None:
    full = traffic(steady(60, 20), *[(2, 0.3)] * 40)
    advice, _ = advise_batches(stream_mapping(batch_size=2, parallelization_factor=10), full, 1)
    (found,) = advice
    assert (found.setting, found.now, found.better) == ("batch_size", 2, 20)


def test_a_queue_has_no_large_batch_without_a_window_and_a_fifo_queue_none_at_all() -> None:
    mapping, seen = QueueMapping(source="queue:q", function="f"), traffic(steady(10, 100), *COSTLY)
    _, sweep = advise_batches(mapping, seen, 2)
    assert sweep is not None
    assert all(each.settings.batch_size <= 10 or each.settings.window_seconds for each in sweep.swept)
    _, sweep = advise_batches(mapping, seen, 2, fifo=True)
    assert sweep is not None
    assert {(each.settings.batch_size, each.settings.window_seconds) for each in sweep.swept} == {(1, 0.0), (10, 0.0)}


def test_nothing_is_said_where_settings_do_well_or_too_little_was_seen() -> None:
    good = traffic(steady(60, 10), *[(10, 0.01)] * MINIMUM_CALLS)
    advice, sweep = advise_batches(stream_mapping(), good, 1)
    assert advice == []
    assert sweep is not None
    assert advise_batches(stream_mapping(), traffic(steady(60, 10), (10, 0.01)), 1) == ([], None)


def test_a_reservation_that_throttles_its_function_or_starves_the_others_is_said() -> None:
    functions = {
        "tight": Function(name="tight", reserved_concurrency=10),
        "idle": Function(name="idle", reserved_concurrency=500),
        "free": Function(name="free"),
    }
    calm = {"tight": Calls(100, 0), "idle": Calls(5, 0, at_once=3), "free": Calls(10, 0)}
    assert advise_concurrency(functions, calm, 1000) == []
    busy = {**calm, "tight": Calls(100, 50), "free": Calls(10, 7), "gone": Calls(1, 1)}
    tight, idle = advise_concurrency(functions, busy, 1000)
    assert (tight.subject, tight.now, tight.better) == ("function tight", 10, 15)
    assert (idle.subject, idle.now, idle.better) == ("function idle", 500, 10)
    assert "(free) share 490 and were throttled 7 times" in idle.reason
