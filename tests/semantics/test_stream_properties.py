"""What holds of a shard whatever happens: random mappings, records and handlers, answers in any order, crashes, drains,
throttles, from a seed. `Audit` knows only what was put, what was invoked and what was stored."""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise
from random import Random
from typing import Any
from zlib import crc32

import pytest

from lambent.model import (
    Checkpoint,
    Delivered,
    Failed,
    Fetch,
    Invoke,
    Refused,
    ReportBatch,
    Settled,
    Succeeded,
    Unavailable,
    Wait,
)
from lambent.semantics import responses, stream
from tests.semantics.driver import EPOCH, ERROR, THROTTLED, Call, Driver, mapping, numbers, position

SEEDS, CHUNKS = 1000, 10
MAXIMUM_STEPS = 30_000


class Scenario:
    """One seed: a mapping, a handler with its faults, and a run that ends."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = Random(seed)
        self.windowed = chance.random() < 0.25
        self.partial = chance.random() < 0.4
        self.faults = chance.randrange(8) if chance.random() < 0.6 else 0  # crashes and drains that are still to come
        self.crash_free = self.faults == 0
        self.factor = 1 if self.windowed else chance.choice([1, 1, 2, 3, 10])
        self.retries = chance.choice([0, 1, 2, 5])
        self.config = mapping(
            batch_size=chance.choice([1, 2, 3, 7, 10, 50]),
            maximum_batching_window_seconds=chance.choice([0, 0, 0.5, 20]),
            parallelization_factor=self.factor,
            bisect_batch_on_function_error=chance.random() < 0.5,
            maximum_retry_attempts=self.retries,
            maximum_record_age_seconds=chance.choice([-1, -1, -1, 60, 300]),
            tumbling_window_seconds=chance.choice([5, 60]) if self.windowed else 0,
            report_batch_item_failures=self.partial,
            on_failure=chance.choice(["queue:dead", None]),
        )
        self.count = chance.randrange(1, 60)
        self.poison = {n for n in range(1, self.count + 1) if chance.random() < chance.choice([0, 0.05, 0.3])}
        self.missed = {n for n in range(1, self.count + 1) if chance.random() < 0.2} if chance.random() < 0.4 else set()
        self.flaky = chance.choice([0.0, 0.0, 0.2])
        self.throttling = chance.choice([0.0, 0.0, 0.2])
        self.keys = chance.choice([1, 3, 20])
        self.size = chance.choice([0, 10])
        self.play = Driver(
            self.config,
            function=self.function,
            report=self.report,
            accepts=(lambda record: int(record.position) not in self.missed) if self.missed else None,
        )
        self.audit = Audit(self)
        self.stale_invokes: list[Invoke] = []

    def function(self, call: Call) -> Any:
        chance = self.chance
        if chance.random() < self.throttling:
            return THROTTLED if chance.random() < 0.7 else Unavailable("away")
        bad = [number for number in call.records if number in self.poison]
        if chance.random() < self.flaky:
            bad = chance.sample(call.records, 1) if call.records else [-1]
        done = [number for number in call.records if not bad or number < bad[0]]
        value: dict[str, Any] = {}
        if self.windowed:
            assert call.window is not None
            value["state"] = {"seen": [*call.window.state.get("seen", []), *done]}
        if not bad:
            return value
        if self.partial and chance.random() < 0.8 and bad != [-1]:
            names = [position(number) for number in bad]
            chance.shuffle(names)
            return value | {"batchItemFailures": [{"itemIdentifier": name} for name in names]}
        return ERROR

    def report(self, step: ReportBatch) -> Any:
        return Refused("too large") if self.chance.random() < 0.1 else Delivered()

    # ---- the run

    def run(self) -> Audit:
        play, chance, audit = self.play, self.chance, self.audit
        to_put = self.count
        asleep = False
        for _ in range(MAXIMUM_STEPS):
            if to_put and (asleep or chance.random() < 0.1):
                count = min(to_put, chance.randrange(1, 30))
                play.put(count, [str(chance.randrange(self.keys)) for _ in range(count)], size=self.size)
                to_put -= count
                asleep = False
                if not to_put:
                    play.close()
            if self.faults and chance.random() < 0.02:
                self.faults -= 1
                self.fault()
            if play.in_flight and chance.random() < 0.4:
                self.answer(chance.choice(play.in_flight))
                continue
            step = play.ask()
            if isinstance(step, Invoke):
                audit.started(play.calls[-1])
            elif play.ended:
                audit.finished()
                return audit
            elif step is None or isinstance(step, Wait):
                able = [each for each in play.in_flight if not isinstance(each, Fetch) or self.found(each)]
                if able:
                    self.answer(chance.choice(able))
                elif isinstance(step, Wait):
                    play.now = step.until if chance.random() < 0.8 else (play.now + step.until) / 2
                else:
                    assert to_put or asleep is False, "nothing to do, and the shard has not ended"
                    assert to_put, f"stuck: {play.progress} of {self.count}"
                    asleep = True
                    play.now += chance.choice([0, 1, 30])
        raise AssertionError("no end")

    def found(self, step: Fetch) -> bool:
        told, read = self.play._told, self.play.read(step)
        self.play._told = told
        return read is not None

    def answer(self, step: Any) -> None:
        play = self.play
        call = play.running.get(id(step))
        reports = len(play.reports)
        play.answer(step)
        if call is not None:
            self.audit.answered(call)
        if len(play.reports) > reports:
            self.audit.reported(play.reports[-1])
        if isinstance(step, Checkpoint):
            self.audit.stored(step)

    def fault(self) -> None:
        """A crash, before or after what is in flight took effect; or a drain; or capacity that was freed."""
        play, chance = self.play, self.chance
        kind = chance.choice(["crash", "crash", "drain", "free"])
        if kind == "free":
            play.consumer.capacity_freed()
            return
        if kind == "drain":
            play.consumer.drain()
            while not play.consumer.drained:
                able = [each for each in play.in_flight if not isinstance(each, Fetch)]
                step = play.ask() if chance.random() < 0.5 or not able else None
                if isinstance(step, Invoke):
                    raise AssertionError("a drained shard starts nothing")
                if able:
                    self.answer(chance.choice(able))
            assert play.ask() is None or play.ended
            assert play.consumer.drained
        else:
            for step in play.in_flight:
                if isinstance(step, Checkpoint) and chance.random() < 0.5:
                    play.store(step)
                    self.audit.stored(step)
                if isinstance(step, ReportBatch) and chance.random() < 0.5:
                    self.audit.done.update(numbers(step.records))
        play.crash()
        self.audit.crashed()


class Audit:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.begun: set[int] = set()  # invoked, or recorded as such
        self.done: set[int] = set(scenario.missed)  # delivered, reported or filtered
        self.successes: dict[int, int] = {}
        self.failures: dict[int, int] = {}
        self.running: list[Call] = []
        self.presumed: set[int] = set()  # passed over without a report: what follows them was begun
        self.fates: dict[int, tuple[str, str]] = {}  # and reasons, by stored checkpoints
        self.last = 0
        self.finals: dict[float, list[int]] = {}

    def lane(self, number: int) -> object:
        return self.scenario.factor == 1 or self.scenario.play.records[number - 1].key

    def started(self, call: Call) -> None:
        batch = set(call.records)
        assert call.records == sorted(batch)
        assert len(batch) <= self.scenario.config.batch_size
        assert not batch & self.scenario.missed, "a record that the filter misses is not invoked"
        lanes = {self.lane(number) for number in batch}
        for other in self.running:
            assert not lanes & {self.lane(number) for number in other.records}, "two batches of a key at once"
        self.running.append(call)
        last = max(batch, default=0)
        earlier = [n for n in range(1, last) if n not in batch and n not in self.done and self.lane(n) in lanes]
        for number in earlier:
            behind = [n for n in batch if n > number and self.lane(n) == self.lane(number)]
            if self.scenario.config.on_failure is None and behind:
                self.presumed.add(number)
            else:
                assert not behind, f"{behind} begun before {number} was finished"
        assert not batch & self.presumed, "what was passed over is not begun again"
        if self.scenario.crash_free:
            assert not batch & self.done, "finished records are not begun again"
        self.begun |= batch
        assert call.attempt <= self.scenario.retries + 1 or not call.records
        if call.window is not None:
            arrivals = [self.scenario.play.records[n - 1].arrived_at for n in call.records]
            assert all(call.window.start <= arrival < call.window.end for arrival in arrivals)
            assert call.window.start % self.scenario.config.tumbling_window_seconds == 0

    def answered(self, call: Call) -> None:
        self.running.remove(call)
        if isinstance(call.outcome, Failed):
            for number in call.records:
                self.failures[number] = self.failures.get(number, 0) + 1
        if not isinstance(call.outcome, Succeeded):
            return
        done = call.records
        if self.scenario.partial:
            match responses.judge(call.value, [position(number) for number in call.records]):
                case responses.SomeFailed(failed):
                    done = [number for number in done if number < int(min(failed))]
                case responses.NoneSucceeded():
                    done = []
        for number in call.records:
            if number in done:
                self.successes[number] = self.successes.get(number, 0) + 1
            else:
                self.failures[number] = self.failures.get(number, 0) + 1
        if self.scenario.crash_free:
            assert not self.done & set(done), "a record is in two successful invocations"
        self.done.update(done)
        if call.final and call.window is not None and len(done) == len(call.records):
            seen = [*call.window.state.get("seen", []), *done]
            assert len(seen) == len(set(seen)), "a window counted a record twice"
            assert not (self.scenario.crash_free and call.window.start in self.finals), "a window ended twice"
            self.finals[call.window.start] = seen

    def reported(self, report: Any) -> None:
        config = self.scenario.config
        assert config.on_failure is not None
        assert report.condition != "RecordAgeExceeded" or config.maximum_record_age_seconds > 0
        if report.condition == "RetryAttemptsExhausted":
            assert report.attempts == self.scenario.retries + 1
            assert not config.bisect_batch_on_function_error or len(report.records) == 1
        else:
            oldest = EPOCH + report.at - config.maximum_record_age_seconds
            assert all(self.scenario.play.records[n - 1].arrived_at <= oldest + 0.01 for n in report.records)
            assert report.attempts <= self.scenario.retries + 1
        self.done.update(report.records)

    def stored(self, step: Checkpoint) -> None:
        at = int(step.progress.position)
        assert at >= self.last, "a checkpoint went backwards"
        for settled in step.settled:
            assert int(settled.first) == self.last + 1, "fates come in order, without a gap, each once"
            assert int(settled.last) == self.last + settled.count
            for number in range(int(settled.first), int(settled.last) + 1):
                self.found(number, settled)
            self.last = int(settled.last)
        assert self.last == at, "a checkpoint tells the fate of each record that it passes"
        assert all(one[3:] != other[3:] for one, other in pairwise(map(astuple, step.settled))), "neighbours are joined"
        assert all(n in self.done for n in range(1, at + 1)), "a checkpoint passed an unfinished record"
        for piece in step.progress.pieces:
            assert int(piece.first) > at
            assert 0 <= piece.attempts <= self.scenario.retries + 1
            self.begun.update(self.range(piece.first, piece.last))

    def found(self, number: int, settled: Settled) -> None:
        self.fates[number] = settled.fate, settled.reason
        assert (settled.fate == "filtered") == (number in self.scenario.missed)
        if settled.fate == "delivered":
            assert number in self.successes
            assert number not in self.presumed
        elif settled.fate == "failed" and self.scenario.config.on_failure is None:
            self.passed_over(number, settled.reason)

    def range(self, first: str, last: str) -> list[int]:
        """The records of one lane between these positions, without those that the filter misses."""

        def lane(number: int) -> int:
            return crc32(self.scenario.play.records[number - 1].key.encode()) % self.scenario.factor

        between = range(int(first), int(last) + 1)
        return [n for n in between if lane(n) == lane(int(first)) and n not in self.scenario.missed]

    def passed_over(self, number: int, reason: str) -> None:
        """Nobody was told: it must be because it failed (or a crash left its attempt unknown), or is too old."""
        if reason == "RetryAttemptsExhausted":
            assert number in self.begun
            assert not self.scenario.crash_free or number in self.failures
        else:
            assert reason == "RecordAgeExceeded"
        self.done.add(number)

    def crashed(self) -> None:
        self.running.clear()
        self.presumed.clear()

    def finished(self) -> None:
        scenario, play = self.scenario, self.scenario.play
        everything = set(range(1, scenario.count + 1))
        assert self.done == everything
        assert play.progress.position == position(scenario.count)
        assert play.progress.ended
        assert not play.progress.pieces
        assert play.progress.window is None
        fates = play.fates()
        assert sum(fates.values()) == scenario.count == len(self.fates)
        if scenario.crash_free:
            assert fates.get("delivered", 0) == len(self.successes)
        if scenario.windowed:
            counted = [number for seen in self.finals.values() for number in seen]
            assert len(counted) == len(set(counted))
            if scenario.crash_free:
                assert set(counted) == set(self.successes)
            else:
                assert set(counted) <= set(self.successes)
        if scenario.config.maximum_record_age_seconds == -1 and not scenario.flaky and scenario.crash_free:
            assert not scenario.poison & set(self.successes), "a poison was delivered"
            isolated = scenario.config.bisect_batch_on_function_error or scenario.config.batch_size == 1
            if isolated:
                assert set(self.successes) == everything - scenario.poison - scenario.missed


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_record_finds_one_fate_in_order_and_the_checkpoint_passes_none_that_is_unfinished(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk % 2:
        monkeypatch.setattr(stream, "MAXIMUM_SPAN_RECORDS", 10 + chunk)
        monkeypatch.setattr(stream, "MAXIMUM_SPAN_BYTES", 100)
    for seed in range(chunk, SEEDS, CHUNKS):
        try:
            Scenario(seed).run()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
