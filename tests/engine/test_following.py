"""How an engine follows the functions of its store: by what changed, and by all where it may have missed something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from lambent import Client, MemoryStore, ResourceNotFound
from lambent.ports import Document, World
from lambent.stored_functions import FORGOTTEN_SECONDS
from lambent.stores.memory import Connection, MemoryDocuments
from lambent.testing.loop import VirtualClock
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time(deterministic=True)


class Counting(MemoryStore):
    """Says how many functions its engines were given at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    async def connect(self, world: World, client: bool = False) -> Connection:
        connection, given = await super().connect(world, client), self.given

        class Documents(MemoryDocuments):
            async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
                found = await super().list(kind, after)
                if kind == "function":
                    given.append(len(found))
                return found

        if not client:
            connection.documents = Documents(self._documents, self._clock)
        return connection


def handler() -> Callable[[object], Awaitable[object]]:
    async def echo(event: object) -> object:
        return event

    return echo


async def test_a_change_costs_an_engine_what_changed_and_not_what_there_is() -> None:
    store = Counting()
    engine = virtual(store)
    for number in range(100):
        engine.function(name=f"f{number}")(handler())
    async with engine, Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=2) as client:
        await asyncio.sleep(1)
        store.given.clear()
        await engine.update_function("f7", timeout_seconds=9)
        await asyncio.sleep(1)
        await client.delete_function("f8")
        await asyncio.sleep(1)
        assert set(store.given) <= {0, 1}, "the update is checked against all, which are known"
        assert engine.control.functions["f7"].timeout_seconds == 9
        with pytest.raises(ResourceNotFound):
            await engine.invoke("f8")


async def test_a_deletion_whose_trace_an_engine_has_missed_is_noticed_at_its_next_look() -> None:
    store = MemoryStore()
    engine = virtual(store)
    for name in ("gone", "changed"):
        engine.function(name=name)(handler())
    async with engine:
        engine.control.stored._looked_at = asyncio.get_running_loop().time() - FORGOTTEN_SECONDS  # it stood still since
        for known in (store._documents.kinds, store._documents.written):
            known["function"].pop("gone")  # as it is when the trace has expired
        await engine.control.update_function("changed", {"timeout_seconds": 9})
        await asyncio.sleep(1)
        with pytest.raises(ResourceNotFound):
            await engine.invoke("gone")
        assert await engine.invoke("changed", 1) == 1
