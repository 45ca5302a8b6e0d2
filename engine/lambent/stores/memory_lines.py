"""What queues in memory are made of: items, a line in which they wait, timers, and a bell for those who wait for them.

Decides nothing of meaning: `memory_events.py` and `memory_queue.py` say what waits for what. Every operation costs O(1)
or O(log n) in what waits. An item is in one place at a time; the entry that it leaves behind when it moves has no
longer its `place`, is passed over, and is swept out once such entries are half of a heap.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SWEEP_AT_LEAST: Final = 64  # abandoned entries that are not worth a sweep


class Bell:
    """Wakes all who wait, each at most once for a ring. Nobody waiting: nothing is kept."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done() and not future.get_loop().is_closed():
                    future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Until it rings, at most so long."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(None if seconds == float("inf") else seconds):
                await future
        except TimeoutError:
            pass
        finally:
            if future in self._waiting:
                self._waiting.remove(future)


@dataclass(slots=True, eq=False)
class Item(Generic[T]):
    """Something in a queue. `place` names its one valid entry in a line or among the timers; 0: it is gone."""

    value: T
    state: str = ""  # visible, in_flight or delayed
    place: int = 0
    receipt: str = ""
    order: int = 0
    born: float = 0.0  # on the monotonic clock
    due: float = 0.0  # on the monotonic clock: when it was last to fall due


class Line(Generic[T]):
    """Items in the order of a key. Those that come in order cost O(1), those that come back O(log n)."""

    def __init__(self) -> None:
        self._tail: deque[tuple[float, int, Item[T]]] = deque()
        self._back: list[tuple[float, int, Item[T]]] = []

    def push(self, key: float, item: Item[T]) -> None:
        entry = (key, item.place, item)
        if not self._tail or entry >= self._tail[-1]:
            self._tail.append(entry)
        else:
            heapq.heappush(self._back, entry)

    def peek(self) -> Item[T] | None:
        tail, back = self._tail, self._back
        while tail and tail[0][2].place != tail[0][1]:
            tail.popleft()
        while back and back[0][2].place != back[0][1]:
            heapq.heappop(back)
        if tail and (not back or tail[0] < back[0]):
            return tail[0][2]
        return back[0][2] if back else None

    def pop(self) -> Item[T] | None:
        item = self.peek()
        if item is not None:
            if self._back and self._back[0][2] is item:
                heapq.heappop(self._back)
            else:
                self._tail.popleft()
        return item


class Timers(Generic[T]):
    """Items by the time at which something falls due. `valid(place, item)` says whether an entry still counts."""

    def __init__(self, valid: Callable[[int, Item[T]], bool] = lambda place, item: item.place == place) -> None:
        self._heap: list[tuple[float, int, Item[T]]] = []
        self._valid = valid
        self._abandoned = 0

    def push(self, at: float, item: Item[T]) -> bool:
        """True if it is now the first to fall due."""
        item.due = at
        heapq.heappush(self._heap, (at, item.place, item))
        return self._heap[0][2] is item

    def abandon(self) -> None:
        """One entry counts no more."""
        self._abandoned += 1
        if self._abandoned > SWEEP_AT_LEAST and 2 * self._abandoned > len(self._heap):
            self._heap = [entry for entry in self._heap if self._valid(entry[1], entry[2])]
            heapq.heapify(self._heap)
            self._abandoned = 0

    def first(self) -> float:
        """When the next one falls due; infinity if none does."""
        while self._heap and not self._valid(self._heap[0][1], self._heap[0][2]):
            heapq.heappop(self._heap)
            self._abandoned -= 1
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now: float) -> Iterator[Item[T]]:
        while self.first() <= now:
            yield heapq.heappop(self._heap)[2]
