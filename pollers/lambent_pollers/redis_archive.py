"""`Archive` on Redis: each zip in pieces, which count once all of them are there.

Decides into what pieces a zip is cut and how they are called. When they become a zip of the archive, how old that is
and when it goes is decided in one step each, by `redis_archive.lua`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lambent_pollers.redis_calls import Calls, Scripts
from lambent_pollers.redis_connection import RedisServer

PIECE_BYTES: Final = 1024 * 1024
"""What one command carries: others wait behind it."""
UNFINISHED_SECONDS: Final = 3600.0  # for which pieces are kept that nobody made a zip of

_SCRIPTS: Final = Scripts("redis_archive.lua")


class RedisArchive:
    """All of it has one slot of a cluster."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._calls = Calls(server, _SCRIPTS, "archive")
        key = self._calls.key
        self._index = (key("put"), key("pieces"))

    async def put(self, sha256: str, data: bytes) -> None:
        if await self._calls.run("renew", self._index, sha256):
            return
        upload = self._server.name_call()
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        parts = [self._calls.key("part", upload, str(number)) for number in range(len(pieces))]
        milliseconds = round(UNFINISHED_SECONDS * 1e3)
        for part, piece in zip(parts, pieces, strict=True):  # one after the other: others have their turn
            await self._server.call("SET", part, piece, "PX", milliseconds)
        await self._calls.run("seal", (*self._index, *parts, *self._pieces(sha256, len(pieces))), sha256, adds=True)

    async def get(self, sha256: str) -> bytes | None:
        count = await self._server.call("HGET", self._index[1], sha256)
        if count is None:
            return None
        pieces: list[bytes] = []
        for each in self._pieces(sha256, int(count)):
            piece: bytes | None = await self._server.call("GET", each)
            if piece is None:
                return None  # it is being removed
            pieces.append(piece)
        return b"".join(pieces)

    async def ages(self) -> Mapping[str, float]:
        found = await self._calls.run("ages", self._index)
        return {name.decode(): int(age) / 1e6 for name, age in zip(found[::2], found[1::2], strict=True)}

    async def remove(self, sha256: str, unless_younger_than_seconds: float) -> bool:
        count = await self._server.call("HGET", self._index[1], sha256)
        if count is None:
            return False
        keys = (*self._index, *self._pieces(sha256, int(count)))
        return bool(await self._calls.run("remove", keys, sha256, round(unless_younger_than_seconds * 1e6)))

    def _pieces(self, sha256: str, count: int) -> list[str]:
        return [self._calls.key("zip", sha256, str(number)) for number in range(count)]
