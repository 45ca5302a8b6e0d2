"""How an engine begins a process: it tells its launcher, a small process of its own, or does without one.

Decides when there is a launcher: from the first process on, until the engine closes; one that ended is replaced, and
what it began lives on, for its parent is the engine. Where a launcher is not to be had (its child would not be ours on
this machine, or it ended just now), the program is run for this one process, which takes an interpreter's start longer.
What is done with a process is `launcher.py`'s, which is that program.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

PROGRAM: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")))
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

    def __init__(self) -> None:
        self.pid = 0
        """Of the process; 0 if there is none."""
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._useless = False

    def begin(self, told: bytes, streams: Sequence[int]) -> Child:
        """A process as told (`launching.Launch.told`), whose output goes to these. Raises OSError."""
        with self._lock:
            try:
                pid = 0 if self._useless else self._ask(told, streams)
                self._useless = pid == 0
            except (OSError, ValueError):  # it ended, or does not answer: the next one has another
                self._end()
                pid = 0
        return _Child(pid) if pid else become(told, streams)

    def close(self) -> None:
        """Let it end; what it began goes on."""
        with self._lock:
            self._end()

    def _ask(self, told: bytes, streams: Sequence[int]) -> int:
        if self._socket is None:
            self._open()
        assert self._socket is not None
        socket.send_fds(self._socket, [told], streams)
        return int(self._socket.recv(32))  # nothing, if it ended: ValueError

    def _open(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                self._process = _run("serve", its.fileno(), (subprocess.DEVNULL, subprocess.DEVNULL), apart=True)
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
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None


def become(told: bytes, streams: Sequence[int]) -> subprocess.Popen[bytes]:
    """The same without a launcher. Raises OSError."""
    descriptor = os.memfd_create("lambent")  # not an argument: those can be read by everybody
    try:
        os.write(descriptor, told)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return _run("become", descriptor, streams)
    finally:
        os.close(descriptor)


def _run(way: str, descriptor: int, streams: Sequence[int], *, apart: bool = False) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        [*PROGRAM, way, str(descriptor)],
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
