"""`lambent advise`, on a file that holds what an engine observed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lambent import Engine
from lambent.cli.app import app
from lambent.observing import MAPPING
from lambent.semantics.advising import Traffic

Lambent = Callable[..., Result]


def engine_on(store: str) -> Engine:
    engine = Engine(store)

    @engine.on(engine.stream("orders"), batch_size=10)
    async def pack(event: Any) -> None: ...

    @engine.on(engine.queue("letters"), timeout_seconds=20)
    async def post(event: Any) -> None: ...

    return engine


@pytest.fixture(scope="module")
def lambent(tmp_path_factory: pytest.TempPathFactory) -> Lambent:
    store = f"sqlite:///{tmp_path_factory.mktemp('advise') / 'app.db'}"
    engine = engine_on(store)
    seen = Traffic(dict.fromkeys(range(60), 100))
    for size in (1, 2, 5, 10) * 10:
        seen.ran(size, 0.2)

    async def day() -> None:
        async with engine:
            (identity,) = [n for n, each in (await engine.list_mappings()).items() if each.mapping.function == "pack"]
            await engine._living().connection.documents.put(MAPPING, identity, json.dumps(asdict(seen)))

    asyncio.run(day())
    return lambda *arguments: CliRunner().invoke(app, ["advise", *arguments, "--store", store])


def test_advise_says_what_loses_what_and_shows_how_other_settings_would_do(lambent: Lambent) -> None:
    told = lambent()
    assert told.exit_code == 0
    assert "queue letters loses events: visibility_timeout_seconds is 30.0; 120 would be better" in told.stdout
    pack = "mapping stream:orders -> pack"
    assert f"{pack} loses time: batch_size, maximum_batching_window_seconds is 10, 0; 100, 0 would be" in told.stdout
    assert f"{pack}: 40 calls observed; one takes 200.0 ms, and 0.00 ms a record" in told.stdout
    rows = [line.split() for line in told.stdout.splitlines()]
    (now,) = [row for row in rows if row[:1] == ["now"]]
    assert now[1:4] == ["10", "0", "s"]


def test_advise_tells_scripts_what_it_rests_on(lambent: Lambent) -> None:
    told = json.loads(lambent("--json").stdout)
    assert {each["loses"] for each in told["advice"]} == {"events", "time"}
    (sweep,) = told["sweeps"]
    assert (sweep["calls"], sweep["now"]["settings"]["batch_size"]) == (40, 10)
    assert len(sweep["swept"]) == 20


def test_advise_draws_delay_against_calls(lambent: Lambent, tmp_path: Path) -> None:
    assert lambent("--plot", str(tmp_path / "advice.png")).exit_code == 0
    assert (tmp_path / "advice.png").stat().st_size > 10_000
    wrong = lambent("--plot", str(tmp_path / "nowhere" / "advice.png"))
    assert (wrong.exit_code, "--plot" in wrong.stderr) == (1, True)
