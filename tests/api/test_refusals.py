"""What is refused, in AWS's words; and what parts of a configuration become when others of it are changed."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lambent import Engine
from tests.api.asking import ROLE, Api, api_of, zipped
from tests.api.server import ACCOUNT

ZIP = base64.b64encode(zipped()).decode()
FUNCTION = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:f"
QUEUE = f"arn:aws:sqs:us-east-1:{ACCOUNT}:orders"
STREAM = f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/clicks"
MAPPING = f"arn:aws:lambda:us-east-1:{ACCOUNT}:event-source-mapping"
NOBODY = "3f9b1a1e-4b5e-4b0e-9a4e-2d1f5a5c1b11"
IMAGE = {"ImageUri": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/a:latest"}
RESERVED = (
    "Lambda was unable to configure your environment variables because the environment variables you have provided "
    "contains reserved keys that are currently not supported for modification. Reserved keys used in this request: "
)
OF_AN_IMAGE = "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image."
ONLY_FUNCTIONS = "Tags on function aliases and versions are not supported. Please specify a function ARN."
NOTHING_SAID = "You must specify at least one of error handling or destination setting."


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    engine = Engine(account_id=ACCOUNT, state_change_seconds=0.0, watchdog_seconds=0)
    engine.queue("orders", visibility_timeout_seconds=900)
    engine.queue("short", visibility_timeout_seconds=1)
    engine.queue("medium", visibility_timeout_seconds=10)
    engine.stream("clicks")
    async with engine:
        asked = api_of(engine)
        await create(asked)
        await asked.ask("PublishVersion", FunctionName="f")
        yield asked


async def create(api: Api, name: str = "f", **options: Any) -> Any:
    given = {"Runtime": "python3.12", "Handler": "a.b", "Role": ROLE, "Code": {"ZipFile": ZIP}, **options}
    given = {member: value for member, value in given.items() if value is not None}
    return (await api.ask("CreateFunction", FunctionName=name, **given)).document


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"Environment": {"Variables": {"AWS_REGION": "x", "AWS_SESSION_TOKEN": "y"}}}, f"{RESERVED}AWS_REGION, "),
        ({"Tags": {"aws:x": "y"}}, "Tag keys that begin with 'aws:' are reserved."),
        ({"Tags": {f"k{number}": "v" for number in range(51)}}, "Number of tags exceeds resource tag limit."),
        ({"SnapStart": {"ApplyOn": "PublishedVersions"}, "Runtime": "python3.11"}, "python3.11 is not supported for"),
        ({"SnapStart": {"ApplyOn": "PublishedVersions"}, "Runtime": "java8.al2"}, "java8.al2 is not supported for"),
        ({"LoggingConfig": {"LogFormat": "Text", "SystemLogLevel": "INFO"}}, "ApplicationLogLevel and SystemLogLevel"),
        ({"DeadLetterConfig": {"TargetArn": STREAM}}, f"The dead-letter target {STREAM} is no queue"),
        ({"DeadLetterConfig": {"TargetArn": FUNCTION}}, f"The dead-letter target {FUNCTION} is no queue"),
        ({"PackageType": "Image", "Code": IMAGE}, OF_AN_IMAGE),
        ({"Handler": None, "Runtime": "provided.al2023"}, "Runtime and Handler are mandatory parameters for functions"),
        ({"Runtime": None}, "Runtime and Handler are mandatory parameters for functions"),
    ],
)
async def test_a_function_is_not_created_with(api: Api, options: dict[str, Any], said: str) -> None:
    answer = await create(api, "g", **options)
    assert (answer["Type"], answer["message"][: len(said)]) == ("User", said)
    assert (await api.ask("GetFunction", FunctionName="g")).status == 404


async def test_values_are_judged_before_it_is_looked_whether_the_name_is_taken(api: Api) -> None:
    late = await create(api, Timeout=901)
    assert late["message"].startswith("1 validation error detected: Value '901' at 'timeout'")
    assert (await create(api))["message"] == "Function already exist: f"


async def test_no_code_signing_configuration_is_there(api: Api) -> None:
    arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:code-signing-config:csc-12345678901234567"
    answer = await create(api, "g", CodeSigningConfigArn=arn)
    assert answer["Message"].startswith("The code signing configuration cannot be found. Check that")


@pytest.mark.parametrize(
    ("operation", "params", "name", "said"),
    [
        ("GetCodeSigningConfig", {}, "ResourceNotFoundException", "The Lambda code signing configuration arn:aws"),
        ("DeleteCodeSigningConfig", {}, "ResourceNotFoundException", "The Lambda code signing configuration arn:aws"),
        ("ListFunctionsByCodeSigningConfig", {}, "ResourceNotFoundException", "The Lambda code signing configuration"),
        (
            "PutFunctionCodeSigningConfig",
            {"FunctionName": "f"},
            "CodeSigningConfigNotFoundException",
            "The code signing",
        ),
        ("PutFunctionCodeSigningConfig", {"FunctionName": "g"}, "ResourceNotFoundException", "Function not found: arn"),
        (
            "RemovePermission",
            {"FunctionName": "f", "StatementId": "s"},
            "ResourceNotFoundException",
            "No policy is assoc",
        ),
        (
            "DeleteFunctionUrlConfig",
            {"FunctionName": "f"},
            "ResourceNotFoundException",
            "The resource you requested does",
        ),
        ("UpdateFunctionUrlConfig", {"FunctionName": "g"}, "ResourceNotFoundException", "Function does not exist"),
    ],
)
async def test_what_nothing_here_can_make_is_not_found(
    api: Api, operation: str, params: dict[str, Any], name: str, said: str
) -> None:
    if "CodeSigning" in operation:
        params = {
            **params,
            "CodeSigningConfigArn": f"arn:aws:lambda:us-east-1:{ACCOUNT}:code-signing-config:csc-{'0' * 17}",
        }
    answer = await api.ask(operation, **params)
    assert (answer.status, answer.error, answer.message[: len(said)]) == (404, name, said)


async def test_a_function_loses_the_code_signing_configuration_that_it_never_had(api: Api) -> None:
    assert (await api.ask("DeleteFunctionCodeSigningConfig", FunctionName="f")).status == 204


async def test_an_image_takes_no_runtime_later_either_and_may_lose_its_settings(api: Api) -> None:
    image = {"Runtime": None, "Handler": None, "PackageType": "Image", "Code": IMAGE}
    made = await create(api, "i", **image, ImageConfig={"Command": ["a.b"]})
    assert made["ImageConfigResponse"] == {"ImageConfig": {"Command": ["a.b"]}}
    refused = await api.ask("UpdateFunctionConfiguration", FunctionName="i", Handler="a.b")
    assert refused.message == OF_AN_IMAGE
    updated = await api.ask("UpdateFunctionConfiguration", FunctionName="i", ImageConfig={})
    assert "ImageConfigResponse" not in updated.document


@pytest.mark.parametrize("reference", ["", ":latest", f"@sha256:{'a' * 64}"])
async def test_an_image_is_shown_by_its_digest(api: Api, reference: str) -> None:
    repository = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/a"
    image = {"Runtime": None, "Handler": None, "PackageType": "Image"}
    made = await create(api, "i", **image, Code={"ImageUri": repository + reference})
    code = (await api.ask("GetFunction", FunctionName="i")).document["Code"]
    assert code["ImageUri"] == repository + reference
    assert code["ResolvedImageUri"] == f"{repository}@sha256:{made['CodeSha256']}"
    if reference.startswith("@"):
        assert code["ResolvedImageUri"] == code["ImageUri"]


async def test_a_part_of_a_logging_configuration_changes_alone_and_levels_go_with_json(api: Api) -> None:
    async def logging(**config: str) -> dict[str, str]:
        answer = await api.ask("UpdateFunctionConfiguration", FunctionName="f", LoggingConfig=config)
        found: dict[str, str] = answer.document["LoggingConfig"]
        return found

    info = {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}
    assert await logging(LogGroup="mine") == {"LogFormat": "Text", "LogGroup": "mine"}
    assert await logging(LogFormat="JSON") == {**info, "LogGroup": "mine"}
    assert await logging(SystemLogLevel="WARN") == {**info, "SystemLogLevel": "WARN", "LogGroup": "mine"}
    trace = {**info, "SystemLogLevel": "WARN", "ApplicationLogLevel": "TRACE", "LogGroup": "mine"}
    assert await logging(ApplicationLogLevel="TRACE") == trace
    assert await logging(LogFormat="Text") == {"LogFormat": "Text", "LogGroup": "mine"}
    assert await logging(LogFormat="JSON", ApplicationLogLevel="ERROR") == {
        **info, "ApplicationLogLevel": "ERROR", "LogGroup": "mine"
    }  # fmt: skip


async def test_versions_of_a_function_with_snap_start_are_shown_as_optimised(api: Api) -> None:
    made = await create(api, "s", SnapStart={"ApplyOn": "PublishedVersions"})
    assert made["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    published = (await api.ask("PublishVersion", FunctionName="s")).document
    assert published["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}


@pytest.mark.parametrize(
    ("operation", "params", "status", "said"),
    [
        ("TagResource", {"Resource": f"{FUNCTION}:1", "Tags": {"a": "b"}}, 400, ONLY_FUNCTIONS),
        ("ListTags", {"Resource": f"{FUNCTION}:$LATEST"}, 400, ONLY_FUNCTIONS),
        ("UntagResource", {"Resource": f"{FUNCTION}:live", "TagKeys": ["a"]}, 400, ONLY_FUNCTIONS),
        ("TagResource", {"Resource": FUNCTION, "Tags": {}}, 400, "An error occurred and the request cannot be"),
        ("ListTags", {"Resource": f"{MAPPING}:{NOBODY}"}, 404, "The resource you requested does not exist."),
        ("TagResource", {"Resource": f"{MAPPING}:{NOBODY}", "Tags": {"a": "b"}}, 404, "The resource you requested"),
        ("UpdateFunctionEventInvokeConfig", {"FunctionName": "f"}, 400, NOTHING_SAID),
        (
            "PutFunctionEventInvokeConfig",
            {"FunctionName": "f", "DestinationConfig": {"OnFailure": {"Destination": f"{FUNCTION}g"}}},
            400,
            f"The destination ARN {FUNCTION}g is invalid.",
        ),
        (
            "CreateEventSourceMapping",
            {"FunctionName": "f", "EventSourceArn": QUEUE, "StartingPosition": "LATEST"},
            400,
            "StartingPosition is not valid for SQS event sources.",
        ),
        (
            "CreateEventSourceMapping",
            {"FunctionName": "f", "EventSourceArn": STREAM, "StartingPosition": "LATEST", "SelfManagedEventSource": {}},
            400,
            "Unrecognized event source.",
        ),
        (
            "CreateEventSourceMapping",
            {"FunctionName": "f", "EventSourceArn": QUEUE.replace("orders", "short")},
            400,
            "Queue visibility timeout: 1 seconds is less than Function timeout: 3 seconds",
        ),
        (
            "CreateEventSourceMapping",
            {
                "FunctionName": "f",
                "EventSourceArn": STREAM,
                "StartingPosition": "LATEST",
                "MaximumRecordAgeInSeconds": 59,
            },
            400,
            "MaximumRecordAgeInSeconds: 59 is not allowed; it must be -1 (no limit) or 60 to 604800 (int)",
        ),
        (
            "CreateEventSourceMapping",
            {"FunctionName": "nobody", "EventSourceArn": QUEUE},
            400,
            "Function does not exist",
        ),
        (
            "PutRuntimeManagementConfig",
            {"FunctionName": "f", "UpdateRuntimeOn": "Manual"},
            400,
            "RuntimeVersionArn: it is given with UpdateRuntimeOn=Manual, and only then.",
        ),
    ],
)
async def test_it_is_refused(api: Api, operation: str, params: dict[str, Any], status: int, said: str) -> None:
    if operation.startswith("UpdateFunctionEvent"):
        await api.ask("PutFunctionEventInvokeConfig", FunctionName="f", MaximumRetryAttempts=1)
    answer = await api.ask(operation, **params)
    assert (answer.status, answer.message[: len(said)]) == (status, said)


async def test_a_destination_may_be_a_version_that_is_there(api: Api) -> None:
    await create(api, "other")
    target = {"OnSuccess": {"Destination": f"{FUNCTION}:1"}}
    put = await api.ask("PutFunctionEventInvokeConfig", FunctionName="other", DestinationConfig=target)
    assert put.document["DestinationConfig"]["OnSuccess"] == target["OnSuccess"]
    nowhere = {"OnSuccess": {"Destination": f"{FUNCTION}:9"}}
    put = await api.ask("PutFunctionEventInvokeConfig", FunctionName="other", DestinationConfig=nowhere)
    assert put.message == f"The destination ARN {FUNCTION}:9 is invalid."


async def test_a_queue_must_cover_the_time_limit_of_the_version_that_it_feeds(api: Api) -> None:
    medium = QUEUE.replace("orders", "medium")
    await api.ask("UpdateFunctionConfiguration", FunctionName="f", Timeout=30)
    refused = await api.ask("CreateEventSourceMapping", FunctionName="f", EventSourceArn=medium)
    said = "Queue visibility timeout: 10 seconds is less than Function timeout: 30 seconds"
    assert refused.message == said
    assert (await api.ask("CreateEventSourceMapping", FunctionName="f:1", EventSourceArn=medium)).status == 202
    await api.ask("PublishVersion", FunctionName="f")
    refused = await api.ask("CreateEventSourceMapping", FunctionName="f:2", EventSourceArn=medium)
    assert refused.message == said


async def test_beyond_the_limit_no_code_is_stored_until_some_is_deleted() -> None:
    limit = int(2.5 * len(zipped()))
    async with Engine(account_id=ACCOUNT, state_change_seconds=0.0, watchdog_seconds=0, api_code_bytes=limit) as engine:
        api = api_of(engine)
        await create(api, "one")
        await create(api, "two")
        refused = await create(api, "three")
        assert refused["message"] == "Code storage limit exceeded."
        layer = await api.ask("PublishLayerVersion", LayerName="layer", Content={"ZipFile": ZIP})
        assert (layer.error, layer.status) == ("CodeStorageExceededException", 400)
        limits = (await api.ask("GetAccountSettings")).document
        assert limits["AccountLimit"]["TotalCodeSize"] == limit
        assert limits["AccountUsage"] == {"TotalCodeSize": 2 * len(zipped()), "FunctionCount": 2}
        await api.ask("DeleteFunction", FunctionName="one")
        assert (await create(api, "three"))["FunctionName"] == "three"


async def test_a_zip_without_anything_is_refused(api: Api) -> None:
    nothing = base64.b64encode(b"PK\x05\x06" + bytes(18)).decode()
    assert (await create(api, "e", Code={"ZipFile": nothing}))["message"] == "Uploaded file must be a non-empty zip"


async def test_a_mapping_has_tags(api: Api) -> None:
    made = await api.ask("CreateEventSourceMapping", FunctionName="f", EventSourceArn=QUEUE, Tags={"a": "1", "b": "2"})
    arn = made.document["EventSourceMappingArn"]
    assert (await api.ask("TagResource", Resource=arn, Tags={"a": "3"})).status == 204
    assert (await api.ask("UntagResource", Resource=arn, TagKeys=["b", "c"])).status == 204
    assert (await api.ask("ListTags", Resource=arn)).document == {"Tags": {"a": "3"}}


async def test_how_a_runtime_is_updated_is_kept_for_each_qualifier(api: Api) -> None:
    put = await api.ask("PutRuntimeManagementConfig", FunctionName="f", Qualifier="1", UpdateRuntimeOn="FunctionUpdate")
    assert put.document == {"UpdateRuntimeOn": "FunctionUpdate", "FunctionArn": f"{FUNCTION}:1"}
    got = [await api.ask("GetRuntimeManagementConfig", FunctionName="f", Qualifier=each) for each in ("1", "$LATEST")]
    assert [each.document["UpdateRuntimeOn"] for each in got] == ["FunctionUpdate", "Auto"]


async def test_without_a_vpc_again_a_function_shows_an_empty_one(api: Api) -> None:
    ids = {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    shown = (await create(api, "v", VpcConfig=ids))["VpcConfig"]
    assert shown == {**ids, "VpcId": "", "Ipv6AllowedForDualStack": False}
    nothing: dict[str, list[str]] = {"SubnetIds": [], "SecurityGroupIds": []}
    updated = await api.ask("UpdateFunctionConfiguration", FunctionName="v", VpcConfig=nothing)
    assert json.loads(updated.body)["VpcConfig"] == {**nothing, "VpcId": "", "Ipv6AllowedForDualStack": False}
