"""Invocation records, and their way to where results go.

Decides, purely and on top, how AWS shapes a record (Lambda developer guide, «Capturing records of asynchronous
invocations» and «Retaining discarded batches»); below, which destinations one report goes to and for how long a
destination that is away is tried again. *That* there is a report, and its condition, was decided in `semantics/`; what
follows once a destination refused is the loops' to settle. File and HTTP destinations are in `outbound.py`.

A record is made once and sent unchanged until it is delivered, so whoever gets it twice can tell by its requestId.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from lambent.arns import function_arn, without_password
from lambent.errors import EngineStopped, LambentError, LimitExceeded, StoreUnavailable
from lambent.model import (
    LATEST,
    MAXIMUM_ASYNC_PAYLOAD_BYTES,
    MAXIMUM_RECORD_BYTES,
    Delivered,
    Delivery,
    Failed,
    Function,
    MessageAttribute,
    Outcome,
    Put,
    Record,
    Refused,
    ReportBatch,
    ReportEvent,
    Send,
    StreamMapping,
    Succeeded,
    Unavailable,
)
from lambent.payload import decode_payload
from lambent.ports import RecordDestination
from lambent.semantics import backoff
from lambent.semantics.kafka import KafkaRecord
from lambent.semantics.kafka import batch_info as kafka_batch_info
from lambent.semantics.kafka import destination as kafka_destination
from lambent.semantics.shapes import iso_milliseconds
from lambent.telemetry import (
    ASYNC_EVENTS_DROPPED,
    DEAD_LETTER_ERRORS,
    DESTINATION_DELIVERY_FAILURES,
    ON_FAILURE_DESTINATION_DELIVERED_EVENT_COUNT,
    Telemetry,
)

if TYPE_CHECKING:
    from lambent.ports import Destination, QueueTarget, StreamSource, StreamTarget, World
from lambent.semantics.routing import event_invoke

DESTINATION_RETRY_SECONDS: Final = 300.0  # how long one report is tried before it counts as refused
DELIVERY_SECONDS: Final = 60.0  # how long one try may take
MAXIMUM_ERROR_MESSAGE_BYTES: Final = 1024  # AWS: the first 1 KB of the error message

# --------------------------------------------------------------------------- records (pure)


def event_record(report: ReportEvent, arn: str, now: float) -> bytes:
    """The record of an asynchronous event that ended. `arn` is the function's, always with its qualifier; `now` is in
    epoch seconds. Without an outcome (expired, never admitted) the record has no response."""
    event = report.event
    members = {
        "version": '"1.0"',
        "timestamp": json.dumps(iso_milliseconds(now)),
        "requestContext": _request_context(event.request_id, arn, report.condition, event.attempts),
        "requestPayload": embedded(event.payload or b"{}"),
    }
    context = _response_context(report.outcome)
    if context is not None:
        members["responseContext"] = context
        members["responsePayload"] = embedded(_response(report.outcome))
    return _object(members)


def batch_record(
    report: ReportBatch, *, request_id: str, arn: str, info: Mapping[str, object], now: float, payload: str | None
) -> bytes:
    """The record of stream records that were given up. `arn` is the mapping's function; `info` says of which records,
    under the name that their kind of source has; `payload` is the event's JSON, carried as one string as AWS does for
    S3. Without an outcome, and for records that expired, there is no response."""
    members = {
        "requestContext": _request_context(request_id, arn, report.condition, max(report.attempts, 1)),
    }
    expired = report.condition == "RecordAgeExceeded"
    context = None if expired else _response_context(report.outcome, functionError=None)
    if context is not None:
        members["responseContext"] = context
    members["version"] = '"1.0"'
    members["timestamp"] = json.dumps(iso_milliseconds(now))
    members |= {name: json.dumps(about, separators=(",", ":")) for name, about in info.items()}
    if payload is not None:
        members["payload"] = json.dumps(payload)
    return _object(members)


def dead_letter_attributes(report: ReportEvent) -> dict[str, str]:
    """What goes with an event into a dead-letter queue (whose message is the event itself). An event that failed has
    status 200, for Lambda did answer; one that was never admitted has the throttle's 429."""
    attributes = {"RequestID": report.event.request_id, "ErrorCode": "200"}
    message: object = None
    if isinstance(report.outcome, Failed):
        message = report.outcome.document.get("errorMessage")
    elif report.condition == "ZeroReservedConcurrency":
        attributes["ErrorCode"] = "429"
        message = "Rate Exceeded."
    if message:  # SQS refuses an attribute without a value
        text = message if isinstance(message, str) else embedded(message)
        cut = text.encode("utf-8", "replace")[:MAXIMUM_ERROR_MESSAGE_BYTES]
        attributes["ErrorMessage"] = cut.decode("utf-8", "ignore")
    return attributes


