"""`lambent why` and `lambent audit`: where an item is and because of what, and whether a mapping's books balance."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lambent.arns import without_password
from lambent.cli.mappings import find
from lambent.cli.terminal import (
    DEFAULT_STORE,
    FAILED,
    JsonOption,
    StoreOption,
    note,
    say,
    say_json,
    show,
    with_client,
)
from lambent.client import Client
from lambent.model import StreamMapping
from lambent.semantics.auditing import Account, Audit
from lambent.semantics.explaining import Explanation

COLUMNS = ("SHARD", "CAME", "DELIVERED", "FILTERED", "FAILED", "LOST", "WAITING", "TRIMMED", "TRYING", "BALANCED")


def why(
    item: Annotated[
        str, typer.Argument(metavar="ID", help="Of an event, a message or a record (or shardId:sequenceNumber).")
    ],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Where an event, message or record is, and because of what.

    One answer for each mapping that reads it. Ends with 1 if nothing is known of it."""

    async def explained(client: Client) -> int | None:
        found = await client.why(item)
        for each in found:
            if as_json:
                say_json(document(each))
            else:
                say("\n  ".join((_title(each), *each.sentences)))
        return FAILED if all(each.verdict == "unknown" for each in found) else None

    with_client(store, explained)


def audit(
    mapping: Annotated[
        str | None, typer.Argument(metavar="MAPPING", help="As in `lambent mappings`; without: all of streams.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """The books of a stream mapping: what came, what became of it.

    Ends with 1 if they do not balance."""

    async def audited(client: Client) -> int | None:
        if mapping is not None:
            chosen = [(await find(client, mapping)).id]
        else:
            stored = await client.list_mappings()
            chosen = [name for name, each in stored.items() if isinstance(each.mapping, StreamMapping)]
        books = [await client.audit(identity) for identity in chosen]
        for each in books:
            say_json(account_document(each)) if as_json else _tell(each)
        if not books and not as_json:
            note("No mappings of streams: declare one with engine.map(stream, function).")
        return FAILED if any(each.balanced is False for each in books) else None

    with_client(store, audited)


def document(each: Explanation) -> dict[str, Any]:
    """An explanation, for scripts."""
    return {
        "id": each.id,
        "kind": each.kind,
        "verdict": each.verdict,
        "source": without_password(each.source) or None,
        "function": each.function or None,
        "mapping": each.mapping or None,
        "sentences": list(each.sentences),
        **each.details,
    }


def account_document(books: Audit) -> dict[str, Any]:
    """An audit, for scripts: counts of records, null where nobody can count them."""
    return {
        "mapping": books.mapping,
        "source": without_password(books.source),
        "function": books.function,
        "balanced": books.balanced,
        "total": _counts(books.total),
        "shards": {name: _counts(account) for name, account in books.shards.items()},
    }


def _title(each: Explanation) -> str:
    what = without_password(each.source) if each.kind != "event" else "event"
    where = f"{what} -> {each.function}" if each.function else what
    return f"{each.verdict}  {each.id}" + (f"  ({where})" if where else "")


def _counts(account: Account) -> dict[str, Any]:
    failed: dict[str, int] = {}
    for (fate, reason), count in account.fates.items():
        if fate == "failed":
            failed[reason] = failed.get(reason, 0) + count
    return {
        "came": account.came,
        "passed": account.passed,
        "delivered": account.count("delivered"),
        "filtered": account.count("filtered"),
        "failed": failed,
        "lost": account.count("lost"),
        "waiting": account.waiting,
        "trimmed": account.trimmed,
        "trying": account.trying,
        "ended": account.ended,
        "balanced": account.balanced,
    }


def _tell(books: Audit) -> None:
    say(f"{without_password(books.source)} -> {books.function}")
    rows = [_cells(name, account, account.balanced) for name, account in books.shards.items()]
    if len(rows) > 1:
        rows.append(_cells("all", books.total, books.balanced))
    show(COLUMNS, rows, empty="It has not begun to read.")
    for reason, count in _counts(books.total)["failed"].items():
        say(f"failed: {count} by {reason}")
    match books.balanced:
        case True:
            say("Each record that it passed has one fate.")
        case False:
            say(f"It passed {books.total.passed} records, and {books.total.told} found a fate: this must not be.")
        case None:
            say("What came is not known here, for its source lies outside of the store.")


def _cells(name: str, account: Account, balanced: bool | None) -> list[object]:
    fates = [account.count(fate) for fate in ("delivered", "filtered", "failed", "lost")]
    told = {True: "yes", False: "NO", None: None}[balanced]
    return [name, account.came, *fates, account.waiting, account.trimmed, account.trying, told]
