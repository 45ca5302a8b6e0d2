"""Does a function call itself through others, on and on?

Decides when such a loop is cut, and how the length of a chain is told to a function's process and heard from it again:
in the trace header, which AWS's SDKs pass on. What then happens to the event (a refused call, a report to a
destination) is decided where it was about to be invoked.
"""

from __future__ import annotations

import re
from typing import Final

from lambent.model import Function

MAXIMUM_HOPS: Final = 16
"""Invocations that may stand before one in a chain (Lambda developer guide, «Use Lambda recursive loop detection to
prevent infinite loops»: about 16)."""


def refused(hops: int, function: Function) -> bool:
    """Whether the invocation at the end of a chain of `hops` earlier ones is refused (recursive_loop="Terminate")."""
    return hops > MAXIMUM_HOPS and function.recursive_loop == "Terminate"


_TRACE: Final = re.compile(r"[!-~]{1,512}")
_LINEAGE: Final = re.compile(r";?Lineage=[^;]*?:(\d{1,6})(?=;|$)")


def told(trace_id: str, hops: int) -> str:
    """A trace header that tells how long the chain is. The form of Lineage is ours: AWS keeps its own to itself."""
    return f"{trace_id};Lineage=1:{hops}"


def heard(trace: str) -> tuple[str | None, int]:
    """What a trace header tells: the trace id, without the chain, and the length of the chain; None and 0 for what is
    none."""
    if _TRACE.fullmatch(trace) is None:
        return None, 0
    found = _LINEAGE.search(trace)
    if found is None:
        return trace, 0
    return (trace[: found.start()] + trace[found.end() :]).removeprefix(";") or None, int(found[1])
