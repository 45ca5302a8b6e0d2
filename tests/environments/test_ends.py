"""How a process may end, hang, or never begin: what its caller is told, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine, FunctionError
from lambent.runtimes import cgroups, environments
from lambent.runtimes.launching import isolation
from tests.environments.conftest import PYTHON, alive, fifos, waits


async def failed(engine: Engine, event: dict[str, object], function: str = "code") -> dict[str, Any]:
    with pytest.raises(FunctionError) as caught:
        await engine.invoke(function, event)
    return dict(caught.value.document)


async def test_an_exception_is_awss_document_and_the_process_stays(narrow: Engine, code: Path) -> None:
    narrow.function_from(code, handler="app.handler")
    async with narrow:
        document = await failed(narrow, {"do": "raise"})
        assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
        assert (document["errorType"], document["errorMessage"]) == ("ValueError", "that is not right")
        assert 'raise ValueError("that is not right")' in document["stackTrace"][-1]
        assert (await narrow.invoke("code"))["calls"] == 2


async def test_a_process_that_ends_in_an_invocation_is_an_error_of_the_function_and_replaced(
    narrow: Engine, code: Path
) -> None:
    narrow.function_from(code, handler="app.handler")
    ends: list[tuple[dict[str, object], str]] = [
        ({"do": "exit", "status": 0}, "Runtime exited without providing a reason"),
        ({"do": "exit", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "signal", "number": signal.SIGKILL}, "Runtime exited with error: signal: killed"),
        ({"do": "segfault"}, "Runtime exited with error: signal: segmentation fault"),
    ]
    async with narrow:
        await narrow.invoke("code")
        for event, how in ends:
            document = await failed(narrow, event)
            assert list(document) == ["errorType", "errorMessage"]
            assert document["errorType"] == "Runtime.ExitError"
            assert str(document["errorMessage"]).endswith(f" Error: {how}")
            assert (await narrow.invoke("code"))["calls"] == 1


async def test_a_process_that_hangs_and_ignores_sigterm_is_ended_in_time_and_tmp_stays(
    narrow: Engine, code: Path
) -> None:
    narrow.function_from(code, handler="app.handler", timeout_seconds=1)
    async with narrow:
        document = await failed(narrow, {"do": "hang", "left": "a note"})
        assert document["errorType"] == "Sandbox.Timedout"
        assert str(document["errorMessage"]).endswith(" Error: Task timed out after 1.00 seconds")
        assert await narrow.invoke("code", {"do": "read"}) == {"left": "a note", "calls": 1}


@pytest.mark.parametrize("status", [None, 0])
async def test_daemons_that_left_the_session_and_children_that_hold_pipes_end_with_the_process(
    narrow: Engine, code: Path, status: int | None
) -> None:
    narrow.function_from(code, handler="app.handler", timeout_seconds=10)
    file = code / "daemon"
    async with narrow:
        if status is None:
            numbers = await narrow.invoke("code", {"do": "fork", "file": str(file)})
            assert alive(numbers["daemon"])
            await failed(narrow, {"do": "exit", "status": 1})
            assert not alive(numbers["child"])
        else:
            await failed(narrow, {"do": "fork", "file": str(file), "status": status})
        assert not alive(int(file.read_text()))


async def test_daemons_end_with_the_engine(engine: Engine, code: Path) -> None:
    engine.function_from(code, handler="app.handler", timeout_seconds=10)
    async with engine:
        numbers = await engine.invoke("code", {"do": "fork", "file": str(code / "daemon")})
    assert not any(map(alive, numbers.values()))


async def test_memory_is_looked_at_where_a_process_could_not_enter_its_cgroup(
    narrow: Engine, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = cgroups.Ground.told
    monkeypatch.setattr(cgroups.Ground, "told", lambda ground: {**told(ground), "entrance": "gone"})
    narrow.function_from(code, handler="app.handler", timeout_seconds=30, memory_size_mb=128)
    async with narrow:
        assert (await failed(narrow, {"do": "allocate"}))["errorType"] == "Runtime.OutOfMemory"


async def test_more_memory_than_allowed_ends_the_process(narrow: Engine, code: Path) -> None:
    narrow.function_from(code, handler="app.handler", timeout_seconds=30, memory_size_mb=128)
    async with narrow:
        answer = await narrow.invoke_response("code", {"do": "allocate"}, log_type="Tail")
        document = json.loads(answer.payload)
        assert document["errorType"] == "Runtime.OutOfMemory"
        assert document["errorMessage"].endswith("signal: killed")
        assert "Status: error\tError Type: Runtime.OutOfMemory" in answer.log_tail
        assert (await narrow.invoke("code"))["calls"] == 1


async def test_what_has_no_json_or_is_too_large_is_an_error_and_the_next_call_is_answered(
    engine: Engine, code: Path
) -> None:
    engine.function_from(code, handler="app.handler", timeout_seconds=10)
    async with engine:
        for what in ("nan", "bytes", "surrogate"):  # awslambdaric passes on what Python's encoder writes, and bytes
            await engine.invoke("code", {"do": "return", "what": what})
            assert "calls" in await engine.invoke("code")
        for what, kind in (("set", "Runtime.MarshalError"), ("large", "Function.ResponseSizeTooLarge")):
            assert (await failed(engine, {"do": "return", "what": what}))["errorType"] == kind
            assert "calls" in await engine.invoke("code")


async def test_a_process_that_breaks_what_it_can_of_itself_breaks_nothing_else(narrow: Engine, code: Path) -> None:
    before = (os.getcwd(), os.umask(0o22), dict(os.environ))
    narrow.function_from(code, handler="app.handler", timeout_seconds=2)
    async with narrow:
        await narrow.invoke("code", {"do": "vandal"})
        assert (await narrow.invoke("code"))["calls"] in (1, 2)  # it may die of it when it asks for the next one
    assert before == (os.getcwd(), os.umask(before[1]), dict(os.environ))


# --------------------------------------------------------------------------- init


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("import nowhere\n", "Runtime.ImportModuleError"),
        ("def handler(:\n", "Runtime.UserCodeSyntaxError"),
        ("x = 1\n", "Runtime.HandlerNotFound"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("import sys; sys.exit(9)\n", "Runtime.ExitError"),
    ],
)
async def test_an_init_that_fails_is_told_to_the_caller(engine: Engine, code: Path, text: str, kind: str) -> None:
    (code / "broken.py").write_text(text)
    engine.function_from(code, handler="broken.handler")
    async with engine:
        document = await failed(engine, {})
        assert document["errorType"] == kind
        if kind != "Runtime.ExitError":
            assert document["requestId"] == ""
        (code / "broken.py").write_text("def handler(event, context): return 'mended'\n")
        await engine.update_function("code", description="anew")
        assert await engine.invoke("code") == "mended"


async def test_an_init_that_takes_too_long_begins_again_within_the_invocation(
    engine: Engine, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "INIT_SECONDS", 0.05)
    engine.function_from(code, handler="app.handler")
    async with engine:
        answer = await engine.invoke_response("code", {"do": "echo"}, log_type="Tail")
        assert json.loads(answer.payload)["calls"] == 1
        assert "Init Duration" in answer.log_tail


async def test_an_init_that_never_ends_is_the_functions_time_out(
    engine: Engine, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "INIT_SECONDS", 0.05)
    (code / "broken.py").write_text("import time\nwhile True: time.sleep(1)\n")
    engine.function_from(code, handler="broken.handler", timeout_seconds=1)
    async with engine:
        assert (await failed(engine, {}))["errorType"] == "Sandbox.Timedout"


async def test_an_init_that_fails_again_and_again_is_not_started_for_each_call(engine: Engine, code: Path) -> None:
    """Twice for the first call; then the calls of half a second hear the same at once."""
    (code / "broken.py").write_text("open('begun', 'a').write('x')\n1 / 0\n")
    engine.function_from(code, handler="broken.handler")
    async with engine:
        for _ in range(20):
            assert (await failed(engine, {}))["errorType"] == "ZeroDivisionError"
    assert len((code / "begun").read_text()) < 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"runtime": "python3.99", "handler": "app.handler"}, "python3.99 is not installed here"),
        ({"runtime": "ruby3.3", "handler": "app.handler"}, "an entry point 'ruby' of the group 'lambent.runtimes'"),
        ({"runtime": "provided.al2023", "layers": ["nowhere"]}, "layers: 'nowhere' is no folder"),
        ({"runtime": PYTHON, "handler": "os.system"}, "No module named 'os' in the function's code"),
        ({"runtime": PYTHON, "handler": "a.b.c.d"}, "No module named 'a.b.c' in the function's code"),
        ({"runtime": PYTHON, "handler": "linked.handler"}, "No module named 'linked' in the function's code"),
    ],
)
async def test_what_cannot_even_be_started_says_what_to_do(
    engine: Engine, code: Path, options: dict[str, Any], said: str
) -> None:
    (code / "linked.py").symlink_to(sys.modules["json"].__file__ or "")
    engine.function_from(code, **options)
    async with engine:
        document = await failed(engine, {})
        assert said in str(document["errorMessage"])
        assert str(document["errorType"]).startswith("Runtime.")


async def test_a_call_that_is_given_up_is_not_left_running(narrow: Engine, code: Path) -> None:
    narrow.function_from(code, handler="app.handler", timeout_seconds=60)
    async with narrow:
        await narrow.invoke("code")
        go, waiting = fifos(code, "go")
        call = asyncio.create_task(narrow.invoke("code", {"do": "wait", "file": str(go)}))
        await waits(waiting)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await narrow.invoke("code"))["calls"] == 1


def test_this_machine_says_what_it_cannot_do() -> None:
    assert all(gap.startswith("Environments ") and gap.endswith(".") for gap in isolation().gaps)
