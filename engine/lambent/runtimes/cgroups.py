"""The kernel's groups of processes (cgroups): how much memory an environment has, and how many processes.

Decides where groups can be made (below the engine's own group, of version 2 or 1), and what is written there; what it
means that the kernel ended a process is `environments.py`'s. Where none can be made, memory is looked at instead.

Of version 1 a process goes into its group before it becomes a client, which costs next to nothing (a thread that moves
itself waits for nobody). Of version 2 it is put there while its client starts, which waits for all processors; what it
forked before that is put there, too. Sources: cgroups(7), the kernel's documentation of cgroup v2 and v1.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Final

from lambent.runtimes import kinship

MAXIMUM_PROCESSES: Final = 1024  # Lambda quotas: processes and threads of an execution environment
MAXIMUM_ROUNDS: Final = 100  # of killing, as in `kinship`
ENGINE: Final = "lambent-engine"
"""The group, of version 2, that an engine goes into: one with processes of its own can have no groups with limits."""
_PREFIX: Final = "lambent-"
_NUMBERS: Final = count()


@dataclass(frozen=True, slots=True)
class Ground:
    """The folders in which groups are made: for version 2 one, for version 1 one for each controller."""

    version: int
    memory: Path
    pids: Path | None

    @property
    def folders(self) -> list[Path]:
        return [self.memory] if self.pids is None or self.pids == self.memory else [self.memory, self.pids]


class Group:
    """Of one environment. All methods block for some milliseconds at most."""

    def __init__(self, ground: Ground, memory_bytes: int) -> None:
        name = f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
        self._version = ground.version
        self._folders = [folder / name for folder in ground.folders]
        self._memory = ground.memory / name
        self._pids = None if ground.pids is None else ground.pids / name
        self._memory_bytes = memory_bytes
        self._seen = 0
        self.made = False
        """Only then is anything limited."""

    def make(self) -> None:
        """Raises OSError."""
        try:
            for folder in self._folders:
                folder.mkdir()
            if self._version == 2:
                _write(self._memory / "memory.max", self._memory_bytes)
                _write(self._memory / "memory.oom.group", 1)
                with suppress(OSError):  # there is no swap, or it isn't counted
                    _write(self._memory / "memory.swap.max", 0)
            else:
                _write(self._memory / "memory.limit_in_bytes", self._memory_bytes)
                with suppress(OSError):
                    _write(self._memory / "memory.memsw.limit_in_bytes", self._memory_bytes)
            if self._pids is not None:
                _write(self._pids / "pids.max", MAXIMUM_PROCESSES)
        except OSError:
            self.remove()
            raise
        self.made = True

    def entrances(self) -> list[str]:
        """Files by which a process of one thread puts itself into the group, writing 0: of version 1 only."""
        if self._version == 2:
            return []
        with suppress(OSError):  # as where none can be made
            if not self.made:
                self.make()
            return [str(folder / "tasks") for folder in self._folders]
        return []

    def take(self, first: int) -> None:
        """The process `first`, and what it forked already, are in the group from now on, unless they have entrances."""
        if self._version == 1:
            return
        if not self.made:
            with suppress(OSError):
                self.make()
        for pid in kinship.family(first):
            for folder in self._folders:
                with suppress(OSError):  # it ended just now
                    _write(folder / "cgroup.procs", pid)

    def limits(self, pid: int) -> bool:
        """Is this process in it? Pages that several share count once there, so that its word is the better one."""
        return self.made and pid in _processes(self._memory)

    def killed(self) -> bool:
        """Did the kernel end processes of it for their memory, since this was asked last?"""
        file = "memory.events" if self._version == 2 else "memory.oom_control"
        before, self._seen = self._seen, _counted(self._memory / file, "oom_kill")
        return self._seen > before

    def kill(self) -> None:
        """End what is in it, also what nobody finds any more."""
        for _ in range(MAXIMUM_ROUNDS):
            found = {pid for folder in self._folders for pid in _processes(folder)}
            for pid in found:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not found:
                return
            kinship.see_end(found)

    def remove(self) -> None:
        """It is empty by now."""
        for folder in self._folders:
            with suppress(OSError):
                folder.rmdir()


@lru_cache(maxsize=1)
def ground() -> Ground | None:
    """Where this engine can make groups, found out once by making one; None: nowhere."""
    found = find()
    if found is not None:
        for folder in found.folders:
            _sweep(folder)
    return found


def gaps() -> list[str]:
    """What is not possible here, in words."""
    found = ground()
    if found is None:
        return [
            "Memory of environments is looked at four times a second, and their processes are not counted (no cgroup "
            "can be made below the engine's: it needs one of its own that it may write to)."
        ]
    return [] if found.pids is not None else ["Processes of environments are not counted (no cgroup of pids is there)."]


def find(proc: Path = Path("/proc/self")) -> Ground | None:
    """As `ground`, by what these files say."""
    for ground in _grounds(proc):
        try:
            group = Group(ground, 64 * 1024 * 1024)
            group.make()
            group.remove()
        except OSError:
            continue
        return ground
    return None


def _grounds(proc: Path) -> Iterator[Ground]:
    """Those that may do, the best first."""
    try:
        own = dict(_own(proc))
    except (OSError, ValueError):
        return
    unified = own.get("")
    if unified is not None and (prepared := _prepared(unified)) is not None:
        yield Ground(2, prepared, prepared)
    if "memory" in own:
        yield Ground(1, own["memory"], own.get("pids"))


def _own(proc: Path) -> Iterator[tuple[str, Path]]:
    """The folder of our own group for each controller; "": of version 2."""
    mounts: dict[str, tuple[str, str]] = {}  # controller: what of its hierarchy is mounted, and where
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, place = before.split(" ")[3:5]
        if kind == "cgroup2":
            mounts.setdefault("", (root, place))
        elif kind == "cgroup":
            for option in options.split(","):
                mounts.setdefault(option, (root, place))
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in mounts:
                root, place = mounts[controller]
                yield controller, Path(place + path.removeprefix(root if root != "/" else ""))


def _prepared(own: Path) -> Path | None:
    """The folder of version 2 in which groups can have limits: our own, once we are in one below it."""
    base = own.parent if own.name == ENGINE else own
    try:
        if not {"memory", "pids"} <= set((base / "cgroup.controllers").read_text().split()):
            return None
        if {"memory", "pids"} <= set((base / "cgroup.subtree_control").read_text().split()):
            return base
        found = _processes(base)
        if found and any(pid != os.getpid() and not _descends(pid) for pid in found):
            return None  # what others run there is not ours to move
        (base / ENGINE).mkdir(exist_ok=True)
        for pid in found:
            _write(base / ENGINE / "cgroup.procs", pid)
        _write(base / "cgroup.subtree_control", "+memory +pids")
    except (OSError, ValueError):
        return None
    return base


def _descends(pid: int) -> bool:
    """From us?"""
    parents = {each.pid: each.parent for each in kinship.processes()}
    while pid > 1 and pid != os.getpid():
        pid = parents.get(pid, 0)
    return pid == os.getpid()


def _sweep(folder: Path) -> None:
    """Groups of engines that were killed, once nothing is in them."""
    for each in folder.glob(f"{_PREFIX}*-*"):
        pid = each.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with suppress(OSError):
                each.rmdir()


def _processes(folder: Path) -> list[int]:
    with suppress(OSError):
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    return []


def _counted(file: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


def _write(file: Path, value: object) -> None:
    with open(file, "w") as opened:
        opened.write(str(value))
