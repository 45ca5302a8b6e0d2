"""Trouble between engines and their Redis server, under all four models: work goes on, and the accounts are exact."""

import pytest

from tests.durability.accounts import MODELS
from tests.durability.outages import CONNECTIONS, REFUSALS, RESTARTS, outages, shuffled


def held(found, troubles):
    assert not found.problems, "\n".join([str(found), *found.problems[:20]])
    assert sorted(found.struck.elements()) == sorted(troubles)
    assert all(found.acknowledged[model] for model in (*MODELS, "quote"))


def test_a_server_that_is_killed_or_told_to_end_and_started_again_has_lost_nothing_and_work_goes_on():
    troubles = shuffled(RESTARTS, 1, seed=1)
    held(outages(troubles, seed=1), troubles)


def test_connections_that_are_cut_slow_dead_or_refused_cost_nothing_and_work_goes_on():
    troubles = shuffled(CONNECTIONS, 1, seed=2)
    held(outages(troubles, seed=2), troubles)


def test_a_server_that_takes_nothing_refuses_callers_and_work_goes_on_when_it_does():
    troubles = shuffled(REFUSALS, 1, seed=3)
    found = outages(troubles, seed=3)
    held(found, troubles)
    assert found.refused


@pytest.mark.night
def test_two_hundred_restarts_of_the_server_lose_nothing():
    troubles = shuffled(RESTARTS, 100, seed=4)
    found = outages(troubles, seed=4, tell=print)
    print(found)
    held(found, troubles)


@pytest.mark.night
def test_hundreds_of_troubles_with_connections_and_refusals_cost_nothing():
    troubles = shuffled((*CONNECTIONS, *REFUSALS), 50, seed=5)
    found = outages(troubles, seed=5, tell=print)
    print(found)
    held(found, troubles)
