"""What goes wrong between engines and their Redis server, while clients give `lambent run` work of all four models.

    python -m tests.durability.outages kill term --times 10

Decides what goes wrong, for how long, and that it goes on by itself when it is over. What must hold is decided by
`accounts.py`, whose auditor asks the server directly; the engine and its clients reach it through a proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.durability.accounts import END_SECONDS, Accounts, Found
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisProcess, running

RESTARTS = ("kill", "term")
CONNECTIONS = ("cut", "cut in a request", "cut in an answer", "delayed", "trickling", "swallowed", "refused")
Commands = Sequence[Sequence[str]]
STATES: Mapping[str, tuple[Commands, Commands]] = {  # how each begins and ends
    "without memory": ([["CONFIG", "SET", "maxmemory", "1"]], [["CONFIG", "SET", "maxmemory", "0"]]),
    "a replica": ([["REPLICAOF", "127.0.0.1", "1"]], [["REPLICAOF", "NO", "ONE"]]),
    "too few replicas": (
        [["CONFIG", "SET", "min-replicas-to-write", "1"]],
        [["CONFIG", "SET", "min-replicas-to-write", "0"]],
    ),
    "without a disk": ([["CONFIG", "SET", "save", "3600 1"], ["BGSAVE", "SCHEDULE"]], [["CONFIG", "SET", "save", ""]]),
}
REFUSALS = (*STATES, "loading")
TROUBLES = (*RESTARTS, *CONNECTIONS, *REFUSALS)

ANSWER_SECONDS = 0.5  # that a command is waited for
CALL_SECONDS = 3.0  # that a caller waits: longer than the commands of a call are tried, or it is never refused
MAXIMUM_LINES = 20  # of the journal, between two troubles
OUTSTANDING = 6  # items of each model
SLOW_LINES = 20  # of the journal, that a slow connection must bring about
RECOVERED_LINES = 10  # of the journal, within END_SECONDS after each trouble
LOADING_US = "100"  # for each command that the server reads back
FILLING = "for i = 1, 40000 do redis.call('SET', 'filling:' .. i, '') end"  # more of them than it reads until refused


def shuffled(troubles: Sequence[str], times: int, seed: int) -> Sequence[str]:
    """Each so often."""
    chance = random.Random(seed)
    return [name for _ in range(times) for name in chance.sample(troubles, len(troubles))]


def outages(
    troubles: Sequence[str],
    seed: int,
    tell: Callable[[str], None] = lambda line: None,
    outstanding: int = OUTSTANDING,
) -> Found:
    """These, one after the other, at moments that depend on the seed and on the machine."""
    with tempfile.TemporaryDirectory() as directory, running(Path(directory) / "redis", "always") as server:
        return asyncio.run(_outages(troubles, random.Random(seed), Path(directory), server, tell, outstanding))


async def _outages(
    troubles: Sequence[str],
    chance: random.Random,
    directory: Path,
    server: RedisProcess,
    tell: Callable[[str], None],
    outstanding: int,
) -> Found:
    async with Proxy(server.port).running() as proxy:
        url = f"redis://127.0.0.1:{proxy.port}?timeout={ANSWER_SECONDS}"
        accounts = Accounts(chance, directory, url, server.url, outstanding, CALL_SECONDS)
        trouble = _Trouble(accounts, server, proxy)

        async def strike_again_and_again() -> None:
            for number, name in enumerate(troubles, 1):
                await trouble.lines(chance.randint(1, MAXIMUM_LINES))
                await accounts.journal.strike()
                await trouble.strike(name)
                if not await trouble.lines(RECOVERED_LINES):
                    accounts.problem(f"nothing runs though it is over ({name})")
                await accounts.journal.calm()
                await accounts.look()
                if not accounts.runs():
                    break
                accounts.found.struck[name] += 1
                if number % 10 == 0:
                    tell(str(accounts.found))

        return await accounts.live(strike_again_and_again)


class _Trouble:
    """One server, and the way to it."""

    def __init__(self, accounts: Accounts, server: RedisProcess, proxy: Proxy) -> None:
        self._accounts = accounts
        self._chance = accounts.chance
        self._server = server
        self._proxy = proxy
        self._changes = 0

    async def lines(self, number: int) -> bool:
        """Wait for so many of the journal."""
        journal = self._accounts.journal
        goal = journal.lines + number
        return await journal.says(lambda: journal.lines >= goal, END_SECONDS)

    async def strike(self, name: str) -> None:
        """It happens, and is over."""
        match name:
            case "kill":
                await self._restart(self._server.kill)
            case "term":
                await self._restart(self._server.stop)
            case "cut":
                self._proxy.cut()
            case "cut in a request" | "cut in an answer":
                direction = "request" if name == "cut in a request" else "answer"
                self._proxy.cut_next(direction, self._chance.choice([0, 1, 7, 60, 500]))
            case "delayed":
                self._proxy.delay_seconds = self._chance.uniform(0.001, ANSWER_SECONDS / 10)
                await self._slowly()
            case "trickling":
                self._proxy.piece_bytes = 1
                await self._slowly()
            case "swallowed":
                self._proxy.swallows = True
                await self._until_refused()
                self._proxy.heal()
                self._proxy.cut()
            case "refused":
                self._proxy.refuses = True
                self._proxy.cut()
                await self._until_refused()
                self._proxy.heal()
            case "loading":
                await self._load()
            case _:
                await self._state(name)

    async def _restart(self, end: Callable[[], None]) -> None:
        await asyncio.to_thread(end)
        await asyncio.to_thread(self._server.start)

    async def _load(self) -> None:
        """A restart with so much to read back that it refuses whoever asks for a while."""
        self._server.ask("EVAL", FILLING, "0")
        self._server.kill()
        self._server.options["key-load-delay"] = LOADING_US
        self._server.launch()
        del self._server.options["key-load-delay"]
        await self._until_refused()
        await asyncio.to_thread(self._server.hurry)
        self._server.ask("EVAL", FILLING.replace("'SET'", "'DEL'").replace(", ''", ""), "0")

    async def _slowly(self) -> None:
        if not await self.lines(SLOW_LINES):
            self._accounts.problem("a slow connection is as good as none")
        self._proxy.heal()

    async def _state(self, name: str) -> None:
        """The server takes nothing."""
        begin, end = STATES[name]
        snapshot = self._server.directory / "dump.rdb"
        if name == "without a disk":
            snapshot.unlink(missing_ok=True)
            snapshot.mkdir()  # so that none can be written
        for words in begin:
            self._server.ask(*words)
        if name == "without a disk":
            await asyncio.to_thread(self._server.await_that, "INFO", "persistence", says=[b"bgsave_status:err"])
        self._changes += 1
        self._accounts.shut = self._changes
        await self._until_refused()
        self._accounts.shut = 0
        for words in end:
            self._server.ask(*words)
        if name == "without a disk":
            snapshot.rmdir()

    async def _until_refused(self) -> None:
        self._accounts.refused.clear()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._accounts.refused.wait()
        except TimeoutError:
            self._accounts.problem("no client was refused although the server takes nothing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("troubles", nargs="*", help=f"by default all: {', '.join(TROUBLES)}")
    parser.add_argument("--times", type=int, default=1, help="so often, in a new order each time")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = outages(shuffled(asked.troubles or TROUBLES, asked.times, asked.seed), asked.seed, print)
    print(found, *found.problems[:20], sep="\n  ")
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
