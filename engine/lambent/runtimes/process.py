"""One process of an environment: begun, heard, ended, collected.

Decides that nothing of the engine is inherited (descriptors, variables, session), that what it prints is read and never
waited for, and that it ends with everything that it left behind. What it is given is `launching.py`'s; who belongs to
it, `kinship.py`'s; what its end means, `environments.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from lambent.runtimes import cgroups, kinship
from lambent.runtimes.beginning import Child, Launcher, unwanted
from lambent.runtimes.launching import Launch

READ_BYTES: Final = 65_536
MAXIMUM_READS: Final = 16
"""Of one stream at once, so that a process which prints without end does not stop the engine."""
LEAVING_SECONDS: Final = 0.5
"""Between SIGTERM and SIGKILL (Lambda guide: «Shutdown phase»)."""


class Process:
    """`heard(stream, data)` is called with what it prints, on 1 or 2; `ended(returncode)` once, when it has ended and
    nothing of it is left (negative: the signal)."""

    def __init__(
        self,
        launcher: Launcher,
        port: int,
        memory_bytes: int,
        heard: Callable[[int, bytes], None],
        ended: Callable[[int], None],
    ) -> None:
        """`port`: of its Runtime API."""
        self._launcher = launcher
        self.pid = 0
        """0: not begun."""
        self.marker = f"AWS_LAMBDA_RUNTIME_API=127.0.0.1:{port}".encode()
        self.group: cgroups.Group | None = None
        """None: not begun, or there can be none."""
        self.killed_for_memory = False
        """Once it has ended: was it, or a part of it, ended by the kernel for that?"""
        self._memory_bytes = memory_bytes
        self._heard = heard
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._process: Child | None = None
        self._pipes: dict[int, int] = {}  # descriptor: stream
        self._pidfd = -1
        self._ending: asyncio.Task[None] | None = None

    async def begin(self, prepare: Callable[[], Launch]) -> Launch:
        """As it is prepared, in a thread. Raises what `prepare` does, and OSError: it cannot be started."""
        readers, writers = [], []
        for stream in (1, 2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._pipes[reader] = stream
            readers.append(reader)
            writers.append(writer)
        starting = self._loop.run_in_executor(None, self._begin, prepare, writers)
        try:
            launch, child = await asyncio.shield(starting)
        except asyncio.CancelledError:  # it begins nevertheless, and nobody would end it
            starting.add_done_callback(_unwanted)
            self._close_pipes()
            raise
        except Exception:
            self._close_pipes()
            raise
        self._process = child
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # no descriptor is left, or the kernel is older than Linux 5.3
            self.kill()
            child.wait()
            self._close_pipes()
            raise
        self._loop.add_reader(self._pidfd, self._exited)
        for reader in readers:
            self._loop.add_reader(reader, self._read, reader)
        return launch

    def _begin(self, prepare: Callable[[], Launch], writers: list[int]) -> tuple[Launch, Child]:
        try:
            launch = prepare()
            child = self._launcher.begin(launch.told(), writers, self._known)
        finally:
            for writer in writers:
                os.close(writer)
        if (ground := cgroups.ground()) is not None:
            self.group = cgroups.Group(ground, child.pid)
            with suppress(OSError):  # it is looked at, as where none can be made
                self.group.limit(self._memory_bytes)
        return launch, child

    def _known(self, pid: int) -> None:
        self.pid = pid  # before it can say anything

    def kill(self) -> None:
        """End it now, with all that belongs to it."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def ask_to_leave(self) -> asyncio.TimerHandle:
        """SIGTERM, and SIGKILL a little later."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        return self._loop.call_later(LEAVING_SECONDS, self.kill)

    def read_all(self) -> None:
        """Hear what it has printed up to now."""
        for reader in list(self._pipes):
            self._read(reader)

    def resident_bytes(self) -> int:
        """What it and its children hold in memory now."""
        return kinship.resident_bytes(self.pid)

    def _read(self, reader: int) -> None:
        stream = self._pipes[reader]
        for _ in range(MAXIMUM_READS):
            try:
                data = os.read(reader, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._loop.remove_reader(reader)
                os.close(reader)
                del self._pipes[reader]
                return
            self._heard(stream, data)
            if len(data) < READ_BYTES:
                return

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ending = self._loop.create_task(self._end(), name=f"process {self.pid}: end")

    async def _end(self) -> None:
        """What it left behind ends, too. It is collected after that: until then nobody else gets its number."""
        returncode = await self._loop.run_in_executor(None, self._clear_away)
        self.read_all()
        self._close_pipes()
        self._ended(returncode)

    def _clear_away(self) -> int:
        assert self._process is not None
        kinship.kill(self.pid, self.marker)
        if self.group is not None:
            self.group.kill()
        returncode = self._process.wait()
        if self.group is not None:
            self.killed_for_memory = self.group.killed()
            self.group.remove()
        return returncode

    def _close_pipes(self) -> None:
        for reader in self._pipes:
            self._loop.remove_reader(reader)
            os.close(reader)
        self._pipes.clear()


def _unwanted(starting: asyncio.Future[tuple[Launch, Child]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        unwanted(starting.result()[1])
