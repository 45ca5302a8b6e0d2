"""Test events: saved with a function, by any client of its store, and gone with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lambent import (
    Client,
    Engine,
    InvalidParameterValue,
    InvalidRequestContent,
    LambentError,
    ResourceConflict,
    ResourceNotFound,
)
from lambent.ports import Store
from lambent.saved_events import MAXIMUM_CHARACTERS
from lambent.testing.loop import VirtualClock
from tests.engine.engines import virtual

pytestmark = pytest.mark.virtual_time


async def ok(event: Any, context: Any) -> Any:
    return event


def declared(store: Store, **options: Any) -> Engine:
    engine = virtual(store)
    engine.function(ok, name="f", **options)
    return engine


def client_of(engine: Engine) -> Client:
    return Client(engine.store, clock=VirtualClock(asyncio.get_running_loop()), seed=3)


async def test_saved_events_outlive_the_code_that_declares_their_function_anew(store: Store) -> None:
    async with declared(store) as engine, client_of(engine) as client:
        await client.put_test_event("f", "two", {"n": 2})
        await client.put_test_event("f", "one", b'{"n": 1}')
        await client.put_test_event("f", "one", {"n": 3}, force=True)
        assert list(await client.test_events("f")) == ["one", "two"]
    async with declared(store, timeout_seconds=9) as engine, client_of(engine) as client:
        assert await client.test_event("f", "one") == b'{"n": 3}'
        await client.delete_test_event("f", "one")
        assert await client.test_events("f") == {"two": '{"n": 2}'}


async def test_saved_events_go_with_their_function(store: Store) -> None:
    async with declared(store) as engine, client_of(engine) as client:
        await client.put_test_event("f", "one", {})
        await client.delete_function("f")
        with pytest.raises(ResourceNotFound, match="Function not found"):
            await client.test_events("f")
    async with declared(store) as engine, client_of(engine) as client:
        assert await client.test_events("f") == {}


@pytest.mark.parametrize(
    ("name", "event", "refused", "said"),
    [
        ("taken", {}, ResourceConflict, "has a test event taken already"),
        ("a/b", {}, InvalidParameterValue, "letters, digits, dots"),
        ("a" * 26, {}, InvalidParameterValue, "up to 25 letters"),
        ("", {}, InvalidParameterValue, "name: '' is not allowed"),
        ("a", b"{", InvalidRequestContent, "Could not parse"),
        ("a", "a" * MAXIMUM_CHARACTERS, InvalidParameterValue, "more than 100000 characters together"),
    ],
)
async def test_what_cannot_be_saved_is_refused_and_changes_nothing(
    store: Store, name: str, event: object, refused: type[LambentError], said: str
) -> None:
    async with declared(store) as engine, client_of(engine) as client:
        await client.put_test_event("f", "taken", {})
        with pytest.raises(refused, match=said):
            await client.put_test_event("f", name, event)
        assert await client.test_events("f") == {"taken": "{}"}
