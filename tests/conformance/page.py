"""docs/conformance.md: what was recorded of AWS, and how far we answer the same. `python -m tests.conformance.page`
writes it.

Decides how cases are counted: once, by where they are replayed. A case of which AWS's recorder kept nothing says
nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from tests.conformance import (
    test_recorded_api,
    test_recorded_api_functions,
    test_recorded_functions,
    test_recorded_mappings,
    test_recorded_runs,
)
from tests.conformance.api_cases import AREAS, KNOWN, family, recorded_cases

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
NAMES: Final = {
    "01": "synchronous calls, errors, context",
    "02": "asynchronous calls, retries, destinations",
    "03": "event invoke configurations",
    "04": "concurrency",
    "05": "versions and aliases",
    "08": "event source mappings",
    "13": "functions, names, limits",
    "14": "runtimes",
}


def fates() -> dict[str, dict[str, str]]:
    """By area, what becomes of each case: "api", "engine" or why it is not replayed; "" if nobody knows."""
    api = {**test_recorded_api.CASES, **test_recorded_api_functions.CASES, **test_recorded_runs.CASES}
    engine = {**test_recorded_functions.CASES, **test_recorded_mappings.CASES}
    found: dict[str, dict[str, str]] = {}
    for area in AREAS:
        for name, case in recorded_cases(area).items():
            fate = KNOWN.get(family(name), "")
            if not case.content:
                fate = KNOWN.get(family(name), "nothing was recorded but that it went well")
            found.setdefault(area, {})[name] = "api" if name in api else "engine" if name in engine else fate
    return found


def page() -> str:
    """As it should be."""
    lines = [
        "# Conformance",
        "",
        "What AWS answered was recorded by others, and is replayed here: against the running server by boto3, or in "
        "the",
        "engine where it is about what happens to events. Names and times aside, an answer must be the same to the "
        "letter:",
        "members, values, statuses, the words of errors and the case of their members. The table counts the recorded "
        "cases;",
        "`make test` replays them where the recordings are, and holds this page to what it found.",
        "",
        "| area | cases | the same by boto3 | the same in the engine | not replayed |",
        "|---|---|---|---|---|",
    ]
    total = Counter[str]()
    for area, cases in fates().items():
        count = Counter(each if each in ("api", "engine") else "not" for each in cases.values())
        total.update(count)
        total["all"] += len(cases)
        lines.append(f"| {NAMES[area]} | {len(cases)} | {count['api']} | {count['engine']} | {count['not']} |")
    lines.append(f"| **all** | {total['all']} | {total['api']} | {total['engine']} | {total['not']} |")
    lines += ["", "No replayed case differs. Those that are not replayed:", ""]
    reasons: dict[str, Counter[str]] = {}
    for cases in fates().values():
        for name, fate in cases.items():
            if fate not in ("api", "engine"):
                reasons.setdefault(fate, Counter())[family(name).rpartition("::")[2]] += 1
    for reason, named in sorted(reasons.items()):
        shown = ", ".join(f"`{name}`" + (f" ({count})" if count > 1 else "") for name, count in sorted(named.items()))
        lines.append(f"- {reason}: {shown}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
