"""How asynchronous events are retried and where their results go, for each qualifier.

Decides what a configuration may say and how it is shown (Lambda API reference: PutFunctionEventInvokeConfig). What
follows from it is `semantics/asynchronous.py`'s. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lambent.api.decisions import Answer, decides
from lambent.api.destinations import reference_of
from lambent.api.records import Asked, Record, page
from lambent.api.refusals import Refusal, invalid, not_found
from lambent.model import LATEST

_LIMITS: Final = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds")


def _no_function(asked: Asked) -> Refusal:
    return not_found("The function doesn't exist.")


def _none(asked: Asked) -> Refusal:
    return not_found(f"The function {asked.reference.qualified_arn} doesn't have an EventInvokeConfig")


@decides("PutFunctionEventInvokeConfig", writes=True, missing=_no_function, knows_others=True)
def put(asked: Asked, record: Record) -> Answer:
    _check_any(asked)
    return _store(asked, record, {})


@decides("UpdateFunctionEventInvokeConfig", writes=True, missing=_no_function, knows_others=True)
def update(asked: Asked, record: Record) -> Answer:
    _check_any(asked)
    known = record.event_invoke.get(asked.reference.resolved)
    if known is None:
        raise _none(asked)
    return _store(asked, record, known)


@decides("GetFunctionEventInvokeConfig", missing=_none)
def get(asked: Asked, record: Record) -> Answer:
    known = record.event_invoke.get(asked.reference.resolved)
    if known is None:
        raise _none(asked)
    return _shown(asked, asked.reference.resolved, known)


@decides("DeleteFunctionEventInvokeConfig", writes=True, missing=_none)
def delete(asked: Asked, record: Record) -> Answer:
    if record.event_invoke.pop(asked.reference.resolved, None) is None:
        raise _none(asked)
    return {}


@decides("ListFunctionEventInvokeConfigs", missing=_no_function)
def list_all(asked: Asked, record: Record) -> Answer:
    found, marker = page(record.event_invoke, asked.params, lambda qualifier: [qualifier])
    items = [_shown(asked, qualifier, record.event_invoke[qualifier]) for qualifier in found]
    return {"FunctionEventInvokeConfigs": items, "NextMarker": marker}


def _check_any(asked: Asked) -> None:
    if not any(asked.get(name) is not None for name in (*_LIMITS, "DestinationConfig")):
        raise invalid("You must specify at least one of error handling or destination setting.")


def _store(asked: Asked, record: Record, known: Mapping[str, Any]) -> Answer:
    qualifier = asked.reference.resolved
    if qualifier != LATEST and qualifier not in record.versions and qualifier not in record.aliases:
        raise _no_function(asked)
    config: dict[str, Any] = {**known, "modified": asked.now}
    config |= {name: asked.params[name] for name in _LIMITS if asked.get(name) is not None}
    given = asked.get("DestinationConfig")
    if given is not None:
        for side in ("OnSuccess", "OnFailure"):
            target = given.get(side, {}).get("Destination")
            if target:
                reference_of(target, side, asked)
            config[side] = target or None
    record.event_invoke[qualifier] = config
    return _shown(asked, qualifier, config)


def _shown(asked: Asked, qualifier: str, config: Mapping[str, Any]) -> Answer:
    sides = {side: config.get(side) for side in ("OnSuccess", "OnFailure")}
    return {
        "LastModified": config["modified"],
        "FunctionArn": asked.reference.of(qualifier),
        **{name: config[name] for name in _LIMITS if name in config},
        "DestinationConfig": {side: {"Destination": target} if target else {} for side, target in sides.items()},
    }
