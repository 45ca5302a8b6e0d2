"""What AWS was recorded to answer about functions, their names and limits; each case by its id."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from tests.api.asking import ROLE, zipped
from tests.api.server import ACCOUNT, REGION, Server
from tests.conformance.api_cases import (
    AREAS,
    Ground,
    cases,
    replay,
    replays,
    settle,
)

# --------------------------------------------------------------------------- 13: functions, names, limits


@replays("TestLambdaFunction::test_function_lifecycle")
def life(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create_response")
    on.step("get_function_response", "get_function", FunctionName=name)
    changed = on.case["update_func_conf_response"]
    said = {each: changed[each] for each in ("Description", "Environment", "Timeout", "MemorySize", "Runtime")}
    on.step("update_func_conf_response", "update_function_configuration", FunctionName=name, **said)
    settle()
    on.step("get_function_response_postupdate", "get_function", FunctionName=name)
    on.step("update_code_response", "update_function_code", FunctionName=name, ZipFile=zipped("x = 3\n"))
    settle()
    on.step("get_function_response_postcodeupdate", "get_function", FunctionName=name)
    on.step("delete_response", "delete_function", FunctionName=name)
    on.step("delete_postdelete", "delete_function", FunctionName=name)


@replays("TestLambdaFunction::test_redundant_updates")
def redundant(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create_response")
    description = on.case["first_update_result"]["Description"]
    for update, *gets in (
        (
            "first_update_result",
            ("get_fn_config_result", "get_function_configuration"),
            ("get_fn_result", "get_function"),
        ),
        ("redundant_update_result", ("get_fn_result_after_redundant_update", "get_function")),
    ):
        on.step(update, "update_function_configuration", FunctionName=name, Description=description)
        settle()
        for step, get in gets:
            on.step(step, get, FunctionName=name)


@replays("TestLambdaFunction::test_ops_with_arn_qualifier_mismatch")
def mismatch(on: Ground, operation: str) -> None:
    arn = on.arn("$LATEST", "some-function")
    on.step("not_match_exception", operation, FunctionName=arn, Qualifier="1")
    on.step("match_exception", operation, FunctionName=arn, Qualifier="$LATEST")


@replays("TestLambdaFunction::test_ops_on_nonexisting_version")
def no_version(on: Ground, operation: str) -> None:
    on.create()
    on.step("version_not_found_exception", operation, FunctionName=on.name(), Qualifier="1221")


@replays("TestLambdaFunction::test_delete_on_nonexisting_version")
def delete_no_version(on: Ground, _: str) -> None:
    step = "delete_function_response_non_existent"
    on.step(step, "delete_function", FunctionName=on.name())
    on.step(f"{step}_with_qualifier", "delete_function", FunctionName=on.name(), Qualifier="1221")


@replays("TestLambdaFunction::test_ops_on_nonexisting_fn")
def no_function(on: Ground, operation: str) -> None:
    on.step("not_found_exception", operation, FunctionName=on.name())


@replays("TestLambdaFunction::test_get_function_wrong_region")
def wrong_region(on: Ground, operation: str) -> None:
    arn = on.arn().replace(REGION, "eu-central-1")
    on.step("wrong_region_exception", operation, FunctionName=arn)


@replays("TestLambdaFunction::test_lambda_code_location_zipfile")
def code_location(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create-response-zip-file")
    on.step("get-function-response", "get_function", FunctionName=name)
    on.step("update-function-response", "update_function_code", FunctionName=name, ZipFile=zipped("x = 4\n"))
    on.step("get-function-response-updated", "get_function", FunctionName=name)


@replays(
    "TestLambdaSizeLimits::test_large_environment_variables_fails",
    "TestLambdaSizeLimits::test_large_environment_fails_multiple_keys",
)
def large_environment(on: Ground, _: str) -> None:
    (step,) = on.case.content
    measured = json.loads(on.case[step]["Error"]["Message"].partition("String measured: ")[2])
    on.step(
        step, "create_function", FunctionName=on.name(), Runtime="python3.12", Handler="a.b", Role=ROLE,
        Code={"ZipFile": zipped()}, Environment={"Variables": measured},
    )  # fmt: skip


@replays("TestLambdaFunction::test_create_lambda_exceptions")
def create_refusals(on: Ground, _: str) -> None:
    del on.case.content["empty_architectures"]  # botocore's own refusal

    def create(step: str, **options: Any) -> None:
        given = {"Runtime": "python3.12", "Handler": "a.b", "Role": ROLE, "Code": {"ZipFile": zipped()}}
        on.step(step, "create_function", FunctionName=on.name(), **{**given, **options})

    create("invalid_role_arn_exc", Role="r1")
    create("invalid_runtime_exc", Runtime="non-existent-runtime")
    create("uppercase_runtime_exc", Runtime="PYTHON3.9")
    create("multiple_architectures", Architectures=["x86_64", "arm64"])
    create("uppercase_architecture", Architectures=["X86_64"])
    create("invalid_zip_exc", Code={"ZipFile": b"this is not a zipfile, just a random string"})


@replays("TestLambdaFunction::test_update_lambda_exceptions")
def update_refusals(on: Ground, _: str) -> None:
    on.create()
    step = "update_function_configuration"
    on.step("invalid_role_arn_exc", step, FunctionName=on.name(), Role="r1")
    on.step("invalid_runtime_exc", step, FunctionName=on.name(), Runtime="non-existent-runtime")
    on.step("uppercase_runtime_exc", step, FunctionName=on.name(), Runtime="PYTHON3.9")


@replays("TestLambdaFunction::test_list_functions")
def lists(on: Ground, _: str) -> None:
    first, second = on.name("-1"), on.name("-2")
    on.create("create_response_1", first, Publish=True)
    on.create("create_response_2", second, Code={"ZipFile": zipped("x = 5\n")})
    on.step("list_functions_invalid_functionversion", "list_functions", FunctionVersion="invalid")
    for step, params in (("list_all", {"FunctionVersion": "ALL"}), ("list_default", {})):
        found = on.api.get_paginator("list_functions").paginate(**params).build_full_result()["Functions"]
        ours = [each for each in found if each["FunctionName"] in (first, second)]
        status = {"ResponseMetadata": {"HTTPStatusCode": 200}}
        on.pairs.append((on.case[step], {"Functions": ours, **status}))


@replays("TestLambdaAccountSettings::test_account_settings_total_code_size_config_update")
def code_sizes(on: Ground, _: str) -> None:
    def total() -> int:
        return int(on.call("get_account_settings")["AccountUsage"]["TotalCodeSize"])

    sizes = [total()]
    on.create(Code={"ZipFile": zipped("def handler(event, context):\n    return event\n" * 3)})
    sizes.append(total())
    on.call("update_function_configuration", FunctionName=on.name(), Description="new")
    settle()
    sizes.append(total())
    on.call("publish_version", FunctionName=on.name())
    sizes.append(total())
    created, updated, published = (later - earlier for earlier, later in itertools.pairwise(sizes))
    done = {"ResponseMetadata": {"HTTPStatusCode": 200}}
    names = list(on.case.content)
    ours = dict(zip(names, (created > 150, updated, published > 150), strict=True))  # its zip file is not ours
    on.pairs.append((on.case.content, {**ours, **done}))


@replays("TestLambdaAccountSettings::test_account_settings_total_code_size")
def all_code_sizes(on: Ground, _: str) -> None:
    def total() -> int:
        return int(on.call("get_account_settings")["AccountUsage"]["TotalCodeSize"])

    def of_size(step: str, filler: str) -> bytes:
        return zipped(filler * (on.case[step] - len(zipped(""))))  # its zip file is not ours, but as large

    base = total()
    create, update, *layers = on.case.content
    on.create(Code={"ZipFile": of_size(create, "#")})
    ours = {create: total() - base}
    on.call("update_function_code", FunctionName=on.name(), ZipFile=of_size(update, "\n"))
    settle()
    ours[update] = total() - base
    for step, filler in zip(layers, "#\n", strict=True):
        before = total()
        on.call("publish_layer_version", LayerName=on.name(), Content={"ZipFile": of_size(step, filler)})
        ours[step] = total() - before
    on.pairs.append((on.case.content, {**ours, "ResponseMetadata": {"HTTPStatusCode": 200}}))


@replays("TestLambdaFunction::test_function_arns")
def arns(on: Ground, _: str) -> None:
    first, second = on.name("-1"), on.name("-2")
    create = on.case["create-function-arn-response"], on.case["create-function-partial-arn-response"]
    for recorded, named, text in zip(
        create, (on.arn(name=first), f"{ACCOUNT}:function:{second}"), ("x = 6\n", "x = 7\n"), strict=True
    ):
        like = recorded["CreateFunctionResponse"]
        options = {each: like[each] for each in ("Timeout", "Environment", "Runtime", "Handler", "MemorySize")}
        code = {"ZipFile": zipped(text)}
        on.pairs.append((like, on.call("create_function", FunctionName=named, Role=ROLE, Code=code, **options)))

    def refused(step: str, named: str) -> None:
        given = {"Runtime": "python3.12", "Handler": "a.b", "Role": ROLE, "Code": {"ZipFile": zipped()}}
        on.step(step, "create_function", FunctionName=named, **given)

    refused("invalid_function_name_exc", "invalid:function:name")
    refused("long_function_name_exc", "a" * 65)
    refused("long_function_arn_exc", on.arn(name="a" * 100))
    refused("function_arn_other_region_exc", on.arn().replace(REGION, "ap-southeast-1"))
    refused("function_arn_other_account_exc", on.arn().replace(ACCOUNT, "123456789012"))


@replays(
    "TestLambdaFunction::test_lambda_concurrent_code_updates",
    "TestLambdaFunction::test_lambda_concurrent_config_updates",
)
def concurrent_updates(on: Ground, _: str) -> None:
    name = on.name()
    on.create("create-function-response")
    operation, params = "update_function_code", [{"ZipFile": zipped(f"x = {each}\n")} for each in (8, 9)]
    if "config" in on.case.identity:
        operation, params = "update_function_configuration", [{"Description": each} for each in ("a", "b")]
    on.call(operation, FunctionName=name, **params[0])
    on.step("update-during-in-progress-update-exc", operation, FunctionName=name, **params[1])


@replays("TestLambdaRecursion::test_put_function_recursion_config_allow")
def recursion(on: Ground, _: str) -> None:
    on.create()
    step = "function_recursion_config"
    on.step("put_recursion_config_response", f"put_{step}", FunctionName=on.name(), RecursiveLoop="Allow")
    on.step("get_recursion_config_response", f"get_{step}", FunctionName=on.name())


@replays("TestLambdaFunction::test_function_name_and_qualifier_validation")
def names(on: Ground, parameter: str) -> None:
    kind, _, operation = parameter.rpartition("-")
    arn = "arn:aws:lambda:{}:{}:function:my-function"
    given: dict[str, tuple[str, str | None]] = {
        "function_name_is_single_invalid": ("*", None),
        "invalid_characters_in_function_name": ("my-function!", None),
        "invalid_characters_in_qualifier": ("my-function", "invalid!"),
        "invalid_account_id_in_partial_arn": ("invalid-account:function:my-function", None),
        "invalid_region_in_arn": (arn.format("invalid-region", ACCOUNT), None),
        "non_lambda_arn": (f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance:i-1234567890abcdef0", None),
        "function_name_too_long": ("a" * 65, None),
        "full_arn_with_multiple_qualifiers": (f"{arn.format(REGION, ACCOUNT)}:1:2", None),
        "incomplete_arn": (f"arn:aws:lambda:{REGION}:{ACCOUNT}:function", None),
        "partial_arn_with_extra_qualifier": ("function:my-function:$LATEST:extra", None),
        "lowercase_latest_qualifier": ("my-function", "$latest"),
        "missing_region_in_arn": (arn.format("", ACCOUNT), None),
        "missing_account_id_in_arn": (arn.format(REGION, ""), None),
        "misspelled_latest_in_arn": (f"{arn.format(REGION, ACCOUNT)}:$LATES", None),
        "qualifier_too_long": ("my-function", "a" * 129),
        "qualifier_too_long0": ("my-function", "a" * 129),
    }
    if kind == "lowercase_latest_qualifier":
        given[kind] = ("my-function", None)
    if kind == "latest_version_with_additional_qualifier":
        latest = f"{arn.format(REGION, ACCOUNT)}:$LATEST"
        given[kind] = (latest, "1") if operation != "create_function" else (f"{latest}:1", None)
    if kind == "qualifier_too_long" and operation == "create_function":
        given[kind] = (f"my-function:{'a' * 129}", None)
    if kind == "function_name_too_long_and_invalid_region":
        given[kind] = (f"{arn.format('invalid-region', ACCOUNT)}{'a' * 170}", None)
    if kind == "full_arn_and_qualifier_too_long_and_invalid_region":
        base = f"{arn.format('invalid-region', ACCOUNT)}-{'a' * 170}"
        given[kind] = (base, "a" * 129) if operation == "get_function" else (f"{base}:{'a' * 129}", None)
    if kind in ("qualifier_too_long1", "function_name_and_qualifier_too_long"):
        if operation == "delete_function":
            on.create(name="my-function")
        given[kind] = ("my-function", "a" * 65)
    name, qualifier = given[kind]
    params: dict[str, Any] = {"FunctionName": name}
    if qualifier is not None:
        params["Qualifier"] = qualifier
    if operation == "create_function":
        params |= {"Runtime": "python3.12", "Handler": "a.b", "Role": ROLE, "Code": {"ZipFile": zipped()}}
    answer = on.call(operation, **params)
    on.call("delete_function", FunctionName="my-function")
    (step,) = on.case.content
    text = json.dumps(on.case[step])
    recorded = json.loads(re.sub(r"<a:len\((\d+)\)>", lambda found: "a" * int(found[1]), text))
    error, message = answer["Error"], answer["Error"]["Message"]
    ours: dict[str, Any] = {"Code": error["Code"]}
    if "Errors" in recorded:
        count, _, rest = message.partition(" validation error")
        ours |= {"Count": int(count), "Errors": rest.partition("detected: ")[2].split("; ")}
    else:
        ours["Message"] = message
    on.pairs.append((recorded, {**ours, "ResponseMetadata": {"HTTPStatusCode": 0}}))


@replays("TestLambdaRuntimesCommon::test_runtime_wrapper_invoke")
def wrapper(on: Ground, _: str) -> None:
    on.create("create_function_result")


CASES = cases(__name__, *AREAS[-2:])

if CASES:

    @pytest.mark.parametrize("identity", sorted(CASES))
    def test_the_api_answers_of_functions_as_aws_was_recorded_to(api_server: Server, identity: str) -> None:
        replay(api_server, CASES[identity])
