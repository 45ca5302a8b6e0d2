"""What a user may try: wrong values at every door, and handlers that will not go."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog

from lambent import Engine, EngineSettings, InvalidParameterValue, MemoryStore, ResourceNotFound, TooManyRequests
from lambent.model import MessageAttribute, Send
from lambent.telemetry import Telemetry
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time

LONE = "\ud800"


def unused(event: object, context: object) -> None: ...


Sending = Callable[[Any, Any, Any], Awaitable[object]]


@pytest.mark.parametrize(
    ("send", "said"),
    [
        (lambda q, f, s: q.send("x", delay_seconds="5"), "delay_seconds: '5' is not allowed; it must be 0 to 900"),
        (lambda q, f, s: q.send("x", delay_seconds=True), "delay_seconds: True is not allowed"),
        (lambda q, f, s: q.send("x", delay_seconds=float("nan")), "delay_seconds: nan is not allowed"),
        (lambda q, f, s: q.send("x", group=LONE), "group: .* 1 to 128 ASCII"),
        (lambda q, f, s: f.send("x", group=5, deduplication_id="1"), "group: 5 is not allowed"),
        (lambda q, f, s: f.send("x", group="g" * 129, deduplication_id="1"), "group: .* 1 to 128 ASCII"),
        (lambda q, f, s: f.send("x", group="g", deduplication_id=b"1"), "deduplication_id: b'1' is not allowed"),
        (lambda q, f, s: f.send("x", group="g", deduplication_id=LONE), "deduplication_id: .* is not allowed"),
        (lambda q, f, s: q.send("x", attributes="a"), "attributes: 'a' is not allowed; it must be a dict or None"),
        (lambda q, f, s: q.send("x", attributes={"a": 5}), "attributes: a: 5 is not allowed"),
        (lambda q, f, s: q.send("x", attributes={5: "a"}), "attributes: a name: 5 is not allowed"),
        (lambda q, f, s: q.send("x", attributes={"a": LONE}), "attributes: a must be Unicode text"),
        (lambda q, f, s: q.send("x", attributes={f"k{n}": "v" for n in range(11)}), "at most 10 are allowed, not 11"),
        (lambda q, f, s: q.send("x", attributes={"a": MessageAttribute("5", "Text")}), "data_type of a: 'Text'"),
        (lambda q, f, s: q.send(LONE), "body must be Unicode text"),
        (lambda q, f, s: q.send_many(["good", Send(5)]), "body: 5 is not allowed"),  # type: ignore[arg-type]
        (lambda q, f, s: s.put("x", key=LONE), "key must be Unicode text"),
        (lambda q, f, s: s.put(LONE, key="k"), "data must be Unicode text: surrogates not allowed; put bytes instead"),
        (lambda q, f, s: s.put_many([("good", "k"), "xk"]), r"'xk' is not allowed; each must be a tuple \(data, key\)"),
        (lambda q, f, s: q.receive(0), "limit: 0 is not allowed; it must be at least 1"),
        (lambda q, f, s: q.receive(1, float("nan")), "wait_seconds: nan is not allowed; it must be 0 to 20"),
        (lambda q, f, s: q.change_visibility(["r"], -1), "seconds: -1 is not allowed; it must be 0 to 43200"),
        (lambda q, f, s: q.change_visibility("r", 0), "receipts: 'r' is one receipt; give a list of them"),
    ],
)
async def test_what_could_not_be_delivered_is_refused_by_name_and_not_stored(send: Sending, said: str) -> None:
    engine = virtual()
    queue, fifo, stream = engine.queue("q"), engine.queue("f.fifo"), engine.stream("s")
    async with engine:
        with pytest.raises(InvalidParameterValue, match=said):
            await send(queue, fifo, stream)
        assert not await queue.receive()
        assert not await fifo.receive()
        assert await stream.put("first", key="k") == "49" + "0" * 53 + "1"


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda e: e.queue(None), "name: None is not allowed"),
        (lambda e: e.queue(b"q"), "name: b'q' is not allowed"),
        (lambda e: e.map(5, unused), "source: 5 is not allowed; it must be a queue, a stream or a name"),
        (lambda e: e.map("q", unused, qualifier="live"), "qualifier: 'live' is not allowed; unused has no such"),
        (lambda e: e.map("q", unused, qualifier=LONE), "qualifier: .* is not allowed"),
        (lambda e: e.map("s", unused, on_failure="ftp://x/y"), "on_failure: 'ftp://x/y' is not allowed; a destination"),
        (lambda e: e.map("s", unused, on_failure="https://"), "on_failure: 'https://' is not allowed; a destination"),
        (
            lambda e: e.map("s", unused, starting_position="AT_TIMESTAMP", starting_position_timestamp=1.7e12),
            "starting_position_timestamp: .* it must be 0 to 32503680000",  # milliseconds
        ),
        (lambda e: Engine(5), "store: 5 is not known"),  # type: ignore[arg-type]
        (lambda e: Engine(settings={"threads": 5}), "settings: .* must be an EngineSettings"),  # type: ignore[arg-type]
    ],
)
def test_what_is_declared_wrong_is_refused_by_name(declare: Callable[[Any], object], said: str) -> None:
    engine = Engine()
    engine.function(unused)
    engine.queue("q")
    engine.stream("s")
    with pytest.raises(InvalidParameterValue, match=said):
        declare(engine)


async def test_a_function_that_is_refused_after_the_start_leaves_nothing_behind() -> None:
    engine = virtual()
    async with engine:
        with pytest.raises(InvalidParameterValue, match="must take"):
            engine.function(name="late")(lambda one, two, three: None)
        with pytest.raises(ResourceNotFound):
            await engine.invoke("late")
        engine.function(name="late")(lambda event: "fits")
        assert await engine.invoke("late") == "fits"


@pytest.mark.parametrize("wrong", [5, "x", [1], {"a": {1}}])
async def test_a_client_context_is_an_object_of_json(wrong: Any) -> None:
    engine = virtual()
    engine.function(unused)
    async with engine:
        for call in (engine.invoke, engine.invoke_response, engine.invoke_async):
            with pytest.raises(InvalidParameterValue, match="client_context"):
                await call(unused, client_context=wrong)


def test_an_http_destination_without_its_library_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lambent.consistency.find_spec", lambda name: None)
    with pytest.raises(InvalidParameterValue, match=re.escape("on_failure: an HTTP destination needs aiohttp: pip")):
        Engine().function(on_failure="https://example.com/")(unused)


@pytest.mark.parametrize(("allowed", "got"), [(False, 0), (True, 1)])
async def test_a_private_http_destination_is_reached_only_if_the_engine_allows_it(allowed: bool, got: int) -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length is not None
        bodies.append(await reader.readexactly(int(length[1])))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = virtual(allow_private_destinations=allowed)
    engine.function(on_success=f"http://127.0.0.1:{port}/hook")(unused)
    async with engine:
        await engine.invoke_async(unused, {"n": 1})
        while not await engine._living().connection.facts.ended():
            await asyncio.sleep(0.1)
    server.close()
    await server.wait_closed()
    assert len(bodies) == got


async def test_a_deleted_function_is_gone_as_soon_as_its_deletion_returns() -> None:
    engine = virtual()
    engine.function(unused)
    async with engine:
        await engine.delete_function(unused)
        for call in (engine.invoke, engine.invoke_response, engine.invoke_async):
            with pytest.raises(ResourceNotFound):
                await call("unused")


async def test_functions_of_queue_mappings_are_called_unqualified_too() -> None:
    engine = virtual()
    arns: list[str] = []

    @engine.on(engine.queue("q"))
    async def seen(event: object, context: Any) -> None:
        arns.append(context.invoked_function_arn)

    async with engine:
        await engine.queue("q").send("x")
        await asyncio.sleep(1)
    assert arns == ["arn:aws:lambda:us-east-1:000000000000:function:seen"]


async def test_a_batch_full_in_bytes_closes_at_once_though_small_messages_wait_behind_it() -> None:
    engine = virtual()
    queue = engine.queue("q")
    batches: list[list[int]] = []

    @engine.on(queue, batch_size=10_000, maximum_batching_window_seconds=5)
    async def sizes(event: Any, context: object) -> None:
        batches.append([len(record["body"]) for record in event["Records"]])

    async with engine:
        await queue.send_many([*["a" * 1_000_000] * 7, *["small"] * 500])
        await asyncio.sleep(1)
        assert batches == [[1_000_000] * 6]
        await asyncio.sleep(10)
    assert batches[1:] == [[1_000_000, *[5] * 500]]
    polled = engine.telemetry.snapshot()["PolledEventCount"]
    assert list(polled.values()) == [507 + 501]  # no message goes round and round


async def test_what_outlives_its_deadline_can_be_seen() -> None:
    engine = virtual()
    ended = asyncio.Event()

    @engine.function(timeout_seconds=1)
    async def stubborn(event: object, context: object) -> None:
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                continue

    async with engine:
        response = await engine.invoke_response(stubborn)
        assert b"Sandbox.Timedout" in response.payload
        assert engine.telemetry.snapshot()["AbandonedHandlers"] == {"stubborn": 1}
        ended.set()
        await asyncio.sleep(1)
        assert engine.telemetry.snapshot()["AbandonedHandlers"] == {}


async def test_failed_batches_of_a_stream_count_as_invoked_as_those_of_a_queue_do() -> None:
    engine = virtual()
    queue = engine.queue("q", visibility_timeout_seconds=10, max_receive_count=1, dead_letter_queue="dead")

    @engine.function
    async def fails(event: object, context: object) -> None:
        raise ValueError

    mappings = engine.map(engine.stream("s"), fails, maximum_retry_attempts=0), engine.map(queue, fails)
    async with engine:
        await engine.stream("s").put("x", key="k")
        await queue.send("x")
        await asyncio.sleep(60)
        counted = engine.telemetry.snapshot()
    for mapping in mappings:
        assert counted["InvokedEventCount"][mapping.id] == counted["FailedInvokeEventCount"][mapping.id] == 1


async def test_a_call_that_is_refused_is_one_throttle_also_where_engines_share_a_limit() -> None:
    store = MemoryStore()
    engines = virtual(store), virtual(store)
    for engine in engines:
        engine.function(reserved_concurrency=0)(unused)
    async with engines[0], engines[1]:
        for engine in engines:
            for call in (engine.invoke, engine.invoke_response):
                with pytest.raises(TooManyRequests):
                    await call(unused)
            assert engine.telemetry.snapshot()["Throttles"] == {"unused": 2}


def test_a_script_ends_even_if_a_handler_swallows_its_cancellation() -> None:
    script = """
        import asyncio
        from lambent import Engine
        engine = Engine(drain_seconds=0.01)

        @engine.function
        async def stubborn(event, context):
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass

        async def main():
            await engine.invoke_async(stubborn)
            await asyncio.sleep(0.1)

        engine.run(main)
        print("ended")
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == "ended"
    assert "Exception ignored" not in done.stderr


