"""JSON at the engine's border: what is accepted as an event, and what a handler's result must be.

Decides strictness (RFC 8259, more than Python's own decoder: no NaN, no byte order mark, no lone surrogates, no numbers
that no float or 4,300 digits can hold, at most 200 levels) and the errors of a caller (Lambda API: Invoke). What a
result that is none means for the function is `runtimes/`'s.

Decoding is jiter's, through pydantic-core: measured twice as fast as the standard library on small events, and strict.
Encoding of results is the standard library's, since pydantic-core would quietly make a list of a set; what a source
built itself is encoded by pydantic-core, four times as fast.
"""

from __future__ import annotations

import re
from decimal import Decimal
from json import JSONEncoder
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]  # not in its stubs
from typing import Any, Final

from pydantic_core import from_json, to_json

from lambent.errors import InvalidRequestContent, RequestTooLarge
from lambent.model import MAXIMUM_SYNC_PAYLOAD_BYTES
from lambent.semantics.json_refusals import refusal

MAXIMUM_DEPTH: Final = 200
"""Levels of lists and objects, in events and results."""
NO_PAYLOAD: Final = b""
"""What a caller gives who gives none: it stands for `{}`."""

_HUGE_EXPONENT: Final = re.compile(rb"[eE]\+?0*[1-9][0-9]{2}")
_PREFIX: Final = "Could not parse request body into json: Could not parse payload into json: "


def check_payload(payload: bytes, limit: int = MAXIMUM_SYNC_PAYLOAD_BYTES) -> bytes:
    """The payload as it will be kept: itself, or `{}` if it is empty. `limit` is in bytes.

    Raises RequestTooLarge, or InvalidRequestContent with AWS's words before the parser's."""
    size = len(payload)
    if size > limit:
        raise _too_large(limit)
    if not size:
        return b"{}"
    try:
        value = from_json(payload, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequestContent(_PREFIX + (refusal(payload) or str(error))) from None
    if _HUGE_EXPONENT.search(payload) and not _is_finite(value):
        raise InvalidRequestContent(_PREFIX + "number out of range")
    return payload


def encode_payload(value: object, limit: int = MAXIMUM_SYNC_PAYLOAD_BYTES) -> bytes:
    """A caller's event as JSON. Raises as `check_payload` does: what has no JSON form is InvalidRequestContent."""
    try:
        payload = encode_result(value)
    except ValueError as error:
        raise InvalidRequestContent(_PREFIX + str(error)) from None
    if len(payload) > limit:
        raise _too_large(limit)
    return payload


def decode_payload(payload: bytes) -> Any:
    """The value of JSON that was checked before. Raises ValueError if it was not."""
    return from_json(payload, allow_inf_nan=False)


def decode_answer(payload: bytes) -> Any:
    """The value of what a function answered. Only Lambda's own runtimes promise JSON: nothing is None, and what is no
    JSON is a text."""
    try:
        return from_json(payload, allow_inf_nan=False)
    except ValueError:
        return payload.decode("utf-8", "replace") if payload else None


def encode_event(event: object) -> bytes:
    """A source's event, built of texts, numbers, lists and objects; a number that no float holds, which a decoded
    record may have, is null in it, as JavaScript has it. Raises ValueError (of pydantic-core)."""
    return to_json(event, inf_nan_mode="null")


def encode_result(value: object) -> bytes:
    """JSON of a value that a user made, in UTF-8. Raises ValueError that says what has no JSON form; nothing else,
    whatever the value's own methods raise."""
    try:
        payload = _text(value).encode()
        if payload.count(b"[") + payload.count(b"{") > MAXIMUM_DEPTH:
            from_json(payload)  # what is encoded must be decodable: here only depth can be wrong
        return payload
    except RecursionError:
        raise ValueError(f"nested deeper than {MAXIMUM_DEPTH} levels") from None
    except UnicodeEncodeError:
        raise ValueError("a text holds a lone surrogate, which UTF-8 cannot") from None
    except Exception as error:  # noqa: BLE001 - a value may be an object whose methods raise anything
        raise ValueError(_words(error)) from None


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"Request must be smaller than {limit} bytes for the InvokeFunction operation")


def _text(value: object) -> str:
    if c_make_encoder is None:  # not CPython
        return _ENCODER.encode(value)
    if isinstance(value, str):
        return encode_basestring(value)
    # JSONEncoder.encode does the same, and takes longer to set it up than to encode a small result
    encoder = c_make_encoder({}, _default, encode_basestring, None, ": ", ", ", False, False, False)
    return "".join(encoder(value, 0))


def _default(value: object) -> object:
    if isinstance(value, Decimal):  # as AWS's runtime for Python does
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _words(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001
        return type(error).__name__


def _is_finite(value: object) -> bool:
    rest = [value]
    while rest:
        match rest.pop():
            case dict() as members:
                rest.extend(members.values())
            case list() as items:
                rest.extend(items)
            case float() as number if number in (float("inf"), float("-inf")):
                return False
    return True


_ENCODER: Final = JSONEncoder(default=_default, ensure_ascii=False, allow_nan=False)
