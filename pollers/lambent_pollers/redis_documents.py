"""`Documents` on Redis: a hash for each kind, and a bell that rings with each change of it.

Decides how a document is written, and when a watch speaks. When a revision is taken and what has expired is decided in
one step, by `redis_documents.lua`; what documents say, by `control.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from math import inf
from typing import Any, Final

from lambent.errors import StoreUnavailable
from lambent.ports import Document
from lambent_pollers.redis_calls import Calls, Scripts
from lambent_pollers.redis_connection import RedisServer

_SCRIPTS: Final = Scripts("redis_documents.lua")
RETRY_SECONDS: Final = 1.0  # after the server could not be listened to


class RedisDocuments:
    """Revisions come from one counter, so a document made anew never has an old one's."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._calls = Calls(server, _SCRIPTS, "documents")
        self._watched: set[str] = set()
        self._closed = False

    async def get(self, kind: str, name: str) -> Document | None:
        stored = await self._calls.run("get", self._keys(kind), name)
        return stored and _document(kind, name, stored)

    async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
        found: Sequence[bytes] = await self._calls.run("list", self._keys(kind), after)
        return [_document(kind, name.decode(), stored) for name, stored in zip(found[::2], found[1::2], strict=True)]

    async def put(
        self, kind: str, name: str, body: str, revision: int | None = None, expires_in_seconds: float | None = None
    ) -> Document | None:
        words = (name, body, "" if revision is None else revision)
        microseconds = "" if expires_in_seconds is None else round(expires_in_seconds * 1e6)
        given: int = int(await self._calls.run("put", self._keys(kind), *words, microseconds, adds=True))
        return Document(kind, name, body, given) if given else None

    async def delete(self, kind: str, name: str) -> bool:
        return bool(int(await self._calls.run("delete", self._keys(kind), name)))

    async def watch(self, kind: str) -> AsyncIterator[None]:
        """Ends when the connection is closed. While the server is away it says nothing, and speaks when it is back."""
        bell = self._server.bell(self._keys(kind)[1])
        self._watched.add(kind)
        while not self._closed:
            try:
                await bell.listen()
                break
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
        seen = -1
        while not self._closed:
            if seen != bell.rings:
                seen = bell.rings
                yield
            else:
                await bell.wait(seen, inf)

    def close(self) -> None:
        """Ends the watches."""
        self._closed = True
        for kind in self._watched:
            self._server.bell(self._keys(kind)[1]).ring()

    def _keys(self, kind: str) -> tuple[str, ...]:
        key = self._calls.key
        return (key("revision"), key("kind", kind), key("expiring", kind), key("written", kind))


def _document(kind: str, name: str, stored: Any) -> Document:
    revision, _, body = stored.partition(b" ")
    return Document(kind, name, body.decode(), int(revision))
