"""The desk: where people and other processes ask a running engine, by way of documents in the store.

Decides what a request, an answer and a snapshot look like, who takes a request, and how long each is kept. What is
asked for is done by the engine; what is in the store anyway needs no engine, and no desk. Both sides stand here: `Desk`
is the engine's, `ask` and `look` are the client's.

A request is taken by deleting it, so one engine answers it; one that nobody takes expires, and is never done after its
caller has gone. A request for a snapshot stays, and every engine answers it for as long as somebody renews it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lambent import errors
from lambent.calls import InvokeResponse
from lambent.context import CURRENT, continuing
from lambent.errors import EngineStopped, LambentError, NotHosted, StoreUnavailable, TooManyRequests
from lambent.polling.supervisor import end
from lambent.ports import Clock, Connection, Document, Documents, World
from lambent.semantics.health import NOBODY, Health, together
from lambent.telemetry import Measured, Telemetry

REQUEST: Final = "request"
ANSWER: Final = "answer"
SNAPSHOT: Final = "snapshot"  # of documents, and of the one request that all engines answer

TAKEN_SECONDS: Final = 10.0  # within which an engine takes a request, or nobody does
ANSWER_SECONDS: Final = 60.0  # for which an answer is kept for a caller who may have gone
GRACE_SECONDS: Final = 10.0  # for which an answer is awaited after the function's time-out
LOOK_SECONDS: Final = 1.0  # between two looks whether an engine is alive, and between two snapshots
SNAPSHOT_SECONDS: Final = 3.0  # after which an engine's snapshot is too old to be shown
RENEW_SECONDS: Final = 5.0  # for which engines make snapshots after they were last asked to
FIRST_SNAPSHOT_SECONDS: Final = 2.0  # within which engines that are alive and not blocked have made one
HEALTH_SECONDS: Final = 5.0  # the same for whoever would call an engine sick that has not

NOT_HOSTED: Final = "No running engine hosts {}: start one that does with `lambent run FILE.py`."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one engine shows of itself. `at` is in epoch seconds, `monotonic` on its own clock, for rates; `metrics` is
    `Telemetry.snapshot()`; `mappings` has what its loops show, by id; `health` is `Health.document()`."""

    engine: str
    at: float
    monotonic: float
    functions: list[str]
    mappings: dict[str, dict[str, Any]]
    metrics: dict[str, Measured]
    health: dict[str, Any] = field(default_factory=dict)


