"""A member of a simulated group, which is production's own over a simulated client, passes the suite of elections."""

from __future__ import annotations

import random

import pytest

from lambent.model import Stream
from lambent.stores.memory import MemoryStore
from lambent.testing.groups import Group, GroupedStream, Timing
from tests.simulation.kafka_members import Member

from .suites import elections
from .suites.elections import Candidate

pytestmark = pytest.mark.virtual_time


class TestSimulatedGroup(elections.ElectionSuite):
    @pytest.fixture(autouse=True)
    async def _group(self, _begin: None) -> None:
        stream = (await MemoryStore().connect(self.world())).stream(Stream(name="s", shards=4))
        self.shards = tuple(shard.id for shard in await stream.shards())
        timing = Timing(session_seconds=10.0, rebalance_seconds=10.0, late_seconds=0.5)
        group = Group(random.Random(4), timing, lambda: self.shards)
        self.stream = GroupedStream(stream, lambda name: Member(group, name))

    async def candidate(self) -> Candidate:
        return self.stream.reader("m1")

    def position(self, shard: str, number: int) -> str:
        return f"49{number:054d}"  # as long as those of built-in streams
