"""The four models in one file: a call, an event, a queue and a stream.

Run it with `python examples/quickstart.py`.
"""

import asyncio
from typing import Any

from lambent import Engine, FunctionError

engine = Engine("memory://")
departures = engine.stream("departures", shards=2)
rebook = engine.queue("rebook", visibility_timeout_seconds=5, max_receive_count=3, dead_letter_queue="rebook-dead")
rebooked, delayed, alerted = asyncio.Event(), asyncio.Event(), asyncio.Event()


@engine.function(timeout_seconds=2)
def minutes(event: Any, context: Any) -> int:  # a plain function runs in a thread
    if event["delay"] is None:
        raise ValueError("cancelled")
    return int(event["delay"])


@engine.function(maximum_retry_attempts=1, on_failure=engine.queue("alerts-dead"))
async def alert(event: Any, context: Any) -> None:
    print("alert:", event["flight"])
    alerted.set()


@engine.on(rebook, batch_size=10)
async def rebooking(event: Any, context: Any) -> None:
    print("rebooked:", [record["body"] for record in event["Records"]])
    rebooked.set()


@engine.on(departures, batch_size=100, filters=[{"data": {"origin": ["JFK", "LGA"]}}])
async def delays(event: Any, context: Any) -> None:
    print("departures from", len(event["Records"]), "filtered record(s)")
    delayed.set()


async def main() -> None:
    async with engine:
        print("value:", await engine.invoke(minutes, {"delay": 12}))
        try:
            await engine.invoke(minutes, {"delay": None})
        except FunctionError as error:
            print("error:", error.document["errorType"], error.document["errorMessage"])
        view = await engine.invoke_response("minutes", {"delay": None})
        print("boto3 would see:", view.status_code, view.function_error)
        await engine.invoke_async(alert, {"flight": "UA 1545"})
        await rebook.send({"flight": "UA 1545"})
        await departures.put({"origin": "EWR"}, key="N14228")
        await departures.put({"origin": "JFK"}, key="N619AA")
        async with asyncio.timeout(10):
            await asyncio.gather(alerted.wait(), rebooked.wait(), delayed.wait())


if __name__ == "__main__":
    asyncio.run(main())
