"""What engines observe of traffic is kept in small documents, and is what `advise` rests on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent import Client, MemoryStore, TooManyRequests
from lambent.observing import FUNCTION, MAPPING, calls_of, traffic_of
from lambent.ports import Store
from lambent.testing.loop import VirtualClock
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time


async def nothing(event: Any, context: Any) -> None: ...


async def waits(event: Any, context: Any) -> None:
    await asyncio.sleep(event["wait"])


async def documents(engine: Any, kind: str) -> dict[str, Any]:
    return {each.name: each for each in await engine._living().connection.documents.list(kind)}


async def test_what_was_observed_is_written_every_few_seconds_and_added_up_over_lives(store: Store) -> None:
    async def slow(event: Any, context: Any) -> None:
        await asyncio.sleep(0.5)

    async def other(event: Any, context: Any) -> None: ...

    for life in (1, 2):
        engine = virtual(store)
        stream, queue = engine.stream("s"), engine.queue("q")
        engine.on(stream, name="f", batch_size=4)(slow)
        engine.on(queue, name="g")(other)
        async with engine:
            await stream.put_many([({"n": n}, "k") for n in range(8)])
            await queue.send("a")
            await asyncio.sleep(12)
            found = await documents(engine, MAPPING)
            mappings = await engine.list_mappings()
            of = {each.mapping.source: traffic_of(found.get(name)) for name, each in mappings.items()}
            assert sum(of["stream:s"].arrivals.values()) == of["stream:s"].records == 8 * life
            assert of["stream:s"].sizes == {4: 2 * life}
            assert of["stream:s"].seconds == pytest.approx(1.0 * life)
            assert sum(of["queue:q"].arrivals.values()) == life
            revisions = {name: each.revision for name, each in found.items()}
            calls = {name: calls_of(each) for name, each in (await documents(engine, FUNCTION)).items()}
            assert (calls["f"].calls, calls["f"].throttles) == (2 * life, 0)
            await asyncio.sleep(60)
            after = await documents(engine, MAPPING)
            assert {name: each.revision for name, each in after.items()} == revisions, "nothing new, nothing written"


async def test_nothing_is_observed_if_so_wished() -> None:
    engine = virtual(observe_seconds=0)
    engine.on(engine.stream("s"), name="f")(nothing)
    async with engine:
        await engine.stream("s").put({}, key="k")
        await asyncio.sleep(30)
        assert not await documents(engine, MAPPING)
        assert not await documents(engine, FUNCTION)


async def test_two_engines_add_to_the_same_documents() -> None:
    store = MemoryStore()
    engines = [virtual(store, seed=seed) for seed in (1, 2)]
    for engine in engines:
        engine.function(name="f")(nothing)
    one, two = engines
    async with one, two:
        await asyncio.sleep(5)  # until each has its part of what may run
        for _ in range(3):
            await one.invoke("f", {})
            await two.invoke("f", {})
        await asyncio.sleep(12)
        assert calls_of((await documents(one, FUNCTION))["f"]).calls == 6


async def test_advice_is_given_on_what_was_observed(store: Store) -> None:
    engine = virtual(store)

    async def packs(event: Any, context: Any) -> None:
        await asyncio.sleep(0.3 + 0.001 * len(event["Records"]))

    engine.function(name="g", reserved_concurrency=1)(waits)
    engine.map(engine.queue("q"), "g")
    engine.on(engine.stream("s"), name="f", batch_size=2)(packs)
    async with engine:
        for second in range(30):
            await engine.stream("s").put_many([({}, "k") for _ in range(1 if second < 15 else 20)])
            await asyncio.sleep(1)
        slow = asyncio.create_task(engine.invoke("g", {"wait": 2}))
        await asyncio.sleep(1)
        with pytest.raises(TooManyRequests):
            await engine.invoke("g", {"wait": 0})
        await slow
        await asyncio.sleep(20)
    async with Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=3) as client:
        advice, (sweep,) = await client.advise()
    said = {(each.subject, each.setting) for each in advice}
    assert ("mapping stream:s -> f", "batch_size, maximum_batching_window_seconds") in said
    assert ("function g", "reserved_concurrency") in said
    assert ("queue q", "visibility_timeout_seconds") not in said
    assert sweep.duration.of(2) == pytest.approx(0.302, abs=0.01)
