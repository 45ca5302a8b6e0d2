"""`lambent run --store redis://…` by several processes, of which some die and some are stopped for a while."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lambent import Client

from .test_run import line_with, running

APP = """
import os
from lambent import Engine

engine = Engine()
orders = engine.queue("orders", visibility_timeout_seconds=5)
clicks = engine.stream("clicks", shards=6)

@engine.function()
async def note(event):
    with open("log", "a") as log:
        for record in event["Records"]:
            log.write(f"{os.getpid()} {record.get('body') or record['kinesis']['data']}\\n")

engine.map(orders, note)
engine.map(clicks, note)

@engine.function()
async def who(event):
    return os.getpid()
"""


PATIENCE_SECONDS = 40.0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.1)


@pytest.mark.night
async def test_what_a_dead_and_a_stopped_engine_had_goes_to_the_third(tmp_path: Path, redis_url: str) -> None:
    """None is lost; and whoever wakes after its time is over writes nothing any more."""
    (tmp_path / "app.py").write_text(APP)
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

            def seen() -> list[list[str]]:
                log = tmp_path / "log"
                return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

            def by() -> Counter[str]:
                return Counter(pid for pid, _ in seen())

            sent: set[str] = set()

            async def put_until(true: Callable[[], bool]) -> None:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not true():
                        data = [(f"r{len(sent) + n}", f"k{n}") for n in range(16)]
                        sent.update(each for each, _ in data)
                        await clicks.put_many(data)
                        sent.add(order := f"o{len(sent)}")
                        await orders.send(order)
                        await asyncio.sleep(0.1)

            pids = [str(process.pid) for process in (dies, sleeps, lives)]
            await put_until(lambda: all(by()[pid] > 20 for pid in pids))
            dies.kill()
            os.kill(sleeps.pid, signal.SIGSTOP)
            await until(lambda: {_text(data) for _, data in seen()} >= sent)
            before = by()
            os.kill(sleeps.pid, signal.SIGCONT)
            await put_until(lambda: by()[pids[1]] > before[pids[1]] + 20)
            await until(lambda: {_text(data) for _, data in seen()} == sent)
            assert await client.invoke("who", {}) in (sleeps.pid, lives.pid)
            [mapping] = [
                name for name, each in (await client.list_mappings()).items() if each.mapping.source == "stream:clicks"
            ]
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (found := await client.audit(mapping)).total.passed != len(sent) * 16 // 17:
                    await asyncio.sleep(0.1)
            assert found.balanced


def _text(data: str) -> str:
    """A record's data is base64 in its event, a message's body is not."""
    return data if data.startswith("o") else b64decode(data).decode()
