"""A disk whose power can be cut and whose calls can fail: an SQLite VFS over the real files of one directory.

Decides what a disk may hold after a power failure (`Disk.cut`) and how a call fails (`Disk.strikes`, `Disk.trouble`).
What was synced is there; each write, change of size, new name and deletion since then is there, or not, or in part,
whatever came before or after it: sectors of 512 or 4,096 bytes are whole, old or, rarely, anything. Leaves to its users
what is written and what must be found afterwards; locks and shared memory are those of the VFS below.

A sync that fails is the worst one that Linux has: what was to be written is lost or not, at once, still read back,
and no later sync writes it.

Sources: SQLite's own crash tests (sqlite.org/testing.html, "crash testing"), LazyFS (VLDB 2024), and Rebello et al.,
"Can applications recover from fsync failures?" (ATC 2020).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

import apsw

__all__ = ["TROUBLES", "Disk", "Trouble"]

Trouble = Literal["EIO", "ENOSPC", "EROFS", "short"]
"""The device fails; it is full; it is read-only, or permission was lost; it becomes full in mid-write."""

TROUBLES: Final[Mapping[str, tuple[Trouble, ...]]] = {
    "open": ("EIO", "ENOSPC", "EROFS"),
    "read": ("EIO",),
    "write": ("EIO", "ENOSPC", "EROFS", "short"),
    "truncate": ("EIO", "EROFS"),
    "sync": ("EIO",),
    "size": ("EIO",),
    "delete": ("EIO", "EROFS"),
    "access": ("EIO",),
}
"""What can go wrong with each kind of call."""

_CODES: Final = {
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "size": apsw.SQLITE_IOERR_FSTAT,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "access": apsw.SQLITE_IOERR_ACCESS,
}
_SYNCED_WITH_DIRECTORY: Final = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
_SIMULATED: Final = " (simulated)"
_NUMBERS: Final = count(1)

_Change = tuple[int, bytes | None]  # a write at an offset; or, with None, this size


@dataclass(slots=True, eq=False)
class _Content:
    """What a file holds on the disk itself, and what was changed since."""

    synced: bytearray = field(default_factory=bytearray)
    changes: list[_Change] = field(default_factory=list)


class Disk(apsw.VFS):
    """One directory as a disk of its own, to be used in a `with`; give `name` as the VFS of a connection to a file in
    it. What the directory holds before counts as synced. `before` is called with the number and the name of every call
    ("write app.db-wal"), and may wait, raise, or end the process.
    """

    def __init__(self, directory: Path, seed: int = 0, before: Callable[[int, str], None] | None = None) -> None:
        self.name = f"disk-{next(_NUMBERS)}"
        self.calls: list[str] = []
        """Every call so far: its kind and the file's name. The first has number 1."""
        self.strikes: dict[int, Trouble] = {}
        """What goes wrong once, by number of the call."""
        self.trouble: Trouble | None = None
        """What goes wrong with every call that it can befall, until set to None."""
        self.lasting = False
        """Does what strikes once go on as `trouble`?"""
        self.struck: dict[Trouble, int] = {}
        """How often each trouble was met."""
        self.lies = False
        """Does it answer a sync without doing anything? Such disks exist; nothing is safe on them."""
        self.off_at: int | None = None
        """The number of the call during which the power goes off."""
        self.off = False
        """Is the power off? Then every call fails."""
        self._before = before
        self._random = random.Random(f"disk {seed}")
        self._names = {path.name: _Content(bytearray(path.read_bytes())) for path in directory.iterdir()}
        self._synced_names = dict(self._names)
        self._renamed: list[tuple[str, _Content | None]] = []
        super().__init__(self.name, "")

    def cut(self, seed: int, directory: Path) -> None:
        """The power is off from now on; write to `directory` what the disk holds then, as `seed` has it."""
        self.off = True
        chance = random.Random(f"cut {seed}")
        names = dict(self._synced_names)
        for name in dict.fromkeys(name for name, _ in self._renamed):
            known = [content for each, content in self._renamed if each == name]
            done = chance.randint(0, len(known))
            if done and (content := known[done - 1]) is not None:
                names[name] = content
            elif done:
                names.pop(name, None)
        for name, content in sorted(names.items()):
            (directory / name).write_bytes(_after_power_failure(content, chance))

    def __enter__(self) -> Self:
        """Meanwhile a second error of ours in one statement, which apsw can give to nobody, is not written out."""
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._unless_simulated
        return self

    def __exit__(self, *exit: object) -> None:
        sys.unraisablehook = self._unraisable
        self.unregister()

    # --- as SQLite calls it

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return apsw.VFSFile("", name, flags)  # a temporary file: nobody looks for it later
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        trouble = self.call("open", path.name)
        new = path.name not in self._names
        if trouble == "EROFS" and not new:
            flags[0] = flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
        elif trouble is not None and (new or trouble == "EIO"):
            raise apsw.CantOpenError(f"{trouble}{_SIMULATED}")
        opened = _File(self, path.name, name, flags)
        if new:
            self._names[path.name] = _Content(bytearray(path.read_bytes()))
            self._renamed.append((path.name, self._names[path.name]))
        opened.content = self._names[path.name]
        opened.syncs_directory = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _SYNCED_WITH_DIRECTORY)
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:
        name = Path(filename).name
        self.refuse("delete", self.call("delete", name))
        super().xDelete(filename, False)
        if self._names.pop(name, None) is not None:
            self._renamed.append((name, None))
        if syncdir:
            self.sync_directory()

    def xAccess(self, pathname: str, flags: int) -> bool:
        self.refuse("access", self.call("access", Path(pathname).name))
        return super().xAccess(pathname, flags)

    # --- for its files

    def call(self, kind: str, name: str, grows: bool = True) -> Trouble | None:
        """Count a call; gives what goes wrong with it. Raises if the power is off, or goes off now. A full disk takes
        what does not grow."""
        self.calls.append(f"{kind} {name}")
        number = len(self.calls)
        if self._before is not None:
            self._before(number, self.calls[-1])
        if number == self.off_at and kind not in ("write", "truncate"):
            self.off = True
        if self.off:
            raise _io_error(kind, "the power is off")
        trouble = self.strikes.get(number, self.trouble)
        if trouble is None or trouble not in TROUBLES[kind] or (trouble == "ENOSPC" and not grows):
            return None
        self.struck[trouble] = self.struck.get(trouble, 0) + 1
        if self.lasting:
            self.trouble = trouble
        return trouble

    def changed(self, content: _Content, change: _Change) -> None:
        """Remember what is not yet synced; what is written as the power goes off may be there, too."""
        content.changes.append(change)
        if self.off_at is not None and len(self.calls) >= self.off_at:
            self.off = True
            raise _io_error("write", "the power is off")

    def sync(self, content: _Content, fails: bool) -> None:
        """What was changed is safe now; or, if it fails, never will be."""
        content.synced = (
            _after_power_failure(content, self._random) if fails else _with_changes(content.synced, content.changes)
        )
        content.changes.clear()

    def sync_directory(self) -> None:
        """New names and deletions are safe."""
        self._synced_names = dict(self._names)
        self._renamed.clear()

    def _unless_simulated(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not str(unraisable.exc_value).endswith(_SIMULATED):
            self._unraisable(unraisable)

    @staticmethod
    def refuse(kind: str, trouble: Trouble | None) -> None:
        """Raise what SQLite's own VFS would."""
        if trouble is None:
            return
        raise apsw.FullError(f"ENOSPC{_SIMULATED}") if trouble in ("ENOSPC", "short") else _io_error(kind, trouble)


class _File(apsw.VFSFile):
    content: _Content
    syncs_directory: bool

    def __init__(self, disk: Disk, name: str, path: str | apsw.URIFilename, flags: list[int]) -> None:
        self._disk = disk
        self._name = name
        super().__init__("", path, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.refuse("read", self._disk.call("read", self._name))
        return super().xRead(amount, offset)

    def xFileSize(self) -> int:
        self._disk.refuse("size", self._disk.call("size", self._name))
        return super().xFileSize()

    def xWrite(self, data: Any, offset: int) -> None:
        written = bytes(data)
        trouble = self._disk.call("write", self._name, offset + len(written) > super().xFileSize())
        if trouble == "short":
            written = written[: len(written) // 2]
        else:
            self._disk.refuse("write", trouble)
        super().xWrite(written, offset)
        self._disk.changed(self.content, (offset, written))
        self._disk.refuse("write", trouble)

    def xTruncate(self, newsize: int) -> None:
        self._disk.refuse("truncate", self._disk.call("truncate", self._name))
        super().xTruncate(newsize)
        self._disk.changed(self.content, (newsize, None))

    def xSync(self, flags: int) -> None:
        trouble = self._disk.call("sync", self._name)
        if self._disk.lies:
            return
        self._disk.sync(self.content, trouble is not None)
        self._disk.refuse("sync", trouble)
        if self.syncs_directory:
            self.syncs_directory = False
            self._disk.sync_directory()


def _io_error(kind: str, text: str) -> apsw.Error:
    error: Any = (apsw.CantOpenError if kind == "open" else apsw.IOError)(text + _SIMULATED)
    if kind in _CODES:
        error.extendedresult = _CODES[kind]
    return cast(apsw.Error, error)


def _with_changes(synced: bytearray, changes: list[_Change]) -> bytearray:
    for offset, data in changes:
        if data is None:
            del synced[offset:]
            synced.extend(bytes(offset - len(synced)))
        else:
            synced.extend(bytes(max(0, offset - len(synced))))
            synced[offset : offset + len(data)] = data
    return synced


def _after_power_failure(content: _Content, chance: random.Random) -> bytearray:
    sector = chance.choice((512, 4096))
    kept = chance.choice((0.0, 1.0, chance.random(), chance.random()))
    torn = chance.choice((0.0, 0.3))
    changes: list[_Change] = []
    for offset, data in content.changes:
        if data is not None and chance.random() < torn:
            changes += _torn(offset, data, sector, chance)
        elif chance.random() < kept:
            changes.append((offset, data))
    return _with_changes(bytearray(content.synced), changes)


def _torn(offset: int, data: bytes, sector: int, chance: random.Random) -> list[_Change]:
    """Some of the sectors; one in twenty of these holds neither the old nor the new."""
    changes: list[_Change] = []
    start = 0
    while start < len(data):
        end = min(len(data), start + sector - (offset + start) % sector)
        if chance.random() < 0.5:
            whole = chance.random() < 0.95
            changes.append((offset + start, data[start:end] if whole else chance.randbytes(end - start)))
        start = end
    return changes
