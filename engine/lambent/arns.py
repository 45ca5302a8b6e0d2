"""How things are named in AWS's way: the ARNs that events, records and messages carry (AWS General Reference); and how
the URLs of what is elsewhere are shown."""

from __future__ import annotations

from typing import Final

DEFAULT_REGION: Final = "us-east-1"
DEFAULT_ACCOUNT_ID: Final = "000000000000"


def function_arn(region: str, account_id: str, name: str, qualifier: str | None = None) -> str:
    """A function's; with a qualifier (a version, an alias or $LATEST) at its end if there is one."""
    arn = f"arn:aws:lambda:{region}:{account_id}:function:{name}"
    return f"{arn}:{qualifier}" if qualifier else arn


def queue_arn(region: str, account_id: str, name: str) -> str:
    return f"arn:aws:sqs:{region}:{account_id}:{name}"


def stream_arn(region: str, account_id: str, name: str) -> str:
    return f"arn:aws:kinesis:{region}:{account_id}:stream/{name}"


def role_arn(account_id: str) -> str:
    """The execution role: there is one for all functions, and nothing asks for its permissions."""
    return f"arn:aws:iam::{account_id}:role/lambent"


def without_password(reference: str) -> str:
    """A source, a store or a destination as it may be shown to anybody: of a URL, nobody's name and password."""
    scheme, separator, rest = reference.partition("://")
    return reference if rest.startswith("/") else f"{scheme}{separator}{rest.rpartition('@')[2]}"  # a file has none
