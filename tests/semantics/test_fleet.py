"""Which environment serves which invocation, as tables and as properties of any history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lambent.semantics.fleet import (
    FIRST_PAUSE_SECONDS,
    FREE_FAILURES,
    TURNAROUND_SECONDS,
    Fleet,
    Refuse,
    Run,
    Start,
    Stop,
)

IDLE = 300.0


@pytest.fixture
def fleet() -> Fleet[str]:
    made: Fleet[str] = Fleet(maximum=4, idle_seconds=IDLE)
    made.configure("f", 0.0)
    return made


def warm(fleet: Fleet[str], *tickets: str, function: str = "f", now: float = 0.0) -> list[int]:
    """Environments that are idle and warm, each of which served one of these."""
    numbers = []
    for ticket in tickets:
        (start,) = fleet.call(function, ticket, now)
        assert isinstance(start, Start)
        assert fleet.ready(start.number, now) == [Run(start.number, ticket)]
        numbers.append(start.number)
    for number in numbers:
        assert fleet.ready(number, now) == []
    return numbers


def test_an_invocation_starts_an_environment_and_gets_it_when_it_is_ready(fleet: Fleet[str]) -> None:
    assert fleet.call("f", "a", 0.0) == [Start(1, "f", False)]
    assert fleet.waiting("f") == 1
    assert fleet.ready(1, 1.0) == [Run(1, "a")]
    assert fleet.ready(1, 2.0) == []
    assert fleet.call("f", "b", 3.0) == [Run(1, "b")]


def test_the_one_used_last_is_used_first(fleet: Fleet[str]) -> None:
    one, two = warm(fleet, "a", "b")
    assert fleet.call("f", "c", 1.0) == [Run(two, "c")]
    assert fleet.call("f", "d", 1.0) == [Run(one, "d")]


def test_an_environment_that_is_free_first_takes_what_waits_and_the_new_one_stays_idle(fleet: Fleet[str]) -> None:
    (one,) = warm(fleet, "a")
    fleet.call("f", "b", 1.0)
    assert fleet.call("f", "c", 1.0) == [Start(2, "f", False)]
    assert fleet.ready(one, 2.0) == [Run(one, "c")]
    assert fleet.ready(2, 3.0) == []
    assert fleet.counts("f") == {"starting": 0, "warm": 1, "cold": 0, "busy": 1}


def test_one_that_has_answered_is_waited_for_a_moment_before_another_is_started(fleet: Fleet[str]) -> None:
    (one,) = warm(fleet, "a")
    fleet.call("f", "b", 1.0)
    fleet.answered(one, 2.0)
    assert fleet.call("f", "c", 2.0) == []
    assert fleet.call("f", "d", 2.0) == [Start(2, "f", False)]
    assert fleet.tick(2.0 + TURNAROUND_SECONDS) == [Start(3, "f", False)]
    assert fleet.ready(one, 3.0) == [Run(one, "c")]


def test_idle_environments_are_let_go_those_used_longest_ago_first(fleet: Fleet[str]) -> None:
    one, two = warm(fleet, "a", "b", now=10.0)
    fleet.call("f", "c", 200.0)
    fleet.ready(two, 201.0)
    assert fleet.tick(10.0 + IDLE - 1) == []
    assert fleet.tick(10.0 + IDLE) == [Stop(one, "idle")]
    assert fleet.tick(201.0 + IDLE) == [Stop(two, "idle")]


def test_one_that_was_reset_comes_after_the_warm_ones(fleet: Fleet[str]) -> None:
    one, two = warm(fleet, "a", "b")
    fleet.call("f", "c", 1.0)
    assert fleet.reset(two, 2.0, init_failed=False) == []
    assert fleet.call("f", "d", 3.0) == [Run(one, "d")]
    assert fleet.call("f", "e", 3.0) == [Run(two, "e")]


def test_one_that_ended_while_it_was_idle_is_there_once(fleet: Fleet[str]) -> None:
    one, two = warm(fleet, "a", "b")
    assert fleet.reset(two, 1.0, init_failed=False) == []
    assert fleet.call("f", "c", 2.0) == [Run(one, "c")]
    assert fleet.call("f", "d", 2.0) == [Run(two, "d")]
    assert fleet.call("f", "e", 2.0) == [Start(3, "f", False)]
    assert fleet.ready(one, 3.0) == [Run(one, "e")]
    assert fleet.ready(3, 4.0) == []
    assert fleet.gone(3, 5.0) == []
    assert fleet.counts("f") == {"starting": 0, "warm": 0, "cold": 0, "busy": 2}


def test_an_environment_is_replaced_after_as_many_uses_as_were_said(fleet: Fleet[str]) -> None:
    fleet.configure("f", 0.0, recycle_after=2)
    (one,) = warm(fleet, "a")
    fleet.call("f", "b", 1.0)
    assert fleet.ready(one, 2.0) == [Stop(one, "recycled")]
    assert fleet.call("f", "c", 3.0) == [Start(2, "f", False)]


def test_what_runs_finishes_on_the_old_code_and_nothing_new_begins_there(fleet: Fleet[str]) -> None:
    one, two = warm(fleet, "a", "b")
    fleet.call("f", "c", 1.0)
    assert fleet.configure("f", 2.0) == [Stop(one, "outdated")]
    assert fleet.call("f", "d", 2.0) == [Start(3, "f", False)]
    assert fleet.ready(two, 3.0) == [Stop(two, "outdated")]
    assert fleet.ready(3, 4.0) == [Run(3, "d")]


def test_one_that_began_on_old_code_is_not_used_and_another_takes_its_place(fleet: Fleet[str]) -> None:
    fleet.call("f", "a", 0.0)
    assert fleet.configure("f", 1.0) == [Start(2, "f", False)]
    assert fleet.ready(1, 2.0) == [Stop(1, "outdated")]
    assert fleet.ready(2, 2.0) == [Run(2, "a")]


def test_an_init_that_failed_is_tried_once_more_within_the_invocation(fleet: Fleet[str]) -> None:
    fleet.call("f", "a", 0.0)
    assert fleet.reset(1, 1.0, init_failed=True) == [Run(1, "a")]
    assert fleet.reset(1, 2.0, init_failed=True) == [Stop(1, "broken")]


def test_a_crash_looping_init_backs_off_and_calls_are_refused_meanwhile(fleet: Fleet[str]) -> None:
    fleet.call("f", "a", 0.0)
    for failure in range(FREE_FAILURES):
        fleet.reset(1, float(failure), init_failed=True)
    failed_at = FREE_FAILURES - 1.0
    assert fleet.call("f", "b", failed_at + FIRST_PAUSE_SECONDS - 0.01) == [Refuse("b")]
    assert fleet.call("f", "c", failed_at + FIRST_PAUSE_SECONDS) == [Start(2, "f", False)]
    fleet.reset(2, 2.0, init_failed=True)
    assert fleet.call("f", "d", 2.0 + 2 * FIRST_PAUSE_SECONDS - 0.01) == [Refuse("d")]
    fleet.configure("f", 2.1)
    assert fleet.call("f", "e", 2.1) == [Start(3, "f", False)], "another configuration is tried at once"


def test_an_init_that_succeeds_ends_the_pause(fleet: Fleet[str]) -> None:
    fleet.call("f", "a", 0.0)
    fleet.reset(1, 0.0, init_failed=True)
    fleet.ready(1, 1.0)
    fleet.call("f", "b", 1.0)
    fleet.call("f", "c", 1.0)
    assert fleet.reset(2, 1.0, init_failed=True) == [Run(2, "c")]


def test_more_than_the_machine_holds_wait_and_the_oldest_idle_one_of_any_function_goes(fleet: Fleet[str]) -> None:
    fleet.configure("g", 0.0)
    one, two = warm(fleet, "a", "b", now=1.0)
    three, four = warm(fleet, "c", "d", function="g", now=2.0)
    for ticket in ("e", "f"):
        fleet.call("g", ticket, 3.0)
    assert fleet.call("g", "h", 4.0) == [Stop(one, "evicted"), Start(5, "g", False)]
    assert fleet.call("g", "i", 4.0) == [Stop(two, "evicted"), Start(6, "g", False)]
    assert fleet.call("f", "j", 4.0) == []
    assert fleet.ready(three, 5.0) == [Run(three, "h")]
    assert fleet.ready(four, 5.0) == [Run(four, "i")]
    assert fleet.ready(5, 5.0) == [Stop(5, "evicted"), Start(7, "f", False)]


def test_provisioned_environments_are_started_before_anybody_calls_and_kept() -> None:
    fleet: Fleet[str] = Fleet(10, IDLE)
    assert fleet.configure("f", 0.0, provisioned=2) == [Start(1, "f", True), Start(2, "f", True)]
    assert fleet.provisioned("f") == ("IN_PROGRESS", 2, 0)
    assert fleet.ready(1, 1.0) == []
    assert fleet.ready(2, 1.0) == []
    assert fleet.provisioned("f") == ("READY", 2, 2)
    assert fleet.tick(1.0 + 10 * IDLE) == []


def test_what_provisioned_environments_have_no_room_for_spills_over_and_is_counted() -> None:
    fleet: Fleet[str] = Fleet(10, IDLE)
    fleet.configure("f", 0.0, provisioned=1)
    fleet.ready(1, 1.0)
    assert fleet.call("f", "a", 2.0) == [Run(1, "a")]
    assert fleet.call("f", "b", 2.0) == [Start(2, "f", False)]
    assert fleet.spilled("f") == 0, "it may yet run where there was room for it"
    assert fleet.ready(2, 3.0) == [Run(2, "b", spilled=True)]
    fleet.ready(1, 4.0)
    fleet.ready(2, 5.0)
    assert fleet.spilled("f") == 1
    assert fleet.call("f", "c", 6.0) == [Run(1, "c")], "a provisioned one comes first, though it was used before"
    assert fleet.call("f", "d", 6.0) == [Run(2, "d", spilled=True)]
    assert fleet.spilled("f") == 2


def test_another_number_of_provisioned_environments_leaves_what_is_warm_as_it_is() -> None:
    fleet: Fleet[str] = Fleet(10, IDLE)
    fleet.configure("f", 0.0, provisioned=2)
    fleet.ready(1, 1.0)
    fleet.ready(2, 1.0)
    fleet.call("f", "a", 2.0)
    assert fleet.provisioned_use("f") == (1, 2)
    assert fleet.provision("f", 3.0, 3) == [Start(3, "f", True)]
    assert fleet.ready(3, 4.0) == []
    assert fleet.provision("f", 5.0, 1) == [Stop(1, "outdated"), Stop(3, "outdated")]
    assert (fleet.provisioned("f"), fleet.provisioned_use("f")) == (("READY", 1, 1), (1, 1))
    assert fleet.call("f", "b", 6.0) == [Start(4, "f", False)]
    assert fleet.ready(4, 7.0) == [Run(4, "b", spilled=True)]
    assert fleet.provision("f", 8.0, 0) == [], "what runs is let run"
    assert fleet.ready(4, 9.0) == []
    assert fleet.ready(2, 9.0) == [Stop(2, "outdated")]
    assert fleet.call("f", "c", 9.0) == [Run(4, "c")], "and what was there on demand stays"


def test_a_provisioned_environment_that_is_gone_is_replaced_and_failing_inits_are_said() -> None:
    fleet: Fleet[str] = Fleet(10, IDLE)
    fleet.configure("f", 0.0, provisioned=1)
    assert fleet.reset(1, 1.0, init_failed=True) == [Stop(1, "broken"), Start(2, "f", True)]
    assert fleet.reset(2, 2.0, init_failed=True) == [Stop(2, "broken")]
    assert fleet.tick(2.0) == []
    assert fleet.provisioned("f") == ("FAILED", 1, 0)
    assert fleet.tick(2.0 + FIRST_PAUSE_SECONDS) == [Start(3, "f", True)]
    fleet.ready(3, 4.0)
    assert fleet.provisioned("f") == ("READY", 1, 1)


def test_a_withdrawn_function_keeps_nothing_and_may_come_back(fleet: Fleet[str]) -> None:
    one, two = warm(fleet, "a", "b")
    fleet.call("f", "c", 1.0)
    assert fleet.withdraw("f") == [Stop(one, "withdrawn")]
    assert fleet.ready(two, 2.0) == [Stop(two, "withdrawn")]
    assert fleet.configure("f", 3.0) == []
    assert fleet.call("f", "d", 3.0) == [Start(3, "f", False)]


def test_what_nobody_wants_any_more_is_not_run(fleet: Fleet[str]) -> None:
    fleet.call("f", "a", 0.0)
    fleet.cancel("f", "a")
    fleet.cancel("f", "a")
    assert fleet.ready(1, 1.0) == []


class Histories(RuleBasedStateMachine):
    """Any history: each invocation is run once or refused, by one environment at a time, and none is left waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.maximum = 3
        self.fleet: Fleet[int] = Fleet(self.maximum, 50.0)
        self.now = 0.0
        self.tickets = 0
        self.waiting: set[int] = set()
        self.states: dict[int, str] = {}
        for function in "fg":
            self.perform(self.fleet.configure(function, self.now))

    def perform(self, steps: list[Any]) -> None:
        for step in steps:
            match step:
                case Start(number, _, _):
                    assert number not in self.states
                    self.states[number] = "starting"
                case Run(number, ticket):
                    assert self.states[number] == "idle"
                    self.states[number] = "busy"
                    self.waiting.remove(ticket)
                case Stop(number, _):
                    assert self.states.pop(number) == "idle"
                case Refuse(ticket):
                    self.waiting.remove(ticket)

    @rule(function=st.sampled_from("fg"))
    def call(self, function: str) -> None:
        self.tickets += 1
        self.waiting.add(self.tickets)
        self.perform(self.fleet.call(function, self.tickets, self.now))

    @precondition(lambda self: any(state != "idle" for state in self.states.values()))
    @rule(data=st.data(), how=st.sampled_from(["answered", "ready", "reset", "failed"]))
    def happens(self, data: st.DataObject, how: str) -> None:
        number = data.draw(st.sampled_from(sorted(n for n, state in self.states.items() if state != "idle")))
        if how == "answered":
            if self.states[number] == "busy":
                self.fleet.answered(number, self.now)
            return
        self.states[number] = "idle"
        if how == "ready":
            self.perform(self.fleet.ready(number, self.now))
        else:
            self.perform(self.fleet.reset(number, self.now, init_failed=how == "failed"))

    @precondition(lambda self: "idle" in self.states.values())
    @rule(data=st.data(), gone=st.booleans())
    def an_idle_one_ends(self, data: st.DataObject, gone: bool) -> None:
        number = data.draw(st.sampled_from(sorted(n for n, state in self.states.items() if state == "idle")))
        if gone:
            del self.states[number]
            self.perform(self.fleet.gone(number, self.now))
        else:
            self.perform(self.fleet.reset(number, self.now, init_failed=False))

    @rule(function=st.sampled_from("fg"), provisioned=st.integers(0, 2), recycle_after=st.sampled_from([None, 1, 3]))
    def configure(self, function: str, provisioned: int, recycle_after: int | None) -> None:
        self.perform(self.fleet.configure(function, self.now, provisioned, recycle_after))

    @rule(function=st.sampled_from("fg"), provisioned=st.integers(0, 3))
    def provision(self, function: str, provisioned: int) -> None:
        self.perform(self.fleet.provision(function, self.now, provisioned))

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.fleet.tick(self.now))

    @rule(data=st.data())
    @precondition(lambda self: self.waiting)
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        for function in "fg":
            self.fleet.cancel(function, ticket)
        self.waiting.remove(ticket)

    @invariant()
    def there_are_never_more_than_the_machine_holds(self) -> None:
        assert len(self.states) <= self.maximum

    @invariant()
    def who_waits_has_something_to_wait_for(self) -> None:
        assert not self.waiting or any(state != "idle" for state in self.states.values())

    @invariant()
    def what_it_counts_is_what_there_is(self) -> None:
        counted = [self.fleet.counts(function) for function in "fg"]
        assert sum(sum(each.values()) for each in counted) == len(self.states)
        assert sum(each["busy"] for each in counted) == sum(state == "busy" for state in self.states.values())
        assert sum(self.fleet.waiting(function) for function in "fg") == len(self.waiting)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=30))
def test_with_one_caller_after_the_other_one_environment_is_enough(pauses: list[float]) -> None:
    fleet: Fleet[int] = Fleet(10, 1e9)
    fleet.configure("f", 0.0)
    now, started = 0.0, 0
    for ticket, pause in enumerate(pauses):
        (step,) = fleet.call("f", ticket, now)
        if isinstance(step, Start):
            started += 1
            (step,) = fleet.ready(step.number, now)
        assert isinstance(step, Run)
        assert fleet.ready(step.number, now) == []
        now += pause
    assert started == 1
