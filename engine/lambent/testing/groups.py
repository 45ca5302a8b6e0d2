"""A consumer group's co-ordinator in virtual time, and streams whose readers it elects.

Decides, from a seed, when each member meets each step of a rebalance of Kafka's classic protocol with eager assignment:
it hears late that another joined, has gone or was thrown out, gives everything back within the rebalance time-out or is
a member no longer, and hears late, or twice, of its new share. So two may believe in one shard, and one may have none.
Leaves to the member (`Simulation.member` makes it) what follows from a share, and to the lease who may read.

Beside the engines stand strangers, which join, have a share that they never read, and leave. What was committed is kept
apart from the store; it may be refused, forgotten or late.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast

from lambent.model import Stream
from lambent.ports import BuiltinStream, Connection, Election, Store, StreamReader, World
from lambent.semantics.builtin import middle_of
from lambent.testing.grounds import MemoryGround
from lambent.testing.loop import PROCESS
from lambent.testing.workload import HORIZON_SECONDS

__all__ = ["Group", "GroupAway", "GroupMember", "GroupedGround", "GroupedStream", "Membership", "NotMember", "Timing"]

AGAIN_SECONDS: Final = 0.1
"""Virtual seconds after which a client asks a co-ordinator again that did not answer."""

STRANGERS_HEARTBEAT_SECONDS: Final = 0.5

LATE: Final = 0.5
"""Of the requests and announcements: how many take time at all."""

TROUBLES: Final = ("stranger", "stranger", "stranger", "expel", "away", "break", "forget")
"""What befalls a group; what stands there thrice comes thrice as often."""

Heard = Callable[[Sequence[str]], Awaitable[None]]


class GroupAway(Exception):
    """No co-ordinator answers."""


class NotMember(Exception):
    """The group does not know this member, or not in this generation."""


class GroupMember(Election, Protocol):
    """An election that stands for one reader."""

    def released(self, shard: str) -> None:
        """Nothing of this shard is in flight any more."""
        ...

    async def close(self) -> None:
        """Leave."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """A day's, in virtual seconds. `lost`, `twice`: how likely a heartbeat is lost, and a share announced twice."""

    session_seconds: float
    rebalance_seconds: float
    late_seconds: float
    lost: float = 0.0
    twice: float = 0.0


