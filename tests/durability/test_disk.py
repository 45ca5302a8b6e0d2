"""The simulated disk itself: it loses what plain SQLite may lose, keeps what it may not, and fails as it is told to."""

import contextlib
import random

import apsw
import pytest

from lambent.testing.disk import TROUBLES, Disk

CUTS = 60
ROWS = 40
FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_MAIN_DB


def cut(path, seed, synchronous):
    """Insert row after row into a file of WAL mode until the power goes off; how many were acknowledged and found."""
    before, after = path / f"{seed}-before", path / f"{seed}-after"
    before.mkdir()
    after.mkdir()
    acknowledged = 0
    with Disk(before, seed) as disk:
        disk.off_at = random.Random(seed).randint(1, 200)
        try:
            rows = apsw.Connection(str(before / "rows.db"), vfs=disk.name)
            rows.execute("PRAGMA journal_mode = WAL")
            rows.execute(f"PRAGMA synchronous = {synchronous}")
            rows.execute("PRAGMA wal_autocheckpoint = 8")
            rows.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data BLOB)")
            for id in range(ROWS):
                rows.execute("INSERT INTO row VALUES (?, randomblob(600))", (id,))
                acknowledged += 1
        except apsw.Error:
            assert disk.off
        disk.cut(seed, after)
    with Disk(after) as disk:
        rows = apsw.Connection(str(after / "rows.db"), vfs=disk.name)
        try:
            intact = rows.pragma("integrity_check") == "ok"
            found = rows.execute("SELECT count(*) FROM row").get if rows.table_exists("main", "row") else 0
        except apsw.Error:
            intact, found = False, 0
        rows.close()
    return acknowledged, found, intact


def test_a_power_cut_takes_acknowledged_rows_from_a_log_that_is_not_synced(tmp_path):
    outcomes = [cut(tmp_path, seed, "NORMAL") for seed in range(CUTS)]
    assert sum(found < acknowledged for acknowledged, found, _ in outcomes) > CUTS / 10
    assert all(intact for _, _, intact in outcomes)


def test_a_power_cut_takes_no_acknowledged_row_from_a_log_that_is_synced(tmp_path):
    outcomes = [cut(tmp_path, seed, "FULL") for seed in range(CUTS)]
    assert all(found >= acknowledged for acknowledged, found, _ in outcomes)
    assert all(intact for _, _, intact in outcomes)
    assert len({acknowledged for acknowledged, _, _ in outcomes}) > CUTS / 10


def test_a_power_cut_ruins_a_file_that_is_never_synced(tmp_path):
    outcomes = [cut(tmp_path, seed, "OFF") for seed in range(CUTS)]
    assert not all(intact for _, _, intact in outcomes)


def test_a_seed_cuts_the_power_in_the_same_way_each_time(tmp_path):
    def left(seed, number):
        before, after = tmp_path / f"{seed}-{number}", tmp_path / f"{seed}-{number}-after"
        before.mkdir()
        after.mkdir()
        with Disk(before) as disk:
            file = apsw.VFSFile(disk.name, str(before / "plain"), [FLAGS, 0])
            disk.sync_directory()
            for number in range(10):
                file.xWrite(bytes([number]) * 5000, number * 3000)
            file.xClose()
            disk.cut(seed, after)
        return {path.name: path.read_bytes() for path in after.iterdir()}

    assert [left(seed, 1) for seed in range(9)] == [left(seed, 2) for seed in range(9)]
    assert len({left(seed, 3)["plain"] for seed in range(9)}) > 4


def write(disk, path):
    """Rows 1 to 4, with a checkpoint before the last; gives those that were there before, and those acknowledged."""
    found, done = set(), set()
    try:
        rows = apsw.Connection(str(path), vfs=disk.name)
    except apsw.Error:
        return found, done
    with contextlib.suppress(apsw.Error), contextlib.closing(rows):
        if rows.pragma("journal_mode", "wal") != "wal":
            return found, done  # an error there is not raised, and a rollback journal is not safe at FULL
        rows.pragma("synchronous", "full")
        rows.execute("CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY)")
        found |= {id for (id,) in rows.execute("SELECT id FROM row")}
        for id in (1, 2, 3, 4):
            if id == 4:
                rows.wal_checkpoint()
            rows.execute("INSERT OR IGNORE INTO row VALUES (?)", (id,))
            done.add(id)
    return found, done


def test_what_goes_wrong_once_at_any_call_costs_no_acknowledged_row(tmp_path):
    (tmp_path / "calm").mkdir()
    with Disk(tmp_path / "calm") as disk:
        assert write(disk, tmp_path / "calm" / "rows.db") == (set(), {1, 2, 3, 4})
        calls = list(disk.calls)
    assert {call.split()[0] for call in calls} == {*TROUBLES}
    refused = 0
    for number, call in enumerate(calls, 1):
        for trouble in TROUBLES[call.split()[0]]:
            before, after = tmp_path / f"{number}-{trouble}", tmp_path / f"{number}-{trouble}-after"
            before.mkdir()
            after.mkdir()
            with Disk(before, number) as disk:
                disk.strikes[number] = trouble
                _, done = write(disk, before / "rows.db")
                assert disk.calls[number - 1] == call
                refused += len(done) < 4
                disk.cut(number, after)
            with Disk(after) as disk:
                found, more = write(disk, after / "rows.db")
                assert done <= found, (number, call, trouble)
                assert more == {1, 2, 3, 4}
    assert refused > len(calls) / 2


def test_a_failed_sync_is_not_made_good_by_the_next_one(tmp_path):
    lost = 0
    for seed in range(20):
        before, after = tmp_path / f"{seed}", tmp_path / f"{seed}-after"
        before.mkdir()
        after.mkdir()
        with Disk(before, seed) as disk:
            file = apsw.VFSFile(disk.name, str(before / "plain"), [FLAGS, 0])
            file.xWrite(b"x" * 4096, 0)
            disk.trouble = "EIO"
            with pytest.raises(apsw.IOError):
                file.xSync(apsw.SQLITE_SYNC_NORMAL)
            disk.trouble = None
            file.xSync(apsw.SQLITE_SYNC_NORMAL)
            assert file.xRead(4096, 0) == b"x" * 4096
            file.xClose()
            disk.sync_directory()
            disk.cut(seed, after)
        lost += (after / "plain").read_bytes() != b"x" * 4096
    assert 0 < lost < 20


def test_a_full_disk_takes_what_it_has_room_for_already(tmp_path):
    with Disk(tmp_path) as disk:
        file = apsw.VFSFile(disk.name, str(tmp_path / "plain"), [FLAGS, 0])
        file.xWrite(b"old", 0)
        disk.trouble = "ENOSPC"
        file.xWrite(b"new", 0)
        with pytest.raises(apsw.FullError):
            file.xWrite(b"more", 0)
        assert file.xRead(3, 0) == b"new"
        disk.trouble = "short"
        with pytest.raises(apsw.FullError):
            file.xWrite(b"half", 3)
        assert file.xFileSize() == 5
        assert disk.struck == {"ENOSPC": 1, "short": 1}
        file.xClose()
