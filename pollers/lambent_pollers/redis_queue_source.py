"""A queue on Redis as the source of a mapping, named by a URL.

Decides what such a URL means; everything else is `redis_queue.py`'s.

    redis-queue://[[user]:password@]host[:6379][/db]/NAME
    redis-queue+sentinel://host[:26379][,host…]/service[/db]/NAME
    redis-queue+cluster://host[:6379][,host…]/NAME

`rediss-queue` speaks TLS; the options after `?` are those of `redis_url.py`, and a queue's own, by the names that they
have in `Queue`: `visibility_timeout_seconds=60&max_receive_count=3&dead_letter_queue=orders-dead`. With any of these
the queue is declared so; with none it is taken as somebody declared it, or else is a standard queue with SQS's
defaults. A name that ends in `.fifo` is a FIFO queue's.
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import ValidationError

from lambent.model import Queue
from lambent.ports import World
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_queue import RedisQueue, RedisQueues
from lambent_pollers.redis_url import parse_redis_url
from lambent_pollers.urls import refuse

_OPTIONS: Final = Queue.model_fields.keys() - {"name", "fifo"}


class RedisQueueSource(RedisQueue):
    """A queue with a connection of its own, or that of other sources with the same URL."""

    def __init__(self, server: RedisServer, config: Queue, declared: bool, world: World) -> None:
        queues = RedisQueues(server)
        super().__init__(queues, queues.state(config, adopt=not declared), world)
        self._server = server

    async def close(self) -> None:
        await self._server.close()


class _Factory:
    """`lambent.sources`: called with a URL and the engine's world. Raises InvalidParameterValue that says what to
    write."""

    kind: Final[Literal["queue"]] = "queue"

    def __call__(self, url: str, world: World) -> RedisQueueSource:
        server_url, config, declared = parse_queue_url(url)
        parse_redis_url(server_url)
        return RedisQueueSource(RedisServer.shared(server_url, world.random), config, declared, world)

    def check(self, url: str) -> None:
        """Whether the URL makes sense."""
        parse_redis_url(parse_queue_url(url)[0])


def parse_queue_url(url: str) -> tuple[str, Queue, bool]:
    """The server's URL, the queue, and whether the URL says how the queue is to be."""
    scheme, _, rest = url.partition("://")
    parts = urlsplit(f"//{rest}")
    path, _, name = parts.path.rpartition("/")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    own = {key: options.pop(key) for key in _OPTIONS & options.keys()}
    name = unquote(name)
    if not name:
        refuse(url, "it names no queue: write redis-queue://HOST:PORT/DB/NAME")
    try:
        config = Queue.model_validate_strings({"name": name, "fifo": str(name.endswith(".fifo")), **own})
    except ValidationError as error:
        first = error.errors()[0]
        refuse(url, f"{first['loc'][0] if first['loc'] else name}: {first['msg']}")
    query = f"?{urlencode(options)}" if options else ""
    return f"{scheme.replace('-queue', '')}://{parts.netloc}{path}{query}", config, bool(own)


source: Final = _Factory()
