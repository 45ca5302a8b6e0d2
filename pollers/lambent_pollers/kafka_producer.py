"""Putting records into a topic, and the topic as a destination: idempotent, and durable with all replicas in sync.

Decides which headers a record gets, and what an error of Kafka's client means: never, or not now. Leaves the partition
to Kafka's own partitioner, which all its clients share: a key stays in its partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from lambent.errors import InvalidParameterValue, RequestTooLarge, StoreUnavailable
from lambent.model import Delivered, Delivery, Put, Record
from lambent.semantics import kafka
from lambent_pollers.kafka_url import KafkaUrl

LINGER_MS: Final = 2  # how long a record waits for company
MAXIMUM_REQUEST_BYTES: Final = 1024 * 1024  # the broker's own limit by default (message.max.bytes)
MAXIMUM_RECORD_BYTES: Final = MAXIMUM_REQUEST_BYTES - 16 * 1024  # key, value and headers

_Headers = list[tuple[str, bytes]]


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
        return await self.send_many([(put.key.encode() or None, put.data, _hops(put.hops)) for put in puts])

    async def send_many(self, records: Sequence[tuple[bytes | None, bytes | None, _Headers]]) -> Sequence[str]:
        for key, value, headers in records:
            size = sum(map(len, (key or b"", value or b"", *(name for name, _ in headers), *(v for _, v in headers))))
            if size > MAXIMUM_RECORD_BYTES:
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
                    "linger_ms": LINGER_MS,
                    "max_request_size": MAXIMUM_REQUEST_BYTES,
                    "compression_type": None if compression == "none" else compression,
                }
                producer = AIOKafkaProducer(**options)
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer


class KafkaDestination:
    """A topic as a destination. Of a stream's batch it gets the records themselves, with what is known of their failure
    in headers (Lambda developer guide, «Using a Kafka topic as an on-failure destination»); of anything else the
    invocation record, its attributes in headers."""

    maximum_record_bytes: Final = MAXIMUM_RECORD_BYTES

    def __init__(self, url: KafkaUrl) -> None:
        self._producer = KafkaProducer(url)

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        headers = [(name, value.encode()) for name, value in attributes.items()]
        return await self._send([(attributes.get("RequestID", "").encode() or None, record, headers + _hops(hops))])

    async def deliver_records(self, records: Sequence[Record], about: Mapping[str, str], hops: int) -> Delivery:
        told = [(f"lambent-{name}", value.encode()) for name, value in about.items()]
        return await self._send([_as_it_was(record, told, hops) for record in records])

    async def close(self) -> None:
        await self._producer.close()

    async def _send(self, records: Sequence[tuple[bytes | None, bytes | None, _Headers]]) -> Delivery:
        """Raises LambentError, which says whether it may be tried again."""
        await self._producer.send_many(records)
        return Delivered()


def _as_it_was(record: Record, told: _Headers, hops: int) -> tuple[bytes | None, bytes | None, _Headers]:
    where = [("lambent-position", record.position.encode())]
    raw = record.raw if isinstance(record, kafka.KafkaRecord) else None
    if raw is None:
        return record.key.encode() or None, record.data, [*told, *where, *_hops(hops)]
    own = [(name, value or b"") for name, value in raw.headers if name != kafka.HOPS_HEADER]
    return raw.key, raw.value, [*own, *told, *where, *_hops(hops)]


def _hops(hops: int) -> _Headers:
    return [(kafka.HOPS_HEADER, str(hops).encode())] if hops else []
