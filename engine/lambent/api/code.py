"""Where a function's code comes from: a zip file in the request or in S3, a folder of this machine, a container image.

Decides what a request may name, and what is said of its size and its hash (Lambda API reference: FunctionCode). What a
zip file may be, and how it is kept, is `code_store.py`'s.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lambent.api.buckets import MAXIMUM_OBJECT_BYTES, fetch
from lambent.api.refusals import Refusal, invalid, too_large
from lambent.code_sources import UPLOADED
from lambent.engine import Engine
from lambent.errors import InvalidParameterValue

MAXIMUM_ZIPPED_BYTES: Final = 52_428_800  # Lambda quotas: direct upload
COUNTED_FOR_SECONDS: Final = 60.0  # for which what there is of code is counted on by one server, with its own uploads
_ELSEWHERE: Final = ("S3Bucket", "S3Key", "S3ObjectVersion", "ImageUri")
_EMPTY: Final = b"PK\x05\x06"  # a zip file that begins with its end
FOLDER_BUCKETS: Final = ("folder", "hot-reload")  # S3 buckets that mean this machine: S3Key is the path there


class Codes:
    """The code of the functions that calls make, where the engine keeps code. `count` adds up what there is of it."""

    def __init__(self, engine: Engine, count: Callable[[], Awaitable[int]]) -> None:
        self._engine = engine
        self._count = count
        self._counted, self._count_again_at = 0, 0.0

    async def keep(self, zip_file: bytes, maximum_zipped_bytes: int = MAXIMUM_ZIPPED_BYTES) -> dict[str, Any]:
        """What is stored of a zip file. Raises LambentError if it is none, or one too many."""
        await self._check_room(len(zip_file))
        try:
            code = await self._engine.code.upload(zip_file, maximum_zipped_bytes)
        except InvalidParameterValue as error:  # AWS says no more than the first sentences
            raise invalid(error.message.partition(" Reason: ")[0]) from error
        self._counted += code.zipped_bytes
        return {
            "kind": "zip",
            "size": code.zipped_bytes,
            "unzipped": code.unzipped_bytes,
            "sha256": code.sha256,
            "path": f"{UPLOADED}{code.sha256}",
        }

    async def _check_room(self, size: int) -> None:
        """Raises `Refusal`. To add all of it up each time would make many functions dear."""
        if self._engine.now() >= self._count_again_at:
            self._count_again_at = self._engine.now() + COUNTED_FOR_SECONDS
            self._counted = await self._count()
        if self._counted + size > self._engine.settings.api_code_bytes:
            self._count_again_at = 0.0  # room may be made meanwhile
            raise Refusal("CodeStorageExceededException", 400, "Code storage limit exceeded.")

    async def fetch(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What is stored of a zip file in S3. Raises LambentError."""
        region = self._engine.settings.region
        named = params["S3Bucket"], params.get("S3Key") or "", params.get("S3ObjectVersion")
        zip_file = await asyncio.to_thread(fetch, *named, region)
        return await self.keep(zip_file, MAXIMUM_OBJECT_BYTES)

    async def data(self, sha256: str) -> bytes:
        """The zip file of this hash. Raises LambentError."""
        return await self._engine.code.uploaded(sha256)


async def code_of(params: Mapping[str, Any], codes: Codes) -> dict[str, Any]:
    """What is stored of the code that these parameters name. Raises `Refusal`."""
    code = await _code_of(params, codes)
    if key := params.get("SourceKMSKeyArn"):
        code["kms"] = key  # shown, without effect
    return code


async def _code_of(params: Mapping[str, Any], codes: Codes) -> dict[str, Any]:
    if params.get("ZipFile") and any(params.get(name) for name in _ELSEWHERE):
        raise invalid("Please do not provide other FunctionCode parameters when providing a ZipFile.")
    if params.get("S3ObjectStorageMode") == "REFERENCE":
        raise invalid("S3ObjectStorageMode: REFERENCE is not there: code is copied when it is given (COPY).")
    ways = [name for name in ("ZipFile", "S3Bucket", "ImageUri") if params.get(name)]
    if len(ways) != 1:
        if "ZipFile" in params and not ways:
            raise invalid("Uploaded file must be a non-empty zip")
        raise invalid("Please provide a source for function code.")
    if uri := params.get("ImageUri"):
        repository, digest, sha256 = uri.partition("@sha256:")
        if not digest:  # nobody is asked what the tag means: its hash stands for it
            repository = uri.rpartition(":")[0] if ":" in uri.rpartition("/")[2] else uri
            sha256 = hashlib.sha256(uri.encode()).hexdigest()
        resolved = f"{repository}@sha256:{sha256}"
        return {"kind": "image", "size": 0, "sha256": sha256, "path": uri, "location": uri, "resolved": resolved}
    if bucket := params.get("S3Bucket"):
        return _folder(params.get("S3Key") or "") if bucket in FOLDER_BUCKETS else await codes.fetch(params)
    zip_file = params["ZipFile"]
    if zip_file.startswith(_EMPTY):
        raise invalid("Uploaded file must be a non-empty zip")
    if len(zip_file) >= MAXIMUM_ZIPPED_BYTES:
        raise too_large(f"Zipped size must be smaller than {MAXIMUM_ZIPPED_BYTES} bytes")
    return await codes.keep(zip_file)


def _folder(key: str) -> dict[str, Any]:
    try:
        folder = Path(key)
        there = folder.is_absolute() and folder.is_dir()
    except (OSError, ValueError):
        there = False
    if not there:
        raise invalid(f"S3Key: {key[:256]!r} is no folder of this machine: give an absolute path.")
    digest = base64.b64encode(hashlib.sha256(key.encode()).digest()).decode()
    return {"kind": "folder", "size": 0, "sha256": digest, "path": key, "location": folder.as_uri()}
