"""How records stand in Redis: what an entry's id and a record's position have to do with each other.

A position is a sequence number of 56 digits, as that of any built-in stream: the shard's number, the time at which the
record came, and its place. An entry's id is `TIME-PLACE`, so one is made of the other without asking anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lambent.errors import InvalidParameterValue
from lambent.model import Record
from lambent.semantics.builtin import PLACE_DIGITS, position_of, positions_of

_TIME_DIGITS: Final = 20  # all that an id can have
_HEAD: Final = len("49") + 10  # digits that are the shard's
_LENGTH: Final = _HEAD + _TIME_DIGITS + PLACE_DIGITS


def prefix_of(number: int) -> str:
    """What the positions of that shard begin with."""
    return f"49{number:010d}"


def position_at(prefix: str, at: int, place: int) -> str:
    """Of the record of this time (milliseconds) and place."""
    return position_of(f"{prefix}{at:0{_TIME_DIGITS}d}", place)


def positions_at(prefix: str, at: int, first: int, count: int) -> list[str]:
    """Of so many records of one time, one after the other."""
    return positions_of(f"{prefix}{at:0{_TIME_DIGITS}d}", first, count)


def parts_of(position: str) -> tuple[int, int, int] | None:
    """The number of its shard, its time and its place; None: it is no position."""
    if len(position) != _LENGTH or not (position.isascii() and position.isdecimal() and position.startswith("49")):
        return None
    return int(position[2:_HEAD]), int(position[_HEAD:-PLACE_DIGITS]), int(position[-PLACE_DIGITS:])


def id_in(shard: str, prefix: str, position: str) -> tuple[int, int]:
    """Time and place. Raises InvalidParameterValue for what is no position of this shard."""
    parts = parts_of(position) if position.startswith(prefix) else None
    if parts is None:
        raise InvalidParameterValue(f"{position!r} is no position of {shard}")
    return parts[1:]


def records_of(prefix: str, told: Sequence[bytes]) -> list[Record]:
    """Of id, key, data and hops; and again. The time is that of the record before it more often than not."""
    records = []
    each = iter(told)
    known, head, arrived_at = b"", "", 0.0
    for entry_id, key, data, hops in zip(each, each, each, each, strict=True):
        at, _, place = entry_id.partition(b"-")
        if at != known:
            known, head, arrived_at = at, prefix + at.decode().zfill(_TIME_DIGITS), int(at) / 1e3
        position = head + place.decode().zfill(PLACE_DIGITS)
        records.append(Record(position, key.decode(), data, arrived_at, int(hops) if hops else 0))
    return records
