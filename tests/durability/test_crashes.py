"""kill -9 of `lambent run` under all four models: everything acknowledged has one fate, and the accounts are exact."""

import pytest

from tests.durability.accounts import MODELS
from tests.durability.crashes import crashes


def test_everything_acknowledged_has_one_fate_though_the_engine_is_killed_ten_times():
    found = crashes(kills=10, seed=1)
    assert not found.problems, "\n".join([str(found), *found.problems[:20]])
    assert found.struck["kill"] == 10
    assert all(found.acknowledged[model] for model in (*MODELS, "quote"))
    assert found.cut_off


@pytest.mark.night
def test_everything_acknowledged_has_one_fate_though_the_engine_is_killed_two_hundred_times():
    found = crashes(kills=200, seed=2, tell=print)
    print(found)
    assert not found.problems, "\n".join([str(found), *found.problems[:20]])
    assert found.struck["kill"] == 200
