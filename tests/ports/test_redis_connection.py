"""A Redis server as all of ours share it: commands in their order, scripts, bells, outages, and what is refused."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from redis.crc import key_slot
from redis.exceptions import DataError

from lambent.errors import InvalidParameterValue, StoreUnavailable
from lambent.testing.loop import VirtualClock
from lambent_pollers.redis_connection import Keys, RedisServer, Script
from lambent_pollers.redis_settings import check_settings
from lambent_pollers.redis_url import parse_redis_url
from tests.servers.redis import RedisProcess, running
from tests.servers.virtual import virtual_server

ECHO = Script("return {ARGV[2], now}")


def server_of(url: str) -> RedisServer:
    return RedisServer(url, lambda: 0.5)


async def test_commands_answer_in_bytes_and_a_script_is_told_the_time(redis_url: str) -> None:
    server = server_of(redis_url)
    key = server.keys("a", "b")
    assert await server.call("SET", key, "é") is True
    assert await server.call("GET", key) == "é".encode()
    echoed, now = await server.run(ECHO, [key], "x")
    assert echoed == b"x"
    assert now > 1_700_000_000_000_000
    await server.close()


async def test_a_script_that_the_server_forgot_is_told_again(redis_url: str) -> None:
    server = server_of(redis_url)
    for _ in range(2):
        await server.call("SCRIPT", "FLUSH")
        assert (await server.run(ECHO, ["k"], "x"))[0] == b"x"
    await server.close()


async def test_many_commands_at_once_get_each_its_own_answer(redis_url: str) -> None:
    server = server_of(redis_url)
    answers = await asyncio.gather(*(server.call("ECHO", str(number)) for number in range(2_000)))
    assert [int(answer) for answer in answers] == list(range(2_000))
    assert server.waiting == 0
    await server.close()


async def test_a_cancelled_command_leaves_nobody_a_wrong_answer(redis_url: str) -> None:
    server = server_of(redis_url)
    for number in range(200):
        cancelled = asyncio.ensure_future(server.call("ECHO", f"cancelled {number}"))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        cancelled.cancel()
        assert await server.call("ECHO", str(number)) == b"%d" % number
    await server.close()


async def test_what_the_server_refuses_is_said_with_advice(redis_url: str) -> None:
    server = server_of(redis_url)
    key = server.keys("text")
    await server.call("SET", key, "x")
    with pytest.raises(StoreUnavailable, match=r"WRONGTYPE.*prefix"):
        await server.call("LPUSH", key, "y")
    await server.close()


async def test_a_bell_wakes_who_waits_in_another_process(redis_url: str) -> None:
    here, there = server_of(redis_url), server_of(redis_url)
    bell = here.bell("news")
    await bell.listen()
    async with asyncio.timeout(5):
        waiting = asyncio.ensure_future(bell.wait(bell.rings, 60))
        await there.call("PUBLISH", "news", "")
        await waiting
        await bell.wait(bell.rings - 1, 60)  # it has rung meanwhile
    await here.close()
    await there.close()


async def test_servers_of_one_url_are_one_until_the_last_is_closed(redis_url: str) -> None:
    one, other = (RedisServer.shared(redis_url, lambda: 0.5) for _ in range(2))
    assert one is other
    await one.close()
    assert await other.call("PING")
    await other.close()
    another = RedisServer.shared(redis_url, lambda: 0.5)
    assert another is not one
    await another.close()


async def test_an_outage_of_the_server_is_outlasted(tmp_path: Path) -> None:
    with running(tmp_path, "always") as process:
        server = server_of(process.url)
        bell = server.bell("news")
        await bell.listen()
        await server.call("SET", "k", "v")
        process.kill()
        rings = bell.rings
        asking = asyncio.ensure_future(server.call("GET", "k"))
        process.start()
        assert await asking == b"v"
        await bell.wait(rings, 60)  # something may have been missed
        await server.close()


async def test_a_server_that_is_away_is_said_to_be(redis_process: RedisProcess) -> None:
    nobody = RedisProcess(redis_process.directory / "nobody")
    server = server_of(f"{nobody.url}?timeout=0.05")
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{nobody.port}.*Is the server up"):
        await server.call("PING")
    await server.close()


async def test_a_server_that_stands_still_is_given_up_in_time_and_taken_up_again(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        server = server_of(f"{process.url}?timeout=0.1")
        await server.call("PING")
        process.pause()
        with pytest.raises(StoreUnavailable):
            await server.call("PING")
        process.resume()
        assert await server.call("PING")
        await server.close()


async def test_a_blocking_command_holds_up_no_other_and_ends_with_its_caller(redis_url: str) -> None:
    server = server_of(redis_url)
    blocking = server.blocking()
    waiting = asyncio.ensure_future(blocking.call("XREAD", "BLOCK", 60_000, "STREAMS", "s", "$", block_seconds=60))
    assert await server.call("PING")
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await blocking.call("XREAD", "BLOCK", 1, "STREAMS", "s", "$", block_seconds=0.001) == []
    await blocking.close()
    await server.close()


async def test_users_passwords_and_databases_are_those_of_the_url(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.ask("ACL", "SETUSER", "ada", "on", ">p@ss/1", "~*", "&*", "+@all")
        process.ask("ACL", "SETUSER", "default", "off")
        server = server_of(f"redis://ada:p%40ss%2F1@127.0.0.1:{process.port}/3")
        assert await server.call("ACL", "WHOAMI") == b"ada"
        assert (await server.call("CLIENT INFO"))["db"] == 3
        await server.close()
        stranger = server_of(f"redis://ada:wrong@127.0.0.1:{process.port}?timeout=0.1")
        with pytest.raises(StoreUnavailable, match="Correct the user or the password"):
            await stranger.call("PING")
        assert "wrong" not in str(stranger)
        await stranger.close()


# --------------------------------------------------------------------------- settings


async def test_a_server_that_evicts_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, "always", **{"maxmemory-policy": "allkeys-lru"}) as process:
        server = server_of(process.url)
        with pytest.raises(StoreUnavailable, match=r"maxmemory-policy is allkeys-lru.*Set it to noeviction"):
            await server.check()
        await server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert await server.check() == []
        await server.close()


async def test_what_can_be_lost_is_said_even_if_the_settings_cannot_be_read(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.ask("ACL", "SETUSER", "default", "-config")
        server = server_of(process.url)
        [sentence] = await server.check()
        assert "cannot be read" in sentence
        await server.close()


@pytest.mark.parametrize(
    ("appendonly", "appendfsync", "said"),
    [("yes", "always", None), ("yes", "everysec", "last second"), ("yes", "no", "half minute"), ("no", "no", "stops")],
)
def test_what_can_be_lost_depends_on_the_append_only_file(appendonly: str, appendfsync: str, said: str | None) -> None:
    settings = {"appendonly": appendonly, "appendfsync": appendfsync, "maxmemory-policy": "noeviction"}
    sentences = check_settings("redis://x", settings, replicated=False)
    assert len(sentences) == (said is not None)
    assert said is None or said in sentences[0]
    assert "failover" in check_settings("redis://x", settings, replicated=True)[-1]


# --------------------------------------------------------------------------- names


def test_a_url_says_where_servers_are_and_hides_its_password() -> None:
    url = parse_redis_url("rediss+sentinel://ada:s%23cret@one,two:1,[::1]:2/orders/3?prefix=p&timeout=1.5")
    assert (url.kind, url.service, url.prefix, url.answer_seconds) == ("sentinel", "orders", "p", 1.5)
    assert list(url.addresses) == [("one", 26379), ("two", 1), ("::1", 2)]
    assert url.options == {"username": "ada", "password": "s#cret", "db": 3}
    assert url.tls
    assert str(url) == "rediss+sentinel://ada@one:26379,two:1,[::1]:2/orders/3"
    assert str(parse_redis_url("redis://h")) == "redis://h:6379"
    assert str(parse_redis_url("redis+cluster://a,b")) == "redis+cluster://a:6379,b:6379"


@pytest.mark.parametrize(
    "url",
    [
        "http://x", "redis:x", "redis://", "redis://h/x", "redis://h/1/2", "redis+sentinel://h", "redis+cluster://h/1",
        "redis://h?colour=red", "redis://h?timeout=0", "redis://h?timeout=x", "redis://h:port", "redis://h#x",
        "redis://a,b", "redis://h?decode_responses=true",
    ],
)  # fmt: skip
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidParameterValue) as refused:
        parse_redis_url(url.replace("://", "://ada:secret@"))
    assert "secret" not in str(refused.value)


def test_keys_of_one_tag_are_in_one_slot() -> None:
    keys = Keys("p")
    assert keys("orders", "queue", "due") == "p:{orders}:queue:due"
    assert slot_of(keys("orders", "a")) == slot_of(keys("orders", "b")) != slot_of(keys("others", "a"))
    everything_in_one = Keys("{shop}")
    assert slot_of(everything_in_one("a")) == slot_of(everything_in_one("b"))


def slot_of(key: str) -> int:
    return key_slot(key.encode())


@pytest.mark.virtual_time
async def test_virtual_time_stands_still_while_the_server_works_and_flies_otherwise(redis_url: str) -> None:
    clock = VirtualClock(asyncio.get_running_loop())
    server = virtual_server(redis_url, clock)
    await server.bell("news").listen()  # a connection that is open all the time
    began = clock.monotonic()
    await server.call("DEBUG", "SLEEP", "0.05")
    assert clock.monotonic() == began
    await asyncio.sleep(3600)
    assert (await server.run(ECHO, ["k"], "x"))[1] == round(clock.now() * 1e6)
    await server.close()


async def test_a_command_that_cannot_be_written_fails_at_once_and_harms_no_later_one(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = server_of(redis_url)
    with pytest.raises(DataError):
        await server.call("SET", "k", object())  # type: ignore[arg-type]
    assert await server.call("PING")
    await server.close()
    gc.collect()
    assert "Invalid input" in caplog.text  # whoever forgot to await it is told too
