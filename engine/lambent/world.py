"""The world as it is: this machine's clock, and ids of a given chance.

Decides where time and ids come from where nobody brings others, as a simulation does. What a world has to offer is
said in `ports.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random


class SystemClock:
    """The clock of this machine."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def ids_of(chance: Random) -> Callable[[], str]:
    """Makes ids: a uuid4 of this chance, at a quarter of what the uuid module takes."""
    bits = chance.getrandbits
    mask, version = ~(0xF << 76 | 0x3 << 62), 0x4 << 76 | 0x2 << 62

    def new_id() -> str:
        text = "%032x" % (bits(128) & mask | version)
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    return new_id
