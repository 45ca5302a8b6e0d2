"""docs/conformance.md says what the recorded cases show."""

from __future__ import annotations

from tests.conformance.page import PAGE, fates, page
from tests.conformance.recorded import RECORDINGS

if RECORDINGS.exists():

    def test_every_recorded_case_is_replayed_or_it_is_said_why_not() -> None:
        assert [name for cases in fates().values() for name, fate in cases.items() if not fate] == []

    def test_the_page_is_what_the_cases_show() -> None:
        assert page() == PAGE.read_text(), "python -m tests.conformance.page writes it anew"
