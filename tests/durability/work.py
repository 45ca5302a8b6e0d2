"""Seeded work on a store through its ports, in virtual_time, entered into a `Ledger`; and what a store holds, as texts.

Decides which calls are made, and to which state each leads. Several clients work at the same time, so that one commit
serves many; each item is in the hands of one of them. Leaves to `ledger.py` what a crash may do to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lambent.errors import StoreUnavailable
from lambent.model import (
    Checkpoint,
    Delete,
    Event,
    Lease,
    Progress,
    Put,
    Queue,
    Read,
    Release,
    Send,
    Settled,
    Settlement,
    Stream,
    WindowState,
)
from lambent.ports import BuiltinQueue, Connection
from tests.durability.ledger import ANY, Ledger

CLAIM_SECONDS = 5.0  # longer than anybody works
MAXIMUM_RECEIVES = 2
FUNCTIONS = ("resize", "charge")
QUEUES = {
    "orders": Queue(
        name="orders",
        visibility_timeout_seconds=CLAIM_SECONDS,
        max_receive_count=MAXIMUM_RECEIVES,
        dead_letter_queue="dead",
    ),
    "line": Queue(name="line.fifo", visibility_timeout_seconds=CLAIM_SECONDS, fifo=True),
    "dead": Queue(name="dead", visibility_timeout_seconds=CLAIM_SECONDS),
}
STREAM = Stream(name="clicks", shards=2)
GROUP = "mapping"
LEASES = ("shard-a", "shard-b")
KINDS = ("function", "mapping")

Act = Callable[[], Awaitable[None]]


@dataclass
class Work:
    """One seed's work, over as many lives of a store as there are. `problems` are answers that contradict the ledger,
    each a sentence."""

    chance: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    problems: list[str] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    counters: dict[str, int] = field(default_factory=dict)
    receiving: dict[str, int] = field(default_factory=dict)
    """Receives that are not yet answered: their numbers in the ledger, by queue or function."""
    refused: int = 0
    """How often the store was away."""
    pace_seconds: float = 0.0
    """The longest rest between two calls of one client, in seconds of the loop."""

    async def live(self, connection: Connection, calls: int, beside: Connection | None = None) -> None:
        """Let each client make so many calls, or as many as it can before the store is away. `beside`: another
        connection, of a client that only brings work."""
        acts = [
            self._one_of(*self._events(connection)),
            self._one_of(*self._queue(connection, "orders")),
            self._one_of(*self._queue(connection, "line")),
            self._records(connection, "engine"),
            self._checkpoints(connection),
            self._documents(connection, "e"),
        ]
        if beside is not None:
            (put, *_), (send, *_) = self._events(beside), self._queue(beside, "orders")
            acts += [put, send, self._records(beside, "client"), self._documents(beside, "c")]
        self.receiving.clear()
        await asyncio.gather(*(self._until_away(act, calls) for act in acts))

    async def _until_away(self, act: Act, calls: int) -> None:
        try:
            for _ in range(calls):
                await act()
                await asyncio.sleep(self.chance.random() * self.pace_seconds)
        except StoreUnavailable:
            self.refused += 1

    # --- clients

    def _events(self, connection: Connection) -> tuple[Act, Act, Act]:
        events, ledger, claimed = connection.events, self.ledger, dict[str, Event]()

        def waiting(function: str) -> dict[str, str]:
            return {
                key: _live(attempts + 1, deferrals, reason)
                for key, (attempts, deferrals, reason) in self._living(function)
                if key not in claimed
            }

        async def put() -> None:
            function = self.chance.choice(FUNCTIONS)
            new = [self._event(function) for _ in range(self.chance.randint(1, 4))]
            number = ledger.began({f"event {event.request_id}": _live(0, 0) for event in new})
            await events.put_many(new)
            ledger.done(number)
            if function in self.receiving:
                ledger.widened(self.receiving[function], waiting(function))

        async def receive() -> None:
            function = self.chance.choice(FUNCTIONS)
            number = self.receiving[function] = ledger.began(waiting(function), together=False)
            given = await events.receive(function, self.chance.randint(1, 4), CLAIM_SECONDS)
            del self.receiving[function]
            might = waiting(function)
            came = {f"event {each.request_id}": might.get(f"event {each.request_id}") for each in given}
            told = {f"event {each.request_id}": _live(each.attempts, each.deferrals) for each in given}
            right = all((came[key] or "").startswith(told[key]) for key in told)
            self._expect(right, f"received {told} of {might}")
            ledger.done(number, came)
            claimed.update({f"event {event.request_id}": event for event in given})

        async def settle() -> None:
            settlements = list[Settlement]()
            changes = dict[str, str | None]()
            for key in self.chance.sample(sorted(claimed), min(len(claimed), self.chance.randint(1, 3))):
                event = claimed.pop(key)
                if self.chance.random() < 0.5:
                    settlements.append(Delete(event.receipt, "succeeded", _body(int(event.request_id[1:])).encode()))
                    changes[key] = "succeeded"
                else:
                    back, reason = self.chance.random() < 0.5, self.chance.choice(("", "Throttled"))
                    settlements.append(Release(event.receipt, 0.0, back, reason))
                    changes[key] = _live(event.attempts - back, event.deferrals + 1 if back else 0, reason)
            number = ledger.began(changes)
            answers = await events.settle_many(settlements)
            self._expect(all(answers), f"the settlements {changes} were answered {answers}")
            ledger.done(number)

        return put, receive, settle

    def _queue(self, connection: Connection, name: str) -> tuple[Act, Act, Act]:
        queue, dead = connection.queue(QUEUES[name]), connection.queue(QUEUES["dead"])
        ledger, claimed = self.ledger, dict[str, tuple[str, int]]()

        def waiting() -> dict[str, str]:
            return {
                key: f"{name} received {count + 1} times" if queue.fifo or count < MAXIMUM_RECEIVES else DEAD
                for key, count in self._in_queue(name)
                if key not in claimed
            }

        async def send() -> None:
            group = self.chance.choice("xyz") if queue.fifo else None
            numbers = [next(self.numbers) for _ in range(self.chance.randint(1, 4))]
            sends = [Send(_body(n), None, group, str(n) if group else None) for n in numbers]
            number = ledger.began({f"message {n}": f"{name} received 0 times" for n in numbers})
            await queue.send_many(sends)
            ledger.done(number)
            if name in self.receiving:
                ledger.widened(self.receiving[name], waiting())

        async def receive() -> None:
            number = self.receiving[name] = ledger.began(waiting(), together=False)
            given = await queue.receive(self.chance.randint(1, 4), 0)
            del self.receiving[name]
            might = waiting()
            came = dict[str, str | None]()
            for message in given:
                key = f"message {_number(message.body)}"
                came[key] = f"{name} received {message.receive_count} times"
                claimed[key] = message.receipt, message.receive_count
            self._expect(came.items() <= might.items(), f"received {came} of {might}")
            moved = dict[str, str | None]()
            if DEAD in might.values():  # which of them were met, only the store knows
                moved = {key: DEAD for key in await _messages(dead, "dead") if might.get(key) == DEAD}
            ledger.done(number, {**came, **moved})

        async def settle() -> None:
            settlements = list[Settlement]()
            changes = dict[str, str | None]()
            for key in self.chance.sample(sorted(claimed), min(len(claimed), self.chance.randint(1, 3))):
                receipt, count = claimed.pop(key)
                match self.chance.randrange(3):
                    case 0:
                        settlements.append(Delete(receipt))
                        changes[key] = None
                    case 1:
                        settlements.append(Release(receipt, 0.0))
                        changes[key] = f"{name} received {count} times"
                    case _:
                        settlements.append(Release(receipt, 0.0, give_back=True))
                        changes[key] = f"{name} received {count - 1} times"
            number = ledger.began(changes)
            answers = await queue.settle_many(settlements)
            self._expect(all(answers), f"the settlements {changes} were answered {answers}")
            ledger.done(number)

        return send, receive, settle

    def _records(self, connection: Connection, producer: str) -> Act:
        stream, ledger = connection.stream(STREAM), self.ledger

        async def put() -> None:
            numbers = [next(self.numbers) for _ in range(self.chance.randint(1, 5))]
            puts = [Put(_body(n).encode(), f"{producer} {n % 7}") for n in numbers]
            number = ledger.began({f"record {n}": ANY for n in numbers})
            positions = await stream.put_many(puts)
            ledger.done(number, {f"record {n}": at for n, at in zip(numbers, positions, strict=True)})

        return put

    def _checkpoints(self, connection: Connection) -> Act:
        leases, ledger, mine = connection.leases, self.ledger, list[Lease]()

        async def act() -> None:
            if not mine:
                seen = (await leases.heartbeat(GROUP, LEASES, CLAIM_SECONDS * 100)).leases.values()
                free = [lease for lease in seen if lease.free]
                taken = await leases.take_many(free, CLAIM_SECONDS * 100)
                self._expect(len(taken) == len(free), f"took {taken} of {free}")
                for lease in taken:
                    before = self.counters.get(lease.name, 0)
                    self._expect(lease.counter > before, f"{lease} was taken with a counter not above {before}")
                    self.counters[lease.name] = lease.counter
                mine.extend([*taken, *(lease for lease in seen if not lease.free)])
            checkpoints, changes = [], dict[str, str | None]()
            for lease in self.chance.sample(mine, self.chance.randint(1, len(mine))):
                key = f"lease {lease.name}"
                place = int(ledger.states.get(key, "0 ").split()[0]) + 1
                position = f"{place:06d}"
                settled = Settled(position, position, 1, "delivered")
                window = WindowState(0.0, 60.0, {"sum": place})
                checkpoints.append((lease, Checkpoint(Progress(position, window=window), (settled,))))
                changes[key] = _progress(position, {"sum": place}, place)
            number = ledger.began(changes)
            answers = await leases.checkpoint_many(checkpoints)
            self._expect(all(answers), f"the checkpoints {changes} were answered {answers}")
            ledger.done(number)

        return act

    def _documents(self, connection: Connection, owner: str) -> Act:
        documents, ledger = connection.documents, self.ledger

        async def put() -> None:
            kind, name = self.chance.choice(KINDS), f"{owner}{self.chance.randrange(5)}"
            body = _body(next(self.numbers))
            number = ledger.began({f"document {kind}/{name}": _digest(body)})
            await documents.put(kind, name, body)
            ledger.done(number)

        async def delete() -> None:
            kind, name = self.chance.choice(KINDS), f"{owner}{self.chance.randrange(5)}"
            key = f"document {kind}/{name}"
            number = ledger.began({key: None})
            found = await documents.delete(kind, name)
            self._expect(found == (key in ledger.states), f"the deletion of {key} was answered {found}")
            ledger.done(number)

        return self._one_of(put, put, delete)

    # --- what the ledger says

    def _living(self, function: str) -> Sequence[tuple[str, tuple[int, int, str]]]:
        return [
            (key, (int(state.split()[1]), int(state.split()[3]), state.partition(": ")[2]))
            for key, state in self.ledger.possible().items()
            if key.startswith(f"event {function[0]}") and state.startswith("live")
        ]

    def _in_queue(self, name: str) -> Sequence[tuple[str, int]]:
        return [
            (key, int(state.split()[2]))
            for key, state in self.ledger.possible().items()
            if key.startswith("message") and state.split()[0] == name
        ]

    def _event(self, function: str) -> Event:
        n = next(self.numbers)
        return Event(f"{function[0]}{n}", function, _body(n).encode(), 0.0)

    def _one_of(self, *acts: Act) -> Act:
        return lambda: self.chance.choice(acts)()

    def _expect(self, true: bool, text: str) -> None:
        if not true:
            self.problems.append(text)


# --------------------------------------------------------------------------- what a store holds


async def held(connection: Connection, events: Sequence[str]) -> dict[str, str]:
    """Everything in it, as the ledger's keys and states. `events` are the keys of those that are asked for."""
    facts = await asyncio.gather(*(connection.facts.event(key.split()[1]) for key in events))
    found = {}
    for key, fact in zip(events, facts, strict=True):
        if fact is None:
            continue
        body, event = _body(int(fact.event.request_id[1:])).encode(), fact.event
        if fact.state in ("waiting", "running"):
            found[key] = _live(event.attempts, event.deferrals, fact.reason) + _unless(event.payload == body)
        else:
            found[key] = fact.state + _unless(fact.result == body)
    for name, config in QUEUES.items():
        for key, state in (await _messages(connection.queue(config), name)).items():
            found[key] = f"{found[key]}, and {state}" if key in found else state
    found |= await _records(connection)
    for shard in await connection.facts.shards(GROUP):
        if (progress := shard.lease.progress) is not None:
            window = progress.window and progress.window.state
            found[f"lease {shard.lease.name}"] = _progress(progress.position, window, shard.counts[("delivered", "")])
    for kind in KINDS:
        for document in await connection.documents.list(kind):
            found[f"document {kind}/{document.name}"] = _digest(document.body)
    return found