class Group:
    """The co-ordinator of one group. `shards` gives what there is to share out now."""

    def __init__(self, chance: random.Random, timing: Timing, shards: Callable[[], Sequence[str]]) -> None:
        self.timing = timing
        self.generation = 0
        self.offsets: dict[str, tuple[int, str]] = {}
        """What was committed: offset and metadata of each shard."""
        self._chance = chance
        self._list_shards = shards
        self._shards: Sequence[str] = ()
        self.befallen: Counter[str] = Counter()
        self._members: dict[Membership, float] = {}  # and when each was last heard of
        self._joined: dict[Membership, asyncio.Future[tuple[int, Sequence[str]]]] = {}
        self._until: asyncio.TimerHandle | None = None  # the end of a rebalance
        self._away_until = 0.0
        self._healed = False
        self._strangers: dict[asyncio.Task[None], None] = {}

    # --- what clients ask --------------------------------------------------------------------------------------------

    def join(self, member: Membership) -> asyncio.Future[tuple[int, Sequence[str]]]:
        """Answered when all have joined, or time is up: the generation, and the member's share."""
        self._answers()
        if member not in self._members:
            self._heard(member)
            self._watch(member, self.timing.session_seconds)
        joined = self._joined[member] = asyncio.get_running_loop().create_future()
        self._rebalance()
        if all(each in self._joined for each in self._members):
            self._end_in(self._chance.uniform(0, self.timing.late_seconds))
        return joined

    def heartbeat(self, member: Membership) -> bool:
        """A sign of life. Is the member to join anew?"""
        self._answers()
        if member not in self._members:
            return True
        self._heard(member)
        if list(self._list_shards()) != list(self._shards):
            self._rebalance()
        return self._until is not None or member.generation != self.generation

    def commit(self, member: Membership, offsets: Mapping[str, tuple[int, str]]) -> None:
        """Raises NotMember, and then nothing is committed."""
        self._answers()
        if member not in self._members or member.generation != self.generation:
            self.befallen["commit refused"] += 1
            raise NotMember
        self.offsets.update(offsets)

    def committed(self, shard: str) -> tuple[int, str] | None:
        self._answers()
        return self.offsets.get(shard)

    def leave(self, member: Membership) -> None:
        """It is heard in time only if the co-ordinator answers; otherwise the session runs out."""
        if asyncio.get_running_loop().time() >= self._away_until:
            self._remove(member)

    def shares(self) -> Mapping[str, str | None] | None:
        """Which process has each shard as its share; None: it is being decided."""
        if self._until is not None:
            return None
        return {shard: member.process for member in self._members for shard in member.share}

    async def travel(self) -> None:
        """The time that a request or an announcement takes."""
        if self._chance.random() < LATE:
            await asyncio.sleep(self._chance.uniform(0, self.timing.late_seconds))

    def chance(self, probability: float) -> bool:
        return probability > 0 and self._chance.random() < probability

    # --- what befalls it ---------------------------------------------------------------------------------------------

    def befall(self, what: str) -> None:
        """One of TROUBLES, until all is healed."""
        if self._healed:
            return
        self.befallen[what] += 1
        members = list(self._members)
        match what:
            case "stranger":
                task = asyncio.create_task(self._stranger(), name="a stranger", context=Context())
                self._strangers[task] = None
                task.add_done_callback(lambda task: self._strangers.pop(task), context=Context())
            case "expel" if members:
                self._remove(self._chance.choice(members))
            case "break" if members:
                self._chance.choice(members).break_down()
            case "away":
                self._away_until = asyncio.get_running_loop().time() + self._chance.choice((1.0, 10.0, 40.0))
            case "forget" if self.offsets:
                self.offsets.pop(self._chance.choice(sorted(self.offsets)))

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self._healed = True
        self.timing = Timing(self.timing.session_seconds, self.timing.rebalance_seconds, 0.0)
        self._away_until = 0.0
        for stranger in self._strangers:
            stranger.cancel()

    async def _stranger(self) -> None:
        with suppress(TimeoutError, GroupAway):
            async with asyncio.timeout(self._chance.choice((0.1, 3.0, 20.0))):
                await Membership(self, STRANGERS_HEARTBEAT_SECONDS).run(_heard, _heard)

    # --- rebalances --------------------------------------------------------------------------------------------------

    def _rebalance(self) -> None:
        if self._until is None:
            self._until = _later(self.timing.rebalance_seconds, self._end)

    def _end_in(self, seconds: float) -> None:
        assert self._until is not None
        self._until.cancel()
        self._until = _later(seconds, self._end)

    def _end(self) -> None:
        """Who has not joined is a member no longer; the others share."""
        self._until = None
        now = asyncio.get_running_loop().time()
        self.befallen["thrown out"] += len(self._members) - len(self._joined)
        self._members = {member: now for member in self._members if member in self._joined}
        joined, self._joined = self._joined, {}
        self.generation += 1
        self.befallen["generation"] += 1
        self._shards = list(self._list_shards())
        members = self._chance.sample(list(joined), len(joined))
        for number, member in enumerate(members):
            if not joined[member].done():  # or its client has given up
                joined[member].set_result((self.generation, self._shards[number :: len(members)]))

    def _remove(self, member: Membership) -> None:
        joined = self._joined.pop(member, None)
        if joined is not None and not joined.done():
            joined.set_exception(NotMember())
        if self._members.pop(member, None) is not None and self._members:
            self._rebalance()
            if all(each in self._joined for each in self._members):
                self._end_in(0.0)

    def _watch(self, member: Membership, seconds: float) -> None:
        _later(seconds, lambda: self._look_after(member))

    def _look_after(self, member: Membership) -> None:
        """One that waits for others needs to give no sign of life."""
        if member not in self._members:
            return
        now = asyncio.get_running_loop().time()
        ends = self._members[member] + self.timing.session_seconds
        if member in self._joined or now < self._away_until:
            self._heard(member)
            self._watch(member, self.timing.session_seconds)
        elif now < ends:
            self._watch(member, ends - now)
        else:
            self._remove(member)

    def _heard(self, member: Membership) -> None:
        self._members[member] = asyncio.get_running_loop().time()

    def _answers(self) -> None:
        if asyncio.get_running_loop().time() < self._away_until:
            raise GroupAway


class Membership:
    """The client's side of one member, as a client library has it."""

    def __init__(self, group: Group, heartbeat_seconds: float) -> None:
        self.group = group
        self._heartbeat_seconds = heartbeat_seconds
        self.process = PROCESS.get()
        self.generation = -1
        self.share: Sequence[str] = ()
        self._rejoin = asyncio.Event()
        self._broken = False
        self._beating: asyncio.TimerHandle | None = None

    async def run(self, revoked: Heard, assigned: Heard) -> None:
        """Belong until cancelled, or broken (then it raises GroupAway). `revoked` hears what is to be given back, and
        returns when it is; `assigned` hears of the new share. It gives signs of life meanwhile."""
        group = self.group
        try:
            while True:
                await revoked(self.share)
                self._silent()
                self.generation, self.share = await self._joined()
                self._rejoin.clear()
                self._beat()
                await group.travel()
                for _ in range(2 if group.chance(group.timing.twice) else 1):
                    await assigned(self.share)
                await self._rejoin.wait()
                if self._broken:
                    raise GroupAway
        except (asyncio.CancelledError, GroupAway):  # nothing else: the dead do not leave
            self._silent()
            group.leave(self)
            raise

    def break_down(self) -> None:
        """The client meets what it cannot mend."""
        self._broken = True
        self._rejoin.set()

    async def _joined(self) -> tuple[int, Sequence[str]]:
        while True:
            await self.group.travel()
            try:
                return await self.group.join(self)
            except (GroupAway, NotMember):
                await asyncio.sleep(AGAIN_SECONDS)

    def _beat(self) -> None:
        if not self.group.chance(self.group.timing.lost):
            with suppress(GroupAway):
                if self.group.heartbeat(self):
                    self._rejoin.set()
        self._beating = asyncio.get_running_loop().call_later(self._heartbeat_seconds, self._beat)

    def _silent(self) -> None:
        if self._beating is not None:
            self._beating.cancel()


