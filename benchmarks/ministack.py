"""MiniStack's Invoke of a Python function, over HTTP, as its users call it: one client, one connection.

Decides nothing; `environments.py` shows it beside ours.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import time
import zipfile

PATIENCE_SECONDS = 60.0
CALLS = 200
ROLE = "arn:aws:iam::000000000000:role/bench"


async def invoke_median_ms(command: str, app: str) -> float:
    return await asyncio.to_thread(_measure, command, app)


def _measure(command: str, app: str) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [command], env={**os.environ, "GATEWAY_PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        _create(port, app)
        seconds = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        for _ in range(CALLS):
            began = time.perf_counter()
            answer = _request(connection, "POST", "/2015-03-31/functions/echo/invocations", {"id": "1f0c7c52-b1b4"})
            seconds.append(time.perf_counter() - began)
            assert json.loads(answer) == {"id": "1f0c7c52-b1b4"}, answer
        return statistics.median(seconds[CALLS // 10 :]) * 1e3
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


def _create(port: int, app: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("app.py", app)
    function = {
        "FunctionName": "echo", "Runtime": "python3.11", "Handler": "app.echo", "Role": ROLE, "MemorySize": 512,
        "Code": {"ZipFile": base64.b64encode(buffer.getvalue()).decode()},
    }  # fmt: skip
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
            _request(connection, "POST", "/2015-03-31/functions", function)
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _request(connection: http.client.HTTPConnection, method: str, path: str, body: object) -> bytes:
    credential = "Credential=test/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0"
    headers = {"Content-Type": "application/json", "Authorization": f"AWS4-HMAC-SHA256 {credential}"}
    connection.request(method, path, json.dumps(body), headers)
    answer = connection.getresponse()
    found = answer.read()
    assert answer.status < 300, found
    return found
