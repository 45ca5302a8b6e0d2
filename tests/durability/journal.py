"""What the handlers of `shop.py` write down, as the process that counts reads it: from a pipe, in lines.

Decides which runs there were, in which quiet time of which engine, and what they finished. Knows nothing of stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Run:
    """A handler's run of one function: its items' numbers by id, and those that it finished, in its order; None: it was
    cut off.

    life: the quiet time of its engine (from 1) in which it began; 0: something was going wrong."""

    life: int
    function: str
    items: dict[str, int]
    done: list[str] | None = None


class Journal:
    """Give `pipe` to the engine as `SHOP_JOURNAL`."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.lines = 0
        self.done: defaultdict[str, set[str]] = defaultdict(set)
        """Ids that were finished, by function."""
        self.quiet = True
        """Nothing goes wrong, but that an engine may die."""
        self._open: dict[tuple[int, int], Run] = {}
        self._lives: dict[tuple[int, int], int] = {}
        self._unquiet = 0
        self._times: Counter[str] = Counter()
        self._marks = 0
        self._news = asyncio.Event()

    async def __aenter__(self) -> Journal:
        receiving, self.pipe = os.pipe()
        self._reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(receiving, "rb")
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        os.close(self.pipe)
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._transport.close()

    async def says(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Wait until it does, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not enough():
                    self._news.clear()
                    await self._news.wait()
        return enough()

    async def goes_on(self) -> None:
        """Wait for the next line, or a moment."""
        lines = self.lines
        await self.says(lambda: self.lines > lines, 0.1)

    async def mark(self) -> None:
        """Wait until all is read that was written up to now."""
        os.write(self.pipe, b'{"mark": 1}\n')
        goal = self._marks + 1
        while self._marks < goal:
            self._news.clear()
            await self._news.wait()

    async def strike(self) -> None:
        """From now on something goes wrong, until `calm`."""
        await self.mark()
        self.quiet = False
        self._unquiet += 1

    async def calm(self) -> None:
        await self.mark()
        self.quiet = True

    def times(self, id: str) -> int:
        """In how many runs it was."""
        return self._times[id]

    async def _read(self) -> None:
        while line := await self._reader.readline():
            entry = json.loads(line)
            if "mark" in entry:
                self._marks += 1
                self._news.set()
                continue
            process = entry["process"]
            if "began" in entry:
                life = self._lives.setdefault((process, self._unquiet), len(self._lives) + 1) if self.quiet else 0
                run = self._open[process, entry["run"]] = Run(life, entry["began"], entry["items"])
                self.runs.append(run)
                self._times.update(run.items.keys())
            else:
                run = self._open.pop((process, entry["run"]))
                run.done = entry["done"]
                self.done[run.function].update(run.done)
            self.lines += 1
            self._news.set()
