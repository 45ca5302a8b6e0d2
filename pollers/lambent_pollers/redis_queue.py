"""The queue on Redis: a mapping's source and a store's built-in queue, for any number of engines.

Decides when the server is asked whether something is visible, how a message is written, and what is repeated when an
answer was lost. What is visible, and what becomes of a message, is decided inside the server, each call in one step, by
`redis_queue.lua`; what a failed batch means by `semantics/queue.py`.

A call is named, and the server remembers for a while what it answered, so that one whose answer was lost is repeated
without a second message, a second receive or a wrong answer. Nothing is ever popped: what a receiver gets stays at the
server, and comes back at its visibility time-out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from math import ceil, inf
from typing import Any, Final, cast
from zlib import crc32

from lambent.errors import InvalidParameterValue
from lambent.model import (
    Depth,
    Message,
    MessageAttribute,
    MessageFact,
    MessageState,
    Queue,
    Release,
    Send,
    Settlement,
)
from lambent.ports import World
from lambent.semantics.builtin import QueueView, deduplication_id, sequence_number
from lambent.semantics.sending import check_send
from lambent_pollers.redis_calls import Scripts
from lambent_pollers.redis_connection import RedisServer, Script, Word
from lambent_pollers.redis_gathering import Gathering, Perform

_PARTS: Final = ("meta", "bodies", "states", "ready", "out", "born", "lines", "held", "groups", "sent", "times")
_SCRIPTS: Final = Scripts("redis_queue.lua")
_DONE, _UNDECLARED, _AGAIN, _CHANGED, _KIND = range(5)
_SETTLE_BYTES: Final = 100  # about what one settlement takes in a call
_FIELDS: Final = 7  # of a message in an answer
_MOVED_SECONDS: Final = 86_400.0  # for which a dead letter is known to have arrived, twice the longest visibility


class RedisQueues:
    """The queues of one server, as the connections of this process share them."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self._states: dict[str, _State] = {}
        self._names_key = server.keys("queues")

    def queue(self, config: Queue, world: World, adopt: bool = False) -> RedisQueue:
        """The queue of that name, with this configuration from its next use on. `adopt`: with the one it has at the
        server, if somebody declared it before."""
        return RedisQueue(self, self.state(config, adopt), world)

    async def names(self) -> Sequence[str]:
        """All queues that were ever declared here."""
        return sorted(name.decode() for name in await self.server.call("SMEMBERS", self._names_key))

    async def fact(self, message_id: str, world: World) -> MessageFact | None:
        """A message, in whichever queue it is."""
        queues = [self.queue(Queue(name=name), world, adopt=True) for name in await self.names()]
        found = await asyncio.gather(*(queue.fact(message_id) for queue in queues))
        return next(filter(None, found), None)

    async def sweep(self, world: World) -> None:
        """Remove what is too old, in queues that nobody uses too."""
        for name in await self.names():
            await self.queue(Queue(name=name), world, adopt=True).depth()

    def state(self, config: Queue, adopt: bool) -> _State:
        """What this process remembers of a queue, see `queue`."""
        if config.name not in self._states:

            async def send(words: Sequence[Word]) -> Sequence[Any]:
                return await self.perform(state, _SCRIPTS.adds, "send", *words)

            async def settle(words: Sequence[Word]) -> Sequence[Any]:
                [answers] = await self.perform(state, _SCRIPTS.goes_on, "settle", *words)
                return cast(bytes, answers)

            self._states[config.name] = _State(config, adopt, self.server, send, settle)
        state = self._states[config.name]
        if not adopt and (state.adopt or state.config != config):
            state.become(config, self.server)
            state.declared = state.adopt = False
        return state

    async def perform(
        self, state: _State, script: Script, what: str, *words: Word, remember_ms: int | None = None
    ) -> list[Any]:
        """One call, until it is done. The server remembers it for so long, or as long as it may be repeated."""
        call = self.name_of_call(state)
        while True:
            await self.declare(state)
            keys, last = (*state.keys, call), tuple[Word, ...]()
            if what == "receive":
                keys, last = (*keys, *state.dead_keys), (state.config.dead_letter_queue or "",)
            future = self.server.run(script, keys, what, remember_ms or self.server.remember_ms, *words, *last)
            try:
                [code, *answer] = await asyncio.shield(future)
            except asyncio.CancelledError:
                future.add_done_callback(partial(self._unwanted, state, what))
                raise
            if code == _DONE:
                return list(answer)
            self._correct(state, code, answer)

    def name_of_call(self, state: _State) -> str:
        """The key under which the server remembers it."""
        return f"{state.call_key}:{self.server.name_call()}"

    def _unwanted(self, state: _State, what: str, future: asyncio.Future[Any]) -> None:
        """Nobody need wait for the visibility time-out because a caller was cancelled: what it would have got is given
        back."""
        if future.cancelled() or future.exception() is not None or what not in ("receive", "claim"):
            return
        code, *answer = future.result()
        if code == _DONE and (given := answer[1]):
            words = [word for message in _grouped(given, _FIELDS) for word in (message[0], message[1], 0, 1)]
            keys = (*state.keys, self.name_of_call(state))
            future = self.server.run(_SCRIPTS.goes_on, keys, "settle", self.server.remember_ms, *words)
            future.add_done_callback(_heard)

    def _correct(self, state: _State, code: int, answer: Sequence[Any]) -> None:
        """What to do before a call that was not done is made again."""
        if code == _UNDECLARED:
            self.server.trouble(
                f"{self.server}: queue {state.config.name} was declared, and is gone with all that was in it. "
                "Did somebody delete keys? It is declared anew"
            )
            for each in self._states.values():
                each.declared = each.declared and each.config.name not in _queues_of(state.config)
        elif code == _CHANGED:
            state.become(Queue.model_validate_json(answer[0]), self.server)

    async def declare(self, state: _State) -> None:
        """The server knows the configuration from its first use on. Raises InvalidParameterValue if messages of the
        other kind are in it."""
        while not state.declared:
            await self.server.checked()
            config, adopt = state.config, state.adopt
            code, stored = await self._declare(config, adopt)
            if code == _KIND:
                raise InvalidParameterValue(f"fifo of queue {config.name} cannot change while messages are in it")
            known = Queue.model_validate_json(stored)
            if (dead := known.dead_letter_queue) is not None:
                await self._declare(Queue(name=dead, fifo=known.fifo), True)
            await self.server.call("SADD", self._names_key, *_queues_of(known))
            if state.config is config:
                state.become(known, self.server)
                state.declared = True

    async def _declare(self, config: Queue, adopt: bool) -> tuple[int, Any]:
        keys = _keys(self.server, config.name)
        code, stored = await self.server.run(
            _SCRIPTS.adds, [*keys, keys[0]], "declare", self.server.remember_ms, int(config.fifo),
            _ms(config.delay_seconds), _ms(config.visibility_timeout_seconds),
            config.message_retention_period_seconds * 1000,
            config.max_receive_count or "", config.dead_letter_queue or "", config.model_dump_json(), int(adopt),
        )  # fmt: skip
        return code, stored


