"""Every operation of the API, done: what it decides on is fetched, what it decided is stored and followed.

Decides which operation is done by what, and that a change of a function is one read-change-write of its document, so
that it is whole or not at all. What changes and what is refused is decided in the modules of the resources.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from lambent.api import aliases, concurrency, event_invoke, extras, functions
from lambent.api.code import Codes, code_of
from lambent.api.constraints import problems
from lambent.api.decisions import DECISIONS, Answer, Decision
from lambent.api.engine_functions import record_of, stored_of
from lambent.api.layer_operations import LayerOperations
from lambent.api.mappings import MappingOperations
from lambent.api.names import Reference, new_name, reference
from lambent.api.records import Asked, Record, code_url
from lambent.api.refusals import conflict, constrained, no_such_code_signing, not_found, not_here, pending
from lambent.api.shapes import Operation, Wire
from lambent.engine import Engine
from lambent.errors import ResourceNotFound
from lambent.model import Function
from lambent.stored_functions import StoredFunction

_WITH_MORE: Final = frozenset(
    {
        "CreateFunction", "UpdateFunctionCode", "DeleteFunction", "ListFunctions", "GetAccountSettings",
        "CreateEventSourceMapping", "GetEventSourceMapping", "UpdateEventSourceMapping", "DeleteEventSourceMapping",
        "ListEventSourceMappings",
        "PublishLayerVersion", "GetLayerVersion", "GetLayerVersionByArn", "DeleteLayerVersion", "ListLayers",
        "ListLayerVersions", "AddLayerVersionPermission", "RemoveLayerVersionPermission", "GetLayerVersionPolicy",
    }
)  # fmt: skip
"""Operations that need more than a record."""
_TAGGING: Final = frozenset({"TagResource", "UntagResource", "ListTags"})
_DECIDING: Final = (aliases, concurrency, event_invoke, extras, functions)  # they fill the table of decisions
ABSENT: Final = {
    "CapacityProvider": "capacity providers", "CodeSigning": "code signing configurations",
    "Durable": "durable executions", "FunctionUrl": "function URLs", "ResourcePolicy": "resource policies",
    "Permission": "permissions", "ScalingConfig": "managed instances",
}  # fmt: skip
"""What is not there, by a part of an operation's name."""
EMPTY: Final[Mapping[str, Answer]] = {
    "ListCodeSigningConfigs": {"CodeSigningConfigs": []},
    "ListCapacityProviders": {"CapacityProviders": []},
}
"""Lists of what is not there."""


NONE: Final = frozenset(
    {
        "GetCodeSigningConfig", "UpdateCodeSigningConfig", "DeleteCodeSigningConfig",
        "ListFunctionsByCodeSigningConfig", "PutFunctionCodeSigningConfig", "RemovePermission",
        "UpdateFunctionUrlConfig", "DeleteFunctionUrlConfig",
    }
)  # fmt: skip
"""Operations on what nothing here can make: it is not found, as at AWS."""


