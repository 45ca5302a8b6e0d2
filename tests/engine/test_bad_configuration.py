"""Every configuration value at its borders, one step beyond them, and of another kind.

The cases are read out of the models, so that a new field is tested as soon as there is one.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

from lambent import Engine, EngineSettings, InvalidParameterValue, declaring
from lambent.configuration import Alias, Configuration, ExecutionEnvironment, PublishedVersion
from lambent.model import (
    EventInvokeConfig,
    Function,
    Queue,
    QueueMapping,
    Stream,
    StreamMapping,
)
from lambent.options import (
    EngineOptions,
    FunctionFromOptions,
    FunctionOptions,
    MapOptions,
    OnOptions,
    QueueOptions,
    StreamOptions,
)
from lambent.validation import allowed, validated

NEEDED: dict[type[Configuration], dict[str, object]] = {
    EventInvokeConfig: {},
    Function: {"name": "f"},
    ExecutionEnvironment: {"runtime": "provided.al2023", "code": "folder"},
    PublishedVersion: {},
    Alias: {"version": "1"},
    QueueMapping: {"source": "queue:q", "function": "f", "maximum_batching_window_seconds": 1},
    StreamMapping: {"source": "stream:s", "function": "f"},
    Queue: {"name": "q"},
    Stream: {"name": "s"},
    EngineSettings: {},
}
TOGETHER: dict[tuple[type[Configuration], str], dict[str, object]] = {  # what a value is only allowed with
    (StreamMapping, "starting_position_timestamp"): {"starting_position": "AT_TIMESTAMP"},
    (Queue, "max_receive_count"): {"dead_letter_queue": "dead"},
    (ExecutionEnvironment, "application_log_level"): {"log_format": "JSON"},
    (ExecutionEnvironment, "system_log_level"): {"log_format": "JSON"},
}
FIELDS = [(model, name) for model in NEEDED for name in model.model_fields]


class Alien:
    """Of no type that a configuration knows."""


def limits(model: type[Configuration], name: str) -> tuple[float | None, float | None, bool] | None:
    """(least, most, whole numbers only) of a field that is a number."""
    words = allowed(model, name)
    kind = "int" if "(int)" in words else "float" if "(float)" in words else ""
    if not kind or "tuple" in words:
        return None
    bounds = words.split(" (")[0]
    low, _, high = bounds.partition(" to ")
    return float(low.removeprefix("at least ")), float(high) if high else None, kind == "int"


NUMBERS = [(model, name) for model, name in FIELDS if limits(model, name) is not None]


def make(model: type[Configuration], name: str, value: object) -> Configuration:
    return validated(model, {**NEEDED[model], **TOGETHER.get((model, name), {}), name: value})


def refused(model: type[Configuration], name: str, value: object) -> str:
    with pytest.raises(InvalidParameterValue) as caught:
        make(model, name, value)
    assert name in caught.value.message
    return caught.value.message


def one(low_or_high: float, whole: bool) -> float | int:
    return int(low_or_high) if whole else low_or_high


@pytest.mark.parametrize(("model", "name"), NUMBERS)
def test_a_number_is_taken_at_its_borders_and_refused_beyond_them(model: type[Configuration], name: str) -> None:
    found = limits(model, name)
    assert found is not None
    low, high, whole = found
    for border, beyond in ((low, -1), (high, 1)):
        if border is not None:
            assert getattr(make(model, name, one(border, whole)), name) == border
            message = refused(model, name, one(border + beyond, whole))
            assert allowed(model, name) in message


@pytest.mark.parametrize(("model", "name"), NUMBERS)
def test_a_number_is_no_text_no_boolean_and_not_nan_or_infinite(model: type[Configuration], name: str) -> None:
    for wrong in ("5", True, float("nan"), float("inf"), -float("inf"), [], 10**400):
        assert allowed(model, name) in refused(model, name, wrong)


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_a_value_of_a_wrong_type_is_refused_by_name_with_what_is_allowed(model: type[Configuration], name: str) -> None:
    message = refused(model, name, Alien())
    assert "is not allowed" in message
    assert allowed(model, name) in message or "destination is" in message


def takes_none(model: type[Configuration], name: str) -> bool:
    return type(None) in get_args(model.model_fields[name].annotation)


@pytest.mark.parametrize(("model", "name"), [(m, n) for m, n in FIELDS if not takes_none(m, n)])
def test_none_is_refused_where_it_means_nothing(model: type[Configuration], name: str) -> None:
    assert "None is not allowed" in refused(model, name, None)


def choices() -> Iterator[tuple[type[Configuration], str]]:
    for model, name in FIELDS:
        if get_origin(model.model_fields[name].annotation) is Literal:
            yield model, name


@pytest.mark.parametrize(("model", "name"), list(choices()))
def test_a_choice_is_one_of_its_words_in_their_spelling(model: type[Configuration], name: str) -> None:
    words = get_args(model.model_fields[name].annotation)
    for wrong in ("", words[0].swapcase(), words[0] + " ", 1):
        message = refused(model, name, wrong)
        assert all(repr(word) in message for word in words)


@pytest.mark.parametrize("model", list(NEEDED))
def test_an_unknown_field_is_refused_with_the_fields_that_exist(model: type[Configuration]) -> None:
    with pytest.raises(InvalidParameterValue) as caught:
        validated(model, {**NEEDED[model], "colour": "red"}, "this")
    assert caught.value.message.startswith("colour is not an option of this; ")
    assert all(name in caught.value.message for name in model.model_fields)


def test_a_misspelt_field_is_refused_with_the_likeliest_one() -> None:
    with pytest.raises(InvalidParameterValue, match="did you mean parallelization_factor"):
        validated(StreamMapping, {"source": "s", "function": "f", "paralelization_factor": 2})


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 81, "a/b", "../a", "a\n", "a\x00"])
def test_a_name_with_odd_characters_is_refused(name: str) -> None:
    engine = Engine()
    for declare in (engine.queue, engine.stream):
        with pytest.raises(InvalidParameterValue, match="name"):
            declare(name)
    with pytest.raises(InvalidParameterValue, match="name"):
        engine.function(name=name)(lambda event: None)


@pytest.mark.parametrize("age", [-2, 0, 59, 604_801])
def test_a_record_age_is_endless_or_a_minute_to_a_week(age: int) -> None:
    assert "-1 (no limit) or 60 to 604800" in refused(StreamMapping, "maximum_record_age_seconds", age)


@pytest.mark.parametrize("age", [-1, 60, 604_800])
def test_a_record_age_is_taken_at_its_borders(age: int) -> None:
    assert make(StreamMapping, "maximum_record_age_seconds", age)


@pytest.mark.parametrize("option", ["on_success", "on_failure", "dead_letter_queue"])
@pytest.mark.parametrize("target", ["dead", "queue:", "queue:a b", "topic:x", "", 5, object()])
def test_a_destination_that_is_none_is_refused_by_name(option: str, target: object) -> None:
    with pytest.raises(InvalidParameterValue, match=f"{option}: .* is not allowed; "):
        Engine().function(name="f", **{option: target})(lambda event: None)


@pytest.mark.parametrize("name", list(EngineSettings.model_fields))
def test_a_setting_of_the_engine_is_checked_when_the_engine_is_made(name: str) -> None:
    options: dict[str, Any] = {name: Alien()}
    with pytest.raises(InvalidParameterValue, match=name):
        Engine(**options)


def test_settings_come_as_an_object_or_as_keywords_but_not_as_both() -> None:
    with pytest.raises(InvalidParameterValue, match="threads"):
        Engine(settings=EngineSettings(), threads=3)


def test_what_is_refused_leaves_nothing_behind() -> None:
    engine = Engine()
    queue = engine.queue("q")
    with pytest.raises(InvalidParameterValue):
        engine.on(queue, batch_size=10_001)(lambda event: None)
    with pytest.raises(InvalidParameterValue):
        engine.on(queue, timeout_seconds=0)(lambda event: None)
    with pytest.raises(InvalidParameterValue):
        engine.stream("s", shards=0)
    assert not engine.control.functions
    assert not engine.control.mappings
    assert not engine.control.streams


def test_every_model_that_users_write_is_tested_here() -> None:
    def below(model: type[Configuration]) -> Iterator[type[Configuration]]:
        for child in model.__subclasses__():
            yield child
            yield from below(child)

    written = {model for model in below(Configuration) if model.__module__.startswith("lambent.")}
    assert {model.__name__ for model in written} - {"EventSourceMapping"} == {model.__name__ for model in NEEDED}
    assert typing.get_type_hints(Configuration) is not None


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        (FunctionOptions, declaring._FUNCTION_OPTIONS | declaring._EVENT_OPTIONS),
        (
            FunctionFromOptions,
            (declaring._FUNCTION_OPTIONS | declaring._EVENT_OPTIONS | declaring._ENVIRONMENT_OPTIONS) - {"code"},
        ),
        (MapOptions, declaring._MAPPING_OPTIONS | {"name"}),
        (OnOptions, declaring._FUNCTION_OPTIONS | declaring._EVENT_OPTIONS | declaring._MAPPING_OPTIONS),
        (QueueOptions, Queue.model_fields.keys() - {"name"}),
        (StreamOptions, Stream.model_fields.keys() - {"name"}),
        (EngineOptions, EngineSettings.model_fields.keys()),
    ],
)
def test_editors_know_the_very_options_that_there_are(typed: type, names: set[str]) -> None:
    assert typing.get_type_hints(typed).keys() == names