class Desk:
    """The engine's side. `hosted` are its functions, `invoke` is `Engine.invoke_response`, `mappings` tells what the
    loops show, `health` how it is."""

    def __init__(
        self,
        *,
        documents: Documents,
        hosted: Collection[str],
        invoke: Callable[..., Awaitable[InvokeResponse]],
        mappings: Callable[[], Awaitable[dict[str, dict[str, Any]]]],
        health: Callable[[], Health],
        telemetry: Telemetry,
        world: World,
    ) -> None:
        self._documents = documents
        self._hosted = hosted
        self._invoke = invoke
        self._mappings = mappings
        self._health = health
        self._telemetry = telemetry
        self._world = world
        self._answering: set[asyncio.Task[None]] = set()
        self._watched = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Take requests until `stopping` is set; then answer those that were taken."""
        ours = {"watch": self._watch(), "show": self._show(), "stopping": _until(stopping)}
        tasks = {asyncio.create_task(each, name=f"desk: {name}") for name, each in ours.items()}
        try:
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end(tasks)
            while stopping.is_set() and self._answering:
                await asyncio.wait(self._answering)
        except asyncio.CancelledError:
            await end(self._answering)
            raise
        for task in done:
            task.result()  # the store was away: whoever runs us begins again

    async def _watch(self) -> None:
        async for _ in self._documents.watch(REQUEST):
            for document in await self._documents.list(REQUEST):
                if document.name == SNAPSHOT:
                    self._watched.set()
                else:
                    await self._take(document)

    async def _show(self) -> None:
        while await self._watched.wait():
            self._watched.clear()
            while await self._documents.get(REQUEST, SNAPSHOT) is not None:
                shown = Snapshot(
                    engine=self._world.owner,
                    at=self._world.clock.now(),
                    monotonic=self._world.clock.monotonic(),
                    functions=sorted(self._hosted),
                    mappings=await self._mappings(),
                    metrics=self._telemetry.snapshot(),
                    health=self._health().document(),
                )
                body = json.dumps(asdict(shown))
                await self._documents.put(SNAPSHOT, self._world.owner, body, expires_in_seconds=SNAPSHOT_SECONDS)
                await asyncio.sleep(LOOK_SECONDS)

    async def _take(self, document: Document) -> None:
        request = json.loads(document.body)
        if request.get("function") in self._hosted and await self._documents.delete(REQUEST, document.name):
            task = asyncio.create_task(self._answer(document.name, request), name=f"desk: {document.name}")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, name: str, request: Mapping[str, Any]) -> None:
        try:
            await self._put(name, await self._asked(request))
        except asyncio.CancelledError:
            await self._put(name, _refusal(EngineStopped("The engine was stopped while the function ran.")))
            raise
        except Exception as error:  # noqa: BLE001  the caller sees that no answer comes; so shall the log
            self._telemetry.log("warning", "a request was not answered", exc_info=error)

    async def _asked(self, request: Mapping[str, Any]) -> dict[str, object]:
        chain = request.get("chain")
        try:
            with nullcontext() if chain is None else continuing(*chain):
                response = await self._invoke(
                    request["function"],
                    request["payload"].encode(),
                    log_type="Tail" if request["tail"] else "None",
                    client_context=request["client_context"],
                    qualifier=request.get("qualifier"),
                )
        except LambentError as error:
            return _refusal(error)
        return {**asdict(response), "payload": response.payload.decode()}

    async def _put(self, name: str, answer: dict[str, object]) -> None:
        await self._documents.put(ANSWER, name, json.dumps(answer), expires_in_seconds=ANSWER_SECONDS)


async def ask(
    connection: Connection,
    name: str,
    clock: Clock,
    function: str,
    payload: bytes,
    *,
    timeout_seconds: float,
    tail: bool = False,
    client_context: Mapping[str, object] | None = None,
    qualifier: str | None = None,
    asking: int = 0,
) -> InvokeResponse:
    """Have an engine that hosts the function invoke it; `name` is the request's, made anew for each. `timeout_seconds`
    is the function's time limit; `asking` is 1 if who asks is itself an engine, which does not host it.

    Raises what the engine's `invoke_response` raised, StoreUnavailable, NotHosted if no engine is alive or none hosts
    the function, and EngineStopped if the one that took the request did not answer."""
    documents = connection.documents
    nobody = NotHosted(NOT_HOSTED.format(function) if asking else NOBODY)
    if await connection.engines() <= asking:
        raise nobody
    caller = CURRENT.get()
    request = {
        "function": function,
        "payload": payload.decode(),
        "tail": tail,
        "client_context": client_context,
        "qualifier": qualifier,
        "chain": None if caller is None else [caller.hops, caller.trace_id],
    }
    began = clock.monotonic()
    answering = asyncio.create_task(_answered(documents, name), name=f"ask: {name}")
    try:
        await documents.put(REQUEST, name, json.dumps(request), expires_in_seconds=TAKEN_SECONDS + GRACE_SECONDS)
        while not (await asyncio.wait({answering}, timeout=LOOK_SECONDS))[0]:
            waited = clock.monotonic() - began
            alive = await connection.engines() > asking
            if (waited > TAKEN_SECONDS or not alive) and await documents.delete(REQUEST, name):
                raise NotHosted(NOT_HOSTED.format(function)) if alive else nobody
            if not alive or waited > TAKEN_SECONDS + timeout_seconds + GRACE_SECONDS:
                break
        answer = await documents.get(ANSWER, name)
        if answer is None:
            if answering.done():
                answering.result()  # raises StoreUnavailable: it could not be heard
            raise EngineStopped(f"The engine has gone without an answer: whether {function} ran is not known.")
        return _response(json.loads(answer.body))
    finally:
        await end({answering})
        if not answering.cancelled():
            answering.exception()  # asked for, though another call may have met it first
        with suppress(StoreUnavailable):  # they expire by themselves, and the answer may have come
            await documents.delete(REQUEST, name)
            await documents.delete(ANSWER, name)


async def look(connection: Connection) -> list[Snapshot]:
    """What each running engine shows of itself, at most some seconds old; none if none is alive."""
    alive = await connection.engines()
    return await _look(connection.documents, alive, FIRST_SNAPSHOT_SECONDS) if alive else []


async def health(connection: Connection) -> Health:
    """How all running engines are, by snapshots that they make from now on: an older one says nothing of an engine that
    stands still."""
    alive = await connection.engines()
    old = {(each.name, each.revision) for each in await connection.documents.list(SNAPSHOT)}
    told = await _look(connection.documents, alive, HEALTH_SECONDS, old) if alive else []
    return together(alive, [Health.of(each.health) for each in told if each.health])


async def _look(
    documents: Documents, alive: int, within_seconds: float, old: Collection[tuple[str, int]] = ()
) -> list[Snapshot]:
    await documents.put(REQUEST, SNAPSHOT, "{}", expires_in_seconds=RENEW_SECONDS)
    found: list[Document] = []
    with suppress(TimeoutError):  # a loop is blocked, or an engine has just ended
        async with asyncio.timeout(within_seconds):
            async for _ in documents.watch(SNAPSHOT):
                shown = await documents.list(SNAPSHOT)
                found = [each for each in shown if (each.name, each.revision) not in old]
                if len(found) >= alive:
                    break
    return [Snapshot(**json.loads(document.body)) for document in found]


async def _answered(documents: Documents, name: str) -> None:
    async for _ in documents.watch(ANSWER):
        if await documents.get(ANSWER, name) is not None:
            return


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _refusal(error: LambentError) -> dict[str, object]:
    text = error.reason if isinstance(error, TooManyRequests) else error.message
    return {"error": type(error).__name__, "text": text}


def _response(answer: dict[str, Any]) -> InvokeResponse:
    if "error" in answer:
        kind = getattr(errors, answer["error"]) if answer["error"] in errors.__all__ else LambentError
        raise kind(answer["text"])
    return InvokeResponse(**{**answer, "payload": answer["payload"].encode()})
