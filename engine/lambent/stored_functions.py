"""Functions as the store has them: a document for each, and one for each version that was published of it.

Decides in which order these documents are written, so that a process may die between any two writes: a version first,
then the function that names it; and the other way round where versions go. A version's document never changes, and its
name says what is in it; one that no function names (its writer died, or another was faster) is removed after a while.
Decides, too, what is known of all functions without reading them anew: what the store says has changed since the last
look. What a function says, and who may change it, is decided above.

Stores of earlier releases have a function's versions in its own document: so they are read, and taken apart when the
function is written the next time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeVar

from lambent.configuration import PublishedVersion
from lambent.errors import EngineStopped, ResourceConflict, StoreUnavailable
from lambent.model import Function
from lambent.ports import Document, Documents
from lambent.stored import DELETED, FORGOTTEN, Stored, content

T = TypeVar("T")

FUNCTION: Final = "function"  # kinds of documents
VERSION: Final = "version"
NOT_STARTED: Final = "The engine is not started: enter `async with engine:` or `await engine.start()` first."
FORGOTTEN_SECONDS: Final = 4 * 3600.0
"""After which the trace of a deleted function is gone: who looked for changes longer ago than half of that looks at all
functions. What is unused is looked for every hour, so that an engine never does."""
UNNAMED_SECONDS: Final = 1800.0
"""For which a version must be named by no function before it is removed: whoever wrote it may be about to name it."""
MAXIMUM_WRITE_TRIES: Final = 100  # of one read-change-write before it is called a conflict
AT_ONCE: Final = 100  # documents that are asked for or written together; of more versions all are read
_HASH_CHARACTERS: Final = 16


@dataclass(frozen=True, slots=True)
class Version:
    """A published version: what engines need of it, and what Lambda's API keeps of it. It never changes, and has its
    `reference`, a hash, from both."""

    reference: str
    published: PublishedVersion = field(compare=False)
    api: Mapping[str, Any] = field(compare=False)

    @classmethod
    def of(cls, published: PublishedVersion, api: Mapping[str, Any]) -> Version:
        """A new one."""
        text = _text(published, api)
        return cls(hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS], published, api)

    @classmethod
    def read(cls, reference: str, body: str) -> Version:
        """The one of a document."""
        found = json.loads(body)
        return cls(reference, PublishedVersion.model_validate_json(json.dumps(found["configuration"])), found["api"])

    def body(self) -> str:
        """Its document's text."""
        return _text(self.published, self.api)


def _text(published: PublishedVersion, api: Mapping[str, Any]) -> str:
    return json.dumps({"configuration": published.model_dump(mode="json"), "api": api}, sort_keys=True)


@dataclass(frozen=True)
class StoredFunction:
    """All that is stored of a function: its document's content, and its versions by number, in their order. A
    `revision` of 0: it is not stored yet."""

    stored: Stored
    versions: Mapping[str, Version] = field(default_factory=dict)
    revision: int = field(default=0, compare=False)

    @cached_property
    def function(self) -> Function:
        """Its configuration, with its versions."""
        found = Function.model_validate_json(json.dumps(self.stored.configuration))
        versions = {number: each.published for number, each in self.versions.items()}
        return found.model_copy(update={"versions": versions}) if versions else found

    def configured(
        self, function: Function, versions: Mapping[str, Version] | None = None, **changes: Any
    ) -> StoredFunction:
        """With this configuration, these versions (None: the function's), and these parts of `Stored`."""
        configuration = function.model_dump(mode="json", exclude={"versions"})
        if versions is None:
            versions = {number: self._version(number, each) for number, each in function.versions.items()}
        return replace(self, versions=versions, stored=replace(self.stored, configuration=configuration, **changes))

    def _version(self, number: str, published: PublishedVersion) -> Version:
        known = self.versions.get(number)
        return known if known is not None and known.published == published else Version.of(published, {})

    @cached_property
    def references(self) -> Mapping[str, str]:
        """Of its versions, by number."""
        return {number: each.reference for number, each in self.versions.items()}

    @cached_property
    def body(self) -> str:
        """The text of the function's own document."""
        return replace(self.stored, versions=self.references).body()


class Seen(NamedTuple):
    """What is known of a function without reading it anew. `code_bytes`: of all of its versions, zipped."""

    function: Function
    code_bytes: int
    revision: int


class Kept(NamedTuple):
    """A function's versions by number, and their references."""

    references: Mapping[str, str] = {}
    versions: Mapping[str, Version] = {}


_NOTHING: Final = Kept()


