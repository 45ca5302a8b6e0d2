"""What Prometheus scrapes of `lambent run --metrics`, and of an application that registers the collector itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from lambent import Engine
from lambent.cli.app import app
from lambent.prometheus import MAXIMUM_SUBJECTS, OTHERS, EngineCollector
from lambent.telemetry import DURATION, INVOCATIONS, ITERATOR_AGE, OFFSET_LAG
from tests.cli.test_health import got
from tests.cli.test_run import line_with, running

APP = """
from lambent import Engine
from prometheus_client import Counter

packed = Counter("packed", "What the application counts itself")
engine = Engine(health_seconds=0.1)
orders = engine.queue("orders", visibility_timeout_seconds=60)

@engine.on(orders, batch_size=10)
async def pack(event):
    packed.inc(len(event["Records"]))

@engine.function
async def fails(event):
    raise ValueError("no")
"""
PATIENCE_SECONDS = 30.0

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    """By name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(*engines: Engine) -> Series:
    registry = CollectorRegistry()
    for each in engines:
        registry.register(EngineCollector(each))
    return series(generate_latest(registry).decode())


def test_lambent_run_tells_prometheus_what_its_functions_and_mappings_do(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    store = f"sqlite:///{tmp_path / 'lambent.db'}"
    with running(tmp_path, "app.py", "--metrics", "0", "--health", "localhost:0") as process:
        told = json.loads(line_with(process.stderr, "serving"))
        assert told["metrics"].startswith("http://127.0.0.1:")
        assert CliRunner().invoke(app, ["invoke", "fails", "{}", "--store", store]).exit_code == 1
        for _ in range(3):
            assert CliRunner().invoke(app, ["send", "orders", "{}", "--store", store]).exit_code == 0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with urlopen(told["metrics"], timeout=PATIENCE_SECONDS) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                found = series(answer.read().decode())
            deleted = {
                labels: value for (name, labels), value in found.items() if name == "lambent_deleted_events_total"
            }
            if sum(deleted.values()) == 3:
                break
            assert time.monotonic() < deadline
        ((labels, _),) = deleted.items()
        assert dict(labels).keys() == {"function", "mapping", "source"}
        assert {("function", "pack"), ("source", "queue:orders")} < labels
        of_fails = frozenset({("function", "fails")})
        assert found["lambent_errors_total", of_fails] == found["lambent_invoke_duration_seconds_count", of_fails] == 1
        assert found["lambent_healthy", frozenset()] == 1
        assert found["packed_total", frozenset()] == 3
        assert found["process_resident_memory_bytes", frozenset()] > 1_000_000
        for url in (told["health"], told["metrics"].replace("/metrics", "/health")):
            assert got(url)[0] == 200
        assert got(told["metrics"], method="HEAD") == (200, {})
        assert got(told["health"].replace("/health", "/metrics"))[0] == 404, "it was asked for elsewhere"


def test_one_address_for_both_is_one_endpoint(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with running(tmp_path, "app.py", "--metrics", ":0", "--health", "127.0.0.1:0") as process:
        told = json.loads(line_with(process.stderr, "serving"))
        assert told["health"].removesuffix("/health") == told["metrics"].removesuffix("/metrics")
        assert got(told["health"])[0] == 200


def test_without_the_extra_metrics_say_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.replace("from prometheus_client import Counter", "Counter = print"))
    program = "import sys; sys.modules['prometheus_client'] = None; from lambent.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "app.py", "--metrics", "0"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, "pip install 'lambent[metrics]'" in ended.stderr) == (2, True), ended.stderr


async def test_an_application_registers_a_collector_of_its_own() -> None:
    engine = Engine()

    @engine.function
    async def greet(event: object) -> str:
        return "Hello"

    assert scraped(engine)["lambent_healthy", frozenset()] == 0
    async with engine:
        await engine.invoke(greet)
        found = scraped(engine)
    assert found["lambent_invocations_total", frozenset({("function", "greet")})] == 1
    assert found["lambent_healthy", frozenset()] == 1


def test_a_registry_refuses_a_second_engine_whose_series_would_be_the_same() -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        scraped(Engine(), Engine())


def test_a_shard_has_a_series_of_its_own_and_a_password_none() -> None:
    engine = Engine()
    engine.telemetry.mappings["m"] = "kafka://user:secret@host/topic", "f"
    engine.telemetry.gauge(OFFSET_LAG, lambda: {"m/topic-0": 7})
    engine.telemetry.observe(ITERATOR_AGE, "m", 3.0)
    engine.telemetry.observe(ITERATOR_AGE, "m", 2.0)
    labels = {("function", "f"), ("mapping", "m"), ("source", "kafka://host/topic")}
    found = scraped(engine)
    assert found["lambent_offset_lag", frozenset({*labels, ("shard", "topic-0")})] == 7
    assert found["lambent_iterator_age_seconds", frozenset(labels)] == 2.0


def test_series_are_bounded_and_what_is_beyond_is_added_up() -> None:
    engine, others = Engine(), frozenset({("function", OTHERS)})
    for number in range(MAXIMUM_SUBJECTS + 3):
        engine.telemetry.count(INVOCATIONS, f"f{number}", 2)
        engine.telemetry.observe(DURATION, f"f{number}", 0.5)
        engine.telemetry.observe(ITERATOR_AGE, f"f{number}", number)
    found = scraped(engine)
    assert len([name for name, _ in found if name == "lambent_invocations_total"]) == MAXIMUM_SUBJECTS + 1
    assert found["lambent_invocations_total", others] == 6
    assert found["lambent_invoke_duration_seconds_sum", others] == 1.5
    assert found["lambent_iterator_age_seconds", others] == MAXIMUM_SUBJECTS + 2
