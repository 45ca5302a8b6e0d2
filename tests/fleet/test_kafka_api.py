"""A topic is mapped by boto3, with a real broker behind it."""

from __future__ import annotations

import asyncio
import json
import queue
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine
from tests.api.server import ACCOUNT, served
from tests.servers import kafka_topics
from tests.servers.kafka import CERTIFICATE, PASSWORD, USER, KafkaProcess


def test_a_topic_is_mapped_read_and_left_and_a_new_mapping_begins_anew(
    kafka_process: KafkaProcess, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a login and an authority that stand in files, as AWS has them in Secrets Manager."""
    monkeypatch.setenv("LAMBENT_SECRETS", str(tmp_path))
    (tmp_path / "login").write_text(json.dumps({"username": USER, "password": PASSWORD}))
    believed = CERTIFICATE.read_text().partition("-----BEGIN PRIVATE")[0]
    (tmp_path / "authority").write_text(json.dumps({"certificate": believed}))
    heard: queue.Queue[list[bytes]] = queue.Queue()
    engine = Engine(account_id=ACCOUNT, watchdog_seconds=0)

    @engine.function(name="hears")
    async def hears(event: Any, context: Any) -> None:
        values = [b64decode(each["value"]) for each in event["records"][f"{topic}-0"]]
        heard.put(values)
        if values == [b"bad"]:
            raise ValueError("no")

    async def put(*values: bytes) -> None:
        async with kafka_topics.producer(kafka_process.address) as producer:
            for value in values:
                await producer.send_and_wait(topic, value)

    address = f"localhost:{kafka_process.ports['SASLTLS']}"
    asked = {
        "FunctionName": "hears",
        "Topics": [topic],
        "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": [address]}},
        "SourceAccessConfigurations": [
            {"Type": "BASIC_AUTH", "URI": "login"},
            {"Type": "SERVER_ROOT_CA_CERTIFICATE", "URI": "authority"},
        ],
        "DestinationConfig": {"OnFailure": {"Destination": f"kafka://{topic}.dead"}},
        "MaximumRetryAttempts": 0,
        "BatchSize": 1,
    }
    asyncio.run(kafka_topics.create(kafka_process.address, topic, f"{topic}.dead"))
    asyncio.run(put(b"good", b"bad", b"last"))
    with served(engine) as server:
        api = server.client()
        mapping = api.create_event_source_mapping(**asked)["UUID"]
        assert [heard.get(timeout=30) for _ in range(3)] == [[b"good"], [b"bad"], [b"last"]]
        while api.get_event_source_mapping(UUID=mapping)["LastProcessingResult"] != "OK":
            pass
        assert api.delete_event_source_mapping(UUID=mapping)["State"] == "Deleting"
        while api.list_event_source_mappings()["EventSourceMappings"]:
            pass
        api.create_event_source_mapping(**asked, StartingPosition="TRIM_HORIZON")
        assert heard.get(timeout=30) == [b"good"]
    [dead] = asyncio.run(kafka_topics.read_all(kafka_process.address, f"{topic}.dead"))[:1]
    assert (dead.value, PASSWORD in str(dead.headers)) == (b"bad", False)
    assert mapping in asyncio.run(groups(kafka_process.address))


async def groups(address: str) -> list[str]:
    async with kafka_topics.admin(address) as client:
        return [name for name, _ in await client.list_consumer_groups()]
