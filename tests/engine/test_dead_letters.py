"""Dead letters as real failures leave them, looked at and brought back by a client."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from lambent import Client, InvalidParameterValue, MemoryStore, ResourceNotFound
from lambent.dead_letters import GONE, DeadLetters, Redriven
from lambent.model import Message
from lambent.semantics.redriving import Reinvoke, Reput, Resend, Unclear
from lambent.testing.loop import VirtualClock
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time(deterministic=True)


class Shop:
    """An engine whose functions fail until they are mended; `got` is what they were given since then."""

    def __init__(self, store: MemoryStore) -> None:
        self.mended = False
        self.got: list[Any] = []
        self.engine = virtual(store)
        self.dead = self.engine.queue("dead")
        self.orders = self.engine.queue(
            "orders", visibility_timeout_seconds=1, max_receive_count=1, dead_letter_queue="dead"
        )
        self.clicks = self.engine.stream("clicks")
        self.function("pack")
        self.function("count")
        self.function("charge", maximum_retry_attempts=0, dead_letter_queue=self.dead)
        self.function("notify", maximum_retry_attempts=0, on_failure=self.dead)
        self.engine.map(self.orders, "pack")
        self.engine.map(self.clicks, "count", maximum_retry_attempts=0, on_failure=self.dead)

    def function(self, name: str, **options: Any) -> None:
        def work(event: Any, context: Any) -> None:
            if not self.mended:
                raise ValueError("no such thing")
            self.got.append((name, event))

        self.engine.function(name=name, **options)(work)

    async def fail_at_everything(self) -> None:
        await self.orders.send({"item": "vase"}, attributes={"colour": "blue"})
        await self.engine.invoke_async("charge", {"amount": 1})
        await self.engine.invoke_async("notify", {"flight": 5})
        await self.clicks.put(b"click", key="k")
        while (await self.engine._living().connection.queue(self.dead.configuration).depth()).visible < 4:
            await asyncio.sleep(1)

    def simply(self) -> list[Any]:
        """What they got, a source's records by what they hold."""
        found = []
        for name, event in sorted(self.got, key=lambda each: str(each[0])):
            (record,) = event.get("Records", [event])
            data = base64.b64decode(record["kinesis"]["data"]) if "kinesis" in record else record.get("body", record)
            found.append((name, data))
        return found


def client_of(store: MemoryStore) -> Client:
    return Client(store, clock=VirtualClock(asyncio.get_running_loop()), seed=2)


async def all_of(letters: DeadLetters, **options: Any) -> list[tuple[str, str]]:
    return [(fact.queue, fact.message.id) async for fact in letters.letters(**options)]


async def redriven(letters: DeadLetters, chosen: list[tuple[str, str]], **options: Any) -> list[Redriven]:
    return [each async for each in letters.redrive(chosen, **options)]


async def test_what_failed_in_any_of_the_four_ways_is_brought_back_to_where_it_failed() -> None:
    store = MemoryStore()
    shop = Shop(store)
    async with shop.engine, client_of(store) as client:
        await shop.fail_at_everything()
        shop.mended = True
        letters = client.dead_letters
        (queue,) = await letters.queues()
        assert (queue.name, queue.depth.visible) == ("dead", 4)
        assert queue.senders == ["queue:orders", "function:charge", "function:notify", "stream:clicks of count"]
        done = await redriven(letters, await all_of(letters))
        assert sorted(each.what.target for each in done if isinstance(each.what, Resend | Reinvoke | Reput)) == [
            "function:charge", "function:notify", "queue:orders", "stream:clicks",
        ]  # fmt: skip
        await asyncio.sleep(2)
        assert shop.simply() == [
            ("charge", {"amount": 1}),
            ("count", b"click"),
            ("notify", {"flight": 5}),
            ("pack", '{"item": "vase"}'),
        ]
        assert [each async for each in letters.letters()] == []


async def test_a_dry_run_changes_nothing_and_says_what_would_be_done() -> None:
    store = MemoryStore()
    shop = Shop(store)
    async with shop.engine, client_of(store) as client:
        await shop.fail_at_everything()
        letters = client.dead_letters
        chosen = await all_of(letters)
        told = await redriven(letters, chosen, dry_run=True)
        assert [each.id for each in told] == [identity for _, identity in chosen]
        assert {type(each.what) for each in told} == {Resend, Reinvoke, Reput}
        assert (await letters.queues())[0].depth.visible == 4


async def test_dead_letters_are_chosen_by_the_pattern_that_a_mapping_would_filter_by() -> None:
    store = MemoryStore()
    shop = Shop(store)
    async with shop.engine, client_of(store) as client:
        await shop.fail_at_everything()
        letters = client.dead_letters
        for pattern in (
            {"body": {"item": [{"prefix": "va"}]}},
            {"body": {"requestContext": {"condition": ["RetriesExhausted"]}}},
            '{"messageAttributes": {"ErrorMessage": {"stringValue": ["no such thing"]}}}',
        ):
            assert len(await all_of(letters, pattern=pattern)) == 1
        assert await all_of(letters, queue="dead", pattern={"body": {"item": ["cup"]}}) == []
        with pytest.raises(InvalidParameterValue, match="filter: "):
            await all_of(letters, pattern="{")
        with pytest.raises(ResourceNotFound, match='There is no queue "deaf"'):
            await all_of(letters, queue="deaf")


