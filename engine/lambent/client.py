"""A client of a store: what people and other services do beside its engines, without hosting a function.

Decides what needs a running engine and what does not. To invoke and wait needs one, and goes over its `desk.py`; all
else is read from the store or written to it, by the rules that hold for an engine: what is valid is decided in
`control.py` and `calls.py`, what a value becomes in `resources.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any, cast

from lambent import inspection, saved_events
from lambent.calls import InvokeResponse, check_context, collects_tail, new_event, payload_bytes, value_of_response
from lambent.control import Control
from lambent.dead_letters import DeadLetters
from lambent.declaring import stream_elsewhere
from lambent.desk import LOOK_SECONDS, RelayedStream, Request, Snapshot, ask, ask_for_stream, health, look
from lambent.errors import EngineStopped, InvalidParameterValue, ResourceNotFound
from lambent.model import (
    MAXIMUM_ASYNC_PAYLOAD_BYTES,
    MAXIMUM_SYNC_PAYLOAD_BYTES,
    EventFact,
    Function,
)
from lambent.payload import NO_PAYLOAD
from lambent.ports import BuiltinStream, Clock, Connection, Store, World
from lambent.resources import MappingHandle, QueueHandle, StreamHandle
from lambent.semantics.advising import Advice, Sweep
from lambent.semantics.auditing import Audit
from lambent.semantics.explaining import Explanation
from lambent.semantics.health import Health
from lambent.semantics.routing import known
from lambent.settings import EngineSettings
from lambent.sources import StreamFactory, load_source, load_store
from lambent.standing import MappingStanding, running, standing
from lambent.stored_mappings import MappingState, StoredMapping
from lambent.world import SystemClock, ids_of

NOT_OPEN = "The client is not open: enter `async with Client(…) as client:` first."


class Client:
    """Calls functions, sends, and looks after a store that engines work on, in this process or in others.

    store: the engines' store, as a URL or an object. settings: where they name a region or an account, the same ones.
    clock, random or seed: time and chance; by default the machine's."""

    def __init__(
        self,
        store: str | Store,
        *,
        settings: EngineSettings | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        seed: int | None = None,
    ) -> None:
        if isinstance(store, str) and store == "memory://":
            raise InvalidParameterValue("store: a new store in memory has no engines: give the object that they have")
        self.store = load_store(store)
        self._settings = settings or EngineSettings()
        self._clock = clock or SystemClock()
        self._chance = random or Random(seed)
        self._connection: Connection | None = None
        self._closing = AsyncExitStack()
        self._elsewhere: dict[str, BuiltinStream] = {}

    async def __aenter__(self) -> Client:
        new_id = ids_of(self._chance)
        region, account_id = self._settings.region, self._settings.account_id
        self._world = World(new_id(), self._clock, self._chance.random, new_id, region, account_id)
        self._control = Control(self._settings, self._clock)
        self._connection = await self.store.connect(self._world, client=True)
        self._control.connect(self._connection.documents)
        return self

    async def __aexit__(self, *_: object) -> None:
        connection, self._connection = self._open, None
        self._control.connect(None)
        self._elsewhere = {}
        try:
            await self._closing.aclose()
        finally:
            await connection.close()

    # --- functions -------------------------------------------------------------------------------------------------

    async def invoke(
        self,
        function: str,
        payload: object = NO_PAYLOAD,
        *,
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> Any:
        """Have a running engine call a function, and wait for its value; otherwise as `Engine.invoke`.

        Raises what that raises; EngineStopped also if no engine is running."""
        return value_of_response(
            await self.invoke_response(function, payload, client_context=client_context, qualifier=qualifier)
        )

    async def invoke_response(
        self,
        function: str,
        payload: object = NO_PAYLOAD,
        *,
        log_type: str = "None",
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> InvokeResponse:
        """As `invoke`, but answers as boto3 does; see `Engine.invoke_response`."""
        request = await self._request(function, payload, log_type, client_context, qualifier)
        return await ask(self._open, self._world.new_id(), self._clock, request)

    async def invoke_with_response_stream(
        self,
        function: str,
        payload: object = NO_PAYLOAD,
        *,
        log_type: str = "None",
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> RelayedStream:
        """As `invoke`, but gives the answer while the function still makes it, piece by piece through the store; see
        `Engine.invoke_with_response_stream`. Raises what `invoke` does; what the handler did is raised by the
        iteration, and so is EngineStopped if the engine has gone."""
        request = await self._request(function, payload, log_type, client_context, qualifier)
        return await ask_for_stream(self._open, self._world.new_id(), self._clock, request)

    async def invoke_async(
        self,
        function: str,
        payload: object = NO_PAYLOAD,
        *,
        client_context: Mapping[str, object] | None = None,
        qualifier: str | None = None,
    ) -> str:
        """Store an event for a function, durably; gives its request id. As `Engine.invoke_async`; needs no engine."""
        called = await self._function(function, qualifier)
        body = payload_bytes(payload, MAXIMUM_ASYNC_PAYLOAD_BYTES)
        event = new_event(self._world.new_id(), called.name, body, self._clock.now(), qualifier, client_context)
        await self._open.events.put_many([event])
        return event.request_id

    async def event(self, request_id: str) -> EventFact:
        """Where an asynchronous event is, or what became of it. Raises ResourceNotFound."""
        return await inspection.event(self._open, request_id)

    async def why(self, id: str) -> Sequence[Explanation]:
        """Where an item is, and because of what: an asynchronous event by its request id, a message by its id, a record
        by its sequence number (or `shardId:sequenceNumber`). One explanation for each mapping that reads it."""
        return await inspection.why(self._opened, self._open, id, self._clock.now())

    async def audit(self, mapping: str) -> Audit:
        """The books of a stream mapping, by its id: what came, and what became of it. Raises ResourceNotFound,
        InvalidParameterValue for the mapping of a queue."""
        return await inspection.audit(self._opened, self._open, mapping)

    async def advise(self) -> tuple[list[Advice], list[Sweep]]:
        """Settings that lose time or events, as far as the traffic that was observed shows, and what that rests on."""
        return await inspection.advise(self._opened, self._open)

    async def pending(self) -> Mapping[str, int]:
        """How many events each function has, waiting or running."""
        return await self._open.events.pending()

    async def list_functions(self) -> Mapping[str, Function]:
        """All functions of the store, by name."""
        return await self._opened.list_functions()

    async def delete_function(self, name: str) -> None:
        """Forget a function in all engines, as `Engine.delete_function`. Raises ResourceNotFound."""
        await self._opened.delete_function(name)

    # --- queues and streams ----------------------------------------------------------------------------------------

    async def queue(self, name: str) -> QueueHandle:
        """A queue that an engine declared. Raises ResourceNotFound."""
        configuration = await self._opened.get_queue(_name("queue", name))
        opened = self._open.queue(configuration)
        return QueueHandle(name, lambda: configuration, lambda: opened, self._clock.now)

    async def stream(self, name: str) -> StreamHandle:
        """As `queue`; with a URL, one elsewhere, as `Engine.stream` has it."""
        if "://" in name:
            return stream_elsewhere(name, lambda: self._stream_elsewhere(name))
        configuration = await self._opened.get_stream(_name("stream", name))
        opened = self._open.stream(configuration)
        return StreamHandle(name, lambda: configuration, lambda: opened)

    def _stream_elsewhere(self, url: str) -> BuiltinStream:
        _ = self._open
        if url not in self._elsewhere:
            source = cast(StreamFactory, load_source(url))(url, self._world)
            self._elsewhere[url] = cast(BuiltinStream, source)
            if (close := getattr(source, "close", None)) is not None:
                self._closing.push_async_callback(close)
        return self._elsewhere[url]

    async def send(self, queue: str, body: object, **options: Any) -> str:
        """Send one message, as `QueueHandle.send`; gives its id."""
        return await (await self.queue(queue)).send(body, **options)

    async def put(self, stream: str, data: object, *, key: str) -> str:
        """Put one record, as `StreamHandle.put`; gives its sequence number."""
        return await (await self.stream(stream)).put(data, key=key)

    @property
    def dead_letters(self) -> DeadLetters:
        """What failed for good, to be looked at and brought back."""
        return DeadLetters(self._opened, self._open, self._world, self._stream_elsewhere)

    # --- test events -----------------------------------------------------------------------------------------------

    async def test_events(self, function: str) -> Mapping[str, str]:
        """The events that are saved with a function, as JSON by their names. Raises ResourceNotFound."""
        return await saved_events.saved(self._opened, _name("function", function))

    async def test_event(self, function: str, name: str) -> bytes:
        """One of them. Raises ResourceNotFound."""
        return await saved_events.get(self._opened, _name("function", function), name)

    async def put_test_event(self, function: str, name: str, event: object, *, force: bool = False) -> None:
        """Save one, JSON bytes or a value; `force`: in the place of another of this name. It goes with its function.

        Raises ResourceConflict, ResourceNotFound, InvalidParameterValue, InvalidRequestContent."""
        content = payload_bytes(event, MAXIMUM_SYNC_PAYLOAD_BYTES)
        await saved_events.put(self._opened, _name("function", function), name, content, force=force)

    async def delete_test_event(self, function: str, name: str) -> None:
        """Raises ResourceNotFound."""
        await saved_events.delete(self._opened, _name("function", function), name)

    # --- mappings --------------------------------------------------------------------------------------------------

    async def list_mappings(self) -> Mapping[str, StoredMapping]:
        """All mappings of the store, by id."""
        return await self._opened.list_mappings()

    async def mapping(self, identity: str) -> MappingHandle:
        """The handle of a mapping, to pause, resume, seek or change it. Raises ResourceNotFound."""
        stored = (await self._opened.get_mapping(identity)).mapping
        return MappingHandle(identity, stored.source, stored.function, self)

    async def update_mapping(self, identity: str, **changes: object) -> StoredMapping:
        """As `MappingHandle.update`. Raises InvalidParameterValue, ResourceNotFound, ResourceConflict."""
        return await self._opened.update_mapping(identity, changes)

    async def seek_mapping(
        self, identity: str, starting_position: str, timestamp: float | None = None
    ) -> StoredMapping:
        """As `MappingHandle.seek`; `timestamp` (epoch seconds) goes with AT_TIMESTAMP."""
        return await self._opened.seek_mapping(identity, starting_position, timestamp)

    async def delete_mapping(self, identity: str) -> None:
        """As `MappingHandle.delete`. Raises ResourceNotFound."""
        await self._opened.delete_mapping(identity)

    async def mapping_state(self, identity: str) -> MappingState:
        """In which state a mapping is in the engines that run; Disabled if they have its function and do not declare
        it; without any, in which it is wanted."""
        stored = await self._opened.get_mapping(identity)
        declared, state = running(stored, await self.snapshots())
        return state or ("Enabled" if stored.mapping.enabled and declared is not False else "Disabled")

    async def mapping_reaches(self, identity: str, state: MappingState) -> None:
        """Wait until a mapping is in this state."""
        while await self.mapping_state(identity) != state:  # noqa: ASYNC110  nobody tells a client
            await asyncio.sleep(LOOK_SECONDS)

    async def mapping_details(self, identity: str) -> dict[str, object]:
        """What its loops show, by engine."""
        shown = await self.snapshots()
        return {each.engine: each.mappings[identity] for each in shown if identity in each.mappings}

    async def standings(self, snapshots: Sequence[Snapshot] = ()) -> list[MappingStanding]:
        """How all mappings stand, by source and function; what runs is told by `snapshots`."""
        known, stored = await self._opened.known(), await self._opened.list_mappings()
        now = self._clock.now()
        ordered = sorted(stored.values(), key=lambda each: (each.mapping.source, each.mapping.function))
        return [await standing(each, self._open, known.queues, known.streams, snapshots, now) for each in ordered]

    # --- engines ---------------------------------------------------------------------------------------------------

    async def engines(self) -> int:
        """How many engines run on this store."""
        return await self._open.engines()

    async def snapshots(self) -> Sequence[Snapshot]:
        """What each running engine shows of itself, not older than some seconds; none if none is running."""
        return await look(self._open)

    async def health(self) -> Health:
        """How the engines are: red if what waits does not get done, or if one does not tell."""
        return await health(self._open)

    def now(self) -> float:
        """The client's time, in epoch seconds."""
        return self._clock.now()

    # --- inside ----------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise EngineStopped(NOT_OPEN)
        return self._connection

    @property
    def _opened(self) -> Control:
        assert self._open is not None
        return self._control

    async def _request(
        self,
        function: str,
        payload: object,
        log_type: str,
        client_context: Mapping[str, object] | None,
        qualifier: str | None,
    ) -> Request:
        tail = collects_tail(log_type)
        called = await self._function(function, qualifier)
        if client_context is not None:
            check_context(client_context)
        return Request.of(called, payload, tail=tail, client_context=client_context, qualifier=qualifier)

    async def _function(self, name: str, qualifier: str | None) -> Function:
        found = await self._opened.get_function(_name("function", name))
        if not known(found, qualifier):
            raise ResourceNotFound(f"Function not found: {self._opened.function_arn(name, qualifier)}")
        return found


def _name(kind: str, name: object) -> str:
    if not isinstance(name, str) or not name.isascii():
        raise InvalidParameterValue(f"{kind}: {name!r} is not allowed; it must be a {kind}'s name")
    return name
