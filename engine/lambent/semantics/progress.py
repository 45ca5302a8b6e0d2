"""How far a shard is, as the text that a store keeps.

Decides how `Progress` is written, the same way for the same value, and read back. When it is stored is decided by
`polling/stream.py`, and whether it may be by the store's lease.
"""

from __future__ import annotations

import json
from typing import Any

from lambent.model import Piece, Progress, WindowState

_encode = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` would make one each time


def progress_text(progress: Progress) -> str:
    window = progress.window
    return _encode(
        {
            "position": progress.position,
            "pieces": [[piece.first, piece.last, piece.attempts] for piece in progress.pieces],
            "window": window and [window.start, window.end, window.state, window.terminated_early],
            "ended": progress.ended,
            "seek": progress.seek,
            "start": progress.start,
        }
    )


def progress_of(text: str | bytes) -> Progress:
    """The reverse of `progress_text`."""
    stored: dict[str, Any] = json.loads(text)
    window = stored["window"]
    return Progress(
        position=stored["position"],
        pieces=tuple(Piece(*piece) for piece in stored["pieces"]),
        window=window and WindowState(*window),
        ended=stored["ended"],
        seek=stored["seek"],
        start=stored["start"],
    )


def seek_of(text: str) -> int:
    """`progress_of(text).seek`, at a tenth of its cost: no value behind it holds an unescaped quotation mark."""
    begin = text.rindex('"seek":') + len('"seek":')
    return int(text[begin : text.index(",", begin)])
