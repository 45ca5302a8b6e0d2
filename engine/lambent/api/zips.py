"""Zip files of functions: checked, kept once by their hash, and laid out as folders.

Decides what a zip file may be: its size, no way out of its folder, no links (Lambda quotas: deployment package size).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

from lambent.api.refusals import invalid

MAXIMUM_UNZIPPED_BYTES: Final = 262_144_000  # Lambda quotas: unzipped, with all layers
MAXIMUM_ENTRIES: Final = 100_000
_NO_ZIP: Final = "Could not unzip uploaded file. Please check your file, then try to upload again."


class ZipFiles:
    """The zip files of a folder, each in a folder of its own that has the name of its hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, zip_file: bytes) -> Path:
        """Lay it out, unless it is there already. Raises `Refusal`."""
        return await asyncio.to_thread(self._put, zip_file)

    def _put(self, zip_file: bytes) -> Path:
        target = self._folder / hashlib.sha256(zip_file).hexdigest()
        if target.is_dir():
            return target
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = Path(tempfile.mkdtemp(dir=self._folder, prefix=".new-"))
        try:
            _lay_out(zip_file, fresh)
            try:
                os.rename(fresh, target)
            except OSError:  # another call was faster
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return target


def _lay_out(zip_file: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(zip_file)) as archive:
            entries = archive.infolist()
            if len(entries) > MAXIMUM_ENTRIES:
                raise invalid(_NO_ZIP)
            if not entries:
                raise invalid("Uploaded file must be a non-empty zip")
            left = MAXIMUM_UNZIPPED_BYTES
            for entry in entries:
                left -= _lay_out_one(archive, entry, folder, left)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, OSError) as error:
        raise invalid(_NO_ZIP) from error


def _lay_out_one(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int) -> int:
    path = PurePosixPath(entry.filename)
    link = (entry.external_attr >> 16) & 0o170000 == 0o120000
    if path.is_absolute() or ".." in path.parts or "\0" in entry.filename or "\\" in entry.filename or link:
        raise invalid(_NO_ZIP)
    target = folder.joinpath(*path.parts)
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with archive.open(entry) as source, target.open("wb") as sink:
        while part := source.read(1 << 20):
            size += len(part)
            if size > left:
                raise invalid(f"Unzipped size must be smaller than {MAXIMUM_UNZIPPED_BYTES} bytes")
            sink.write(part)
    target.chmod(0o755 if (entry.external_attr >> 16) & 0o111 else 0o644)
    return size
