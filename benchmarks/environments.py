"""What an execution environment costs beside its bare runtime client, and what a pool of them saves.

Decides the bounds that `make bench` holds: a warm invocation by the same client (awslambdaric) served by a Runtime API
without an engine (`runtime_loop.py`), a cold start by starting that client alone, a streamed answer by the same client
at such a Runtime API (`response_streams.py`), CPU of 100 idle environments, and cold starts in the latency of a step of
load. Everything is interleaved and in one process; the environments are
processes of their own.

MiniStack's Invoke is measured beside it if its command is named by MINISTACK (it wants a virtual environment of its
own); it is HTTP there and a call here, so that there is no bound.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import response_streams
from benchmarks.engines import engine as new_engine
from benchmarks.runtime_loop import AiohttpLoop, BareClient, CarelessLoop, RuntimeLoop
from benchmarks.table import ROUNDS, Row, median, ratio, show

EVENT = json.dumps({"id": "1f0c7c52-b1b4", "origin": "JFK", "delay": 42, "tail": "N14228", "tags": ["a", "b"]}).encode()
WARM_CALLS = 400
COLD_STARTS = 10  # a round
IDLE = 100
IDLE_SECONDS = 10.0
STEP_SECONDS = 12.0
STEP_RATE = 100  # calls a second after the step
POOL = 16
LEAST_WARM = 0.9
MOST_WARM_MS = 1.0
MOST_COLD = 1.15
MOST_IDLE_PERCENT = 1.0
PICTURE = Path(__file__).parent / "results" / "environments.png"

APP = """
import time

def echo(event, context):
    return event

def wait(event, context):
    time.sleep(0.1)
    return event
"""
BOOTSTRAP = """#!/bin/bash
exec 3<>"/dev/tcp/${AWS_LAMBDA_RUNTIME_API/:/\\/}"
printf 'GET /2018-06-01/runtime/invocation/next HTTP/1.1\\r\\nHost: runtime\\r\\n\\r\\n' >&3
read -r -u 3 line
"""


@asynccontextmanager
async def code() -> AsyncIterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "app.py").write_text(APP)
    (folder / "bootstrap").write_text(BOOTSTRAP)
    (folder / "bootstrap").chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def warm_and_cold(folder: Path) -> list[Row]:
    engine, bare = new_engine(), BareClient(folder, "app.echo", RuntimeLoop())
    by_library, careless = BareClient(folder, "app.echo", AiohttpLoop()), BareClient(folder, "app.echo", CarelessLoop())
    engine.function_from(folder, name="warm", handler="app.echo", memory_size_mb=512)
    engine.function_from(folder, name="cold", handler="app.echo", memory_size_mb=512, recycle_after=1)

    async def bare_start() -> None:
        fresh = BareClient(folder, "app.echo", RuntimeLoop())
        await fresh.open()
        await fresh.loop.invoke(EVENT)
        started.append(fresh)

    async def invoke_warm() -> None:
        await engine.invoke("warm", EVENT)

    async def invoke_bare() -> None:
        await bare.loop.invoke(EVENT)

    async def invoke_by_library() -> None:
        await by_library.loop.invoke(EVENT)

    async def invoke_careless() -> None:
        await careless.loop.invoke(EVENT)

    async def invoke_cold() -> None:
        await engine.invoke("cold", EVENT)

    started: list[BareClient] = []
    kinds = {"engine": invoke_warm, "bare": invoke_bare, "library": invoke_by_library, "careless": invoke_careless}
    warm: dict[str, list[float]] = {kind: [] for kind in kinds}
    cold: dict[str, list[float]] = {"engine": [], "bare": []}
    each: list[float] = []
    async with engine:
        await bare.open()
        await by_library.open()
        await careless.open()
        for number in range(ROUNDS + 1):
            for kind, call in kinds.items():
                found = await timed(call, WARM_CALLS)
                if number:  # the first round warms up
                    warm[kind].append(median(found))
                    each += found if kind == "engine" else []
        await bare.close()
        await by_library.close()
        await careless.close()
        for number in range(ROUNDS + 1):
            seconds: dict[str, list[float]] = {"engine": [], "bare": []}
            for _ in range(COLD_STARTS):
                for kind, start in (("engine", invoke_cold), ("bare", bare_start)):
                    seconds[kind] += await timed(start, 1)
                    while started:
                        await started.pop().close()
                    await asyncio.sleep(0.3)  # for what the last one leaves behind
            if number:
                for kind, starts in seconds.items():
                    cold[kind].append(median(starts))
    return [
        Row("warm invocation, by a Runtime API's rate", 1 / ratio(warm, "engine", "bare"), "times", least=LEAST_WARM),
        Row("  by that of one in aiohttp", 1 / ratio(warm, "engine", "library"), "times"),
        Row("  by a loop that parses and checks nothing", 1 / ratio(warm, "engine", "careless"), "times"),
        Row("  one invocation, median", median(each) * 1e3, "ms", most=MOST_WARM_MS),
        Row("  of the Runtime API, median", median(warm["bare"]) * 1e3, "ms"),
        Row("cold start, by starting the bare client", ratio(cold, "engine", "bare"), "times", most=MOST_COLD),
        Row("  of the bare client", median(cold["bare"]) * 1e3, "ms"),
    ]  # fmt: skip


async def timed(call: Callable[[], Awaitable[None]], times: int) -> list[float]:
    """Seconds of each."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        found.append(time.perf_counter() - began)
    return found


