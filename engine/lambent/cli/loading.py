"""The engine in a file of Python.

Decides how FILE.py[:engine] is read: as the module that it is in its package, with the folder above on the path as
`python FILE.py` would have it, and with its only engine if none is named. What goes wrong is told with its place.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from lambent.cli.terminal import USAGE, fail
from lambent.engine import Engine


def load_engine(target: str) -> Engine:
    """The engine that FILE.py[:engine] names; ends the command with a message if there is none."""
    file, _, name = target.partition(":")
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        what = "is no file of Python" if path.exists() else "is not there"
        fail(f"{file} {what}: name one that makes an Engine, as in `lambent run app.py`", USAGE)
    return _engine(file, name, vars(_module(file, path)))


def _module(file: str, path: Path) -> object:
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(".".join(parts))
    except SyntaxError as error:
        fail(f"{error.filename}, line {error.lineno}: {error.msg}", USAGE)
    except Exception as error:  # noqa: BLE001  a user's module may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((number for number, frame in enumerate(frames) if Path(frame.filename) == path), len(frames))
        trace = "".join(traceback.format_list(frames[ours:]))
        fail(f"{file} cannot be imported:\n{trace}{type(error).__name__}: {error}")


def _engine(file: str, name: str, members: dict[str, object]) -> Engine:
    engines = {each: value for each, value in members.items() if isinstance(value, Engine)}
    if name:
        if name not in engines:
            what = f"is no Engine but {members[name]!r}"[:200] if name in members else "is not in it"
            fail(f"{file}: {name} {what}; {_found(engines)}", USAGE)
        return engines[name]
    if len({id(each) for each in engines.values()}) != 1:
        advice = f": say which, as in `lambent run {file}:{next(iter(engines))}`" if engines else ""
        fail(f"{file}: {_found(engines)}{advice}", USAGE)
    return next(iter(engines.values()))


def _found(engines: dict[str, Engine]) -> str:
    if not engines:
        return "it makes no Engine: write `engine = Engine()` at its top level"
    return f"its engines are {', '.join(engines)}"
