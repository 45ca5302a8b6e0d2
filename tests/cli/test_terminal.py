"""How the command shows things to people."""

from __future__ import annotations

import pytest

from lambent.cli.terminal import excerpt, moment, say_members, show, span


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, None),
        (0.0, "0 s"),
        (0.0432, "43 ms"),
        (12.3, "12 s"),
        (200.0, "3 m 20 s"),
        (3600.0, "1 h 0 m"),
        (18_720.0, "5 h 12 m"),
        (183_600.0, "2 d 3 h"),
    ],
)
def test_a_length_of_time_has_two_units_at_most(seconds: float | None, shown: str | None) -> None:
    assert span(seconds) == shown


def test_a_time_is_shown_in_utc_and_none_is_none() -> None:
    assert (moment(1_767_225_600.9), moment(0.0)) == ("2026-01-01 00:00:00", None)


def test_a_long_text_is_shown_by_its_beginning_on_one_line() -> None:
    assert excerpt("a\n  b") == "a b"
    assert excerpt("x" * 61) == "x" * 59 + "…"


def test_what_anybody_sent_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2Jgone\x07"
    show(("ID", "CARRIES"), [("1", hostile)], empty="")
    say_members({"body": hostile, "attributes": {"a": hostile}})
    shown = capsys.readouterr().out
    assert "gone" in shown
    assert not {"\x1b", "\x07"} & set(shown)
