"""Departures go through Kafka; three engines share a Redis. One is killed -9, one is stopped and continued, and the
accounts stay exact."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from examples.flights.app import SHARDS
from tests.fleet.flights import Found, fleet
from tests.servers import kafka_topics, redis
from tests.servers.kafka import KafkaProcess


def flights(broker: KafkaProcess, topic: str, directory: Path, **options: float | None) -> Found:
    async def fly() -> Found:
        await kafka_topics.create(broker.address, topic, partitions=SHARDS)
        source = f"kafka://{broker.address}/{topic}?session_timeout=3&rebalance_timeout=10"
        return await fleet(server.url, directory, departures_in=source, **options)  # type: ignore[arg-type]

    with redis.running(directory, fsync="everysec") as server:
        return asyncio.run(fly())


def test_flights_through_kafka_stay_exact_while_one_engine_is_killed_and_one_is_stopped(
    kafka_process: KafkaProcess, topic: str, tmp_path: Path
) -> None:
    found = flights(
        kafka_process, topic, tmp_path, limit=3_000, per_second=3_000, every=600, seed=1, at_most_seconds=60
    )
    assert not found.problems, "\n".join([str(found), *found.problems])
    assert found.kills
    assert found.stops


@pytest.mark.night
def test_flights_through_kafka_stay_exact_through_the_whole_year(
    kafka_process: KafkaProcess, topic: str, tmp_path: Path
) -> None:
    found = flights(
        kafka_process, topic, tmp_path, limit=None, per_second=8_000, every=10_000, seed=3, at_most_seconds=900
    )
    print(found)
    assert not found.problems, "\n".join([str(found), *found.problems])
    assert found.kills >= 5
    assert found.stops >= 5
