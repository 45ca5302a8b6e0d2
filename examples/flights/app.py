"""The application: what an airport operator might build on a stream of departures. Read this file first.

Decides which function does what, and how each is called: a stream in tumbling windows, a queue with partial failures,
asynchronous events with retries and destinations, synchronous queries. Everything that happens when a function fails
(halving a batch, trying again, giving up, reporting) is said in options here and done by the engine. Who puts the
departures in, and who checks the result, is in `play.py`.
"""

from __future__ import annotations

import json
import random
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from examples.flights.data import LONG_DELAY_MINUTES, Flight
from lambent import Engine, MappingHandle, StreamHandle

WINDOW_SECONDS = 1
BATCH_SIZE = 32
REBOOKING_FAILS = 0.15  # of the tries
REBOOK_AGAIN_SECONDS = 1
ALERT_FAILS = 0.25  # of the tries


class NeverDeparted(Exception):
    """A flight without a departure time: nothing can be added up."""


class Figures(TypedDict):
    """Departures and minutes of delay by airline ('UA') and airport ('JFK'): a window's state, and the total."""

    departed: dict[str, int]
    minutes: dict[str, int]


@dataclass(slots=True)
class Board:
    """Where the functions write what they found: how often each flight (by id) was there. It stands for your
    database. Each counter has one function that writes it, so one of them may be on a thread."""

    total: Figures = field(default_factory=lambda: Figures(departed={}, minutes={}))
    covered: Counter[int] = field(default_factory=Counter)  # by successful invocations
    rebooked: Counter[int] = field(default_factory=Counter)
    given_up: Counter[int] = field(default_factory=Counter)
    alerted: Counter[int] = field(default_factory=Counter)
    confirmed: Counter[int] = field(default_factory=Counter)  # by the alerts' on-success destination
    unheard: Counter[int] = field(default_factory=Counter)  # by the alerts' dead-letter queue
    windows: Counter[tuple[str, str]] = field(default_factory=Counter)  # (shard, start): closed
    failed_attempts: Counter[str] = field(default_factory=Counter)  # by function; an item that was tried in vain
    isolated: int = 0  # poison that stood alone in its batch
    iterator_age: float = 0.0  # seconds; the oldest of any shard since somebody looked


@dataclass(frozen=True, slots=True)
class Flights:
    """The engine with everything declared on it, not yet started."""

    engine: Engine
    departures: StreamHandle
    mapping: MappingHandle
    board: Board


