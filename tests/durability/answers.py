"""Which answers of the real store leave before what they promise is synced: seen at the system calls of a process.

    python -m tests.durability.answers

Decides what counts as synced: a frame of the write-ahead log holds the text, a commit's frame follows it or is it, and
then the log is synced. The child stores texts that are found again in what it writes, and writes each to a pipe once
the store has answered. Nothing here is specific to what is stored, so it holds for whatever `invoke_async`, `send` and
`put` write.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lambent.stores.sqlite import SqliteStore
from lambent.testing.loop import run
from tests.durability.tracing import Call, run_and_watch
from tests.engine.engines import inline, virtual

CALLERS = 3  # at once, of each kind: they share commits
CALLS = 4  # of each
FRAME_HEADER_BYTES = 24  # SQLite file format, 4.1: a commit's frame has the size of the file after it in bytes 4 to 7
SYNCS = ("fsync", "fdatasync")


def scenario(path: Path, answers: int) -> None:
    """Store texts in each of the three ways, at once, and tell each when it is answered."""

    async def live() -> None:
        engine = virtual(SqliteStore(path, executor=inline))
        queue, stream = engine.queue("q"), engine.stream("s")

        @engine.function(name="f")
        async def f(event: object) -> None:
            await asyncio.sleep(3600)

        async def calls(kind: str, caller: int) -> None:
            for number in range(CALLS):
                text = f"<{kind} {caller} {number}>"
                match kind:
                    case "invoke_async":
                        await engine.invoke_async("f", text)
                    case "send":
                        await queue.send(text)
                    case _:
                        await stream.put(text, key=text)
                os.write(answers, text.encode())

        async with engine:
            kinds = ("invoke_async", "send", "put")
            await asyncio.gather(*(calls(kind, caller) for kind in kinds for caller in range(CALLERS)))
            await engine.stop()

    run(live(), seed=4)


def too_early(calls: Iterable[Call], log: str) -> tuple[int, list[str]]:
    """How many answers there are, and which of them were told before what they promise was synced. `log` is how the
    file of the write-ahead log ends; a pipe is for answers."""
    answers, wrong = 0, list[str]()
    written, committed, synced = b"", False, b""  # since the last sync; all that was synced
    for call in calls:
        if call.file.endswith(log):
            if len(call.data) == FRAME_HEADER_BYTES:
                committed = any(call.data[4:8])
            elif call.data:
                written += call.data
            elif call.name in SYNCS and committed:
                synced, written = synced + written, b""
        elif call.file.startswith("pipe:"):
            answers += 1
            if call.data not in synced:
                wrong.append(call.data.decode())
    return answers, wrong


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        read_end, write_end = os.pipe()
        path = Path(directory) / "lambent.db"
        calls = run_and_watch(lambda: scenario(path, write_end))
        os.close(write_end)
        os.close(read_end)
    answers, wrong = too_early(calls, "-wal")
    _, without_syncs = too_early((call for call in calls if call.name not in SYNCS), "-wal")
    syncs = sum(call.name in SYNCS and call.file.endswith("-wal") for call in calls)
    print(json.dumps({"answers": answers, "syncs": syncs, "wrong": wrong, "wrong_without_syncs": len(without_syncs)}))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
