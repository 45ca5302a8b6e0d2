"""What a handler may know of the call that it serves: the context object, and which invocation is running here.

Decides AWS's attributes (Lambda developer guide, «Using the Lambda context object to retrieve Python function
information»). A call made inside a handler finds hops and trace id in `current_invocation`; counting them is the
engine's. Every attribute is computed only when it is asked for: most handlers ask for none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from lambent.model import Invocation

CURRENT: Final[ContextVar[Invocation | None]] = ContextVar("lambent_invocation", default=None)


def current_invocation() -> Invocation | None:
    """The invocation whose handler is running here (in this task, or in this thread of a plain function), if any."""
    return CURRENT.get()


@contextmanager
def continuing(hops: int, trace_id: str | None) -> Iterator[None]:
    """What is called inside goes on with a chain that came from another process, `hops` invocations long."""
    token = CURRENT.set(Invocation("", "", b"", hops=hops, trace_id=trace_id))
    try:
        yield
    finally:
        CURRENT.reset(token)


class CognitoIdentity:
    """`context.identity`; its two attributes are None, as for every caller that is no mobile application."""

    __slots__ = ()
    cognito_identity_id: None = None
    cognito_identity_pool_id: None = None


class Client:
    """`context.client_context.client`: what the calling application says of itself."""

    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")

    def __init__(self, values: Mapping[str, object]) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name))


class ClientContext:
    """`context.client_context`: what the caller sent along with the payload."""

    __slots__ = ("client", "custom", "env")

    def __init__(self, values: Mapping[str, object]) -> None:
        client = values.get("client")
        self.custom = values.get("custom")
        self.env = values.get("env")
        self.client = Client(client) if isinstance(client, Mapping) else None


class Surroundings:
    """What all calls of one function share: its name and memory, and the identity of this environment."""

    __slots__ = ("arn", "log_stream_name", "memory_limit_in_mb", "monotonic", "name")

    def __init__(
        self, name: str, memory_size_mb: int, arn: str, log_stream_name: str, monotonic: Callable[[], float]
    ) -> None:
        self.name = name
        self.memory_limit_in_mb = str(memory_size_mb)
        self.arn = arn
        self.log_stream_name = log_stream_name
        self.monotonic = monotonic


class Context:
    """The second argument of a handler. `memory_limit_in_mb` is a text, as at AWS; times are in milliseconds."""

    __slots__ = ("_deadline", "_invocation", "_surroundings")

    def __init__(self, surroundings: Surroundings, invocation: Invocation, deadline: float) -> None:
        self._surroundings = surroundings
        self._invocation = invocation
        self._deadline = deadline

    @property
    def aws_request_id(self) -> str:
        return self._invocation.request_id

    @property
    def function_name(self) -> str:
        return self._surroundings.name

    @property
    def function_version(self) -> str:
        return self._invocation.version

    @property
    def invoked_function_arn(self) -> str:
        """As it was called: with the qualifier if one was given."""
        qualifier = self._invocation.qualifier
        return f"{self._surroundings.arn}:{qualifier}" if qualifier else self._surroundings.arn

    @property
    def memory_limit_in_mb(self) -> str:
        return self._surroundings.memory_limit_in_mb

    @property
    def log_group_name(self) -> str:
        return f"/aws/lambda/{self._surroundings.name}"

    @property
    def log_stream_name(self) -> str:
        return self._surroundings.log_stream_name

    @property
    def client_context(self) -> ClientContext | None:
        sent = self._invocation.client_context
        return None if sent is None else ClientContext(sent)

    @property
    def identity(self) -> CognitoIdentity:
        return CognitoIdentity()

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the call is given up; 0 when that has happened."""
        return max(0, int((self._deadline - self._surroundings.monotonic()) * 1000))

    def __repr__(self) -> str:
        return f"Context(function={self.function_name!r}, aws_request_id={self.aws_request_id!r})"
