"""Runs one handler in an in-process runtime: what the tests of handlers and of the runtime have in common."""

from __future__ import annotations

import asyncio
import json
import typing
from collections.abc import Callable
from typing import Any

from lambent.model import Failed, Function, Invocation, Outcome, Succeeded
from lambent.ports import World
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
    result = await runs.run(Invocation(RID, "f", payload, **fields), nothing, nothing)
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
