"""Every command beside an engine that runs: examples/shop.py, served by `lambent run` on a file."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console
from typer.testing import CliRunner

from examples.shop import engine
from lambent.cli.app import app
from lambent.cli.top import laid_out

LOOKS = 200
SHOP = Path(__file__).parents[2] / "examples" / "shop.py"


class Said(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Lambent = Callable[..., Said]


def commands(store: str) -> Lambent:
    def lambent(*arguments: str, given: str | None = None) -> Said:
        ended = CliRunner().invoke(app, [*arguments, "--store", store], input=given)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Said(ended.exit_code, ended.stdout, ended.stderr)

    return lambent


@pytest.fixture(scope="module")
def lambent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lambent]:
    """The commands, on the store of an engine that runs."""
    store = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}"
    command = [sys.executable, "-m", "lambent.cli", "run", str(SHOP), "--store", store, "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "serving" in process.stderr.readline()
            yield commands(store)
            process.stderr.close()  # nobody reads its log any more, and yet it drains
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def until(look: Callable[[], Any]) -> Any:
    """What is seen as soon as there is something to see; looking takes time enough to need no pause."""
    for _ in range(LOOKS):
        if seen := look():
            return seen
    raise AssertionError("nothing was seen")


def dead(lambent: Lambent, pattern: str) -> list[Any]:
    return lambent("dead-letters", "list", "--filter", pattern, "--json").lines()


# --------------------------------------------------------------------------- functions


def test_a_function_is_called_and_its_value_printed(lambent: Lambent, tmp_path: Path) -> None:
    assert lambent("invoke", "charge", '{"amount": 12}') == Said(0, '"charged 12"\n', "")
    assert lambent("invoke", "charge", "-", given='{"amount": 13}').out == '"charged 13"\n'
    (tmp_path / "event.json").write_text('{"amount": 14}')
    assert lambent("invoke", "charge", f"@{tmp_path / 'event.json'}").out == '"charged 14"\n'
    (answer,) = lambent("invoke", "charge", '{"amount": 15}', "--json").lines()
    assert (answer["payload"], answer["status_code"], answer["function_error"]) == ("charged 15", 200, None)


def test_a_function_error_prints_awss_document_and_ends_with_1(lambent: Lambent) -> None:
    failed = lambent("invoke", "charge", '{"amount": 120}', "--tail")
    assert failed.code == 1
    assert json.loads(failed.out)["errorMessage"] == "120 is more than the card allows"
    assert "charging {'amount': 120}" in failed.err
    assert "lambent: charge failed (Unhandled), request" in failed.err


def test_an_answer_is_printed_as_it_comes(lambent: Lambent) -> None:
    assert lambent("invoke", "charge", '{"amount": 12}', "--stream") == Said(0, '"charged 12"', "")
    failed = lambent("invoke", "charge", '{"amount": 120}', "--stream", "--tail")
    assert (failed.code, failed.out) == (1, "")
    assert "charging {'amount': 120}" in failed.err
    assert '"errorMessage": "120 is more than the card allows"' in failed.err
    assert "lambent: charge failed (Unhandled), request" in failed.err


def test_an_asynchronous_event_is_followed_to_its_end(lambent: Lambent) -> None:
    request_id = lambent("invoke", "charge", '{"amount": 16}', "--async").out.strip()

    def ended() -> Any:
        (event,) = lambent("events", "get", request_id, "--json").lines()
        return event if event["ended_at"] else None

    event = until(ended)
    assert (event["state"], event["attempts"], event["result"]) == ("succeeded", 1, "charged 16")
    assert "state          succeeded\n" in lambent("events", "get", request_id).out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("invoke", "refund"), 1, "Function not found: arn:aws:lambda:us-east-1:000000000000:function:refund"),
        (("invoke", "refund"), 1, "`lambent functions` lists those there are"),
        (("invoke", "charge", "{"), 2, "Could not parse request body into json"),
        (("invoke", "charge", "--client-context", "x"), 2, "--client-context x: it must be an object in JSON"),
        (("invoke", "charge", "--stream", "--json"), 2, "leave out --async and --json"),
        (("invoke", "charge", "@nothing"), 2, "nothing cannot be read: No such file or directory"),
        (("send", "order", "x"), 1, 'There is no queue "order" in this store: declare it with engine.queue'),
        (("send", "orders", "x", "--delay", "901"), 2, "delay_seconds: 901.0 is not allowed; it must be 0 to 900"),
        (("send", "orders", "x", "--attribute", "x"), 2, "write NAME=TEXT"),
        (("put", "clicks", "x", "--key", "k" * 257), 2, "key"),
        (("events", "get", "nowhere"), 1, "This store knows no event nowhere"),
        (("mappings", "pause", "nowhere"), 1, "there is no mapping nowhere: `lambent mappings` lists all"),
        (("mappings", "seek", "stream:clicks/count", "--to", "noon"), 2, "it must be TRIM_HORIZON, LATEST or a time"),
        (("mappings", "seek", "queue:orders/pack", "--to", "LATEST"), 2, "seek is for stream mappings"),
        (("dead-letters", "show", "nowhere"), 1, "There is no message nowhere"),
        (("dead-letters", "redrive"), 2, "name messages by their ids, or some with --filter, or all with --all"),
        (("dead-letters", "list", "--filter", "{"), 2, "filter: "),
        (("dead-letters", "list", "deaf"), 1, 'There is no queue "deaf"'),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    lambent: Lambent, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = lambent(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err


# --------------------------------------------------------------------------- mappings


def test_mappings_are_listed_with_what_is_wanted_and_what_runs(lambent: Lambent) -> None:
    lambent("send", "orders", '{"item": "book"}')
    lambent("put", "clicks", "1", "--key", "home")

    def settled() -> Any:
        told = {each["function"]: each for each in lambent("mappings", "--json").lines()}
        return told if {(each["backlog"], each["last_result"]) for each in told.values()} == {(0, "OK")} else None

    told = until(settled)
    assert (told["count"]["source"], told["count"]["wanted"], told["count"]["running"]) == (
        "stream:clicks", "Enabled", "Enabled",
    )  # fmt: skip
    assert (told["count"]["iterator_age_seconds"], told["pack"]["iterator_age_seconds"]) == (0.0, None)
    head, *rows = lambent("mappings").out.splitlines()
    assert " ".join(head.split()) == "ID SOURCE FUNCTION WANTED RUNNING ITERATOR AGE BACKLOG LAST RESULT"
    assert [row.split()[1:5] for row in rows] == [
        ["queue:orders", "pack", "Enabled", "Enabled"],
        ["stream:clicks", "count", "Enabled", "Enabled"],
    ]


def test_a_mapping_is_paused_sought_and_resumed(lambent: Lambent) -> None:
    def backlog() -> int:
        return next(each["backlog"] for each in lambent("mappings", "--json").lines() if each["function"] == "count")

    assert lambent("mappings", "pause", "clicks/count").out == "stream:clicks → count: paused\n"
    identity = next(each["id"] for each in lambent("mappings", "--json").lines() if each["wanted"] == "Disabled")
    lambent("put", "clicks", "2", "--key", "home")
    assert backlog() == 1
    said = lambent("mappings", "seek", identity[:8], "--to", "TRIM_HORIZON")
    assert said.out == "stream:clicks → count: reads from TRIM_HORIZON\n"
    assert backlog() >= 1
    assert lambent("mappings", "seek", identity, "--to", "2026-03-01T12:00:00+01:00").code == 0
    assert lambent("mappings", "resume", identity).out == "stream:clicks → count: resumed\n"
    until(lambda: backlog() == 0)


def test_options_before_a_command_of_mappings_are_not_lost(lambent: Lambent) -> None:
    ended = CliRunner().invoke(app, ["mappings", "--store", "sqlite:///other.db", "pause", "x"])
    assert (ended.exit_code, ended.stderr) == (2, "lambent: write the options after `pause`\n")


# --------------------------------------------------------------------------- dead letters


def test_a_dead_letter_is_found_looked_at_and_brought_back_mended(lambent: Lambent) -> None:
    fragile = '{"body": {"item": ["vase"]}}'
    sent = lambent("send", "orders", '{"item": "vase", "fragile": true}', "--attribute", "colour=blue").out.strip()
    (letter,) = until(lambda: dead(lambent, fragile))
    assert letter["id"] == sent
    shown = lambent("dead-letters", "show", sent).out
    assert "from           queue:orders\n" in shown
    assert 'attributes     {"colour": "blue"}\n' in shown
    planned = lambent("dead-letters", "redrive", sent, "--dry-run")
    assert planned == Said(0, f"{sent}  → queue:orders\n", "would be brought back: 1, not: 0\n")
    assert len(dead(lambent, fragile)) == 1
    mended = lambent("dead-letters", "redrive", sent, "--edit", '{"item": "vase"}', "--json")
    assert mended.lines() == [{"id": sent, "queue": "dead", "to": "queue:orders", "failure": None, "dry_run": False}]
    assert dead(lambent, fragile) == []
    assert lambent("dead-letters", "redrive", sent).code == 1


def test_some_are_brought_back_by_a_filter_and_the_others_stay(lambent: Lambent) -> None:
    for amount in (201, 202, 203):
        lambent("invoke", "charge", f'{{"amount": {amount}}}', "--async")
    failed = '{"body": {"requestPayload": {"amount": [{"numeric": [">", 200]}]}}}'
    until(lambda: len(dead(lambent, failed)) == 3)
    (queue,) = lambent("dead-letters", "list", "--json").lines()
    assert (queue["queue"], queue["from"]) == ("dead", ["queue:orders", "function:charge", "stream:clicks of count"])
    assert queue["visible"] >= 3
    one = '{"body": {"requestPayload": {"amount": [202]}}}'
    assert lambent("dead-letters", "redrive", "--filter", one, "--edit", '{"amount": 2}', "--rate", "100").code == 0
    assert len(dead(lambent, failed)) == 2
    assert lambent("dead-letters", "list", "dead", "--limit", "1").err == "There are more: --limit shows more than 1.\n"
    nowhere = lambent("dead-letters", "redrive", "--filter", failed, "--to", "queue:nowhere")
    assert (nowhere.code, nowhere.err) == (1, "brought back: 0, not: 2\n")
    assert 'stays: there is no queue "nowhere" (any more)' in nowhere.out
    assert lambent("dead-letters", "redrive", "--all", "--edit", '{"amount": 1}', "--queue", "dead").code == 0
    assert dead(lambent, failed) == []


# --------------------------------------------------------------------------- engines


def test_what_engines_do_is_seen_at_once(lambent: Lambent) -> None:
    (picture,) = lambent("top", "--once", "--json").lines()
    assert len(picture["engines"]) == 1
    charge = next(each for each in picture["functions"] if each["function"] == "charge")
    assert charge["invocations"] > 0
    assert charge["hosted"] is True
    assert [each["function"] for each in picture["mappings"]] == ["pack", "count"]
    terminal = Console(file=StringIO(), width=120)
    terminal.print(laid_out(picture))
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "1 engine " in shown
    for word in ("FUNCTION", "charge", "SOURCE", "queue:orders", "DEAD LETTERS IN"):
        assert word in shown


def test_without_an_engine_a_store_is_still_looked_after(tmp_path: Path) -> None:
    async def make() -> None:
        async with engine:
            pass

    store = f"sqlite:///{tmp_path / 'shop.db'}"
    lambent = commands(store)
    away = lambent("mappings")
    assert (away.code, away.out) == (3, "")
    assert "shop.db: name another store, or start the engine that makes it." in away.err
    engine.store_in(store)
    asyncio.run(make())
    assert lambent("invoke", "charge").err == (
        "lambent: No engine is running on this store: start one with `lambent run FILE.py`.\n"
    )
    assert lambent("invoke", "charge").code == 3
    request_id = lambent("invoke", "charge", '{"amount": 1}', "--async").out.strip()
    (event,) = lambent("events", "get", request_id, "--json").lines()
    assert (event["state"], event["payload"]) == ("waiting", {"amount": 1})
    lambent("send", "orders", "x")
    listed = lambent("mappings")
    assert listed.err == "No engine is running on this store: start one with `lambent run FILE.py`.\n"
    assert listed.out.splitlines()[1].split()[1:] == ["queue:orders", "pack", "Enabled", "–", "–", "1", "–"]
    (picture,) = lambent("top", "--once", "--json").lines()
    assert (picture["engines"], picture["functions"][0]["waiting_events"]) == ([], 1)


# --------------------------------------------------------------------------- test events


def test_an_event_is_saved_with_a_function_and_called_with_by_its_name(lambent: Lambent) -> None:
    assert lambent("test-events", "list", "charge").err.startswith("No test events: save one with")
    saved = lambent("test-events", "put", "charge", "small", '{"amount": 12}')
    assert (saved.code, saved.out) == (0, "charge: small saved\n")
    assert lambent("invoke", "charge", "--test-event-name", "small").out == '"charged 12"\n'
    again = lambent("test-events", "put", "charge", "small", '{"amount": 13}')
    assert (again.code, "has a test event small already" in again.err) == (1, True)
    assert lambent("test-events", "put", "charge", "small", "--force", given='{"amount": 13}').code == 0
    assert lambent("test-events", "get", "charge", "small").out == '{"amount": 13}\n'
    assert lambent("test-events", "list", "charge", "--json").lines() == [{"name": "small", "event": {"amount": 13}}]
    assert lambent("test-events", "delete", "charge", "small").code == 0
    missing = lambent("invoke", "charge", "--test-event-name", "small")
    assert (missing.code, "charge has no test event small" in missing.err) == (1, True)
    assert lambent("invoke", "charge", "{}", "--test-event-name", "small").code == 2
