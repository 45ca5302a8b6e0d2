"""Engines whose functions run in processes of their own, and what is left of these afterwards: nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine

CODE = Path(__file__).parent / "code"
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
Call = Callable[..., Awaitable[Any]]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the function of these tests, in which environments may write, whoever they are."""
    folder = Path(shutil.copytree(CODE, tmp_path / "code"))
    folder.chmod(0o777)
    return folder


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine("memory://")
    yield made
    await made.stop()


@pytest.fixture
async def narrow() -> AsyncIterator[Engine]:
    """An engine with room for one environment, so that it is known which one serves a call."""
    made = Engine("memory://", maximum_environments=1)
    yield made
    await made.stop()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process, no zombie, no descriptor, no file."""
    before, before_us = len(os.listdir("/proc/self/fd")), children()
    yield
    assert children() <= before_us
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # an event loop of a next fixture, at most


def children() -> set[int]:
    """Of this process, dead ones too."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_bytes()
            except OSError:
                continue
            if int(stat.rpartition(b")")[2].split()[1]) == os.getpid():
                found.add(int(name))
    return found


def alive(pid: int) -> bool:
    """Is there such a process, and not only its zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def fifos(folder: Path, name: str) -> tuple[Path, Path]:
    """The two that `do_wait` opens: (the one that it waits at, the one that says so)."""
    made = folder / name, folder / f"{name}.waits"
    for each in made:
        os.mkfifo(each)
        each.chmod(0o666)
    return made


async def waits(fifo: Path) -> None:
    """Until a function says by this one that it waits at the other."""
    await asyncio.to_thread(fifo.read_bytes)


async def let_go(fifo: Path) -> None:
    """Whoever waits at it goes on."""
    await asyncio.to_thread(fifo.write_bytes, b"")
