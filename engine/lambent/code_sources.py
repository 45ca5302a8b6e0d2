"""Where a function's code is: from what its configuration names to folders on this machine, and when that changed.

Decides what a reference means (a folder, a zip file, an uploaded zip by its hash), that code and layers together are no
larger than Lambda allows, and by what it is noticed that code changed: by its content. A folder is run where it is, so
that who edits it sees his own files in a stack trace; what runs has loaded its code and ends on it. Zips are run from
the code store.

Everything here waits for a disk: call it in a thread.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lambent.code_store import Code, CodeStore, layered, scanned
from lambent.configuration import ExecutionEnvironment
from lambent.errors import InvalidParameterValue, LambentError, ResourceNotFound, StoreUnavailable
from lambent.ports import CodePlaces
from lambent.semantics import zips

UPLOADED: Final = "sha256:"
"""Before the hash of an uploaded zip, in base64."""
MAXIMUM_FILES: Final = zips.MAXIMUM_ENTRIES
"""Of a folder that is code."""
NOT_CODE: Final = frozenset({"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
"""Folders in which nothing is looked for: what tools leave behind does not make code another."""


@dataclass(slots=True)
class _Seen:
    """What a file was when it was read last."""

    status: tuple[int, ...]
    digest: bytes


@dataclass(slots=True)
class _Piece:
    """A reference, as it is now. `sha256`: its zip, if it is one."""

    folder: Path | None
    sha256: str | None
    fingerprint: str
    size: int
    seen: dict[str, _Seen] = field(default_factory=dict)


class CodeSources:
    """Finds code, and remembers what it has read of it, so that another look costs a `stat` a file. `reading`: whether
    a folder's content is read, without which a change of it is not noticed."""

    def __init__(self, store: CodeStore, *, reading: bool = True) -> None:
        self._store = store
        self._reading = reading
        self._pieces: dict[str, _Piece] = {}

    def find(self, environment: ExecutionEnvironment, scratch: Path) -> CodePlaces:
        """The code of a function as it is now, made ready. What is made of folders is made in `scratch`, which is the
        caller's and not there yet.

        Raises ResourceNotFound if it is not there; InvalidParameterValue, RequestTooLarge if it may not be code;
        StoreUnavailable if a disk does not give or take it."""
        code, *layers = self._look(environment)
        return CodePlaces(self._opened(code), self._laid(layers, scratch), _together([code, *layers]))

    def fingerprint(self, environment: ExecutionEnvironment) -> str:
        """That of `find`, with nothing made ready. Raises as `find`."""
        return _together(self._look(environment))

    def used(self, environment: ExecutionEnvironment) -> list[str]:
        """What of the store this function needs, for `CodeStore.collect`; of files that are not there, nothing."""
        code = self._kept(environment.code)
        layers = [self._kept(each) for each in environment.layers]
        hashes = [each for each in (code, *layers) if each is not None]
        return [*hashes, layered([each for each in layers if each])] if len(layers) > 1 and all(layers) else hashes

    def upload(self, zip_file: bytes, maximum_zipped_bytes: int = zips.MAXIMUM_ZIPPED_BYTES) -> Code:
        """Keep a zip, laid out for whoever runs it; `UPLOADED` and its hash is then a reference. Raises as
        `CodeStore.put` and `open`."""
        code = self._store.put(zip_file, maximum_zipped_bytes=maximum_zipped_bytes)
        self._store.open(code.sha256)
        return code

    def uploaded(self, sha256: str) -> bytes:
        """The zip of this hash. Raises ResourceNotFound, InvalidParameterValue."""
        return self._store.data(sha256)

    def collect(self, environments: Iterable[ExecutionEnvironment], uploads: Iterable[str] = ()) -> list[str]:
        """Let go of what none of these functions needs, is none of these uploads, and nobody uses; gives the hashes of
        what they need."""
        used = [each for environment in environments for each in self.used(environment)]
        used += [each.removeprefix(UPLOADED) for each in uploads]
        self._store.collect(used)
        return used

    def _kept(self, reference: str) -> str | None:
        if reference.startswith(UPLOADED):
            return reference.removeprefix(UPLOADED)
        if not reference.endswith(".zip"):
            return None
        with suppress(LambentError):
            return self._piece(reference, "").sha256
        return None

    def _look(self, environment: ExecutionEnvironment) -> list[_Piece]:
        pieces = [self._piece(environment.code, "code"), *(self._piece(each, "layers") for each in environment.layers)]
        if sum(piece.size for piece in pieces) > zips.MAXIMUM_UNZIPPED_BYTES:
            raise zips.too_large()
        return pieces

    def _piece(self, reference: str, option: str) -> _Piece:
        known = self._pieces.get(reference)
        if reference.startswith(UPLOADED):
            if known is None:
                sha256 = reference.removeprefix(UPLOADED)
                archive = scanned(self._store.data(sha256))
                known = self._pieces[reference] = _Piece(None, sha256, sha256, archive.unzipped_bytes)
            return known
        path = Path(reference).absolute()
        try:
            found = self._zip_file(path, known) if path.suffix == ".zip" else _folder(path, known, self._reading)
        except OSError as error:
            what = f"{option}: {reference!r} is no folder and no zip file that can be read"
            raise ResourceNotFound(f"{what}: {error.strerror} (seen from {Path.cwd()})") from None
        self._pieces[reference] = found
        return found

    def _zip_file(self, path: Path, known: _Piece | None) -> _Piece:
        status = _status(path.stat())
        if known is not None and known.seen[""].status == status:
            return known
        code = self._store.put(path.read_bytes())
        return _Piece(None, code.sha256, code.sha256, code.unzipped_bytes, {"": _Seen(status, b"")})

    def _opened(self, piece: _Piece) -> Path:
        return piece.folder or self._store.open(piece.sha256 or "")

    def _laid(self, layers: Sequence[_Piece], scratch: Path) -> Path | None:
        """Over each other in their order, as /opt (Lambda guide: «Adding layers to functions»)."""
        if len(layers) < 2:
            return self._opened(layers[0]) if layers else None
        hashes = [piece.sha256 for piece in layers if piece.sha256 is not None]
        if len(hashes) == len(layers):
            return self._store.open_layers(hashes)
        scratch.mkdir(parents=True)
        try:
            for piece in layers:
                folder = self._opened(piece)
                shutil.copytree(folder, scratch, symlinks=True, copy_function=_replace, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise StoreUnavailable(f"The layers could not be laid over each other: {error}.") from error
        return scratch


def _folder(path: Path, known: _Piece | None, reading: bool) -> _Piece:
    """Reads what it has not read yet. Raises OSError, InvalidParameterValue."""
    before = {} if known is None else known.seen
    found: dict[str, os.stat_result] = {}
    size = 0
    for name, status in _walk(path):
        found[name] = status
        size += status.st_size
        if len(found) > MAXIMUM_FILES:
            raise InvalidParameterValue(f"code: {path} has more than {MAXIMUM_FILES} files")
    if size > zips.MAXIMUM_UNZIPPED_BYTES:
        raise zips.too_large()
    seen: dict[str, _Seen] = {}
    whole = hashlib.sha256()
    for name in sorted(found):
        now, mode = _status(found[name]), found[name].st_mode
        if name not in before or before[name].status != now:
            seen[name] = _Seen(now, _digest(path / name, mode) if reading else b"")
        else:
            seen[name] = before[name]
        whole.update(b"%s\0%o\0%s\n" % (os.fsencode(name), mode, seen[name].digest))
    return _Piece(path, None, base64.b64encode(whole.digest()).decode(), size, seen)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The files and links below a folder. A folder that is a link is not gone into, and nothing else is code."""
    rest = [""]
    while rest:
        with os.scandir(root / rest.pop()) as entries:
            for entry in entries:
                name = os.path.relpath(entry.path, root)
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    if entry.name not in NOT_CODE:
                        rest.append(name)
                elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                    yield name, status


def _digest(path: Path, mode: int) -> bytes:
    """A file may go while we look: that is a change, too."""
    try:
        if stat.S_ISLNK(mode):
            return os.fsencode(os.readlink(path))
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return b""


def _status(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _together(pieces: Sequence[_Piece]) -> str:
    return " ".join(piece.fingerprint for piece in pieces)


def _replace(source: str, target: str) -> str:
    with suppress(FileNotFoundError):
        os.unlink(target)  # what was unpacked may not be written
    return str(shutil.copy2(source, target, follow_symlinks=False))
