"""Layers by boto3: published as versions that stay, and laid below the code of functions."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine
from tests.api.asking import PYTHON, ROLE, zipped
from tests.api.server import ACCOUNT, REGION, Server, refused, served

ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer"
HANDLER = "import shared\n\ndef handler(event, context):\n    return shared.VALUE\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("code")
    folder.chmod(0o755)
    engine = Engine(account_id=ACCOUNT, state_change_seconds=0, watchdog_seconds=0, code_directory=str(folder))
    with served(engine) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Server) -> Any:
    return server.client()


def module(value: int) -> bytes:
    return zipped(f"VALUE = {value}\n", "python/shared.py")


def publish(api: Any, name: str, value: int, **said: Any) -> dict[str, Any]:
    answer: dict[str, Any] = api.publish_layer_version(LayerName=name, Content={"ZipFile": module(value)}, **said)
    answer.pop("ResponseMetadata")
    return answer


def create(api: Any, name: str, *layers: str) -> dict[str, Any]:
    given = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": zipped(HANDLER)}}
    answer: dict[str, Any] = api.create_function(FunctionName=name, Layers=list(layers), **given)
    return answer


def test_a_function_finds_what_its_layers_have_and_keeps_it_when_they_are_deleted(api: Any) -> None:
    first, second = [publish(api, "shared", value) for value in (1, 2)]
    assert create(api, "f", first["LayerVersionArn"])["Layers"] == [
        {"Arn": f"{ARN}:shared:1", "CodeSize": len(module(1))}
    ]
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == 1
    api.delete_layer_version(LayerName="shared", VersionNumber=1)
    with refused("ResourceNotFoundException", 404):
        api.get_layer_version(LayerName="shared", VersionNumber=1)
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == 1
    api.update_function_configuration(FunctionName="f", Layers=[second["LayerVersionArn"]])
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == 2
    assert publish(api, "shared", 3)["Version"] == 3, "no number is used again"
    assert "Layers" not in api.update_function_configuration(FunctionName="f", Layers=[])
    assert json.load(api.invoke(FunctionName="f")["Payload"])["errorType"] == "Runtime.ImportModuleError"


def test_a_version_is_shown_as_it_was_published(api: Any) -> None:
    said = {"Description": "d", "CompatibleRuntimes": [PYTHON, "nodejs22.x"], "CompatibleArchitectures": ["x86_64"]}
    made = publish(api, "told", 1, LicenseInfo="MIT", **said)
    assert (made["LayerArn"], made["LayerVersionArn"], made["Version"]) == (f"{ARN}:told", f"{ARN}:told:1", 1)
    assert made["CreatedDate"].endswith("+0000")
    assert urllib.request.urlopen(made["Content"]["Location"]).read() == module(1)
    for got in (
        api.get_layer_version(LayerName=f"{ARN}:told", VersionNumber=1),
        api.get_layer_version_by_arn(Arn=f"{ARN}:told:1"),
    ):
        got.pop("ResponseMetadata")
        assert got == made
    plain = publish(api, "told", 2)
    assert plain["Description"] == ""
    assert plain.keys().isdisjoint({"CompatibleRuntimes", "CompatibleArchitectures", "LicenseInfo"})


def test_versions_are_listed_newest_first_and_by_what_they_are_for(api: Any) -> None:
    for runtime in ("python3.12", "python3.13", "python3.13"):
        publish(api, "many", 1, CompatibleRuntimes=[runtime])
    listed = api.list_layer_versions(LayerName="many")["LayerVersions"]
    assert [each["Version"] for each in listed] == [3, 2, 1]
    assert "Content" not in listed[0]
    older = api.list_layer_versions(LayerName="many", CompatibleRuntime="python3.12")["LayerVersions"]
    assert [each["Version"] for each in older] == [1]
    pages = api.get_paginator("list_layer_versions").paginate(LayerName="many", PaginationConfig={"PageSize": 2})
    assert [[each["Version"] for each in page["LayerVersions"]] for page in pages] == [[3, 2], [1]]
    (layer,) = api.list_layers(CompatibleRuntime="python3.12")["Layers"]
    assert (layer["LayerName"], layer["LayerArn"]) == ("many", f"{ARN}:many")
    assert layer["LatestMatchingVersion"] == older[0]
    for number in (1, 2, 3):
        api.delete_layer_version(LayerName="many", VersionNumber=number)
    assert api.list_layer_versions(LayerName="many")["LayerVersions"] == []
    assert "many" not in [each["LayerName"] for each in api.list_layers()["Layers"]]


def test_code_of_layers_counts_for_the_account(api: Any) -> None:
    before = api.get_account_settings()["AccountUsage"]["TotalCodeSize"]
    publish(api, "counted", 1)
    assert api.get_account_settings()["AccountUsage"]["TotalCodeSize"] == before + len(module(1))


@pytest.mark.parametrize(
    ("arns", "said"),
    [
        ([f"{ARN}:nothing:1"], f"Layer version {ARN}:nothing:1 does not exist."),
        ([f"{ARN}:there:9"], f"Layer version {ARN}:there:9 does not exist."),
        (
            [f"{ARN}:there:1", f"{ARN}:there:2"],
            "Two different versions of the same layer are not allowed to be referenced in the same function. "
            f"{ARN}:there:1 and {ARN}:there:2 are versions of the same layer.",
        ),
        ([f"{ARN}:n{number}:1" for number in range(6)], "Cannot reference more than 5 layers."),
        (
            [f"{ARN.replace(REGION, 'eu-west-1')}:there:1"],
            f"Layers are not in the same region as the function. Layers are expected to be in region {REGION}.",
        ),
    ],
)
def test_a_function_cannot_have(api: Any, arns: list[str], said: str) -> None:
    for value in (1, 2):
        publish(api, "there", value)
    with refused("InvalidParameterValueException", 400) as error:
        create(api, "g", *arns)
    assert error.message == said


def test_what_is_no_layer_is_refused(api: Any) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        api.publish_layer_version(LayerName="bad", Content={"ZipFile": b"no zip"})
    assert error.message.startswith("Could not unzip uploaded file")
    with refused("ValidationException", 400) as error:
        publish(api, "bad", 1, CompatibleRuntimes=["cobol"], CompatibleArchitectures=["z80"])
    assert error.message.startswith("2 validation errors detected: ")
    assert "'[cobol]' at 'compatibleRuntimes' failed to satisfy constraint: Member must satisfy" in error.message
    with refused("InvalidParameterValueException", 400) as error:
        api.get_layer_version(LayerName="bad", VersionNumber=0)
    assert error.message == "Layer Version Cannot be less than 1"
    with refused("ResourceNotFoundException", 404):
        api.get_layer_version_by_arn(Arn=f"{ARN}:bad:1")
    assert api.delete_layer_version(LayerName="bad", VersionNumber=7)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert api.list_layer_versions(LayerName="bad")["LayerVersions"] == []


def test_layers_outlive_a_restart_with_their_code(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for life in (1, 2):
        engine = Engine(f"sqlite:///{tmp_path / 'app.db'}", account_id=ACCOUNT, state_change_seconds=0)
        with served(engine) as running:
            api = running.client()
            if life == 1:
                publish(api, "kept", 5)
                for kept in (tmp_path / "app.db-code").glob("*/*"):
                    os.utime(kept, (0, 0))  # old enough to be collected
            else:
                create(api, "f", f"{ARN}:kept:1")
                assert json.load(api.invoke(FunctionName="f")["Payload"]) == 5


def test_a_versions_permissions_are_kept_and_shown(api: Any) -> None:
    arn = publish(api, "permitted", 1)["LayerVersionArn"]
    version: dict[str, Any] = {"LayerName": "permitted", "VersionNumber": 1}
    with refused("ResourceNotFoundException", 404) as error:
        api.get_layer_version_policy(**version)
    assert error.message == "No policy is associated with the given resource."
    given = {**version, "Action": "lambda:GetLayerVersion"}
    one = api.add_layer_version_permission(StatementId="one", Principal="123456789012", **given)
    statement = {
        "Sid": "one",
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
        "Action": "lambda:GetLayerVersion",
        "Resource": arn,
    }
    assert json.loads(one["Statement"]) == statement
    with refused("ResourceConflictException", 409) as error:
        api.add_layer_version_permission(StatementId="one", Principal="*", **given)
    assert error.message.startswith("The statement id (one) provided already exists. Please provide a new statement")
    with refused("PreconditionFailedException", 412):
        api.add_layer_version_permission(StatementId="all", Principal="*", RevisionId="other", **given)
    org = {"Principal": "*", "OrganizationId": "o-0123456789", "RevisionId": one["RevisionId"]}
    api.add_layer_version_permission(StatementId="org", **org, **given)
    policy = api.get_layer_version_policy(**version)
    condition = {"StringEquals": {"aws:PrincipalOrgID": "o-0123456789"}}
    everybody = {**statement, "Sid": "org", "Principal": "*", "Condition": condition}
    document = {"Version": "2012-10-17", "Id": "default", "Statement": [statement, everybody]}
    assert json.loads(policy["Policy"]) == document
    assert policy["RevisionId"] != one["RevisionId"]
    for sid in ("one", "org"):
        api.remove_layer_version_permission(StatementId=sid, **version)
    with refused("ResourceNotFoundException", 404):
        api.remove_layer_version_permission(StatementId="one", **version)
    with refused("ResourceNotFoundException", 404) as error:
        api.add_layer_version_permission(StatementId="s", Principal="*", **{**given, "VersionNumber": 2})
    assert error.message == f"Layer version {arn[:-1]}2 does not exist."


def test_a_layer_of_another_account_is_not_permitted(api: Any) -> None:
    arn = f"{ARN.replace(ACCOUNT, '222222222222')}:theirs:1"
    for ask in (lambda: create(api, "g", arn), lambda: api.get_layer_version_by_arn(Arn=arn)):
        with refused("AccessDeniedException", 403) as error:
            ask()
        assert "is not authorized to perform: lambda:GetLayerVersion on resource: arn:aws:lambda" in error.message