async def balanced(connection: Connection, found: Mapping[str, str]) -> list[str]:
    """Where the store's own totals are not those of what it holds, each a sentence."""
    states = Counter((key[6], state.split(",")[0]) for key, state in found.items() if key.startswith("event"))
    pending, ended = await connection.events.pending(), await connection.facts.ended()
    told = {(function[0], "live"): count for function, count in pending.items()}
    told |= {(function[0], state): count for (function, state), count in ended.items()}
    return [] if told == dict(states) else [f"the store counts {told} events, and holds {dict(states)}"]


async def drained(connection: Connection, found: Mapping[str, str], patience_seconds: float = 0.0) -> list[str]:
    """Receive all that is left, some claims' time after the crash, and what is missing then once more after so much
    longer: what is held and never handed out, each a sentence; and what a FIFO queue hands out of order."""
    left = {key for key, state in found.items() if state.startswith("live") or key.startswith("message")}
    await asyncio.sleep(CLAIM_SECONDS * 2)
    left -= await _received(connection)
    if left and patience_seconds:
        await asyncio.sleep(patience_seconds)
        left -= await _received(connection)
    return [f"{key} is held ({found[key]}) and not handed out" for key in sorted(left)]


async def _received(connection: Connection) -> set[str]:
    """The keys of all that can be received now."""
    given = set[str]()
    for function in FUNCTIONS:
        while events := await connection.events.receive(function, 100, CLAIM_SECONDS):
            given |= {f"event {event.request_id}" for event in events}
    for name in ("orders", "line", "dead"):
        queue = connection.queue(QUEUES[name])
        while messages := await queue.receive(10, 0):
            given |= {f"message {_number(message.body)}" for message in messages}
            await queue.settle_many([Delete(message.receipt) for message in messages])
    return given


