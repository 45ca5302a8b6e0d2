"""Which version of a function a call gets."""

from __future__ import annotations

import pytest

from lambent.configuration import Alias, PublishedVersion
from lambent.model import Function
from lambent.semantics.routing import at, key, known, resolve

FUNCTION = Function(
    name="f",
    timeout_seconds=3,
    versions={"1": PublishedVersion(timeout_seconds=1), "2": PublishedVersion(timeout_seconds=2)},
    aliases={
        "live": Alias(version="1"),
        "canary": Alias(version="1", weights={"2": 0.25}),
        "gone": Alias(version="7"),
        "latest": Alias(version="$LATEST"),
    },
)


@pytest.mark.parametrize(
    ("qualifier", "version"),
    [(None, "$LATEST"), ("$LATEST", "$LATEST"), ("1", "1"), ("live", "1"), ("latest", "$LATEST"), ("3", None)],
)
def test_a_qualifier_is_a_version_or_an_alias_of_one(qualifier: str | None, version: str | None) -> None:
    assert resolve(FUNCTION, qualifier, 0.9) == version


@pytest.mark.parametrize(("draw", "version"), [(0.0, "2"), (0.2499, "2"), (0.25, "1"), (0.9999, "1")])
def test_a_share_of_the_calls_goes_to_the_other_version(draw: float, version: str) -> None:
    assert resolve(FUNCTION, "canary", draw) == version


def test_an_alias_of_a_version_that_is_gone_leads_nowhere() -> None:
    assert known(FUNCTION, "gone")
    assert resolve(FUNCTION, "gone", 0.5) is None


def test_a_version_runs_with_what_was_published() -> None:
    published = at(FUNCTION, "2")
    assert (published.timeout_seconds, published.version, published.versions, published.aliases) == (2, "2", {}, {})
    assert at(FUNCTION, "$LATEST").timeout_seconds == 3
    assert [key("f", each) for each in ("$LATEST", "2")] == ["f", "f:2"]
