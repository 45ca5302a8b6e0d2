"""The kernel's groups: what is written where, whose processes are in them, and what they keep an environment from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lambent import Engine
from lambent.runtimes import cgroups
from lambent.runtimes.beginning import Launcher
from lambent.runtimes.launching import Launch
from tests.environments.conftest import alive

MEGABYTE = 1024 * 1024


class Tree:
    """Files as the kernel has them, for what cannot be made on every machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        self.proc.mkdir()
        (self.proc / "mountinfo").touch()
        (self.proc / "cgroup").touch()

    def mount(self, kind: str, controllers: str, group: str, root: str = "/") -> Path:
        """Mount a hierarchy, in which we are in this group; gives the group's folder."""
        place = self.folder / (controllers or "unified")
        inside = place / group.removeprefix(root).strip("/")
        inside.mkdir(parents=True)
        with open(self.proc / "mountinfo", "a") as file:
            file.write(f"36 25 0:{os.getpid()} {root} {place} rw,relatime - {kind} cgroup rw,{controllers}\n")
        with open(self.proc / "cgroup", "a") as file:
            file.write(f"{0 if kind == 'cgroup2' else 3}:{controllers}:{group}\n")
        return inside

    def unified(self, controllers: str, *processes: int, group: str = "/lambent.service") -> Path:
        inside = self.mount("cgroup2", "", group)
        for name, text in (
            ("cgroup.controllers", controllers),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", "\n".join(map(str, processes))),
        ):
            (inside / name).write_text(text)
        return inside


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def written(folder: Path) -> dict[str, str]:
    (made,) = folder.glob(f"lambent-{os.getpid()}-*")
    return {each.name: each.read_text() for each in made.iterdir()}


