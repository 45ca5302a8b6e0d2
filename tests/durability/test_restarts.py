"""What a power failure, a wrong clock, a slow disk and a destination that is down leave as it was: engines, whole."""

from __future__ import annotations

import asyncio
import json

import pytest

from lambent.testing.faults import Faults, FaultyStore
from tests.durability.machine import Machine

pytestmark = pytest.mark.virtual_time(deterministic=True)

DAY = 86_400.0
NOW = 1_700_000_000.0
AT_2038 = float(1 << 31)
OF_CLOCKS = pytest.mark.parametrize(
    ("clock", "later"),
    [
        pytest.param(NOW, NOW, id="right"),
        pytest.param(NOW, NOW + 3600, id="an hour ahead"),
        pytest.param(NOW, NOW - 3600, id="an hour behind"),
        pytest.param(NOW, NOW + DAY, id="a day ahead"),
        pytest.param(NOW, NOW - DAY, id="a day behind"),
        pytest.param(NOW, 0.0, id="in 1970"),
        pytest.param(AT_2038 - 60, AT_2038 + 60, id="past 2038"),
    ],
)


@pytest.fixture
async def machine(tmp_path):
    with Machine(tmp_path) as machine:
        yield machine


async def until(true, seconds=7 * 3600.0):
    """Wait, in virtual time, for something that nobody tells."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.25)


class Shop:
    """An application of all models. `runs` has what its handlers were given: (function, number, virtual time), and
    `reports` what the destination got."""

    def __init__(self, fail=lambda function, number: False):
        self.runs, self.reports = [], []
        self._fail = fail

    def declare(self, engine):
        self.orders = engine.queue("orders", visibility_timeout_seconds=30)
        self.clicks = engine.stream("clicks", retention_seconds=31_536_000)
        self.failed = engine.queue("failed")
        engine.function(name="charge", on_failure=self.failed)(self._charge)
        self.packing = engine.map(self.orders, engine.function(name="pack")(self._pack))
        self.counting = engine.map(self.clicks, engine.function(name="count")(self._count))
        engine.on(self.failed, name="report")(self._report)

    def numbers(self, function):
        return [number for name, number, _ in self.runs if name == function]

    def times(self, function):
        return [at for name, _, at in self.runs if name == function]

    async def _charge(self, event, context):
        self._run("charge", event["n"])

    async def _pack(self, event, context):
        for record in event["Records"]:
            self._run("pack", json.loads(record["body"])["n"])

    async def _count(self, event, context):
        for record in event["Records"]:
            self._run("count", int(record["kinesis"]["partitionKey"]))

    async def _report(self, event, context):
        self.reports += [json.loads(record["body"])["requestContext"] for record in event["Records"]]

    def _run(self, function, number):
        self.runs.append((function, number, now()))
        if self._fail(function, number):
            raise ValueError(f"{function} does not like {number}")


def now():
    return asyncio.get_running_loop().time()


def measured(engine):
    """Every number that an engine has measured."""
    for values in engine.telemetry.snapshot().values():
        for value in values.values():
            yield from value.values() if isinstance(value, dict) else [value]


# --------------------------------------------------------------------------- the clock


@OF_CLOCKS
async def test_whatever_the_clock_says_after_a_restart_what_waited_for_its_time_gets_it(machine, clock, later):
    machine.clock.shift(clock - NOW)
    shop = Shop()
    await machine.boot(shop.declare)
    await machine.run(shop.orders.send({"n": 1}, delay_seconds=60))
    await machine.run(shop.clicks.put("x", key="1"))
    await until(lambda: shop.numbers("count") == [1])
    machine.lose_power(later - clock)
    engine = await machine.boot(shop.declare)
    await until(lambda: shop.numbers("pack") == [1], 120)
    await machine.run(shop.clicks.put("x", key="2"))
    await machine.run(engine.invoke_async("charge", {"n": 3}))
    await until(lambda: shop.numbers("count")[-1:] == [2] and shop.numbers("charge") == [3], 60)
    assert shop.numbers("count") in ([1, 2], [1, 1, 2])
    assert not [each for each in measured(engine) if each < 0]


@OF_CLOCKS
async def test_whatever_the_clock_says_after_a_restart_a_failing_event_ends_once_and_is_reported(machine, clock, later):
    machine.clock.shift(clock - NOW)
    shop = Shop(fail=lambda function, number: True)
    engine = await machine.boot(shop.declare)
    request_id = await machine.run(engine.invoke_async("charge", {"n": 1}))
    await until(lambda: shop.runs)
    machine.lose_power(later - clock)
    engine = await machine.boot(shop.declare)
    await until(lambda: shop.reports)
    (report,) = shop.reports
    assert report["requestId"] == request_id
    assert report["condition"] in ("RetriesExhausted", "EventAgeExceeded")
    assert len(shop.runs) <= 3
    assert (await machine.run(engine.event(request_id))).state in ("failed", "expired")
    assert not [each for each in measured(engine) if each < 0]


# --------------------------------------------------------------------------- what a restart does not change


async def test_tries_are_counted_over_restarts_and_their_times_kept(machine):
    shop = Shop(fail=lambda function, number: True)
    engine = await machine.boot(shop.declare)
    request_id = await machine.run(engine.invoke_async("charge", {"n": 1}))
    for tries in (1, 2):
        await until(lambda tries=tries: len(shop.runs) == tries)
        await asyncio.sleep(1)  # the failure is stored
        machine.lose_power()
        engine = await machine.boot(shop.declare)
    await until(lambda: shop.reports)
    first, second, third = shop.times("charge")
    assert 60 <= second - first < 65
    assert 120 <= third - second < 125
    assert [report["requestId"] for report in shop.reports] == [request_id]
    assert [report["approximateInvokeCount"] for report in shop.reports] == [3]


async def test_an_event_that_takes_the_machine_down_each_time_is_given_up(machine):
    shop = Shop(fail=lambda function, number: machine.lose_power())
    engine = await machine.boot(shop.declare)
    accepting = asyncio.create_task(machine.run(engine.invoke_async("charge", {"n": 1})))
    for tries in (1, 2, 3):
        await until(lambda tries=tries: len(shop.runs) == tries)
        await machine.boot(shop.declare)
    await until(lambda: shop.reports)
    assert len(shop.runs) == 3
    accepting.cancel()


async def test_a_paused_mapping_stays_paused_over_a_restart_and_the_others_go_on(machine):
    shop = Shop()
    await machine.boot(shop.declare)
    await machine.run(shop.packing.pause())
    machine.lose_power()
    await machine.boot(shop.declare)
    await machine.run(shop.orders.send({"n": 1}))
    await machine.run(shop.clicks.put("x", key="2"))
    await until(lambda: shop.numbers("count") == [2])
    await asyncio.sleep(60)
    assert shop.numbers("pack") == []
    await machine.run(shop.packing.resume())
    await until(lambda: shop.numbers("pack") == [1])


async def test_a_destination_that_is_down_over_a_restart_gets_its_record_when_it_is_back(tmp_path):
    faults = Faults(0)
    with Machine(tmp_path, around=lambda store: FaultyStore(store, faults)) as machine:
        shop = Shop(fail=lambda function, number: True)
        engine = await machine.boot(shop.declare)
        faults.away["queue failed.send_many"] = now() + 400
        request_id = await machine.run(engine.invoke_async("charge", {"n": 1}))
        await until(lambda: len(shop.runs) == 3)
        await asyncio.sleep(10)
        machine.lose_power()
        engine = await machine.boot(shop.declare)
        assert (await machine.run(engine.event(request_id))).state not in ("failed", "destination-failed")
        await until(lambda: shop.reports)
        assert now() > 400
        assert [report["requestId"] for report in shop.reports] == [request_id]
        assert (await machine.run(engine.event(request_id))).state == "failed"
        assert len(shop.runs) == 3


# --------------------------------------------------------------------------- a slow disk


async def test_on_a_slow_disk_callers_wait_and_share_a_commit_and_no_lease_is_lost(tmp_path):
    with Machine(tmp_path, commit_seconds=0.2) as machine:
        shop = Shop()
        engine = await machine.boot(shop.declare, lease_seconds=5.0)
        began = now()
        calls = [shop.clicks.put("x", key=str(number)) for number in range(300)]
        calls += [engine.invoke_async("charge", {"n": number}) for number in range(300)]
        await asyncio.gather(*map(machine.run, calls))
        assert 0.2 <= now() - began < 5, "each commit took 0.2 s, and they were few"
        await until(lambda: len(shop.runs) == 600, 600)
        await asyncio.sleep(5)
        assert sorted(shop.numbers("count")) == sorted(shop.numbers("charge")) == [*range(300)]
        (shard,) = await machine.run(machine.connection.facts.shards(shop.counting.id))
        assert shard.lease.counter == 1
