"""A function's configuration: what a request chooses, what is chosen for it, and how it is shown.

Decides the defaults, the checks that need no other function, and the members of FunctionConfiguration (Lambda API
reference: CreateFunction, UpdateFunctionConfiguration). What has no effect here (VPC, tracing, file systems, KMS,
SnapStart) is kept and shown. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from lambent.api.names import Reference
from lambent.api.records import Configuration
from lambent.api.refusals import constrained, invalid
from lambent.arns import role_arn
from lambent.configuration import reserved
from lambent.model import LATEST, Function
from lambent.settings import EngineSettings

MAXIMUM_VARIABLES_BYTES: Final = 4096  # Lambda quotas: all environment variables together
MAXIMUM_TIMEOUT_SECONDS: Final = 900  # Lambda quotas: function timeout
MAXIMUM_MEMORY_MB: Final = 10_240  # Lambda quotas: memory
MAXIMUM_STORAGE_MB: Final = 10_240  # Lambda quotas: /tmp
MAXIMUM_LAYERS: Final = 5  # Lambda quotas: layers of a function
RUNTIMES: Final = (
    "nodejs20.x", "python3.14", "provided.al2023", "python3.12", "python3.13", "nodejs24.x", "nodejs22.x", "java25",
    "python3.10", "python3.11", "java21", "ruby3.3", "ruby3.4", "ruby3.2", "python3.8", "python3.9", "java17",
    "nodejs16.x", "dotnet10", "dotnet8", "java11", "dotnet6", "nodejs18.x", "provided.al2", "java8.al2",
)  # fmt: skip
"""What a refusal names, in AWS's order; what is accepted is whatever botocore's model knows."""
_SNAPPED: Final = re.compile(r"java(?!8)\d+|python3\.(?:1[2-9]|[2-9]\d)|dotnet(?:[89]|[1-9]\d)")
"""Runtimes of functions that SnapStart is for (Lambda guide: «Improving startup performance with SnapStart»)."""
_NO_VPC: Final = {"SubnetIds": [], "SecurityGroupIds": [], "VpcId": "", "Ipv6AllowedForDualStack": False}
_LEVELS: Final = ("ApplicationLogLevel", "SystemLogLevel")
_TAKEN_AWAY: Final = ("ImageConfig", "KMSKeyArn", "FileSystemConfigs")  # by an empty value
CHOSEN: Final = (
    "Runtime", "Role", "Handler", "Description", "Timeout", "MemorySize", "Environment", "VpcConfig",
    "DeadLetterConfig", "KMSKeyArn", "TracingConfig", "Layers", "FileSystemConfigs", "ImageConfig",
    "EphemeralStorage", "SnapStart", "LoggingConfig",
)  # fmt: skip
"""Members that both CreateFunction and UpdateFunctionConfiguration take."""


def chosen(params: Mapping[str, Any], known: frozenset[str], package_type: str = "Zip") -> dict[str, Any]:
    """What a request chooses, checked. `known`: the runtimes of the model. Raises `Refusal`."""
    found = {name: params[name] for name in CHOSEN if params.get(name) is not None}
    runtime = found.get("Runtime")
    if runtime is not None and runtime not in known and not runtime.startswith("arn:"):
        raise invalid(
            f"Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{', '.join(RUNTIMES)}] or be a valid ARN"
        )
    if found.get("Timeout", 0) > MAXIMUM_TIMEOUT_SECONDS:
        raise constrained(
            [
                f"Value '{found['Timeout']}' at 'timeout' failed to satisfy constraint: Member must have value less "
                f"than or equal to {MAXIMUM_TIMEOUT_SECONDS}"
            ]
        )
    if found.get("MemorySize", 0) > MAXIMUM_MEMORY_MB:
        raise invalid(
            f"'MemorySize' value failed to satisfy constraint: Member must have value less than or equal to "
            f"{MAXIMUM_MEMORY_MB}"
        )
    if found.get("EphemeralStorage", {}).get("Size", 0) > MAXIMUM_STORAGE_MB:
        raise invalid(
            "'EphemeralStorage' value failed to satisfy constraint: Member must have value less than or equal to "
            f"{MAXIMUM_STORAGE_MB}"
        )
    if len(found.get("Layers", ())) > MAXIMUM_LAYERS:
        raise invalid(f"Cannot reference more than {MAXIMUM_LAYERS} layers.")
    if "Environment" in found:
        found["Environment"] = {"Variables": _variables(found["Environment"].get("Variables") or {})}
    if package_type == "Image" and (runtime or found.get("Handler") or found.get("Layers")):
        raise invalid(
            "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image."
        )
    if "ImageConfig" in found and package_type == "Zip":
        raise invalid("ImageConfig parameter is not supported for functions created with PackageType Zip.")
    return found


def defaults(package_type: str) -> dict[str, Any]:
    """What is chosen for a request that does not choose."""
    return {
        "Description": "",
        "Timeout": 3,
        "MemorySize": 128,
        "TracingConfig": {"Mode": "PassThrough"},
        "EphemeralStorage": {"Size": 512},
        "SnapStart": {"ApplyOn": "None"},
        "LoggingConfig": {"LogFormat": "Text"},
        "Architectures": ["x86_64"],
        "PackageType": package_type,
    }


def merged(members: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some members replaced. Without a target, a dead-letter configuration stays as it was, as
    recorded; an empty one takes it away."""
    found = {**members, **chosen}
    if "DeadLetterConfig" in chosen:
        target = chosen["DeadLetterConfig"].get("TargetArn")
        if target is None and "DeadLetterConfig" in members:
            found["DeadLetterConfig"] = members["DeadLetterConfig"]
        elif not target:
            del found["DeadLetterConfig"]
    if found["TracingConfig"].get("Mode") is None:
        found["TracingConfig"] = {"Mode": "PassThrough"}
    if found["SnapStart"].get("ApplyOn") is None:
        found["SnapStart"] = {"ApplyOn": "None"}
    _check_snap_start(found)
    found["LoggingConfig"] = _logging(members.get("LoggingConfig", {}), chosen.get("LoggingConfig", {}))
    for name in _TAKEN_AWAY:
        if not found.get(name, True):
            del found[name]
    return found


