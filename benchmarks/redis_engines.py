"""Two engine processes beside one, on one Redis, with a function that computes for 2 ms in each call.

Decides the bound that `make bench` holds: two are at least 1.7 times as fast, on two cores that the server shares, with
`appendfsync always`. Work is sent by a driver that sleeps meanwhile, to engines that have divided their limits:
asynchronous events, and messages of a queue, one in a batch, 1,000 bytes each. From before the first is sent until none
is left; figures are medians of five rounds, each on a fresh server. The function is a coroutine: with plain ones, each
on a thread, one engine waits so long for the interpreter's lock that two do better than they should.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.alone import alone, main
from benchmarks.cycles import directory, event_of
from benchmarks.engines import engine as new_engine
from benchmarks.redis_server import missing, redis, server
from benchmarks.table import ROUNDS, Row, median, ratio
from lambent import Client
from lambent.model import Queue
from lambent_pollers.redis_store import RedisStore

COMPUTES_SECONDS = 0.002
LEAST = 1.7
PAYLOAD = json.dumps(event_of(1_000))
NUMBER = 1_500
KINDS = {"events": "asynchronous events that compute 2 ms", "queue": "messages that compute 2 ms"}
CONCURRENCY = 32  # of all engines together, so that each has work while it waits for the server
LOOK_SECONDS = 0.02
DIVIDED_SECONDS = 5.0  # both have said twice what they want of what they share


def compute() -> None:
    until = time.thread_time() + COMPUTES_SECONDS
    while time.thread_time() < until:
        pass


async def serve(url: str) -> float:
    """An engine, until its standard input ends."""
    engine = new_engine(store=RedisStore(url))

    @engine.function(reserved_concurrency=CONCURRENCY)
    async def event(event: object, context: object) -> None:
        compute()

    @engine.on(engine.queue("messages"), batch_size=1, reserved_concurrency=CONCURRENCY)
    async def message(event: object, context: object) -> None:
        compute()

    async with engine:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return 0


async def drive(kind: str, url: str) -> float:
    """Seconds for each event or message, by the engines that are there."""
    async with Client(RedisStore(url)) as client:
        queue = client._open.queue(Queue(name="messages"))
        handle = await client.queue("messages")

        async def left() -> int:
            depth = await queue.depth()
            return sum((await client.pending()).values()) + depth.visible + depth.in_flight

        began = time.perf_counter()
        if kind == "queue":
            await handle.send_many([PAYLOAD] * NUMBER)
        else:
            await asyncio.gather(*(client.invoke_async("event", PAYLOAD.encode()) for _ in range(NUMBER)))
        while await left():
            await asyncio.sleep(LOOK_SECONDS)
        return (time.perf_counter() - began) / NUMBER


async def measured(words: Sequence[str]) -> float:
    kind, url = words
    return await (serve(url) if kind == "engine" else drive(kind, url))


@contextmanager
def engine_process(url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.redis_engines", "--alone", "engine", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while process.stdout.readline().strip() != b"ready":
            assert process.poll() is None
        yield
    finally:
        process.stdin.close()
        process.wait()


def once() -> list[dict[str, float]]:
    """Seconds of each kind by one engine, and by two."""
    binary = server()
    assert binary is not None
    with ExitStack() as stack:
        url = stack.enter_context(redis(binary, stack.enter_context(directory())))
        seconds = []
        for engines in (1, 2):
            stack.enter_context(engine_process(url))
            if engines > 1:
                time.sleep(DIVIDED_SECONDS)
            seconds.append({kind: alone("redis_engines", kind, url) for kind in KINDS})
        return seconds


def rows() -> list[Row]:
    if lacking := missing("redis_engines"):
        return lacking
    one: dict[str, list[float]] = {kind: [] for kind in KINDS}
    two: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for seconds, found in zip((one, two), once(), strict=True):
            for kind, each in found.items():
                seconds[kind].append(each)
    table = []
    for kind, what in KINDS.items():
        note = f"one engine takes {median(one[kind]) * 1e3:.2f} ms for each, two {median(two[kind]) * 1e3:.2f}"
        times = ratio({"one": one[kind], "two": two[kind]}, "one", "two")
        table.append(Row(f"{what}: two engines by one", times, "times", least=LEAST, note=note))
    return table


if __name__ == "__main__":
    main(measured, rows)
