"""Invoke over the API by `wrk`, one core each: beside a bare uvicorn application that reads, decodes and encodes.

Decides what is served and what is compared. Every server is a process of its own on one core, wrk has the other; the
same 64 connections, the same 111-byte event, the same HTTP server (uvicorn with httptools, without uvloop). MiniStack
and moto, which run a function in a process or container of its own, are called by one caller where they are installed
(in environments of their own: their interpreters stand in the variables MINISTACK_PYTHON and MOTO_PYTHON). wrk is
Debian's package.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.table import Row, median

ROUNDS = 3
SECONDS = 4
CONNECTIONS = 64
EVENT = json.dumps({"order": "A1", "items": [{"sku": "book", "count": 2}], "note": "a" * 53}).encode()
PATH = "/2015-03-31/functions/nothing/invocations"
FUNCTIONS = 10_000
PATIENCE_SECONDS = 60.0
SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/lambda/aws4_request"  # they ask no more
HELD = "held"  # asynchronous, and nothing is processed meanwhile


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """What any service would do at least."""
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    answer = json.dumps(json.loads(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def serve_bare() -> None:
    from lambent.api.serving import listening

    async with listening(bare, "127.0.0.1", 0) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


async def serve(kind: str, folder: str) -> None:
    """The API of an engine: `sync` in memory, `async` and `held` on SQLite, `many` with 10,000 functions, a URL on that
    store. What is changed is never Pending."""
    import structlog

    from lambent import Engine
    from lambent.api.serving import serving

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # nobody reads what follows the URL
    store = f"sqlite:///{folder}/bench.db" if kind in ("async", HELD) else kind if "://" in kind else None
    engine = Engine(store, account_concurrency=1000, state_change_seconds=0.0)

    async def nothing(event: Any) -> Any:
        return event

    engine.function(name="nothing", **({"reserved_concurrency": 0} if kind == HELD else {}))(nothing)
    if kind == "many":
        for number in range(FUNCTIONS):

            async def other(event: Any) -> Any:
                return event

            engine.function(name=f"other{number}")(other)
    async with engine, serving(engine, "127.0.0.1", 0) as url:
        if kind == HELD:  # what is accepted waits, as behind a throttle
            engine._living().stopping.set()
        gc.collect()
        gc.freeze()  # as `lambent serve` does
        print(url, flush=True)
        await asyncio.Event().wait()


@contextmanager
def server(*words: str) -> Iterator[str]:
    """A server in a process of its own, on the first core; gives its URL."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_core(0), sys.executable, "-m", "benchmarks.api", *words, folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip()
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()


