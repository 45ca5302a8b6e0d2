"""Code that was uploaded: each zip once, under its hash, and the folders that it is run from.

Decides how zips and folders become durable, when they may be removed, and who may use one meanwhile. What may be
unpacked is `semantics/zips.py`'s; which functions run which code is not known here.

Where the store that engines share keeps zips, too (`elsewhere`), this directory is what one of them has fetched of it:
a zip that is missing or damaged here is fetched, and judged by its hash.

A zip counts as stored when it is synced under its last name, and a folder when it has been renamed to its own: so a
process that is killed, at any point, leaves at most a folder in `unfinished`. Two processes that unpack the same zip
do it twice, and one of them wins. Who uses a folder holds a shared lock on it, which the kernel drops when its process
dies; `collect` removes only what nobody holds.

Everything here waits for a disk: call it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lambent.errors import InvalidParameterValue, ResourceNotFound, StoreUnavailable
from lambent.ports import World
from lambent.semantics import zips

try:
    import fcntl
except ImportError:  # no POSIX: then one process a directory is the user's care
    fcntl = None  # type: ignore[assignment]

GRACE_SECONDS: Final = 3600.0
"""What was stored, or left unfinished, later than so long ago is not collected: whoever put it may be about to say
that it is used."""
_FILE: Final = 0o444
_PROGRAM: Final = 0o555
_FOLDER: Final = 0o755
_SUFFIX: Final = ".zip"


class Code(NamedTuple):
    """A zip that is stored. `sha256` is AWS's CodeSha256: the hash in base64."""

    sha256: str
    zipped_bytes: int
    unzipped_bytes: int


