"""The application as `lambent run` serves it, in any number of processes that share a store and a board:

    FLIGHTS_BOARD=flights-board.db lambent run examples/flights/served.py --store redis://localhost:6379

With FLIGHTS_DEPARTURES=kafka://localhost:9092/departures the departures are in that topic.
"""

from __future__ import annotations

import os

from examples.flights.app import flights
from examples.flights.board import Board

engine = flights(
    Board(os.environ["FLIGHTS_BOARD"]),
    seed=int(os.environ.get("FLIGHTS_SEED", "2013")),
    departures_in=os.environ.get("FLIGHTS_DEPARTURES", "departures"),
).engine
