"""kill -9 of `lambent serve` and of its Redis server: each acknowledged change of a function is there, none is half."""

import pytest

from tests.durability.changes import OPERATIONS, STORES, changes


@pytest.mark.parametrize("store", STORES)
def test_every_acknowledged_change_of_a_function_is_there_after_kill_9_and_none_is_half_there(store):
    found = changes(store, kills=2, seed=1)
    assert not found.problems, "\n".join([str(found), *found.problems[:20]])
    assert found.kills.total() == 2
    assert found.acknowledged.total() > 20


@pytest.mark.night
@pytest.mark.parametrize("store", STORES)
def test_every_acknowledged_change_of_a_function_is_there_after_a_night_of_kills(store):
    found = changes(store, kills=100, seed=2, tell=print)
    print(found)
    assert not found.problems, "\n".join([str(found), *found.problems[:20]])
    assert found.kills.total() == 100
    assert found.acknowledged.keys() == OPERATIONS
    assert found.came < found.unanswered.total()
