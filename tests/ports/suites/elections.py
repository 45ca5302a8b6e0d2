"""What an Election promises, and the readers that stand in it: who is to try what, and what a group remembers."""

from __future__ import annotations

import asyncio
from typing import Protocol

from lambent.model import Piece, Progress
from lambent.ports import Election, StreamReader

from . import Suite


class Candidate(StreamReader, Protocol):
    """A reader that stands for election."""

    election: Election


class ElectionSuite(Suite):
    """`candidate` gives one more reader of the same group; there are four `shards` with ten records each."""

    shards: tuple[str, ...]

    async def candidate(self) -> Candidate:
        raise NotImplementedError

    def position(self, shard: str, number: int) -> str:
        """Of a shard's record."""
        raise NotImplementedError

    async def standing(self) -> tuple[Candidate, asyncio.Event]:
        """One more, and what is set whenever it is told of a change."""
        reader, changed = await self.candidate(), asyncio.Event()
        reader.election.listen(changed.set)
        return reader, changed

    async def until(self, count: int, one: tuple[Candidate, asyncio.Event]) -> set[str]:
        """Until so many shards are to be tried by it."""
        reader, changed = one
        async with asyncio.timeout(20):
            while len(assigned := set(reader.election.assigned())) != count:
                changed.clear()
                await changed.wait()
        return assigned

    async def test_one_alone_is_to_try_everything(self) -> None:
        one = await self.standing()
        assert await self.until(4, one) == set(self.shards)

    async def test_two_share_and_who_is_left_gets_everything(self) -> None:
        one = await self.standing()
        await self.until(4, one)
        two = await self.standing()
        shares = [await self.until(2, each) for each in (two, one)]
        assert shares[0] | shares[1] == set(self.shards)
        await one[0].close()
        assert await self.until(4, two) == set(self.shards)

    async def test_who_is_to_give_something_back_is_waited_for_while_it_is_in_use(self) -> None:
        one = await self.standing()
        await self.until(4, one)
        for shard in self.shards:
            await one[0].election.resume(shard, None, 0)
        two = await self.standing()
        await self.until(0, one)
        for shard in self.shards[:3]:
            one[0].drop(shard)
        assert not two[0].election.assigned()
        one[0].drop(self.shards[3])
        shares = [await self.until(2, each) for each in (two, one)]
        assert shares[0] | shares[1] == set(self.shards)

    async def test_what_was_committed_before_it_was_given_back_is_resumed_with_its_counts(self) -> None:
        one = await self.standing()
        await self.until(4, one)
        shard = self.shards[0]
        await one[0].election.resume(shard, None, 0)
        at = self.position(shard, 3)
        pieces = (Piece(self.position(shard, 4), self.position(shard, 6), 2),)
        one[0].election.commit(shard, Progress(at, pieces, seek=1))
        await one[0].close()
        two = await self.standing()
        assert await two[0].election.resume(shard, None, 1) == Progress(at, pieces, seek=1, start=at)
        assert await two[0].election.resume(shard, None, 2) is None  # it was sought since
        ahead = Progress(self.position(shard, 8), seek=1)
        assert await two[0].election.resume(shard, ahead, 1) is ahead
        behind = Progress(self.position(shard, 1), seek=1)
        found = await two[0].election.resume(shard, behind, 1)
        assert found is not None
        assert found.position == at

    async def test_what_nobody_committed_begins_at_the_start(self) -> None:
        one = await self.standing()
        await self.until(4, one)
        assert await one[0].election.resume(self.shards[1], None, 0) is None
