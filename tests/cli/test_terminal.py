"""How the command shows things to people."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from lambent.cli.app import app
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


@pytest.mark.parametrize("group", [(), ("mappings",), ("functions",), ("events",), ("test-events",), ("dead-letters",)])
def test_the_summary_of_a_command_is_a_whole_sentence(group: tuple[str, ...]) -> None:
    told = CliRunner().invoke(app, [*group, "-h"], terminal_width=80).output
    assert "Commands:" in told
    assert "..." not in told.partition("Commands:")[2]


def test_the_command_tells_its_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"lambent {version('lambent')}\n"