class StoredFunctions:
    """The functions of a store. `look` brings what is known of them up to date, for as much as has changed."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.deleted: set[str] = set()  # functions that may have left events
        self.made: set[str] = set()  # functions that a call made
        self._monotonic = monotonic
        self.connect(None)

    def connect(self, documents: Documents | None) -> None:
        """From now on these documents count (None: none), and nothing is known of them."""
        self._store = documents
        self._looking = asyncio.Lock()  # of two looks at once the older one's findings could come last
        self._looked_at: float | None = None
        self._revision = 0  # the highest that was seen
        self._changed: set[str] = set()  # since somebody asked for that
        self._all_changed = False
        self._kept: dict[str, Kept] = {}  # by function: versions that were read, and need not be read again
        self._unnamed: dict[str, float] = {}  # versions that no function names, and since when that is known
        self._forget()

    async def get(self, name: str) -> StoredFunction | None:
        """None: there is no such function."""
        return await self._read_one(await self._documents.get(FUNCTION, name))

    async def look(self, anew: bool = False) -> Mapping[str, Seen]:
        """All functions by name, as they are now. `anew`: whatever is known of them."""
        async with self._looking:
            now = self._monotonic()
            anew = anew or self._looked_at is None or now - self._looked_at > FORGOTTEN_SECONDS / 2
            documents = await self._documents.list(FUNCTION, 0 if anew else self._revision)
            anew = anew or any(each.revision <= self._revision for each in documents)  # the store has lost what we saw
            news = [each for each in documents if anew or not self._knows(each.name, each.revision)]
            found = await self._read(news, all_versions=anew)
            if anew:
                self._all_changed = True
                self._revision = 0
                self._forget()
            self._revision = max((each.revision for each in documents), default=self._revision)
            for document, each in zip(news, found, strict=True):
                self._know(document.name, each, document.revision)
            self._looked_at = now
        return self._seen

    def changes(self, but_for: Iterable[str]) -> dict[str, Function | None]:
        """What was found to be new since this was asked last, by name; None stands for a function that is not, or no
        longer, even if it is one of `but_for`."""
        names = {*self._seen, *but_for} if self._all_changed else self._changed
        self._changed, self._all_changed = set(), False
        return {name: each.function if (each := self._seen.get(name)) else None for name in sorted(names)}

    async def change(self, name: str, change: Callable[[StoredFunction | None], StoredFunction]) -> StoredFunction:
        """One read-change-write, once more if another client was faster: `change` gets what is stored, if anything, and
        gives what is to be. Raises ResourceConflict, and what `change` does."""
        for _ in range(MAXIMUM_WRITE_TRIES):
            document = await self._documents.get(FUNCTION, name)
            wanted = change(found := await self._read_one(document))
            if found is not None and document is not None and document.body == wanted.body:
                return found
            before = {} if found is None else found.stored.versions
            if (written := await self._write(document, before, name, wanted)) is not None:
                return replace(wanted, revision=written)
        raise self._too_many(name)

    async def delete(self, name: str) -> bool:
        """What is left is a trace, so that others notice. False: there is no such function."""
        for _ in range(MAXIMUM_WRITE_TRIES):
            document = await self._documents.get(FUNCTION, name)
            if (stored := content(document)) is None:
                return False
            if await self._write(document, stored.versions, name, None) is not None:
                return True
        raise self._too_many(name)

    async def forget(self, waiting: Collection[str]) -> None:
        """Nothing needs to be known any more of deleted functions, but of these, which have events."""
        for name in sorted(self.deleted.difference(waiting)):
            document = await self._documents.get(FUNCTION, name)
            if document is not None and document.body == DELETED:  # only if nobody declares it meanwhile
                await self._documents.put(FUNCTION, name, FORGOTTEN, document.revision, FORGOTTEN_SECONDS)

    async def collect(self) -> None:
        """Remove the versions that no function has named for a while."""
        now, names = self._monotonic(), {each.name for each in await self._documents.list(VERSION)}
        await self.look()
        for function, kept in self._kept.items():
            names -= {_name(function, number, reference) for number, reference in kept.references.items()}
        self._unnamed = {name: self._unnamed.get(name, now) for name in sorted(names)}
        for name in [name for name, since in self._unnamed.items() if now - since >= UNNAMED_SECONDS]:
            function, number, reference = name.split(":")
            stored = content(await self._documents.get(FUNCTION, function))
            if stored is None or stored.versions.get(number) != reference:
                await self._documents.delete(VERSION, name)

    # --- inside ----------------------------------------------------------------------------------------------------

    @property
    def _documents(self) -> Documents:
        if self._store is None:
            raise EngineStopped(NOT_STARTED)
        return self._store

    def _forget(self) -> None:
        self._seen: dict[str, Seen] = {}
        self.made.clear()
        self.deleted.clear()

    def _knows(self, name: str, revision: int) -> bool:
        known = self._seen.get(name)
        return known is not None and known.revision >= revision

    def _know(self, name: str, found: StoredFunction | None, revision: int) -> None:
        if self._knows(name, revision):
            return
        self._changed.add(name)
        if found is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = Seen(found.function, found.stored.code_bytes, revision)
        (self.made.add if found is not None and found.stored.origin == "api" else self.made.discard)(name)
        (self.deleted.add if found is None else self.deleted.discard)(name)

    async def _read_one(self, document: Document | None) -> StoredFunction | None:
        return None if document is None else (await self._read([document]))[0]

    async def _read(
        self, documents: Sequence[Document], *, all_versions: bool = False
    ) -> Sequence[StoredFunction | None]:
        """What these documents of functions say, with their versions; `all_versions`: of all that there are."""
        contents = [(each.name, content(each)) for each in documents]
        known = {name: self._kept.get(name, _NOTHING) for name, _ in contents}
        missing = [
            _name(name, number, reference)
            for name, stored in contents if stored is not None and stored.versions != known[name].references
            for number, reference in stored.versions.items() if known[name].references.get(number) != reference
        ]  # fmt: skip
        bodies = await self._bodies(missing, all_versions)
        found: list[StoredFunction | None] = []
        for document, (name, stored) in zip(documents, contents, strict=True):
            if stored is None:
                each = None
            elif "versions" in stored.configuration:
                each = StoredFunction(*_taken_apart(stored), document.revision)
            else:
                each = StoredFunction(stored, _versions(name, stored.versions, known[name], bodies), document.revision)
            self._keep(name, each)
            found.append(each)
        return found

    def _keep(self, name: str, found: StoredFunction | None) -> None:
        if found is None:
            self._kept.pop(name, None)
        else:
            self._kept[name] = Kept(found.references, found.versions)

    async def _bodies(self, names: Sequence[str], all_versions: bool) -> Mapping[str, str]:
        """The versions' documents that there are of these, by name."""
        documents: Iterable[Document | None] = ()
        if all_versions and names:
            documents = await self._documents.list(VERSION)
        elif names:
            documents = await _all(self._documents.get(VERSION, each) for each in names)
        return {each.name: each.body for each in documents if each is not None}

    async def _write(
        self, document: Document | None, before: Mapping[str, str], name: str, wanted: StoredFunction | None
    ) -> int | None:
        """In the place of this document, with these references of versions. The revision; None: another client was
        faster, and versions are left that no function names."""
        versions, after = ({}, {}) if wanted is None else (wanted.versions, wanted.references)
        await _all(
            self._documents.put(VERSION, _name(name, number, each.reference), each.body())
            for number, each in versions.items() if before.get(number) != each.reference
        )  # fmt: skip
        body, revision = DELETED if wanted is None else wanted.body, 0 if document is None else document.revision
        written = await self._documents.put(FUNCTION, name, body, revision)
        if written is None:
            return None
        self._keep(name, wanted)
        self._know(name, wanted, written.revision)
        gone = [_name(name, number, each) for number, each in before.items() if after.get(number) != each]
        with suppress(StoreUnavailable):  # what is left is collected
            await _all(self._documents.delete(VERSION, each) for each in gone)
        return written.revision

    def _too_many(self, name: str) -> ResourceConflict:
        return ResourceConflict(f"The function {name} is being changed by others again and again; try later.")


