"""The shard loop as a shell: ending, losing, limits on reading ahead. What it decides is tested in `semantics/`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent.errors import StoreUnavailable
from lambent.model import Put, Stream, StreamMapping
from lambent.polling.stream import ReadAhead, StreamLoop
from tests.engine.conftest import Bench

pytestmark = pytest.mark.virtual_time


class Seen:
    """A function that notes the batches it got, and can be made to wait."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.got = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, event: Any, context: Any) -> None:
        self.batches.append([record["kinesis"]["partitionKey"] for record in event["Records"]])
        self.got.set()
        await self.may_end.wait()

    @property
    def keys(self) -> list[str]:
        return [key for batch in self.batches for key in batch]


def stream_loop(bench: Bench, source: Any, leases: Any = None, **options: Any) -> StreamLoop:
    settings: dict[str, Any] = {"source": "stream:s", "function": "f", **options}
    return StreamLoop(
        mapping_id="mapping-1",
        mapping=StreamMapping(**settings),
        source=source,
        leases=leases or bench.connection.leases,
        invoker=bench.invoker,
        destinations=bench.destinations,
        telemetry=bench.telemetry,
        world=bench.world,
        lease_seconds=10.0,
        read_ahead=ReadAhead(),
    )


async def put(source: Any, *keys: str) -> None:
    await source.put_many([Put(b"{}", key) for key in keys])


async def test_a_drained_loop_takes_no_shard_again(bench: Bench) -> None:
    seen = Seen()
    bench.add(seen)
    source = bench.connection.stream(Stream(name="s", shards=3))
    await put(source, "a", "b", "c")
    stopping = asyncio.Event()
    running = asyncio.create_task(stream_loop(bench, source).run(stopping))
    await seen.got.wait()
    stopping.set()
    async with asyncio.timeout(5):
        await running
    holdings = await bench.connection.leases.heartbeat("mapping-1", ["shardId-000000000000"], 10.0)
    assert all(lease.free for lease in holdings.leases.values())


async def test_draining_waits_for_the_batch_under_way_and_stores_its_progress(bench: Bench) -> None:
    seen = Seen()
    seen.may_end.clear()
    bench.add(seen, timeout_seconds=900)
    source = bench.connection.stream(Stream(name="s"))
    await put(source, "a", "b")
    stopping = asyncio.Event()
    running = asyncio.create_task(stream_loop(bench, source).run(stopping))
    await seen.got.wait()
    stopping.set()
    await asyncio.sleep(0)
    assert not running.done()
    seen.may_end.set()
    await running
    [shard] = await bench.connection.facts.shards("mapping-1")
    assert shard.counts == {("delivered", ""): 2}
    again = Seen()
    bench.runtime.register(bench.functions["f"], again)
    await put(source, "c")
    resumed = asyncio.create_task(stream_loop(bench, source).run(asyncio.Event()))
    await again.got.wait()
    resumed.cancel()
    await asyncio.wait([resumed])
    assert again.keys == ["c"]


async def test_a_stop_gives_the_attempt_under_way_back(bench: Bench) -> None:
    seen = Seen()
    seen.may_end.clear()
    bench.add(seen, timeout_seconds=900)
    source = bench.connection.stream(Stream(name="s"))
    await put(source, "a")
    running = asyncio.create_task(stream_loop(bench, source, maximum_retry_attempts=0).run(asyncio.Event()))
    await seen.got.wait()
    running.cancel()
    await asyncio.wait([running])
    assert not any(bench.concurrency.running().values())
    seen.got.clear()
    seen.may_end.set()
    resumed = asyncio.create_task(stream_loop(bench, source, maximum_retry_attempts=0).run(asyncio.Event()))
    await seen.got.wait()
    resumed.cancel()
    await asyncio.wait([resumed])
    assert seen.keys == ["a", "a"]


@pytest.mark.parametrize("first", ["ended", "stopped"])
async def test_a_stop_does_not_give_an_attempt_back_that_ends_in_the_same_step(bench: Bench, first: str) -> None:
    """What it did counts. Seed 10570."""
    seen = Seen()
    bench.add(seen)
    source = bench.connection.stream(Stream(name="s"))
    for key in ("a", "b"):
        seen.got.clear()
        seen.may_end.clear()
        await put(source, key)
        running = asyncio.create_task(stream_loop(bench, source).run(asyncio.Event()))
        await seen.got.wait()
        for act in (seen.may_end.set, running.cancel)[:: 1 if first == "ended" else -1]:
            act()
        await asyncio.wait([running])
    assert seen.keys == ["a", "b"]
    assert not any(bench.concurrency.running().values())


class Unreliable:
    """Real leases or a real source whose named calls fail for a while."""

    def __init__(self, real: Any, name: str, failures: int) -> None:
        self._real, self._name, self._failures = real, name, failures
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._name:
            return real

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self._failures:
                self._failures -= 1
                raise StoreUnavailable("away")
            return await real(*arguments, **named)

        return call


@pytest.mark.parametrize("name", ["heartbeat", "take_many", "checkpoint_many"])
async def test_leases_that_are_away_for_a_while_lose_nothing(bench: Bench, name: str) -> None:
    seen = Seen()
    bench.add(seen)
    source = bench.connection.stream(Stream(name="s"))
    await put(source, "a")
    leases = Unreliable(bench.connection.leases, name, failures=3)
    running = asyncio.create_task(stream_loop(bench, source, leases).run(asyncio.Event()))
    await seen.got.wait()
    running.cancel()
    await asyncio.wait([running])
    assert seen.keys == ["a"]


async def test_a_stream_that_is_away_is_asked_for_its_shards_at_each_heartbeat_and_no_more(bench: Bench) -> None:
    seen = Seen()
    bench.add(seen)
    source = Unreliable(bench.connection.stream(Stream(name="s")), "shards", failures=20)
    loop = stream_loop(bench, source)
    running = asyncio.create_task(loop.run(asyncio.Event()))
    loop._ownership.look_now()
    await asyncio.sleep(30.0)
    assert source.calls <= 10  # a third of a lease apart, and one for the hurry
    await asyncio.sleep(60.0)
    await put(source, "a")
    await seen.got.wait()
    running.cancel()
    await asyncio.wait([running])


async def test_a_lost_answer_of_the_reader_is_asked_for_again(bench: Bench) -> None:
    seen = Seen()
    bench.add(seen)
    source = bench.connection.stream(Stream(name="s"))
    await put(source, "a")
    real = source.reader()

    class Forgetful:
        """Loses its first answer."""

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        async def ready(self, lost: list[object] = []) -> Any:  # noqa: B006  # remembers across calls
            answer = await real.ready()
            if not lost:
                lost.append(answer)
                raise StoreUnavailable("the answer is lost")
            return answer

    source.reader = lambda group: Forgetful()
    running = asyncio.create_task(stream_loop(bench, source).run(asyncio.Event()))
    await seen.got.wait()
    running.cancel()
    await asyncio.wait([running])
    assert seen.keys == ["a"]


def test_what_an_engine_reads_ahead_has_one_budget() -> None:
    budget, freed = ReadAhead(limit_bytes=100), []
    assert budget.may_read(lambda: freed.append("first"))
    budget.changed(100)
    assert not budget.may_read(lambda: freed.append("second"))
    assert freed == []
    budget.changed(-1)
    assert freed == ["second"]
    budget.changed(-1)
    assert freed == ["second"]
