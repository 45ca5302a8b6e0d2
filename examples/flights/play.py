"""Plays a year of departures, watches, and then checks the result against the file.

Decides how fast departures are put in, when everything has found its fate, and what has to be equal. `play` gives what
was counted; `audit` says what is wrong with it, comparing with `data.truth`, which never saw the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic_core import to_json

from examples.flights.app import Flights, is_long, key
from examples.flights.board import Board
from examples.flights.data import Flight, Truth
from examples.flights.picture import Sample
from lambent.semantics.auditing import Account

PUTS_PER_SECOND = 15_000
PUT_AT_ONCE = 500
QUERY_EVERY_SECONDS = 0.05
SAMPLE_EVERY_SECONDS = 0.25
AIRPORTS = ("EWR", "JFK", "LGA")

NOTHING = Account(came=0, passed=0, fates={}, waiting=0)

Show = Callable[[Sample], None]


@dataclass(frozen=True, slots=True)
class Service:
    """What the application's users have of it. `account` gives the engine's own books of the stream's mapping."""

    put_many: Callable[[Sequence[tuple[bytes, str]]], Awaitable[Sequence[str]]]
    invoke: Callable[[str, object], Awaitable[Any]]
    account: Callable[[], Awaitable[Account]]


@dataclass(slots=True)
class Played:
    """What happened. What the board does not say is of this process alone, not of one that was killed before it.
    `answers` are the last ones of the synchronous queries, by airport."""

    board: Board
    put: int = 0
    long_delays: int = 0
    queries: int = 0
    went_down: int = 0  # answers with fewer departures than the one before
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    account: Account = NOTHING  # the engine's own books of the stream's mapping
    seconds: float = 0.0
    resumed: bool = False  # another process began it, and was killed


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


@asynccontextmanager
async def in_this_process(app: Flights) -> AsyncIterator[Service]:
    """The engine runs here."""

    async def account() -> Account:
        return (await app.engine.audit(app.mapping.id)).total

    async with app.engine:
        yield Service(app.departures.put_many, app.engine.invoke, account)


async def play(
    board: Board,
    serving: AbstractAsyncContextManager[Service],
    departures: Iterable[Flight],
    *,
    per_second: float = PUTS_PER_SECOND,
    at_most_seconds: float = 600.0,
    show: Show = lambda sample: None,
) -> Played:
    """Have it served, put in what no process before this one did, ask while it works, and stop when nothing is left to
    do."""
    played = Played(board, resumed=bool(board.mark("begun")))
    board.note("begun", True)
    clock = asyncio.get_running_loop().time

    async with serving as service:
        begin = clock()

        def look() -> None:
            played.seconds = clock() - begin
            played.samples.append(_sample(played))
            show(played.samples[-1])

        around = [asyncio.create_task(each) for each in (_ask(service, played), _repeat(look, SAMPLE_EVERY_SECONDS))]
        try:
            async with asyncio.timeout(at_most_seconds):
                await _produce(service, played, departures, per_second)
                while not settled(played) or (await service.account()).waiting:  # None: only Kafka knows
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass  # the audit says what is missing
        finally:
            for task in around:
                task.cancel()
            await asyncio.gather(*around, return_exceptions=True)
        await _ask_once(service, played)
        look()
        played.account = await service.account()
    return played


def settled(played: Played) -> bool:
    """Has every flight its fate? Each counts once, however often it was handed out."""
    count = played.board.counts("fate")
    answered = count["confirmed"] + count["telephoned"] >= played.long_delays
    fates = count["departed"] + count["rebooked"] + count["given up"]
    added_up = sum(played.board.total(airport)[0] for airport in AIRPORTS)
    return answered and fates >= played.put and added_up == count["departed"]


