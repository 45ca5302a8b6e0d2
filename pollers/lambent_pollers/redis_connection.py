"""A Redis server, Sentinel group or cluster, as everything of ours in one process shares it.

Decides how long a command is waited for, how keys are named, how waiting receivers are woken, which server settings are
refused, and what is said about what the others can lose. Leaves to `redis_routes.py` where a command goes, to
`redis_line.py` how, and to `redis_url.py` what URLs mean. What is kept in keys is decided by their adapters.

Time is the server's: every script begins with `now`, in whole microseconds since 1970, so that two machines' clocks are
never compared. (A test may bring a time of its own.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final
from weakref import WeakKeyDictionary

from lambent.errors import StoreUnavailable
from lambent_pollers import redis_routes
from lambent_pollers.redis_line import Call, Line, UnknownOutcome, Word
from lambent_pollers.redis_routes import Route, route_of, slot_of
from lambent_pollers.redis_url import RedisUrl, parse_redis_url

__all__ = ["Bell", "Blocking", "Keys", "RedisServer", "Script", "UnknownOutcome", "Word"]

PATIENCE: Final = 2.0  # answer times: how long a command is tried, over as many connections as it takes
IDLE_SECONDS: Final = 10.0  # between two signs of life on a connection that only listens
_NOW: Final = """
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
"""


class Script(redis_routes.Script):
    """A static Lua script for `RedisServer.run`. It finds `now` (microseconds since 1970) as a local, and its own
    arguments from ARGV[2] on. `flags` are Redis's, such as 'allow-oom' or 'no-writes'."""

    def __init__(self, text: str, flags: str = "") -> None:
        super().__init__(_NOW + text, flags)


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys. What shall be changed in one script has one `tag`, and so one slot of a cluster."""

    prefix: str = "lambent"

    def __call__(self, tag: str, *parts: str) -> str:
        return ":".join((self.prefix, "{" + tag + "}", *parts))


class RedisServer:
    """Commands, scripts and bells of one URL. Opens nothing until used; all raise StoreUnavailable when it is away, or
    `UnknownOutcome`, which is one, for a command that may have been performed and must not be repeated blindly.

    random: uniform in [0, 1), for the waits between attempts to connect.
    time: what scripts take for the time, in epoch seconds, in place of the server's own (for tests)."""

    def __init__(
        self, url: str | RedisUrl, random: Callable[[], float], time: Callable[[], float] | None = None
    ) -> None:
        self.url = parse_redis_url(url) if isinstance(url, str) else url
        self.keys = Keys(self.url.prefix)
        self._loop = asyncio.get_running_loop()
        self._route: Route = route_of(self.url, random)
        self._time = time
        self._listener: Line | None = None
        self._blocking: set[Blocking] = set()
        self._bells: dict[str, Bell] = {}
        self._sign_of_life: asyncio.TimerHandle | None = None
        self._sharers = 1

    def __str__(self) -> str:
        return str(self.url)

    @classmethod
    def shared(cls, url: str, random: Callable[[], float]) -> RedisServer:
        """The one of this URL in this event loop; it closes when each who asked for it has closed it."""
        servers = _SHARED.setdefault(asyncio.get_running_loop(), {})
        if url in servers:
            servers[url]._sharers += 1
        else:
            servers[url] = cls(url, random)
        return servers[url]

    @property
    def waiting(self) -> int:
        """How many commands have no answer yet."""
        return self._route.waiting + (self._listener.waiting if self._listener is not None else 0)

    async def call(self, *words: Word, key: Word = "", again: bool = True) -> Any:
        """Perform one command; what it answers, with bytes for strings.

        key: what decides the node of a cluster; the word after the command if it is left out.
        again: to perform it twice does no harm, so it is repeated when a connection is lost before the answer."""
        return await self._put(words, key or (words[1] if len(words) > 1 else ""), again)

    async def run(self, script: Script, keys: Sequence[str], *arguments: Word, again: bool = True) -> Any:
        """Run a script, as `call`. A list of keys is not empty, and in a cluster of one slot."""
        now = "" if self._time is None else f"{self._time() * 1e6:.0f}"
        return await self._put(("EVALSHA", script.digest, len(keys), *keys, now, *arguments), keys[0], again)

    def blocking(self, key: Word = "") -> Blocking:
        """A connection of its own for commands that block, such as XREAD BLOCK; to be closed by whoever asked."""
        blocking = Blocking(self._route.line(key=key), key, self.url.answer_seconds, self._blocking.discard)
        self._blocking.add(blocking)
        return blocking

    def bell(self, channel: str) -> Bell:
        """Rung by each PUBLISH to this channel, in whichever process."""
        if channel not in self._bells:
            self._bells[channel] = Bell(self, channel)
        return self._bells[channel]

    def one_slot(self, *keys: str) -> bool:
        """May one script have all of these keys?"""
        return self.url.kind != "cluster" or len({slot_of(key) for key in keys}) == 1

    async def check(self) -> Sequence[str]:
        """Sentences that say what can be lost with the server's settings. Raises StoreUnavailable if they are refused:
        a server that evicts what it was given keeps nothing safe."""
        return check_settings(str(self), await self._settings(), self.url.kind != "server")

    async def close(self) -> None:
        """Once for each who has it. What still waits fails."""
        self._sharers -= 1
        if self._sharers > 0:
            return
        servers = _SHARED.get(self._loop, {})
        for url in [url for url, server in servers.items() if server is self]:
            del servers[url]
        if self._sign_of_life is not None:
            self._sign_of_life.cancel()
        for blocking in list(self._blocking):
            blocking.close()
        if self._listener is not None:
            self._listener.close()
        self._route.close()
        await asyncio.sleep(0)  # asyncio closes the sockets

    def _put(self, words: tuple[Word, ...], key: Word, again: bool) -> asyncio.Future[Any]:
        deadline = self._loop.time() + PATIENCE * self.url.answer_seconds
        call = Call(words, self._loop.create_future(), deadline, again, key)
        self._route.put(call)
        return call.future

    async def _settings(self) -> Mapping[str, str]:
        """Of CONFIG, or as far as INFO has them if that is forbidden."""
        try:
            found = await self.call("CONFIG", "GET", "append*")
            found += await self.call("CONFIG", "GET", "maxmemory-policy")
            return dict(zip(*[iter(map(bytes.decode, found))] * 2, strict=True))
        except StoreUnavailable:
            lines = (await self.call("INFO")).decode().splitlines()
            info = dict(line.split(":", 1) for line in lines if ":" in line)
            aof = {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""), "unknown")
            return {"appendonly": aof, "maxmemory-policy": info.get("maxmemory_policy", "unknown")}

    # --- bells -----------------------------------------------------------------------------------------------------

    async def listen(self, channel: str) -> None:
        """Be subscribed to it."""
        if self._listener is None:
            self._listener = self._route.line(self._heard, self._listen_to_all)
            self._send_sign_of_life()
        await self._tell(self._listener, "SUBSCRIBE", channel)

    def _listen_to_all(self) -> None:
        """On a new connection; nobody knows what was missed before it."""
        assert self._listener is not None
        for channel, bell in self._bells.items():
            if bell.heard:
                subscribed = self._tell(self._listener, "SUBSCRIBE", channel)
                subscribed.add_done_callback(partial(_ring, bell))

    def _heard(self, message: list[Any]) -> None:
        if (bell := self._bells.get(message[1].decode())) is not None:
            bell.ring()

    def _send_sign_of_life(self) -> None:
        """So that a listener whose connection is dead finds out."""
        assert self._listener is not None
        if self._listener.connected and not self._listener.waiting:
            _ = self._tell(self._listener, "PING")
        self._sign_of_life = self._loop.call_later(IDLE_SECONDS, self._send_sign_of_life)

    def _tell(self, line: Line, *words: Word) -> asyncio.Future[Any]:
        deadline = self._loop.time() + PATIENCE * self.url.answer_seconds
        call = Call(words, self._loop.create_future(), deadline)
        call.future.add_done_callback(lambda future: future.cancelled() or future.exception())  # it is asked again
        line.put(call)
        return call.future


