"""Tags, recursion, and what a function has beside: small settings, each kept or shown as it is.

Decides their checks and answers (Lambda API reference: TagResource, PutFunctionRecursionConfig,
PutRuntimeManagementConfig, GetFunctionCodeSigningConfig). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from lambent.api.decisions import Answer, decides
from lambent.api.functions import check_tags
from lambent.api.records import Asked, Record
from lambent.api.refusals import NO_POLICY, Refusal, invalid, no_code_signing, not_found


def _no_resource(asked: Asked) -> Refusal:
    return not_found(f"Function not found: {asked.reference.unqualified}")


def _nothing(asked: Asked) -> Refusal:
    return not_found()


@decides("TagResource", writes=True, missing=_no_resource)
def tag(asked: Asked, record: Record) -> Answer:
    _check_unqualified(asked)
    record.tags = tagged(record.tags, asked.params["Tags"])
    return {}


def tagged(before: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """A resource's tags with more of them. Raises `Refusal`."""
    if not tags:
        raise invalid("An error occurred and the request cannot be processed.")
    check_tags({**before, **tags})
    return {**before, **tags}


def _check_unqualified(asked: Asked) -> None:
    if asked.reference.qualifier is not None:
        raise invalid("Tags on function aliases and versions are not supported. Please specify a function ARN.")


@decides("UntagResource", writes=True, missing=_no_resource)
def untag(asked: Asked, record: Record) -> Answer:
    _check_unqualified(asked)
    for key in asked.params["TagKeys"]:
        record.tags.pop(key, None)
    return {}


@decides("ListTags", missing=_no_resource)
def list_tags(asked: Asked, record: Record) -> Answer:
    _check_unqualified(asked)
    return {"Tags": record.tags}


@decides("PutFunctionRecursionConfig", writes=True)
def put_recursion(asked: Asked, record: Record) -> Answer:
    record.recursive_loop = asked.params["RecursiveLoop"]
    return {"RecursiveLoop": record.recursive_loop}


@decides("GetFunctionRecursionConfig")
def get_recursion(asked: Asked, record: Record) -> Answer:
    return {"RecursiveLoop": record.recursive_loop}


@decides("GetFunctionCodeSigningConfig")
def get_code_signing(asked: Asked, record: Record) -> Answer:
    return {"CodeSigningConfigArn": "", "FunctionName": record.name}


@decides("PutFunctionCodeSigningConfig")
def put_code_signing(asked: Asked, record: Record) -> Answer:
    raise no_code_signing(asked.params["CodeSigningConfigArn"])


@decides("DeleteFunctionCodeSigningConfig")
def delete_code_signing(asked: Asked, record: Record) -> Answer:
    return {}


@decides("PutRuntimeManagementConfig", writes=True)
def put_runtime_management(asked: Asked, record: Record) -> Answer:
    record.at(asked.reference)
    update, version = asked.params["UpdateRuntimeOn"], asked.get("RuntimeVersionArn")
    if (update == "Manual") != (version is not None):
        raise invalid("RuntimeVersionArn: it is given with UpdateRuntimeOn=Manual, and only then.")
    config = {"UpdateRuntimeOn": update, "RuntimeVersionArn": version}
    record.runtime_management[asked.reference.resolved] = config
    return {**config, "FunctionArn": asked.reference.qualified_arn}


@decides("GetRuntimeManagementConfig")
def get_runtime_management(asked: Asked, record: Record) -> Answer:
    record.at(asked.reference)
    config = record.runtime_management.get(asked.reference.resolved, {"UpdateRuntimeOn": "Auto"})
    return {**config, "FunctionArn": asked.reference.qualified_arn}


@decides("GetPolicy", missing=_nothing)
def get_policy(asked: Asked, record: Record) -> Answer:
    raise _nothing(asked)


@decides("RemovePermission")
def remove_permission(asked: Asked, record: Record) -> Answer:
    raise not_found(NO_POLICY)


@decides("UpdateFunctionUrlConfig", missing=lambda asked: not_found("Function does not exist"))
@decides("DeleteFunctionUrlConfig", missing=_nothing)
@decides("GetFunctionUrlConfig", missing=_nothing)
def get_function_url(asked: Asked, record: Record) -> Answer:
    raise _nothing(asked)


@decides("ListFunctionUrlConfigs", missing=lambda asked: not_found("Function does not exist"))
def list_function_urls(asked: Asked, record: Record) -> Answer:
    return {"FunctionUrlConfigs": []}
