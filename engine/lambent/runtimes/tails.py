"""The log tail of an invocation, as X-Amz-Log-Result carries it.

Decides the lines (START, what the handler printed and logged, END, REPORT, as AWS's runtime for Python writes them)
and that the last 4 KB are kept. Listens to `logging`, stdout and stderr only while a tail is being collected, and tells
invocations apart by where a line was made, so that a handler's own threads are not heard.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Final, TextIO

from lambent.context import current_invocation
from lambent.model import LATEST, Failed, Function, Invocation, Outcome, Succeeded

MAXIMUM_TAIL_BYTES: Final = 4096
_STREAMS: Final = ("stdout", "stderr")
_INDENT: Final = "\N{NO-BREAK SPACE}" * 2  # as recorded: CloudWatch would cut blanks off


class Tails(logging.Handler):
    """Collects the tails of those invocations that asked for one."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[int, tuple[Invocation, list[str]]] = {}

    def open(self, invocation: Invocation) -> None:
        if not self._lines:
            logging.getLogger().addHandler(self)
            for name in _STREAMS:
                setattr(sys, name, _Overheard(self, getattr(sys, name)))
        self._lines[id(invocation)] = invocation, []

    def close_tail(
        self, invocation: Invocation, function: Function, init_seconds: float | None, outcome: Outcome | None
    ) -> None:
        """Write the tail into the outcome; None: forget it. `init_seconds`: what it took to make the handler ready, if
        this was its first call."""
        _, lines = self._lines.pop(id(invocation))
        if not self._lines:
            logging.getLogger().removeHandler(self)
            for name in _STREAMS:
                stream = getattr(sys, name)
                if isinstance(stream, _Overheard):  # or somebody put another in its place meanwhile
                    setattr(sys, name, stream.real)
        if not isinstance(outcome, Succeeded | Failed):
            return
        request_id, milliseconds = invocation.request_id, outcome.run_seconds * 1000
        if isinstance(outcome, Failed):
            lines.append(_error(outcome.document))
        init = "" if init_seconds is None else f"Init Duration: {init_seconds * 1000:.2f} ms\t"
        text = (
            f"START RequestId: {request_id} Version: {LATEST}\n{''.join(lines)}END RequestId: {request_id}\n"
            f"REPORT RequestId: {request_id}\tDuration: {milliseconds:.2f} ms\t"
            f"Billed Duration: {math.ceil(milliseconds)} ms\tMemory Size: {function.memory_size_mb} MB\t"
            f"Max Memory Used: {_memory()} MB\t{init}\n"
        )
        outcome.log_tail = text.encode("utf-8", "replace")[-MAXIMUM_TAIL_BYTES:].decode("utf-8", "ignore")

    def emit(self, record: logging.LogRecord) -> None:
        invocation = current_invocation()
        if invocation is None or id(invocation) not in self._lines:
            return
        try:
            at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
            self.hear(f"[{record.levelname}]\t{at}\t{invocation.request_id}\t{self.format(record)}\n")
        except Exception:  # noqa: BLE001 - as every logging handler; logging must not fail the handler
            self.handleError(record)

    def hear(self, text: str) -> None:
        """This was printed or logged just now, just here."""
        invocation = current_invocation()
        if invocation is None or (found := self._lines.get(id(invocation))) is None or not text:
            return
        lines = found[1]
        lines.append(text)
        if len(lines) > MAXIMUM_TAIL_BYTES:  # none is shorter than a byte
            del lines[: -MAXIMUM_TAIL_BYTES // 2]


class _Overheard:
    """A standard stream: everything is passed on to the real one."""

    def __init__(self, tails: Tails, real: TextIO) -> None:
        self._tails = tails
        self.real = real

    def write(self, text: str) -> int:
        self._tails.hear(text)
        return self.real.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)


def _error(document: Mapping[str, object]) -> str:
    kind, message = document.get("errorType", ""), document.get("errorMessage", "")
    if "stackTrace" not in document:
        return f"{message}\n"
    frames = document["stackTrace"]
    stack = "".join(map(str, frames)) if isinstance(frames, list) else ""
    return f"[ERROR] {kind}: {message}\nTraceback (most recent call last):\n{stack.replace('  ', _INDENT)}"


def _memory() -> int:
    """The greatest size of the whole process so far, in MB: handlers share it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(size // (1024 * 1024 if sys.platform == "darwin" else 1024))
