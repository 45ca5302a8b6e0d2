"""The errors of Lambda's API, each with its name, its status and its words.

Decides nothing but that: when one is due is decided where it is raised. How a body looks is `application.py`'s.
"""

from __future__ import annotations

from typing import Final

from lambent.errors import LambentError

NO_POLICY: Final = "No policy is associated with the given resource."
NO_RESOURCE: Final = "The resource you requested does not exist."


class Refusal(LambentError):
    """What Lambda's API answers. `typed`: its body says whose fault it is (AWS leaves that out here and there)."""

    def __init__(self, aws_name: str, status: int, message: str, *, typed: bool = True) -> None:
        super().__init__(message)
        self.aws_name = aws_name
        self.status = status
        self.typed = typed


def invalid(message: str, *, typed: bool = True) -> Refusal:
    return Refusal("InvalidParameterValueException", 400, message, typed=typed)


def not_found(message: str = NO_RESOURCE) -> Refusal:
    return Refusal("ResourceNotFoundException", 404, message)


def conflict(message: str) -> Refusal:
    return Refusal("ResourceConflictException", 409, message)


def pending() -> Refusal:
    """A function that was created just now."""
    return conflict(
        "The operation cannot be performed at this time. The function is currently in the following state: Pending"
    )


def stale(asking: str = "GetFunction/GetAlias") -> Refusal:
    """A RevisionId that is not the latest; `asking`: the operation that tells it."""
    words = "The Revision Id provided does not match the latest Revision Id. Call the"
    message = f"{words} {asking} API to retrieve the latest Revision Id"
    return Refusal("PreconditionFailedException", 412, message)


def constrained(problems: list[str]) -> Refusal:
    """Values that the model does not allow, all in one message."""
    return Refusal("ValidationException", 400, joined(problems), typed=False)


def joined(problems: list[str]) -> str:
    plural = "s" if len(problems) != 1 else ""
    return f"{len(problems)} validation error{plural} detected: {'; '.join(problems)}"


def no_code_signing(arn: str) -> Refusal:
    """There are none here."""
    words = "The code signing configuration cannot be found. Check that the provided configuration is not deleted: "
    return Refusal("CodeSigningConfigNotFoundException", 404, f"{words}{arn}.")


def no_such_code_signing(arn: str) -> Refusal:
    """The same, of what is asked about the configuration itself."""
    return not_found(f"The Lambda code signing configuration {arn} can not be found.")


def unreadable(message: str) -> Refusal:
    """A body that is not what the operation takes."""
    return Refusal("SerializationException", 400, message, typed=False)


def too_large(message: str) -> Refusal:
    return Refusal("RequestEntityTooLargeException", 413, message, typed=False)


def forbidden(message: str) -> Refusal:
    return Refusal("AccessDeniedException", 403, message, typed=False)


def not_permitted(action: str, arn: str, account: str) -> Refusal:
    """What another account has: nobody there permits anything."""
    return forbidden(
        f"User: arn:aws:iam::{account}:root is not authorized to perform: lambda:{action} on resource: {arn} because "
        f"no resource-based policy allows the lambda:{action} action"
    )


def unknown_operation() -> Refusal:
    """No operation has this method and path."""
    return Refusal("UnknownOperationException", 404, "There is no such operation: see docs/api.md.", typed=False)


def not_here(operation: str, what: str) -> Refusal:
    """An operation of AWS that lambent does not have."""
    return invalid(f"{operation} is not there: lambent has no {what} (docs/api.md lists what it has).")
