"""AWS Lambda's event-source and invocation semantics, for functions that run anywhere.

Decides the public names. Each is imported when it is first asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lambent.calls import InvokeResponse
    from lambent.client import Client
    from lambent.context import Context
    from lambent.engine import Engine
    from lambent.errors import (
        EngineStopped,
        FunctionError,
        InvalidParameterValue,
        InvalidRequestContent,
        LambentError,
        LimitExceeded,
        NotHosted,
        RecursiveInvocation,
        RequestTooLarge,
        ResourceConflict,
        ResourceNotFound,
        StoreUnavailable,
        TooManyRequests,
    )
    from lambent.resources import Functions, MappingHandle, QueueHandle, StreamHandle
    from lambent.settings import EngineSettings
    from lambent.stores.memory import MemoryStore

__all__ = [
    "Client",
    "Context",
    "Engine",
    "EngineSettings",
    "EngineStopped",
    "FunctionError",
    "Functions",
    "InvalidParameterValue",
    "InvalidRequestContent",
    "InvokeResponse",
    "LambentError",
    "LimitExceeded",
    "MappingHandle",
    "MemoryStore",
    "NotHosted",
    "QueueHandle",
    "RecursiveInvocation",
    "RequestTooLarge",
    "ResourceConflict",
    "ResourceNotFound",
    "StoreUnavailable",
    "StreamHandle",
    "TooManyRequests",
]

_HOMES = {
    "calls": ("InvokeResponse",),
    "client": ("Client",),
    "context": ("Context",),
    "engine": ("Engine",),
    "resources": ("Functions", "MappingHandle", "QueueHandle", "StreamHandle"),
    "settings": ("EngineSettings",),
    "stores.memory": ("MemoryStore",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"lambent.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