def embedded(value: object) -> str:
    """`value` as JSON text that may stand inside a record. Bytes that are JSON stay as they are, to the last digit;
    other bytes become a string. What has no JSON (only `boundary="reference"` lets it through) becomes its type's
    name. Raises nothing."""
    if isinstance(value, bytes):
        try:
            decode_payload(value)
            return value.decode()
        except ValueError:
            return json.dumps(value.decode("utf-8", "replace"))
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_type_name)
    except Exception:  # noqa: BLE001  a value of the user's may raise anything
        return json.dumps(_type_name(value))


def _type_name(value: object) -> str:
    return f"<{type(value).__name__}>"


def _object(members: Mapping[str, str]) -> bytes:
    text = ",".join(f'"{name}":{value}' for name, value in members.items())
    return f"{{{text}}}".encode()


def _request_context(request_id: str, arn: str, condition: str, invoke_count: int) -> str:
    context = {
        "requestId": request_id,
        "functionArn": arn,
        "condition": condition,
        "approximateInvokeCount": invoke_count,
    }
    return json.dumps(context, separators=(",", ":"))


def _response_context(outcome: Outcome | None, **returned: None) -> str | None:
    """None: no try was completed. `returned` is what stands there for an outcome that is no error."""
    match outcome:
        case Succeeded():
            error: dict[str, str] | dict[str, None] = returned
        case Failed():
            error = {"functionError": outcome.function_error}
        case _:
            return None
    return json.dumps({"statusCode": 200, "executedVersion": outcome.executed_version, **error}, separators=(",", ":"))


def _response(outcome: Outcome | None) -> object:
    match outcome:
        case Succeeded():
            return outcome.payload if outcome.by_reference else outcome.payload or b"null"
        case Failed():
            return outcome.document
        case _:
            return None


def _batch_info(
    records: Sequence[Record], shard: str, stream_arn: str, event: Mapping[str, object], payload: str
) -> dict[str, object]:
    of_kafka = [record for record in records if isinstance(record, KafkaRecord)]
    if of_kafka:
        return {"KafkaBatchInfo": kafka_batch_info(event, of_kafka, len(payload.encode()))}
    return {"KinesisBatchInfo": _kinesis_batch_info(records, shard, stream_arn)}


def _kinesis_batch_info(records: Sequence[Record], shard: str, stream_arn: str) -> dict[str, object]:
    first, last = (records[0], records[-1]) if records else (None, None)  # a window's last call may have no records
    return {
        "shardId": shard,
        "startSequenceNumber": first and first.position,
        "endSequenceNumber": last and last.position,
        "approximateArrivalOfFirstRecord": first and iso_milliseconds(first.arrived_at),
        "approximateArrivalOfLastRecord": last and iso_milliseconds(last.arrived_at),
        "batchSize": len(records),
        "streamArn": stream_arn,
    }


# --------------------------------------------------------------------------- reports


@dataclass(frozen=True, slots=True)
class _Parcel:
    """One record on its way to the destination that `ref` names. `failures` is the metric of its failed tries."""

    ref: str
    record: bytes
    failures: str
    hops: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    smaller: bytes | None = None  # goes instead where `record` is too large
    records: Sequence[Record] = ()  # go instead where the destination takes records as they were


