"""The pytest plugin: a test marked `virtual_time` runs on a `VirtualLoop`.

Decides only which loop a marked test gets, through pytest-asyncio's loop-factory hook. That hook stands for the moment
at which a marked test is collected and no longer, because pytest-asyncio treats every test differently once the hook
is there. Unmarked tests notice nothing; nothing of the engine is imported before a marked test runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lambent.testing.loop import VirtualLoop

_MARK = (
    "virtual_time(seed=None, deterministic=False, patience_seconds=60.0): run this async test on a virtual clock, "
    "where sleeping takes no time. seed shuffles tasks; deterministic=True refuses threads, sockets, children. "
    "Needs pytest-asyncio 1.4 or later, and its own mark too unless in auto mode."
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    mark = metafunc.definition.get_closest_marker("virtual_time")
    if mark is None:
        return (yield)
    plugins = metafunc.config.pluginmanager
    factory = _LoopFactory(_checked(mark, metafunc.definition.nodeid))
    plugins.register(factory)
    try:
        return (yield)
    finally:
        plugins.unregister(factory)


class _LoopFactory:
    """One marked test's answer to pytest-asyncio's question."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = options

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(self) -> dict[str, Callable[[], VirtualLoop]]:
        return {"virtual_time": self._make}

    def _make(self) -> VirtualLoop:
        from lambent.testing.loop import VirtualLoop

        return VirtualLoop(**{"deterministic": False, **self._options})  # type: ignore[arg-type]


def _checked(mark: pytest.Mark, nodeid: str) -> Mapping[str, object]:
    wrong = [*map(repr, mark.args), *sorted(set(mark.kwargs) - {"seed", "deterministic", "patience_seconds"})]
    if wrong:
        pytest.fail(f"{nodeid}: mark.virtual_time does not know {', '.join(wrong)}. It is: {_MARK}", pytrace=False)
    return mark.kwargs
