"""Uploaded code in memory, for the engines of one process.

Decides nothing: what is kept is a mapping. Who needs which code no longer is `code_supply.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Monotonic(Protocol):
    """A time that never goes back."""

    def monotonic(self) -> float: ...


class MemoryArchive:
    """`Archive` in memory, which a store's connections share."""

    def __init__(self, clock: Monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[bytes, float]] = {}

    async def put(self, sha256: str, data: bytes) -> None:
        self._kept[sha256] = data, self._clock.monotonic()

    async def get(self, sha256: str) -> bytes | None:
        return self._kept.get(sha256, (None, 0.0))[0]

    async def ages(self) -> Mapping[str, float]:
        return {name: self._clock.monotonic() - at for name, (_, at) in self._kept.items()}

    async def remove(self, sha256: str, unless_younger_than_seconds: float) -> bool:
        age = (await self.ages()).get(sha256)
        if age is None or age < unless_younger_than_seconds:
            return False
        del self._kept[sha256]
        return True