class Destinations:
    """Sends reports. `resolve` gives the destination that a configured reference names; it may raise a LambentError."""

    def __init__(self, *, resolve: Callable[[str], Destination], telemetry: Telemetry, world: World) -> None:
        self._resolve = resolve
        self._telemetry = telemetry
        self._world = world

    async def report_event(self, report: ReportEvent, function: Function) -> Delivered | Refused:
        """Tell how an asynchronous event ended: on_success or on_failure gets the record, the dead-letter queue a
        failed event itself. Tries for DESTINATION_RETRY_SECONDS; Refused: given up (by one of the two, if both)."""
        event, failed = report.event, report.condition != "Success"
        config = event_invoke(function, event.qualifier)
        parcels = []
        if ref := config.on_failure if failed else config.on_success:
            arn = self._function_arn(event.function, event.qualifier or LATEST)
            record = event_record(report, arn, self._world.clock.now())
            parcels.append(_Parcel(ref, record, DESTINATION_DELIVERY_FAILURES, event.hops + 1))
        if failed and function.dead_letter_queue:
            attributes = dead_letter_attributes(report)
            parcel = _Parcel(
                function.dead_letter_queue, event.payload or b"{}", DEAD_LETTER_ERRORS, event.hops + 1, attributes
            )
            parcels.append(parcel)
        answer = await self._deliver(parcels, function.name)
        if failed:
            self._telemetry.count(ASYNC_EVENTS_DROPPED, function.name)
        return answer

    async def report_batch(
        self, report: ReportBatch, *, mapping: StreamMapping, mapping_id: str, shard: str, source: StreamSource
    ) -> Delivered | Refused:
        """Tell the mapping's on-failure destination of records that were given up, with the event as the function saw
        it, or without where that is too large for the destination. Otherwise as `report_event`."""
        if mapping.on_failure is None:
            return Delivered()
        records, event = report.records, source.to_event(shard, report.records)
        payload = embedded(event)
        record_of = partial(
            batch_record,
            report,
            request_id=_batch_request_id(mapping_id, shard, records),
            arn=self._function_arn(mapping.function, mapping.called_qualifier),
            info=_batch_info(records, shard, source.arn, event, payload),
            now=self._world.clock.now(),
        )
        parcel = _Parcel(
            kafka_destination(mapping.source, mapping.on_failure),
            record_of(payload=payload),
            DESTINATION_DELIVERY_FAILURES,
            max((record.hops for record in records), default=0) + 1,
            smaller=record_of(payload=None),
            records=records,
        )
        answer = await self._deliver([parcel], mapping_id)
        if isinstance(answer, Delivered):
            self._telemetry.count(ON_FAILURE_DESTINATION_DELIVERED_EVENT_COUNT, mapping_id, len(records))
        return answer

    def _function_arn(self, name: str, qualifier: str | None) -> str:
        return function_arn(self._world.region, self._world.account_id, name, qualifier)

    async def _deliver(self, parcels: Sequence[_Parcel], subject: str) -> Delivered | Refused:
        """Try all until none is away any more, or for too long."""
        clock = self._world.clock
        deadline = clock.monotonic() + DESTINATION_RETRY_SECONDS
        refusals: list[str] = []
        attempt = 0
        while parcels:
            attempt += 1
            began = clock.monotonic()
            answers = [(parcel, await self._try(parcel, deadline)) for parcel in parcels]
            stood_still = clock.monotonic() - began - DELIVERY_SECONDS * len(parcels)
            deadline += max(0.0, stood_still)  # this process did, and no destination was away
            delay = backoff.destination(attempt, self._world.random())
            last = clock.monotonic() + delay > deadline
            parcels = []
            for parcel, answer in answers:
                if isinstance(answer, Delivered):
                    continue
                self._telemetry.count(parcel.failures, subject)
                if isinstance(answer, Unavailable) and not last:
                    parcels.append(parcel)
                    continue
                to, reason = without_password(parcel.ref), answer.reason
                refusals.append(f"{to}: {reason}")
                self._telemetry.log(
                    "error", "a result was not delivered", subject=subject, destination=to, reason=reason
                )
            if parcels:
                await asyncio.sleep(delay)
        return Refused("; ".join(refusals)) if refusals else Delivered()

    async def _try(self, parcel: _Parcel, deadline: float) -> Delivery:
        seconds = min(DELIVERY_SECONDS, max(deadline - self._world.clock.monotonic(), 1.0))
        try:
            destination = self._resolve(parcel.ref)
            record, limit = parcel.record, destination.maximum_record_bytes
            if parcel.smaller is not None and limit is not None and len(record) > limit:
                record = parcel.smaller
            async with asyncio.timeout(seconds):
                if parcel.records and parcel.smaller is not None and isinstance(destination, RecordDestination):
                    return await destination.deliver_records(parcel.records, parcel.smaller, parcel.hops)
                return await destination.deliver(record, parcel.attributes, parcel.hops)
        except (StoreUnavailable, EngineStopped, LimitExceeded) as error:
            return Unavailable(error.message)
        except LambentError as error:
            return Refused(error.message)
        except TimeoutError:
            return Unavailable(f"no answer within {seconds:.0f} seconds")
        except Exception as error:  # noqa: BLE001  a destination may be a third party's: its bug must not end the loop
            return Unavailable(f"{type(error).__name__}: {error}")


