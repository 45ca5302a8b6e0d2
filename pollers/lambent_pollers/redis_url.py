"""What a Redis URL says, and the client (redis-py's) that is made of it.

Decides which spellings are understood beside redis-py's own, and which of its options are ours to set. Leaves to
`redis_connection.py` what is done with a client.

    redis://[[user]:password@]host[:6379][/db]                      one server
    redis+sentinel://[…@]host[:26379][,host…]/service[/db]          the primary that Sentinels name
    redis+cluster://[…@]host[:6379][,host…]                         a cluster; any of its nodes

`rediss` in place of `redis` speaks TLS. The spellings for Sentinel and cluster are those of Kombu's and limits' users.
After `?` may stand redis-py's options (`ssl_ca_certs=…`, `client_name=…`) and ours, joined by `&`:

    prefix=lambent                                what keys begin with; in braces, all are in one slot of a cluster
    timeout=5                                     seconds for an answer, before a connection counts as dead
    sentinel_username=, sentinel_password=        for the Sentinels, if they ask
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from lambent_pollers.urls import in_seconds, refuse

Kind = Literal["server", "sentinel", "cluster"]
Address = tuple[str, int]

_KINDS: Final[Mapping[str, tuple[Kind, int]]] = {
    "redis": ("server", 6379),
    "redis+sentinel": ("sentinel", 26379),
    "redis+cluster": ("cluster", 6379),
}
ANSWER_SECONDS: Final = 5.0
_OURS: Final = frozenset(
    {"socket_timeout", "socket_connect_timeout", "socket_keepalive", "decode_responses", "protocol", "retry_on_timeout"}
)


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL; `options` are redis-py's. `str()` gives it without passwords, for messages."""

    kind: Kind
    addresses: Sequence[Address]
    tls: bool
    options: Mapping[str, Any] = field(repr=False)
    sentinel_options: Mapping[str, Any] = field(repr=False)
    service: str
    prefix: str
    answer_seconds: float

    def __str__(self) -> str:
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "server" else f"+{self.kind}")
        user = f"{self.options['username']}@" if self.options.get("username") else ""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)
        path = "".join(f"/{part}" for part in (self.service, str(self.options.get("db") or "")) if part)
        return f"{scheme}://{user}{hosts}{path}"

    def client(self) -> Redis | RedisCluster:
        """A client, which opens nothing before it is used. It repeats nothing by itself: which command may be is for
        `redis_connection.py` to say. Raises TypeError for an option that redis-py does not know."""
        ours: dict[str, Any] = {
            **self.options,
            "socket_timeout": None,  # the whole of an answer is waited for, see there
            "socket_connect_timeout": self.answer_seconds,
            "socket_keepalive": True,
            "decode_responses": False,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "ssl": self.tls,
        }
        if self.kind == "cluster":
            return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in self.addresses], **ours)
        if self.kind == "sentinel":
            sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
                self.addresses, sentinel_kwargs={**self.sentinel_options, **_plain(ours)}
            )
            primary: Redis = sentinels.master_for(self.service, **ours)
            return primary
        [(host, port)] = self.addresses
        return Redis(host=host, port=port, **ours)


def parse_redis_url(url: str) -> RedisUrl:
    """Raises InvalidParameterValue that says what to write."""
    scheme, _, rest = url.partition("://")
    plain = scheme.replace("rediss", "redis", 1)
    if plain not in _KINDS or not rest:
        refuse(url, "write redis://HOST:PORT/DB, redis+sentinel://HOST,HOST/SERVICE/DB or redis+cluster://HOST,HOST")
    kind, port = _KINDS[plain]
    parts = urlsplit(f"//{rest}")
    if parts.fragment:
        refuse(url, "nothing may follow #; write %23 for that character in a password")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = options.pop("prefix", "lambent")
    answer_seconds = in_seconds(url, "timeout", options.pop("timeout", str(ANSWER_SECONDS)))
    sentinel = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    user, at, hosts = parts.netloc.rpartition("@")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = ""
    if kind == "sentinel":
        if not path:
            refuse(url, "a Sentinel URL names its service: redis+sentinel://HOST,HOST/SERVICE/DB")
        service = path.pop(0)
    if len(path) > (kind != "cluster") or not all(part.isdecimal() for part in path):
        refuse(url, "a cluster has no databases" if kind == "cluster" else "the last part is the number of a database")
    if taken := _OURS & options.keys():
        refuse(url, f"{', '.join(sorted(taken))} is not for the URL: `timeout` is all that lambent has there")
    tls = scheme.startswith("rediss")
    if kind == "server" and "," in hosts:
        refuse(url, "of several servers it must say what they are: redis+sentinel://… or redis+cluster://…")
    addresses = [_address(url, host, port) for host in hosts.split(",")]
    try:
        known = parse_url(f"redis://{user}{at}host/{''.join(path)}?{urlencode(options)}")
        named = {name: value for name, value in known.items() if name != "host"}
        found = RedisUrl(kind, addresses, tls, named, sentinel, service, prefix, answer_seconds)
        found.client()
    except (TypeError, ValueError) as error:
        refuse(url, str(error))
    return found


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """What holds for the Sentinels too."""
    return {name: value for name, value in options.items() if name not in ("username", "password", "db")}


def _address(url: str, text: str, port: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, given = unquote(parts.hostname or ""), parts.port
    except ValueError as error:
        refuse(url, str(error))
    if not host:
        refuse(url, "it names no host")
    return host, port if given is None else given
