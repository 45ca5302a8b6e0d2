"""`make bench`: every benchmark in a process of its own, one after the other, and one table.

Decides their order, and the exit status: 1 if a bound is broken.
Words after the command choose those whose names begin with one: `python -m benchmarks invoke durable`. Floors (records
a second) and seconds mean something on a quiet machine only, so it is said if it was busy; ratios hold anywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from benchmarks.table import Row, rows_of, show

NAMES = (
    "start", "invoke", "streams", "idle", "scale", "peers", "durable", "durable_latency", "durable_million",
    "durable_peers", "api", "api_growth", "redis_streams", "redis_peers", "redis_engines", "kafka_streams",
    "environments",
)  # fmt: skip


def main(words: list[str]) -> int:
    names = [name for name in NAMES if name.startswith(tuple(words))] if words else NAMES
    if not names:
        print(f"There is no benchmark whose name begins with {' or '.join(words)}; there are: {', '.join(NAMES)}.")
        return 2
    table: list[Row] = []
    fresh = multiprocessing.get_context("spawn")
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    for name in names:
        print(f"{name} …", flush=True)
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            table += process.submit(rows_of, name).result()
    print()
    status = show(table)
    if busy > cores / 2:
        print(f"\nThe machine was busy (load {busy:.1f} on {cores} cores): trust ratios, not seconds or records/s.")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
