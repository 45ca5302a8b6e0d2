"""A streamed answer within a runtime: handed on to whoever reads it, or put together for who waits for the whole.

Decides how large it may be: 200 MB of a stream, 6 MB of what is put together (Lambda quotas), whatever a runtime sends
beyond. What is done with one that is too large, and what ends it, is the runtime's.
"""

from __future__ import annotations

import asyncio

from lambent.model import MAXIMUM_RESPONSE_BYTES, MAXIMUM_STREAMED_BYTES, Failed, Invocation, Succeeded
from lambent.ports import Respond
from lambent.runtimes import error_documents


class StreamedAnswer:
    """Of one invocation; `take` its chunks, then ask what came of it."""

    __slots__ = ("_chunks", "_limit", "_respond", "_size")

    def __init__(self, invocation: Invocation, respond: Respond) -> None:
        self._respond = respond if invocation.streamed else None
        self._limit = MAXIMUM_STREAMED_BYTES if invocation.streamed else MAXIMUM_RESPONSE_BYTES
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def too_large(self) -> bool:
        return self._size > self._limit

    def take(self, chunk: bytes) -> asyncio.Future[None] | None:
        """The next chunk. As `ports.Respond`. What is beyond the limit is not kept."""
        self._size += len(chunk)
        if self.too_large:
            self._chunks.clear()
        elif self._respond is not None:
            return self._respond(chunk)
        else:
            self._chunks.append(chunk)
        return None

    def outcome(self) -> Succeeded | Failed:
        """What it comes to, now that it ended well."""
        return error_documents.too_large(self._limit) if self.too_large else Succeeded(b"".join(self._chunks))
