"""The one way to a handler: permits are never lost, waiting is fair, outcomes are counted."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from lambent.errors import ResourceNotFound
from lambent.invoker import Invoker, value_of
from lambent.model import Failed, Function, Invocation, Outcome, Succeeded, Throttled, Unavailable
from lambent.ports import World
from lambent.runtimes.in_process import InProcess
from lambent.semantics.concurrency import Concurrency, Permit
from lambent.telemetry import Telemetry
from lambent.testing.loop import VirtualClock, run


class House:
    """An invoker with all that it needs."""

    def __init__(self, account: int = 1000, **handlers: Callable[..., object]) -> None:
        world = World("engine", VirtualClock(asyncio.get_running_loop()), lambda: 0.5, lambda: "id")
        self.concurrency = Concurrency(account)
        self.telemetry = Telemetry()
        self.runtime = InProcess(world=world, executor=lambda call: call())
        self.functions: dict[str, Function] = {}
        for name, handler in handlers.items():
            self.functions[name] = Function(name=name, timeout_seconds=2)
            self.runtime.register(self.functions[name], handler)
        self.invoker = Invoker(
            functions=self.functions,
            runtime=self.runtime,
            concurrency=self.concurrency,
            telemetry=self.telemetry,
            world=world,
        )

    async def invoke(self, name: str, event: object = None, mapping: str | None = None) -> Outcome:
        return await self.invoker.invoke(Invocation("rid", name, event), mapping)

    def idle(self) -> bool:
        return not self.concurrency.running() and self.invoker.room("f") == self.concurrency._account.limit


async def sleeps(event: float) -> float:
    await asyncio.sleep(event)
    return event


async def fails(event: object) -> None:
    raise ValueError("no")


@pytest.mark.virtual_time
async def test_an_invocation_takes_a_permit_for_as_long_as_it_runs() -> None:
    house = House(f=sleeps)
    call = asyncio.create_task(house.invoke("f", 1))
    await asyncio.sleep(0.5)
    assert house.invoker.room("f") == 999
    assert house.telemetry.snapshot()["ConcurrentExecutions"] == {"f": 1}
    outcome = await call
    assert isinstance(outcome, Succeeded)
    assert value_of(outcome) == 1
    assert house.idle()


@pytest.mark.virtual_time
async def test_outcomes_are_counted_by_awss_names() -> None:
    house = House(1, f=sleeps, g=fails)
    first = asyncio.create_task(house.invoke("f", 1.5))
    await asyncio.sleep(1)
    assert await house.invoke("f", 0) == Throttled("ConcurrentInvocationLimitExceeded")
    await first
    assert isinstance(await house.invoke("g"), Failed)
    found = house.telemetry.snapshot()
    assert found["Invocations"] == {"f": 1, "g": 1}
    assert found["Errors"] == {"g": 1}
    assert found["Throttles"] == {"f": 1}
    assert found["Duration"]["f"] == {"count": 1, "sum": 1.5, "min": 1.5, "max": 1.5, "last": 1.5}


@pytest.mark.virtual_time
async def test_what_the_world_did_is_no_invocation() -> None:
    house = House(f=sleeps)
    house.functions["gone"] = Function(name="gone")
    assert isinstance(await house.invoke("gone"), Unavailable)
    assert house.telemetry.snapshot()["Unavailable"] == {"gone": 1}
    assert house.idle()


@pytest.mark.virtual_time
async def test_a_function_that_is_not_here_is_the_callers_error() -> None:
    with pytest.raises(ResourceNotFound):
        await House().invoke("nobody")


@pytest.mark.virtual_time
async def test_subscribers_see_each_invocation_with_its_outcome() -> None:
    house, seen = House(f=sleeps), []
    house.telemetry.subscribe(lambda where, step, answer: seen.append((where, step.function, type(answer))))  # type: ignore[attr-defined]
    await house.invoke("f", 0)
    assert seen == [("invoker", "f", Succeeded)]


@pytest.mark.virtual_time
async def test_a_cancelled_call_gives_its_permit_back() -> None:
    house = House(f=sleeps)
    call = asyncio.create_task(house.invoke("f", 1))
    await asyncio.sleep(0.5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert house.idle()


@pytest.mark.virtual_time
async def test_a_permit_that_was_not_used_can_be_given_back() -> None:
    house = House(1, f=sleeps)
    permit = house.invoker.admit("f")
    assert isinstance(permit, Permit)
    assert house.invoker.room("f") == 0
    house.invoker.release(permit)
    assert house.idle()


@pytest.mark.virtual_time
async def test_a_permit_whose_grant_ran_out_starts_nothing_though_another_grant_has_come() -> None:
    house, ran = House(f=sleeps), Invocation("rid", "f", 1)
    house.concurrency.renew(valid_until=3.0, now=0.0)
    kept, late = house.invoker.admit("f"), house.invoker.admit("f")
    assert isinstance(kept, Permit)
    assert isinstance(late, Permit)
    house.concurrency.renew(valid_until=6.0, now=2.0)  # in time: nobody else had it in between
    assert isinstance(await house.invoker.run(ran, kept), Succeeded)
    await asyncio.sleep(6)
    house.concurrency.renew(valid_until=20.0, now=7.0)
    assert isinstance(await house.invoker.run(ran, late), Unavailable)
    assert house.idle()


@pytest.mark.virtual_time
async def test_those_who_wait_for_a_permit_get_it_in_their_order() -> None:
    house, order = House(2, f=sleeps), []

    async def patient(number: int) -> None:
        while True:
            permit = house.invoker.admit("f")
            if isinstance(permit, Permit):
                break
            free = asyncio.Event()
            house.invoker.when_free("f", None, free.set)
            await free.wait()
        order.append(number)
        await house.invoker.run(Invocation("rid", "f", 0.1), permit)

    await asyncio.gather(*(patient(number) for number in range(50)))
    assert order == list(range(50))
    assert house.idle()
    assert not house.concurrency.free


@pytest.mark.virtual_time
async def test_a_permit_that_nobody_took_goes_to_the_next() -> None:
    house, called = House(1, f=sleeps), []
    permit = house.invoker.admit("f")
    assert isinstance(permit, Permit)
    for number in range(3):
        house.invoker.when_free("f", None, lambda number=number: called.append(number))
    cancel = house.invoker.when_free("f", None, lambda: called.append("cancelled"))
    cancel()
    house.invoker.release(permit)
    await asyncio.sleep(1)
    assert called == [0, 1, 2]


@pytest.mark.virtual_time
async def test_who_waits_where_there_is_room_is_called_soon() -> None:
    house, free = House(f=sleeps), asyncio.Event()
    house.invoker.when_free("f", None, free.set)
    assert not free.is_set()
    await free.wait()


@pytest.mark.virtual_time
async def test_who_scales_too_fast_is_called_when_it_may_go_on() -> None:
    house, free = House(10_000, f=sleeps), asyncio.Event()
    permits = [house.invoker.admit("f") for _ in range(1000)]
    assert isinstance(house.invoker.admit("f"), Throttled)
    house.invoker.when_free("f", None, free.set)
    await free.wait()
    assert asyncio.get_running_loop().time() == pytest.approx(0.01)
    assert isinstance(house.invoker.admit("f"), Permit)
    assert len(permits) == 1000


@pytest.mark.virtual_time
async def test_a_limit_that_was_raised_calls_those_who_wait() -> None:
    house, free = House(f=sleeps), asyncio.Event()
    house.concurrency.reserve("f", 0)
    house.invoker.when_free("f", None, free.set)
    house.concurrency.reserve("f", 5)
    house.invoker.wake()
    await free.wait()


@pytest.mark.virtual_time
async def test_each_answer_belongs_to_its_call() -> None:
    async def echo(event: list[float]) -> object:
        await asyncio.sleep(event[1])
        return event[0]

    house, chance = House(f=echo), random.Random(1)

    async def call(number: int) -> None:
        outcome = await house.invoke("f", [number, chance.random()])
        assert isinstance(outcome, Succeeded)
        assert value_of(outcome) == number

    calls = [asyncio.create_task(call(number)) for number in range(900)]
    for victim in chance.sample(calls, 300):
        victim.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert Counter(type(result).__name__ for result in results) == {"NoneType": 600, "CancelledError": 300}


@pytest.mark.parametrize("seed", range(5))
def test_no_mixture_of_errors_time_outs_and_cancellations_leaks_a_permit(seed: int) -> None:
    run(_mixture(seed), seed=seed)


async def _mixture(seed: int, calls: int = 2_000) -> None:
    chance = random.Random(seed)
    stop = asyncio.Event()

    async def anything(event: str) -> object:
        match event:
            case "raise":
                raise ValueError
            case "exit":
                raise SystemExit(1)
            case "cancel itself":
                raise asyncio.CancelledError
            case "hang":
                await asyncio.sleep(100)
            case "stubborn":
                while not stop.is_set():
                    with suppress(asyncio.CancelledError):
                        await stop.wait()
            case "result":
                return {1}
            case _:
                await asyncio.sleep(chance.random() * 3)
        return None

    house = House(120, f=anything, plain=lambda event: 1 / (event != "raise"))
    house.concurrency.reserve("plain", 5)
    house.concurrency.limit_mapping("m", 10)
    events = ["raise", "exit", "cancel itself", "hang", "stubborn", "result", "sleep", "sleep"]
    outcomes: Counter[str] = Counter()

    async def call() -> None:
        await asyncio.sleep(chance.random() * 60)
        mapping = chance.choice([None, "m"])
        outcome = await house.invoke(chance.choice(["f", "f", "f", "plain"]), chance.choice(events), mapping)
        outcomes[type(outcome).__name__] += 1
        assert house.concurrency.running().get("f", 0) <= 115

    tasks = [asyncio.create_task(call()) for _ in range(calls)]
    loop = asyncio.get_running_loop()
    for task in chance.sample(tasks, calls // 3):
        loop.call_later(chance.random() * 62, task.cancel)
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    assert outcomes.keys() >= {"Succeeded", "Failed", "Throttled"}
    assert house.idle()
    assert house.invoker.room("plain") == 5
    assert house.invoker.room("f", "m") == 10
    assert house.runtime.abandoned().get("f", 0) > 0
    stop.set()
    await asyncio.sleep(1)
    assert not house.runtime.abandoned()
    assert not house.runtime.overruns()
    await house.runtime.close()
