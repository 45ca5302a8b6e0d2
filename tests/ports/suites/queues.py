"""What QueueSource and QueueTarget promise, for the built-in queue and for any broker's."""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from lambent.errors import InvalidParameterValue
from lambent.model import MAXIMUM_RECORD_BYTES, Delete, Message, MessageAttribute, Queue, Release, Send
from lambent.ports import QueueSource, QueueTarget

from . import Suite, bodies, needs, take

VISIBILITY = 2.0  # seconds


class SourceAndTarget(QueueSource, QueueTarget, Protocol):
    """A queue that can be sent to and received from."""


class QueueSuite(Suite):
    """Standard queues. `make_queue` gives an empty one; the same name gives the same queue."""

    async def make_queue(self, config: Queue) -> SourceAndTarget:
        raise NotImplementedError

    async def queue(self, name: str = "orders", **options: object) -> SourceAndTarget:
        return await self.make_queue(
            Queue.model_validate({"name": name, "visibility_timeout_seconds": VISIBILITY, **options})
        )

    async def test_the_queue_declares_what_its_suites_are_told(self) -> None:
        queue = await self.queue()
        assert queue.capabilities == self.capabilities
        assert queue.visibility_timeout_seconds == VISIBILITY
        assert not queue.fifo
        assert queue.arn.split(":")[-1] == "orders"

    async def test_a_message_comes_as_it_was_sent(self) -> None:
        queue = await self.queue()
        before = self.clock.now()
        attributes = {"colour": MessageAttribute("red"), "n": MessageAttribute("7", "Number")}
        [message_id] = await queue.send_many([Send('{"é": 1}', attributes=attributes, hops=3)])
        [message] = await take(queue, 1)
        assert (message.id, message.body, message.receive_count) == (message_id, '{"é": 1}', 1)
        assert message.attributes == attributes
        assert message.hops == 3
        assert before - 1 <= message.sent_at <= message.first_received_at <= self.clock.now() + 1

    async def test_a_receive_gives_at_most_its_limit(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send(str(number)) for number in range(5)])
        first = await queue.receive(3, 1)
        assert 1 <= len(first) <= 3
        rest = await take(queue, 5 - len(first))
        assert sorted(bodies([*first, *rest])) == list("01234")

    async def test_an_empty_queue_gives_nothing_after_the_wait(self) -> None:
        queue = await self.queue()
        assert not await queue.receive(1, 0)
        assert not await queue.receive(1, 1)

    async def test_a_receive_waits_for_a_message(self) -> None:
        queue = await self.queue()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(queue.receive(1, 10))
            await self.pass_time(0.5)
            assert not waiting.done()
            await queue.send_many([Send("late")])
            assert bodies(await waiting) == ["late"]

    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        queue = await self.queue()
        for number in range(5):
            waiting = asyncio.ensure_future(queue.receive(1, 10))
            await self.pass_time(0.1)
            sending = asyncio.ensure_future(queue.send_many([Send(str(number))]))
            for _ in range(number):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting, sending])
            received = [] if waiting.cancelled() else list(waiting.result())
            if not received:
                async with asyncio.timeout(VISIBILITY + 5):
                    received = list(await take(queue, 1))
            assert bodies(received) == [str(number)]
            await queue.settle_many([Delete(message.receipt) for message in received])

    async def test_a_message_in_flight_is_invisible_until_its_time_is_over(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("a")])
        [first] = await take(queue, 1)
        assert not await queue.receive(1, VISIBILITY / 2)
        [second] = await take(queue, 1)
        assert (second.id, second.receive_count) == (first.id, 2)
        assert second.receipt != first.receipt
        assert second.first_received_at == first.first_received_at
        assert second.sent_at == first.sent_at

    async def test_a_deleted_message_never_comes_back(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("a"), Send("b")])
        messages = await take(queue, 2)
        assert list(await queue.settle_many([Delete(message.receipt) for message in messages])) == [True, True]
        assert not await queue.receive(1, VISIBILITY + 1)

    async def test_a_stale_receipt_neither_deletes_nor_extends(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("a")])
        [first] = await take(queue, 1)
        await self.pass_time(VISIBILITY)
        [second] = await take(queue, 1)
        stale = [Delete(first.receipt), Release(first.receipt, self.clock.now() + 600)]
        assert list(await queue.settle_many(stale)) == [False, False]
        await self.pass_time(VISIBILITY)
        [third] = await take(queue, 1)
        assert third.id == second.id

    async def test_an_unknown_receipt_settles_nothing(self) -> None:
        queue = await self.queue()
        nonsense = ("nonsense", "#", "a#1", "a#" + "9" * 40)
        settlements = [each for name in nonsense for each in (Delete(name), Release(name, self.clock.now()))]
        assert list(await queue.settle_many(settlements)) == [False] * len(settlements)

    @needs("release")
    async def test_a_released_message_is_visible_at_once_or_when_it_says(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("a")])
        [message] = await take(queue, 1)
        assert list(await queue.settle_many([Release(message.receipt, self.clock.now())])) == [True]
        [message] = await take(queue, 1)
        await queue.settle_many([Release(message.receipt, self.clock.now() + VISIBILITY * 2)])
        assert not await queue.receive(1, VISIBILITY * 1.5)
        [message] = await take(queue, 1)
        assert message.receive_count == 3

    @needs("release")
    async def test_a_message_can_be_kept_for_longer_again_and_again(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("a")])
        [message] = await take(queue, 1)
        for _ in range(3):
            await self.pass_time(VISIBILITY * 0.5)
            assert list(await queue.settle_many([Release(message.receipt, self.clock.now() + VISIBILITY)])) == [True]
            assert not await queue.receive(1, 0)
        assert list(await queue.settle_many([Delete(message.receipt)])) == [True]

    @needs("give_back")
    async def test_giving_back_undoes_the_receive(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("a")])
        for _ in range(3):
            [message] = await take(queue, 1)
            assert message.receive_count == 1
            release = Release(message.receipt, self.clock.now(), give_back=True)
            assert list(await queue.settle_many([release])) == [True]
        assert list(await queue.settle_many([release, Delete(message.receipt)])) == [False, False]

    @needs("delay")
    async def test_a_delayed_message_is_not_received_before_its_time(self) -> None:
        queue = await self.queue(delay_seconds=2)
        await queue.send_many([Send("two"), Send("none", delay_seconds=0), Send("four", delay_seconds=4)])
        for body in ("none", "two", "four"):
            [message] = await take(queue, 1)
            assert message.body == body
            await queue.settle_many([Delete(message.receipt)])
            assert not await queue.receive(10, 1)

    @needs("redrive")
    async def test_a_message_moves_to_the_dead_letter_queue_on_the_receive_after_the_last(self) -> None:
        queue = await self.queue(max_receive_count=2, dead_letter_queue="dead")
        dead = await self.queue("dead")
        [message_id] = await queue.send_many([Send("poison", attributes={"n": MessageAttribute("7", "Number")})])
        sent_at = 0.0
        for count in (1, 2):
            [message] = await take(queue, 1)
            assert message.receive_count == count
            sent_at = message.sent_at
            await self.pass_time(VISIBILITY)
        assert not await dead.receive(1, 0)
        assert not await queue.receive(1, 1)
        for each in (queue, dead):
            assert list(await each.settle_many([Delete(message.receipt)])) == [False]
        [buried] = await take(dead, 1)
        assert (buried.id, buried.body, buried.sent_at) == (message_id, "poison", sent_at)
        assert buried.attributes == {"n": MessageAttribute("7", "Number")}
        await dead.settle_many([Delete(buried.receipt)])
        assert not await dead.receive(1, VISIBILITY + 1)
        assert not await queue.receive(1, VISIBILITY + 1)

    @needs("redrive")
    async def test_a_poison_message_does_not_hide_those_behind_it(self) -> None:
        queue = await self.queue(max_receive_count=1, dead_letter_queue="dead")
        await queue.send_many([Send("poison")])
        await take(queue, 1)
        await queue.send_many([Send("good")])
        await self.pass_time(VISIBILITY + 0.5)
        assert bodies(await take(queue, 1)) == ["good"]

    @needs("redrive", "depth")
    async def test_a_dead_letter_queue_that_nobody_declared_is_made(self) -> None:
        queue = await self.queue(max_receive_count=1, dead_letter_queue="undeclared")
        await queue.send_many([Send("poison")])
        await take(queue, 1)
        await self.pass_time(VISIBILITY + 0.5)
        assert not await queue.receive(1, 0)
        assert bodies(await take(await self.queue("undeclared"), 1)) == ["poison"]

    @needs("retention")
    async def test_a_message_that_is_too_old_is_gone_and_no_other(self) -> None:
        queue = await self.queue(message_retention_period_seconds=60)
        other = await self.make_queue(Queue(name="keeps", message_retention_period_seconds=3600))
        await other.send_many([Send("another's")])
        await queue.send_many([Send("old"), Send("old, in flight")])
        await self.pass_time(30)
        await queue.send_many([Send("young")])
        await self.pass_time(29)
        assert len(await queue.receive(1, 0)) == 1
        await self.pass_time(2)
        assert bodies(await queue.receive(10, VISIBILITY + 1)) == ["young"]
        assert not await queue.receive(10, 0)
        assert bodies(await other.receive(10, 0)) == ["another's"]

    @needs("purge", "depth")
    async def test_a_purge_removes_all_and_the_depth_says_so(self) -> None:
        queue, other = await self.queue(), await self.make_queue(Queue(name="keeps"))
        await other.send_many([Send("another's")])
        await queue.send_many([Send("a"), Send("b"), Send("c", delay_seconds=1)])
        [message] = await queue.receive(1, 0)
        depth = await queue.depth()  # type: ignore[attr-defined]
        assert (depth.visible, depth.in_flight, depth.delayed) == (1, 1, 1)
        await queue.purge()  # type: ignore[attr-defined]
        depth = await queue.depth()  # type: ignore[attr-defined]
        assert (depth.visible, depth.in_flight, depth.delayed) == (0, 0, 0)
        assert list(await queue.settle_many([Delete(message.receipt)])) == [False]
        await queue.send_many([Send("new")])
        assert bodies(await queue.receive(10, VISIBILITY + 1)) == ["new"]
        assert bodies(await other.receive(10, 0)) == ["another's"]

    @needs("peek")
    async def test_a_look_into_a_queue_receives_nothing(self) -> None:
        queue = await self.queue()
        ids = await queue.send_many([Send("a"), Send("b"), Send("c", delay_seconds=1), Send("d")])
        [out] = await queue.receive(1, 0)
        facts = await queue.peek(3)  # type: ignore[attr-defined]
        facts = [*facts, *await queue.peek(3, facts[-1].message.id)]  # type: ignore[attr-defined]
        assert sorted(fact.message.id for fact in facts) == sorted(ids)
        states = {fact.message.body: (fact.state, fact.message.receive_count) for fact in facts}
        assert states[out.body] == ("in_flight", 1)
        assert states["c"] == ("delayed", 0)
        assert sorted(states.values()) == [("delayed", 0), ("in_flight", 1), ("visible", 0), ("visible", 0)]
        assert {fact.queue for fact in facts} == {"orders"}

    @needs("peek")
    async def test_messages_can_be_received_by_their_ids(self) -> None:
        queue = await self.queue()
        ids = await queue.send_many([Send("a"), Send("b"), Send("c"), Send("d", delay_seconds=1)])
        [out] = await queue.receive(1, 0)
        left = [each for each in ids[:3] if each != out.id]
        claimed = await queue.claim_many([left[1], out.id, ids[3], "unknown"])  # type: ignore[attr-defined]
        assert [(message.id, message.receive_count) for message in claimed] == [(left[1], 1)]
        assert [message.id for message in await queue.receive(10, 0)] == [left[0]]
        assert list(await queue.settle_many([Delete(claimed[0].receipt)])) == [True]
        await self.pass_time(VISIBILITY + 0.5)
        assert claimed[0].id not in [message.id for message in await queue.receive(10, 1)]

    @pytest.mark.parametrize(
        "bad",
        [
            Send("x" * (MAXIMUM_RECORD_BYTES + 1)),
            Send("é" * (MAXIMUM_RECORD_BYTES // 2 + 1)),
            Send("x", attributes={"a": MessageAttribute("x" * MAXIMUM_RECORD_BYTES)}),
            Send(""),
            Send("\ud800"),
            Send("x", delay_seconds=901),
            Send("x", delay_seconds=-1),
            Send("x", delay_seconds=float("nan")),
            Send("x", deduplication_id="only FIFO"),
        ],
        ids=[
            "large",
            "large in UTF-8",
            "large attribute",
            "empty",
            "surrogate",
            "late",
            "early",
            "nan",
            "deduplication",
        ],
    )
    async def test_one_bad_message_refuses_all_of_a_send(self, bad: Send) -> None:
        queue = await self.queue()
        with pytest.raises(InvalidParameterValue):
            await queue.send_many([Send("good"), bad])
        assert not await queue.receive(10, 0)

    async def test_the_largest_message_is_taken(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("x" * MAXIMUM_RECORD_BYTES)])
        [message] = await take(queue, 1)
        assert len(message.body) == MAXIMUM_RECORD_BYTES

    async def test_a_function_sees_the_records_of_sqs(self) -> None:
        queue = await self.queue()
        await queue.send_many([Send("hello")])
        messages = await take(queue, 1)
        event = queue.to_event(messages, windowed=False)
        [record] = event["Records"]  # type: ignore[misc]
        assert record["messageId"] == messages[0].id  # type: ignore[has-type]
        assert record["body"] == "hello"  # type: ignore[has-type]
        assert record["eventSourceARN"] == queue.arn  # type: ignore[has-type]
        assert queue.view(messages[0])["body"] == "hello"


class FifoQueueSuite(Suite):
    """FIFO queues: one batch in flight for each group, and order in it through every failure."""

    async def make_queue(self, config: Queue) -> SourceAndTarget:
        raise NotImplementedError

    async def queue(self, name: str = "orders.fifo", **options: object) -> SourceAndTarget:
        return await self.make_queue(
            Queue.model_validate(
                {
                    "name": name,
                    "fifo": True,
                    "content_based_deduplication": True,
                    "visibility_timeout_seconds": VISIBILITY,
                    **options,
                }
            )
        )

    async def send(self, queue: SourceAndTarget, *names: str) -> None:
        """ "a1" is message 1 of group "a"."""
        await queue.send_many([Send(name, group=name[0]) for name in names])

    @needs("fifo")
    async def test_a_fifo_queue_says_that_it_is_one(self) -> None:
        assert (await self.queue()).fifo

    @needs("fifo")
    async def test_a_group_comes_in_order_with_rising_sequence_numbers(self) -> None:
        queue = await self.queue()
        await self.send(queue, "a1", "a2", "a3")
        messages: list[Message] = []
        while more := await queue.receive(2, 0):
            messages += more
            await queue.settle_many([Delete(message.receipt) for message in more])
        assert bodies(messages) == ["a1", "a2", "a3"]
        numbers = [message.sequence_number or "" for message in messages]
        assert numbers == sorted(numbers)
        assert len(set(map(len, numbers))) == 1
        assert {message.group for message in messages} == {"a"}
        assert all(message.deduplication_id for message in messages)

    @needs("fifo")
    async def test_nothing_of_a_group_is_given_while_some_of_it_is_in_flight(self) -> None:
        queue = await self.queue()
        await self.send(queue, "a1", "a2", "b1")
        [first] = await queue.receive(1, 0)
        assert bodies([first]) == ["a1"]
        assert bodies(await queue.receive(10, 0)) == ["b1"]
        assert not await queue.receive(10, 0)
        await queue.settle_many([Delete(first.receipt)])
        assert bodies(await queue.receive(10, 0)) == ["a2"]

    @needs("fifo")
    async def test_the_order_of_a_group_survives_a_failure(self) -> None:
        queue = await self.queue()
        await self.send(queue, "a1", "a2", "a3", "a4")
        batch = await queue.receive(3, 0)
        assert bodies(batch) == ["a1", "a2", "a3"]
        assert list(await queue.settle_many([Delete(batch[1].receipt)])) == [True]
        assert not await queue.receive(10, VISIBILITY / 2)
        await self.pass_time(VISIBILITY)
        again = await queue.receive(10, 0)
        assert bodies(again) == ["a1", "a3", "a4"]
        assert [message.receive_count for message in again] == [2, 2, 1]

    @needs("fifo")
    async def test_one_receive_gives_a_message_once_though_it_is_visible_again_at_once(self) -> None:
        queue = await self.queue(visibility_timeout_seconds=0)
        await self.send(queue, "a1", "a2")
        assert bodies(await queue.receive(10, 0)) == ["a1", "a2"]

    @needs("fifo", "release")
    async def test_a_message_that_comes_back_early_waits_for_the_rest_of_its_batch(self) -> None:
        queue = await self.queue()
        await self.send(queue, "a1", "a2", "a3")
        batch = await queue.receive(2, 0)
        await queue.settle_many([Release(batch[0].receipt, self.clock.now())])
        assert not await queue.receive(10, 0)
        await queue.settle_many([Release(batch[1].receipt, self.clock.now())])
        assert bodies(await queue.receive(10, 0)) == ["a1", "a2", "a3"]

    @needs("fifo", "release")
    async def test_a_message_released_until_later_blocks_its_group(self) -> None:
        queue = await self.queue()
        await self.send(queue, "a1", "a2")
        [first] = await queue.receive(1, 0)
        await queue.settle_many([Release(first.receipt, self.clock.now() + VISIBILITY * 2)])
        assert not await queue.receive(10, VISIBILITY)
        await self.pass_time(VISIBILITY + 0.5)
        assert bodies(await queue.receive(10, 0)) == ["a1", "a2"]

    @needs("fifo", "redrive")
    async def test_a_group_goes_on_behind_its_dead_letter(self) -> None:
        dead = await self.queue("dead.fifo")
        queue = await self.queue(max_receive_count=1, dead_letter_queue="dead.fifo")
        await self.send(queue, "a1", "a2")
        assert bodies(await queue.receive(1, 0)) == ["a1"]
        await self.pass_time(VISIBILITY + 0.5)
        assert bodies(await queue.receive(10, 0)) == ["a2"]
        [buried] = await take(dead, 1)
        assert (buried.body, buried.group) == ("a1", "a")

    @needs("fifo", "deduplication")
    async def test_a_duplicate_within_five_minutes_is_not_stored_again(self) -> None:
        queue = await self.queue()
        ids = [*await queue.send_many([Send("same", group="a")]), *await queue.send_many([Send("same", group="b")])]
        assert ids[0] == ids[1]
        [message] = await queue.receive(10, 0)
        await queue.settle_many([Delete(message.receipt)])
        await self.pass_time(299)
        await queue.send_many([Send("same", group="a")])
        assert not await queue.receive(10, 0)
        await self.pass_time(2)
        await queue.send_many([Send("same", group="a")])
        assert bodies(await queue.receive(10, 0)) == ["same"]

    @needs("fifo", "deduplication")
    async def test_a_deduplication_id_wins_over_the_content(self) -> None:
        queue = await self.queue()
        sends = [Send("x", group="a", deduplication_id=identity) for identity in ("1", "2", "1")]
        await queue.send_many(sends)
        assert [message.deduplication_id for message in await queue.receive(10, 0)] == ["1", "2"]

    @needs("fifo")
    @pytest.mark.parametrize(
        "bad",
        [Send("x"), Send("x", group=""), Send("x", group="a"), Send("x", None, "a", ""), Send("x", 1.0, "a", "1")],
        ids=["no group", "empty group", "no deduplication", "empty deduplication", "own delay"],
    )
    async def test_a_message_that_fifo_queues_do_not_take_refuses_the_send(self, bad: Send) -> None:
        queue = await self.queue(content_based_deduplication=False)
        with pytest.raises(InvalidParameterValue):
            await queue.send_many([Send("good", group="a", deduplication_id="1"), bad])
        assert not await queue.receive(10, 0)
