"""What a server must put up with: broken HTTP, slow clients, foreign pages, strange paths and documents."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import select
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from lambent import Engine
from lambent.api.serving import Limits, check_loopback
from lambent.errors import InvalidParameterValue
from tests.api.asking import ROLE, api_of, zipped
from tests.api.fuzzing import make_engine
from tests.api.server import ACCOUNT, Server, served

INVOKE = "/2015-03-31/functions/declared/invocations"
LIST = "/2015-03-31/functions"
LIMITS = Limits(connections=20, head_seconds=0.3, body_seconds=0.3, taking_seconds=0.3)


class Slow:
    """A handler that ends when it is told to."""

    began, may_end = threading.Event(), threading.Event()
    ended = 0

    def handle(self, event: Any) -> int:
        self.began.set()
        self.may_end.wait(20)
        self.ended += 1
        return self.ended


SLOW = Slow()
STREAMED_ALL = threading.Event()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    engine = make_engine()
    engine.function(name="slow", reserved_concurrency=1, timeout_seconds=30)(SLOW.handle)

    @engine.function
    async def large(event: Any) -> str:
        return "a" * 6_000_000

    @engine.function(timeout_seconds=30)
    async def streams(event: Any) -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1024 * 1024)
        STREAMED_ALL.set()

    with served(engine, LIMITS) as running:
        yield running


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        yield connection


def answers(server: Server, request: bytes) -> list[tuple[int, bytes]]:
    """All answers to these bytes until the server closes, status and body; nothing more is sent."""
    with connected(server) as connection:
        with suppress(OSError):  # it may have heard enough
            connection.sendall(request)
        return parse(received(connection))


def received(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def parse(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        found.append((int(head.split(b" ")[1]), rest[:size]))
        data = rest[size:]
    return found


def request(path: str = LIST, method: str = "GET", body: bytes = b"", *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", "Connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def test_an_ordinary_request_is_answered(server: Server) -> None:
    ((status, body),) = answers(server, request())
    assert (status, list(json.loads(body))) == (200, ["Functions"])


# --------------------------------------------------------------------------- F39: documents

DOCUMENTS = {
    "nothing closed": b"{",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"a": NaN}',
    "Infinity": b"[-Infinity]",
    "1e999": b"[1e999]",
    "an integer of 5,000 digits": b"[" + b"9" * 5000 + b"]",
    "a lone surrogate": b'["\\ud800"]',
    "no UTF-8": b'["\xff"]',
    "a depth of 100,000": b"[" * 100_000 + b"]" * 100_000,
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_payload_that_no_json_reader_would_take_is_refused(server: Server, name: str) -> None:
    ((status, body),) = answers(server, request(INVOKE, "POST", DOCUMENTS[name]))
    assert status == 400
    assert json.loads(body)["message"].startswith("Could not parse request body into json: ")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_body_that_no_json_reader_would_take_is_refused(server: Server, name: str) -> None:
    body = b'{"FunctionName": "f", "Environment": {"Variables": ' + DOCUMENTS[name] + b"}}"
    ((status, answer),) = answers(server, request(LIST, "POST", body))
    assert (status, list(json.loads(answer))) == (400, ["message"])


# --------------------------------------------------------------------------- F40: sizes


def test_a_body_without_a_length_is_read_to_the_limit_and_no_further(server: Server) -> None:
    head = f"POST {INVOKE} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    piece = b"10000\r\n" + b"1" * 65_536 + b"\r\n"
    with connected(server) as connection:
        connection.sendall(head)
        try:
            for _ in range(200):  # 12.5 MB
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it read no further
        connection.settimeout(5)
        ((status, body), *_) = parse(received(connection))
    assert status == 413
    assert "smaller than 6291456 bytes" in json.loads(body)["message"]


def test_a_length_that_is_too_large_is_refused_before_the_body_comes(server: Server) -> None:
    head = f"POST {LIST} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70167212\r\n\r\n".encode()
    with connected(server) as connection:
        connection.sendall(head)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_what_is_compressed_is_not_unpacked(server: Server) -> None:
    bomb = base64.b64decode("H4sIAAAAAAAC/2NgGAWjYBSMWAAAYBRm1wAAAQA=")
    ((status, _),) = answers(server, request(INVOKE, "POST", bomb, "Content-Encoding: gzip"))
    assert status == 400


# --------------------------------------------------------------------------- F41: heads

SECOND = request(INVOKE, "POST", b"{}")
HEADS = {
    "a huge header": request(LIST, "GET", b"", f"X-Huge: {'a' * 200_000}"),
    "many headers": request(LIST, "GET", b"", *(f"X-{number}: 1" for number in range(10_000))),
    "two hosts": request(LIST, "GET", b"", "Host: localhost"),
    "two lengths": request(LIST, "POST", b"{}", "Content-Length: 0"),
    "a length and chunks": request(LIST, "POST", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "a length that is no number": f"POST {LIST} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1x\r\n\r\n".encode(),
    "a blank before the colon": f"GET {LIST} HTTP/1.1\r\nHost : localhost\r\n\r\n".encode(),
    "a NUL in a value": request(LIST, "GET", b"", "X-A: a\0b"),
    "a method that is none": f"GE\x01T {LIST} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    "another protocol": f"GET {LIST} HTTX/1.1\r\nHost: localhost\r\n\r\n".encode(),
    "no host": f"GET {LIST} HTTP/1.1\r\nConnection: close\r\n\r\n".encode(),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_breaks_http_is_refused_and_nothing_after_it_is_served(server: Server, name: str) -> None:
    found = answers(server, HEADS[name] + (SECOND if name not in ("two hosts", "no host") else b""))
    assert [status for status, _ in found] in ([400], [403], [])


def test_a_foreign_host_is_refused(server: Server) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example:80", "", "[::2]"):
        head = f"GET {LIST} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        ((status, _),) = answers(server, head)
        assert status == 403


@pytest.mark.parametrize("header", ["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"])
def test_a_page_of_the_web_is_refused_and_told_nothing(server: Server, header: str) -> None:
    for method in ("POST", "OPTIONS"):
        with connected(server) as connection:
            connection.sendall(request(INVOKE, method, b"{}", header))
            answer = received(connection)
        assert answer.startswith(b"HTTP/1.1 40")
        assert b"access-control" not in answer.lower()


def test_only_this_machine_may_ask() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(InvalidParameterValue, match="asks nobody who they are"):
            check_loopback(host)
    for host in ("127.0.0.1", "localhost", "::1"):
        check_loopback(host)


# --------------------------------------------------------------------------- F42: slow clients


def test_a_head_that_does_not_come_costs_a_connection_for_a_while_only(server: Server) -> None:
    with connected(server) as silent, connected(server) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        assert (received(silent), received(slow)) == (b"", b"")


def test_a_body_that_does_not_come_costs_a_connection_for_a_while_only(server: Server) -> None:
    with connected(server) as slow:
        slow.sendall(f"POST {INVOKE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n[1".encode())
        assert received(slow) == b""


def test_an_answer_that_is_not_taken_costs_a_connection_for_a_while_only(server: Server) -> None:
    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request("/2015-03-31/functions/large/invocations", "POST", b"{}"))
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
        with_it = without = open_files()
        while without == with_it:  # the server's end is in this process
            select.select([], [], [], 0.02)
            without = open_files()
        assert without == with_it - 1  # though nobody took the rest


def test_a_stream_that_nobody_takes_is_cut_and_its_function_runs_to_its_end(server: Server) -> None:
    with connected(server) as connection:
        path = "/2021-11-15/functions/streams/response-streaming-invocations"
        connection.sendall(request(path, "POST", b"{}"))
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
        assert STREAMED_ALL.wait(20)
        assert len(received(connection)) < 32 * 1024 * 1024, "what sockets held when it was cut"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_connections_above_the_limit_are_closed_and_others_are_served_afterwards(server: Server) -> None:
    idle = []
    host, _, port = server.url.removeprefix("http://").partition(":")
    for _ in range(LIMITS.connections + 10):
        idle.append(socket.create_connection((host, int(port)), timeout=5))
    for each in idle:
        assert received(each) == b""
        each.close()
    ((status, _),) = answers(server, request())
    assert status == 200


# --------------------------------------------------------------------------- F43: clients that go


def test_a_client_that_goes_leaves_no_permit_behind(server: Server) -> None:
    path = "/2015-03-31/functions/slow/invocations"
    with connected(server) as connection:
        connection.sendall(request(path, "POST", b"{}"))
        assert SLOW.began.wait(10)
    ((status, body),) = answers(server, request(path, "POST", b"{}"))
    assert (status, json.loads(body)["Reason"]) == (429, "ReservedFunctionConcurrentInvocationLimitExceeded")
    SLOW.may_end.set()
    while (found := answers(server, request(path, "POST", b"{}")))[0][0] == 429:
        pass
    assert found == [(200, b"2")]


# --------------------------------------------------------------------------- F44: paths

PATHS = [
    "/", "//", "/2015-03-31", "/2015-03-31/functions/%2e%2e/invocations", "/2015-03-31/functions//invocations",
    "/2015-03-31/functions/a%00b/invocations", "/2015-03-31/functions/%c0%ae/invocations",
    "/2015-03-31/FUNCTIONS/declared/invocations", f"/2015-03-31/functions/{'a' * 10_000}/invocations",
    "/2015-03-31/functions/declared/invocations/", "/2015-03-31/functions/declared/../declared/invocations",
    "/2015-03-31/functions/%ff", "/2015-03-31/functions/%zz/invocations", "*", "http://127.0.0.1:80/x",
    f"{LIST}?Marker=%ff", f"{LIST}?MaxItems=1x", f"{LIST}?" + "&".join(["a=b"] * 1000),
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_strange_path_is_not_found_or_refused(server: Server, path: str) -> None:
    for method in ("GET", "POST", "BREW"):
        for status, _ in answers(server, request(path, method, b"{}")):
            assert 400 <= status < 500 or path.endswith("invocations/")


# --------------------------------------------------------------------------- F46: all at once


async def test_a_function_that_is_made_changed_and_deleted_by_many_at_once_is_whole_or_gone() -> None:
    engine: Engine = make_engine(state_change_seconds=0.0)
    async with engine:
        api = api_of(engine)
        code = {"ZipFile": base64.b64encode(zipped()).decode()}
        given = {"FunctionName": "f", "Role": ROLE, "Runtime": "python3.12", "Handler": "a.b", "Code": code}
        for _ in range(20):
            created = await asyncio.gather(*(api.ask("CreateFunction", **given) for _ in range(4)))
            assert sorted(each.status for each in created) == [201, 409, 409, 409]
            changed = await asyncio.gather(
                *(api.ask("PublishVersion", FunctionName="f") for _ in range(3)),
                *(api.ask("TagResource", Resource=f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:f", Tags={str(n): "1"})
                  for n in range(3)),
                api.ask("DeleteFunction", FunctionName="f"),
                api.ask("UpdateFunctionConfiguration", FunctionName="f", Timeout=9),
            )  # fmt: skip
            assert all(each.status in (200, 201, 204, 404, 409, 412) for each in changed)
            assert changed[6].status == 204
            assert (await api.ask("GetFunction", FunctionName="f")).status == 404
            assert "f" not in engine.control.functions


async def test_of_two_changes_at_once_none_is_lost() -> None:
    engine: Engine = make_engine(state_change_seconds=0.0)
    async with engine:
        api = api_of(engine)
        arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:declared"
        done = await asyncio.gather(*(api.ask("TagResource", Resource=arn, Tags={str(n): "1"}) for n in range(30)))
        assert {each.status for each in done} == {204}
        assert len((await api.ask("ListTags", Resource=arn)).document["Tags"]) == 30
