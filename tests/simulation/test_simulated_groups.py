"""Simulated days on which a group shares the shards out: production's member, and a co-ordinator with every timing of a
rebalance. The group says who tries, the lease who may: so no promise is broken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from lambent.model import Progress
from lambent.testing.groups import Group, Timing
from lambent.testing.loop import run
from lambent.testing.simulation import Simulation
from lambent.testing.workload import Behaviour, workload
from tests.simulation import campaign
from tests.simulation.kafka_members import Member

SEEDS = 20
TWICE = 2
NIGHT_SEEDS = 1_000
SLOWEST_SECONDS = 120.0
CALM_SEEDS = 10


def explained(seeds: Sequence[int]) -> str:
    return "\n\n".join(campaign.simulated(seed, "groups").explained() for seed in sorted(seeds)[:2])


def test_no_promise_is_broken_by_a_rebalance_and_the_same_seed_gives_the_same_day() -> None:
    found = campaign.campaign(seeds=SEEDS, seconds=SLOWEST_SECONDS, twice=TWICE, ground="groups")
    print(found)
    assert not found.broken, explained(list(found.broken))
    assert found.seeds >= SEEDS
    for what in ("generation", "stranger", "expel", "away", "break", "forget", "thrown out", "commit refused", "kill"):
        assert found.faults[what], f"no {what} in all these days"
    assert len(found.traces) >= TWICE
    assert all(first == second for first, second in found.traces.values())


def test_where_nothing_but_rebalances_happens_each_record_is_done_once() -> None:
    for seed in range(CALM_SEEDS):
        day = replace(workload(seed, only="stream"), behave=lambda function, number: Behaviour(number % 4 * 0.3))
        simulation = Simulation(seed, member=Member, calm=True, day=day, engines=3)
        assert not simulation.run().problems, simulation.explained()


@pytest.mark.night
def test_no_promise_is_broken_by_rebalances_in_a_night() -> None:
    night = campaign.campaign(100_000, seeds=NIGHT_SEEDS, twice=50, ground="groups", tell=print)
    assert not night.broken, explained(list(night.broken))
    assert all(first == second for first, second in night.traces.values())


# --- the co-ordinator and its members


SHARDS = ["shardId-000000000000", "shardId-000000000001"]
PROMPT = Timing(session_seconds=10.0, rebalance_seconds=30.0, late_seconds=0.0)


class Standing:
    """A member that stands for election, and is told of changes."""

    def __init__(self, group: Group) -> None:
        self.member = Member(group, "a mapping")
        self._changed = asyncio.Event()
        self.member.listen(self._changed.set)

    async def until(self, holds: Callable[[set[str]], bool]) -> set[str]:
        while not holds(assigned := set(self.member.assigned())):
            self._changed.clear()
            await self._changed.wait()
        return assigned


def in_a_group(timing: Timing = PROMPT) -> Group:
    return Group(random.Random(1), timing, lambda: SHARDS)


def test_a_member_that_outlasts_the_rebalance_time_out_is_a_member_no_longer_and_joins_anew() -> None:
    async def day() -> None:
        group = in_a_group()
        one = Standing(group)
        await one.until(lambda assigned: len(assigned) == 2)
        await one.member.resume(SHARDS[0], None, 0)  # in use, and never released
        two = Standing(group)
        began = asyncio.get_running_loop().time()
        await two.until(bool)
        assert asyncio.get_running_loop().time() - began <= PROMPT.rebalance_seconds
        shares = [await each.until(lambda assigned: len(assigned) == 1) for each in (one, two)]
        assert shares[0] | shares[1] == set(SHARDS)
        for each in (one, two):
            await each.member.close()

    run(day(), seed=1)


def test_a_rebalance_time_out_below_the_session_time_out_still_leaves_time_to_hear_of_it() -> None:
    async def day() -> None:
        group = in_a_group(Timing(session_seconds=10.0, rebalance_seconds=1.0, late_seconds=0.0))
        members = [Standing(group) for _ in range(2)]
        for each in members:
            await each.until(lambda assigned: len(assigned) == 1)
        generation = group.generation
        await asyncio.sleep(60.0)
        assert group.generation == generation
        for each in members:
            await each.member.close()

    run(day(), seed=1)


class _Slow(Group):
    async def travel(self) -> None:
        await asyncio.sleep(1.0)


def test_a_member_whose_last_word_is_cut_off_leaves_all_the_same() -> None:
    async def day() -> None:
        group = _Slow(random.Random(1), PROMPT, lambda: SHARDS)
        one = Standing(group)
        await one.until(lambda assigned: len(assigned) == 2)
        one.member.commit(SHARDS[0], Progress(f"{1:056d}"))
        closing = asyncio.create_task(one.member.close())
        await asyncio.sleep(0.05)  # its commit is under way
        closing.cancel()
        await asyncio.sleep(10.0)
        assert closing.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert group.shares() == {}

    run(day(), seed=1)
