"""The disk fails, is full or cannot be written: nothing is acknowledged that is not stored, and the work goes on."""

import random
import subprocess
import sys

import pytest

from lambent.errors import StoreUnavailable
from lambent.testing.loop import run
from tests.durability.power import connect
from tests.durability.troubles import campaign, sampled, strikes

SAMPLE = 80


def explained(found):
    strike, problems = next(iter(found.problems.items()))
    number, call, trouble, lasts = strike
    again = f"again: python -m tests.durability.troubles --call {number} --trouble {trouble}"
    return "\n".join([str(found), f"{trouble} at call {number} ({call}), lasting: {lasts}", *problems[:10], again])


def test_whatever_goes_wrong_with_the_disk_costs_nothing_that_was_acknowledged():
    found = campaign(sampled(list(strikes()), SAMPLE))
    assert not found.problems, explained(found)
    assert found.felt.total() > SAMPLE / 2


LIMITED = """
import asyncio, resource, sys
from random import Random
from lambent import StoreUnavailable
from lambent.model import Event
from lambent.ports import World
from lambent.stores.sqlite import SqliteStore
from lambent.world import SystemClock, ids_of

async def put(events):
    for number in range(400):
        await events.put_many([Event(f"{len(stored)}", "f", bytes(2000), 1.0)])
        stored.append(f"{len(stored)}")

async def main():
    chance = Random(0)
    world = World("engine", SystemClock(), chance.random, ids_of(chance))
    connection = await SqliteStore(sys.argv[1]).connect(world)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    try:
        await put(connection.events)
    except StoreUnavailable as error:
        print(error)
    refused = len(stored)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await put(connection.events)
    facts = [await connection.facts.event(id) for id in stored]
    print(0 < refused < 400, len(stored) - refused, all(facts))
    await connection.close()

stored = []
asyncio.run(main())
"""


def test_a_file_system_that_takes_no_more_refuses_and_the_work_goes_on_when_it_does(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "app.db")]
    refusal, outcome = subprocess.check_output(command, text=True).splitlines()
    assert "Nothing is known to be stored" in refusal
    assert outcome == "True 400 True"


@pytest.mark.parametrize("name", ["app.db-shm", "app.db-wal", "app.db-lock"])
def test_a_file_beside_the_store_that_cannot_be_made_is_refused_until_it_can(tmp_path, name):
    async def scenario():
        (tmp_path / name).mkdir()
        with pytest.raises(StoreUnavailable, match=r"app\.db"):
            await connect(tmp_path / "app.db", None, random.Random(0), "engine")
        (tmp_path / name).rmdir()
        connection = await connect(tmp_path / "app.db", None, random.Random(0), "engine")
        await connection.close()

    run(scenario(), seed=0)


@pytest.mark.night
def test_whatever_goes_wrong_at_any_call_of_the_disk_costs_nothing_that_was_acknowledged():
    every = list(strikes())
    found = campaign(every, tell=print)
    print(found, found.felt)
    assert not found.problems, explained(found)
    assert found.strikes == len(every) > 3000
