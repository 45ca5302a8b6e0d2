"""What a handler is given, what its result becomes, and how its errors are worded."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from lambent.errors import InvalidParameterValue, InvalidRequestContent, RequestTooLarge
from lambent.model import Failed, Function, Invocation, Message, Record, Succeeded, Unavailable
from lambent.payload import check_payload, encode_payload
from tests.engine.running import EVENT, RID, failed, outcome, ran, runtime, value

# --------------------------------------------------------------------------- which callables


class Callables:
    def method(self, event: object, context: object) -> object:
        return [event, type(context).__name__]

    async def async_method(self, event: object, context: object) -> object:
        return [event, type(context).__name__]

    async def __call__(self, event: object, context: object) -> object:
        return [event, type(context).__name__]


class Plain:
    def __call__(self, event: object, context: object) -> object:
        return [event, type(context).__name__]


def with_three(extra: object, event: object, context: object) -> object:
    return [event, type(context).__name__]


async def with_stars(*arguments: object) -> object:
    return [arguments[0], type(arguments[1]).__name__]


@pytest.mark.parametrize(
    "handler",
    [
        Callables().method,
        Callables().async_method,
        Callables(),
        Plain(),
        functools.partial(with_three, 1),
        functools.partial(with_stars),
        with_stars,
    ],
    ids=["bound method", "async method", "async object", "object", "partial", "async partial", "stars"],
)
async def test_anything_that_takes_event_and_context_is_a_handler(handler: Callable[..., object]) -> None:
    assert await value(handler, b'{"x":1}') == [{"x": 1}, "Context"]


async def test_a_handler_may_leave_out_the_context() -> None:
    async def short(event: object) -> object:
        return event

    assert await value(short, b"5") == 5
    assert await value(lambda event: event, b"6") == 6


@pytest.mark.parametrize("handler", [lambda: 1, lambda a, b, c: 1, lambda event, *, needed: 1])
async def test_a_callable_with_other_parameters_is_refused(handler: Callable[..., object]) -> None:
    with pytest.raises(InvalidParameterValue, match=r"\(event, context\)"):
        runtime().register(Function(name="f"), handler)


async def test_a_function_without_a_handler_is_unavailable() -> None:
    assert isinstance(await ran(runtime(), Invocation(RID, "f", b"{}")), Unavailable)


# --------------------------------------------------------------------------- boundary


async def test_every_attempt_gets_an_event_of_its_own() -> None:
    async def vandal(event: dict[str, object]) -> object:
        event["a"] = "changed"
        return None

    await value(vandal, EVENT)
    assert EVENT == {"a": [1, {"b": None}]}


async def test_by_reference_the_object_itself_goes_in_and_out() -> None:
    async def same(event: object) -> object:
        return event

    marker = object()
    assert await value(same, marker, boundary="reference") is marker
    assert await value(same, b'{"async":1}', boundary="reference") == {"async": 1}


async def test_what_is_no_json_and_came_in_unnoticed_is_an_error_of_the_function() -> None:
    document = await failed(lambda event: 1, b"{nonsense")
    assert document["errorType"] == "Runtime.UnmarshalError"


def circle() -> object:
    a: list[object] = []
    a.append(a)
    return a


class Hostile(dict[str, object]):
    def items(self) -> Any:
        raise ZeroDivisionError("not now")


def deep(levels: int) -> object:
    found: object = 0
    for _ in range(levels):
        found = [found]
    return found


NO_JSON: dict[str, object] = {
    "set": {1},
    "NaN": float("nan"),
    "infinity": [float("inf")],
    "bytes": b"x",
    "circle": circle(),
    "deep": deep(201),
    "very deep": deep(100_000),
    "surrogate": "\ud800",
    "surrogate key": {"\udc00": 1},
    "tuple key": {(1,): 1},
    "object": object(),
    "hostile": Hostile(a=1),
    "huge": 10**5000,
}


@pytest.mark.parametrize("result", NO_JSON.values(), ids=NO_JSON)
async def test_a_result_that_is_no_json_is_a_marshal_error(result: object) -> None:
    async def handler(event: object) -> object:
        return result

    document = await failed(handler)
    assert document["errorType"] == "Runtime.MarshalError"
    assert document["errorMessage"].startswith("Unable to marshal response: ")
    assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]


@pytest.mark.parametrize("result", [None, "", "é\n", (1, 2.5), {1: True, "k": []}, deep(200), Decimal("1.5"), -0.0])
async def test_what_json_can_say_comes_back(result: object) -> None:
    async def handler(event: object) -> object:
        return result

    expected = 1.5 if isinstance(result, Decimal) else json.loads(json.dumps(result))
    assert await value(handler) == expected


@pytest.mark.parametrize(("size", "passes"), [(6291556 - 2, True), (6291556 - 1, False), (7 * 1024 * 1024, False)])
async def test_a_response_above_six_megabytes_is_an_error_of_the_function(size: int, passes: bool) -> None:
    result = await outcome(lambda event: "x" * size)
    assert isinstance(result, Succeeded) == passes
    if isinstance(result, Failed):
        assert result.document == {
            "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
            "errorType": "Function.ResponseSizeTooLarge",
        }


async def test_a_plain_function_that_returns_a_coroutine_is_told_so() -> None:
    async def inner() -> None: ...

    assert "async def" in (await failed(lambda event: inner()))["errorMessage"]


BAD_PAYLOADS = {
    "NaN": b"NaN",
    "infinity": b"[-Infinity]",
    "1e999": b'{"a":1e999}',
    "1E+400": b"[1E+400]",
    "byte order mark": b"\xef\xbb\xbf{}",
    "lone surrogate": b'"\\ud800"',
    "surrogate in utf-8": b'"\xed\xa0\x80"',
    "not utf-8": b"n\x87r\x9e",
    "deep": b"[" * 202 + b"]" * 202,
    "very deep": b"[" * 100_000,
    "5000 digits": b"1" * 5000,
    "rest": b"{} {}",
    "control character": b'"\x00"',
    "comma": b"[1,]",
    "word": b"nul",
}


@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_a_payload_that_is_no_json_is_refused_in_aws_words(payload: bytes) -> None:
    with pytest.raises(InvalidRequestContent) as caught:
        check_payload(payload)
    assert caught.value.message.startswith(
        "Could not parse request body into json: Could not parse payload into json: "
    )
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "payload", [b" {} ", b'"\\ud83d\\ude00"', b'{"a":1,"a":2}', b"1e308", b'"1e999"', b'"\\u0000"']
)
def test_odd_but_valid_json_is_a_payload(payload: bytes) -> None:
    assert check_payload(payload) == payload


def test_an_empty_payload_is_an_empty_object() -> None:
    assert check_payload(b"") == b"{}"


@pytest.mark.parametrize("event", NO_JSON.values(), ids=NO_JSON)
def test_an_event_that_is_no_json_is_refused(event: object) -> None:
    with pytest.raises(InvalidRequestContent):
        encode_payload(event)


def test_a_payload_above_the_limit_is_refused_with_413() -> None:
    assert check_payload(b'"1234"', 6) == b'"1234"'
    for refuse in (lambda: check_payload(b'"12345"', 6), lambda: encode_payload("12345", 6)):
        with pytest.raises(RequestTooLarge) as caught:
            refuse()
        assert caught.value.status == 413


# --------------------------------------------------------------------------- errors


def boom(event: object, context: object) -> None:
    raise ValueError("Handler fails")


async def async_boom(event: object, context: object) -> None:
    boom(event, context)


async def test_an_error_document_has_awss_keys_and_begins_at_the_users_code() -> None:
    document = await failed(boom)
    assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert document["errorMessage"] == "Handler fails"
    assert document["errorType"] == "ValueError"
    assert document["requestId"] == RID
    (frame,) = document["stackTrace"]
    assert frame.startswith(f'  File "{__file__}", line ')
    assert frame.endswith(', in boom\n    raise ValueError("Handler fails")\n')
    names = [frame.split(", in ")[1].split("\n")[0] for frame in (await failed(async_boom))["stackTrace"]]
    assert names == ["async_boom", "boom"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Surrogate(Exception):
    def __str__(self) -> str:
        return "\ud800" + "x" * 10_000_000


class Exotic(BaseException): ...


RAISED = {
    "Exception": (ValueError("x"), "ValueError"),
    "unprintable": (Unprintable(), "Unprintable"),
    "huge text": (Surrogate(), "Surrogate"),
    "CancelledError": (asyncio.CancelledError(), "CancelledError"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit"),
    "exotic": (Exotic("x"), "Exotic"),
    "group": (BaseExceptionGroup("g", [KeyboardInterrupt()]), "BaseExceptionGroup"),
    "chained": (ValueError("x"), "ValueError"),
}


@pytest.mark.parametrize(("error", "kind"), RAISED.values(), ids=RAISED)
async def test_whatever_a_handler_raises_is_its_error(error: BaseException, kind: str) -> None:
    async def handler(event: object) -> None:
        raise error

    def plain(event: object) -> None:
        raise error

    for each in (handler, plain):
        document = await failed(each)
        assert document["errorType"] == kind
        assert len(json.dumps(document)) < 500_000


async def test_stop_iteration_of_a_plain_function_is_its_error() -> None:
    def handler(event: object) -> object:
        return next(iter(()))

    assert (await failed(handler))["errorType"] == "StopIteration"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(), "Runtime exited without providing a reason"),
        (SystemExit(0), "Runtime exited without providing a reason"),
        (SystemExit(127), "Runtime exited with error: exit status 127"),
        (SystemExit("text"), "Runtime exited with error: exit status 1"),
        (KeyboardInterrupt(), "Runtime exited with error: exit status 130"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
async def test_a_handler_that_exits_does_not_take_the_engine_with_it(
    error: BaseException, message: str, plain: bool
) -> None:
    def handler(event: object) -> None:
        raise error

    async def coroutine(event: object) -> None:
        raise error

    document = await failed(handler if plain else coroutine)
    assert document == {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {RID} Error: {message}"}


async def test_a_deep_recursion_is_an_error_with_a_bounded_trace() -> None:
    def handler(event: object) -> object:
        return handler(event)

    document = await failed(handler)
    assert document["errorType"] == "RecursionError"
    assert len(document["stackTrace"]) <= 100


# --------------------------------------------------------------------------- typed handlers


class Flight(BaseModel):
    tail: str
    delay: int


@dataclass
class Point:
    x: int


def records(*data: bytes) -> Sequence[Record]:
    return [Record(str(number), "k", each, 0.0) for number, each in enumerate(data)]


def messages(*bodies: str, groups: str = "") -> Sequence[Message]:
    return [
        Message(f"m{number}", body, "r", 1, 0.0, 0.0, group=groups[number] if groups else None)
        for number, body in enumerate(bodies)
    ]


GOOD, BAD = b'{"tail":"N1","delay":1}', b'{"tail":"N1"}'
good, bad = GOOD.decode(), BAD.decode()


def report(*names: str) -> dict[str, object]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}


class Taking:
    """A typed handler that keeps what it got and answers as told."""

    def __init__(self, answer: object = None) -> None:
        self.got: list[list[Flight]] = []
        self.answer = answer

    async def __call__(self, flights: list[Flight]) -> object:
        self.got.append(flights)
        return self.answer


@pytest.mark.parametrize("items", [records(GOOD, GOOD), messages(good, good)])
async def test_a_typed_handler_gets_the_decoded_items(items: Any) -> None:
    taking = Taking()
    assert await value(taking, {"Records": []}, items=items) is None
    assert taking.got == [[Flight(tail="N1", delay=1)] * 2]


async def test_without_partial_failures_an_invalid_item_is_an_error_of_the_function() -> None:
    taking = Taking()
    document = await failed(taking, {"Records": []}, items=records(GOOD, BAD))
    assert document["errorType"] == "ValidationError"
    assert document["stackTrace"] == []
    assert taking.got == []


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (None, ["m1"]),
        ({}, ["m1"]),
        ("", ["m1"]),
        (report("m2"), ["m1", "m2"]),
        (report("nobody"), ["m0", "m1", "m2"]),
        ("what?", ["m0", "m1", "m2"]),
    ],
)
async def test_an_invalid_message_is_reported_and_the_others_are_handed_over(
    answer: object, reported: list[str]
) -> None:
    taking = Taking(answer)
    result = await value(taking, {}, items=messages(good, "{", good), partial=True)
    assert result == report(*reported)
    assert len(taking.got[0]) == 2


async def test_after_an_invalid_message_its_group_waits() -> None:
    taking = Taking()
    result = await value(taking, {}, items=messages(good, bad, good, good, groups="abba"), partial=True)
    assert result == report("m1", "m2")
    assert len(taking.got[0]) == 2


async def test_only_the_records_before_an_invalid_one_are_handed_over() -> None:
    taking = Taking()
    assert await value(taking, {}, items=records(GOOD, BAD, GOOD, BAD), partial=True) == report("1")
    assert len(taking.got[0]) == 1


@pytest.mark.parametrize("items", [records(BAD, GOOD), messages(bad, bad)])
async def test_where_nothing_is_valid_the_handler_is_not_called(items: Any) -> None:
    taking = Taking()
    result = await value(taking, {}, items=items, partial=True)
    assert result["batchItemFailures"][0]["itemIdentifier"] in ("0", "m0")
    assert taking.got == []


@pytest.mark.parametrize("boundary", ["json", "reference"])
async def test_a_list_of_models_that_a_caller_sent_is_validated(boundary: Any) -> None:
    taking = Taking()
    await value(taking, b"[%s]" % GOOD, boundary=boundary)
    assert taking.got == [[Flight(tail="N1", delay=1)]]
    assert (await failed(taking, b"[7]"))["errorType"] == "ValidationError"


async def test_one_model_is_the_whole_event() -> None:
    async def model(event: Flight) -> object:
        return [type(event).__name__, event.delay]

    def point(event: Point, context: object) -> object:
        return [type(event).__name__, event.x]

    async def either(event: Flight | None) -> object:
        return event is None

    assert await value(model, GOOD) == ["Flight", 1]
    assert await value(model, {"tail": "x", "delay": 2}, boundary="reference") == ["Flight", 2]
    assert await value(point, b'{"x":3}') == ["Point", 3]
    assert await value(either, b"null") is True
    assert (await failed(model, BAD))["errorType"] == "ValidationError"


async def test_dictionaries_and_foreign_types_are_no_models() -> None:
    class SQSEvent(dict[str, object]): ...

    async def one(event: SQSEvent) -> object:
        return type(event).__name__

    async def two(event: dict[str, Any]) -> object:
        return event["delay"]

    async def three(event: "Unknown") -> object:  # type: ignore[name-defined]  # noqa: F821, UP037
        return event

    assert await value(one, GOOD) == "dict"
    assert await value(two, GOOD) == 1
    assert await value(three, b"3") == 3


async def test_items_of_any_type_can_be_asked_for() -> None:
    async def handler(event: list[dict[str, Any]]) -> object:
        return [each["delay"] for each in event]

    assert await value(handler, {}, items=records(GOOD, GOOD)) == [1, 1]


async def test_a_list_of_what_cannot_be_validated_is_refused() -> None:
    class Strange: ...

    async def handler(event: list[Strange]) -> None: ...

    handler.__annotations__["event"] = list[Strange]
    with pytest.raises(InvalidParameterValue, match="Strange"):
        runtime().register(Function(name="f"), handler)
