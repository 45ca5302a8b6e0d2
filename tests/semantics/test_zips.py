"""Which zips are code: what good tools write is taken, and everything that lies is refused before it is unpacked."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambent import InvalidParameterValue
from lambent.errors import RequestTooLarge
from lambent.semantics import zips
from lambent.semantics.zips import Archive, contents, scan
from tests.semantics.zip_files import Part, bomb, file, folder, quoted_overlap, zipped


def unpacked(data: bytes) -> dict[str, bytes]:
    return {each.name: b"".join(contents(data, each)) for each in scan(data).entries if not each.folder}


def by_zipfile(files: dict[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@given(
    st.dictionaries(st.text("abcdeé/._-", min_size=1, max_size=12), st.binary(max_size=300), max_size=8),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_what_zipfile_writes_is_unpacked_as_it_was_or_refused_for_its_names(
    files: dict[str, bytes], method: int
) -> None:
    data = by_zipfile(files, compression=method)
    try:
        found = unpacked(data)
    except InvalidParameterValue:
        names = [name.removesuffix("/").split("/") for name in files]
        odd = any({"", ".", ".."} & set(parts) for parts in names) or any(name.endswith("/") for name in files)
        assert odd or any(one != other and one.startswith(other + "/") for one in files for other in files)
        return
    assert found == {name.removeprefix("./"): content for name, content in files.items() if not name.endswith("/")}


def test_a_stream_without_sizes_before_its_files_is_read_by_its_directory() -> None:
    class Pipe(io.RawIOBase):
        """Cannot go back, so that sizes follow the data."""

        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("a.py", b"a" * 1000)
        with archive.open("b.py", "w", force_zip64=True) as b:
            b.write(b"b" * 1000)
    assert unpacked(pipe.data) == {"a.py": b"a" * 1000, "b.py": b"b" * 1000}


def test_zip64_sizes_before_a_file_are_understood_and_held_against_the_directory() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("b.py", "w", force_zip64=True) as b:
        b.write(b"bb")
    data = buffer.getvalue()
    assert unpacked(data) == {"b.py": b"bb"}
    lie = data.replace(struct.pack("<2H2Q", 1, 16, 2, 2), struct.pack("<2H2Q", 1, 16, 3, 2), 1)
    assert lie != data
    with pytest.raises(InvalidParameterValue):
        scan(lie)


def test_programs_stay_programs_and_nothing_else_of_a_mode_is_kept() -> None:
    data = zipped(
        file("plain"), file("bootstrap", mode=0o100755), file("odd", mode=0o104711), file("dos", mode=0, system=0),
        folder("bin/"), file("bin/tool", mode=0o100500),
    )  # fmt: skip
    found = {each.name: (each.folder, each.executable) for each in scan(data).entries}
    assert found == {
        "plain": (False, False), "bootstrap": (False, True), "odd": (False, True), "dos": (False, False),
        "bin": (True, False), "bin/tool": (False, True),
    }  # fmt: skip


def test_an_empty_archive_a_comment_and_bytes_before_it_do_no_harm() -> None:
    assert scan(zipped()) == Archive((), 0)
    assert unpacked(zipped(file("a"), comment=b"PK\5\6 said somebody")) == {"a": b"x"}
    assert unpacked(zipped(folder("./"), file("./a.py"), before=b"#!/bin/sh\n")) == {"a.py": b"x"}


NAMES = [
    "/etc/passwd", "../a", "a/../../b", "a/..", "..", "C:/a", "c:a", "a\\b", "..\\a", "a//b", "", "/", "a/./b", ".",
    "a\0b", "a\nb", "a\x7fb", "a\x85b", "x" * 256, "/".join(["d"] * 65), "é" * 600, "./../a", "//a",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameterValue, match="name"):
        scan(zipped(file(name)))


MODES = {"link": 0o120777, "block device": 0o060644, "character device": 0o020644, "pipe": 0o010644, "socket": 0o140644}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("system", [0, 3, 19])
def test_what_is_neither_file_nor_folder_is_refused(mode: int, system: int) -> None:
    with pytest.raises(InvalidParameterValue, match="neither a file nor a folder"):
        scan(zipped(file("a", mode=mode, system=system)))


WRONG = {
    "no zip": b"hello",
    "nothing": b"",
    "an end alone, cut": b"PK\5\6",
    "same name twice": zipped(file("a"), file("a")),
    "same name in capitals": zipped(file("a/readme"), file("A/README")),
    "same name composed and not": zipped(file("\u00e9"), file("e\u0301")),
    "a file below a file": zipped(file("a"), file("a/b")),
    "a file where a folder is": zipped(file("a/b"), file("a")),
    "a folder and a file": zipped(folder("a/"), file("a")),
    "a folder by its mode alone": zipped(Part("a", mode=0o040755)),
    "a folder with content": zipped(file("a/")),
    "encrypted": zipped(file("a", flags=0x801)),
    "strongly encrypted": zipped(file("a", flags=0x841)),
    "masked": zipped(file("a", flags=0x2800)),
    "patched": zipped(file("a", flags=0x820)),
    "another method": zipped(file("a", method=12, packed=b"x")),
    "another method before the file": zipped(file("a", local_method=8)),
    "another name before the file": zipped(file("a", local_name=b"b")),
    "other sizes before the file": zipped(file("a", local_sizes=(0, 1, 1))),
    "a larger size than stored": zipped(file("a", size=2)),
    "zip64 sizes": zipped(file("a", size=0xFFFFFFFF)),
    "zip64 sizes before the file, without them": zipped(file("a", local_sizes=(0, 0xFFFFFFFF, 0xFFFFFFFF))),
    "zip64 offset": zipped(file("a", offset=0xFFFFFFFF)),
    "zip64 count": zipped(file("a"), count=0xFFFF, here=0xFFFF),
    "zip64 directory": zipped(file("a"), offset=0xFFFFFFFF),
    "an offset in the directory": zipped(file("a"), file("b", offset=40)),
    "an offset behind the end": zipped(file("a", offset=10_000)),
    "two names for the same bytes": zipped(file("a"), file("b", local_name=b"b", offset=0, packed=b"x")),
    "bytes that reach into the directory": zipped(file("a", packed_size=40, size=40)),
    "more entries than there are": zipped(file("a"), count=2, here=2),
    "fewer entries than there are": zipped(file("a"), file("b"), count=1, here=1),
    "several disks": zipped(file("a"), disk=1, its_disk=1),
    "an entry on another disk": zipped(file("a", disk=1)),
    "entries elsewhere": zipped(file("a"), count=2),
    "a gap before the end": zipped(file("a"), offset=0),
    "a comment that is longer": zipped(file("a"), comment=b"c") + b"d",
    "a comment that is shorter": zipped(file("a"), comment=b"cc")[:-1],
    "a name that is no UTF-8": zipped(file(b"\xff\xfe")),
    "a format of the future": zipped(file("a")).replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\x40"),
    "the quoted overlap of CVE-2024-0450": quoted_overlap(),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_lies_or_is_not_wanted_is_refused_before_it_is_unpacked(data: bytes) -> None:
    with pytest.raises(InvalidParameterValue, match="Could not unzip uploaded file"):
        scan(data)


CHANGED = {
    "another checksum": zipped(file("a", crc=1)),
    "less than it says": zipped(file("a", b"xx", method=8, size=3)),
    "more than it says": zipped(file("a", b"xx", method=8, size=1)),
    "cut short": zipped(file("a", b"x", method=8, packed=b"\x01\x05\x00\xfa\xffab")),
    "no deflate at all": zipped(file("a", b"x", method=8, packed=b"\xff\xff\xff")),
    "bytes behind the end": zipped(file("a", b"", method=8, packed=b"\x03\x00rest", size=0)),
}


@pytest.mark.parametrize("data", CHANGED.values(), ids=CHANGED)
def test_bytes_that_are_not_what_was_said_are_refused_while_they_are_inflated(data: bytes) -> None:
    (entry,) = scan(data).entries
    with pytest.raises(InvalidParameterValue, match="Could not unzip uploaded file"):
        list(contents(data, entry))


def test_a_bomb_is_refused_by_what_it_says_or_stopped_at_what_it_said() -> None:
    honest = bomb(zips.MAXIMUM_UNZIPPED_BYTES // 2 + 1, count=2)
    assert len(honest) < 1_000_000
    with pytest.raises(InvalidParameterValue, match="Unzipped size must be smaller than 262144000 bytes"):
        scan(honest)
    lying = zipped(file("a", bytes(20_000_000), method=8, size=10))
    (entry,) = scan(lying).entries
    given_out: list[bytes] = []
    with pytest.raises(InvalidParameterValue):
        given_out.extend(contents(lying, entry))
    assert sum(map(len, given_out)) <= 10


def test_a_large_file_is_inflated_in_small_pieces() -> None:
    data = zipped(file("a", bytes(5_000_000), method=8))
    (entry,) = scan(data).entries
    pieces = [len(piece) for piece in contents(data, entry)]
    assert (sum(pieces), max(pieces) <= zips.CHUNK_BYTES) == (5_000_000, True)


def test_sizes_are_limited_as_on_aws() -> None:
    with pytest.raises(RequestTooLarge, match=r"^Zipped size must be smaller than 52428800 bytes$"):
        scan(bytes(zips.MAXIMUM_ZIPPED_BYTES + 1))
    data = zipped(file("a", b"12345"))
    assert scan(data, maximum_unzipped_bytes=5).unzipped_bytes == 5
    with pytest.raises(InvalidParameterValue, match="Unzipped size"):
        scan(data, maximum_unzipped_bytes=4)


def test_too_many_entries_are_refused() -> None:
    count = zips.MAXIMUM_ENTRIES + 1
    with pytest.raises(InvalidParameterValue, match="more than 50000 entries"):
        scan(zipped(file("a"), count=count, here=count))


GOOD = zipped(
    folder("pkg/"), file("pkg/a.py", b"a" * 500, method=8), file("bootstrap", b"#!/bin/sh\n", mode=0o100755),
    file("data.bin", bytes(range(256)) * 4, method=8, flags=0x808), comment=b"made by hand",
)  # fmt: skip


@given(st.data())
def test_no_change_of_bytes_leads_to_anything_but_a_refusal_or_a_harmless_archive(data: st.DataObject) -> None:
    """A fuzz of one good archive: some bytes are changed, cut out or doubled."""
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        length = data.draw(st.integers(0, 8))
        changed[at : at + length] = data.draw(st.binary(max_size=8))
    _harmless(bytes(changed))


@given(st.binary(max_size=200), st.integers(0, 5))
def test_no_bytes_at_all_lead_to_anything_else(noise: bytes, entries: int) -> None:
    _harmless(noise + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries, entries, len(noise), 0, 0))


@pytest.mark.night
@settings(max_examples=200_000, deadline=None)
@given(st.data())
def test_in_the_night_no_change_of_bytes_leads_to_anything_else(data: st.DataObject) -> None:
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        changed[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
    _harmless(bytes(changed))


def _harmless(data: bytes) -> None:
    try:
        archive = scan(data)
        for entry in archive.entries:
            size = sum(map(len, contents(data, entry)))
            assert entry.folder or size == entry.bytes
    except InvalidParameterValue:
        return
    names = [entry.name for entry in archive.entries]
    assert archive.unzipped_bytes <= sum(entry.bytes for entry in archive.entries) <= zips.MAXIMUM_UNZIPPED_BYTES
    assert len({name.casefold() for name in names if name}) == len(set(names))
    for name in names:
        assert not name.startswith("/")
        assert not {"", ".", ".."} & set(name.split("/"))
    if all(entry.packed_bytes < 10_000 for entry in archive.entries) and sys.flags.optimize == 0:
        with zipfile.ZipFile(io.BytesIO(data)) as other:  # what we take is a zip for others, too
            assert len(other.namelist()) >= len(names)
