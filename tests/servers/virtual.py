"""Virtual time beside a real Redis: a test's hours pass in milliseconds, and the server works in between.

Decides when the clock may move although connections lead out of the loop: when no command waits for its answer. The
store's time is then the clock's, brought into the scripts in place of the server's.
"""

from __future__ import annotations

import asyncio

from lambent.ports import Clock
from lambent.testing.loop import VirtualLoop
from lambent_pollers.redis_connection import RedisServer


def virtual_server(url: str, clock: Clock) -> RedisServer:
    """A server whose scripts have this clock's time, for tests marked `virtual_time`."""
    server = RedisServer(url, lambda: 0.5, time=clock.now)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.beside(lambda: server.waiting)
    return server
