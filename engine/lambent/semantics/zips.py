"""Which zip archives are code that may be unpacked, and what each of their entries becomes.

Decides from the bytes alone, before anything is inflated: every entry is a file or a folder with a name that stays
below the folder it is unpacked to, has bytes of its own, and all of them together are no larger than allowed.
`zipfile` decides less: it reads overlapping entries (CVE-2024-0450), lets the last of two same names win and passes
over what a name or a mode means. Inflating is held to what was decided. Writing is `code_store.py`'s.

The format is PKWARE's APPNOTE.TXT 6.3.10; limits are Lambda's quotas, wording where AWS has one is recorded.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lambent.errors import InvalidParameterValue, RequestTooLarge

MAXIMUM_ZIPPED_BYTES: Final = 52_428_800
MAXIMUM_UNZIPPED_BYTES: Final = 262_144_000
"""Of a function's code and layers together."""
MAXIMUM_ENTRIES: Final = 50_000
MAXIMUM_NAME_BYTES: Final = 1024
MAXIMUM_PART_BYTES: Final = 255
"""Of a name between two slashes: what file systems take."""
MAXIMUM_DEPTH: Final = 64
CHUNK_BYTES: Final = 256 * 1024

MAXIMUM_VERSION: Final = 63
"""Of the format, 6.3: what a newer one needs nobody who unpacks promises to have."""
STORED: Final = 0
DEFLATED: Final = 8
_END: Final = struct.Struct("<4s4H2LH")  # end of central directory
_CENTRAL: Final = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL: Final = struct.Struct("<4s2B4HL2L2H")
_LONG: Final = 0xFFFF_FFFF  # the true value stands in a zip64 field
_SHORT: Final = 0xFFFF
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  # traditional, strong, masked headers
_LATER: Final = 0x8  # sizes follow the data
_PATCHED: Final = 0x20
_UTF8: Final = 0x800
_KIND: Final = 0o170000
_REGULAR: Final = 0o100000
_FOLDER: Final = 0o040000
_EXECUTABLE: Final = 0o111


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder of an archive: where it goes (no slash at either end) and where its bytes stand."""

    name: str
    folder: bool
    executable: bool
    deflated: bool
    start: int
    packed_bytes: int
    bytes: int
    crc: int


@dataclass(frozen=True, slots=True)
class Archive:
    """What a scan has found: entries in the order of the directory, and their size together, unpacked."""

    entries: tuple[Entry, ...]
    unzipped_bytes: int


def scan(
    data: bytes,
    maximum_unzipped_bytes: int = MAXIMUM_UNZIPPED_BYTES,
    maximum_zipped_bytes: int = MAXIMUM_ZIPPED_BYTES,
) -> Archive:
    """What may be unpacked of `data`. The limit of what is zipped is that of an upload; what comes from elsewhere may
    be as large as what is unpacked.

    Raises RequestTooLarge above 50 MB, InvalidParameterValue for everything else that is not wanted."""
    if len(data) > maximum_zipped_bytes:
        raise RequestTooLarge(f"Zipped size must be smaller than {maximum_zipped_bytes} bytes")
    directory, end, count = _directory(data)
    offset = directory
    entries: list[Entry] = []
    taken: dict[str, bool] = {}  # folded names, and whether each is a folder
    spans: list[tuple[int, int]] = []
    total = 0
    for _ in range(count):
        if offset + _CENTRAL.size > end:
            raise refused("its directory is cut short")
        fields = _CENTRAL.unpack_from(data, offset)
        lengths = fields[12], fields[13], fields[14]
        following = offset + _CENTRAL.size + sum(lengths)
        if fields[0] != b"PK\x01\x02" or following > end:
            raise refused("its directory is damaged")
        raw = data[offset + _CENTRAL.size : offset + _CENTRAL.size + lengths[0]]
        offset = following
        entry, begin = _entry(data, fields, raw, end)
        total += entry.bytes
        if total > maximum_unzipped_bytes:
            raise too_large()
        spans.append((begin, entry.start + entry.packed_bytes))
        if entry.name:  # else the folder itself
            _take(taken, entry)
            entries.append(entry)
    if offset != end:
        raise refused("its directory has more than it says")
    spans.sort()
    for (_, before), (begin, _) in pairwise(spans):
        if begin < before:
            raise refused("its entries overlap")
    if spans and spans[-1][1] > directory:
        raise refused("an entry reaches into its directory")
    return Archive(tuple(entries), total)


def check_together(entries: Iterable[Entry]) -> None:
    """May these lie in one folder? Each has been scanned, perhaps in an archive of its own. Raises as `scan`."""
    taken: dict[str, bool] = {}
    total = 0
    for entry in entries:
        _take(taken, entry)
        total += entry.bytes
    if total > MAXIMUM_UNZIPPED_BYTES:
        raise too_large()


def contents(data: bytes, entry: Entry) -> Iterator[bytes]:
    """The bytes of a file, in pieces of at most 256 KiB; never more than its entry says.

    Raises InvalidParameterValue, perhaps after some pieces, if they are not what the directory said."""
    packed = memoryview(data)[entry.start : entry.start + entry.packed_bytes]
    pieces = _inflated(packed, entry) if entry.deflated else _pieces(packed)
    size = crc = 0
    for piece in pieces:
        size += len(piece)
        if size > entry.bytes:
            break
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != entry.bytes or crc != entry.crc:
        raise refused(f"{shown(entry.name)} is not what its directory says")


def refused(reason: str) -> InvalidParameterValue:
    """In AWS's words, and ours why."""
    return InvalidParameterValue(
        f"Could not unzip uploaded file. Please check your file, then try to upload again. Reason: {reason}."
    )


