"""Which version of a function a call gets: $LATEST, a published version, or one that an alias chooses.

Decides it by Lambda's rules (developer guide, «Create an alias for a Lambda function»): an alias names one version and
may send a share of the calls to another, each call drawn on its own. What a version is made of was kept when it was
published. When a call is routed (as it runs, so that a waiting event meets the alias as it is then) is the invoker's.
"""

from __future__ import annotations

from typing import Final

from lambent.model import LATEST, EventInvokeConfig, Function

DEFAULTS: Final = EventInvokeConfig()


def known(function: Function, qualifier: str | None) -> bool:
    """Is there such a version or alias; None and $LATEST there always are."""
    return qualifier in (None, LATEST) or qualifier in function.versions or qualifier in function.aliases


def resolve(function: Function, qualifier: str | None, draw: float) -> str | None:
    """The version for one call; None: there is no such version or alias. `draw` is uniform in [0, 1)."""
    alias = function.aliases.get(qualifier or LATEST)
    version = qualifier or LATEST
    if alias is not None:
        version = alias.version
        for other, weight in alias.weights.items():
            if draw < weight:
                version = other
                break
            draw -= weight
    return version if version == LATEST or version in function.versions else None


def event_invoke(function: Function, qualifier: str | None) -> EventInvokeConfig:
    """How events that name this qualifier are retried, and where their results go: each has a configuration of its own,
    and AWS's defaults without one (Lambda API reference: PutFunctionEventInvokeConfig)."""
    if qualifier in (None, LATEST):
        return function.event_invoke
    return function.event_invoke_of.get(qualifier or LATEST, DEFAULTS)


def longest_age_seconds(function: Function) -> int:
    """What no event of the function outlives, whichever qualifier it names."""
    found = [function.event_invoke, *function.event_invoke_of.values()]
    if function.versions or function.aliases:
        found.append(DEFAULTS)
    return max(each.maximum_event_age_seconds for each in found)


def destinations(function: Function) -> set[str]:
    """All that results of its events may go to."""
    others = function.event_invoke_of.values()
    targets = {target for each in others for target in (each.on_success, each.on_failure) if target is not None}
    return targets | set(function.destinations.values())


def at(function: Function, version: str) -> Function:
    """The function as this version of it is run."""
    alone: dict[str, object] = {"version": version, "versions": {}, "aliases": {}, "provisioned_of": {}}
    if version == LATEST:
        return function.model_copy(update=alone)
    published = function.versions[version]
    kept = {name: getattr(published, name) for name in type(published).model_fields}
    if (environment := published.environment) is not None and (ready := function.provisioned_of.get(version, 0)):
        kept["environment"] = environment.model_copy(update={"provisioned_concurrency": ready})
    return function.model_copy(update={**alone, **kept})


def named(function: Function, qualifier: str | None) -> Function:
    """The function as calls of this qualifier mostly meet it: the settings of the version that it is or that it names
    first, and its own configuration of events."""
    if qualifier in (None, LATEST):
        return function
    version = resolve(function, qualifier, draw=1.0)
    found = function if version is None else at(function, version)
    return found.model_copy(update={"event_invoke": event_invoke(function, qualifier)})


def key(name: str, version: str) -> str:
    """Under which what runs a version is known."""
    return name if version == LATEST else f"{name}:{version}"
