"""An engine on the virtual clock of the test's loop, with plain functions run inline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from lambent import Engine
from lambent.testing.loop import VirtualClock


def inline(call: Callable[[], None]) -> None:
    call()


def virtual(store: Any = "memory://", **options: Any) -> Engine:
    return Engine(store, clock=VirtualClock(asyncio.get_running_loop()), executor=inline, **{"seed": 1, **options})
