"""What an engine is told: functions, queues, streams and mappings, in code.

Decides how options are told apart, which callable is which function, and what stands for what (a function for its name,
a name for a source). What is valid and fits together is decided in `model.py` and `consistency.py`. Nothing is opened
here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from os import PathLike
from pathlib import PurePath
from typing import Final, Protocol, TypeVar, Unpack, overload

from lambent.configuration import ExecutionEnvironment
from lambent.control import Control
from lambent.errors import InvalidParameterValue, LambentError, ResourceConflict
from lambent.model import EventInvokeConfig, Function, QueueMapping, Stream, StreamMapping
from lambent.options import FunctionFromOptions, FunctionOptions, MapOptions, OnOptions, QueueOptions, StreamOptions
from lambent.ports import BuiltinQueue, BuiltinStream, Clock
from lambent.resources import Functions, MappingHandle, Mappings, QueueHandle, StreamHandle
from lambent.sources import source_kind
from lambent.validation import changed, unknown, validated

F = TypeVar("F", bound=Callable[..., object])
Source = QueueHandle | StreamHandle | str

_FUNCTION_OPTIONS: Final = Function.model_fields.keys() - {
    "event_invoke", "environment", "version", "versions", "aliases", "event_invoke_of", "provisioned_of",
}  # fmt: skip
_ENVIRONMENT_OPTIONS: Final = ExecutionEnvironment.model_fields.keys()
_EVENT_OPTIONS: Final = EventInvokeConfig.model_fields.keys()
_MAPPING_OPTIONS: Final = (QueueMapping.model_fields.keys() | StreamMapping.model_fields.keys()) - {
    "source", "function", "kind", "name",
}  # fmt: skip
_DESTINATIONS: Final = ("on_success", "on_failure", "dead_letter_queue")


NO_FUNCTION: Final = Function(name="none")
"""Whose parts an option of a new function replaces: the defaults."""


class Hosted:
    """A function of this engine, for the path that every call takes."""

    __slots__ = ("by_reference", "name")

    def __init__(self, function: Function) -> None:
        self.name = function.name
        self.by_reference = function.boundary == "reference"


class Opened(Protocol):
    """A store's queues and streams, once there is one."""

    def queue(self, name: str) -> BuiltinQueue: ...

    def stream(self, name: str) -> BuiltinStream: ...


def stream_elsewhere(url: str, opened: Callable[[], BuiltinStream]) -> StreamHandle:
    """The stream of a URL. Raises InvalidParameterValue for that of a queue."""
    if source_kind(url) != "stream":
        raise InvalidParameterValue(f'"{url}" is a queue')

    def declared() -> Stream:
        raise InvalidParameterValue(f'"{url}" is configured elsewhere')

    return StreamHandle(url, declared, opened)


