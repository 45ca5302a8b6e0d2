"""What a store knows of single items, for people who ask: read through a `Connection`, an engine's or a client's.

Decides where to look, and what a person is told who asks for what is not there. Changes nothing, and needs no running
engine. What the facts mean is decided in `semantics/`.
"""

from __future__ import annotations

from lambent.errors import ResourceNotFound
from lambent.model import EventFact
from lambent.ports import Connection


async def event(connection: Connection, request_id: str) -> EventFact:
    """Where an asynchronous event is, or how it ended. Raises ResourceNotFound, StoreUnavailable."""
    fact = await connection.facts.event(request_id)
    if fact is None:
        raise ResourceNotFound(
            f"This store knows no event {request_id}: it was accepted by another one, or it ended so long ago that its "
            "record is gone."
        )
    return fact