def too_large() -> InvalidParameterValue:
    return InvalidParameterValue(f"Unzipped size must be smaller than {MAXIMUM_UNZIPPED_BYTES} bytes")


def shown(name: str) -> str:
    """A name from an archive, in a message."""
    return ascii(name if len(name) <= 100 else f"{name[:100]}…")


# --------------------------------------------------------------------------- the directory


def _directory(data: bytes) -> tuple[int, int, int]:
    """(begin, end, entries) of the central directory: it ends where the record of its end begins, which ends where the
    archive does, comment and all."""
    at = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - _SHORT))
    while at >= 0:
        if at + _END.size <= len(data):
            _, disk, its_disk, here, count, size, offset, comment = _END.unpack_from(data, at)
            if at + _END.size + comment == len(data):
                break
        at = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - _SHORT), at)
    else:
        raise refused("it is no zip file, or its end is missing")
    if _SHORT in (disk, its_disk, here, count) or _LONG in (size, offset):
        raise refused("it is of the zip64 kind, which code below 50 MB does not need")
    if disk or its_disk or here != count:
        raise refused("it is one part of several")
    if count > MAXIMUM_ENTRIES:
        raise refused(f"it has more than {MAXIMUM_ENTRIES} entries")
    if offset + size != at:
        raise refused("its directory is not where it says")
    return offset, at, count


def _entry(data: bytes, fields: tuple[object, ...], raw: bytes, end: int) -> tuple[Entry, int]:
    """What one record of the directory says, held against what stands before its bytes; and where that begins."""
    flags, method, crc, packed, size = (_number(fields[index]) for index in (5, 6, 9, 10, 11))
    disk, attributes, begin = (_number(fields[index]) for index in (15, 17, 18))
    name, folder = _name(raw, flags)
    if flags & (_ENCRYPTED | _PATCHED):
        raise refused(f"{shown(name)} is encrypted")
    if (needed := _number(fields[3])) > MAXIMUM_VERSION:
        raise refused(f"{shown(name)} needs version {needed / 10} of the zip format; {MAXIMUM_VERSION / 10} is known")
    if method not in (STORED, DEFLATED):
        raise refused(f"{shown(name)} is compressed by method {method}; deflate (8) and none (0) are known")
    if _LONG in (packed, size, begin) or disk:
        raise refused(f"{shown(name)} is of the zip64 kind, which code below 50 MB does not need")
    mode = attributes >> 16
    if mode & _KIND not in (0, _FOLDER if folder else _REGULAR):
        raise refused(f"{shown(name)} is neither a file nor a folder (a link or a device, perhaps)")
    if (folder and size) or (method == STORED and packed != size):
        raise refused(f"the sizes of {shown(name)} do not fit")
    if begin + _LOCAL.size > end:
        raise refused(f"{shown(name)} is not where its directory says")
    local = _LOCAL.unpack_from(data, begin)
    head, its_flags, its_method, its_crc, its_packed, its_size, its_name, its_extra = (
        local[index] for index in (0, 3, 4, 7, 8, 9, 10, 11)
    )
    start = begin + _LOCAL.size + its_name + its_extra
    if (
        head != b"PK\x03\x04"
        or data[begin + _LOCAL.size : begin + _LOCAL.size + its_name] != raw
        or its_method != method
        or (its_flags ^ flags) & (_ENCRYPTED | _PATCHED)
        or start + packed > end
    ):
        raise refused(f"{shown(name)} is not what its directory says")
    if not its_flags & _LATER:
        if _LONG in (its_packed, its_size):
            its_size, its_packed = _zip64(data[start - its_extra : start])
        if (its_crc, its_packed, its_size) != (crc, packed, size):
            raise refused(f"{shown(name)} is not what its directory says")
    executable = not folder and bool(mode & _EXECUTABLE)
    return Entry(name, folder, executable, method == DEFLATED, start, packed, size, crc), begin


