"""Functions and their versions: created, updated, published, listed and shown.

Decides what a change makes of a function's record and what is refused (Lambda API reference: CreateFunction,
UpdateFunctionCode, UpdateFunctionConfiguration, PublishVersion, DeleteFunction; developer guide, «Lambda function
states», «Lambda function versions»). Code is kept and run elsewhere. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from lambent.api.configurations import chosen, defaults, fingerprint, members_of, merged, shown
from lambent.api.decisions import Answer, decides
from lambent.api.layers import attached
from lambent.api.names import Reference
from lambent.api.records import Asked, Configuration, Record, page
from lambent.api.refusals import Refusal, conflict, invalid, no_code_signing, not_found, not_here, pending, stale
from lambent.arns import function_arn
from lambent.model import LATEST, Function
from lambent.semantics.zips import MAXIMUM_UNZIPPED_BYTES
from lambent.settings import EngineSettings

DECLARED_CODE: Final = {"sha256": "", "size": 0, "kind": "declared"}
MAXIMUM_TAGS: Final = 50  # of a resource (Lambda guide: «Using tags on Lambda functions»)
_NOT_LATEST: Final = (
    "Current operation does not support versions other than $LATEST. Please set the version to $LATEST or do not set a "
    "version in your request."
)
_ABSENT: Final = {
    "PublishTo": "managed instances",
    "CapacityProviderConfig": "capacity providers",
    "TenancyConfig": "tenants",
    "DurableConfig": "durable executions",
    "RuntimeConfig": "customer-managed runtimes",
    "AcceleratorConfig": "accelerators",
}
"""Members that ask for what is not there. Each would change how a function runs: none is passed over."""
_OWN_CODE: Final = "is a callable of the code that the engine runs: change that code, and start it again"


def created(asked: Asked, code: Mapping[str, Any]) -> tuple[Record, Answer]:
    """The record of a new function, and the answer. Raises `Refusal`."""
    _check_there(asked)
    package = asked.get("PackageType", "Zip")
    choice = chosen(asked.params, asked.runtimes, package)
    if package == "Zip" and not (choice.get("Runtime") and choice.get("Handler")):
        raise invalid("Runtime and Handler are mandatory parameters for functions created with deployment packages.")
    if (package == "Image") != (code["kind"] == "image"):
        raise invalid("Please provide ImageUri when using PackageType Image, and code when using PackageType Zip.")
    check_tags(asked.get("Tags", {}))
    if (signing := asked.get("CodeSigningConfigArn")) is not None:
        raise no_code_signing(signing)
    members = merged(defaults(package) | _architectures(asked), _with_layers(asked, choice))
    _check_size(code, members)
    latest = Configuration(members, dict(code), asked.new_id(), asked.now, asked.change("create"))
    record = Record(asked.reference.name, latest, tags=dict(asked.get("Tags", {})))
    answer = shown(asked.reference, asked.reference.unqualified, LATEST, latest, asked.settings)
    if asked.get("Publish"):
        number, _ = _publish(asked, record)
        answer["Version"] = number  # recorded: the version, but not its ARN
    return record, answer


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises `Refusal`."""
    if len(tags) > MAXIMUM_TAGS:
        raise invalid("Number of tags exceeds resource tag limit.")
    if any(key.lower().startswith("aws:") for key in tags):
        raise invalid("Tag keys that begin with 'aws:' are reserved.")


def declared(function: Function, settings: EngineSettings, revision: str, modified: float) -> Record:
    """The record of a callable of an engine's code, which nobody asked for yet."""
    latest = Configuration(members_of(function, settings), dict(DECLARED_CODE), revision, modified)
    return Record(function.name, latest, declared=True)


def with_new_code(asked: Asked, record: Record, code: Mapping[str, Any]) -> Answer:
    """UpdateFunctionCode. Raises `Refusal`."""
    check_changeable(asked, record)
    members = record.latest.members | _architectures(asked)
    _check_size(code, members)
    updated = Configuration(members, dict(code), asked.new_id(), asked.now, asked.change("update"))
    if asked.get("DryRun"):
        return shown(
            asked.reference, asked.reference.unqualified, LATEST, replace(updated, change=None), asked.settings
        )
    record.latest = updated
    if asked.get("Publish"):
        number, version = _publish(asked, record)
        return shown(asked.reference, asked.reference.of(number), number, version, asked.settings)
    return shown(asked.reference, asked.reference.unqualified, LATEST, updated, asked.settings)