class Declarations(Mappings):
    """The declaring half of an engine; may be used before the start and after."""

    def __init__(self, control: Control, clock: Clock) -> None:
        self.control = control
        self._clock = clock
        self._hosted: dict[object, Hosted] = {}  # by name and by handler
        self._handlers: dict[str, Callable[..., object] | None] = {}  # None: it has an environment
        self._adopted: set[str] = set()  # of those, functions that calls made
        self._queues: dict[str, QueueHandle] = {}
        self._streams: dict[str, StreamHandle] = {}

    # --- declaring -------------------------------------------------------------------------------------------------

    @overload
    def function(self, handler: F, /) -> F: ...

    @overload
    def function(self, handler: None = None, /, **options: Unpack[FunctionOptions]) -> Callable[[F], F]: ...

    def function(self, handler: F | None = None, /, **options: Unpack[FunctionOptions]) -> F | Callable[[F], F]:
        """Make a callable a function of this engine; gives back the very callable.

        The options are the fields of `Function` and of `EventInvokeConfig`; `name` is the callable's by default.
        Raises InvalidParameterValue, ResourceConflict if the name is taken."""

        def register(function: F) -> F:
            self._register(function, options)
            return function

        return register if handler is None else register(handler)

    def function_from(self, code: str | PathLike[str], /, **options: Unpack[FunctionFromOptions]) -> str:
        """Make code that is no callable of this process a function of this engine; gives its name, which stands for
        it everywhere.

        The options are the fields of `ExecutionEnvironment`, `Function` and `EventInvokeConfig`; `name` is the code's
        by default ('resize' of './resize'), and `runtime` the Python that runs this engine; of a URL it is 'http'.
        Raises InvalidParameterValue, ResourceConflict if the name is taken."""
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        runtime = "http" if str(code).startswith(("http://", "https://")) else python
        by_default = {"name": PurePath(code).stem, "runtime": runtime}
        fields = self._fields({**by_default, **options, "code": code}, NO_FUNCTION, with_environment=True)
        function = validated(Function, fields, "a function")
        self._declare(function, None)
        return function.name

    def map(
        self, source: Source, function: Callable[..., object] | str, **options: Unpack[MapOptions]
    ) -> MappingHandle:
        """Feed a queue or stream to a function. The options are the fields of `QueueMapping` or `StreamMapping`.

        source: an object of `queue` or `stream`, its name, or a URL of another source. function: a function of this
        engine, or the name of one. Raises InvalidParameterValue, ResourceConflict if there is such a mapping."""
        return self._map(self._source(source), self._named(function), options)

    def on(self, source: Source, **options: Unpack[OnOptions]) -> Callable[[F], F]:
        """A function and its mapping in one. Options are told apart by name: what a mapping knows is the mapping's
        (on_failure and maximum_retry_attempts of a stream), the rest the function's; `name` names the function."""
        named = self._source(source)
        of_mapping = {name: value for name, value in options.items() if name in _MAPPING_OPTIONS}
        of_function = {name: value for name, value in options.items() if name not in _MAPPING_OPTIONS}
        _check_options(options, _FUNCTION_OPTIONS | _EVENT_OPTIONS | _MAPPING_OPTIONS, "a function or its mapping")

        def register(function: F) -> F:
            self._register(function, of_function)
            try:
                self._map(named, self._name_of(function), of_mapping)
            except LambentError:
                self._forget(self._name_of(function))
                raise
            return function

        return register

    def queue(self, name: str, **options: Unpack[QueueOptions]) -> QueueHandle:
        """The queue of this name. The options are the fields of `Queue`; the first call with options declares it, one
        without gives what is declared. Raises InvalidParameterValue if it is declared with other options."""
        if "dead_letter_queue" in options:
            dead = options["dead_letter_queue"]
            options["dead_letter_queue"] = dead.name if isinstance(dead, QueueHandle) else dead
        self.control.declare_queue(name, options)
        if name not in self._queues:
            self._queues[name] = QueueHandle(
                name, lambda: self.control.queues[name], lambda: self._open().queue(name), lambda: self._clock.now()
            )
        return self._queues[name]

    def stream(self, name: str, **options: Unpack[StreamOptions]) -> StreamHandle:
        """The stream of this name; as `queue`, with the fields of `Stream`. With a URL, one elsewhere, to be put to and
        read: 'kafka://HOST:PORT/TOPIC'. Raises InvalidParameterValue for options that it can't have, or a URL of a
        queue."""
        if "://" in name:
            if options:
                given = ", ".join(sorted(options))
                raise InvalidParameterValue(f"{given}: a stream elsewhere has its options in its URL")
            return stream_elsewhere(name, lambda: self._open().stream(name))
        self.control.declare_stream(name, options)
        if name not in self._streams:
            self._streams[name] = StreamHandle(
                name, lambda: self.control.streams[name], lambda: self._open().stream(name)
            )
        return self._streams[name]

    def include(self, functions: Functions) -> None:
        """Take over what a module without the engine declared."""
        functions.declare_in(self)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _open(self) -> Opened:
        """The store's side. Raises EngineStopped if there is none."""
        raise NotImplementedError

    def _host(self, function: Function, handler: Callable[..., object] | None) -> None:
        """Serve this function from now on, if anything is served."""
        raise NotImplementedError

    def _withdraw(self, name: str) -> None:
        """Serve the function of this name no longer."""
        raise NotImplementedError

    def _map(self, source: str, function: str, options: Mapping[str, object]) -> MappingHandle:
        identity = self.control.declare_mapping(source, function, self._destinations(options))
        return MappingHandle(identity, source, function, self)

    def _register(self, handler: Callable[..., object], options: Mapping[str, object]) -> None:
        fields = self._fields(options, NO_FUNCTION)
        if not callable(handler):
            raise InvalidParameterValue(f"{handler!r} is no function: decorate one with @engine.function(…=…)")
        name = options.get("name", getattr(handler, "__name__", None))
        if name is None:
            raise InvalidParameterValue(f"name is missing: {handler!r} has none of its own, so give one with name=…")
        self._declare(validated(Function, {**fields, "name": name}, "a function"), handler)

    def _declare(self, function: Function, handler: Callable[..., object] | None) -> None:
        try:
            self.control.declare_function(function)
        except ResourceConflict as error:
            raise ResourceConflict(f"{error.message} (give one of the two another name with name=…)") from None
        self._know(function, handler)
        try:
            self._host(function, handler)
        except LambentError:
            self._forget(function.name)
            raise

    def _know(self, function: Function, handler: Callable[..., object] | None) -> None:
        self._handlers[function.name] = handler
        self._hosted[function.name] = hosted = Hosted(function)
        if handler is not None:
            self._hosted[handler] = hosted

    def _forget(self, name: str) -> None:
        del self._hosted[name]
        handler = self._handlers.pop(name)
        if handler is not None:
            del self._hosted[handler]
        self.control.withdraw_function(name)
        self._withdraw(name)

    def _apply(self, function: Function) -> None:
        """The function's configuration changed."""
        handler = self._handlers[function.name]
        self.control.functions[function.name] = function
        self._know(function, handler)
        self._host(function, handler)

    def follow(self, name: str, function: Function | None, made: Collection[str]) -> None:
        """Serve a function as the store has it (None: not, or no longer) if it is here, or one of those `made` by a
        call, whose code is elsewhere."""
        if function is None:
            if name in self._handlers:
                self._forget(name)
        elif name in self._handlers:
            if function != self.control.functions[name]:
                self._apply(function)
        elif name in made:
            self._adopt(function)

    def _adopt(self, function: Function) -> None:
        self.control.functions[function.name] = function
        self._adopted.add(function.name)
        self._know(function, None)
        self._host(function, None)

    def _leave_adopted(self) -> None:
        """What calls made is the store's, and not declared by this engine when it starts again."""
        for name in sorted(self._adopted & self._handlers.keys()):
            self._forget(name)
        self._adopted.clear()

    def _fields(
        self, options: Mapping[str, object], function: Function, *, with_environment: bool = False
    ) -> dict[str, object]:
        """A function's options as fields of its configuration; those of its events and of its environment replace parts
        of what `function` has."""
        known = _FUNCTION_OPTIONS | _EVENT_OPTIONS | (_ENVIRONMENT_OPTIONS if with_environment else set())
        _check_options(options, known, "a function")
        options = self._destinations(options)
        events = {key: value for key, value in options.items() if key in _EVENT_OPTIONS}
        within = {key: value for key, value in options.items() if key in _ENVIRONMENT_OPTIONS}
        fields = {key: value for key, value in options.items() if key not in events and key not in within}
        if events:
            fields["event_invoke"] = changed(function.event_invoke, events, "a function")
        if within and function.environment is None:
            fields["environment"] = validated(ExecutionEnvironment, within, "a function")
        elif within and function.environment is not None:
            fields["environment"] = changed(function.environment, within, "a function")
        return fields

    def _destinations(self, options: Mapping[str, object]) -> dict[str, object]:
        """A function of this engine may stand where a destination is named."""
        return {
            name: f"function:{self._hosted[value].name}"
            if name in _DESTINATIONS and callable(value) and value in self._hosted
            else value
            for name, value in options.items()
        }

    def _source(self, source: Source) -> str:
        if isinstance(source, QueueHandle | StreamHandle):
            source = source.destination
        if not isinstance(source, str):
            raise InvalidParameterValue(f"source: {source!r} is not allowed; it must be a queue, a stream or a name")
        if "://" in source and source not in self.control.sources:
            self.control.sources[source] = source_kind(source)
        return self.control.source_named(source)

    def _named(self, function: Callable[..., object] | str) -> str:
        return function if isinstance(function, str) else self._name_of(function)

    def _name_of(self, function: Callable[..., object]) -> str:
        hosted = self._hosted.get(function)
        if hosted is None:
            name = getattr(function, "__name__", repr(function))
            raise InvalidParameterValue(f"{name} is not a function of this engine: decorate it with @engine.function")
        return hosted.name


def _check_options(options: Iterable[str], known: Set[str], what: str) -> None:
    for name in options:
        if name not in known:
            raise InvalidParameterValue(unknown(name, known, what))
