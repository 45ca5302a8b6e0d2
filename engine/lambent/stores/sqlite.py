"""The store in a SQLite file: one engine process for a file, and any number of clients beside it.

Decides what a connection is made of, who may have one, and when what is no longer needed is removed. What is kept, and
how, is decided by the adapters (`sqlite_*.py`); when it is written, by `sqlite_file.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Final

from lambent.errors import StoreUnavailable
from lambent.model import Event, Queue, Settlement, Stream
from lambent.ports import BuiltinQueue, BuiltinStream, EventQueue, World
from lambent.stores import (
    sqlite_documents,
    sqlite_event_rows,
    sqlite_leases,
    sqlite_messages,
    sqlite_records,
    sqlite_rows,
)
from lambent.stores.sqlite_documents import SqliteDocuments
from lambent.stores.sqlite_events import SqliteEvents
from lambent.stores.sqlite_facts import SqliteFacts
from lambent.stores.sqlite_file import POLL_SECONDS, Executor, SqliteFile, shrink
from lambent.stores.sqlite_leases import SqliteLeases
from lambent.stores.sqlite_lock import FileLock
from lambent.stores.sqlite_opening import CHECKPOINT_PAGES, META, Opening, Upgrade, creating
from lambent.stores.sqlite_queue import SqliteQueues
from lambent.stores.sqlite_stream import SqliteStreams

UPGRADES: Final[Sequence[Upgrade]] = (
    creating(
        *META,
        *sqlite_rows.SCHEMA,
        *sqlite_documents.SCHEMA,
        *sqlite_event_rows.SCHEMA,
        *sqlite_leases.SCHEMA,
        *sqlite_messages.SCHEMA,
        *sqlite_records.SCHEMA,
    ),
    creating(*sqlite_records.LIMITS),
    creating(*sqlite_documents.CHANGES),
)
SWEEP_SECONDS: Final = 1.0  # between two looks for what need not be kept any longer


class SqliteStore:
    """Everything in the file `path`, beside which SQLite keeps `-wal` and `-shm`, and the engine its `-lock`.

    executor: runs the file's work; None is a thread for each connection.
    vfs: SQLite's, by name; tests have one whose disk can fail.
    poll_seconds: how often to look for what other processes wrote; None: never.
    checkpoint_pages: of the log, of 4 KiB each, above which it is copied into the file.
    sweep_seconds: between two looks for what need not be kept any longer."""

    capabilities = frozenset({"documents", "events", "leases", "permits", "queue", "stream"})

    def __init__(
        self,
        path: str | Path,
        *,
        executor: Executor | None = None,
        vfs: str | None = None,
        poll_seconds: float | None = POLL_SECONDS,
        checkpoint_pages: int = CHECKPOINT_PAGES,
        sweep_seconds: float = SWEEP_SECONDS,
    ) -> None:
        self.path = os.path.abspath(path)
        self._name = f"sqlite:///{path}"
        self._executor = executor
        self._vfs = vfs
        self._poll_seconds = poll_seconds
        self._checkpoint_pages = checkpoint_pages
        self._sweep_seconds = sweep_seconds

    def __str__(self) -> str:
        return self._name

    async def connect(self, world: World, client: bool = False) -> Connection:
        """Raises StoreUnavailable: another engine has the file, it cannot be opened, or no engine has made it."""
        connection = self.connection(world, client)
        try:
            await connection.open()
        except BaseException:
            await connection.close()
            raise
        return connection

    def connection(self, world: World, client: bool) -> Connection:
        """One that is not open yet."""
        return Connection(self.file(world, client), world, FileLock(self.path), client, self._sweep_seconds)

    def file(self, world: World, client: bool) -> SqliteFile:
        """As `connection`."""
        opening = Opening(self.path, UPGRADES, self._vfs, client, self._checkpoint_pages)
        return SqliteFile(opening, world.clock, self._executor, self._poll_seconds)


class Connection:
    """An engine's or a client's view of the file."""

    events: EventQueue

    def __init__(self, file: SqliteFile, world: World, lock: FileLock, client: bool, sweep_seconds: float) -> None:
        self.documents = SqliteDocuments(file)
        self.leases = SqliteLeases(file, world)
        self.facts = SqliteFacts(file)
        self.file = file
        self._world = world
        self._queues = SqliteQueues(file)
        self._streams = SqliteStreams(file)
        self._events = None if client else SqliteEvents(file, world)
        self.events = self._events or _ClientEvents(file)
        self._lock = lock
        self._sweep_seconds = sweep_seconds
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises StoreUnavailable; `close` follows."""
        if self._events is not None:
            await self._lock.take()
        await self.file.open()
        if self._events is not None:
            await self.file.write(sqlite_leases.void_all, None)
            await self._events.recover()
            self._sweeping = asyncio.create_task(self._sweep(), name="sqlite: sweep")

    async def engines(self) -> int:
        return int(self._lock.taken())

    def queue(self, queue: Queue) -> BuiltinQueue:
        return self._queues.queue(queue, self._world)

    def stream(self, stream: Stream) -> BuiltinStream:
        return self._streams.stream(stream, self._world)

    archive = None
    cautions = ()

    def on_trouble(self, callback: Callable[[str], None]) -> None:
        self.file.on_trouble(callback)

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.documents.close()
        if self._events is not None:
            await self._events.close()
            with suppress(StoreUnavailable):
                await self.file.write(sqlite_leases.void_all, None)
        await self.file.close()
        self._lock.release()

    def abandon(self) -> None:
        """As if this process had died: for tests that kill engines, whose stores work in the caller's thread."""
        self.file.abandon()
        self._lock.release()

    async def _sweep(self) -> None:
        assert self._events is not None
        sweeps: Sequence[Callable[[], Awaitable[None]]] = (
            self._events.sweep,
            self.documents.sweep,
            self._queues.sweep,
            self._streams.sweep,
            self._shrink,
        )
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                for sweep in sweeps:
                    await sweep()
            except StoreUnavailable:
                continue  # the loops say so

    async def _shrink(self) -> None:
        await self.file.write(shrink, None)


class _ClientEvents:
    """A client puts events, and claims none."""

    held_seconds = inf

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def put_many(self, events: Sequence[Event]) -> None:
        await self._file.write(sqlite_event_rows.put_as_client, events)

    async def due(self, hosted: object, wait_seconds: float) -> Sequence[tuple[str, float]]:
        await asyncio.sleep(wait_seconds)
        return ()

    async def receive(
        self, function: str, limit: int, claim_seconds: float, accepted_before: float | None = None
    ) -> Sequence[Event]:
        return ()

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return [False] * len(settlements)

    async def pending(self) -> Mapping[str, int]:
        return await self._file.read(sqlite_event_rows.pending, None)
