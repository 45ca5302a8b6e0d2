"""What a Redis URL says: where servers are, who we are there, and what the names of our keys begin with.

Decides which spellings are understood. Leaves to `redis_connection.py` what is done with it.

    redis://[[user]:password@]host[:6379][/db]                      one server
    redis+sentinel://[…@]host[:26379][,host…]/service[/db]          the primary that Sentinels name
    redis+cluster://[…@]host[:6379][,host…]                         a cluster; any of its nodes

`rediss` in place of `redis` speaks TLS. These are redis-py's spellings, and for Sentinel and cluster those of Kombu's
and limits' users. After `?` may stand, joined by `&`:

    prefix=lambent                what keys begin with; in braces, all are in one slot of a cluster
    timeout=5                     seconds for an answer, before a connection counts as dead
    ssl_ca_certs=, ssl_certfile=, ssl_keyfile=, ssl_check_hostname=false, ssl_cert_reqs=none      as in redis-py
    sentinel_username=, sentinel_password=                          for the Sentinels, if they ask
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from lambent.errors import InvalidParameterValue

Kind = Literal["server", "sentinel", "cluster"]

_KINDS: Final[Mapping[str, tuple[Kind, int]]] = {
    "redis": ("server", 6379),
    "redis+sentinel": ("sentinel", 26379),
    "redis+cluster": ("cluster", 6379),
}
_OPTIONS: Final = frozenset(
    {
        "prefix", "timeout", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs",
        "sentinel_username", "sentinel_password",
    }
)  # fmt: skip
ANSWER_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of an ACL user, or of the default one (no name). No password: none are sent."""

    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def words(self) -> tuple[str, ...]:
        """The AUTH command; nothing, if there is no password."""
        return ("AUTH", *filter(None, [self.username]), self.password) if self.password else ()


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL. `str()` gives it without passwords, for messages."""

    kind: Kind
    addresses: Sequence[Address]
    credentials: Credentials = Credentials()
    service: str = ""
    sentinel_credentials: Credentials = Credentials()
    db: int = 0
    tls: ssl.SSLContext | None = None
    prefix: str = "lambent"
    answer_seconds: float = ANSWER_SECONDS

    def __str__(self) -> str:
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "server" else f"+{self.kind}")
        user = f"{self.credentials.username}@" if self.credentials.username else ""
        path = "".join(f"/{part}" for part in (self.service, str(self.db or "")) if part)
        return f"{scheme}://{user}{','.join(map(str, self.addresses))}{path}"


def parse_redis_url(url: str) -> RedisUrl:
    """Raises InvalidParameterValue that says what to write."""
    scheme, _, rest = url.partition("://")
    plain = scheme.replace("rediss", "redis", 1)
    if plain not in _KINDS or not rest:
        _refuse(url, "write redis://HOST:PORT/DB, redis+sentinel://HOST,HOST/SERVICE/DB or redis+cluster://HOST,HOST")
    kind, port = _KINDS[plain]
    parts = urlsplit(f"//{rest}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - _OPTIONS:
        _refuse(url, f"{', '.join(sorted(unknown))} is unknown; allowed after ? are {', '.join(sorted(_OPTIONS))}")
    if parts.fragment:
        _refuse(url, "nothing may follow #; write %23 for that character in a password")
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = ""
    if kind == "sentinel":
        if not path:
            _refuse(url, "a Sentinel URL names its service: redis+sentinel://HOST,HOST/SERVICE/DB")
        service = path.pop(0)
    if len(path) > (kind != "cluster") or not all(part.isdecimal() for part in path):
        _refuse(url, "a cluster has no databases" if kind == "cluster" else "the last part is the number of a database")
    return RedisUrl(
        kind,
        [_address(url, host, port) for host in hosts.split(",")],
        Credentials(unquote(username), unquote(password)),
        service,
        Credentials(options.get("sentinel_username", ""), options.get("sentinel_password", "")),
        int(path[0]) if path else 0,
        _tls(url, options) if scheme.startswith("rediss") else None,
        options.get("prefix", "lambent"),
        _seconds(url, options.get("timeout", str(ANSWER_SECONDS))),
    )


def _address(url: str, text: str, port: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, given = unquote(parts.hostname or ""), parts.port
    except ValueError as error:
        _refuse(url, str(error))
    if not host:
        _refuse(url, "it names no host")
    return Address(host, port if given is None else given)


def _seconds(url: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= 3600.0:
        _refuse(url, "timeout is in seconds, above 0 and at most 3600")
    return seconds


def _tls(url: str, options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        _refuse(url, f"its certificates cannot be read: {error}")
    context.check_hostname = options.get("ssl_check_hostname", "true").lower() not in ("false", "no", "0")
    if options.get("ssl_cert_reqs", "required") in ("none", "optional"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _refuse(url: str, advice: str) -> NoReturn:
    scheme, _, rest = url.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"  # no password in a message
    raise InvalidParameterValue(f"{shown!r}: {advice}")
