"""Aliases: names for versions, which may send a part of the calls to a second one.

Decides what an alias may point to and which are refused (Lambda API reference: CreateAlias, UpdateAlias; developer
guide, «Create an alias for a Lambda function»). Which version a call gets is `semantics/routing.py`'s. Pure.
"""

from __future__ import annotations

from typing import Any, Final

from lambent.api.concurrency import moved
from lambent.api.decisions import Answer, decides
from lambent.api.functions import versions_of
from lambent.api.records import Asked, Record, page
from lambent.api.refusals import Refusal, conflict, invalid, not_found, stale
from lambent.model import LATEST

MAXIMUM_ADDITIONAL_VERSIONS: Final = 1


def _no_version(asked: Asked) -> Refusal:
    return not_found(f"Function not found: {asked.reference.of(asked.get('FunctionVersion', LATEST))}")


def _no_alias(asked: Asked) -> Refusal:
    return not_found(f"Cannot find alias arn: {asked.reference.of(asked.params['Name'])}")


def _no_alias_to_update(asked: Asked) -> Refusal:
    return not_found(f"Alias not found: {asked.reference.of(asked.params['Name'])}")


def _no_function(asked: Asked) -> Refusal:
    return not_found(f"Function not found: {asked.reference.unqualified}")


@decides("CreateAlias", writes=True, missing=_no_version)
def create_alias(asked: Asked, record: Record) -> Answer:
    name = asked.params["Name"]
    alias = {
        "AliasArn": asked.reference.of(name),
        "Name": name,
        "FunctionVersion": asked.params["FunctionVersion"],
        "Description": asked.get("Description", ""),
        "RevisionId": asked.new_id(),
    }
    _route(asked, record, alias)
    if name in record.aliases:
        raise conflict(f"Alias already exists: {asked.reference.of(name)}")
    record.aliases[name] = alias
    return alias


@decides("UpdateAlias", writes=True, missing=_no_alias_to_update)
def update_alias(asked: Asked, record: Record) -> Answer:
    known = record.aliases.get(asked.params["Name"])
    if known is None:
        raise _no_alias_to_update(asked)
    if asked.get("RevisionId") not in (None, known["RevisionId"]):
        raise stale()
    said = {name: asked.params[name] for name in ("FunctionVersion", "Description") if asked.get(name) is not None}
    alias = {**known, **said, "RevisionId": asked.new_id()}
    _route(asked, record, alias)
    if alias["Name"] in record.provisioned and ("RoutingConfig" in alias or alias["FunctionVersion"] == LATEST):
        raise invalid("Invalid alias configuration for Provisioned Concurrency")
    if alias["FunctionVersion"] != known["FunctionVersion"]:
        moved(asked, record, alias["Name"])
    record.aliases[alias["Name"]] = alias
    return alias


@decides("DeleteAlias", writes=True, missing=_no_function)
def delete_alias(asked: Asked, record: Record) -> Answer:
    """One that is not there is deleted all the same, as recorded; its configurations go with it."""
    name = asked.params["Name"]
    if record.aliases.pop(name, None) is not None:
        record.provisioned.pop(name, None)
        record.event_invoke.pop(name, None)
    return {}


@decides("GetAlias", missing=_no_alias)
def get_alias(asked: Asked, record: Record) -> Answer:
    alias = record.aliases.get(asked.params["Name"])
    if alias is None:
        raise _no_alias(asked)
    return alias


@decides("ListAliases", missing=_no_function)
def list_aliases(asked: Asked, record: Record) -> Answer:
    version = asked.get("FunctionVersion")
    found = [each for each in record.aliases.values() if version is None or version in versions_of(each)]
    items, marker = page(found, asked.params, lambda each: [each["Name"]])
    return {"Aliases": items, "NextMarker": marker}


def _route(asked: Asked, record: Record, alias: dict[str, Any]) -> None:
    """Check what the alias points to, and set its routing if one was given. Raises `Refusal`."""
    given = asked.get("RoutingConfig")
    if given is not None:
        alias.pop("RoutingConfig", None)
        if weights := given.get("AdditionalVersionWeights"):
            alias["RoutingConfig"] = {"AdditionalVersionWeights": weights}
    version = alias["FunctionVersion"]
    weights = alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
    if len(weights) > MAXIMUM_ADDITIONAL_VERSIONS:
        raise invalid(
            f"Number of items in AdditionalVersionWeights cannot be greater than {MAXIMUM_ADDITIONAL_VERSIONS}"
        )
    if weights and version == LATEST:
        raise invalid("$LATEST is not supported for an alias pointing to more than 1 version", typed=False)
    if version in weights:
        raise invalid(
            f"Invalid function version {version}. Function version {version} is already included in routing "
            "configuration."
        )
    for each in (version, *weights):
        if each != LATEST and each not in record.versions:
            raise not_found(f"Function not found: {asked.reference.of(each)}")
