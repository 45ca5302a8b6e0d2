"""A million events that wait on the disk: what they add to an engine's memory, and how long a start with them takes.

Decides the bounds that `make bench` holds. Each figure comes from a fresh process on the same file. The events are of a
function whose one place is taken, so all of them wait: first while they are put, by the engine itself, a thousand at a
time; then the engine is started with them, and the start lasts until a function has answered and an event that was put
after it has been run. Memory is what is resident when the engine has had time to look around.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cycles import PAYLOAD, directory
from benchmarks.engines import engine as new_engine
from benchmarks.idle import resident_mb
from benchmarks.table import Row, show
from lambent.model import Event
from lambent.stores.sqlite import SqliteStore

WAITING = 1_000_000
AT_ONCE = 1_000
MOST_MB = 100
MOST_SECONDS = 2.0
LOOK_AROUND_SECONDS = 2.0


async def alive(path: str, put: int) -> dict[str, float]:
    """Seconds of the start, and MB after so many events were put."""
    engine = new_engine(drain_seconds=0.0, store=SqliteStore(path))
    ran = asyncio.Event()

    @engine.function(reserved_concurrency=1, timeout_seconds=900)
    async def blocked(event: object, context: object) -> None:
        await asyncio.Event().wait()

    @engine.function
    async def free(event: object, context: object) -> None:
        ran.set()

    began = time.perf_counter()
    async with engine:
        await engine.invoke(free)
        ran.clear()
        await engine.invoke_async(free)
        await ran.wait()
        seconds = time.perf_counter() - began
        events, now = engine._living().events, time.time()
        for first in range(0, put, AT_ONCE):
            await events.put_many(
                [Event(f"{number:032x}", "blocked", PAYLOAD, now) for number in range(first, first + AT_ONCE)]
            )
        await asyncio.sleep(LOOK_AROUND_SECONDS)
        return {"seconds": seconds, "mb": resident_mb(), "waiting": sum((await events.pending()).values())}


def alone(path: Path, put: int = 0) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.durable_million", "--alone", str(path), str(put)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(answer.stdout)
    return found


def rows() -> list[Row]:
    with directory() as files:
        empty = alone(Path(files, "empty.db"))
        putting = alone(Path(files, "full.db"), WAITING)
        full = alone(Path(files, "full.db"))
    assert full["waiting"] == WAITING, full
    what, note = f"{WAITING:,} waiting events", f"an empty engine takes {empty['mb']:.0f} MB"
    return [
        Row(f"{what}: memory, after they were put", putting["mb"] - empty["mb"], "MB more", most=MOST_MB, note=note),
        Row("  after a start with them", full["mb"] - empty["mb"], "MB more", most=MOST_MB),
        Row(f"{what}: start", full["seconds"], "s", most=MOST_SECONDS, note=f"{empty['seconds']:.2f} s with none"),
    ]


if __name__ == "__main__":
    if "--alone" in sys.argv:
        print(json.dumps(asyncio.run(alive(sys.argv[2], int(sys.argv[3])))))
    else:
        sys.exit(show(rows()))
