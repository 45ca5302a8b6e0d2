"""AWS's runtime client for Node, unchanged, for tests: npm builds it once in `.node/`, which takes minutes.

`python -m tests.servers.node` does so, which `make setup` runs. Where it can't be had, tests of Node functions are left
out and say so; with CI=true they fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.servers.kafka import ROOT, Missing

PACKAGE: Final = Path(__file__).with_name("node_client") / "package.json"
NEEDED: Final = ("node", "npm", "cmake", "autoconf", "automake", "libtoolize", "make", "g++")
DEBIAN: Final = "nodejs npm cmake autoconf automake libtool make g++ libcurl4-openssl-dev"


def left_out() -> str:
    """Why tests of Node functions are left out; "": they are not. With CI=true they never are, but fail."""
    there = client().exists() or os.environ.get("CI") == "true"
    return "" if there else "aws-lambda-ric is missing; `python -m tests.servers.node` builds it, or says why not"


def client() -> Path:
    """The command, once it is built."""
    return _directory() / "node_modules" / ".bin" / "aws-lambda-ric"


def build() -> None:
    """Have npm fetch and build it, if it is not there. Raises Missing."""
    if client().exists():
        return
    if lacking := [command for command in NEEDED if shutil.which(command) is None]:
        raise Missing(
            f"No {', no '.join(lacking)}: the tests of Node functions are left out. Install them (Debian's: {DEBIAN}), "
            "then `make setup`."
        )
    directory = _directory()
    partly = directory.with_suffix(f".{os.getpid()}")
    partly.mkdir(parents=True)
    try:
        shutil.copy(PACKAGE, partly)
        command = ["npm", "install", "--no-fund", "--no-audit", "--no-package-lock", "--loglevel=error"]
        done = subprocess.run(command, cwd=partly, stdout=subprocess.DEVNULL, check=False)
        if done.returncode or not list(partly.rglob("rapid-client.node")):
            raise Missing("npm could not build aws-lambda-ric (see above): the tests of Node functions are left out.")
        with contextlib.suppress(OSError):  # somebody else was faster
            partly.rename(directory)
    finally:
        shutil.rmtree(partly, ignore_errors=True)


def _directory() -> Path:
    return ROOT / ".node" / hashlib.sha256(PACKAGE.read_bytes()).hexdigest()[:12]


if __name__ == "__main__":
    try:
        build()
    except Missing as missing:
        print(missing, file=sys.stderr)
        sys.exit(os.environ.get("CI") == "true")
