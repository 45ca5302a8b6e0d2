"""The desk: where people and other processes ask a running engine, by way of documents in the store.

Decides what a request, an answer and a snapshot look like, who takes a request, and how long each is kept. What is
asked for is done by the engine; what is in the store anyway needs no engine, and no desk. Both sides stand here: `Desk`
is the engine's, `ask` and `look` are the client's.

A request is taken by deleting it, so one engine answers it; one that nobody takes expires, and is never done after its
caller has gone. An answer that is streamed is one document for each piece, in their order. A piece that was read is
deleted; while `PIECES_AHEAD` are not, the function is held up, as by any slow reader. A request for a snapshot stays,
and every engine answers it for as long as somebody renews it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

from lambent import errors
from lambent.calls import InvokeResponse, payload_bytes
from lambent.context import CURRENT, continuing
from lambent.errors import EngineStopped, FunctionError, LambentError, NotHosted, StoreUnavailable, TooManyRequests
from lambent.model import MAXIMUM_SYNC_PAYLOAD_BYTES, Function
from lambent.polling.supervisor import end
from lambent.ports import Clock, Connection, Document, Documents, World
from lambent.response_stream import ResponseStream
from lambent.semantics.health import NOBODY, Health, together
from lambent.telemetry import Measured, Telemetry

Given = TypeVar("Given")

REQUEST: Final = "request"
ANSWER: Final = "answer"
PIECE: Final = "piece"  # of a streamed answer: bytes in base64, or an object, which the first and the last one are
LEFT: Final = "left"  # says that nobody reads a streamed answer any more
SNAPSHOT: Final = "snapshot"  # of documents, and of the one request that all engines answer

TAKEN_SECONDS: Final = 10.0  # within which an engine takes a request, or nobody does
ANSWER_SECONDS: Final = 60.0  # for which an answer is kept for a caller who may have gone
GRACE_SECONDS: Final = 10.0  # for which an answer is awaited after the function's time-out
LOOK_SECONDS: Final = 1.0  # between two looks whether an engine is alive, and between two snapshots
SNAPSHOT_SECONDS: Final = 3.0  # after which an engine's snapshot is too old to be shown
RENEW_SECONDS: Final = 5.0  # for which engines make snapshots after they were last asked to
FIRST_SNAPSHOT_SECONDS: Final = 2.0  # within which engines that are alive and not blocked have made one
HEALTH_SECONDS: Final = 5.0  # the same for whoever would call an engine sick that has not

PIECE_BYTES: Final = 262_144
PIECES_AHEAD: Final = 4  # that wait to be read; with more the function is held up

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
    """The engine's side. `hosted` are its functions, `invoke` is `Engine.invoke_response` and `stream`
    `Engine.invoke_with_response_stream`, `follow` learns what the store knows of functions by now, `mappings` tells
    what the loops show, `health` how it is."""

    def __init__(
        self,
        *,
        documents: Documents,
        hosted: Collection[str],
        invoke: Callable[..., Awaitable[InvokeResponse]],
        stream: Callable[..., Awaitable[ResponseStream]],
        follow: Callable[[], Awaitable[None]],
        mappings: Callable[[], Awaitable[dict[str, dict[str, Any]]]],
        health: Callable[[], Health],
        telemetry: Telemetry,
        world: World,
    ) -> None:
        self._documents = documents
        self._hosted = hosted
        self._invoke = invoke
        self._stream = stream
        self._follow = follow
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
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end(tasks)
            while stopping.is_set() and self._answering:
                await asyncio.wait(self._answering)
        except asyncio.CancelledError:
            await end(self._answering)
            raise
        finally:  # also if we were ended just then: what nobody looked at would be told as a bug
            errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
        if errors:  # the store was away: whoever runs us begins again
            raise errors[0]

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
        pieces = _Pieces(self._documents, name, request["keep_seconds"]) if request.get("streamed") else None
        try:
            if pieces is not None:
                await pieces.give(lambda: self._call(self._stream, request))
            else:
                await self._put(name, await self._asked(request))
        except asyncio.CancelledError:
            refusal = _refusal(EngineStopped("The engine was stopped while the function ran."))
            await (self._put(name, refusal) if pieces is None else pieces.put(json.dumps(refusal)))
            raise
        except Exception as error:  # noqa: BLE001  the caller sees that no answer comes; so shall the log
            self._telemetry.log("warning", "a request was not answered", exc_info=error)

    async def _asked(self, request: Mapping[str, Any]) -> dict[str, object]:
        try:
            response = await self._call(self._invoke, request)
        except LambentError as error:
            return _refusal(error)
        return {**asdict(response), "payload": response.payload.decode()}

    async def _call(self, invoke: Callable[..., Awaitable[Given]], request: Mapping[str, Any]) -> Given:
        await self._follow()  # who asks may have published a moment ago what is asked for
        chain = request.get("chain")
        with nullcontext() if chain is None else continuing(*chain):
            return await invoke(
                request["function"],
                request["payload"].encode(),
                log_type="Tail" if request["tail"] else "None",
                client_context=request["client_context"],
                qualifier=request.get("qualifier"),
            )

    async def _put(self, name: str, answer: dict[str, object]) -> None:
        await self._documents.put(ANSWER, name, json.dumps(answer), expires_in_seconds=ANSWER_SECONDS)


class _Pieces:
    """A streamed answer on its way into the store. Each piece is kept for so long, which is more than the function has:
    after that nobody reads it, for what a reader takes is his time limit, too."""

    def __init__(self, documents: Documents, name: str, keep_seconds: float) -> None:
        self._documents = documents
        self._name = name
        self._keep_seconds = keep_seconds
        self._number = 0

    async def give(self, begin: Callable[[], Awaitable[ResponseStream]]) -> None:
        """All of it, until nobody reads it any more."""
        giving = asyncio.create_task(self._give(begin), name=f"desk: {self._name}: pieces")
        leaving = asyncio.create_task(_found(self._documents, LEFT, self._name), name=f"desk: {self._name}: left")
        try:
            await asyncio.wait({giving, leaving}, timeout=self._keep_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end({giving, leaving})
        if not giving.cancelled():
            giving.result()

    async def _give(self, begin: Callable[[], Awaitable[ResponseStream]]) -> None:
        try:
            stream = await begin()
        except LambentError as error:
            return await self.put(json.dumps(_refusal(error)))
        async with stream:
            begun = {"request_id": stream.request_id, "executed_version": stream.executed_version}
            await self.put(json.dumps(begun))
            try:
                async for chunk in stream:
                    piece = chunk + stream.at_hand(PIECE_BYTES - len(chunk))
                    for at in range(0, len(piece), PIECE_BYTES):
                        await self.put(base64.b64encode(piece[at : at + PIECE_BYTES]).decode())
                        await self._room()
            except FunctionError as error:
                over: dict[str, object] = {"document": error.document}
            except LambentError as error:
                over = _refusal(error)
            else:
                over = {}
            await self.put(json.dumps({**over, "log_tail": stream.log_tail}))

    async def put(self, piece: str) -> None:
        """The next one."""
        name = _piece(self._name, self._number)
        self._number += 1
        await self._documents.put(PIECE, name, piece, expires_in_seconds=self._keep_seconds)

    async def _room(self) -> None:
        late = _piece(self._name, self._number - PIECES_AHEAD)
        if self._number > PIECES_AHEAD and await self._documents.get(PIECE, late) is not None:
            async for _ in self._documents.watch(PIECE):
                if await self._documents.get(PIECE, late) is None:
                    return


class RelayedStream:
    """A streamed answer of an engine, read by a client of its store: as `ResponseStream`. What is not read holds the
    function up, and is lost a minute after its time limit."""

    def __init__(self, hear: Callable[[str, str], Awaitable[Document]], documents: Documents, name: str) -> None:
        self._hear = hear
        self._documents = documents
        self._name = name
        self._number = 0
        self._over = False
        self.request_id = self.executed_version = self.log_tail = ""

    async def begin(self) -> RelayedStream:
        """Raises what `Engine.invoke_with_response_stream` does."""
        begun = _answer(json.loads(await self._next()))
        self.request_id, self.executed_version = begun["request_id"], begun["executed_version"]
        return self

    def __aiter__(self) -> RelayedStream:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        piece = await self._next()
        if not piece.startswith("{"):
            return base64.b64decode(piece)
        self._over = True
        over = json.loads(piece)
        self.log_tail = over.get("log_tail", "")
        if "document" in over:
            raise FunctionError(over["document"], self.request_id)
        _answer(over)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Leave: what still runs is given up, as if its caller were cancelled."""
        if not self._over:
            self._over = True
            with suppress(StoreUnavailable):  # it runs to its end, then
                await self._documents.put(LEFT, self._name, "{}", expires_in_seconds=ANSWER_SECONDS)

    async def __aenter__(self) -> RelayedStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _next(self) -> str:
        name = _piece(self._name, self._number)
        found = await self._documents.get(PIECE, name) or await self._hear(PIECE, name)
        self._number += 1
        await self._documents.delete(PIECE, name)
        return found.body