def check_changeable(asked: Asked, record: Record) -> None:
    """Raises `Refusal` if $LATEST changed since it was read, is being changed, or has another kind of code."""
    if record.declared:
        raise invalid(f"The function {record.name} {_OWN_CODE}.")
    _check_latest(asked)
    package = record.latest.members["PackageType"]
    if package == "Zip" and asked.get("ImageUri"):
        raise invalid("Please don't provide ImageUri when updating a function with packageType Zip.")
    if package == "Image" and (asked.get("ZipFile") or asked.get("S3Bucket")):
        raise invalid("Please provide ImageUri when updating a function with packageType Image.")
    _check_revision(asked, record.latest.revision)
    _check_settled(asked, record)


@decides("UpdateFunctionConfiguration", writes=True)
def update_configuration(asked: Asked, record: Record) -> Answer:
    _check_latest(asked)
    _check_revision(asked, record.latest.revision)
    _check_settled(asked, record)
    choice = chosen(asked.params, asked.runtimes, record.latest.members["PackageType"])
    if record.declared and (other := sorted(choice.keys() - {"Description", "Timeout", "MemorySize"})):
        raise invalid(f"{', '.join(other)}: the function {record.name} {_OWN_CODE}.")
    members = merged(record.latest.members, _with_layers(asked, choice))
    _check_size(record.latest.code, members)
    record.latest = Configuration(members, record.latest.code, asked.new_id(), asked.now, asked.change("update"))
    return shown(asked.reference, asked.reference.unqualified, LATEST, record.latest, asked.settings)


def _no_function_to_publish(asked: Asked) -> Refusal:
    return not_found(f"Function not found: {asked.reference.unqualified}")


@decides("PublishVersion", writes=True, missing=_no_function_to_publish)
def publish_version(asked: Asked, record: Record) -> Answer:
    _check_latest(asked)
    _check_revision(asked, record.latest.revision)
    theirs, ours = asked.get("CodeSha256"), record.latest.code["sha256"]
    if theirs and theirs != ours:
        raise invalid(
            f"CodeSHA256 ({theirs}) is different from current CodeSHA256 in $LATEST ({ours}). Please try again with "
            "the CodeSHA256 in $LATEST."
        )
    _check_settled(asked, record)
    number, version = _publish(asked, record)
    return shown(asked.reference, asked.reference.of(number), number, version, asked.settings)


def deleted(asked: Asked, record: Record) -> bool:
    """DeleteFunction: is all of it gone, or a version only. Raises `Refusal`."""
    qualifier = asked.reference.qualifier
    if qualifier is None:
        return True
    if qualifier == LATEST:
        raise invalid("$LATEST version cannot be deleted without deleting the function.")
    if not qualifier.isdigit():
        raise invalid("Deletion of aliases is not currently supported.")
    pointing = [each["Name"] for each in record.aliases.values() if qualifier in versions_of(each)]
    if pointing:
        raise conflict(
            f"Unable to delete version because the following aliases reference it: [{', '.join(sorted(pointing))}]"
        )
    if record.versions.pop(qualifier, None) is not None:
        record.event_invoke.pop(qualifier, None)
        record.provisioned.pop(qualifier, None)
    return False


def versions_of(alias: Mapping[str, Any]) -> list[str]:
    """The versions that an alias may choose."""
    return [alias["FunctionVersion"], *alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})]


@decides("GetFunctionConfiguration")
def get_configuration(asked: Asked, record: Record) -> Answer:
    version, found = record.at(asked.reference)
    return shown(asked.reference, asked.reference.arn, version, found, asked.settings)


@decides("GetFunction")
def get_function(asked: Asked, record: Record) -> Answer:
    version, found = record.at(asked.reference)
    answer: Answer = {"Configuration": shown(asked.reference, asked.reference.arn, version, found, asked.settings)}
    if found.code["kind"] == "image":
        uri = found.code["location"]
        resolved = found.code.get("resolved", uri)
        answer["Code"] = {"RepositoryType": "ECR", "ImageUri": uri, "ResolvedImageUri": resolved}
    else:
        answer["Code"] = {"RepositoryType": "S3", "Location": found.code.get("location") or asked.code_url(found.code)}
    if "kms" in found.code:
        answer["Code"]["SourceKMSKeyArn"] = found.code["kms"]
    if asked.reference.qualifier is None:  # tags and reservations are the function's, and no version's or alias's
        if record.tags:
            answer["Tags"] = record.tags
        if record.reserved is not None:
            answer["Concurrency"] = {"ReservedConcurrentExecutions": record.reserved}
    return answer


