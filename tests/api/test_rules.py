"""Rules of the API that many requests share, by boto3: qualifiers, what is shown where, what goes with what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lambent import Engine
from tests.api.asking import PYTHON, ROLE, zipped
from tests.api.server import ACCOUNT, REGION, Server, refused, served

FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function"
NOT_LATEST = (
    "Current operation does not support versions other than $LATEST. Please set the version to $LATEST or do not set a "
    "version in your request."
)
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/a:latest"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    engine = Engine(account_id=ACCOUNT, watchdog_seconds=0, state_change_seconds=0.0)
    with served(engine) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Server) -> Any:
    return server.client()


@pytest.fixture
def made(api: Any) -> Iterator[str]:
    """A function with a version 1 and an alias of it."""
    create(api, "made", Tags={"team": "blue"})
    api.publish_version(FunctionName="made")
    api.create_alias(FunctionName="made", Name="live", FunctionVersion="1")
    yield "made"
    api.delete_function(FunctionName="made")


def create(api: Any, name: str, **options: Any) -> dict[str, Any]:
    given = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": zipped()}, **options}
    given = {member: value for member, value in given.items() if value is not None}
    answer: dict[str, Any] = api.create_function(FunctionName=name, **given)
    return answer


# --------------------------------------------------------------------------- qualifiers


@pytest.mark.parametrize("qualifier", ["1", "live"])
def test_what_is_published_stays_as_it_is(api: Any, made: str, qualifier: str) -> None:
    for change in (
        lambda name: api.update_function_code(FunctionName=name, ZipFile=zipped()),
        lambda name: api.update_function_configuration(FunctionName=name, Timeout=9),
        lambda name: api.publish_version(FunctionName=name),
    ):
        for name in (f"{made}:{qualifier}", f"{FUNCTION}:{made}:{qualifier}"):
            with refused("InvalidParameterValueException", 400) as error:
                change(name)
            assert error.message == NOT_LATEST
        assert change(f"{made}:$LATEST")["FunctionName"] == made


def test_a_function_asked_for_by_an_alias_is_shown_with_the_alias_and_its_version(api: Any, made: str) -> None:
    for found in (
        api.get_function(FunctionName=made, Qualifier="live")["Configuration"],
        api.get_function_configuration(FunctionName=f"{made}:live"),
    ):
        assert (found["FunctionArn"], found["Version"]) == (f"{FUNCTION}:{made}:live", "1")


def test_tags_and_reservations_are_shown_of_a_function_alone(api: Any, made: str) -> None:
    api.put_function_concurrency(FunctionName=made, ReservedConcurrentExecutions=3)
    found = api.get_function(FunctionName=made)
    assert (found["Tags"], found["Concurrency"]) == ({"team": "blue"}, {"ReservedConcurrentExecutions": 3})
    for qualifier in ("$LATEST", "1", "live"):
        found = api.get_function(FunctionName=made, Qualifier=qualifier)
        assert found.keys() & {"Tags", "Concurrency"} == set()


# --------------------------------------------------------------------------- functions


def test_code_comes_from_one_place_and_of_the_kind_that_the_function_has(api: Any, made: str) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        create(api, "both", Code={"ZipFile": zipped(), "S3Bucket": "bucket", "S3Key": "key"})
    assert error.message == "Please do not provide other FunctionCode parameters when providing a ZipFile."
    with refused("InvalidParameterValueException", 400) as error:
        api.update_function_code(FunctionName=made, ImageUri=IMAGE)
    assert error.message == "Please don't provide ImageUri when updating a function with packageType Zip."
    create(api, "image", Runtime=None, Handler=None, PackageType="Image", Code={"ImageUri": IMAGE})
    with refused("InvalidParameterValueException", 400) as error:
        api.update_function_code(FunctionName="image", ZipFile=zipped())
    assert error.message == "Please provide ImageUri when updating a function with packageType Image."
    api.delete_function(FunctionName="image")


@pytest.mark.parametrize(
    "member",
    [
        {"TenancyConfig": {"TenantIsolationMode": "PER_TENANT"}},
        {"DurableConfig": {"ExecutionTimeout": 60}},
        {"PublishTo": "LATEST_PUBLISHED"},
    ],
)
def test_no_member_that_would_change_how_a_function_runs_is_passed_over(api: Any, member: dict[str, Any]) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        create(api, "other", **member)
    assert error.message.startswith(f"{next(iter(member))} is not there: lambent has no ")


def test_the_key_of_a_deployment_package_is_shown(api: Any) -> None:
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k"
    create(api, "locked", Code={"ZipFile": zipped(), "SourceKMSKeyArn": key})
    assert api.get_function(FunctionName="locked")["Code"]["SourceKMSKeyArn"] == key
    api.delete_function(FunctionName="locked")
