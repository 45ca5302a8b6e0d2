"""What Facts promises, for any store."""

from __future__ import annotations

from lambent.model import Checkpoint, Delete, Event, Progress, Queue, Release, Send, Settled
from lambent.ports import Facts

from .stores import CLAIM, VALID, StoreSuite


class FactsSuite(StoreSuite):
    """What people may ask a store for."""

    async def test_an_event_can_be_followed_from_its_put_to_its_end(self) -> None:
        connection = await self.connect()
        facts: Facts = connection.facts
        events, now = connection.events, self.clock.now()
        assert await facts.event("e1") is None
        await events.put_many([Event("e1", "f", b'{"n": 1}', now, qualifier="v1", hops=2)])
        waiting = await facts.event("e1")
        assert waiting is not None
        assert (waiting.state, waiting.reason, waiting.event.payload) == ("waiting", "", b'{"n": 1}')
        [claimed] = await events.receive("f", 1, CLAIM)
        running = await facts.event("e1")
        assert running is not None
        assert running.state == "running"
        assert now + CLAIM - 1 <= running.due_at <= self.clock.now() + CLAIM
        await events.settle_many([Release(claimed.receipt, self.clock.now() + 0.5, reason='{"errorType": "E"}')])
        waiting = await facts.event("e1")
        assert waiting is not None
        assert (waiting.state, waiting.reason, waiting.event.attempts) == ("waiting", '{"errorType": "E"}', 1)
        assert now <= waiting.due_at <= self.clock.now() + 0.5
        await self.pass_time(0.6)
        [claimed] = await events.receive("f", 1, CLAIM)
        await events.settle_many([Delete(claimed.receipt, "succeeded", b'"done"')])
        ended = await facts.event("e1")
        assert ended is not None
        assert (ended.state, ended.result, ended.event.attempts) == ("succeeded", b'"done"', 2)
        assert ended.reason == '{"errorType": "E"}', "what it last waited for stays"
        assert (ended.event.function, ended.event.qualifier, ended.event.payload) == ("f", "v1", b"")
        assert now <= ended.ended_at <= self.clock.now()
        assert await facts.ended() == {("f", "succeeded"): 1}
        await events.put_many([Event("e2", "f", b"{}", now)])
        [claimed] = await events.receive("f", 1, CLAIM)
        await events.settle_many([Delete(claimed.receipt, "succeeded"), Delete(claimed.receipt, "succeeded")])
        assert await facts.ended() == {("f", "succeeded"): 2}, "each once"

    async def test_how_an_event_ended_is_told_with_the_reason_that_its_end_gives(self) -> None:
        connection = await self.connect()
        events, now = connection.events, self.clock.now()
        await events.put_many([Event("e1", "f", b"{}", now)])
        [claimed] = await events.receive("f", 1, CLAIM)
        await events.settle_many([Release(claimed.receipt, now, give_back=True, reason="Throttled")])
        [claimed] = await events.receive("f", 1, CLAIM)
        await events.settle_many([Delete(claimed.receipt, "destination-failed", b"{}", "HTTP status 404")])
        ended = await connection.facts.event("e1")
        assert ended is not None
        assert (ended.state, ended.result, ended.reason) == ("destination-failed", b"{}", "HTTP status 404")

    async def test_a_claim_that_was_no_attempt_is_not_counted_where_the_event_ended(self) -> None:
        connection = await self.connect()
        events, now = connection.events, self.clock.now()
        await events.put_many([Event(name, "f", b"{}", now) for name in ("e1", "e2")])
        claimed = await events.receive("f", 2, CLAIM)
        await events.settle_many([Release(each.receipt, now) for each in claimed])
        claimed = await events.receive("f", 2, CLAIM)
        assert [each.attempts for each in claimed] == [2, 2]
        ends = [Delete(each.receipt, "expired", give_back=each.request_id == "e1") for each in claimed]
        await events.settle_many(ends)
        facts = [await connection.facts.event(name) for name in ("e1", "e2")]
        assert [fact and fact.event.attempts for fact in facts] == [1, 2]

    async def test_a_message_is_found_in_whichever_queue_it_is(self) -> None:
        connection = await self.connect()
        dead = connection.queue(Queue(name="dead"))
        options = {"visibility_timeout_seconds": CLAIM, "max_receive_count": 1, "dead_letter_queue": "dead"}
        queue = connection.queue(Queue.model_validate({"name": "orders", **options}))
        [message_id] = await queue.send_many([Send("a", delay_seconds=0.2)])
        fact = await connection.facts.message(message_id)
        assert fact is not None
        assert (fact.queue, fact.state, fact.message.body) == ("orders", "delayed", "a")
        [message] = await queue.receive(1, 1)
        fact = await connection.facts.message(message_id)
        assert fact is not None
        assert (fact.queue, fact.state, fact.message.receive_count) == ("orders", "in_flight", 1)
        await self.pass_time(CLAIM + 0.2)
        assert await queue.receive(1, 0) == []
        fact = await connection.facts.message(message_id)
        assert fact is not None
        assert (fact.queue, fact.state) == ("dead", "visible")
        [message] = await dead.receive(1, 0)
        await dead.settle_many([Delete(message.receipt)])
        assert await connection.facts.message(message_id) is None

    async def test_what_checkpoints_settled_is_added_up_and_can_be_looked_up(self) -> None:
        connection = await self.connect()
        leases, facts = connection.leases, connection.facts
        seen = (await leases.heartbeat("mapping", ["s0"], VALID)).leases["s0"]
        [lease] = await leases.take_many([seen], VALID)
        for settled in (
            (Settled("001", "003", 3, "delivered"), Settled("004", "004", 1, "failed", "RetryAttemptsExhausted")),
            (Settled("005", "006", 2, "delivered"),),
            (Settled("007", "009", 3, "delivered"),),
        ):
            await leases.checkpoint_many([(lease, Checkpoint(Progress(settled[-1].last), settled))])
        await leases.checkpoint_many([(seen, Checkpoint(Progress("999"), (Settled("010", "999", 9, "filtered"),)))])
        [shard] = await facts.shards("mapping")
        assert (shard.lease.name, shard.lease.progress) == ("s0", Progress("009"))
        assert shard.counts == {("delivered", ""): 8, ("failed", "RetryAttemptsExhausted"): 1}
        assert await facts.settled("mapping", "s0", "002") == Settled("001", "003", 3, "delivered")
        assert await facts.settled("mapping", "s0", "004") == Settled(
            "004", "004", 1, "failed", "RetryAttemptsExhausted"
        )
        assert await facts.settled("mapping", "s0", "008") == Settled("005", "009", 5, "delivered")
        assert await facts.settled("mapping", "s0", "010") is None
        assert await facts.settled("mapping", "s1", "002") is None
        assert await facts.shards("other") == []

    async def test_a_checkpoint_that_is_written_again_adds_no_fates(self) -> None:
        """Whoever got no answer asks again, and may not know that it was stored."""
        connection = await self.connect()
        leases = connection.leases
        seen = (await leases.heartbeat("mapping", ["s0"], VALID)).leases["s0"]
        [lease] = await leases.take_many([seen], VALID)
        checkpoint = Checkpoint(Progress("003", start="000"), (Settled("001", "003", 3, "delivered"),))
        for _ in range(2):
            assert list(await leases.checkpoint_many([(lease, checkpoint)])) == [True]
        [shard] = await connection.facts.shards("mapping")
        assert shard.counts == {("delivered", ""): 3}
        assert shard.lease.progress == checkpoint.progress

    async def test_a_seek_begins_the_fates_anew(self) -> None:
        connection = await self.connect()
        leases, facts = connection.leases, connection.facts
        seen = (await leases.heartbeat("mapping", ["s0", "s1"], VALID)).leases
        one, other = await leases.take_many(list(seen.values()), VALID)
        settled = (Settled("001", "003", 3, "delivered"),)
        await leases.checkpoint_many([(lease, Checkpoint(Progress("003"), settled)) for lease in (one, other)])
        await leases.checkpoint_many([(one, Checkpoint(Progress("000", seek=1, start="000"), ()))])
        assert {fact.lease.name: fact.counts for fact in await facts.shards("mapping")} == {
            "s0": {},
            "s1": {("delivered", ""): 3},
        }
        assert await facts.settled("mapping", "s0", "002") is None
        assert await facts.settled("mapping", "s1", "002") == settled[0]
