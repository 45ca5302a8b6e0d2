"""What is configured: functions, queues, streams and mappings, declared here and kept as documents of the store.

Decides what is known and when it is checked, which of two writers wins, and in which state a mapping is. What is a
valid value on its own is decided in `model.py`, what fits together in `consistency.py`, how functions lie in the store
in `stored_functions.py`; running what is configured is the supervisor's and the invoker's.

Code declares, the store remembers. What is declared replaces what is stored, once a life, and the difference is logged;
what others change after that stays. A mapping's desired state (paused or not, where to read from) lives in its document
and survives a restart, unless the code says `enabled=` itself. A mapping that the code no longer declares is stopped,
and a function that it no longer declares is not called; both keep their progress, their waiting events and their
documents until they are deleted. So with mixed versions an engine runs what it declares, and what was made by a call
(`create_mapping`), which runs wherever its function is. Whatever a higher `release` declared is not replaced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from lambent.arns import function_arn, without_password
from lambent.configuration import Configuration
from lambent.consistency import AnyMapping, Kind, Known, check_options, new_mapping, shown
from lambent.errors import EngineStopped, InvalidParameterValue, ResourceConflict, ResourceNotFound
from lambent.model import (
    Function,
    Queue,
    QueueMapping,
    Stream,
    StreamMapping,
)
from lambent.ports import Clock, Document, Documents
from lambent.semantics.routing import destinations
from lambent.settings import EngineSettings
from lambent.stored import Stored, content, difference
from lambent.stored_functions import MAXIMUM_WRITE_TRIES, NOT_STARTED, StoredFunction, StoredFunctions
from lambent.stored_mappings import RETIRED, Seek, StoredMapping, first_seek, is_same, mapping_id, next_id
from lambent.validation import changed, validated

C = TypeVar("C", bound=Configuration)

_NOT_DECLARED: Final = ("aliases", "event_invoke_of", "provisioned_of")  # of a function: what code cannot say
_NO_MAPPING: Final = "The resource you requested does not exist."  # AWS's words


class Control:
    """The configuration of one engine, and its door to what the store knows."""

    def __init__(self, settings: EngineSettings, clock: Clock) -> None:
        self._settings = settings
        self._documents: Documents | None = None
        self._mentioned: set[str] = set()  # queues and streams named without options, as 'queue:NAME'
        self._unpublished: set[tuple[str, str]] = set()  # (kind, name or id) declared since the last publish
        self.functions: dict[str, Function] = {}
        self.queues: dict[str, Queue] = {}
        self.streams: dict[str, Stream] = {}
        self.sources: dict[str, Kind] = {}  # other sources, by URL
        self.mappings: dict[str, AnyMapping] = {}
        self.stored = StoredFunctions(clock.monotonic)
        self.on_declared: Callable[[], None] = lambda: None
        self.log: Callable[..., None] = lambda level, event, **fields: None
        self._told: set[str] = set()  # mappings that were said not to be declared

    # --- declaring: no IO, any time --------------------------------------------------------------------------------

    def declare_function(self, function: Function) -> None:
        """Raises ResourceConflict if the name is taken."""
        if function.name in self.functions:
            raise ResourceConflict(f"Function already exist: {function.name}")
        self._here.check_function(function)
        self.functions[function.name] = function
        self._declared("function", function.name)

    def withdraw_function(self, name: str) -> None:
        """It is no longer a function of this engine."""
        del self.functions[name]
        self._unpublished.discard(("function", name))

    def declare_queue(self, name: str, options: Mapping[str, object], *, fifo: bool = False) -> Queue:
        """A name without options is a lookup, or mentions a queue that may yet be declared with options, here or in
        another engine: a mention never replaces what is stored (to go back to defaults, say one of them). A name that
        ends in '.fifo' is a FIFO queue's."""
        implied = {"fifo": True} if fifo or str(name).endswith(".fifo") else {}
        queue = self._declare(Queue, self.queues, name, options, implied)
        if queue.dead_letter_queue is not None and queue.dead_letter_queue not in self.queues:
            self.declare_queue(queue.dead_letter_queue, {}, fifo=queue.fifo)
        return queue

    def declare_stream(self, name: str, options: Mapping[str, object]) -> Stream:
        """As `declare_queue`."""
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
        self._here.check_mapping(mapping)
        identity = mapping_id(mapping)
        self._here.check_duplicate(identity, mapping, self.mappings.items(), same_id=True)
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
        raise self._here.no_source(name if kind else f"queue:{rest}")

    # --- documents -------------------------------------------------------------------------------------------------

    def connect(self, documents: Documents | None) -> None:
        """From now on these documents count (None: none), and all that is declared is to be published."""
        self._documents = documents
        self.stored.connect(documents)
        self._unpublished = {
            *(("function", name) for name in self.functions),
            *(("queue", name) for name in self.queues),
            *(("stream", name) for name in self.streams),
            *(("mapping", identity) for identity in self.mappings),
        }

    async def publish(self) -> None:
        """Check what was declared since the last time against everything that is known, then write it. Nothing is
        written if anything is refused. Where what is stored holds, it holds for this engine's queues and streams at
        once; functions follow by `list_functions`."""
        new = sorted(self._unpublished)
        kinds = sorted({kind for kind, _ in new})
        documents = {(kind, each.name): each for kind in kinds for each in await self._opened.list(kind)}
        stored = await self.list_mappings()
        holding = {key: found for key in new if (found := content(documents.get(key))) and self._holds(*key, found)}
        for (kind, name), found in holding.items():
            if found.release > self._settings.release:
                self._tell_held(kind, name, found)
            if kind == "queue":
                self.queues[name] = _read(Queue, found)
            elif kind == "stream":
                self.streams[name] = _read(Stream, found)
        known, seen = await self.known(), await self.stored.look()
        functions = {name: seen[name].function for kind, name in holding if kind == "function" and name in seen}
        known = known._replace(functions={**known.functions, **functions})
        for kind, name in (key for key in new if key not in holding):
            if kind == "function":
                known.check_function(self.functions[name])
            elif kind == "queue":
                known.check_queue(self.queues[name])
            elif kind == "mapping":
                known.check_mapping(self.mappings[name])
                known.check_duplicate(name, self.mappings[name], ((s.id, s.mapping) for s in stored.values()))
        for kind, name in sorted(new, key=lambda item: item[0] == "mapping"):  # what mappings name comes before them
            await self._write_declared(kind, name)
            self._unpublished.discard((kind, name))
        for left in stored.values():
            if left.mapping.function in self.functions and not self.serves(left) and left.id not in self._told:
                self._told.add(left.id)
                self.log(
                    "info",
                    "a stored mapping is not declared by this code: it is stopped, and stays until it is deleted",
                    mapping=left.id,
                    source=without_password(left.mapping.source),
                    function=left.mapping.function,
                )

    def _tell_held(self, kind: str, name: str, stored: Stored) -> None:
        ours = self._content(kind, name, stored)
        if changes := difference(ours.configuration, stored.configuration):
            self.log(
                "warning",
                "a higher release declared it otherwise, which holds",
                kind=kind,
                name=name,
                release=stored.release,
                changes=changes,
            )

    def serves(self, stored: StoredMapping) -> bool:
        """Is it this engine's to run: is its function here, and was the mapping declared here or made by a call?"""
        declared = stored.id in self.mappings or stored.origin == "api"
        return declared and stored.mapping.function in self.functions

    async def get_function(self, name: str) -> Function:
        """As it is stored. Raises ResourceNotFound."""
        found = await self.stored.get(name)
        if found is None:
            raise self._no_function(name)
        return found.function

    async def get_queue(self, name: str) -> Queue:
        """As it is stored. Raises ResourceNotFound."""
        return await self._get(Queue, name)

    async def get_stream(self, name: str) -> Stream:
        """As `get_queue`."""
        return await self._get(Stream, name)

    async def list_functions(self) -> dict[str, Function]:
        """All that are stored, by name in its order."""
        seen = await self.stored.look()
        return {name: seen[name].function for name in sorted(seen)}

    async def update_function(self, name: str, changes: Mapping[str, object]) -> Function:
        """Replace some fields. Engines that host the function follow; what runs already ends as it began. That holds
        until code that declares the function starts again."""
        function = changed(await self.get_function(name), changes, "a function")
        (await self.known()).check_function(function)
        if name in self.functions:
            self.functions[name] = function
        await self.stored.change(name, lambda found: (found or StoredFunction(Stored({}))).configured(function))
        return function

    async def change_test_events(self, name: str, change: Callable[[Mapping[str, str]], Mapping[str, str]]) -> None:
        """Change the events that are saved with a function. Raises ResourceNotFound, and what `change` does."""

        def changed_events(found: StoredFunction | None) -> StoredFunction:
            if found is None:
                raise self._no_function(name)
            return replace(found, stored=replace(found.stored, test_events=change(found.stored.test_events)))

        await self.stored.change(name, changed_events)

    async def delete_function(self, name: str) -> None:
        """Raises ResourceNotFound. It is called no more; what runs ends as it began. Its events that wait end as
        dropped, each when it falls due, by any engine that runs then, and without a report: where that would go was
        deleted too. Its mappings stay, as on AWS, and wait for a function of that name, as do events that are left when
        one is declared."""
        if not await self.stored.delete(name):
            raise self._no_function(name)

    async def changed_functions(self) -> dict[str, Function | None]:
        """The functions that were written since this was asked last; None stands for one that is not, or no longer.
        Nothing is told before all that is declared is stored: what is not yet there was not removed."""
        await self.stored.look()
        return {} if self._unpublished else self.stored.changes(self.functions)

    async def create_mapping(
        self,
        source: str,
        function: str,
        options: Mapping[str, object],
        api: Mapping[str, Any] | None = None,
        anew: bool = False,
    ) -> StoredMapping:
        """Raises InvalidParameterValue, ResourceConflict if there is such a mapping. It runs wherever its function is,
        until it is deleted; or declared in code, which makes it the code's. `anew`: its id was no other's."""
        mapping = self._new_mapping(source, function, options)
        stored = await self.list_mappings()
        known = await self.known()
        known.check_mapping(mapping)
        identity = mapping_id(mapping)
        while (identity in stored and not is_same(stored[identity].mapping, mapping)) or (
            anew and await self._opened.get(RETIRED, identity)
        ):
            identity = next_id(identity)
        known.check_duplicate(identity, mapping, ((s.id, s.mapping) for s in stored.values()), same_id=True)
        wanted = StoredMapping(identity, mapping, first_seek(mapping), origin="api", api=api or {})
        if not (document := await self._opened.put("mapping", identity, wanted.body(), 0)):
            raise known.duplicate(identity, mapping)
        return replace(wanted, revision=document.revision)

    async def get_mapping(self, identity: str) -> StoredMapping:
        """Raises ResourceNotFound."""
        document = await self._opened.get("mapping", identity)
        if document is None:
            raise ResourceNotFound(_NO_MAPPING)
        return _stored(document)

    async def list_mappings(self) -> dict[str, StoredMapping]:
        return {document.name: _stored(document) for document in await self._opened.list("mapping")}

    async def update_mapping(
        self, identity: str, changes: Mapping[str, object], api: Mapping[str, Any] | None = None
    ) -> StoredMapping:
        """Replace some fields (`enabled` pauses and resumes; another `function` goes on where this one is). It applies
        after the batch that is in flight."""
        for fixed in ("source", "name", "kind"):
            if fixed in changes:
                raise InvalidParameterValue(f"{fixed} of a mapping does not change; create another mapping")
        known, others = await self.known(), await self.list_mappings()

        def change(stored: StoredMapping) -> StoredMapping:
            kind = stored.mapping.kind
            check_options(kind, stored.mapping.source, changes.keys() - {"function"})
            mapping = changed(stored.mapping, changes, f"{kind} mappings")
            # One whose function was deleted waits for another of that name, and may be paused meanwhile.
            waits = mapping.function not in known.functions and "function" not in changes
            (known._replace(final=False) if waits else known).check_mapping(mapping)
            known.check_duplicate(identity, mapping, ((s.id, s.mapping) for s in others.values()))
            return replace(stored, mapping=mapping, api={**stored.api, **(api or {})})

        return await self._change_mapping(identity, change)

    async def change_mapping_api(
        self, identity: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> StoredMapping:
        """Change what Lambda's API keeps of a mapping; what runs goes on. Raises ResourceNotFound."""
        return await self._change_mapping(identity, lambda stored: replace(stored, api=change(stored.api)))

    async def seek_mapping(
        self, identity: str, starting_position: str, timestamp: float | None = None
    ) -> StoredMapping:
        """Read every shard anew from TRIM_HORIZON, LATEST or AT_TIMESTAMP (epoch seconds)."""

        def change(stored: StoredMapping) -> StoredMapping:
            if stored.mapping.kind != "stream":
                raise InvalidParameterValue(f"seek is for stream mappings; {shown(stored.mapping.source)} is a queue")
            changed(
                stored.mapping,
                {"starting_position": starting_position, "starting_position_timestamp": timestamp},
                "stream mappings",
            )
            return replace(stored, seek=Seek(stored.seek.generation + 1, starting_position, timestamp))

        return await self._change_mapping(identity, change)

    async def delete_mapping(self, identity: str) -> None:
        """Raises ResourceNotFound. Its progress stays with the leases, for a mapping of the same id. One that code
        declares is there again when that code starts again."""
        if await self._opened.get("mapping", identity):
            await self._opened.put(RETIRED, identity, "")  # first: one that is made like it never gets its id
        if not await self._opened.delete("mapping", identity):
            raise ResourceNotFound(_NO_MAPPING)
        self.mappings.pop(identity, None)

    async def learn(self, reference: str) -> None:
        """Know the queue or stream of this reference, if another engine of the store declared it."""
        kind, _, name = reference.partition(":")
        if kind == "queue" and name not in self.queues:
            self._learned(kind, self.queues, await self._list(Queue))
        elif kind == "stream" and name not in self.streams:
            self._learned(kind, self.streams, await self._list(Stream))

    def _learned(self, kind: str, known: dict[str, C], stored: Mapping[str, C]) -> None:
        for name in [name for name in stored if name not in known]:
            known[name] = stored[name]
            self._mentioned.add(f"{kind}:{name}")  # another engine's, which this one never writes

    async def follow_queues(self) -> None:
        """What others made of the queues that are known here holds here too."""
        self._followed("queue", self.queues, await self._list(Queue))

    async def follow_streams(self) -> None:
        """As `follow_queues`."""
        self._followed("stream", self.streams, await self._list(Stream))

    def _followed(self, kind: str, known: dict[str, C], stored: Mapping[str, C]) -> None:
        for name, each in stored.items():
            if name in known and (kind, name) not in self._unpublished:
                known[name] = each

    async def learn_destinations(self, functions: Collection[Function]) -> None:
        """Know the queues and streams that results of these functions go to."""
        for function in functions:
            for reference in destinations(function):
                await self.learn(reference)

    async def keep(self, kind: str, name: str, body: str, seconds: float) -> None:
        """A document that is nothing but kept, for so long."""
        await self._opened.put(kind, name, body, expires_in_seconds=seconds)

    async def change_kept(self, kind: str, name: str, change: Callable[[str | None], str]) -> None:
        """One read-change-write of a document that is kept until it is deleted; None: it is not there."""
        await self._write(kind, name, lambda document: change(None if document is None else document.body))

    async def trim(self, kind: str, most: int) -> None:
        """Of the documents of this kind keep only so many, those whose names come last."""
        names = sorted(each.name for each in await self._opened.list(kind))
        for name in names[: max(0, len(names) - most)]:
            await self._opened.delete(kind, name)

    async def kept(self, kind: str) -> dict[str, str]:
        """The documents of this kind, by name."""
        return {each.name: each.body for each in await self._opened.list(kind)}

    # --- names -----------------------------------------------------------------------------------------------------

    def function_arn(self, name: str, qualifier: str | None = None) -> str:
        return function_arn(self._settings.region, self._settings.account_id, name, qualifier)

    def _no_function(self, name: str) -> ResourceNotFound:
        return ResourceNotFound(f"Function not found: {self.function_arn(name)}")

    # --- reading and writing documents -----------------------------------------------------------------------------

    @property
    def _opened(self) -> Documents:
        if self._documents is None:
            raise EngineStopped(NOT_STARTED)
        return self._documents

    @property
    def _here(self) -> Known:
        return Known(self.functions, self.queues, self.streams, self.sources, self._settings, final=False)

    async def known(self) -> Known:
        """Everything that is stored, or declared here and about to be."""
        stored = {name: each.function for name, each in (await self.stored.look()).items()}
        to_be = {name: self.functions[name] for kind, name in self._unpublished if kind == "function"}
        return Known(
            {**stored, **to_be},
            {**await self._list(Queue), **self.queues},
            {**await self._list(Stream), **self.streams},
            self.sources,
            self._settings,
            final=True,
        )

    def _new_mapping(self, source: str, function: str, options: Mapping[str, object]) -> AnyMapping:
        kind = self.sources.get(source) or source.partition(":")[0]
        return new_mapping(kind, source, function, options)

    async def _get(self, model: type[C], name: str) -> C:
        kind = model.__name__.lower()
        found = content(await self._opened.get(kind, name))
        if found is None:
            advice = f"declare it with engine.{kind}({name!r})"
            raise ResourceNotFound(f'There is no {kind} "{name}" in this store: {advice}.')
        return _read(model, found)

    async def _list(self, model: type[C]) -> dict[str, C]:
        documents = await self._opened.list(model.__name__.lower())
        return {document.name: _read(model, found) for document in documents if (found := content(document))}

    async def _write_declared(self, kind: str, name: str) -> None:
        """Replace what is stored by what is declared, unless it holds, and say how they differ."""
        was: Stored | None = None

        def wanted(stored: Stored | None) -> Stored:
            nonlocal was
            was = stored
            held = was is not None and self._holds(kind, name, was)
            return was if was is not None and held else self._content(kind, name, was)

        def declared(found: StoredFunction | None) -> StoredFunction:
            before = found or StoredFunction(Stored({}))
            return replace(before, stored=wanted(None if found is None else found.stored))

        if kind == "function":
            await self.stored.change(name, declared)
        else:
            await self._write(kind, name, lambda document: wanted(content(document)).body())
        if was is not None and not self._holds(kind, name, was):
            changes = difference(was.configuration, self._content(kind, name, was).configuration)
            if changes:
                self.log("info", "what is declared replaces what is stored", kind=kind, name=name, changes=changes)

    def _holds(self, kind: str, name: str, stored: Stored) -> bool:
        """Is what is stored not to be replaced by what is declared?"""
        return stored.release > self._settings.release or f"{kind}:{name}" in self._mentioned

    def _content(self, kind: str, name: str, stored: Stored | None) -> Stored:
        """What is declared, to be put in the place of what is stored."""
        release = 0 if f"{kind}:{name}" in self._mentioned else self._settings.release
        if kind != "mapping":
            kept = stored or Stored({})
            declared = self._declared_as(kind, name).model_dump(mode="json", exclude={"versions"})
            said_by_calls = {
                option: kept.configuration[option] for option in _NOT_DECLARED if option in kept.configuration
            }
            return replace(kept, configuration=declared | said_by_calls, origin="code", release=release)
        mapping = self.mappings[name]
        seek = first_seek(mapping)
        if stored is not None:
            if "enabled" not in mapping.model_fields_set and not stored.configuration["enabled"]:
                mapping = changed(mapping, {"enabled": False})
            sought = Seek(*stored.seek)
            seek = sought if sought.generation else seek
        return Stored(mapping.model_dump(mode="json"), "code", release, seek, {} if stored is None else stored.api)

    def _declared_as(self, kind: str, name: str) -> Configuration:
        if kind == "function":
            return self.functions[name]
        if kind == "mapping":
            return self.mappings[name]
        return self.queues[name] if kind == "queue" else self.streams[name]

    async def _change_mapping(self, identity: str, change: Callable[[StoredMapping], StoredMapping]) -> StoredMapping:
        def body(document: Document | None) -> str:
            if document is None:
                raise ResourceNotFound(_NO_MAPPING)
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


def _stored(document: Document) -> StoredMapping:
    found = content(document)
    assert found is not None
    stream = found.configuration["kind"] == "stream"
    mapping = _read(StreamMapping, found) if stream else _read(QueueMapping, found)
    seek = Seek(*found.seek)
    return StoredMapping(document.name, mapping, seek, document.revision, found.origin, found.release, found.api)


def _read(model: type[C], stored: Stored) -> C:
    return model.model_validate_json(json.dumps(stored.configuration))
