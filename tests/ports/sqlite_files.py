"""SQLite files for tests of what is in them: in the test's own thread, and without syncs, which other tests are for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw

from lambent.ports import Clock
from lambent.stores.sqlite import UPGRADES
from lambent.stores.sqlite_file import SqliteFile
from lambent.stores.sqlite_opening import Opening


class _Unsynced(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("unsynced", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _UnsyncedFile("", name, flags)


class _UnsyncedFile(apsw.VFSFile):
    def xSync(self, flags: int) -> None:
        pass


UNSYNCED: Final = _Unsynced()


async def open_file(path: Path, clock: Clock) -> SqliteFile:
    file = SqliteFile(Opening(str(path), UPGRADES, "unsynced"), clock, lambda call: call(), poll_seconds=None)
    await file.open()
    return file
