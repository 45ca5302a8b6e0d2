"""Functions of a module that cannot import the engine; `include.py` takes them over."""

import asyncio
from typing import Any

from lambent import Functions

functions = Functions()
greeted = asyncio.Event()


@functions.function(timeout_seconds=5)
def greet(event: Any, context: Any) -> str:
    return f"hello, {event['name']}"


@functions.on("queue:names", batch_size=5, name="greeter")
async def greet_all(event: Any, context: Any) -> None:
    print("greeted:", [record["body"] for record in event["Records"]])
    greeted.set()
