"""How an engine begins a process: it tells one that waits for that, or does without.

Decides when there is a launcher: from the first process on, until the engine closes; one that ended is replaced, and
what it began lives on, for its parent is the engine. Where a launcher is not to be had (its child would not be ours on
this machine, or it ended just now), the program is run for this one process, which takes an interpreter's start longer.
What is done with a process is `launcher.py`'s, which is that program.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

from lambent.runtimes.cgroups import NOWHERE, Ground, Group
from lambent.runtimes.launcher import HURRY

PROGRAM: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")))
_SILENT: Final = (subprocess.DEVNULL, subprocess.DEVNULL)
ANSWER_SECONDS: Final = 10.0
"""After which a launcher that has not answered is given up."""


class Child(Protocol):
    """A process of ours. `returncode` is None until it was waited for; negative: the signal."""

    pid: int
    returncode: int | None

    def wait(self) -> int:
        """Collect it."""
        ...


class Launcher:
    """One for each engine. Its methods block, and may be called by any thread."""

    def __init__(self, ground: Ground | None, *, dropping: bool) -> None:
        """`ground`: where each process has cgroups of its own; `dropping`: it loses its privileges ahead, which takes
        that it need not be in a namespace of users, for that would give it others."""
        self._ground = ground
        self._dropping = dropping
        self.pid = 0
        """Of the process; 0 if there is none."""
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._useless = False

    def begin(self, told: bytes, streams: Sequence[int], known: Callable[[int], None]) -> Child:
        """A process as told (`launching.Launch.told`), whose output goes to these. Its number is `known` before it can
        do anything. Raises OSError."""
        with self._lock:
            try:
                pid = 0 if self._useless else self._ask(told, streams, known)
                self._useless = pid == 0
            except (OSError, ValueError):  # it ended, or does not answer: the next one has another
                self._end()
                pid = 0
        if pid:
            return _Child(pid)
        alone = become(told, streams, self._ground)
        known(alone.pid)
        return alone

    def close(self) -> None:
        """Let it end; what it began goes on."""
        with self._lock:
            self._end()

    def _ask(self, told: bytes, streams: Sequence[int], known: Callable[[int], None]) -> int:
        if self._socket is None:
            self._open()
        assert self._socket is not None
        somebody_waits = select.poll()
        somebody_waits.register(self._socket, select.POLLIN)
        if not somebody_waits.poll(0):
            self._socket.send(HURRY)
        if pid := int(self._socket.recv(32)):  # nothing, if it ended: ValueError
            known(pid)
            socket.send_fds(self._socket, [told], streams)
        return pid

    def _open(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                prepared = _prepared(self._ground, dropping=self._dropping)
                self._process = _run("serve", its.fileno(), prepared, _SILENT, apart=True)
            except OSError:
                ours.close()
                raise
        ours.settimeout(ANSWER_SECONDS)
        self._socket, self.pid = ours, self._process.pid

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket, self.pid = None, 0
        if self._process is not None:
            with suppress(ProcessLookupError):  # the child that waits is of the same group, until it is something else
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            with suppress(ChildProcessError):
                while True:
                    waited, _ = os.waitpid(-self._process.pid, 0)
                    if self._ground is not None:
                        Group(self._ground, waited).remove()
            self._process = None


def become(told: bytes, streams: Sequence[int], ground: Ground | None = None) -> subprocess.Popen[bytes]:
    """The same without a launcher. Raises OSError."""
    descriptor = os.memfd_create("lambent")  # not an argument: those can be read by everybody
    try:
        os.write(descriptor, told)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return _run("become", descriptor, _prepared(ground, dropping=False), streams)
    finally:
        os.close(descriptor)


def _prepared(ground: Ground | None, *, dropping: bool) -> str:
    """Not secret: everybody can read it."""
    return json.dumps({"groups": NOWHERE if ground is None else ground.told(), "dropping": dropping})


def _run(
    way: str, descriptor: int, prepared: str, streams: Sequence[int], *, apart: bool = False
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [*PROGRAM, way, str(descriptor), prepared],
        stdin=subprocess.DEVNULL,
        stdout=streams[0],
        stderr=streams[1],
        env={},
        cwd="/",
        pass_fds=[descriptor],
        start_new_session=apart,
    )


class _Child:
    """One that a launcher began."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # somebody else collects our children: as Popen has it
                self.returncode = 0
        return self.returncode


def unwanted(child: Child) -> None:
    """End it, and all of its session."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
