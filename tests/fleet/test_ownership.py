"""Who has what when engines that share a store die, join, or are stopped for so long that others have what they had."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import pytest

from lambent.settings import EngineSettings
from lambent.stores.memory import MemoryStore
from lambent.telemetry import OVERRUN_EVENT_COUNT
from lambent.testing.loop import VirtualLoop, with_process
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time

SHARDS = 8
BEAT_SECONDS = EngineSettings().lease_seconds / 3
ONE_EACH = [("x", f"{number}") for number in range(40)]  # in each shard there are some of these keys


class Host:
    """An engine in a process of its own, which can be killed or paused, and what its function was called with."""

    def __init__(self, name: str, store: MemoryStore, **options: Any) -> None:
        self.name = name
        self.engine = virtual(store, seed=crc32(name.encode()))
        self.seconds = 0.0  # that the function takes
        self.got: list[tuple[float, str]] = []  # when, and of which shard, queue or kind
        stream, queue = self.engine.stream("s", shards=SHARDS), self.engine.queue("q", visibility_timeout_seconds=10)
        self.engine.function(name="note", timeout_seconds=10)(self._note)
        self.mapping = self.engine.map(stream, "note", **options)
        self.queue_mapping = self.engine.map(queue, "note")

    async def start(self) -> None:
        with with_process(self.name):
            await asyncio.create_task(self.engine.start())

    async def _note(self, event: Any) -> None:
        loop = asyncio.get_running_loop()
        for record in event.get("Records", [{"eventID": "event:"}]):
            self.got.append((loop.time(), record.get("eventID", "message:").partition(":")[0]))
        await asyncio.sleep(self.seconds)

    def overruns(self) -> dict[str, int]:
        return {name: int(count) for name, count in self.engine.telemetry.counter(OVERRUN_EVENT_COUNT).items()}

    @property
    def shards(self) -> set[str]:
        return {shard for _, shard in self.got if shard.startswith("shard")}


def loop() -> VirtualLoop:
    running = asyncio.get_running_loop()
    assert isinstance(running, VirtualLoop)
    return running


async def put(host: Host, data: Sequence[tuple[str, str]] = ONE_EACH) -> None:
    await host.engine.stream("s").put_many(data)


@pytest.mark.parametrize("beat", range(4))
async def test_what_a_dead_engine_had_is_taken_over_within_ten_seconds(beat: int) -> None:
    """Whenever it dies, and however its heartbeats and the other engine's lie to one another."""
    longest = 0.0
    for apart in range(8):
        store = MemoryStore()
        dies, lives = Host(f"dies {beat} {apart}", store), Host(f"lives {beat} {apart}", store)
        await dies.start()
        await asyncio.sleep(apart / 8 * BEAT_SECONDS)
        await lives.start()
        await asyncio.sleep(10 * BEAT_SECONDS + (beat + 0.001) / 4 * BEAT_SECONDS)
        died_at = loop().time()
        loop().kill(dies.name)
        await put(lives)
        await asyncio.sleep(60)
        assert len(lives.shards) == SHARDS
        longest = max(longest, *(at - died_at for at, _ in lives.got))
        await lives.engine.stop()
    assert longest < 10
    assert longest > 7  # so that it is known that the lease had to run out


async def test_shards_go_to_an_engine_that_joins_until_all_have_the_same() -> None:
    store = MemoryStore()
    hosts = [Host(f"engine {number}", store) for number in range(4)]
    for count, joins in enumerate(hosts, 1):
        await joins.start()
        await asyncio.sleep(10)
        for each in hosts:
            each.got.clear()
        await put(hosts[0])
        await asyncio.sleep(1)
        there = hosts[:count]
        assert all(SHARDS // count <= len(each.shards) <= -(-SHARDS // count) for each in there)
        assert sum(len(each.shards) for each in there) == SHARDS
        assert sum(len(each.got) for each in there) == len(ONE_EACH)
    for each in hosts:
        await each.engine.stop()


async def test_an_engine_that_wakes_after_its_time_writes_and_starts_nothing_and_what_it_ran_is_void() -> None:
    """Its leases, its messages' visibility and its events' claims ran out; another engine did all of it meanwhile."""
    store = MemoryStore()
    sleeps = Host("sleeps", store, batch_size=1)
    sleeps.seconds = 5.0
    await sleeps.start()
    await asyncio.sleep(1)
    with with_process(sleeps.name):
        await put(sleeps, [("x", "one key")] * 3)  # the second and the third are read, and wait for the first
        await sleeps.engine.queue("q").send("x")
        await sleeps.engine.invoke_async("note", {})
    await asyncio.sleep(1)
    began = Counter(what for _, what in sleeps.got)
    assert sorted(began.values()) == [1, 1, 1]
    loop().pause(sleeps.name, 3600)
    lives = Host("lives", store, batch_size=1)
    await lives.start()
    await asyncio.sleep(3590)
    did = Counter(what for _, what in lives.got)
    assert did == {**began, next(iter(lives.shards)): 3}
    before = await lives.engine.audit(lives.mapping.id)
    assert (before.total.passed, before.total.waiting, before.balanced) == (3, 0, True)
    await asyncio.sleep(120)
    assert Counter(what for _, what in sleeps.got) == began
    assert Counter(what for _, what in lives.got) == did
    assert await lives.engine.audit(lives.mapping.id) == before
    assert sleeps.overruns() == {sleeps.mapping.id: 1, sleeps.queue_mapping.id: 1, "events": 1}
    assert not lives.overruns()
    for each in (sleeps, lives):
        await each.engine.stop()
