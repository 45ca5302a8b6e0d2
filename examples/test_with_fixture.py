"""How to test your own engine through hours of retries in milliseconds, with the fixture `lambent_simulation`.

Run it with `pytest examples/test_with_fixture.py`. A failure names its seed; `--lambent-seed=N` shows it again.
"""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from lambent import Engine, StoreUnavailable
from lambent.testing import CLEAR, LambentSimulation, Rates

# --- your application: an engine with two functions, and a gateway that is down now and then -------------------------

engine = Engine()
undelivered = engine.queue("undelivered")
invoices = engine.queue("invoices", visibility_timeout_seconds=3600, max_receive_count=6, dead_letter_queue="unpaid")


class Gateway:
    """A payment service as your application sees it."""

    def __init__(self) -> None:
        self.up = True
        self.charged: Counter[str] = Counter()
        self.called_at: list[float] = []

    def charge(self, order: str) -> None:
        self.called_at.append(asyncio.get_running_loop().time())
        if not self.up:
            raise ConnectionError("the gateway is down")
        self.charged[order] += 1


gateway = Gateway()


@engine.function(maximum_retry_attempts=2, on_failure=undelivered)
async def charge(event: dict[str, Any]) -> None:
    gateway.charge(event["order"])


@engine.on(invoices)
async def collect(event: dict[str, Any]) -> None:
    for record in event["Records"]:
        gateway.charge(record["body"])


# --- its tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh_gateway() -> None:
    gateway.__init__()  # type: ignore[misc]


@pytest.mark.lambent
async def test_a_charge_is_tried_again_after_one_and_after_two_minutes(lambent_simulation: LambentSimulation) -> None:
    gateway.up = False
    async with lambent_simulation.adopt(engine):
        await engine.invoke_async("charge", {"order": "A1"})
        await lambent_simulation.sleep(100)
        gateway.up = True
        await lambent_simulation.settled(engine)
    first, *retries = gateway.called_at
    assert [round(at - first) for at in retries] == [60, 180]
    assert gateway.charged == {"A1": 1}


@pytest.mark.lambent
async def test_an_invoice_is_given_up_after_six_hours(lambent_simulation: LambentSimulation) -> None:
    gateway.up = False
    async with lambent_simulation.adopt(engine):
        await invoices.send("B2")
        await lambent_simulation.settled(engine)
        (unpaid,) = await engine.queue("unpaid").receive()
    assert unpaid.body == "B2"
    assert [round(at / 3600) for at in gateway.called_at] == [0, 1, 2, 3, 4, 5]


@pytest.mark.lambent(seeds=20)
async def test_every_accepted_order_is_charged_or_reported(lambent_simulation: LambentSimulation) -> None:
    simulation, accepted = lambent_simulation, []
    async with simulation.adopt(engine):
        simulation.faults.rates = Rates(slow=0.2, unavailable=0.05, unknown=0.05)  # the store has a bad day too
        for number in range(10):
            gateway.up = simulation.random.random() < 0.7
            with suppress(StoreUnavailable):
                await engine.invoke_async("charge", {"order": f"C{number}"})
                accepted.append(f"C{number}")
            await simulation.sleep(simulation.random.random() * 60)
        gateway.up = True
        simulation.faults.rates = CLEAR
        await simulation.settled(engine)
        reported = [json.loads(each.body)["requestPayload"]["order"] for each in await undelivered.receive(10)]
    assert set(accepted) <= {*gateway.charged, *reported}
