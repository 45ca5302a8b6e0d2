"""How aiokafka's clients begin: so that nothing stays open if that is cut off, or comes to nothing.

Leaves to `kafka_url.py` what their options are, and to everybody what they are for.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

GRACE_SECONDS: Final = 1.0
"""For which the start of a client goes on that nobody wants any more."""


async def begin(client: Any) -> None:
    """Start it. Cancelled while it opens its first connection, aiokafka would forget that without closing it: the start
    may end before. Raises what that raises."""
    starting = asyncio.ensure_future(client.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting}, timeout=GRACE_SECONDS)
        starting.cancel()
        await asyncio.wait({starting})
        if not starting.cancelled():
            starting.exception()  # nobody is left who wants to know
        raise


async def begun(client: Any) -> Any:
    """It, once it has started; otherwise it is stopped. Raises what its start raises."""
    try:
        await begin(client)
    except BaseException:
        with suppress(KafkaError, OSError):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
        raise
    return client
