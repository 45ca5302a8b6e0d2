"""What a log says of an invocation, and which lines of it are wanted: as text or as JSON, as Lambda writes them.

Decides the words of START, END and REPORT and of their JSON counterparts, which level a line has and whether that is
kept, how long a line may be, and what the last 4 KB are. Where lines come from is the runtime's, where they are kept
`log_files.py`'s.

Sources: recorded answers (REPORT, errors); Lambda developer guide, «Sending Lambda function logs to CloudWatch Logs»,
«Log-level filtering» and «Lambda Telemetry API Event schema reference» (the JSON form).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

MAXIMUM_TAIL_BYTES: Final = 4096
"""Of an invocation's log, its end: what X-Amz-Log-Result carries (Lambda API: Invoke, LogType)."""
MAXIMUM_LINE_CHARACTERS: Final = 256 * 1024
"""A longer line is cut (CloudWatch Logs quotas had 256 KB an event)."""
MAXIMUM_INVOCATION_CHARACTERS: Final = 4 * 1024 * 1024
"""What is kept of one invocation, and of what is printed between two; the rest is counted. Ours."""
NEWLINES: Final = "\r\n"

Status = Literal["success", "error", "timeout"]
LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
_SAME_LEVEL: Final = {"WARNING": "WARN", "CRITICAL": "FATAL", "SEVERE": "ERROR", "FINE": "DEBUG"}
_INDENT: Final = "\N{NO-BREAK SPACE}" * 2  # as recorded: CloudWatch would cut blanks off


@dataclass(frozen=True, slots=True)
class LogStyle:
    """A function's LoggingConfig. Levels are of `LEVELS` and have no meaning for text, as on AWS."""

    log_format: Literal["Text", "JSON"] = "Text"
    application_log_level: str = "INFO"
    system_log_level: str = "INFO"


@dataclass(frozen=True, slots=True)
class Report:
    """How an invocation went. `init_seconds`: what its environment took to start, if it was the first there;
    `error_type`: AWS's name of the error (Runtime.ExitError, Sandbox.Timedout, the exception's class)."""

    request_id: str
    run_seconds: float
    memory_size_mb: int
    maximum_memory_mb: int
    init_seconds: float | None = None
    status: Status = "success"
    error_type: str | None = None


# --------------------------------------------------------------------------- what the platform says


def init_start(style: LogStyle, at: str, runtime: str, kind: str = "on-demand") -> str | None:
    """An environment begins to start. None: that is below the level."""
    if style.log_format == "Text":
        return f"INIT_START Runtime Version: {runtime}"
    record = {"initializationType": kind, "phase": "init", "runtimeVersion": runtime}
    return _event(style, "INFO", at, "platform.initStart", record)


def init_report(
    style: LogStyle, at: str, seconds: float, status: Status, error_type: str | None = None, kind: str = "on-demand"
) -> str | None:
    """An environment has started, or failed to. As text only the failure is told, and told as AWS does."""
    if style.log_format == "Text":
        if status == "success":
            return None
        told = "" if error_type is None else f"\tError Type: {error_type}"
        return f"INIT_REPORT Init Duration: {seconds * 1000:.2f} ms\tPhase: init\tStatus: {status}{told}"
    record: dict[str, object] = {"initializationType": kind, "phase": "init", "status": status}
    if error_type is not None:
        record["errorType"] = error_type
    record["metrics"] = {"durationMs": _milliseconds(seconds)}
    level = "WARN" if status != "success" else "DEBUG" if kind == "on-demand" else "INFO"
    return _event(style, level, at, "platform.initReport", record)


def start(style: LogStyle, at: str, request_id: str, version: str) -> str | None:
    """An invocation begins."""
    if style.log_format == "Text":
        return f"START RequestId: {request_id} Version: {version}"
    return _event(style, "INFO", at, "platform.start", {"requestId": request_id, "version": version})


def end(style: LogStyle, at: str, report: Report) -> str | None:
    """The function has done with an invocation."""
    if style.log_format == "Text":
        return f"END RequestId: {report.request_id}"
    record: dict[str, object] = {"requestId": report.request_id, "status": report.status}
    if report.error_type is not None:
        record["errorType"] = report.error_type
    record["metrics"] = {"durationMs": _milliseconds(report.run_seconds)}
    return _event(style, "DEBUG" if report.status == "success" else "WARN", at, "platform.runtimeDone", record)


def report_line(style: LogStyle, at: str, report: Report) -> str | None:
    """What an invocation took. Billed is its duration, rounded up to a millisecond; init is told beside it."""
    milliseconds = report.run_seconds * 1000
    billed = math.ceil(milliseconds)
    if style.log_format == "Text":
        init = "" if report.init_seconds is None else f"Init Duration: {report.init_seconds * 1000:.2f} ms\t"
        status = "" if report.status == "success" or not _of_the_platform(report) else f"Status: {report.status}"
        if status and report.status == "error":
            status += f"\tError Type: {report.error_type}"
        return (
            f"REPORT RequestId: {report.request_id}\tDuration: {milliseconds:.2f} ms\tBilled Duration: {billed} ms\t"
            f"Memory Size: {report.memory_size_mb} MB\tMax Memory Used: {report.maximum_memory_mb} MB\t{init}{status}"
        )
    metrics: dict[str, object] = {
        "durationMs": _milliseconds(report.run_seconds),
        "billedDurationMs": billed,
        "memorySizeMB": report.memory_size_mb,
        "maxMemoryUsedMB": report.maximum_memory_mb,
    }
    if report.init_seconds is not None:
        metrics["initDurationMs"] = _milliseconds(report.init_seconds)
    record: dict[str, object] = {"requestId": report.request_id, "metrics": metrics, "status": report.status}
    if report.error_type is not None:
        record["errorType"] = report.error_type
    return _event(style, "INFO" if report.status == "success" else "WARN", at, "platform.report", record)


