"""The engine inside a program: asked from a thread, from another loop, or where it has no place; and what it prints."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from typing import Any

import pytest

from lambent import Engine, EngineStopped, FunctionError, InvalidParameterValue, ResourceConflict, ResourceNotFound


async def echo(event: Any, context: Any) -> Any:
    return event


async def test_a_plain_function_asks_the_engine_from_its_thread() -> None:
    engine = Engine("memory://")
    engine.function(echo)
    orders = engine.queue("orders")

    @engine.function
    def order(event: Any, context: Any) -> Any:
        engine.from_thread(orders.send(event))
        return engine.from_thread(engine.invoke(echo, event))

    async with engine:
        assert await engine.invoke(order, {"item": "vase"}) == {"item": "vase"}
        (message,) = await orders.receive()
    assert message.body == '{"item": "vase"}'


async def test_from_a_thread_a_chain_of_calls_is_counted_as_everywhere() -> None:
    engine = Engine("memory://")

    @engine.function
    def again(event: int, context: Any) -> Any:
        return engine.from_thread(engine.invoke(again, event + 1))

    async with engine:
        with pytest.raises(FunctionError, match="again was called by itself, through others"):
            await engine.invoke(again, 0)


async def test_who_calls_in_another_loop_is_told_instead_of_waiting_for_ever() -> None:
    engine = Engine("memory://")
    engine.function(echo)
    orders = engine.queue("orders")
    calls = (lambda: engine.invoke(echo, 1), lambda: engine.invoke_async(echo, 1), lambda: orders.send("x"))

    @engine.function
    def astray(event: Any, context: Any) -> list[str]:
        said = []
        for call in calls:
            with pytest.raises(EngineStopped) as refused:
                asyncio.run(call())
            said.append(refused.value.message)
        return said

    async with engine:
        said = await engine.invoke(astray, None)
    assert len(said) == 3
    assert all("another event loop: from a thread, write engine.from_thread(" in each for each in said)


async def test_in_its_own_loop_the_engine_is_awaited() -> None:
    engine = Engine("memory://")
    engine.function(echo)
    with pytest.raises(EngineStopped, match="not started"):
        engine.from_thread(engine.invoke(echo, 1))
    async with engine:
        with pytest.raises(EngineStopped, match="await it there"):
            engine.from_thread(engine.invoke(echo, 1))
        with pytest.raises(EngineStopped, match="use `async with engine:`"):
            engine.run()


async def test_a_callable_that_is_no_function_of_the_engine_says_how_to_make_it_one() -> None:
    async with Engine("memory://") as engine:
        with pytest.raises(ResourceNotFound, match=r"function:echo:\$LATEST \(decorate it with @engine.function\)"):
            await engine.invoke(echo, 1)


async def test_an_engine_shows_what_it_is() -> None:
    engine = Engine("memory://")
    assert repr(engine) == "<Engine on memory://, not started, functions: none>"
    engine.function(echo)
    async with engine:
        assert repr(engine) == "<Engine on memory://, serving, functions: echo>"


def test_a_decorator_that_is_used_wrongly_says_how_it_is_used() -> None:
    engine = Engine()
    orders = engine.queue("orders")
    for wrong in (3, "pack"):
        with pytest.raises(InvalidParameterValue, match=r"is no function: decorate one with @engine.function"):
            engine.function(wrong)  # type: ignore[type-var]
    with pytest.raises(InvalidParameterValue, match=r"has none of its own, so give one with name="):
        engine.function(functools.partial(echo, 1))
    engine.function(echo)
    with pytest.raises(ResourceConflict, match=r"Function already exist: echo \(give one of the two another name"):
        engine.function(name="echo")(lambda event: event)
    with pytest.raises(InvalidParameterValue, match="it must be a queue, a stream or a name"):
        engine.on(echo)  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterValue, match="a function or its mapping; did you mean filters"):
        engine.on(orders, filter=[])


def test_what_a_program_prints_stays_apart_from_what_the_engine_logs() -> None:
    program = (
        "from lambent.telemetry import Telemetry; Telemetry().log('warning', 'a shard stands still'); print('value')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout == "value\n"
    assert "a shard stands still" in ran.stderr
