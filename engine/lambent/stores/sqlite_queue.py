"""The built-in queue in a SQLite file, as connections see it: who waits, and who wakes them.

Decides when the file is asked whether something is visible. What is visible, and what becomes of a message, is
`sqlite_messages.py`'s; what a failed batch means `semantics/queue.py`'s. The file is the truth, for clients in other
processes too: all that a process remembers is how long its receivers may sleep, and any change wakes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import TypeVar

from lambent.model import Depth, Message, MessageFact, Queue, Release, Send, Settlement
from lambent.ports import World
from lambent.semantics.builtin import QueueView
from lambent.semantics.sending import check_send
from lambent.stores.memory_lines import Bell
from lambent.stores.sqlite_file import Perform, SqliteFile
from lambent.stores.sqlite_messages import (
    CLAIM,
    DEPTH,
    LAST,
    PEEK,
    PURGE,
    RECEIVE,
    SEND,
    SETTLE,
    Call,
    Given,
    Settling,
    declare,
    sweep,
)

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class SqliteQueues:
    """The queues of one file, as one connection knows them."""

    def __init__(self, file: SqliteFile) -> None:
        self.file = file
        self._states: dict[str, _State] = {}
        self._swept = 0
        file.on_foreign_change(self._changed)
        file.on_reopened(self._changed)

    def queue(self, config: Queue, world: World) -> SqliteQueue:
        """The queue of that name, with this configuration from its next use on."""
        state = self._states.setdefault(config.name, _State(config))
        if state.config != config:
            state.config, state.declared = config, False
        return SqliteQueue(self, state, world)

    async def sweep(self) -> None:
        """Remove what is too old from the next few queues, whoever uses them or not."""
        self._swept = await self.file.write(sweep, (self._swept, self.file.clock))

    def changed(self, name: str) -> None:
        """Something may be visible in this queue."""
        if (state := self._states.get(name)) is not None:
            state.changed()

    def _changed(self) -> None:
        for state in self._states.values():
            state.changed()


class _State:
    """What a process remembers of a queue: nothing is visible before `quiet_until`, or else the bell rings."""

    def __init__(self, config: Queue) -> None:
        self.config = config
        self.declared = False
        self.bell = Bell()
        self.quiet_until = -inf
        self.changes = 0

    def changed(self, visible_at: float = -inf) -> None:
        """Something is visible now, or will be at that time."""
        self.changes += 1
        self.quiet_until = min(self.quiet_until, visible_at)
        self.bell.ring()


class SqliteQueue(QueueView):
    """The built-in queue as one connection sees it. Everything may raise StoreUnavailable: nothing is known to be done;
    and InvalidParameterValue if messages of the other kind (standard or FIFO) are in it."""

    def __init__(self, queues: SqliteQueues, state: _State, world: World) -> None:
        super().__init__(state.config.name, world.region, world.account_id)
        self._queues = queues
        self._file = queues.file
        self._state = state
        self._world = world

    @property
    def config(self) -> Queue:
        return self._state.config

    async def send_many(self, sends: Sequence[Send]) -> Sequence[str]:
        """Raises InvalidParameterValue for what SendMessage would refuse; then none is stored."""
        for send in sends:
            check_send(send, self.config)
        named = [(self._world.new_id(), send) for send in sends]
        return await self._write(SEND, named, lambda _: self._state.changed())

    async def receive(self, limit: int, wait_seconds: float) -> Sequence[Message]:
        await self._declare()
        clock, state = self._file.clock, self._state
        monotonic = self._world.clock.monotonic  # epoch seconds are too coarse for a wait of some nanoseconds
        deadline = monotonic() + wait_seconds
        while True:
            if clock.now() >= state.quiet_until:
                changes = state.changes
                given = await self._claim(RECEIVE, limit)
                if given.messages:
                    return given.messages
                if given.next_at == -inf:
                    continue
                if changes == state.changes:
                    state.quiet_until = given.next_at
            if (left := deadline - monotonic()) <= 0:
                return []
            if (quiet := state.quiet_until - clock.now()) > 0:
                await state.bell.wait(min(left, quiet))

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        now = self._world.clock.now()
        settlings = [
            Settling(each.receipt, each.at - now, each.give_back)
            if isinstance(each, Release)
            else Settling(each.receipt)
            for each in settlements
        ]
        return await self._write(SETTLE, settlings, lambda _: self._state.changed())

    async def depth(self) -> Depth:
        await self._declare()
        return await self._file.read(DEPTH, self._call(None))

    async def purge(self) -> None:
        """In steps; what is sent meanwhile stays."""
        last = await self._write(LAST, None)
        while await self._write(PURGE, last):
            pass

    async def peek(self, limit: int, after: str = "") -> Sequence[MessageFact]:
        await self._declare()
        return await self._file.read(PEEK, self._call((limit, after)))

    async def claim_many(self, ids: Sequence[str]) -> Sequence[Message]:
        await self._declare()
        return (await self._claim(CLAIM, ids)).messages

    async def _declare(self) -> None:
        """The file knows the configuration from its first use on."""
        state = self._state
        while not state.declared:
            config = state.config
            await self._file.write(declare, self._call(config))
            state.declared = state.config is config

    def _call(self, argument: Argument) -> Call[Argument]:
        return self._state.config.name, self._file.clock, argument

    async def _write(
        self,
        perform: Perform[Call[Argument], Result],
        argument: Argument,
        then: Callable[[Result], None] | None = None,
    ) -> Result:
        await self._declare()
        return await self._file.write(perform, self._call(argument), then)

    async def _claim(self, perform: Perform[Call[Argument], Given], argument: Argument) -> Given:
        """Nobody need wait for the visibility time-out because a caller was cancelled: what it would have got is given
        back."""
        taken: list[Given] = []
        gone = False

        def given(found: Given) -> None:
            if found.messages:
                self._state.changed(found.next_at)
            if found.moved_to is not None:
                self._queues.changed(found.moved_to)
            taken.append(found)
            if gone:
                self._give_back(found)

        try:
            return await self._file.write(perform, self._call(argument), given)
        except asyncio.CancelledError:
            gone = True
            for found in taken:
                self._give_back(found)
            raise

    def _give_back(self, found: Given) -> None:
        settlings = [Settling(message.receipt, 0.0, give_back=True) for message in found.messages]
        if settlings:
            self._file.tell(SETTLE, self._call(settlings), lambda _: self._state.changed())
