"""`make bench`: every benchmark in a process of its own, one after the other, and one table.

Decides their order, and the exit status: 1 if a bound is broken.
Names after the command choose some of them: `python -m benchmarks invoke start`. Floors (records a second) and seconds
mean something on a quiet machine only, so it is said if it was busy; ratios hold anywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from benchmarks.table import Row, rows_of, show

NAMES = ("start", "invoke", "streams", "idle", "scale", "peers")


def main(names: list[str]) -> int:
    table: list[Row] = []
    fresh = multiprocessing.get_context("spawn")
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    for name in names or NAMES:
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
