"""The pytest plugin: a test marked `virtual_time` or `lambent` runs on a `VirtualLoop`.

Decides only which loop a marked test gets, and how often a test marked `lambent` runs, through pytest-asyncio's
loop-factory hook; a marked test is pytest-asyncio's also in its strict mode. That hook stands for the moment at which a
marked test is collected and no longer, because pytest-asyncio treats every test differently once the hook is there.
Unmarked tests notice nothing; nothing of the engine is imported before a marked test runs. What the fixture
`lambent_simulation` gives is in `fixture.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lambent.testing.fixture import LambentSimulation
    from lambent.testing.loop import VirtualLoop

_MARKS = ("virtual_time", "lambent")
_MARK = (
    "virtual_time(seed=None, deterministic=False, patience_seconds=60.0): run this async test on a virtual clock, "
    "where sleeping takes no time. seed shuffles tasks; deterministic=True refuses threads, sockets, children."
)
_LAMBENT_MARK = (
    "lambent(seed=0, seeds=1): run this async test on a virtual clock and with the chance of a seed, or of so many "
    "seeds from the first on, one run each; with the fixture lambent_simulation. --lambent-seed=N runs only that one."
)
_NEEDS = "needs pytest-asyncio 1.4 or later: pip install 'pytest-asyncio>=1.4'"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lambent")
    group.addoption("--lambent-seed", type=int, metavar="N", help="run tests marked lambent with this seed only")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)
    config.addinivalue_line("markers", _LAMBENT_MARK)


@pytest.fixture
def lambent_simulation(request: pytest.FixtureRequest) -> Iterator[LambentSimulation]:
    """Your engine on virtual time: hours of retries in milliseconds, the same for the same seed."""
    from lambent.testing.fixture import LambentSimulation

    simulation = LambentSimulation(_seed_of(request.node) or 0)
    yield simulation
    simulation.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    seed = _seed_of(item) if report.failed else None
    if seed is not None:
        name = item.nodeid.partition("[")[0]
        report.sections.append(("lambent", f"seed {seed}; see it again: pytest '{name}' --lambent-seed={seed}"))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, obj: object) -> None:
    marks = {mark.name for mark in getattr(obj, "pytestmark", ())}
    ours = not marks.isdisjoint(_MARKS) or any(map(collector.get_closest_marker, _MARKS))
    if ours and iscoroutinefunction(obj) and "asyncio" not in marks:
        pytest.mark.asyncio(obj)


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    definition = metafunc.definition
    mark, ours = definition.get_closest_marker("virtual_time"), definition.get_closest_marker("lambent")
    if ours is not None:
        factory = _LoopFactory(_for_seeds(ours, definition.nodeid, metafunc.config.getoption("--lambent-seed")))
    elif mark is not None:
        options = _checked(mark, definition.nodeid, {"seed", "deterministic", "patience_seconds"}, _MARK)
        factory = _LoopFactory({"virtual_time": options})
    else:
        return (yield)
    plugins = metafunc.config.pluginmanager
    if not hasattr(plugins.hook, "pytest_asyncio_loop_factories"):
        pytest.fail(f"{definition.nodeid}: mark.{'lambent' if ours else 'virtual_time'} {_NEEDS}", pytrace=False)
    plugins.register(factory)
    try:
        return (yield)
    finally:
        plugins.unregister(factory)


class _NotParametrized:
    params: Mapping[str, object] = {}


class _LoopFactory:
    """One marked test's answer to pytest-asyncio's question: the loops to run it on, by name, with their options."""

    def __init__(self, loops: Mapping[str, Mapping[str, object]]) -> None:
        self._loops = loops

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_asyncio_loop_factories(self) -> dict[str, Callable[[], VirtualLoop]]:
        return {name: partial(_make, options) for name, options in self._loops.items()}


def _make(options: Mapping[str, object]) -> VirtualLoop:
    from lambent.testing.loop import VirtualLoop

    return VirtualLoop(**{"deterministic": False, **options})  # type: ignore[arg-type]


def _for_seeds(mark: pytest.Mark, nodeid: str, only: int | None) -> dict[str, Mapping[str, object]]:
    options = _checked(mark, nodeid, {"seed", "seeds"}, _LAMBENT_MARK)
    first, count = options.get("seed", 0), options.get("seeds", 1)
    if not isinstance(first, int) or not isinstance(count, int) or count < 1:
        pytest.fail(f"{nodeid}: mark.lambent wants whole numbers. It is: {_LAMBENT_MARK}", pytrace=False)
    seeds = range(first, first + count) if only is None else [only]
    return {f"seed={seed}": {"seed": seed} for seed in seeds}


def _seed_of(item: pytest.Item) -> int | None:
    """The seed with which this test runs, if it is marked `lambent`: its loop's, whatever pytest-asyncio calls it."""
    for value in getattr(item, "callspec", _NotParametrized).params.values():
        if isinstance(value, partial) and value.func is _make and item.get_closest_marker("lambent"):
            return int(str(value.args[0]["seed"]))
    return None


def _checked(mark: pytest.Mark, nodeid: str, known: set[str], usage: str) -> Mapping[str, object]:
    wrong = [*map(repr, mark.args), *sorted(set(mark.kwargs) - known)]
    if wrong:
        pytest.fail(f"{nodeid}: mark.{mark.name} does not know {', '.join(wrong)}. It is: {usage}", pytrace=False)
    return mark.kwargs
