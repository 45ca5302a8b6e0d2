"""Directed crashes: before and after every call of the store and of a destination, and at every step of the loop.

Three small days, each on its own: one event through async with its destinations, a stream batch that is halved and
reported, a queue batch with a partial failure and a redrive. A destination is a queue or stream of the store, so its
calls are among those that are struck.
"""

from dataclasses import replace

import pytest

from lambent.testing.simulation import Simulation
from lambent.testing.workload import Behaviour, Mapped, Operation, Workload

POISON = Behaviour(0.01, failures=1 << 30)
FLAKY = Behaviour(0.01, failures=1)
GOOD = Behaviour(0.01)
SETTINGS = {"async_retry_delays_seconds": (1.0, 2.0), "lease_seconds": 10.0, "watchdog_seconds": 0}
FUNCTION = {"timeout_seconds": 1, "maximum_retry_attempts": 1, "maximum_event_age_seconds": 21600}
AUDIT = {"audit": FUNCTION}


def behave(function: str, number: int) -> Behaviour:
    return {2: POISON, 3: FLAKY}.get(number, GOOD) if function != "audit" else GOOD


EVENT = Workload(
    0,
    SETTINGS,
    {
        **AUDIT,
        "alert": {
            **FUNCTION,
            "on_failure": "stream:graves",
            "on_success": "queue:done",
            "dead_letter_queue": "queue:dead",
        },
    },
    {"dead": {}, "done": {}},
    {"graves": {}},
    {},
    [Operation(0.0, "event", "alert", [number]) for number in (1, 2)],
    0.5,
    behave,
)
STREAM = Workload(
    0,
    SETTINGS,
    {**AUDIT, "count": FUNCTION},
    {"dead": {}},
    {"flights": {}},
    {
        "counting": Mapped(
            "stream:flights",
            "count",
            {
                "batch_size": 4,
                "maximum_batching_window_seconds": 0,
                "maximum_retry_attempts": 1,
                "bisect_batch_on_function_error": True,
                "report_batch_item_failures": False,
                "on_failure": "queue:dead",
            },
        )
    },
    [Operation(0.0, "put", "flights", (1, 2, 3, 4), "abab", None, True)],
    0.5,
    behave,
)
QUEUE = Workload(
    0,
    SETTINGS,
    {**AUDIT, "rebook": FUNCTION},
    {
        "rebooking-dead": {},
        "rebooking": {
            "visibility_timeout_seconds": 3,
            "max_receive_count": 2,
            "dead_letter_queue": "rebooking-dead",
        },
    },
    {},
    {
        "rebooked": Mapped(
            "queue:rebooking",
            "rebook",
            {"batch_size": 3, "maximum_batching_window_seconds": 0, "report_batch_item_failures": True},
        )
    },
    [Operation(0.0, "send", "rebooking", (1, 2, 3), (), None, True)],
    0.5,
    behave,
)
SCENARIOS = pytest.mark.parametrize("day", [EVENT, STREAM, QUEUE], ids=["event", "stream", "queue"])


SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.night) for seed in range(1, 50))])


def simulated(day: Workload, seed: int = 0, **options) -> Simulation:
    return Simulation(seed, engines=1, calm=True, day=day, **options)


def check(simulation: Simulation) -> None:
    assert not simulation.run().problems, f"{simulation}\n{simulation.explained()}"


@SCENARIOS
def test_the_scenario_itself_breaks_no_promise_and_meets_every_fate(day):
    result = simulated(day).run()
    assert not result.problems
    assert result.runs >= 2


@SEEDS
@SCENARIOS
@pytest.mark.parametrize("fault", ["crash before", "crash after", "unavailable", "unknown", "drain", "stop"])
def test_a_fault_at_any_call_of_a_store_or_destination_loses_nothing(day, fault, seed):
    calls = len(simulated(day, seed).run().points)
    assert calls > 20
    for number in range(1, calls + 1):
        check(simulated(day, seed, strikes={number: fault}))


@SEEDS
@SCENARIOS
def test_a_kill_at_any_step_loses_nothing(day, seed):
    for step in range(1, simulated(day, seed).run().steps):
        check(simulated(day, seed, kills={step: 0}))


@SEEDS
@SCENARIOS
def test_a_crash_while_it_recovers_from_a_crash_loses_nothing(day, seed):
    calls = len(simulated(day, seed).run().points)
    for number in range(3, calls, 3):
        strikes = {number: "crash after", number + 12: "crash before", number + 25: "crash after"}
        check(simulated(day, seed, strikes=strikes))


@SEEDS
@SCENARIOS
def test_two_engines_share_a_day_with_a_crash_at_any_call(day, seed):
    both = replace(simulated(day, seed), engines=2)
    for number in range(1, len(both.run().points), 3):
        check(replace(both, strikes={number: "crash after"}))