def flights(seed: int = 2013) -> Flights:
    """Declares the application. `seed` decides which tries of rebooking and alerting fail."""
    board = Board()
    engine = Engine(async_retry_delays_seconds=(0.5, 1.0))  # AWS waits 60 s and 120 s; nobody wants to watch that
    departures = engine.stream("departures", shards=8)
    rebook = engine.queue("rebook", visibility_timeout_seconds=6, max_receive_count=3, dead_letter_queue="rebook-dead")
    rebook_dead = engine.queue("rebook-dead")
    alerts_sent = engine.queue("alerts-sent")
    alerts_lost = engine.queue("alerts-lost")

    # ---- stream: add up what departs; a flight that never departed is poison

    @engine.function(timeout_seconds=10)
    async def delays(event: dict[str, Any], context: object) -> dict[str, Any]:
        batch = [decoded(record) for record in event["Records"]]
        for flight in batch:
            if flight["delay"] is None:
                board.failed_attempts["delays"] += 1
                board.isolated += len(batch) == 1
                raise NeverDeparted(f"{flight['carrier']} {flight['flight']}")
        figures: Figures = event["state"] or Figures(departed={}, minutes={})
        for flight in batch:
            add(figures, flight)
            if is_long(flight):
                await engine.invoke_async("alert", flight)
        board.covered.update(flight["id"] for flight in batch)
        if batch:
            age = time.time() - event["Records"][-1]["kinesis"]["approximateArrivalTimestamp"]
            board.iterator_age = max(board.iterator_age, age)
        if event["isFinalInvokeForWindow"]:
            board.windows[event["shardId"], event["window"]["start"]] += 1
            merge(board.total, figures)
        return {"state": figures}

    mapping = engine.map(
        departures,
        delays,
        batch_size=BATCH_SIZE,
        tumbling_window_seconds=WINDOW_SECONDS,
        bisect_batch_on_function_error=True,  # halve until the poison stands alone …
        maximum_retry_attempts=0,  # … then don't try it again …
        on_failure=rebook,  # … but hand it over, with the record itself
    )

    # ---- queue: rebook the passengers of what never departed

    @engine.on(rebook, batch_size=10, report_batch_item_failures=True, timeout_seconds=1)
    async def rebooking(event: dict[str, Any], context: object) -> dict[str, Any]:
        failed = []
        for message in event["Records"]:
            stranded = [flight["id"] for flight in reported(message["body"])]
            if fails(REBOOKING_FAILS, seed, stranded, message["attributes"]["ApproximateReceiveCount"]):
                board.failed_attempts["rebooking"] += 1
                failed.append(message)
            else:
                board.rebooked.update(stranded)
        # The visibility is six times the time limit, as AWS advises, so a machine may stall: what failed needn't wait.
        await rebook.change_visibility([message["receiptHandle"] for message in failed], REBOOK_AGAIN_SECONDS)
        return {"batchItemFailures": [{"itemIdentifier": message["messageId"]} for message in failed]}

    @engine.on(rebook_dead, batch_size=10)
    def refund(event: dict[str, Any], context: object) -> None:  # a plain function: on a thread, as it may block
        for message in event["Records"]:
            board.given_up.update(flight["id"] for flight in reported(message["body"]))

    # ---- async: tell somebody about long delays

    tries: Counter[str] = Counter()

    @engine.function(
        timeout_seconds=3,
        maximum_retry_attempts=2,
        maximum_event_age_seconds=60,
        on_success=alerts_sent,
        dead_letter_queue=alerts_lost,
    )
    async def alert(flight: Flight, context: Any) -> dict[str, int]:
        tries[context.aws_request_id] += 1
        if fails(ALERT_FAILS, seed, flight["id"], tries[context.aws_request_id]):
            board.failed_attempts["alert"] += 1
            raise ConnectionError("the pager does not answer")
        board.alerted[flight["id"]] += 1
        return {"alerted": flight["id"]}

    @engine.on(alerts_sent, batch_size=10)
    async def confirm(event: dict[str, Any], context: object) -> None:
        board.confirmed.update(json.loads(each["body"])["responsePayload"]["alerted"] for each in event["Records"])

    @engine.on(alerts_lost, batch_size=10)
    async def telephone(event: dict[str, Any], context: object) -> None:
        board.unheard.update(json.loads(each["body"])["id"] for each in event["Records"])

    # ---- sync: what does an airport look like right now?

    @engine.function
    async def airport(event: dict[str, str], context: object) -> dict[str, int]:
        origin = event["origin"]
        return {"departed": board.total["departed"].get(origin, 0), "minutes": board.total["minutes"].get(origin, 0)}

    return Flights(engine, departures, mapping, board)


def decoded(record: dict[str, Any]) -> Flight:
    """A record of the stream, as Kinesis shows it to a function."""
    flight: Flight = json.loads(b64decode(record["kinesis"]["data"]))
    return flight


def is_long(flight: Flight) -> bool:
    """Is this a delay that somebody must hear about?"""
    return flight["delay"] is not None and flight["delay"] > LONG_DELAY_MINUTES


def add(figures: Figures, flight: Flight) -> None:
    """Count one departure for its airline and its airport."""
    for group in (flight["carrier"], flight["origin"]):
        figures["departed"][group] = figures["departed"].get(group, 0) + 1
        figures["minutes"][group] = figures["minutes"].get(group, 0) + (flight["delay"] or 0)


def merge(total: Figures, window: Figures) -> None:
    """Add a window that is closed to the total."""
    kinds: tuple[Literal["departed", "minutes"], ...] = ("departed", "minutes")
    for kind in kinds:
        for group, amount in window[kind].items():
            total[kind][group] = total[kind].get(group, 0) + amount


def reported(body: str) -> Iterable[Flight]:
    """The flights in a stream's on-failure record: its `payload` is the event that was given up, as JSON text."""
    event = json.loads(json.loads(body)["payload"])
    return [decoded(record) for record in event["Records"]]


def fails(rate: float, *what: object) -> bool:
    """Chance, but the same in every run: it depends on the seed, the item and the number of the try."""
    return random.Random(repr(what)).random() < rate
