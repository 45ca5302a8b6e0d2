"""The supervisor: a loop for each mapping that is wanted, begun again whatever ended it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest
from structlog.testing import capture_logs

from lambent import MemoryStore, StoreUnavailable
from lambent.model import QueueMapping
from lambent.polling.supervisor import Loop, Supervisor
from lambent.ports import World
from lambent.stored_mappings import Seek, StoredMapping
from lambent.telemetry import Telemetry
from lambent.testing.loop import VirtualClock

pytestmark = pytest.mark.virtual_time(deterministic=True)

Wanted = Mapping[str, StoredMapping]


class Run:
    """A mapping's loop that does this, and then waits to be stopped."""

    def __init__(self, does: Callable[[], None]) -> None:
        self._does = does

    async def run(self, stopping: asyncio.Event) -> None:
        self._does()
        await stopping.wait()

    def state(self) -> dict[str, object]:
        return {}


def mappings(*names: str) -> Wanted:
    return {
        name: StoredMapping(name, QueueMapping(source=f"queue:{name}", function="f"), Seek(0, "")) for name in names
    }


async def supervised(
    wanted: Callable[[], Awaitable[Wanted]],
    open_loop: Callable[[StoredMapping], Awaitable[Loop]],
    meanwhile: Callable[[], Awaitable[None]],
) -> None:
    world = World("engine", VirtualClock(asyncio.get_running_loop()), lambda: 0.5, lambda: "id")
    documents, stopping = (await MemoryStore().connect(world)).documents, asyncio.Event()
    supervisor = Supervisor(documents=documents, wanted=wanted, open_loop=open_loop, telemetry=Telemetry(), world=world)
    running = asyncio.create_task(supervisor.run(stopping))
    await meanwhile()
    stopping.set()
    await running


async def test_a_loop_that_breaks_is_started_again_and_the_others_go_on() -> None:
    runs: list[str] = []

    async def wanted() -> Wanted:
        if not runs:
            runs.append("away")
            raise StoreUnavailable("away")
        return mappings("broken", "sound")

    async def open_loop(stored: StoredMapping) -> Loop:
        def run() -> None:
            runs.append(stored.id)
            if stored.id == "broken":
                raise ZeroDivisionError

        return Run(run)

    with capture_logs() as logs:
        await supervised(wanted, open_loop, lambda: asyncio.sleep(10))
    assert runs[0] == "away"
    assert runs.count("sound") == 1
    assert runs.count("broken") == 4  # after 1, 2 and 4 seconds
    assert "a bug ended a mapping's loop" in {log["event"] for log in logs}


async def test_a_mapping_begins_soon_after_what_it_needs_is_back_however_long_that_was_away() -> None:
    loop, away, begun = asyncio.get_running_loop(), True, asyncio.Event()

    async def wanted() -> Wanted:
        return mappings("it")

    async def open_loop(stored: StoredMapping) -> Loop:
        if away:
            raise StoreUnavailable("away")
        return Run(begun.set)

    async def outage() -> None:
        nonlocal away
        await asyncio.sleep(3600)
        away, back = False, loop.time()
        await begun.wait()
        assert loop.time() - back < 3.0

    await supervised(wanted, open_loop, outage)
