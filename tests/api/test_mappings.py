"""Mappings by boto3: what becomes of one that is changed, deleted and created anew."""

from __future__ import annotations

import base64
import json
import queue
from collections.abc import Iterator
from typing import Any

import pytest

from lambent import Engine
from tests.api.asking import PYTHON, ROLE, zipped
from tests.api.server import ACCOUNT, REGION, Server, refused, served

QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:orders"
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/clicks"
HEARD: queue.Queue[tuple[str, list[str]]] = queue.Queue()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    engine = Engine(account_id=ACCOUNT, watchdog_seconds=0)
    for name in ("first", "second"):

        @engine.function(name=name)
        async def hears(event: Any, context: Any) -> None:
            records = event["Records"]
            bodies = [each.get("body") or base64.b64decode(each["kinesis"]["data"]).decode() for each in records]
            HEARD.put((context.function_name, bodies))

    engine.queue("orders", visibility_timeout_seconds=60)
    engine.stream("clicks")
    with served(engine) as running:
        yield running


@pytest.fixture
def api(server: Server) -> Iterator[Any]:
    client = server.client()
    yield client
    for each in client.list_event_source_mappings()["EventSourceMappings"]:
        client.delete_event_source_mapping(UUID=each["UUID"])


def map_to(api: Any, function: str, **options: Any) -> str:
    created = api.create_event_source_mapping(FunctionName=function, **options)
    wait_until(api, created["UUID"], "Enabled")
    return str(created["UUID"])


def wait_until(api: Any, identity: str, state: str) -> None:
    while api.get_event_source_mapping(UUID=identity)["State"] != state:
        pass


def test_a_mapping_may_feed_another_function_and_keeps_its_id(server: Server, api: Any) -> None:
    mapping = map_to(api, "first", EventSourceArn=QUEUE)
    updated = api.update_event_source_mapping(UUID=mapping, FunctionName="second")
    assert (updated["UUID"], updated["State"]) == (mapping, "Updating")
    assert updated["FunctionArn"].endswith(":function:second")
    wait_until(api, mapping, "Enabled")
    server.run(lambda: server.engine.queue("orders").send("hello"))
    assert HEARD.get(timeout=10) == ("second", ["hello"])
    assert api.list_event_source_mappings(FunctionName="first")["EventSourceMappings"] == []
    again = map_to(api, "first", EventSourceArn=QUEUE)  # which is free again
    assert again != mapping
    with refused("ResourceConflictException", 409) as error:
        api.update_event_source_mapping(UUID=again, FunctionName="second")
    assert mapping in error.message
    with refused("InvalidParameterValueException", 400) as error:
        api.update_event_source_mapping(UUID=again, FunctionName="nobody")
    assert error.message == "Function does not exist"


def test_a_stream_goes_on_with_the_other_function_where_it_was(server: Server, api: Any) -> None:
    clicks = server.engine.stream("clicks")
    mapping = map_to(api, "first", EventSourceArn=STREAM, StartingPosition="LATEST")
    server.run(lambda: clicks.put("one", key="k"))
    assert HEARD.get(timeout=10) == ("first", ["one"])
    api.update_event_source_mapping(UUID=mapping, FunctionName="second")
    server.run(lambda: clicks.put("two", key="k"))
    assert HEARD.get(timeout=10)[1] == ["two"]


def test_a_mapping_that_is_created_anew_begins_where_it_says_and_not_where_the_deleted_one_was(
    server: Server, api: Any
) -> None:
    clicks = server.engine.stream("clicks")
    mapping = map_to(api, "first", EventSourceArn=STREAM, StartingPosition="LATEST")
    server.run(lambda: clicks.put("three", key="k"))
    assert HEARD.get(timeout=10) == ("first", ["three"])
    api.delete_event_source_mapping(UUID=mapping)
    with refused("ResourceNotFoundException", 404):
        api.get_event_source_mapping(UUID=mapping)
    again = map_to(api, "first", EventSourceArn=STREAM, StartingPosition="TRIM_HORIZON")
    assert again != mapping, "one that was deleted is never spoken of again"
    found: list[str] = []
    while "three" not in found:
        found += HEARD.get(timeout=10)[1]
    assert found[-1] == "three"


def test_a_mapping_outlives_its_function_and_may_be_paused_or_given_another_one(server: Server, api: Any) -> None:
    given = {"Runtime": PYTHON, "Handler": "a.b", "Role": ROLE, "Code": {"ZipFile": zipped()}}
    api.create_function(FunctionName="gone", **given)
    mapping = map_to(api, "gone", EventSourceArn=QUEUE)
    api.delete_function(FunctionName="gone")
    wanted = {"UUID": mapping, "BatchSize": 3}
    assert api.update_event_source_mapping(**wanted)["BatchSize"] == 3
    assert api.update_event_source_mapping(UUID=mapping, Enabled=False)["State"] == "Disabling"
    wait_until(api, mapping, "Disabled")
    assert api.update_event_source_mapping(UUID=mapping, FunctionName="second", Enabled=True)["State"] == "Enabling"
    wait_until(api, mapping, "Enabled")
    server.run(lambda: server.engine.queue("orders").send("after all"))
    assert HEARD.get(timeout=10) == ("second", ["after all"])


def test_only_so_many_calls_are_kept_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambent.api.trail.MAXIMUM_ENTRIES", 5)
    monkeypatch.setattr("lambent.api.trail.TRIMMED_AFTER", 4)
    with served(Engine(account_id=ACCOUNT, watchdog_seconds=0)) as server:
        api = server.client()
        for number in range(13):  # trimmed with the first, fifth, ninth and thirteenth
            with refused("ResourceNotFoundException", 404):
                api.delete_function(FunctionName=f"f{number}")
        kept = server.run(lambda: server.engine.control.kept("api-call"))
    assert sorted(json.loads(each)["FunctionName"] for each in kept.values()) == sorted(f"f{n}" for n in range(8, 13))
