"""Code in S3: fetched where somebody says that one is, and refused in AWS's words where it is not to be had."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lambent import Engine
from tests.api.asking import PYTHON, ROLE, zipped
from tests.api.server import ACCOUNT, Server, refused, served
from tests.servers.s3 import BUCKET, s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with s3() as client:
        yield client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(Engine(account_id=ACCOUNT, state_change_seconds=0, watchdog_seconds=0)) as running:
        yield running


def create(server: Server, name: str = "f", **code: str) -> Any:
    given = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Code": {"S3Bucket": BUCKET, **code}}
    return server.client().create_function(FunctionName=name, **given)


def returning(number: int) -> bytes:
    return zipped(f"def handler(event, context):\n    return {number}\n")


def test_an_object_is_the_code_in_the_version_that_is_named(server: Server, bucket: Any) -> None:
    bucket.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    first, _ = [bucket.put_object(Bucket=BUCKET, Key="a.zip", Body=returning(number)) for number in (1, 2)]
    create(server, S3Key="a.zip", S3ObjectVersion=first["VersionId"])
    api = server.client()
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == 1
    api.update_function_code(FunctionName="f", S3Bucket=BUCKET, S3Key="a.zip")
    assert json.load(api.invoke(FunctionName="f")["Payload"]) == 2
    assert api.get_function(FunctionName="f")["Configuration"]["CodeSize"] == len(returning(2))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"S3Key": "nothing"}, "S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist."),
        ({"S3Key": "a", "S3Bucket": "nowhere"}, "S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket"),
    ],
)
def test_what_is_not_there_is_said_in_the_words_of_s3(
    server: Server, bucket: Any, code: dict[str, str], said: str
) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        create(server, "g", **code)
    assert error.message.startswith(f"Error occurred while GetObject. {said}")


def test_an_object_that_is_no_zip_is_refused_as_an_upload_is(server: Server, bucket: Any) -> None:
    bucket.put_object(Bucket=BUCKET, Key="text", Body=b"no zip")
    with refused("InvalidParameterValueException", 400) as error:
        create(server, "g", S3Key="text")
    assert error.message.startswith("Could not unzip uploaded file")


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("", "start the server with AWS_ENDPOINT_URL_S3 and credentials"),
        ("http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3 is http://127.0.0.1:1"),
        ("nonsense", "AWS_ENDPOINT_URL_S3 is nonsense"),
    ],
)
def test_without_an_s3_it_is_said_what_to_set(
    server: Server, monkeypatch: pytest.MonkeyPatch, endpoint: str, said: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    with refused("InvalidParameterValueException", 400) as error:
        create(server, "g", S3Key="a.zip")
    assert said in error.message
