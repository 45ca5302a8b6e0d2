"""What fits together, what is a duplicate, and what of it is kept in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lambent import (
    Engine,
    EngineStopped,
    Functions,
    InvalidParameterValue,
    MemoryStore,
    ResourceConflict,
    ResourceNotFound,
)
from lambent.model import QueueMapping, StreamMapping
from lambent.sources import load_source, load_store
from lambent.stored_mappings import Seek, StoredMapping, mapping_id, state_of
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time(deterministic=True)


async def handler(event: Any, context: Any) -> None: ...


def other(event: Any) -> None: ...


@pytest.fixture
def engine() -> Engine:
    engine = Engine("memory://")
    engine.function(handler)
    return engine


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidParameterValue) as caught:
        call()
    return caught.value.message


# --------------------------------------------------------------------------- queues and streams


def test_a_queue_declared_twice_with_the_same_options_is_one_object(engine: Engine) -> None:
    queue = engine.queue("q", visibility_timeout_seconds=5)
    assert engine.queue("q", visibility_timeout_seconds=5) is queue
    assert engine.queue("q") is queue
    stream = engine.stream("s", shards=2)
    assert engine.stream("s", shards=2) is stream
    assert engine.stream("s") is stream


def test_a_queue_declared_twice_with_other_options_is_refused(engine: Engine) -> None:
    engine.queue("q", visibility_timeout_seconds=5)
    message = refused(lambda: engine.queue("q", visibility_timeout_seconds=6))
    assert message == 'queue "q" is declared already with other options: visibility_timeout_seconds is 5.0'


def test_a_queue_that_was_only_mentioned_may_yet_be_declared(engine: Engine) -> None:
    engine.queue("q", max_receive_count=2, dead_letter_queue="dead")
    dead = engine.queue("dead", visibility_timeout_seconds=1)
    assert dead.configuration.visibility_timeout_seconds == 1


def test_a_name_that_ends_in_fifo_is_a_fifo_queue(engine: Engine) -> None:
    assert engine.queue("orders.fifo", delay_seconds=1).configuration.fifo


async def test_a_fifo_queue_needs_a_fifo_dead_letter_queue() -> None:
    engine = virtual()
    engine.queue("dead", visibility_timeout_seconds=1)
    engine.queue("orders", fifo=True, max_receive_count=2, dead_letter_queue="dead")
    with pytest.raises(InvalidParameterValue, match='"dead" of "orders" must be a FIFO queue too'):
        await engine.start()


async def test_handles_say_what_to_do_before_the_start(engine: Engine) -> None:
    mapping = engine.map(engine.queue("q"), handler)
    for call in (
        engine.queue("q").send("x"),
        engine.stream("s").put("x", key="k"),
        mapping.pause(),
        mapping.state(),
        engine.invoke(handler, {}),
        engine.invoke_async(handler, {}),
    ):
        with pytest.raises(EngineStopped, match="async with engine"):
            await call


@pytest.mark.parametrize("key", ["", None, 5, "x" * 257])
async def test_the_key_of_a_record_is_a_short_text(key: Any) -> None:
    engine = virtual()
    stream = engine.stream("s")
    async with engine:
        with pytest.raises(InvalidParameterValue, match="1 to 256 characters"):
            await stream.put({}, key=key)


# --------------------------------------------------------------------------- functions


def test_the_decorated_object_is_still_the_plain_callable(engine: Engine) -> None:
    assert engine.function(other) is other
    assert engine.function(name="again", timeout_seconds=5)(other) is other
    assert engine.on(engine.queue("q"), name="third")(other) is other


def test_a_second_function_of_a_name_is_refused(engine: Engine) -> None:
    with pytest.raises(ResourceConflict, match="Function already exist: handler"):
        engine.function(handler)


def test_an_unknown_option_of_a_function_is_refused_by_name(engine: Engine) -> None:
    message = refused(lambda: engine.function(timeout_secs=5)(other))
    assert message.startswith("timeout_secs is not an option of a function; did you mean timeout_seconds?")


def test_reserved_concurrency_leaves_100_to_the_others() -> None:
    engine = Engine("memory://", account_concurrency=150)
    engine.function(reserved_concurrency=30)(handler)
    message = refused(lambda: engine.function(name="two", reserved_concurrency=21)(other))
    assert message.startswith(
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below "
        "its minimum value of [100]."
    )
    engine.function(name="two", reserved_concurrency=20)(other)
    engine.function(name="off", reserved_concurrency=0)(other)


def test_a_function_is_no_destination_of_itself(engine: Engine) -> None:
    for option in ("on_success", "on_failure", "dead_letter_queue"):
        message = refused(lambda option=option: engine.function(name="f", **{option: "function:f"})(other))  # type: ignore[misc]
        assert message == f"{option}: You can't specify the function as a destination for itself. (f)"


def test_a_destination_may_be_the_object_itself(engine: Engine) -> None:
    engine.function(on_success=handler, on_failure=engine.queue("q"), dead_letter_queue=engine.stream("s"))(other)
    function = engine.control.functions["other"]
    assert function.event_invoke.on_success == "function:handler"
    assert function.event_invoke.on_failure == "queue:q"
    assert function.dead_letter_queue == "stream:s"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("queue:nobody", 'there is no queue "nobody"'),
        ("stream:nobody", 'there is no stream "nobody"'),
        ("function:nobody", 'there is no function "nobody"'),
        ("queue:ordered", '"ordered" is a FIFO queue'),
    ],
)
async def test_a_destination_must_exist_and_not_be_fifo(target: str, said: str) -> None:
    engine = virtual()
    store = engine.store
    engine.queue("ordered", fifo=True)

    async def declare_and_start() -> None:
        engine.function(on_failure=target)(other)
        await engine.start()

    with pytest.raises(InvalidParameterValue, match=f"on_failure: {said}"):
        await declare_and_start()
    clean = virtual(store)
    async with clean:
        assert not await clean.list_functions()  # nothing is half-stored


# --------------------------------------------------------------------------- mappings


def test_a_wrong_option_of_a_mapping_is_refused_by_name(engine: Engine) -> None:
    queue, stream = engine.queue("rebook"), engine.stream("departures")
    assert refused(lambda: engine.map(queue, handler, parallelization_factor=2)) == (
        'parallelization_factor is an option of stream mappings; "rebook" is a queue'
    )
    assert refused(lambda: engine.map(stream, handler, maximum_concurrency=2)) == (
        'maximum_concurrency is an option of queue mappings; "departures" is a stream'
    )
    assert refused(lambda: engine.on(queue, on_failure=stream)(other)) == (
        'on_failure is an option of stream mappings; "rebook" is a queue'
    )
    assert "batchsize is not an option of queue mappings; did you mean batch_size?" in refused(
        lambda: engine.map(queue, handler, batchsize=2)
    )


def test_on_tells_the_options_of_function_and_mapping_apart(engine: Engine) -> None:
    engine.on(
        engine.stream("s"), name="f", timeout_seconds=9, on_success="queue:q", batch_size=7, maximum_retry_attempts=50,
        on_failure=engine.queue("poison"),
    )(other)  # fmt: skip
    function, (mapping,) = engine.control.functions["f"], engine.control.mappings.values()
    assert (function.timeout_seconds, function.event_invoke.on_success) == (9, "queue:q")
    assert function.event_invoke.on_failure is None
    assert isinstance(mapping, StreamMapping)
    assert (mapping.batch_size, mapping.maximum_retry_attempts, mapping.on_failure) == (7, 50, "queue:poison")


def test_the_same_source_and_function_are_mapped_once(engine: Engine) -> None:
    queue, stream = engine.queue("q"), engine.stream("s")
    first, second = engine.map(queue, handler), engine.map(stream, handler)
    with pytest.raises(ResourceConflict) as caught:
        engine.map(queue, handler, batch_size=3)
    assert caught.value.message == (
        'An event source mapping with SQS arn (" arn:aws:sqs:us-east-1:000000000000:q ") and function (" handler ") '
        f"already exists. Please update or delete the existing mapping with UUID {first.id}"
    )
    with pytest.raises(ResourceConflict) as caught:
        engine.map(stream, handler, name="other name")
    assert caught.value.message == (
        'The event source arn (" arn:aws:kinesis:us-east-1:000000000000:stream/s ") and function (" handler ") '
        f"provided mapping already exists. Please update or delete the existing mapping with UUID {second.id}"
    )
    engine.function(other)
    engine.map(queue, other)  # another function of the same queue


def test_a_mapping_has_the_same_id_in_every_life() -> None:
    mapping = QueueMapping(source="queue:q", function="f")
    assert mapping_id(mapping) == mapping_id(QueueMapping(source="queue:q", function="f", batch_size=3))
    assert mapping_id(mapping) != mapping_id(QueueMapping(source="queue:q", function="g"))
    named = QueueMapping(source="queue:q", function="f", name="n")
    assert mapping_id(named) == mapping_id(QueueMapping(source="queue:other", function="g", name="n"))


def test_a_fifo_queue_takes_batches_of_ten_without_a_window(engine: Engine) -> None:
    queue = engine.queue("orders.fifo")
    message = refused(lambda: engine.map(queue, handler, batch_size=11, maximum_batching_window_seconds=1))
    assert message.endswith("orders.fifo; its batches have 10 messages at most)")
    message = refused(lambda: engine.map(queue, handler, maximum_batching_window_seconds=1))
    assert message.startswith("Batching window is not supported for FIFO queues (maximum_batching_window_seconds of ")
    engine.map(queue, handler, batch_size=10)


def test_a_fifo_queue_is_no_destination_of_a_stream(engine: Engine) -> None:
    queue = engine.queue("dead.fifo")
    assert "FIFO" in refused(lambda: engine.map(engine.stream("s"), handler, on_failure=queue))


def test_visibility_covers_the_time_limit(engine: Engine) -> None:
    engine.function(name="slow", timeout_seconds=31)(other)
    message = refused(lambda: engine.map(engine.queue("q"), "slow"))
    assert message.startswith("Queue visibility timeout: 30 seconds is less than Function timeout: 31 seconds")
    engine.map(engine.queue("long", visibility_timeout_seconds=31), "slow")  # equal is enough


async def test_what_a_mapping_names_may_be_declared_later_but_must_be_there_at_the_start() -> None:
    engine = virtual()
    engine.map(engine.queue("q"), "later")
    with pytest.raises(InvalidParameterValue, match="Function does not exist"):
        await engine.start()
    engine.function(name="later", timeout_seconds=31)(other)
    with pytest.raises(InvalidParameterValue, match="Queue visibility timeout: 30 seconds"):
        await engine.start()


def test_a_callable_that_is_no_function_is_refused(engine: Engine) -> None:
    assert "other is not a function of this engine" in refused(lambda: engine.map(engine.queue("q"), other))


@pytest.mark.parametrize("source", ["nowhere", "queue:nowhere", "stream:nowhere"])
def test_a_source_must_exist(engine: Engine, source: str) -> None:
    said = "Stream not found: arn:aws:kinesis:" if source.startswith("stream") else "The specified queue does not exist"
    assert said in refused(lambda: engine.map(source, handler))


def test_a_source_may_be_named_unless_the_name_means_two(engine: Engine) -> None:
    engine.stream("both")
    assert engine.map("both", handler).source == "stream:both"
    engine.queue("both")
    assert 'say "queue:both" or "stream:both"' in refused(lambda: engine.map("both", handler))
    assert engine.map("queue:both", handler).source == "queue:both"


@pytest.mark.parametrize("pattern", [{"data": "x"}, {"data": []}, "x", {"data": [{"EXISTS": True}]}, {}])
def test_an_invalid_filter_is_refused_when_it_is_declared(engine: Engine, pattern: object) -> None:
    message = refused(lambda: engine.map(engine.stream("s"), handler, filters=[pattern]))
    assert message.startswith("filters: Invalid filter pattern definition. ")
    assert not engine.control.mappings


def test_a_stream_does_not_report_to_itself(engine: Engine) -> None:
    stream = engine.stream("s")
    assert "own source" in refused(lambda: engine.map(stream, handler, on_failure=stream))
    assert "own source or function" in refused(lambda: engine.map(stream, handler, on_failure=handler))


# --------------------------------------------------------------------------- other sources


def test_a_url_of_a_known_source_says_what_to_install(engine: Engine) -> None:
    message = refused(lambda: engine.map("sqs://localhost/name", handler))
    assert "there is no source for sqs://" in message
    assert "pip install 'lambent[aws]'" in message


def test_a_url_of_an_unknown_source_names_the_entry_point(engine: Engine) -> None:
    message = refused(lambda: engine.map("ftp://x/y", handler))
    assert "an entry point 'ftp' of the group 'lambent.sources'" in message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://localhost:9092", "write kafka://HOST:PORT/TOPIC"),
        ("kafka://localhost:9092/orders?grup=x", "grup is no option; there are "),
        ("redis-queue://localhost/0/", "it names no queue: write redis-queue://HOST:PORT/DB/NAME"),
        ("redis-stream://localhost/zero/clicks", "the last part is the number of a database"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused_where_it_is_declared(engine: Engine, url: str, said: str) -> None:
    assert said in refused(lambda: engine.map(url, handler))
    assert said in refused(lambda: engine.on(url))


def test_a_password_that_is_not_there_yet_is_no_reason_to_refuse_a_url(engine: Engine) -> None:
    assert engine.map("kafka://ada@localhost:9092/orders?password_env=NOBODYS_PASSWORD", handler).source


def test_an_installed_package_brings_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drum_source.py").write_text("class Drum:\n    kind = 'stream'\n")
    package = tmp_path / "drum-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: drum\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[lambent.sources]\ndrum = drum_source:Drum\nflute = flute_source:Flute\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    engine = Engine("memory://")
    engine.function(handler)
    assert load_source("drum://x").kind == "stream"
    assert engine.map("drum://x", handler, parallelization_factor=2).source == "drum://x"
    assert '"drum://y" is a stream' in refused(lambda: engine.map("drum://y", handler, maximum_concurrency=2))
    assert "No module named 'flute_source'" in refused(lambda: engine.map("flute://x", handler))


@pytest.mark.parametrize("store", ["", "sqlite", "memory://x"])
def test_an_unknown_store_is_refused(store: str) -> None:
    assert "'redis://HOST:PORT/DB'" in refused(lambda: Engine(store))


def test_a_store_by_url_is_found_by_its_entry_point_or_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is not in what is said."""
    (tmp_path / "drum-1.0.dist-info").mkdir()
    (tmp_path / "drum-1.0.dist-info" / "entry_points.txt").write_text(
        "[lambent.stores]\ndrum = drum_store:open\nredis = nowhere:open\n"
    )
    (tmp_path / "drum_store.py").write_text("class open:\n    def __init__(self, url): self.connect = url\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert vars(load_store("drum://ada:secret@x")) == {"connect": "drum://ada:secret@x"}
    monkeypatch.setattr("lambent.sources.entry_points", lambda group: [])
    said = refused(lambda: Engine("redis://ada:secret@x"))
    assert said.startswith('"redis://x": there is no store for redis://. Install it with: pip install')
    assert "lambent[redis]" in said
    assert "an entry point 'drum' of the group 'lambent.stores'" in refused(lambda: Engine("drum://x"))


# --------------------------------------------------------------------------- documents


async def test_a_pause_survives_a_restart_and_new_options_win() -> None:
    store = MemoryStore()
    for batch_size in (5, 6):
        engine = virtual(store)
        engine.function(handler)
        mapping = engine.map(engine.queue("q"), handler, batch_size=batch_size)
        async with engine:
            if batch_size == 5:
                await mapping.pause()
            stored = (await engine.list_mappings())[mapping.id].mapping
            assert (stored.enabled, stored.batch_size) == (False, batch_size)
    engine = virtual(store)
    engine.function(handler)
    mapping = engine.map(engine.queue("q"), handler, enabled=True)
    async with engine:
        assert (await engine.list_mappings())[mapping.id].mapping.enabled  # for the code says so


async def test_a_seek_is_a_generation_in_the_document() -> None:
    engine = virtual()
    engine.function(handler)
    mapping = engine.map(engine.stream("s"), handler)
    queue = engine.map(engine.queue("q"), handler)
    async with engine:
        await mapping.seek("LATEST")
        await mapping.seek(datetime(2026, 1, 1, tzinfo=UTC))
        assert (await engine.list_mappings())[mapping.id].seek == Seek(2, "AT_TIMESTAMP", 1767225600.0)
        for wrong in ("EARLIEST", float("nan"), -1.0):
            with pytest.raises(InvalidParameterValue, match="starting_position"):
                await mapping.seek(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidParameterValue, match="time zone"):
            await mapping.seek(datetime(2026, 1, 1))
        with pytest.raises(InvalidParameterValue, match='seek is for stream mappings; "q" is a queue'):
            await queue.seek("LATEST")


async def test_a_mapping_is_created_updated_and_deleted_while_the_engine_runs() -> None:
    engine = virtual()
    engine.function(handler)
    async with engine:
        mapping = await engine.create_mapping(engine.queue("late"), handler, batch_size=2)
        with pytest.raises(ResourceConflict, match=mapping.id):
            await engine.create_mapping("late", "handler")
        await mapping.update(batch_size=3)
        assert (await engine.list_mappings())[mapping.id].mapping.batch_size == 3
        for change in ({"batch_size": 0}, {"source": "queue:x"}, {"bisect_batch_on_function_error": True}):
            with pytest.raises(InvalidParameterValue, match=next(iter(change))):
                await mapping.update(**change)
        await mapping.wait_until("Enabled")
        await mapping.delete()
        with pytest.raises(ResourceNotFound, match="The resource you requested does not exist"):
            await mapping.wait_until("Enabled")
        with pytest.raises(ResourceNotFound):
            await mapping.pause()


async def test_a_function_is_updated_for_every_engine_of_the_store() -> None:
    store = MemoryStore()
    one, two = virtual(store, seed=1), virtual(store, seed=2)
    for engine in (one, two):
        engine.function(name="f")(handler)
    async with one, two:
        await one.update_function("f", timeout_seconds=7)
        await asyncio.sleep(1)
        assert two.control.functions["f"].timeout_seconds == 7
        with pytest.raises(InvalidParameterValue, match="timeout_seconds: 0 is not allowed; it must be 1 to 900"):
            await one.update_function("f", timeout_seconds=0)
        await two.delete_function("f")
        await asyncio.sleep(1)
        with pytest.raises(ResourceNotFound):
            await one.invoke("f")


def test_states_are_the_way_from_what_runs_to_what_is_wanted() -> None:
    mapping = QueueMapping(source="queue:q", function="f")
    on = StoredMapping("m", mapping, Seek(0, ""))
    off = StoredMapping("m", mapping.model_copy(update={"enabled": False}), Seek(0, ""))
    sought = StoredMapping("m", mapping, Seek(1, "LATEST"))
    table = [
        (on, None, "Creating"),
        (on, on, "Enabled"),
        (on, sought, "Updating"),
        (off, on, "Disabling"),
        (off, None, "Disabled"),
        (None, on, "Deleting"),
    ]
    assert [state_of(wanted, running) for wanted, running, _ in table] == [state for *_, state in table]


async def test_functions_of_a_module_without_the_engine_are_included() -> None:
    functions = Functions()

    @functions.function(timeout_seconds=5)
    def first(event: Any) -> str:
        return "first"

    @functions.function
    def second(event: Any) -> str:
        return "second"

    @functions.on("queue:q", batch_size=3)
    def third(event: Any) -> None: ...

    functions.map("queue:q", second)
    assert first({}) == "first"
    engine = virtual()
    engine.queue("q")
    engine.include(functions)
    async with engine:
        assert [await engine.invoke(first), await engine.invoke("second")] == ["first", "second"]
        assert sorted(s.mapping.function for s in (await engine.list_mappings()).values()) == ["second", "third"]
        assert engine.control.functions["first"].timeout_seconds == 5
