"""Every destination passes the suite: the store's queue and stream, a function, a file, an HTTP endpoint."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web

from lambent.destinations import FunctionDestination, QueueDestination, StreamDestination
from lambent.errors import ResourceNotFound, StoreUnavailable
from lambent.model import Delete, Delivery, Queue, Stream
from lambent.outbound import FileDestination, HttpDestination
from lambent.ports import Destination
from lambent.stores.memory import MemoryStore

from .suites.destinations import Arrival, DestinationSuite, value


class Broken:
    """A queue and a stream that raise whatever they are asked."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def send_many(self, sends: object) -> Sequence[str]:
        raise self._error

    put_many = send_many


AWAY = StoreUnavailable("the disk is full")
GONE = ResourceNotFound("it was deleted")


@pytest.mark.virtual_time
class TestQueue(DestinationSuite):
    capabilities = frozenset({"attributes", "hops", "limit"})

    async def make(self) -> Destination:
        self.queue = (await MemoryStore().connect(self.world())).queue(Queue(name="q"))
        return QueueDestination(self.queue)

    async def away(self) -> Destination:
        await self.make()
        return QueueDestination(Broken(AWAY))

    async def hopeless(self) -> Destination:
        await self.make()
        return QueueDestination(Broken(GONE))

    async def arrived(self) -> Sequence[Arrival]:
        found: list[Arrival] = []
        while messages := await self.queue.receive(10, 0):
            for each in messages:
                attributes = {name: attribute.value for name, attribute in each.attributes.items()}
                found.append(Arrival(value(each.body), attributes, each.hops))
            await self.queue.settle_many([Delete(each.receipt) for each in messages])
        return found

    async def test_the_error_code_of_a_dead_letter_is_a_number(self) -> None:
        destination = await self.make()
        await destination.deliver(b"{}", {"RequestID": "id-1", "ErrorCode": "200"}, 0)
        (message,) = await self.queue.receive(10, 0)
        kinds = {name: attribute.data_type for name, attribute in message.attributes.items()}
        assert kinds == {"RequestID": "String", "ErrorCode": "Number"}


@pytest.mark.virtual_time
class TestStream(DestinationSuite):
    capabilities = frozenset({"hops", "limit"})

    async def make(self) -> Destination:
        self.stream = (await MemoryStore().connect(self.world())).stream(Stream(name="s"))
        (shard,) = await self.stream.shards()
        self.shard, self.position = shard.id, await self.stream.position(shard.id, "TRIM_HORIZON", None)
        return StreamDestination(self.stream)

    async def away(self) -> Destination:
        await self.make()
        return StreamDestination(Broken(AWAY))

    async def hopeless(self) -> Destination:
        await self.make()
        return StreamDestination(Broken(GONE))

    async def arrived(self) -> Sequence[Arrival]:
        reader = self.stream.reader()
        reader.want(self.shard, self.position, 1000, 10**9)
        (read,) = await reader.ready()
        await reader.close()
        if read.records:
            self.position = read.records[-1].position
        return [Arrival(value(record.data.decode()), {}, record.hops) for record in read.records]


@pytest.mark.virtual_time
class TestFunction(DestinationSuite):
    capabilities = frozenset({"hops", "limit"})

    def destination(self, fails: Exception | None = None) -> Destination:
        self.events: list[Arrival] = []

        async def enqueue(payload: bytes, hops: int) -> None:
            if fails is not None:
                raise fails
            self.events.append(Arrival(value(payload.decode()), {}, hops))

        return FunctionDestination(enqueue)

    async def make(self) -> Destination:
        return self.destination()

    async def away(self) -> Destination:
        return self.destination(AWAY)

    async def hopeless(self) -> Destination:
        return self.destination(GONE)

    async def arrived(self) -> Sequence[Arrival]:
        found, self.events = self.events, []
        return found


class TestFile(DestinationSuite):
    capabilities = frozenset({"attributes"})

    @pytest.fixture(autouse=True)
    def _somewhere(self, tmp_path: Path) -> None:
        self.path = tmp_path / "results.jsonl"
        self.told = 0

    def destination(self, path: Path) -> Destination:
        return FileDestination(path, _in_thread)

    async def make(self) -> Destination:
        return self.destination(self.path)

    async def away(self) -> Destination:
        async def full(write: Callable[[], Delivery]) -> Delivery:
            raise StoreUnavailable("the thread pool is closed")

        return self.destination(Path("/dev/full")) if Path("/dev/full").exists() else FileDestination(self.path, full)

    async def hopeless(self) -> Destination:
        return self.destination(self.path.parent)

    async def arrived(self) -> Sequence[Arrival]:
        # A write that was cancelled goes on in its thread: whoever takes the file's lock after it sees its line whole.
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        found = [json.loads(line) for line in lines[self.told :]]
        self.told = len(lines)
        return [
            Arrival(each["body"], each["attributes"])
            if isinstance(each, dict) and set(each) == {"attributes", "body"}
            else Arrival(each)
            for each in found
        ]


class TestHttp(DestinationSuite):
    capabilities = frozenset({"attributes"})

    @pytest.fixture(autouse=True)
    async def _endpoint(self, _begin: None) -> AsyncIterator[None]:
        self.requests: list[Arrival] = []
        self.opened: list[HttpDestination] = []
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_post("/results", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
            for destination in self.opened:
                await destination.close()
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        record = value((await request.read()).decode())
        attributes = {
            name.removeprefix("Lambent-"): unquote(text)
            for name, text in request.headers.items()
            if name.startswith("Lambent-")
        }
        self.requests.append(Arrival(record, attributes))
        return web.Response(status=202)

    def destination(self, url: str) -> Destination:
        self.opened.append(HttpDestination(url, allow_private=True))
        return self.opened[-1]

    async def make(self) -> Destination:
        return self.destination(f"{self.url}/results")

    async def away(self) -> Destination:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return self.destination(f"http://127.0.0.1:{free.getsockname()[1]}/")

    async def hopeless(self) -> Destination:
        return self.destination(f"{self.url}/nobody")

    async def arrived(self) -> Sequence[Arrival]:
        found, self.requests = self.requests, []
        return found


async def _in_thread(write: Callable[[], Delivery]) -> Delivery:
    return await asyncio.to_thread(write)