def _name(function: str, number: str, reference: str) -> str:
    """Of a version's document."""
    return f"{function}:{number}:{reference}"


def _versions(
    function: str, references: Mapping[str, str], known: Kept, bodies: Mapping[str, str]
) -> Mapping[str, Version]:
    """Those that are known, or whose documents were read. One that is not there was deleted meanwhile, or is lost: the
    function goes on without it."""
    if references == known.references:
        return known.versions
    found: dict[str, Version] = {}
    for number, reference in references.items():
        if known.references.get(number) == reference:
            found[number] = known.versions[number]
        elif (body := bodies.get(_name(function, number, reference))) is not None:
            found[number] = Version.read(reference, body)
    return found


def _taken_apart(stored: Stored) -> tuple[Stored, dict[str, Version]]:
    """What a document of earlier releases says, which has the versions within."""
    configuration, api = dict(stored.configuration), dict(stored.api)
    inside, kept = configuration.pop("versions"), api.pop("versions", {})
    versions, provisioned = {}, {}
    for number in {**inside, **kept}:
        of_api = kept.get(number, {})
        # A declared function lost its versions when its code started again; they are the callable itself.
        members = of_api.get("members", {})
        by_default = {"timeout_seconds": members.get("Timeout", 3), "memory_size_mb": members.get("MemorySize", 128)}
        published = PublishedVersion.model_validate_json(json.dumps(inside.get(number, by_default)))
        if (environment := published.environment) is not None and environment.provisioned_concurrency:
            provisioned[number] = environment.provisioned_concurrency
            environment = environment.model_copy(update={"provisioned_concurrency": 0})
            published = published.model_copy(update={"environment": environment})
        versions[number] = Version.of(published, of_api)
    if provisioned:
        configuration["provisioned_of"] = provisioned
    sizes = [each["code"]["size"] for each in (api.get("latest"), *kept.values()) if each]
    return replace(stored, configuration=configuration, api=api, code_bytes=sum(sizes)), versions


async def _all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """What they answer, some of them at once."""
    waiting, answers = list(calls), list[T]()
    for start in range(0, len(waiting), AT_ONCE):
        answers += await asyncio.gather(*waiting[start : start + AT_ONCE])
    return answers
