"""The binary messages in which AWS streams events: the answer of InvokeWithResponseStream.

Decides their form alone (Smithy specification, «Amazon Event Stream»; headers are strings here). Pure.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final

CONTENT_TYPE: Final = b"application/vnd.amazon.eventstream"
_STRING: Final = 7  # the type of a header


def event(kind: str, payload: bytes, content_type: str) -> bytes:
    """One event of a stream, of this kind."""
    headers = {":event-type": kind, ":content-type": content_type, ":message-type": "event"}
    return _message(headers, payload)


def error(code: str, message: str) -> bytes:
    """What ends a stream that cannot go on, after which there is no other event."""
    return _message({":message-type": "error", ":error-code": code, ":error-message": message}, b"")


def _message(headers: Mapping[str, str], payload: bytes) -> bytes:
    head = b"".join(
        struct.pack(f">B{len(name)}sBH{len(value)}s", len(name), name.encode(), _STRING, len(value), value.encode())
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return body + struct.pack(">I", zlib.crc32(body))
