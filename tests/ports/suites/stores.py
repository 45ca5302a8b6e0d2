"""What Documents, EventQueue and Leases promise, for any store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from lambent.model import Checkpoint, Delete, Event, Lease, Progress, Release, Settled
from lambent.ports import Connection, Documents, EventQueue, Leases, Store
from lambent.semantics.concurrency import Demand

from . import Suite, needs

CLAIM = 2.0  # seconds
VALID = 2.0


class StoreSuite(Suite):
    """Base: one fresh store a test, and as many connections to it as wanted."""

    def make_store(self) -> Store:
        raise NotImplementedError

    async def connect(self, owner: str = "engine-1") -> Connection:
        if not hasattr(self, "store"):
            self.store = self.make_store()
        return await self.store.connect(self.world(owner))

    async def test_the_store_declares_what_its_suites_are_told(self) -> None:
        await self.connect()
        assert self.store.capabilities == self.capabilities


class DocumentsSuite(StoreSuite):
    async def documents(self, owner: str = "engine-1") -> Documents:
        return (await self.connect(owner)).documents

    async def test_a_document_is_read_back_as_it_was_written(self) -> None:
        documents = await self.documents()
        written = await documents.put("function", "resize", '{"é": 1}')
        assert written is not None
        assert (written.kind, written.name, written.body) == ("function", "resize", '{"é": 1}')
        assert await documents.get("function", "resize") == written
        assert await documents.get("mapping", "resize") is None

    async def test_a_list_has_one_kind_only(self) -> None:
        documents = await self.documents()
        for kind, name in (("function", "a"), ("function", "b"), ("mapping", "a")):
            await documents.put(kind, name, "{}")
        assert sorted(document.name for document in await documents.list("function")) == ["a", "b"]
        assert await documents.list("queue") == type(await documents.list("queue"))()

    async def test_a_list_may_have_only_what_was_written_since_a_revision(self) -> None:
        documents = await self.documents()
        for name in ("a", "b", "c"):
            await documents.put("function", name, "{}")
        seen = max(each.revision for each in await documents.list("function"))
        assert not await documents.list("function", seen)
        await documents.put("function", "b", "2")
        await documents.put("mapping", "m", "{}")
        await documents.put("function", "d", "{}")
        await documents.delete("function", "c")
        assert sorted(each.name for each in await documents.list("function", seen)) == ["b", "d"]
        seen = max(each.revision for each in await documents.list("function", seen))
        assert not await documents.list("function", seen)
        await documents.put("function", "e", "{}", expires_in_seconds=VALID)
        assert [each.body for each in await documents.list("function", seen)] == ["{}"]
        await self.pass_time(VALID + 0.5)
        assert not await documents.list("function", seen)

    async def test_every_write_changes_the_revision(self) -> None:
        documents = await self.documents()
        first = await documents.put("function", "a", "{}")
        second = await documents.put("function", "a", "{}")
        assert first is not None
        assert second is not None
        assert first.revision != second.revision

    async def test_a_write_on_an_outdated_revision_changes_nothing(self) -> None:
        documents = await self.documents()
        first = await documents.put("function", "a", "1")
        assert first is not None
        second = await documents.put("function", "a", "2", revision=first.revision)
        assert second is not None
        assert await documents.put("function", "a", "3", revision=first.revision) is None
        assert await documents.get("function", "a") == second

    async def test_revision_zero_means_create_only(self) -> None:
        documents = await self.documents()
        assert await documents.put("function", "a", "1", revision=0) is not None
        assert await documents.put("function", "a", "2", revision=0) is None
        assert await documents.put("function", "b", "2", revision=7) is None
        assert await documents.get("function", "b") is None

    async def test_a_document_made_anew_does_not_match_the_deleted_ones_revision(self) -> None:
        documents = await self.documents()
        first = await documents.put("function", "a", "1")
        assert first is not None
        assert await documents.delete("function", "a")
        assert not await documents.delete("function", "a")
        await documents.put("function", "a", "2")
        assert await documents.put("function", "a", "3", revision=first.revision) is None

    async def test_a_watch_speaks_at_the_start_and_after_each_change_of_its_kind(self) -> None:
        documents = await self.documents()
        watch = documents.watch("mapping")
        assert await anext(watch, "ended") is None
        for change in (documents.put("mapping", "a", "{}"), documents.delete("mapping", "a")):
            waiting = asyncio.ensure_future(anext(watch))
            await self.pass_time(0.1)
            await documents.put("function", "a", "{}")
            await self.pass_time(0.5)
            assert not waiting.done()
            await change
            async with asyncio.timeout(5):
                assert await waiting is None

    async def test_a_change_between_two_looks_at_a_watch_is_not_missed(self) -> None:
        documents = await self.documents()
        watch = documents.watch("mapping")
        await anext(watch, None)
        await documents.put("mapping", "a", "{}")
        await documents.put("mapping", "b", "{}")
        async with asyncio.timeout(5):
            assert await anext(watch, "ended") is None

    async def test_a_document_that_expires_is_gone_after_its_time(self) -> None:
        documents = await self.documents()
        await documents.put("request", "a", "1", expires_in_seconds=VALID)
        await documents.put("request", "b", "2", expires_in_seconds=VALID)
        await documents.put("request", "b", "3")
        assert await documents.get("request", "a") is not None
        await self.pass_time(VALID + 0.5)
        assert await documents.get("request", "a") is None
        assert [document.body for document in await documents.list("request")] == ["3"]
        assert not await documents.delete("request", "a")
        assert await documents.put("request", "a", "4", revision=0) is not None

    async def test_a_client_sees_what_the_engine_sees_and_whether_there_is_one(self) -> None:
        engine = await self.connect("engine-1")
        client = await self.store.connect(self.world("client-1"), client=True)
        assert await client.engines()
        watch = engine.documents.watch("mapping")
        await anext(watch, None)
        await client.documents.put("mapping", "a", "{}")
        async with asyncio.timeout(5):
            assert await anext(watch, "ended") is None
        assert await engine.documents.get("mapping", "a") == await client.documents.get("mapping", "a")
        await engine.close()
        assert not await client.engines()
        await client.close()

    @needs("shared")
    async def test_a_watch_sees_what_another_connection_wrote(self) -> None:
        ours, theirs = await self.documents("engine-1"), await self.documents("engine-2")
        watch = ours.watch("mapping")
        await anext(watch, None)
        await theirs.put("mapping", "a", "{}")
        async with asyncio.timeout(5):
            assert await anext(watch, "ended") is None
        assert await ours.get("mapping", "a") == await theirs.get("mapping", "a")


class EventQueueSuite(StoreSuite):
    async def events(self, owner: str = "engine-1") -> EventQueue:
        return (await self.connect(owner)).events

    def event(self, function: str = "f", age_seconds: float = 0.0, payload: bytes = b"{}") -> Event:
        return Event(self.new_id(), function, payload, self.clock.now() - age_seconds)

    async def test_an_event_comes_back_whole(self) -> None:
        events = await self.events()
        event = Event(self.new_id(), "f", b'{"a": "\xc3\xa9"}', self.clock.now(), "live", 0, 0, 3, "Root=1", {"k": [1]})
        await events.put_many([event])
        [claimed] = await events.receive("f", 10, CLAIM)
        assert claimed.receipt
        assert claimed.attempts == 1
        for name in ("request_id", "function", "payload", "accepted_at", "qualifier", "hops", "trace_id"):
            assert getattr(claimed, name) == getattr(event, name), name
        assert claimed.client_context == event.client_context

    async def test_the_oldest_events_are_claimed_first_and_only_so_many(self) -> None:
        events = await self.events()
        waiting = [self.event(age_seconds=age) for age in (3, 1, 4, 1.5, 9, 2)]
        await events.put_many(waiting)
        waiting.sort(key=lambda event: event.accepted_at)
        expected = [event.request_id for event in waiting]
        assert [event.request_id for event in await events.receive("f", 4, CLAIM)] == expected[:4]
        assert [event.request_id for event in await events.receive("f", 4, CLAIM)] == expected[4:]
        assert not await events.receive("f", 4, CLAIM)

    async def test_a_returned_event_is_again_before_younger_ones(self) -> None:
        events = await self.events()
        old, young = self.event(age_seconds=9), self.event(age_seconds=1)
        await events.put_many([old, young])
        [claimed] = await events.receive("f", 1, CLAIM)
        await events.settle_many([Release(claimed.receipt, self.clock.now())])
        [again] = await events.receive("f", 1, CLAIM)
        assert again.request_id == old.request_id

    async def test_functions_do_not_see_each_others_events(self) -> None:
        events = await self.events()
        await events.put_many([self.event("f"), self.event("g"), self.event("g")])
        assert await events.pending() == {"f": 1, "g": 2}
        assert len(await events.receive("f", 10, CLAIM)) == 1
        assert await events.pending() == {"f": 1, "g": 2}

    async def test_an_event_put_twice_is_stored_once(self) -> None:
        events = await self.events()
        event = self.event()
        await events.put_many([event])
        await events.put_many([event, self.event()])
        assert await events.pending() == {"f": 2}

    async def test_a_deleted_event_never_comes_back(self) -> None:
        events = await self.events()
        await events.put_many([self.event()])
        [claimed] = await events.receive("f", 1, CLAIM)
        assert list(await events.settle_many([Delete(claimed.receipt, "succeeded")])) == [True]
        assert list(await events.settle_many([Delete(claimed.receipt, "succeeded")])) == [False]
        await self.pass_time(CLAIM + 1)
        assert not await events.receive("f", 1, CLAIM)
        assert sum((await events.pending()).values()) == 0

    async def test_a_claim_that_is_not_settled_ends_and_counts_as_an_attempt(self) -> None:
        events = await self.events()
        await events.put_many([self.event()])
        [first] = await events.receive("f", 1, CLAIM)
        assert not await events.receive("f", 1, CLAIM)
        await self.pass_time(CLAIM + 0.5)
        [second] = await events.receive("f", 1, CLAIM)
        assert (first.attempts, second.attempts) == (1, 2)
        assert first.receipt != second.receipt

    async def test_the_receipt_of_an_earlier_claim_settles_nothing(self) -> None:
        events = await self.events()
        await events.put_many([self.event()])
        [first] = await events.receive("f", 1, CLAIM)
        await self.pass_time(CLAIM + 0.5)
        [second] = await events.receive("f", 1, CLAIM)
        stale = [Delete(first.receipt, "succeeded"), Release(first.receipt, self.clock.now())]
        assert list(await events.settle_many(stale)) == [False, False]
        assert not await events.receive("f", 1, CLAIM)
        assert list(await events.settle_many([Delete(second.receipt, "succeeded")])) == [True]

    async def test_a_released_event_is_not_due_before_its_time(self) -> None:
        events = await self.events()
        await events.put_many([self.event()])
        [first] = await events.receive("f", 1, CLAIM)
        assert list(await events.settle_many([Release(first.receipt, self.clock.now() + 2)])) == [True]
        await self.pass_time(1.5)
        assert not await events.receive("f", 1, CLAIM)
        await self.pass_time(1)
        [second] = await events.receive("f", 1, CLAIM)
        assert second.attempts == 2

    async def test_giving_back_undoes_the_attempt_and_counts_a_deferral(self) -> None:
        events = await self.events()
        await events.put_many([self.event()])
        counts = []
        for give_back in (True, True, False, False):
            [claimed] = await events.receive("f", 1, CLAIM)
            counts.append((claimed.attempts, claimed.deferrals))
            await events.settle_many([Release(claimed.receipt, self.clock.now(), give_back)])
        [claimed] = await events.receive("f", 1, CLAIM)
        assert [*counts, (claimed.attempts, claimed.deferrals)] == [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0)]

    async def test_only_events_accepted_before_a_time_can_be_asked_for(self) -> None:
        events = await self.events()
        await events.put_many([self.event(age_seconds=age) for age in (100, 50, 10)])
        claimed = await events.receive("f", 10, CLAIM, accepted_before=self.clock.now() - 30)
        assert [round(self.clock.now() - event.accepted_at, -1) for event in claimed] == [100, 50]
        assert len(await events.receive("f", 10, CLAIM)) == 1

    async def test_due_names_hosted_functions_with_their_oldest_event(self) -> None:
        events = await self.events()
        old = self.event("f", age_seconds=50)
        await events.put_many([self.event("f"), old, self.event("g"), self.event("elsewhere")])
        due = dict(await events.due({"f", "g", "idle"}, 0))
        assert due.keys() == {"f", "g"}
        assert abs(due["f"] - old.accepted_at) < 0.001

    async def test_a_function_is_told_once_until_receive_is_called_for_it(self) -> None:
        events = await self.events()
        await events.put_many([self.event(), self.event(), self.event()])
        assert [name for name, _ in await events.due({"f"}, 0)] == ["f"]
        await events.put_many([self.event()])
        assert not await events.due({"f"}, 0)
        assert len(await events.receive("f", 2, CLAIM)) == 2
        assert [name for name, _ in await events.due({"f"}, 0)] == ["f"]
        assert len(await events.receive("f", 10, CLAIM)) == 2
        assert not await events.due({"f"}, 0)

    async def test_a_function_that_becomes_hosted_is_told_of(self) -> None:
        events = await self.events()
        await events.put_many([self.event("late")])
        assert not await events.due({"f"}, 0)
        assert [name for name, _ in await events.due({"f", "late"}, 0)] == ["late"]

    async def test_due_waits_for_a_put(self) -> None:
        events = await self.events()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(events.due({"f"}, 60))
            await self.pass_time(0.5)
            assert not waiting.done()
            await events.put_many([self.event()])
            async with asyncio.timeout(5):
                assert [name for name, _ in await waiting] == ["f"]

    async def test_due_waits_for_a_release_to_fall_due_and_for_a_claim_to_end(self) -> None:
        events = await self.events()
        await events.put_many([self.event("f"), self.event("g")])
        await events.due({"f", "g"}, 0)
        [released] = await events.receive("f", 1, 900)
        await events.receive("g", 1, 2.5)
        await events.settle_many([Release(released.receipt, self.clock.now() + 1.5)])
        began = self.clock.monotonic()
        assert [name for name, _ in await events.due({"f", "g"}, 60)] == ["f"]
        assert 1.4 <= self.clock.monotonic() - began < 2.4
        assert [name for name, _ in await events.due({"f", "g"}, 60)] == ["g"]

    async def test_due_gives_up_after_its_time(self) -> None:
        events = await self.events()
        began = self.clock.monotonic()
        assert not await events.due({"f"}, 1)
        assert 0.9 <= self.clock.monotonic() - began < 5

    async def test_a_cancelled_due_loses_no_function(self) -> None:
        events = await self.events()
        waiting = asyncio.ensure_future(events.due({"f"}, 60))
        await self.pass_time(0.1)
        await events.put_many([self.event()])
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() or waiting.result()
        if waiting.cancelled():
            assert await events.due({"f"}, 1)

    @needs("shared")
    async def test_two_engines_never_claim_the_same_event(self) -> None:
        ours, theirs = await self.events("engine-1"), await self.events("engine-2")
        await ours.put_many([self.event() for _ in range(10)])
        assert await ours.due({"f"}, 5)
        assert await theirs.due({"f"}, 5)
        claimed = [*await ours.receive("f", 6, CLAIM), *await theirs.receive("f", 6, CLAIM)]
        assert len({event.request_id for event in claimed}) == len(claimed) == 10

    async def test_a_closed_connection_leaves_nothing_claimed(self) -> None:
        connection = await self.connect("engine-1")
        await connection.events.put_many([self.event()])
        [first] = await connection.events.receive("f", 1, 900)
        await connection.close()
        again = await self.events("engine-1b")
        assert await again.due({"f"}, 5)
        [second] = await again.receive("f", 1, CLAIM)
        assert (second.request_id, second.attempts) == (first.request_id, 2)


class LeasesSuite(StoreSuite):
    async def leases(self, owner: str = "engine-1") -> Leases:
        return (await self.connect(owner)).leases

    async def taken(self, leases: Leases, *names: str, valid: float = VALID) -> list[Lease]:
        seen = (await leases.heartbeat("mapping", names, valid)).leases
        return list(await leases.take_many([seen[name] for name in names], valid))

    async def test_a_lease_nobody_took_is_free(self) -> None:
        leases = await self.leases()
        holdings = await leases.heartbeat("mapping", ["s0", "s1"], VALID)
        assert holdings.members == 1
        assert holdings.leases.keys() == {"s0", "s1"}
        assert all(lease.free and lease.progress is None for lease in holdings.leases.values())
        assert 0 < holdings.valid_for_seconds <= VALID

    async def test_a_taken_lease_has_an_owner_and_a_raised_counter(self) -> None:
        leases = await self.leases()
        before = (await leases.heartbeat("mapping", ["s0"], VALID)).leases["s0"]
        [lease] = await leases.take_many([before], VALID)
        assert (lease.owner, lease.free) == ("engine-1", False)
        assert lease.counter > before.counter
        assert (await leases.heartbeat("mapping", ["s0"], VALID)).leases["s0"] == lease

    async def test_a_lease_is_taken_once(self) -> None:
        leases = await self.leases()
        seen = (await leases.heartbeat("mapping", ["s0"], VALID)).leases["s0"]
        assert len(await leases.take_many([seen], VALID)) == 1
        assert not await leases.take_many([seen], VALID)

    @needs("shared")
    async def test_a_held_lease_cannot_be_taken_by_another(self) -> None:
        ours, theirs = await self.leases("engine-1"), await self.leases("engine-2")
        [lease] = await self.taken(ours, "s0")
        assert not await self.taken(theirs, "s0")
        seen = await theirs.heartbeat("mapping", ["s0"], VALID)
        assert seen.leases["s0"] == lease
        assert seen.members == 2

    @needs("shared")
    async def test_heartbeats_keep_a_lease_and_their_absence_loses_it(self) -> None:
        ours, theirs = await self.leases("engine-1"), await self.leases("engine-2")
        [lease] = await self.taken(ours, "s0")
        for _ in range(3):
            await self.pass_time(VALID * 0.6)
            await ours.heartbeat("mapping", ["s0"], VALID)
            assert not (await theirs.heartbeat("mapping", ["s0"], VALID)).leases["s0"].free
        await self.pass_time(VALID + 0.5)
        seen = await theirs.heartbeat("mapping", ["s0"], VALID)
        assert seen.leases["s0"].free
        assert seen.members == 1
        [taken] = await theirs.take_many([seen.leases["s0"]], VALID)
        assert taken.counter > lease.counter

    async def test_an_expired_lease_is_not_revived_by_a_heartbeat(self) -> None:
        leases = await self.leases()
        await self.taken(leases, "s0")
        await self.pass_time(VALID + 0.5)
        assert (await leases.heartbeat("mapping", ["s0"], VALID)).leases["s0"].free

    @needs("shared")
    async def test_a_released_lease_is_free_at_once_and_keeps_its_progress(self) -> None:
        ours, theirs = await self.leases("engine-1"), await self.leases("engine-2")
        [lease] = await self.taken(ours, "s0")
        progress = Progress("position-7", ended=False, seek=2)
        assert list(await ours.checkpoint_many([(lease, Checkpoint(progress, ()))])) == [True]
        await ours.release_many([lease])
        [taken] = await self.taken(theirs, "s0")
        assert taken.progress == progress
        assert taken.counter > lease.counter

    @needs("shared")
    async def test_a_former_owner_can_neither_checkpoint_nor_release(self) -> None:
        ours, theirs = await self.leases("engine-1"), await self.leases("engine-2")
        [former] = await self.taken(ours, "s0")
        await self.pass_time(VALID + 0.5)
        [lease] = await self.taken(theirs, "s0", valid=60)
        assert list(await ours.checkpoint_many([(former, Checkpoint(Progress("9"), ()))])) == [False]
        await ours.release_many([former])
        seen = (await ours.heartbeat("mapping", ["s0"], VALID)).leases["s0"]
        assert seen == lease

    async def test_an_owner_that_took_its_lease_anew_cannot_write_under_the_old_one(self) -> None:
        leases = await self.leases()
        [former] = await self.taken(leases, "s0")
        await self.pass_time(VALID + 0.5)
        [lease] = await self.taken(leases, "s0")
        checkpoint = Checkpoint(Progress("9"), ())
        assert list(await leases.checkpoint_many([(former, checkpoint), (lease, checkpoint)])) == [False, True]

    async def test_progress_is_stored_whole_under_each_lease(self) -> None:
        leases = await self.leases()
        one, two = await self.taken(leases, "s0", "s1")
        settled = (Settled("1", "5", 5, "delivered"),)
        written = [(one, Checkpoint(Progress("5"), settled)), (two, Checkpoint(Progress("", ended=True), ()))]
        assert list(await leases.checkpoint_many(written)) == [True, True]
        seen = (await leases.heartbeat("mapping", ["s0", "s1"], VALID)).leases
        assert seen["s0"].progress == Progress("5")
        assert seen["s1"].progress == Progress("", ended=True)

    async def test_groups_do_not_share_leases(self) -> None:
        leases = await self.leases()
        await self.taken(leases, "s0")
        assert (await leases.heartbeat("other", ["s0"], VALID)).leases["s0"].free

    async def test_a_closed_connection_holds_nothing(self) -> None:
        connection = await self.connect("engine-1")
        await self.taken(connection.leases, "s0", valid=900)
        await connection.leases.permits({"f": Demand(1, 0, 1)}, 900)
        await connection.close()
        leases = await self.leases("engine-1b")
        seen = await leases.heartbeat("mapping", ["s0"], VALID)
        assert seen.leases["s0"].free
        assert seen.members == 1
        assert await leases.permits({"f": Demand(1, 0, 1)}, VALID) == {"f": 1}

    # --- permits

    async def ask(self, leases: Leases, limit: int, in_use: int, wanted: int, valid: float = 900) -> int:
        granted: Mapping[str, int] = await leases.permits({"f": Demand(limit, in_use, wanted)}, valid)
        return granted["f"]

    @needs("permits")
    async def test_one_engine_alone_may_use_the_whole_limit(self) -> None:
        leases = await self.leases()
        assert await leases.permits({"f": Demand(7, 0, 0), "g": Demand(3, 0, 9)}, 900) == {"f": 7, "g": 3}

    @needs("permits", "shared")
    async def test_what_is_granted_never_exceeds_the_limit_in_sum(self) -> None:
        engines = [await self.leases(f"engine-{number}") for number in range(3)]
        granted = [await self.ask(engine, 10, 0, 10) for engine in engines]
        assert sum(granted) <= 10
        for _ in range(3):
            for number, engine in enumerate(engines):
                granted[number] = await self.ask(engine, 10, min(granted[number], 10), 10)
                assert sum(granted) <= 10
        for _ in range(3):  # each now runs what it may, and nothing more
            granted = [await self.ask(engine, 10, granted[number], 10) for number, engine in enumerate(engines)]
        assert sum(granted) == 10
        assert min(granted) >= 3

    @needs("permits", "shared")
    async def test_what_one_engine_does_not_want_goes_to_the_one_that_does(self) -> None:
        busy, idle = await self.leases("engine-1"), await self.leases("engine-2")
        assert await self.ask(idle, 100, 0, 0) == 100
        await self.ask(busy, 100, 0, 100)
        await self.ask(idle, 100, 0, 0)
        assert await self.ask(busy, 100, 0, 100) == 100

    @needs("permits", "shared")
    async def test_permits_in_use_are_not_granted_to_others(self) -> None:
        ours, theirs = await self.leases("engine-1"), await self.leases("engine-2")
        await self.ask(ours, 10, 10, 10)
        assert await self.ask(theirs, 10, 0, 10) == 0
        assert await self.ask(ours, 10, 10, 10) == 5  # start nothing new until five have ended
        assert await self.ask(theirs, 10, 0, 10) == 0
        assert await self.ask(ours, 10, 7, 10) == 5
        assert await self.ask(theirs, 10, 0, 10) == 3

    @needs("permits", "shared")
    async def test_a_dead_engines_permits_come_back_when_they_expire(self) -> None:
        ours, dead = await self.leases("engine-1"), await self.leases("engine-2")
        assert await self.ask(dead, 4, 4, 4, valid=VALID) == 4
        assert await self.ask(ours, 4, 0, 4) == 0
        await self.pass_time(VALID + 0.5)
        assert await self.ask(ours, 4, 0, 4) == 4

    @needs("permits", "shared")
    async def test_one_permit_over_three_engines_is_handed_on_in_turn(self) -> None:
        engines = [await self.leases(f"engine-{number}") for number in range(3)]
        granted = [await self.ask(engine, 1, 0, 1) for engine in engines]
        assert granted == [1, 0, 0]
        served = [0]
        running: int | None = 0
        for _ in range(20):
            for number, engine in enumerate(engines):
                granted[number] = await self.ask(engine, 1, int(running == number), 1)
                assert sum(granted) <= 1
                if granted[number] and running is None:
                    running = number
                    served.append(number)
                elif running == number and not granted[number]:
                    running = None  # its call ends: it must not start the next
        assert served[:9] == [0, 1, 2] * 3

    @needs("permits", "shared")
    async def test_an_engine_whose_calls_are_short_does_not_keep_the_only_permit(self) -> None:
        ours, theirs = await self.leases("engine-1"), await self.leases("engine-2")
        assert await self.ask(ours, 1, 0, 1) == 1
        assert await self.ask(theirs, 1, 0, 1) == 0
        assert await self.ask(ours, 1, 0, 1) == 0
        assert await self.ask(theirs, 1, 0, 1) == 1