@dataclass(frozen=True, slots=True)
class Request:
    """A call that an engine is asked for. `timeout_seconds`: for which it may run; `asking` is 1 if who asks is itself
    an engine, which does not host the function."""

    function: str
    payload: bytes
    timeout_seconds: float
    tail: bool = False
    client_context: Mapping[str, object] | None = None
    qualifier: str | None = None
    asking: int = 0

    @classmethod
    def of(cls, function: Function, payload: object, **options: Any) -> Request:
        """Whichever version runs: an alias may lead to any. Raises what no payload is refused with."""
        limits = [function.timeout_seconds, *(each.timeout_seconds or 0 for each in function.versions.values())]
        return cls(function.name, payload_bytes(payload, MAXIMUM_SYNC_PAYLOAD_BYTES), max(limits), **options)

    def told(self) -> dict[str, object]:
        caller = CURRENT.get()
        return {
            "function": self.function,
            "payload": self.payload.decode(),
            "tail": self.tail,
            "client_context": self.client_context,
            "qualifier": self.qualifier,
            "chain": None if caller is None else [caller.hops, caller.trace_id],
        }


async def ask_for_stream(connection: Connection, name: str, clock: Clock, request: Request) -> RelayedStream:
    """As `ask`, but gives the answer while the function still makes it."""

    async def hear(kind: str, piece: str) -> Document:
        return await _hear(connection, name, clock, request, kind, piece)

    keep_seconds = request.timeout_seconds + ANSWER_SECONDS
    await _put_request(connection, name, request, {"streamed": True, "keep_seconds": keep_seconds})
    stream = RelayedStream(hear, connection.documents, name)
    try:
        return await stream.begin()
    except BaseException:  # a caller that was cancelled leaves, too
        await stream.aclose()
        raise
    finally:
        with suppress(StoreUnavailable):  # it expires by itself
            await connection.documents.delete(REQUEST, name)


