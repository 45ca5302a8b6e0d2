"""Which server a command goes to: the one there is, the one that Sentinels name, or the node of a cluster.

Decides what becomes of a command that is answered with an error: sent elsewhere, again in a moment, with its script's
text, or refused. Leaves to `redis_line.py` how it gets there.

A cluster's map is learnt from its own words: a command goes to any node first, and MOVED says which has the key's slot
from then on. A node that cannot be reached is forgotten, and what waited for it asks another.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha1
from itertools import count
from typing import Any, Final, Protocol

from lambent.errors import StoreUnavailable
from lambent.semantics import backoff
from lambent_pollers.redis_line import Call, Dial, Line, ReplyError, Word, greeting
from lambent_pollers.redis_url import Address, RedisUrl

SLOTS: Final = 16_384
_NOT_NOW: Final = frozenset(
    {"LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "BUSY", "MOVED", "ASK", "NOREPLICAS"}
)
_ADVICE: Final[Mapping[str, str]] = {
    "OOM": "It has no memory left: raise its maxmemory, or let consumers catch up",
    "MISCONF": "It cannot write to its disk: see its log",
    "NOPERM": "Give this ACL user the right (the README's section on Redis has a rule for it)",
    "NOAUTH": "Put a password into the URL: redis://USER:PASSWORD@HOST",
    "WRONGPASS": "Correct the user or the password in the URL",
    "WRONGTYPE": "Somebody else's keys have our names: choose another prefix (…?prefix=NAME)",
    "READONLY": "It is a replica: name its primary, or the Sentinels (redis+sentinel://HOST,HOST/SERVICE)",
    "NOREPLICAS": "It wants more replicas than it has (min-replicas-to-write)",
    "ERR": "lambent needs Redis 7.0, Valkey 7.2 or later",
}

Push = Callable[[list[Any]], None]
Hello = Callable[[], None]


def _nothing() -> None:
    pass


class Script:
    """A Lua script, which never changes: what varies are its keys and arguments. Called by its digest; a server that
    does not know it is told the text. ARGV[1] is the time, see `redis_connection.py`.

    flags: Redis's for scripts, such as allow-oom (one that frees memory) or no-writes."""

    texts: Final[dict[str, bytes]] = {}

    def __init__(self, text: str, flags: str = "") -> None:
        whole = f"#!lua flags={flags}\n{text}" if flags else f"#!lua\n{text}"
        self.digest = sha1(whole.encode(), usedforsecurity=False).hexdigest()
        self.texts[self.digest] = whole.encode()


class Route(Protocol):
    """Where commands go."""

    @property
    def waiting(self) -> int:
        """How many commands have no answer yet."""
        ...

    def put(self, call: Call) -> None:
        """Send it to whoever has its key."""
        ...

    def line(self, push: Push | None = None, hello: Hello = _nothing, key: Word = "") -> Line:
        """One more connection to whoever has this key, for what blocks or listens; the caller closes it."""
        ...

    def close(self) -> None: ...


def slot_of(key: Word) -> int:
    """Of a cluster: the CRC-16 of the key, or of what is between its first { and the } after it."""
    text = key if isinstance(key, bytes) else str(key).encode()
    begin = text.find(b"{")
    end = text.find(b"}", begin + 1) if begin >= 0 else -1
    return crc_hqx(text[begin + 1 : end] if end > begin + 1 else text, 0) % SLOTS


def route_of(url: RedisUrl, random: Callable[[], float]) -> Route:
    return ClusterRoute(url, random) if url.kind == "cluster" else ServerRoute(url, random)


class ServerRoute:
    """One server; behind Sentinels another one after a failover."""

    def __init__(self, url: RedisUrl, random: Callable[[], float]) -> None:
        self._url = url
        self._random = random
        self._turn = count()
        self._line = self.line()

    @property
    def waiting(self) -> int:
        return self._line.waiting

    def put(self, call: Call) -> None:
        self._line.put(call)

    def line(self, push: Push | None = None, hello: Hello = _nothing, key: Word = "") -> Line:
        url = self._url

        def hear(call: Call, error: ReplyError) -> None:
            if error.code == "READONLY":
                line.drop(str(error))  # the next connection may lead to the primary
            _judge(url, self._random, call, error, line.put)

        dial = Dial(self._where, url.tls, greeting(url.credentials, url.db), url.answer_seconds)
        line = Line(str(url), dial, self._random, hear, push, hello)
        return line

    def close(self) -> None:
        self._line.close()

    async def _where(self) -> Address:
        addresses = self._url.addresses
        if self._url.kind == "server":
            return addresses[0]
        return await _primary_of(self._url, addresses[next(self._turn) % len(addresses)])


