"""An HTTP endpoint as a function: each invocation is a POST of its event, the answer's body is its result.

Decides what an answer means. 2xx is a result, which must be JSON (no body is null), unless `X-Amz-Function-Error` says
that the body is an error document. 429 and 503 say that the endpoint does not want it now, and an endpoint that cannot
be reached has not run anything: both are `Unavailable`, so nothing is counted against the event. Everything else is an
error of the function, with its body as the document if that is one. The time limit is the function's.

Who reads the answer as a stream gets each piece of a result as it comes, JSON or not, and the endpoint is held up while
nobody reads; one that breaks off in the middle is an error that follows the pieces.

The headers are those of the Runtime API's `next`. Which addresses may be reached is `egress.py`'s. Needs
`lambent[http]`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from lambent.arns import function_arn
from lambent.egress import BLOCKED, Endpoint
from lambent.errors import InvalidParameterValue, LambentError
from lambent.logs import LogStream
from lambent.model import MAXIMUM_RESPONSE_BYTES, Failed, Function, Invocation, Outcome, Succeeded, Unavailable
from lambent.payload import check_payload, encode_event
from lambent.ports import Call, Respond, RuntimeSurroundings
from lambent.runtimes.error_documents import timed_out, too_large
from lambent.runtimes.streamed import StreamedAnswer
from lambent.semantics.recursion import told
from lambent.semantics.routing import key

if TYPE_CHECKING:
    import aiohttp

MAXIMUM_CONNECTIONS: Final = 1000
"""To one endpoint at once; how many invocations there are is the function's concurrency."""
_NOT_NOW: Final = (429, 503)
_STOPPED: Final = Unavailable("the engine was stopped while the call ran")
_TOO_LATE: Final = Unavailable("it could not be started in time: what it was for may be with others")


class HttpEndpoints:
    """An EnvironmentRuntime of the family `http`: `code` is the URL."""

    def __init__(self, surroundings: RuntimeSurroundings) -> None:
        """Raises InvalidParameterValue if aiohttp is not there."""
        try:
            import aiohttp  # noqa: F401
        except ImportError:
            raise InvalidParameterValue("an HTTP endpoint as a function needs: pip install 'lambent[http]'") from None
        self._surroundings = surroundings
        self._functions: dict[str, _Remote] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def register(self, function: Function) -> None:
        """See `ports.EnvironmentRuntime`. Raises InvalidParameterValue if its code is no URL of HTTP."""
        remote = _Remote(function, self._surroundings)
        name = key(function.name, function.version)
        self.withdraw(name)
        self._functions[name] = remote

    def withdraw(self, name: str) -> None:
        """See `ports.EnvironmentRuntime`."""
        if (remote := self._functions.pop(name, None)) is not None:
            remote.serves = False
            if not remote.running:
                self._close(remote)

    def start(
        self,
        invocation: Invocation,
        ended: Callable[[Outcome], None],
        started: Callable[[], None],
        respond: Respond,
    ) -> Call:
        """See `ports.Runtime.start`. The deadline begins with the request."""
        remote = self._functions.get(key(invocation.function, invocation.version))
        call = _Call(ended)
        if remote is None:
            call.end(Unavailable(f"function {invocation.function!r} is not served here"))
        elif self._surroundings.world.clock.monotonic() >= invocation.start_before:
            call.end(_TOO_LATE)
        else:
            started()
            answer = StreamedAnswer(invocation, respond)
            call.task = asyncio.get_running_loop().create_task(
                self._run(remote, invocation, answer, call), name=invocation.function
            )
            self._calls.add(call.task)
            call.task.add_done_callback(self._calls.discard)
        return call

    async def close(self) -> None:
        """See `ports.Runtime.close`."""
        for name in list(self._functions):
            self.withdraw(name)
        for task in self._calls:
            task.cancel()
        for tasks in (self._calls, self._closing):
            if tasks:
                await asyncio.wait(tasks)

    async def _run(self, remote: _Remote, invocation: Invocation, answer: StreamedAnswer, call: _Call) -> None:
        remote.running += 1
        try:
            call.end(await remote.call(invocation, answer))
        except asyncio.CancelledError:
            call.end(_STOPPED)
            raise
        finally:
            remote.running -= 1
            if not remote.serves and not remote.running:
                self._close(remote)

    def _close(self, remote: _Remote) -> None:
        closing = asyncio.get_running_loop().create_task(remote.endpoint.close(), name=f"{remote.function.name}: close")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class _Call:
    """A `ports.Call`."""

    def __init__(self, ended: Callable[[Outcome], None]) -> None:
        self._ended: Callable[[Outcome], None] | None = ended
        self.task: asyncio.Task[None] | None = None

    def end(self, outcome: Outcome) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(outcome)

    def abandon(self) -> None:
        """The request is cut off; whether the endpoint goes on with it is its own affair."""
        self._ended = None
        if self.task is not None:
            self.task.cancel()


