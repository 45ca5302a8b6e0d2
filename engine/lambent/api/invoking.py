"""Invoke: a call of a function over the API, in all its types.

Decides what its headers mean and how its answer looks (Lambda API reference: Invoke, InvokeAsync). Everything else
about a call is the engine's. What is the same for each call of a function is looked at once: this is the path that is
measured.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Final, TypeVar

from lambent.api import event_stream
from lambent.api.constraints import problems
from lambent.api.names import Reference, reference
from lambent.api.operations import Operations
from lambent.api.refusals import Refusal, constrained, not_found, not_here, too_large
from lambent.api.shapes import Operation, Wire
from lambent.context import continuing
from lambent.desk import RelayedStream
from lambent.engine import Engine
from lambent.errors import FunctionError, LambentError, ResourceNotFound
from lambent.model import MAXIMUM_ASYNC_PAYLOAD_BYTES, Function
from lambent.payload import encode_result
from lambent.response_stream import ResponseStream
from lambent.semantics import recursion
from lambent.semantics.routing import known

T = TypeVar("T")

MAXIMUM_CONTEXT_BYTES: Final = 3583  # Lambda API reference: Invoke, X-Amz-Client-Context
MAXIMUM_CHUNK_BYTES: Final = 4 * 1024 * 1024  # of one event of a stream; clients take 16 MB
MAXIMUM_KNOWN: Final = 20_000  # names that are remembered
_JSON: Final = (b"content-type", b"application/json")

Reply = tuple[int, list[tuple[bytes, bytes]], bytes | AsyncIterator[bytes]]


class Invoking:
    """The operations that call a function."""

    operations: Final = frozenset({"Invoke", "InvokeAsync", "InvokeWithResponseStream"})

    def __init__(self, engine: Engine, wire: Wire, operations: Operations) -> None:
        self._engine = engine
        self._operations = operations
        self._wire = wire
        self._known: dict[tuple[Any, ...], Reference] = {}

    async def do(
        self,
        operation: Operation,
        labels: tuple[str, ...],
        query: Mapping[str, list[str]],
        headers: Mapping[bytes, bytes],
        body: bytes,
    ) -> tuple[str, Reply]:
        """The request id and the reply. Raises `LambentError`."""
        if operation.name == "InvokeAsync":
            meant = self._meant("Invoke", labels[0], None, "Event", "None")
            _check_size(body)
            request_id = await self._engine.invoke_async(meant.name, body, qualifier=meant.qualifier)
            return request_id, (202, [_JSON], b"{}")
        kind = headers.get(b"x-amz-invocation-type", b"RequestResponse").decode("latin-1")
        log_type = headers.get(b"x-amz-log-type", b"None").decode("latin-1")
        qualifiers = query.get("Qualifier")
        meant = self._meant(operation.name, labels[0], qualifiers[-1] if qualifiers else None, kind, log_type)
        sent = headers.get(b"x-amz-client-context")
        context = None if sent is None else _context(sent)
        if b"x-amz-durable-execution-name" in headers or b"x-amz-tenant-id" in headers:
            raise not_here("Invoke with an execution's name or a tenant", "durable executions and tenants")
        name, qualifier = meant.name, meant.qualifier
        self._operations.check_invocable(meant)
        try:
            if kind == "Event":  # whose function gets no client context, as the API reference says
                _check_size(body)
                request_id = await self._engine.invoke_async(name, body, qualifier=qualifier)
                return request_id, (202, [], b"")
            if operation.name == "InvokeWithResponseStream" and kind != "DryRun":
                stream = await self._engine.invoke_with_response_stream(
                    name, body, log_type=log_type, client_context=context, qualifier=qualifier
                )
                return stream.request_id, _streamed(stream, log_type)
            response = await self._engine.invoke_response(
                name, body, log_type=log_type, dry_run=kind == "DryRun", client_context=context, qualifier=qualifier
            )
        except ResourceNotFound:  # another engine of the store may have its code
            function = await self._elsewhere(meant)
            if kind == "DryRun":
                return self._engine.new_id(), (204, [], b"")
            tail = log_type == "Tail"
            if operation.name == "InvokeWithResponseStream":
                relayed = await self._engine.stream_elsewhere(
                    function, body, tail=tail, client_context=context, qualifier=qualifier
                )
                return relayed.request_id, _streamed(relayed, log_type)
            response = await self._engine.invoke_elsewhere(
                function, body, tail=tail, client_context=context, qualifier=qualifier
            )
        if response.status_code == 204:
            return response.request_id, (204, [], b"")
        more = [_JSON, (b"x-amz-executed-version", (response.executed_version or "").encode())]
        if response.function_error is not None:
            more.append((b"x-amz-function-error", response.function_error.encode()))
        if log_type == "Tail":
            more.append((b"x-amz-log-result", base64.b64encode(response.log_tail.encode())))
        return response.request_id, (200, more, response.payload)

    async def _elsewhere(self, meant: Reference) -> Function:
        """A function that the store knows. Raises `Refusal`."""
        try:
            function = await self._engine.get_function(meant.name)
            if known(function, meant.qualifier):
                return function
        except ResourceNotFound:
            pass
        raise not_found(f"Function not found: {meant.qualified_arn}")

    def _meant(self, operation: str, label: str, qualifier: str | None, kind: str, log_type: str) -> Reference:
        key = (operation, label, qualifier, kind, log_type)
        reached = self._known.get(key)
        if reached is None:
            given = {"FunctionName": label, "InvocationType": kind, "LogType": log_type}
            if qualifier is not None:
                given["Qualifier"] = qualifier
            if wrong := problems(self._wire.operations[operation].input, given):
                raise constrained(wrong)
            reached = reference(label, qualifier, self._engine.settings, operation)
            if len(self._known) >= MAXIMUM_KNOWN:
                self._known.clear()
            self._known[key] = reached
        return reached


async def continued(trace: bytes, call: Awaitable[T]) -> T:
    """A call with a trace header, as AWS's SDKs send it from within a function: it goes on with that one's chain."""
    trace_id, hops = recursion.heard(trace.decode("latin-1"))
    with continuing(hops, trace_id):
        return await call


def _streamed(stream: ResponseStream | RelayedStream, log_type: str) -> Reply:
    version = (b"x-amz-executed-version", stream.executed_version.encode())
    return 200, [(b"content-type", event_stream.CONTENT_TYPE), version], _events(stream, log_type)


async def _events(stream: ResponseStream | RelayedStream, log_type: str) -> AsyncIterator[bytes]:
    """The answer as it comes, and how it ended. Read to the end even if nobody takes it any more: as on AWS, a function
    whose caller hung up runs on."""
    ended: dict[str, str] = {}
    try:
        async for chunk in stream:
            for start in range(0, len(chunk), MAXIMUM_CHUNK_BYTES):
                piece = chunk[start : start + MAXIMUM_CHUNK_BYTES]
                yield event_stream.event("PayloadChunk", piece, "application/octet-stream")
    except FunctionError as error:
        ended["ErrorCode"] = error.aws_name
        ended["ErrorDetails"] = encode_result(error.document).decode()
    except LambentError as error:
        yield event_stream.error(error.aws_name, error.message or "")
        return
    if log_type == "Tail":
        ended["LogResult"] = base64.b64encode(stream.log_tail.encode()).decode()
    yield event_stream.event("InvokeComplete", json.dumps(ended).encode(), "application/json")


def _check_size(body: bytes) -> None:
    """Raises `Refusal` for an event that is too large. A request above 6 MB is not read at all."""
    if len(body) > MAXIMUM_ASYNC_PAYLOAD_BYTES:
        raise too_large(
            f"{len(body)} byte payload is too large for the Event invocation type (limit {MAXIMUM_ASYNC_PAYLOAD_BYTES} "
            "bytes)"
        )


def _context(sent: bytes) -> dict[str, object]:
    """A client context. Raises `Refusal`."""
    try:
        if len(sent) > MAXIMUM_CONTEXT_BYTES:
            raise ValueError
        context = json.loads(base64.b64decode(sent, validate=True))
        if not isinstance(context, dict):
            raise ValueError
    except (binascii.Error, ValueError, RecursionError):
        words = "Client context must be a valid Base64-encoded JSON object."
        raise Refusal("InvalidRequestContentException", 400, words) from None
    return context
