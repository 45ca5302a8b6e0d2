"""Engines as processes over one Redis, of which one dies and one is stopped until others have what it had."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from lambent import Client
from tests.cli.test_run import line_with, running

APP = """
import os
from lambent import Engine
from redis.asyncio import Redis

log = Redis.from_url("SERVER")
engine = Engine(lease_seconds=3.0)
orders = engine.queue("orders", visibility_timeout_seconds=3)
clicks = engine.stream("clicks", shards=6)

@engine.function(timeout_seconds=2)
async def note(event):
    for record in event["Records"]:
        data = record.get("body") or record["kinesis"]["data"]
        await log.xadd("log", {"pid": os.getpid(), "data": data})

engine.map(orders, note)
engine.map(clicks, note)

@engine.function()
async def who(event):
    return os.getpid()
"""
EVENTS = """
import asyncio, os
from lambent import Engine
from redis.asyncio import Redis

log = Redis.from_url("SERVER")
engine = Engine()

@engine.function(timeout_seconds=60)
async def pay(event):
    runs = await log.incr("runs")
    await log.xadd("log", {"pid": os.getpid(), "data": f"o{event}"})
    if runs <= 3:
        await asyncio.Event().wait()
"""
PATIENCE_SECONDS = 40.0
MAXIMUM_UNREAD = 500  # that are put while nobody takes them


class Log:
    """What handlers said, in whichever process."""

    def __init__(self, url: str) -> None:
        self.data: set[str] = set()
        self.by: Counter[int] = Counter()
        self._redis = Redis.from_url(url)
        self._last = b"0"

    async def read_until(self, true: Callable[[], bool]) -> AsyncIterator[None]:
        """Speaks with each thing that is said, or every 100 ms; until that is true."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():
                for _, entries in await self._redis.xread({"log": self._last}, block=100):
                    for self._last, fields in entries:
                        data = fields[b"data"].decode()  # a record's is base64 in its event, a message's is not
                        self.data.add(data if data.startswith("o") else b64decode(data).decode())
                        self.by[int(fields[b"pid"])] += 1
                yield

    async def close(self) -> None:
        await self._redis.aclose()


async def test_what_a_dead_and_a_stopped_engine_had_goes_to_the_third(tmp_path: Path, redis_url: str) -> None:
    """None is lost; and whoever wakes after its time is over takes part again, as one of two."""
    server = redis_url.partition("?")[0]
    (tmp_path / "app.py").write_text(APP.replace("SERVER", server))
    store = ("--store", redis_url)
    with (
        running(tmp_path, "app.py", *store) as dies,
        running(tmp_path, "app.py", *store) as sleeps,
        running(tmp_path, "app.py", *store) as lives,
    ):
        for process in (dies, sleeps, lives):
            assert json.loads(line_with(process.stderr, "serving"))["functions"] == ["note", "who"]
        async with Client(redis_url) as client:
            clicks, orders = await client.stream("clicks"), await client.queue("orders")
            log, sent, records = Log(server), set[str](), 0

            async def put_until(true: Callable[[], bool]) -> None:
                nonlocal records
                async for _ in log.read_until(true):
                    if len(sent) - len(log.data) < MAXIMUM_UNREAD:
                        data = [(f"r{records + number}", f"k{number}") for number in range(16)]
                        records += len(data)
                        sent.update([each for each, _ in data], [order := f"o{records}"])
                        await clicks.put_many(data)
                        await orders.send(order)

            async def all_arrives() -> None:
                async for _ in log.read_until(lambda: log.data == sent):
                    pass

            await put_until(lambda: all(log.by[each.pid] > 100 for each in (dies, sleeps, lives)))
            dies.kill()
            os.kill(sleeps.pid, signal.SIGSTOP)
            await all_arrives()
            before = log.by[sleeps.pid]
            os.kill(sleeps.pid, signal.SIGCONT)
            await put_until(lambda: log.by[sleeps.pid] > before + 100)
            await all_arrives()
            assert await client.invoke("who", {}) in (sleeps.pid, lives.pid)
            for process in (sleeps, lives):
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE_SECONDS)
                assert process.returncode == 0
            stored = await client.list_mappings()
            [mapping] = [name for name, each in stored.items() if each.mapping.source == "stream:clicks"]
            books = await client.audit(mapping)
            assert (books.total.passed, books.total.waiting, books.balanced) == (records, 0, True)
            await log.close()


@pytest.mark.night  # it waits for 25 s
async def test_asynchronous_events_that_a_dead_engine_had_run_again_long_before_their_claims_end(
    tmp_path: Path, redis_url: str
) -> None:
    server = redis_url.partition("?")[0]
    (tmp_path / "app.py").write_text(EVENTS.replace("SERVER", server))
    store, log = ("--store", redis_url), Log(server)
    with running(tmp_path, "app.py", *store) as dies:
        line_with(dies.stderr, "serving")
        async with Client(redis_url) as client:
            ids = [await client.invoke_async("pay", number) for number in range(3)]
            async for _ in log.read_until(lambda: log.by[dies.pid] == 3):
                pass
            with running(tmp_path, "app.py", *store) as lives:
                line_with(lives.stderr, "serving")
                dies.kill()
                async for _ in log.read_until(lambda: log.by[lives.pid] == 3):
                    pass
                lives.send_signal(signal.SIGTERM)
                lives.communicate(timeout=PATIENCE_SECONDS)
            ended = [await client.event(each) for each in ids]
            assert [(each.state, each.event.attempts) for each in ended] == 3 * [("succeeded", 2)]
    await log.close()