def to_list(functions: Mapping[str, Function], params: Mapping[str, Any]) -> tuple[list[tuple[str, str]], str | None]:
    """Which functions and versions ListFunctions shows, and the marker of the next ones: $LATEST of each function, or
    with FunctionVersion=ALL all versions, too. Raises `Refusal`."""
    whole = params.get("FunctionVersion") == "ALL"
    named = [
        (name, version) for name, each in functions.items() for version in (LATEST, *(each.versions if whole else ()))
    ]
    return page(named, params, _by_name_and_number)


def listed(record: Record, version: str, settings: EngineSettings, *, qualified: bool) -> Answer | None:
    """A version as an item of a list; None: it was deleted meanwhile."""
    if version != LATEST and version not in record.versions:
        return None
    reference = Reference(record.name, None, function_arn(settings.region, settings.account_id, record.name))
    found = record.latest if version == LATEST else record.versions[version]
    arn = reference.of(version) if qualified else reference.unqualified
    return shown(reference, arn, version, found, settings, listed=True)


@decides("ListVersionsByFunction", missing=_no_function_to_publish)
def list_versions(asked: Asked, record: Record) -> Answer:
    named = [(record.name, version) for version in (LATEST, *record.versions)]
    found, marker = page(named, asked.params, _by_name_and_number)
    versions = [listed(record, version, asked.settings, qualified=True) for _, version in found]
    return {"Versions": versions, "NextMarker": marker}


def _by_name_and_number(item: tuple[str, str]) -> list[Any]:
    name, version = item
    return [name, 0 if version == LATEST else int(version)]


def _publish(asked: Asked, record: Record) -> tuple[str, Configuration]:
    """A new version; the last one if nothing changed since. Its description may be another one."""
    said = fingerprint(record.latest)
    last = str(record.last_version)
    if said == record.published_from and last in record.versions:
        return last, record.versions[last]
    record.last_version += 1
    record.published_from = said
    number = str(record.last_version)
    members = dict(record.latest.members)
    if asked.operation == "PublishVersion" and asked.get("Description") is not None:
        members["Description"] = asked.params["Description"]
    version = Configuration(members, record.latest.code, asked.new_id(), asked.now)
    if asked.operation == "PublishVersion":
        record.latest.revision = asked.new_id()  # recorded: $LATEST has a new one, too
    else:
        version.change = asked.change("create")
    record.versions[number] = version
    return number, version


def _check_latest(asked: Asked) -> None:
    """What is published stays as it is. Raises `Refusal`."""
    _check_there(asked)
    if asked.reference.resolved != LATEST:
        raise invalid(_NOT_LATEST)


def _check_there(asked: Asked) -> None:
    for name, what in _ABSENT.items():
        if asked.get(name) is not None:
            raise not_here(name, what)


def _architectures(asked: Asked) -> dict[str, Any]:
    return {"Architectures": asked.params["Architectures"]} if asked.get("Architectures") else {}


def _with_layers(asked: Asked, choice: dict[str, Any]) -> dict[str, Any]:
    """What is chosen, with what is kept of layers in the place of their ARNs. Raises `Refusal`."""
    if "Layers" not in choice:
        return choice
    return {**choice, "Layers": attached(choice["Layers"], asked.layers, asked.settings)}


def _check_size(code: Mapping[str, Any], members: Mapping[str, Any]) -> None:
    size = code.get("unzipped", 0) + sum(each["unzipped"] for each in members.get("Layers", ()))
    if size > MAXIMUM_UNZIPPED_BYTES:
        raise invalid(
            "Function code combined with layers exceeds the maximum allowed size of "
            f"{MAXIMUM_UNZIPPED_BYTES} bytes. The actual size is {size} bytes."
        )


def _check_revision(asked: Asked, revision: str) -> None:
    if asked.get("RevisionId") not in (None, revision):
        raise stale()


def _check_settled(asked: Asked, record: Record) -> None:
    if record.latest.change is not None and record.latest.change.kind == "create":
        raise pending()
    if record.latest.change is not None:
        raise conflict(
            "The operation cannot be performed at this time. An update is in progress for resource: "
            f"{asked.reference.unqualified}"
        )
