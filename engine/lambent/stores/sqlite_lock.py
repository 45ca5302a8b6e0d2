"""Which engine has a file: a lock that the kernel drops when its process dies.

Decides who may be the one engine of a file, and how others see that there is one. The lock is on a file of its own
beside the data, because SQLite's locks on the data come and go with each transaction.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from contextlib import suppress
from typing import Final

from lambent.errors import StoreUnavailable
from lambent.stores.sqlite_opening import FILE_MODE

TRIES: Final = 5  # a client that looks whether the lock is held has it for an instant
TRY_SECONDS: Final = 0.02


class FileLock:
    """The lock of the engine of one file. Taken at most once; released with the process at the latest."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock_path = f"{path}-lock"
        self._file: int | None = None

    async def take(self) -> None:
        """Raises StoreUnavailable, which names the process that has it."""
        for attempt in range(TRIES):
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(file, 32, 0).decode(errors="replace").strip()
                os.close(file)
                if attempt < TRIES - 1:
                    await asyncio.sleep(TRY_SECONDS)
            else:
                os.ftruncate(file, 0)
                os.pwrite(file, str(os.getpid()).encode(), 0)
                self._file = file
                return
        raise StoreUnavailable(
            f"{self._path} is in use by another engine (process {holder or 'unknown'}): one engine has a SQLite file "
            "for itself. Stop that one, or name another file. The lambent command works beside it."
        )

    def taken(self) -> bool:
        """Has any engine the file now, in this process or another?"""
        try:
            file = os.open(self._lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False

    def release(self) -> None:
        """Releasing twice is allowed."""
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        try:
            return os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise StoreUnavailable(
                f"{self._lock_path} cannot be opened: {error.strerror}. The directory must exist, and this user may "
                "write to it."
            ) from error
