"""The log tail of an invocation, as X-Amz-Log-Result carries it.

Decides the lines (START, what the handler logged, END, REPORT, as AWS's runtime for Python writes them) and that the
last 4 KB are kept. Listens to `logging` only while a tail is being collected, and tells invocations apart by where the
record was made, so that a handler's own threads are not heard. What a handler prints is the process's and not in it.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Final

from lambent.context import current_invocation
from lambent.model import LATEST, Failed, Function, Invocation, Outcome, Succeeded

MAXIMUM_TAIL_BYTES: Final = 4096
_INDENT: Final = "\N{NO-BREAK SPACE}" * 2  # as recorded: CloudWatch would cut blanks off


class Tails(logging.Handler):
    """Collects the tails of those invocations that asked for one."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[int, tuple[Invocation, list[str]]] = {}

    def open(self, invocation: Invocation) -> None:
        if not self._lines:
            logging.getLogger().addHandler(self)
        self._lines[id(invocation)] = invocation, []

    def close_tail(self, invocation: Invocation, function: Function, outcome: Outcome | None) -> None:
        """Write the tail into the outcome; None: forget it."""
        _, lines = self._lines.pop(id(invocation))
        if not self._lines:
            logging.getLogger().removeHandler(self)
        if not isinstance(outcome, Succeeded | Failed):
            return
        request_id, milliseconds = invocation.request_id, outcome.run_seconds * 1000
        if isinstance(outcome, Failed):
            lines.append(_error(outcome.document))
        text = (
            f"START RequestId: {request_id} Version: {LATEST}\n{''.join(lines)}END RequestId: {request_id}\n"
            f"REPORT RequestId: {request_id}\tDuration: {milliseconds:.2f} ms\t"
            f"Billed Duration: {math.ceil(milliseconds)} ms\tMemory Size: {function.memory_size_mb} MB\t"
            f"Max Memory Used: {_memory()} MB\t\n"
        )
        outcome.log_tail = text.encode("utf-8", "replace")[-MAXIMUM_TAIL_BYTES:].decode("utf-8", "ignore")

    def emit(self, record: logging.LogRecord) -> None:
        invocation = current_invocation()
        if invocation is None or (found := self._lines.get(id(invocation))) is None:
            return
        try:
            at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
            lines = found[1]
            lines.append(f"[{record.levelname}]\t{at}\t{invocation.request_id}\t{self.format(record)}\n")
            if len(lines) > MAXIMUM_TAIL_BYTES:  # no line is shorter than a byte
                del lines[: -MAXIMUM_TAIL_BYTES // 2]
        except Exception:  # noqa: BLE001 - as every logging handler; logging must not fail the handler
            self.handleError(record)


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