class _Remote:
    """One function, and the connections to where it is."""

    def __init__(self, function: Function, surroundings: RuntimeSurroundings) -> None:
        environment, world = function.environment, surroundings.world
        assert environment is not None
        try:
            self.endpoint = Endpoint(
                environment.code,
                timeout_seconds=None,
                connections=MAXIMUM_CONNECTIONS,
                allow_private=surroundings.allow_private,
            )
        except ValueError as error:
            raise InvalidParameterValue(f"code: {environment.code!r} is not allowed; {error}") from None
        self.function = function
        self.serves = True
        self.running = 0
        self._world = world
        self._log: LogStream = surroundings.logs.open(function, f"[{function.name}]{world.new_id().replace('-', '')}")
        self._arn = function_arn(world.region, world.account_id, function.name)

    async def call(self, invocation: Invocation, answer: StreamedAnswer) -> Outcome:
        clock = self._world.clock
        began = clock.monotonic()
        log = self._log.start(invocation.request_id, invocation.tail)
        outcome: Outcome = _STOPPED
        try:
            try:
                async with asyncio.timeout(self.function.timeout_seconds):
                    outcome = await self._post(invocation, answer)
            except TimeoutError:
                outcome = timed_out(invocation.request_id, self.function.timeout_seconds)
        finally:
            if isinstance(outcome, Succeeded | Failed):
                outcome.run_seconds = clock.monotonic() - began
                if isinstance(outcome, Failed):
                    log.fail(outcome)
            tail = log.close(outcome, maximum_memory_mb=0)
            if isinstance(outcome, Succeeded | Failed):
                outcome.log_tail = tail
        return outcome

    async def _post(self, invocation: Invocation, answer: StreamedAnswer) -> Outcome:
        import aiohttp

        event = invocation.event()
        data = event if isinstance(event, bytes) else encode_event(event)
        host = self.endpoint.host
        sent = False
        try:
            async with self.endpoint.post(data, self._headers(invocation)) as response:
                sent = True
                if invocation.streamed and _is_result(response):
                    return await _hand_on(response, answer)
                body = await _read(response)
                return self._judged(response, body, invocation.request_id)
        except aiohttp.InvalidURL:
            return _failed("Runtime.InvalidEntrypoint", f"{host}: not a valid URL", invocation.request_id)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if BLOCKED in str(error):
                return _failed("Runtime.InvalidEntrypoint", f"{host}: {BLOCKED}", invocation.request_id)
            return Unavailable(f"{host} cannot be reached: {type(error).__name__}")
        except (aiohttp.ClientError, OSError) as error:
            if BLOCKED in str(error):
                return _failed("Runtime.InvalidEntrypoint", f"{host}: {BLOCKED}", invocation.request_id)
            how = "within its answer" if sent else "without an answer"
            reason = f"{host} broke off {how}: {type(error).__name__}"
            return _failed("Runtime.ExitError", reason, invocation.request_id)

    def _headers(self, invocation: Invocation) -> Mapping[str, str]:
        deadline = self._world.clock.now() + self.function.timeout_seconds
        arn = self._arn if invocation.qualifier is None else f"{self._arn}:{invocation.qualifier}"
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": arn,
        }
        if invocation.trace_id is not None:
            headers["X-Amzn-Trace-Id"] = told(invocation.trace_id, invocation.hops)
        if invocation.client_context is not None:
            headers["Lambda-Runtime-Client-Context"] = json.dumps(dict(invocation.client_context))
        return headers

    def _judged(self, response: aiohttp.ClientResponse, body: bytes | None, request_id: str) -> Outcome:
        status = response.status
        if status in _NOT_NOW:
            return Unavailable(f"{self.endpoint.host} does not want it now: HTTP status {status}")
        if body is None:
            return too_large()
        if _is_result(response):
            try:
                return Succeeded(check_payload(body, MAXIMUM_RESPONSE_BYTES) if body else b"null")
            except LambentError as error:
                return _failed("Runtime.MarshalError", f"the answer is no JSON: {error.message}", request_id)
        if 200 <= status < 300:
            return Failed(_document(body) or _plain("Unhandled", body.decode("utf-8", "replace")))
        document = _document(body)
        if document is not None:
            return Failed(document)
        return _failed("Runtime.HttpStatus", f"{self.endpoint.host} answered with HTTP status {status}", request_id)


def _is_result(response: aiohttp.ClientResponse) -> bool:
    return 200 <= response.status < 300 and "X-Amz-Function-Error" not in response.headers


async def _hand_on(response: aiohttp.ClientResponse, answer: StreamedAnswer) -> Outcome:
    """Piece by piece. While there is no room nothing is read, so the endpoint has to wait, too."""
    async for chunk in response.content.iter_any():
        room = answer.take(chunk)
        if answer.too_large:
            response.close()
            break
        if room is not None:
            await room
    return answer.outcome()


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """None: it is too large; the rest is not read."""
    parts, left = [], MAXIMUM_RESPONSE_BYTES
    async for chunk in response.content.iter_any():
        left -= len(chunk)
        if left < 0:
            response.close()
            return None
        parts.append(chunk)
    return b"".join(parts)


def _document(body: bytes) -> Mapping[str, object] | None:
    """An error document, if it is one."""
    with suppress(ValueError, RecursionError):
        found = json.loads(body)
        if isinstance(found, dict) and ("errorType" in found or "errorMessage" in found):
            return found
    return None


def _failed(kind: str, reason: str, request_id: str) -> Failed:
    return Failed(_plain(kind, f"RequestId: {request_id} Error: {reason}"))


def _plain(kind: str, message: str) -> Mapping[str, object]:
    return {"errorType": kind, "errorMessage": message}
