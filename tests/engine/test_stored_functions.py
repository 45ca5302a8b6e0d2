"""How functions lie in a store: a document for each version that was published, and what is left by who died."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lambent import MemoryStore
from lambent.configuration import ExecutionEnvironment, PublishedVersion
from lambent.model import Function
from lambent.ports import Document, Documents, Store, World
from lambent.stored import Stored
from lambent.stored_functions import FUNCTION, UNNAMED_SECONDS, VERSION, StoredFunction, StoredFunctions, Version
from lambent.testing.loop import VirtualClock
from lambent.world import ids_of

pytestmark = pytest.mark.virtual_time

Change = Callable[[StoredFunctions], Awaitable[object]]
NEW = StoredFunction(Stored({}, "api"))


class Killed(Exception):
    """The process is gone."""


class Dying:
    """Documents of a process that dies instead of its `last`th write, and then does nothing any more."""

    def __init__(self, documents: Documents, last: float = float("inf")) -> None:
        self._documents = documents
        self._last = last
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)

    async def put(self, kind: str, name: str, body: str, *options: Any) -> Document | None:
        self._write(f"{kind} {name}")
        return await self._documents.put(kind, name, body, *options)

    async def delete(self, kind: str, name: str) -> bool:
        self._write(f"no {kind} {name}")
        return await self._documents.delete(kind, name)

    def _write(self, what: str) -> None:
        if len(self.written) >= self._last:
            raise Killed
        self.written.append(what)


everywhere = pytest.mark.parametrize("store", ["memory", "sqlite", "redis"], indirect=True)


@asynccontextmanager
async def documents_of(store: Store) -> AsyncIterator[Documents]:
    chance = random.Random(5)
    world = World("engine", VirtualClock(asyncio.get_running_loop()), chance.random, ids_of(chance))
    connection = await store.connect(world)
    try:
        yield connection.documents
    finally:
        await connection.close()


def functions(documents: Any, clock: Callable[[], float] = lambda: 0.0) -> StoredFunctions:
    """What another process sees."""
    found = StoredFunctions(clock)
    found.connect(documents)
    return found


def version(number: str) -> Version:
    return Version.of(PublishedVersion(timeout_seconds=int(number)), {"code": {"size": 10}, "number": number})


def published(found: StoredFunction | None) -> StoredFunction:
    """One more version."""
    known = NEW.versions if found is None else found.versions
    number = str(len(known) + 1)
    return (found or NEW).configured(Function(name="f"), {**known, number: version(number)})


def without_the_first(found: StoredFunction | None) -> StoredFunction:
    assert found is not None
    return found.configured(found.function, {number: each for number, each in found.versions.items() if number != "1"})


async def names(documents: Documents, kind: str) -> list[str]:
    return sorted(each.name for each in await documents.list(kind))


async def state(documents: Documents) -> dict[str, int] | None:
    """What a new process finds: the versions and their time limits."""
    found = await functions(documents).get("f")
    if found is None:
        return None
    assert found.stored.versions.keys() in (set(), found.function.versions.keys()), "none is missing"
    assert all(each.api["number"] == number for number, each in found.versions.items())
    return {number: each.timeout_seconds for number, each in found.function.versions.items()}


def earlier() -> str:
    """A function's document as it was when versions had none: they are within."""
    environment = ExecutionEnvironment(runtime="python3.13", code="/f", handler="a.b", provisioned_concurrency=2)
    first, second = PublishedVersion(timeout_seconds=1, environment=environment), PublishedVersion(timeout_seconds=2)
    versions = {"1": first.model_dump(mode="json"), "2": second.model_dump(mode="json")}
    configuration = Function(name="f", timeout_seconds=9).model_dump(mode="json", exclude={"provisioned_of"})
    kept = {number: {"number": number, "code": {"size": 10}} for number in versions}
    api = {"name": "f", "latest": {"code": {"size": 7}}, "versions": kept}
    return Stored(configuration | {"versions": versions}, "api", api=api).body()


# --------------------------------------------------------------------------- what is written


async def test_publishing_writes_the_new_version_and_no_other() -> None:
    async with documents_of(MemoryStore()) as documents:
        counted = Dying(documents)
        stored = functions(counted)
        for _ in range(200):
            counted.written.clear()
            found = await stored.change("f", published)
        reference = found.versions["200"].reference
        assert counted.written == [f"version f:200:{reference}", "function f"]
        document = await documents.get(FUNCTION, "f")
        assert document is not None
        assert len(document.body) < 200 * 40 + 1000, "it has no more than the reference of each"


async def test_what_others_published_is_read_once_and_not_with_every_look() -> None:
    asked: list[str] = []

    class Counting(Dying):
        async def get(self, kind: str, name: str) -> Document | None:
            asked.append(kind)
            return await documents.get(kind, name)

        async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
            asked.append(f"all {kind}s" if not after else f"new {kind}s")
            return await documents.list(kind, after)

    async with documents_of(MemoryStore()) as documents:
        writing, reading = functions(documents), functions(Counting(documents))
        for _ in range(3):
            await writing.change("f", published)
        assert (await reading.look())["f"].function.versions.keys() == {"1", "2", "3"}
        assert asked == ["all functions", "all versions"]
        asked.clear()
        await writing.change("f", published)
        assert (await reading.look())["f"].function.versions.keys() == {"1", "2", "3", "4"}
        assert asked == ["new functions", VERSION]


