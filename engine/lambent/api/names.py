"""Which function a request means: a name, a part of an ARN or all of it, with a qualifier or without.

Decides it purely (Lambda API reference: FunctionName). Whether there is such a function is for the operations.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, NamedTuple

from lambent.api.refusals import Refusal, forbidden, invalid, joined, not_found, not_permitted
from lambent.arns import function_arn
from lambent.model import LATEST
from lambent.settings import EngineSettings

MAXIMUM_NAME_CHARACTERS: Final = 64  # of a bare name; the whole ARN may be longer
_FORM: Final = re.compile(
    r"(?:arn:(?:aws[a-zA-Z-]*)?:lambda:)?(?:(?P<region>(?:eusc-)?[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d):)?"
    r"(?:(?P<account>\d{12}):)?(?:function:)?(?P<name>[a-zA-Z0-9-_.]+)"
    r"(?::(?P<qualifier>\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)
_MISMATCH: Final = "The derived qualifier from the function name does not match the specified qualifier."


class Reference(NamedTuple):
    """A function as a request names it. `arn` ends with the qualifier if there is one."""

    name: str
    qualifier: str | None
    unqualified: str  # ARN

    @property
    def arn(self) -> str:
        return f"{self.unqualified}:{self.qualifier}" if self.qualifier else self.unqualified

    @property
    def resolved(self) -> str:
        """The qualifier, or $LATEST."""
        return self.qualifier or LATEST

    @property
    def qualified_arn(self) -> str:
        return f"{self.unqualified}:{self.resolved}"

    def of(self, qualifier: str) -> str:
        """The ARN of a version or alias of the same function."""
        return f"{self.unqualified}:{qualifier}"


def reference(given: str, qualifier: str | None, settings: EngineSettings, operation: str = "GetFunction") -> Reference:
    """What this FunctionName and Qualifier mean to an operation. Raises `Refusal`: another region or account, or two
    qualifiers."""
    found = _FORM.fullmatch(given)
    if found is None:  # another parameter's form allowed it
        raise not_found(f"Function not found: {given[:256]}")
    region, account = found["region"], found["account"]
    if region is not None and region != settings.region:
        raise not_found(f"Functions from '{region}' are not reachable in this region ('{settings.region}')")
    if account is not None and account != settings.account_id:
        arn = function_arn(region or settings.region, account, found["name"], qualifier or found["qualifier"])
        raise not_permitted("InvokeFunction" if operation.startswith("Invoke") else operation, arn, settings.account_id)
    derived = found["qualifier"]
    if derived and qualifier and derived != qualifier:
        raise invalid(_MISMATCH)
    name = found["name"]
    return Reference(name, qualifier or derived, function_arn(settings.region, settings.account_id, name))


def new_name(given: str, settings: EngineSettings) -> Reference:
    """As `reference`, for a function that is to be created. Recorded: of another account AWS says nothing then."""
    try:
        found = reference(given, None, settings)
    except Refusal as error:
        raise (forbidden("") if error.status == HTTPStatus.FORBIDDEN else error) from None
    if len(found.name) > MAXIMUM_NAME_CHARACTERS:
        problem = (
            f"Value '{found.name}' at 'functionName' failed to satisfy constraint: Member must have length less than "
            f"or equal to {MAXIMUM_NAME_CHARACTERS}"
        )
        raise invalid(joined([problem]))
    return found