def _logging(before: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """A part may be replaced alone. Levels are those of JSON, INFO unless chosen, and go with it. Raises `Refusal`."""
    found = {"LogFormat": "Text", **before, **{name: each for name, each in choice.items() if each is not None}}
    if found["LogFormat"] == "JSON":
        levels = dict.fromkeys(_LEVELS, "INFO")
        return {**found, **levels, **choice} if choice.get("LogFormat") == "JSON" else {**levels, **found}
    if any(choice.get(name) is not None for name in _LEVELS):
        raise invalid("ApplicationLogLevel and SystemLogLevel are for functions whose LogFormat is JSON.")
    return {name: each for name, each in found.items() if name not in _LEVELS}


def _check_snap_start(members: Mapping[str, Any]) -> None:
    runtime = members.get("Runtime")
    if members["SnapStart"]["ApplyOn"] == "PublishedVersions" and runtime and not _SNAPPED.fullmatch(runtime):
        raise invalid(f"{runtime} is not supported for SnapStart enabled functions.")


def _optimized(snap: Mapping[str, Any], version: str, found: Configuration) -> str:
    """Of versions that are published and ready."""
    on = snap["ApplyOn"] == "PublishedVersions" and version != LATEST and found.change is None
    return "On" if on else "Off"


def members_of(function: Function, settings: EngineSettings) -> dict[str, Any]:
    """Of a callable of an engine's code."""
    return {
        **defaults("Zip"),
        "Role": role_arn(settings.account_id),
        "Description": function.description,
        "Timeout": function.timeout_seconds,
        "MemorySize": function.memory_size_mb,
    }


def shown(
    reference: Reference,
    arn: str,
    version: str,
    found: Configuration,
    settings: EngineSettings,
    *,
    listed: bool = False,
) -> dict[str, Any]:
    """FunctionConfiguration. `listed`: as an item of a list, which has no states."""
    members, code = dict(found.members), found.code
    vpc = members.pop("VpcConfig", None)
    image = members.pop("ImageConfig", None)
    logging = members.pop("LoggingConfig")
    snap = members.pop("SnapStart")
    layers = members.pop("Layers", None)
    answer: dict[str, Any] = {
        "FunctionName": reference.name,
        "FunctionArn": arn,
        **members,
        "CodeSize": code["size"],
        "CodeSha256": code["sha256"],
        "LastModified": iso(found.modified),
        "Version": version,
        "RevisionId": found.revision,
        "LoggingConfig": {"LogGroup": f"/aws/lambda/{reference.name}", **logging},
        "SnapStart": {**snap, "OptimizationStatus": _optimized(snap, version, found)},
    }
    if layers:
        answer["Layers"] = [{name: each[name] for name in ("Arn", "CodeSize")} for each in layers]
    if vpc is not None:
        answer["VpcConfig"] = {**_NO_VPC, **vpc}
    if image is not None:
        answer["ImageConfigResponse"] = {"ImageConfig": image}
    if not listed:
        answer |= found.states
        if runtime := members.get("Runtime"):
            answer["RuntimeVersionConfig"] = {
                "RuntimeVersionArn": f"arn:aws:lambda:{settings.region}::runtime:{code.get('runtime') or runtime}"
            }
    return answer


def iso(seconds: float) -> str:
    """As FunctionConfiguration's LastModified is written."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}+0000"


def fingerprint(found: Configuration) -> str:
    """Equal for what PublishVersion takes for the same: code and configuration."""
    said = {name: value for name, value in found.members.items() if name != "Description"}
    return json.dumps([said, found.members.get("Description"), found.code.get("sha256")], sort_keys=True)


def _variables(variables: Mapping[str, str]) -> dict[str, str]:
    if refused := reserved(variables):
        raise invalid(refused)
    measured = json.dumps(dict(variables), ensure_ascii=False, separators=(",", ":"))
    if len(measured.encode()) > MAXIMUM_VARIABLES_BYTES:
        raise invalid(
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the 4KB limit. String measured: {measured}"
        )
    return dict(variables)
