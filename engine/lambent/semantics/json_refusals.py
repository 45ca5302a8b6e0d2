"""What AWS says of a payload that does not begin as JSON does: the words of its own parser, which callers meet.

Decides them for the first value of a payload: a character that no value begins with, a word that is none of JSON's, and
bytes that are no UTF-8. Of what is wrong further in, the parser that found it speaks for itself. (Recorded of AWS; the
parser is Jackson, whose places are those after the byte that it could not take.) Pure.
"""

from __future__ import annotations

import sys
from typing import Final

_VALUES: Final = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
_WORDS: Final = (b"null", b"true", b"false")
_SOURCE: Final = "REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled)"
_LEADING: Final = ((0xE0, 0xC0, 1), (0xF0, 0xE0, 2), (0xF8, 0xF0, 3))  # mask, start of a sequence, bytes that follow


class _BadByte(Exception):
    def __init__(self, what: str, end: int) -> None:
        super().__init__(what)
        self.end = end


def refusal(payload: bytes) -> str | None:
    """The parser's words; None: its first value begins as one does, and is UTF-8."""
    start = len(payload) - len(payload.lstrip(b" \t\r\n"))
    if start == len(payload) or payload.startswith(_WORDS, start):
        return None
    try:
        if payload[start] in b'{["-0123456789':
            return _no_utf8(payload)
        return _no_value(payload, start)
    except _BadByte as bad:
        return _at(str(bad), payload, bad.end)


def _no_value(payload: bytes, start: int) -> str:
    first = chr(payload[start])
    if not _continues(first, begins=True):
        shown = f"(CTRL-CHAR, code {ord(first)})" if _is_control(first) else f"'{first}' (code {ord(first)})"
        return _at(f"Unexpected character ({shown}): expected a valid value {_VALUES}", payload, start + 1)
    word, end = first, start + 1
    while end < len(payload):
        character, end = _character(payload, end)
        if not _continues(character):
            break
        word += character
    return _at(f"Unrecognized token '{word[:256]}': was expecting {_VALUES}", payload, end)


def _no_utf8(payload: bytes) -> str | None:
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        _character(payload, error.start)
    return None


def _character(payload: bytes, start: int) -> tuple[str, int]:
    """The character there, and where it ends."""
    first = payload[start]
    following = 0
    if first > 0x7F:
        following = next((count for mask, begin, count in _LEADING if first & mask == begin), 0)
        if not following:
            raise _BadByte(f"Invalid UTF-8 start byte 0x{first:x}", start + 1)
    end = start + 1 + following
    for at in range(start + 1, min(end, len(payload))):
        if payload[at] & 0xC0 != 0x80:
            raise _BadByte(f"Invalid UTF-8 middle byte 0x{payload[at]:x}", at + 1)
    code = first if first <= 0x7F else first & (0x3F >> following)  # whatever UTF-8 forbids beside, as the parser
    for each in payload[start + 1 : end]:
        code = code << 6 | each & 0x3F
    return chr(code) if code <= sys.maxunicode else "\ufffd", end


def _continues(character: str, begins: bool = False) -> bool:
    """May it be in a name of Java's (or be the first of one)?"""
    if begins:
        return character == "$" or character.isidentifier()
    ignorable = _is_control(character) and not character.isspace()
    return character == "$" or f"a{character}".isidentifier() or ignorable


def _is_control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0


def _at(what: str, payload: bytes, end: int) -> str:
    line = payload.count(b"\n", 0, end) + 1
    column = end - (payload.rfind(b"\n", 0, end) + 1) + 1
    return f"{what}\n at [Source: {_SOURCE}; line: {line}, column: {column}]"
