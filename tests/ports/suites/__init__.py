"""What every store and source must do, whoever wrote it: one suite a port, run unchanged by each adapter's test file.

An adapter's test class inherits a suite, says how to make the thing, and repeats the `capabilities` that the adapter
declares. A test that needs one more is not run for it, and named in the report at the end of the run as not declared
(see `conftest.py`): nothing is left out silently.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import pytest

from lambent.model import Message
from lambent.ports import Clock, QueueSource, World
from lambent.testing.loop import VirtualClock

T = TypeVar("T", bound=Callable[..., object])


def needs(*capabilities: str) -> Callable[[T], T]:
    """The test is for adapters that declare these."""

    def mark(test: T) -> T:
        test.__needs__ = frozenset(capabilities)  # type: ignore[attr-defined]
        return test

    return mark


class Suite:
    """Base of all suites. An adapter on a real broker replaces `clock` and, if it must, `pass_time`."""

    capabilities: ClassVar[frozenset[str]] = frozenset()

    @pytest.fixture(autouse=True)
    async def _begin(self) -> None:
        self.clock = self.make_clock()
        self._ids = itertools.count(1)
        self._chance = random.Random(0)

    def make_clock(self) -> Clock:
        return VirtualClock(asyncio.get_running_loop())

    def world(self, owner: str = "engine-1") -> World:
        return World(owner, self.clock, self._chance.random, self.new_id)

    def new_id(self) -> str:
        return f"00000000-0000-4000-8000-{next(self._ids):012d}"

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def take(queue: QueueSource, count: int) -> Sequence[Message]:
    """Receive until `count` messages came; an adapter may give fewer at a time than it has."""
    messages: list[Message] = []
    while len(messages) < count and (more := await queue.receive(count - len(messages), 2)):
        messages += more
    return messages


def bodies(messages: Sequence[Message]) -> list[str]:
    return [message.body for message in messages]
