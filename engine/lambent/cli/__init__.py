"""The `lambent` command: engines started, and a store's functions, mappings and dead letters looked after.

Decides how things look to people and to scripts, and the exit codes (`terminal.py`). What is done is `Client`'s and
`Engine`'s; a program that needs the same should use these.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point. Says what to install if the command's own libraries are missing."""
    try:
        import rich  # noqa: F401  asked for here, so that nothing else has to
        import typer  # noqa: F401
    except ImportError as missing:
        sys.exit(f"lambent: the command needs {missing.name}: pip install 'lambent[cli]'")
    from lambent.cli.app import app

    app()
