"""The group without a broker passes the suite of elections, on virtual time."""

from __future__ import annotations

import asyncio

import pytest

from lambent.model import Stream
from lambent.stores.memory import MemoryStore
from lambent.testing.election import Group

from .suites import elections
from .suites.elections import Candidate

pytestmark = pytest.mark.virtual_time


class TestGroup(elections.ElectionSuite):
    @pytest.fixture(autouse=True)
    async def _group(self, _begin: None) -> None:
        self.stream = (await MemoryStore().connect(self.world())).stream(Stream(name="s", shards=4))
        self.shards = tuple(shard.id for shard in await self.stream.shards())
        self.group = Group(self.shards, self._chance.random, drain_seconds=10.0)

    async def candidate(self) -> Candidate:
        return self.group.reader(self.stream.reader("m1"))

    def position(self, shard: str, number: int) -> str:
        return f"{number:056d}"

    async def test_a_commit_of_what_is_no_longer_held_is_refused(self) -> None:
        one = await self.standing()
        await self.until(4, one)
        for shard in self.shards:
            await one[0].election.resume(shard, None, 0)
        two = await self.standing()
        await self.until(2, two)  # the other one was waited for in vain
        for shard in self.shards:
            one[0].election.commit(shard, elections.Progress(self.position(shard, 1)))
        await asyncio.sleep(0)
        assert (self.group.refused, len(self.group.commits)) == (2, 2)
