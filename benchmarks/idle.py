"""What an engine takes while nothing happens: 10,000 functions, and a stream of 1,000 shards, all of them mapped.

Decides the bounds that `make bench` holds. It runs in a fresh process; seconds of CPU are those that the system counted
for all of its threads over the time in which nothing was asked of it, memory is what is resident at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.engines import engine as new_engine
from benchmarks.table import Row, show
from lambent import Engine

FUNCTIONS = 10_000
SHARDS = 1_000
SECONDS = 12.0  # more than a lease, so that its renewals count
MOST_OF_A_CORE = 0.01
MOST_MB = 100
PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_mb() -> float:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * PAGE / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def functions(engine: Engine, number: int) -> None:
    async def handler(event: object, context: object) -> object:
        return event

    for index in range(number):
        engine.function(name=f"f{index}")(handler)


async def idle() -> dict[str, float]:
    bare_mb = resident_mb()
    engine = new_engine()
    functions(engine, FUNCTIONS)
    stream = engine.stream("flights", shards=SHARDS)
    mapping = engine.map(stream, "f0")
    async with engine:
        await mapping.wait_until("Enabled")
        while len((await mapping.details()).get("shards", ())) < SHARDS:  # type: ignore[arg-type]
            await asyncio.sleep(0.1)
        await engine.invoke("f1", {})
        await asyncio.sleep(1)
        cpu, wall = cpu_seconds(), time.perf_counter()
        await asyncio.sleep(SECONDS)
        share = (cpu_seconds() - cpu) / (time.perf_counter() - wall)
        return {"share": share, "mb": resident_mb(), "bare_mb": bare_mb}


def rows() -> list[Row]:
    answer = subprocess.run([sys.executable, "-m", "benchmarks.idle", "--alone"], check=True, stdout=subprocess.PIPE)
    found = json.loads(answer.stdout)
    what = f"idle, {FUNCTIONS:,} functions and {SHARDS:,} shards"
    return [
        Row(f"{what}: of a core", found["share"] * 100, "%", most=MOST_OF_A_CORE * 100),
        Row(
            f"{what}: memory", found["mb"], "MB", most=MOST_MB, note=f"{found['bare_mb']:.0f} MB with nothing declared"
        ),
    ]


if __name__ == "__main__":
    if "--alone" in sys.argv:
        print(json.dumps(asyncio.run(idle())))
    else:
        sys.exit(show(rows()))
