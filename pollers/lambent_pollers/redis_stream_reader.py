"""One reader of many shards on Redis: which of them are to be asked now, which wait for something to come.

Decides what is worth an answer. Leaves to its kinds how records are asked for, and how one hears that there are more.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from lambent.model import Read


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What follows this time and place of a shard, up to so many records and bytes."""

    shard: str
    number: int
    at: int
    place: int
    maximum_records: int
    maximum_bytes: int


class RequestReader(ABC):
    """A `StreamReader`. A request stays until it is answered: a cancelled wait loses nothing."""

    def __init__(self, group: str) -> None:
        self._wanted: dict[str, Request] = {}
        self._asking: dict[str, None] = {}  # of these it is not known that there is nothing; the others wait
        self._said: set[str] = set()  # shards of which "caught up" was the last word
        self.passing: dict[str, tuple[str, int]] = {}
        """By shard: how far the group is and its lease's counter, if the server has not been told."""
        self._group = group
        self._changed = asyncio.Event()
        self._looks = 0

    @abstractmethod
    def request(self, shard: str, position: str, maximum_records: int, maximum_bytes: int) -> Request:
        """Raises ResourceNotFound or InvalidParameterValue."""

    @abstractmethod
    async def look(self, requests: Sequence[Request]) -> Sequence[Read | None]:
        """What there is; None for one that is to be asked for again."""

    @abstractmethod
    async def listen(self) -> None:
        """From now on `look_again` is called whenever there may be more. `passing` is told, too."""

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

    def passed(self, shard: str, position: str, counter: int) -> None:
        if self._group and counter >= self.passing.get(shard, ("", 0))[1]:
            self.passing[shard] = position, counter
            self._changed.set()

    async def close(self) -> None:
        for shard in list(self._wanted):
            self.drop(shard)

    async def _ask(self) -> Sequence[Read]:
        looks, asked = self._looks, [self._wanted[shard] for shard in self._asking]
        answered: list[Read] = []
        for request, read in zip(asked, await self.look(asked), strict=True):
            shard = request.shard
            if read is None or self._wanted.get(shard) is not request:
                continue  # dropped, or asked anew
            if read.records or read.ended or shard not in self._said:
                del self._wanted[shard], self._asking[shard]
                (self._said.add if read.caught_up else self._said.discard)(shard)
                answered.append(read)
            elif self._looks == looks:
                del self._asking[shard]
        return answered
