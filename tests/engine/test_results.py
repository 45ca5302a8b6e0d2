"""What becomes of an asynchronous event can be asked for: `engine.event`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lambent import Engine, ResourceNotFound
from lambent.model import EventFact
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def reaches(engine: Engine, request_id: str, *states: str) -> EventFact:
    while (fact := await engine.event(request_id)).state not in states:
        await asyncio.sleep(0.5)
    return fact


async def test_an_event_that_succeeded_can_be_asked_for_its_answer() -> None:
    engine = virtual()

    @engine.function
    async def double(event: Any) -> Any:
        return {"twice": 2 * event["n"]}

    async with engine:
        request_id = await engine.invoke_async(double, {"n": 4})
        fact = await reaches(engine, request_id, "succeeded")
        assert json.loads(fact.result) == {"twice": 8}
        assert (fact.event.function, fact.event.attempts, fact.reason) == ("double", 1, "")


async def test_an_answer_by_reference_is_kept_as_json() -> None:
    engine = virtual()

    @engine.function(boundary="reference")
    async def things(event: Any) -> Any:
        return {"thing": object(), "n": 1}

    async with engine:
        fact = await reaches(engine, await engine.invoke_async(things, {}), "succeeded")
        assert json.loads(fact.result) == {"thing": "<object>", "n": 1}


async def test_an_event_waits_because_of_the_error_of_its_last_try_and_ends_with_it() -> None:
    engine = virtual()

    @engine.function
    async def fails(event: Any) -> Any:
        raise ValueError("no paper")

    async with engine:
        request_id = await engine.invoke_async(fails, {})
        await asyncio.sleep(1)
        fact = await reaches(engine, request_id, "waiting")
        assert json.loads(fact.reason)["errorMessage"] == "no paper"
        assert 58 < fact.due_at - engine._clock.now() < 60
        fact = await reaches(engine, request_id, "failed")
        assert json.loads(fact.result)["errorType"] == "ValueError"
        assert fact.event.attempts == 3


async def test_an_event_whose_destination_refuses_says_so_and_keeps_its_result() -> None:
    engine = virtual()

    @engine.function(on_success="queue:results")
    async def large(event: Any) -> Any:
        return "x" * 1_100_000

    engine.queue("results")
    async with engine:
        fact = await reaches(engine, await engine.invoke_async(large, {}), "destination-failed")
        assert "note" in json.loads(fact.result)
        assert "bytes" in fact.reason


async def test_an_event_that_was_cut_off_by_a_stop_waits_as_drained() -> None:
    store = Engine().store
    engine = virtual(store, drain_seconds=0)
    begun = asyncio.Event()

    @engine.function(timeout_seconds=900)
    async def slow(event: Any) -> Any:
        begun.set()
        await asyncio.sleep(600)

    async with engine:
        request_id = await engine.invoke_async(slow, {})
        await begun.wait()
    again = virtual(store)
    async with again:
        fact = await again.event(request_id)
        assert (fact.state, fact.reason, fact.event.attempts) == ("waiting", "drained", 0)


async def test_who_asks_for_an_unknown_event_is_told_where_it_may_be() -> None:
    async with virtual() as engine:
        with pytest.raises(ResourceNotFound, match="no event 123: it was accepted by another one, or it ended so long"):
            await engine.event("123")
