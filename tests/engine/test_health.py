"""An engine looks after itself: red while what waits does not get done, green again once it does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent import Client, Engine
from lambent.errors import EngineStopped, StoreUnavailable
from lambent.ports import Store
from lambent.semantics.health import Finding, Health
from lambent.stores.memory import MemoryDocuments, MemoryStore
from lambent.stores.memory_stream import MemoryReader
from lambent.testing.loop import VirtualClock
from lambent.vitals import SHARDS_A_LOOK
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time


class Gate:
    """A handler that hangs until it is let through, whatever its time limit: then it fails and is tried again."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, event: Any, context: Any) -> str:
        await self.open.wait()
        return "done"


def gated(engine: Engine, gate: Gate, **options: Any) -> None:
    async def f(event: Any, context: Any) -> str:
        return await gate(event, context)

    engine.function(f, **{"timeout_seconds": 20, **options})


def red(health: Health) -> list[Finding]:
    return [each for each in health.findings if each.red]


async def turns_red_and_green(engine: Engine, gate: Gate, subject: str, said: str) -> None:
    assert not engine.health().red
    await asyncio.sleep(60)
    assert not engine.health().red  # a call may take its time
    await asyncio.sleep(40)
    (found,) = red(engine.health())
    assert (found.subject, said in " ".join(found.sentences)) == (subject, True), found
    gate.open.set()
    await asyncio.sleep(60)
    assert not engine.health().red


async def test_a_shard_whose_handler_hangs_is_red_until_it_moves(store: Store) -> None:
    engine, gate = virtual(store), Gate()
    gated(engine, gate)
    stream = engine.stream("s")
    engine.map(stream, "f")
    async with engine:
        await stream.put("1", key="k")
        await turns_red_and_green(engine, gate, "stream:s → f", "at least 1 waits in shardId-")


async def test_calls_that_may_take_long_are_green_while_a_queue_grows(store: Store) -> None:
    engine, gate = virtual(store), Gate()
    gated(engine, gate, timeout_seconds=600)
    queue = engine.queue("q", visibility_timeout_seconds=3600)
    engine.map(queue, "f", batch_size=1, maximum_concurrency=2)
    async with engine:
        await queue.send_many(range(5))
        await asyncio.sleep(600)
        assert not engine.health().red
        await queue.send_many(range(5))
        await asyncio.sleep(305)
        assert not engine.health().red  # two calls reached their limit: that is an end, too


async def test_a_queue_that_grows_while_no_call_begins_is_red_until_one_ends(store: Store) -> None:
    engine, gate = virtual(store), Gate()
    gated(engine, gate, timeout_seconds=20, reserved_concurrency=1)
    queue = engine.queue("q", visibility_timeout_seconds=3600)
    engine.map(queue, "f", batch_size=1)
    async with engine:
        held = asyncio.create_task(holds(engine))
        await queue.send_many(range(5))
        await asyncio.sleep(100)
        (found,) = red(engine.health())
        assert found.subject == "queue:q → f"
        assert "at least 5 wait, and for" in found.sentences[0]
        held.cancel()
        await asyncio.wait({held})
        gate.open.set()
        await asyncio.sleep(10)
        assert not engine.health().red


async def holds(engine: Engine) -> None:
    """Keep the only permit of the function, as a call would that never ends."""
    life = engine._living()
    permit = life.invoker.admit("f")
    try:
        await asyncio.Event().wait()
    finally:
        life.invoker.release(permit)  # type: ignore[arg-type]


async def test_events_that_are_due_and_find_no_room_are_red_until_one_runs(store: Store) -> None:
    engine, gate = virtual(store), Gate()
    gated(engine, gate, reserved_concurrency=1)
    async with engine:
        held = asyncio.create_task(holds(engine))
        await asyncio.sleep(1)
        await engine.invoke_async("f", {})
        await asyncio.sleep(60)
        assert not engine.health().red
        await asyncio.sleep(40)
        (found,) = red(engine.health())
        assert found.subject == "events of f"
        assert found.sentences[0].startswith("Of its events at least 1 waits, and for")
        gate.open.set()
        held.cancel()
        await asyncio.sleep(10)
        assert not engine.health().red


