"""An application that `lambent run` serves: orders are packed and charged, clicks are counted.

Run it with `lambent run examples/shop.py`, and look after it from another terminal:

    lambent send orders '{"item": "vase", "fragile": true}'     fails, and is a dead letter a second later
    lambent invoke charge '{"amount": 12}' --async
    lambent mappings
    lambent dead-letters list
"""

from collections import Counter
from typing import Any

from lambent import Engine

engine = Engine()  # kept in lambent.db where it is run, unless --store names another place
dead = engine.queue("dead")
orders = engine.queue("orders", visibility_timeout_seconds=1, max_receive_count=1, dead_letter_queue=dead)
clicks = engine.stream("clicks", shards=2)
counts: Counter[str] = Counter()


@engine.on(orders, batch_size=10, report_batch_item_failures=True, timeout_seconds=1)
def pack(event: Any, context: Any) -> dict[str, Any]:
    broken = [record["messageId"] for record in event["Records"] if "fragile" in record["body"]]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in broken]}


@engine.function(timeout_seconds=5, maximum_retry_attempts=0, on_failure=dead)
async def charge(event: Any, context: Any) -> str:
    print("charging", event)
    if event["amount"] > 100:
        raise ValueError(f"{event['amount']} is more than the card allows")
    return f"charged {event['amount']}"


@engine.on(clicks, batch_size=100, maximum_retry_attempts=0, on_failure=dead)
def count(event: Any, context: Any) -> None:
    for record in event["Records"]:
        counts[record["kinesis"]["partitionKey"]] += 1
