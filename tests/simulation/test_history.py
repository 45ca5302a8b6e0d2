"""The checker's own mutation test: a good history passes, and each planted anomaly is found by its name."""

from collections.abc import Callable

import pytest

from lambent.testing.history import Expectations, Function, History, Source, check

EXPECTED = Expectations(
    functions={
        "alert": Function(
            maximum_retry_attempts=2,
            retry_delays_seconds=(60, 120),
            maximum_age_seconds=3600,
            reserved_concurrency=1,
        ),
        "delays": Function(maximum_retry_attempts=1, reserved_concurrency=4),
        "rebook": Function(maximum_retry_attempts=2),
    },
    mappings={
        "m": Source("departures", "delays", "shard"),
        "q": Source("rebooking", "rebook", "group"),
    },
)


class Story(History):
    """A history with a clock to turn and words for what happens most."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now)

    def at(self, seconds: float) -> "Story":
        self.now = seconds
        return self

    def ran(self, function, ids, engine="A", outcome="ok", done=None, attempt=1, seconds=1.0):
        run = self.started("i", attempt, function, ids, engine)
        self.now += seconds
        self.ended(run, outcome, (ids if done is None else done) if outcome == "ok" else (done or ()))

    def five_records(self, shard="0"):
        for position in range(5):
            self.put("departures", shard, f"key-{position % 2}", position, f"r{position}")
        self.leased("m", shard, "A", 1)


def names(story: History, expectations: Expectations = EXPECTED) -> set[str]:
    return {violation.anomaly for violation in check(story, expectations)}


# --- good histories


def good_stream(story):
    story.five_records()
    story.ran("delays", ["r0", "r1"])
    story.checkpointed("m", "0", 1, "A", 1)
    story.filtered(["r2"], "delays")
    story.ran("delays", ["r3", "r4"], outcome="error")
    story.ran("delays", ["r3"])
    story.ran("delays", ["r4"], outcome="error")
    story.ran("delays", ["r4"], outcome="error", attempt=2)
    story.reported("poison", ["r4"], "RetryAttemptsExhausted", "delays")
    story.checkpointed("m", "0", 4, "A", 1)


def good_takeover(story):
    story.five_records()
    story.ran("delays", ["r0", "r1"])
    story.at(5).killed("A")
    story.at(20).leased("m", "0", "B", 2)
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], "B")
    story.checkpointed("m", "0", 4, "B", 2)


def good_takeover_of_a_partial_failure(story):
    story.five_records()
    story.ran("delays", ["r0", "r1"], outcome="error")
    story.ran("delays", ["r0", "r1"], outcome="partial", done=["r0"])  # and no checkpoint says so
    story.leased("m", "0", "B", 2)
    story.ran("delays", ["r0", "r1"], "B", outcome="error")
    story.ran("delays", ["r0", "r1"], "B")
    story.ran("delays", ["r2", "r3", "r4"], "B")


def good_kill_while_running(story):
    story.five_records()
    story.started("i", 1, "delays", ["r0", "r1"], "A")
    story.at(5).killed("A")
    story.leased("m", "0", "B", 2)
    story.ran("delays", ["r0", "r1"], "B", attempt=2)
    story.ran("delays", ["r2", "r3", "r4"], "B")


def good_pause(story):
    story.five_records()
    run = story.started("i", 1, "delays", ["r0"], "A")
    story.paused("A", 60)
    story.at(30).leased("m", "0", "B", 2)
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], "B")
    story.checkpointed("m", "0", 4, "B", 2)
    story.at(60).ended(run, "ok", ["r0"])
    story.ran("delays", ["r1"], "A")  # had been decided before the pause


def good_event(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"], outcome="error")
    story.at(61).ran("alert", ["e"], outcome="interrupted")
    story.at(62).ran("alert", ["e"], outcome="error", attempt=2)
    story.at(183).ran("alert", ["e"], outcome="timeout", attempt=3)
    story.reported("dlq", ["e"], "RetriesExhausted", "alert")
    story.terminal("e", "failed")


def good_report_that_a_paused_engine_had_begun(story):
    story.accepted("e", "alert")
    story.paused("A", 400)
    story.at(390).reported("dlq", ["e"], "ZeroReservedConcurrency", "alert")
    story.terminal("e", "failed")
    story.at(400).reported("dlq", ["e"], "ZeroReservedConcurrency", "alert")


def good_success(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"])
    story.reported("happy", ["e"], "Success", "alert")
    story.terminal("e", "succeeded")


def good_queue(story):
    for number in range(3):
        story.sent("rebooking", f"g{number}", "group")
        story.sent("rebooking", f"s{number}")
    story.ran("rebook", ["g0", "g1", "s2"], done=["g1", "s2"])
    for id in ("g1", "s2"):
        story.deleted("rebooking", id)
    story.ran("rebook", ["s0"])
    story.expired(["s0"])
    story.ran("rebook", ["s0", "s1"])
    for id in ("s0", "s1"):
        story.deleted("rebooking", id)
    story.reported("dead", ["g0"], "Redrive", "rebook")
    story.kept(["g2"])


def good_fan_out(story):
    story.five_records()
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"])
    story.put("departures", "1", "k", 0, "other")
    story.ran("delays", ["other"])


@pytest.mark.parametrize(
    "tell",
    [
        good_stream,
        good_takeover,
        good_takeover_of_a_partial_failure,
        good_kill_while_running,
        good_pause,
        good_event,
        good_report_that_a_paused_engine_had_begun,
        good_success,
        good_queue,
        good_fan_out,
    ],
    ids=lambda tell: tell.__name__,
)
def test_a_history_that_keeps_all_promises_passes(tell):
    story = Story()
    tell(story)
    assert check(story, EXPECTED) == []


def test_a_run_that_was_not_drained_loses_nothing_yet():
    story = Story()
    story.accepted("e", "alert")
    assert names(story) == {"lost"}
    assert check(story, Expectations(EXPECTED.functions, EXPECTED.mappings, drained=False)) == []


# --- one promise broken in each; the rest of the story is sound


def lost_event(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"], outcome="error")


def lost_record_in_a_gap(story):
    story.five_records()
    story.ran("delays", ["r0", "r1"])
    story.ran("delays", ["r2", "r3"])


def lost_in_death(story):
    story.accepted("e", "alert")
    run = story.started("i", 1, "alert", ["e"], "A")
    story.killed("A")
    story.ended(run, "ok", ["e"])  # Python unwinds the dead; nobody saw a success


def phantom(story):
    story.ran("alert", ["never"])


def phantom_from_elsewhere(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"])
    story.ran("rebook", ["e"])


def delivered_before_it_was_accepted(story):
    story.ran("alert", ["e"])
    story.accepted("e", "alert")


def duplicate_without_a_reason(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"])
    story.ran("alert", ["e"])


def duplicate_after_it_was_settled(story):
    story.five_records()
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"])
    story.checkpointed("m", "0", 4, "A", 1)
    story.killed("A")
    story.leased("m", "0", "B", 2)
    story.ran("delays", ["r0"], "B")


def duplicate_after_another_engine_died(story):
    story.sent("rebooking", "s")
    story.ran("rebook", ["s"], "A")
    story.killed("B")
    story.ran("rebook", ["s"], "A")
    story.deleted("rebooking", "s")


def duplicate_report_long_after_a_pause(story):
    story.accepted("e", "alert")
    story.paused("A", 60)
    story.at(390).reported("dlq", ["e"], "ZeroReservedConcurrency", "alert")
    story.at(400).reported("dlq", ["e"], "ZeroReservedConcurrency", "alert")
    story.terminal("e", "failed")


def duplicate_report(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"], outcome="error")
    story.reported("dlq", ["e"], "RetriesExhausted", "alert")
    story.reported("dlq", ["e"], "RetriesExhausted", "alert")


def reported_after_success(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"])
    story.reported("dlq", ["e"], "RetriesExhausted", "alert")


def two_last_states(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"])
    story.terminal("e", "succeeded")
    story.terminal("e", "dropped")


def reordered_in_a_shard(story):
    story.five_records()
    story.ran("delays", ["r1"])
    story.ran("delays", ["r0", "r2", "r3", "r4"])


def reordered_in_a_batch(story):
    story.five_records()
    story.ran("delays", ["r1", "r0", "r2", "r3", "r4"])


def reordered_by_a_retry(story):
    story.five_records()
    story.ran("delays", ["r0", "r1"], done=["r0"])
    story.ran("delays", ["r2"])
    story.ran("delays", ["r1", "r3", "r4"])


def reordered_while_running(story):
    story.five_records()
    first = story.started("i", 1, "delays", ["r0", "r1"], "A")
    story.ran("delays", ["r2", "r3", "r4"])
    story.ended(first, "ok", ["r0", "r1"])


def reordered_in_a_group(story):
    story.sent("rebooking", "g0", "group")
    story.sent("rebooking", "g1", "group")
    story.ran("rebook", ["g0"], outcome="error")
    story.ran("rebook", ["g1"])
    story.ran("rebook", ["g0"])


def checkpoint_ahead_of_a_running_record(story):
    story.five_records()
    run = story.started("i", 1, "delays", ["r0", "r1", "r2", "r3", "r4"], "A")
    story.checkpointed("m", "0", 4, "A", 1)
    story.ended(run, "ok", ["r0", "r1", "r2", "r3", "r4"])


def checkpoint_ahead_of_a_report(story):
    story.five_records()
    story.ran("delays", ["r0", "r1", "r2", "r3"])
    story.ran("delays", ["r4"], outcome="error")
    story.checkpointed("m", "0", 4, "A", 1)
    story.reported("poison", ["r4"], "RetryAttemptsExhausted", "delays")


def checkpoint_backwards(story):
    story.five_records()
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"])
    story.checkpointed("m", "0", 3, "A", 1)
    story.checkpointed("m", "0", 1, "A", 1)


def checkpoint_of_a_former_owner(story):
    story.five_records()
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"])
    story.leased("m", "0", "B", 2)
    story.checkpointed("m", "0", 4, "A", 1)


def a_lease_whose_counter_does_not_grow(story):
    story.five_records()
    story.leased("m", "0", "B", 1)
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], "B")


def started_by_a_former_owner(story):
    story.five_records()
    story.leased("m", "0", "B", 2)
    story.at(9).ran("delays", ["r0", "r1", "r2", "r3", "r4"], "A")


def two_engines_at_once(story):
    story.accepted("e", "rebook")
    first = story.started("i", 1, "rebook", ["e"], "A")
    story.ran("rebook", ["e"], "B", outcome="error", attempt=1)
    story.ended(first, "ok", ["e"])


def deleted_before_it_was_done(story):
    story.sent("rebooking", "s")
    story.deleted("rebooking", "s")
    story.reported("dead", ["s"], "Redrive", "rebook")


def resurrected_event(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"], outcome="error")
    story.reported("dlq", ["e"], "RetriesExhausted", "alert")
    story.terminal("e", "failed")
    story.at(100).ran("alert", ["e"], outcome="error", attempt=2)


def resurrected_item(story):
    story.sent("rebooking", "s")
    story.ran("rebook", ["s"])
    story.deleted("rebooking", "s")
    story.ran("rebook", ["s"], outcome="error")


def one_attempt_too_many(story):
    story.accepted("e", "alert")
    for attempt, at in enumerate((0, 100, 300, 500), 1):
        story.at(at).ran("alert", ["e"], outcome="error", attempt=attempt)
    story.reported("dlq", ["e"], "RetriesExhausted", "alert")


def a_crash_that_forgets_attempts(story):
    story.accepted("e", "alert")
    for number in range(4):
        story.started("i", 1, "alert", ["e"], f"A/{number}")
        story.at(story.now + 200).killed(f"A/{number}")
    story.reported("dlq", ["e"], "RetriesExhausted", "alert")


def a_stream_batch_tried_too_often(story):
    story.five_records()
    for _ in range(3):
        story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], outcome="error")
    story.reported("poison", ["r0", "r1", "r2", "r3", "r4"], "RetryAttemptsExhausted", "delays")


def a_partial_failure_tried_too_often(story):
    story.five_records()
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], outcome="partial", done=["r0"])
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], outcome="error")
    story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], outcome="error")
    story.reported("poison", ["r1", "r2", "r3", "r4"], "RetryAttemptsExhausted", "delays")


def a_takeover_that_forgets_attempts(story):
    story.five_records()
    for counter, engine in enumerate("BCD", 2):
        story.leased("m", "0", engine, counter)
        story.ran("delays", ["r0", "r1", "r2", "r3", "r4"], engine, outcome="error")
    story.reported("poison", ["r0", "r1", "r2", "r3", "r4"], "RetryAttemptsExhausted", "delays")


def a_first_retry_too_early(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"], outcome="error", seconds=10)
    story.at(69.5).ran("alert", ["e"])


def a_second_retry_too_early(story):
    story.accepted("e", "alert")
    story.ran("alert", ["e"], outcome="error")
    story.at(61).ran("alert", ["e"], outcome="error")
    story.at(123).ran("alert", ["e"])


def two_at_once_with_one_reserved(story):
    story.accepted("e", "alert")
    story.accepted("f", "alert")
    first = story.started("i", 1, "alert", ["e"], "A")
    second = story.started("j", 1, "alert", ["f"], "B")
    story.ended(first, "ok", ["e"])
    story.ended(second, "ok", ["f"])


def started_after_its_age(story):
    story.accepted("e", "alert")
    story.at(3601).ran("alert", ["e"])


@pytest.mark.parametrize(
    ("tell", "found"),
    [
        (lost_event, "lost"),
        (lost_record_in_a_gap, "lost"),
        (lost_in_death, "lost"),
        (phantom, "phantom"),
        (phantom_from_elsewhere, "phantom"),
        (delivered_before_it_was_accepted, "phantom"),
        (duplicate_without_a_reason, "duplicate"),
        (duplicate_after_it_was_settled, "duplicate"),
        (duplicate_after_another_engine_died, "duplicate"),
        (duplicate_report, "duplicate"),
        (duplicate_report_long_after_a_pause, "duplicate"),
        (reported_after_success, "two-fates"),
        (two_last_states, "two-fates"),
        (reordered_in_a_shard, "reordered"),
        (reordered_in_a_batch, "reordered"),
        (reordered_by_a_retry, "reordered"),
        (reordered_while_running, "reordered"),
        (reordered_in_a_group, "reordered"),
        (checkpoint_ahead_of_a_running_record, "checkpoint-ahead"),
        (checkpoint_ahead_of_a_report, "checkpoint-ahead"),
        (checkpoint_backwards, "checkpoint-backwards"),
        (checkpoint_of_a_former_owner, "double-owner"),
        (a_lease_whose_counter_does_not_grow, "double-owner"),
        (started_by_a_former_owner, "double-owner"),
        (two_engines_at_once, "double-owner"),
        (deleted_before_it_was_done, "deleted-unfinished"),
        (resurrected_event, "resurrected"),
        (resurrected_item, "resurrected"),
        (one_attempt_too_many, "too-many-attempts"),
        (a_crash_that_forgets_attempts, "too-many-attempts"),
        (a_stream_batch_tried_too_often, "too-many-attempts"),
        (a_partial_failure_tried_too_often, "too-many-attempts"),
        (a_takeover_that_forgets_attempts, "too-many-attempts"),
        (a_first_retry_too_early, "retried-early"),
        (a_second_retry_too_early, "retried-early"),
        (two_at_once_with_one_reserved, "over-concurrency"),
        (started_after_its_age, "too-old"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_a_planted_anomaly_is_found_and_nothing_else(tell: Callable[[Story], None], found: str):
    story = Story()
    tell(story)
    assert names(story) == {found}, check(story, EXPECTED)


def test_order_per_key_lets_other_keys_overtake_and_their_own_not():
    by_key = Expectations(mappings={"m": Source("departures", "delays", "key")})
    story = Story()
    story.five_records()
    story.ran("delays", ["r1", "r3"])
    story.ran("delays", ["r0", "r2", "r4"])
    assert check(story, by_key) == []
    story = Story()
    story.five_records()
    story.ran("delays", ["r2"])
    story.ran("delays", ["r0", "r1", "r3", "r4"])
    assert names(story, by_key) == {"reordered"}


def test_a_violation_is_a_sentence_with_ids_and_times():
    story = Story()
    story.at(3).accepted("e-17", "alert")
    [violation] = check(story, EXPECTED)
    assert str(violation) == "lost: event e-17 of 3 s has no fate with alert after 0 tries"


def test_ten_thousand_records_are_checked_in_one_go():
    story = Story()
    story.leased("m", "0", "A", 1)
    for position in range(10_000):
        story.put("departures", "0", str(position), position, str(position))
    for position in range(0, 10_000, 10):
        story.ran("delays", [str(each) for each in range(position, position + 10)])
        story.checkpointed("m", "0", position + 9, "A", 1)
    assert check(story, EXPECTED) == []
