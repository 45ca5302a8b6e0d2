"""A machine whose power fails: engines, one after the other, on one disk, in virtual time.

Decides what a restart is here: everything of the process is gone at once, and of the disk there is what `Disk.cut`
leaves; the wall clock may be another afterwards. Leaves to the tests what the engines declare and what must hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

from lambent import Engine
from lambent.ports import Store, World
from lambent.stores.sqlite import Connection, SqliteStore
from lambent.testing.disk import Disk
from lambent.testing.loop import VirtualClock, VirtualLoop, with_process

T = TypeVar("T")


class Machine:
    """Use it in a `with`. `commit_seconds` is how long each transaction takes; `around` wraps the store."""

    def __init__(
        self, directory: Path, commit_seconds: float = 0.0, around: Callable[[Store], Store] = lambda store: store
    ) -> None:
        self.clock = VirtualClock(asyncio.get_running_loop())
        self._loop = cast(VirtualLoop, asyncio.get_running_loop())
        self._directory = directory
        self._commit_seconds = commit_seconds
        self._around = around
        self._lives = 0
        self._disks = ExitStack()
        self._plug_in()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._die()
        self._disks.close()

    async def boot(self, declare: Callable[[Engine], object], **options: Any) -> Engine:
        """An engine that runs what `declare` declares."""
        self._lives += 1
        store = SqliteStore(
            self._path / "app.db",
            vfs=self.disk.name,
            executor=lambda call: self._loop.call_later(self._commit_seconds, call),
            poll_seconds=None,
        )
        self._remembering = _Remembering(store)
        engine = Engine(self._around(self._remembering), clock=self.clock, seed=self._lives, **options)
        declare(engine)
        await self.run(engine.start())
        return engine

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """What an engine's process does."""
        with with_process(self._process):
            task = asyncio.create_task(call)
        return await task

    @property
    def connection(self) -> Connection:
        """The engine's, to look into its store."""
        return self._remembering.connection

    def lose_power(self, clock_seconds: float = 0.0) -> None:
        """Everything that runs is gone; then the wall clock is set by so many seconds."""
        self._die()
        last = self.disk
        self._plug_in(last)
        self.clock.shift(clock_seconds)

    def _die(self) -> None:
        self._loop.kill(self._process)
        self.disk.off = True
        self._remembering.connection.abandon()

    def _plug_in(self, last: Disk | None = None) -> None:
        self._path = self._directory / f"disk {self._lives}"
        self._path.mkdir()
        if last is not None:
            last.cut(self._lives, self._path)
        self.disk = self._disks.enter_context(Disk(self._path))

    @property
    def _process(self) -> str:
        return f"machine/{self._lives}"


class _Remembering:
    """A store that knows its connection, which nobody closes when a process dies."""

    def __init__(self, store: SqliteStore) -> None:
        self.capabilities = store.capabilities
        self._store = store

    async def connect(self, world: World, client: bool = False) -> Connection:
        self.connection = await self._store.connect(world, client)
        return self.connection
