"""Many functions, or many versions of one: what is asked of all of them reads none of them whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lambent import Engine, MemoryStore
from lambent.api.concurrency import MINIMUM_UNRESERVED
from lambent.ports import Document, World
from lambent.stores.memory import Connection, MemoryDocuments
from tests.api.asking import ROLE, Api, api_of

URI = "111111111111.dkr.ecr.us-east-1.amazonaws.com/repository:1"


class Counting(MemoryStore):
    """Says how many documents of functions were given."""

    given = 0

    async def connect(self, world: World, client: bool = False) -> Connection:
        connection, store = await super().connect(world, client), self

        class Documents(MemoryDocuments):
            async def get(self, kind: str, name: str) -> Document | None:
                store.given += kind in ("function", "version")
                return await super().get(kind, name)

            async def list(self, kind: str, after: int = 0) -> Sequence[Document]:
                found = await super().list(kind, after)
                store.given += len(found) if kind in ("function", "version") else 0
                return found

        connection.documents = Documents(self._documents, self._clock)
        return connection


@asynccontextmanager
async def served(store: Any) -> AsyncIterator[Api]:
    async with Engine(store, watchdog_seconds=0, state_change_seconds=0.0) as engine:
        yield api_of(engine)


async def create(api: Api, name: str) -> None:
    reply = await api.ask("CreateFunction", FunctionName=name, Role=ROLE, PackageType="Image", Code={"ImageUri": URI})
    assert reply.status == 201, reply.document


async def listed(api: Api, operation: str = "ListFunctions", **params: Any) -> list[str]:
    """The ARNs of what is listed, page after page."""
    found: list[str] = []
    while True:
        answer = (await api.ask(operation, **params)).document
        found += [
            each["FunctionArn"].partition(":function:")[2] for each in answer.get("Functions", answer.get("Versions"))
        ]
        if (marker := answer.get("NextMarker")) is None:
            return found
        params["Marker"] = marker


async def test_lists_settings_and_reservations_cost_no_more_with_many_functions() -> None:
    store = Counting()
    async with served(store) as api:
        for number in range(60):
            await create(api, f"f{number:02}")
        assert (await api.ask("GetAccountSettings")).document["AccountUsage"]["FunctionCount"] == 60
        store.given = 0
        assert (await api.ask("GetAccountSettings")).document["AccountUsage"]["FunctionCount"] == 60
        assert store.given == 0
        marker = (await api.ask("ListFunctions", MaxItems=7)).document["NextMarker"]
        assert len((await api.ask("ListFunctions", MaxItems=7, Marker=marker)).document["Functions"]) == 7
        assert store.given == 14
        store.given = 0
        assert (
            await api.ask("PutFunctionConcurrency", FunctionName="f01", ReservedConcurrentExecutions=5)
        ).status == 200
        assert store.given <= 3


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_what_one_server_reserved_counts_at_once_at_another_of_the_store(
    kind: str, request: pytest.FixtureRequest
) -> None:
    store: Any = MemoryStore() if kind == "memory" else request.getfixturevalue("redis_url")
    async with served(store) as one, served(store) as other:
        for name in ("a", "b"):
            await create(one, name)
        for api in (one, other):
            answer = (await api.ask("GetAccountSettings")).document
            assert answer["AccountUsage"]["FunctionCount"] == 2
        reserve = {"FunctionName": "a", "ReservedConcurrentExecutions": 1000 - MINIMUM_UNRESERVED}
        assert (await one.ask("PutFunctionConcurrency", **reserve)).status == 200
        refused = await other.ask("PutFunctionConcurrency", FunctionName="b", ReservedConcurrentExecutions=1)
        assert (refused.status, refused.error) == (400, "InvalidParameterValueException")
        assert (await one.ask("DeleteFunction", FunctionName="a")).status == 204
        assert (await other.ask("PutFunctionConcurrency", **reserve | {"FunctionName": "b"})).status == 200
        answer = (await one.ask("GetAccountSettings")).document
        assert answer["AccountLimit"]["UnreservedConcurrentExecutions"] == MINIMUM_UNRESERVED
        assert answer["AccountUsage"]["FunctionCount"] == 1
        assert await listed(one) == await listed(other) == ["b"]


async def test_versions_are_listed_in_pages_with_their_functions_or_alone() -> None:
    async with served(MemoryStore()) as api:
        for name in ("b", "a"):
            await create(api, name)
            for number in range(1, 6):
                for operation in ("UpdateFunctionConfiguration", "PublishVersion"):
                    assert (await api.ask(operation, FunctionName=name, Description=str(number))).status < 300
        await api.ask("DeleteFunction", FunctionName="a", Qualifier="3")
        a, b = (
            [f"{name}:{each}" for each in ("$LATEST", *numbers)] for name, numbers in (("a", "1245"), ("b", "12345"))
        )
        assert await listed(api, MaxItems=4, FunctionVersion="ALL") == a + b
        assert await listed(api, MaxItems=1) == ["a", "b"]
        assert await listed(api, "ListVersionsByFunction", FunctionName="a", MaxItems=2) == a


async def test_what_a_call_published_of_a_declared_function_runs_after_a_restart() -> None:
    store = MemoryStore()

    def declared() -> Engine:
        engine = Engine(store, watchdog_seconds=0)

        @engine.function
        async def says(event: Any, context: Any) -> Any:
            return context.function_version

        return engine

    async with declared() as engine:
        api = api_of(engine)
        assert (await api.ask("PublishVersion", FunctionName="says")).document["Version"] == "1"
        assert (await api.ask("CreateAlias", FunctionName="says", Name="live", FunctionVersion="1")).status == 201
    async with declared() as engine:
        api = api_of(engine)
        for qualifier in ("1", "live"):
            reply = await api.ask("Invoke", FunctionName="says", Qualifier=qualifier)
            assert (reply.status, reply.document) == (200, "1")