# --------------------------------------------------------------------------- idle


async def idle(folder: Path) -> list[Row]:
    engine = new_engine()
    engine.function_from(folder, name="idle", runtime="provided.al2023", provisioned_concurrency=IDLE)
    async with engine:
        while len(children()) < IDLE:
            await asyncio.sleep(0.2)
        await asyncio.sleep(2)
        cpu, wall = cpu_seconds(), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)
        percent = (cpu_seconds() - cpu) / (time.perf_counter() - wall) * 100
        count = len(children())
    return [Row(f"{count} idle environments: of a core, engine and all", percent, "%", most=MOST_IDLE_PERCENT)]


def children() -> list[int]:
    """Processes that descend from this one, but for those between us and an environment."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            parents[int(name)] = int(fields[1])
    return [pid for pid, parent in parents.items() if parent == os.getpid()]


def cpu_seconds() -> float:
    ticks = 0
    for pid in children():
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


# --------------------------------------------------------------------------- a step of load

Latencies = list[tuple[float, float]]  # (when it was asked for, how long it took)


async def step(folder: Path) -> list[Row]:
    found: dict[str, Latencies] = {}
    for kind, pool in (("on demand", 0), (f"{POOL} provisioned", POOL)):
        engine = new_engine()
        engine.function_from(
            folder, name="wait", handler="app.wait", memory_size_mb=512, timeout_seconds=30,
            provisioned_concurrency=pool,
        )  # fmt: skip
        async with engine:
            await engine.invoke("wait", EVENT)
            while len(children()) < pool:
                await asyncio.sleep(0.2)
            await asyncio.sleep(2 + pool / 4)  # for their inits
            found[kind] = await load(lambda: engine.invoke("wait", EVENT))  # noqa: B023 - awaited here
    picture = draw(found)
    return [
        Row(
            f"p99.9 of a step to {STEP_RATE} calls/s of 100 ms, {kind}",
            statistics.quantiles([seconds for _, seconds in each], n=1000)[-1] * 1e3,
            "ms",
            note=picture if pool else "",
            most=None,
        )
        for pool, (kind, each) in enumerate(found.items())
    ]


async def load(call: Callable[[], Awaitable[object]]) -> Latencies:
    """Calls at fixed times, whatever the ones before do: 2 a second, and from the second second on many."""
    found: Latencies = []
    began = time.perf_counter()

    async def one(at: float) -> None:
        await call()
        found.append((at, time.perf_counter() - began - at))

    async with asyncio.TaskGroup() as group:
        at = 0.0
        while at < STEP_SECONDS:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            group.create_task(one(at))
            at += 0.5 if at < 2 else 1 / STEP_RATE
    return sorted(found)


def draw(found: dict[str, Latencies]) -> str:
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return ""
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for kind, each in found.items():
        axes.plot([at for at, _ in each], [seconds * 1e3 for _, seconds in each], ".", markersize=3, label=kind)
    axes.set(xlabel="seconds", ylabel="latency, ms", yscale="log", title=f"A step from 2 to {STEP_RATE} calls a second")
    axes.legend()
    axes.grid(alpha=0.3)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)
    return f"picture: {PICTURE.relative_to(PICTURE.parents[2])}"


async def measure() -> list[Row]:
    async with code() as folder:
        found = await warm_and_cold(folder)
        found += await idle(folder)
        found += await step(folder)
        found += await response_streams.measure(folder)
    if command := os.environ.get("MINISTACK"):
        from benchmarks.ministack import invoke_median_ms

        found.append(Row("  MiniStack's Invoke of the same, over HTTP", await invoke_median_ms(command, APP), "ms"))
    return found


def rows() -> list[Row]:
    try:
        import awslambdaric  # noqa: F401
        import httptools  # noqa: F401
    except ImportError:
        return [Row("environments: not installed (pip install 'lambent[processes]')", 0, "")]
    return asyncio.run(measure())


if __name__ == "__main__":
    sys.exit(show(rows()))