async def ask(connection: Connection, name: str, clock: Clock, request: Request) -> InvokeResponse:
    """Have an engine that hosts the function invoke it; `name` is the request's, made anew for each.

    Raises what the engine's `invoke_response` raised, StoreUnavailable, NotHosted if no engine is alive or none hosts
    the function, and EngineStopped if the one that took the request did not answer."""
    documents = connection.documents
    await _put_request(connection, name, request)
    try:
        answer = await _hear(connection, name, clock, request, ANSWER, name)
        return InvokeResponse(**{**(given := _answer(json.loads(answer.body))), "payload": given["payload"].encode()})
    finally:
        with suppress(StoreUnavailable):  # they expire by themselves, and the answer may have come
            await documents.delete(REQUEST, name)
            await documents.delete(ANSWER, name)


async def _put_request(
    connection: Connection, name: str, request: Request, more: Mapping[str, object] | None = None
) -> None:
    """Raises NotHosted: no engine is alive."""
    if await connection.engines() <= request.asking:
        raise _nobody(request)
    body = json.dumps({**request.told(), **(more or {})})
    await connection.documents.put(REQUEST, name, body, expires_in_seconds=TAKEN_SECONDS + GRACE_SECONDS)


async def _hear(connection: Connection, asked: str, clock: Clock, request: Request, kind: str, name: str) -> Document:
    """Wait for this document, for as long as the request (of the name `asked`) may be taken, and then done."""
    documents = connection.documents
    began = clock.monotonic()
    coming = asyncio.create_task(_found(documents, kind, name), name=f"ask: {name}")
    try:
        while not (await asyncio.wait({coming}, timeout=LOOK_SECONDS))[0]:
            waited = clock.monotonic() - began
            alive = await connection.engines() > request.asking
            if (waited > TAKEN_SECONDS or not alive) and await documents.delete(REQUEST, asked):
                raise NotHosted(NOT_HOSTED.format(request.function)) if alive else _nobody(request)
            if not alive or waited > TAKEN_SECONDS + request.timeout_seconds + GRACE_SECONDS:
                break
        answer = await documents.get(kind, name)
        if answer is None:
            if coming.done():
                coming.result()  # raises StoreUnavailable: it could not be heard
            raise EngineStopped(f"The engine has gone without an answer: whether {request.function} ran is not known.")
        return answer
    finally:
        await end({coming})
        if not coming.cancelled():
            coming.exception()  # asked for, though another call may have met it first


def _nobody(request: Request) -> NotHosted:
    return NotHosted(NOT_HOSTED.format(request.function) if request.asking else NOBODY)


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


async def _found(documents: Documents, kind: str, name: str) -> None:
    async for _ in documents.watch(kind):
        if await documents.get(kind, name) is not None:
            return


def _piece(name: str, number: int) -> str:
    return f"{name}/{number}"


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _refusal(error: LambentError) -> dict[str, object]:
    text = error.reason if isinstance(error, TooManyRequests) else error.message
    return {"error": type(error).__name__, "text": text}


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    """It, unless it is a refusal, which is raised."""
    if "error" in answer:
        kind = getattr(errors, answer["error"]) if answer["error"] in errors.__all__ else LambentError
        raise kind(answer["text"])
    return answer