class _State:
    """What a process remembers of a queue: unless the bell rings, nothing is visible before `quiet_until`."""

    def __init__(self, config: Queue, adopt: bool, server: RedisServer, sending: Perform, settling: Perform) -> None:
        self.declared = False
        self.adopt = adopt
        self.idle = False  # it had nothing to give when it was asked last
        self.gate = asyncio.Lock()
        self.keys = _keys(server, config.name)
        self.call_key = server.keys(config.name, "queue", "call")
        self.quarantine = server.keys(config.name, "queue", "quarantine")
        self.bell = server.bell(self.keys[0])
        self._quiet_until = -inf
        self._rings = 0
        self.sending = Gathering(sending)
        self.settling = Gathering(settling)
        self.become(config, server)

    def become(self, config: Queue, server: RedisServer) -> None:
        self.config = config
        dead = config.dead_letter_queue
        keys = _keys(server, dead) if dead else ()
        self.dead_keys = keys if keys and server.one_slot(self.keys[0], keys[0]) else ()

    def rest(self, rings: int, until: float) -> None:
        """Nothing will be visible before that time (the loop's) if the bell has not rung more often than that."""
        self._rings, self._quiet_until = rings, until

    def quiet_for(self, now: float) -> float:
        """Seconds in which nothing will be visible, if the bell does not ring."""
        return self._quiet_until - now if self._rings == self.bell.rings else 0.0


