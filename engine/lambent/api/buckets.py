"""Code that lies in S3, or in what answers like it: fetched by botocore where AWS_ENDPOINT_URL_S3 says that it is.

Decides when anything is asked at all (never without an endpoint that somebody chose: nobody's credentials are used by
surprise), how much is read, and in AWS's words what went wrong. What a zip file may be is decided elsewhere.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any, Final

from lambent.api.refusals import Refusal, forbidden, invalid

ENDPOINT: Final = "AWS_ENDPOINT_URL_S3"
MAXIMUM_OBJECT_BYTES: Final = 262_144_000  # Lambda quotas: what is unpacked may be no larger, zipped or not
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 60
_NOWHERE: Final = (
    "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not "
    f"exist (no S3 is known here: start the server with {ENDPOINT} and credentials, as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY; S3Bucket=folder with an absolute path as S3Key means a folder of this machine)"
)


def fetch(bucket: str, key: str, version: str | None, region: str) -> bytes:
    """An object. Blocks. Raises `Refusal`."""
    endpoint = os.environ.get(ENDPOINT)
    if not endpoint:
        raise invalid(_NOWHERE)
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    named = {"Bucket": bucket, "Key": key} | ({"VersionId": version} if version else {})
    try:
        answer = _client(endpoint, region).get_object(**named)
        if answer["ContentLength"] > MAXIMUM_OBJECT_BYTES:
            raise invalid(f"Unzipped size must be smaller than {MAXIMUM_OBJECT_BYTES} bytes")
        data: bytes = answer["Body"].read()
    except ClientError as error:
        raise _refused(error.response) from error
    except NoCredentialsError as error:
        raise invalid(
            "Error occurred while GetObject: there are no credentials: start the server with AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or with AWS_PROFILE."
        ) from error
    except (BotoCoreError, ValueError) as error:
        raise invalid(f"Error occurred while GetObject: {error} ({ENDPOINT} is {endpoint})") from error
    return data


def _client(endpoint: str, region: str) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    settings = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 2},
        s3={"addressing_style": "path"},
    )
    return Session().create_client("s3", region_name=region, endpoint_url=endpoint, config=settings)


def _refused(response: Any) -> Refusal:
    code, message = response["Error"].get("Code", ""), response["Error"].get("Message", "")
    told = f"S3 Error Code: {code}. S3 Error Message: {message}"
    if response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.FORBIDDEN:
        return forbidden(
            "Your access has been denied by S3, please make sure your request credentials have permission to GetObject "
            f"for this bucket and key. {told}"
        )
    return invalid(f"Error occurred while GetObject. {told}")
