"""Streamed answers: what comes is handed on, or put together; a stream may end in an error."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lambent import Engine, FunctionError
from lambent.model import Failed, Invocation, Outcome, Succeeded

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
    connection.sendall(
        b"POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\n"
        b"Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n"
        b"Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n"
        % headers["lambda-runtime-aws-request-id"].encode()
    )
    for piece in event["pieces"]:
        piece = piece.encode() * event.get("times", 1)
        connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
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


@pytest.fixture
def streamer(tmp_path: Path) -> Path:
    folder = tmp_path / "streamer"
    folder.mkdir()
    (folder / "bootstrap").write_text(STREAMER)
    (folder / "bootstrap").chmod(0o755)
    return folder


async def stream(engine: Engine, event: object) -> tuple[list[bytes], Outcome]:
    """What a caller that reads a stream gets: its pieces, and how it ended."""
    pieces: list[bytes] = []
    ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    invocation = Invocation(engine._new_id(), "streamer", json.dumps(event).encode(), streamed=True)
    assert engine._life is not None
    engine._life._runtime.start(invocation, ended.set_result, lambda: None, pieces.append)
    return pieces, await ended


async def test_pieces_are_handed_on_as_they_come_and_put_together_for_who_waits_for_all(
    narrow: Engine, streamer: Path
) -> None:
    narrow.function_from(streamer, runtime="provided.al2023", timeout_seconds=10)
    async with narrow:
        pieces, outcome = await stream(narrow, {"pieces": ['{"a"', ": 1", "}"]})
        assert b"".join(pieces) == b'{"a": 1}'
        assert isinstance(outcome, Succeeded)
        assert outcome.payload == b""
        assert await narrow.invoke("streamer", {"pieces": ['{"a"', ": 1", "}"]}) == {"a": 1}


async def test_a_stream_that_ends_in_an_error_is_an_error_of_the_function(narrow: Engine, streamer: Path) -> None:
    narrow.function_from(streamer, runtime="provided.al2023", timeout_seconds=10)
    async with narrow:
        pieces, outcome = await stream(narrow, {"pieces": ["half"], "fail": True})
        assert pieces == [b"half"]
        assert isinstance(outcome, Failed)
        assert outcome.document == {"errorType": "Midway", "errorMessage": "no more"}
        with pytest.raises(FunctionError, match="no more"):
            await narrow.invoke("streamer", {"pieces": ["half"], "fail": True})


async def test_a_process_that_dies_in_its_stream_is_an_error_and_the_next_one_streams(
    narrow: Engine, streamer: Path
) -> None:
    narrow.function_from(streamer, runtime="provided.al2023", timeout_seconds=10)
    async with narrow:
        pieces, outcome = await stream(narrow, {"pieces": ["half"], "exit": True})
        assert pieces == [b"half"]
        assert isinstance(outcome, Failed)
        assert outcome.document["errorType"] == "Runtime.ExitError"
        assert await narrow.invoke("streamer", {"pieces": ["1"]}) == 1


async def test_a_stream_may_be_larger_than_an_answer_but_not_for_who_waits_for_all(
    narrow: Engine, streamer: Path
) -> None:
    narrow.function_from(streamer, runtime="provided.al2023", timeout_seconds=20)
    large = {"pieces": ["x"] * 8, "times": 1024 * 1024}
    async with narrow:
        pieces, outcome = await stream(narrow, large)
        assert isinstance(outcome, Succeeded)
        assert sum(map(len, pieces)) == 8 * 1024 * 1024
        answer = await narrow.invoke_response("streamer", large)
        assert json.loads(answer.payload)["errorType"] == "Function.ResponseSizeTooLarge"
        assert await narrow.invoke("streamer", {"pieces": ["1"]}) == 1
