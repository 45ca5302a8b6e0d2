"""What a user holds in his hands: queues, streams and mappings of an engine, and a collection of functions without one.

Decides how a Python value becomes a message or a record, and how a chain of calls is counted through them. Everything
else is passed on: to the store's queue or stream, to `control.py`. Handles exist before the engine starts; what they do
needs it started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from lambent.context import current_invocation
from lambent.errors import InvalidParameterValue, RequestTooLarge
from lambent.model import (
    MAXIMUM_RECORD_BYTES,
    Delete,
    Message,
    MessageAttribute,
    Put,
    Queue,
    Release,
    Send,
    Shard,
    Stream,
)
from lambent.options import FunctionFromOptions, FunctionOptions, MapOptions, OnOptions
from lambent.payload import encode_payload
from lambent.ports import BuiltinQueue, BuiltinStream
from lambent.semantics.builtin import MAXIMUM_VISIBILITY_SECONDS
from lambent.stored_mappings import MappingState, StoredMapping

F = TypeVar("F", bound=Callable[..., object])
MAXIMUM_WAIT_SECONDS = 20  # SQS API: ReceiveMessage, WaitTimeSeconds


class QueueHandle:
    """A built-in queue. As an option (`on_failure=queue`) it is a destination."""

    def __init__(
        self,
        name: str,
        declared: Callable[[], Queue],
        opened: Callable[[], BuiltinQueue],
        now: Callable[[], float],
    ) -> None:
        self.name = name
        self._declared = declared
        self._opened = opened
        self._now = now

    @property
    def destination(self) -> str:
        return f"queue:{self.name}"

    @property
    def configuration(self) -> Queue:
        return self._declared()

    async def send(
        self,
        body: object,
        *,
        delay_seconds: float | None = None,
        group: str | None = None,
        deduplication_id: str | None = None,
        attributes: Mapping[str, str | MessageAttribute] | None = None,
    ) -> str:
        """Store one message durably; gives its id. A text is sent as it is, anything else as JSON.

        `group` and `deduplication_id` are for FIFO queues (SQS API: SendMessage). Raises EngineStopped, RequestTooLarge
        above 1 MB, InvalidRequestContent if there is no JSON for it, StoreUnavailable."""
        typed = {
            name: value if isinstance(value, MessageAttribute) else MessageAttribute(value)
            for name, value in _attributes(attributes)
        }
        send = Send(_text(body), delay_seconds, group, deduplication_id, typed, _hops())
        return (await self._opened().send_many([send]))[0]

    async def send_many(self, bodies: Iterable[object]) -> Sequence[str]:
        """Store many messages, all or none; gives their ids. An item may be a `Send` with options of its own."""
        hops = _hops()
        sends = [body if isinstance(body, Send) else Send(_text(body), hops=hops) for body in bodies]
        return await self._opened().send_many(sends)

    async def receive(self, limit: int = 10, wait_seconds: float = 0) -> Sequence[Message]:
        """Up to `limit` messages, invisible to others for the visibility time-out; for queues that no mapping serves,
        as dead-letter queues. `wait_seconds`: how long to wait for the first, at most 20 as in SQS's long polling."""
        if type(limit) is not int or limit < 1:
            raise InvalidParameterValue(f"limit: {limit!r} is not allowed; it must be at least 1 (int)")
        if type(wait_seconds) not in (int, float) or not 0 <= wait_seconds <= MAXIMUM_WAIT_SECONDS:
            raise InvalidParameterValue(
                f"wait_seconds: {wait_seconds!r} is not allowed; it must be 0 to {MAXIMUM_WAIT_SECONDS} (float)"
            )
        return await self._opened().receive(limit, wait_seconds)

    async def delete(self, messages: Iterable[Message]) -> None:
        """Remove messages that were received; one that has been received again since stays."""
        await self._opened().settle_many([Delete(message.receipt) for message in messages])

    async def change_visibility(self, receipts: Iterable[str], seconds: float) -> None:
        """Show messages that were received to others so many seconds from now, 0 to 43,200 (SQS API:
        ChangeMessageVisibility). A handler that reports `batchItemFailures` chooses so when they are tried again: a
        record's receipt is its `receiptHandle`. One that has been received again since stays as it is."""
        if type(seconds) not in (int, float) or not 0 <= seconds <= MAXIMUM_VISIBILITY_SECONDS:
            raise InvalidParameterValue(
                f"seconds: {seconds!r} is not allowed; it must be 0 to {MAXIMUM_VISIBILITY_SECONDS} (float)"
            )
        if isinstance(receipts, str):
            raise InvalidParameterValue(f"receipts: {receipts!r} is one receipt; give a list of them")
        at = self._now() + seconds
        await self._opened().settle_many([Release(receipt, at) for receipt in receipts])

    def __repr__(self) -> str:
        return f"<queue {self.name}>"