class Bell:
    """Wakes all who wait for it. What was missed while the connection was away is made up for by one ring."""

    def __init__(self, server: RedisServer, channel: str) -> None:
        self.channel = channel
        self.heard = False
        self.rings = 0
        self._server = server
        self._rung = asyncio.Event()

    async def listen(self) -> None:
        """From now on no ring is missed. Raises StoreUnavailable."""
        if not self.heard:
            await self._server.listen(self.channel)
            self.heard = True

    def ring(self) -> None:
        """Wake those who wait in this process."""
        self.rings += 1
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def wait(self, rings: int, seconds: float) -> None:
        """Until it has rung more often than that, at most so long. (Take `rings` before you look at what it is for.)"""
        if self.rings != rings:
            return
        rung = self._rung
        try:
            async with asyncio.timeout(None if seconds == inf else seconds):
                await rung.wait()
        except TimeoutError:
            pass


class Blocking:
    """One connection, for commands that wait at the server."""

    def __init__(self, line: Line, key: Word, answer_seconds: float, closed: Callable[[Blocking], None]) -> None:
        self._line = line
        self._key = key
        self._answer_seconds = answer_seconds
        self._closed = closed
        self._loop = asyncio.get_running_loop()

    async def call(self, *words: Word, block_seconds: float, again: bool = True) -> Any:
        """As `RedisServer.call`, for a command that blocks so long at most. Cancelled, it ends the connection, so that
        the server waits no longer either; what it answers by then is lost: never pop by it."""
        deadline = self._loop.time() + PATIENCE * self._answer_seconds + block_seconds
        call = Call(words, self._loop.create_future(), deadline, again, self._key, block_seconds)
        self._line.put(call)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._line.drop("its caller was cancelled")
            raise

    def close(self) -> None:
        self._line.close()
        self._closed(self)


