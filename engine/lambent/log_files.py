"""Logs in a directory: a folder a function, in it files of JSON lines, one writer a file.

Decides when a file is full, which are removed (too old, or too many bytes of one function), and how lines of several
writers are put in order when they are read. Writing is a thread's of its own: a slow or full disk costs lines, which
are counted, and never holds up an engine. Losing the machine loses what the system had not written yet; a process that
is killed loses what its thread had not got to.

Any number of engines may write into one directory, and anybody may read it, or remove files.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from lambent.errors import InvalidParameterValue
from lambent.logs import LogEntry
from lambent.ports import Clock

MAXIMUM_FILE_BYTES: Final = 8 * 1024 * 1024
"""A writer begins another file then."""
MAXIMUM_WAITING_CHARACTERS: Final = 16 * 1024 * 1024
"""Of lines that the thread has not written yet; more are dropped and counted."""
MAXIMUM_OPEN_FILES: Final = 64
SWEEP_SECONDS: Final = 600.0
"""Between two looks for files that need not be kept any longer."""
SUFFIX: Final = ".jsonl"
_ROUND: Final = 1000  # entries written at once


@dataclass(slots=True)
class _File:
    descriptor: int
    size: int = 0


class LogFiles:
    """The directory, for whoever writes. `owner` names this writer among others; `trouble` hears, from the thread, how
    many lines are lost and why.

    retention_seconds: how long a file is kept after its last line; maximum_bytes: of one function's files together."""

    def __init__(
        self,
        directory: Path,
        *,
        owner: str,
        clock: Clock,
        retention_seconds: float,
        maximum_bytes: int,
        trouble: Callable[[int, str], None],
    ) -> None:
        self.directory = directory
        self._owner = owner
        self._clock = clock
        self._retention_seconds = retention_seconds
        self._maximum_bytes = maximum_bytes
        self._trouble = trouble
        self._entries: SimpleQueue[LogEntry | threading.Event | None] = SimpleQueue()
        self._waiting = 0  # characters; counted up by whoever keeps, down by the thread: only about right
        self._dropped = 0
        self._files: dict[str, _File] = {}
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._swept_at = -SWEEP_SECONDS

    def keep(self, entry: LogEntry) -> None:
        """Keep it soon; from any thread, without waiting."""
        if self._waiting > MAXIMUM_WAITING_CHARACTERS:
            self._dropped += 1
            return
        self._waiting += len(entry.text)
        self._entries.put(entry)
        if self._thread is None:
            self._begin()

    def flush(self) -> None:
        """Wait until what was kept is in its files (10 seconds at most)."""
        if self._thread is not None:
            written = threading.Event()
            self._entries.put(written)
            written.wait(10)

    @property
    def busy(self) -> bool:
        """Was there ever anything to be written?"""
        return self._thread is not None

    def close(self) -> None:
        """Write what is left, and end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._entries.put(None)
            thread.join(10)

    # --- the thread ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="lambent-logs", daemon=True)
                self._thread.start()

    def _write_all(self) -> None:
        while True:
            entries: list[LogEntry | threading.Event | None] = [self._entries.get()]
            while len(entries) < _ROUND and not self._entries.empty():
                entries.append(self._entries.get())
            self._write([each for each in entries if isinstance(each, LogEntry)])
            for each in entries:
                if isinstance(each, threading.Event):
                    each.set()
            if None in entries:
                for name in list(self._files):
                    self._close(name)
                return

    def _write(self, entries: Sequence[LogEntry]) -> None:
        lost, reason = self._dropped, "they came faster than they could be written" if self._dropped else ""
        self._dropped = 0
        touched: dict[str, list[bytes]] = {}
        for entry in entries:
            self._waiting -= len(entry.text)
            touched.setdefault(entry.function, []).append(_encoded(entry))
        for function, lines in touched.items():
            try:
                self._append(function, lines)
            except OSError as error:
                lost += len(lines)
                reason = f"{self.directory}: {error.strerror or error}"
                self._close(function)
        now = self._clock.monotonic()
        if now - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = now
            with suppress(OSError):
                self._sweep()
        if lost:
            self._trouble(lost, reason)

    def _append(self, function: str, lines: list[bytes]) -> None:
        file = self._files.get(function)
        if file is not None and not os.fstat(file.descriptor).st_nlink:  # somebody removed it
            self._close(function)
            file = None
        file = file or self._open(function)
        data = memoryview(b"".join(lines))
        while data:
            written = os.write(file.descriptor, data)
            file.size += written
            data = data[written:]
        if file.size >= MAXIMUM_FILE_BYTES:
            self._close(function)
            self._sweep_function(self.directory / function)

    def _open(self, function: str) -> _File:
        while len(self._files) >= MAXIMUM_OPEN_FILES:
            self._close(next(iter(self._files)))
        folder = self.directory / function
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{int(self._clock.now() * 1000):013d}-{self._owner}{SUFFIX}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        file = self._files[function] = _File(os.open(path, flags, 0o600))
        return file

    def _close(self, function: str) -> None:
        if (file := self._files.pop(function, None)) is not None:
            with suppress(OSError):
                os.close(file.descriptor)

    def _sweep(self) -> None:
        for folder in self.directory.iterdir():
            if folder.is_dir() and not folder.is_symlink():
                self._sweep_function(folder)

    def _sweep_function(self, folder: Path) -> None:
        """Remove what is too old, and the oldest of what is too much. Its writer, if there is one, sees it."""
        total, oldest = 0, self._clock.now() - self._retention_seconds
        for path in reversed(log_files(folder)):
            with suppress(OSError):
                status = path.stat()
                total += status.st_size
                if total > self._maximum_bytes or status.st_mtime < oldest:
                    path.unlink()


def log_files(folder: Path) -> list[Path]:
    """The files of one function, the oldest first."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    return []


