"""A client of Kafka whose start is cut off leaves nothing open, whenever that was. On a real broker."""

from __future__ import annotations

import asyncio
import gc
from itertools import count

import pytest
from aiokafka import AIOKafkaConsumer

from lambent_pollers.kafka_client import begun
from tests.servers.kafka import KafkaProcess


async def test_a_start_that_is_cancelled_leaves_no_connection_open(kafka_process: KafkaProcess) -> None:
    """An open one would be a ResourceWarning, and so an error."""
    for moments in count(1, 7):
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka_process.address)
        starting = asyncio.create_task(begun(consumer))
        for _ in range(moments):
            await asyncio.sleep(0)
        if starting.done():
            await consumer.stop()
            break
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        del consumer, starting
        gc.collect()
    assert moments > 1
