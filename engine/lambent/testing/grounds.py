"""What a simulated day's data lies on: memory, or a SQLite file with the very adapters of production.

Decides how a store is made that lives and dies within a day, what its engines' deaths do to it, and how the outside
world reads and writes it within one step of the loop. What happens on a day is `simulation.py`'s.

A file's work is done in the step that asks for it and its answers come in later steps, so an engine may be killed
between its commit and hearing of it: exactly what a witness that hears answers would miss. Therefore an engine on a
file dies in two steps: from its death on it can do nothing more to the store, and it runs until what the store has done
for it is witnessed. Nothing is synced: power failures have tests of their own.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

import apsw

from lambent.model import Stream
from lambent.ports import Connection, Store, World
from lambent.stores.memory import MemoryStore
from lambent.stores.sqlite import Connection as SqliteConnection
from lambent.stores.sqlite import SqliteStore
from lambent.stores.sqlite_file import READ, WRITE, SqliteFile
from lambent.testing.faults import Faults, Rates
from lambent.testing.loop import PROCESS, VirtualLoop, with_process

__all__ = ["Ground", "GroundName", "MemoryGround", "SqliteGround", "at_once", "ground", "reshard"]

GroundName = Literal["memory", "sqlite"]

SWEEP_SECONDS: Final = 600.0
"""Virtual seconds between two looks for what need not be kept: a day is mostly waiting."""

_NUMBERS: Final = count(1)


class Ground(Protocol):
    """A store for the engines, and the outside world's view of it, whose calls never wait."""

    store: Store

    @property
    def befallen(self) -> Mapping[str, int]:
        """How often what befell it that is no fault of a call."""
        ...

    @property
    def outside(self) -> Connection:
        """What the outside world has; to be asked for each time."""
        ...

    async def open(self, world: World) -> None:
        """Make it."""
        ...

    def climate(self, rates: Rates) -> Rates:
        """What of it can happen here."""
        ...

    def quiet(self, process: str, faults: Faults) -> bool:
        """Is everything that the store did for this process witnessed?"""
        ...

    def died(self, process: str, chance: Callable[[], bool]) -> bool:
        """The process is dead. Does the store notice at once? Where that is by chance, `chance` says so."""
        ...

    def neighbours(self, stream: Stream) -> tuple[str, str] | None:
        """Two shards that can be merged."""
        ...

    def extend(self, stream: Stream, number: int) -> bool:
        """One shard more beside all that there are, if this is how its streams grow."""
        ...

    def heal(self) -> None:
        """Nothing of it goes wrong any more."""
        ...

    def unsettled(self, holders: Mapping[tuple[str, str], tuple[str, int]]) -> str:
        """Whether somebody has another lease than is assigned to him, as a sentence; "": nobody. `holders`: process and
        counter of each lease, by mapping and shard."""
        ...

    def close(self) -> None: ...


def ground(name: GroundName) -> Ground:
    return MemoryGround() if name == "memory" else SqliteGround()


def reshard(ground: Ground, stream: Stream, what: Literal["split", "merge"], number: int) -> None:
    """Change a stream's shards, as far as its ground can: `number` chooses one."""
    if ground.extend(stream, number):
        return
    builtin = ground.outside.stream(stream)
    shards = list(at_once(builtin.shards()))
    closed = {parent for shard in shards for parent in shard.parents}
    leaves = [shard.id for shard in shards if shard.id not in closed]
    if what == "split":
        at_once(builtin.split(leaves[number % len(leaves)]))
    elif (pair := ground.neighbours(stream)) is not None:
        at_once(builtin.merge(*pair))


class _Ungrouped:
    """A ground without groups: nothing befalls it by itself."""

    @property
    def befallen(self) -> Mapping[str, int]:
        return {}

    def extend(self, stream: Stream, number: int) -> bool:
        return False

    def heal(self) -> None: ...

    def unsettled(self, holders: Mapping[tuple[str, str], tuple[str, int]]) -> str:
        return ""


class MemoryGround(_Ungrouped):
    """Several engines may share it."""

    def __init__(self) -> None:
        self._memory = MemoryStore()
        self._connections: dict[str | None, Connection] = {}
        self.store: Store = _Remembering(self._memory, self._connections)

    async def open(self, world: World) -> None:
        self._outside = await self._memory.connect(world)

    @property
    def outside(self) -> Connection:
        return self._outside

    def climate(self, rates: Rates) -> Rates:
        return rates

    def quiet(self, process: str, faults: Faults) -> bool:
        return True  # it answers in the step in which it acts

    def died(self, process: str, chance: Callable[[], bool]) -> bool:
        connection = self._connections.pop(process, None)
        if connection is None or not chance():
            return False
        asyncio.get_running_loop().call_soon(lambda: at_once(connection.close()), context=Context())
        return True

    def neighbours(self, stream: Stream) -> tuple[str, str] | None:
        shards = self._memory.stream_state(stream)._open
        return (shards[0].shard.id, shards[1].shard.id) if len(shards) > 1 else None

    def close(self) -> None: ...


