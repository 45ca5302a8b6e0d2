"""The power goes off: nothing that was acknowledged is lost, nothing is half there, and the file is intact."""

import pytest

from tests.durability.power import CUTS, campaign

CHAINS = 15
NIGHT_CHAINS = 250


def explained(found):
    seed = min(found.problems)
    return "\n".join([str(found), *found.problems[seed][:20], f"again: python -m tests.durability.power --seed {seed}"])


def test_nothing_acknowledged_is_lost_when_the_power_goes_off():
    found = campaign(range(CHAINS))
    assert not found.problems, explained(found)
    assert found.cuts == CHAINS * CUTS == 300
    assert found.acknowledged > found.cuts * 10
    assert found.unanswered > found.cuts


def test_a_disk_that_only_says_that_it_syncs_is_found_out():
    assert campaign(range(2), lies=True).problems


@pytest.mark.night
def test_nothing_acknowledged_is_lost_in_a_night_of_power_cuts():
    found = campaign(range(1000, 1000 + NIGHT_CHAINS), tell=print)
    print(found)
    assert not found.problems, explained(found)
    assert found.cuts == 5000
