"""Putting records into a topic, and the topic as a destination: idempotent, and durable with all replicas in sync.

Decides which headers a record gets, and what an error of Kafka's client means: never, or not now. Leaves the partition
to Kafka's own partitioner, which all its clients share: a key stays in its partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTopicError, KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from lambent.errors import InvalidParameterValue, RequestTooLarge, StoreUnavailable
from lambent.model import Delivered, Delivery, Put, Record, Refused
from lambent.semantics import kafka
from lambent_pollers.kafka_client import begun
from lambent_pollers.kafka_url import KafkaUrl

MAXIMUM_REQUEST_BYTES: Final = 1024 * 1024  # the broker's own limit by default (message.max.bytes)
MAXIMUM_RECORD_BYTES: Final = MAXIMUM_REQUEST_BYTES - 1024  # key, value and headers
FAILURE_HEADER: Final = "lambent-failure"  # of a record that was given up: its invocation record, without it
POSITION_HEADER: Final = "lambent-position"  # the same: where it was

_Headers = list[tuple[str, bytes]]
_Record = tuple[bytes | None, bytes | None, _Headers]  # key, value


class KafkaProducer:
    """A producer for the one topic of a URL. Opens its connection with the first record."""

    def __init__(self, url: KafkaUrl) -> None:
        if len(url.topics) != 1:
            raise InvalidParameterValue(f"{url}: what is put goes into one topic; name only that")
        [self._topic] = url.topics
        self._url = url
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()

    async def put_many(self, puts: Sequence[Put]) -> Sequence[str]:
        """Raises RequestTooLarge, StoreUnavailable; then some may be stored."""
        return await self.send_many([_put(each) for each in puts])

    async def send_many(self, records: Sequence[_Record]) -> Sequence[str]:
        for record in records:
            if (size := _size(record)) > MAXIMUM_RECORD_BYTES:
                raise RequestTooLarge(f"{self._url}: a record has {size} bytes; {MAXIMUM_RECORD_BYTES} are the most")
        try:
            async with asyncio.timeout(self._url.seconds["timeout"] * 2):
                producer = await self._opened()
                sent = [
                    await producer.send(self._topic, value, key=key, headers=headers) for key, value, headers in records
                ]
                stored = await asyncio.gather(*sent)
        except MessageSizeTooLargeError as error:
            raise RequestTooLarge(f"{self._url}: {error}") from error
        except (InvalidTopicError, TopicAuthorizationFailedError) as error:
            raise InvalidParameterValue(f"{self._url}: {error!r}") from error
        except TimeoutError:
            raise StoreUnavailable(f"{self._url}: not known to be stored within the time") from None
        except (KafkaError, OSError) as error:
            raise StoreUnavailable(f"{self._url}: {error!r}") from error
        return [kafka.position(kafka.shard_id(self._topic, each.partition), each.offset) for each in stored]

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _opened(self) -> AIOKafkaProducer:
        async with self._opening:
            if self._producer is None:
                compression = self._url.options["compression"]
                options: dict[str, Any] = {
                    **self._url.client(),
                    "acks": "all",
                    "enable_idempotence": True,
                    "linger_ms": 0,  # company comes anyway, while a request is under way; waiting for it only costs
                    "max_request_size": MAXIMUM_REQUEST_BYTES,
                    "compression_type": None if compression == "none" else compression,
                }
                self._producer = await begun(AIOKafkaProducer(**options))
            return self._producer


class KafkaDestination:
    """A topic as a destination. Of a stream's batch it gets the records themselves, with the invocation record in a
    header; of anything else the invocation record, with its attributes in headers. AWS sends both in one JSON document
    (Lambda developer guide, «Using a Kafka topic as an on-failure destination»); with ours a record can be read again
    as it was."""

    maximum_record_bytes: Final = MAXIMUM_RECORD_BYTES - 4096  # for its headers

    def __init__(self, url: KafkaUrl) -> None:
        self._producer = KafkaProducer(url)

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        if len(record) > self.maximum_record_bytes:
            return Refused(f"the record has {len(record)} bytes, more than a topic's {self.maximum_record_bytes}")
        headers = [(name, value.encode()) for name, value in attributes.items()]
        return await self._send([(attributes.get("RequestID", "").encode() or None, record, headers + _hops(hops))])

    async def deliver_records(self, records: Sequence[Record], about: bytes, hops: int) -> Delivery:
        return await self._send([_as_it_was(record, about, hops) for record in records])

    async def close(self) -> None:
        await self._producer.close()

    async def _send(self, records: Sequence[_Record]) -> Delivery:
        """Raises LambentError, which says whether it may be tried again."""
        await self._producer.send_many(records)
        return Delivered()


def _put(put: Put) -> _Record:
    if isinstance(put, kafka.KafkaPut):
        value = None if put.valueless and not put.data else put.data
        return put.raw_key, value, [*put.headers, *_hops(put.hops)]
    return put.key.encode() or None, put.data, _hops(put.hops)


def _as_it_was(record: Record, about: bytes, hops: int) -> _Record:
    told = [(FAILURE_HEADER, about), (POSITION_HEADER, record.position.encode()), *_hops(hops)]
    raw = record.raw if isinstance(record, kafka.KafkaRecord) else None
    if raw is None:
        return _fitting(record.key.encode() or None, record.data, told)
    ours = (FAILURE_HEADER, POSITION_HEADER, kafka.HOPS_HEADER)
    own = [(name, value or b"") for name, value in raw.headers if name not in ours]
    return _fitting(raw.key, raw.value, [*own, *told])


def _fitting(key: bytes | None, value: bytes | None, headers: _Headers) -> _Record:
    """What failed goes first: without what is told of it, if need be."""
    if _size((key, value, headers)) > MAXIMUM_RECORD_BYTES:
        headers = [(name, told) for name, told in headers if name != FAILURE_HEADER]
    return key, value, headers


def _size(record: _Record) -> int:
    key, value, headers = record
    return len(key or b"") + len(value or b"") + sum([len(name) + len(told) for name, told in headers])


def _hops(hops: int) -> _Headers:
    return [(kafka.HOPS_HEADER, str(hops).encode())] if hops else []
