"""The SQLite store passes every suite on a real file, and keeps its own promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lambent.ports import Connection, Store, World
from lambent.stores.sqlite import SqliteStore

from .suites import Suite
from .suites.facts import FactsSuite
from .suites.stores import DocumentsSuite, EventQueueSuite, LeasesSuite

pytestmark = pytest.mark.virtual_time


def inline(call: Callable[[], None]) -> None:
    call()


class _Sqlite(Suite):
    """On virtual time: the file's work is done in the loop's own thread."""

    capabilities = SqliteStore.capabilities

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "app.db"
        self.connections: list[Connection] = []

    @pytest.fixture(autouse=True)
    async def _end(self) -> AsyncIterator[None]:
        yield
        for connection in self.connections:
            await connection.close()

    def make_store(self) -> Store:
        return _Remembering(SqliteStore(self.path, executor=inline), self.connections)


class _Remembering:
    def __init__(self, store: SqliteStore, connections: list[Connection]) -> None:
        self.capabilities = store.capabilities
        self._store = store
        self._connections = connections

    async def connect(self, world: World, client: bool = False) -> Connection:
        connection = await self._store.connect(world, client)
        self._connections.append(connection)
        return connection


class TestSqliteDocuments(_Sqlite, DocumentsSuite):
    pass


class TestSqliteEventQueue(_Sqlite, EventQueueSuite):
    pass


class TestSqliteLeases(_Sqlite, LeasesSuite):
    pass


class TestSqliteFacts(_Sqlite, FactsSuite):
    pass
