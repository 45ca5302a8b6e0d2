"""What is configured: functions, queues, streams and mappings, checked against each other and kept as documents.

Decides what fits together (does the function exist, is the queue FIFO, does visibility cover the time limit), what is a
duplicate, and which of two writers wins. What is a valid value on its own is decided in `model.py`; running what is
configured is the supervisor's and the invoker's. Texts of refusals are those that Lambda's API answers (Lambda API
reference: CreateEventSourceMapping, PutFunctionConcurrency, PutFunctionEventInvokeConfig), where it has one.

Configuration declared in code is written at start and wins over what is stored; a mapping's desired state (paused or
not, where to read from) lives in its document and survives a restart, unless the code says `enabled=` itself.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, TypeVar

from lambent.arns import function_arn, queue_arn, stream_arn
from lambent.errors import EngineStopped, InvalidParameterValue, ResourceConflict, ResourceNotFound
from lambent.model import (
    Configuration,
    EventSourceMapping,
    Function,
    Queue,
    QueueMapping,
    Stream,
    StreamMapping,
)
from lambent.ports import Document, Documents
from lambent.semantics.concurrency import check_reservation
from lambent.semantics.filtering import InvalidPattern, compile_filters
from lambent.validation import changed, unknown, validated

C = TypeVar("C", bound=Configuration)
# AWS's words for a mapping's State and its LastProcessingResult (API reference: EventSourceMappingConfiguration)
MappingState = Literal["Creating", "Enabled", "Disabling", "Disabled", "Updating", "Deleting"]
NOTHING_PROCESSED: Final = "No records processed"
PROCESSED: Final = "OK"
PROBLEM: Final = "PROBLEM: Function call failed"

MAXIMUM_FIFO_BATCH: Final = 10  # messages (Lambda guide: «Using Lambda with Amazon SQS»)
MAXIMUM_WRITE_TRIES: Final = 100  # of one read-change-write before it is called a conflict
NOT_STARTED: Final = "The engine is not started: enter `async with engine:` or `await engine.start()` first."
_IDS: Final = uuid.UUID("5f1c2f0e-6c3c-5d1f-9d4e-4f6f6c616d62")  # the namespace of mapping ids


class Seek(NamedTuple):
    """Where a stream mapping starts. A shard whose progress is of a lower generation starts anew from here."""

    generation: int
    starting_position: str
    timestamp: float | None = None  # epoch seconds, with AT_TIMESTAMP


@dataclass(frozen=True, slots=True)
class StoredMapping:
    """A mapping as its document tells it. Equal if what is wanted is equal; `revision` counts writes."""

    id: str
    mapping: QueueMapping | StreamMapping
    seek: Seek
    revision: int = field(default=0, compare=False)

    def body(self) -> str:
        return json.dumps({"mapping": self.mapping.model_dump(mode="json"), "seek": self.seek})


class _Known(NamedTuple):
    """What things are checked against."""

    functions: Mapping[str, Function]
    queues: Mapping[str, Queue]
    streams: Mapping[str, Stream]


def mapping_id(mapping: EventSourceMapping) -> str:
    """The same for the same name, or without one for the same source, function and qualifier: restarted code finds its
    progress."""
    return str(uuid.uuid5(_IDS, mapping.name or f"{mapping.source}\n{mapping.function}\n{mapping.qualifier}"))


def first_seek(mapping: QueueMapping | StreamMapping) -> Seek:
    """Where a mapping that nobody sought starts. A queue has no such place."""
    if isinstance(mapping, StreamMapping):
        return Seek(0, mapping.starting_position, mapping.starting_position_timestamp)
    return Seek(0, "")


def state_of(wanted: StoredMapping | None, running: StoredMapping | None) -> MappingState:
    """AWS's word for the way from what runs to what is wanted (API reference: EventSourceMappingConfiguration)."""
    if wanted is None:
        return "Deleting"
    if not wanted.mapping.enabled:
        return "Disabled" if running is None else "Disabling"
    if running is None:
        return "Creating"
    return "Enabled" if running == wanted else "Updating"


