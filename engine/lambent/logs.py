"""What runtimes tell of environments and invocations, on its way to a tail and to where logs are kept.

Decides which lines belong to which invocation, that each has a beginning and an end, and how much of one is kept. How
a line reads, and whether it is wanted, is `semantics/logs.py`'s; `log_files.py` keeps them.

A line is kept with its invocation beside it, never inside: what a function prints cannot pass for another's report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from lambent.model import LATEST, Failed, Function, Outcome
from lambent.semantics import logs
from lambent.semantics.logs import LogStyle, Report, Tail

PLATFORM: Final = "platform"
FUNCTION: Final = "function"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a log (or several that belong together). `origin`: who says it; only the platform reports.
    `request_id` is None for what was printed outside of any invocation."""

    function: str
    at: float  # epoch seconds
    stream: str
    request_id: str | None
    origin: Literal["platform", "function"]
    text: str


class Logs:
    """Where runtimes open their streams. `keep` takes what is kept, quickly and from any thread; None: only tails."""

    def __init__(self, now: Callable[[], float], keep: Callable[[LogEntry], None] | None = None) -> None:
        self.now = now  # epoch seconds
        self.keep = keep

    def open(self, function: Function, stream: str, version: str = LATEST) -> LogStream:
        """The stream of one environment: `stream` is its log_stream_name."""
        return LogStream(self, function, stream, version)


class LogStream:
    """What one environment says. An invocation's lines go to the `InvocationLog` of `start`; `line` is for what is
    printed before the first, between two, or after an invocation was given up."""

    def __init__(self, logs_: Logs, function: Function, name: str, version: str) -> None:
        self.function = function
        self.name = name
        self.version = version
        self.style = style_of(function)
        self._logs = logs_
        self._left = logs.MAXIMUM_INVOCATION_CHARACTERS  # of what is printed between two invocations

    def init_start(self, runtime: str, kind: str = "on-demand") -> None:
        """The environment begins to start. `kind`: AWS_LAMBDA_INITIALIZATION_TYPE."""
        self._platform(None, logs.init_start(self.style, self.now(), runtime, kind))

    def init_report(
        self, seconds: float, status: logs.Status, error_type: str | None = None, kind: str = "on-demand"
    ) -> None:
        """It is ready, or is not."""
        self._platform(None, logs.init_report(self.style, self.now(), seconds, status, error_type, kind))

    def line(self, text: str) -> None:
        """A line outside of any invocation."""
        if self._left > 0 and logs.wanted(self.style, text):
            self._left -= len(text)
            self.put(None, FUNCTION, logs.cut(text))

    def start(self, request_id: str, tail: bool = False) -> InvocationLog:
        """An invocation begins; it is to be closed."""
        self._left = logs.MAXIMUM_INVOCATION_CHARACTERS
        return InvocationLog(self, request_id, tail)

    def now(self) -> str:
        """The time as logs have it. Only their JSON shows it, and to format it costs more than the rest of a line."""
        return timestamp(self._logs.now()) if self.style.log_format == "JSON" else ""

    def seconds(self) -> float:
        """The time, in epoch seconds."""
        return self._logs.now()

    @property
    def kept(self) -> bool:
        return self._logs.keep is not None

    def put(self, request_id: str | None, origin: Literal["platform", "function"], text: str) -> None:
        if (keep := self._logs.keep) is not None:
            keep(LogEntry(self.function.name, self._logs.now(), self.name, request_id, origin, text))

    def _platform(self, request_id: str | None, text: str | None) -> None:
        if text is not None:
            self.put(request_id, PLATFORM, text)


class InvocationLog:
    """What is said in one invocation, from START to REPORT."""

    __slots__ = ("_dropped", "_dropped_lines", "_left", "_rest", "_silent", "_stream", "_tail", "request_id")

    def __init__(self, stream: LogStream, request_id: str, tail: bool) -> None:
        self.request_id = request_id
        self._stream = stream
        self._tail = Tail() if tail else None
        self._left = logs.MAXIMUM_INVOCATION_CHARACTERS
        self._dropped = self._dropped_lines = 0
        self._rest = ""
        self._silent = not tail and not stream.kept  # then nothing need be put into words
        if not self._silent:
            self._platform(logs.start(stream.style, stream.now(), request_id, stream.version))

    def line(self, text: str) -> None:
        """One line that the function printed, without its end; or several that belong together."""
        if self._silent or not logs.wanted(self._stream.style, text):
            return
        text = logs.cut(text)
        if self._tail is not None:
            self._tail.add(f"{text}\n")
        self._keep(text)

    def hear(self, text: str) -> None:
        """A piece of what the function printed, as `write` gets it: the lines are found in it."""
        if self._tail is not None:
            self._tail.add(text)
        if self._stream.kept:
            *whole, self._rest = (self._rest + text).split("\n")
            for line in whole:
                self._keep(logs.cut(line))
            if len(self._rest) > logs.MAXIMUM_LINE_CHARACTERS:
                self._keep(self._rest)
                self._rest = ""

    def fail(self, outcome: Failed) -> None:
        """Show the error, where the function's own runtime has not done so."""
        if self._silent:
            return
        stream = self._stream
        text = logs.failure(stream.style, timestamp(stream.seconds()), self.request_id, outcome.document)
        if self._tail is not None:
            self._tail.add(f"{text}\n")
        stream.put(self.request_id, FUNCTION, logs.cut(text))

    def close(self, outcome: Outcome, *, maximum_memory_mb: int, init_seconds: float | None = None) -> str:
        """END and REPORT. What was printed must have been told before. Gives the tail if one was asked for, else ""."""
        if self._silent:
            return ""
        stream, failed = self._stream, outcome if isinstance(outcome, Failed) else None
        if self._rest:
            self._keep(logs.cut(self._rest))
        status, error_type = logs.status_of(None if failed is None else failed.document)
        report = Report(
            self.request_id,
            getattr(outcome, "run_seconds", 0.0),
            stream.function.memory_size_mb,
            maximum_memory_mb,
            init_seconds,
            status,
            error_type,
        )
        at = stream.now()
        if self._dropped_lines:
            self._platform(logs.dropped(stream.style, at, self._dropped_lines, self._dropped))
        self._platform(logs.end(stream.style, at, report))
        self._platform(logs.report_line(stream.style, at, report))
        return "" if self._tail is None else self._tail.text()

    def _keep(self, text: str) -> None:
        self._left -= len(text) + 1
        if self._left < 0:
            self._dropped_lines += 1
            self._dropped += len(text)
        else:
            self._stream.put(self.request_id, FUNCTION, text)

    def _platform(self, text: str | None) -> None:
        if text is not None:
            if self._tail is not None:
                self._tail.add(f"{text}\n")
            self._stream.put(self.request_id, PLATFORM, text)


def style_of(function: Function) -> LogStyle:
    """How this function's logs are written: a callable of this process logs as text."""
    environment = function.environment
    if environment is None or environment.log_format == "Text":
        return LogStyle()
    return LogStyle("JSON", environment.application_log_level or "INFO", environment.system_log_level or "INFO")


def timestamp(epoch_seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds, as AWS writes it."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
