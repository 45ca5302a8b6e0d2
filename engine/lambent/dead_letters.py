"""Dead letters: found, looked at and brought back.

Decides the order of bringing one back, claim, send, delete: a crash in between repeats it and never loses it. Where one
goes is decided in `semantics/redriving.py`, what a pattern matches in `semantics/filtering.py`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Final

from lambent.calls import new_event
from lambent.control import Control
from lambent.errors import InvalidParameterValue, LambentError, ResourceNotFound, StoreUnavailable
from lambent.model import Delete, Depth, Message, MessageFact, Queue, Release, Settlement, StreamMapping
from lambent.ports import BuiltinQueue, Connection, StreamTarget, World
from lambent.semantics.filtering import InvalidPattern, compile_pattern
from lambent.semantics.redriving import (
    Declared,
    Redrive,
    Reinvoke,
    Reput,
    Resend,
    Unclear,
    Way,
    redrive,
    senders,
)

PAGE: Final = 100  # messages that are looked at, or brought back, at a time
PACE_SECONDS: Final = 0.1  # between two groups where there is a rate
GONE: Final = "it is gone, or somebody has just received it"
_IDS: Final = uuid.UUID("7d1c4a43-0f0b-5b5e-8a53-6f1d6a3f2f7e")  # the namespace of redriven events' request ids

Group = dict[str, Way]  # by message id


@dataclass(frozen=True, slots=True)
class DeadLetterQueue:
    """A queue that something names for what failed, as `senders` says."""

    name: str
    senders: Sequence[str]
    depth: Depth


@dataclass(frozen=True, slots=True)
class Redriven:
    """What was done with a dead letter, or would be; `failure` says why it was not, and so stays."""

    queue: str
    id: str
    what: Redrive | None
    failure: str = ""


class DeadLetters:
    """The dead letters of a store, for a client of it."""

    def __init__(
        self, control: Control, connection: Connection, world: World, elsewhere: Callable[[str], StreamTarget]
    ) -> None:
        self._control = control
        self._connection = connection
        self._world = world
        self._elsewhere = elsewhere  # opens a topic by its URL

    async def queues(self) -> list[DeadLetterQueue]:
        """All queues that something names for what failed."""
        declared = await self.declared()
        named = {name: senders(name, declared) for name in declared.queues}
        return [
            DeadLetterQueue(name, who, await self._queue(declared.queues[name]).depth())
            for name, who in sorted(named.items())
            if who
        ]

    async def declared(self) -> Declared:
        """What dead letters are judged by."""
        known = await self._control.known()
        mappings = (each.mapping for each in (await self._control.list_mappings()).values())
        streams = [each for each in mappings if isinstance(each, StreamMapping)]
        return Declared(known.functions, known.queues, known.streams, streams)

    async def letter(self, message_id: str) -> MessageFact:
        """The message of this id, in whichever queue it is. Raises ResourceNotFound."""
        fact = await self._connection.facts.message(message_id)
        if fact is None:
            raise ResourceNotFound(f"There is no message {message_id} (any more) in any queue.")
        return fact

    async def letters(
        self, queue: str | None = None, pattern: str | Mapping[str, object] | None = None
    ) -> AsyncIterator[MessageFact]:
        """The messages of a queue, or of all dead-letter queues, that match an event pattern, which sees what the
        filter of a queue's mapping would see: `{"body": {"item": ["vase"]}}`.

        Raises InvalidParameterValue, ResourceNotFound."""
        try:
            matches = None if pattern is None else compile_pattern(pattern)
        except InvalidPattern as invalid:
            raise InvalidParameterValue(f"filter: {invalid.reason}") from None
        names = [queue] if queue is not None else [each.name for each in await self.queues()]
        for name in names:
            opened, after = self._queue(await self._control.get_queue(name)), ""
            while page := await opened.peek(PAGE, after):
                for fact in page:
                    if matches is None or matches.matches(opened.view(fact.message)):
                        yield fact
                after = page[-1].message.id

    async def redrive(
        self,
        chosen: Iterable[tuple[str, str]],
        *,
        to: str | None = None,
        edited: bytes | None = None,
        rate: float | None = None,
        dry_run: bool = False,
    ) -> AsyncIterator[Redriven]:
        """Bring back dead letters, each named by its queue and id; tells of each what was done with it.

        to: 'queue:NAME', 'function:NAME' or 'stream:NAME', where its origin is not known or not meant. edited: what it
        shall carry instead. rate: at most so many a second. Raises StoreUnavailable; what was not told of is then
        still where it was, or in both places."""
        declared = await self.declared()
        size = PAGE if rate is None else max(1, min(PAGE, round(rate * PACE_SECONDS)))
        for queue, ids in _groups(chosen, size):
            if queue not in declared.queues:
                raise ResourceNotFound(f'There is no queue "{queue}".')
            opened = self._queue(declared.queues[queue])
            while messages := await (self._peek(ids) if dry_run else opened.claim_many(ids)):
                plans = {each.id: redrive(each, queue, declared, to, edited) for each in messages}
                failures = {each: what.reason for each, what in plans.items() if isinstance(what, Unclear)}
                if not dry_run:
                    for group in _by_target(plans):
                        failures.update(await self._send(group, declared))
                    await opened.settle_many([self._settled(each, failures) for each in messages])
                for identity, what in plans.items():
                    yield Redriven(queue, identity, what, failures.get(identity, ""))
                if rate is not None and not dry_run:
                    await asyncio.sleep(len(plans) / rate)
                ids = [each for each in ids if each not in plans]  # of a FIFO queue's group, one at a time is given
            for identity in ids:
                yield Redriven(queue, identity, None, GONE)

    async def _peek(self, ids: Sequence[str]) -> Sequence[Message]:
        facts = [await self._connection.facts.message(each) for each in ids]
        return [fact.message for fact in facts if fact is not None]

    async def _send(self, group: Group, declared: Declared) -> Mapping[str, str]:
        """Send all of a group; gives why of those that their target refuses, by id."""
        try:
            await self._send_all(group, declared)
        except StoreUnavailable:
            raise
        except LambentError as refused:
            if len(group) == 1:
                return dict.fromkeys(group, refused.message)
            alone = [await self._send({each: way}, declared) for each, way in group.items()]
            return {each: why for failures in alone for each, why in failures.items()}
        return {}

    async def _send_all(self, group: Group, declared: Declared) -> None:
        """All of a group, which has one target, or none."""
        now = self._world.clock.now()
        resends = [way for way in group.values() if isinstance(way, Resend)]
        reputs = [way for way in group.values() if isinstance(way, Reput)]
        events = [  # the same letter is the same event: redriven again after a crash, it is stored once
            new_event(str(uuid.uuid5(_IDS, each)), way.function, way.payload, now)
            for each, way in group.items()
            if isinstance(way, Reinvoke)
        ]
        if resends:
            await self._queue(declared.queues[resends[0].queue]).send_many([way.send for way in resends])
        if reputs:
            name, url = reputs[0].stream, reputs[0].url
            stream = self._elsewhere(url) if url else self._connection.stream(declared.streams[name])
            await stream.put_many([put for way in reputs for put in way.puts])
        if events:
            await self._connection.events.put_many(events)

    def _settled(self, message: Message, failures: Mapping[str, str]) -> Settlement:
        if message.id in failures:
            return Release(message.receipt, self._world.clock.now(), give_back=True)
        return Delete(message.receipt)

    def _queue(self, queue: Queue) -> BuiltinQueue:
        return self._connection.queue(queue)


def _groups(chosen: Iterable[tuple[str, str]], size: int) -> Iterator[tuple[str, list[str]]]:
    """At most `size` ids of one queue at a time, in their order."""
    for queue, pairs in groupby(chosen, key=itemgetter(0)):
        while ids := [identity for _, identity in islice(pairs, size)]:
            yield queue, ids


def _by_target(plans: Mapping[str, Redrive]) -> list[Group]:
    groups: defaultdict[str, Group] = defaultdict(dict)
    for identity, way in plans.items():
        if not isinstance(way, Unclear):
            groups[way.target][identity] = way
    return list(groups.values())
