"""Scripts that we keep in files, and how a store's calls of them are named, so that one whose answer was lost is
repeated without harm.

Decides what all scripts have before them, and which may run when the server has no memory left. Leaves to each script
whether its calls need a name: what does no harm when it is done twice does not.
"""

from __future__ import annotations

import itertools
from importlib.resources import files
from typing import Any, Final

from lambent_pollers.redis_connection import RedisServer, Script, Word

_FOLDER: Final = files(__package__)
_PARTS: Final = _FOLDER.joinpath("redis_parts.lua").read_text("utf-8")


class Scripts:
    """A Lua file of ours, as the server takes it: `adds` is refused when it has no memory left, `goes_on` must go on
    then, or nothing would ever get better."""

    def __init__(self, file: str) -> None:
        text = _PARTS + _FOLDER.joinpath(file).read_text("utf-8")
        self.adds = Script(text)
        self.goes_on = Script(text, "allow-oom")


class Calls:
    """Calls of one file's scripts, whose keys have this tag: ARGV[2] says what to do, ARGV[3] for how many milliseconds
    a named call is remembered; the last key is the call's name."""

    def __init__(self, server: RedisServer, scripts: Scripts, tag: str) -> None:
        self.server = server
        self._scripts = scripts
        self._tag = tag
        self._numbers = itertools.count(1)

    def key(self, *parts: str) -> str:
        return self.server.keys(self._tag, *parts)

    def number(self) -> int:
        """Higher than all before."""
        return next(self._numbers)

    def name(self) -> str:
        """The key of a new call."""
        return self.key("call", self.server.name_call())

    async def run(self, what: str, keys: tuple[str, ...], *words: Word, adds: bool = False, call: str = "") -> Any:
        """A call, until it is done; `call`: about the one of this name. Raises StoreUnavailable."""
        return await self.start(what, keys, *words, adds=adds, call=call)

    def start(self, what: str, keys: tuple[str, ...], *words: Word, adds: bool = False, call: str = "") -> Any:
        """As `run`: it is on its way, and its future is given."""
        script = self._scripts.adds if adds else self._scripts.goes_on
        return self.server.run(script, (*keys, call or self.name()), what, self.server.remember_ms, *words)