class Operations:
    """The operations, of an engine that runs."""

    def __init__(self, engine: Engine, wire: Wire) -> None:
        self._engine = engine
        self._control = engine.control
        self._wire = wire
        self._codes = Codes(engine, self._code_bytes)
        self._runtimes = frozenset(wire.shape("Runtime").model["enum"])
        self._layers = LayerOperations(engine, self._codes, lambda code: code_url(self.url, code))
        mappings = self._mappings = MappingOperations(engine)
        self._others: Mapping[str, Callable[[Asked], Awaitable[Answer]]] = {
            "CreateFunction": self._create_function,
            "UpdateFunctionCode": self._update_function_code,
            "DeleteFunction": self._delete_function,
            "CreateEventSourceMapping": mappings.create,
            "GetEventSourceMapping": mappings.get,
            "UpdateEventSourceMapping": mappings.update,
            "DeleteEventSourceMapping": mappings.delete,
        }
        self.url = ""
        """Of the server, once it listens."""
        self._pending: dict[str, float] = {}  # functions that were just created, and until when they are Pending
        self._lists: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Answer]]] = {
            "ListFunctions": self._list_functions,
            "GetAccountSettings": self._account_settings,
            "ListEventSourceMappings": mappings.list_all,
            "PublishLayerVersion": self._layers.publish,
            "GetLayerVersion": self._layers.get,
            "GetLayerVersionByArn": self._layers.get_by_arn,
            "DeleteLayerVersion": self._layers.delete,
            "ListLayers": self._layers.list_all,
            "ListLayerVersions": self._layers.versions,
            "AddLayerVersionPermission": self._layers.permit,
            "RemoveLayerVersionPermission": self._layers.forbid,
            "GetLayerVersionPolicy": self._layers.policy,
        }

        assert self._others.keys() | self._lists.keys() == _WITH_MORE

    async def do(self, operation: Operation, params: Mapping[str, Any]) -> Answer:
        """The members of the answer. Raises `LambentError`."""
        if wrong := problems(operation.input, params):
            raise constrained(wrong)
        name = operation.name
        if name in _TAGGING and params["Resource"].split(":")[5] != "function":
            return await self._mappings.tags(name, params)
        if (decision := DECISIONS.get(name)) is not None:
            return await self._decide(decision, self.asked(name, params))
        if (other := self._others.get(name)) is not None:
            return await other(self.asked(name, params))
        if (listing := self._lists.get(name)) is not None:
            return await listing(params)
        if name in EMPTY:
            return EMPTY[name]
        if name in NONE:
            raise no_such_code_signing(params["CodeSigningConfigArn"])
        raise not_here(name, absent(name))

    def asked(self, operation: str, params: Mapping[str, Any]) -> Asked:
        """The request as operations see it. Raises `Refusal` if it names a function elsewhere."""
        settings = self._engine.settings
        given = params.get("FunctionName") or params.get("Resource")
        if given is None:
            meant = Reference("", None, "")
        elif operation == "CreateFunction":
            meant = new_name(given, settings)
        else:
            meant = reference(given, params.get("Qualifier"), settings, operation)
        now, new_id = self._engine.now(), self._engine.new_id
        provisioned = partial(self._provisioned, meant.name)
        return Asked(
            operation, params, meant, now, new_id, settings, self._runtimes, url=self.url, provisioned=provisioned
        )

    def _provisioned(self, function: str, version: str) -> Mapping[str, Any]:
        try:
            found: Any = self._engine.environments(function, version).get("provisioned", {})
        except ResourceNotFound:  # another engine has made it just now, or it is being deleted
            return {"status": "IN_PROGRESS", "ready": 0}
        return found  # type: ignore[no-any-return]

    async def zip_file(self, sha256: str) -> bytes:
        """A function's zip file. Raises LambentError."""
        return await self._codes.data(sha256)

    def check_invocable(self, meant: Reference) -> None:
        """Raises `Refusal` while a function that this server created is Pending."""
        if self._pending and (until := self._pending.get(meant.name)) is not None:
            if self._engine.now() < until:
                raise pending()
            self._pending.pop(meant.name, None)

    # --- functions -------------------------------------------------------------------------------------------------

    async def _decide(self, decision: Decision, asked: Asked) -> Answer:
        if not decision.writes:
            record = await self._record(asked.reference.name)
            if record is None:
                raise decision.missing(asked)
            return decision.decide(asked, record)
        if asked.get("Layers"):
            asked.layers = await self._layers.known()
        if decision.knows_others:
            asked.there = await self._control.known()
        answer: Answer = {}

        def change(record: Record | None) -> Record:
            nonlocal answer
            if record is None:
                raise decision.missing(asked)
            answer = decision.decide(asked, record)
            return record

        await self._write(asked, change)
        return answer

    async def _create_function(self, asked: Asked) -> Answer:
        if asked.get("Layers"):
            asked.layers = await self._layers.known()
        exists = conflict(f"Function already exist: {asked.reference.name}")
        functions.created(
            asked, {"kind": "image" if asked.params["Code"].get("ImageUri") else "zip", "size": 0, "sha256": ""}
        )
        if await self._control.stored.get(asked.reference.name) is not None:
            raise exists
        code = await code_of(asked.params["Code"], self._codes)
        asked.now = self._engine.now()
        answer: Answer = {}

        def change(record: Record | None) -> Record:
            nonlocal answer
            if record is not None:
                raise exists
            new, answer = functions.created(asked, code)
            return new

        await self._write(asked, change)
        self._pending[asked.reference.name] = asked.now + self._engine.settings.state_change_seconds
        return answer

    async def _update_function_code(self, asked: Asked) -> Answer:
        known = await self._record(asked.reference.name)
        if known is None:
            raise not_found(f"Function not found: {asked.reference.unqualified}")
        functions.check_changeable(asked, known)
        code = await code_of(asked.params, self._codes)
        asked.now = self._engine.now()
        answer: Answer = {}

        def change(record: Record | None) -> Record:
            nonlocal answer
            if record is None:
                raise not_found(f"Function not found: {asked.reference.unqualified}")
            answer = functions.with_new_code(asked, record, code)
            return record

        await self._write(asked, change)
        return answer

    async def _delete_function(self, asked: Asked) -> Answer:
        record = await self._record(asked.reference.name)
        if record is None:
            raise not_found(f"Function not found: {asked.reference.unqualified}")
        if functions.deleted(asked, record):
            await self._control.delete_function(record.name)
            self._engine.follow(record.name, None, ())
        else:

            def change(record: Record | None) -> Record:
                if record is None:
                    raise not_found(f"Function not found: {asked.reference.unqualified}")
                functions.deleted(asked, record)
                return record

            await self._write(asked, change)
        return {"StatusCode": 204}

    async def _list_functions(self, params: Mapping[str, Any]) -> Answer:
        named, marker = functions.to_list(await self._control.list_functions(), params)
        names = list(dict.fromkeys(name for name, _ in named))
        records = dict(zip(names, await asyncio.gather(*map(self._record, names)), strict=True))
        whole = params.get("FunctionVersion") == "ALL"
        found = [
            functions.listed(record, version, self._engine.settings, qualified=whole)
            for name, version in named if (record := records[name]) is not None
        ]  # fmt: skip
        return {"Functions": [each for each in found if each is not None], "NextMarker": marker}

    async def _account_settings(self, params: Mapping[str, Any]) -> Answer:
        code_bytes, known = await self._code_bytes(), await self._control.known()
        return concurrency.account_settings(known.functions, code_bytes, self._engine.settings)

    async def _code_bytes(self) -> int:
        """Of all functions and layers, in all their versions, zipped."""
        layers, functions = await self._layers.code_bytes(), await self._control.stored.look()
        return sum(each.code_bytes for each in functions.values()) + layers

    # --- records ---------------------------------------------------------------------------------------------------

    async def _record(self, name: str) -> Record | None:
        return self._read(await self._control.stored.get(name))

    def _read(self, found: StoredFunction | None) -> Record | None:
        """As it is now."""
        if found is None:
            return None
        record = record_of(found, self._engine.settings)
        record.settle(self._engine.now())
        return record

    async def _write(self, asked: Asked, change: Callable[[Record | None], Record]) -> None:
        """Change a record, and have this engine follow at once; others follow the store."""
        name, settings = asked.reference.name, self._engine.settings
        check = _unchecked
        if _looks_around(asked):
            check = (asked.there or await self._control.known()).check_function

        def rewritten(found: StoredFunction | None) -> StoredFunction:
            wanted = stored_of(change(self._read(found)), found, settings)
            check(wanted.function)
            return wanted

        written = await self._control.stored.change(name, rewritten)
        self._engine.follow(name, written.function, self._control.stored.made)


def how_done(operation: str) -> str:
    """ "done", "empty" (a list of what is not there), "none" (it is not found) or the name of what is not there."""
    if operation in NONE:
        return "none"
    if operation in DECISIONS or operation in _WITH_MORE:
        return "done"
    return "empty" if operation in EMPTY else absent(operation)


def absent(operation: str) -> str:
    """What an operation is about that lambent does not have."""
    return next((what for part, what in ABSENT.items() if part in operation), "such operation")


def _unchecked(function: Function) -> None:
    """What it names has not changed."""


def _looks_around(asked: Asked) -> bool:
    """Does what is asked for name queues, streams or other functions, or take from what others have?"""
    named = ("DeadLetterConfig", "DestinationConfig", "ReservedConcurrentExecutions")
    return any(asked.get(name) is not None for name in named)
