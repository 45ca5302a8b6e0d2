"""Tumbling windows: to which window a record belongs, and what a response does to the window's state.

When a window is closed is decided in `stream.py`, how it looks in the event in `shapes.py`. Source: Lambda developer
guide, «Implementing stateful Kinesis stream processing in Lambda» (tumbling windows).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Final

from lambent.model import Failed, Record, WindowState

MAXIMUM_STATE_BYTES: Final = 1024 * 1024  # of the window's state as JSON, per shard


def start_of(arrived_at: float, seconds: int) -> float:
    """The start of the window of `seconds` that holds this arrival time (epoch seconds)."""
    return arrived_at // seconds * seconds


def count_within(records: Sequence[Record], limit: int, end: float) -> int:
    """How many of the first `limit` records come before the first that belongs to a later window."""
    count = min(limit, len(records))
    if end == inf:
        return count
    return next((index for index in range(count) if records[index].arrived_at >= end), count)


def after(window: WindowState, value: object, final: bool) -> WindowState | Failed | None:
    """The window after a response: with its new state, ended early (the state is above 1 MB), over (None), or the
    invocation failed (the response has no `state`, or one that is not JSON). A final invoke's state is dropped, so
    nothing is asked of it."""
    if final:
        return replace(window, state={}, terminated_early=False) if window.terminated_early else None
    state = value.get("state") if isinstance(value, Mapping) else None
    if not isinstance(state, Mapping):
        return _invalid("The function must return a state for a tumbling window: {'state': {…}}")
    try:
        text = json.dumps(state, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:  # a value by reference may be anything
        return _invalid(f"The state of a tumbling window must be JSON: {error}")
    # What is kept is a copy: by reference, the function could still change its own.
    return replace(window, state=json.loads(text), terminated_early=len(text) > MAXIMUM_STATE_BYTES)


def _invalid(message: str) -> Failed:
    return Failed({"errorMessage": message, "errorType": "Function.InvalidWindowResponse"})
