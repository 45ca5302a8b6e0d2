"""compose.yaml and the Dockerfile: what they promise of safety, that they agree with the servers of the tests, and that
the commands in them do what they say, with the servers of the tests where there is no Docker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from examples.flights.app import flights
from examples.flights.board import Board
from examples.flights.data import truth
from tests.cli.test_metrics import Series, series
from tests.cli.test_run import line_with
from tests.servers import kafka_topics
from tests.servers.kafka import CLUSTER_ID, POM, SETTINGS, KafkaProcess
from tests.servers.redis import RedisProcess

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-[\w.-]+)?$")
LIMIT = 2_000
ENGINES = 2
PATIENCE_SECONDS = 60.0

Complaints = Iterator[str]


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]  # or it is no time at all
    return float(number) * {"s": 1, "m": 60}[unit]


def complaints(service: Mapping[str, Any], drain_seconds: float) -> Complaints:
    """What is unsafe or left to chance in a service."""
    ours = "build" in service
    if not VERSION.match(service.get("image", "")):
        yield "its image has no version"
    if ours and not service["image"].endswith(f":{PROJECT['version']}"):
        yield "its image has another version than the project"
    if not ours and str(service.get("user", "0")).partition(":")[0] in ("0", "root"):
        yield "it may run as root"
    if service.get("privileged") or "no-new-privileges:true" not in service.get("security_opt", []):
        yield "it may become root"
    if (
        service.get("cap_drop") != ["ALL"]
        or service.get("cap_add")
        or service.get("network_mode")
        or service.get("pid")
    ):
        yield "it may do more than it needs"
    if not {"mem_limit", "cpus", "pids_limit"} <= service.keys():
        yield "nothing limits its memory, its cores or its processes"
    for port in service.get("ports", []):
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port)):
            yield f"{port} is published to others than this machine"
    check = service.get("healthcheck", {"test": "the Dockerfile's"} if ours else {})
    if "test" not in check and not (check.get("disable") and service.get("restart") == "no"):
        yield "nobody knows whether it is well"
    if seconds(service.get("stop_grace_period", "0s")) <= (drain_seconds if service.get("image") == ENGINE else 0):
        yield "it is killed while it drains"
    for volume in service.get("volumes", []):
        source, _, rest = volume.partition(":")
        if source not in COMPOSE["volumes"] and not (rest.endswith(":ro") and (ROOT / source).is_file()):
            yield f"{volume} is neither a named volume nor a file to be read"


ENGINE = SERVICES["engine"]["image"]


def drain_seconds() -> float:
    return flights(Board()).engine.settings.drain_seconds


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_limited_checked_and_not_root(name: str) -> None:
    drains = drain_seconds() if name == "engine" else 0.0
    assert not list(complaints(SERVICES[name], drains))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("redis", "image", "valkey/valkey:latest"),
        ("redis", "image", "valkey/valkey"),
        ("engine", "image", "lambent:9.9.9"),
        ("kafka", "user", "0:0"),
        ("kafka", "user", None),
        ("engine", "privileged", True),
        ("engine", "security_opt", []),
        ("redis", "cap_add", ["SYS_ADMIN"]),
        ("redis", "network_mode", "host"),
        ("bench", "mem_limit", None),
        ("kafka", "ports", ["9092:9092"]),
        ("kafka", "ports", ["0.0.0.0:9092:9092"]),
        ("redis", "healthcheck", None),
        ("engine", "healthcheck", {"disable": True}),
        ("engine", "stop_grace_period", "10s"),
        ("redis", "stop_grace_period", None),
        ("redis", "volumes", ["/srv:/data"]),
    ],
)
def test_a_service_that_is_unsafe_is_noticed(name: str, option: str, value: object) -> None:
    changed = {**SERVICES[name], option: value}
    assert list(complaints({key: each for key, each in changed.items() if each is not None}, drain_seconds()))


def test_a_service_can_be_scaled() -> None:
    assert not {"ports", "container_name", "hostname"} & SERVICES["engine"].keys()


def test_the_dockerfile_is_pinned_and_ends_as_somebody_who_is_not_root() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    names = {name for _, name in stages}
    assert {service["build"]["target"] for service in SERVICES.values() if "build" in service} <= names
    for image, _ in stages:
        assert image in names or VERSION.match(image), f"{image} has no version"
    users = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert users
    assert all(int(user) for user in users)
    assert 'CMD ["lambent", "health", "--at", "9100"]' in DOCKERFILE


def test_what_the_dockerfile_copies_is_there_and_what_it_installs_has_a_name() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    for line in re.findall(r"^COPY (?:--chown=\S+ )?(?!--)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, f"{source} is not sent to the builder"
    for extras in re.findall(r"'\.\[(.+?)\]'", DOCKERFILE):
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_redis_has_the_settings_and_the_version_of_the_tests_server(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    server, *options = SERVICES["redis"]["command"]
    found = dict(option.removeprefix("--").split(" ", 1) for option in options)
    known = RedisProcess(tmp_path, "always").options
    assert {name: found[name].strip('"') for name in found if name in known} == {
        name: known[name] for name in ("appendonly", "appendfsync", "save")
    }
    assert found["maxmemory-policy"] == "noeviction", "an engine refuses any other"
    told = redis_process.ask("INFO", "server").decode()
    name, version = (re.search(rf"{each}:(\S+)", told)[1] for each in ("server_name", "valkey_version"))  # type: ignore[index]
    assert (server, SERVICES["redis"]["image"]) == (f"{name}-server", f"{name}/{name}:{version}-bookworm")


def test_kafka_has_the_settings_and_the_version_of_the_tests_broker() -> None:
    service = SERVICES["kafka"]
    assert f"<kafka.version>{service['image'].partition(':')[2]}</kafka.version>" in POM.read_text("utf-8")
    told = {name: str(value) for name, value in service["environment"].items()}
    assert told["CLUSTER_ID"] == CLUSTER_ID
    for name, value in SETTINGS.items():
        assert told[f"KAFKA_{name.upper().replace('.', '_')}"] == value, name


def test_prometheus_scrapes_every_engine_where_it_tells() -> None:
    mounted = SERVICES["prometheus"]["volumes"][0].split(":")[0]
    (scraped,) = yaml.safe_load((ROOT / mounted).read_text("utf-8"))["scrape_configs"]
    (found,) = scraped["dns_sd_configs"]
    assert found["names"] == ["engine"]
    command = SERVICES["engine"]["command"]
    assert command[command.index("--metrics") + 1] == f"0.0.0.0:{found['port']}"
    assert f"EXPOSE {found['port']}" in DOCKERFILE


# --------------------------------------------------------------------------- what the commands do


def words(service: str, places: Mapping[str, str]) -> list[str]:
    """The command of a service, with other places than in its container."""
    entry = SERVICES[service].get("entrypoint") or ["lambent"]
    program = {"lambent": ["-m", "lambent.cli"], "python": []}[entry[0]]
    told = [*program, *entry[1:], *SERVICES[service]["command"]]
    return [sys.executable, *(places.get(word, word) for word in told)]


def started(service: str, places: Mapping[str, str], folder: Path, *more: str) -> subprocess.Popen[str]:
    environment = {name: places.get(value, value) for name, value in SERVICES[service].get("environment", {}).items()}
    return subprocess.Popen(
        [*words(service, places), *more],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_stacks_commands_play_the_flights_with_exact_totals_and_tell_prometheus(
    redis_url: str, kafka_process: KafkaProcess, topic: str, tmp_path: Path
) -> None:
    asked = SERVICES["topics"]["command"]
    partitions = int(asked[asked.index("--partitions") + 1])
    asyncio.run(kafka_topics.create(kafka_process.address, topic, partitions=partitions))
    places = {
        "redis://redis:6379/0": redis_url,
        f"kafka://kafka:9092/{asked[asked.index('--topic') + 1]}": f"kafka://{kafka_process.address}/{topic}",
        "0.0.0.0:9100": "127.0.0.1:0",
        "examples/flights/served.py": str(ROOT / "examples/flights/served.py"),
        "/board/flights-board.db": str(tmp_path / "flights-board.db"),
    }
    with ExitStack() as stack:
        engines = [stack.enter_context(started("engine", places, tmp_path)) for _ in range(ENGINES)]
        for engine in engines:
            stack.callback(engine.kill)
        metrics = [json.loads(line_with(engine.stderr, "serving"))["metrics"] for engine in engines]
        playing = stack.enter_context(started("flights", places, tmp_path, "--limit", str(LIMIT)))
        stack.callback(playing.kill)
        output, said = playing.communicate(timeout=PATIENCE_SECONDS)
        assert playing.returncode == 0, output + said
        told = [told_at(url) for url in metrics]
        assert total(told, "lambent_delivered_events_total") == LIMIT - len(truth(LIMIT).never_departed)
        assert all(each["lambent_healthy", frozenset()] == 1 for each in told)
        for engine in engines:
            engine.terminate()
        assert [engine.wait(PATIENCE_SECONDS) for engine in engines] == [0] * ENGINES


def told_at(url: str) -> Series:
    with urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return series(answer.read().decode())


def total(told: list[Series], metric: str) -> float:
    """Of the function that reads the departures, over all engines."""
    return sum(
        value
        for each in told
        for (name, labels), value in each.items()
        if name == metric and ("function", "delays") in labels
    )
