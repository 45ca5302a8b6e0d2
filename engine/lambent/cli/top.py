"""`lambent top`: what a store's engines are doing, live.

Decides what is looked at and how it is laid out. Engines tell what they count (`desk.py`); rates are made here of what
they told at two times; what waits is read from the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lambent.cli.mappings import COLUMNS as MAPPING_COLUMNS
from lambent.cli.mappings import cells as mapping_cells
from lambent.cli.mappings import document as mapping_document
from lambent.cli.terminal import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    console,
    moment,
    say_json,
    span,
    table_of,
    with_client,
)
from lambent.client import Client
from lambent.desk import LOOK_SECONDS, Snapshot
from lambent.semantics.health import NOBODY
from lambent.telemetry import ASYNC_EVENT_AGE, CONCURRENT_EXECUTIONS, DURATION, ERRORS, INVOCATIONS, THROTTLES

SHOWN = 20  # functions that are listed, the busiest first
FUNCTION_COLUMNS = (
    "FUNCTION", "CALLS/S", "CALLS", "ERRORS", "THROTTLED", "RUNNING", "DURATION", "EVENTS", "AGE",
)  # fmt: skip


def top(
    once: Annotated[bool, typer.Option("--once", help="Show one picture, and end.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Functions, mappings, events and dead letters, live.

    A new picture every second, until Ctrl-C."""

    async def watched(client: Client) -> None:
        screen = console()
        if as_json or once:
            async for picture in pictures(client):
                say_json(picture) if as_json else screen.print(laid_out(picture))
                if once:
                    return
        with suppress(asyncio.CancelledError), Live(console=screen, screen=True, auto_refresh=False) as live:
            async for picture in pictures(client):
                live.update(laid_out(picture), refresh=True)

    with_client(store, watched)


async def pictures(client: Client) -> AsyncIterator[dict[str, Any]]:
    """What there is to see, about every second; the first when there were two looks to make rates of."""
    before = await client.snapshots()
    while True:
        after = await client.snapshots()
        for _ in range(3):
            seen = {each.engine: each.at for each in before}
            if all(each.at > seen.get(each.engine, 0.0) for each in after):
                break
            await asyncio.sleep(LOOK_SECONDS / 2)
            after = await client.snapshots()
        yield await _picture(client, before, after)
        before = after
        await asyncio.sleep(LOOK_SECONDS)


def laid_out(picture: Mapping[str, Any]) -> RenderableType:
    """A picture for people."""
    engines, functions = picture["engines"], picture["functions"]
    head = f"{len(engines)} engine{'s' if len(engines) != 1 else ''}" if engines else NOBODY
    busiest = sorted(functions, key=_busy)[:SHOWN]
    more = len(functions) - len(busiest)
    dead = ((each["queue"], each["visible"], each["in_flight"]) for each in picture["dead_letter_queues"])
    parts: list[RenderableType] = [
        Text(f"{picture['store']}   {head}   {moment(picture['at'])} UTC", style="dim"),
        table_of(FUNCTION_COLUMNS, map(_function_cells, busiest)),
        *([Text(f"and {more} more", style="dim")] if more else []),
        table_of(MAPPING_COLUMNS, map(mapping_cells, picture["mappings"])),
        table_of(("DEAD LETTERS IN", "VISIBLE", "IN FLIGHT"), dead),
    ]
    shown = [part for part in parts if not isinstance(part, Table) or part.row_count]
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in shown))


async def _picture(client: Client, before: Sequence[Snapshot], after: Sequence[Snapshot]) -> dict[str, Any]:
    pending = await client.pending()
    names = sorted({*await client.list_functions(), *pending})
    return {
        "at": client.now(),
        "store": str(client.store),
        "engines": [each.engine for each in after],
        "functions": [_function(name, pending.get(name, 0), before, after) for name in names],
        "mappings": [mapping_document(each) for each in await client.standings(after)],
        "dead_letter_queues": [
            {"queue": each.name, "visible": each.depth.visible, "in_flight": each.depth.in_flight}
            for each in await client.dead_letters.queues()
        ],
    }


def _function(name: str, waiting: int, before: Sequence[Snapshot], after: Sequence[Snapshot]) -> dict[str, Any]:
    """One function, all engines together; counts since these were started, rates and duration since the look before."""
    earlier = {each.engine: each for each in before}
    pairs = [(earlier[each.engine], each) for each in after if each.engine in earlier]
    rates = [
        (_number(late, INVOCATIONS, name) - _number(early, INVOCATIONS, name)) / (late.monotonic - early.monotonic)
        for early, late in pairs
        if late.monotonic > early.monotonic
    ]
    ran = [_summary(late, DURATION, name) for late in after]
    calls, seconds = sum(each["count"] for each in ran), sum(each["sum"] for each in ran)
    ages = [_summary(each, ASYNC_EVENT_AGE, name)["last"] for each in after]
    return {
        "function": name,
        "hosted": any(name in each.functions for each in after),
        "invocations_per_second": sum(rates) if rates else None,
        "invocations": sum(_number(each, INVOCATIONS, name) for each in after),
        "errors": sum(_number(each, ERRORS, name) for each in after),
        "throttles": sum(_number(each, THROTTLES, name) for each in after),
        "concurrent": sum(_number(each, CONCURRENT_EXECUTIONS, name) for each in after),
        "duration_seconds": seconds / calls if calls else None,
        "waiting_events": waiting,
        "event_age_seconds": max(ages, default=0.0) or None,
    }


def _function_cells(each: Mapping[str, Any]) -> Sequence[object]:
    rate = each["invocations_per_second"]
    return (
        each["function"],
        None if rate is None else f"{rate:,.1f}",
        each["invocations"],
        each["errors"],
        each["throttles"],
        each["concurrent"],
        span(each["duration_seconds"]),
        each["waiting_events"],
        span(each["event_age_seconds"]),
    )


def _busy(each: Mapping[str, Any]) -> tuple[float, float, float, str]:
    return -(each["invocations_per_second"] or 0), -each["waiting_events"], -each["invocations"], each["function"]


def _number(snapshot: Snapshot, metric: str, subject: str) -> float:
    value = snapshot.metrics.get(metric, {}).get(subject, 0)
    assert not isinstance(value, dict)
    return value


def _summary(snapshot: Snapshot, metric: str, subject: str) -> dict[str, float]:
    value = snapshot.metrics.get(metric, {}).get(subject)
    return value if isinstance(value, dict) else {"count": 0, "sum": 0.0, "last": 0.0}
