"""Every example runs, and prints what it promises."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent


def run(name: str) -> list[str]:
    done = subprocess.run([sys.executable, str(HERE / name)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_quick_start_shows_all_four_models() -> None:
    lines = run("quickstart.py")
    assert lines[:3] == ["value: 12", "error: ValueError cancelled", "boto3 would see: 200 Unhandled"]
    assert sorted(lines[3:]) == [
        "alert: UA 1545",
        "departures from 1 filtered record(s)",
        """rebooked: ['{"flight": "UA 1545"}']""",
    ]


def test_functions_are_included_from_a_module_without_the_engine() -> None:
    assert run("include.py") == ["hello, JFK", "greeted: ['LGA']"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_script_is_served_until_a_signal_drains_it(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, str(HERE / "script.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (first, said, process.returncode) == ("packed order 0\n", "drained\n", 0)


async def test_the_engine_drops_into_starlette(capsys: pytest.CaptureFixture[str]) -> None:
    from examples.starlette_app import app, notified

    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), client:
        quote = await client.get("/quote", params={"kilometres": "500"})
        assert quote.json() == {"price": 150.0}
        answer = await client.post("/notifications", content=b'{"flight": 5}')
        assert answer.status_code == 202
        assert answer.json()["request_id"]
        async with asyncio.timeout(10):
            await notified.wait()
    assert "notified {'flight': 5}" in capsys.readouterr().out