class Control:
    """The configuration of one engine, and its door to what the store knows."""

    def __init__(self, *, account_concurrency: int, region: str, account_id: str) -> None:
        self._account_concurrency = account_concurrency
        self._region = region
        self._account_id = account_id
        self._documents: Documents | None = None
        self._mentioned: set[str] = set()  # queues and streams named without options, as 'queue:NAME'
        self._unpublished: set[tuple[str, str]] = set()  # (kind, name or id) declared since the last publish
        self.functions: dict[str, Function] = {}
        self.queues: dict[str, Queue] = {}
        self.streams: dict[str, Stream] = {}
        self.sources: dict[str, Literal["queue", "stream"]] = {}  # other sources, by URL
        self.mappings: dict[str, QueueMapping | StreamMapping] = {}
        self.on_declared: Callable[[], None] = lambda: None

    # --- declaring: no IO, any time --------------------------------------------------------------------------------

    def declare_function(self, function: Function) -> None:
        if function.name in self.functions:
            raise ResourceConflict(f"Function already exist: {function.name}")
        self._check_function(function, self._here, final=False)
        self.functions[function.name] = function
        self._declared("function", function.name)

    def withdraw_function(self, name: str) -> None:
        """It is no longer a function of this engine."""
        del self.functions[name]
        self._unpublished.discard(("function", name))

    def declare_queue(self, name: str, options: Mapping[str, object], *, fifo: bool = False) -> Queue:
        """A name without options is a lookup, or mentions a queue that may yet be declared with options. A name that
        ends in '.fifo' is a FIFO queue's."""
        implied = {"fifo": True} if fifo or name.endswith(".fifo") else {}
        queue = self._declare(Queue, self.queues, name, options, implied)
        if queue.dead_letter_queue is not None and queue.dead_letter_queue not in self.queues:
            self.declare_queue(queue.dead_letter_queue, {}, fifo=queue.fifo)
        return queue

    def declare_stream(self, name: str, options: Mapping[str, object]) -> Stream:
        return self._declare(Stream, self.streams, name, options)

    def _declare(
        self,
        model: type[C],
        declared: dict[str, C],
        name: str,
        options: Mapping[str, object],
        implied: Mapping[str, object] | None = None,
    ) -> C:
        kind = model.__name__.lower()
        known = declared.get(name)
        if known is not None and not options:
            return known
        resource = validated(model, {**(implied or {}), **options, "name": name}, f"a {kind}")
        if known is not None and known != resource and f"{kind}:{name}" not in self._mentioned:
            differing = ", ".join(
                f"{option} is {getattr(known, option)!r}" for option in model.model_fields
                if getattr(known, option) != getattr(resource, option)
            )  # fmt: skip
            raise InvalidParameterValue(f'{kind} "{name}" is declared already with other options: {differing}')
        if options:
            self._mentioned.discard(f"{kind}:{name}")
        else:
            self._mentioned.add(f"{kind}:{name}")
        declared[name] = resource
        self._declared(kind, name)
        return resource

    def declare_mapping(self, source: str, function: str, options: Mapping[str, object]) -> str:
        """Gives its id. What can't be known before the start (a function declared later) is checked at the start."""
        mapping = self._new_mapping(source, function, options)
        self._check_mapping(mapping, self._here, final=False)
        identity = mapping_id(mapping)
        self._check_duplicate(identity, mapping, self.mappings.items(), same_id=True)
        self.mappings[identity] = mapping
        self._declared("mapping", identity)
        return identity

    def _declared(self, kind: str, name: str) -> None:
        self._unpublished.add((kind, name))
        self.on_declared()

    def source_named(self, name: str) -> str:
        """'queue:NAME' or 'stream:NAME' of what is declared under this name; a URL stays as it is."""
        if "://" in name or name in self.sources:
            return name
        kind, _, rest = name.rpartition(":")
        declared: Mapping[str, Collection[str]] = {"queue": self.queues, "stream": self.streams}
        found = [k for k, names in declared.items() if kind in ("", k) and rest in names]
        if len(found) == 1:
            return f"{found[0]}:{rest}"
        if len(found) == 2:
            raise InvalidParameterValue(f'"{rest}" is a queue and a stream: say "queue:{rest}" or "stream:{rest}"')
        raise InvalidParameterValue(self._no_source(name if kind else f"queue:{rest}"))

    # --- documents -------------------------------------------------------------------------------------------------

    @property
    def has_unpublished(self) -> bool:
        return bool(self._unpublished)

    def connect(self, documents: Documents | None) -> None:
        """From now on these documents count (None: none), and all that is declared is to be published."""
        self._documents = documents
        self._unpublished = {
            *(("function", name) for name in self.functions),
            *(("queue", name) for name in self.queues),
            *(("stream", name) for name in self.streams),
            *(("mapping", identity) for identity in self.mappings),
        }

    async def publish(self) -> None:
        """Check what was declared since the last time against everything that is known, then write it. Nothing is
        written if anything is refused."""
        new = sorted(self._unpublished)
        known = await self._known()
        stored = await self.list_mappings()
        for kind, name in new:
            if kind == "function":
                self._check_function(self.functions[name], known)
            elif kind == "queue":
                _check_redrive(self.queues[name], known.queues)
            elif kind == "mapping":
                self._check_mapping(self.mappings[name], known)
                self._check_duplicate(name, self.mappings[name], ((s.id, s.mapping) for s in stored.values()))
        for kind, name in sorted(new, key=lambda item: item[0] == "mapping"):  # what mappings name comes before them
            if kind == "mapping":
                await self._write_declared(name, self.mappings[name])
            elif kind == "function":
                await self._write_resource(self.functions[name])
            else:
                await self._write_resource(self.queues[name] if kind == "queue" else self.streams[name])
        self._unpublished.difference_update(new)

    async def get_function(self, name: str) -> Function:
        document = await self._opened.get("function", name)
        if document is None:
            raise ResourceNotFound(f"Function not found: {self.function_arn(name)}")
        return Function.model_validate_json(document.body)

    async def list_functions(self) -> dict[str, Function]:
        return await self._list(Function)

    async def update_function(self, name: str, changes: Mapping[str, object]) -> Function:
        """Replace some fields. Engines that host the function follow; what runs already ends as it began."""
        function = changed(await self.get_function(name), changes, "a function")
        self._check_function(function, await self._known())
        if name in self.functions:
            self.functions[name] = function
        await self._write_resource(function)
        return function

    async def delete_function(self, name: str) -> None:
        """Its mappings stay, as on AWS, and wait for a function of that name."""
        if not await self._opened.delete("function", name):
            raise ResourceNotFound(f"Function not found: {self.function_arn(name)}")

    async def create_mapping(self, source: str, function: str, options: Mapping[str, object]) -> StoredMapping:
        mapping = self._new_mapping(source, function, options)
        stored = await self.list_mappings()
        self._check_mapping(mapping, await self._known())
        identity = mapping_id(mapping)
        self._check_duplicate(identity, mapping, ((s.id, s.mapping) for s in stored.values()), same_id=True)
        wanted = StoredMapping(identity, mapping, first_seek(mapping))
        document = await self._opened.put("mapping", identity, wanted.body(), 0)
        if document is None:
            raise ResourceConflict(self._duplicate(identity, mapping))
        return replace(wanted, revision=document.revision)

    async def get_mapping(self, identity: str) -> StoredMapping:
        document = await self._opened.get("mapping", identity)
        if document is None:
            raise ResourceNotFound("The resource you requested does not exist.")
        return _stored(document)

    async def list_mappings(self) -> dict[str, StoredMapping]:
        return {document.name: _stored(document) for document in await self._opened.list("mapping")}

    async def update_mapping(self, identity: str, changes: Mapping[str, object]) -> StoredMapping:
        """Replace some fields (`enabled` pauses and resumes). It applies after the batch that is in flight."""
        for fixed in ("source", "function", "name", "qualifier", "kind"):
            if fixed in changes:
                raise InvalidParameterValue(f"{fixed} of a mapping does not change; create another mapping")
        known = await self._known()

        def change(stored: StoredMapping) -> StoredMapping:
            kind = stored.mapping.kind
            _refuse_other_kind(kind, stored.mapping.source, changes)
            mapping = changed(stored.mapping, changes, f"{kind} mappings")
            self._check_mapping(mapping, known)
            return replace(stored, mapping=mapping)

        return await self._change_mapping(identity, change)

    async def seek_mapping(
        self, identity: str, starting_position: str, timestamp: float | None = None
    ) -> StoredMapping:
        """Read every shard anew from TRIM_HORIZON, LATEST or AT_TIMESTAMP (epoch seconds)."""

        def change(stored: StoredMapping) -> StoredMapping:
            if stored.mapping.kind != "stream":
                raise InvalidParameterValue(f"seek is for stream mappings; {_shown(stored.mapping.source)} is a queue")
            changed(
                stored.mapping,
                {"starting_position": starting_position, "starting_position_timestamp": timestamp},
                "stream mappings",
            )
            return replace(stored, seek=Seek(stored.seek.generation + 1, starting_position, timestamp))

        return await self._change_mapping(identity, change)

    async def delete_mapping(self, identity: str) -> None:
        if not await self._opened.delete("mapping", identity):
            raise ResourceNotFound("The resource you requested does not exist.")
        self.mappings.pop(identity, None)

    async def learn(self, reference: str) -> None:
        """Know the queue or stream of this reference, if another engine of the store declared it."""
        kind, _, name = reference.partition(":")
        if kind == "queue" and name not in self.queues:
            self.queues.update(await self._list(Queue))
        elif kind == "stream" and name not in self.streams:
            self.streams.update(await self._list(Stream))

    # --- names -----------------------------------------------------------------------------------------------------

    def function_arn(self, name: str, qualifier: str | None = None) -> str:
        return function_arn(self._region, self._account_id, name, qualifier)

    def source_arn(self, source: str) -> str:
        if "://" in source:
            return source
        kind, _, name = source.partition(":")
        arn = stream_arn if kind == "stream" else queue_arn
        return arn(self._region, self._account_id, name)

    # --- what fits together ----------------------------------------------------------------------------------------

    def _check_function(
        self,
        function: Function,
        known: _Known,
        *,
        final: bool = True,
    ) -> None:
        if function.reserved_concurrency:
            others = sum(f.reserved_concurrency or 0 for name, f in known.functions.items() if name != function.name)
            check_reservation(function.reserved_concurrency, others, self._account_concurrency)
        for option, target in (
            ("on_success", function.event_invoke.on_success),
            ("on_failure", function.event_invoke.on_failure),
            ("dead_letter_queue", function.dead_letter_queue),
        ):
            if target == f"function:{function.name}":
                raise InvalidParameterValue(
                    f"{option}: You can't specify the function as a destination for itself. ({function.name})"
                )
            _check_destination(option, target, known, final)

    def _check_mapping(
        self,
        mapping: QueueMapping | StreamMapping,
        known: _Known,
        *,
        final: bool = True,
    ) -> None:
        function = known.functions.get(mapping.function)
        if function is None and final:
            raise InvalidParameterValue(f"Function does not exist ({mapping.function})")
        try:
            compile_filters(mapping.filters)
        except InvalidPattern as invalid:
            raise InvalidParameterValue(f"filters: Invalid filter pattern definition. {invalid.reason}") from None
        kind, _, name = mapping.source.partition(":")
        builtin = mapping.source not in self.sources
        if builtin and name not in (known.queues if kind == "queue" else known.streams):
            raise InvalidParameterValue(self._no_source(mapping.source))
        if isinstance(mapping, StreamMapping):
            if mapping.on_failure in (mapping.source, f"function:{mapping.function}"):
                raise InvalidParameterValue(f"on_failure: {mapping.on_failure} is the mapping's own source or function")
            _check_destination("on_failure", mapping.on_failure, known, final)
        elif builtin:
            _check_queue_mapping(mapping, known.queues[name], function)

    def _check_duplicate(
        self,
        identity: str,
        mapping: QueueMapping | StreamMapping,
        others: Iterable[tuple[str, QueueMapping | StreamMapping]],
        *,
        same_id: bool = False,
    ) -> None:
        key = (mapping.source, mapping.function, mapping.qualifier)
        for other_id, other in others:
            if (same_id and other_id == identity) or (
                other_id != identity and (other.source, other.function, other.qualifier) == key
            ):
                raise ResourceConflict(self._duplicate(other_id, mapping))

    def _duplicate(self, identity: str, mapping: QueueMapping | StreamMapping) -> str:
        arn = self.source_arn(mapping.source)
        advice = f"Please update or delete the existing mapping with UUID {identity}"
        if mapping.kind == "queue":
            return (
                f'An event source mapping with SQS arn (" {arn} ") and function (" {mapping.function} ") '
                f"already exists. {advice}"
            )
        return (
            f'The event source arn (" {arn} ") and function (" {mapping.function} ") provided mapping already exists. '
            f"{advice}"
        )

    def _no_source(self, source: str) -> str:
        kind, _, name = source.partition(":")
        if kind == "stream":
            return f"Stream not found: {self.source_arn(source)} (declare it with engine.stream({name!r}))"
        return (
            "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS Error "
            f"Message: The specified queue does not exist. (declare it with engine.queue({name!r}))"
        )

    def _new_mapping(self, source: str, function: str, options: Mapping[str, object]) -> QueueMapping | StreamMapping:
        kind = self.sources.get(source) or source.partition(":")[0]
        _refuse_other_kind(kind, source, options)
        fields = {**options, "source": source, "function": function}
        if kind == "stream":
            return validated(StreamMapping, fields, "stream mappings")
        return validated(QueueMapping, fields, "queue mappings")

    # --- reading and writing documents -----------------------------------------------------------------------------

    @property
    def _opened(self) -> Documents:
        if self._documents is None:
            raise EngineStopped(NOT_STARTED)
        return self._documents

    @property
    def _here(self) -> _Known:
        return _Known(self.functions, self.queues, self.streams)

    async def _known(self) -> _Known:
        return _Known(
            {**await self._list(Function), **self.functions},
            {**await self._list(Queue), **self.queues},
            {**await self._list(Stream), **self.streams},
        )

    async def _list(self, model: type[C]) -> dict[str, C]:
        documents = await self._opened.list(model.__name__.lower())
        return {document.name: model.model_validate_json(document.body) for document in documents}

    async def _write_resource(self, resource: Function | Queue | Stream) -> None:
        body = resource.model_dump_json()
        await self._write(type(resource).__name__.lower(), resource.name, lambda _: body)

    async def _write_declared(self, identity: str, mapping: QueueMapping | StreamMapping) -> None:
        def body(document: Document | None) -> str:
            if document is None:
                return StoredMapping(identity, mapping, first_seek(mapping)).body()
            stored = _stored(document)
            wanted = mapping
            if "enabled" not in mapping.model_fields_set and not stored.mapping.enabled:
                wanted = changed(mapping, {"enabled": False})
            seek = stored.seek if stored.seek.generation else first_seek(mapping)
            return StoredMapping(identity, wanted, seek).body()

        await self._write("mapping", identity, body)

    async def _change_mapping(self, identity: str, change: Callable[[StoredMapping], StoredMapping]) -> StoredMapping:
        def body(document: Document | None) -> str:
            if document is None:
                raise ResourceNotFound("The resource you requested does not exist.")
            return change(_stored(document)).body()

        return _stored(await self._write("mapping", identity, body))

    async def _write(self, kind: str, name: str, body: Callable[[Document | None], str]) -> Document:
        """Read, change, write; once more if another client was faster."""
        for _ in range(MAXIMUM_WRITE_TRIES):
            document = await self._opened.get(kind, name)
            wanted = body(document)
            if document is not None and document.body == wanted:
                return document
            written = await self._opened.put(kind, name, wanted, 0 if document is None else document.revision)
            if written is not None:
                return written
        raise ResourceConflict(f"The {kind} {name} is being changed by others again and again; try later.")