class LogReader:
    """The log of one function, for people. Each `news` gives what came since the one before, in the order of time.

    request_id: only lines of this invocation; since: epoch seconds, only later ones.
    Raises InvalidParameterValue if `function` is no name of a function."""

    def __init__(self, directory: Path, function: str, *, request_id: str | None = None, since: float = 0.0) -> None:
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", function):
            raise InvalidParameterValue(f"{function!r} is no name of a function")
        self._folder = directory / function
        self._function = function
        self._request_id = request_id
        self._since = since
        self._read: dict[Path, int] = {}

    def news(self) -> list[LogEntry]:
        """What is there that was not told yet."""
        found: list[LogEntry] = []
        for path in log_files(self._folder):
            with suppress(OSError):  # removed just now
                if self._read.get(path) is None and path.stat().st_mtime < self._since:
                    continue
                found.extend(self._entries(path))
        found.sort(key=lambda entry: entry.at)
        return found

    def _entries(self, path: Path) -> Iterator[LogEntry]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break  # its rest is being written
                self._read[path] = self._read.get(path, 0) + len(line)
                entry = _decoded(self._function, line)
                if entry is not None and entry.at >= self._since and self._request_id in (None, entry.request_id):
                    yield entry


def document(entry: LogEntry) -> dict[str, Any]:
    """A line, for scripts."""
    return {
        "at": round(entry.at, 6),
        "stream": entry.stream,
        "request_id": entry.request_id,
        "origin": entry.origin,
        "text": entry.text,
    }


def _encoded(entry: LogEntry) -> bytes:
    try:
        return json.dumps(document(entry), ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # lone surrogates, which nobody could print either
        text = entry.text.encode("utf-8", "backslashreplace").decode()
        return json.dumps(document(replace(entry, text=text)), ensure_ascii=False).encode() + b"\n"


def _decoded(function: str, line: bytes) -> LogEntry | None:
    """None: a crash cut it short, or somebody else wrote it."""
    try:
        found = json.loads(line)
        at, stream, text, origin = float(found["at"]), found["stream"], found["text"], found["origin"]
        request_id = found["request_id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(stream, str) or not isinstance(text, str) or not isinstance(request_id, str | None):
        return None
    return LogEntry(function, at, stream, request_id, "platform" if origin == "platform" else "function", text)
