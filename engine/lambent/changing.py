"""The changing half of an engine: what is made, changed and removed in the store once it runs.

Decides that what code has declared is written first, and that what runs here follows at once. What a change means, and
whether it is allowed, is `control.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Unpack

from lambent.declaring import Declarations, Source
from lambent.errors import EngineStopped, InvalidParameterValue
from lambent.life import Life
from lambent.model import Function
from lambent.options import MapOptions
from lambent.resources import MappingHandle
from lambent.stored_functions import NOT_STARTED
from lambent.stored_mappings import MappingState, StoredMapping


class Changes(Declarations):
    """Of the store, for all engines; only while the engine is started."""

    _life: Life | None

    async def create_mapping(
        self, source: Source, function: Callable[..., object] | str, **options: Unpack[MapOptions]
    ) -> MappingHandle:
        """As `map`, written to the store before it returns; for what is known only after the start."""
        named = self._source(source)
        name = self._named(function)
        await self.control.publish()
        stored = await self.control.create_mapping(named, name, self._destinations(options))
        return MappingHandle(stored.id, named, name, self)

    async def mapping(self, identity: str) -> MappingHandle:
        """The handle of a mapping that the store knows."""
        stored = (await self.control.get_mapping(identity)).mapping
        return MappingHandle(identity, stored.source, stored.function, self)

    async def list_mappings(self) -> Mapping[str, StoredMapping]:
        """All mappings of the store, by id."""
        return await self.control.list_mappings()

    async def update_mapping(self, identity: str, **changes: object) -> StoredMapping:
        """As `MappingHandle.update`. Raises InvalidParameterValue, ResourceNotFound, ResourceConflict."""
        await self.control.publish()
        return await self.control.update_mapping(identity, self._destinations(changes))

    async def seek_mapping(
        self, identity: str, starting_position: str, timestamp: float | None = None
    ) -> StoredMapping:
        """As `MappingHandle.seek`; `timestamp` (epoch seconds) goes with AT_TIMESTAMP."""
        await self.control.publish()
        return await self.control.seek_mapping(identity, starting_position, timestamp)

    async def delete_mapping(self, identity: str) -> None:
        """As `MappingHandle.delete`. Raises ResourceNotFound."""
        await self.control.delete_mapping(identity)

    async def mapping_state(self, identity: str) -> MappingState:
        """As `MappingHandle.state`."""
        return await self._living().mapping_state(identity)

    async def mapping_reaches(self, identity: str, state: MappingState) -> None:
        """Wait until a mapping is in this state."""
        await self._living().mapping_reaches(identity, state)

    async def mapping_details(self, identity: str) -> dict[str, object]:
        """As `MappingHandle.details`."""
        return self._living().supervisor.details(identity)

    async def get_function(self, function: Callable[..., object] | str) -> Function:
        """A function's configuration as the store has it. Raises ResourceNotFound."""
        return await self.control.get_function(self._named(function))

    async def list_functions(self) -> Mapping[str, Function]:
        """All functions of the store, of this engine and of others, by name."""
        return await self.control.list_functions()

    async def update_function(self, function: Callable[..., object] | str, **changes: object) -> Function:
        """Replace options of a function in all engines; what runs already ends as it began. Its name stays."""
        name = self._named(function)
        if "name" in changes:
            raise InvalidParameterValue(f"name: {name} keeps its name; it is not an option of an update")
        known = await self.control.get_function(name)
        updated = await self.control.update_function(
            name, self._fields(changes, known, with_environment=known.environment is not None)
        )
        if name in self._handlers:
            self._apply(updated)
        return updated

    async def delete_function(self, function: Callable[..., object] | str) -> None:
        """Forget a function in all engines. Its events that wait end as dropped, each when it falls due; its mappings
        stay and wait for a function of that name. Code that declares it makes it anew when it starts."""
        name = self._named(function)
        await self.control.delete_function(name)
        if name in self._handlers:
            self._forget(name)

    def _living(self) -> Life:
        if self._life is None:
            raise EngineStopped(NOT_STARTED)
        return self._life
