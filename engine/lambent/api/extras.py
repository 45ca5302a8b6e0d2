"""Tags, recursion, and what a function has beside: small settings, each kept or shown as it is.

Decides their checks and answers (Lambda API reference: TagResource, PutFunctionRecursionConfig,
PutRuntimeManagementConfig, GetFunctionCodeSigningConfig). Pure.
"""

from __future__ import annotations

from typing import Final

from lambent.api.decisions import Answer, decides
from lambent.api.records import Asked, Record
from lambent.api.refusals import Refusal, invalid, not_found

MAXIMUM_TAGS: Final = 50  # of a function (Lambda guide: «Using tags on Lambda functions»)


def _no_resource(asked: Asked) -> Refusal:
    return not_found(f"Function not found: {asked.reference.unqualified}")


def _nothing(asked: Asked) -> Refusal:
    return not_found()


@decides("TagResource", writes=True, missing=_no_resource)
def tag(asked: Asked, record: Record) -> Answer:
    tags = {**record.tags, **asked.params["Tags"]}
    if not asked.params["Tags"]:
        raise invalid("An error occurred and the request cannot be processed: no tags are given.")
    if len(tags) > MAXIMUM_TAGS:
        raise invalid("Number of tags exceeds resource tag limit.")
    if any(key.lower().startswith("aws:") for key in tags):
        raise invalid("Tag keys that begin with 'aws:' are reserved.")
    record.tags = tags
    return {}


@decides("UntagResource", writes=True, missing=_no_resource)
def untag(asked: Asked, record: Record) -> Answer:
    for key in asked.params["TagKeys"]:
        record.tags.pop(key, None)
    return {}


@decides("ListTags", missing=_no_resource)
def list_tags(asked: Asked, record: Record) -> Answer:
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


@decides("GetRuntimeManagementConfig")
def get_runtime_management(asked: Asked, record: Record) -> Answer:
    record.at(asked.reference)
    return {"UpdateRuntimeOn": "Auto", "FunctionArn": asked.reference.qualified_arn}


@decides("GetPolicy", missing=_nothing)
def get_policy(asked: Asked, record: Record) -> Answer:
    raise _nothing(asked)


@decides("GetFunctionUrlConfig", missing=_nothing)
def get_function_url(asked: Asked, record: Record) -> Answer:
    raise _nothing(asked)


@decides("ListFunctionUrlConfigs", missing=lambda asked: not_found("Function does not exist"))
def list_function_urls(asked: Asked, record: Record) -> Answer:
    return {"FunctionUrlConfigs": []}
