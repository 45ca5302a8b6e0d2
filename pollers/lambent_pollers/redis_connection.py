"""A Redis server, Sentinel group or cluster, as everything of ours in one process shares it: redis-py's client inside.

Decides how long a command is waited for and when it is repeated, what an error means, how keys are named, how waiting
receivers are woken. Leaves connections, TLS, Sentinel and cluster routing to redis-py, what URLs mean to
`redis_url.py`, which settings are safe to `redis_settings.py`, and what is kept in keys to their adapters.

The commands of one turn of the loop go out as one pipeline, in a task of its own: a caller that is cancelled never
touches a connection, so its answer cannot be taken for another's (the fault of redis-py's issues 2624 and 2665).

Time is the server's: every script begins with `now`, in whole microseconds since 1970, so that two machines' clocks are
never compared. (A test may bring a time of its own.)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from math import ceil, inf
from secrets import token_hex
from typing import Any, Final
from weakref import WeakKeyDictionary

from redis import exceptions as errors
from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot

from lambent.errors import StoreUnavailable
from lambent.semantics import backoff
from lambent_pollers.redis_settings import check_settings
from lambent_pollers.redis_url import RedisUrl, parse_redis_url

__all__ = ["Bell", "Blocking", "Keys", "RedisServer", "Script", "UnknownOutcome", "Word"]

_log = logging.getLogger("lambent_pollers.redis")

Word = str | bytes | int | float
"""One word of a command; text goes as UTF-8."""

PATIENCE: Final = 2.0  # answer times: how long a command is tried, over as many connections as it takes
PIPELINES: Final = 4  # under way at once; what comes meanwhile goes together in the next
MAXIMUM_TROUBLES: Final = 100  # that are kept for who asks later
IDLE_SECONDS: Final = 10.0  # between two signs of life on a connection that only listens
_NOW: Final = """
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
"""
_AWAY: Final = (errors.ConnectionError, errors.TimeoutError, OSError, TimeoutError)
_NOT_NOW: Final = (
    errors.ReadOnlyError, errors.MasterDownError, errors.TryAgainError, errors.MovedError, errors.AskError,
)  # fmt: skip
_ADVICE: Final[Sequence[tuple[type[Exception] | str, str]]] = (
    (errors.OutOfMemoryError, "It has no memory left: raise its maxmemory, or let consumers catch up."),
    ("OOM", "It has no memory left: raise its maxmemory, or let consumers catch up."),
    (errors.NoPermissionError, "Give this ACL user the right."),
    (errors.AuthenticationError, "Correct the user or the password: redis://USER:PASSWORD@HOST."),
    (errors.ReadOnlyError, "It is a replica: name its primary, or the Sentinels (redis+sentinel://HOST,HOST/SERVICE)."),
    ("WRONGTYPE", "Somebody else's keys have our names: choose another prefix (…?prefix=NAME)."),
    ("MISCONF", "It cannot write to its disk: see its log."),
    ("NOREPLICAS", "It has fewer replicas than it wants (min-replicas-to-write)."),
)


class UnknownOutcome(StoreUnavailable):
    """The command went out and its answer was lost: it was performed once, or not at all."""


class Script:
    """A static Lua script for `RedisServer.run`: what varies are its keys and arguments. It finds `now` (microseconds
    since 1970) as a local, and its own arguments from ARGV[2] on. It is called by its digest; a server that does not
    know it is told the text.

    flags: Redis's for scripts, such as 'allow-oom' (one that frees memory) or 'no-writes'."""

    def __init__(self, text: str, flags: str = "") -> None:
        head = f"#!lua flags={flags}\n" if flags else "#!lua\n"
        self.text = head + _NOW + text
        self.digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys. What shall be changed in one script has one `tag`, and so one slot of a cluster."""

    prefix: str = "lambent"

    def __call__(self, tag: str, *parts: str) -> str:
        return ":".join((self.prefix, "{" + tag + "}", *parts))


@dataclass(slots=True, eq=False)
class _Call:
    """A command on its way, given up at `deadline` (the loop's time). `again`: to repeat it does no harm."""

    words: tuple[Word, ...]
    future: asyncio.Future[Any]
    deadline: float
    again: bool
    script: Script | None = None
    tries: int = 0

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class RedisServer:
    """Commands, scripts and bells of one URL. Opens nothing until used; all raise StoreUnavailable when it is away, or
    `UnknownOutcome`, which is one, for a command that may have been performed and must not be repeated blindly.

    random: uniform in [0, 1), for the waits between two attempts.
    time: what scripts take for the time, in epoch seconds, in place of the server's own (for tests)."""

    def __init__(
        self, url: str | RedisUrl, random: Callable[[], float], time: Callable[[], float] | None = None
    ) -> None:
        self.url = parse_redis_url(url) if isinstance(url, str) else url
        self.keys = Keys(self.url.prefix)
        self.waiting = 0
        """How many commands have no answer yet."""
        self.cautions: Sequence[str] = ()
        """What can be lost with its settings, once they were `checked`."""
        self._loop = asyncio.get_running_loop()
        self._random = random
        self._time = time
        self._life = token_hex(8)  # not of a seed: with the same one a next life must not be taken for this one
        self._names = itertools.count(1)
        self._client = self.url.client()
        self._unsent: list[_Call] = []
        self._flushing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._blocking: set[Blocking] = set()
        self._bells: dict[str, Bell] = {}
        self._listening: asyncio.Task[None] | None = None
        self._subscribe: Callable[[str], Awaitable[None]] | None = None
        self._troubles: deque[str] = deque(maxlen=MAXIMUM_TROUBLES)
        self._on_trouble: list[Callable[[str], None]] = []
        self._checked = False
        self._closed = False
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

    def call(self, *words: Word, again: bool = True) -> asyncio.Future[Any]:
        """Perform one command; what redis-py makes of the answer, with bytes for strings. It is on its way at once,
        awaited or not; cancelling the future forgets only its answer.

        again: to perform it twice does no harm, so it is repeated when its answer was lost."""
        return self._put(words, again, None)

    def run(self, script: Script, keys: Sequence[str], *arguments: Word, again: bool = True) -> asyncio.Future[Any]:
        """Run a script, as `call`. There is a key, and in a cluster all are of one slot."""
        now = "" if self._time is None else f"{self._time() * 1e6:.0f}"
        return self._put(("EVALSHA", script.digest, len(keys), *keys, now, *arguments), again, script)

    def blocking(self) -> Blocking:
        """A connection of its own for commands that block, such as XREAD BLOCK; to be closed by whoever asked."""
        blocking = Blocking(self)
        self._blocking.add(blocking)
        return blocking

    def bell(self, channel: str) -> Bell:
        """Rung by each PUBLISH to this channel, in whichever process."""
        if channel not in self._bells:
            self._bells[channel] = Bell(self, channel)
        return self._bells[channel]

    def name_call(self) -> str:
        """A name that no other call has, in whichever process: for scripts that remember what they answered."""
        return f"{self._life}:{next(self._names)}"

    @property
    def remember_ms(self) -> int:
        """How long a server remembers what it answered to a named call: longer than anybody repeats it."""
        return ceil(1e3 * (30.0 + 2 * PATIENCE * self.url.answer_seconds))

    def jitter(self) -> float:
        return self._random()

    def forget(self, blocking: Blocking) -> None:
        """It is closed."""
        self._blocking.discard(blocking)

    def one_slot(self, *keys: str) -> bool:
        """May one script have all of these keys?"""
        return self.url.kind != "cluster" or len({key_slot(key.encode()) for key in keys}) == 1

    async def check(self) -> Sequence[str]:
        """Sentences that say what can be lost with the server's settings. Raises StoreUnavailable if they are refused:
        a server that evicts what it was given keeps nothing safe."""
        return check_settings(str(self), await self._settings(), self.url.kind != "server")

    async def checked(self, aloud: bool = True) -> None:
        """`check`, before this server is first relied upon; what it says are its `cautions`. `aloud`: logged."""
        if not self._checked:
            self.cautions = await self.check()
            self._checked = True
            for sentence in self.cautions if aloud else ():
                _log.warning("%s", sentence)

    def trouble(self, sentence: str) -> None:
        """Something is wrong with what is kept there, and we go on from it. Logged if nobody hears it."""
        if not self._on_trouble:
            _log.warning("%s", sentence)
        self._troubles.append(sentence)
        for callback in self._on_trouble:
            callback(sentence)

    def on_trouble(self, callback: Callable[[str], None]) -> None:
        """Hear of troubles, as sentences; at once of those there were."""
        self._on_trouble.append(callback)
        for sentence in self._troubles:
            callback(sentence)

    async def close(self) -> None:
        """Once for each who has it. What still waits fails."""
        self._sharers -= 1
        if self._sharers > 0 or self._closed:
            return
        self._closed = True
        servers = _SHARED.get(self._loop, {})
        for url in [url for url, server in servers.items() if server is self]:
            del servers[url]
        tasks = [*self._tasks, *([self._listening] if self._listening is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for call in self._unsent:
            call.fail(StoreUnavailable(f"{self} was closed"))
        self._unsent.clear()
        for blocking in list(self._blocking):
            await blocking.close()
        await close_client(self._client)

    # --- commands --------------------------------------------------------------------------------------------------

    def _put(self, words: tuple[Word, ...], again: bool, script: Script | None) -> asyncio.Future[Any]:
        deadline = self._loop.time() + PATIENCE * self.url.answer_seconds
        call = _Call(words, self._loop.create_future(), deadline, again, script)
        self.waiting += 1
        call.future.add_done_callback(self._answered)
        self._enqueue(call)
        return call.future

    def _answered(self, _: object) -> None:
        self.waiting -= 1

    def _enqueue(self, call: _Call) -> None:
        if self._closed:
            call.fail(StoreUnavailable(f"{self} was closed"))
            return
        self._unsent.append(call)
        if not self._flushing and len(self._tasks) < PIPELINES:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        calls = [call for call in self._unsent if not call.future.done()]
        self._unsent.clear()
        if calls and not self._closed:
            task = self._loop.create_task(self._send(calls), name=f"redis: commands for {self}")
            self._tasks.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._unsent:
            self._flush()

    async def _send(self, calls: Sequence[_Call]) -> None:
        try:
            async with asyncio.timeout(self.url.answer_seconds):
                replies = await self._replies(calls)
        except errors.AuthenticationError as error:
            replies = [error] * len(calls)
        except (*_AWAY, errors.RedisClusterException) as error:
            for call in calls:
                self._put_off(call, error, f"does not answer: {_said(error)}. Is the server up, and reachable?")
            return
        except asyncio.CancelledError:
            for call in calls:
                call.fail(UnknownOutcome(f"{self} was closed"))
            raise
        except Exception as error:  # a bug, which shall not leave its callers waiting
            for call in calls:
                call.fail(error)
            raise
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                self._judge(call, reply)
            elif not call.future.done():
                call.future.set_result(reply)

    async def _replies(self, calls: Sequence[_Call]) -> Sequence[Any]:
        if isinstance(self._client, RedisCluster):
            client = self._client
            asked = (client.execute_command(*call.words) for call in calls)
            return await asyncio.gather(*asked, return_exceptions=True)
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call.words)
        return await pipeline.execute(raise_on_error=False)

    def _judge(self, call: _Call, error: Exception) -> None:
        """What an error means for its command."""
        if isinstance(error, errors.NoScriptError) and call.script is not None and call.words[0] == "EVALSHA":
            call.words = ("EVAL", call.script.text, *call.words[2:])
            self._enqueue(call)
        elif isinstance(error, _NOT_NOW) or (
            isinstance(error, _AWAY) and not isinstance(error, errors.AuthenticationError)
        ):
            performed = not isinstance(error, _NOT_NOW)
            self._put_off(call, error, f"refused {call.words[0]!s}: {_said(error)}. {_advice(error)}", performed)
        elif isinstance(error, errors.RedisError):
            call.fail(StoreUnavailable(f"{self} refused {call.words[0]!s}: {_said(error)}. {_advice(error)}".rstrip()))
        else:
            call.fail(error)  # a bug

    def _put_off(self, call: _Call, error: Exception, what: str, perhaps_performed: bool = True) -> None:
        """Ask again in a moment, as long as its caller waits."""
        if perhaps_performed and not call.again:
            call.fail(UnknownOutcome(f"{self} {what}".rstrip()))
            return
        call.tries += 1
        wait = backoff.reconnection(call.tries, self._random())
        if self._loop.time() + wait >= call.deadline:
            unknown = perhaps_performed and call.tries > 1
            call.fail((UnknownOutcome if unknown else StoreUnavailable)(f"{self} {what}".rstrip()))
        else:
            self._loop.call_later(wait, self._enqueue, call)

    async def _settings(self) -> Mapping[str, str]:
        """Of CONFIG, or as far as INFO has them if that is forbidden."""
        try:
            found = {**await self.call("CONFIG GET", "append*"), **await self.call("CONFIG GET", "maxmemory*")}
            return {_text(name): _text(value) for name, value in found.items()}
        except StoreUnavailable:
            info = await self.call("INFO")
            aof = {1: "yes", 0: "no"}.get(info.get("aof_enabled", -1), "unknown")
            return {"appendonly": aof, "maxmemory-policy": info.get("maxmemory_policy", "unknown")}

    # --- bells -----------------------------------------------------------------------------------------------------

    async def listen(self, bell: Bell) -> None:
        """Be subscribed to its channel. Raises StoreUnavailable."""
        bell.wanted = True
        self.waiting += 1
        try:
            if self._listening is None:
                self._listening = self._loop.create_task(self._listen(), name=f"redis: bells of {self}")
            elif self._subscribe is not None:
                with suppress(errors.RedisError, OSError):  # the listener sees it too, and begins anew with all
                    await self._subscribe(bell.channel)
            async with asyncio.timeout(PATIENCE * self.url.answer_seconds):
                await bell.heard.wait()
        except TimeoutError:
            raise StoreUnavailable(f"{self} does not answer SUBSCRIBE. Is the server up, and reachable?") from None
        finally:
            self.waiting -= 1

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                await self._hear()
            except (*_AWAY, errors.RedisError):
                failures += 1
            else:
                failures = 0
            self._subscribe = None
            await asyncio.sleep(backoff.reconnection(max(failures, 1), self._random()))

    async def _hear(self) -> None:
        """Until the connection is dead. What was missed since the last one is made up for by one ring."""
        if isinstance(self._client, RedisCluster):
            _ = await self._client.initialize()
        pubsub: Any = self._client.pubsub()
        try:
            await pubsub.subscribe(*(bell.channel for bell in self._bells.values() if bell.wanted))
            self._subscribe = pubsub.subscribe
            while True:
                message = await pubsub.get_message(timeout=IDLE_SECONDS)
                if message is None:
                    message = await self._sign_of_life(pubsub)
                if message["type"] in ("subscribe", "message"):
                    bell = self._bells.get(_text(message["channel"]))
                    if bell is not None:
                        bell.heard.set()
                        bell.ring()
        finally:
            await pubsub.aclose()

    async def _sign_of_life(self, pubsub: Any) -> Mapping[str, Any]:
        """Whatever comes next: at the latest the answer to a PING. Raises TimeoutError."""
        self.waiting += 1
        try:
            await pubsub.ping()
            message: Mapping[str, Any] | None = await pubsub.get_message(timeout=self.url.answer_seconds)
        finally:
            self.waiting -= 1
        if message is None:
            raise TimeoutError
        return message


class Bell:
    """Wakes all who wait for it. What was missed while the connection was away is made up for by one ring."""

    def __init__(self, server: RedisServer, channel: str) -> None:
        self.channel = channel
        self.wanted = False
        self.heard = asyncio.Event()
        self.rings = 0
        self.on_ring: dict[object, Callable[[], None]] = {}
        """What else to call at each, by who wants it."""
        self._server = server
        self._rung = asyncio.Event()

    async def listen(self) -> None:
        """From now on no ring is missed. Raises StoreUnavailable."""
        if not self.heard.is_set():
            await self._server.listen(self)

    def ring(self) -> None:
        """Wake those who wait in this process."""
        self.rings += 1
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()
        for callback in list(self.on_ring.values()):
            callback()

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

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._client = server.url.client()

    async def call(self, *words: Word, block_seconds: float) -> Any:
        """As `RedisServer.call`, for one command at a time that blocks so long at most, and does no harm when repeated.
        Cancelled, it ends the connection, so that the server waits no longer either; what it answers by then is lost:
        never pop by it."""
        loop, url, tries = asyncio.get_running_loop(), self._server.url, 0
        deadline = loop.time() + block_seconds + PATIENCE * url.answer_seconds
        while True:
            try:
                async with asyncio.timeout(block_seconds + url.answer_seconds):
                    return await self._client.execute_command(*words)
            except errors.ResponseError as error:
                text = f"{self._server} refused {words[0]!s}: {_said(error)}. {_advice(error)}"
                raise StoreUnavailable(text.rstrip()) from error
            except (*_AWAY, errors.RedisClusterException) as error:
                tries += 1
                wait = backoff.reconnection(tries, self._server.jitter())
                if loop.time() + wait >= deadline:
                    text = f"{self._server} does not answer: {_said(error)}. Is the server up, and reachable?"
                    raise StoreUnavailable(text) from error
            await asyncio.sleep(wait)

    async def close(self) -> None:
        self._server.forget(self)
        await close_client(self._client)


async def close_client(client: Redis | RedisCluster) -> None:
    """With its Sentinels' connections."""
    closing: Any = client  # one of them has no types
    await closing.aclose()
    sentinels: Any = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for sentinel in sentinels.sentinels if sentinels is not None else ():
        await sentinel.aclose()


def _said(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _advice(error: Exception) -> str:
    for kind, advice in _ADVICE:
        if str(error).startswith(kind) if isinstance(kind, str) else isinstance(error, kind):
            return advice
    return ""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_SHARED: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RedisServer]]] = WeakKeyDictionary()