class CodeStore:
    """A directory of code. Any number of processes may share it, on one machine. It is made when it is needed.

    elsewhere: gives a zip that is missing here, by its hash in hexadecimal, if it has it; it may raise
    StoreUnavailable."""

    def __init__(
        self, directory: Path, world: World, elsewhere: Callable[[str], bytes | None] = lambda sha256: None
    ) -> None:
        self.directory = directory
        self._elsewhere = elsewhere
        self._zips = directory / "zips"
        self._folders = directory / "folders"
        self._unfinished = directory / "unfinished"
        self._locks = directory / "locks"
        self._world = world
        self._held: dict[str, int] = {}

    def put(
        self,
        data: bytes,
        maximum_unzipped_bytes: int = zips.MAXIMUM_UNZIPPED_BYTES,
        maximum_zipped_bytes: int = zips.MAXIMUM_ZIPPED_BYTES,
    ) -> Code:
        """Store a zip, durably, if it may be unpacked; nothing is inflated. Storing it again changes nothing.

        Raises InvalidParameterValue or RequestTooLarge, with AWS's words; StoreUnavailable if no disk takes it."""
        archive = zips.scan(data, maximum_unzipped_bytes, maximum_zipped_bytes)
        digest = hashlib.sha256(data).digest()
        path = self._zips / f"{digest.hex()}{_SUFFIX}"
        with _disk("stored"):
            self._prepare()
            with self._locked(digest.hex()):
                if path.exists():
                    now = self._world.clock.now()
                    os.utime(path, (now, now))  # its grace begins anew
                else:
                    self._put(path, data)
        return Code(base64.b64encode(digest).decode(), len(data), archive.unzipped_bytes)

    def data(self, sha256: str) -> bytes:
        """The zip. Raises ResourceNotFound; StoreUnavailable if it cannot be fetched."""
        name = hexadecimal(sha256)
        path = self._zips / f"{name}{_SUFFIX}"
        here = path.read_bytes() if path.exists() else None
        if here is not None and hashlib.sha256(here).hexdigest() == name:
            return here
        there = self._elsewhere(name)
        if there is not None and hashlib.sha256(there).hexdigest() == name:
            with _disk("stored"):
                self._prepare()
                self._put(path, there)
            return there
        if here is None and there is None:
            raise ResourceNotFound(f"There is no code with the hash {sha256}.")
        raise ResourceNotFound(f"The code with the hash {sha256} is damaged: upload it again.")

    def open(self, sha256: str) -> Path:
        """The folder with what is in the zip, to be read; it stays until this store is closed, or `collect` hears that
        it is not used. Files may be read by all, and run where the zip says so; nobody may write.

        Raises ResourceNotFound; InvalidParameterValue if its bytes are not what the zip's directory says."""
        name = hexadecimal(sha256)
        with _disk("unpacked"), self._hold(name) as folder:
            if not folder.is_dir():
                data = self.data(sha256)
                self._make(folder, [(data, entry) for entry in scanned(data).entries])
        return folder

    def open_layers(self, layers: Sequence[str]) -> Path:
        """A folder with what is in these zips, laid over each other in this order, as /opt. As `open`; what a later
        layer has in place of a folder or below a file of an earlier one is refused. It is called `layered(layers)`."""
        with _disk("unpacked"), self._hold(hexadecimal(layered(layers))) as folder:
            if not folder.is_dir():
                found: dict[str, tuple[bytes, zips.Entry]] = {}
                for layer in layers:
                    data = self.data(layer)
                    for entry in scanned(data).entries:
                        known = found.get(entry.name)
                        if known is not None and known[1].folder != entry.folder:
                            raise zips.refused(f"{zips.shown(entry.name)} is a folder in one layer and not in another")
                        found[entry.name] = data, entry
                zips.check_together(entry for _, entry in found.values())
                self._make(folder, list(found.values()))
        return folder

    def collect(self, used: Collection[str]) -> int:
        """Remove what none of `used` (hashes, and `layered` ones) names and no process uses; how many that was."""
        keep = {hexadecimal(each) for each in used}
        removed = 0
        for name in [each for each in self._held if each not in keep]:
            self._let_go(name)
        oldest = self._world.clock.now() - GRACE_SECONDS
        for name in self._names() - keep:
            if self._remove(name, oldest):
                removed += 1
        for path in _listed(self._unfinished):
            if _modified(path) < oldest:
                _delete(path)
        return removed

    def close(self) -> None:
        """Use nothing any longer."""
        for name in list(self._held):
            self._let_go(name)

    def _put(self, path: Path, data: bytes) -> None:
        unfinished = self._new()
        try:
            _write(unfinished, [data], _FILE)
            unfinished.rename(path)
        except BaseException:
            _delete(unfinished)
            raise
        _sync(self._zips)

    # --- folders ---------------------------------------------------------------------------------------------------

    def _make(self, folder: Path, parts: Sequence[tuple[bytes, zips.Entry]]) -> None:
        """Unpack into a folder that nobody knows, then give it its name."""
        unfinished = self._new()
        unfinished.mkdir(mode=_FOLDER)
        try:
            made = {unfinished}
            for data, entry in parts:
                path = unfinished / entry.name
                above = path if entry.folder else path.parent
                if above not in made:
                    above.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
                    made.add(above)
                if not entry.folder:
                    _write(path, zips.contents(data, entry), _PROGRAM if entry.executable else _FILE)
            for each in [unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())]:
                each.chmod(_FOLDER)  # whatever the umask
                _sync(each)
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was as fast
                    raise
            _sync(self._folders)
        finally:
            if unfinished.exists():
                _delete(unfinished)

    def _remove(self, name: str, oldest: float) -> bool:
        with self._locked(name, exclusively=True) as free:
            path, folder = self._zips / f"{name}{_SUFFIX}", self._folders / name
            modified = max(_modified(path), _modified(folder))
            if not free or modified >= oldest:
                return False
            if folder.exists():
                gone = self._new()
                folder.rename(gone)
                _delete(gone)
            path.unlink(missing_ok=True)
            (self._locks / name).unlink(missing_ok=True)
            return modified > 0

    def _names(self) -> set[str]:
        return {path.stem for place in (self._zips, self._folders, self._locks) for path in _listed(place)}

    def _prepare(self) -> None:
        # Root's functions run as somebody else, who may read what he knows the hash of; others' are their own.
        mode = 0o711 if hasattr(os, "geteuid") and os.geteuid() == 0 else 0o700
        for place in (self.directory, self._zips, self._folders, self._unfinished, self._locks):
            if not place.is_dir():
                place.mkdir(mode=mode, parents=True, exist_ok=True)
                place.chmod(mode if place in (self.directory, self._folders) else 0o700)

    def _new(self) -> Path:
        return self._unfinished / self._world.new_id()

    # --- locks -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _hold(self, name: str) -> Iterator[Path]:
        """Nobody removes this folder, for as long as we hold it; not at all if what is done inside fails."""
        self._prepare()
        folder = self._folders / name
        if name in self._held:
            yield folder
            return
        descriptor = self._lock(name, exclusively=False)
        try:
            yield folder
        except BaseException:
            _close(descriptor)
            raise
        if name in self._held:  # another thread was as fast
            _close(descriptor)
        elif descriptor is not None:
            self._held[name] = descriptor

    @contextlib.contextmanager
    def _locked(self, name: str, exclusively: bool = False) -> Iterator[bool]:
        """A lock for a moment; False: others have it, and they may keep it for long."""
        descriptor = self._lock(name, exclusively)
        try:
            yield descriptor is not None or fcntl is None
        finally:
            _close(descriptor)

    def _lock(self, name: str, exclusively: bool) -> int | None:
        if fcntl is None:
            return None
        path = self._locks / name
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusively else fcntl.LOCK_SH)
                with contextlib.suppress(FileNotFoundError):
                    if os.fstat(descriptor).st_ino == path.stat().st_ino:
                        return descriptor  # else it was removed while we waited
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _let_go(self, name: str) -> None:
        _close(self._held.pop(name, None))


def scanned(data: bytes) -> zips.Archive:
    """What is in a zip that was taken once, whatever its limit was then. Raises as `zips.scan`."""
    return zips.scan(data, maximum_zipped_bytes=zips.MAXIMUM_UNZIPPED_BYTES)


def layered(layers: Sequence[str]) -> str:
    """What layers are called when they lie over each other, in this order: a hash as theirs."""
    together = hashlib.sha256(b"layers:" + b"".join(bytes.fromhex(hexadecimal(layer)) for layer in layers))
    return base64.b64encode(together.digest()).decode()


def hexadecimal(sha256: str) -> str:
    """A hash that is in base64, as files and archives are named by it. Raises InvalidParameterValue."""
    try:
        digest = base64.b64decode(sha256, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise InvalidParameterValue(f"{sha256[:100]!r} is no SHA-256 in base64")
    return digest.hex()


# --------------------------------------------------------------------------- files


@contextlib.contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"The code could not be {what}: {error.strerror or error}.") from error


def _write(path: Path, pieces: Collection[bytes] | Iterator[bytes], mode: int) -> None:
    """A new file, synced."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _delete(path: Path) -> None:
    """A file, or a folder with all that is in it, as far as that is allowed."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _listed(place: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(place.iterdir())
    return []


def _modified(path: Path) -> float:
    """Epoch seconds; 0: it is not there."""
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
