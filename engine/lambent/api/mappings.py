"""The operations on event source mappings: what they decide on is fetched, what was decided is stored.

Decides the order in which a request is held against what there is. What its members mean is decided in
`mapping_members.py`; which mapping runs, and what is valid, below the API.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lambent.api import kafka_members
from lambent.api import mapping_members as members
from lambent.api.decisions import Answer
from lambent.api.destinations import arn_of
from lambent.api.extras import tagged
from lambent.api.names import reference
from lambent.api.records import Asked, page
from lambent.api.refusals import invalid, not_found
from lambent.engine import Engine
from lambent.errors import InvalidParameterValue, ResourceNotFound
from lambent.semantics import routing
from lambent.sources import load_source
from lambent.stored_mappings import NOTHING_PROCESSED, StoredMapping


class MappingOperations:
    """The operations on mappings, of an engine that runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._control = engine.control

    async def create(self, asked: Asked) -> Answer:
        members.check_filters(asked.params)
        source = members.source_of(asked.params, asked.settings)
        await self._check_function(asked)
        options = members.options_of(asked, await self._kind(source, asked))
        function = str(options.pop("function"))
        if "://" in source:
            kafka_members.check_duplicate(source, asked, (await self._control.list_mappings()).values())
        with _in_members():
            kept = members.kept_of(asked)
            stored = await self._control.create_mapping(source, function, options, kept, anew=True)
        return members.shown(stored, asked.settings, "Creating" if stored.mapping.enabled else "Disabled")

    async def get(self, asked: Asked) -> Answer:
        stored = await self._stored(asked)
        return members.shown(stored, asked.settings, *await self._state(stored))

    async def update(self, asked: Asked) -> Answer:
        stored = await self._stored(asked)
        if asked.get("FunctionName") is not None:
            await self._check_function(asked)
        kafka_members.check_update(asked, stored)
        was = stored.mapping
        options = members.options_of(asked, was.kind, was.model_dump())
        with _in_members():
            stored = await self._control.update_mapping(stored.id, options, members.kept_of(asked))
        return members.shown(stored, asked.settings, members.state_after(was.enabled, stored.mapping.enabled))

    async def delete(self, asked: Asked) -> Answer:
        stored = await self._stored(asked)
        try:
            await self._control.delete_mapping(stored.id)
        except ResourceNotFound:
            raise not_found() from None
        return members.shown(stored, asked.settings, "Deleting")

    async def tags(self, operation: str, params: Mapping[str, Any]) -> Answer:
        """TagResource, UntagResource and ListTags of a mapping."""
        identity = members.mapping_named(params["Resource"], self._engine.settings)
        if identity is None:
            raise not_found()

        def change(kept: Mapping[str, Any]) -> dict[str, Any]:
            before = kept.get("Tags", {})
            if operation == "TagResource":
                return {**kept, "Tags": tagged(before, params["Tags"])}
            return {**kept, "Tags": {key: before[key] for key in before if key not in params["TagKeys"]}}

        try:
            if operation == "ListTags":
                return {"Tags": dict((await self._control.get_mapping(identity)).api.get("Tags", {}))}
            await self._control.change_mapping_api(identity, change)
        except ResourceNotFound:
            raise not_found() from None
        return {}

    async def list_all(self, params: Mapping[str, Any]) -> Answer:
        settings = self._engine.settings
        found = list((await self._control.list_mappings()).values())
        if (given := params.get("FunctionName")) is not None:
            named = reference(given, None, settings, "ListEventSourceMappings")
            if await self._control.stored.get(named.name) is None:
                raise not_found(f"Function not found: {named.arn}")
            found = [
                each for each in found
                if each.mapping.function == named.name and named.qualifier in (None, each.mapping.qualifier)
            ]  # fmt: skip
        if (source := params.get("EventSourceArn")) is not None:
            found = [each for each in found if source in (arn_of(each.mapping.source, settings), each.mapping.source)]
        items, marker = page(found, params, lambda each: [each.id], 100)
        return {
            "EventSourceMappings": [members.shown(each, settings, *await self._state(each)) for each in items],
            "NextMarker": marker,
        }

    async def _stored(self, asked: Asked) -> StoredMapping:
        try:
            return await self._control.get_mapping(asked.params["UUID"].lower())
        except ResourceNotFound:
            raise not_found() from None

    async def _state(self, stored: StoredMapping) -> tuple[str, str]:
        """Its state in this engine, and its last result."""
        try:
            state = await self._engine.mapping_state(stored.id)
        except ResourceNotFound:
            return "Deleting", NOTHING_PROCESSED
        shown = await self._engine.mapping_details(stored.id)
        if trouble := shown.get("trouble"):
            return state, f"PROBLEM: {trouble}"
        return state, str(shown.get("last_processing_result", NOTHING_PROCESSED))

    async def _check_function(self, asked: Asked) -> None:
        """Raises `Refusal` if there is no such function, version or alias."""
        found = await self._control.stored.get(asked.reference.name)
        if found is None or not routing.known(found.function, asked.reference.qualifier):
            raise invalid(members.NO_FUNCTION)

    async def _kind(self, source: str, asked: Asked) -> str:
        """Is it a queue or a stream. Raises `Refusal` if it is not there."""
        if "://" in source:
            self._control.sources.setdefault(source, load_source(source).kind)
            return self._control.sources[source]
        return members.check_there(source, asked.params, await self._control.known())


@contextmanager
def _in_members() -> Iterator[None]:
    """What is refused inside is said of members."""
    try:
        yield
    except InvalidParameterValue as error:
        raise invalid(members.in_members(error.message)) from error