async def test_a_reader_that_does_not_hear_what_came_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, gate = virtual(), Gate()
    gate.open.set()
    gated(engine, gate)
    stream = engine.stream("s", shards=3 * SHARDS_A_LOOK)
    engine.map(stream, "f")
    real, deaf = MemoryReader.ready, asyncio.Event()

    async def ready(reader: MemoryReader) -> Any:
        reads = await real(reader)
        if deaf.is_set():
            await asyncio.Event().wait()
        return reads

    monkeypatch.setattr(MemoryReader, "ready", ready)
    async with engine:
        await asyncio.sleep(30)
        await stream.put("1", key="k")
        await asyncio.sleep(30)
        deaf.set()
        await stream.put("2", key="k")
        await asyncio.sleep(60)
        assert not engine.health().red
        await asyncio.sleep(40)
        (found,) = red(engine.health())
        assert found.subject == "stream:s → f"
        assert found.sentences[0].startswith("Of its records at least 1 waits in shardId-")


async def test_an_idle_a_paused_and_a_stopped_mapping_are_green() -> None:
    engine, gate = virtual(), Gate()
    gated(engine, gate, reserved_concurrency=0)
    queue, stream = engine.queue("q"), engine.stream("s")
    engine.map(queue, "f")
    engine.map(stream, "f", enabled=False)
    async with engine:
        await queue.send("1")
        await stream.put("1", key="k")
        await asyncio.sleep(600)
        health = engine.health()
        assert not health.red
        said = {each.subject: each.sentences for each in health.findings}
        assert said["queue:q → f"] == ("Its function f is stopped by reserved_concurrency=0: raise it when it shall "
                                       "run again.",)  # fmt: skip
        assert "stream:s → f" not in said


async def test_a_store_that_cannot_be_used_is_red_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = virtual()

    async def away(*_: object) -> Any:
        raise StoreUnavailable("the disk is gone")

    async def silent(*_: object) -> Any:
        await asyncio.Event().wait()

    async def broken(*_: object) -> Any:
        raise KeyError("x")

    async with engine:
        await asyncio.sleep(10)
        told = ((away, "the disk is gone"), (silent, "has not answered for 5 seconds"), (broken, "KeyError('x')"))
        for trouble, said in told:
            with monkeypatch.context() as patch:
                patch.setattr(MemoryDocuments, "get", trouble)
                await asyncio.sleep(15)
                (found,) = red(engine.health())
                assert (found.subject, said in found.sentences[0]) == ("engine", True)
            await asyncio.sleep(15)
            assert not engine.health().red


async def test_a_mapping_that_cannot_run_is_red_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, gate = virtual(), Gate()
    gated(engine, gate)
    engine.map(engine.stream("s"), "f")

    def broken(**_: object) -> Any:
        raise RuntimeError("no reader")

    with monkeypatch.context() as patch:
        patch.setattr("lambent.life.StreamLoop", broken)
        async with engine:
            await asyncio.sleep(10)
            (found,) = red(engine.health())
            assert (found.subject, "RuntimeError('no reader')" in found.sentences[0]) == ("stream:s → f", True)
            patch.undo()
            await asyncio.sleep(120)
            assert not engine.health().red


async def test_an_engine_that_is_not_started_or_drains_has_no_health() -> None:
    engine = virtual()
    with pytest.raises(EngineStopped):
        engine.health()


async def test_a_client_hears_of_all_engines_and_of_one_that_is_silent() -> None:
    store = MemoryStore()
    client = Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=9)
    async with client:
        assert (await client.health()).red
        async with virtual(store), virtual(store, seed=2) as second:
            health = await client.health()
            assert (health.red, health.engines) == (False, 2)
            desk = next(task for task in asyncio.all_tasks() if task.get_name() == "desk: show")
            desk.cancel()  # as if its process was stopped: what it told a moment ago counts no more
            (found,) = red(await client.health())
            assert "1 of 2 engines do not tell how they are" in found.sentences[0]
            assert not second.health().red
