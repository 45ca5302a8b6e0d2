"""Zip files for tests, right and wrong: written byte by byte, so that every field can lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field


@dataclass
class Part:
    """One entry. What is None is what the content says."""

    name: bytes | str
    content: bytes = b""
    method: int = 0
    flags: int = 0x800
    mode: int = 0o100644
    system: int = 3
    size: int | None = None
    packed_size: int | None = None
    crc: int | None = None
    offset: int | None = None
    disk: int = 0
    local_name: bytes | None = None
    local_method: int | None = None
    local_extra: bytes = b""
    local_sizes: tuple[int, int, int] | None = None  # crc, packed, unpacked
    packed: bytes | None = None
    raw: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.raw = self.name.encode() if isinstance(self.name, str) else self.name
        if self.packed is None:
            self.packed = self.content
            if self.method == 8:
                deflating = zlib.compressobj(9, zlib.DEFLATED, -15)
                self.packed = deflating.compress(self.content) + deflating.flush()


def zipped(*parts: Part, comment: bytes = b"", before: bytes = b"", between: bytes = b"", **end: int) -> bytes:
    """An archive. `end` replaces fields of the end record: disk, its_disk, here, count, size, offset, comment."""
    body, directory = bytearray(before), bytearray()
    for part in parts:
        assert part.packed is not None
        size = len(part.content) if part.size is None else part.size
        packed = len(part.packed) if part.packed_size is None else part.packed_size
        crc = zlib.crc32(part.content) if part.crc is None else part.crc
        begin = len(body) if part.offset is None else part.offset
        sizes = part.local_sizes or (crc, packed, size)
        method = part.method if part.local_method is None else part.local_method
        name = part.raw if part.local_name is None else part.local_name
        body += struct.pack(
            "<4s2B4HL2L2H", b"PK\3\4", 20, 0, part.flags, method, 0, 0, *sizes, len(name), len(part.local_extra)
        )
        body += name + part.local_extra + part.packed
        directory += struct.pack(
            "<4s4B4HL2L5H2L", b"PK\1\2", 20, part.system, 20, 0, part.flags, part.method, 0, 0, crc, packed, size,
            len(part.raw), 0, 0, part.disk, 0, part.mode << 16, begin,
        )  # fmt: skip
        directory += part.raw
    fields = {
        "disk": 0, "its_disk": 0, "here": len(parts), "count": len(parts), "size": len(directory),
        "offset": len(body) + len(between), "comment": len(comment),
    } | end  # fmt: skip
    return bytes(body + between + directory) + struct.pack("<4s4H2LH", b"PK\5\6", *fields.values()) + comment


def file(name: bytes | str, content: bytes = b"x", **changes: object) -> Part:
    return Part(name, content, **changes)  # type: ignore[arg-type]


def folder(name: str) -> Part:
    return Part(name, mode=0o040755)


def bomb(size: int, count: int = 1) -> bytes:
    """`count` files of `size` zeros each, packed a thousandfold."""
    content = bytes(size)
    return zipped(*(file(f"f{number}", content, method=8) for number in range(count)))


def quoted_overlap(count: int = 50, size: int = 1_000_000) -> bytes:
    """David Fifield's construction: each file's data are the following local headers, quoted as stored blocks, and a
    kernel that all of them share."""
    deflating = zlib.compressobj(9, zlib.DEFLATED, -15)
    kernel = deflating.compress(bytes(size)) + deflating.flush()
    content = bytes(size)
    tail, members = kernel, []
    for number in reversed(range(count)):
        name = b"%04d" % number
        crc = zlib.crc32(content)
        header = struct.pack("<4s2B4HL2L2H", b"PK\3\4", 20, 0, 0, 8, 0, 0, crc, len(tail), len(content), len(name), 0)
        header += name
        members.append((name, crc, len(tail), len(content), len(tail) + len(header)))
        quote = struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)
        tail = quote + header + tail if number else header + tail
        content = header + content
    body, directory = tail, bytearray()
    for name, crc, packed, size_, from_end in reversed(members):
        directory += struct.pack(
            "<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 8, 0, 0, crc, packed, size_, len(name), 0, 0, 0, 0, 0,
            len(body) - from_end,
        )  # fmt: skip
        directory += name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return body + bytes(directory) + end
