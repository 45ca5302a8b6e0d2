"""Destinations outside of the engine: a file of JSON lines, and an HTTP endpoint.

Decides what counts as delivered there, as refused for ever and as away for now. What is sent, and how often it is
tried, is `destinations.py`'s; which addresses an HTTP destination may reach is `egress.py`'s.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from lambent.destinations import embedded
from lambent.egress import BLOCKED, Endpoint
from lambent.model import Delivered, Delivery, Refused, Unavailable

try:
    import fcntl
except ImportError:  # no POSIX: then one process a file is the user's care
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import aiohttp

HTTP_TIMEOUT_SECONDS: Final = 30.0  # one request, from resolving to the answer's end
HTTP_CONNECTIONS: Final = 20
MAXIMUM_HTTP_RESPONSE_BYTES: Final = 64 * 1024  # read of an answer, to use the connection again; more closes it

InThread = Callable[[Callable[[], Delivery]], Awaitable[Delivery]]

# --------------------------------------------------------------------------- files


class FileDestination:
    """A file that grows by one JSON line a record, durable (fsync) before it counts as delivered. A dead-letter event
    stands in its line beside its attributes. `in_thread` runs the writing; several processes may write to one file."""

    maximum_record_bytes: Final = None

    def __init__(self, path: Path, in_thread: InThread) -> None:
        self._path = path
        self._in_thread = in_thread

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        text = embedded(record)
        if attributes:
            text = f'{{"attributes":{embedded(dict(attributes))},"body":{text}}}'
        # Line breaks in JSON are only ever space between its parts.
        line = text.replace("\n", " ").replace("\r", " ").encode() + b"\n"
        return await self._in_thread(lambda: _append(self._path, line))


def _append(path: Path, line: bytes) -> Delivery:
    try:
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            _append_line(descriptor, line)
        finally:
            os.close(descriptor)
        if new:
            _sync_directory(path.parent)
    except OSError as error:
        reason = f"{path.name}: {error.strerror or error}"
        return Refused(reason) if error.errno in _NEVER else Unavailable(reason)
    return Delivered()


_NEVER: Final = frozenset(
    (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
)


def _append_line(descriptor: int, line: bytes) -> None:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":  # a crash cut the last line short: it stays, by itself
            line = b"\n" + line
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _sync_directory(path: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------- HTTP


class HttpDestination:
    """An HTTP endpoint: POST of the record as application/json; a dead-letter event's attributes become headers.

    2xx is delivered; 408, 425, 429, 5xx and a broken network are tried again; everything else, redirects too, is
    refused. Only public addresses are reached unless `allow_private` says otherwise (`egress.py`). Needs
    `lambent[http]`.
    """

    maximum_record_bytes: Final = None

    def __init__(self, url: str, *, allow_private: bool = False) -> None:
        self._endpoint = Endpoint(
            url, timeout_seconds=HTTP_TIMEOUT_SECONDS, connections=HTTP_CONNECTIONS, allow_private=allow_private
        )
        self._host = self._endpoint.host

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        import aiohttp

        headers = {f"Lambent-{name}": quote(value, safe=" /:,") for name, value in attributes.items()}
        headers["Content-Type"] = "application/json"
        try:
            async with self._endpoint.post(record, headers) as response:
                with suppress(aiohttp.ClientError, TimeoutError, OSError):  # the status has said it all
                    await _read_some(response)
                return self._judged(response.status)
        except aiohttp.InvalidURL:
            return Refused(f"{self._host}: not a valid URL")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if BLOCKED in str(error):
                return Refused(f"{self._host}: {BLOCKED}")
            return Unavailable(f"{self._host}: {type(error).__name__}")

    async def close(self) -> None:
        """Close its connections; a later delivery would open them again."""
        await self._endpoint.close()

    def _judged(self, status: int) -> Delivery:
        if 200 <= status < 300:
            return Delivered()
        reason = f"{self._host}: HTTP status {status}"
        return Unavailable(reason) if status >= 500 or status in (408, 425, 429) else Refused(reason)


async def _read_some(response: aiohttp.ClientResponse) -> None:
    left = MAXIMUM_HTTP_RESPONSE_BYTES
    while left > 0 and (chunk := await response.content.read(left)):
        left -= len(chunk)
    if left <= 0:
        response.close()
