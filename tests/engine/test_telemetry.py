"""What is counted and said, and the watchdog of the loop."""

from __future__ import annotations

import threading
import time

import structlog

from lambent import telemetry as names
from lambent.telemetry import DURATION, INVOCATIONS, LOOP_BLOCKED, WIRE, Telemetry
from lambent.watchdog import Watchdog


class Clock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def test_counters_summaries_and_gauges_stand_in_one_snapshot() -> None:
    telemetry = Telemetry()
    telemetry.count(INVOCATIONS, "f")
    telemetry.count(INVOCATIONS, "f", 2)
    telemetry.observe(DURATION, "f", 0.5)
    telemetry.observe(DURATION, "f", 1.5)
    telemetry.gauge("Depth", lambda: {"q": 7})
    assert telemetry.snapshot() == {
        "Invocations": {"f": 3},
        "Duration": {"f": {"count": 2, "sum": 2.0, "min": 0.5, "max": 1.5, "last": 1.5}},
        "Depth": {"q": 7},
    }


def test_a_snapshot_does_not_move_when_counting_goes_on() -> None:
    telemetry = Telemetry()
    telemetry.count(INVOCATIONS, "f")
    before = telemetry.snapshot()
    telemetry.count(INVOCATIONS, "f")
    assert before["Invocations"] == {"f": 1}


def test_every_metric_has_its_names_on_the_wire() -> None:
    own = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert own == WIRE.keys()
    assert (
        len({wire.prometheus for wire in WIRE.values()}) == len(WIRE) == len({w.opentelemetry for w in WIRE.values()})
    )
    for wire in WIRE.values():
        assert wire.prometheus.startswith("lambent_")
        assert wire.prometheus.endswith("_total") == (wire.kind == "counter")
        assert wire.prometheus.endswith("_seconds") == wire.meaning.startswith("How "), "times say their unit"


def test_subscribers_see_each_step_until_they_leave() -> None:
    telemetry, seen = Telemetry(), []
    leave = telemetry.subscribe(lambda *step: seen.append(step))
    telemetry.step("invoker", "call", 1)
    leave()
    telemetry.step("invoker", "call", 2)
    assert seen == [("invoker", "call", 1)]
    assert not telemetry.watched


def test_a_subscriber_that_fails_is_dropped_and_stops_nobody() -> None:
    telemetry, seen = Telemetry(), []

    def fails(*step: object) -> None:
        raise ZeroDivisionError

    telemetry.subscribe(fails)
    telemetry.subscribe(lambda *step: seen.append(step))
    with structlog.testing.capture_logs() as logs:
        telemetry.step("a", 1)
        telemetry.step("b", 2)
    assert len(seen) == 2
    assert [log["log_level"] for log in logs] == ["error"]


class Said(Telemetry):
    """Keeps what is logged, and says that something was."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, object] = {}
        self.logged = threading.Event()
        self.measured = threading.Event()

    def log(self, level: str, event: str, **fields: object) -> None:  # type: ignore[override]
        self.fields = {"level": level, "event": event, **fields}
        self.logged.set()

    def observe(self, metric: str, subject: str, value: float) -> None:
        super().observe(metric, subject, value)
        self.measured.set()


async def test_the_watchdog_shows_where_the_loop_hangs() -> None:
    telemetry = Said()
    watchdog = Watchdog(telemetry, Clock(), blocked_seconds=0.02)
    watchdog.start()

    def a_handler_that_blocks() -> None:
        assert telemetry.logged.wait(30)

    a_handler_that_blocks()
    assert "a_handler_that_blocks" in str(telemetry.fields["stack"])
    assert telemetry.fields["event"] == "the event loop is blocked"
    import asyncio

    while not telemetry.measured.is_set():
        await asyncio.sleep(0)
    watchdog.stop()
    assert telemetry.snapshot()[LOOP_BLOCKED]["loop"]["count"] == 1  # type: ignore[index]


async def test_the_watchdog_stops() -> None:
    telemetry = Said()
    watchdog = Watchdog(telemetry, Clock(), blocked_seconds=0.02)
    watchdog.start()
    thread = watchdog._thread
    assert thread is not None
    watchdog.stop()
    thread.join(30)
    assert not thread.is_alive()
