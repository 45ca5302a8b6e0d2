"""What a caller gives and what it gets, whoever takes the call: an engine, or a client of its store.

Decides how a payload and a context are checked, what an asynchronous event is made of, and what a caller meets of an
answer (Lambda API: Invoke). Which calls are taken, and what becomes of them, is `engine.py`'s and `client.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from lambent.context import CURRENT
from lambent.errors import FunctionError, InvalidParameterValue
from lambent.model import Event, Failed, Outcome, Succeeded
from lambent.payload import check_payload, decode_answer, encode_payload, encode_result
from lambent.runtimes.error_documents import not_json


@dataclass(frozen=True, slots=True)
class InvokeResponse:
    """What boto3's `invoke` answers. `status_code` is 200 (also for an error of the function) or 204 (dry run)."""

    status_code: int
    request_id: str
    payload: bytes = b""
    function_error: str | None = None
    executed_version: str | None = None
    log_tail: str = ""


def collects_tail(log_type: str) -> bool:
    """Does a call of this LogType want the last 4 KB of its log? Raises InvalidParameterValue for what is none."""
    if log_type not in ("None", "Tail"):
        raise InvalidParameterValue(f"log_type: {log_type!r} is not allowed; it must be one of 'None', 'Tail'")
    return log_type == "Tail"


def in_bytes(outcome: Outcome, request_id: str) -> Outcome:
    """The same, with an answer that can be sent: what was returned by reference is encoded, or is an error of the
    function."""
    if isinstance(outcome, Succeeded) and outcome.by_reference:
        try:
            return replace(outcome, payload=encode_result(outcome.payload), by_reference=False)
        except ValueError as error:
            return not_json(str(error), request_id)
    return outcome


def response_of(outcome: Succeeded | Failed, request_id: str) -> InvokeResponse:
    """What boto3's `invoke` answers of it, once it is `in_bytes`."""
    function_error = None
    if isinstance(outcome, Succeeded):
        payload = cast(bytes, outcome.payload)
    else:
        payload, function_error = encode_result(dict(outcome.document)), outcome.function_error
    return InvokeResponse(200, request_id, payload, function_error, outcome.executed_version, outcome.log_tail)


def value_of_response(response: InvokeResponse) -> Any:
    """What the function returned. Raises FunctionError with AWS's document if it failed."""
    value = decode_answer(response.payload)
    if response.function_error is not None:
        raise FunctionError(value, response.request_id)
    return value


def payload_bytes(payload: object, limit: int) -> bytes:
    """A caller's payload as JSON: bytes are JSON already, anything else is a value. `limit` is in bytes.

    Raises InvalidRequestContent, RequestTooLarge."""
    return check_payload(payload, limit) if isinstance(payload, bytes) else encode_payload(payload, limit)


def check_context(client_context: object) -> None:
    """Raises InvalidParameterValue for what could not be a ClientContext."""
    if not isinstance(client_context, Mapping):
        shown = repr(client_context)[:100]
        raise InvalidParameterValue(f"client_context: {shown} is not allowed; it must be a dict or None")
    try:
        encode_result(dict(client_context))
    except ValueError as error:
        raise InvalidParameterValue(f"client_context must have a JSON form: {error}") from None


def new_event(
    request_id: str,
    function: str,
    payload: bytes,
    now: float,
    qualifier: str | None = None,
    client_context: Mapping[str, object] | None = None,
) -> Event:
    """An asynchronous event that is accepted `now` (epoch seconds). Within a handler it goes on with its chain."""
    if client_context is not None:
        check_context(client_context)
    caller = CURRENT.get()
    return Event(
        request_id=request_id,
        function=function,
        payload=payload,
        accepted_at=now,
        qualifier=qualifier,
        hops=0 if caller is None else caller.hops,
        trace_id=None if caller is None else caller.trace_id,
        client_context=client_context,
    )