def test_of_version_2_the_engine_goes_into_a_group_below_its_own_so_that_others_there_have_limits(tree: Tree) -> None:
    own = tree.unified("cpu memory pids", os.getpid())
    assert cgroups.find(tree.proc) == cgroups.Ground(2, own, own)
    assert (own / "lambent-engine" / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert written(own) == {
        "memory.max": str(64 * MEGABYTE), "memory.oom.group": "1", "memory.swap.max": "0", "pids.max": "1024",
    }  # fmt: skip


def test_an_engine_that_is_in_its_group_already_finds_it_again(tree: Tree) -> None:
    own = tree.unified("memory pids", os.getpid(), group="/lambent.service/lambent-engine").parent
    (own / "cgroup.controllers").write_text("memory pids")
    (own / "cgroup.subtree_control").write_text("memory pids")
    assert cgroups.find(tree.proc) == cgroups.Ground(2, own, own)


@pytest.mark.parametrize("reason", ["others are there", "no controller"])
def test_where_version_2_cannot_be_had_version_1_is_taken(tree: Tree, reason: str) -> None:
    if reason == "others are there":
        own = tree.unified("memory pids", os.getpid(), os.getppid())
    else:
        own = tree.unified("cpu", os.getpid())
    memory = tree.mount("cgroup", "memory", "/docker/a/b", root="/docker/a")
    pids = tree.mount("cgroup", "pids", "/")
    assert cgroups.find(tree.proc) == cgroups.Ground(1, memory, pids)
    assert (own / "cgroup.subtree_control").read_text() == ""
    limits = {"memory.limit_in_bytes": str(64 * MEGABYTE), "memory.memsw.limit_in_bytes": str(64 * MEGABYTE)}
    assert written(memory) == limits
    assert written(pids) == {"pids.max": "1024"}


def test_where_there_is_neither_nothing_is_found(tree: Tree) -> None:
    tree.mount("cgroup", "cpu", "/")
    assert cgroups.find(tree.proc) is None
    assert cgroups.find(tree.folder / "nowhere") is None


def test_what_no_group_can_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for ground, said in ((None, "four times a second"), (cgroups.Ground(1, Path("/m"), None), "are not counted")):
        monkeypatch.setattr(cgroups, "ground", lambda found=ground: found)
        (gap,) = cgroups.gaps()
        assert said in gap


def missing() -> list[str]:
    """What this machine has no group for: then that is said, and what a group would keep is not kept."""
    return cgroups.gaps()


async def test_a_child_that_takes_too_much_memory_ends_its_environment(narrow: Engine, code: Path) -> None:
    narrow.function_from(code, handler="app.handler", timeout_seconds=30, memory_size_mb=128)
    async with narrow:
        answer = await narrow.invoke_response("code", {"do": "allocating_child"})
        assert b"Runtime.OutOfMemory" in answer.payload
        assert (await narrow.invoke("code"))["calls"] == 1


async def test_an_environment_has_a_limited_number_of_processes(
    narrow: Engine, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "MAXIMUM_PROCESSES", 12)
    narrow.function_from(code, handler="app.handler", timeout_seconds=30)
    async with narrow:
        forked = await narrow.invoke("code", {"do": "forks", "times": 30})
        assert forked == (30 if missing() else 11)
        assert (await narrow.invoke("code"))["calls"] == 2


async def test_a_daemon_that_nothing_tells_from_others_ends_with_its_environment(narrow: Engine, code: Path) -> None:
    narrow.function_from(code, handler="app.handler", timeout_seconds=30)
    async with narrow:
        pid = await narrow.invoke("code", {"do": "nameless_daemon"})
        assert alive(pid)
    assert alive(pid) == bool(missing())


async def test_nothing_is_left_of_a_group(narrow: Engine, code: Path) -> None:
    ground = cgroups.ground()
    folders = [] if ground is None else ground.folders

    def groups() -> set[Path]:
        return {each for folder in folders for each in folder.glob(f"lambent-{os.getpid()}-*")}

    others = groups()  # of engines that another module's tests keep
    narrow.function_from(code, handler="app.handler", timeout_seconds=30)
    async with narrow:
        await narrow.invoke("code")
        assert len(groups() - others) >= len(folders), "its process's, and soon those of the next one, which waits"
    assert groups() == others


def begun(ground: cgroups.Ground, command: list[str]) -> tuple[int, str]:
    """The number of a process whose groups are to be there, and what it printed."""
    launcher = Launcher(ground, dropping=False)
    reader, writer = os.pipe()
    try:
        told = Launch(command, {"PATH": "/usr/bin:/bin"}, "/", {}).told()
        child = launcher.begin(told, (writer, writer), lambda pid: None)
        os.close(writer)
        with open(reader) as printed:
            said = printed.read()
        assert child.wait() == 0
        cgroups.Group(ground, child.pid).remove()
    finally:
        launcher.close()
    return child.pid, said


@pytest.mark.parametrize("version", [1, 2])
def test_a_process_is_in_its_group_before_it_is_a_client(tmp_path: Path, version: int) -> None:
    entrance = "tasks" if version == 1 else "cgroup.procs"
    own = f"{tmp_path}/lambent-{os.getpid()}-$$/{entrance}"
    _, said = begun(cgroups.Ground(version, tmp_path, tmp_path), ["sh", "-c", f"cat {own}"])
    assert said == "0", "it wrote itself there"


def test_all_that_a_process_forks_is_in_its_group_of_version_2(tmp_path: Path) -> None:
    """As the kernel has it, where that can be: groups of version 2 without limits."""
    unified = [each for each in mounted("cgroup2") if os.access(each, os.W_OK)]
    if not unified:
        assert (cgroups.ground() or cgroups.Ground(1, tmp_path, None)).version == 1
        return
    pid, said = begun(cgroups.Ground(2, unified[0], None), ["sh", "-c", "cat /proc/self/cgroup & wait"])
    assert f"0::/lambent-{os.getpid()}-{pid}\n" in said


def mounted(kind: str) -> list[Path]:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(line[1]) for line in lines if line[2] == kind]