class StreamHandle:
    """A built-in stream, or one elsewhere that a URL names. As an option (`on_failure=stream`) it is a destination."""

    def __init__(self, name: str, declared: Callable[[], Stream], opened: Callable[[], BuiltinStream]) -> None:
        self.name = name
        self._declared = declared
        self._opened = opened

    @property
    def destination(self) -> str:
        return self.name if "://" in self.name else f"stream:{self.name}"

    @property
    def configuration(self) -> Stream:
        return self._declared()

    async def put(self, data: object, *, key: str) -> str:
        """Store one record durably; gives its sequence number. Records of one `key` (1 to 256 characters) keep their
        order. Bytes and texts are put as they are, anything else as JSON. Raises as `QueueHandle.send` does,
        and LimitExceeded when the stream would hold more than its `maximum_bytes`."""
        return (await self.put_many([(data, key)]))[0]

    async def put_many(self, records: Iterable[tuple[object, str]]) -> Sequence[str]:
        """Store many records `(data, key)`, all or none, in this order; gives their sequence numbers. Raises as `put`
        does."""
        hops = _hops()
        return await self._opened().put_many([Put(_bytes(data), key, hops) for data, key in map(_pair, records)])

    async def shards(self) -> Sequence[Shard]:
        """All shards, parents before their children."""
        return await self._opened().shards()

    async def split(self, shard: str) -> Sequence[Shard]:
        """Close a shard, and open two children, each with half of its keys. A mapping reads a child after its parent is
        finished. Raises InvalidParameterValue, ResourceNotFound."""
        return await self._ours("split").split(shard)

    async def merge(self, one: str, other: str) -> Shard:
        """Close two neighbouring shards, and open one child for their keys. Raises as `split` does."""
        return await self._ours("merged").merge(one, other)

    def _ours(self, done: str) -> BuiltinStream:
        if "://" in self.name:
            raise InvalidParameterValue(f'"{self.name}" is not kept here: its shards are {done} where it is')
        return self._opened()

    def __repr__(self) -> str:
        return f"<stream {self.name}>"


class Mappings(Protocol):
    """What a mapping's handle asks of its engine."""

    async def update_mapping(self, identity: str, **changes: object) -> StoredMapping: ...

    async def seek_mapping(
        self, identity: str, starting_position: str, timestamp: float | None = None
    ) -> StoredMapping: ...

    async def delete_mapping(self, identity: str) -> None: ...

    async def mapping_state(self, identity: str) -> MappingState: ...

    async def mapping_reaches(self, identity: str, state: MappingState) -> None: ...

    async def mapping_details(self, identity: str) -> dict[str, object]: ...


