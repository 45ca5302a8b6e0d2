"""What a Kafka URL says, and what is said of one that says nothing."""

from __future__ import annotations

import json
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
            parse_kafka_url(f"kafka://ada:hush@{rest}").client()
        assert "hush" not in str(refused.value)
    assert "hush" not in str(parse_kafka_url("kafka://ada:hush@h/t"))
    assert "hush" not in repr(parse_kafka_url("kafka://ada:hush@h/t"))


def test_secrets_are_read_from_files_as_secrets_manager_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBENT_SECRETS", str(tmp_path))
    certificate, _, key = CERTIFICATE.read_text().partition("-----BEGIN PRIVATE")
    for name, said in {
        "kafka/login": {"username": "ada", "password": "hush"},
        "own": {"certificate": certificate, "privateKey": f"-----BEGIN PRIVATE{key}"},
        "believed": {"certificate": certificate},
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(said))
    arn = "arn:aws:secretsmanager:us-east-1:111111111111:secret:kafka/login-AbCdEf"
    client = parse_kafka_url(f"kafka://h/t?secret={arn}&sasl=PLAIN&ca_secret=believed&certificate_secret=own").client()
    assert (client["security_protocol"], client["sasl_mechanism"]) == ("SASL_SSL", "PLAIN")
    assert (client["sasl_plain_username"], client["sasl_plain_password"]) == ("ada", "hush")
    assert len(client["ssl_context"].get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("secret=none", "put its JSON document into the file .*/none"), ("secret=/etc/passwd", "names no secret"),
        ("secret=../x", "names no secret"), ("secret=broken", "can't be read as a JSON object"),
        ("secret=half", "has no password"), ("certificate_secret=half", "has no certificate and no privateKey"),
        ("ca_secret=wrong", "its certificates can't be read"), ("certificate_secret=wrong", "can't be read"),
    ],
)  # fmt: skip
def test_a_secret_that_is_not_there_or_says_nothing_is_told_without_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, advice: str
) -> None:
    monkeypatch.setenv("LAMBENT_SECRETS", str(tmp_path))
    (tmp_path / "broken").write_text('["hush"')
    (tmp_path / "half").write_text('{"username": "hush"}')
    (tmp_path / "wrong").write_text('{"certificate": "hush", "privateKey": "hush"}')
    url = parse_kafka_url(f"kafka://h/t?{option}")
    with pytest.raises(InvalidParameterValue, match=advice) as refused:
        url.client()
    assert "hush" not in str(refused.value)


def test_a_secret_stands_in_one_place() -> None:
    with pytest.raises(InvalidParameterValue, match="secret has user and password"):
        parse_kafka_url("kafka://ada:hush@h/t?secret=login")
    with pytest.raises(InvalidParameterValue, match="has no password"):
        parse_kafka_url("kafka://ada@h/t?password_env=LAMBENT_NONE")
    with pytest.raises(InvalidParameterValue, match="needs a password"):
        parse_kafka_url("kafka://ada@h/t")
