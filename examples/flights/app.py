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
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

from pydantic_core import from_json

from examples.flights.board import Board, Told
from examples.flights.data import LONG_DELAY_MINUTES, Flight
from lambent import Engine, MappingHandle, StreamHandle

WINDOW_SECONDS = 1
BATCH_SIZE = 64
SHARDS = 8
REBOOKING_FAILS = 0.15  # of the tries
REBOOK_AGAIN_SECONDS = 1
ALERT_FAILS = 0.25  # of the tries


class Figures(TypedDict):
    """A window's state: departures and minutes of delay by airline ('UA') and airport ('JFK'), from which record on."""

    first_record: str
    departed: dict[str, int]
    minutes: dict[str, int]


NO_FIGURES = Figures(first_record="", departed={}, minutes={})


@dataclass(frozen=True, slots=True)
class Flights:
    """The engine with everything declared on it, not yet started."""

    engine: Engine
    departures: StreamHandle
    mapping: MappingHandle
    board: Board


class Arrived(NamedTuple):
    """A record of the stream: what names it, the flight, when it was put (epoch seconds), and what a function's answer
    calls it."""

    record: str
    flight: Flight
    at: float
    identifier: object

    @property
    def told(self) -> Told:
        return self.record, self.flight


def flights(board: Board, store: str | None = None, seed: int = 2013, departures_in: str = "departures") -> Flights:
    """Declares the application. `seed` decides which tries of rebooking and alerting fail; the departures are in a
    stream of the store, or in a topic of Kafka if a URL says so."""
    engine = Engine(store, async_retry_delays_seconds=(0.5, 1.0))  # AWS waits 60 s and 120 s; nobody wants to see that
    elsewhere = "://" in departures_in
    departures = engine.stream(departures_in) if elsewhere else engine.stream(departures_in, shards=SHARDS)
    rebook = engine.queue("rebook", visibility_timeout_seconds=7, max_receive_count=3, dead_letter_queue="rebook-dead")
    rebook_dead = engine.queue("rebook-dead")
    alerts_sent = engine.queue("alerts-sent")
    alerts_lost = engine.queue("alerts-lost")

    # ---- stream: add up what departs; a flight that never departed is poison

    @engine.function(timeout_seconds=10, boundary="reference")  # a third of its time would go into JSON
    async def delays(event: dict[str, Any], context: object) -> dict[str, Any]:
        batch, failed = [], []
        records = arrived(event)
        for record in records:
            if record.flight["delay"] is None:  # it never departed: nothing can be added up
                board.failed("delays")
                if len(records) == 1:
                    board.settle("poison", "isolated", [record.flight["id"]])
                failed.append(record.identifier)
                break  # what follows comes again
            batch.append(record.told)
        figures = continued(event["state"] or NO_FIGURES)
        age = time.time() - records[-1].at if batch else 0.0
        for number, flight in board.departed(batch, age):  # without those that other records told
            figures["first_record"] = figures["first_record"] or number
            add(figures, flight)
            if is_long(flight):
                await engine.invoke_async("alert", flight)
        if event["isFinalInvokeForWindow"] and not failed and figures["first_record"]:
            board.closed(**figures)
        return {"state": figures, "batchItemFailures": [{"itemIdentifier": identifier} for identifier in failed]}

    mapping = engine.map(
        departures,
        delays,
        batch_size=BATCH_SIZE,
        tumbling_window_seconds=WINDOW_SECONDS,
        report_batch_item_failures=True,  # what came before the poison is done …
        bisect_batch_on_function_error=True,  # … what it begins is halved until it stands alone …
        maximum_retry_attempts=0,  # … then it isn't tried again …
        on_failure=rebook,  # … but hand it over, with the record itself
    )

    # ---- queue: rebook the passengers of what never departed

    async def stranded(event: dict[str, Any]) -> list[tuple[dict[str, Any], Flight]]:
        """The messages, each with its flight. One that departed is not among them: it was alone in its batch when the
        process was killed, which used up its only attempt. It goes back into the stream."""
        found = []
        for message in event["Records"]:
            number, flight = reported(message["body"])
            if flight["delay"] is None:
                found.append((message, flight))
            else:
                board.forget(number, flight)
                await departures.put(flight, key=key(flight))
        return found

    @engine.on(
        rebook, batch_size=10, maximum_batching_window_seconds=0.5, report_batch_item_failures=True, timeout_seconds=1
    )
    async def rebooking(event: dict[str, Any], context: object) -> dict[str, Any]:
        rebooked, failed = [], []
        for message, flight in await stranded(event):
            if fails(REBOOKING_FAILS, seed, flight["id"], message["attributes"]["ApproximateReceiveCount"]):
                failed.append(message)
            else:
                rebooked.append(flight["id"])
        # The visibility is six times the time limit and the window, as AWS advises. What failed needn't wait for it.
        await rebook.change_visibility([message["receiptHandle"] for message in failed], REBOOK_AGAIN_SECONDS)
        board.failed("rebooking", len(failed))
        board.settle("rebooking", "rebooked", rebooked)  # last: if the time is up before, nothing was rebooked
        return {"batchItemFailures": [{"itemIdentifier": message["messageId"]} for message in failed]}

    @engine.on(rebook_dead, batch_size=10)
    async def refund(event: dict[str, Any], context: object) -> None:
        board.settle("rebooking", "given up", [flight["id"] for _, flight in await stranded(event)])

    # ---- async: tell somebody about long delays

    tries: Counter[str] = Counter()

    @engine.function(
        timeout_seconds=5,
        maximum_retry_attempts=2,
        maximum_event_age_seconds=60,
        on_success=alerts_sent,
        dead_letter_queue=alerts_lost,
    )
    async def alert(flight: Flight, context: Any) -> dict[str, int]:
        tries[context.aws_request_id] += 1
        if fails(ALERT_FAILS, seed, flight["id"], tries[context.aws_request_id]):
            board.failed("alert")
            raise ConnectionError("the pager does not answer")
        board.settle("alert", "alerted", [flight["id"]])
        return {"alerted": flight["id"]}

    @engine.on(alerts_sent, batch_size=10)
    async def confirm(event: dict[str, Any], context: object) -> None:
        confirmed = [json.loads(each["body"])["responsePayload"]["alerted"] for each in event["Records"]]
        board.settle("answer", "confirmed", confirmed)

    @engine.on(alerts_lost, batch_size=10)
    def telephone(event: dict[str, Any], context: object) -> None:  # a plain function: on a thread, as it may block
        unheard = [json.loads(each["body"])["id"] for each in event["Records"]]
        board.settle("alert", "unheard", unheard)
        board.settle("answer", "telephoned", unheard)

    # ---- sync: what does an airport look like right now?

    @engine.function
    async def airport(event: dict[str, str], context: object) -> dict[str, int]:
        departed, minutes = board.total(event["origin"])
        return {"departed": departed, "minutes": minutes}

    return Flights(engine, departures, mapping, board)


