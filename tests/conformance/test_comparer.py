"""The comparer notices what differs, and only that."""

from __future__ import annotations

from typing import Any

import pytest

from .recorded import Recording

REQUEST = "35bf992d-c9e9-4616-a12e-7696a6cecc1b"
OTHER = "d119bbd1-f1f5-4c5a-8a79-2e58612166d1"
FRAME = '  File "/var/task/handler.py", line 7, in handler\n    raise Exception("x")\n'


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        (
            {"id": "<uuid:1>", "again": "<uuid:1>", "other": "<uuid:2>"},
            {"id": REQUEST, "again": REQUEST, "other": OTHER},
        ),
        ("RequestId: <uuid:1> Version: 1\n", f"RequestId: {REQUEST} Version: 1\n"),
        ({"body": {"a": 1}}, {"body": '{"a": 1}'}),
        ({"b": 1, "a": 2, "c": "date"}, {"b": 1, "a": 2, "c": "2023-11-14T22:13:20.000Z"}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # the recorder may have sorted them
        ("<timestamp:2022-07-13T13:48:01Z>", "2023-11-14T22:13:20Z"),
        ("<approximate-arrival-timestamp>", 1700000000.0),
        ({"stackTrace": [FRAME]}, {"stackTrace": ['  File "a.py", line 1, in f\n    raise y\n    ^^^\n']}),
        ("[INFO]\tdate\t<uuid:1>\tm", f"[INFO]\t2023-11-14T22:13:20.000Z\t{REQUEST}\tm"),
    ],
)
def test_what_is_the_same_up_to_names_and_times_is_the_same(recorded: Any, ours: Any) -> None:
    Recording("a case", {}).check((recorded, ours))


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ({"id": "<uuid:1>", "again": "<uuid:1>"}, {"id": REQUEST, "again": OTHER}),
        ({"id": "<uuid:1>", "other": "<uuid:2>"}, {"id": REQUEST, "other": REQUEST}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({}, {"a": None}),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ("3", 3),
        ("date", "2023-11-14T22:13:20Z"),
        ("<timestamp:2022-07-13T13:48:01.000Z>", "2023-11-14T22:13:20Z"),
        ("<approximate-arrival-timestamp>", 1700000000),
        ({"stackTrace": [FRAME]}, {"stackTrace": []}),
        ({"stackTrace": [FRAME]}, {"stackTrace": ["f"]}),
        ("RequestId: <uuid:1>\n", f"RequestId: {REQUEST}"),
    ],
)
def test_what_differs_is_told(recorded: Any, ours: Any) -> None:
    with pytest.raises(AssertionError, match=r"a case:\n\$"):
        Recording("a case", {}).check((recorded, ours))