@dataclass(frozen=True)
class MappingHandle:
    """A mapping: its desired state is written here and holds for all engines of the store; it applies after the batch
    that is in flight. Every method raises EngineStopped before the start and ResourceNotFound once it is deleted."""

    id: str
    source: str
    function: str
    _engine: Mappings

    async def pause(self) -> None:
        """Deliver nothing more until `resume`. Give `wait_until("Disabled")` to know when the last batch has ended."""
        await self._engine.update_mapping(self.id, enabled=False)

    async def resume(self) -> None:
        """Go on where it was paused."""
        await self._engine.update_mapping(self.id, enabled=True)

    async def update(self, **changes: object) -> None:
        """Replace options; each is checked as when it was declared."""
        await self._engine.update_mapping(self.id, **changes)

    async def seek(self, to: Literal["TRIM_HORIZON", "LATEST"] | datetime | float) -> None:
        """Read every shard anew: from its oldest record, only what comes from now on, or from a time (a datetime with a
        zone, or epoch seconds). For stream mappings."""
        if isinstance(to, str):
            await self._engine.seek_mapping(self.id, to)
            return
        if isinstance(to, datetime) and to.tzinfo is None:
            raise InvalidParameterValue("seek: a datetime needs a time zone, as in datetime.now(UTC)")
        timestamp = to.timestamp() if isinstance(to, datetime) else to
        await self._engine.seek_mapping(self.id, "AT_TIMESTAMP", timestamp)

    async def delete(self) -> None:
        """Forget the mapping. Its progress stays with the store, and is found again by a mapping of the same id."""
        await self._engine.delete_mapping(self.id)

    async def state(self) -> MappingState:
        """Creating, Enabled, Disabling, Disabled, Updating or Deleting, as this engine sees it."""
        return await self._engine.mapping_state(self.id)

    async def wait_until(self, state: MappingState) -> None:
        """Wait until it is in this state. Not from its own function: its last batch would wait for itself."""
        await self._engine.mapping_reaches(self.id, state)

    async def details(self) -> dict[str, object]:
        """What its loop shows in this engine: shards with positions, last result."""
        return await self._engine.mapping_details(self.id)


class Functions:
    """Functions and mappings of a module that cannot import the engine; `engine.include(functions)` takes them over.

    Options are those of the engine's methods of the same name; sources and destinations are named by texts, as
    'queue:orders'. They are checked when they are included."""

    def __init__(self) -> None:
        self._declarations: list[Callable[[Any], object]] = []

    @overload
    def function(self, handler: F, /) -> F: ...

    @overload
    def function(self, handler: None = None, /, **options: Unpack[FunctionOptions]) -> Callable[[F], F]: ...

    def function(self, handler: F | None = None, /, **options: Unpack[FunctionOptions]) -> F | Callable[[F], F]:
        """As `engine.function`, bare or with options."""

        def register(function: F) -> F:
            self._declarations.append(lambda engine: engine.function(**options)(function))
            return function

        return register if handler is None else register(handler)

    def function_from(self, code: str | PathLike[str], /, **options: Unpack[FunctionFromOptions]) -> None:
        """As `engine.function_from`."""
        self._declarations.append(lambda engine: engine.function_from(code, **options))

    def on(self, source: str, **options: Unpack[OnOptions]) -> Callable[[F], F]:
        """As `engine.on`."""

        def register(function: F) -> F:
            self._declarations.append(lambda engine: engine.on(source, **options)(function))
            return function

        return register

    def map(self, source: str, function: Callable[..., object] | str, **options: Unpack[MapOptions]) -> None:
        """As `engine.map`."""
        self._declarations.append(lambda engine: engine.map(source, function, **options))

    def declare_in(self, engine: object) -> None:
        for declare in self._declarations:
            declare(engine)


def _hops() -> int:
    invocation = current_invocation()
    return 0 if invocation is None else invocation.hops


def _text(body: object) -> str:
    if not isinstance(body, str):
        return encode_payload(body, MAXIMUM_RECORD_BYTES).decode()
    _check_size(len(body.encode("utf-8", "replace")))
    return body


def _bytes(data: object) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        encoded = bytes(data)
    elif isinstance(data, str):
        try:
            encoded = data.encode()
        except UnicodeEncodeError as error:
            raise InvalidParameterValue(f"data must be Unicode text: {error.reason}; put bytes instead") from None
    else:
        return encode_payload(data, MAXIMUM_RECORD_BYTES)
    _check_size(len(encoded))
    return encoded


def _check_size(size: int) -> None:
    if size > MAXIMUM_RECORD_BYTES:
        raise RequestTooLarge(f"One item may have {MAXIMUM_RECORD_BYTES} bytes; this one has {size}.")


def _attributes(attributes: object) -> Iterable[tuple[str, str | MessageAttribute]]:
    if attributes is None:
        return ()
    if not isinstance(attributes, Mapping):
        raise InvalidParameterValue(f"attributes: {repr(attributes)[:100]} is not allowed; it must be a dict or None")
    return attributes.items()


def _pair(record: object) -> tuple[object, str]:
    if not isinstance(record, tuple | list) or len(record) != 2:
        raise InvalidParameterValue(f"records: {repr(record)[:100]} is not allowed; each must be a tuple (data, key)")
    return record[0], record[1]
