"""`make bench`: every benchmark in a process of its own, one after the other, and one table.

Decides their order, and the exit status: 1 if a bound is broken.
Names after the command choose some of them: `python -m benchmarks invoke start`. Floors (records a second) and seconds
mean something on a quiet machine only, so how busy it was is said with the table; ratios hold anywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module

from benchmarks.table import Row, show

NAMES = ("start", "invoke", "streams", "idle", "scale", "peers")


def rows_of(name: str) -> list[Row]:
    rows: list[Row] = import_module(f"benchmarks.{name}").rows()
    return rows


def main(names: list[str]) -> int:
    table: list[Row] = []
    fresh = multiprocessing.get_context("spawn")
    for name in names or NAMES:
        busy = os.getloadavg()[0]
        print(f"{name} … (load before it: {busy:.1f} on {os.cpu_count()} cores)", flush=True)
        with ProcessPoolExecutor(1, mp_context=fresh) as process:
            table += process.submit(rows_of, name).result()
    print()
    return show(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
