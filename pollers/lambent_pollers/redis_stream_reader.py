"""One reader of many shards on Redis: which of them are to be asked now, which wait for something to come.

Decides what is worth an answer. Leaves to its kinds how records are asked for, and how one hears that there are more.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lambent.model import Read

TELL_SECONDS: Final = 0.1  # how long what was passed may wait for company
LAST_WORD_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What follows this time and place of a shard, up to so many records and bytes."""

    shard: str
    number: int
    at: int
    place: int
    maximum_records: int
    maximum_bytes: int


@dataclass(frozen=True, slots=True)
class Passed:
    """How far the group is in a shard, and its lease's counter."""

    shard: str
    position: str
    counter: int


class RequestReader(ABC):
    """A `StreamReader`. A request stays until it is answered: a cancelled wait loses nothing."""

    def __init__(self, group: str) -> None:
        self._wanted: dict[str, Request] = {}
        self._asking: dict[str, None] = {}  # of these it is not known that there is nothing; the others wait
        self._said: set[str] = set()  # shards of which "caught up" was the last word
        self._group = group
        self._passed: dict[str, Passed] = {}  # by shard: what is to be told
        self._telling: asyncio.Future[Any] | None = None  # one at a time: two could overtake each other
        self._tell_at: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._looks = 0

    @abstractmethod
    def request(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> Request:
        """Raises ResourceNotFound or InvalidParameterValue."""

    @abstractmethod
    async def look(self, requests: Sequence[Request]) -> Sequence[Read | None]:
        """What there is; None for one that is to be asked for again. Only who asked in vain for all is told of more."""

    @abstractmethod
    async def listen(self) -> None:
        """From now on `look_again` is called whenever there may be more."""

    async def until_changed(self, changed: asyncio.Event, waiting: Sequence[Request]) -> None:
        """Until it is set, or there may be more than these wait for."""
        await changed.wait()

    def look_again(self) -> None:
        """There may be more in any shard."""
        self._looks += 1
        self._asking |= dict.fromkeys(self._wanted)
        self._changed.set()

    def want(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> None:
        self._wanted[shard] = self.request(shard, position, maximum_records, maximum_bytes)
        self._asking[shard] = None
        self._changed.set()

    def drop(self, shard: str) -> None:
        self._wanted.pop(shard, None)
        self._asking.pop(shard, None)
        self._said.discard(shard)
        self._changed.set()

    async def ready(self) -> Sequence[Read]:
        while True:
            await self.listen()
            self._changed.clear()
            if not self._asking:
                await self.until_changed(self._changed, list(self._wanted.values()))
            elif reads := await self._ask():
                return reads

    @abstractmethod
    def tell(self, group: str, passed: Sequence[Passed]) -> asyncio.Future[Any]:
        """Have the server note it."""

    def passed(self, shard: str, position: str, counter: int) -> None:
        known = self._passed.get(shard)
        if self._group and (known is None or counter >= known.counter):
            self._passed[shard] = Passed(shard, position, counter)
            if self._telling is None and self._tell_at is None:
                self._tell_at = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    async def close(self) -> None:
        """The last word is waited for a moment at most."""
        for shard in list(self._wanted):
            self.drop(shard)
        if self._telling is None:
            self._tell()
        while self._telling is not None:
            done, _ = await asyncio.wait({self._telling}, timeout=LAST_WORD_SECONDS)
            if not done:
                break
            await asyncio.sleep(0)

    def _tell(self) -> None:
        if self._tell_at is not None:
            self._tell_at.cancel()
            self._tell_at = None
        if self._passed:
            passed, self._passed = list(self._passed.values()), {}
            self._telling = self.tell(self._group, passed)
            self._telling.add_done_callback(self._told)

    def _told(self, told: asyncio.Future[Any]) -> None:
        """What the server did not hear keeps a little more."""
        self._telling = None
        if not told.cancelled():
            told.exception()
        self._tell()

    async def _ask(self) -> Sequence[Read]:
        looks, asked = self._looks, [self._wanted[shard] for shard in self._asking]
        answered: list[Read] = []
        reads = await self.look(asked)
        in_vain = not any(read is not None and read.records for read in reads)
        for request, read in zip(asked, reads, strict=True):
            shard = request.shard
            if read is None or self._wanted.get(shard) is not request:
                continue  # dropped, or asked anew
            if read.records or read.ended or shard not in self._said:
                del self._wanted[shard], self._asking[shard]
                (self._said.add if read.caught_up else self._said.discard)(shard)
                answered.append(read)
            elif in_vain and self._looks == looks:
                del self._asking[shard]
        return answered
