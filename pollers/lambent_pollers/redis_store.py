"""The store on Redis: any number of engines and clients, in as many processes, over one server, group or cluster.

Decides what a connection is made of, which engines count as there, and which of them removes what is no longer needed.
What is kept, and how, is decided by the adapters (`redis_archive.py`, `redis_documents.py`, `redis_events.py`,
`redis_leases.py`, `redis_queue.py`, `redis_stream.py`), what a URL means by `redis_url.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from lambent.errors import StoreUnavailable
from lambent.model import EventFact, MessageFact, Queue, Settled, ShardFact, Stream
from lambent.ports import World
from lambent_pollers.redis_archive import RedisArchive
from lambent_pollers.redis_calls import Calls, Scripts
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_documents import RedisDocuments
from lambent_pollers.redis_events import RedisEvents
from lambent_pollers.redis_leases import RedisLeases
from lambent_pollers.redis_queue import RedisQueue, RedisQueues
from lambent_pollers.redis_stream import RedisStream, RedisStreams
from lambent_pollers.redis_url import parse_redis_url

BEAT_SECONDS: Final = 3.0  # between two signs of life of an engine
SWEEP_BEATS: Final = 5  # between two looks for what need not be kept
BELIEVED_SECONDS: Final = 10.0  # for which an engine counts as there after the last one
BURIAL_BEATS: Final = 5  # of one engine, in which another is not there, until what that one had claimed is due again
HELD_SECONDS: Final = BELIEVED_SECONDS + (BURIAL_BEATS - 3) * BEAT_SECONDS
"""For which a claim is nobody else's: it is asked for a beat after the last sign of life at most, and a burial comes
four beats after that is not believed any more. One beat less, as beats take time."""

_PRESENCE: Final = Scripts("redis_presence.lua")


class RedisStore:
    """Everything at the server of this URL (see `redis_url.py`), under its prefix. Opens nothing until connected.

    Raises InvalidParameterValue that says what to write.

    serve: makes what a connection goes through; None: one for all of this URL in an event loop."""

    capabilities = frozenset({"documents", "events", "leases", "permits", "queue", "stream", "archive", "shared"})

    def __init__(self, url: str, *, serve: Callable[[World], RedisServer] | None = None) -> None:
        self._url = url
        self._name = str(parse_redis_url(url))
        self._serve = serve

    def __str__(self) -> str:
        return self._name

    async def connect(self, world: World, client: bool = False) -> Connection:
        """Raises StoreUnavailable: it is away, or has settings that lose what was accepted."""
        server = self._serve(world) if self._serve else RedisServer.shared(self._url, world.random)
        connection = Connection(server, world, client)
        try:
            await connection.open()
        except BaseException:
            await connection.close()
            raise
        return connection


class Connection:
    """An engine's or a client's view of the store."""

    def __init__(self, server: RedisServer, world: World, client: bool) -> None:
        self.server = server
        self.documents = RedisDocuments(server)
        self.archive = RedisArchive(server)
        self.events = RedisEvents(server, world, HELD_SECONDS)
        self.leases = RedisLeases(server, world.owner)
        self._world = world
        self._queues = RedisQueues(server)
        self._streams = RedisStreams(server)
        self.facts = RedisFacts(self.events, self.leases, self._queues, world)
        self._presence = None if client else _Presence(server, world)
        self._beating: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Raises StoreUnavailable; `close` follows."""
        await self.server.checked(aloud=False)  # an engine says it, a client has not to
        if self._presence is not None:
            await self._presence.beat()
            self._beating = asyncio.create_task(self._beat(self._presence), name="redis: an engine is here")

    async def engines(self) -> int:
        return await _Presence(self.server, self._world).count()

    def queue(self, queue: Queue) -> RedisQueue:
        return self._queues.queue(queue, self._world)

    def stream(self, stream: Stream) -> RedisStream:
        return self._streams.stream(stream, self._world)

    @property
    def cautions(self) -> Sequence[str]:
        return self.server.cautions

    def on_trouble(self, callback: Callable[[str], None]) -> None:
        self.server.on_trouble(callback)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
        self.documents.close()
        leaving: list[Callable[[], Awaitable[None]]] = [self.events.leave, self.leases.leave]
        if self._presence is not None and self._beating is not None:
            leaving.append(self._presence.leave)
        try:
            with suppress(StoreUnavailable):  # then it all ends by itself, in time
                for leave in leaving:
                    await leave()
        finally:
            await self.server.close()

    async def _beat(self, presence: _Presence) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(StoreUnavailable):  # the loops say so
                first = await presence.beat()
                if dead := presence.dead(await self.events.others(presence.there) if first else ()):
                    await self.events.bury(dead)
                if first and number % SWEEP_BEATS == 0:
                    await self._queues.sweep(self._world)
                    mappings = [document.name for document in await self.documents.list("mapping")]
                    await self._streams.sweep(self._world, mappings)


class _Presence:
    """An engine's sign of life, and what it knows of those of others."""

    def __init__(self, server: RedisServer, world: World) -> None:
        self._calls = Calls(server, _PRESENCE, "engines")
        self._keys = (self._calls.key("alive"),)
        self._owner = world.owner
        self._missed: dict[str, int] = {}  # in how many beats, one after the other, somebody was not there
        self.there: Sequence[str] = ()  # at the last beat

    async def beat(self) -> bool:
        """It is here; is it the one that does what one should do for all?"""
        believed = round(BELIEVED_SECONDS * 1e6)
        new, *names = await self._calls.run("beat", self._keys, self._owner, believed, adds=True)
        self.there = [name.decode() for name in names]
        if new:
            self._missed = {}
        return min(self.there) == self._owner

    def dead(self, missing: Sequence[str]) -> Sequence[str]:
        """Who of those that are missing at this beat is dead: not there for as long again as an engine is believed. All
        are missing after an outage of the server; so is this engine then, and counts anew."""
        self._missed = {name: self._missed.get(name, 0) + 1 for name in missing}
        return [name for name, beats in self._missed.items() if beats >= BURIAL_BEATS]

    async def count(self) -> int:
        return int(await self._calls.run("count", self._keys, self._owner))

    async def leave(self) -> None:
        await self._calls.run("leave", self._keys, self._owner)


class RedisFacts:
    """`Facts` on Redis: of ended events the latest are known, of settled records the latest ranges."""

    def __init__(self, events: RedisEvents, leases: RedisLeases, queues: RedisQueues, world: World) -> None:
        self._events = events
        self._leases = leases
        self._queues = queues
        self._world = world

    async def event(self, request_id: str) -> EventFact | None:
        return await self._events.fact(request_id)

    async def ended(self) -> Mapping[tuple[str, str], int]:
        return await self._events.ended()

    async def message(self, message_id: str) -> MessageFact | None:
        return await self._queues.fact(message_id, self._world)

    async def shards(self, group: str) -> Sequence[ShardFact]:
        return await self._leases.shards(group)

    async def settled(self, group: str, shard: str, position: str) -> Settled | None:
        return await self._leases.settled(group, shard, position)
