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
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}"
STREAM = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/clicks"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/a:latest"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    engine = Engine(account_id=ACCOUNT, watchdog_seconds=0, state_change_seconds=0.0)
    for name in ("orders", "orders.fifo"):
        engine.queue(name, visibility_timeout_seconds=60, fifo=name.endswith(".fifo"))
    engine.stream("clicks")
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


@pytest.mark.parametrize(
    ("operation", "action"),
    [("get_function", "GetFunction"), ("delete_function", "DeleteFunction"), ("invoke", "InvokeFunction")],
)
def test_functions_of_another_account_are_not_permitted(api: Any, operation: str, action: str) -> None:
    arn = f"{FUNCTION.replace(ACCOUNT, '222222222222')}:theirs:1"
    with refused("AccessDeniedException", 403) as error:
        getattr(api, operation)(FunctionName=arn)
    assert error.message == (
        f"User: arn:aws:iam::{ACCOUNT}:root is not authorized to perform: lambda:{action} on resource: {arn} because "
        f"no resource-based policy allows the lambda:{action} action"
    )


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


def test_snap_start_and_the_runtime_fit_together_whichever_of_them_changes(api: Any) -> None:
    def update(**members: Any) -> Any:
        return api.update_function_configuration(FunctionName="snapped", **members)

    create(api, "snapped", Runtime="python3.11")
    with refused("InvalidParameterValueException", 400) as error:
        update(SnapStart={"ApplyOn": "PublishedVersions"})
    assert error.message == "python3.11 is not supported for SnapStart enabled functions."
    update(SnapStart={"ApplyOn": "PublishedVersions"}, Runtime="python3.12")
    with refused("InvalidParameterValueException", 400):
        update(Runtime="python3.11")
    assert update(Runtime="python3.11", SnapStart={"ApplyOn": "None"})["Runtime"] == "python3.11"
    api.delete_function(FunctionName="snapped")


def test_the_key_of_a_deployment_package_is_shown(api: Any) -> None:
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k"
    create(api, "locked", Code={"ZipFile": zipped(), "SourceKMSKeyArn": key})
    assert api.get_function(FunctionName="locked")["Code"]["SourceKMSKeyArn"] == key
    api.delete_function(FunctionName="locked")


def test_an_empty_value_takes_a_key_and_file_systems_away(api: Any, made: str) -> None:
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k"
    files = [
        {
            "Arn": f"arn:aws:elasticfilesystem:{REGION}:{ACCOUNT}:access-point/fsap-{'0' * 17}",
            "LocalMountPath": f"/mnt/{made}",
        }
    ]
    shown = api.update_function_configuration(FunctionName=made, KMSKeyArn=key, FileSystemConfigs=files)
    assert (shown["KMSKeyArn"], shown["FileSystemConfigs"]) == (key, files)
    shown = api.update_function_configuration(FunctionName=made, KMSKeyArn="", FileSystemConfigs=[])
    assert shown.keys() & {"KMSKeyArn", "FileSystemConfigs"} == set()


def test_only_a_function_has_reserved_concurrency(api: Any, made: str) -> None:
    for ask in (api.get_function_concurrency, api.delete_function_concurrency):
        with refused("InvalidParameterValueException", 400) as error:
            ask(FunctionName=f"{made}:live")
        assert error.message.startswith("This operation is permitted on Lambda functions only. Aliases and versions do")


@pytest.mark.parametrize("queue", ["absent", "orders.fifo"])
def test_results_go_to_a_standard_queue_that_is_there(api: Any, made: str, queue: str) -> None:
    target = {"OnFailure": {"Destination": f"{QUEUE}:{queue}"}}
    with refused("InvalidParameterValueException", 400) as error:
        api.put_function_event_invoke_config(FunctionName=made, DestinationConfig=target)
    assert error.message == f"The destination ARN {QUEUE}:{queue} is invalid."


# --------------------------------------------------------------------------- mappings

