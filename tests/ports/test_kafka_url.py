"""What a Kafka URL says, and what is said of one that says nothing."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from lambent.errors import InvalidParameterValue
from lambent_pollers.kafka_url import parse_kafka_url
from tests.servers.kafka import CERTIFICATE


def test_a_url_names_brokers_and_topics() -> None:
    url = parse_kafka_url("kafka://a,b:1,[::1]:2/x,y.z?group=g&timeout=2.5")
    assert (url.servers, url.topics) == ("a:9092,b:1,[::1]:2", ("x", "y.z"))
    assert (url.options["group"], url.seconds["timeout"]) == ("g", 2.5)
    client = url.client()
    assert client["bootstrap_servers"] == ["a:9092", "b:1", "[::1]:2"]
    assert (client["client_id"], client["security_protocol"], client["request_timeout_ms"]) == (
        "lambent", "PLAINTEXT", 2500,
    )  # fmt: skip


def test_a_user_and_certificates_make_it_secure(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = parse_kafka_url("kafka://ada:p%40ss@h/t").client()
    assert (plain["security_protocol"], plain["sasl_mechanism"]) == ("SASL_PLAINTEXT", "SCRAM-SHA-512")
    assert (plain["sasl_plain_username"], plain["sasl_plain_password"]) == ("ada", "p@ss")
    monkeypatch.setenv("KAFKA_PASSWORD", "from outside")
    secure = parse_kafka_url(f"kafka://ada@h/t?password_env=KAFKA_PASSWORD&sasl=PLAIN&ca={CERTIFICATE}").client()
    assert (secure["security_protocol"], secure["sasl_mechanism"]) == ("SASL_SSL", "PLAIN")
    assert secure["sasl_plain_password"] == "from outside"
    assert isinstance(secure["ssl_context"], ssl.SSLContext)
    own = parse_kafka_url(f"kafka://h/t?certificate={CERTIFICATE}").client()
    assert own["security_protocol"] == "SSL"


@pytest.mark.parametrize(
    ("rest", "advice"),
    [
        ("h", "TOPIC"), ("h/", "TOPIC"), ("/t", "TOPIC"), ("h/t/u", "TOPIC"), ("h/t#x", "TOPIC"),
        ("h/a%20b", "no topic's name"), ("h/..", "no topic's name"), ("h:x/t", "Port"), (",h/t", "names no host"),
        ("h/t?x=1", "x is no option; there are"), ("h/t?isolation=serial", "read_committed"),
        ("h/t?timeout=0", "timeout is in seconds"), ("h/t?sasl=PLAIN", "sasl needs a user"),
        ("h/t?password_env=X", "goes with a user's name"),
    ],
)  # fmt: skip
def test_a_url_that_says_nothing_is_refused_with_advice(rest: str, advice: str) -> None:
    with pytest.raises(InvalidParameterValue, match=advice):
        parse_kafka_url(f"kafka://{rest}")


def test_no_message_shows_the_password(tmp_path: Path) -> None:
    for rest in ("h/t?x=1", "h", f"h/t?ca={tmp_path}/none.pem"):
        with pytest.raises(InvalidParameterValue) as refused:
            parse_kafka_url(f"kafka://ada:secret@{rest}").client()
        assert "secret" not in str(refused.value)
    assert "secret" not in str(parse_kafka_url("kafka://ada:secret@h/t"))
    assert "secret" not in repr(parse_kafka_url("kafka://ada:secret@h/t"))
    with pytest.raises(InvalidParameterValue, match="has no password"):
        parse_kafka_url("kafka://ada@h/t?password_env=LAMBENT_NONE")
    with pytest.raises(InvalidParameterValue, match="needs a password"):
        parse_kafka_url("kafka://ada@h/t")
