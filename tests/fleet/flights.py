"""Flights by three engines that share a store, while one is killed -9 and one stopped and continued again and again.

    python -m tests.fleet.flights --store redis://localhost:6379 --every 10000

Decides when which engine suffers. What must hold in the end is the example's own audit; duplicates may be no more than
what was in flight at the engines that were killed or stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from examples.flights.app import BATCH_SIZE, SHARDS
from examples.flights.board import Board
from examples.flights.data import departures, truth
from examples.flights.engines import Engines, in_processes
from examples.flights.picture import Sample
from examples.flights.play import Service, audit, lines, play
from lambent.polling.queue import MAXIMUM_IN_FLIGHT

ENGINES = 3
IN_FLIGHT = {"stream": SHARDS * BATCH_SIZE, "queue": MAXIMUM_IN_FLIGHT, "async": MAXIMUM_IN_FLIGHT}
"""At an engine at most, by model."""
MOMENTS_STOPPED = (1, 3)  # or: an engine wakes before its leases are others', or after
LOG_CHARACTERS = 3000

Moment = Callable[[], Coroutine[None, None, bool]]


@dataclass
class Found:
    """What came of it. `problems` are broken promises, each a sentence; `duplicates` by model."""

    put: int
    seconds: float
    kills: int
    stops: int
    duplicates: Mapping[str, int]
    problems: Sequence[str]

    def __str__(self) -> str:
        duplicates = ", ".join(f"{model} {count}" for model, count in self.duplicates.items())
        return (
            f"{self.put:,} departures by {ENGINES} engines in {self.seconds:.1f} s, {self.kills} kills, "
            f"{self.stops} stops; duplicates: {duplicates}; {len(self.problems)} broken promises"
        )


class Unrest:
    """Kills an engine and starts another, then stops one and lets it go on, and so forth; `moment` waits for the next
    of these; False: there is none."""

    def __init__(self, engines: Engines, chance: random.Random, moment: Moment) -> None:
        self.kills = self.stops = 0
        self._engines, self._chance, self._moment = engines, chance, moment

    async def rage(self) -> None:
        while await self._moment():
            victim = self._victim()
            victim.kill()
            await victim.wait()
            self.kills += 1
            await self._engines.start()
            if await self._moment():
                await self._stop(self._victim(), self._chance.choice(MOMENTS_STOPPED))

    async def _stop(self, victim: Process, moments: int) -> None:
        victim.send_signal(signal.SIGSTOP)
        self.stops += 1
        try:
            while moments and await self._moment():
                moments -= 1
        finally:
            victim.send_signal(signal.SIGCONT)

    def _victim(self) -> Process:
        return self._chance.choice([each for each in self._engines.processes if each.returncode is None])


async def fleet(
    store: str,
    directory: Path,
    *,
    limit: int | None,
    per_second: float,
    every: float,
    seed: int,
    at_most_seconds: float,
    departures_in: str = "departures",
) -> Found:
    """Play so many departures. `every`: departures between two blows (they end with the work). `departures_in`: a
    stream of the store, or a topic's URL."""
    path = directory / "board.db"
    board = Board(path)
    engines = Engines(store, path, seed, directory / "engines.log", departures_in)
    said, departed, told = truth(limit), 0, 0.0
    departing, seen = said.rows - len(said.never_departed), asyncio.Event()

    def see(sample: Sample) -> None:
        nonlocal departed
        departed = sample.delivered
        if departed >= min(told, departing):
            seen.set()

    async def moment() -> bool:
        nonlocal told
        told += every
        seen.clear()
        await seen.wait()
        return departed < departing

    unrest = Unrest(engines, random.Random(seed), moment)

    @asynccontextmanager
    async def serving() -> AsyncIterator[Service]:
        async with in_processes(engines, ENGINES) as service:
            raging = asyncio.create_task(unrest.rage())
            try:
                yield service
            finally:
                raging.cancel()
                await asyncio.wait([raging])
                if not raging.cancelled():
                    raging.result()  # a bug of ours shall be heard of

    played = await play(
        board, serving(), departures(limit), per_second=per_second, at_most_seconds=at_most_seconds, show=see
    )
    played.resumed = True  # as after a crash, duplicates are allowed
    problems, duplicates = audit(played, said), {line.model: line.duplicates for line in lines(played)}
    board.close()
    for model, at_one in IN_FLIGHT.items():
        if duplicates[model] > (most := at_one * (unrest.kills + unrest.stops)):
            problems.append(f"{model}: {duplicates[model]} duplicates, {most} were in flight")
    expected = (0, -signal.SIGKILL, -signal.SIGTERM)  # the last: it was told before it had begun to listen
    codes = [process.returncode for process in engines.processes]
    if not set(codes) <= set(expected):
        problems.append(f"engines that were told to drain ended with {codes}")
    if problems:
        problems.append("the engines said at last:\n" + engines.log.read_text()[-LOG_CHARACTERS:])
    return Found(played.put, played.seconds, unrest.kills, unrest.stops, duplicates, problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--departures-in", default="departures", help="a topic's URL, where they go through Kafka")
    parser.add_argument("--limit", type=int, help="only the first departures")
    parser.add_argument("--per-second", type=float, default=8_000)
    parser.add_argument("--every", type=float, default=10_000, help="departures between two blows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-most-seconds", type=float, default=600)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(
            fleet(
                asked.store,
                Path(directory),
                limit=asked.limit,
                per_second=asked.per_second,
                every=asked.every,
                seed=asked.seed,
                at_most_seconds=asked.at_most_seconds,
                departures_in=asked.departures_in,
            )
        )
    print(found, *found.problems, sep="\n  ")
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
