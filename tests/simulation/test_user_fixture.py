"""What a user's own test gets from the pytest plugin: virtual time, a seed, and how to see a failure again."""

import asyncio

import pytest

from lambent import Engine, StoreUnavailable
from lambent.engine import SystemClock
from lambent.testing import Rates

pytest_plugins = ["pytester"]

EVERYWHERE = ["-p", "no:cacheprovider", "--import-mode=importlib", "-o", "asyncio_mode=auto"]
EVERYWHERE += ["-o", "asyncio_default_fixture_loop_scope=function"]


@pytest.mark.lambent
async def test_six_hours_of_waiting_take_no_time(lambent_simulation):
    began = lambent_simulation.clock.now()
    await asyncio.sleep(6 * 3600)
    assert lambent_simulation.clock.now() - began == 6 * 3600


@pytest.mark.lambent(seed=3, seeds=3)
async def test_each_seed_is_a_run_of_its_own(lambent_simulation):
    assert lambent_simulation.seed in (3, 4, 5)


@pytest.mark.lambent(seeds=2)
async def test_ids_and_jitter_come_from_the_seed(lambent_simulation):
    async def ids():
        engine = lambent_simulation.engine()

        @engine.function
        async def nothing(event):
            pass

        async with engine:
            return await engine.invoke_async("nothing")

    assert len({await ids() for _ in range(3)}) == 3  # each engine has a chance of its own


@pytest.mark.lambent
async def test_plain_functions_run_inline(lambent_simulation):
    engine = lambent_simulation.engine()

    @engine.function
    def double(event):
        return 2 * event

    async with engine:
        assert await engine.invoke(double, 21) == 42


@pytest.mark.lambent
async def test_what_was_declared_before_an_engine_was_adopted_goes_by_the_simulated_clock(lambent_simulation):
    engine = Engine()
    queue = engine.queue("q")
    async with lambent_simulation.adopt(engine):
        await queue.send("m")
        (message,) = await queue.receive()
        await queue.change_visibility([message.receipt], 5)
        assert await queue.receive() == []
        await asyncio.sleep(5)
        assert len(await queue.receive()) == 1


@pytest.mark.lambent
async def test_the_store_fails_when_the_test_wants_it(lambent_simulation):
    engine = lambent_simulation.engine()

    @engine.function
    async def nothing(event):
        pass

    async with engine:
        lambent_simulation.faults.rates = Rates(unavailable=1.0)
        with pytest.raises(StoreUnavailable):
            await engine.invoke_async("nothing")
        lambent_simulation.faults.rates = Rates()
        await engine.invoke_async("nothing")
        await lambent_simulation.settled(engine)


@pytest.mark.lambent
async def test_an_adopted_engine_is_given_back_as_it_was(lambent_simulation):
    engine = Engine()
    store = engine.store
    lambent_simulation.adopt(engine)
    assert engine.store is not store
    lambent_simulation.close()
    assert engine.store is store
    assert isinstance(engine._clock, SystemClock)


@pytest.mark.lambent
async def test_settled_waits_for_streams_too(lambent_simulation):
    engine, got = lambent_simulation.engine(), []
    numbers = engine.stream("numbers", shards=2)

    @engine.on(numbers, batch_size=2, maximum_batching_window_seconds=30)
    async def count(event):
        await asyncio.sleep(1)
        got.extend(record["kinesis"]["sequenceNumber"] for record in event["Records"])

    async with engine:
        await numbers.put_many([(str(number), str(number)) for number in range(5)])
        await lambent_simulation.settled(engine)
    assert len(got) == 5


FAILING = """
    import pytest

    @pytest.mark.lambent(seeds=5)
    async def test_it(lambent_simulation):
        assert lambent_simulation.seed != 3
"""


def test_a_failure_names_its_seed_and_how_to_see_it_again(pytester):
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_inprocess(*EVERYWHERE)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*seed 3; see it again: pytest *test_it' --lambent-seed=3"])


@pytest.mark.parametrize("where", ["test", "module", "class"])
def test_a_marked_test_runs_also_in_the_strict_mode_of_pytest_asyncio(pytester, where):
    mark = "@pytest.mark.lambent" if where == "test" else ""
    module = "pytestmark = pytest.mark.lambent" if where == "module" else ""
    of_class = "@pytest.mark.lambent" if where == "class" else ""
    pytester.makepyfile(f"""
        import asyncio
        import pytest
        {module}

        {of_class}
        class TestTime:
            {mark}
            async def test_it_passes(self, lambent_simulation):
                await asyncio.sleep(1_000_000)
    """)
    strict = ("asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function")
    pytester.runpytest_inprocess(*EVERYWHERE[:-1], *strict).assert_outcomes(passed=1)


def test_without_pytest_asyncio_a_marked_test_says_what_to_install(pytester):
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    result.stdout.fnmatch_lines(["*mark.lambent needs pytest-asyncio 1.4 or later: pip install 'pytest-asyncio>=1.4'*"])


def test_one_seed_can_be_asked_for(pytester):
    pytester.makepyfile(FAILING)
    pytester.runpytest_inprocess(*EVERYWHERE, "--lambent-seed=3").assert_outcomes(failed=1)
    pytester.runpytest_inprocess(*EVERYWHERE, "--lambent-seed=77").assert_outcomes(passed=1)


def test_a_mark_with_an_unknown_option_is_refused_by_name(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.lambent(sede=3)
        async def test_it():
            pass
        """
    )
    result = pytester.runpytest_inprocess(*EVERYWHERE)
    result.stdout.fnmatch_lines(["*mark.lambent does not know sede*"])


def test_the_fixture_says_what_it_needs_if_the_mark_is_missing(pytester):
    pytester.makepyfile(
        """
        async def test_it(lambent_simulation):
            lambent_simulation.engine()
        """
    )
    result = pytester.runpytest_inprocess(*EVERYWHERE)
    result.stdout.fnmatch_lines(["*lambent_simulation needs @pytest.mark.lambent on an async test*"])
