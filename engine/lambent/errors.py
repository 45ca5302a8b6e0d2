"""What a caller can meet: each error carries AWS's name, its HTTP status and a message that says what to do.

Only what the *caller* did wrong is an exception. What a handler did is an `Outcome`; what the world did (a store that
is away) is mapped to `Unavailable` by the adapter that met it.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "EngineStopped",
    "FunctionError",
    "InvalidParameterValue",
    "InvalidRequestContent",
    "LambentError",
    "LimitExceeded",
    "NotHosted",
    "RecursiveInvocation",
    "RequestTooLarge",
    "ResourceConflict",
    "ResourceNotFound",
    "StoreUnavailable",
    "TooManyRequests",
]


class LambentError(Exception):
    """Base of everything a caller may catch. `aws_name` and `status` are what Lambda's API would answer."""

    aws_name = "ServiceException"
    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidParameterValue(LambentError, ValueError):
    """A configuration value or argument that AWS would refuse; the message names the field and what is allowed."""

    aws_name = "InvalidParameterValueException"
    status = 400


class InvalidRequestContent(LambentError, ValueError):
    """The payload is not JSON (Lambda API: Invoke, InvalidRequestContentException)."""

    aws_name = "InvalidRequestContentException"
    status = 400


class RequestTooLarge(LambentError, ValueError):
    """The payload is above 6 MB (synchronous) or 1 MB (asynchronous); see Lambda quotas."""

    aws_name = "RequestTooLargeException"
    status = 413


class ResourceNotFound(LambentError, LookupError):
    """No such function, mapping, queue or stream."""

    aws_name = "ResourceNotFoundException"
    status = 404


class ResourceConflict(LambentError):
    """The thing exists already, or changed since it was read."""

    aws_name = "ResourceConflictException"
    status = 409


class TooManyRequests(LambentError):
    """Not admitted. `reason` is AWS's ThrottleReason (Lambda API: Invoke, TooManyRequestsException)."""

    aws_name = "TooManyRequestsException"
    status = 429

    def __init__(self, reason: str) -> None:
        super().__init__("Rate Exceeded.")
        self.reason = reason


class RecursiveInvocation(LambentError):
    """The function called itself through others about 16 times (Lambda guide: recursive loop detection)."""

    aws_name = "RecursiveInvocationException"
    status = 400


class LimitExceeded(LambentError):
    """A stream holds as much as it may (Kinesis API: LimitExceededException); nothing was stored."""

    aws_name = "LimitExceededException"
    status = 400


class EngineStopped(LambentError):
    """The engine is not started, or refuses new work because it drains."""

    aws_name = "ServiceException"
    status = 503


class NotHosted(EngineStopped):
    """No engine that is alive has the function's code."""

    aws_name = "ResourceNotReadyException"
    status = 502


class StoreUnavailable(LambentError):
    """The store did not answer, or cannot write. Nothing is known to be stored; asking again is safe."""

    aws_name = "ServiceException"
    status = 503


class FunctionError(LambentError):
    """The handler failed. `document` is AWS's error document (errorMessage, errorType, requestId, stackTrace)."""

    aws_name = "Unhandled"
    status = 200

    def __init__(self, document: Mapping[str, object], request_id: str = "") -> None:
        super().__init__(f"{document.get('errorType', 'Error')}: {document.get('errorMessage', '')}")
        self.document = dict(document)
        self.request_id = request_id