def dropped(style: LogStyle, at: str, lines: int, characters: int) -> str:
    """Lines of the function were not kept, and it is said here that they are missing. As text these are our words."""
    reason = f"more than {MAXIMUM_INVOCATION_CHARACTERS} characters of one invocation"
    if style.log_format == "Text":
        return f"LOGS_DROPPED Lines: {lines}\tCharacters: {characters}\tReason: {reason}"
    record = {"reason": reason, "droppedRecords": lines, "droppedBytes": characters}
    return _json({"time": at, "type": "platform.logsDropped", "record": record})


def failure(style: LogStyle, at: str, request_id: str, document: Mapping[str, object]) -> str:
    """An error document, as a log shows it: with its stack if it has one, else in the platform's words."""
    kind, message = str(document.get("errorType", "")), str(document.get("errorMessage", ""))
    if style.log_format == "JSON":
        shown: dict[str, object] = {"timestamp": at, "level": "ERROR", "errorMessage": message, "errorType": kind}
        stack = document.get("stackTrace")
        return _json({**shown, "requestId": request_id, **({} if stack is None else {"stackTrace": stack})})
    frames = document.get("stackTrace")
    if isinstance(frames, list):
        stack_text = "".join(map(str, frames)).replace("  ", _INDENT).removesuffix("\n")
        return f"[ERROR] {kind}: {message}\nTraceback (most recent call last):\n{stack_text}".removesuffix("\n")
    if kind == "Sandbox.Timedout":
        return f"{at} {request_id} {message.removeprefix(f'RequestId: {request_id} Error: ')}"
    return f"{message}\n{kind}" if kind.startswith("Runtime.") else message


def status_of(document: Mapping[str, object] | None) -> tuple[Status, str | None]:
    """Status and error type, from an error document; None: it went well."""
    if document is None:
        return "success", None
    kind = document.get("errorType")
    error_type = kind if isinstance(kind, str) and kind else "Unhandled"
    return ("timeout" if error_type == "Sandbox.Timedout" else "error"), error_type


# --------------------------------------------------------------------------- what the function says


def wanted(style: LogStyle, line: str) -> bool:
    """Is a line of the function kept? Only JSON has levels; what has none that is known is INFO."""
    if style.log_format == "Text" or style.application_log_level == LEVELS[0]:
        return True
    return LEVELS.index(_level(line)) >= LEVELS.index(style.application_log_level)


def cut(line: str) -> str:
    """A line, or as much of it as is kept."""
    if len(line) <= MAXIMUM_LINE_CHARACTERS:
        return line
    return f"{line[:MAXIMUM_LINE_CHARACTERS]}… ({len(line) - MAXIMUM_LINE_CHARACTERS} characters more)"


class Lines:
    """Makes lines of the bytes that a process prints. What is not UTF-8 is shown as \\xNN; a line without an end is
    held until it has one, and given out in parts when it is too long."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now, without their ends."""
        *whole, rest = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        while len(rest) > MAXIMUM_LINE_CHARACTERS:
            whole.append(rest[:MAXIMUM_LINE_CHARACTERS])
            rest = rest[MAXIMUM_LINE_CHARACTERS:]
        self._rest = rest
        return [line.removesuffix(b"\r").decode("utf-8", "backslashreplace") for line in whole]

    def close(self) -> list[str]:
        """What is left when nothing more will come."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "backslashreplace")] if rest else []


class Tail:
    """The last 4 KB of what is added."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0  # in characters, none of which is shorter than a byte

    def add(self, text: str) -> None:
        self._parts.append(text[-MAXIMUM_TAIL_BYTES:])
        self._size += len(self._parts[-1])
        if self._size > 4 * MAXIMUM_TAIL_BYTES:
            kept = "".join(self._parts)[-MAXIMUM_TAIL_BYTES:]
            self._parts, self._size = [kept], len(kept)

    def text(self) -> str:
        """Cut between two characters."""
        whole = "".join(self._parts).encode("utf-8", "replace")
        return whole[-MAXIMUM_TAIL_BYTES:].decode("utf-8", "ignore")


# --------------------------------------------------------------------------- helpers


def _event(style: LogStyle, level: str, at: str, kind: str, record: Mapping[str, object]) -> str | None:
    if LEVELS.index(level) < LEVELS.index(style.system_log_level):
        return None
    return _json({"time": at, "type": kind, "record": record})


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _of_the_platform(report: Report) -> bool:
    """Did the environment see it fail, rather than hear of it? Only then does REPORT have a status (recorded)."""
    kind = report.error_type or ""
    return report.status == "timeout" or kind in ("Runtime.ExitError", "Runtime.OutOfMemory")


def _level(line: str) -> str:
    if line.startswith("{"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return "INFO"
        level = found.get("level", found.get("log.level")) if isinstance(found, dict) else None
        if isinstance(level, str):
            name = level.upper()
            name = _SAME_LEVEL.get(name, name)
            if name in LEVELS:
                return name
    return "INFO"
