"""Runs one handler in an in-process runtime, or in none: what tests of handlers and of runtimes have in common."""

from __future__ import annotations

import asyncio
import json
import typing
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from lambent.errors import FunctionError
from lambent.model import Failed, Function, Invocation, Outcome, Succeeded, Unavailable
from lambent.ports import Call, Runtime, World
from lambent.runtimes.in_process import InProcess
from lambent.testing.loop import VirtualClock

RID = "11111111-2222-4333-8444-555555555555"
EVENT: dict[str, object] = {"a": [1, {"b": None}]}


def runtime(**options: Any) -> InProcess:
    clock = VirtualClock(asyncio.get_running_loop())
    return InProcess(world=World("engine", clock, lambda: 0.5, lambda: "ab" * 16), **options)


def nothing(*_: object) -> None: ...


def inline(call: Callable[[], None]) -> None:
    call()


async def ran(runs: InProcess, invocation: Invocation, started: Callable[[], None] = nothing) -> Outcome:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    call = runs.start(invocation, lambda outcome: future.done() or future.set_result(outcome), started, nothing)
    try:
        return await future
    except asyncio.CancelledError:
        call.abandon()
        raise


class Away:
    """A runtime that has no room for anybody: it says so until `until` says True."""

    def __init__(self, real: Runtime | None = None, until: Callable[[], bool] = lambda: False) -> None:
        self._real = real
        self._until = until
        self.tries: list[float] = []

    def start(self, invocation: Invocation, ended: Callable[[Outcome], None], *others: Any) -> Call:
        self.tries.append(asyncio.get_running_loop().time())
        if self._real is not None and self._until():
            return self._real.start(invocation, ended, *others)
        ended(Unavailable("no environment"))
        return self

    def abandon(self) -> None: ...

    async def close(self) -> None: ...


async def outcome(
    handler: Callable[..., object],
    payload: object = b"{}",
    *,
    runs: InProcess | None = None,
    boundary: typing.Literal["json", "reference"] = "json",
    timeout: int = 3,
    **fields: Any,
) -> Outcome:
    runs = runs or runtime()
    runs.register(Function(name="f", boundary=boundary, timeout_seconds=timeout), handler)
    result = await ran(runs, Invocation(RID, "f", payload, **fields))
    await runs.close()
    return result


async def failed(handler: Callable[..., object], payload: object = b"{}", **fields: Any) -> dict[str, Any]:
    result = await outcome(handler, payload, **fields)
    assert isinstance(result, Failed)
    assert result.function_error == "Unhandled"
    return json.loads(json.dumps(result.document))  # a document is always JSON


async def value(handler: Callable[..., object], payload: object = b"{}", **fields: Any) -> Any:
    result = await outcome(handler, payload, **fields)
    assert isinstance(result, Succeeded), result
    return result.payload if result.by_reference else json.loads(result.payload)  # type: ignore[arg-type]


async def pieces_until_failure(stream: AsyncIterator[bytes]) -> tuple[bytes, Any]:
    """What came of a stream before it failed, and its error document."""
    came = []

    async def read() -> None:
        async for piece in stream:
            came.append(piece)

    with pytest.raises(FunctionError) as caught:
        await read()
    await read()  # which adds nothing, nor fails again
    return b"".join(came), caught.value.document
