"""How long a new process takes until its first function has answered, interpreter and imports included.

Decides the bound that `make bench` holds. Beside it stands what the bare interpreter takes, and what it takes with the
libraries that any such program imports. Each figure is the median of five fresh processes, interleaved.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks.table import ROUNDS, Row, median, show

MOST_SECONDS = 0.3
FIRST_INVOKE = """
import asyncio
from lambent import Engine

engine = Engine()

@engine.function
async def hello(event, context):
    return {"hello": event["name"]}

async def main():
    async with engine:
        assert await engine.invoke(hello, {"name": "JFK"}) == {"hello": "JFK"}

asyncio.run(main())
"""
KINDS = {
    "import and first invoke": FIRST_INVOKE,
    "  python -c ''": "",
    "  python -c 'import asyncio, pydantic, structlog'": "import asyncio, pydantic, structlog",
}


def rows() -> list[Row]:
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    cpu: dict[str, list[float]] = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as bytecode:  # which every installed program has, whatever is set here
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        for round_number in range(ROUNDS + 1):
            for name, program in KINDS.items():
                began, spent = time.perf_counter(), cpu_of_children()
                subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, env=environment)
                if round_number:  # the first one compiles
                    seconds[name].append(time.perf_counter() - began)
                    cpu[name].append(cpu_of_children() - spent)
    most = {"import and first invoke": MOST_SECONDS}
    return [
        Row(name, median(each), "s", most=most.get(name), note=f"{median(cpu[name]):.3f} s of CPU")
        for name, each in seconds.items()
    ]


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(show(rows()))
