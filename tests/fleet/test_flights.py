"""Three engines share a Redis; one is killed -9, one is stopped and continued, and the accounts stay exact."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fleet.flights import fleet
from tests.servers.redis import running


def test_flights_by_three_engines_stay_exact_while_one_is_killed_and_one_is_stopped(tmp_path: Path) -> None:
    with running(tmp_path, fsync="everysec") as server:
        found = asyncio.run(
            fleet(server.url, tmp_path, limit=9_000, per_second=3_000, every=2_500, seed=1, at_most_seconds=60)
        )
    assert not found.problems, "\n".join([str(found), *found.problems])
    assert found.kills
    assert found.stops


@pytest.mark.night
def test_flights_by_three_engines_stay_exact_through_the_whole_year(tmp_path: Path) -> None:
    with running(tmp_path, fsync="everysec") as server:
        found = asyncio.run(
            fleet(server.url, tmp_path, limit=None, per_second=8_000, every=10_000, seed=3, at_most_seconds=900)
        )
    print(found)
    assert not found.problems, "\n".join([str(found), *found.problems])
    assert found.kills >= 5
    assert found.stops >= 5
