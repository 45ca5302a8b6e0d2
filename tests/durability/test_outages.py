"""Trouble between engines and their Redis server, under all four models: work goes on, and the accounts are exact."""

import pytest

from tests.durability.accounts import MODELS
from tests.durability.outages import CONNECTIONS, REFUSALS, RESTARTS, TROUBLES, outages, shuffled


def shown(troubles, seed, tell=lambda line: None):
    found = outages(troubles, seed, tell)
    tell(str(found))
    assert not found.problems, "\n".join([str(found), *found.problems[:20]])
    assert sorted(found.struck.elements()) == sorted(troubles)
    assert all(found.acknowledged[model] for model in (*MODELS, "quote"))
    assert found.refused or not {*REFUSALS} & {*troubles}


def test_whatever_goes_wrong_between_an_engine_and_its_redis_server_costs_nothing_that_was_acknowledged():
    quick = [name for name in TROUBLES if name != "refused"]  # which is much like "swallowed"
    shown(shuffled(quick, times=1, seed=1), seed=1)


def test_who_only_waits_for_answers_is_refused_while_nothing_comes_through_and_answered_afterwards():
    found = outages(["swallowed"], seed=1, outstanding=0)
    assert not found.problems, "\n".join([str(found), *found.problems])
    assert found.acknowledged.keys() == {"quote"}


@pytest.mark.night
@pytest.mark.parametrize("troubles", [RESTARTS, CONNECTIONS, REFUSALS])
def test_a_night_of_troubles_costs_nothing_that_was_acknowledged(troubles):
    shown(shuffled(troubles, times=50, seed=2), seed=2, tell=print)
