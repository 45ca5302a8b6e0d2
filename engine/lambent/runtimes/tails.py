"""Overhears what handlers of this process print and log.

Decides to which invocation a line belongs: by where it was made, so that a handler's own threads are not heard. Listens
to `logging`, stdout and stderr only while somebody wants to know. What becomes of a line is `logs.py`'s.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

from lambent.context import current_invocation
from lambent.logs import InvocationLog, LogStream, timestamp
from lambent.model import Failed, Invocation, Outcome, Succeeded

_STREAMS: Final = ("stdout", "stderr")


class Tails(logging.Handler):
    """Collects what those invocations say of which a log was opened."""

    def __init__(self) -> None:
        super().__init__()
        self._logs: dict[int, InvocationLog] = {}

    def open(self, invocation: Invocation, stream: LogStream) -> None:
        if not self._logs:
            logging.getLogger().addHandler(self)
            for name in _STREAMS:
                setattr(sys, name, _Overheard(self, getattr(sys, name)))
        self._logs[id(invocation)] = stream.start(invocation.request_id, invocation.tail)

    def close_tail(self, invocation: Invocation, init_seconds: float | None, outcome: Outcome | None) -> None:
        """Write the tail into the outcome; None: nobody wants to know it. `init_seconds`: what it took to make the
        handler ready, if this was its first call."""
        log = self._logs.pop(id(invocation))
        if not self._logs:
            logging.getLogger().removeHandler(self)
            for name in _STREAMS:
                stream = getattr(sys, name)
                if isinstance(stream, _Overheard):  # or somebody put another in its place meanwhile
                    setattr(sys, name, stream.real)
        if not isinstance(outcome, Succeeded | Failed):
            return
        if isinstance(outcome, Failed):
            log.fail(outcome)
        outcome.log_tail = log.close(outcome, maximum_memory_mb=_memory(), init_seconds=init_seconds)

    def emit(self, record: logging.LogRecord) -> None:
        invocation = current_invocation()
        if invocation is None or (log := self._logs.get(id(invocation))) is None:
            return
        try:
            log.line(f"[{record.levelname}]\t{timestamp(record.created)}\t{log.request_id}\t{self.format(record)}")
        except Exception:  # noqa: BLE001 - as every logging handler; logging must not fail the handler
            self.handleError(record)

    def hear(self, text: str) -> None:
        """This was printed just now, just here."""
        invocation = current_invocation()
        if invocation is not None and (log := self._logs.get(id(invocation))) is not None:
            log.hear(text)


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


def _memory() -> int:
    """The greatest size of the whole process so far, in MB: handlers share it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(size // (1024 * 1024 if sys.platform == "darwin" else 1024))
