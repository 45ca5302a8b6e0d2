"""Uploaded code of engines that share a store: fetched where it is missing, removed everywhere when nobody needs it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from random import Random

import pytest

from lambent.code_store import GRACE_SECONDS
from lambent.code_supply import CodeSupply, Needed
from lambent.configuration import ExecutionEnvironment
from lambent.errors import ResourceNotFound
from lambent.ports import World
from lambent.stores.memory_archive import MemoryArchive
from lambent.world import SystemClock, ids_of
from tests.semantics.zip_files import file, zipped

APP = zipped(file("app.py", b"def handler(event, context): ...\n"))
NAME = hashlib.sha256(APP).hexdigest()
SHA256 = base64.b64encode(hashlib.sha256(APP).digest()).decode()
APP_RUNS = ExecutionEnvironment(code=f"sha256:{SHA256}", runtime="python3.12", handler="app.handler")


class LaterClock(SystemClock):
    """The machine's time, and what went by."""

    more = 0.0

    def monotonic(self) -> float:  # type: ignore[override]
        return SystemClock.monotonic() + self.more

    def now(self) -> float:  # type: ignore[override]
        return SystemClock.now() + self.more


def supply(archive: MemoryArchive, directory: Path | None = None, clock: SystemClock | None = None) -> CodeSupply:
    chance = Random()
    made = CodeSupply(directory, World("me", clock or SystemClock(), chance.random, ids_of(chance)), reading=True)
    made.connect(archive)
    return made


async def test_an_engine_runs_what_was_uploaded_to_another(tmp_path: Path) -> None:
    archive = MemoryArchive(SystemClock())
    one, other = supply(archive), supply(archive)
    assert (await one.upload(APP, 1000)).sha256 == SHA256
    places = await asyncio.to_thread(other.find, APP_RUNS, tmp_path / "scratch")
    assert (places.folder / "app.py").read_bytes() == b"def handler(event, context): ...\n"
    assert await other.uploaded(SHA256) == APP
    one.close()
    other.close()
    assert not places.folder.exists(), "what it had fetched goes with it"


async def test_what_is_damaged_here_is_fetched_and_what_is_damaged_there_is_not_run(tmp_path: Path) -> None:
    archive = MemoryArchive(SystemClock())
    made = supply(archive, tmp_path)
    await made.upload(APP, 1000)
    kept = tmp_path / "zips" / f"{NAME}.zip"
    kept.chmod(0o600)
    kept.write_bytes(APP[:-1])
    assert await made.uploaded(SHA256) == APP
    assert kept.read_bytes() == APP, "it is whole again"
    kept.unlink()
    await archive.put(NAME, APP[:-1])
    with pytest.raises(ResourceNotFound, match="damaged: upload it again"):
        await made.uploaded(SHA256)
    assert not kept.exists()
    await archive.remove(NAME, 0)
    with pytest.raises(ResourceNotFound, match="no code with the hash"):
        await made.uploaded(SHA256)
    made.close()


async def test_what_no_function_needs_goes_from_the_archive_but_not_at_once() -> None:
    clock = LaterClock()
    archive = MemoryArchive(clock)
    made = supply(archive, clock=clock)
    await made.upload(APP, 1000)

    async def a_function() -> Needed:
        return Needed([APP_RUNS], [])

    async def a_layer() -> Needed:
        return Needed([], [APP_RUNS.code])

    async def none() -> Needed:
        return Needed([], [])

    await made.collect(none)
    assert await archive.get(NAME) == APP, "somebody may be about to say that it is needed"
    clock.more = GRACE_SECONDS + 1
    await made.collect(a_function)
    await made.collect(a_layer)
    assert await archive.get(NAME) == APP
    await made.collect(none)
    assert await archive.get(NAME) is None
    made.close()
