"""What tests of all kinds may need: a Redis server, shared by all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.servers.redis import RedisProcess, running

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A server for the whole run; whoever stops one starts one of his own (`running`)."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_process: RedisProcess) -> str:
    """The shared server, with a prefix of this test's own."""
    return f"{redis_process.url}?prefix=test{next(_NUMBERS)}"
