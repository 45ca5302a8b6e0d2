"""Where a function's code comes from: a zip file in the request, a folder of this machine, a container image.

Decides what a request may name, what is said of its size and its hash (Lambda API reference: FunctionCode), and which
code is in use. What a zip file may be, and how it is kept, is `code_store.py`'s.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lambent.api.records import Record
from lambent.api.refusals import invalid, too_large
from lambent.code_store import CodeStore
from lambent.errors import InvalidParameterValue, LambentError

MAXIMUM_ZIPPED_BYTES: Final = 52_428_800  # Lambda quotas: direct upload
FOLDER_BUCKETS: Final = ("folder", "hot-reload")  # S3 buckets that mean this machine: S3Key is the path there


class Codes:
    """The code of the functions that calls make, in a store of it."""

    def __init__(self, store: CodeStore) -> None:
        self._store = store

    async def keep(self, zip_file: bytes) -> dict[str, Any]:
        """What is stored of a zip file, which is laid out for whoever runs it. Raises LambentError if it is none."""

        def kept() -> dict[str, Any]:
            try:
                code = self._store.put(zip_file)
                path = self._store.open(code.sha256)
            except InvalidParameterValue as error:  # AWS says no more than the first sentences
                raise invalid(error.message.partition(" Reason: ")[0]) from error
            return {"kind": "zip", "size": code.zipped_bytes, "sha256": code.sha256, "path": str(path)}

        return await asyncio.to_thread(kept)

    async def data(self, sha256: str) -> bytes:
        """The zip file of this hash. Raises LambentError."""
        return await asyncio.to_thread(self._store.data, sha256)

    async def use(self, hashes: Collection[str]) -> list[str]:
        """Hold and lay out these zip files, and let others go that are old; gives those that are not there."""

        def used() -> list[str]:
            missing = []
            for each in hashes:
                try:
                    self._store.open(each)
                except LambentError:
                    missing.append(each)
            self._store.collect(hashes)
            return missing

        return await asyncio.to_thread(used)


def zips_of(records: Iterable[Record]) -> set[str]:
    """The hashes of all zip files that these functions and their versions have."""
    found = (each.code for record in records for each in (record.latest, *record.versions.values()))
    return {code["sha256"] for code in found if code["kind"] == "zip"}


async def code_of(params: Mapping[str, Any], codes: Codes) -> dict[str, Any]:
    """What is stored of the code that these parameters name. Raises `Refusal`."""
    ways = [name for name in ("ZipFile", "S3Bucket", "ImageUri") if params.get(name)]
    if len(ways) != 1:
        if "ZipFile" in params and not ways:
            raise invalid("Uploaded file must be a non-empty zip")
        raise invalid("Please provide a source for function code.")
    if uri := params.get("ImageUri"):
        return {
            "kind": "image",
            "size": 0,
            "sha256": hashlib.sha256(uri.encode()).hexdigest(),
            "path": uri,
            "location": uri,
        }
    if bucket := params.get("S3Bucket"):
        return _folder(bucket, params.get("S3Key") or "")
    zip_file = params["ZipFile"]
    if len(zip_file) >= MAXIMUM_ZIPPED_BYTES:
        raise too_large(f"Zipped size must be smaller than {MAXIMUM_ZIPPED_BYTES} bytes")
    return await codes.keep(zip_file)


def _folder(bucket: str, key: str) -> dict[str, Any]:
    if bucket not in FOLDER_BUCKETS:
        raise invalid(
            "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket "
            "does not "
            f"exist (there is no S3 here; S3Bucket={FOLDER_BUCKETS[0]} with an absolute path as S3Key means a folder)"
        )
    try:
        folder = Path(key)
        there = folder.is_absolute() and folder.is_dir()
    except (OSError, ValueError):
        there = False
    if not there:
        raise invalid(f"S3Key: {key[:256]!r} is no folder of this machine: give an absolute path.")
    digest = base64.b64encode(hashlib.sha256(key.encode()).digest()).decode()
    return {"kind": "folder", "size": 0, "sha256": digest, "path": key, "location": folder.as_uri()}
