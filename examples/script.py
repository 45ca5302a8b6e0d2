"""A script that serves: SIGTERM or Ctrl-C lets what runs end, a second one stops at once.

Run it with `python examples/script.py`, and end it with Ctrl-C.
"""

import asyncio
import sys
from typing import Any

from lambent import Engine

engine = Engine("memory://", drain_seconds=10.0)
orders = engine.queue("orders")


@engine.on(orders, batch_size=1)
async def pack(event: Any, context: Any) -> None:
    await asyncio.sleep(0.01)
    print("packed", event["Records"][0]["body"], flush=True)


async def take_orders() -> None:
    for number in range(1_000_000):
        await orders.send(f"order {number}")
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    engine.run(take_orders)  # without an argument it serves until it is told to end
    print("drained", file=sys.stderr)
