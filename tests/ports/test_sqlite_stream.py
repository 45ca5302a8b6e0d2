"""The built-in stream in a SQLite file passes its suite, and keeps what a file adds: restarts and other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambent.model import Stream
from lambent.stores.sqlite_stream import SqliteStream, SqliteStreams

from .sqlite_files import open_file
from .suites import streams

pytestmark = pytest.mark.virtual_time


class TestSqliteStream(streams.StreamSuite):
    capabilities = SqliteStream.capabilities

    @pytest.fixture(autouse=True)
    async def _file(self, _begin: None, tmp_path: Path) -> None:
        self.path = tmp_path / "streams.db"
        self.file = await open_file(self.path, self.clock)

    async def make_stream(self, config: Stream) -> SqliteStream:
        return SqliteStreams(self.file).stream(config, self.world())
