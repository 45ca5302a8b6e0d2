"""The API as an ASGI application: a request read, done, and answered in AWS's form.

Decides who may ask (host, no web page), how much is read, and how an error looks: its header, its body
and the case of its members, which are not the same for all. What is listened on is `serving.py`'s.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any, Final

from lambent.api.invoking import Invoking, Reply, continued
from lambent.api.operations import Operations
from lambent.api.records import CODE_PATH
from lambent.api.refusals import Refusal, forbidden, too_large, unreadable
from lambent.api.shapes import Operation, Wire, parse_query
from lambent.api.trail import Trail
from lambent.engine import Engine
from lambent.errors import LambentError, RequestTooLarge, TooManyRequests
from lambent.model import MAXIMUM_SYNC_PAYLOAD_BYTES

MAXIMUM_BODY_BYTES: Final = 1024 * 1024  # of a request without code
MAXIMUM_CODE_REQUEST_BYTES: Final = 70_167_211  # recorded: of CreateFunction, whose zip file is base64
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

_WITH_CODE: Final = frozenset({"CreateFunction", "UpdateFunctionCode", "PublishLayerVersion"})
_JSON: Final = (b"content-type", b"application/json")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Application:
    """`hosts`: the names that a request may call this server, without port; a page of the web that calls it by another
    one, or from another origin, is refused."""

    def __init__(
        self, engine: Engine, wire: Wire, operations: Operations, trail: Trail, hosts: Collection[str] = LOOPBACK_HOSTS
    ) -> None:
        self._engine = engine
        self._wire = wire
        self._operations = operations
        self._invoking = Invoking(engine, wire, operations)
        self._trail = trail
        self._hosts = frozenset(hosts)
        self._known_hosts: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        request_id = ""
        try:
            headers = self._headers(scope["headers"])
            query = parse_query(scope["query_string"])
            if scope["path"].startswith(CODE_PATH):
                archive = await self._operations.zip_file(scope["path"].removeprefix(CODE_PATH))
                await _send(send, 200, [(b"content-type", b"application/zip")], archive)
                return
            operation, labels = self._wire.route(scope["method"], scope["raw_path"], query)
            body = await _body(receive, headers, _limit(operation), operation)
            if operation.name in self._invoking.operations:
                call = self._invoking.do(operation, labels, query, headers, body)
                trace = headers.get(b"x-amzn-trace-id")
                request_id, reply = await (call if trace is None else continued(trace, call))
            else:
                request_id = self._engine.new_id()
                reply = await self._do(operation, labels, query, headers, body, request_id, scope)
        except LambentError as error:
            reply = self._refused(error)
        except Exception as error:  # noqa: BLE001  a bug is answered, and told
            text = "".join(traceback.format_exception(error))
            self._engine.telemetry.log("error", "a bug in the API", path=str(scope.get("path")), error=text)
            reply = self._refused(Refusal("ServiceException", 500, "Something went wrong here; the log has it."))
        status, more, content = reply
        more.append((b"x-amzn-requestid", (request_id or self._engine.new_id()).encode()))
        await _send(send, status, more, content)

    async def _do(
        self,
        operation: Operation,
        labels: tuple[str, ...],
        query: Mapping[str, list[str]],
        headers: Mapping[bytes, bytes],
        body: bytes,
        request_id: str,
        scope: Scope,
    ) -> Reply:
        params: Mapping[str, Any] = {}
        result = "done"
        try:
            params = operation.values(labels, query, headers, body)
            answer = await self._operations.do(operation, params)
        except LambentError as error:
            result = error.aws_name
            raise
        finally:
            if operation.method != "GET":
                await self._trail.add(operation.name, params, request_id, _caller(headers, scope), result)
        status, more, content = operation.answer(answer)
        return status, [*more, _JSON], content

    def _headers(self, pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        """The headers by name. Raises `Refusal` for a host that is not ours, or a page of the web."""
        headers = dict(pairs)
        host = headers.get(b"host", b"")
        if host not in self._known_hosts:
            name = host.decode("latin-1")
            name = name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
            if name.lower() not in self._hosts:
                raise forbidden("This host is not served: name it when the server is started.")
            if len(self._known_hosts) < 100:
                self._known_hosts.add(host)
        if b"origin" in headers or headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise forbidden("Pages of the web are not served.")
        if len(headers) != len(pairs) and sum(name == b"host" for name, _ in pairs) > 1:
            raise unreadable("The request names more than one host.")
        return headers

    def _refused(self, error: LambentError) -> Reply:
        """How an error looks: AWS's model says how its message is called."""
        name, status = error.aws_name, error.status
        _, called = self._wire.errors.get(name, (status, "Message" if name == "AccessDeniedException" else "message"))
        document: dict[str, object] = {}
        headers = [(b"x-amzn-errortype", name.encode()), _JSON]
        if isinstance(error, TooManyRequests):
            document["Reason"] = error.reason
        if getattr(error, "typed", True) and not isinstance(error, RequestTooLarge):
            document["Type"] = "User" if status < 500 else "Service"
        document[called] = error.message or None
        return status, headers, json.dumps(document).encode()


async def _send(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes | AsyncIterator[bytes]
) -> None:
    if isinstance(content, bytes):
        if status != 204:
            headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    async for piece in content:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, operation: Operation) -> bytes:
    """All of the body. Raises `Refusal` above the limit."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        raise _larger(limit, operation)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and len(body) <= limit:
        return body
    parts, size = [body], len(body)
    while size <= limit and message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise _larger(limit, operation)
    return b"".join(parts)


def _larger(limit: int, operation: Operation) -> Refusal:
    name = "InvokeFunction" if operation.name.startswith("Invoke") else operation.name
    return too_large(f"Request must be smaller than {limit} bytes for the {name} operation")


def _limit(operation: Operation) -> int:
    if operation.name in _WITH_CODE:
        return MAXIMUM_CODE_REQUEST_BYTES
    return MAXIMUM_SYNC_PAYLOAD_BYTES if operation.name.startswith("Invoke") else MAXIMUM_BODY_BYTES


def _caller(headers: Mapping[bytes, bytes], scope: Scope) -> str:
    """Who the caller says it is (nobody checks it), and where it is."""
    _, _, rest = headers.get(b"authorization", b"").decode("latin-1").partition("Credential=")
    key = rest.partition("/")[0][:128]
    address = (scope.get("client") or ("",))[0]
    return f"{key or 'anonymous'} at {address}"