async def _messages(queue: BuiltinQueue, name: str) -> dict[str, str]:
    found, after = dict[str, str](), ""
    while facts := await queue.peek(1000, after):
        after = facts[-1].message.id
        for fact in facts:
            message = fact.message
            number = _number(message.body)
            state = DEAD if name == "dead" else f"{name} received {message.receive_count} times"
            found[f"message {number}"] = state + _unless(message.body == _body(number))
    return found


async def lost(connection: Connection) -> int:
    """How many records are missing, as readers are told with what comes after them."""
    await connection.stream(STREAM).put_many([Put(_body(0).encode(), str(key)) for key in range(20)])
    return sum([read.lost async for read in _reads(connection)])


async def _records(connection: Connection) -> dict[str, str]:
    found, latest = dict[str, str](), dict[str, int]()
    async for read in _reads(connection):
        for record in read.records:
            number = _number(record.data.decode())
            right = record.data == _body(number).encode() and number > latest.get(record.key, 0)
            found[f"record {number}"] = record.position + _unless(right)
            latest[record.key] = number
    return found


async def _reads(connection: Connection) -> AsyncIterator[Read]:
    """All that is in the stream, shard by shard."""
    stream = connection.stream(STREAM)
    for shard in await stream.shards():
        reader, at = stream.reader(), await stream.position(shard.id, "TRIM_HORIZON", None)
        while True:
            reader.want(shard.id, at, 1000, 6_000_000)
            (read,) = await reader.ready()
            yield read
            if read.caught_up or not read.records:
                break
            at = read.records[-1].position
        await reader.close()


# --------------------------------------------------------------------------- texts


DEAD = "dead-letter queue"


def _live(attempts: int, deferrals: int, reason: str = "") -> str:
    return f"live, {attempts} attempts, {deferrals} deferrals{reason and ': '}{reason}"


def _progress(position: str, window: Mapping[str, object] | None, delivered: int) -> str:
    return f"{int(position)} is finished, window {window}, {delivered} delivered"


def _unless(right: bool) -> str:
    return "" if right else " DAMAGED"


def _body(number: int) -> str:
    """A text that no other number has; some lie on one page, some on several."""
    return json.dumps({"n": number, "pad": f"{number} " * (number * 37 % 200 * (1 if number % 5 else 20))})


def _number(body: str) -> int:
    return int(body[6 : body.index(",")])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
