"""Where a function's code is: from what its environment names to folders on this machine.

Decides what a reference is (a folder, as yet), and how layers lie over each other: in their order, a later one's file
in place of an earlier one's (Lambda guide: «Adding layers to functions»).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lambent.configuration import ExecutionEnvironment
from lambent.runtimes.launching import CannotBegin, Code


def fetch(environment: ExecutionEnvironment, scratch: Path) -> Code:
    """The code, in folders that stay as they are; what must be made for that is made in `scratch`, which is ours and
    not there yet. Blocks. Raises CannotBegin, OSError."""
    folder = _folder(environment.code, "code")
    layers = [_folder(each, "layers") for each in environment.layers]
    if len(layers) < 2:
        return Code(folder, layers[0] if layers else None)
    scratch.mkdir(parents=True)
    for layer in layers:
        shutil.copytree(layer, scratch, symlinks=True, dirs_exist_ok=True)
    return Code(folder, scratch)


def _folder(reference: str, option: str) -> Path:
    folder = Path(reference).absolute()
    if not folder.is_dir():
        raise CannotBegin(f"{option}: {reference!r} is no folder (seen from {Path.cwd()})")
    return folder