class GroupedGround(MemoryGround):
    """Memory, with streams whose shards are shared out by groups. `member` makes what stands for a reader in a group;
    what befalls groups comes from `seed`."""

    def __init__(self, member: Callable[[Group, str], GroupMember], seed: int) -> None:
        super().__init__()
        self.store = _Grouped(self.store, self._stand)
        self._member = member
        self._chance = random.Random(f"groups {seed}")
        self._groups: dict[str, Group] = {}

    @property
    def befallen(self) -> Mapping[str, int]:
        return sum((group.befallen for group in self._groups.values()), Counter())

    def heal(self) -> None:
        for group in self._groups.values():
            group.heal()

    def extend(self, stream: Stream, number: int) -> bool:
        """As partitions are added: the new one has no parents, and takes a part of the keys of another."""
        state = self._memory.stream_state(stream)
        one = state._open[number % len(state._open)]
        middle, end = middle_of(one.shard.id, one.first_hash, one.end_hash), one.end_hash
        one.end_hash = middle
        state._add(middle, end, ())
        return True

    def unsettled(self, holders: Mapping[tuple[str, str], tuple[str, int]]) -> str:
        for name, group in self._groups.items():
            shares = group.shares()
            if shares is None:
                return f"the group of {name} is not at rest"
            for shard, process in shares.items():
                holder, _ = holders.get((name, shard), ("nobody", 0))
                if holder != process:
                    return f"{shard} of {name} is assigned to {process}, and {holder} has its lease"
        return ""

    def _stand(self, stream: Stream, name: str) -> GroupMember:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = self._group(stream)
        return self._member(group, name)

    def _group(self, stream: Stream) -> Group:
        chance, state = self._chance, self._memory.stream_state(stream)
        timing = Timing(
            chance.choice((3.0, 10.0)),
            chance.choice((1.0, 5.0, 30.0)),
            chance.choice((0.0, 0.5, 4.0)),
            chance.choice((0.0, 0.0, 0.3)),
            chance.choice((0.0, 0.2)),
        )
        group = Group(chance, timing, lambda: list(state.shards))
        for _ in range(chance.choice((0, 2, 5, 10))):
            _later(chance.uniform(0, HORIZON_SECONDS), partial(group.befall, chance.choice(TROUBLES)))
        return group


class _Grouped:
    """A store whose readers stand for election."""

    def __init__(self, store: Store, stand: Callable[[Stream, str], GroupMember]) -> None:
        self.capabilities = store.capabilities
        self._store, self._stand = store, stand

    async def connect(self, world: World, client: bool = False) -> Connection:
        return cast(Connection, _GroupedConnection(await self._store.connect(world, client), self._stand))


class _Inside:
    """What a subclass does not have itself is what the inner one has."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._inner, attribute)


class _GroupedConnection(_Inside):
    def __init__(self, inner: Connection, stand: Callable[[Stream, str], GroupMember]) -> None:
        super().__init__(inner)
        self._stand = stand

    def stream(self, stream: Stream) -> Any:
        return GroupedStream(self._inner.stream(stream), partial(self._stand, stream))


class GroupedStream(_Inside):
    """A built-in stream whose readers of a group stand for election."""

    def __init__(self, inner: BuiltinStream, stand: Callable[[str], GroupMember]) -> None:
        super().__init__(inner)
        self._stand = stand

    def reader(self, group: str = "") -> Any:
        inner = self._inner.reader(group)
        return _GroupedReader(inner, self._stand(group)) if group else inner


class _GroupedReader(_Inside):
    def __init__(self, inner: StreamReader, election: GroupMember) -> None:
        super().__init__(inner)
        self.election = election

    def drop(self, shard: str) -> None:
        self._inner.drop(shard)
        self.election.released(shard)

    def close(self) -> Coroutine[Any, Any, None]:
        """Not `async`: no fault strikes it, for a member that cannot leave would stay for ever."""
        return self._close()

    async def _close(self) -> None:
        try:
            await self.election.close()
        finally:
            await self._inner.close()


def _later(seconds: float, do: Callable[[], None]) -> asyncio.TimerHandle:
    """In the outside world."""
    return asyncio.get_running_loop().call_later(seconds, do, context=Context())


async def _heard(share: Sequence[str]) -> None: ...
