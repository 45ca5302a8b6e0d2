"""Does a function call itself through others, on and on?

Decides when such a loop is cut. What then happens to the event (a refused call, a report to a destination) is decided
where it was about to be invoked.
"""

from __future__ import annotations

from typing import Final

from lambent.model import Function

MAXIMUM_HOPS: Final = 16
"""Invocations that may stand before one in a chain (Lambda developer guide, «Use Lambda recursive loop detection to
prevent infinite loops»: about 16)."""


def refused(hops: int, function: Function) -> bool:
    """Whether the invocation at the end of a chain of `hops` earlier ones is refused (recursive_loop="Terminate")."""
    return hops > MAXIMUM_HOPS and function.recursive_loop == "Terminate"
