"""What a reference stands for: a queue or stream of the store or elsewhere, a function, a file, an endpoint.

Decides which of them a name, an URL or a `kind:name` is, and opens each once, for as long as an engine lives. How each
is spelt in a configuration is `model.py`'s; what is sent to a destination, and how often it is tried, is
`destinations.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from lambent.arns import without_password
from lambent.destinations import FunctionDestination, QueueDestination, StreamDestination
from lambent.errors import InvalidParameterValue, ResourceNotFound
from lambent.model import Delivery, Queue, Stream
from lambent.ports import BuiltinQueue, BuiltinStream, Connection, Destination, QueueSource, StreamSource, World
from lambent.sources import load_source

MAXIMUM_RESOLVED: Final = 1000  # destinations that are remembered by their references


class References:
    """`queues` and `streams` are what is declared, live mappings; `enqueue(function, payload, hops)` stores an event;
    `closing` closes what was opened."""

    def __init__(
        self,
        *,
        connection: Connection,
        queues: Mapping[str, Queue],
        streams: Mapping[str, Stream],
        enqueue: Callable[[str, bytes, int], Awaitable[None]],
        allow_private: bool,
        closing: AsyncExitStack,
        world: World,
    ) -> None:
        self._connection = connection
        self._declared_queues = queues
        self._declared_streams = streams
        self._enqueue = enqueue
        self._allow_private = allow_private
        self._closing = closing
        self._world = world
        self._queues: dict[str, BuiltinQueue] = {}
        self._streams: dict[str, BuiltinStream] = {}
        self._sources: dict[str, object] = {}  # other than the store's, by URL
        self._destinations: dict[str, Destination] = {}

    def queue(self, name: str) -> BuiltinQueue:
        """The store's queue of this name. Raises ResourceNotFound if nobody declared it."""
        if name not in self._queues:
            if name not in self._declared_queues:
                raise ResourceNotFound(f'There is no queue "{name}": declare it with engine.queue({name!r}).')
            self._queues[name] = self._connection.queue(self._declared_queues[name])
        return self._queues[name]

    def stream(self, name: str) -> BuiltinStream:
        """As `queue`; with a URL, what there is of a stream elsewhere."""
        if "://" in name:
            return cast(BuiltinStream, self._elsewhere(name, "stream"))
        if name not in self._streams:
            if name not in self._declared_streams:
                raise ResourceNotFound(f'There is no stream "{name}": declare it with engine.stream({name!r}).')
            self._streams[name] = self._connection.stream(self._declared_streams[name])
        return self._streams[name]

    def queue_source(self, source: str) -> QueueSource:
        """Of a mapping."""
        if "://" in source:
            return cast(QueueSource, self._elsewhere(source, "queue"))
        return self.queue(source.removeprefix("queue:"))

    def stream_source(self, source: str) -> StreamSource:
        """Of a mapping."""
        if "://" in source:
            return cast(StreamSource, self._elsewhere(source, "stream"))
        return self.stream(source.removeprefix("stream:"))

    def destination(self, reference: str) -> Destination:
        """Raises InvalidParameterValue, ResourceNotFound, and what the source of a URL raises when it is opened."""
        if reference not in self._destinations:
            if len(self._destinations) >= MAXIMUM_RESOLVED:
                self._destinations.clear()
            self._destinations[reference] = self._destination(reference)
        return self._destinations[reference]

    def _elsewhere(self, url: str, kind: str) -> object:
        if url not in self._sources:
            factory = load_source(url)
            assert factory.kind == kind, f"{url} is no {kind}, and yet a {kind} mapping's source"
            self._sources[url] = factory(url, self._world)
            self._close_with_us(self._sources[url])
        return self._sources[url]

    def _destination(self, reference: str) -> Destination:
        kind, _, name = reference.partition(":")
        if kind == "queue":
            return QueueDestination(self.queue(name))
        if kind == "stream":
            return StreamDestination(self.stream(name))
        if kind == "function":
            return FunctionDestination(partial(self._enqueue, name))
        if kind not in ("file", "http", "https"):
            return self._foreign_destination(reference)
        from lambent.outbound import FileDestination, HttpDestination  # not every engine has one

        if kind == "file":
            return FileDestination(Path(unquote(urlsplit(reference).path)), _in_thread)
        endpoint = HttpDestination(reference, allow_private=self._allow_private)
        self._closing.push_async_callback(endpoint.close)
        return endpoint

    def _foreign_destination(self, reference: str) -> Destination:
        make: Callable[[str], Destination] | None
        make = getattr(load_source(reference), "destination", None) if "://" in reference else None
        if make is None:
            raise InvalidParameterValue(f"{without_password(reference)} is no destination")
        opened: Destination = make(reference)
        self._close_with_us(opened)
        return opened

    def _close_with_us(self, opened: object) -> None:
        close = getattr(opened, "close", None)
        if close is not None:
            self._closing.push_async_callback(close)


async def _in_thread(write: Callable[[], Delivery]) -> Delivery:
    return await asyncio.to_thread(write)
