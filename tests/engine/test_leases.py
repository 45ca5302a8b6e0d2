"""Who reads which shard: the even share, parents before children, and what a heartbeat does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lambent.model import Lease, Progress, Shard
from lambent.polling.leases import Share, resume_from, share
from lambent.ports import Holdings


def seen(owners: Sequence[str | None], members: int = 1, ended: Sequence[int] = ()) -> tuple[Holdings, list[Shard]]:
    """Shards s0, s1, … with their owners; None is a free lease."""
    shards = [Shard(f"s{number}") for number in range(len(owners))]
    leases = {
        shard.id: Lease(
            "mapping", shard.id, owner or "", 1, Progress("7", ended=True) if number in ended else None, owner is None
        )
        for number, (shard, owner) in enumerate(zip(shards, owners, strict=True))
    }
    return Holdings(members, leases, 10.0), shards


def names(found: Share) -> tuple[list[str], list[str]]:
    return [lease.name for lease in found.take], list(found.give)


@pytest.mark.parametrize(
    ("owners", "members", "take", "give"),
    [
        ([None] * 4, 1, ["s0", "s1", "s2", "s3"], []),  # alone, an engine takes everything
        ([None] * 4, 2, ["s0", "s1"], []),  # two engines: half
        ([None] * 5, 2, ["s0", "s1", "s2"], []),  # the larger half, whoever is first
        (["me", "me", "me", "me"], 2, [], ["s2", "s3"]),  # one joined
        (["me", "me", "you", "you"], 3, [], ["s1"]),  # two have two each, the third has none
        (["me", "me", "you", None], 2, [], []),  # the free one is the other's
        (["me", "you", None, None], 2, ["s2"], []),
        (["me", None, "you", "you"], 3, [], []),  # we gave it to the third, who has not come yet
        (["me", None, "you", None], 3, ["s1"], []),  # one is left over
        (["me", "you", "they"], 3, [], []),
        (["me"], 3, [], []),  # fewer shards than engines
        ([None], 3, ["s0"], []),
    ],
)
def test_the_engines_of_a_mapping_share_its_shards_evenly(
    owners: Sequence[str | None], members: int, take: list[str], give: list[str]
) -> None:
    holdings, shards = seen(owners, members)
    assert names(share(holdings, shards, "me", seek=0)) == (take, give)


def test_a_finished_shard_is_left_alone() -> None:
    holdings, shards = seen([None, None], ended=[0])
    assert names(share(holdings, shards, "me", seek=0)) == (["s1"], [])


def test_a_seek_makes_a_finished_shard_readable_again() -> None:
    holdings, shards = seen([None, None], ended=[0])
    assert names(share(holdings, shards, "me", seek=1)) == (["s0", "s1"], [])


@pytest.mark.parametrize(("ended", "take"), [([], ["s0"]), ([0], ["s1", "s2"])])
def test_children_wait_until_their_parent_is_finished(ended: list[int], take: list[str]) -> None:
    holdings, _ = seen([None, None, None], ended=ended)
    shards = [Shard("s0"), Shard("s1", ("s0",)), Shard("s2", ("s0",))]
    assert names(share(holdings, shards, "me", seek=0)) == (take, [])


def test_a_parent_that_the_source_no_longer_lists_holds_nobody_up() -> None:
    holdings, _ = seen([None])
    assert names(share(holdings, [Shard("s0", ("gone",))], "me", seek=0)) == (["s0"], [])


@pytest.mark.parametrize(("generation", "resumes"), [(0, True), (1, True), (2, False)])
def test_progress_of_an_older_seek_does_not_count(generation: int, resumes: bool) -> None:
    progress = Progress("7", seek=1)
    lease = Lease("mapping", "s0", "me", 1, progress)
    assert resume_from(lease, generation) == (progress if resumes else None)
