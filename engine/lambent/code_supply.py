"""The code that an engine runs, however many engines its store has: fetched where it is missing, removed where it is
unused.

Decides when uploaded code counts as kept (when the store's archive has it, if it has one), and what of it nobody
needs. What a reference to code means is `code_sources.py`'s, what is kept on this machine `code_store.py`'s.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lambent.configuration import ExecutionEnvironment
from lambent.ports import Archive, CodePlaces, World

if TYPE_CHECKING:
    from lambent.code_sources import CodeSources
    from lambent.code_store import Code


class Needed(NamedTuple):
    """The environments of all functions, and references of uploads that are needed beside."""

    environments: Sequence[ExecutionEnvironment]
    uploads: Sequence[str]


class CodeSupply:
    """Code, once somebody wants some; not every engine does. Without a directory it has one of its own, which goes with
    it: then only the store's archive keeps what was uploaded.

    `reading`: see `CodeSources`."""

    def __init__(self, directory: Path | None, world: World, reading: bool) -> None:
        self._directory = directory
        self._reading = reading
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._archive: Archive | None = None
        self._lock = threading.Lock()
        self._sources: CodeSources | None = None
        self._close: list[Callable[[], None]] = []

    def connect(self, archive: Archive | None) -> None:
        """The store's, which has what was uploaded to any of its engines."""
        self._archive = archive

    def find(self, environment: ExecutionEnvironment, scratch: Path) -> CodePlaces:
        """As `CodeSources.find`, from any thread but the loop's."""
        return self._opened().find(environment, scratch)

    def fingerprint(self, environment: ExecutionEnvironment) -> str:
        """As `find`."""
        return self._opened().fingerprint(environment)

    async def upload(self, zip_file: bytes, maximum_zipped_bytes: int) -> Code:
        """As `CodeSources.upload`; kept once this returns. Raises StoreUnavailable, too."""
        code = await asyncio.to_thread(lambda: self._opened().upload(zip_file, maximum_zipped_bytes))
        if self._archive is not None:
            from lambent.code_store import hexadecimal

            await self._archive.put(hexadecimal(code.sha256), zip_file)
        return code

    async def uploaded(self, sha256: str) -> bytes:
        """The zip of this hash. Raises ResourceNotFound, InvalidParameterValue, StoreUnavailable."""
        return await asyncio.to_thread(lambda: self._opened().uploaded(sha256))

    async def collect(self, needed: Callable[[], Awaitable[Needed]]) -> None:
        """Remove what nothing needs any longer. What was put in the last hour stays: somebody may be about to say that
        it is needed."""
        archive = self._archive
        ages = {} if archive is None else await archive.ages()
        if not ages and (self._directory is None or not self._directory.is_dir()):
            return
        from lambent.code_store import GRACE_SECONDS, hexadecimal

        environments, uploads = await needed()  # after `ages`: of what was needed before we looked, nothing is missed
        used = await asyncio.to_thread(lambda: self._opened().collect(environments, uploads))
        if archive is not None:
            for sha256 in ages.keys() - {hexadecimal(each) for each in used}:
                if ages[sha256] > GRACE_SECONDS:
                    await archive.remove(sha256, GRACE_SECONDS)

    def close(self) -> None:
        """Use nothing any longer."""
        while self._close:
            self._close.pop()()

    def _opened(self) -> CodeSources:
        """From any thread."""
        with self._lock:
            if self._sources is None:
                import shutil
                import tempfile

                from lambent.code_sources import CodeSources
                from lambent.code_store import CodeStore

                directory = self._directory
                if directory is None:
                    directory = Path(tempfile.mkdtemp(prefix="lambent-code-"))
                    directory.chmod(0o711)
                    self._close.append(partial(shutil.rmtree, directory, ignore_errors=True))
                store = CodeStore(directory, self._world, self._fetch)
                self._close.append(store.close)
                self._sources = CodeSources(store, reading=self._reading)
            return self._sources

    def _fetch(self, sha256: str) -> bytes | None:
        """What the archive has under this hash; in a thread, which waits for the loop."""
        archive = self._archive
        if archive is None:
            return None
        return asyncio.run_coroutine_threadsafe(_got(archive, sha256), self._loop).result()


async def _got(archive: Archive, sha256: str) -> bytes | None:
    return await archive.get(sha256)
