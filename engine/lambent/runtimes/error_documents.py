"""How AWS words what went wrong in a function: error documents.

Decides their keys, in AWS's order, and texts (recorded answers; Lambda developer guide, «Troubleshoot execution issues
in Lambda»). A stack trace begins at the user's code. A document is always JSON, of bounded size, whatever the exception
does when it is asked for its text.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Final

from lambent.model import MAXIMUM_RESPONSE_BYTES, Failed

MAXIMUM_ERROR_MESSAGE_CHARACTERS: Final = 65_536
MAXIMUM_STACK_FRAMES: Final = 100
"""Of a longer trace the innermost are kept."""


_SIGNALS: Final = {  # in the words of Go, in which AWS's side is written
    1: "hangup", 2: "interrupt", 3: "quit", 4: "illegal instruction", 5: "trace/breakpoint trap", 6: "aborted",
    7: "bus error", 8: "floating point exception", 9: "killed", 10: "user defined signal 1",
    11: "segmentation fault", 12: "user defined signal 2", 13: "broken pipe", 14: "alarm clock", 15: "terminated",
    25: "file size limit exceeded",
}  # fmt: skip


class UnreadableEvent(ValueError):
    """The event is not JSON, and nobody noticed when it came in."""


def raised(error: BaseException, request_id: str, ours: frozenset[str]) -> Failed:
    """The handler raised. `ours`: files whose frames, on top of the trace, are not the user's."""
    if isinstance(error, SystemExit):
        return _exited(error.code, request_id)
    if isinstance(error, KeyboardInterrupt):
        return _exited(130, request_id)
    if isinstance(error, UnreadableEvent):
        return _of_the_runtime("Runtime.UnmarshalError", f"Unable to unmarshal input: {_message(error)}", request_id)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    return Failed(
        {
            "errorMessage": _message(error),
            "errorType": _clean(type(error).__name__),
            "requestId": request_id,
            "stackTrace": _frames(trace),
        }
    )


def timed_out(request_id: str, seconds: float) -> Failed:
    """The deadline passed."""
    message = f"RequestId: {request_id} Error: Task timed out after {seconds:.2f} seconds"
    return Failed({"errorType": "Sandbox.Timedout", "errorMessage": message})


def not_json(reason: str, request_id: str) -> Failed:
    """The handler returned what has no JSON form."""
    return _of_the_runtime("Runtime.MarshalError", f"Unable to marshal response: {_clean(reason)}", request_id)


def too_large(limit: int = MAXIMUM_RESPONSE_BYTES) -> Failed:
    """The handler returned more than it may, in bytes."""
    message = f"Response payload size exceeded maximum allowed payload size ({limit} bytes)."
    return Failed({"errorMessage": message, "errorType": "Function.ResponseSizeTooLarge"})


def exited(returncode: int, request_id: str) -> Failed:
    """Its process ended by itself, or was ended: `returncode` as of `subprocess`, a signal is negative."""
    if returncode < 0:
        return _ended(f"exited with error: signal: {_SIGNALS.get(-returncode, f'signal {-returncode}')}", request_id)
    how = f"exited with error: exit status {returncode}" if returncode else "exited without providing a reason"
    return _ended(how, request_id)


def out_of_memory(returncode: int, request_id: str) -> Failed:
    """It used more memory than it has, and was ended for that."""
    return _ended("exited with error: signal: killed", request_id, "Runtime.OutOfMemory")


def broken_off(request_id: str) -> Failed:
    """Its process hung up in the middle of a streamed answer, and ran on."""
    return _ended("did not end the answer that it streamed", request_id, "Runtime.TruncatedResponse")


def _exited(code: object, request_id: str) -> Failed:
    return exited(0 if code is None else code & 0xFF if isinstance(code, int) else 1, request_id)  # as the interpreter


def _ended(how: str, request_id: str, kind: str = "Runtime.ExitError") -> Failed:
    return Failed({"errorType": kind, "errorMessage": f"RequestId: {request_id} Error: Runtime {how}"})


def _of_the_runtime(kind: str, message: str, request_id: str) -> Failed:
    return Failed({"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": []})


def _message(error: BaseException) -> str:
    try:
        return _clean(str(error))
    except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001 - __str__ is the user's, too
        return f"<unprintable {_clean(type(error).__name__)} object>"


def _frames(trace: TracebackType | None) -> list[str]:
    try:
        frames = traceback.extract_tb(trace, limit=-MAXIMUM_STACK_FRAMES)
        places = [(frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in frames]  # no columns, as AWS
        return [_clean(place) for place in traceback.format_list(places)]
    except Exception:  # noqa: BLE001 - a module's loader may raise anything when it is asked for a source line
        return []


def _clean(text: str) -> str:
    return text[:MAXIMUM_ERROR_MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