@everywhere
async def test_writers_at_once_lose_nothing_and_what_they_left_is_removed(store: Store) -> None:
    async with documents_of(store) as documents:
        writers = [functions(documents) for _ in range(4)]
        await asyncio.gather(*(each.change("f", published) for each in writers))
        assert await state(documents) == {"1": 1, "2": 2, "3": 3, "4": 4}
        await collected(documents)


# --------------------------------------------------------------------------- who dies


async def collected(documents: Documents) -> None:
    """After a while the only versions are those that functions name."""
    hours = iter(range(0, 100_000, 3600))
    collecting = functions(documents, lambda: next(hours))
    await collecting.collect()
    await collecting.collect()
    found = await functions(documents).get("f")
    wanted = {} if found is None else found.references
    assert await names(documents, VERSION) == sorted(f"f:{number}:{each}" for number, each in wanted.items())


@everywhere
@pytest.mark.parametrize(
    ("change", "after"),
    [
        (lambda stored: stored.change("f", published), {"1": 1, "2": 2, "3": 3}),
        (lambda stored: stored.change("f", without_the_first), {"2": 2}),
        (lambda stored: stored.delete("f"), None),
    ],
    ids=["publish", "delete a version", "delete the function"],
)
@pytest.mark.parametrize("old", [False, True], ids=["", "in a store of before"])
async def test_who_dies_between_two_writes_leaves_a_function_as_it_was_or_as_it_was_to_be(
    store: Store, change: Change, after: dict[str, int] | None, old: bool
) -> None:
    async with documents_of(store) as documents:
        for last in range(10):
            await functions(documents).delete("f")
            if old:
                await documents.put(FUNCTION, "f", earlier())
            else:
                for _ in range(2):
                    await functions(documents).change("f", published)
            died = False
            try:
                await change(functions(Dying(documents, last)))
            except Killed:
                died = True
            assert await state(documents) in ([after] if not died else [{"1": 1, "2": 2}, after])
            if last == 1:  # a later one goes on from there
                await functions(documents).change("f", published)
                assert await state(documents) is not None
            if not died:
                break
        assert last > 0
        await collected(documents)


async def test_a_version_is_removed_only_if_no_function_has_named_it_for_a_while() -> None:
    async with documents_of(MemoryStore()) as documents:
        now = 0.0
        collecting = functions(documents, lambda: now)
        first = version("1")
        await documents.put(VERSION, f"f:1:{first.reference}", first.body())
        await documents.put(VERSION, "gone:1:0123456789abcdef", first.body())
        await collecting.collect()
        now += UNNAMED_SECONDS / 2
        await collecting.collect()
        assert len(await names(documents, VERSION)) == 2, "who wrote them may be about to name them"
        await functions(documents).change("f", published)  # as one does now
        now += UNNAMED_SECONDS
        await collecting.collect()
        assert await names(documents, VERSION) == [f"f:1:{first.reference}"]


async def test_a_function_goes_on_without_a_version_that_is_lost() -> None:
    async with documents_of(MemoryStore()) as documents:
        for _ in range(3):
            found = await functions(documents).change("f", published)
        await documents.delete(VERSION, f"f:2:{found.versions['2'].reference}")
        assert (await functions(documents).look())["f"].function.versions.keys() == {"1", "3"}
        await functions(documents).change("f", without_the_first)
        assert await state(documents) == {"3": 3}


# --------------------------------------------------------------------------- stores of earlier releases


@everywhere
async def test_a_document_that_has_its_versions_within_is_read_and_taken_apart_when_it_is_written(
    store: Store,
) -> None:
    async with documents_of(store) as documents:
        await documents.put(FUNCTION, "f", earlier())
        stored = functions(documents)
        seen = (await stored.look())["f"]
        assert (seen.code_bytes, seen.function.provisioned_of, seen.function.timeout_seconds) == (27, {"1": 2}, 9)
        assert await state(documents) == {"1": 1, "2": 2}
        assert await names(documents, VERSION) == [], "to read it writes nothing"
        found = await stored.change("f", published)
        assert found.function.versions["1"].environment is not None
        assert found.function.provisioned_of == {}, "its configuration is what is said now"
        document = await documents.get(FUNCTION, "f")
        assert document is not None
        written = json.loads(document.body)
        assert written["versions"].keys() == {"1", "2", "3"}
        assert "versions" not in written["configuration"]
        assert "versions" not in written["api"]
        assert await state(documents) == {"1": 1, "2": 2, "3": 3}


async def test_versions_that_a_declared_function_had_lost_by_a_restart_are_there_again() -> None:
    async with documents_of(MemoryStore()) as documents:
        api = {"latest": {"code": {"size": 0}}, "versions": {"1": {"members": {"Timeout": 7}, "code": {"size": 0}}}}
        configuration = Function(name="f").model_dump(mode="json")
        await documents.put(FUNCTION, "f", Stored(configuration, "code", api=api).body())
        found = await functions(documents).get("f")
        assert found is not None
        assert found.function.versions["1"].timeout_seconds == 7
