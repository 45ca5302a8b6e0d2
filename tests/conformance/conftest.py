"""An engine on virtual time, and what the tests ask of it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import pytest

from lambent.engine import Engine
from lambent.resources import QueueHandle, StreamHandle
from lambent.testing.loop import VirtualClock
from tests.api.server import Server, served
from tests.conformance.api_cases import CLOCK, PENDING_SECONDS

ACCOUNT = "111111111111"


def make_engine(**options: Any) -> Engine:
    """An engine whose time is the running loop's and whose plain functions run inline."""
    settings = {"account_id": ACCOUNT, "watchdog_seconds": 0, "seed": 1, **options}
    clock = settings.pop("clock", None) or VirtualClock(asyncio.get_running_loop())
    return Engine(clock=clock, executor=lambda call: call(), **settings)


@pytest.fixture
async def engine() -> Engine:
    return make_engine()


def now() -> float:
    """Virtual seconds since the test began."""
    return asyncio.get_running_loop().time()


class Calls:
    """A handler that keeps the events that it got, and when. `answer(event, number of the call)` is its value; an
    exception that it returns is raised."""

    def __init__(self, answer: Callable[[Any, int], object] = lambda event, number: None, seconds: float = 0) -> None:
        self.__name__ = "function"
        self.events: list[Any] = []
        self.contexts: list[Any] = []
        self.at: list[float] = []
        self.most = 0  # that ran at once
        self._running = 0
        self._answer = answer
        self._seconds = seconds

    async def __call__(self, event: Any, context: Any) -> object:
        self.events.append(json.loads(json.dumps(event)))
        self.contexts.append(context)
        self.at.append(round(now(), 3))
        number = len(self.events)
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            if self._seconds:
                await asyncio.sleep(self._seconds)
        finally:
            self._running -= 1
        answer = self._answer(event, number)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def records(self) -> list[Any]:
        """All records of all batches."""
        return [record for event in self.events for record in event["Records"]]

    @property
    def sizes(self) -> list[int]:
        return [len(event["Records"]) for event in self.events]


async def messages(queue: QueueHandle, limit: int = 100) -> list[dict[str, Any]]:
    """All messages of a queue, as SQS's ReceiveMessage shows them, with their bodies parsed."""
    found: list[dict[str, Any]] = []
    while received := await queue.receive(10):
        for each in received:
            message: dict[str, Any] = {"MessageId": each.id, "Body": _body(each.body)}
            if each.attributes:
                message["MessageAttributes"] = {
                    name: {"DataType": attribute.data_type, "StringValue": attribute.value}
                    for name, attribute in sorted(each.attributes.items())
                }
            found.append(message)
        assert len(found) <= limit
    return found


async def bodies(queue: QueueHandle) -> list[Any]:
    return [message["Body"] for message in await messages(queue)]


def _body(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# --------------------------------------------------------------------------- streams


def data(record: Any) -> Any:
    return json.loads(base64.b64decode(record["kinesis"]["data"]))


def batches(calls: Calls) -> list[list[Any]]:
    return [[data(record) for record in event["Records"]] for event in calls.events]


def flat(lists: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(lists))


def poison(*values: object) -> Callable[[Any, int], object]:
    """Fails every batch that holds one of these."""

    def answer(event: Any, number: int) -> object:
        return ValueError("poison") if any(data(record) in values for record in event["Records"]) else None

    return answer


async def fill(stream: StreamHandle, values: Sequence[object], key: str | None = None) -> list[str]:
    return list(await stream.put_many((json.dumps(value), key or f"k{value}") for value in values))


@pytest.fixture(scope="session")
def api_server() -> Iterator[Server]:
    """A server for all recorded cases, in which nothing is active before its time was skipped."""
    settings = {"account_id": ACCOUNT, "state_change_seconds": PENDING_SECONDS, "watchdog_seconds": 0}
    engine = Engine(clock=CLOCK, **settings)
    engine.queue("orders", visibility_timeout_seconds=900)
    with served(engine) as running:
        yield running
