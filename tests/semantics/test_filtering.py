"""Which records match an event pattern, and what is said of those that don't."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.semantics.filtering import (
    MAXIMUM_FILTERS,
    MAXIMUM_PATTERN_CHARACTERS,
    MAXIMUM_PATTERN_DEPTH,
    UNDECODABLE,
    InvalidPattern,
    Text,
    compile_filters,
    compile_pattern,
    decoded_view,
)

RECORDED = Path(__file__).parents[3] / "shared" / "aws-recorded" / "12-filter-patterns.json"
CASES = json.loads(RECORDED.read_text()) if RECORDED.exists() else []


def matches(pattern: Any, event: Any) -> bool:
    compiled = compile_pattern(pattern)
    result = compiled.matches(event)
    assert (compiled.miss(event) is None) == result
    return result


def why_not(pattern: Any, event: Any) -> str:
    return str(compile_pattern(pattern).miss(event))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
@pytest.mark.parametrize("written", ["as a dict", "as JSON"])
def test_what_aws_answered_is_what_we_answer(case: dict[str, Any], written: str) -> None:
    pattern = json.dumps(case["pattern"]) if written == "as JSON" else case["pattern"]
    if case["expect"] == "error":
        with pytest.raises(InvalidPattern) as raised:
            compile_pattern(pattern)
        [error] = case["recorded_error"].values()
        assert str(raised.value) == error["exception_message"]["Error"]["Message"]
    else:
        assert matches(pattern, case["event"]) == (case["expect"] == "match")


@pytest.mark.parametrize(
    ("values", "accepted", "refused"),
    [
        (["JFK", "LGA"], ["JFK", "LGA", ["EWR", "LGA"], [["JFK"]]], ["EWR", "jfk", "", 1, None, [], {}, {"JFK": 1}]),
        ([1], [1, 1.0, [2, 1]], [True, "1", 2, 1.1, None]),
        ([0], [0, 0.0, -0.0], [False, "", None]),
        ([True], [True], [1, 1.0, "true", False]),
        ([None], [None, [None]], [0, False, "", "null", [], {}]),
        ([123456789012], [123456789012], [123456789013]),
        (["::1"], ["::1", "0:0:0:0:0:0:0:1"], ["::2", "1"]),
        ([{"exists": True}], ["", 0, None, False, [1]], [[], {}, {"S": "x"}, [{"x": 1}]]),
        ([{"exists": False}], [[], {}, {"S": "x"}], ["", 0, None, [1]]),
        ([{"prefix": "ab"}], ["ab", "abc", ["x", "ab"]], ["xab", "AB", "a", 1, None]),
        ([{"prefix": ""}], ["", "a"], [1, None, []]),
        ([{"prefix": {"equals-ignore-case": "aB"}}], ["ABc", "ab"], ["a", "xab", 1]),
        ([{"suffix": "ab"}], ["ab", "xab"], ["abx", "AB", 1]),
        ([{"suffix": {"equals-ignore-case": ".PNG"}}], ["x.png", ".Png"], ["png", "x.jpg", 1]),
        ([{"equals-ignore-case": "Straße"}], ["STRAßE", "straße"], ["strasse", "x", 1]),
        ([{"exactly": "a"}], ["a"], ["A", 1]),
        ([{"wildcard": "a*b*c"}], ["abc", "axbxc", "abbcc", "a**b*c"], ["ab", "acb", "xabc", "abcx", "ABC", 1]),
        ([{"wildcard": "ab*ba"}], ["abba", "ab-ba"], ["aba", "ab", "ba"]),
        ([{"wildcard": "*"}], ["", "x"], [1, None]),
        ([{"wildcard": ""}], [""], ["x"]),
        ([{"wildcard": "a\\*\\\\*"}], ["a*\\", "a*\\x"], ["ax\\", "a*"]),
        ([{"wildcard": "*ü*"}], ["xüx", "ü"], ["u"]),
        ([{"anything-but": "a"}], ["b", 1, None, True, "", ["a", "b"]], ["a", ["a", "a"], [], {}]),
        ([{"anything-but": ["a", "b"]}], ["c", 1, None], ["a", "b"]),
        ([{"anything-but": 1}], [2, "1", True, None], [1, 1.0]),
        ([{"anything-but": [0, 1]}], [2, False, True], [0, 1, 1.0]),
        ([{"anything-but": {"prefix": "a"}}], ["b", 1, None], ["a", "ab"]),
        ([{"anything-but": {"prefix": ["a", "b"]}}], ["c", ["a", "c"]], ["a", "ba"]),
        ([{"anything-but": {"suffix": ["a", "b"]}}], ["c", 1], ["a", "ab"]),
        ([{"anything-but": {"wildcard": ["*a*", "b*"]}}], ["c", 1, None], ["xax", "b"]),
        ([{"anything-but": {"equals-ignore-case": ["A"]}}], ["b", 1, None], ["a", "A"]),
        ([{"numeric": ["=", 3.5]}], [3.5], [3, "3.5", True, None]),
        ([{"numeric": [">", 0]}], [1, 0.001, 5e9], [0, -1, "1", True, 5_000_000_001, None]),
        ([{"numeric": [">=", 0, "<", 5]}], [0, 4.9], [5, -0.1, False]),
        ([{"numeric": ["<=", -1]}], [-1, -5e9], [0, -5_000_000_001]),
        ([{"cidr": "10.0.0.0/24"}], ["10.0.0.0", "10.0.0.255"], ["10.0.1.0", "10.0.0.256", "x", 1, "::a00:1"]),
        ([{"cidr": "10.0.0.8/24"}], ["10.0.0.8"], ["10.0.0.7"]),
        ([{"cidr": "0.0.0.0/0"}], ["1.2.3.4"], ["::1"]),
        ([{"cidr": "2001:db8::/64"}], ["2001:DB8::1", "2001:0db8:0:0:ffff::"], ["2001:db8:0:1::", "10.0.0.1"]),
        ([1, "a", {"prefix": "b"}, {"exists": False}], [1, "a", "bc", [], {}], [2, "c", None]),
    ],
    ids=json.dumps,
)
def test_an_operator_accepts_what_it_should_and_nothing_else(
    values: list[Any], accepted: list[Any], refused: list[Any]
) -> None:
    for value in accepted:
        assert matches({"a": values}, {"a": value}), value
        assert matches({"x": {"a": values}}, {"x": {"a": value}}), value
    for value in refused:
        assert not matches({"a": values}, {"a": value}), value
        assert not matches({"$or": [{"a": values}, {"b": ["never"]}]}, {"a": value}), value


@pytest.mark.parametrize(
    ("pattern", "event", "reason"),
    [
        ({"data": {"origin": ["JFK", "LGA"]}}, {"data": {"origin": "EWR"}}, 'is "EWR", not one of ["JFK", "LGA"]'),
        ({"data": {"origin": ["JFK"]}}, {"data": {}}, 'is missing, and should be "JFK"'),
        ({"data": {"origin": ["JFK"]}}, {}, 'is missing, and should be "JFK"'),
        ({"data": {"origin": [True]}}, {"data": {"origin": 1}}, "is 1, not true"),
        (
            {"data": {"origin": [{"numeric": [">", 0, "<=", 5]}]}},
            {"data": {"origin": 7}},
            "is 7, not a number > 0 and <= 5",
        ),
        ({"data": {"origin": [{"exists": False}]}}, {"data": {"origin": "x"}}, 'is "x", not absent'),
        ({"data": {"origin": [{"exists": True}]}}, {"data": {"origin": {}}}, "is an object, not anything that exists"),
        (
            {"data": {"origin": [{"anything-but": {"prefix": "J"}}]}},
            {"data": {"origin": "JFK"}},
            'is "JFK", not anything but text beginning with "J"',
        ),
    ],
)
def test_a_miss_names_the_path_and_the_reason(pattern: Any, event: Any, reason: str) -> None:
    miss = compile_pattern(pattern).miss(event)
    assert miss is not None
    assert (miss.path, miss.reason, str(miss)) == ("data.origin", reason, f"data.origin {reason}")


def test_a_miss_in_a_list_or_in_alternatives_tells_of_the_parts() -> None:
    assert why_not({"a": {"b": [1]}}, {"a": [{"b": 2}, {"b": 3}]}) == (
        "a has 2 elements, of which none matches: in the first, a.b is 2, not 1"
    )
    assert why_not({"$or": [{"a": [1]}, {"b": [1]}]}, {"a": 2}) == (
        "the record matches none of 2 alternatives: a is 2, not 1; b is missing, and should be 1"
    )
    assert why_not({"a": {"b": [1]}}, {"a": 5}) == "a is 5, not an object"
    assert why_not({"a": [1]}, 5) == "the record is 5, not an object"
    assert len(why_not({"a": ["x" * 3000]}, {"a": ["y" * 100_000] * 1000})) < 1200


def test_every_field_must_match_and_the_elements_of_one_list_together() -> None:
    both = {"a": {"x": [1], "y": [2]}}
    assert matches(both, {"a": {"x": 1, "y": 2}, "other": 3})
    assert not matches(both, {"a": {"x": 1}})
    assert matches(both, {"a": [{"x": 1}, {"x": 1, "y": 2}]})
    assert not matches(both, {"a": [{"x": 1}, {"y": 2}]})


def test_a_dotted_name_is_the_same_as_nested_objects_on_either_side() -> None:
    for pattern in ({"a": {"b": {"c": [1]}}}, {"a.b": {"c": [1]}}, {"a.b.c": [1]}, {"a": {"$or": V2}}):
        for event in ({"a": {"b": {"c": 1}}}, {"a.b.c": 1}, {"a": {"b.c": 1}}, {"a.b": {"c": 1}}, {"a.b": [{"c": 1}]}):
            assert matches(pattern, event), (pattern, event)
        assert not matches(pattern, {"a.b.c": 2})
        assert not matches(pattern, {"a": {"b": 1}, "b.c": 1})
    assert matches({"a": {"b": [1], "c": [2]}}, {"a": {"b": 1}, "a.c": 2})
    assert matches({"a": {"b": [1]}}, {"a": {"b": 2}, "a.b": 1})


V2 = [{"b.c": [1]}, {"never": [1]}]


def test_absence_is_a_property_of_the_whole_event() -> None:
    absent = {"a": {"x": [{"exists": False}], "y": [1]}}
    assert matches(absent, {"a": {"y": 1}})
    assert matches(absent, {"a": {"y": 1, "x": {"deeper": 1}}})
    assert not matches(absent, {"a": [{"y": 1}, {"x": 1}]})
    assert not matches(absent, {"a": {"y": 1}, "a.x": 0})
    assert matches({"a": {"b": {"c": [{"exists": False}]}}}, {})
    assert matches({"a": {"b": [{"exists": False}]}}, {"a": "a JSON string"})
    assert not matches({"a": {"b": [{"exists": False}]}, "z": [1]}, {})


def test_alternatives_may_stand_at_any_level_and_nest() -> None:
    pattern = {"s": [1], "d": {"$or": [{"a": [1], "$or": [{"b": [1]}, {"c": [1]}]}, {"z": [{"exists": False}]}]}}
    assert matches(pattern, {"s": 1, "d": {"a": 1, "c": 1, "z": 0}})
    assert matches(pattern, {"s": 1})
    assert not matches(pattern, {"s": 1, "d": {"a": 1, "z": 0}})
    assert not matches(pattern, {"s": 2})
    assert matches({"d": {"$or": [{"x": [1]}, {"y": [1]}], "w": [1]}}, {"d": [{"x": 1}, {"y": 1, "w": 1}]})


@pytest.mark.parametrize(
    ("payload", "view"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1]", [1]),
        (b'"text"', "text"),
        (b"12", 12),
        (b"plain", "plain"),
        (b"", ""),
        (b"NaN", "NaN"),
        ("{'ü'}".encode(), "{'ü'}"),
        (b"\xef\xbb\xbf{}", "\ufeff{}"),
        (b'{"a": 1', '{"a": 1'),
    ],
)
def test_a_payload_is_seen_as_json_or_else_as_text(payload: bytes, view: object) -> None:
    assert decoded_view(payload) == view


def test_a_payload_and_its_pattern_must_both_be_json_or_both_be_text() -> None:
    fields: Any = {"data": {"origin": [{"exists": False}, "JFK"]}}
    words: Any = {"data": ["go", {"prefix": "stop"}]}
    assert matches(fields, {"data": decoded_view(b"{}")})
    assert not matches(fields, {"data": decoded_view(b"go")})
    assert matches(words, {"data": decoded_view(b"go")})
    assert matches(words, {"data": decoded_view(b"stop it")})
    assert not matches(words, {"data": decoded_view(b'{"go": "go"}')})
    assert why_not(fields, {"data": Text("go")}) == 'data is the text "go", not JSON with the fields of the pattern'


def test_a_payload_that_cannot_be_read_exists_and_matches_nothing_else() -> None:
    for payload in (b"\xff\xfe", b"[" * 100_000):
        event = {"data": decoded_view(payload), "partitionKey": "k"}
        assert event["data"] is UNDECODABLE
        assert matches({"data": [{"exists": True}]}, event)
        assert matches({"partitionKey": ["k"]}, event)
        for values in (["x"], [None], [{"anything-but": "x"}], [{"exists": False}], [{"prefix": ""}]):
            assert not matches({"data": values}, event)
            assert not matches({"data": {"a": values}}, event)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "Filter is not valid JSON"),
        ("{", "Filter is not valid JSON"),
        ('{"a": [NaN]}', "Filter is not valid JSON"),
        ("[]", "Filter is not an object"),
        (None, "Filter is not an object"),
        ({}, "Empty objects are not allowed"),
        ({"a": {}}, "Empty objects are not allowed"),
        ({"a": []}, "Empty arrays are not allowed"),
        ({"a": "x"}, '"a" must be an object or an array'),
        ({"a": None}, '"a" must be an object or an array'),
        ({1: ["x"]}, "Field name 1 is not a string"),
        ({"a": [[1]]}, "Match value must be String, number, true, false, or null"),
        ({"a": [float("inf")]}, "Match value must be String, number, true, false, or null"),
        ({"a": [{}]}, "Match expression name not found"),
        ({"a": [{"Prefix": "x"}]}, "Unrecognized match type Prefix"),
        ({"a": [{"prefix": "x", "suffix": "y"}]}, "Only one key allowed in match expression"),
        ({"a": [{"prefix": 1}]}, "prefix match pattern must be a string"),
        ({"a": [{"prefix": {}}]}, "Prefix expression name not found"),
        ({"a": [{"suffix": {"wildcard": "x"}}]}, "Unsupported suffix pattern: wildcard"),
        ({"a": [{"suffix": {"equals-ignore-case": 1}}]}, "equals-ignore-case match pattern must be a string"),
        ({"a": [{"exactly": 1}]}, "exact match pattern must be a string"),
        ({"a": [{"exists": 1}]}, "exists match pattern must be either true or false."),
        ({"a": [{"wildcard": "a**"}]}, "Consecutive wildcard characters at pos 2"),
        ({"a": [{"wildcard": "ü**"}]}, "Consecutive wildcard characters at pos 3"),
        ({"a": [{"wildcard": "a\\x"}]}, "Invalid escape character at pos 2"),
        ({"a": [{"wildcard": "a\\"}]}, "Invalid escape character at pos 2"),
        ({"a": [{"anything-but": {}}]}, "Anything-But expression name not found"),
        ({"a": [{"anything-but": {"numeric": 1}}]}, "Unsupported anything-but pattern: numeric"),
        (
            {"a": [{"anything-but": True}]},
            "Value of anything-but must be an array or single string/number value.",
        ),
        (
            {"a": [{"anything-but": [1, "a"]}]},
            "Inside anything but list, either all values are number or string, mixed type is not supported",
        ),
        (
            {"a": [{"anything-but": []}]},
            "Inside anything but list, either all values are number or string, mixed type is not supported",
        ),
        ({"a": [{"anything-but": [True]}]}, "Inside anything but list, start|null|boolean is not supported."),
        ({"a": [{"anything-but": {"prefix": ""}}]}, "Null prefix/suffix not allowed"),
        ({"a": [{"anything-but": {"suffix": ["a", ""]}}]}, "Null prefix/suffix not allowed"),
        ({"a": [{"anything-but": {"wildcard": []}}]}, "Empty arrays are not allowed"),
        ({"a": [{"numeric": 1}]}, "Value of numeric must be an array."),
        ({"a": [{"numeric": []}]}, "Invalid member in numeric match: ]"),
        ({"a": [{"numeric": [1]}]}, "Invalid member in numeric match: 1"),
        ({"a": [{"numeric": ["!=", 1]}]}, "Unrecognized numeric range operator: !="),
        ({"a": [{"numeric": ["=", "1"]}]}, "Value of equals must be numeric"),
        ({"a": [{"numeric": [">"]}]}, "Value of > must be numeric"),
        ({"a": [{"numeric": [">", True]}]}, "Value of > must be numeric"),
        ({"a": [{"numeric": ["<", 5, ">", 1]}]}, "Too many elements in numeric expression"),
        ({"a": [{"numeric": [">", 1, 5]}]}, "Bad value in numeric range: 5"),
        ({"a": [{"numeric": [">", 1, "=", 5]}]}, "Bad numeric range operator: ="),
        ({"a": [{"numeric": [">", 1, "<"]}]}, "Value of < must be numeric"),
        ({"a": [{"numeric": [">", 1, "<", 5, "<", 6]}]}, "Too many terms in numeric range expression"),
        ({"a": [{"numeric": [">=", 5, "<=", 5]}]}, "Bottom must be less than top"),
        ({"a": [{"numeric": [">", 5000000001]}]}, "Value must be between -5.0E9 and 5.0E9, inclusive"),
        ({"a": [{"numeric": [">", 0.1234567]}]}, "Only values upto 6 decimals are supported"),
        ({"a": [{"cidr": 1}]}, "prefix match pattern must be a string"),
        ({"a": [{"cidr": "1.1.1.1/"}]}, "Malformed CIDR, one '/' required"),
        ({"a": [{"cidr": "1.1.1.1/1/1"}]}, "Malformed CIDR, one '/' required"),
        ({"a": [{"cidr": "1.1.1.1/-1"}]}, "Malformed CIDR, mask bits must not be negative"),
        ({"a": [{"cidr": "1.1.1.1/ 1"}]}, "Malformed CIDR, mask bits must be an integer"),
        ({"a": [{"cidr": "1.1.1.1/32"}]}, "IPv4 mask bits must be < 32"),
        ({"a": [{"cidr": "::/128"}]}, "IPv6 mask bits must be < 128"),
        ({"a": [{"cidr": "/8"}]}, "Nonstandard IP address: "),
        ({"$or": {}}, "It must be an Array followed with $or."),
        ({"$or": [{"a": [1]}]}, "There must have at least 2 Objects in $or relationship."),
        ({"$or": [{"a": [1]}, 1]}, "Only JSON object is allowed in array of $or relationship."),
        (
            {"$or": [{"numeric": [1]}, {"b": [1]}]},
            "numeric is Ruler reserved fieldName which cannot be used inside $or.",
        ),
        ('{"a": [1], "a": [2]}', "Path `a` cannot be allowed multiple times"),
        ({"a": {"b": [1]}, "a.b": [2]}, "Path `a.b` cannot be allowed multiple times"),
        ({"a": [1], "$or": [{"a": [2]}, {"b": [1]}]}, "Path `a` cannot be allowed multiple times"),
    ],
)
def test_a_wrong_pattern_is_refused_in_eventbridges_words(pattern: Any, reason: str) -> None:
    with pytest.raises(InvalidPattern) as raised:
        compile_pattern(pattern)
    assert str(raised.value) == f"Event pattern is not valid. Reason: {reason}"


@pytest.mark.parametrize(
    ("values", "too_complex"),
    [
        ([{"wildcard": "a*b*c*d*e"}], False),
        ([{"wildcard": "*:*:*:*:*:*:*"}], True),
        ([{"wildcard": "*a" * 12}], True),
        ([{"wildcard": f"*:stack/{name}/*"} for name in "ABC"], False),
        ([{"wildcard": f"*:stack/{name}/*"} for name in "ABCD"], True),
        ([{"wildcard": f"*.{name}"} for name in ("bif", "tiff", "tif", "svs")], False),
        ([{"wildcard": f"*/datasync/*.{name}"} for name in ("bif", "tif")], False),
        ([{"wildcard": f"*/datasync/*.{name}"} for name in ("bif", "tiff", "tif", "svs")], True),
        ([{"anything-but": {"wildcard": [f"*.{name}" for name in ("bif", "tiff", "tif", "svs")]}}], False),
        ([{"anything-but": {"wildcard": [f"*a*a*a*{name}" for name in "bcde"]}}], True),
    ],
    ids=json.dumps,
)
def test_wildcards_that_one_value_may_be_in_at_too_many_places_are_too_complex(values: Any, too_complex: bool) -> None:
    if too_complex:
        with pytest.raises(InvalidPattern, match="Rule is too complex - try using fewer wildcard characters"):
            compile_pattern({"a": values})
    else:
        compile_pattern({"a": values})


def test_alternatives_may_make_a_thousand_combinations() -> None:
    def pattern(*sizes: int) -> dict[str, Any]:
        return {f"f{n}": {"$or": [{f"k{i}": [1]} for i in range(size)]} for n, size in enumerate(sizes)}

    assert matches(pattern(10, 10, 10), {f"f{n}": {"k9": 1} for n in range(3)})
    with pytest.raises(InvalidPattern, match="Rule is too complex"):
        compile_pattern(pattern(10, 10, 11))
    with pytest.raises(InvalidPattern, match="Rule is too complex"):
        compile_pattern(pattern(*[2] * 50))


def test_a_mapping_has_at_most_ten_filters_of_4096_characters() -> None:
    assert len(compile_filters(['{"a": [1]}'] * MAXIMUM_FILTERS).patterns) == MAXIMUM_FILTERS
    with pytest.raises(InvalidPattern, match="At most 10"):
        compile_filters(['{"a": [1]}'] * (MAXIMUM_FILTERS + 1))
    room = MAXIMUM_PATTERN_CHARACTERS - len('{"a":[""]}')
    for write in (dict, lambda pattern: json.dumps(pattern, separators=(",", ":"))):
        compile_filters([write({"a": ["x" * room]})])
        with pytest.raises(InvalidPattern, match="4096"):
            compile_filters([write({"a": ["x" * (room + 1)]})])


def test_a_record_passes_if_any_filter_matches_or_there_is_none() -> None:
    filters = compile_filters([{"a": [1]}, '{"b": [2]}'])
    assert filters.matches({"a": 1})
    assert filters.matches({"b": 2})
    assert filters.misses({"b": 2}) == ()
    assert not filters.matches({"a": 2})
    assert [miss.path for miss in filters.misses({"a": 2})] == ["a", "b"]
    assert compile_filters([]).matches({})
    assert compile_filters([]).misses({}) == ()


def nested(depth: int, inner: Any, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def test_a_pattern_nested_too_deep_is_refused_and_never_crashes() -> None:
    deepest = nested(MAXIMUM_PATTERN_DEPTH, [1], lambda inner: {"a": inner})
    assert matches(deepest, nested(MAXIMUM_PATTERN_DEPTH, 1, lambda inner: {"a": inner}))
    assert not matches(deepest, {"a": {}})
    for pattern in (
        {"a": deepest},
        nested(100_000, [1], lambda inner: {"a": inner}),
        nested(100_000, {"a": [1]}, lambda inner: {"$or": [inner, {"b": [1]}]}),
        {"a": nested(100_000, [1], lambda inner: [inner])},
        {".".join(["a"] * (MAXIMUM_PATTERN_DEPTH + 1)): [1]},
        {"a": [{"anything-but": nested(100_000, "x", lambda inner: {"prefix": inner})}]},
        '{"a":' * 600 + "[1]" + "}" * 600,
        "[" * 4096,
        '{"a":' * 800,
        "{" * 100_000,
    ):
        with pytest.raises(InvalidPattern):
            compile_pattern(pattern)


def test_an_event_nested_ever_so_deep_is_looked_at_only_as_deep_as_the_pattern_goes() -> None:
    for deep in (
        nested(100_000, 1, lambda inner: {"a": inner}),
        nested(100_000, 1, lambda inner: [inner]),
        nested(100_000, 1, lambda inner: [{"b": inner}]),
    ):
        for pattern in (
            {"a": [2, {"exists": False}]},
            {"a": {"a": [2, {"anything-but": 1}], "b": [0]}},
            {"$or": [{"a": {"b": [2]}}, {"b": [{"exists": False}]}]},
        ):
            matches(pattern, {"a": deep})


def calls(action: Callable[[], object]) -> int:
    """How many Python and C calls an action makes: a measure of work that no clock disturbs."""
    count = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(
    ("pattern", "event"),
    [
        ({"a": ["x"]}, lambda n: {"a": ["y"] * n}),
        ({"a": {"b": ["x"]}}, lambda n: {"a": [{"b": "y", "c.d": 1}] * n}),
        ({"a": {"b": {"c": [{"exists": False}]}}}, lambda n: {"a": [{"b": [{"c": {}}]}] * n}),
        ({"a": [{"wildcard": "*a*a*a*a"}]}, lambda n: {"a": ["a" * 40 + "b"] * n}),
        (
            nested(20, {"a": ["x"]}, lambda inner: {"$or": [inner, {"b": ["x"]}]}),
            lambda n: {"a": ["y"] * n, "b": ["y"] * n},
        ),
    ],
)
def test_the_work_grows_in_proportion_to_the_event(pattern: Any, event: Callable[[int], Any]) -> None:
    compiled = compile_pattern(pattern)
    small, large = (calls(lambda n=n: (compiled.matches(event(n)), compiled.miss(event(n)))) for n in (100, 1000))
    assert large < 10.5 * small


def test_the_length_of_a_text_costs_a_wildcard_no_further_steps() -> None:
    compiled = compile_pattern({"a": [{"wildcard": "*a*ab*abc*d"}]})
    events = [{"a": "ab" * length + "x"} for length in (10, 100_000)]
    short, long = (calls(lambda event=event: compiled.matches(event)) for event in events)
    assert short == long


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(alphabet="ab*.\\:1", max_size=6)
)
KEYS = st.sampled_from(["a", "b", "a.b", "$or", "prefix", "exists", "", "."])
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)
OPERATORS = st.sampled_from(
    ["prefix", "suffix", "wildcard", "equals-ignore-case", "anything-but", "numeric", "cidr", "exists"]
)
LEAVES = st.lists(SCALARS | st.dictionaries(OPERATORS, JSON_VALUES, max_size=1), max_size=3)
PATTERNS = st.recursive(
    st.dictionaries(KEYS, LEAVES, min_size=1, max_size=2),
    lambda inner: (
        st.dictionaries(KEYS, inner, max_size=2)
        | st.fixed_dictionaries({"$or": st.lists(inner, min_size=2, max_size=3)})
    ),
    max_leaves=5,
)


@given(pattern=PATTERNS | JSON_VALUES, events=st.lists(JSON_VALUES, max_size=4))
def test_anything_at_all_either_is_refused_or_matches_or_has_a_reason(pattern: Any, events: list[Any]) -> None:
    try:
        compiled = compile_pattern(pattern)
    except InvalidPattern:
        return
    for event in events:
        assert compiled.matches(event) == (compiled.miss(event) is None)
        assert compile_pattern(compiled.text).matches(event) == compiled.matches(event)


@given(data=st.binary(max_size=30) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_have_a_view(data: bytes) -> None:
    view = decoded_view(data)
    matches({"data": {"a": [{"exists": False}]}}, {"data": view})
    assert matches({"data": [{"exists": True}, {"exists": False}]}, {"data": view})


@given(refused=st.lists(st.text(max_size=2), min_size=1), value=SCALARS | st.text(max_size=2))
def test_anything_but_is_the_complement_of_the_values(refused: list[str], value: object) -> None:
    assert matches({"a": [{"anything-but": refused}]}, {"a": value}) != matches({"a": refused}, {"a": value})


@given(
    refused=st.lists(st.text("abAB", min_size=1, max_size=2), min_size=1, max_size=3),
    value=SCALARS | st.text("abAB", max_size=3),
    name=st.sampled_from(["prefix", "suffix", "equals-ignore-case"]),
)
def test_anything_but_an_operator_is_the_complement_of_that_operator(
    refused: list[str], value: object, name: str
) -> None:
    accepted = [{name: text} for text in refused]
    assert matches({"a": [{"anything-but": {name: refused}}]}, {"a": value}) != matches({"a": accepted}, {"a": value})


NUMBERS = st.integers(-20, 20).map(lambda number: number / 4) | st.integers(-5, 5)


@given(low=NUMBERS, high=NUMBERS, above=st.sampled_from([">", ">="]), below=st.sampled_from(["<", "<="]), value=NUMBERS)
def test_a_numeric_range_is_what_its_comparisons_say(
    low: float, high: float, above: str, below: str, value: float
) -> None:
    said = {">": value > low, ">=": value >= low, "<": value < high, "<=": value <= high}
    assert matches({"a": [{"numeric": [above, low]}]}, {"a": value}) == said[above]
    assert matches({"a": [{"numeric": [below, high]}]}, {"a": value}) == said[below]
    if low < high:
        between = {"a": [{"numeric": [above, low, below, high]}]}
        assert matches(between, {"a": value}) == (said[above] and said[below])


def fits(wildcard: str, text: str) -> bool:
    """The plain definition of a wildcard, exponential and right."""
    if not wildcard:
        return not text
    if wildcard[0] == "*":
        return any(fits(wildcard[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and wildcard[0] == text[0] and fits(wildcard[1:], text[1:])


@given(
    parts=st.lists(st.text("ab", min_size=1, max_size=2), max_size=3),
    ends=st.tuples(st.sampled_from(["", "*"]), st.sampled_from(["", "*"])),
    text=st.text("ab", max_size=8),
)
def test_a_wildcard_matches_what_its_definition_says(parts: list[str], ends: tuple[str, str], text: str) -> None:
    wildcard = ends[0] + "*".join(parts) + (ends[1] if parts else "")
    assert matches({"a": [{"wildcard": wildcard}]}, {"a": text}) == fits(wildcard, text)


@given(st.data())
def test_alternatives_mean_the_same_as_trying_each_by_itself(data: st.DataObject) -> None:
    values = st.lists(st.integers(0, 2), min_size=1, max_size=2)
    branches = data.draw(
        st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1, max_size=2), min_size=2, max_size=3)
    )
    event = {"x": data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)))}
    assert matches({"x": {"$or": branches}}, event) == any(matches({"x": branch}, event) for branch in branches)
