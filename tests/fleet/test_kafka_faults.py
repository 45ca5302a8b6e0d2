"""What goes wrong between an engine and Kafka: brokers restart, connections are cut or stand still, records go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from lambent import Client, Engine
from lambent.errors import StoreUnavailable
from lambent.model import Put, Record
from lambent.stores.memory import MemoryStore
from lambent_pollers.kafka import KafkaStream
from lambent_pollers.kafka_url import parse_kafka_url
from tests.servers import kafka, kafka_topics
from tests.servers.kafka import CERTIFICATE, PASSWORD, USER, KafkaProcess
from tests.servers.proxy import Direction, Proxy

OPTIONS = "records=json&session_timeout=3&timeout=2"
PATIENCE_SECONDS = 60.0
PARTITIONS = 3


class Seen:
    """The values that came, by partition."""

    def __init__(self) -> None:
        self.values: dict[int, list[int]] = {}
        self._news = asyncio.Event()

    async def take(self, event: dict[str, Any], context: object) -> None:
        for records in event["records"].values():
            for record in records:
                self.values.setdefault(record["partition"], []).append(record["value"])
        self._news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def until_all(self, sent: dict[int, list[int]]) -> None:
        await self.until(lambda: all(set(self.values.get(each, ())) >= set(values) for each, values in sent.items()))

    def check(self, sent: dict[int, list[int]]) -> None:
        """Everything came in order, if once; what came twice came again in order."""
        for partition, values in sent.items():
            firsts = list(dict.fromkeys(self.values[partition]))
            assert firsts == values, f"partition {partition}"


def engine(source: str, seen: Seen, store: MemoryStore | None = None, **options: Any) -> Engine:
    made = Engine(store=store or MemoryStore(), lease_seconds=3.0)
    made.on(source, name="take", batch_size=20, **options)(seen.take)
    return made


@asynccontextmanager
async def producing(address: str, topic: str) -> AsyncIterator[tuple[dict[int, list[int]], asyncio.Event]]:
    """Acknowledged records by partition, as they become more; and what is set with each."""
    sent: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
    stored, stopping = asyncio.Event(), asyncio.Event()

    async def produce() -> None:
        options = {"enable_idempotence": True, "acks": "all", "linger_ms": 2, "request_timeout_ms": 20_000}
        async with kafka_topics.producer(address, **options) as producer:
            number = 0
            while not stopping.is_set():
                for partition in range(PARTITIONS):
                    await producer.send_and_wait(topic, str(number).encode(), partition=partition)
                    sent[partition].append(number)
                    number += 1
                stored.set()

    running = asyncio.ensure_future(produce())
    try:
        yield sent, stored
    finally:
        stopping.set()
        await running


async def restarts(broker: KafkaProcess, topic: str, count: int, seed: int) -> None:
    chance, seen = random.Random(seed), Seen()
    await kafka_topics.create(broker.address, topic, partitions=PARTITIONS)
    made = engine(f"kafka://{broker.address}/{topic}?{OPTIONS}", seen)
    async with made, producing(broker.address, topic) as (sent, _):
        for number in range(count):
            before = {partition: len(values) for partition, values in sent.items()}
            await seen.until(lambda before=before: all(
                len(seen.values.get(each, ())) > length + 20 for each, length in before.items()
            ))  # fmt: skip
            end = broker.kill if chance.random() < 0.5 or not number else broker.stop
            await asyncio.to_thread(end)
            await asyncio.to_thread(broker.start)
    async with made:
        await seen.until_all(sent)
    seen.check(sent)


async def test_a_broker_that_is_killed_and_started_again_costs_nothing(kafka_process: KafkaProcess, topic: str) -> None:
    """The shared one: it is there again, with what it had, before anybody else needs it."""
    await restarts(kafka_process, topic, 1, seed=1)


@pytest.mark.night
async def test_ten_restarts_of_a_broker_cost_nothing(tmp_path: Path, topic: str) -> None:
    with kafka.running(tmp_path) as broker:
        await restarts(broker, topic, 10, seed=2)


async def cuts(kafka_process: KafkaProcess, topic: str, count: int, seed: int) -> None:
    chance, seen, address = random.Random(seed), Seen(), kafka_process.address
    await kafka_topics.create(address, topic, partitions=PARTITIONS)
    proxy = Proxy(kafka_process.ports["PROXIED"])
    async with proxy.running(kafka_process.proxy_port):
        made = engine(f"kafka://127.0.0.1:{proxy.port}/{topic}?{OPTIONS}", seen)
        async with made, producing(address, topic) as (sent, stored):
            while proxy.cuts < count:
                stored.clear()
                direction: Direction = chance.choice(("request", "answer"))
                proxy.cut_next(direction, chance.choice((0, 1, 3, 7, 20, 100)))
                await stored.wait()
            proxy.heal()  # cuts that were planned and did not strike
        async with made:
            await seen.until_all(sent)
    seen.check(sent)


async def test_connections_that_are_cut_in_the_middle_cost_nothing(kafka_process: KafkaProcess, topic: str) -> None:
    await cuts(kafka_process, topic, 3, seed=3)


@pytest.mark.night
async def test_a_hundred_cuts_in_the_middle_cost_nothing(kafka_process: KafkaProcess, topic: str) -> None:
    await cuts(kafka_process, topic, 100, seed=4)


async def test_connections_that_trickle_or_swallow_everything_are_given_up_and_replaced(
    kafka_process: KafkaProcess, topic: str
) -> None:
    seen, address = Seen(), kafka_process.address
    await kafka_topics.create(address, topic, partitions=PARTITIONS)
    proxy = Proxy(kafka_process.ports["PROXIED"])
    async with proxy.running(kafka_process.proxy_port):
        made = engine(f"kafka://127.0.0.1:{proxy.port}/{topic}?{OPTIONS}&timeout=1", seen)
        async with made, producing(address, topic) as (sent, _):
            await seen.until(lambda: len(seen.values) == PARTITIONS)
            proxy.piece_bytes, proxy.delay_seconds = 100, 0.001
            length = len(seen.values[0])
            await seen.until(lambda: len(seen.values[0]) > length + 20)
            proxy.heal()
            proxy.swallows = True
            length = len(sent[0])
            while len(sent[0]) < length + 200:
                await asyncio.sleep(0)
            proxy.swallows = False
            proxy.cut()
            proxy.heal()
            await seen.until(lambda: seen.values[0][-1] > sent[0][length])
        async with made:
            await seen.until_all(sent)
    seen.check(sent)


async def test_answers_that_come_late_or_never_change_nothing(kafka_process: KafkaProcess, topic: str) -> None:
    """What the client sends again because it heard nothing is there once, and what it asks for again is read once."""
    seen, address, known = Seen(), kafka_process.address, list[int]()
    await kafka_topics.create(address, topic)
    proxy = Proxy(kafka_process.ports["PROXIED"])
    async with proxy.running(kafka_process.proxy_port):
        made = engine(f"kafka://127.0.0.1:{proxy.port}/{topic}?{OPTIONS}&timeout=0.6", seen)
        stream = made.stream(f"kafka://127.0.0.1:{proxy.port}/{topic}?timeout=0.6")
        async with made:
            for number in range(20):
                if number == 10:
                    proxy.delay_seconds = 0.7  # more than a request waits, twice that is more than a put does
                elif number < 5:
                    proxy.cut_next("answer", 0)
                with suppress(StoreUnavailable):
                    await stream.put(str(number).encode(), key="k")
                    known.append(number)
                if number == 10:
                    proxy.heal()
            stored = [int(each.value) for each in await kafka_topics.read_all(address, topic)]
            await seen.until(lambda: len(seen.values.get(0, ())) >= len(stored))
    assert proxy.cuts
    assert len(known) > 10
    assert [number for number in stored if number in known] == known
    assert len(set(stored)) == len(stored)
    assert seen.values == {0: stored}


async def test_a_storm_of_cancels_loses_nothing_and_confuses_nothing(kafka_process: KafkaProcess, topic: str) -> None:
    chance, address = random.Random(5), kafka_process.address
    await kafka_topics.create(address, topic)
    stream = KafkaStream(parse_kafka_url(f"kafka://{address}/{topic}"))
    told, numbers = dict[str, bytes](), count()

    async def put(number: int) -> None:
        [position] = await stream.put_many([Put(str(number).encode(), "k")])
        told[position] = str(number).encode()

    async def strike(calls: list[asyncio.Task[Any]]) -> None:
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await put(next(numbers))
        while len(told) < 50:
            puts = [loop.create_task(put(next(numbers))) for _ in range(10)]
            await asyncio.wait(puts[:5], timeout=chance.choice((0.0, 0.005)))
            await strike(puts)
        stored = await kafka_topics.read_all(address, topic)
        [shard] = await stream.shards()
        reader, got, at = stream.reader(), list[Record](), await stream.position(shard.id, "TRIM_HORIZON", None)
        reader.want(shard.id, at, 7, 1_000_000)
        await reader._opened()  # aiokafka's client leaves a connection open where its start is cancelled
        while len(got) < len(stored):
            ready = loop.create_task(reader.ready())
            await asyncio.wait([ready], timeout=chance.choice((0.0, 0.001, 0.01)))
            await strike([ready])
            if not ready.cancelled():
                for read in ready.result():
                    got += read.records
                    at = got[-1].position if got else at
                    reader.want(shard.id, at, 7, 1_000_000)
    await stream.close()
    assert [record.data for record in got] == [each.value for each in stored]
    assert len({record.data for record in got}) == len(got)
    found = {record.position: record.data for record in got}
    assert told.items() <= found.items()


# --------------------------------------------------------------------------- records that are not there


async def test_records_that_retention_removed_before_they_were_read_count_as_lost(
    kafka_process: KafkaProcess, topic: str
) -> None:
    seen, address, store = Seen(), kafka_process.address, MemoryStore()
    await kafka_topics.create(address, topic)
    source = f"kafka://{address}/{topic}?{OPTIONS}"
    async with kafka_topics.producer(address) as producer:
        for number in range(3):
            await producer.send_and_wait(topic, str(number).encode())
        async with engine(source, seen, store):
            await seen.until(lambda: seen.values == {0: [0, 1, 2]})
        for number in range(3, 10):
            await producer.send_and_wait(topic, str(number).encode())
    async with kafka_topics.admin(address) as admin:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=8)})
    async with engine(source, seen, store):
        await seen.until(lambda: seen.values == {0: [0, 1, 2, 8, 9]})
    async with Client(store) as client:
        [mapping] = await client.list_mappings()
        audit = await client.audit(mapping)
    assert audit.total.fates == {("delivered", ""): 5, ("lost", "trimmed by the source"): 5}


@pytest.mark.parametrize(("policy", "found"), [("earliest", [7, 8]), ("latest", [8])])
async def test_a_topic_made_anew_is_told_and_goes_on_where_the_url_says(
    kafka_process: KafkaProcess, topic: str, policy: str, found: list[int]
) -> None:
    seen, address, store = Seen(), kafka_process.address, MemoryStore()
    source = f"kafka://{address}/{topic}?{OPTIONS}&out_of_range={policy}"
    await kafka_topics.create(address, topic)
    async with kafka_topics.producer(address) as producer:
        for number in range(5):
            await producer.send_and_wait(topic, str(number).encode())
        async with engine(source, seen, store):
            await seen.until(lambda: seen.values == {0: [0, 1, 2, 3, 4]})
    await kafka_topics.delete(address, topic)
    await until_created(address, topic)
    async with kafka_topics.producer(address) as producer:
        await producer.send_and_wait(topic, b"7")
        made = engine(source, seen, store)
        async with made:
            [mapping] = await made.list_mappings()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "as if the topic had been made anew" not in str(
                    (await made.mapping_details(mapping)).get("trouble")
                ):
                    await asyncio.sleep(0)
            await producer.send_and_wait(topic, b"8")
            await seen.until(lambda: seen.values[0][5:] == found)


async def until_created(address: str, topic: str) -> None:
    """A deleted topic is gone only when the broker says so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await kafka_topics.create(address, topic)
                return
            except AssertionError:
                pass