def test_a_logged_error_shows_its_traceback_and_nobodys_variables() -> None:
    out = io.StringIO()
    secret = "a passenger's name"
    try:
        raise ValueError(len(secret))
    except ValueError as error:
        caught = error
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(out), cache_logger_on_first_use=False)
    try:
        Telemetry().log("error", "a bug", exc_info=caught)
    finally:
        structlog.configure(**before)
    assert "ValueError: 18" in out.getvalue()
    assert "passenger's name" not in out.getvalue().replace('secret = "a passenger\'s name"', "")


def test_settings_are_an_object_or_keywords_and_not_both() -> None:
    with pytest.raises(InvalidParameterValue, match="settings and threads are given"):
        Engine(settings=EngineSettings(), threads=3)


async def test_a_stream_is_split_and_merged_while_it_is_read_and_children_come_after_their_parents() -> None:
    engine = virtual()
    stream = engine.stream("s", shards=2)
    seen: list[str] = []
    all_seen = asyncio.Event()

    @engine.on(stream)
    async def reader(event: Any) -> None:
        seen.extend(f"{each['eventID'].split(':')[0]} {each['kinesis']['partitionKey']}" for each in event["Records"])
        if len(seen) == 30:
            all_seen.set()

    keys = [str(number) for number in range(10)]
    async with engine:
        await stream.put_many([({}, key) for key in keys])
        one, other = await stream.shards()
        await stream.split(one.id)
        await stream.put_many([({}, key) for key in keys])
        children = [shard for shard in await stream.shards() if shard.parents]
        await stream.merge(children[1].id, other.id)
        await stream.put_many([({}, key) for key in keys])
        await all_seen.wait()
        shards = await stream.shards()
    order = [each.split()[0] for each in seen]
    for shard in shards:
        for parent in shard.parents:
            if shard.id in order and parent in order:
                assert max(i for i, each in enumerate(order) if each == parent) < order.index(shard.id)
    for key in keys:
        assert [each.split()[1] for each in seen].count(key) == 3
