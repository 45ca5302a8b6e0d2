"""What SQLite does not say when it opens a write-ahead log: that committed transactions in it cannot be read.

Decides whether a log holds more than a power failure can leave. SQLite reads a log up to the first frame that does not
add up, and takes what follows for the remains of a transaction that was never committed. Here every commit is synced
before the next begins, so at most one transaction can be in that state: where more commits follow, the log was damaged.

Source: "The WAL File Format" in sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import os
import shutil
import struct
from typing import Final

HEADER: Final = struct.Struct(">8I")  # magic, version, page size, sequence, two salts, two checksums
FRAME: Final = struct.Struct(">6I")  # page, size after commit or 0, two salts, two checksums


def lost_in_log(path: str, frames: int) -> str | None:
    """A sentence if the log at that path, of which SQLite has read so many frames, has more that were committed; a copy
    of it is made first. None: it is whole, or there is none. Raises OSError."""
    lost = _commits_behind(path, frames) if frames >= 0 and os.path.exists(path) else 0
    if lost < 2:
        return None
    copy = f"{path}-damaged"
    shutil.copyfile(path, copy)
    os.chmod(copy, 0o600)
    return f"The log was damaged: at least {lost - 1} committed transactions cannot be read. A copy is in {copy}."


def _commits_behind(path: str, frames: int) -> int:
    with open(path, "rb") as log:
        header = log.read(HEADER.size)
        if len(header) < HEADER.size:
            return 0
        _, _, page_size, _, *salts, _, _ = HEADER.unpack(header)
        at, commits = HEADER.size + frames * (FRAME.size + page_size), 0
        while log.seek(at) and len(head := log.read(FRAME.size)) == FRAME.size:
            _, commit, *found = FRAME.unpack(head)
            commits += commit != 0 and found[:2] == salts
            at += FRAME.size + page_size
        return commits
