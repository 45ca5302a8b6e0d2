"""Reserved and provisioned concurrency, and what an account has of it.

Decides what may be reserved and provisioned beside what others have, and how a provisioned configuration stands (Lambda
API reference: PutFunctionConcurrency, PutProvisionedConcurrencyConfig, GetAccountSettings). Who may start when is
`semantics/concurrency.py`'s. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lambent.api.configurations import iso
from lambent.api.decisions import Answer, decides
from lambent.api.records import Asked, Record, page
from lambent.api.refusals import Refusal, conflict, invalid, not_found
from lambent.model import LATEST, Function
from lambent.semantics.concurrency import MINIMUM_UNRESERVED
from lambent.settings import EngineSettings

MAXIMUM_UNZIPPED_BYTES: Final = 262_144_000
MAXIMUM_ZIPPED_BYTES: Final = 52_428_800
INIT_FAILURE: Final = "FUNCTION_ERROR_INIT_FAILURE"  # as AWS says it in StatusReason
_UNQUALIFIED: Final = (
    "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. Please "
    "specify either a function name or an unqualified function ARN."
)


def _none_provisioned() -> Refusal:
    message = "No Provisioned Concurrency Config found for this function"
    return Refusal("ProvisionedConcurrencyConfigNotFoundException", 404, message)


def _no_latest(asked: Asked) -> Refusal:
    return not_found(f"Function not found: {asked.reference.qualified_arn}")


def _no_alias_or_version(asked: Asked) -> Refusal:
    qualifier = asked.reference.resolved
    if qualifier == LATEST or qualifier.isdigit():
        return not_found(f"Function not found: {asked.reference.of(qualifier)}")
    return not_found(f"Cannot find alias arn: {asked.reference.of(qualifier)}")


# --------------------------------------------------------------------------- reserved


@decides("PutFunctionConcurrency", writes=True, missing=_no_latest, knows_others=True)
def put_reserved(asked: Asked, record: Record) -> Answer:
    if asked.reference.qualifier is not None:
        raise invalid(_UNQUALIFIED)
    wanted = asked.params["ReservedConcurrentExecutions"]
    others = _reserved(asked.others, record.name)
    if wanted and asked.settings.account_concurrency - others - wanted < MINIMUM_UNRESERVED:
        raise invalid(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{MINIMUM_UNRESERVED}].",
            typed=False,
        )
    provisioned = _provisioned(record)
    if wanted < provisioned:
        raise invalid(
            f" ReservedConcurrentExecutions  {wanted} should not be lower than function's total provisioned "
            f"concurrency [{provisioned}].",
            typed=False,
        )
    record.reserved = wanted
    return {"ReservedConcurrentExecutions": wanted}


@decides("GetFunctionConcurrency")
def get_reserved(asked: Asked, record: Record) -> Answer:
    if asked.reference.qualifier is not None:
        raise invalid(_UNQUALIFIED)
    return {"ReservedConcurrentExecutions": record.reserved}


@decides("DeleteFunctionConcurrency", writes=True)
def delete_reserved(asked: Asked, record: Record) -> Answer:
    if asked.reference.qualifier is not None:
        raise invalid(_UNQUALIFIED)
    record.reserved = None
    return {}


# --------------------------------------------------------------------------- provisioned


@decides("PutProvisionedConcurrencyConfig", writes=True, missing=_no_alias_or_version, knows_others=True)
def put_provisioned(asked: Asked, record: Record) -> Answer:
    qualifier, wanted = asked.reference.resolved, asked.params["ProvisionedConcurrentExecutions"]
    if qualifier == LATEST:
        raise invalid("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
    _check_qualifier(asked, record)
    alias = record.aliases.get(qualifier)
    if alias is not None and alias["FunctionVersion"] == LATEST:
        raise invalid("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
    if alias is not None and "RoutingConfig" in alias:
        raise invalid("Alias with weights can not be used with Provisioned Concurrency")
    if alias is not None and alias["FunctionVersion"] in record.provisioned:
        raise conflict(
            "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
        )
    if alias is None and any(
        record.aliases.get(each, {}).get("FunctionVersion") == qualifier for each in record.provisioned
    ):
        raise conflict("Version is pointed by a Provisioned Concurrency alias")
    others = _provisioned(record) - record.provisioned.get(qualifier, {}).get("requested", 0)
    if record.reserved is not None and wanted + others > record.reserved:
        raise invalid(
            "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
        )
    if record.reserved is None:
        free = _unreserved(asked.others, asked.settings)
        if wanted > free:
            raise invalid(
                "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency "
                f"[{free}].",
                typed=False,
            )
        if free - wanted < MINIMUM_UNRESERVED:
            raise invalid(
                "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below "
                f"its minimum value of [{MINIMUM_UNRESERVED}].",
                typed=False,
            )
    kept = _ready(asked, record, qualifier) if qualifier in record.provisioned else 0
    until = asked.now + asked.settings.state_change_seconds
    record.provisioned[qualifier] = {"requested": wanted, "modified": asked.now, "until": until, "kept": kept}
    return _shown(asked, record, qualifier)


@decides("GetProvisionedConcurrencyConfig", missing=_no_alias_or_version)
def get_provisioned(asked: Asked, record: Record) -> Answer:
    _check_published(asked)
    _check_qualifier(asked, record)
    if asked.reference.resolved not in record.provisioned:
        raise _none_provisioned()
    return _shown(asked, record, asked.reference.resolved)


@decides("DeleteProvisionedConcurrencyConfig", writes=True, missing=_no_alias_or_version)
def delete_provisioned(asked: Asked, record: Record) -> Answer:
    _check_published(asked)
    _check_qualifier(asked, record)
    record.provisioned.pop(asked.reference.resolved, None)
    return {}


@decides("ListProvisionedConcurrencyConfigs")
def list_provisioned(asked: Asked, record: Record) -> Answer:
    found, marker = page(record.provisioned, asked.params, lambda qualifier: [qualifier])
    items = [{"FunctionArn": asked.reference.of(each), **_shown(asked, record, each)} for each in found]
    return {"ProvisionedConcurrencyConfigs": items, "NextMarker": marker}


def moved(asked: Asked, record: Record, alias: str) -> None:
    """An alias is about to name another version: what it has provisioned is made ready there, and is shown as it was
    meanwhile, as recorded."""
    if (config := record.provisioned.get(alias)) is not None:
        config["kept"] = _ready(asked, record, alias)
        config["until"] = asked.now + asked.settings.state_change_seconds


def _ready(asked: Asked, record: Record, qualifier: str) -> int:
    """How much of what is provisioned there is."""
    found: int = _shown(asked, record, qualifier)["AvailableProvisionedConcurrentExecutions"]
    return found


def _shown(asked: Asked, record: Record, qualifier: str) -> Answer:
    """What was asked for, and what of it this engine has ready. Right after a change that is what there was before."""
    config, alias = record.provisioned[qualifier], record.aliases.get(qualifier)
    requested = config["requested"]
    there: Mapping[str, Any] = {"status": "IN_PROGRESS", "ready": config.get("kept", 0)}
    if asked.now >= config["until"]:
        version = qualifier if alias is None else alias["FunctionVersion"]
        there = asked.provisioned(version) or {"status": "READY", "ready": requested}
    available = min(requested, there["ready"])
    answer = {
        "RequestedProvisionedConcurrentExecutions": requested,
        "AvailableProvisionedConcurrentExecutions": available,
        "AllocatedProvisionedConcurrentExecutions": available,
        "Status": there["status"],
        "LastModified": iso(config["modified"]),
    }
    if there["status"] == "FAILED":
        answer["StatusReason"] = INIT_FAILURE
    return answer


def _check_published(asked: Asked) -> None:
    if asked.reference.resolved == LATEST:
        raise invalid("The function resource provided must be an alias or a published version.")


def _check_qualifier(asked: Asked, record: Record) -> None:
    qualifier = asked.reference.resolved
    if qualifier not in record.versions and qualifier not in record.aliases:
        raise _no_alias_or_version(asked)


# --------------------------------------------------------------------------- the account


def account_settings(functions: Mapping[str, Function], code_bytes: int, settings: EngineSettings) -> Answer:
    """GetAccountSettings. `code_bytes`: of all code that there is."""
    return {
        "AccountLimit": {
            "TotalCodeSize": settings.api_code_bytes,
            "CodeSizeUnzipped": MAXIMUM_UNZIPPED_BYTES,
            "CodeSizeZipped": MAXIMUM_ZIPPED_BYTES,
            "ConcurrentExecutions": settings.account_concurrency,
            "UnreservedConcurrentExecutions": settings.account_concurrency - _reserved(functions, ""),
        },
        "AccountUsage": {"TotalCodeSize": code_bytes, "FunctionCount": len(functions)},
    }


def _provisioned(record: Record) -> int:
    return sum(each["requested"] for each in record.provisioned.values())


def _reserved(functions: Mapping[str, Function], but: str) -> int:
    return sum(each.reserved_concurrency or 0 for name, each in functions.items() if name != but)


def _unreserved(functions: Mapping[str, Function], settings: EngineSettings) -> int:
    """What is neither reserved by a function nor provisioned for one without a reservation."""
    found = [(each.reserved_concurrency, each.provisioned_of) for each in functions.values()]
    taken = sum(sum(provisioned.values()) if reserved is None else reserved for reserved, provisioned in found)
    return settings.account_concurrency - taken
