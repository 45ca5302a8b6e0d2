"""How Kafka's records look, how their places are written, and what a commit carries."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.model import (
    MAXIMUM_BATCH_BYTES,
    Checkpoint,
    Fetch,
    Invoke,
    Piece,
    Progress,
    Read,
    Record,
    StreamMapping,
    Succeeded,
)
from lambent.payload import encode_event
from lambent.semantics import kafka, responses
from lambent.semantics.filtering import compile_filters
from lambent.semantics.stream import ShardConsumer

SERVERS = ",".join(f"broker-{number}.example.org:9092" for number in range(50))


@dataclass
class Raw:
    topic: str = "orders"
    partition: int = 3
    offset: int = 42
    timestamp: int = 1_700_000_000_123
    timestamp_type: int = 0
    key: bytes | None = b"k"
    value: bytes | None = b'{"n": 1}'
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


def of(**fields: object) -> kafka.KafkaRecord:
    return kafka.record("orders-3", Raw(**fields))


def shown(record: kafka.KafkaRecord, decoded: bool = False) -> dict[str, object]:
    [found] = kafka.event("orders-3", [record], "h:1", decoded)["records"]["orders-3"]
    return found


def test_what_a_record_lacks_its_event_lacks() -> None:
    assert shown(of(key=None, value=None)).keys() == {
        "topic", "partition", "offset", "timestamp", "timestampType", "headers",
    }  # fmt: skip
    assert shown(of(timestamp_type=1))["timestampType"] == "LOG_APPEND_TIME"


def test_decoded_records_have_texts_and_values() -> None:
    found = shown(of(headers=[("trace", b"t\xff"), ("none", None)]), decoded=True)
    assert (found["key"], found["value"], found["headers"]) == ("k", {"n": 1}, [{"trace": "t\\xff"}, {"none": ""}])
    assert shown(of(value=b"no json"), decoded=True)["value"] == "no json"


def test_an_event_is_json_whatever_numbers_its_records_have() -> None:
    found = encode_event(shown(of(value=b'{"n": [1e999, -1e999, 1e308]}'), decoded=True))
    assert json.loads(found, parse_constant=pytest.fail)["value"] == {"n": [None, None, 1e308]}


def test_the_length_of_a_chain_is_read_from_its_header_and_never_shown() -> None:
    record = of(headers=[("lambent-hops", b"7"), ("a", b"1")])
    assert record.hops == 7
    assert shown(record)["headers"] == [{"a": [49]}]
    assert of(headers=[("lambent-hops", b"x")]).hops == of(headers=[("lambent-hops", b"9999")]).hops == 0


@given(
    st.none() | st.binary(max_size=60),
    st.none() | st.binary(max_size=200),
    st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=40)), max_size=4),
    st.integers(0, 2**63 - 1),
    st.sampled_from(["t", "t" * 249]),
)
def test_records_are_no_larger_in_an_event_than_their_weights_say(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], offset: int, topic: str
) -> None:
    for decoded in (False, True):
        record = of(key=key, value=value, headers=headers, offset=offset, topic=topic)
        weights = kafka.weights(decoded)
        size = len(encode_event(shown(record, decoded))) + len(",")
        assert size <= weights.in_event(record) == weights.in_event(record)
        assert size <= weights.held([record]) * weights.per_byte + weights.per_record


def batches(decoded: bool, records: list[kafka.KafkaRecord]) -> list[list[Record]]:
    """What a mapping makes of a partition's records."""
    mapping = StreamMapping(source="kafka://h/orders", function="f", batch_size=10_000)
    consumer = ShardConsumer(mapping, Progress(kafka.position("orders-3", -1)), weights=kafka.weights(decoded, SERVERS))
    found: list[list[Record]] = []
    waiting = list(records)
    while sum(map(len, found)) < len(records):
        match step := consumer.next(0.0, 2e9):
            case Fetch():
                consumer.fetched(Read("orders-3", waiting, True), 0.0)
                waiting = []
            case Checkpoint():
                consumer.checkpointed(True)
            case Invoke():
                found.append(list(step.records))
                consumer.invoked(step, Succeeded(b"null", "$LATEST"), 0.0)
    return found


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        {"value": b"\x01" * 500_000},
        {"value": b"\xff" * 500_000},
        {"value": "é".encode() * 300_000},
        {"value": b"[" + b"1e15," * 100_000 + b"1]"},
        {"value": b"x" * 1_020_000},
        {"value": b"", "key": b"\x01" * 500_000},
        {"value": b"", "headers": [("a", b"\xff" * 500_000)]},
        {"value": b"", "headers": [("\x01" * 500_000, b"")]},
        {"value": b"", "headers": [("", None)] * 60_000},
    ],
    ids=["control", "bytes", "umlauts", "numbers", "text", "key", "header", "header's name", "headers"],
)
def test_no_batch_is_above_6_mb_whatever_is_large_in_its_records(content: dict[str, object], decoded: bool) -> None:
    found = batches(decoded, [of(offset=offset, **content) for offset in range(9)])
    events = [len(encode_event(kafka.event("orders-3", each, SERVERS, decoded))) for each in found]
    assert max(events) <= MAXIMUM_BATCH_BYTES
    assert sum(map(len, found)) == 9


