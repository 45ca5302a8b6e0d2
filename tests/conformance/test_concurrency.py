"""Which invocations may run at once: account, reservations, mappings, bursts (the rules behind area 04)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent import Engine, InvalidParameterValue, TooManyRequests

from .conftest import Calls, make_engine

pytestmark = pytest.mark.virtual_time(deterministic=True)

RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
ACCOUNT = "ConcurrentInvocationLimitExceeded"
BELOW = (
    "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its "
    "minimum value of [100]."
)


async def reasons(engine: Engine, *names: str) -> list[str | None]:
    """Call all at once: None for a call that was admitted, AWS's reason for one that was not."""

    async def call(name: str) -> str | None:
        try:
            await engine.invoke(name)
        except TooManyRequests as refused:
            return refused.reason
        return None

    return list(await asyncio.gather(*map(call, names)))


async def test_a_function_with_a_reservation_runs_so_often_at_once_and_no_more(engine: Engine) -> None:
    calls = Calls(seconds=1)
    engine.function(reserved_concurrency=2)(calls)
    async with engine:
        assert await reasons(engine, *["function"] * 4) == [None, None, RESERVED, RESERVED]
        assert await reasons(engine, "function") == [None]
    assert calls.most == 2


async def test_functions_without_a_reservation_share_what_is_left_of_the_account() -> None:
    engine = make_engine(account_concurrency=103)
    engine.function(name="reserved", reserved_concurrency=3)(Calls(seconds=1))
    engine.function(name="one")(Calls(seconds=1))
    engine.function(name="other")(Calls(seconds=1))
    async with engine:
        answers = await reasons(engine, *["one"] * 60, *["other"] * 41, *["reserved"] * 4)
    assert answers == [None] * 100 + [ACCOUNT] + [None] * 3 + [RESERVED]


@pytest.mark.parametrize(("reserved", "account"), [(901, 1000), (1, 100), (5, 104), (1000, 1000)])
async def test_a_reservation_leaves_100_to_the_others(reserved: int, account: int) -> None:
    engine = make_engine(account_concurrency=account)
    with pytest.raises(InvalidParameterValue) as refused:
        engine.function(reserved_concurrency=reserved)(Calls())
    assert refused.value.message.startswith(BELOW)
    assert (refused.value.aws_name, refused.value.status) == ("InvalidParameterValueException", 400)


async def test_reservations_together_leave_100_to_the_others() -> None:
    engine = make_engine(account_concurrency=110)
    engine.function(name="one", reserved_concurrency=6)(Calls())
    engine.function(name="zero", reserved_concurrency=0)(Calls())
    with pytest.raises(InvalidParameterValue) as refused:
        engine.function(name="other", reserved_concurrency=5)(Calls())
    assert refused.value.message.startswith(BELOW)
    engine.function(name="other", reserved_concurrency=4)(Calls())


async def test_a_reservation_can_be_put_changed_and_removed(engine: Engine) -> None:
    calls = Calls(seconds=1)
    engine.function(calls)
    async with engine:
        assert (await engine.get_function(calls)).reserved_concurrency is None
        assert (await engine.update_function(calls, reserved_concurrency=0)).reserved_concurrency == 0
        assert (await engine.get_function(calls)).reserved_concurrency == 0
        assert await reasons(engine, "function") == [RESERVED]
        assert (await engine.update_function(calls, reserved_concurrency=1)).reserved_concurrency == 1
        assert await reasons(engine, *["function"] * 2) == [None, RESERVED]
        assert (await engine.update_function(calls, reserved_concurrency=None)).reserved_concurrency is None
        assert await reasons(engine, *["function"] * 3) == [None] * 3
        with pytest.raises(InvalidParameterValue) as refused:
            await engine.update_function(calls, reserved_concurrency=901)
        assert refused.value.message.startswith(BELOW)


async def test_one_function_grows_by_a_thousand_every_ten_seconds() -> None:
    engine = make_engine(account_concurrency=10_000)
    engine.function(timeout_seconds=900)(Calls(seconds=800))
    async with engine:

        async def admitted() -> int:
            tasks.extend(asyncio.create_task(engine.invoke("function")) for _ in range(1500))
            for _ in range(5):
                await asyncio.sleep(0)
            refused = [task for task in tasks if task.done()]
            assert all(isinstance(task.exception(), TooManyRequests) for task in refused)
            running = len(tasks) - len(refused)
            tasks[:] = [task for task in tasks if not task.done()]
            return running

        tasks: list[asyncio.Task[Any]] = []
        assert await admitted() == 1000
        await asyncio.sleep(5)
        assert 1490 <= await admitted() <= 1510
        await asyncio.sleep(10)
        assert 2490 <= await admitted() <= 2510
        await engine.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_queue_mapping_runs_at_most_so_often_at_once(engine: Engine) -> None:
    queue = engine.queue("q", visibility_timeout_seconds=900)
    calls = Calls(seconds=10)
    engine.function(timeout_seconds=60)(calls)
    engine.map(queue, calls, batch_size=1, maximum_concurrency=2)
    async with engine:
        await queue.send_many(range(7))
        await asyncio.sleep(100)
    assert calls.most == 2
    assert len(calls.events) == 7


async def test_a_throttled_queue_batch_goes_back_and_its_receive_is_not_counted(engine: Engine) -> None:
    queue = engine.queue(
        "q", visibility_timeout_seconds=900, max_receive_count=1, dead_letter_queue=engine.queue("dead")
    )
    calls = Calls(seconds=10)
    engine.function(reserved_concurrency=1, timeout_seconds=60)(calls)
    engine.map(queue, calls, batch_size=1)
    async with engine:
        await queue.send_many(range(5))
        await asyncio.sleep(300)
    assert calls.most == 1
    assert sorted(record["body"] for record in calls.records) == list("01234")
    assert {record["attributes"]["ApproximateReceiveCount"] for record in calls.records} == {"1"}


async def test_a_throttled_shard_waits_and_uses_up_no_retry(engine: Engine) -> None:
    stream, dead = engine.stream("s"), engine.queue("dead")
    calls = Calls(seconds=30)
    engine.function(reserved_concurrency=1, timeout_seconds=60)(calls)
    engine.map(stream, calls, maximum_retry_attempts=0, on_failure=dead)
    async with engine:
        sync = asyncio.create_task(engine.invoke(calls, {"Records": []}))
        await asyncio.sleep(1)
        await stream.put({"n": 1}, key="k")
        await sync
        await asyncio.sleep(100)
        assert not await dead.receive()
    assert len(calls.records) == 1
    assert calls.at[1] >= 30
