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
SECTOR: Final = 512  # bytes that a disk writes whole, at the least


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
        magic, _, page_size, _, *salts, one, two = HEADER.unpack(header)
        order, before, commits = ">" if magic & 1 else "<", (one, two), 0
        at = HEADER.size + frames * (FRAME.size + page_size)
        if frames:
            log.seek(at - page_size - FRAME.size)
            before = FRAME.unpack(log.read(FRAME.size))[4:]
        log.seek(at)
        while len(head := log.read(FRAME.size)) == FRAME.size and len(page := log.read(page_size)) == page_size:
            _, commit, *found, one, two = FRAME.unpack(head)
            if commit and found == salts:
                whole = at % SECTOR <= SECTOR - FRAME.size  # else it may be torn, and partly of an older frame
                commits += whole or _checksums(head[:8] + page, order, before) == (one, two)
            before, at = (one, two), at + FRAME.size + page_size
        return commits


def _checksums(data: bytes, order: str, before: tuple[int, int]) -> tuple[int, int]:
    """Those of a frame, which go on from those of the frame before it."""
    one, two = before
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for word in words:
        one = one + word + two & 0xFFFFFFFF
        two = two + next(words) + one & 0xFFFFFFFF
    return one, two
