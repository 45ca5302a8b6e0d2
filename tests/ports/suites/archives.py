"""What Archive promises, for any store that has one."""

from __future__ import annotations

import hashlib

from lambent.ports import Archive

from . import needs
from .stores import StoreSuite

AGE = 100.0  # seconds


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class ArchiveSuite(StoreSuite):
    """Uploaded code, for all engines of a store."""

    async def archive(self, owner: str = "engine-1") -> Archive:
        found = (await self.connect(owner)).archive
        assert found is not None
        return found

    @needs("archive")
    async def test_a_zip_is_read_back_by_every_engine_as_it_was_put(self) -> None:
        one, other = await self.archive("engine-1"), await self.archive("engine-2")
        small, large = bytes(range(256)), b"0123456789" * 300_000
        for data in (small, large):
            await one.put(named(data), data)
            assert await other.get(named(data)) == data
        assert await other.get(named(b"another")) is None
        assert (await other.ages()).keys() == {named(small), named(large)}

    @needs("archive")
    async def test_a_zip_that_is_put_again_is_kept_once_and_its_age_begins_anew(self) -> None:
        archive = await self.archive()
        await archive.put(named(b"zip"), b"zip")
        await self.pass_time(AGE)
        assert AGE - 1 <= (await archive.ages())[named(b"zip")] <= AGE + 1
        await archive.put(named(b"zip"), b"zip")
        [age] = (await archive.ages()).values()
        assert age <= 1
        assert await archive.get(named(b"zip")) == b"zip"

    @needs("archive")
    async def test_a_zip_is_removed_unless_it_is_younger_than_that(self) -> None:
        archive = await self.archive()
        name = named(b"zip")
        await archive.put(name, b"zip")
        assert not await archive.remove(name, AGE)
        await self.pass_time(AGE + 1)
        assert await archive.remove(name, AGE)
        assert await archive.get(name) is None
        assert not await archive.ages()
        assert not await archive.remove(name, 0)
        await archive.put(name, b"zip")
        assert await archive.get(name) == b"zip"