async def test_a_topic_that_is_not_there_is_told_and_read_when_somebody_makes_it(
    kafka_process: KafkaProcess, topic: str
) -> None:
    seen, address = Seen(), kafka_process.address
    made = Engine(health_seconds=1.0)
    made.on(f"kafka://{address}/{topic}?{OPTIONS}", name="take")(seen.take)
    async with made:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while f"There is no topic {topic!r}" not in str(made.health()):
                await asyncio.sleep(0)
        await kafka_topics.create(address, topic)
        async with kafka_topics.producer(address) as producer:
            await producer.send_and_wait(topic, b"1")
        await seen.until(lambda: seen.values == {0: [1]})


# --------------------------------------------------------------------------- who may


@pytest.mark.parametrize(
    ("listener", "options"),
    [
        ("TLS", f"ca={CERTIFICATE}"),
        ("SASL", "sasl=PLAIN"),
        ("SASL", "sasl=SCRAM-SHA-256"),
        ("SASL", ""),
        ("SASLTLS", f"ca={CERTIFICATE}&sasl=PLAIN"),
        ("MUTUAL", f"ca={CERTIFICATE}&certificate={CERTIFICATE}"),
    ],
)
async def test_a_broker_may_ask_for_a_password_for_tls_and_for_a_certificate(
    kafka_process: KafkaProcess, topic: str, listener: str, options: str
) -> None:
    seen = Seen()
    await kafka_topics.create(kafka_process.address, topic)
    login = f"{USER}:{quote(PASSWORD)}@" if "SASL" in listener else ""
    made = Engine()
    stream = made.stream(f"kafka://{login}localhost:{kafka_process.ports[listener]}/{topic}?{OPTIONS}&{options}")
    made.on(stream, name="take")(seen.take)
    async with made:
        await stream.put(b"1", key="k")
        await seen.until(lambda: seen.values == {0: [1]})


@pytest.mark.parametrize(
    ("listener", "login", "options"), [("SASL", f"{USER}:wrong@", ""), ("MUTUAL", "", f"ca={CERTIFICATE}")]
)
async def test_a_wrong_password_and_a_missing_certificate_are_told(
    kafka_process: KafkaProcess, topic: str, listener: str, login: str, options: str
) -> None:
    await kafka_topics.create(kafka_process.address, topic)
    address = f"{login}localhost:{kafka_process.ports[listener]}"
    made = engine(f"kafka://{address}/{topic}?{OPTIONS}&{options}", Seen())
    async with made:
        [mapping] = await made.list_mappings()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "see to user, password" not in str((await made.mapping_details(mapping)).get("trouble")):
                await asyncio.sleep(0)
