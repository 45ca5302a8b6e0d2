"""A topic of Kafka, 1,000-byte records of JSON, batches of 500: lambent beside the plainest consumer and beside peers.

Decides the bounds that `make bench` holds for one broker and one core of a consumer: at least 0.7 of a loop over
aiokafka's `getmany` and `commit` that decodes what it gets, with decoded records (`?records=json`, by reference), and
0.5 in AWS's shape; twice what FastStream's batch handler (aiokafka) and Quix Streams get; and, where a handler waits
for 20 ms, eight times as much in ten lanes by key as in one. Our failure handling is on: partial failures, halving,
limits of tries and age, a topic for what is given up. Without a bound stands what that costs where one record in a
hundred is poison, beside a loop by hand that tries a failed batch again one by one and puts what fails into a topic.

All records are there before the time begins, which is when the first batch is handed over; it ends when all are
committed or, with lambent, checkpointed. The kinds take turns, each time in a process and a group of its own that keeps
to one core; figures are medians of five rounds. The peers' settings are the best of their documentation:

- aiokafka: `max_records` 500, one `commit` of explicit offsets for each batch, the same decoder as lambent's.
- FastStream: a batch handler, `max_records` 500, acknowledged after it, no validation (`apply_types=False`).
- Quix Streams: see `kafka_quix.py`. LAMBENT_BENCH_QUIX names a python that has it, by default the one that `make bench`
  installs; without, its row is missing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from benchmarks.alone import alone, main, one_core
from benchmarks.cycles import POLL_SECONDS, directory
from benchmarks.engines import engine as new_engine
from benchmarks.kafka_server import await_committed, fill, kafka, missing
from benchmarks.table import ROUNDS, Row, median, ratio

BATCH = 500
PARTITIONS = 4
POISON_EVERY = 100
LANES = 10
WAITS_SECONDS = 0.02
WAITING_BATCH = 10
TOPICS = {
    "plain": (PARTITIONS, 100_000, 0),
    "poison": (PARTITIONS, 20_000, POISON_EVERY),
    "one": (1, 10_000, 0),
    "dead": (PARTITIONS, 0, 0),
}
READ = {  # the topic, and how much of it
    "decoded": ("plain", 100_000), "aws": ("plain", 100_000), "raw": ("plain", 100_000),
    "FastStream": ("plain", 100_000), "Quix Streams": ("plain", 20_000),
    "halved": ("poison", 20_000), "reported": ("poison", 20_000), "by hand": ("poison", 20_000),
    "lanes": ("one", 10_000), "lane": ("one", 1_000),
}  # fmt: skip
QUIX = Path(os.environ.get("LAMBENT_BENCH_QUIX", ".venv-quix/bin/python")).absolute()


class Count:
    """A handler says how many records it saw and are done; time begins with the first."""

    def __init__(self, expected: int) -> None:
        self._expected = self._left = expected
        self._began = 0.0
        self._done = asyncio.Event()

    def sees(self) -> None:
        self._began = self._began or time.perf_counter()

    def done(self, records: int) -> None:
        self._left -= records
        if self._left <= 0:
            self._done.set()

    async def seconds(self, settled: Callable[[], Awaitable[object]]) -> float:
        """For each record."""
        await self._done.wait()
        await settled()
        return (time.perf_counter() - self._began) / self._expected


async def lambent(kind: str, address: str, topic: str, records: int) -> float:
    engine, count = new_engine(), Count(records)
    options = f"records={'aws' if kind == 'aws' else 'json'}&group=lambent-{time.time_ns()}"
    failing = kind in ("halved", "reported")

    @engine.function(boundary="reference", timeout_seconds=60)
    async def handler(event: dict[str, Any], context: object) -> object:
        count.sees()
        (batch,) = event["records"].values()
        if failing:
            return checked(batch)
        if kind in ("lanes", "lane"):
            await asyncio.sleep(WAITS_SECONDS)
        count.done(len(batch))
        return None

    def checked(batch: Sequence[dict[str, Any]]) -> object:
        """What the function of a topic with poison does: it fails, or says which record it is."""
        for record in batch:
            if record["value"]["poison"]:
                if kind == "reported":
                    identifier = {"partition": f"{record['topic']}-{record['partition']}", "offset": record["offset"]}
                    return {"batchItemFailures": [{"itemIdentifier": identifier}]}
                raise ValueError("poison")
        return None

    mapping = engine.map(
        f"kafka://{address}/{topic}?{options}",
        handler,
        batch_size=WAITING_BATCH if kind in ("lanes", "lane") else BATCH,
        parallelization_factor=LANES if kind == "lanes" else 1,
        report_batch_item_failures=True,
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=0 if failing else 3,
        maximum_record_age_seconds=86_400,
        on_failure=f"kafka://{address}/{dead_letters(topic)}",
        enabled=False,
    )
    async with engine:
        facts = engine._living().connection.facts

        async def settled() -> None:
            while sum(sum(shard.counts.values()) for shard in await facts.shards(mapping.id)) < records:
                await asyncio.sleep(POLL_SECONDS)

        if failing:
            count.done(records)  # who is handed over more than once is not counted in the handler
        await mapping.resume()
        return await count.seconds(settled)


async def raw(address: str, topic: str, records: int, by_hand: bool = False) -> float:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    group = f"raw-{time.time_ns()}"
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=address, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    seen, began = 0, 0.0

    def handler(events: Sequence[dict[str, Any]]) -> None:
        if by_hand and any(event["poison"] for event in events):
            raise ValueError("poison")

    while seen < records:
        for partition, found in (await consumer.getmany(timeout_ms=1_000, max_records=BATCH)).items():
            began = began or time.perf_counter()
            events = [from_json(record.value) for record in found]
            try:
                handler(events)
            except ValueError:
                dead = []
                for record, event in zip(found, events, strict=True):
                    try:
                        handler([event])
                    except ValueError:
                        dead.append(await producer.send(dead_letters(topic), record.value, key=record.key))
                await asyncio.gather(*dead)
            await consumer.commit({partition: found[-1].offset + 1})
            seen += len(found)
    seconds = (time.perf_counter() - began) / records
    await consumer.stop()
    await producer.stop()
    return seconds


async def faststream(address: str, topic: str, records: int) -> float:
    from faststream import AckPolicy
    from faststream.kafka import KafkaBroker

    silent: Any = None
    broker = KafkaBroker(address, apply_types=False, logger=silent)
    count, group = Count(records), f"faststream-{time.time_ns()}"

    @broker.subscriber(
        topic,
        group_id=group,
        batch=True,
        max_records=BATCH,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def handler(events: list[object]) -> None:
        count.sees()
        count.done(len(events))

    await broker.start()
    return await count.seconds(partial(await_committed, address, group, records))


def dead_letters(topic: str) -> str:
    """Where what is given up goes."""
    return f"dead-{topic.rpartition('-')[2]}"


PEERS = {"raw": raw, "by hand": partial(raw, by_hand=True), "FastStream": faststream}


async def measured(words: Sequence[str]) -> float:
    """Seconds a record."""
    kind, address, run = words
    one_core()
    gc.collect()
    gc.freeze()  # as `lambent run` does; for all alike
    topic, records = READ[kind]
    read = PEERS[kind] if kind in PEERS else partial(lambent, kind)
    return await read(address, f"{topic}-{run}", records)


def quix(address: str, run: str) -> float:
    topic, records = READ["Quix Streams"]
    program = Path(__file__).with_name("kafka_quix.py")
    command = [str(QUIX), str(program), address, f"{topic}-{run}", str(records), str(BATCH)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=one_core).stdout
    return float(told.splitlines()[-1])


def rows() -> list[Row]:
    if lacking := missing("kafka_streams", "aiokafka", "faststream"):
        return lacking
    kinds = [kind for kind in READ if kind != "Quix Streams" or QUIX.exists()]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    run = str(time.time_ns())
    with directory() as files, kafka(files) as address:
        for topic, (partitions, records, poison_every) in TOPICS.items():
            asyncio.run(fill(address, f"{topic}-{run}", partitions, records, poison_every))
        for _ in range(ROUNDS):
            for kind in kinds:
                each = quix(address, run) if kind == "Quix Streams" else alone("kafka_streams", kind, address, run)
                seconds[kind].append(each)
    return table(seconds)


def table(seconds: dict[str, list[float]]) -> list[Row]:
    a_second = {kind: 1 / median(each) for kind, each in seconds.items()}

    def by(base: str, measured: str, least: float | None) -> Row:
        note = f"{a_second[base]:,.0f} records/s"
        return Row(f"  by {NAMES.get(base, base)}", ratio(seconds, base, measured), "times", least=least, note=note)

    found = [
        Row("topic of Kafka, 1 KB, decoded, by reference", a_second["decoded"], "records/s"),
        by("raw", "decoded", 0.7),
    ]
    found += [by(peer, "decoded", 2.0) for peer in ("FastStream", "Quix Streams") if peer in seconds]
    found += [Row("  in AWS's shape", a_second["aws"], "records/s"), by("raw", "aws", 0.5)]
    found += [Row(f"  a handler that waits 20 ms, {LANES} lanes by key", a_second["lanes"], "records/s")]
    found += [by("lane", "lanes", 8.0)]
    for kind, name in (("halved", "halved"), ("reported", "reported in part")):
        found += [Row(f"  1 % poison, {name}", a_second[kind], "records/s"), by("by hand", kind, None)]
    return found


NAMES = {
    "raw": "getmany + commit", "FastStream": "FastStream's batch handler", "lane": "one lane",
    "by hand": "a loop by hand with a dead-letter topic",
}  # fmt: skip


if __name__ == "__main__":
    main(measured, rows)
