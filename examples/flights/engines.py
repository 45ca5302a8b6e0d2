"""Engines in processes of their own, which share a store: `lambent run`, as often as you like.

Decides how they are started and told to end, and how their users get at them: as clients of the store.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from examples.flights.play import Service
from lambent import Client
from lambent.errors import LambentError, StoreUnavailable
from lambent.semantics.auditing import Account

SERVED = Path(__file__).with_name("served.py")
ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 5.0  # before a question is asked again: who had it may be dead
AGAIN_SECONDS = 0.2
MAPPING_FUNCTION = "delays"


class Engines:
    """Of one store and board. What they say goes to `log`."""

    def __init__(self, store: str, board: Path, seed: int, log: Path, departures_in: str = "departures") -> None:
        self.store = store
        self.processes: list[asyncio.subprocess.Process] = []
        self.log = log
        self._environment = {
            **os.environ,
            "FLIGHTS_BOARD": str(board),
            "FLIGHTS_SEED": str(seed),
            "FLIGHTS_DEPARTURES": departures_in,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        }

    async def start(self) -> asyncio.subprocess.Process:
        """One more."""
        command = (sys.executable, "-m", "lambent.cli", "run", str(SERVED), "--store", self.store)
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, env=self._environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    async def stop(self) -> list[int]:
        """Let all drain; gives their exit codes."""
        for process in self.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        return [await process.wait() for process in self.processes]

    def check(self) -> None:
        """Raises StoreUnavailable if none has started."""
        if all(process.returncode is not None for process in self.processes):
            raise StoreUnavailable(f"no engine has started; {self.log} says why")


@asynccontextmanager
async def in_processes(engines: Engines, count: int) -> AsyncIterator[Service]:
    """So many engines run elsewhere; their users are clients of the store. Raises StoreUnavailable."""
    for _ in range(count):
        await engines.start()
    try:
        async with elsewhere(engines.store, engines.check) as service:
            yield service
    finally:
        await engines.stop()


@asynccontextmanager
async def elsewhere(store: str, check: Callable[[], None] = lambda: None) -> AsyncIterator[Service]:
    """Engines run on this store, whoever started them, or will soon; `check` raises if none will."""
    async with AsyncExitStack() as stack:
        client, mapping, source = await _declared(store, check, stack)
        departures = await client.stream(source.removeprefix("stream:"))

        async def invoke(function: str, payload: object) -> Any:
            while True:
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        return await client.invoke(function, payload)
                except (LambentError, TimeoutError):
                    await asyncio.sleep(AGAIN_SECONDS)

        async def account() -> Account:
            return (await client.audit(mapping)).total

        yield Service(departures.put_many, invoke, account)


async def _declared(store: str, check: Callable[[], None], stack: AsyncExitStack) -> tuple[Client, str, str]:
    """A client, and the id and source of the stream's mapping, as soon as an engine has declared it."""
    while True:
        check()
        async with AsyncExitStack() as trial:
            try:
                client = await trial.enter_async_context(Client(store))
            except StoreUnavailable:  # perhaps it is the engine that makes it
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            for identity, stored in (await client.list_mappings()).items():
                if stored.mapping.function == MAPPING_FUNCTION:
                    await stack.enter_async_context(trial.pop_all())
                    return client, identity, stored.mapping.source
        await asyncio.sleep(AGAIN_SECONDS)
