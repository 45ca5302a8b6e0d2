"""A server to ask over the network: an engine and its API in a thread, and boto3 as it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from lambent import Engine
from lambent.api.serving import Limits, serving
from lambent.world import SystemClock

ACCOUNT = "111111111111"
REGION = "us-east-1"
T = TypeVar("T")


class SkippingClock(SystemClock):
    """The machine's time, and what was skipped: nobody waits until something is no longer Pending."""

    skipped = 0.0

    def now(self) -> float:
        return super().now() + self.skipped


class Server:
    """An engine that runs, with its API."""

    def __init__(self, engine: Engine, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self.url = url
        self._loop = loop

    def client(self, **options: Any) -> Any:
        """boto3's client of it, which tries nothing twice."""
        return boto3.client(
            "lambda",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            config=Config(retries={"max_attempts": 0}, parameter_validation=False, **options),
        )

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something in the engine's loop."""

        async def worked() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(worked(), self._loop).result(30)


@contextmanager
def served(engine: Engine, limits: Limits = Limits()) -> Iterator[Server]:  # noqa: B008  frozen
    """Serve this engine until left."""
    ready, leaving = threading.Event(), asyncio.Event()
    found: list[Server] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        async with engine, serving(engine, "127.0.0.1", 0, limits) as url:
            found.append(Server(engine, url, asyncio.get_running_loop()))
            ready.set()
            await leaving.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if found:
            found[0]._loop.call_soon_threadsafe(leaving.set)
        thread.join()
    if failed:
        raise failed[0]


def refused(name: str, status: int) -> Any:
    """A context in which AWS's error of this name is expected."""

    class Refused:
        message = ""

        def __enter__(self) -> Refused:
            return self

        def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
            assert isinstance(error, ClientError), f"{name} was expected"
            assert error.response["Error"]["Code"] == name
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
            self.message = error.response["Error"]["Message"]
            return True

    return Refused()
