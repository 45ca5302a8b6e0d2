"""What an invocation costs beside the least that asyncio could do: a task under a time limit, or a hop to a thread.

Decides the bounds that `make bench` holds, for the public `Engine.invoke` as for the `Invoker` inside, with everything
on. All kinds run in one process, interleaved, so that only ratios matter; each figure is the median of five rounds.
Coroutines are measured in seconds of CPU, which are those of the clock where nothing else runs; hops to a thread, which
are mostly waiting, by the clock.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio, show
from lambent.invoker import Invoker, value_of
from lambent.model import Function, Invocation, Succeeded
from lambent.payload import check_payload
from lambent.ports import World
from lambent.runtimes.in_process import InProcess
from lambent.semantics.concurrency import Concurrency
from lambent.telemetry import Telemetry

SLICES = 10  # of a round, so that what disturbs one kind disturbs all
CALLS = 500
PLAIN_CALLS = 150
EVENT = {"id": "1f0c7c52-b1b4", "origin": "JFK", "delay": 42, "tail": "N14228", "tags": ["a", "b"], "ok": True, "x": 1}
PAYLOAD = json.dumps(EVENT).encode()
FUNCTIONS = (
    Function(name="reference", timeout_seconds=10, boundary="reference"),
    Function(name="json", timeout_seconds=10),
    Function(name="plain", timeout_seconds=10, boundary="reference"),
)
MOST = {"reference": ("a task under asyncio.timeout", 1.5), "json": ("a task under asyncio.timeout", 2.5)}
MOST["plain"] = ("a bare thread hop", 1.25)
WORDS = {"reference": "by reference", "json": f"JSON, {len(PAYLOAD)} bytes", "plain": "plain function"}

Invoke = Callable[[str, object], Awaitable[object]]


class Clock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


async def coroutine(event: object, context: object) -> object:
    return event


def plain(event: object, context: object) -> object:
    return event


async def bare(event: object) -> object:
    return event


def through_invoker() -> Invoke:
    """Ids as cheap as an engine's have to be."""
    chance = random.Random(1)
    world = World("bench", Clock(), chance.random, lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4)))
    runtime = InProcess(world=world)
    for function in FUNCTIONS:
        runtime.register(function, plain if function.name == "plain" else coroutine)
    invoker = Invoker(
        functions={function.name: function for function in FUNCTIONS},
        runtime=runtime,
        concurrency=Concurrency(),
        telemetry=Telemetry(),
        world=world,
    )
    number = chance.getrandbits(64)

    async def invoke(name: str, event: object) -> object:
        nonlocal number
        number += 1
        if type(event) is bytes:
            event = check_payload(event)
        outcome = await invoker.invoke(Invocation(f"{number:032x}", name, event))
        assert type(outcome) is Succeeded
        return value_of(outcome)

    return invoke


async def one_slice(call: Callable[[], Awaitable[object]], hops: bool) -> float:
    """Seconds a call."""
    clock, calls = (time.perf_counter, PLAIN_CALLS) if hops else (time.process_time, CALLS)
    began = clock()
    for _ in range(calls):
        await call()
    return (clock() - began) / calls


async def measure() -> list[Row]:
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1)
    engine = new_engine()
    for function in FUNCTIONS:
        options = {"timeout_seconds": 10, "boundary": function.boundary, "name": function.name}
        engine.function(**options)(plain if function.name == "plain" else coroutine)

    async def task_under_timeout() -> None:
        async with asyncio.timeout(10):
            await asyncio.create_task(bare(EVENT))

    async def thread_hop() -> None:
        await loop.run_in_executor(pool, plain, EVENT, None)

    kinds: dict[str, Callable[[], Awaitable[object]]] = {
        "a task under asyncio.timeout": task_under_timeout,
        "a bare thread hop": thread_hop,
    }
    ways: dict[str, Invoke] = {"Invoker": through_invoker(), "Engine": engine.invoke}
    for way, invoke in ways.items():
        for name in MOST:
            event = PAYLOAD if name == "json" else EVENT
            kinds[f"{way} {name}"] = lambda invoke=invoke, name=name, event=event: invoke(name, event)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    async with engine:
        gc.freeze()
        for round_number in range(ROUNDS + 1):
            spent = dict.fromkeys(kinds, 0.0)
            for _ in range(SLICES):
                for kind, call in kinds.items():
                    spent[kind] += await one_slice(call, kind.endswith(("plain", "hop")))
            if round_number:  # the first one warms up
                for kind, each in spent.items():
                    seconds[kind].append(each / SLICES)
    pool.shutdown()
    rows = [
        Row(f"  {base}", median(seconds[base]) * 1e6, "µs") for base in dict.fromkeys(base for base, _ in MOST.values())
    ]
    for way in ways:
        for name, (base, most) in MOST.items():
            kind = f"{way} {name}"
            note = f"{median(seconds[kind]) * 1e6:.1f} µs, by {base}"
            rows.append(Row(f"{way}.invoke, {WORDS[name]}", ratio(seconds, kind, base), "times", most=most, note=note))
    return rows


def rows() -> list[Row]:
    return asyncio.run(measure())


if __name__ == "__main__":
    sys.exit(show(rows()))
