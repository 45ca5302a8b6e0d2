"""`lambent health` and the endpoint of `lambent run --health`: what people, Docker and Kubernetes see."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from typer.testing import CliRunner

from lambent.cli.app import app
from lambent.cli.endpoint import MAXIMUM_CONNECTIONS, MAXIMUM_REQUEST_BYTES, address, endpoint
from lambent.cli.health import answered
from lambent.errors import EngineStopped, InvalidParameterValue
from lambent.semantics.health import BLOCKED, Health, judge
from tests.cli.test_run import line_with, running

APP = """
import asyncio, time
from lambent import Engine

engine = Engine(drain_seconds=60.0, health_seconds=0.1, watchdog_seconds=0.2)

@engine.function(timeout_seconds=60)
async def slow(event):
    print("running", flush=True)
    await asyncio.sleep(60)
"""
GREEN, RED = judge("e", {}, 0), judge("e", {}, 0, [BLOCKED])


def got(url: str, **options: Any) -> tuple[int, dict[str, Any]]:
    try:
        with urlopen(Request(url, **options), timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["health", "--store", f"sqlite:///{folder / 'lambent.db'}", *arguments])
    return ended.exit_code, ended.output


def test_a_store_without_an_engine_is_red_and_one_with_an_engine_that_is_well_is_green(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    code, said = command(tmp_path)
    assert (code, "no engine has made it" in said or "lambent.db" in said) == (1, True)
    with running(tmp_path, "app.py", "--health", "0") as process:
        url = json.loads(line_with(process.stderr, "serving"))["health"]
        assert url.startswith("http://127.0.0.1:")
        assert got(url) == (200, {"health": "green", "engines": 1, "findings": []})
        assert got(url, method="HEAD") == (200, {})
        assert got(url, method="POST", data=b"{}")[0] == 405
        assert got(url.removesuffix("health"))[0] == 404
        assert command(tmp_path) == (0, "green  1 engine\n")
        assert json.loads(command(tmp_path, "--json")[1])["health"] == "green"
        port = str(urlsplit(url).port)
        assert command(tmp_path, "--at", port) == (0, "green  1 engine\n")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    code, said = command(tmp_path)
    assert (code, "No engine is running on this store" in said) == (1, True)
    code, said = command(tmp_path, "--at", port)
    assert (code, f"red  engine at 127.0.0.1:{port}" in said, "does not answer" in said) == (1, True, True)
    assert command(tmp_path, "--at", "nowhere")[0] == 2


def test_while_it_drains_the_endpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with running(tmp_path, "app.py", "--health", "127.0.0.1:0") as process:
        url = json.loads(line_with(process.stderr, "serving"))["health"]
        arguments = ["invoke", "slow", "{}", "--async", "--store", f"sqlite:///{tmp_path / 'lambent.db'}"]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        line_with(process.stdout, "running")
        process.send_signal(signal.SIGTERM)
        line_with(process.stderr, "draining")
        status, told = got(url)
        assert (status, told["health"]) == (503, "red")
        assert command(tmp_path, "--at", str(urlsplit(url).port))[0] == 1
        assert "being stopped" in told["findings"][0]["sentences"][0]


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(tmp_path, "app.py", "--health", str(port)) as process:
            _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"health: nothing can listen on 127.0.0.1:{port} (address already in use): name another port" in said


@pytest.mark.parametrize(
    ("text", "meant"),
    [("8080", ("127.0.0.1", 8080)), (":8080", ("127.0.0.1", 8080)), ("0.0.0.0:80", ("0.0.0.0", 80)),
     ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))],
)  # fmt: skip
def test_an_address_without_a_host_is_on_this_machine_only(text: str, meant: tuple[str, int]) -> None:
    assert address("health", text) == meant


@pytest.mark.parametrize("text", ["", "host", "host:", "1:2:3", "host:99999", "host:80/path", "a@b:80"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterValue, match="write PORT"):
        address("health", text)


async def asked(port: int | None, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


async def test_an_engine_that_is_red_answers_503_with_the_reason() -> None:
    said = [GREEN, RED]
    async with endpoint("127.0.0.1", 0, {"/health": lambda: answered(lambda: said.pop(0))}) as url:
        port = urlsplit(url).port
        green, red = [await asked(port, b"GET /health HTTP/1.1\r\n\r\n") for _ in range(2)]
    assert green.startswith(b"HTTP/1.1 200 OK\r\n")
    assert red.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert json.loads(red.partition(b"\r\n\r\n")[2]) == RED.document()


async def test_what_is_too_long_or_no_request_is_not_answered_and_others_are() -> None:
    def ask() -> Health:
        raise EngineStopped("gone")

    async with endpoint("127.0.0.1", 0, {"/health": lambda: answered(ask)}) as url:
        port = urlsplit(url).port
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAXIMUM_CONNECTIONS - 1)]
        assert await asked(port, b"x" * (2 * MAXIMUM_REQUEST_BYTES)) == b""
        assert (await asked(port, b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert b"gone" in await asked(port, b"GET /health HTTP/1.1\r\n\r\n")
        silent.append(await asyncio.open_connection("127.0.0.1", port))
        assert await asked(port, b"GET /health HTTP/1.1\r\n\r\n") == b""  # one too many
    for reader, writer in silent:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.transport.abort()
