"""Mappings of topics by boto3, as far as no broker is needed: what is meant, shown, refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lambent import Engine
from tests.api.server import ACCOUNT, REGION, Server, refused, served

BROKER = "127.0.0.1:1"  # nobody is there
SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:login-AbCdEf"
NETWORK = [{"Type": "VPC_SUBNET", "URI": "subnet:subnet-012345678"}]
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:hears"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    engine = Engine(account_id=ACCOUNT, watchdog_seconds=0)

    @engine.function(name="hears")
    async def hears(event: Any, context: Any) -> None: ...

    engine.queue("dead")
    engine.map(f"kafka://ada:hush@{BROKER}/declared,too?group=g", hears, name="coded", enabled=False)
    with served(engine) as running:
        yield running


@pytest.fixture
def api(server: Server) -> Iterator[Any]:
    client = server.client()
    yield client
    for each in client.list_event_source_mappings()["EventSourceMappings"]:
        if each["Topics"] != ["declared", "too"]:
            client.delete_event_source_mapping(UUID=each["UUID"])


def asked(topic: str = "orders", *servers: str, **options: Any) -> dict[str, Any]:
    endpoints = {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": list(servers) or [BROKER]}}
    given = {"FunctionName": "hears", "Topics": [topic], "SelfManagedEventSource": endpoints, "Enabled": False}
    return {**given, "SourceAccessConfigurations": NETWORK, **options}


def test_what_is_set_is_shown_and_what_is_not_is_left_out(server: Server, api: Any) -> None:
    created = api.create_event_source_mapping(**asked())
    assert created.keys() & {"MaximumRetryAttempts", "DestinationConfig", "EventSourceArn"} == set()
    assert created["SelfManagedKafkaEventSourceConfig"] == {"ConsumerGroupId": created["UUID"]}
    assert (created["State"], created["BatchSize"], created["StartingPosition"]) == ("Disabled", 100, "TRIM_HORIZON")
    options = {
        "MaximumRetryAttempts": 3,
        "BisectBatchOnFunctionError": True,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "DestinationConfig": {"OnFailure": {"Destination": "kafka://orders.dead"}},
        "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": "a/b@c+d"},
        "SourceAccessConfigurations": [{"Type": "SASL_SCRAM_256_AUTH", "URI": SECRET}, *NETWORK],
    }
    created = api.create_event_source_mapping(**asked("returns", **options))
    assert {name: created[name] for name in options} == options
    assert api.get_event_source_mapping(UUID=created["UUID"])["Topics"] == ["returns"]
    stored = server.run(lambda: server.engine.control.get_mapping(created["UUID"]))
    assert stored.mapping.source.startswith(f"kafka://{BROKER}/returns?group=a%2Fb%40c%2Bd&secret=arn%3Aaws")
    assert stored.mapping.source.endswith("&security=tls&sasl=SCRAM-SHA-256")


def test_a_mapping_that_code_declares_is_shown_alike_and_without_its_password(api: Any) -> None:
    [coded] = api.list_event_source_mappings(FunctionName="hears")["EventSourceMappings"]
    assert coded["SelfManagedEventSource"] == {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": [BROKER]}}
    assert coded["Topics"] == ["declared", "too"]
    assert coded["SelfManagedKafkaEventSourceConfig"] == {"ConsumerGroupId": "g"}
    assert "hush" not in str(coded)
    with refused("ResourceConflictException", 409) as conflict:
        api.create_event_source_mapping(**asked("too", "127.0.0.1:2", BROKER))
    assert conflict.message == (
        f'An event source mapping with event source ("127.0.0.1:2,{BROKER}"), function ("{FUNCTION}"), topics ("too") '
        f"already exists. Please update or delete the existing mapping with UUID {coded['UUID']}"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"Topics": None}, "Unrecognized event source."),
        ({"SelfManagedEventSource": {}}, "Unrecognized event source."),
        ({"EventSourceArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead"}, "Unrecognized event source."),
        ({"AmazonManagedKafkaEventSourceConfig": {"ConsumerGroupId": "g"}}, "Unrecognized event source."),
        ({"SourceAccessConfigurations": [{"Type": "VIRTUAL_HOST", "URI": "/"}]}, "Unsupported source access"),
        (
            {"SourceAccessConfigurations": [{"Type": kind, "URI": SECRET} for kind in ("BASIC_AUTH",) * 2]},
            "BASIC_AUTH can't stand beside another one",
        ),
        (
            {
                "SourceAccessConfigurations": [
                    {"Type": kind, "URI": SECRET} for kind in ("CLIENT_CERTIFICATE_TLS_AUTH", "BASIC_AUTH")
                ]
            },
            "BASIC_AUTH can't stand beside another one",
        ),
        (
            {"SelfManagedKafkaEventSourceConfig": {"SchemaRegistryConfig": {"SchemaRegistryURI": "http://r"}}},
            "there are no schema registries here",
        ),
        (
            {"SelfManagedKafkaEventSourceConfig": {"ConsumptionMode": "Queue"}},
            "Unsupported 'ConsumptionMode' parameter",
        ),
        ({"DestinationConfig": {"OnFailure": {"Destination": "kafka://orders"}}}, "a topic that the mapping reads"),
        ({"ScalingConfig": {"MaximumConcurrency": 2}}, "Unsupported ScalingConfig parameter"),
        ({"StartingPosition": "AT_TIMESTAMP"}, "StartingPositionTimestamp"),
        ({"FunctionName": "nobody"}, "Function does not exist"),
    ],
)
def test_what_makes_no_sense_of_a_topic_is_refused(api: Any, options: dict[str, Any], message: str) -> None:
    given = {name: each for name, each in asked(**options).items() if each is not None}
    with refused("InvalidParameterValueException", 400) as refusal:
        api.create_event_source_mapping(**given)
    assert message in refusal.message


def test_a_cluster_of_amazon_msk_is_refused_with_what_to_write(api: Any) -> None:
    cluster = f"arn:aws:kafka:{REGION}:{ACCOUNT}:cluster/orders/01234567-89ab-cdef-0123-456789abcdef-1"
    with refused("InvalidParameterValueException", 400) as refusal:
        api.create_event_source_mapping(FunctionName="hears", EventSourceArn=cluster, Topics=["orders"])
    assert "name the brokers in SelfManagedEventSource" in refusal.message


def test_a_topic_alone_is_a_destination_only_for_topics(server: Server, api: Any) -> None:
    server.run(lambda: _declare(server.engine))
    with refused("InvalidParameterValueException", 400) as refusal:
        api.create_event_source_mapping(
            FunctionName="hears",
            EventSourceArn=f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/clicks",
            StartingPosition="LATEST",
            DestinationConfig={"OnFailure": {"Destination": "kafka://orders.dead"}},
        )
    assert "write kafka://HOST:PORT/TOPIC" in refusal.message


async def _declare(engine: Engine) -> None:
    engine.stream("clicks")


def test_what_may_change_of_a_topics_mapping_changes_and_what_it_keeps_is_said(api: Any) -> None:
    created = api.create_event_source_mapping(**asked())
    mapping = created["UUID"]
    updated = api.update_event_source_mapping(UUID=mapping, BatchSize=7, SourceAccessConfigurations=NETWORK)
    assert updated["BatchSize"] == 7
    with refused("InvalidParameterValueException", 400) as refusal:
        access = [{"Type": "BASIC_AUTH", "URI": SECRET}]
        api.update_event_source_mapping(UUID=mapping, SourceAccessConfigurations=access)
    assert refusal.message.startswith("SourceAccessConfigurations: a mapping keeps it here")


def test_why_a_mapping_cannot_read_is_its_last_result(
    api: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("LAMBENT_SECRETS", str(tmp_path_factory.mktemp("secrets")))
    access = [{"Type": "BASIC_AUTH", "URI": SECRET}]
    created = api.create_event_source_mapping(**asked("orders", Enabled=True, SourceAccessConfigurations=access))
    result = ""
    while not result.startswith("PROBLEM: It can't run"):
        result = api.get_event_source_mapping(UUID=created["UUID"])["LastProcessingResult"]
    assert "put its JSON document into the file" in result
