"""An API to ask without a network: requests go to the application as a server would give them to it."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from lambent import Engine
from lambent.api.application import Application
from lambent.api.operations import Operations
from lambent.api.shapes import Operation, Wire, load_wire
from lambent.api.trail import Trail

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
ROLE = "arn:aws:iam::111111111111:role/role"


def zipped(text: str = "def handler(event, context):\n    return event\n", name: str = "handler.py") -> bytes:
    """A zip file with one module."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), text)
    return held.getvalue()


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    operation: str = ""

    @property
    def error(self) -> str | None:
        return self.headers.get("x-amzn-errortype")

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        found = self.document
        return str(found.get("message") or found.get("Message"))


class Api:
    """The application, asked directly."""

    def __init__(self, application: Application, wire: Wire) -> None:
        self._application = application
        self.wire = wire

    async def request(
        self,
        method: str,
        path: str,
        query: str = "",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        heard: Callable[[bytes], None] = lambda piece: None,
    ) -> Reply:
        """`heard` is told each piece of the answer when it comes."""
        told = {"host": "127.0.0.1:9001", **(headers or {})}
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in told.items()],
            "client": ("127.0.0.1", 1),
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)
            heard(message.get("body", b""))

        await self._application(scope, receive, send)
        start, *pieces = sent
        answered = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Reply(start["status"], answered, b"".join(each["body"] for each in pieces))

    async def ask(self, operation: str, /, **params: Any) -> Reply:
        """One operation, with these members; JSON values as they are on the wire."""
        return await self.request(*carried(self.wire.operations[operation], params))


def carried(operation: Operation, params: Mapping[str, Any]) -> tuple[str, str, str, bytes, dict[str, str]]:
    """Method, path, query, body and headers that carry these members."""
    labels = iter(operation.labels)
    path = "/" + "/".join(part or quote(str(params.get(next(labels), "")), safe="") for part in operation.path)
    query: list[tuple[str, str]] = list(operation.constants.items())
    headers: dict[str, str] = {}
    document: dict[str, Any] = {}
    body = b""
    for name, value in params.items():
        member = operation.input.members[name]
        if name == operation.payload:
            body = value
        elif member.location == "querystring":
            query += [(member.wire, _text(each)) for each in (value if isinstance(value, list) else [value])]
        elif member.location == "header":
            headers[member.wire] = _text(value)
        elif not member.location:
            document[member.wire] = value
    if operation.has_body:
        body = json.dumps(document).encode()
    return operation.method, path, urlencode(query), body, headers


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def api_of(engine: Engine) -> Api:
    """The API of this engine, which is started."""
    wire = load_wire()
    operations = Operations(engine, wire)
    return Api(Application(engine, wire, operations, Trail(engine)), wire)
