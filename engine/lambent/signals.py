"""An engine served until a signal ends it.

Decides what signals mean: the first SIGTERM or SIGINT drains, a second one stops at once. What draining and stopping
are is `engine.py`'s.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Main = Callable[[], Awaitable[object]]
Told = Callable[[bool], None]


class Served(Protocol):
    """What is served."""

    async def start(self) -> None: ...

    async def drain(self) -> None: ...

    def hurry(self) -> None: ...


async def serve(engine: Served, main: Main | None, told: Told) -> int | None:
    """As `Engine.run`, in a loop that is there."""
    signalled, stopped_by = asyncio.Event(), list[int]()

    def on_signal(number: int) -> None:
        again = signalled.is_set()
        if again:
            stopped_by.append(number)
            engine.hurry()
        signalled.set()
        told(again)

    loop = asyncio.get_running_loop()
    await engine.start()
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    waiting = asyncio.create_task(signalled.wait(), name="engine: signals")
    tasks: set[asyncio.Task[object]] = {waiting}
    if main is not None:
        tasks.add(asyncio.create_task(_awaited(main), name="engine: main"))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        try:
            await engine.drain()
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    for task in done - {waiting}:
        task.result()
    return stopped_by[0] if stopped_by else None


async def _awaited(main: Main) -> object:
    return await main()
