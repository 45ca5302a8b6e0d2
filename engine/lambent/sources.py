"""Sources and stores by URL, and runtimes by family: found through the entry point groups `lambent.sources` ('kafka://…'),
`lambent.stores` ('redis://…') and `lambent.runtimes` ('nodejs').

Decides which installed package serves a scheme or family, and what to say if none does; which file a SQLite store's URL
names, and what lies beside it. What a source is, is decided in `ports.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import unquote

from lambent.arns import without_password
from lambent.errors import InvalidParameterValue
from lambent.ports import EnvironmentRuntime, QueueSource, RuntimeSurroundings, Store, StreamSource, World
from lambent.stores.memory import MemoryStore

GROUP: Final = "lambent.sources"
STORES: Final = "lambent.stores"
RUNTIMES: Final = "lambent.runtimes"
_ON_REDIS: Final = [
    f"{redis}{kind}{group}"
    for redis in ("redis", "rediss")
    for kind in ("", "-queue", "-stream")
    for group in ("", "+sentinel", "+cluster")
]
_EXTRAS: Final = {  # schemes that this project serves, by the extra that brings their client
    "dynamodb-streams": "aws",
    "kafka": "kafka",
    "kinesis": "aws",
    "sqs": "aws",
    **dict.fromkeys(_ON_REDIS, "redis"),
}


class QueueFactory(Protocol):
    """What an entry point of `lambent.sources` names: `kind` says which options a mapping of it has; called with the
    URL and the engine's world it gives the source, and opens nothing before it is used. It may have a method `check`,
    which raises InvalidParameterValue for a URL that never makes sense, wherever it is looked at."""

    kind: Literal["queue"]

    def __call__(self, url: str, world: World) -> QueueSource: ...


class StreamFactory(Protocol):
    """As `QueueFactory`, for a stream."""

    kind: Literal["stream"]

    def __call__(self, url: str, world: World) -> StreamSource: ...


SourceFactory = QueueFactory | StreamFactory


class StoreFactory(Protocol):
    """What an entry point of `lambent.stores` names: called with the URL it gives the store, and opens nothing. Raises
    InvalidParameterValue that says what to write."""

    def __call__(self, url: str) -> Store: ...


class RuntimeFactory(Protocol):
    """What an entry point of `lambent.runtimes` names, by the family of runtime identifiers that it serves."""

    def __call__(self, surroundings: RuntimeSurroundings) -> EnvironmentRuntime: ...


def load_runtime(family: str) -> RuntimeFactory:
    """What runs functions of this family ('nodejs' for 'nodejs22.x'). Raises InvalidParameterValue that says what to
    install."""
    found = {entry.name: entry for entry in entry_points(group=RUNTIMES)}
    if family not in found:
        known = f"Those that are there: {', '.join(sorted(found))}." if found else "None is installed."
        raise InvalidParameterValue(
            f"nothing here runs runtimes of the family {family!r}. Install a package that brings an entry point "
            f"{family!r} of the group {RUNTIMES!r}. {known}"
        )
    try:
        factory: RuntimeFactory = found[family].load()
    except ImportError as error:
        raise InvalidParameterValue(f"what runs {family!r} cannot be loaded: {error}") from error
    return factory


def load_source(url: str) -> SourceFactory:
    """The factory of a URL's scheme. Raises InvalidParameterValue that says what to install."""
    factory: SourceFactory = _load(url, GROUP, "source")
    return factory


def source_kind(url: str) -> Literal["queue", "stream"]:
    """What a URL is one of. Raises InvalidParameterValue that says what to install, or what to write."""
    factory = load_source(url)
    check: Callable[[str], object] | None = getattr(factory, "check", None)
    if check is not None:
        check(url)
    return factory.kind


def load_store(store: str | Store | None) -> Store:
    """The store that is meant: none or 'memory://' is a fresh one in memory, 'sqlite:///app.db' a file in the current
    directory, 'sqlite:////var/lib/app.db' the one with that path; other URLs are for those whom an entry point of the
    group `lambent.stores` names, as 'redis://HOST:PORT/DB'. Raises InvalidParameterValue that says what to write."""
    if store is None or store == "memory://":
        return MemoryStore()
    if isinstance(store, str) and store.startswith("sqlite:"):
        from lambent.stores.sqlite import SqliteStore  # loads SQLite, which not every engine needs

        return SqliteStore(_sqlite_path(store))
    if isinstance(store, str) and "://" in store and not store.startswith("memory:"):
        factory: StoreFactory = _load(store, STORES, "store")
        return factory(store)
    if isinstance(store, str) or not hasattr(store, "connect"):
        raise InvalidParameterValue(
            f"store: {store!r} is not known; it must be 'memory://', 'sqlite:///FILE', 'redis://HOST:PORT/DB' or an "
            "instance of a store"
        )
    return store


def beside(store: object, what: str) -> Path | None:
    """Where files of a kind (logs, code) belong that go with a store: beside its file. None: it has no file."""
    path = getattr(store, "path", None)
    return None if path is None else Path(f"{path}-{what}")


def _sqlite_path(url: str) -> str:
    """As SQLAlchemy reads it: what follows the third slash is the path."""
    path = unquote(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path or path.endswith("/") or path == ":memory:":
        raise InvalidParameterValue(
            f"store: {url!r} names no file; write 'sqlite:///app.db' for one in the current directory, "
            "'sqlite:////var/lib/app.db' for one with its whole path, or 'memory://' for a store without a file"
        )
    if "?" in url or "#" in url:
        raise InvalidParameterValue(f"store: {url!r} has a part after ? or #; a SQLite store has no options in its URL")
    return path


def _load(url: str, group: str, kind: str) -> Any:
    """What the entry point of a URL's scheme names. Raises InvalidParameterValue that says what to install."""
    scheme, shown = url.partition("://")[0], f'"{without_password(url)}"'
    found = {entry.name: entry for entry in entry_points(group=group)}
    if scheme in found:
        try:
            return found[scheme].load()
        except ImportError as error:
            raise InvalidParameterValue(f"{shown}: {error}. {_advice(scheme, group)}") from error
    known = f"Installed are: {', '.join(sorted(found))}." if found else f"No {kind} is installed."
    raise InvalidParameterValue(f"{shown}: there is no {kind} for {scheme}://. {_advice(scheme, group)} {known}")


def _advice(scheme: str, group: str) -> str:
    if scheme in _EXTRAS:
        return f"Install it with: pip install 'lambent[{_EXTRAS[scheme]}]'."
    return f"Install a package that brings an entry point {scheme!r} of the group {group!r}."
