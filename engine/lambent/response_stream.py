"""An answer that is read while the function still gives it (Lambda API: InvokeWithResponseStream).

Decides how much of it is held for a caller that reads slowly, and what ends it for the reader: the function's end, its
error, or that the reader leaves. How large an answer may be is the runtime's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from lambent.calls import in_bytes
from lambent.errors import LambentError
from lambent.invoker import Invoker, Running
from lambent.model import Failed, Invocation, Outcome, Succeeded, Throttled

MAXIMUM_HELD_BYTES: Final = 1024 * 1024
"""From so much on that is not read yet the function is held up. It may be more by one chunk, or what a socket held."""


def begin(
    invoker: Invoker, invocation: Invocation, error: Callable[[Outcome, Invocation], LambentError]
) -> ResponseStream:
    """Run it, if it is admitted; `error` makes of an outcome what its caller meets. Raises TooManyRequests,
    ResourceNotFound."""
    permit = invoker.admit(invocation.function)
    if isinstance(permit, Throttled):
        raise error(permit, invocation)
    stream = ResponseStream(invocation, error)
    stream.call = invoker.start(invocation, permit, ResponseStream.ended, stream, stream.respond)
    return stream


class ResponseStream:
    """Iterate over it for the chunks (bytes), in their order and as they come; of a function that does not stream there
    is one. After the last one the iteration ends, or raises FunctionError if the function failed, also in the middle.

    A function that is not read is held up, and its time limit runs on. `async with` ends it where the reader leaves
    early; without, it runs to its end or its time limit, as on AWS, and holds its concurrency for so long."""

    call: Running[ResponseStream]

    def __init__(self, invocation: Invocation, error: Callable[[Outcome, Invocation], LambentError]) -> None:
        self._invocation = invocation
        self._error = error
        self._chunks: deque[bytes] = deque()
        self._held = 0  # bytes
        self._changed = asyncio.Event()
        self._room: asyncio.Future[None] | None = None
        self._outcome: Outcome | None = None
        self._over = False  # nothing more is to be had

    @property
    def request_id(self) -> str:
        return self._invocation.request_id

    @property
    def executed_version(self) -> str:
        return self._invocation.version

    @property
    def log_tail(self) -> str:
        """The last 4 KB of its log, once it ended, if they were asked for."""
        return self._outcome.log_tail if isinstance(self._outcome, Succeeded | Failed) else ""

    def __aiter__(self) -> ResponseStream:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._over:
                raise StopAsyncIteration
            if self._outcome is not None:
                self._over = True
                if isinstance(self._outcome, Succeeded):
                    continue
                raise self._error(self._outcome, self._invocation)
            self._changed.clear()
            await self._changed.wait()
        chunk = self._chunks.popleft()
        self._held -= len(chunk)
        if self._held < MAXIMUM_HELD_BYTES:
            self._make_room()
        return chunk

    def at_hand(self, most: int) -> bytes:
        """What is there already, of this many bytes at most, in whole chunks; perhaps nothing. Waits for nothing."""
        found: list[bytes] = []
        while self._chunks and len(self._chunks[0]) <= most:
            found.append(self._chunks.popleft())
            self._held -= len(found[-1])
            most -= len(found[-1])
        if self._held < MAXIMUM_HELD_BYTES:
            self._make_room()
        return b"".join(found)

    async def aclose(self) -> None:
        """Leave: what still runs is given up, as if its caller were cancelled."""
        self._over = True
        self._chunks.clear()
        self._make_room()
        self._changed.set()
        self.call.abandon()

    async def __aenter__(self) -> ResponseStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- what the runtime says ---------------------------------------------------------------------------------------

    def respond(self, chunk: bytes) -> asyncio.Future[None] | None:
        """A chunk came; see `ports.Respond`."""
        if not self._over and chunk:
            self._chunks.append(chunk)
            self._held += len(chunk)
            self._changed.set()
        if self._held < MAXIMUM_HELD_BYTES or self._over:
            return None
        if self._room is None:
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def ended(self, outcome: Outcome) -> None:
        """It ended; what was not streamed is its last chunk."""
        self._outcome = outcome = in_bytes(outcome, self._invocation.request_id)
        if isinstance(outcome, Succeeded):
            assert isinstance(outcome.payload, bytes)
            self.respond(outcome.payload)
        self._changed.set()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():  # whoever waited may have been cancelled
            room.set_result(None)