def check_settings(name: str, settings: Mapping[str, str], replicated: bool) -> Sequence[str]:
    """As `RedisServer.check`, for these settings of a server."""
    policy = settings.get("maxmemory-policy", "unknown")
    if policy not in ("noeviction", "unknown"):
        raise StoreUnavailable(
            f"{name}: maxmemory-policy is {policy}, which throws away what was accepted when memory is short. "
            "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf)"
        )
    sentences = []
    if policy == "unknown":
        sentences.append(f"{name}: maxmemory-policy cannot be read; anything but noeviction loses what was accepted.")
    match settings.get("appendonly"), settings.get("appendfsync"):
        case "yes", "always":
            pass
        case "yes", "everysec":
            sentences.append(
                f"{name}: appendfsync is everysec: a power cut or a crash of its machine loses what was accepted in "
                "the last second or two. A killed server loses nothing. Set it to always to lose nothing at all."
            )
        case "yes", "no":
            sentences.append(
                f"{name}: appendfsync is no: a power cut or a crash of its machine loses what was accepted in the last "
                "half minute or so. Set it to always to lose nothing."
            )
        case "no", _:
            sentences.append(
                f"{name}: appendonly is no: when it stops, everything since its last snapshot is lost. "
                "Set appendonly yes and appendfsync always to lose nothing."
            )
        case _:
            sentences.append(f"{name}: appendonly and appendfsync cannot be read, so nobody can say what can be lost.")
    if replicated:
        sentences.append(f"{name}: a failover loses what the replica has not got yet: Redis answers first.")
    return sentences


def _ring(bell: Bell, _: object) -> None:
    bell.ring()


_SHARED: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RedisServer]]] = WeakKeyDictionary()