def audit(played: Played, truth: Truth) -> list[str]:
    """Everything that differs from the file, in words; empty if nothing does."""
    board = played.board
    wrong: list[str] = []

    def same(what: str, found: object, expected: object) -> None:
        if found != expected:
            wrong.append(f"{what}: {_short(found)}, expected {_short(expected)}")

    delivered, rebooked, given_up = (board.flights(fate) for fate in ("departed", "rebooked", "given up"))
    alerted, unheard = board.flights("alerted"), board.flights("unheard")
    failed = rebooked | given_up
    same("departures put", played.put, truth.rows)
    same("neither delivered nor failed", set(range(truth.rows)) - delivered - failed, set())
    same("both delivered and failed", delivered & failed, set())
    same("poison in the on-failure destination", failed, truth.never_departed)
    same("long delays alerted or given up", alerted | unheard, truth.long_delays)
    for group in sorted(truth.departed | truth.minutes):
        departed, minutes = board.total(group)
        same(f"departures of {group}", departed, truth.departed[group])
        same(f"minutes of delay of {group}", minutes, truth.minutes[group])
    for name, answer in played.answers.items():
        same(f"the answer for {name}", answer, {"departed": truth.departed[name], "minutes": truth.minutes[name]})
    for line in lines(played):
        same(f"{line.model}: delivered + filtered + failed", line.delivered + line.filtered + line.failed, line.input)
    latest: dict[str, int] = {}
    early = {flight for flight in board.order() if flight < _raise(latest, truth.planes.get(flight, ""), flight)}
    same("departures told before an earlier one of their plane", early - board.flights("put again"), set())
    account = played.account
    if account.waiting is not None:  # it is not where only Kafka knows what came
        same("departures that wait, as the engine counts", account.waiting, 0)
        same("each departure has one fate, as the engine counts", account.balanced, True)
    if not played.resumed:
        came = account.told if account.came is None else account.came
        same("departures put, as the engine counts", came, truth.rows)
        same("departures given up, as the engine counts", account.count("failed"), len(failed))
        same("alerts confirmed by the on-success destination", board.flights("confirmed"), alerted)
        same("answers that went down", played.went_down, 0)
        for line in lines(played):
            same(f"{line.model}: duplicates", line.duplicates, 0)
    return wrong


def lines(played: Played) -> list[Line]:
    """The table of fates."""
    count, tries, duplicates = (played.board.counts(kind) for kind in ("fate", "failed attempts", "duplicates"))
    filtered, failed = played.account.count("filtered"), count["rebooked"] + count["given up"]
    return [
        Line("stream", played.put, count["departed"], filtered, failed, duplicates["departed"], tries["delays"]),
        Line("queue", failed, count["rebooked"], 0, count["given up"], duplicates["rebooking"], tries["rebooking"]),
        Line("async", played.long_delays, count["alerted"], 0, count["unheard"], duplicates["alert"], tries["alert"]),
        Line("sync", played.queries, played.queries, 0, 0, 0, 0),
    ]


# --------------------------------------------------------------------------- what goes on meanwhile


async def _produce(service: Service, played: Played, departures: Iterable[Flight], per_second: float) -> None:
    """How far it got is noted after each put. Whoever is killed in between puts the same departures in once more, which
    the board finds out."""
    source = iter(departures)
    before = int(played.board.mark("put", "0"))
    clock = asyncio.get_running_loop().time
    begin = clock()
    while batch := list(islice(source, PUT_AT_ONCE)):
        played.long_delays += sum(map(is_long, batch))
        played.put += len(batch)
        if played.put <= before:
            await asyncio.sleep(0)
            continue
        await service.put_many([(to_json(flight), key(flight)) for flight in batch])
        played.board.note("put", played.put)
        late = clock() - (begin + (played.put - before) / per_second)
        await asyncio.sleep(max(-late, PUT_AT_ONCE / per_second / 2))  # who catches up leaves time to the engine


async def _ask(service: Service, played: Played) -> None:
    while True:
        await _ask_once(service, played)
        await asyncio.sleep(QUERY_EVERY_SECONDS)


async def _ask_once(service: Service, played: Played) -> None:
    for airport in AIRPORTS:
        answer = await service.invoke("airport", {"origin": airport})
        before = played.answers.get(airport, answer)
        played.went_down += answer["departed"] < before["departed"]
        played.answers[airport] = answer
        played.queries += 1


async def _repeat(action: Callable[[], None], every_seconds: float) -> None:
    while True:
        action()
        await asyncio.sleep(every_seconds)


def _sample(played: Played) -> Sample:
    count = played.board.counts("fate")
    return Sample(
        seconds=played.seconds,
        put=played.put,
        delivered=count["departed"],
        isolated=count["isolated"],
        rebooked=count["rebooked"],
        given_up=count["given up"],
        alerts=count["alerted"] + count["unheard"],
        queries=played.queries,
        failed_attempts=played.board.counts("failed attempts").total(),
        iterator_age=played.board.oldest(),
    )


def _raise(latest: dict[str, int], plane: str, flight: int) -> int:
    """The latest flight of this plane, this one included."""
    latest[plane] = max(flight, latest.get(plane, 0))
    return latest[plane]


def _short(value: object) -> str:
    text = f"{len(value)} flights, such as {sorted(value)[:3]}" if isinstance(value, set) and value else repr(value)
    return "none" if value == set() else text
