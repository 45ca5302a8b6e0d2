"""What Runtime promises, wherever a handler runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent.model import Failed, Function, Invocation, Outcome, Succeeded, Unavailable
from lambent.ports import Call, Runtime

from . import Suite

ENDLESS = 30


class Heard:
    """What is heard of one call, in its order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.outcome: Outcome | None = None
        self._over = asyncio.Event()
        self.running = asyncio.Event()

    def started(self) -> None:
        self.said.append("started")
        self.running.set()

    def ended(self, outcome: Outcome) -> None:
        self.said.append("ended")
        self.outcome = outcome
        self._over.set()

    async def over(self) -> Outcome:
        async with asyncio.timeout(ENDLESS):
            await self._over.wait()
        assert self.outcome is not None
        return self.outcome


class RuntimeSuite(Suite):
    """`make` gives a runtime that serves the functions `good` and `brief`, which has a second. Both do what their event
    says: {"return": VALUE}, {"raise": TEXT} as a ValueError, {"hang": true} until they are ended."""

    async def make(self) -> Runtime:
        raise NotImplementedError

    @pytest.fixture
    async def runtime(self, _begin: None) -> AsyncIterator[Runtime]:
        made = await self.make()
        yield made
        await made.close()

    def function(self, name: str, **options: Any) -> Function:
        return Function(name=name, timeout_seconds=1 if name == "brief" else ENDLESS, **options)

    def start(self, runtime: Runtime, event: object, function: str = "good", **more: Any) -> tuple[Call, Heard]:
        heard = Heard()
        invocation = Invocation(self.new_id(), function, json.dumps(event).encode(), **more)
        return runtime.start(invocation, heard.ended, heard.started, lambda chunk: None), heard

    async def run(self, runtime: Runtime, event: object, **more: Any) -> Outcome:
        return await self.start(runtime, event, **more)[1].over()

    async def test_what_the_handler_returns_is_a_value(self, runtime: Runtime) -> None:
        for value in ({"a": [1, "ü", None]}, "text", None, [], 0.5):
            outcome = await self.run(runtime, {"return": value})
            assert isinstance(outcome, Succeeded)
            assert json.loads(outcome.payload) == value  # type: ignore[arg-type]
            assert outcome.run_seconds >= 0

    async def test_what_the_handler_raises_is_a_value_too_with_awss_document(self, runtime: Runtime) -> None:
        outcome = await self.run(runtime, {"raise": "not so"})
        assert isinstance(outcome, Failed)
        assert list(outcome.document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
        assert (outcome.document["errorType"], outcome.document["errorMessage"]) == ("ValueError", "not so")
        assert isinstance(await self.run(runtime, {"return": 1}), Succeeded)

    async def test_a_call_is_started_and_then_ended_once(self, runtime: Runtime) -> None:
        for event in ({"return": 1}, {"raise": "x"}):
            _, heard = self.start(runtime, event)
            await heard.over()
            assert heard.said == ["started", "ended"]

    async def test_a_handler_that_hangs_ends_at_its_deadline_in_awss_words(self, runtime: Runtime) -> None:
        call, heard = self.start(runtime, {"hang": True}, function="brief")
        outcome = await heard.over()
        assert isinstance(outcome, Failed)
        assert outcome.document["errorType"] == "Sandbox.Timedout"
        assert str(outcome.document["errorMessage"]).endswith("Task timed out after 1.00 seconds")
        assert isinstance(await self.run(runtime, {"return": 1}, function="brief"), Succeeded)
        call.abandon()
        assert heard.said == ["started", "ended"]

    async def test_nothing_is_heard_of_a_call_that_was_abandoned(self, runtime: Runtime) -> None:
        call, heard = self.start(runtime, {"hang": True})
        async with asyncio.timeout(ENDLESS):
            await heard.running.wait()
        call.abandon()
        call.abandon()
        assert isinstance(await self.run(runtime, {"return": 1}), Succeeded)
        assert heard.said == ["started"]

    async def test_a_call_that_is_too_late_is_not_run(self, runtime: Runtime) -> None:
        _, heard = self.start(runtime, {"return": 1}, start_before=self.clock.monotonic())
        assert isinstance(await heard.over(), Unavailable)
        assert heard.said == ["ended"]
        assert isinstance(await self.run(runtime, {"return": 1}), Succeeded)

    async def test_a_function_that_is_not_served_is_unavailable(self, runtime: Runtime) -> None:
        assert isinstance(await self.run(runtime, {}, function="unknown"), Unavailable)

    async def test_calls_at_once_do_not_mix_their_answers(self, runtime: Runtime) -> None:
        calls = [self.start(runtime, {"return": n})[1] for n in range(4)]
        outcomes = [await heard.over() for heard in calls]
        assert [getattr(outcome, "payload", None) for outcome in outcomes] == [b"0", b"1", b"2", b"3"]

    async def test_what_runs_at_the_close_is_unavailable(self, runtime: Runtime) -> None:
        _, heard = self.start(runtime, {"hang": True})
        async with asyncio.timeout(ENDLESS):
            await heard.running.wait()
        await runtime.close()
        assert isinstance(await heard.over(), Unavailable)
        assert heard.said == ["started", "ended"]
