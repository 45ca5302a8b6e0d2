"""What AWS's parser says of a payload that does not begin as JSON does."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lambent.semantics.json_refusals import refusal

VALUES = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"


@pytest.mark.parametrize(
    ("payload", "said", "line", "column"),
    [
        (b"n\x87r\x9e", "Invalid UTF-8 start byte 0x87", 1, 3),
        (b"\x99abc", f"Unexpected character ((CTRL-CHAR, code 153)): expected a valid value {VALUES}", 1, 2),
        (b"\n  <a>", f"Unexpected character ('<' (code 60)): expected a valid value {VALUES}", 2, 4),
        (b"nope", f"Unrecognized token 'nope': was expecting {VALUES}", 1, 5),
        (b"hello world", f"Unrecognized token 'hello': was expecting {VALUES}", 1, 7),
        (b'"caf\xe9"', "Invalid UTF-8 middle byte 0x22", 1, 7),
        (b'{"a": "\xff"}', "Invalid UTF-8 start byte 0xff", 1, 9),
        (b"a\xc3\xbcb!", f"Unrecognized token 'a\u00fcb': was expecting {VALUES}", 1, 6),
    ],
)
def test_the_words_and_the_place_are_those_of_awss_parser(payload: bytes, said: str, line: int, column: int) -> None:
    source = "REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled)"
    assert refusal(payload) == f"{said}\n at [Source: {source}; line: {line}, column: {column}]"


@pytest.mark.parametrize("payload", [b"", b"  ", b"null", b" true", b"{", b"[1,", b'"text', b"-", b"0x"])
def test_what_begins_as_a_value_is_left_to_the_parser_that_found_it_wrong(payload: bytes) -> None:
    assert refusal(payload) is None


@example(b"\xc0\xc0\x80")  # two bytes for what has one
@example(b"a\xf7\xbf\xbf\xbf")  # beyond the last character
@example(b"a\xf0")
@given(st.binary(max_size=60))
def test_any_bytes_have_an_answer(payload: bytes) -> None:
    found = refusal(payload)
    assert found is None or "line: " in found


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.recursive(st.none() | st.booleans() | NUMBERS | st.text(), st.lists, max_leaves=5))
def test_json_is_never_refused(value: object) -> None:
    assert refusal(json.dumps(value, ensure_ascii=False).encode("utf-8", "ignore")) is None
