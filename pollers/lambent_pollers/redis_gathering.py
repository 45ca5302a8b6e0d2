"""One call for what many callers want, as a group commit.

Decides who goes together: all who come while a call is under way. Leaves to its user what the call is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from lambent.errors import LambentError

Perform = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
"""A call: takes the words of all, and gives as many answers as they asked for, in their order (or none at all)."""


class Gathering:
    """maximum_bytes: of words in one call, unless one caller alone has more."""

    def __init__(self, perform: Perform, maximum_bytes: int = 4 * 1024 * 1024) -> None:
        self._perform = perform
        self._maximum_bytes = maximum_bytes
        self._waiting: deque[tuple[Sequence[Any], int, int, asyncio.Future[Sequence[Any]]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def put(self, words: Sequence[Any], answers: int, size: int) -> Sequence[Any]:
        """What becomes of these words, of so many bytes. Raises what `perform` raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[Any]] = loop.create_future()
        self._waiting.append((words, answers, size, future))
        if self._running is None:
            self._running = loop.create_task(self._run(), name="redis: calls of many")
        return await future

    async def _run(self) -> None:
        callers: list[tuple[int, asyncio.Future[Sequence[Any]]]] = []
        try:
            while self._waiting:
                words, callers = self._next()
                try:
                    found = await self._perform(words)
                except LambentError as error:
                    _fail([future for _, future in callers], error)
                    continue
                begin = 0
                for answers, future in callers:
                    if not future.done():
                        future.set_result(found[begin : begin + answers])
                    begin += answers
        except Exception as error:  # a bug, which shall not leave its callers waiting
            _fail([*(future for _, future in callers), *(each[3] for each in self._waiting)], error)
            self._waiting.clear()
            raise
        finally:
            self._running = None
            for future in [*(future for _, future in callers), *(each[3] for each in self._waiting)]:
                future.cancel()  # of those that are left when the loop ends
            self._waiting.clear()

    def _next(self) -> tuple[Sequence[Any], list[tuple[int, asyncio.Future[Sequence[Any]]]]]:
        words: list[Any] = []
        callers: list[tuple[int, asyncio.Future[Sequence[Any]]]] = []
        left = self._maximum_bytes
        while self._waiting and (left >= self._waiting[0][2] or not callers):
            theirs, answers, size, future = self._waiting.popleft()
            if not future.done():
                words += theirs
                callers.append((answers, future))
                left -= size
        return words, callers


def _fail(futures: Iterable[asyncio.Future[Sequence[Any]]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
