"""The application whose engine or store is in trouble: a function for each model; each writes down what it runs.

Decides what fails, by the number of an item; each item names its number. What is written down goes into a pipe, one
line for each begin and end, in one write, so that a kill leaves it whole.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
from collections.abc import Mapping

from lambent import Engine

POISON = 25  # every such number fails, however often it is tried
TURNS = 100  # of the loop that a run takes, so that many are cut off

_journal = int(os.environ["SHOP_JOURNAL"])  # a pipe's end, inherited
_numbers = itertools.count(1)

engine = Engine(async_retry_delays_seconds=(0.05, 0.1))
failed_charges = engine.queue("charges-failed")
dead_orders = engine.queue("orders-dead")
failed_clicks = engine.queue("clicks-failed")
orders = engine.queue("orders", visibility_timeout_seconds=3, max_receive_count=10, dead_letter_queue="orders-dead")
line = engine.queue("line.fifo", visibility_timeout_seconds=3, fifo=True)
clicks = engine.stream("clicks", shards=2)


def is_poison(number: int) -> bool:
    return number % POISON == POISON - 1


@engine.function(timeout_seconds=1)
async def quote(event, context):
    await _run("quote", {str(event["n"]): event["n"]})
    return {"quoted": event["n"]}


@engine.function(timeout_seconds=1, on_failure=failed_charges, maximum_retry_attempts=2)
async def charge(event, context):
    if await _run("charge", {context.aws_request_id: event["n"]}):
        raise ValueError("poison")


@engine.on(orders, timeout_seconds=1, batch_size=5, report_batch_item_failures=True)
async def pack(event, context):
    receipts = {record["messageId"]: record["receiptHandle"] for record in event["Records"]}
    items = {record["messageId"]: json.loads(record["body"])["n"] for record in event["Records"]}
    failed = await _run("pack", items, partial=True)
    await orders.change_visibility([receipts[each] for each in failed], 0)
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}


@engine.on(line, timeout_seconds=1, batch_size=3)
async def pick(event, context):
    await _run("pick", {record["messageId"]: json.loads(record["body"])["n"] for record in event["Records"]})


@engine.on(
    clicks,
    timeout_seconds=1,
    batch_size=8,
    parallelization_factor=2,
    bisect_batch_on_function_error=True,
    maximum_retry_attempts=3,
    on_failure=failed_clicks,
)
async def count(event, context):
    records = [record["kinesis"] for record in event["Records"]]
    numbers = {each["sequenceNumber"]: json.loads(base64.b64decode(each["data"]))["n"] for each in records}
    if await _run("count", numbers):
        raise ValueError("poison")


async def _run(function: str, items: Mapping[str, int], partial: bool = False) -> list[str]:
    """Work on these numbers, by id; gives the ids of those that failed, with which (unless `partial`) all have."""
    run = next(_numbers)
    _note(run=run, began=function, items=items)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    failed = [id for id, number in items.items() if is_poison(number)]
    _note(run=run, done=[] if failed and not partial else [id for id in items if id not in failed])
    return failed


def _note(**entry: object) -> None:
    os.write(_journal, json.dumps({"process": os.getpid(), **entry}).encode() + b"\n")
