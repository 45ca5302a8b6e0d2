"""A record and the engine's function: what of the one is said by the other.

Decides which options of an engine's `Function` follow from a record, and which members of a record follow from the
code that declares a function. For what is declared in code the code's options count; for what a call made, the
record's. Pure.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from lambent.api.configurations import members_of
from lambent.api.destinations import arn_of, known
from lambent.api.functions import DECLARED_CODE
from lambent.api.records import Configuration, Record
from lambent.api.refusals import invalid
from lambent.configuration import Alias, ExecutionEnvironment, PublishedVersion
from lambent.model import LATEST, EventInvokeConfig, Function
from lambent.settings import EngineSettings
from lambent.stored import Stored
from lambent.stored_functions import StoredFunction, Version
from lambent.validation import changed, validated

IMAGE_RUNTIME: Final = "image"  # of functions from container images, which say no runtime
_NAMESPACE: Final = uuid.UUID("0b4e4c1e-6d0c-5f6e-8c57-6c616d62646e")  # of revisions that nobody chose


def record_of(found: StoredFunction, settings: EngineSettings) -> Record:
    """The record of what is stored, with what its code says if it is declared in code."""
    function, stored = found.function, found.stored
    derived = str(uuid.uuid5(_NAMESPACE, f"{function.name}\n{found.revision}"))
    if stored.api:
        record = Record.read(stored.api, {number: each.api for number, each in found.versions.items()})
    else:
        latest = Configuration(members_of(function, settings), dict(DECLARED_CODE), derived, 0.0)
        record = Record(function.name, latest)
    record.declared = stored.origin == "code"
    if record.declared:
        members = {**record.latest.members, **members_of(function, settings)}
        if members != record.latest.members:
            record.latest.members, record.latest.revision = members, derived
        record.reserved = function.reserved_concurrency
        record.recursive_loop = function.recursive_loop
        record.latest.members.pop("DeadLetterConfig", None)
        if function.dead_letter_queue is not None:
            record.latest.members["DeadLetterConfig"] = {"TargetArn": arn_of(function.dead_letter_queue, settings)}
        said = record.event_invoke.get(LATEST)
        if function.event_invoke != _event_invoke(said or {}, settings):
            record.event_invoke[LATEST] = _shown_event_invoke(function.event_invoke, settings)
    return record


def stored_of(record: Record, before: StoredFunction | None, settings: EngineSettings) -> StoredFunction:
    """What is stored of a record, in the place of what was. Raises InvalidParameterValue for what no engine could
    run."""
    before = before or StoredFunction(Stored({}, "api"))
    function = _function(record, before.function if record.declared else None, settings)
    new, documents = record.versions.published, record.versions.documents
    versions = {
        number: Version.of(_version(new[number]), documents[number]) if number in new else before.versions[number]
        for number in record.versions
    }
    return before.configured(function, versions, api=record.document(), code_bytes=record.code_bytes)


def _function(record: Record, function: Function | None, settings: EngineSettings) -> Function:
    """What engines run, but for its versions. `function`: as its code declares it."""
    members = record.latest.members
    fields: dict[str, Any] = {
        "description": members["Description"],
        "timeout_seconds": members["Timeout"],
        "memory_size_mb": members["MemorySize"],
        "reserved_concurrency": record.reserved,
        "recursive_loop": record.recursive_loop,
        "event_invoke": _event_invoke(record.event_invoke.get(LATEST, {}), settings),
        "event_invoke_of": {
            name: _event_invoke(each, settings) for name, each in record.event_invoke.items() if name != LATEST
        },
    }
    fields["aliases"] = {name: _alias(each) for name, each in record.aliases.items()}
    fields["provisioned_of"] = _provisioned(record)
    if record.declared:
        assert function is not None
        return changed(function, fields, "a function")
    target = members.get("DeadLetterConfig", {}).get("TargetArn")
    if target is not None:
        fields["dead_letter_queue"] = known(target, settings)
        if not str(fields["dead_letter_queue"]).startswith("queue:"):
            raise invalid(f"The dead-letter target {target} is no queue of this region and account.")
    fields["environment"] = _environment(record.latest)
    return validated(Function, {**fields, "name": record.name}, "a function")


def _alias(alias: Mapping[str, Any]) -> Alias:
    weights = alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
    return validated(Alias, {"version": alias["FunctionVersion"], "weights": weights}, "an alias")


def _version(found: Configuration) -> PublishedVersion:
    fields: dict[str, Any] = {
        "timeout_seconds": found.members["Timeout"],
        "memory_size_mb": found.members["MemorySize"],
    }
    if found.code["kind"] != DECLARED_CODE["kind"]:
        fields["environment"] = _environment(found)
    return validated(PublishedVersion, fields, "a version")


def _provisioned(record: Record) -> dict[str, int]:
    """What is provisioned for each version, or for aliases that name it."""
    found: dict[str, int] = {}
    for qualifier, each in record.provisioned.items():
        alias = record.aliases.get(qualifier)
        number = qualifier if alias is None else alias["FunctionVersion"]
        found[number] = found.get(number, 0) + each["requested"]
    return found


def _environment(found: Configuration) -> ExecutionEnvironment:
    members = found.members
    logging = members["LoggingConfig"]
    fields: dict[str, Any] = {
        "runtime": members.get("Runtime", IMAGE_RUNTIME),
        "code": found.code["path"],
        "handler": members.get("Handler", ""),
        "layers": [each["path"] for each in members.get("Layers", ())],
        "variables": members.get("Environment", {}).get("Variables", {}),
        "ephemeral_storage_mb": members["EphemeralStorage"]["Size"],
        "log_format": logging["LogFormat"],
        "log_group": logging.get("LogGroup"),
    }
    if logging["LogFormat"] == "JSON":
        fields["application_log_level"] = logging.get("ApplicationLogLevel", "INFO")
        fields["system_log_level"] = logging.get("SystemLogLevel", "INFO")
    return validated(ExecutionEnvironment, fields, "a function")


def _event_invoke(config: dict[str, Any], settings: EngineSettings) -> EventInvokeConfig:
    fields = {
        "maximum_retry_attempts": config.get("MaximumRetryAttempts"),
        "maximum_event_age_seconds": config.get("MaximumEventAgeInSeconds"),
        "on_success": _reference(config.get("OnSuccess"), settings),
        "on_failure": _reference(config.get("OnFailure"), settings),
    }
    said = {name: each for name, each in fields.items() if each is not None}
    return validated(EventInvokeConfig, said, "a function")


def _reference(target: str | None, settings: EngineSettings) -> str | None:
    """Of a destination that was checked before, or that the code said as it is."""
    return None if target is None else known(target, settings) or target


def _shown_event_invoke(config: EventInvokeConfig, settings: EngineSettings) -> dict[str, Any]:
    targets = {"OnSuccess": config.on_success, "OnFailure": config.on_failure}
    return {
        "modified": 0.0,
        "MaximumRetryAttempts": config.maximum_retry_attempts,
        "MaximumEventAgeInSeconds": config.maximum_event_age_seconds,
        **{side: arn_of(target, settings) for side, target in targets.items() if target is not None},
    }