class RedisQueue(QueueView):
    """The queue as one connection sees it. Everything may raise StoreUnavailable: nothing is known to be done; and
    InvalidParameterValue if messages of the other kind (standard or FIFO) are in it."""

    def __init__(self, queues: RedisQueues, state: _State, world: World) -> None:
        super().__init__(state.config.name, world.region, world.account_id)
        self._queues = queues
        self._state = state
        self._world = world
        self._loop = asyncio.get_running_loop()

    @property
    def config(self) -> Queue:
        return self._state.config

    async def send_many(self, sends: Sequence[Send]) -> Sequence[str]:
        """Raises InvalidParameterValue for what SendMessage would refuse; then none is stored."""
        await self._queues.declare(self._state)  # which may find that it is of another kind than was thought
        fifo, size = self.config.fifo, 0
        ids, words = [], list[Word]()
        for send in sends:
            check_send(send, self.config)
            ids.append(message_id := self._world.new_id())
            identity = deduplication_id(send, self.config) if fifo else None
            packed = _packed(message_id, send, identity)
            delay = "" if send.delay_seconds is None else _ms(send.delay_seconds)
            words += (message_id, delay, send.group or "", identity or "", packed)
            size += len(packed)
        if not sends:
            return []
        stored = await self._state.sending.put(words, len(ids), size)
        return [each.decode() for each in stored] if fifo else ids

    async def receive(self, limit: int, wait_seconds: float) -> Sequence[Message]:
        """As the port says. Who waits is woken by a send, in whichever process, and by the next time-out."""
        state, loop = self._state, self._loop
        deadline = loop.time() + wait_seconds
        if wait_seconds > 0:
            await state.bell.listen()
        while (now := loop.time()) < deadline:
            if (quiet := state.quiet_for(now)) > 0:
                await state.bell.wait(state.bell.rings, min(deadline - now, quiet))
                continue
            async with state.gate if state.idle else nullcontext():  # of many that were woken, one asks first
                if state.quiet_for(loop.time()) <= 0 and (messages := await self._receive(limit, waits=True)):
                    return messages
        if wait_seconds > 0 and state.quiet_for(loop.time()) > 0:
            return []
        return await self._receive(limit, waits=False)

    async def settle_many(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        now = self._world.clock.now()
        words: list[Word] = []
        for each in settlements:
            message_id, _, number = each.receipt.rpartition("#")
            words += (message_id, number if number.isdecimal() else 0)
            words += (max(0, _ms(each.at - now)), int(each.give_back)) if isinstance(each, Release) else ("", 0)
        if not settlements:
            return []
        answers = await self._state.settling.put(words, len(settlements), _SETTLE_BYTES * len(settlements))
        return [answer == ord("1") for answer in answers]

    async def depth(self) -> Depth:
        return Depth(*await self._perform(_SCRIPTS.goes_on, "depth"))

    async def purge(self) -> None:
        await self._perform(_SCRIPTS.goes_on, "purge")

    async def peek(self, limit: int, after: str = "") -> Sequence[MessageFact]:
        return await self._look(limit, after)

    async def fact(self, message_id: str) -> MessageFact | None:
        """One message; None: it is not here."""
        return next(iter(await self._look("", message_id)), None)

    async def claim_many(self, ids: Sequence[str]) -> Sequence[Message]:
        if not ids:
            return []
        _, given, _ = await self._perform(_SCRIPTS.goes_on, "claim", *ids)
        return await self._sound(list(_grouped(given, _FIELDS)))

    async def _sound(self, rows: Sequence[Sequence[Any]]) -> Sequence[Message]:
        """Those that can be read; the others are put aside, and reported."""
        messages = [(row[0].decode(), self._message(row)) for row in rows]
        damaged = [message_id for message_id, message in messages if message is None]
        if damaged:
            state, queues = self._state, self._queues
            keys = (*state.keys, queues.name_of_call(state), state.quarantine)
            await queues.server.run(_SCRIPTS.goes_on, keys, "set_aside", queues.server.remember_ms, *damaged)
            queues.server.trouble(
                f"{queues.server}: damaged messages of queue {self.config.name} are set aside: {', '.join(damaged)}. "
                f"The hash {state.quarantine} has what is left of them"
            )
        return [message for _, message in messages if message is not None]

    async def _receive(self, limit: int, waits: bool) -> Sequence[Message]:
        """`waits`: if nothing is visible, the bell shall ring when that changes."""
        state = self._state
        while True:
            rings = state.bell.rings
            next_in, given, moving = await self._perform(_SCRIPTS.goes_on, "receive", limit, int(waits))
            state.idle = not given
            if moving:
                await self._move(list(_grouped(moving, _FIELDS)))
            messages = await self._sound(list(_grouped(given, _FIELDS)))
            if messages or not (given or moving or next_in == 0):  # otherwise others are in their places
                break
        if waits and not messages:
            state.rest(rings, self._loop.time() + next_in / 1e6 if next_in >= 0 else inf)
        return messages

    async def _move(self, rows: Sequence[Sequence[Any]]) -> None:
        """Dead letters whose queue is in another slot of the cluster: copied first, deleted then. After a crash between
        they come again, and the dead-letter queue knows them by their ids."""
        assert self.config.dead_letter_queue is not None
        target = self._queues.queue(Queue(name=self.config.dead_letter_queue), self._world, adopt=True)
        await self._queues.declare(target._state)
        words: list[Word] = []
        for message_id, _, _, _, _, born, body in rows:
            words += (message_id, born, (_unpacked(message_id, body) or Send("x")).group or "", body)
        await self._queues.perform(target._state, _SCRIPTS.goes_on, "take", *words, remember_ms=_ms(_MOVED_SECONDS))
        await self._perform(_SCRIPTS.goes_on, "settle", *(word for row in rows for word in (row[0], row[1], "", 0)))

    async def _look(self, limit: int | str, message_id: str) -> Sequence[MessageFact]:
        ms, rows = await self._perform(_SCRIPTS.goes_on, "look", limit, message_id)
        facts = []
        for *row, out, wait in _grouped(rows, _FIELDS + 2):
            if (message := self._message(row)) is not None:
                state: MessageState = "visible" if wait == 0 else "in_flight" if out else "delayed"
                message.receipt = message.receipt if out else ""
                facts.append(MessageFact(self.config.name, message, state, ms / 1e3 + wait / 1e6))
        return facts

    def _message(self, row: Sequence[Any]) -> Message | None:
        """None: it is damaged."""
        message_id, receipt, receives, first, number, born, body = row
        if (send := _unpacked(message_id, body)) is None:
            return None
        return Message(
            message_id.decode(), send.body, f"{message_id.decode()}#{receipt}", receives, born / 1e3, first / 1e3,
            send.group, send.deduplication_id, sequence_number(number) if number else None, send.attributes, send.hops,
        )  # fmt: skip

    async def _perform(self, script: Script, what: str, *words: Word) -> list[Any]:
        return await self._queues.perform(self._state, script, what, *words)


def _queues_of(config: Queue) -> Sequence[str]:
    """It, and its dead-letter queue."""
    return list(filter(None, (config.name, config.dead_letter_queue)))


def _keys(server: RedisServer, name: str) -> tuple[str, ...]:
    return tuple(server.keys(name, "queue", part) for part in _PARTS)


def _ms(seconds: float) -> int:
    return ceil(round(seconds * 1e3, 3))


def _packed(message_id: str, send: Send, identity: str | None) -> bytes:
    """A message as it is kept: a checksum, what stands beside its body as JSON, and after a line break the body."""
    head = ""
    if send.group or identity or send.attributes or send.hops:
        attributes = {name: (each.value, each.data_type) for name, each in send.attributes.items()}
        head = json.dumps((send.group, identity, attributes, send.hops))
    content = f"{head}\n{send.body}".encode()
    return b"%08x%b" % (crc32(content, crc32(message_id.encode())), content)


def _unpacked(message_id: bytes, packed: bytes | None) -> Send | None:
    """None: it is damaged."""
    if packed is None or packed[:8] != b"%08x" % crc32(packed[8:], crc32(message_id)):
        return None
    head, _, body = packed[8:].decode().partition("\n")
    if not head:
        return Send(body)
    group, identity, attributes, hops = json.loads(head)
    attributes = {name: MessageAttribute(*each) for name, each in attributes.items()}
    return Send(body, None, group, identity, attributes, hops)


def _grouped(words: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (words[first : first + size] for first in range(0, len(words), size))


def _heard(future: asyncio.Future[Any]) -> None:
    """Nobody waits for its answer."""
    if not future.cancelled():
        future.exception()
