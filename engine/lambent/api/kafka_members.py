"""A mapping's members that are Kafka's alone, and the engine's source by URL: each as the other.

Decides which URL self-managed brokers, a topic and what gives access to them mean, what is shown of a topic's mapping,
and which one is a duplicate (Lambda API reference: CreateEventSourceMapping; developer guide, «Configuring self-managed
Apache Kafka event sources»). What the URL's options do is the poller's. Secrets are named here and never read. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from lambent.api.decisions import Answer
from lambent.api.records import Asked
from lambent.api.refusals import Refusal, conflict, invalid
from lambent.model import StreamMapping
from lambent.semantics.kafka import same_topic
from lambent.stored_mappings import StoredMapping

KEPT: Final = (
    "SelfManagedEventSource", "Topics", "SourceAccessConfigurations", "SelfManagedKafkaEventSourceConfig",
)  # fmt: skip
_FIXED: Final = ("SourceAccessConfigurations", "SelfManagedKafkaEventSourceConfig")
_NO_ACCESS: Final = "Required 'sourceAccessConfigurations' parameter is missing."
_UNRECOGNIZED: Final = "Unrecognized event source."
_LOGINS: Final = {
    "BASIC_AUTH": "PLAIN",
    "SASL_SCRAM_256_AUTH": "SCRAM-SHA-256",
    "SASL_SCRAM_512_AUTH": "SCRAM-SHA-512",
}
_SECRETS: Final = {
    **dict.fromkeys(_LOGINS, "secret"),
    "CLIENT_CERTIFICATE_TLS_AUTH": "certificate_secret",
    "SERVER_ROOT_CA_CERTIFICATE": "ca_secret",
}
_NETWORKS: Final = ("VPC_SUBNET", "VPC_SECURITY_GROUP")  # shown, no effect


def source_of(params: Mapping[str, Any]) -> str:
    """The URL of the topic that is meant. Raises `Refusal`."""
    configurations = params.get("SourceAccessConfigurations")
    if configurations is None:
        raise invalid(_NO_ACCESS)
    servers = params["SelfManagedEventSource"].get("Endpoints", {}).get("KAFKA_BOOTSTRAP_SERVERS") or []
    topics = params.get("Topics") or []
    if not servers or not topics or params.get("AmazonManagedKafkaEventSourceConfig"):
        raise invalid(_UNRECOGNIZED)
    consumer = params.get("SelfManagedKafkaEventSourceConfig") or {}
    if consumer.get("SchemaRegistryConfig"):
        raise invalid("SchemaRegistryConfig: there are no schema registries here; the function gets what was put.")
    if consumer.get("ConsumptionMode", "Stream") != "Stream":
        raise invalid("Unsupported 'ConsumptionMode' parameter for given event source mapping type.")
    options = {"group": consumer["ConsumerGroupId"]} if consumer.get("ConsumerGroupId") else {}
    query = urlencode({**options, **_access(configurations)})
    return f"kafka://{','.join(servers)}/{topics[0]}" + (f"?{query}" if query else "")


def check_duplicate(source: str, asked: Asked, there: Iterable[StoredMapping]) -> None:
    """Raises `Refusal` if the function reads this topic of one of these brokers already."""
    for each in there:
        mapping = each.mapping
        same = (mapping.function, mapping.qualifier) == (asked.reference.name, asked.reference.resolved)
        if same and same_topic(mapping.source, source):
            servers, topics = _places(source)
            raise conflict(
                f'An event source mapping with event source ("{",".join(servers)}"), function '
                f'("{asked.reference.arn}"), topics ("{",".join(topics)}") already exists. Please update or delete the '
                f"existing mapping with UUID {each.id}"
            )


def check_update(asked: Asked, stored: StoredMapping) -> None:
    """Raises `Refusal` for what a mapping keeps."""
    for name in _FIXED:
        if asked.get(name) is not None and asked.params[name] != stored.api.get(name):
            raise invalid(f"{name}: a mapping keeps it here: delete the mapping, and create another one.")


def no_cluster(arn: str) -> Refusal:
    """Amazon MSK's clusters are AWS's own."""
    return invalid(
        f"Cluster not found: {arn} (there is no Amazon MSK here: name the brokers in SelfManagedEventSource)"
    )


def shown(stored: StoredMapping, mapping: StreamMapping) -> Answer:
    """Where it reads, as EventSourceMappingConfiguration has it; of one that code declares, as if by the API."""
    servers, topics = _places(mapping.source)
    group = parse_qs(urlsplit(mapping.source).query).get("group", [stored.id])[0]
    return {
        "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": servers}},
        "Topics": topics,
        "SourceAccessConfigurations": stored.api.get("SourceAccessConfigurations", []),
        "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": group},
    }


def is_topic(mapping: object) -> bool:
    return isinstance(mapping, StreamMapping) and is_topic_url(mapping.source)


def is_topic_url(source: str) -> bool:
    return source.startswith("kafka://")


def _access(configurations: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The URL's options of what gives access. As on AWS a secret is shown to nobody without TLS. Raises `Refusal`."""
    options: dict[str, str] = {}
    for each in configurations:
        kind, uri = each.get("Type", ""), each.get("URI", "")
        if kind in _NETWORKS:
            continue
        if kind not in _SECRETS:
            raise invalid(f"Unsupported source access configuration type for self-managed Apache Kafka: {kind}.")
        name = _SECRETS[kind]
        if name in options or {name, *options} >= {"secret", "certificate_secret"}:
            raise invalid(f"SourceAccessConfigurations: {kind} can't stand beside another one of its kind.")
        options |= {name: uri, "security": "tls"}
        if kind in _LOGINS:
            options["sasl"] = _LOGINS[kind]
    return options


def _places(source: str) -> tuple[list[str], list[str]]:
    """Brokers and topics of a URL."""
    parts = urlsplit(source)
    return parts.netloc.rpartition("@")[2].split(","), [unquote(each) for each in parts.path.strip("/").split(",")]
