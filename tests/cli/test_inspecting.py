"""`lambent why` and `lambent audit`, on a file whose engine has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lambent import Engine
from lambent.cli import inspecting
from lambent.cli.app import app
from lambent.semantics.auditing import Account, Audit

Lambent = Callable[..., Result]


class Left(NamedTuple):
    """What a day has left behind: ids by what became of them."""

    lambent: Lambent
    event: str
    waiting: str
    records: list[str]


def engine_on(store: str) -> Engine:
    engine = Engine(store, async_retry_delays_seconds=(600, 600))

    @engine.function
    async def charge(event: Any) -> str:
        if event["n"] < 0:
            raise ValueError("no money")
        return "charged"

    @engine.on(engine.stream("orders", shards=2), filters=[{"data": {"n": [1, 2]}}])
    async def pack(event: Any) -> None: ...

    return engine


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    store = f"sqlite:///{tmp_path_factory.mktemp('why') / 'app.db'}"
    engine = engine_on(store)

    async def day() -> tuple[str, str, list[str]]:
        done = asyncio.Event()
        engine.telemetry.subscribe(lambda *step: done.set())
        async with engine:
            ids = [await engine.invoke_async("charge", {"n": n}) for n in (1, -1)]
            records = await engine.stream("orders").put_many([({"n": n}, str(n)) for n in (1, 2, 3)])
            (identity,) = await engine.list_mappings()
            wanted = ["succeeded", "waiting"]
            while (await engine.audit(identity)).total.passed != 3 or [
                (await engine.event(each)).state for each in ids
            ] != wanted:
                await done.wait()
                done.clear()
            return ids[0], ids[1], list(records)

    event, waiting, records = asyncio.run(day())
    return Left(lambda *arguments: CliRunner().invoke(app, [*arguments, "--store", store]), event, waiting, records)


def test_why_says_in_sentences_where_an_event_is(left: Left) -> None:
    ended = left.lambent("why", left.event)
    assert ended.exit_code == 0
    assert ended.stdout.startswith(f"succeeded  {left.event}  (event -> charge)\n  It succeeded at ")
    waits = left.lambent("why", left.waiting)
    assert "Attempt 1 failed: ValueError: no money." in waits.stdout
    assert "No engine is running on this store" in waits.stdout


def test_why_says_for_scripts_what_became_of_a_record(left: Left) -> None:
    for record, verdict in zip(left.records, ("delivered", "delivered", "filtered"), strict=True):
        told = json.loads(left.lambent("why", record, "--json").stdout)
        assert (told["kind"], told["verdict"], told["source"]) == ("record", verdict, "stream:orders")
    assert told["misses"] == ["data.n is 3, not one of [1, 2]"]


def test_why_ends_with_1_if_nothing_is_known(left: Left) -> None:
    ended = left.lambent("why", "nothing")
    assert (ended.exit_code, "This store knows no event" in ended.stdout) == (1, True)


def test_audit_shows_the_books_of_a_mapping_by_shard_and_together(left: Left) -> None:
    shown = left.lambent("audit", "stream:orders/pack")
    assert shown.exit_code == 0
    assert "stream:orders -> pack" in shown.stdout
    assert "Each record that it passed has one fate." in shown.stdout
    (total,) = [line.split() for line in shown.stdout.splitlines() if line.startswith("all")]
    assert total == ["all", "3", "2", "1", "0", "0", "0", "0", "0", "yes"]
    (told,) = [json.loads(line) for line in left.lambent("audit", "--json").stdout.splitlines()]
    assert (told["balanced"], told["total"]["came"], told["total"]["delivered"]) == (True, 3, 2)
    assert sorted(told["shards"]) == ["shardId-000000000000", "shardId-000000000001"]


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (Account(3, 3, {("delivered", ""): 2, ("failed", "RecordAgeExceeded"): 2}, 0), "this must not be"),
        (Account(None, None, {("delivered", ""): 2}, None), "its source lies outside of the store"),
    ],
)
def test_audit_says_what_does_not_balance_and_what_cannot_be_known(
    account: Account, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inspecting._tell(Audit("id", "stream:s", "f", {"shard": account}))
    out = capsys.readouterr().out
    assert said in out
    assert ("failed: 2 by RecordAgeExceeded" in out) == (account.count("failed") > 0)