def _batch_request_id(mapping_id: str, shard: str, records: Sequence[Record]) -> str:
    """The same for the same records, so that a report repeated after a crash can be told by it."""
    first, last = (records[0].position, records[-1].position) if records else ("", "")
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join((mapping_id, shard, first, last))))


# --------------------------------------------------------------------------- built-in destinations


class QueueDestination:
    """A queue: the record is the body; a dead-letter event's attributes are message attributes (ErrorCode a Number)."""

    maximum_record_bytes: Final = MAXIMUM_RECORD_BYTES

    def __init__(self, target: QueueTarget) -> None:
        self._target = target

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        size = len(record) + sum(len(name) + len(value.encode()) + 6 for name, value in attributes.items())
        if size > self.maximum_record_bytes:
            return _too_large(size, self.maximum_record_bytes)
        typed = {
            name: MessageAttribute(value, "Number" if name == "ErrorCode" else "String")
            for name, value in attributes.items()
        }
        await self._target.send_many([Send(record.decode("utf-8", "replace"), attributes=typed, hops=hops)])
        return Delivered()


class StreamDestination:
    """A stream: the record is the data, its requestId the key."""

    maximum_record_bytes: Final = MAXIMUM_RECORD_BYTES

    def __init__(self, target: StreamTarget) -> None:
        self._target = target

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        if len(record) > self.maximum_record_bytes:
            return _too_large(len(record), self.maximum_record_bytes)
        await self._target.put_many([Put(record, attributes.get("RequestID") or _request_id(record), hops)])
        return Delivered()


class FunctionDestination:
    """Another function, invoked asynchronously with the record. `enqueue(payload, hops)` stores the event durably; it
    raises StoreUnavailable if it can't now, any other LambentError if it never will."""

    maximum_record_bytes: Final = MAXIMUM_ASYNC_PAYLOAD_BYTES

    def __init__(self, enqueue: Callable[[bytes, int], Awaitable[object]]) -> None:
        self._enqueue = enqueue

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        if len(record) > self.maximum_record_bytes:
            return _too_large(len(record), self.maximum_record_bytes)
        await self._enqueue(record, hops)
        return Delivered()


def _too_large(size: int, limit: int) -> Refused:
    return Refused(f"the record has {size} bytes, more than the destination's {limit}")


def _request_id(record: bytes) -> str:
    """Out of an invocation record, where it stands before anything that a user wrote."""
    found = re.search(rb'"requestId":"([^"]{1,128})"', record[:1024])
    return found[1].decode("ascii", "replace") if found else "-"
