"""The disk fails, is full or cannot be written: nothing is acknowledged that is not stored, and the work goes on."""

import pytest

from tests.durability.troubles import campaign, sampled, strikes

SAMPLE = 80


def explained(found):
    strike, problems = next(iter(found.problems.items()))
    number, call, trouble, lasts = strike
    again = f"again: python -m tests.durability.troubles --call {number} --trouble {trouble}"
    return "\n".join([str(found), f"{trouble} at call {number} ({call}), lasting: {lasts}", *problems[:10], again])


def test_whatever_goes_wrong_with_the_disk_costs_nothing_that_was_acknowledged():
    found = campaign(sampled(list(strikes()), SAMPLE))
    assert not found.problems, explained(found)
    assert found.felt.total() > SAMPLE / 2


@pytest.mark.night
def test_whatever_goes_wrong_at_any_call_of_the_disk_costs_nothing_that_was_acknowledged():
    every = list(strikes())
    found = campaign(every, tell=print)
    print(found, found.felt)
    assert not found.problems, explained(found)
    assert found.strikes == len(every) > 3000