def wrk(url: str, path: str = PATH, headers: tuple[str, ...] = (), body: bytes = EVENT) -> tuple[float, float]:
    """Answers a second, and the 99th percentile of their latency in milliseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f'wrk.method = "POST"\nwrk.body = {json.dumps(body.decode())}\n')
        script.flush()
        more = [word for header in headers for word in ("-H", header)]
        command = [*_core(1), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", script.name]
        told = subprocess.run([*command, *more, f"{url}{path}"], check=True, capture_output=True, text=True).stdout
    if (wrong := re.search(r"Non-2xx or 3xx responses: (\d+)", told)) is not None:
        raise RuntimeError(f"{url}{path}: {wrong[1]} answers are errors")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])  # type: ignore[index]
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", told).groups()  # type: ignore[union-attr]
    return rate, float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def one_caller(url: str) -> float:
    """Answers a second to a caller who waits for each, and connects anew: all that the peers can take."""
    began, answers = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        with urlopen(Request(f"{url}{PATH}", EVENT, {"Authorization": SIGNED}), timeout=30):
            answers += 1
    return answers / (time.monotonic() - began)


def rows() -> list[Row]:
    if shutil.which("wrk") is None:
        return [Row("api: wrk is missing (Debian's package wrk)", 0.0, "")]
    event = ("X-Amz-Invocation-Type: Event",)
    rates: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for kind in ("bare", "sync", "many", HELD, "async"):
            with server(kind) as url:
                rate, tail = wrk(url, headers=event if kind in (HELD, "async") else ())
            rates.setdefault(kind, []).append(rate)
            tails.setdefault(kind, []).append(tail)

    def by_bare(kind: str, figures: dict[str, list[float]]) -> float:
        return median(a / b for a, b in zip(figures[kind], figures["bare"], strict=True))

    many = median(a / b for a, b in zip(rates["many"], rates["sync"], strict=True))
    found = [
        Row("bare uvicorn, reads, decodes, encodes", median(rates["bare"]), "requests/s"),
        Row("Invoke of a function that returns its event, by bare", by_bare("sync", rates), "times", least=0.5),
        Row("  the same", median(rates["sync"]), "requests/s"),
        Row("  its p99 with 64 connections, by bare's", by_bare("sync", tails), "times", most=3.0),
        Row("  the same with 10,000 functions, by with one", many, "times", least=0.9),
        Row("asynchronous Invoke, durable, processing held back, by bare", by_bare(HELD, rates), "times", least=0.4),
        Row("asynchronous Invoke, durable, with processing, by bare", by_bare("async", rates), "times", least=0.2),
    ]
    for name, peer in (("MiniStack", _ministack), ("moto", _moto)):
        with peer() as url:
            theirs = one_caller(url) if url else 0.0
        if theirs:
            with server("sync") as url:
                found.append(Row(f"Invoke by one caller, by {name}'s", one_caller(url) / theirs, "times"))
    return found


# --------------------------------------------------------------------------- peers


@contextmanager
def _ministack() -> Iterator[str]:
    python = os.environ.get("MINISTACK_PYTHON", "")
    with _peer([str(Path(python).parent / "ministack")] if python else [], 4577, GATEWAY_PORT="4577") as url:
        yield url


@contextmanager
def _moto() -> Iterator[str]:
    python = os.environ.get("MOTO_PYTHON", "")
    command = [str(Path(python).parent / "moto_server"), "-H", "127.0.0.1", "-p", "4578"]
    with _peer(command if python else [], 4578, MOTO_LAMBDA_STUB="1", MOTO_DOCKER_LAMBDA_IMAGE="") as url:
        yield url


@contextmanager
def _peer(command: list[str], port: int, **environment: str) -> Iterator[str]:
    """A peer with the function `nothing`; gives no URL if it is not installed."""
    if not command or not Path(command[0]).exists():
        yield ""
        return
    url = f"http://127.0.0.1:{port}"
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*_core(0), *command], env={**os.environ, **environment}, **nowhere) as process:  # type: ignore[call-overload]
        try:
            there = _created(url)
            yield url if there else ""
        finally:
            process.terminate()


def _created(url: str) -> bool:
    """Make the function and call it once; False: the peer does not answer in time."""
    import base64
    import io
    import zipfile

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("handler.py", "def handler(event, context):\n    return event\n")
    role = "arn:aws:iam::000000000000:role/any"
    document = {"FunctionName": "nothing", "Runtime": "python3.11", "Handler": "handler.handler", "Role": role}
    document |= {"Code": {"ZipFile": base64.b64encode(held.getvalue()).decode()}}  # type: ignore[dict-item]
    headers = {"Authorization": SIGNED}
    asked = [(f"{url}/2015-03-31/functions", json.dumps(document).encode()), (f"{url}{PATH}", EVENT)]
    until = time.monotonic() + PATIENCE_SECONDS
    while asked and time.monotonic() < until:
        try:
            with urlopen(Request(*asked[0], headers), timeout=30):
                asked.pop(0)
        except OSError:
            time.sleep(0.2)
    return not asked


def _core(number: int) -> list[str]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ["taskset", "-c", str(cores[min(number, len(cores) - 1)])] if cores and shutil.which("taskset") else []


if __name__ == "__main__":
    if sys.argv[1:]:
        kind, folder = sys.argv[1:]
        asyncio.run(serve_bare() if kind == "bare" else serve(kind, folder))
    else:
        from benchmarks.table import show

        sys.exit(show(rows()))
