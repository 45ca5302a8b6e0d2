"""Streamed answers of processes: what comes is handed on as it comes, or put together; a stream may end in an error."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine, FunctionError
from lambent.response_stream import MAXIMUM_HELD_BYTES, ResponseStream
from tests.engine.running import pieces_until_failure
from tests.environments.conftest import alive, fifos, let_go, waits
from tests.servers import node

STREAMER = r"""#!/usr/bin/python3
import base64, json, os, socket

def connect():
    host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
    return socket.create_connection((host, int(port)))

def answer(connection):
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return headers, body

connection = connect()
while True:
    connection.sendall(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
    headers, event = answer(connection)
    event = json.loads(event)
    request_id = headers["lambda-runtime-aws-request-id"].encode()
    head = (
        b"POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\n"
        b"Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n"
        b"Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n" % request_id
    )
    connection.sendall(head)
    for piece in event["pieces"]:
        if piece == "pid":
            piece = str(os.getpid())
        elif piece == "wait":
            open(event["says"], "w").close()
            open(event["waits"]).close()
            continue
        elif piece == "twice":
            other = connect()
            other.sendall(head + b"5\r\nother\r\n0\r\n\r\n")
            piece = answer(other)[1].decode()
        piece = piece.encode() * event.get("times", 1)
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    if event.get("hang up"):
        connection.close()
        open(event["waits"]).close()
    if event.get("exit"):
        os._exit(4)
    connection.sendall(b"0\r\n")
    if event.get("fail"):
        document = base64.b64encode(json.dumps({"errorType": "Midway", "errorMessage": "no more"}).encode())
        connection.sendall(b"Lambda-Runtime-Function-Error-Type: Midway\r\n")
        connection.sendall(b"Lambda-Runtime-Function-Error-Body: " + document + b"\r\n")
    connection.sendall(b"\r\n")
    answer(connection)
"""


NODE = """
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  for (const piece of event.pieces) stream.write(piece);
  if (event.fail) throw new RangeError("no more");
  stream.end();
});
"""


@pytest.fixture
def streamer(narrow: Engine, tmp_path: Path) -> Engine:
    """An engine with a function that streams what its event says, in one environment."""
    folder = tmp_path / "streamer"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "bootstrap").write_text(STREAMER)
    (folder / "bootstrap").chmod(0o755)
    narrow.function_from(folder, runtime="provided.al2023", timeout_seconds=20)
    return narrow


async def stream(engine: Engine, **event: Any) -> ResponseStream:
    return await engine.invoke_with_response_stream("streamer", event)


async def test_pieces_come_while_the_function_still_runs(streamer: Engine, tmp_path: Path) -> None:
    gate, says = fifos(tmp_path / "streamer", "gate")
    async with streamer as engine:
        answer = await stream(engine, pieces=["first", "wait", "last"], waits=str(gate), says=str(says))
        assert await anext(answer) == b"first"
        await waits(says)
        assert engine.environments("streamer")["busy"] == 1
        await let_go(gate)
        assert [piece async for piece in answer] == [b"last"]
        assert answer.executed_version == "$LATEST"


async def test_who_waits_for_the_whole_gets_it_put_together(streamer: Engine) -> None:
    async with streamer as engine:
        assert await engine.invoke("streamer", {"pieces": ['{"a"', ": 1", "}"]}) == {"a": 1}
        assert await engine.invoke("streamer", {"pieces": ["no", " JSON"]}) == "no JSON"


async def test_a_stream_that_ends_in_an_error_is_an_error_of_the_function(streamer: Engine) -> None:
    document = {"errorType": "Midway", "errorMessage": "no more"}
    async with streamer as engine:
        assert await pieces_until_failure(await stream(engine, pieces=["half"], fail=True)) == (b"half", document)
        with pytest.raises(FunctionError, match="no more"):
            await engine.invoke("streamer", {"pieces": ["half"], "fail": True})


async def test_a_process_that_dies_in_its_stream_is_an_error_and_the_next_one_streams(streamer: Engine) -> None:
    async with streamer as engine:
        came, document = await pieces_until_failure(await stream(engine, pieces=["half"], exit=True))
        assert (came, document["errorType"]) == (b"half", "Runtime.ExitError")
        assert await engine.invoke("streamer", {"pieces": ["1"]}) == 1


async def test_a_process_that_hangs_up_in_its_stream_is_an_error_and_is_not_used_again(
    streamer: Engine, tmp_path: Path
) -> None:
    gate, _ = fifos(tmp_path / "streamer", "gate")
    async with streamer as engine:
        first = await engine.invoke("streamer", {"pieces": ["pid"]})
        event = {"pieces": ["half"], "hang up": True, "waits": str(gate)}
        came, document = await pieces_until_failure(await stream(engine, **event))
        assert (came, document["errorType"]) == (b"half", "Runtime.TruncatedResponse")
        assert await engine.invoke("streamer", {"pieces": ["pid"]}) != first
        assert not alive(first)


async def test_one_answer_only_is_streamed_and_another_is_refused(streamer: Engine) -> None:
    async with streamer as engine:
        answer = b"".join([piece async for piece in await stream(engine, pieces=["twice"])])
        assert json.loads(answer)["errorMessage"] == "State transition from Streaming to Answered is not allowed."


async def test_a_stream_may_be_larger_than_an_answer_but_not_for_who_waits_for_all(streamer: Engine) -> None:
    large = {"pieces": ["x"] * 8, "times": 1024 * 1024}
    async with streamer as engine:
        assert sum([len(piece) async for piece in await stream(engine, **large)]) == 8 * 1024 * 1024
        answer = await engine.invoke_response("streamer", large)
        assert json.loads(answer.payload)["errorType"] == "Function.ResponseSizeTooLarge"
        assert await engine.invoke("streamer", {"pieces": ["1"]}) == 1


async def test_a_stream_ends_where_it_is_too_large(streamer: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("streamed", "runtime_api"):
        monkeypatch.setattr(f"lambent.runtimes.{module}.MAXIMUM_STREAMED_BYTES", 3 * 1024 * 1024)
    async with streamer as engine:
        came, document = await pieces_until_failure(await stream(engine, pieces=["x"] * 8, times=1024 * 1024))
        assert 2 * 1024 * 1024 < len(came) <= 3 * 1024 * 1024
        assert document["errorType"] == "Function.ResponseSizeTooLarge"
        assert "(3145728 bytes)" in document["errorMessage"]
        assert await engine.invoke("streamer", {"pieces": ["1"]}) == 1


async def test_a_function_that_is_not_read_is_held_up(streamer: Engine) -> None:
    socket_holds = 256 * 1024  # what asyncio reads at once
    async with streamer as engine:
        answer = await stream(engine, pieces=["x"] * 32, times=1024 * 1024)
        came = len(await anext(answer))
        while answer._room is None:
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert MAXIMUM_HELD_BYTES <= answer._held < MAXIMUM_HELD_BYTES + socket_holds
        async for piece in answer:
            came += len(piece)
            assert answer._held < MAXIMUM_HELD_BYTES + socket_holds
        assert came == 32 * 1024 * 1024


async def test_what_a_dead_process_said_is_read_although_its_reader_was_slow(streamer: Engine) -> None:
    async with streamer as engine:
        answer = await stream(engine, pieces=["x"] * 3, times=MAXIMUM_HELD_BYTES // 2, exit=True)
        while answer._outcome is None:
            await asyncio.sleep(0)
        came, document = await pieces_until_failure(answer)
        assert (len(came), document["errorType"]) == (MAXIMUM_HELD_BYTES * 3 // 2, "Runtime.ExitError")


async def test_a_reader_that_leaves_ends_the_function(streamer: Engine, tmp_path: Path) -> None:
    gate, says = fifos(tmp_path / "streamer", "gate")
    async with streamer as engine:
        event = {"pieces": ["pid", "wait"], "waits": str(gate), "says": str(says)}
        async with await stream(engine, **event) as answer:
            pid = int(await anext(answer))
        assert [piece async for piece in answer] == []
        assert await engine.invoke("streamer", {"pieces": ["pid"]}) != pid
        assert not alive(pid)


async def test_what_awslambda_streams_in_node_comes_in_pieces(
    narrow: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{node.client().parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "app"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "app.js").write_text(NODE)
    narrow.function_from(folder, runtime="nodejs20.x", handler="app.handler", timeout_seconds=10, memory_size_mb=256)
    async with narrow as engine:
        answer = await engine.invoke_with_response_stream("app", {"pieces": ["a", "b"]}, log_type="Tail")
        assert b"".join([piece async for piece in answer]) == b"ab"
        assert "REPORT RequestId: " + answer.request_id in answer.log_tail
        came, document = await pieces_until_failure(
            await engine.invoke_with_response_stream("app", {"pieces": ["a"], "fail": True})
        )
        assert came == b"a"
        assert (document["errorType"], document["errorMessage"]) == ("RangeError", "no more")
