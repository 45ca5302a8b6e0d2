"""Plays a year of departures, watches, and then checks the result against the file.

Decides how fast departures are put in, when everything has found its fate, and what has to be equal. `play` gives what
was counted; `audit` says what is wrong with it, comparing with `data.truth`, which never saw the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from examples.flights.app import Board, Flights, flights, is_long
from examples.flights.data import Flight, Truth
from examples.flights.picture import Sample
from lambent.telemetry import DROPPED_EVENT_COUNT, FILTERED_OUT_EVENT_COUNT, POLLED_EVENT_COUNT

PUTS_PER_SECOND = 15_000
PUT_AT_ONCE = 250
QUERY_EVERY_SECONDS = 0.05
SAMPLE_EVERY_SECONDS = 0.25
AIRPORTS = ("EWR", "JFK", "LGA")

Show = Callable[[Sample], None]


@dataclass(slots=True)
class Played:
    """What happened. `answers` are the last ones of the synchronous queries, by airport."""

    board: Board
    put: set[int] = field(default_factory=set)
    long_delays: int = 0
    queries: int = 0
    went_down: int = 0  # answers with fewer departures than the one before
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)  # the engine's own metrics of the stream's mapping
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """The fate of all items of one model. Everything but `failed_attempts` counts unique items."""

    model: str
    input: int
    delivered: int
    filtered: int
    failed: int
    duplicates: int
    failed_attempts: int


async def play(
    departures: Iterable[Flight],
    *,
    seed: int = 2013,
    per_second: float = PUTS_PER_SECOND,
    at_most_seconds: float = 600.0,
    show: Show = lambda sample: None,
) -> Played:
    """Start the engine, put everything in, ask while it works, and stop when nothing is left to do."""
    app = flights(seed)
    played = Played(app.board)
    begin = time.perf_counter()

    def look() -> None:
        played.seconds = time.perf_counter() - begin
        played.samples.append(_sample(played))
        show(played.samples[-1])

    async with app.engine:
        around = [asyncio.create_task(each) for each in (_ask(app, played), _repeat(look, SAMPLE_EVERY_SECONDS))]
        try:
            async with asyncio.timeout(at_most_seconds):
                await _produce(app, played, departures, per_second)
                while not _settled(played):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass  # the audit says what is missing
        finally:
            for task in around:
                task.cancel()
            await asyncio.gather(*around, return_exceptions=True)
        await _ask_once(app, played)
        look()
        for metric in (POLLED_EVENT_COUNT, FILTERED_OUT_EVENT_COUNT, DROPPED_EVENT_COUNT):
            played.counted[metric] = int(app.engine.telemetry.counter(metric).get(app.mapping.id, 0))
    return played


def audit(played: Played, truth: Truth) -> list[str]:
    """Everything that differs from the file, in words; empty if nothing does."""
    board = played.board
    wrong: list[str] = []

    def same(what: str, found: object, expected: object) -> None:
        if found != expected:
            wrong.append(f"{what}: {_short(found)}, expected {_short(expected)}")

    delivered, failed = set(board.covered), {*board.rebooked, *board.given_up}
    same("departures put", len(played.put), truth.rows)
    same("departures read, as the engine counts", played.counted.get(POLLED_EVENT_COUNT), truth.rows)
    same("departures given up, as the engine counts", played.counted.get(DROPPED_EVENT_COUNT), len(failed))
    same("neither delivered nor failed", played.put - delivered - failed, set())
    same("both delivered and failed", delivered & failed, set())
    same("poison in the on-failure destination", failed, truth.never_departed)
    same("both rebooked and given up", set(board.rebooked) & set(board.given_up), set())
    same("long delays alerted or given up", {*board.alerted, *board.unheard}, truth.long_delays)
    same("both alerted and given up", set(board.alerted) & set(board.unheard), set())
    same("alerts confirmed by the on-success destination", set(board.confirmed), set(board.alerted))
    same("windows closed more than once", {w for w, times in board.windows.items() if times > 1}, set())
    for group in sorted(truth.departed | truth.minutes):
        same(f"departures of {group}", board.total["departed"].get(group, 0), truth.departed[group])
        same(f"minutes of delay of {group}", board.total["minutes"].get(group, 0), truth.minutes[group])
    for name, answer in played.answers.items():
        same(f"the answer for {name}", answer, {"departed": truth.departed[name], "minutes": truth.minutes[name]})
    same("answers that went down", played.went_down, 0)
    for line in lines(played):
        same(f"{line.model}: duplicates", line.duplicates, 0)
        same(f"{line.model}: delivered + filtered + failed", line.delivered + line.filtered + line.failed, line.input)
    return wrong


def lines(played: Played) -> list[Line]:
    """The table of fates."""
    board, tries = played.board, played.board.failed_attempts
    failed = {*board.rebooked, *board.given_up}
    return [
        Line(
            "stream",
            len(played.put),
            len(board.covered),
            played.counted.get(FILTERED_OUT_EVENT_COUNT, 0),
            len(failed),
            _repeats(board.covered),
            tries["delays"],
        ),
        Line(
            "queue",
            len(failed),
            len(board.rebooked),
            0,
            len(board.given_up),
            _repeats(board.rebooked, board.given_up),
            tries["rebooking"],
        ),
        Line(
            "async",
            played.long_delays,
            len(board.alerted),
            0,
            len(board.unheard),
            _repeats(board.alerted, board.unheard),
            tries["alert"],
        ),
        Line("sync", played.queries, played.queries, 0, 0, 0, 0),
    ]


# --------------------------------------------------------------------------- what goes on meanwhile


async def _produce(app: Flights, played: Played, departures: Iterable[Flight], per_second: float) -> None:
    begin = time.perf_counter()
    pause = PUT_AT_ONCE / per_second
    source = iter(departures)
    while batch := list(islice(source, PUT_AT_ONCE)):
        await app.departures.put_many([(flight, flight["tailnum"]) for flight in batch])
        played.put.update(flight["id"] for flight in batch)
        played.long_delays += sum(map(is_long, batch))
        late = time.perf_counter() - (begin + len(played.put) / per_second)
        await asyncio.sleep(max(-late, pause / 2))  # whoever catches up leaves half of the loop's time to the engine


async def _ask(app: Flights, played: Played) -> None:
    while True:
        await _ask_once(app, played)
        await asyncio.sleep(QUERY_EVERY_SECONDS)


async def _ask_once(app: Flights, played: Played) -> None:
    for airport in AIRPORTS:
        answer = await app.engine.invoke("airport", {"origin": airport})
        before = played.answers.get(airport, answer)
        played.went_down += answer["departed"] < before["departed"]
        played.answers[airport] = answer
        played.queries += 1


async def _repeat(action: Callable[[], None], every_seconds: float) -> None:
    while True:
        action()
        await asyncio.sleep(every_seconds)


def _settled(played: Played) -> bool:
    """Has every flight its fate? Each counts once, however often it was handed out."""
    board = played.board
    alerted = len(board.confirmed) + len(board.unheard) >= played.long_delays
    fates = len(board.covered) + len(board.rebooked) + len(board.given_up)
    added_up = sum(board.total["departed"].get(airport, 0) for airport in AIRPORTS)
    return alerted and fates >= len(played.put) and added_up >= len(board.covered)


def _sample(played: Played) -> Sample:
    board = played.board
    age, board.iterator_age = board.iterator_age, 0.0
    return Sample(
        seconds=played.seconds,
        put=len(played.put),
        delivered=len(board.covered),
        isolated=board.isolated,
        rebooked=len(board.rebooked),
        given_up=len(board.given_up),
        alerts=len(board.alerted) + len(board.unheard),
        queries=played.queries,
        failed_attempts=board.failed_attempts.total(),
        iterator_age=age,
    )


def _repeats(*times: Counter[int]) -> int:
    together = sum(times, Counter[int]())
    return together.total() - len(together)


def _short(value: object) -> str:
    text = f"{len(value)} flights, such as {sorted(value)[:3]}" if isinstance(value, set) and value else repr(value)
    return "none" if value == set() else text
