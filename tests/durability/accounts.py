"""The clients of `shop.py`, and the accounts of what they were told and what its handlers did, outside of any store.

Decides what clients give it, of all four models, and what must hold. Whenever it looks: nothing is settled, and no
checkpoint has passed, that was not finished. At the end: what was acknowledged has exactly one fate, nothing ran again
once it was settled, and the first runs of each key are in their order. What goes wrong meanwhile is decided by
`crashes.py` and `outages.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from lambent.client import Client
from lambent.errors import LambentError, StoreUnavailable
from lambent.ports import World
from lambent.sources import load_store
from lambent.world import SystemClock
from tests.durability.journal import Journal

SHOP = Path(__file__).with_name("shop.py")
CHARGE, PACK, PICK, COUNT = MODELS = ("charge", "pack", "pick", "count")
QUEUES = ("orders", "line.fifo", "charges-failed", "orders-dead", "clicks-failed")
CALLERS = 3  # who wait for an answer
KEYS = 5
CALL_SECONDS = 1.0  # that a caller of an engine that may be dead waits for an answer, before asking for another
END_SECONDS = 60.0
POISON = 25
ATTEMPTS = {CHARGE: 3, PACK: 9, COUNT: 4}  # that what is given up has had; being killed with the engine is one


def is_poison(number: int) -> bool:
    return number % POISON == POISON - 1


@dataclass
class Found:
    """What came of it. `struck` is what went wrong, by its name; `problems` are broken promises, each a sentence."""

    struck: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    runs: int = 0
    cut_off: int = 0  # runs that the engine's death ended
    twice: int = 0  # items that were finished, not settled when something went wrong, and finished again
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{dict(self.struck)}, acknowledged {dict(self.acknowledged)}, refused {self.refused}, {self.runs} runs, "
            f"{self.cut_off} of them cut off, {self.twice} items finished twice; {len(self.problems)} broken promises"
        )


class Accounts:
    """One store, its engine, its clients, and what they were told.

    url: the store, as the engine and the clients reach it; as the auditor does, if that is another.
    outstanding: how many items of a model may wait or run.
    call_seconds: that a caller waits for an answer."""

    def __init__(
        self,
        chance: random.Random,
        directory: Path,
        url: str,
        auditors_url: str = "",
        outstanding: int = 30,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self.found = Found()
        self.chance = chance
        self.journal = Journal()
        self.shut = 0
        """Above 0: the store takes nothing, since the change with this number."""
        self.refused = asyncio.Event()
        """Set when a client's call is."""
        self._url = url
        self._auditors_url = auditors_url or url
        self._outstanding = outstanding
        self._call_seconds = call_seconds
        self._log = directory / "log"
        self._over = False
        self._sent: dict[str, dict[str, int]] = {model: {} for model in MODELS}  # acknowledged: numbers by id
        self._suspects: list[tuple[str, str]] = []  # settled, and neither finished nor poison
        self._places: dict[str, str] = {}  # the shards of records
        self._receives: dict[str, int] = {}  # of messages, when they were last seen in their queue
        self._quotes = itertools.count(1)
        self._answers: list[int] = []
        self._settled: dict[str, dict[str, int]] = {model: {} for model in MODELS}  # ids, and in how many runs before

    async def live(self, trouble: Callable[[], Awaitable[None]]) -> Found:
        """Open the shop, let go wrong what shall while the clients are at work, let all work end, and count."""
        async with self.journal:
            self.engine = await self.start()
            try:
                await self._until_served()
                async with Client(self._url) as self._client:
                    await self._suffer(trouble)
            finally:
                if self.engine.returncode is None:
                    self.engine.kill()
                    await self.engine.wait()
        return self.found

    async def _until_served(self) -> None:
        """An engine makes the store, and puts there what it declares."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async with Client(self._url) as client:
                    mappings = await client.list_mappings()
                    if len(mappings) == 3:
                        (self._mapping,) = [id for id, each in mappings.items() if each.mapping.function == COUNT]
                        return
            await self.journal.goes_on()

    async def _suffer(self, trouble: Callable[[], Awaitable[None]]) -> None:
        world = World("auditor", SystemClock(), self.chance.random, lambda: "")
        self._store = await load_store(self._auditors_url).connect(world, client=True)
        self._clicks = self._store.stream((await self._client.stream("clicks")).configuration)
        self._queues = [self._store.queue((await self._client.queue(name)).configuration) for name in QUEUES]
        clients = (self._charge, self._pack, self._pick, self._count, *[self._quote] * CALLERS)
        working = [asyncio.create_task(client()) for client in clients]
        await trouble()
        self._over = True
        try:
            async with asyncio.timeout(END_SECONDS):
                await asyncio.gather(*working)
        except TimeoutError:
            self.problem(f"{END_SECONDS:g} s after the last trouble a client still waits")
        await self._drained()
        self.engine.send_signal(signal.SIGTERM)
        if (status := await self.engine.wait()) != 0:
            self.problem(f"told to end, the engine ended with status {status}")
        await self._audit()
        await self._store.close()

    async def start(self) -> asyncio.subprocess.Process:
        """An engine."""
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lambent.cli", "run", str(SHOP), "--store", self._url),
                env={**os.environ, "SHOP_JOURNAL": str(self.journal.pipe)},
                pass_fds=[self.journal.pipe],
                stdout=log,
                stderr=log,
            )

    def runs(self) -> bool:
        """Does the engine? That it ended by itself is a problem."""
        if self.engine.returncode is not None:
            log = self._log.read_text()[-2000:]
            self.problem(f"the engine ended by itself, with status {self.engine.returncode}:\n{log}")
        return self.engine.returncode is None

    def problem(self, text: str) -> None:
        self.found.problems.append(text)

    # --- clients

    async def _charge(self) -> None:
        async for number in self._numbers(CHARGE):
            await self._send(CHARGE, number, self._client.invoke_async("charge", {"n": number}))

    async def _pack(self) -> None:
        async for number in self._numbers(PACK):
            await self._send(PACK, number, self._client.send("orders", {"n": number}))

    async def _pick(self) -> None:
        async for number in self._numbers(PICK):
            if not is_poison(number):
                options = {"group": f"g{number % KEYS}", "deduplication_id": str(number)}
                await self._send(PICK, number, self._client.send("line.fifo", {"n": number}, **options))

    async def _count(self) -> None:
        stream = await self._client.stream("clicks")
        async for number in self._numbers(COUNT):
            await self._send(COUNT, number, stream.put({"n": number}, key=f"k{number % KEYS}"))

    async def _send(self, model: str, number: int, call: Awaitable[str]) -> None:
        shut = self.shut
        try:
            self._sent[model][await call] = number
            self.found.acknowledged[model] += 1
            if shut and shut == self.shut:
                self.problem(f"{model} {number} was acknowledged while the store took nothing")
        except StoreUnavailable:  # it may be stored, and run
            self.found.refused += 1
            self.refused.set()

    async def _quote(self) -> None:
        """Until one is answered that was asked for when all trouble was over."""
        answered = False
        while not answered:
            number, over = next(self._quotes) * POISON, self._over  # such a number is no poison
            try:
                async with asyncio.timeout(self._call_seconds):
                    answer = await self._client.invoke("quote", {"n": number})
                if answer != {"quoted": number}:
                    self.problem(f"who asked for quote {number} was answered {answer}")
                self._answers.append(number)
                self.found.acknowledged["quote"] += 1
                answered = over
            except TimeoutError:
                pass
            except LambentError as error:
                self.refused.set()
                if error.status < 500:
                    self.problem(f"who asked for quote {number} was refused as if it were wrong: {error!r}")
            await self.journal.goes_on()

    async def _numbers(self, model: str) -> AsyncIterator[int]:
        """The next numbers, as long as not too many wait."""
        number = 0
        while not self._over:
            over = self.journal.done[model] | self._settled[model].keys()
            if sum(not is_poison(n) and id not in over for id, n in self._sent[model].items()) < self._outstanding:
                number += 1
                yield number
            else:
                await self.journal.goes_on()

    # --- while things go wrong

    async def look(self) -> None:
        """What is settled now was finished, or is poison; and will never run again."""
        unsettled = [(model, id) for model in MODELS for id in self._sent[model] if id not in self._settled[model]]
        answers = await asyncio.gather(*(self._is_settled(model, id) for model, id in unsettled))
        settled = [each for each, is_settled in zip(unsettled, answers, strict=True) if is_settled]
        await self.journal.mark()
        for model, id in settled:
            self._settled[model][id] = self.journal.times(id)
            if id not in self.journal.done[model] and not is_poison(self._sent[model][id]):
                self._suspects.append((model, id))

    async def _is_settled(self, model: str, id: str) -> bool:
        facts = self._store.facts
        if model == CHARGE:
            fact = await facts.event(id)
            if fact is None:
                self.problem(f"event {id} was accepted, and is not known")
            return fact is None or fact.state not in ("waiting", "running")
        if model in (PACK, PICK):
            message = await facts.message(id)
            if message is None or message.queue.endswith("-dead"):
                return True
            self._receives[id] = message.message.receive_count
            return False
        if id not in self._places:
            found = await self._clicks.find(id)
            if found is None:
                self.problem(f"record {id} was accepted, and is not known")
                return True
            self._places[id] = found[0]
        for shard in await facts.shards(self._mapping):
            if shard.lease.name == self._places[id] and shard.lease.progress is not None:
                return int(shard.lease.progress.position) >= int(id)
        return False

    # --- at the end

    async def _drained(self) -> None:
        async def left() -> str:
            if pending := await self._store.events.pending():
                return f"events {dict(pending)}"
            for queue in self._queues[:2]:
                depth = await queue.depth()
                if depth.visible or depth.in_flight or depth.delayed:
                    return f"{queue} {depth}"
            unknown = self._sent[COUNT].keys() - self._settled[COUNT].keys()
            settled = await asyncio.gather(*(self._is_settled(COUNT, id) for id in unknown))
            return "" if all(settled) else f"{settled.count(False)} records"

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while await left():
                    await self.journal.goes_on()
        if what := await left():
            self.problem(f"after {END_SECONDS:g} s without a kill there is still work: {what}")

    async def _audit(self) -> None:
        await self.look()
        journal, found = self.journal, self.found
        failed = {model: await self._failed(model) for model in (CHARGE, PACK, COUNT)}
        for model in MODELS:
            for id, number in self._sent[model].items():
                if id not in self._settled[model]:
                    self.problem(f"{model} {id} is not settled")
                elif journal.times(id) != self._settled[model][id]:
                    self.problem(f"{model} {id} ran again after it was settled")
                gave_up = id in failed.get(model, ())
                if is_poison(number) != gave_up and not (gave_up and failed[model][id] >= ATTEMPTS[model]):
                    self.problem(f"{model} {id} ({number}) has another fate: failed {gave_up}")
                if not gave_up and id not in journal.done[model]:
                    self.problem(f"{model} {id} ({number}) is settled, and was never finished")
        for model, id in self._suspects:
            if id not in failed.get(model, ()):
                self.problem(f"{model} {id} was settled before it was finished")
        unknown = {id for run in journal.runs if run.function in MODELS for id in run.items} - {
            id for model in MODELS for id in self._sent[model]
        }
        if len(unknown) > found.refused:
            self.problem(f"{len(unknown)} items ran that nobody sent: {sorted(unknown)[:3]}")
        quoted = {int(id) for id in journal.done["quote"]}
        if not {*self._answers} <= quoted:
            self.problem(f"quotes {({*self._answers}) - quoted} were answered and never run")
        for shard in await self._store.facts.shards(self._mapping):
            here = [id for id, place in self._places.items() if place == shard.lease.name]
            if not len(here) <= sum(shard.counts.values()) <= len(here) + found.refused:
                self.problem(f"{shard.lease.name} has the fates {dict(shard.counts)}, and {len(here)} records")
        self._problems_of_order(PICK)
        self._problems_of_order(COUNT)
        found.runs = len(journal.runs)
        found.cut_off = sum(run.done is None for run in journal.runs)
        found.twice = self._twice()

    async def _failed(self, model: str) -> dict[str, int]:
        """Ids in the model's dead-letter queue or destination, with the tries that they had."""
        queue, failed, after = self._queues[2 + (CHARGE, PACK, COUNT).index(model)], dict[str, int](), ""
        while facts := await queue.peek(1000, after):
            after = facts[-1].message.id
            for fact in facts:
                if model == PACK:
                    failed[fact.message.id] = self._receives.get(fact.message.id, 0)
                    continue
                record = json.loads(fact.message.body)
                tries = record["requestContext"]["approximateInvokeCount"]
                ids = [record["requestContext"]["requestId"]]
                if model == COUNT:
                    records = json.loads(record["payload"])["Records"]
                    ids = [each["kinesis"]["sequenceNumber"] for each in records]
                failed |= dict.fromkeys(ids, tries)
        return failed

    def _problems_of_order(self, model: str) -> None:
        """What was refused may be there all the same, and later: it has no place in the order."""
        latest: dict[int, int] = {}
        seen: set[str] = set()
        for run in self.journal.runs:
            for id in run.items if run.function == model else ():
                if id in seen or id not in self._sent[model]:
                    continue
                number = self._sent[model][id]
                if number < latest.get(number % KEYS, 0):
                    self.problem(f"{model} {number} began after {latest[number % KEYS]} of the same key")
                seen.add(id)
                latest[number % KEYS] = max(number, latest.get(number % KEYS, 0))

    def _twice(self) -> int:
        """How many were finished more than once; in one quiet time none may be."""
        lives: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for run in self.journal.runs:
            for id in run.done or ():
                lives[run.function, id].append(run.life)
        for (function, id), them in lives.items():
            if any(count > 1 for life, count in Counter(them).items() if life):
                self.problem(f"{function} {id} was finished twice though nothing went wrong meanwhile: {them}")
        return sum(len(them) > 1 for them in lives.values())
