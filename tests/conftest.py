"""What tests of all kinds may need: a Redis server and a Kafka broker, each shared by all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.servers import kafka, node
from tests.servers.kafka import KafkaProcess
from tests.servers.redis import RedisProcess, running

_NUMBERS = itertools.count(1)
_LEFT_OUT = pytest.StashKey[list[str]]()
_NEEDING = {  # what tests need, by how the names of their files begin
    "test_kafka": ("of Kafka", kafka.left_out),
    "test_node": ("of Node functions", node.left_out),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where what they need is not there, tests are not there, which the end of the run says."""
    config.stash[_LEFT_OUT] = []
    for prefix, (kind, left_out) in _NEEDING.items():
        needing = [item for item in items if item.path.name.startswith(prefix)]
        if needing and (reason := left_out()):
            items[:] = [item for item in items if item not in needing]
            config.hook.pytest_deselected(items=needing)
            config.stash[_LEFT_OUT].append(f"{len(needing)} tests {kind} are left out: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reasons := config.stash.get(_LEFT_OUT, []):
        terminalreporter.section("left out")
        for reason in reasons:
            terminalreporter.line(reason)


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A server for the whole run; whoever stops one starts one of his own (`running`)."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_process: RedisProcess) -> str:
    """The shared server, with a prefix of this test's own."""
    return f"{redis_process.url}?prefix=test{next(_NUMBERS)}"


@pytest.fixture(scope="session")
def kafka_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaProcess]:
    """A broker for the whole run; whoever stops one starts one of his own (`kafka.running`)."""
    with kafka.running(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def topic() -> str:
    """A topic's name of this test's own; nobody has made it."""
    return f"test{next(_NUMBERS)}"
