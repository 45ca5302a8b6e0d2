"""Secrets of a Kafka cluster that are named, and kept beside the program: one file for each.

Decides which file a name means, and what its document must say. The documents are those that AWS Secrets Manager holds
for Kafka sources (Lambda developer guide, «Configuring cluster authentication methods in Lambda»): a login is
`{"username": …, "password": …}`, a certificate of one's own `{"certificate": …, "privateKey": …, "privateKeyPassword":
…}`, those whom one believes `{"certificate": …}`, in PEM. Files are how Docker and Kubernetes hand secrets over, and a
secret that was changed holds from the next connection on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from lambent.errors import InvalidParameterValue

DIRECTORY_VARIABLE: Final = "LAMBENT_SECRETS"
USUAL_DIRECTORY: Final = "/run/secrets"
MAXIMUM_SECRET_BYTES: Final = 65_536  # AWS Secrets Manager quotas: size of a secret's value
_SUFFIX_CHARACTERS: Final = 7  # of an ARN's name, "-AbCdEf", which Secrets Manager adds


def read_secret(name: str, *needed: str) -> Mapping[str, str]:
    """The document of a secret, by its ARN or its name alone. Raises InvalidParameterValue, which shows nothing of it:
    there is no such file, or it lacks something that is needed."""
    directory = Path(os.environ.get(DIRECTORY_VARIABLE, USUAL_DIRECTORY))
    name = name.partition(":secret:")[2] or name
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise InvalidParameterValue(f"{name!r} names no secret: write its ARN or its name")
    paths = [directory / name]
    if name[-_SUFFIX_CHARACTERS:].startswith("-"):
        paths.append(directory / name[:-_SUFFIX_CHARACTERS])
    found = next((path for path in paths if path.is_file()), None)
    where = " or ".join(map(str, paths))
    if found is None:
        raise InvalidParameterValue(
            f"there is no secret {name!r}: put its JSON document into the file {where} ({DIRECTORY_VARIABLE} names the "
            "directory)"
        )
    try:
        with found.open("rb") as file:
            document = json.loads(file.read(MAXIMUM_SECRET_BYTES))
        texts = {str(key): value for key, value in document.items() if isinstance(value, str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        raise InvalidParameterValue(f"the secret in {found} can't be read as a JSON object") from None
    if lacking := [each for each in needed if not texts.get(each)]:
        raise InvalidParameterValue(f"the secret in {found} has no {' and no '.join(lacking)}")
    return texts