def _check_destination(option: str, target: str | None, known: _Known, final: bool) -> None:
    kind, _, name = (target or "").partition(":")
    if kind == "queue" and name in known.queues and known.queues[name].fifo:
        raise InvalidParameterValue(f'{option}: "{name}" is a FIFO queue, which can\'t be a destination')
    there: Mapping[str, object] | None = {
        "queue": known.queues, "stream": known.streams, "function": known.functions
    }.get(kind)  # fmt: skip
    if final and there is not None and name not in there:
        raise InvalidParameterValue(f'{option}: there is no {kind} "{name}"; declare it with engine.{kind}(…)')


def _check_redrive(queue: Queue, queues: Mapping[str, Queue]) -> None:
    if queue.dead_letter_queue is not None and queues[queue.dead_letter_queue].fifo != queue.fifo:
        raise InvalidParameterValue(
            f'dead_letter_queue "{queue.dead_letter_queue}" of "{queue.name}" must be '
            f"{'a FIFO queue too (fifo=True)' if queue.fifo else 'a standard queue too'}"
        )


def _check_queue_mapping(mapping: QueueMapping, queue: Queue, function: Function | None) -> None:
    if queue.fifo and mapping.batch_size > MAXIMUM_FIFO_BATCH:
        raise InvalidParameterValue(
            f"batch_size: {mapping.batch_size} is not allowed; it must be 1 to {MAXIMUM_FIFO_BATCH} (int) "
            "for a FIFO queue"
        )
    if queue.fifo and mapping.maximum_batching_window_seconds:
        raise InvalidParameterValue(
            f"maximum_batching_window_seconds: {mapping.maximum_batching_window_seconds} is not allowed; "
            "it must be 0 for a FIFO queue"
        )
    said = function is not None and "timeout_seconds" in function.model_fields_set  # a default is not held against it
    if function is not None and said and queue.visibility_timeout_seconds < function.timeout_seconds:
        raise InvalidParameterValue(
            f"Queue visibility timeout: {queue.visibility_timeout_seconds:g} seconds is less than Function timeout: "
            f"{function.timeout_seconds} seconds (visibility_timeout_seconds of {queue.name}, timeout_seconds of "
            f"{function.name})"
        )


def _refuse_other_kind(kind: str, source: str, options: Iterable[str]) -> None:
    mine: type[EventSourceMapping] = StreamMapping if kind == "stream" else QueueMapping
    other: type[EventSourceMapping] = QueueMapping if kind == "stream" else StreamMapping
    hidden = {"kind", "source", "function"}
    for option in options:
        if option not in mine.model_fields and option in other.model_fields:
            theirs = "queue" if kind == "stream" else "stream"
            raise InvalidParameterValue(f"{option} is an option of {theirs} mappings; {_shown(source)} is a {kind}")
        if option in hidden or option not in mine.model_fields:
            raise InvalidParameterValue(unknown(option, mine.model_fields.keys() - hidden, f"{kind} mappings"))


def _shown(source: str) -> str:
    return f'"{source}"' if "://" in source else f'"{source.partition(":")[2]}"'


def _stored(document: Document) -> StoredMapping:
    body = json.loads(document.body)
    model = StreamMapping if body["mapping"].get("kind") == "stream" else QueueMapping
    mapping = model.model_validate_json(json.dumps(body["mapping"]))
    return StoredMapping(document.name, mapping, Seek(*body["seek"]), document.revision)
