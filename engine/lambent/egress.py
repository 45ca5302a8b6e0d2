"""HTTP to addresses that users named: which of them may be reached, and by what client.

Decides that only public addresses are reached unless somebody allows others: the address itself is checked when its
socket is made, so neither a name's second answer nor an odd spelling gets by, and redirects are not followed. What is
sent, and what an answer means, is decided by whoever sends. Needs `lambent[http]`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS: Final = 10.0
BLOCKED: Final = "its address is not public (Engine(allow_private_destinations=True) allows it)"


class Endpoint:
    """A URL, and the connections to it. Opens nothing before the first `post`.

    Raises ValueError if it is no URL of HTTP with a host."""

    def __init__(self, url: str, *, timeout_seconds: float | None, connections: int, allow_private: bool) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an HTTP endpoint is http://HOST/… or https://HOST/…")
        self.url = url
        self.host = parts.hostname
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    def post(self, data: bytes, headers: Mapping[str, str]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send it, follow no redirect. Raises what aiohttp raises; `BLOCKED` is in its text if that is why."""
        return self._opened().post(self.url, data=data, headers=headers, allow_redirects=False)

    async def close(self) -> None:
        """Close its connections; a later use would open them again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, socket_factory=self._socket),
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds, connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # a proxy would resolve names past our check
            )
        return self._session

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Make the socket for one resolved address (family, type, protocol, name, socket address), if it is allowed."""
        family, kind, protocol, _, where = address
        if not self._allow_private and not is_public(where[0]):
            raise PermissionError(errno.EACCES, BLOCKED)
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


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
