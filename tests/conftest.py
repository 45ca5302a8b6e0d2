"""What tests of all kinds may need: a Redis server and a Kafka broker, each shared by all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.servers import kafka
from tests.servers.kafka import KafkaProcess
from tests.servers.redis import RedisProcess, running

_NUMBERS = itertools.count(1)
_LEFT_OUT = pytest.StashKey[str]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there is no Kafka, its tests (those of files named test_kafka…) are not there, which the end of the run
    says."""
    of_kafka = [item for item in items if item.path.name.startswith("test_kafka")]
    if of_kafka and (reason := kafka.left_out()):
        items[:] = [item for item in items if item not in of_kafka]
        config.hook.pytest_deselected(items=of_kafka)
        config.stash[_LEFT_OUT] = f"{len(of_kafka)} tests of Kafka are left out: {reason}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reason := config.stash.get(_LEFT_OUT, ""):
        terminalreporter.section("left out")
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