class ClusterRoute:
    """The nodes of a cluster, each with a line of its own."""

    def __init__(self, url: RedisUrl, random: Callable[[], float]) -> None:
        self._url = url
        self._random = random
        self._turn = count()
        self._lines: dict[Address, Line] = {}
        self._slots: dict[int, Address] = {}

    @property
    def waiting(self) -> int:
        return sum(line.waiting for line in self._lines.values())

    def put(self, call: Call) -> None:
        self._line_to(self._home_of(call.key)).put(call)

    def line(self, push: Push | None = None, hello: Hello = _nothing, key: Word = "") -> Line:
        here = self._home_of(key)

        async def where() -> Address:
            nonlocal here
            here = self._home_of(key)
            return here

        def hear(call: Call, error: ReplyError) -> None:
            if error.code == "MOVED":
                self._moved(error, here)
                line.drop(str(error))
            _judge(self._url, self._random, call, error, line.put)

        line = Line(str(self._url), self._dial(where), self._random, hear, push, hello)
        return line

    def close(self) -> None:
        for line in self._lines.values():
            line.close()

    def _home_of(self, key: Word) -> Address:
        known = self._slots.get(slot_of(key)) if key else None
        if known is not None:
            return known
        anyone = list(dict.fromkeys([*self._url.addresses, *self._lines]))
        return anyone[next(self._turn) % len(anyone)]

    def _line_to(self, address: Address) -> Line:
        if address not in self._lines:

            async def where() -> Address:
                return address

            self._lines[address] = Line(
                f"{self._url} ({address})",
                self._dial(where),
                self._random,
                partial(self._heard, address),
                stranded=partial(self._stranded, address),
            )
        return self._lines[address]

    def _dial(self, where: Callable[[], Awaitable[Address]]) -> Dial:
        return Dial(where, self._url.tls, greeting(self._url.credentials, 0), self._url.answer_seconds)

    def _heard(self, here: Address, call: Call, error: ReplyError) -> None:
        if error.code == "MOVED":
            self._moved(error, here)
            if call.tries == 0:  # later ones wait: two nodes that name each other must not be asked in a hot loop
                call.tries = 1
                self.put(call)
                return
        elif error.code == "ASK":
            there = self._line_to(_address(error, here))
            there.put(Call(("ASKING",), asyncio.get_running_loop().create_future(), call.deadline))
            there.put(call)
            return
        _judge(self._url, self._random, call, error, self.put)

    def _moved(self, error: ReplyError, here: Address) -> None:
        self._slots[int(str(error).split()[1])] = _address(error, here)

    def _stranded(self, gone: Address, line: Line) -> None:
        """Its node is away: another one may have its slots by now."""
        self._slots = {slot: address for slot, address in self._slots.items() if address != gone}
        away = ReplyError(f"CLUSTERDOWN the node {gone} does not answer: {line.trouble}")
        for call in line.take():
            _judge(self._url, self._random, call, away, self.put)


def _judge(
    url: RedisUrl, random: Callable[[], float], call: Call, error: ReplyError, put: Callable[[Call], None]
) -> None:
    """What an error means for its command; `put` sends it once more."""
    if call.future.done():
        return
    if error.code == "NOSCRIPT" and call.words[0] == "EVALSHA":
        call.words = ("EVAL", Script.texts[str(call.words[1])], *call.words[2:])
        put(call)
        return
    if error.code in _NOT_NOW:  # it was not performed
        loop = asyncio.get_running_loop()
        call.tries += 1
        wait = backoff.reconnection(call.tries, random())
        if loop.time() + wait < call.deadline:
            loop.call_later(wait, put, call)
            return
    words = f"{call.words[0]!s:.20}"
    call.fail(StoreUnavailable(f"{url} refused {words}: {error}. {_ADVICE.get(error.code, '')}".rstrip(" .") + "."))


async def _primary_of(url: RedisUrl, sentinel: Address) -> Address:
    """What this Sentinel says. Raises OSError, TimeoutError or ReplyError."""

    async def where() -> Address:
        return sentinel

    wire = await Dial(where, url.tls, greeting(url.sentinel_credentials, 0), url.answer_seconds).connect()
    try:
        deadline = asyncio.get_running_loop().time() + url.answer_seconds
        [found] = await wire.ask([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.service)], deadline)
    finally:
        wire.drop("it has answered")
    if not found:
        raise ConnectionError(f"the Sentinel at {sentinel} knows no {url.service!r}")
    return Address(found[0].decode(), int(found[1]))


def _address(error: ReplyError, here: Address) -> Address:
    """Of "MOVED 3999 127.0.0.1:6381"; without a host it is the one that said so."""
    host, _, port = str(error).split()[2].rpartition(":")
    return Address(host or here.host, int(port))
