"""The audit trail: who changed what by the API, when, and with what result.

Decides what an entry has, how long it is kept and how many there are: a line of the log, and a document that expires,
or goes when there are too many. Values are not in it, which may be secrets: only the operation and the names of what it
was about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from lambent.engine import Engine
from lambent.errors import StoreUnavailable

API_CALL: Final = "api-call"
"""The kind of the documents."""
MAXIMUM_ENTRIES: Final = 10_000  # that the store keeps; the oldest go
TRIMMED_AFTER: Final = 500  # entries of one server, which there may be more for a while
_NAMES: Final = ("FunctionName", "Qualifier", "Name", "UUID", "Resource", "EventSourceArn", "LayerName")


class Trail:
    """Entries of the calls of one server, in the engine's store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept = 0

    async def add(self, operation: str, params: Mapping[str, Any], request_id: str, caller: str, result: str) -> None:
        """Tell and keep one call. The store may be away: then the log alone has it."""
        about = {name: str(params[name])[:256] for name in _NAMES if params.get(name) is not None}
        now = datetime.fromtimestamp(self._engine.now(), UTC)
        at, named = now.isoformat(timespec="milliseconds"), now.isoformat(timespec="microseconds")  # their order
        entry = {"at": at, "operation": operation, "caller": caller, "result": result, **about}
        self._engine.telemetry.log("info", "API call", request_id=request_id, **entry)
        if self._engine.settings.api_trail_seconds:
            try:
                await self._engine.control.keep(
                    API_CALL, f"{named} {request_id}", json.dumps(entry), self._engine.settings.api_trail_seconds
                )
                self._kept += 1
                if self._kept % TRIMMED_AFTER == 1:  # with the first, too: of what other lives left
                    await self._engine.control.trim(API_CALL, MAXIMUM_ENTRIES)
            except StoreUnavailable as error:
                self._engine.telemetry.log(
                    "warning", "an API call is not kept", request_id=request_id, error=str(error)
                )