def _zip64(extra: bytes) -> tuple[int, int]:
    """The two sizes of a zip64 field, which some tools write before every file because they do not know better."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 16 and at + 20 <= len(extra):
            size, packed = struct.unpack_from("<2Q", extra, at + 4)
            return size, packed
        at += 4 + length
    return -1, -1


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


# --------------------------------------------------------------------------- names


def _name(raw: bytes, flags: int) -> tuple[str, bool]:
    """Where an entry goes, without a slash at the end, and whether it is a folder."""
    if len(raw) > MAXIMUM_NAME_BYTES:
        raise refused(f"a name is longer than {MAXIMUM_NAME_BYTES} bytes")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise refused(f"the name {shown(raw.decode('latin-1'))} is no UTF-8") from None
        name = raw.decode("cp437")  # what the format says, and old tools write
    folder = name.endswith("/")
    parts = name.removesuffix("/").split("/")
    if parts[0] == ".":  # some tools write it before every name
        parts = parts[1:]
        if not parts and folder:
            return "", True
    if (
        not parts
        or any(part in ("", ".", "..") for part in parts)
        or any(len(part.encode()) > MAXIMUM_PART_BYTES for part in parts)
        or re.search(r"[\\\x00-\x1f\x7f-\x9f]", name)
        or re.match(r"[A-Za-z]:", parts[0])
        or len(parts) > MAXIMUM_DEPTH
    ):
        raise refused(f"the name {shown(name)} does not lead to a place below its folder")
    return "/".join(parts), folder


def _take(taken: dict[str, bool], entry: Entry) -> None:
    """Each name once, also where letters' case and the ways to write an accent make no difference; a file is no
    folder of others."""
    name = _folded(entry.name)
    if name in taken and not (entry.folder and taken[name]):
        raise refused(f"{shown(entry.name)} is in it twice, perhaps in another spelling")
    known = name in taken
    taken[name] = entry.folder
    if known:
        return
    while "/" in name:
        name = name.rpartition("/")[0]
        above = taken.setdefault(name, True)
        if not above:
            raise refused(f"{shown(entry.name)} lies in a file")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# --------------------------------------------------------------------------- bytes


def _inflated(packed: memoryview, entry: Entry) -> Iterator[bytes]:
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    fed = 0
    while fed < len(packed) and not inflating.eof:
        left: bytes | memoryview = packed[fed : fed + CHUNK_BYTES]
        fed += len(left)
        more = True
        while more and not inflating.eof:
            try:
                piece = inflating.decompress(left, CHUNK_BYTES)
            except zlib.error as error:
                raise refused(f"{shown(entry.name)} is damaged ({error})") from None
            left = inflating.unconsumed_tail
            more = bool(left) or len(piece) == CHUNK_BYTES
            if piece:
                yield piece
    if not inflating.eof or inflating.unused_data or fed < len(packed):
        raise refused(f"{shown(entry.name)} is damaged")


def _pieces(packed: memoryview) -> Iterator[bytes]:
    for start in range(0, len(packed), CHUNK_BYTES):
        yield bytes(packed[start : start + CHUNK_BYTES])
