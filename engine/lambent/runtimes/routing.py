"""Which runtime runs which function: callables this process, environments whoever serves their runtime's family.

Decides only that. A family that nobody serves is no reason to refuse a declaration, which may be meant for another
engine of the store: its functions fail when they are called, in words that say what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lambent.errors import InvalidParameterValue
from lambent.model import LATEST, Failed, Function, Invocation, Outcome
from lambent.ports import Call, EnvironmentRuntime, Respond, Runtime, RuntimeSurroundings
from lambent.runtimes.in_process import InProcess
from lambent.semantics.routing import at, key

Load = Callable[[str], Callable[[RuntimeSurroundings], EnvironmentRuntime]]


class Router:
    """A Runtime made of others. `load` gives the factory for a family; those that are the same thing are made once."""

    def __init__(self, in_process: InProcess, load: Load, surroundings: RuntimeSurroundings) -> None:
        self._in_process = in_process
        self._load = load
        self._surroundings = surroundings
        self._made: dict[object, EnvironmentRuntime] = {}
        self._families: dict[str, EnvironmentRuntime] = {}
        self._elsewhere: dict[str, EnvironmentRuntime] = {}  # by function and version
        self._registered: dict[str, Function] = {}  # the same, as they are there
        self._functions: dict[str, Function] = {}  # that have those

    def register(self, function: Function, handler: Callable[..., object] | None) -> None:
        """Serve it from now on, with this configuration. Raises InvalidParameterValue if `handler` cannot be called."""
        if handler is not None:
            self._in_process.register(function, handler)
            self.withdraw(function.name)
            return
        assert function.environment is not None, f"{function.name} has neither a handler nor an environment"
        before = self._functions.get(function.name)
        self._functions[function.name] = function
        for gone in () if before is None else before.versions.keys() - function.versions.keys():
            self._withdraw(key(function.name, gone))
        for version in _differing(before, function):
            name, each = key(function.name, version), at(function, version)
            if each.environment is None or self._registered.get(name) == each:  # what is warm stays warm
                continue
            runtime = self._of(each.environment.family)
            if self._elsewhere.get(name, runtime) is not runtime:
                self._withdraw(name)
            runtime.register(each)
            self._elsewhere[name], self._registered[name] = runtime, each

    def withdraw(self, name: str) -> None:
        """Serve it no longer, in no version; what runs finishes."""
        if (function := self._functions.pop(name, None)) is not None:
            for version in (LATEST, *function.versions):
                self._withdraw(key(name, version))

    def _withdraw(self, name: str) -> None:
        self._registered.pop(name, None)
        if (runtime := self._elsewhere.pop(name, None)) is not None:
            runtime.withdraw(name)

    def start(
        self,
        invocation: Invocation,
        ended: Callable[[Outcome], None],
        started: Callable[[], None],
        respond: Respond,
    ) -> Call:
        """As `ports.Runtime.start`."""
        name = invocation.function
        if invocation.version != LATEST:
            name = key(name, invocation.version)
        runtime: Runtime = self._elsewhere.get(name, self._in_process)
        return runtime.start(invocation, ended, started, respond)

    def status(self, name: str) -> Mapping[str, object]:
        """What its runtime tells of a function's environments; nothing of a callable of this process."""
        status: Callable[[str], Mapping[str, object]] | None = getattr(self._elsewhere.get(name), "status", None)
        return {} if status is None else status(name)

    def provisioned_use(self) -> dict[str, tuple[int, int]]:
        """As `Processes.provisioned_use`, of all runtimes that have such environments."""
        found: dict[str, tuple[int, int]] = {}
        for runtime in self._made.values():
            use: Callable[[], Mapping[str, tuple[int, int]]] | None = getattr(runtime, "provisioned_use", None)
            found.update({} if use is None else use())
        return found

    def cautions(self) -> list[str]:
        """What environments lack on this machine, each a sentence."""
        found: list[str] = []
        for runtime in self._made.values():
            cautions: Callable[[], Sequence[str]] | None = getattr(runtime, "cautions", None)
            found += [] if cautions is None else cautions()
        return found

    async def close(self) -> None:
        """Give up what runs, everywhere."""
        try:
            await self._in_process.close()
        finally:
            for runtime in self._made.values():
                await runtime.close()

    def _of(self, family: str) -> EnvironmentRuntime:
        if (known := self._families.get(family)) is not None:
            return known  # to look for it takes as long as to create a function
        try:
            factory: Callable[[RuntimeSurroundings], EnvironmentRuntime] = self._load(family)
        except InvalidParameterValue as error:
            self._surroundings.log("warning", "functions of a runtime will fail", family=family, reason=error.message)
            self._families[family] = missing = _Missing(error.message)
            return missing
        if factory not in self._made:
            self._made[factory] = factory(self._surroundings)
        self._families[family] = self._made[factory]
        return self._made[factory]


def _differing(before: Function | None, function: Function) -> list[str]:
    """Its versions, but those that have not changed: of a thousand, it is mostly the last that is new."""
    if before is None:
        return [LATEST, *function.versions]
    provisioned = before.provisioned_of, function.provisioned_of
    published = [
        number for number, each in function.versions.items()
        if ((known := before.versions.get(number)) is not each and known != each)
        or provisioned[0].get(number) != provisioned[1].get(number)
    ]  # fmt: skip
    return [LATEST, *published]


class _Missing:
    """What nobody serves."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def register(self, function: Function) -> None: ...

    def withdraw(self, name: str) -> None: ...

    def status(self, name: str) -> Mapping[str, object]:
        """As `Router.status`: nothing is there, nor will be."""
        return {"provisioned": {"status": "FAILED", "wanted": 0, "ready": 0, "spilled": 0}}

    def start(
        self,
        invocation: Invocation,
        ended: Callable[[Outcome], None],
        started: Callable[[], None],
        respond: Respond,
    ) -> Call:
        message = f"RequestId: {invocation.request_id} Error: {self._reason}"
        ended(Failed({"errorType": "Runtime.InvalidEntrypoint", "errorMessage": message}))
        return self

    def abandon(self) -> None: ...

    async def close(self) -> None: ...