async def test_what_cannot_be_brought_back_stays_and_says_why() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.queue("a", max_receive_count=3, dead_letter_queue="dead")
    engine.queue("b", max_receive_count=3, dead_letter_queue="dead")
    dead = engine.queue("dead")
    async with engine, client_of(store) as client:
        letters = client.dead_letters
        await dead.send_many(["one", "two"])
        one, two = await all_of(letters)
        reason = "it may be from queue:a or queue:b: say where to"
        assert await redriven(letters, [one]) == [Redriven("dead", one[1], Unclear(reason), reason)]
        (sent,) = await redriven(letters, [two], to="queue:b")
        assert (sent.failure, [each.body for each in await engine.queue("b").receive()]) == ("", ["two"])
        assert [(each.body, each.receive_count) for each in await dead.receive()] == [("one", 1)]
        (gone,) = await redriven(letters, [one], to="queue:a")
        assert (gone.what, gone.failure) == (None, GONE)
        with pytest.raises(ResourceNotFound, match="There is no message m"):
            await letters.letter("m")


async def test_one_that_its_target_refuses_stays_and_keeps_none_of_the_others() -> None:
    store = MemoryStore()
    engine = virtual(store)
    dead, clicks = engine.queue("dead"), engine.stream("clicks")

    def letter(key: str) -> dict[str, object]:
        event = {"Records": [{"kinesis": {"partitionKey": key, "data": "MQ=="}}]}
        info = {"shardId": "s", "startSequenceNumber": "1", "endSequenceNumber": "1", "streamArn": "a:stream/clicks"}
        context = {"condition": "RecordAgeExceeded"}
        return {"version": "1.0", "requestContext": context, "KinesisBatchInfo": info, "payload": json.dumps(event)}

    async with engine, client_of(store) as client:
        letters = client.dead_letters
        await dead.send_many([letter("a"), letter("k" * 300), letter("b")])
        told = await redriven(letters, await all_of(letters, queue="dead"))
        assert [each.failure[:4] for each in told] == ["", "key:", ""]
        assert (await client._open.stream(clicks.configuration).backlog("shardId-000000000000", None)).records == 2
        assert await all_of(letters, queue="dead") == [("dead", told[1].id)]


async def test_a_fifo_dead_letter_queue_comes_back_in_order_and_at_once() -> None:
    store, got = MemoryStore(), []
    engine = virtual(store)
    turns = engine.queue(
        "turns.fifo", visibility_timeout_seconds=1, max_receive_count=1, dead_letter_queue="dead.fifo",
        content_based_deduplication=True,
    )  # fmt: skip
    mended = asyncio.Event()

    @engine.on(turns, batch_size=1)
    def play(event: Any) -> None:
        if not mended.is_set():
            raise ValueError
        got.append(event["Records"][0]["body"])

    async with engine, client_of(store) as client:
        for number in range(5):
            await turns.send(str(number), group="g")
        letters = client.dead_letters
        while len(chosen := await all_of(letters)) < 5:
            await asyncio.sleep(1)
        mended.set()
        assert [each.failure for each in await redriven(letters, chosen)] == [""] * 5
        await asyncio.sleep(10)
    assert got == ["0", "1", "2", "3", "4"]


async def test_redriving_keeps_to_its_rate() -> None:
    store = MemoryStore()
    engine = virtual(store)
    engine.queue("orders", max_receive_count=3, dead_letter_queue="dead")
    dead = engine.queue("dead")
    async with engine, client_of(store) as client:
        await dead.send_many([str(number) for number in range(100)])
        began = asyncio.get_running_loop().time()
        await redriven(client.dead_letters, await all_of(client.dead_letters), rate=20)
        assert 4.5 < asyncio.get_running_loop().time() - began < 5.5


async def test_a_crash_between_sending_and_deleting_doubles_a_message_and_loses_none() -> None:
    store = MemoryStore()
    shop = Shop(store)
    async with shop.engine, client_of(store) as client:
        await shop.fail_at_everything()
        shop.mended = True
        letters = client.dead_letters
        chosen = await all_of(letters)
        queue = client._open.queue(shop.dead.configuration)
        claimed: list[Message] = list(await queue.claim_many([identity for _, identity in chosen]))
        declared = await letters.declared()
        for message in claimed:  # as `redrive` does, up to where it is killed
            await letters._send({message.id: await way_of(letters, message)}, declared)
        await asyncio.sleep(31)  # they are visible again
        await redriven(letters, chosen)
        await asyncio.sleep(5)
        names = [name for name, _ in shop.simply()]
        assert {"charge", "count", "notify", "pack"} == set(names)
        assert len(names) <= 8


async def way_of(letters: DeadLetters, message: Message) -> Any:
    (told,) = await redriven(letters, [("dead", message.id)], dry_run=True)
    return told.what