@pytest.mark.parametrize("size", range(10_000, 10_017, 4))
def test_decoded_batches_are_as_large_as_they_may_be(size: int) -> None:
    """With what stands around the records, the names of many brokers too."""
    found = batches(True, [of(value=b"x" * size) for _ in range(700)])
    event = len(encode_event(kafka.event("orders-3", found[0], SERVERS, decoded=True)))
    assert MAXIMUM_BATCH_BYTES - 12_000 < event <= MAXIMUM_BATCH_BYTES


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        ({"value": {"n": [1]}}, True),
        ({"value": {"n": [2]}}, False),
        ({"key": ["k"], "partition": [3]}, True),
        ({"key": ["other"]}, False),
    ],
)
def test_filters_see_key_and_value_decoded(pattern: dict[str, object], passes: bool) -> None:
    assert compile_filters([pattern]).matches(kafka.view(of())) is passes


@given(st.integers(-1, 2**63 - 2), st.integers(-1, 2**63 - 2))
def test_positions_compare_as_offsets_do(one: int, other: int) -> None:
    first, second = kafka.position("t-0", one), kafka.position("t-0", other)
    assert (first < second) is (one < other)
    assert kafka.offset_after(first) == one + 1


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ({"partition": "orders-3", "offset": 42}, responses.SomeFailed(frozenset({"orders-3@0000000000000000042"}))),
        ({"partition": "orders-4", "offset": 42}, responses.NoneSucceeded()),
        ({"partition": "orders-3", "offset": 44}, responses.NoneSucceeded()),
        ({"partition": "orders-3", "offset": "42"}, responses.NoneSucceeded()),
        ({"partition": "orders-3", "offset": True}, responses.NoneSucceeded()),
        ({"partition": "orders-3"}, responses.NoneSucceeded()),
    ],
)
def test_a_failure_is_named_by_partition_and_offset(identifier: object, expected: object) -> None:
    ids = [kafka.position("orders-3", offset) for offset in (1, 42, 43)]
    assert responses.judge({"batchItemFailures": [{"itemIdentifier": identifier}]}, ids) == expected


# --------------------------------------------------------------------------- commits


def at(offset: int) -> str:
    return kafka.position("t-0", offset)


def progress(offset: int, *pieces: tuple[int, int, int], seek: int = 0) -> Progress:
    found = tuple(Piece(at(first), at(last), attempts) for first, last, attempts in pieces)
    return Progress(at(offset), found, seek=seek, start=at(offset))


def test_a_commit_carries_counts_of_tries_and_the_seek() -> None:
    told = progress(41, (42, 50, 3), (51, 51, 1), seek=2)
    assert kafka.committed("t-0", 42, kafka.metadata(told)) == told


def test_what_does_not_fit_into_a_commit_stays_with_the_store() -> None:
    pieces = [(number, number, 1) for number in range(1000)]
    text = kafka.metadata(progress(0, *pieces, seek=1))
    assert len(text) <= kafka.MAXIMUM_METADATA_BYTES
    assert kafka.committed("t-0", 1, text) == progress(0, seek=1)


@pytest.mark.parametrize("text", ["", "x", "1", "[]", '{"lambent": 2}', '{"lambent": 1, "seek": 0, "pieces": [1]}'])
def test_a_commit_of_others_is_an_offset(text: str) -> None:
    assert kafka.committed("t-0", 42, text) == progress(41)


def test_the_stores_word_holds_unless_it_knows_nothing_or_others_went_on() -> None:
    def further(stored: Progress | None, committed: Progress | None, seek: int = 0) -> Progress | None:
        return kafka.further("t-0", stored, committed, seek)

    ten, twenty = progress(10), progress(20)
    assert further(None, None) is None
    assert further(None, ten) is ten
    assert further(ten, None) is further(ten, progress(10, (11, 11, 5))) is ten
    assert further(ten, twenty) is twenty
    assert further(twenty, ten) is twenty
    assert further(None, ten, seek=1) is None  # it was committed before the mapping was sought
    sought = progress(5, seek=1)
    assert further(sought, twenty, seek=1) is sought
    assert further(sought, progress(20, seek=1), seek=1) == progress(20, seek=1)
