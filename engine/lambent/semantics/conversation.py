"""What a runtime client may say now: the order of calls of the Runtime API, for one process.

Decides which call is in its place (Lambda guide: «Using the Lambda runtime API for custom runtimes»), and how one that
is not is refused, in the words of AWS's own Runtime API: a wrong request id is 400, a call out of order 403. A refused
call changes nothing. How calls come in, and what is done with an answer, is `runtimes/`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["Initializing", "Ready", "Running", "Streaming", "Answered", "InitError"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told: an HTTP status, and AWS's names."""

    status: int
    error_type: str
    message: str


NO_SUCH_REQUEST: Final = Refusal(400, "InvalidRequestID", "Invalid request ID")


class Conversation:
    """From the start of a process to its end. `request_id` is what it works on now, or worked on last.

    Initializing: it has asked for nothing yet. Ready: it waits for an invocation. Running: it has one. Streaming: a
    part of its answer has come, of which there is one only. Answered: it has said what became of it, and not yet asked
    for the next. InitError: it said that it cannot begin."""

    __slots__ = ("request_id", "state")

    def __init__(self) -> None:
        self.state: State = "Initializing"
        self.request_id = ""

    def next(self) -> Refusal | None:
        """It asks for an invocation."""
        if self.state == "Answered" or self.state == "Initializing":
            self.state = "Ready"
            return None
        return _not_allowed(self.state, "Ready")

    def withdrawn(self) -> None:
        """Whoever asked for the next invocation hung up: somebody may ask again."""
        if self.state == "Ready":
            self.state = "Answered"

    def deliver(self, request_id: str) -> None:
        """It is given an invocation."""
        assert self.state == "Ready", f"nobody waits for an invocation: {self.state}"
        self.state = "Running"
        self.request_id = request_id

    def may_answer(self, request_id: str) -> Refusal | None:
        """It begins to say what became of this invocation: is that the one which it has?"""
        if request_id != self.request_id:
            return NO_SUCH_REQUEST
        return None if self.state == "Running" else _not_allowed(self.state, "Answered")

    def streams(self) -> None:
        """It begins to say it piece by piece: nobody else may say it any more."""
        assert self.state == "Running", f"nothing runs: {self.state}"
        self.state = "Streaming"

    def answered(self) -> None:
        """It has said it, to the end."""
        assert self.state in ("Running", "Streaming"), f"nothing runs: {self.state}"
        self.state = "Answered"

    def init_failed(self) -> Refusal | None:
        """It says that it cannot begin."""
        if self.state == "Initializing":
            self.state = "InitError"
            return None
        return _not_allowed(self.state, "InitError")


def _not_allowed(state: State, wanted: State) -> Refusal:
    return Refusal(403, "InvalidStateTransition", f"State transition from {state} to {wanted} is not allowed.")
