"""Engines of a consumer group, on virtual time: whenever it rebalances, nothing is lost, runs twice or out of order."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import pytest

from lambent import Engine, declaring, life
from lambent.model import Put, Stream
from lambent.ports import World
from lambent.stores.memory import MemoryStore
from lambent.testing.election import Group
from lambent.testing.loop import VirtualClock, run

SHARDS, RECORDS, EVENTS = 4, 200, 8


class Elected:
    """A stream of the store's, with a group's election; as `lambent.sources` would give it."""

    kind = "stream"

    def __init__(self, stream: Any, group: Group) -> None:
        self._stream, self._group = stream, group

    def __call__(self, url: str, world: World) -> Elected:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def reader(self, group: str = "") -> Any:
        return self._group.reader(self._stream.reader(group))


async def day(seed: int, monkeypatch: pytest.MonkeyPatch) -> Group:
    chance, store = random.Random(seed), MemoryStore()
    clock = VirtualClock(asyncio.get_running_loop())
    ids = (f"00000000-0000-4000-8000-{number:012d}" for number in range(10**9))
    connection = await store.connect(World("producer", clock, chance.random, lambda: next(ids)))
    stream = connection.stream(Stream(name="s", shards=SHARDS))
    group = Group(
        [shard.id for shard in await stream.shards()], chance.random, drain_seconds=chance.choice((0.5, 24.0))
    )
    elected, seen, count = Elected(stream, group), defaultdict[str, list[int]](list), 0
    for module in (declaring, life):
        monkeypatch.setattr(module, "load_source", lambda url: elected)

    async def take(event: dict[str, Any], context: object) -> None:
        nonlocal count
        await asyncio.sleep(chance.choice((0.0, 0.01, 0.5, 5.0)))
        for record in event["Records"]:
            seen[record["kinesis"]["partitionKey"]].append(int(record["kinesis"]["sequenceNumber"]))
            count += 1

    async def put() -> None:
        for number in range(RECORDS):
            await stream.put_many([Put(b"x", f"k{number % 16}")])
            await asyncio.sleep(chance.random() * 0.3)

    def engine() -> Engine:
        made = Engine(store=store, drain_seconds=60.0)
        made.on("sim://s", name="take", timeout_seconds=30, batch_size=5)(take)
        return made

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        tasks.create_task(put())
        running = [await stack.enter_async_context(AsyncExitStack())]
        await running[0].enter_async_context(engine())
        for _ in range(EVENTS):
            await asyncio.sleep(chance.random() * 15)
            if len(running) > 1 and chance.random() < 0.5:
                await running.pop(chance.randrange(len(running))).aclose()
            else:
                running.append(await stack.enter_async_context(AsyncExitStack()))
                await running[-1].enter_async_context(engine())
        async with asyncio.timeout(600):
            while count < RECORDS:
                await asyncio.sleep(1)
    assert count == RECORDS, f"seed {seed}: {count - RECORDS} ran twice"
    for positions in seen.values():
        assert positions == sorted(positions), f"seed {seed}"
    return group


def days(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    rebalances = 0
    for seed in seeds:
        rebalances += run(day(seed, monkeypatch), seed=seed).rebalances
    assert rebalances > 4 * len(seeds)


def test_whenever_a_group_rebalances_nothing_is_lost_or_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    days(range(10), monkeypatch)


@pytest.mark.night
def test_a_thousand_days_of_rebalances_lose_nothing_and_run_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    days(range(1000, 2000), monkeypatch)
