"""Bits rot: the store says what is damaged, serves the rest, and never hands out what was not stored."""

import pytest

from tests.durability.rot import campaign


def explained(found):
    seed, problems = next(iter(found.problems.items()))
    return "\n".join([str(found), *problems[:10], f"again: python -m tests.durability.rot --seed {seed}"])


def test_what_rots_is_reported_and_never_handed_out():
    found = campaign(range(120))
    assert not found.problems, explained(found)
    assert all(found.outcomes[outcome] for outcome in ("harmless", "reported", "refused", "an earlier state"))


@pytest.mark.night
def test_what_rots_is_reported_and_never_handed_out_in_a_night():
    found = campaign(range(1000, 4000), tell=print)
    print(found)
    assert not found.problems, explained(found)
