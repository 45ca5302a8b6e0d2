"""Mappings of Kafka's topics on a real broker: what a function sees, and what becomes of what it says."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from typing import Any

import pytest

from lambent import Client, Engine
from lambent.errors import InvalidParameterValue
from lambent.model import StreamMapping
from lambent.semantics.kafka import retry_limit
from lambent.stores.memory import MemoryStore
from lambent.telemetry import ITERATOR_AGE, OFFSET_LAG
from tests.servers import kafka_topics
from tests.servers.kafka import KafkaProcess


async def test_a_function_sees_the_records_of_kafka_as_aws_shows_them(kafka_process: KafkaProcess, topic: str) -> None:
    seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await kafka_topics.create(kafka_process.address, topic)
    engine = Engine(store=MemoryStore())

    @engine.on(f"kafka://{kafka_process.address}/{topic}", name="see")
    async def see(event: dict[str, Any], context: object) -> None:
        seen.put_nowait(event)

    async with engine, kafka_topics.producer(kafka_process.address) as producer:
        sent = await producer.send_and_wait(
            topic, b'{"n":1}', key=b"k\xff", timestamp_ms=1_700_000_000_123, headers=[("trace", b"ab")]
        )
        async with asyncio.timeout(20):
            event = await seen.get()
    assert event == {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": kafka_process.address,
        "records": {
            f"{topic}-0": [
                {
                    "topic": topic,
                    "partition": 0,
                    "offset": sent.offset,
                    "timestamp": 1_700_000_000_123,
                    "timestampType": "CREATE_TIME",
                    "key": "a/8=",
                    "value": "eyJuIjoxfQ==",
                    "headers": [{"trace": [97, 98]}],
                }
            ]
        },
    }
    assert b64decode(event["records"][f"{topic}-0"][0]["key"]) == b"k\xff"


async def test_what_is_finished_is_committed_to_the_group_and_a_fresh_store_goes_on_there(
    kafka_process: KafkaProcess, topic: str
) -> None:
    seen: list[str] = []
    twice, thrice = asyncio.Event(), asyncio.Event()
    await kafka_topics.create(kafka_process.address, topic)

    async def take(event: dict[str, Any], context: object) -> None:
        for [record] in event["records"].values():
            seen.append(record["value"])
        (twice if len(seen) >= 2 else asyncio.Event()).set()
        (thrice if len(seen) >= 3 else asyncio.Event()).set()

    def engine() -> Engine:
        engine = Engine(store=MemoryStore())
        source = f"kafka://{kafka_process.address}/{topic}?records=json&group=g-{topic}"
        engine.on(source, name="take", batch_size=1)(take)
        return engine

    async with kafka_topics.producer(kafka_process.address) as producer:
        for value in (b"a", b"b"):
            await producer.send_and_wait(topic, value)
        async with asyncio.timeout(20):
            async with engine():
                await twice.wait()
            [(partition, at)] = (await kafka_topics.committed(kafka_process.address, f"g-{topic}")).items()
            assert (partition.topic, at.offset) == (topic, 2)
            await producer.send_and_wait(topic, b"c")
            async with engine():
                await thrice.wait()
    assert seen == ["a", "b", "c"]


async def test_records_are_put_through_the_engine_and_the_chain_is_counted(
    kafka_process: KafkaProcess, topic: str
) -> None:
    await kafka_topics.create(kafka_process.address, topic)
    engine = Engine()
    stream = engine.stream(f"kafka://{kafka_process.address}/{topic}?records=json")
    seen: list[Any] = []
    done = asyncio.Event()

    @engine.on(stream, name="follow")
    async def follow(event: dict[str, Any], context: object) -> None:
        for record in event["records"][f"{topic}-0"]:
            seen.append((record["key"], record["value"], record["headers"]))
            if record["value"]["n"] < 3:
                await stream.put({"n": record["value"]["n"] + 1}, key="k")
            else:
                done.set()

    async with engine, asyncio.timeout(20):
        assert await stream.put({"n": 1}, key="k") == f"{topic}-0@0000000000000000000"
        await done.wait()
    assert seen == [("k", {"n": n}, []) for n in (1, 2, 3)]
    found = await kafka_topics.read_all(kafka_process.address, topic)
    assert [dict(record.headers).get("lambent-hops") for record in found] == [None, b"1", b"2"]


async def test_a_client_puts_into_a_topic(kafka_process: KafkaProcess, topic: str) -> None:
    await kafka_topics.create(kafka_process.address, topic)
    url, store = f"kafka://{kafka_process.address}/{topic}", MemoryStore()
    async with Engine(store=store), Client(store) as client:
        stream = await client.stream(url)
        assert await stream.put_many([({"n": 1}, "k"), (b"two", "k")]) == [
            f"{topic}-0@{offset:019d}" for offset in range(2)
        ]
        assert await client.put(url, "three", key="k") == f"{topic}-0@{2:019d}"
        with pytest.raises(InvalidParameterValue, match="is configured elsewhere"):
            _ = stream.configuration
        with pytest.raises(InvalidParameterValue, match="there is no source for nowhere://"):
            await client.stream("nowhere://host/topic")
    found = await kafka_topics.read_all(kafka_process.address, topic)
    assert [(record.key, record.value) for record in found] == [(b"k", b'{"n": 1}'), (b"k", b"two"), (b"k", b"three")]


async def test_failures_named_by_partition_and_offset_are_isolated_and_go_to_a_topic_as_they_were(
    kafka_process: KafkaProcess, topic: str
) -> None:
    await kafka_topics.create(kafka_process.address, topic, f"{topic}.dead")
    source = f"kafka://{kafka_process.address}/{topic}"
    engine, done, calls = Engine(), asyncio.Event(), list[list[int]]()

    async def take(event: dict[str, Any], context: object) -> dict[str, Any]:
        records = event["records"][f"{topic}-0"]
        calls.append([record["offset"] for record in records])
        bad = [record for record in records if b64decode(record["value"]) == b"poison"]
        if 9 in calls[-1] and 4 not in calls[-1]:
            done.set()
        return {
            "batchItemFailures": [
                {"itemIdentifier": {"partition": f"{topic}-0", "offset": record["offset"]}} for record in bad
            ]
        }

    engine.on(
        source,
        name="take",
        batch_size=10,
        report_batch_item_failures=True,
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=0,
        on_failure=f"kafka://{topic}.dead",
    )(take)
    async with kafka_topics.producer(kafka_process.address) as producer:
        for number in range(10):
            value, headers = (b"poison", [("trace", b"t")]) if number == 4 else (b"good", [])
            await producer.send_and_wait(topic, value, key=b"k\xff", timestamp_ms=1, headers=headers)
    async with engine, asyncio.timeout(20):
        await done.wait()
    assert calls[0] == list(range(10))
    assert calls[-1][-1] == 9
    [dead] = await kafka_topics.read_all(kafka_process.address, f"{topic}.dead")
    headers = dict(dead.headers)
    assert (dead.key, dead.value, headers["trace"]) == (b"k\xff", b"poison", b"t")
    assert headers["lambent-position"] == f"{topic}-0@0000000000000000004".encode()
    about = json.loads(headers["lambent-failure"])
    assert about["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert about["KafkaBatchInfo"]["recordsInfo"][f"{topic}-0"]["firstRecordOffset"] == "4"
    assert "payload" not in about


async def test_a_queue_hears_of_what_failed_in_kafka_as_aws_tells_it(kafka_process: KafkaProcess, topic: str) -> None:
    await kafka_topics.create(kafka_process.address, topic)
    engine = Engine()
    dead = engine.queue("dead")

    @engine.on(f"kafka://{kafka_process.address}/{topic}", name="fail", maximum_retry_attempts=0, on_failure=dead)
    async def fail(event: dict[str, Any], context: object) -> None:
        raise ValueError("no")

    async with kafka_topics.producer(kafka_process.address) as producer:
        await producer.send_and_wait(topic, b"x", timestamp_ms=1_700_000_000_123)
    async with engine, asyncio.timeout(20):
        [message] = await dead.receive(wait_seconds=20)
    told = json.loads(message.body)
    size = told["KafkaBatchInfo"].pop("payloadSize")
    assert told["KafkaBatchInfo"] == {
        "batchSize": 1,
        "bootstrapServers": kafka_process.address,
        "recordsInfo": {
            f"{topic}-0": {
                "firstRecordOffset": "0",
                "lastRecordOffset": "0",
                "firstRecordTimestamp": "2023-11-14T22:13:20.123Z",
                "lastRecordTimestamp": "2023-11-14T22:13:20.123Z",
            }
        },
    }
    assert len(told["payload"]) == size
    assert json.loads(told["payload"])["records"][f"{topic}-0"][0]["value"] == "eA=="


@pytest.mark.parametrize(("value", "shown"), [(b"x\xff", "eP8="), (None, None)])
async def test_a_dead_letter_goes_back_into_its_topic_as_it_was(
    kafka_process: KafkaProcess, topic: str, value: bytes | None, shown: str | None
) -> None:
    await kafka_topics.create(kafka_process.address, topic)
    store, again = MemoryStore(), asyncio.Event()
    engine, calls = Engine(store=store), list[Any]()
    dead = engine.queue("dead")

    @engine.on(f"kafka://{kafka_process.address}/{topic}", name="fail", maximum_retry_attempts=0, on_failure=dead)
    async def fail(event: dict[str, Any], context: object) -> None:
        calls.append([(each["key"], each.get("value"), each["headers"]) for each in event["records"][f"{topic}-0"]])
        if len(calls) == 1:
            raise ValueError("no")
        again.set()

    async with kafka_topics.producer(kafka_process.address) as producer:
        await producer.send_and_wait(topic, value, key=b"k\xff", headers=[("trace", b"t")])
    async with engine, Client(store) as client, asyncio.timeout(20):
        while not (chosen := [(each.queue, each.message.id) async for each in client.dead_letters.letters()]):
            await asyncio.sleep(0)
        assert [each.failure async for each in client.dead_letters.redrive(chosen)] == [""]
        assert [each async for each in client.dead_letters.letters()] == []
        await again.wait()
    assert calls == [[("a/8=", shown, [{"trace": [116]}])]] * 2


async def test_results_of_events_go_to_a_topic(kafka_process: KafkaProcess, topic: str) -> None:
    await kafka_topics.create(kafka_process.address, topic)
    engine = Engine()

    @engine.function(on_success=f"kafka://{kafka_process.address}/{topic}")
    async def add(event: dict[str, int], context: object) -> int:
        return event["a"] + event["b"]

    async with engine, asyncio.timeout(20):
        request_id = await engine.invoke_async(add, {"a": 1, "b": 2})
        while not (found := await kafka_topics.read_all(kafka_process.address, topic)):
            pass
    [record] = found
    assert json.loads(record.value)["responsePayload"] == 3
    assert json.loads(record.value)["requestContext"]["requestId"] == request_id


def test_a_topic_that_a_mapping_reads_is_no_destination_of_it(topic: str) -> None:
    engine = Engine()
    with pytest.raises(InvalidParameterValue, match="a topic that the mapping reads"):
        engine.on("kafka://a:1,b:2/x,y?group=g", name="f", on_failure="kafka://b:2/y")(print)
    with pytest.raises(InvalidParameterValue, match="on_failure"):
        engine.on("kafka://a:1/x", name="f", on_failure="kafka://a:1/y,z")(print)
    with pytest.raises(InvalidParameterValue, match="a topic that the mapping reads"):
        engine.on("kafka://a/x", name="f", on_failure="kafka://a:9092/x")(print)
    with pytest.raises(InvalidParameterValue, match="a topic that the mapping reads"):
        engine.on("kafka://u:hush@a:1/x,y", name="f", on_failure="kafka://y")(print)
    with pytest.raises(InvalidParameterValue, match="a topic, with its cluster \\('kafka://HOST:PORT/TOPIC'\\)"):
        engine.on("kafka://a:1/x", name="f", on_failure="kafka://y:1")(print)
    with pytest.raises(InvalidParameterValue, match="names no cluster: write kafka://HOST:PORT/TOPIC"):
        engine.on(engine.stream("s"), name="f", on_failure="kafka://y")(print)
    with pytest.raises(InvalidParameterValue, match="names no cluster: write kafka://HOST:PORT/TOPIC"):
        engine.function(name="g", on_success="kafka://y")(print)
    with pytest.raises(InvalidParameterValue, match="options in its URL"):
        engine.stream("kafka://a:1/x", shards=2)


def test_endless_retries_end_after_ten_where_a_destination_waits() -> None:
    def limit(source: str, **options: Any) -> int:
        return retry_limit(StreamMapping(source=source, function="f", **options))

    assert limit("kafka://h/t", on_failure="queue:dead") == 10
    assert limit("kafka://h/t") == limit("stream:s", on_failure="queue:dead") == -1
    assert limit("kafka://h/t", on_failure="queue:dead", maximum_retry_attempts=3) == 3


async def test_lag_and_age_are_told_by_partition(kafka_process: KafkaProcess, topic: str) -> None:
    await kafka_topics.create(kafka_process.address, topic, partitions=2)
    engine, begun, go_on, done = Engine(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    @engine.on(f"kafka://{kafka_process.address}/{topic}", name="wait", batch_size=2)
    async def wait(event: dict[str, Any], context: object) -> None:
        begun.set()
        await go_on.wait()
        if event["records"][f"{topic}-0"][-1]["offset"] == 4:
            done.set()

    async with kafka_topics.producer(kafka_process.address) as producer:
        for _ in range(5):
            await producer.send_and_wait(topic, b"x", partition=0)
    async with engine, asyncio.timeout(20):
        await begun.wait()
        [mapping] = await engine.list_mappings()
        metrics = engine.telemetry.snapshot()
        assert metrics[OFFSET_LAG][f"{mapping}/{topic}-0"] == 5
        assert metrics[ITERATOR_AGE].keys() == {mapping, f"{mapping}/{topic}-0"}
        go_on.set()
        await done.wait()
        while engine.telemetry.snapshot()[OFFSET_LAG][f"{mapping}/{topic}-0"]:
            await asyncio.sleep(0)
