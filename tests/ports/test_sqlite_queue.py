"""The built-in queue in a SQLite file passes its suites, and keeps what a file adds: restarts and other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from lambent.errors import InvalidParameterValue
from lambent.model import Delete, Depth, MessageAttribute, Queue, Release, Send
from lambent.stores.sqlite_messages import STEP_QUEUES, STEP_ROWS, facts
from lambent.stores.sqlite_queue import SqliteQueue, SqliteQueues

from .sqlite_files import open_file
from .suites import Suite, bodies, queues

pytestmark = pytest.mark.virtual_time


class _OnFile(Suite):
    capabilities = SqliteQueue.capabilities

    @pytest.fixture(autouse=True)
    async def _file(self, _begin: None, tmp_path: Path) -> None:
        self.path = tmp_path / "queues.db"
        self.file = await open_file(self.path, self.clock)
        self.queues = SqliteQueues(self.file)

    async def make_queue(self, config: Queue) -> SqliteQueue:
        return self.queues.queue(config, self.world())


class TestSqliteQueue(_OnFile, queues.QueueSuite):
    pass


class TestSqliteFifoQueue(_OnFile, queues.FifoQueueSuite):
    pass


class TestSqliteQueuesOnFile(_OnFile):
    """What the suites do not ask for."""

    async def other_process(self) -> SqliteQueues:
        return SqliteQueues(await open_file(self.path, self.clock))

    def standard(self, name: str = "q", **options: object) -> Queue:
        return Queue.model_validate({"name": name, "visibility_timeout_seconds": 30, **options})

    async def test_after_a_kill_all_is_as_it_was_and_what_is_in_flight_stays_so(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        attributes = {"n": MessageAttribute("7", "Number")}
        await queue.send_many([Send("out", attributes=attributes, hops=2), Send("later", delay_seconds=60)])
        [out] = await queue.receive(1, 0)
        await queue.send_many([Send("waiting")])
        queue = (await self.other_process()).queue(self.standard(), self.world())
        [waiting] = await queue.receive(10, 0)
        assert waiting.body == "waiting"
        await queue.settle_many([Delete(waiting.receipt)])
        assert not await queue.receive(10, 29)
        [again] = await queue.receive(10, 2)
        assert (again.id, again.receive_count, again.attributes, again.hops) == (out.id, 2, attributes, 2)
        assert (again.sent_at, again.first_received_at) == (out.sent_at, out.first_received_at)
        assert list(await queue.settle_many([Delete(out.receipt), Delete(again.receipt)])) == [False, True]
        assert bodies(await queue.receive(10, 60)) == ["later"]

    async def test_a_receipt_of_before_a_kill_still_counts(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("a")])
        [message] = await queue.receive(1, 0)
        queue = (await self.other_process()).queue(self.standard(), self.world())
        assert list(await queue.settle_many([Delete(message.receipt)])) == [True]

    async def test_a_groups_order_and_lock_and_deduplication_survive_a_kill(self) -> None:
        fifo = self.standard("q.fifo", fifo=True, content_based_deduplication=True)
        queue = self.queues.queue(fifo, self.world())
        await queue.send_many([Send("a1", group="a"), Send("a2", group="a"), Send("b1", group="b")])
        assert bodies(await queue.receive(1, 0)) == ["a1"]
        restarted = await self.other_process()
        queue = restarted.queue(fifo, self.world())
        await queue.send_many([Send("a2", group="a")])
        assert bodies(await queue.receive(10, 0)) == ["b1"]
        assert (await queue.depth()) == Depth(1, 2, 0)
        assert bodies(await queue.receive(10, 31)) == ["a1", "a2", "b1"]

    async def test_a_message_from_another_process_wakes_a_receiver(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        others = await self.other_process()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(queue.receive(1, 600))
            await self.pass_time(1)
            await others.queue(self.standard(), self.world()).send_many([Send("a")])
            assert not waiting.done()
            await self.file.write(_nothing, None)  # what the file does ten times a second
            assert bodies(await waiting) == ["a"]

    async def test_a_configuration_holds_for_every_process_from_its_first_use_on(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("a"), Send("b")])
        others = await self.other_process()
        await others.queue(self.standard(visibility_timeout_seconds=5), self.world()).depth()
        assert len(await queue.receive(1, 0)) == 1
        await self.pass_time(6)
        assert len(await queue.receive(10, 0)) == 2

    async def test_a_queue_with_messages_cannot_change_its_kind(self) -> None:
        await self.queues.queue(self.standard(), self.world()).send_many([Send("a")])
        changed = self.queues.queue(self.standard(fifo=True), self.world())
        with pytest.raises(InvalidParameterValue, match="fifo"):
            await changed.depth()
        await self.queues.queue(self.standard(), self.world()).purge()
        changed = self.queues.queue(self.standard(fifo=True), self.world())
        await changed.send_many([Send("a", group="g", deduplication_id="1")])
        assert bodies(await changed.receive(1, 0)) == ["a"]

    async def test_a_receiver_that_was_cancelled_gives_back_what_it_would_have_got(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("a")])
        for steps in range(1, 12):
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(queue.receive(1, 10))
                for _ in range(steps):
                    await asyncio.sleep(0)
                receiving.cancel()
            if not receiving.cancelled():
                await queue.settle_many([Release(receiving.result()[0].receipt, self.clock.now(), give_back=True)])
            [message] = await queue.receive(1, 1)
            assert message.receive_count == 1
            await queue.settle_many([Release(message.receipt, self.clock.now(), give_back=True)])

    async def test_a_damaged_message_is_put_aside_and_the_others_come(self) -> None:
        for config in (self.standard(), self.standard("q.fifo", fifo=True, content_based_deduplication=True)):
            queue = self.queues.queue(config, self.world())
            group = "g" if config.fifo else None
            ids = await queue.send_many([Send(body, group=group) for body in ("a", "b", "c")])
            await self.file.write(_damage, ids[0])
            assert [fact.message.body for fact in await queue.peek(10)] == ["b", "c"]
            assert bodies(await queue.receive(10, 0)) == ["b", "c"]
            assert (await queue.depth()).visible == 0
            assert ids[0] in await self.file.read(_quarantined, None)

    async def test_a_group_whose_messages_cannot_even_be_read_does_not_hold_up_the_others(self) -> None:
        queue = self.queues.queue(self.standard("q.fifo", fifo=True, content_based_deduplication=True), self.world())
        await queue.send_many([Send("a", group="rotten"), Send("b", group="sound")])
        await self.file.write(_unreadable, None)
        assert bodies(await queue.receive(10, 0)) == ["b"]

    async def test_a_message_whose_time_is_damaged_comes_and_that_is_told(self) -> None:
        troubles: list[str] = []
        self.file.on_trouble(troubles.append)
        for config in (self.standard(), self.standard("q.fifo", fifo=True, content_based_deduplication=True)):
            queue = self.queues.queue(config, self.world())
            await queue.send_many([Send(body, group="g" if config.fifo else None) for body in ("a", "b")])
            await self.file.write(_hidden, None)
            again = SqliteQueues(self.file).queue(config, self.world())
            assert bodies(await again.receive(10, 0)) == ["a", "b"]
        assert [trouble.partition(" were damaged")[0] for trouble in troubles] == [
            "Times in queue q",
            "Times in queue q.fifo",
        ]

    @pytest.mark.parametrize("damaged", [b"{", b"\xff"])
    async def test_a_queue_whose_configuration_is_damaged_keeps_its_messages_and_that_is_told(
        self, damaged: bytes
    ) -> None:
        troubles: list[str] = []
        self.file.on_trouble(troubles.append)
        config = self.standard()
        await self.queues.queue(self.standard("other"), self.world()).send_many([Send("c")])
        await self.queues.queue(config, self.world()).send_many([Send("a"), Send("b")])
        await self.file.write(_spoilt, damaged)
        await self.queues.sweep()
        again = SqliteQueues(self.file).queue(config, self.world())
        assert bodies(await again.receive(10, 0)) == ["a", "b"]
        assert "The configuration of q, in queues, was damaged: what is declared takes its place." in troubles

    async def test_more_old_messages_than_one_step_removes_are_gone_at_once(self) -> None:
        queue = self.queues.queue(self.standard(message_retention_period_seconds=60), self.world())
        await queue.send_many([Send("old")] * (2 * STEP_ROWS + 1))
        await self.pass_time(61)
        assert (await queue.depth()).visible == 0
        assert await queue.peek(10) == []
        await queue.send_many([Send("new")])
        assert bodies(await queue.receive(10, 0)) == ["new"]
        assert await self.file.read(_rows, None) == 1

    async def test_queues_that_nobody_uses_are_swept_too(self) -> None:
        for number in range(STEP_QUEUES + 1):
            config = self.standard(f"q{number}", message_retention_period_seconds=60)
            await self.queues.queue(config, self.world()).send_many([Send("old")])
        await self.pass_time(61)
        for _ in range(2):
            await self.queues.sweep()
        assert await self.file.read(_rows, None) == 0

    async def test_a_purge_in_steps_spares_what_is_sent_meanwhile(self) -> None:
        queue = self.queues.queue(self.standard(), self.world())
        await queue.send_many([Send("old")] * (2 * STEP_ROWS + 1))
        async with asyncio.TaskGroup() as group:
            purging = group.create_task(queue.purge())
            while not 0 < (await queue.depth()).visible <= STEP_ROWS + 1:
                assert not purging.done()
            await queue.send_many([Send("new")])
        assert bodies(await queue.receive(10, 0)) == ["new"]

    async def test_a_message_is_found_in_whichever_queue_it_is(self) -> None:
        queue = self.queues.queue(self.standard(max_receive_count=1, dead_letter_queue="dead"), self.world())
        [message_id] = await queue.send_many([Send("a")])
        await queue.receive(1, 0)
        await self.pass_time(31)
        assert not await queue.receive(1, 0)

        fact = await self.file.read(facts, (message_id, self.file.clock.now()))
        assert fact is not None
        assert (fact.queue, fact.state) == ("dead", "visible")
        assert await self.file.read(facts, ("unknown", self.file.clock.now())) is None


def _nothing(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    return items


def _damage(cursor: apsw.Cursor, items: Sequence[str]) -> Sequence[str]:
    cursor.executemany("UPDATE messages SET body = 'x' WHERE id = ?", [(item,) for item in items])
    return items


def _unreadable(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    cursor.execute("UPDATE messages SET body = CAST(x'ff' AS TEXT) WHERE line = 'rotten'")
    return items


def _spoilt(cursor: apsw.Cursor, items: Sequence[bytes]) -> Sequence[bytes]:
    cursor.executemany("UPDATE queues SET config = CAST(? AS TEXT)", [(item,) for item in items])
    return items


def _hidden(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[None]:
    cursor.execute("UPDATE messages SET due_at = due_at + 50000")
    cursor.execute("UPDATE message_groups SET ready_at = ready_at + 50000")
    return items


def _quarantined(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[list[object]]:
    return [[name for (name,) in cursor.execute("SELECT name FROM quarantine")] for _ in items]


def _rows(cursor: apsw.Cursor, items: Sequence[None]) -> Sequence[object]:
    return [cursor.execute("SELECT count(*) FROM messages").get for _ in items]
