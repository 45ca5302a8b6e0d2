"""A measurement in a process of its own: one kind, one round, and the answer is a number.

Decides how it is started, where it may run and how it answers. A module of benchmarks that is measured so has a
function `measured(words)`, and ends with `main(measured, rows)`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.cycles import directory
from benchmarks.redis_server import redis, server
from benchmarks.table import Row, show

_ALONE = "--alone"


def alone(module: str, *words: str) -> float:
    """What that module measures by these words, in a fresh process."""
    command = [sys.executable, "-m", f"benchmarks.{module}", _ALONE, *words]
    *_, answer = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()  # after its log
    return float(answer)


def alone_on_redis(module: str, *words: str, fsync: str = "always") -> float:
    """The same; the URL of a fresh server comes after the words."""
    binary = server()
    assert binary is not None
    with directory() as files, redis(binary, files, fsync) as url:
        return alone(module, *words, url)


def one_core() -> None:
    """This process keeps to one core, where that can be said; the server has the others."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main(measured: Callable[[Sequence[str]], Awaitable[float]], rows: Callable[[], Sequence[Row]]) -> None:
    if sys.argv[1:2] != [_ALONE]:
        sys.exit(show(rows()))
    asyncio.run(_answer(measured))


async def _answer(measured: Callable[[Sequence[str]], Awaitable[float]]) -> None:
    """And end at once: taskiq's worker does not end when it is cancelled while nothing comes."""
    print(await measured(sys.argv[2:]), flush=True)
    os._exit(0)
