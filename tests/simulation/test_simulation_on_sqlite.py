"""Simulated days of one engine whose store is a SQLite file: its adapters keep the promises that memory keeps."""

from __future__ import annotations

import pytest

from lambent.testing.simulation import Blow, Simulation
from tests.simulation import campaign

SEEDS = 40
TWICE = 4
NIGHT_SEEDS = 5_000
SLOWEST_SECONDS = 120.0


def explained(seeds: list[int]) -> str:
    return "\n\n".join(Simulation(seed, ground="sqlite").explained() for seed in sorted(seeds)[:2])


def test_no_promise_is_broken_on_a_file_and_the_same_seed_gives_the_same_day() -> None:
    found = campaign.campaign(seeds=SEEDS, seconds=SLOWEST_SECONDS, twice=TWICE, ground="sqlite")
    print(found)
    assert not found.broken, explained(list(found.broken))
    assert found.seeds >= SEEDS
    for fault in ("unavailable", "unknown", "slow", "kill", "drain", "clock"):
        assert found.faults[fault], f"no {fault} in all these days"
    assert len(found.traces) >= TWICE
    assert all(first == second for first, second in found.traces.values())


def test_an_engine_on_a_file_is_killed_again_and_again() -> None:
    blows = [Blow(at, "kill") for at in (0.2, 1.0, 3.0, 5.5, 8.0, 13.0, 21.0, 34.0)]
    for seed in range(3):
        result = Simulation(seed, ground="sqlite", calm=True, blows=blows).run()
        assert not result.problems, result.problems


@pytest.mark.night
def test_no_promise_is_broken_on_a_file_in_a_night() -> None:
    night = campaign.campaign(100_000, seeds=NIGHT_SEEDS, twice=100, ground="sqlite", tell=print)
    assert not night.broken, explained(list(night.broken))
    assert all(first == second for first, second in night.traces.values())