def arrived(event: dict[str, Any]) -> list[Arrived]:
    """The records of an event: those of a stream as Kinesis shows them, those of a topic as Kafka does."""
    found = []
    for record in event.get("Records", ()):
        shown = record["kinesis"]
        number, flight = shown["sequenceNumber"], from_json(b64decode(shown["data"]))  # thrice as fast as json.loads
        found.append(Arrived(number, flight, shown["approximateArrivalTimestamp"], number))
    for partition, records in event.get("records", {}).items():
        for record in records:
            offset, flight = record["offset"], from_json(b64decode(record["value"]))
            identifier = {"partition": partition, "offset": offset}
            found.append(Arrived(f"{partition}@{offset}", flight, record["timestamp"] / 1000, identifier))
    return found


def continued(figures: Figures) -> Figures:
    """To add to. The event's own figures stay as they are: by reference, the next try is handed the same."""
    return Figures(
        first_record=figures["first_record"], departed={**figures["departed"]}, minutes={**figures["minutes"]}
    )


def key(flight: Flight) -> str:
    """A plane's departures keep their order. A flight that nobody found a plane for is its own."""
    return flight["tailnum"] if flight["tailnum"] != "NA" else f"{flight['carrier']} {flight['flight']}"


def is_long(flight: Flight) -> bool:
    """Is this a delay that somebody must hear about?"""
    return flight["delay"] is not None and flight["delay"] > LONG_DELAY_MINUTES


def add(figures: Figures, flight: Flight) -> None:
    """Count one departure for its airline and its airport."""
    for group in (flight["carrier"], flight["origin"]):
        figures["departed"][group] = figures["departed"].get(group, 0) + 1
        figures["minutes"][group] = figures["minutes"].get(group, 0) + (flight["delay"] or 0)


def reported(body: str) -> Told:
    """What a stream's on-failure record is about: its `payload` is the event that was given up, as JSON text. Batches
    are halved, so it is one record."""
    (record,) = arrived(json.loads(json.loads(body)["payload"]))
    return record.told


def fails(rate: float, *what: object) -> bool:
    """Chance, but the same in every run: it depends on the seed, the item and the number of the try."""
    return random.Random(repr(what)).random() < rate
