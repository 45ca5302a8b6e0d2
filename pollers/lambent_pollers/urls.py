"""What the URLs of all sources and stores have in common.

Decides how one is refused: shown without a password, with what to write instead; and what an option in seconds may be.
What a URL's parts mean is decided by its own module.
"""

from __future__ import annotations

from typing import Final, NoReturn

from lambent.arns import without_password
from lambent.errors import InvalidParameterValue

MAXIMUM_SECONDS: Final = 3600.0


def refuse(url: str, advice: str) -> NoReturn:
    """Raises InvalidParameterValue."""
    raise InvalidParameterValue(f"{without_password(url)!r}: {advice}")


def in_seconds(url: str, name: str, text: str) -> float:
    """The value of an option. Raises InvalidParameterValue if it is not above 0 and at most an hour."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found <= MAXIMUM_SECONDS:
        refuse(url, f"{name} is in seconds, above 0 and at most {MAXIMUM_SECONDS:.0f}")
    return found
