"""Uploaded code: kept once by its hash, unpacked whole or not at all, removed when nobody uses it."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest

from lambent import InvalidParameterValue, StoreUnavailable
from lambent.code_store import GRACE_SECONDS, CodeStore, layered
from lambent.errors import RequestTooLarge, ResourceNotFound
from lambent.ports import World
from lambent.semantics import zips
from lambent.world import SystemClock, ids_of
from tests.semantics.zip_files import bomb, file, folder, quoted_overlap, zipped

APP = zipped(
    file("app.py", b"def handler(event, context): ...\n", method=8), file("bootstrap", b"#!/bin/sh\n", mode=0o100755),
    folder("empty/"), file("deep/er/data.bin", bytes(100_000), method=8), file("\u00e9.txt", b"e"),
)  # fmt: skip


class LaterClock(SystemClock):
    """The time, and some more."""

    def __init__(self, more: float = 0.0) -> None:
        self.more = more

    def now(self) -> float:  # type: ignore[override]
        return SystemClock.now() + self.more


def store_in(directory: Path, clock: LaterClock | None = None) -> CodeStore:
    chance = Random()
    return CodeStore(directory, World("me", clock or LaterClock(), chance.random, ids_of(chance)))


def tree(path: Path) -> dict[str, tuple[bytes | None, int]]:
    """Every file and folder, with its content and its mode."""
    return {
        str(each.relative_to(path)): (each.read_bytes() if each.is_file() else None, stat.S_IMODE(each.stat().st_mode))
        for each in sorted(path.rglob("*"))
    }


WHOLE = {
    "app.py": (b"def handler(event, context): ...\n", 0o444),
    "bootstrap": (b"#!/bin/sh\n", 0o555),
    "deep": (None, 0o755),
    "deep/er": (None, 0o755),
    "deep/er/data.bin": (bytes(100_000), 0o444),
    "empty": (None, 0o755),
    "\u00e9.txt": (b"e", 0o444),
}


def test_a_zip_is_kept_once_by_awss_hash_and_unpacked_as_it_was(tmp_path: Path) -> None:
    store = store_in(tmp_path / "a" / "code")
    code = store.put(APP)
    assert code == (base64.b64encode(hashlib.sha256(APP).digest()).decode(), len(APP), 100_044)
    assert store.put(APP) == code
    opened = store.open(code.sha256)
    assert tree(opened) == WHOLE
    assert store.open(code.sha256) == opened
    assert store_in(tmp_path / "a" / "code").open(code.sha256) == opened
    assert store.data(code.sha256) == APP
    assert len(list((tmp_path / "a" / "code" / "zips").iterdir())) == 1
    assert not list((tmp_path / "a" / "code" / "unfinished").iterdir())


def test_nobody_else_may_look_into_the_directory(tmp_path: Path) -> None:
    store = store_in(tmp_path / "code")
    store.put(APP)
    mode = 0o711 if os.geteuid() == 0 else 0o700  # root's functions run as somebody else
    assert stat.S_IMODE((tmp_path / "code").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "code" / "zips").stat().st_mode) == 0o700


REFUSED = {
    "a path that escapes": zipped(file("../escaped", b"x")),
    "a whole path": zipped(file("/tmp/escaped", b"x")),
    "a link": zipped(file("link", b"/etc", mode=0o120777)),
    "a file through a link": zipped(file("link", b"/tmp", mode=0o120777), file("link/escaped", b"x")),
    "a bomb": bomb(zips.MAXIMUM_UNZIPPED_BYTES // 4, 5),
    "an overlap": quoted_overlap(),
    "no zip": b"hello",
    "too much": bytes(zips.MAXIMUM_ZIPPED_BYTES + 1),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_nothing_behind(tmp_path: Path, data: bytes) -> None:
    store = store_in(tmp_path / "code")
    with pytest.raises((InvalidParameterValue, RequestTooLarge)):
        store.put(data)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("damage", [b"\x01", b""])
def test_what_turns_out_wrong_while_it_is_unpacked_leaves_no_folder(tmp_path: Path, damage: bytes) -> None:
    store = store_in(tmp_path)
    wrong = store.put(zipped(file("good", b"x"), file("bad", b"xx", method=8, crc=7)))
    with pytest.raises(InvalidParameterValue, match="'bad' is not what its directory says"):
        store.open(wrong.sha256)
    code = store.put(APP)
    path = tmp_path / "zips" / f"{base64.b64decode(code.sha256).hex()}.zip"
    path.chmod(0o600)
    path.write_bytes(APP[:-1] + damage)
    with pytest.raises(ResourceNotFound, match="damaged: upload it again"):
        store.open(code.sha256)
    assert not list((tmp_path / "folders").iterdir())
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.mark.parametrize("sha256", ["", "..", "a" * 44, "é", base64.b64encode(b"short").decode(), "../../etc/passwd"])
def test_what_is_no_hash_names_nothing(tmp_path: Path, sha256: str) -> None:
    with pytest.raises((InvalidParameterValue, ResourceNotFound)):
        store_in(tmp_path).open(sha256)


def test_a_hash_that_nobody_put_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ResourceNotFound, match="There is no code with the hash"):
        store_in(tmp_path).open(base64.b64encode(bytes(32)).decode())


def test_a_disk_that_takes_nothing_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("a file where the directory should be")
    with pytest.raises(StoreUnavailable, match="The code could not be stored"):
        store_in(tmp_path / "code").put(APP)


# --------------------------------------------------------------------------- layers


def test_layers_lie_over_each_other_in_their_order(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    one = store.put(zipped(file("python/a.py", b"one"), file("only/one", b"1"), folder("bin/"))).sha256
    two = store.put(zipped(file("python/a.py", b"two"), file("bin/tool", b"2", mode=0o100755))).sha256
    over, under = store.open_layers([one, two]), store.open_layers([two, one])
    assert tree(over)["python/a.py"] == (b"two", 0o444)
    assert tree(under)["python/a.py"] == (b"one", 0o444)
    assert tree(over).keys() == tree(under).keys()
    assert tree(over)["bin/tool"] == (b"2", 0o555)
    assert layered([one, two]) != layered([two, one])
    assert store.open_layers([one, two]) == over


@pytest.mark.parametrize(
    "second", [file("a/b", b"x"), file("dir", b"x"), file("A", b"x")], ids=["below a file", "for a folder", "capitals"]
)
def test_layers_that_do_not_fit_together_are_refused(tmp_path: Path, second: zips.Entry) -> None:
    store = store_in(tmp_path)
    layers = [store.put(zipped(*parts)).sha256 for parts in ((file("a", b"x"), folder("dir/")), (second,))]  # type: ignore[arg-type]
    with pytest.raises(InvalidParameterValue):
        store.open_layers(layers)
    assert not list((tmp_path / "folders").iterdir())


def test_layers_together_are_limited(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    half = bytes(zips.MAXIMUM_UNZIPPED_BYTES // 2 + 1)
    layers = [store.put(zipped(file(name, half, method=8))).sha256 for name in ("a", "b")]
    with pytest.raises(InvalidParameterValue, match="Unzipped size must be smaller"):
        store.open_layers(layers)


# --------------------------------------------------------------------------- others, and the end


def test_what_nobody_uses_is_collected_after_its_grace_and_nothing_else(tmp_path: Path) -> None:
    clock = LaterClock()
    store = store_in(tmp_path, clock)
    used, unused = (store.put(zipped(file(name))).sha256 for name in ("used", "unused"))
    folders = {each: store.open(each) for each in (used, unused)}
    layers = store.open_layers([used, unused])
    assert store.collect([used]) == 0  # somebody may be about to name them
    clock.more = GRACE_SECONDS + 10
    assert store.collect([used, layered([used, unused])]) == 1
    assert [each.exists() for each in (folders[used], folders[unused], layers)] == [True, False, True]
    assert store.collect([used]) == 1
    assert not layers.exists()
    assert store.open(used) == folders[used]
    with pytest.raises(ResourceNotFound):
        store.open(unused)
    assert store.collect([used]) == 0
    assert len(list((tmp_path / "locks").iterdir())) == 1


def test_what_another_process_uses_is_not_collected_until_it_dies(tmp_path: Path) -> None:
    clock = LaterClock()
    store = store_in(tmp_path, clock)
    sha256 = store.put(APP).sha256
    with process(tmp_path, f"store.open({sha256!r})\nprint('open', flush=True)\nsys.stdin.read()") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        clock.more = GRACE_SECONDS + 10
        assert store.collect([]) == 0
        other.kill()
        other.wait()
    assert store.collect([]) == 1


def test_putting_code_again_gives_it_another_grace(tmp_path: Path) -> None:
    clock = LaterClock()
    store = store_in(tmp_path, clock)
    code = store.put(APP)
    clock.more = GRACE_SECONDS + 10
    assert store.put(APP) == code
    assert store.collect([]) == 0


def test_threads_and_processes_that_unpack_the_same_zip_all_get_it_whole(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    many = zipped(*(file(f"f{number}", b"%d" % number) for number in range(200)))
    sha256 = store.put(many).sha256
    program = f"sys.stdin.readline()\nprint(len(list(store.open({sha256!r}).iterdir())))"
    with process(tmp_path, program) as one, process(tmp_path, program) as other:
        for each in (one, other):
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        threads = [threading.Thread(target=store.open, args=(sha256,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(store.open(sha256).iterdir())) == 200
        assert [each.communicate()[0] for each in (one, other)] == ["200\n", "200\n"]
    assert not list((tmp_path / "unfinished").iterdir())


def test_a_process_that_is_killed_at_a_sync_leaves_no_half_unpacked_code(tmp_path: Path) -> None:
    clock = LaterClock()
    data = tmp_path / "app.zip"
    data.write_bytes(APP)
    for number in range(1, 50, 2):
        program = (
            "import os, signal\n"
            "calls = iter(range(1, 1000))\n"
            "sync = os.fsync\n"
            f"os.fsync = lambda d: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == {number} else sync(d)\n"
            f"store.open(store.put(Path({str(data)!r}).read_bytes()).sha256)\n"
        )
        directory = tmp_path / str(number)
        with process(directory, program) as killed:
            killed.communicate()
        folders = list((directory / "folders").iterdir())
        assert [tree(each) for each in folders] in ([], [WHOLE])
        store = store_in(directory, clock)
        assert tree(store.open(store.put(APP).sha256)) == WHOLE
        if killed.returncode == 0:
            break
        clock.more = GRACE_SECONDS + 10
        store.collect([])
        assert not list((directory / "unfinished").iterdir())
        clock.more = 0.0
    assert 8 < number < 49


def process(directory: Path, program: str) -> subprocess.Popen[str]:
    """Another process with a store in the same directory."""
    prelude = (
        "import sys\nfrom pathlib import Path\nfrom random import Random\nfrom lambent.code_store import CodeStore\n"
        "from lambent.ports import World\nfrom lambent.world import SystemClock, ids_of\n"
        "world = World('other', SystemClock(), Random().random, ids_of(Random()))\n"
        f"store = CodeStore(Path({str(directory)!r}), world)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
