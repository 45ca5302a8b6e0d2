"""What an invocation costs beside the least that asyncio could do: a task under a time limit, or a hop to a thread.

Decides the bounds that `make bench` holds. All kinds run in one process, interleaved, so that only ratios matter; each
figure is the median of five rounds. `make_invoke` is the one place that knows what is measured. Exits 1 if a bound is
broken.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from lambent.invoker import Invoker, value_of
from lambent.model import Function, Invocation, Succeeded
from lambent.payload import check_payload, encode_payload
from lambent.ports import World
from lambent.runtimes.in_process import InProcess
from lambent.semantics.concurrency import Concurrency
from lambent.telemetry import Telemetry

ROUNDS = 5
CALLS = 5_000
PLAIN_CALLS = 1_500
EVENT = {
    "id": "1f0c7c52-b1b4",
    "origin": "JFK",
    "delay": 42,
    "tail": "N14228",
    "tags": ["a", "b"],
    "ok": True,
    "x": None,
}

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


def make_invoke() -> Invoke:
    """Through `Invoker`, with everything on; ids as cheap as an engine's have to be."""
    chance = random.Random(1)
    world = World("bench", Clock(), chance.random, lambda: str(uuid.UUID(int=chance.getrandbits(128), version=4)))
    functions = {
        "reference": Function(name="reference", timeout_seconds=10, boundary="reference"),
        "json": Function(name="json", timeout_seconds=10),
        "plain": Function(name="plain", timeout_seconds=10, boundary="reference"),
    }
    runtime = InProcess(world=world)
    for function in functions.values():
        runtime.register(function, plain if function.name == "plain" else coroutine)
    invoker = Invoker(
        functions=functions, runtime=runtime, concurrency=Concurrency(), telemetry=Telemetry(), world=world
    )
    number = chance.getrandbits(64)

    async def invoke(name: str, event: object) -> object:
        nonlocal number
        number += 1
        if name == "json":
            event = check_payload(event) if type(event) is bytes else encode_payload(event)
        outcome = await invoker.invoke(Invocation(f"{number:032x}", name, event))
        assert type(outcome) is Succeeded
        return value_of(outcome)

    return invoke


async def main() -> int:
    invoke = make_invoke()
    pool = ThreadPoolExecutor(1)
    loop = asyncio.get_running_loop()
    payload = json.dumps(EVENT).encode()

    async def task_under_timeout() -> None:
        async with asyncio.timeout(10):
            await asyncio.create_task(bare(EVENT))

    async def thread_hop() -> None:
        await loop.run_in_executor(pool, plain, EVENT, None)

    kinds: dict[str, tuple[Callable[[], Awaitable[object]], int]] = {
        "a task under asyncio.timeout": (task_under_timeout, CALLS),
        "by reference": (lambda: invoke("reference", EVENT), CALLS),
        f"JSON boundary, {len(payload)} bytes": (lambda: invoke("json", payload), CALLS),
        "a bare thread hop": (thread_hop, PLAIN_CALLS),
        "a plain function": (lambda: invoke("plain", EVENT), PLAIN_CALLS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    gc.freeze()
    for round_number in range(ROUNDS + 1):
        for name, (call, calls) in kinds.items():
            began = time.perf_counter()
            for _ in range(calls):
                await call()
            if round_number:  # the first one warms up
                seconds[name].append((time.perf_counter() - began) / calls)
    pool.shutdown()
    task, reference, boundary, hop, function = kinds
    bounds = [(reference, task, 1.5), (boundary, task, 2.5), (function, hop, 1.25)]
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"{'':34}{'µs':>8}{'ratio':>8}{'bound':>8}")
    broken = False
    for name, median in medians.items():
        print(f"{name:34}{median * 1e6:8.2f}", end="")
        for measured, base, bound in bounds:
            if measured == name:
                ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))
                broken |= ratio > bound
                print(f"{ratio:8.2f}{bound:8.2f}{'  BROKEN' if ratio > bound else ''}", end="")
        print()
    return int(broken)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