OF_STREAMS: list[tuple[str, Any]] = [
    ("BisectBatchOnFunctionError", False),
    ("MaximumRetryAttempts", -1),
    ("MaximumRecordAgeInSeconds", -1),
    ("ParallelizationFactor", 1),
    ("TumblingWindowInSeconds", 0),
    ("DestinationConfig", {}),
    ("StartingPositionTimestamp", 1.0),
]
OF_TOPICS: list[tuple[str, Any]] = [
    ("Topics", ["topic"]),
    ("SelfManagedKafkaEventSourceConfig", {"ConsumerGroupId": "group"}),
    ("SourceAccessConfigurations", [{"Type": "VPC_SUBNET", "URI": "subnet:1"}]),
    ("LoggingConfig", {"SystemLogLevel": "INFO"}),
]


@pytest.mark.parametrize(
    ("source", "member", "value"),
    [
        *((f"{QUEUE}:orders", *each) for each in OF_STREAMS + OF_TOPICS),
        *((STREAM, *each) for each in OF_TOPICS),
        (STREAM, "ScalingConfig", {"MaximumConcurrency": 2}),
        (STREAM, "ProvisionedPollerConfig", {"MinimumPollers": 2}),
    ],
)
def test_a_mapping_takes_no_member_of_another_kind_of_source(
    api: Any, made: str, source: str, member: str, value: Any
) -> None:
    given = {"StartingPosition": "LATEST"} if source == STREAM else {}
    with refused("InvalidParameterValueException", 400) as error:
        api.create_event_source_mapping(FunctionName=made, EventSourceArn=source, **{**given, member: value})
    assert error.message == f"Unsupported {member} parameter for given event source mapping type."


@pytest.mark.parametrize(
    ("source", "members", "said"),
    [
        (
            f"{QUEUE}:orders.fifo",
            {"MaximumBatchingWindowInSeconds": 1},
            "Batching window is not supported for FIFO queues",
        ),
        (
            f"{QUEUE}:orders.fifo",
            {"MaximumBatchingWindowInSeconds": 1, "BatchSize": 11},
            "Batching window is not supported for FIFO queues",
        ),
        (
            STREAM,
            {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 4e9},
            "StartingPositionTimestamp cannot be in the future.",
        ),
        (
            f"{QUEUE}:orders",
            {"ProvisionedPollerConfig": {"MinimumPollers": 1}},
            "ProvisionedPollerConfig: MinimumPollers must be 2 at least, and MaximumPollers no less than that.",
        ),
    ],
)
def test_a_mapping_is_refused_for_what_does_not_fit(
    api: Any, made: str, source: str, members: dict[str, Any], said: str
) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        api.create_event_source_mapping(FunctionName=made, EventSourceArn=source, **members)
    assert error.message == said


# --------------------------------------------------------------------------- pages


def test_pages_leave_nothing_out_whatever_is_deleted_and_made_between_them(api: Any) -> None:
    for number in range(5):
        create(api, f"page{number}")
    seen: list[str] = []
    for page in api.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}):
        for each in page["Functions"]:
            seen.append(each["FunctionName"])
            api.delete_function(FunctionName=each["FunctionName"])
        create(api, f"early{len(seen)}")  # before where the next page begins
    assert seen == [f"page{number}" for number in range(5)]
    for found in api.list_functions()["Functions"]:
        api.delete_function(FunctionName=found["FunctionName"])


def test_versions_are_paged_in_their_order(api: Any, made: str) -> None:
    for number in range(11):
        api.update_function_configuration(FunctionName=made, Description=str(number))
        api.publish_version(FunctionName=made)
    pages = api.get_paginator("list_versions_by_function").paginate(FunctionName=made, PaginationConfig={"PageSize": 5})
    listed = [each["Version"] for page in pages for each in page["Versions"]]
    assert listed == ["$LATEST", *map(str, range(1, 13))]
    everything = api.get_paginator("list_functions").paginate(FunctionVersion="ALL", PaginationConfig={"PageSize": 5})
    arns = [each["FunctionArn"] for page in everything for each in page["Functions"]]
    assert arns == [f"{FUNCTION}:{made}:{version}" for version in listed]


@pytest.mark.parametrize("marker", ["zz", "1", "e30=", "WzFd"])
def test_a_marker_that_no_answer_gave_is_refused(api: Any, made: str, marker: str) -> None:
    with refused("InvalidParameterValueException", 400) as error:
        api.list_functions(Marker=marker)
    assert error.message.startswith("Invalid pagination token")
