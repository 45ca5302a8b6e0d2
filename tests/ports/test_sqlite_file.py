"""A SQLite file: whose it is, what it must be, and what happens when the disk, a process or a version goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from lambent.errors import StoreUnavailable
from lambent.model import Checkpoint as Stored
from lambent.model import Delete, Event, Progress, Queue, Send
from lambent.ports import World
from lambent.stores import sqlite_opening
from lambent.stores.sqlite import UPGRADES, Connection, SqliteStore
from lambent.stores.sqlite_file import PATIENCE_SECONDS
from lambent.stores.sqlite_log import lost_in_log
from lambent.stores.sqlite_opening import Opening, creating
from lambent.testing import Disk
from lambent.testing.loop import VirtualClock, run

pytestmark = pytest.mark.virtual_time

_NUMBERS = itertools.count(1)


def inline(call: Callable[[], None]) -> None:
    call()


def world(owner: str = "engine-1") -> World:
    return World(owner, VirtualClock(asyncio.get_running_loop()), lambda: 0.5, lambda: f"id-{next(_NUMBERS)}")


def store(path: Path, **options: Any) -> SqliteStore:
    return SqliteStore(path, executor=inline, **options)


def event(request_id: str = "", function: str = "f", payload: bytes = b"{}") -> Event:
    return Event(request_id or f"e{next(_NUMBERS)}", function, payload, 1_000.0)


def names(events: Sequence[Event]) -> list[str]:
    return [each.request_id for each in events]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


# --------------------------------------------------------------------------- whose it is


async def test_a_second_engine_is_refused_and_told_which_process_has_the_file(path: Path) -> None:
    first = await store(path).connect(world())
    with pytest.raises(StoreUnavailable, match=f"another engine \\(process {os.getpid()}\\)"):
        await store(path).connect(world("engine-2"))
    await first.close()
    second = await store(path).connect(world("engine-2"))
    await second.close()


def test_the_lock_of_an_engine_ends_with_its_process(path: Path) -> None:
    program = (
        "import asyncio, sys; from lambent.stores.sqlite_lock import FileLock\n"
        "lock = FileLock(sys.argv[1]); asyncio.run(lock.take()); print('taken', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"

        async def look() -> None:
            with pytest.raises(StoreUnavailable, match=f"process {process.pid}"):
                await store(path).connect(world())
            process.kill()
            process.wait()
            await (await store(path).connect(world())).close()

        run(look())


async def test_a_client_sees_the_engines_events_and_the_engine_the_clients(path: Path) -> None:
    engine = await store(path).connect(world())
    client = await store(path).connect(world("client"), client=True)
    waiting = asyncio.ensure_future(engine.events.due({"f"}, 10))
    await client.events.put_many([event("from the client", payload=b'"hello"')])
    assert [name for name, _ in await waiting] == ["f"]
    assert asyncio.get_running_loop().time() < 0.25, "noticed within a tenth of a second, and two polls at most"
    [claimed] = await engine.events.receive("f", 10, 60)
    assert (claimed.request_id, claimed.payload, claimed.attempts) == ("from the client", b'"hello"', 1)
    fact = await client.facts.event("from the client")
    assert fact is not None
    assert fact.state == "running"
    assert await client.events.pending() == {"f": 1}
    assert not await client.events.receive("f", 10, 60)
    await engine.events.settle_many([Delete(claimed.receipt, "succeeded", b"1")])
    fact = await client.facts.event("from the client")
    assert fact is not None
    assert (fact.state, fact.result) == ("succeeded", b"1")
    assert await client.engines()
    await engine.close()
    assert not await client.engines()
    await client.close()


async def test_a_client_does_not_create_a_file(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"There is no .*app.db: name another store"):
        await store(path).connect(world(), client=True)
    assert not path.exists()


async def test_only_its_owner_may_read_the_file(path: Path) -> None:
    before = os.umask(0)
    try:
        connection = await store(path).connect(world())
        await connection.documents.put("a", "b", "c")
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("app.db", "app.db-wal", "app.db-shm", "app.db-lock"), 0o600)
    await connection.close()


# --------------------------------------------------------------------------- what it must be


async def test_every_pragma_is_read_back_and_another_value_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, (_, ask, expected) in enumerate(sqlite_opening.PRAGMAS):
        wrong = ("PRAGMA user_version", ask, expected)
        pragmas = [*sqlite_opening.PRAGMAS[:index], wrong, *sqlite_opening.PRAGMAS[index + 1 :]]
        file = path.with_name(f"{index}.db")
        monkeypatch.setattr(sqlite_opening, "PRAGMAS", pragmas)
        if ask in ("PRAGMA synchronous", "PRAGMA journal_size_limit"):  # by default as they should be, or nearly
            pragmas[index] = (f"{ask}=1", ask, "another")
        with pytest.raises(StoreUnavailable, match=f"SQLite answers {ask} with .* Put the file on a local disk"):
            await store(file).connect(world())
        assert not (file.exists() and apsw.Connection(str(file)).execute("SELECT count(*) FROM sqlite_schema").get)
        monkeypatch.undo()


async def test_to_open_a_file_writes_nothing_into_it(path: Path) -> None:
    with Disk(path.parent) as disk:
        await (await store(path, vfs=disk.name).connect(world())).close()
        connection = await store(path, vfs=disk.name).connect(world())
        calls = len(disk.calls)
        client = await store(path, vfs=disk.name).connect(world("client"), client=True)
        assert {call.split()[0] for call in disk.calls[calls:]} == {"open", "read", "access", "size"}
        await client.close()
        await connection.close()


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    await (await store(path).connect(world())).close()
    with apsw.Connection(str(path)) as newer:
        newer.pragma("user_version", len(UPGRADES) + 1)
    newer.close()
    before = path.read_bytes()
    for client in (False, True):
        with pytest.raises(StoreUnavailable, match=r"written by a newer lambent .* Install that version"):
            await store(path).connect(world(), client)
    assert path.read_bytes() == before


async def test_a_file_of_something_else_is_refused_and_left_as_it_is(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match=r"is a SQLite file of something else"):
        await store(path).connect(world())
    assert path.read_bytes() == before
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreUnavailable, match=r"it is no SQLite file"):
        await store(path).connect(world())


@pytest.mark.parametrize("name", ["missing/app.db", "."])
async def test_a_file_that_cannot_be_opened_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"directory must exist"):
        await store(tmp_path / name).connect(world())


def _steps(log: list[int], crash_at: int | None) -> Sequence[Callable[[apsw.Cursor], None]]:
    """Two upgrades whose statements are counted, and of which one may be the last of its process."""

    def counted(statement: str) -> Callable[[apsw.Cursor], None]:
        def step(cursor: apsw.Cursor) -> None:
            log.append(len(log))
            if crash_at == len(log):
                raise KeyboardInterrupt
            cursor.execute(statement)

        return step

    def both(*statements: str) -> Callable[[apsw.Cursor], None]:
        return lambda cursor: [counted(each)(cursor) for each in statements] and None

    return (
        *UPGRADES,
        both("CREATE TABLE fresh (x)", "INSERT INTO fresh SELECT id FROM events"),
        both("ALTER TABLE fresh ADD COLUMN y", "UPDATE fresh SET y = x"),
    )


def test_an_upgrade_that_is_interrupted_at_any_statement_leaves_the_file_as_it_was(path: Path) -> None:
    Opening(str(path), UPGRADES).open().connection.close()
    with apsw.Connection(str(path)) as old:
        row = "('a', 'f', 1, 1, x'', 1)"
        old.execute(f"INSERT INTO events (request_id, function, accepted_at, crc, body, body_crc) VALUES {row}")
    old.close()
    for crash_at in (1, 2, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            Opening(str(path), _steps([], crash_at)).open()
        same = apsw.Connection(str(path))
        assert same.pragma("user_version") == len(UPGRADES)
        assert not same.table_exists(None, "fresh")
        same.close()
    with pytest.raises(StoreUnavailable, match=r"written by an older lambent .* that upgrades it"):
        Opening(str(path), _steps([], None), client=True).open()
    upgraded = Opening(str(path), _steps([], None)).open().connection
    assert upgraded.pragma("user_version") == len(UPGRADES) + 2
    assert upgraded.execute("SELECT x, y FROM fresh").fetchall() == [(1, 1)]
    upgraded.close()


def test_an_upgrade_whose_process_dies_at_any_write_can_be_done_again(path: Path, tmp_path: Path) -> None:
    Opening(str(path), UPGRADES).open().connection.close()
    original = path.read_bytes()
    newer = (*UPGRADES, creating("CREATE TABLE fresh (x)", "INSERT INTO fresh VALUES (1)"))
    with Disk(tmp_path) as disk:
        Opening(str(path), newer, disk.name).open().connection.close()
        calls = len(disk.calls)
    for off_at in range(1, calls + 1):
        place, after = tmp_path / f"{off_at}", tmp_path / f"{off_at}-after"
        place.mkdir()
        after.mkdir()
        (place / "app.db").write_bytes(original)
        with Disk(place) as disk:
            disk.off_at = off_at
            with suppress(StoreUnavailable, apsw.Error):
                Opening(str(place / "app.db"), newer, disk.name).open().connection.close()
            disk.cut(off_at, after)
        again = Opening(str(after / "app.db"), newer).open().connection
        assert again.execute("SELECT x FROM fresh").fetchall() == [(1,)]
        again.close()


# --------------------------------------------------------------------------- when things go wrong


async def test_what_one_caller_does_wrong_strikes_nobody_else(path: Path) -> None:
    connection = await store(path).connect(world())

    def halve(cursor: apsw.Cursor, items: Sequence[int]) -> Sequence[int]:
        cursor.execute("CREATE TABLE IF NOT EXISTS halves (x)")
        for item in items:
            if item % 2:
                raise ValueError(f"{item} is odd")
            cursor.execute("INSERT INTO halves VALUES (?)", (item // 2,))
        return [item // 2 for item in items]

    calls = [connection.file.write(halve, item) for item in (2, 3, 4, 5, 6)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [each if isinstance(each, int) else str(each) for each in answers] == [1, "3 is odd", 2, "5 is odd", 3]
    stored = await connection.file.read(lambda cursor, _: [cursor.execute("SELECT x FROM halves").fetchall()], None)
    assert stored == [(1,), (2,), (3,)]
    await connection.close()


async def test_a_cancelled_put_is_stored_all_the_same_and_runs(path: Path) -> None:
    connection = await store(path).connect(world())
    putting = asyncio.ensure_future(connection.events.put_many([event("a")]))
    await asyncio.sleep(0)
    putting.cancel()
    await asyncio.wait([putting])
    assert [name for name, _ in await connection.events.due({"f"}, 1)] == ["f"]
    assert names(await connection.events.receive("f", 1, 60)) == ["a"]
    await connection.close()


async def test_after_a_failed_sync_the_file_is_opened_anew_before_anything_is_written(tmp_path: Path) -> None:
    with Disk(tmp_path) as disk:
        connection = await store(tmp_path / "app.db", vfs=disk.name, poll_seconds=None).connect(world())
        await connection.events.put_many([event("before")])
        disk.trouble = "EIO"
        with pytest.raises(StoreUnavailable, match=r"disk reports an error. .* Nothing is known to be stored"):
            await connection.events.put_many([event("refused")])
        with pytest.raises(StoreUnavailable):
            await connection.events.put_many([event("refused too")])
        disk.trouble = None
        begin = len(disk.calls)
        await connection.events.put_many([event("after")])
        opened = disk.calls[begin:].index("open app.db")
        assert "write app.db-wal" not in disk.calls[begin : begin + opened]
        stored = set(names(await connection.events.receive("f", 10, 60)))
        assert {"before", "after"} <= stored <= {"before", "refused", "after"}
        await connection.close()


async def test_an_event_whose_put_failed_and_was_stored_nevertheless_is_not_forgotten(tmp_path: Path) -> None:
    """The sync fails, but what was written is in the log, and is found when it is opened anew."""
    failing = False

    def before(number: int, call: str) -> None:
        if failing and call == "sync app.db-wal":
            disk.strikes[number] = "EIO"

    with Disk(tmp_path, before=before) as disk:
        connection = await store(tmp_path / "app.db", vfs=disk.name, poll_seconds=None).connect(world())
        failing = True
        with pytest.raises(StoreUnavailable):
            await connection.events.put_many([event("refused")])
        failing = False
        await connection.events.put_many([event("accepted", "g")])
        assert await connection.events.pending() == {"f": 1, "g": 1}
        await asyncio.sleep(0.1)
        assert dict(await connection.events.due({"f", "g"}, 1)).keys() == {"f", "g"}
        assert names(await connection.events.receive("f", 10, 60)) == ["refused"]
        await connection.close()


async def test_a_full_disk_refuses_and_the_engine_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with Disk(tmp_path) as disk:
        connection = await store(tmp_path / "app.db", vfs=disk.name, poll_seconds=None).connect(world())
        disk.trouble = "ENOSPC"
        with pytest.raises(StoreUnavailable, match=r"the disk is full. Free some space"):
            await connection.events.put_many([event(payload=b"x" * 100_000)])
        disk.trouble = None
        await connection.events.put_many([event("a")])
        assert names(await connection.events.receive("f", 10, 60)) == ["a"]
        await connection.close()


async def test_a_claim_that_was_not_written_is_no_attempt_and_is_claimed_again(tmp_path: Path) -> None:
    with Disk(tmp_path) as disk:
        connection = await store(tmp_path / "app.db", vfs=disk.name, poll_seconds=None).connect(world())
        await connection.events.put_many([event("a")])
        disk.trouble = "ENOSPC"
        with pytest.raises(StoreUnavailable):
            await connection.events.receive("f", 1, 60)
        disk.trouble = None
        [claimed] = await connection.events.receive("f", 1, 60)
        assert claimed.attempts == 1
        disk.trouble = "ENOSPC"
        with pytest.raises(StoreUnavailable):
            await connection.events.settle_many([Delete(claimed.receipt, "succeeded")])
        disk.trouble = None
        assert list(await connection.events.settle_many([Delete(claimed.receipt, "succeeded")])) == [True]
        await connection.close()


async def test_a_writer_that_holds_the_file_for_too_long_refuses_others_and_does_not_hang_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_opening, "BUSY_SECONDS", 0.01)
    connection = await store(path).connect(world())
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"another process has held it for too long"):
        await connection.documents.put("a", "b", "c")
    other.execute("COMMIT")
    other.close()
    assert await connection.documents.put("a", "b", "c") is not None
    await connection.close()


# --------------------------------------------------------------------------- damage


async def _spoil(path: Path, statement: str) -> None:
    with apsw.Connection(str(path)) as hand:
        hand.execute(statement)
    hand.close()


def _heard(connection: Connection) -> list[str]:
    troubles: list[str] = []
    connection.on_trouble(troubles.append)
    return troubles


async def test_a_damaged_event_is_set_aside_and_the_others_run(path: Path) -> None:
    connection = await store(path).connect(world())
    await connection.events.put_many([event(f"e{number}", payload=b'{"n": %d}' % number) for number in range(5)])
    await connection.close()
    await _spoil(path, "UPDATE events SET body = x'7b7d' WHERE request_id = 'e2'")
    await _spoil(path, "UPDATE events SET accepted_at = 7 WHERE request_id = 'e3'")
    connection = await store(path).connect(world())
    troubles = _heard(connection)
    assert names(await connection.events.receive("f", 10, 60)) == ["e0", "e1", "e4"]
    await asyncio.sleep(0.2)
    assert sorted(each.partition(":")[0] for each in troubles) == ["A row of events was damaged and is set aside"] * 2
    kept = connection.file.read(lambda cursor, _: [cursor.execute("SELECT name FROM quarantine").fetchall()], None)
    assert {name for (name,) in await kept} == {"e2", "e3"}
    assert await connection.events.pending() == {"f": 3}
    await connection.close()


async def test_damaged_documents_leases_and_results_are_set_aside(path: Path) -> None:
    connection = await store(path).connect(world())
    for name in ("good", "bad"):
        await connection.documents.put("mapping", name, "{}")
        lease = (await connection.leases.heartbeat("m", [name], 60)).leases[name]
        [lease] = await connection.leases.take_many([lease], 60)
        await connection.leases.checkpoint_many([(lease, Stored(Progress("7"), ()))])
        await connection.events.put_many([event(name)])
    claimed = await connection.events.receive("f", 10, 60)
    await connection.events.settle_many([Delete(each.receipt, "succeeded", b'"yes"') for each in claimed])
    await connection.close()
    await _spoil(path, "UPDATE documents SET body = '[]' WHERE name = 'bad'")
    await _spoil(path, "UPDATE leases SET progress = replace(progress, '7', '8') WHERE shard = 'bad'")
    await _spoil(path, "UPDATE events SET body = x'226e6f21' WHERE request_id = 'bad'")
    connection = await store(path).connect(world())
    troubles = _heard(connection)
    assert [each.name for each in await connection.documents.list("mapping")] == ["good"]
    seen = (await connection.leases.heartbeat("m", ["good", "bad"], 60)).leases
    assert (seen["good"].progress, seen["bad"].progress) == (Progress("7"), None)
    assert await connection.facts.event("bad") is None
    assert await connection.facts.event("good") is not None
    await asyncio.sleep(0.2)
    assert [each.split()[3] for each in troubles] == ["documents", "leases", "events"]
    await connection.close()


async def test_text_that_is_no_longer_utf_8_is_set_aside_and_hides_nobody(path: Path) -> None:
    connection = await store(path).connect(world())
    await connection.events.put_many([event(f"e{number}") for number in range(3)])
    sent = await connection.queue(Queue(name="q")).send_many([Send(body) for body in ("a", "b", "c")])
    for name in ("good", "bad"):
        await connection.documents.put("mapping", name, "{}")
    await connection.close()
    await _spoil(path, "UPDATE events SET function = CAST(x'66ff' AS TEXT) WHERE request_id = 'e1'")
    await _spoil(path, "UPDATE messages SET body = CAST(x'ff' AS TEXT) WHERE body = 'b'")
    await _spoil(path, "UPDATE documents SET name = CAST(x'62ff' AS TEXT) WHERE name = 'bad'")
    connection = await store(path).connect(world())
    troubles = _heard(connection)
    assert names(await connection.events.receive("f", 10, 60)) == ["e0", "e2"]
    assert [each.id for each in await connection.queue(Queue(name="q")).receive(10, 0)] == [sent[0], sent[2]]
    assert [each.name for each in await connection.documents.list("mapping")] == ["good"]
    await asyncio.sleep(0.2)
    assert sorted(each.split()[3] for each in troubles) == ["documents", "events", "messages"]
    await connection.close()


async def test_a_damaged_index_is_made_anew(path: Path) -> None:
    connection = await store(path).connect(world())
    await connection.events.put_many([event(f"e{number}") for number in range(3)])
    await connection.close()
    change = "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'events_waiting'"
    for before, after in (("due_at IS NULL", "due_at IS 5"), ("due_at IS 5", "due_at IS NULL")):
        hand = apsw.Connection(str(path))
        hand.execute("REINDEX")  # without an entry for what waits
        hand.pragma("writable_schema", 1)
        hand.execute(change, (before, after))
        hand.close()
    connection = await store(path).connect(world())
    assert [each.partition(":")[0] for each in _heard(connection)] == ["An index was damaged and has been made anew"]
    assert names(await connection.events.receive("f", 10, 60)) == ["e0", "e1", "e2"]
    await connection.close()


async def test_a_log_that_was_cut_short_by_damage_is_reported_and_kept(path: Path, tmp_path: Path) -> None:
    connection = await store(path).connect(world())
    for number in range(6):
        await connection.events.put_many([event(f"e{number}")])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    log = bytearray(path.with_name("app.db-wal").read_bytes())
    frame = 24 + 4096
    for damaged, told in ((len(log) - frame // 2, False), (len(log) - 6 * frame, True)):
        (crashed / "app.db").write_bytes(path.read_bytes())
        spoiled = bytearray(log)
        spoiled[damaged] ^= 1
        (crashed / "app.db-wal").write_bytes(spoiled)
        after = await store(crashed / "app.db").connect(world())
        assert [each.partition(":")[0] for each in _heard(after)] == ["The log was damaged"] * told
        assert (crashed / "app.db-wal-damaged").exists() == told
        await after.close()
    await connection.close()


# --------------------------------------------------------------------------- sizes


def test_a_frame_whose_head_was_torn_is_not_taken_for_a_lost_commit(tmp_path: Path) -> None:
    rows = apsw.Connection(str(tmp_path / "rows.db"))
    rows.pragma("journal_mode", "wal")
    rows.execute("CREATE TABLE row (data BLOB)")
    frames = rows.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[0]
    for _ in range(200):
        rows.execute("INSERT INTO row VALUES (zeroblob(3000))")
    log = (tmp_path / "rows.db-wal").read_bytes()
    rows.close()
    starts = range(32 + frames * 4120, len(log), 4120)
    commits = [at for at in starts if log[at + 4 : at + 8] != bytes(4)]
    torn, following = next(pair for pair in itertools.pairwise(commits) if pair[0] % 512 == 504)
    before, path = (torn - 32) // 4120, tmp_path / "copy-wal"
    for size in (0, 8):  # nothing; its head up to the border
        damaged = bytearray(log[: following + 4120])
        damaged[torn : torn + size] = b"\xff" * size
        path.write_bytes(damaged)
        assert (lost_in_log(str(path), before) is None) == (size > 0)


async def test_the_log_is_copied_into_the_file_before_it_grows_long(path: Path) -> None:
    connection = await store(path, checkpoint_pages=50).connect(world())
    for _ in range(100):
        await connection.events.put_many([event(payload=b"x" * 10_000)])
    assert path.with_name("app.db-wal").stat().st_size < 100 * 4120
    await connection.close()


async def test_a_log_that_another_process_keeps_from_being_emptied_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_opening, "LONG_LOG_PAGES", 100)
    connection = await store(path, checkpoint_pages=50).connect(world())
    troubles = _heard(connection)
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT * FROM meta").fetchall()
    for _ in range(60):
        await connection.events.put_many([event(payload=b"x" * 10_000)])
    assert any("cannot be emptied: another process has been reading" in each for each in troubles)
    reader.close()
    for _ in range(60):
        await connection.events.put_many([event(payload=b"x" * 10_000)])
    told = len(troubles)
    for _ in range(60):
        await connection.events.put_many([event(payload=b"x" * 10_000)])
    assert len(troubles) == told
    await connection.close()


async def test_time_does_not_go_back_behind_what_the_file_has_seen(path: Path) -> None:
    here = world()
    connection = await store(path).connect(here)
    assert isinstance(here.clock, VirtualClock)
    here.clock.shift(1_000_000)
    before = connection.file.clock.now()
    await asyncio.sleep(10)
    assert connection.file.clock.now() == pytest.approx(before + 10)
    await connection.documents.put("a", "b", "c")
    await connection.close()
    here.clock.shift(-2_000_000)
    connection = await store(path).connect(here)
    assert connection.file.clock.now() >= before + 9
    await connection.close()


async def test_clients_go_by_the_clock_of_the_engine_wherever_wall_clocks_are_set_to(path: Path) -> None:
    here = world()
    assert isinstance(here.clock, VirtualClock)
    engine = await store(path).connect(here)
    client = await store(path).connect(world("client"), client=True)
    here.clock.shift(86_400)
    later = await store(path).connect(here, client=True)
    assert later.file.clock.now() == client.file.clock.now() == engine.file.clock.now()
    await engine.close()
    engine = await store(path).connect(here)
    await asyncio.sleep(0.3)
    assert client.file.clock.now() == engine.file.clock.now() == pytest.approx(here.clock.now())
    for connection in (later, client, engine):
        await connection.close()


async def test_a_settlement_waits_a_moment_for_others_and_goes_along_with_the_next_write(path: Path) -> None:
    connection = await store(path).connect(world())
    events, time = connection.events, asyncio.get_running_loop().time
    await events.put_many([event(), event()])
    first, second = await events.receive("f", 2, 60)
    began = time()
    assert await events.settle_many([Delete(first.receipt, "succeeded", b"1")]) == [True]
    assert time() == pytest.approx(began + PATIENCE_SECONDS)
    began = time()
    settled = asyncio.ensure_future(events.settle_many([Delete(second.receipt, "succeeded", b"2")]))
    await asyncio.sleep(0)
    await events.put_many([event()])
    assert await settled == [True]
    assert time() == began
    await connection.close()
