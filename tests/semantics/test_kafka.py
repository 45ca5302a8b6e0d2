"""Kafka's records as a function sees them with `records=json`: values and texts, where AWS has base64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lambent.semantics import kafka


@dataclass
class Raw:
    """A record as the client gives it."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    topic: str = "orders"
    partition: int = 3
    offset: int = 42
    timestamp: int = 1_700_000_000_123
    timestamp_type: int = 0


def shown(raw: Raw) -> dict[str, object]:
    event = kafka.event("orders-3", [kafka.record("orders-3", raw)], "h:9092", decoded=True)
    (record,) = event["records"]["orders-3"]  # type: ignore[index]  # it is a dictionary
    found: dict[str, object] = record
    return found


def test_values_are_decoded_and_what_is_absent_has_no_key() -> None:
    assert shown(Raw(b"N12", b'{"a": [1, null]}', (("h", b"x"),))) == {
        "topic": "orders",
        "partition": 3,
        "offset": 42,
        "timestamp": 1_700_000_000_123,
        "timestampType": "CREATE_TIME",
        "key": "N12",
        "value": {"a": [1, None]},
        "headers": [{"h": "x"}],
    }
    assert shown(Raw(None, None)).keys() == {"topic", "partition", "offset", "timestamp", "timestampType", "headers"}


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"7", 7),
        (b'"text"', "text"),
        (b" \n[1]\t", [1]),
        (b"-1.5e3", -1500.0),
        (b"true", True),
        (b"null", None),
        (b"", ""),
        (b"truth", "truth"),
        (b"2013-01-01", "2013-01-01"),
        (b"NaN", "NaN"),
        (b"{", "{"),
        ("\ufeff1".encode(), "\ufeff1"),
        (b"[" * 100_000, "[" * 100_000),
        (b"\xff\x00", "\\xff\x00"),
    ],
)
def test_what_is_json_is_its_value_and_anything_else_its_text(data: bytes, value: object) -> None:
    assert shown(Raw(data, data))["value"] == value
    assert shown(Raw(data, data))["key"] == value
