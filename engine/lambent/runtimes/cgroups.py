"""The kernel's groups of processes (cgroups): how much memory an environment has, and how many processes.

Decides where groups can be made (below the engine's own group, of version 2 or 1), and what is written there; what it
means that the kernel ended a process is `environments.py`'s. Where none can be made, memory is looked at instead.

A process makes its groups and goes there by itself, while it waits to become a client (`launcher.py`): of version 2 the
kernel takes some milliseconds for that, which so nobody waits for, and all that it forks is in them. They have its
number, and go with it. Sources: cgroups(7), the kernel's documentation of cgroup v2 and v1.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from lambent.runtimes import kinship

MAXIMUM_PROCESSES: Final = 1024  # Lambda quotas: processes and threads of an execution environment
MAXIMUM_ROUNDS: Final = 100  # of killing, as in `kinship`
ENGINE: Final = "lambent-engine"
"""The group, of version 2, that an engine goes into: one with processes of its own can have no groups with limits."""
_PREFIX: Final = "lambent-"


@dataclass(frozen=True, slots=True)
class Ground:
    """The folders in which groups are made: for version 2 one, for version 1 one for each controller."""

    version: int
    memory: Path
    pids: Path | None

    @property
    def folders(self) -> list[Path]:
        return [self.memory] if self.pids is None or self.pids == self.memory else [self.memory, self.pids]

    def told(self) -> Mapping[str, object]:
        """It as `launcher.py` understands it. Of version 1 a thread that moves itself waits for nobody."""
        entrance = "cgroup.procs" if self.version == 2 else "tasks"
        return {"folders": [str(each) for each in self.folders], "prefix": _prefix(), "entrance": entrance}


NOWHERE: Final[Mapping[str, object]] = {"folders": []}
"""As `Ground.told`, where no groups can be made."""


class Group:
    """Of one process of an environment, with its number. All methods block for some milliseconds at most."""

    def __init__(self, ground: Ground, pid: int) -> None:
        name = f"{_prefix()}{pid}"
        self._pid = pid
        self._version = ground.version
        self._folders = [folder / name for folder in ground.folders]
        self._memory = ground.memory / name
        self._pids = None if ground.pids is None else ground.pids / name
        self._seen = 0
        self._limited = False

    def limit(self, memory_bytes: int) -> None:
        """Make it, unless the process was faster, and write what it may. Raises OSError."""
        try:
            for folder in self._folders:
                folder.mkdir(exist_ok=True)
            if self._version == 2:
                _write(self._memory / "memory.max", memory_bytes)
                _write(self._memory / "memory.oom.group", 1)
                with suppress(OSError):  # there is no swap, or it isn't counted
                    _write(self._memory / "memory.swap.max", 0)
            else:
                _write(self._memory / "memory.limit_in_bytes", memory_bytes)
                with suppress(OSError):
                    _write(self._memory / "memory.memsw.limit_in_bytes", memory_bytes)
            if self._pids is not None:
                _write(self._pids / "pids.max", MAXIMUM_PROCESSES)
        except OSError:
            self.remove()
            raise
        self._limited = True

    def limits(self) -> bool:
        """Is the process in it? Pages that several share count once there, so that its word is the better one."""
        return self._limited and self._pid in _processes(self._memory)

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
            group = Group(ground, 0)
            group.limit(64 * 1024 * 1024)
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


def _prefix() -> str:
    return f"{_PREFIX}{os.getpid()}-"


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
