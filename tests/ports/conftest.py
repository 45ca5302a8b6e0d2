"""Reports which tests of the behaviour suites an adapter does not run because it does not declare what they need."""

from __future__ import annotations

import pytest

_NOT_DECLARED = pytest.StashKey[dict[str, list[str]]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = config.stash.setdefault(_NOT_DECLARED, {})
    left_out = []
    for item in items:
        needed = getattr(getattr(item, "function", None), "__needs__", frozenset())
        cls = getattr(item, "cls", None)
        if lacking := needed - getattr(cls, "capabilities", frozenset()):
            assert cls is not None
            missing.setdefault(f"{cls.__name__}: {', '.join(sorted(lacking))}", []).append(item.name)
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if missing := config.stash.get(_NOT_DECLARED, {}):
        terminalreporter.section("capabilities not declared")
        for capability, tests in sorted(missing.items()):
            terminalreporter.line(f"{capability}: {len(tests)} not run ({', '.join(sorted(tests))})")
