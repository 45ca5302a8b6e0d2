"""Events in a SQLite file: what is in memory makes no difference, nor does a restart, and what ended goes at last."""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path

import pytest

from lambent.model import Delete, Event, Release
from lambent.ports import Connection, Store, World
from lambent.stores import sqlite_event_rows, sqlite_events
from lambent.stores.memory import MemoryStore
from lambent.stores.sqlite import SqliteStore
from lambent.testing.loop import VirtualClock

pytestmark = pytest.mark.virtual_time

_NUMBERS = itertools.count(1)


def world(owner: str = "engine-1") -> World:
    return World(owner, VirtualClock(asyncio.get_running_loop()), lambda: 0.5, lambda: f"id-{next(_NUMBERS)}")


def store(path: Path, poll_seconds: float | None = None) -> SqliteStore:
    return SqliteStore(path, executor=lambda call: call(), poll_seconds=poll_seconds)


def event(number: int, function: str = "f", accepted_at: float | None = None) -> Event:
    return Event(f"e{number}", function, b'{"n": %d}' % number, float(number) if accepted_at is None else accepted_at)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly everything is in the file only."""
    monkeypatch.setattr(sqlite_events, "LIVE_EVENTS", 6)
    monkeypatch.setattr(sqlite_events, "LIVE_EVENTS_PER_FUNCTION", 3)
    monkeypatch.setattr(sqlite_events, "READ_EVENTS", 2)
    monkeypatch.setattr(sqlite_event_rows, "SURFACED_AT_ONCE", 2)


class _Pair:
    """The same calls to a store in memory and to one in a file, which must answer the same."""

    def __init__(self, path: Path, seed: int) -> None:
        self.stores: tuple[Store, Store] = (MemoryStore(), store(path))
        self.connections: list[Connection] = []
        self.chance = random.Random(seed)
        self.claims: list[tuple[str, str]] = []
        self.numbers = itertools.count(1)
        self.ages = list(range(1, 1_000))
        self.chance.shuffle(self.ages)

    async def restart(self) -> None:
        for connection in self.connections:
            await connection.close()
        here = world()
        self.connections = [await store.connect(here) for store in self.stores]
        self.claims = []

    async def put(self) -> None:
        numbers = [next(self.numbers) for _ in range(self.chance.choice((1, 1, 2, 5)))]
        late = self.chance.random() < 0.3  # not in the order of their times
        ages = [self.ages.pop() if late else 1_000.0 + number for number in numbers]
        events = [event(number, self.chance.choice("ffg"), age) for number, age in zip(numbers, ages, strict=True)]
        for connection in self.connections:
            await connection.events.put_many([*events, *events[:1]])

    async def receive(self) -> None:
        function, limit = self.chance.choice("fg"), self.chance.randint(1, 6)
        before = self.chance.choice((None, None, 900.0, 1_005.0))
        memory, file = [await each.events.receive(function, limit, 20.7, before) for each in self.connections]
        shown = [[(e.request_id, e.payload, e.attempts, e.deferrals) for e in events] for events in (memory, file)]
        assert shown[0] == shown[1]
        self.claims += zip([e.receipt for e in memory], [e.receipt for e in file], strict=True)

    async def settle(self, deleted: float = 0.4) -> None:
        self.chance.shuffle(self.claims)
        answers = []
        how = [(self.chance.random(), self.chance.choice((0, 0, 0.51, 5.07, 61.3))) for _ in self.claims[:3]]
        clock = asyncio.get_running_loop().time()
        for index, connection in enumerate(self.connections):
            answers.append(
                await connection.events.settle_many(
                    [
                        Delete(receipts[index], "succeeded", b"1")
                        if chance < deleted
                        else Release(receipts[index], self.epoch + clock + delay, chance < 0.7, "because")
                        for receipts, (chance, delay) in zip(self.claims, how, strict=False)
                    ]
                )
            )
        assert list(answers[0]) == list(answers[1])
        del self.claims[:3]

    async def due(self) -> None:
        memory, file = [await each.events.due({"f", "g"}, 0) for each in self.connections]
        assert {name for name, _ in memory} == {name for name, _ in file}
        for name, oldest_at in memory:
            assert dict(file)[name] <= oldest_at

    async def pass_time(self) -> None:
        await asyncio.sleep(self.chance.choice((2, 3, 30)))

    @property
    def epoch(self) -> float:
        return VirtualClock(asyncio.get_running_loop()).now() - asyncio.get_running_loop().time()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("small")
async def test_events_in_a_file_are_claimed_as_those_in_memory_are(tmp_path: Path, seed: int) -> None:
    pair = _Pair(tmp_path / "app.db", seed)
    await pair.restart()
    steps = [pair.put, pair.put, pair.receive, pair.receive, pair.receive, pair.settle, pair.settle, pair.pass_time]
    for _ in range(100):
        await pair.chance.choice(steps)()
        if pair.chance.random() < 0.03:
            await pair.restart()
        memory, file = pair.connections
        assert await memory.events.pending() == await file.events.pending()
    while await pair.connections[0].events.pending():
        await asyncio.sleep(100)
        await pair.receive()
        while pair.claims:
            await pair.settle(deleted=0.9)
    assert not await pair.connections[1].events.pending()
    assert await pair.connections[0].facts.ended() == await pair.connections[1].facts.ended()
    for connection in pair.connections:
        await connection.close()


@pytest.mark.usefixtures("small")
async def test_what_waits_for_its_time_waits_through_a_restart(tmp_path: Path) -> None:
    here = world()
    connection = await store(tmp_path / "app.db").connect(here)
    await connection.events.put_many([event(number) for number in range(8)])
    claimed = await connection.events.receive("f", 8, 900)
    now = here.clock.now()
    await connection.events.settle_many([Release(each.receipt, now + 50, reason="E") for each in claimed])
    await asyncio.sleep(20)
    await connection.close()
    connection = await store(tmp_path / "app.db").connect(here)
    assert not await connection.events.due({"f"}, 29)
    began = asyncio.get_running_loop().time()
    assert [name for name, _ in await connection.events.due({"f"}, 5)] == ["f"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(1, abs=0.2)
    again: list[Event] = []
    while len(again) < 8:
        await connection.events.due({"f"}, 5)
        again += await connection.events.receive("f", 8, 900)
    assert {(each.attempts, each.payload) for each in again} == {(2, b'{"n": %d}' % number) for number in range(8)}
    await connection.close()


async def test_the_claim_of_a_process_that_died_counts_as_an_attempt(tmp_path: Path) -> None:
    """No close: the next engine finds the file as it is."""
    path, copy = tmp_path / "app.db", tmp_path / "copy"
    copy.mkdir()
    connection = await store(path).connect(world())
    await connection.events.put_many([event(1), event(2)])
    await connection.events.receive("f", 1, 900)
    for name in ("app.db", "app.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    after = await store(copy / "app.db").connect(world())
    assert [each.attempts for each in await after.events.receive("f", 5, 900)] == [2, 1]
    await after.close()
    await connection.close()


async def test_what_a_cancelled_receive_would_have_given_is_claimed_by_the_next(tmp_path: Path) -> None:
    connection = await store(tmp_path / "app.db").connect(world())
    await connection.events.put_many([event(1), event(2)])
    receiving = asyncio.ensure_future(connection.events.receive("f", 5, 900))
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])
    assert receiving.cancelled()
    claimed = await connection.events.receive("f", 5, 900)
    assert [(each.request_id, each.attempts) for each in claimed] == [("e1", 1), ("e2", 1)]
    await connection.close()


async def test_an_event_that_ended_is_not_taken_again_under_its_id(tmp_path: Path) -> None:
    connection = await store(tmp_path / "app.db").connect(world())
    for _ in range(2):
        await connection.events.put_many([event(1)])
        for claimed in await connection.events.receive("f", 5, 900):
            await connection.events.settle_many([Delete(claimed.receipt, "succeeded")])
    assert await connection.facts.ended() == {("f", "succeeded"): 1}
    await connection.close()


async def test_terminal_records_are_kept_up_to_a_limit_and_counted_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_events, "MAXIMUM_ENDED", 10)
    connection = await store(tmp_path / "app.db").connect(world())
    for number in range(25):
        await connection.events.put_many([event(number)])
        [claimed] = await connection.events.receive("f", 1, 900)
        await connection.events.settle_many([Delete(claimed.receipt, "succeeded")])
        await asyncio.sleep(0.01)
    await asyncio.sleep(3)
    kept = [number for number in range(25) if await connection.facts.event(f"e{number}") is not None]
    assert kept == list(range(15, 25))
    assert await connection.facts.ended() == {("f", "succeeded"): 25}
    await connection.close()


async def test_an_event_that_is_gone_from_the_file_is_not_handed_out(tmp_path: Path) -> None:
    connection = await store(tmp_path / "app.db").connect(world())
    await connection.events.put_many([event(1), event(2)])
    client = await store(tmp_path / "app.db").connect(world(), client=True)

    def remove(cursor: object, items: list[None]) -> list[None]:
        cursor.execute("DELETE FROM events WHERE request_id = 'e1'")  # type: ignore[attr-defined]
        return items

    await client.file.write(remove, None)
    assert [each.request_id for each in await connection.events.receive("f", 5, 900)] == ["e2"]
    await client.close()
    await connection.close()


async def test_clients_events_are_found_among_the_engines_own(tmp_path: Path) -> None:
    engine = await store(tmp_path / "app.db", 0.1).connect(world())
    client = await store(tmp_path / "app.db", 0.1).connect(world("client"), client=True)
    for number in range(40):
        await (client if number % 3 else engine).events.put_many([event(number, accepted_at=1_000.0)])
    await asyncio.sleep(1)
    claimed = await engine.events.receive("f", 100, 900)
    assert sorted(each.request_id for each in claimed) == sorted(f"e{number}" for number in range(40))
    await client.close()
    await engine.close()


async def test_the_file_shrinks_when_what_was_in_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_events, "MAXIMUM_ENDED", 0)
    path = tmp_path / "app.db"
    connection = await SqliteStore(path, executor=lambda call: call(), checkpoint_pages=100).connect(world())
    payload = b"x" * 50_000
    await connection.events.put_many([Event(f"e{number}", "f", payload, float(number)) for number in range(400)])
    await connection.events.put_many([event(1_000)])
    grown = path.stat().st_size
    claimed = await connection.events.receive("f", 400, 900)
    await connection.events.settle_many([Delete(each.receipt, "succeeded") for each in claimed])
    for _ in range(10):
        await asyncio.sleep(1)
    await connection.close()
    assert grown > 20_000_000
    assert path.stat().st_size < grown / 2