class SqliteGround(_Ungrouped):
    """One engine at a time, as the file's lock has it."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="lambent-"))
        self._vfs = _Unsynced(f"unsynced-{next(_NUMBERS)}")
        self._engines: dict[str, SqliteConnection] = {}
        self.store: Store = _OnFile(self._directory / "simulated.db", self._vfs.name, self._engines, self._changed)

    async def open(self, world: World) -> None:
        await (await self.store.connect(world)).close()  # makes the file
        self._engines.clear()
        self._outside = cast(SqliteConnection, await self.store.connect(world, client=True))

    @property
    def outside(self) -> Connection:
        """It knows what the engine has written."""
        cast(_AtOnce, self._outside.file).notice()
        return self._outside

    def climate(self, rates: Rates) -> Rates:
        return replace(rates, twice=0.0)  # a release in one step cannot be: it is written first

    def quiet(self, process: str, faults: Faults) -> bool:
        connection = self._engines.get(process)
        if connection is not None and connection.file.unanswered:
            return False
        return all(_waits(task) for task, (of, _) in faults.inside.items() if of == process)

    def died(self, process: str, chance: Callable[[], bool]) -> bool:
        connection = self._engines.pop(process, None)
        if connection is not None:
            connection.abandon()
        return True

    def neighbours(self, stream: Stream) -> tuple[str, str] | None:
        return None

    def close(self) -> None:
        at_once(self._outside.close())
        self._vfs.unregister()
        shutil.rmtree(self._directory)

    def _changed(self) -> None:
        """The outside world wrote: the engine notices soon."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        for process, connection in self._engines.items():
            with with_process(process):
                loop.call_soon(connection.file.look)


class _OnFile(SqliteStore):
    """A file's engines, by their processes; clients are the outside world, whose work is done at once."""

    def __init__(self, path: Path, vfs: str, engines: dict[str, SqliteConnection], changed: Callable[[], None]) -> None:
        super().__init__(path, executor=_inline, vfs=vfs, poll_seconds=None, sweep_seconds=SWEEP_SECONDS)
        self._engines = engines
        self._changed = changed

    def connection(self, world: World, client: bool) -> SqliteConnection:
        connection = super().connection(world, client)
        if not client:
            self._engines[PROCESS.get() or "world"] = connection
        return connection

    def file(self, world: World, client: bool) -> SqliteFile:
        file = super().file(world, client)
        return _AtOnce(file, self._changed) if client else file


class _AtOnce(SqliteFile):
    """A file whose work is done and answered before the call returns."""

    def __init__(self, file: SqliteFile, changed: Callable[[], None]) -> None:
        vars(self).update(vars(file))
        self._wrote = changed

    async def open(self) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), False
        self._open()

    async def close(self) -> None:
        self._close()

    def notice(self) -> None:
        """What others wrote."""
        assert self._opened is not None
        if self._opened.foreign_change():
            self._follow(self._opened)
            self._call(self._on_foreign_change)

    def _ask(self, jobs: deque[Any], job: Any) -> None:
        assert self._opened is not None
        writes = jobs is self._writes
        self._answer(self._transaction(self._opened, [job], WRITE if writes else READ))
        if writes:
            self._wrote()


class _Unsynced(apsw.VFS):
    """The default file system without its syncs."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _UnsyncedFile("", name, flags)


class _UnsyncedFile(apsw.VFSFile):
    def xSync(self, flags: int) -> None: ...


class _Remembering:
    """Keeps each process's connection, so that the store can notice its death."""

    def __init__(self, store: MemoryStore, connections: dict[str | None, Connection]) -> None:
        self.capabilities = store.capabilities
        self._store = store
        self._connections = connections

    async def connect(self, world: World, client: bool = False) -> Connection:
        connection = self._connections[PROCESS.get()] = await self._store.connect(world, client)
        return connection


def at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that does not wait."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def _waits(task: asyncio.Task[Any]) -> bool:
    """For something that has not come yet."""
    waiting = cast(Any, task)._fut_waiter
    return waiting is not None and not waiting.done()


def _inline(call: Callable[[], None]) -> None:
    call()
