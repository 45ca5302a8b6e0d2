"""Destinations outside of the engine: a file of JSON lines, and an HTTP endpoint.

Decides what counts as delivered there, as refused for ever and as away for now, and which addresses an HTTP destination
may reach. What is sent, and how often it is tried, is `destinations.py`'s.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from lambent.destinations import embedded
from lambent.model import Delivered, Delivery, Refused, Unavailable

try:
    import fcntl
except ImportError:  # no POSIX: then one process a file is the user's care
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import aiohttp

HTTP_TIMEOUT_SECONDS: Final = 30.0  # one request, from resolving to the answer's end
HTTP_CONNECT_SECONDS: Final = 10.0
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
    refused. Only public addresses are reached unless `allow_private` says otherwise: the address itself is checked
    when its socket is made, so neither a name's second answer nor an odd spelling gets by. Needs `lambent[http]`.
    """

    maximum_record_bytes: Final = None

    def __init__(self, url: str, *, allow_private: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an HTTP destination is http://HOST/… or https://HOST/…")
        self._url = url
        self._host = parts.hostname
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, record: bytes, attributes: Mapping[str, str], hops: int) -> Delivery:
        import aiohttp

        headers = {f"Lambent-{name}": quote(value, safe=" /:,") for name, value in attributes.items()}
        headers["Content-Type"] = "application/json"
        try:
            session = self._opened()
            async with session.post(self._url, data=record, headers=headers, allow_redirects=False) as response:
                with suppress(aiohttp.ClientError, TimeoutError, OSError):  # the status has said it all
                    await _read_some(response)
                return self._judged(response.status)
        except aiohttp.InvalidURL:
            return Refused(f"{self._host}: not a valid URL")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if _BLOCKED in str(error):
                return Refused(f"{self._host}: {_BLOCKED}")
            return Unavailable(f"{self._host}: {type(error).__name__}")

    async def close(self) -> None:
        """Close its connections; a later delivery would open them again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _judged(self, status: int) -> Delivery:
        if 200 <= status < 300:
            return Delivered()
        reason = f"{self._host}: HTTP status {status}"
        return Unavailable(reason) if status >= 500 or status in (408, 425, 429) else Refused(reason)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=HTTP_CONNECTIONS, socket_factory=self._socket),
                timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT_SECONDS, connect=HTTP_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # a proxy would resolve names past our check
            )
        return self._session

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Make the socket for one resolved address (family, type, protocol, name, socket address), if it is allowed."""
        family, kind, protocol, _, where = address
        if not self._allow_private and not is_public(where[0]):
            raise PermissionError(errno.EACCES, _BLOCKED)
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


_BLOCKED: Final = "its address is not public (Engine(allow_private_destinations=True) allows it)"


async def _read_some(response: aiohttp.ClientResponse) -> None:
    left = MAXIMUM_HTTP_RESPONSE_BYTES
    while left > 0 and (chunk := await response.content.read(left)):
        left -= len(chunk)
    if left <= 0:
        response.close()


def is_public(address: str) -> bool:
    """Is this the canonical text of an address on the public Internet? Loopback, link-local (the metadata services of
    clouds), private, shared, reserved and multicast ranges are not, nor is IPv6 that wraps such an IPv4 address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped
        if wrapped is None and ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if wrapped is None:
            return ip in _IPV6_PUBLIC and not any(ip in network for network in _IPV6_SPECIAL)
        ip = wrapped
    return not any(ip in network for network in _IPV4_SPECIAL)


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_IPV6_PUBLIC: Final = ipaddress.IPv6Network("2000::/3")
_IPV6_SPECIAL: Final = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))  # tunnels, documentation
)
_IPV4_SPECIAL: Final = tuple(  # IANA's registry of special addresses, multicast
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        ),
    )
)  # fmt: skip
