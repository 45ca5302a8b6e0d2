"""Where a function's code is: what the engine finds, in the words of whoever runs it.

Decides only how it is said that there is none. What a reference means, and how layers lie over each other, is
`code_sources.py`'s.
"""

from __future__ import annotations

from pathlib import Path

from lambent.configuration import ExecutionEnvironment
from lambent.errors import LambentError
from lambent.ports import CodePlaces, RuntimeSurroundings
from lambent.runtimes.launching import CannotBegin


def fetch(surroundings: RuntimeSurroundings, environment: ExecutionEnvironment, scratch: Path) -> CodePlaces:
    """The code, in folders; what must be made of other folders is made in `scratch`, which is ours and not there yet.
    Blocks. Raises CannotBegin, OSError."""
    try:
        return surroundings.find_code(environment, scratch)
    except LambentError as error:
        raise CannotBegin(error.message) from error
