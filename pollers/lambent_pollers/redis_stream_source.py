"""A stream on Redis as the source of a mapping, named by a URL.

Decides what such a URL means; everything else is `redis_plain_stream.py`'s and `redis_stream.py`'s.

    redis-stream://[[user]:password@]host[:6379][/db]/NAME
    redis-stream+sentinel://host[:26379][,host…]/service[/db]/NAME
    redis-stream+cluster://host[:6379][,host…]/NAME

`rediss-stream` speaks TLS; the options after `?` are those of `redis_url.py`, and:

    data=FIELD     the field of an entry that becomes a record's data; without, all of them do, as a JSON object
    key=FIELD      the field that has a record's key; without, all have the same, and keep their order
    owner=lambent  NAME is no key but a stream that lambent keeps there, as somebody declared it, or else with the
                   options of `Stream` by their names: `shards=4&retention_seconds=3600`. Any of these declares it
                   so, but for the shards of one that is there
"""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import ValidationError

from lambent.model import Stream
from lambent.ports import StreamReader, World
from lambent_pollers.redis_connection import RedisServer
from lambent_pollers.redis_plain_stream import Fields, PlainRedisStream
from lambent_pollers.redis_stream import ELSEWHERE, RedisStream, RedisStreams
from lambent_pollers.redis_url import parse_redis_url
from lambent_pollers.urls import refuse

_OPTIONS: Final = Stream.model_fields.keys() - {"name"}


class RedisStreamSource(RedisStream):
    """A stream of lambent's with a connection of its own, or that of other sources with the same URL. Its mappings are
    in another store, perhaps, than others of the stream: their groups hold until somebody destroys them."""

    def __init__(self, server: RedisServer, config: Stream, declared: bool, world: World) -> None:
        super().__init__(RedisStreams(server).state(config, adopt=not declared), world)
        self._server = server

    def reader(self, group: str = "") -> StreamReader:
        return super().reader(group and group + ELSEWHERE)

    async def close(self) -> None:
        await self._server.close()


class PlainRedisStreamSource(PlainRedisStream):
    """As `RedisStreamSource`, of a stream that others write."""

    async def close(self) -> None:
        await self.server.close()


class _Factory:
    """`lambent.sources`: called with a URL and the engine's world. Raises InvalidParameterValue that says what to
    write."""

    kind: Final[Literal["stream"]] = "stream"

    def __call__(self, url: str, world: World) -> RedisStreamSource | PlainRedisStreamSource:
        server_url, what, declared = parse_stream_url(url)
        parse_redis_url(server_url)
        server = RedisServer.shared(server_url, world.random)
        if isinstance(what, Stream):
            return RedisStreamSource(server, what, declared, world)
        return PlainRedisStreamSource(server, *what, world)

    def check(self, url: str) -> None:
        """Whether the URL makes sense."""
        parse_redis_url(parse_stream_url(url)[0])


def parse_stream_url(url: str) -> tuple[str, Stream | tuple[str, Fields], bool]:
    """The server's URL; a stream of lambent's, or a key and which of its fields count; and whether the URL says how the
    stream is to be."""
    scheme, _, rest = url.partition("://")
    parts = urlsplit(f"//{rest}")
    path, _, name = parts.path.rpartition("/")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    own = {key: options.pop(key) for key in _OPTIONS & options.keys()}
    fields = {key: options.pop(key) for key in ("data", "key") if key in options}
    owner = options.pop("owner", "lambent" if own else "")
    name = unquote(name)
    if not name:
        refuse(url, "it names no stream: write redis-stream://HOST:PORT/DB/NAME")
    if owner not in ("", "lambent"):
        refuse(url, "owner=lambent is all that can be said of an owner")
    if owner and fields:
        refuse(url, "data and key are for streams that others write: leave them out, or owner=lambent")
    query = f"?{urlencode(options)}" if options else ""
    server = f"{scheme.replace('-stream', '')}://{parts.netloc}{path}{query}"
    if not owner:
        return server, (name, Fields(**fields)), False
    try:
        return server, Stream.model_validate_strings({"name": name, **own}), bool(own)
    except ValidationError as error:
        first = error.errors()[0]
        refuse(url, f"{first['loc'][0] if first['loc'] else name}: {first['msg']}")


source: Final = _Factory()
