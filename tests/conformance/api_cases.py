"""How a recorded case of Lambda's API is replayed with boto3 against a running server.

Decides what differs from run to run: names, sizes, hashes and times are compared by form; statuses and everything else
as they are. What cannot be replayed, and why, is in `KNOWN`.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.api.asking import ROLE, zipped
from tests.api.server import ACCOUNT, REGION, Server, SkippingClock
from tests.conformance.recorded import RECORDINGS, Recording

AREAS: Final = ("01", "02", "03", "04", "05", "08", "13", "14")
PENDING_SECONDS: Final = 3600.0
CLOCK = SkippingClock()
_NAMES = itertools.count(1)
_FORMS: Final = {
    "code-sha256": "<code-sha256:1>",
    "datetime": "<datetime>",
    "<code-size>": "size",
    "<location>": "there",
}

DYNAMODB: Final = "there are no DynamoDB streams here"
KNOWN: Final[dict[str, str]] = {
    "TestPartialARNMatching::test_cross_region_arn_function_access": "nothing was recorded: it needs two regions",
    "TestLambdaEventSourceMappings::test_event_source_mapping_lifecycle": DYNAMODB,
    "TestLambdaEventSourceMappings::test_create_event_filter_criteria_validation": DYNAMODB,
    "TestDynamoDBEventSourceMapping::test_duplicate_event_source_mappings": DYNAMODB,
}


class Ground:
    """What a scenario has: boto3, names of its own, and a case to be compared with."""

    def __init__(self, server: Server, case: Recording) -> None:
        self.api = server.client()
        self.server = server
        self.case = case
        self.pairs: list[tuple[Any, Any]] = []
        self._base = f"f{next(_NAMES)}"

    def name(self, suffix: str = "") -> str:
        return f"{self._base}{suffix}"

    def arn(self, qualifier: str = "", name: str | None = None) -> str:
        arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name or self.name()}"
        return f"{arn}:{qualifier}" if qualifier else arn

    def call(self, operation: str, **params: Any) -> Any:
        """What boto3 answers, or the error that it raises."""
        try:
            answer = getattr(self.api, operation)(**params)
        except ClientError as error:
            return error.response
        if "Payload" in answer:
            answer["Payload"] = answer["Payload"].read().decode()
        return answer

    def step(self, step: str, operation: str, **params: Any) -> Any:
        """A call whose answer was recorded."""
        answer = self.call(operation, **params)
        if step in self.case.content:
            self.pairs.append((self.case[step], answer))
        return answer

    def create(self, step: str = "", name: str | None = None, **options: Any) -> Any:
        """A function like the recorded one; it is active afterwards."""
        recorded = self.case.content.get(step) or {}
        recorded = recorded.get("CreateFunctionResponse", recorded)
        wanted = ("Timeout", "MemorySize", "Environment", "Handler", "Runtime")
        like = {each: recorded[each] for each in wanted if each in recorded}
        if recorded.get("Description"):
            like["Description"] = recorded["Description"]
        given = {"Runtime": "python3.12", "Handler": "handler.handler", "Role": ROLE, "Code": {"ZipFile": zipped()}}
        answer = self.call("create_function", FunctionName=name or self.name(), **{**given, **like, **options})
        if recorded:
            self.pairs.append((recorded, answer))
        settle()
        return answer

    def check(self) -> None:
        assert self.pairs or not self.case.content
        for recorded, ours in self.pairs:
            status = recorded.get("ResponseMetadata", {}).get("HTTPStatusCode")
            assert status in (None, ours["ResponseMetadata"]["HTTPStatusCode"]), (recorded, ours)
        self.case.check(*((formed(recorded), formed(ours)) for recorded, ours in self.pairs))


def settle() -> None:
    """Let the time go by in which something is Pending."""
    CLOCK.skipped += PENDING_SECONDS


def formed(value: Any, key: str = "") -> Any:
    """What differs from run to run, by its form."""
    if isinstance(value, Mapping):
        return {name: formed(each, name) for name, each in value.items() if name != "ResponseMetadata"}
    if isinstance(value, list):
        return [formed(each) for each in value]
    if isinstance(value, datetime.datetime):
        return "now"
    if key == "LastModified" and isinstance(value, str):
        written = value == "date" or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", value)
        return "now" if written or value in ("datetime", "<datetime>") else value
    if key == "CodeSize":
        return "size"
    if key == "Location":
        return "there"
    return _FORMS.get(value, value) if isinstance(value, str) else value


Scenario = Callable[[Ground, str], None]
SCENARIOS: dict[str, Scenario] = {}


def replays(*families: str) -> Callable[[Scenario], Scenario]:
    def register(scenario: Scenario) -> Scenario:
        SCENARIOS.update(dict.fromkeys(families, scenario))
        return scenario

    return register


def recorded_cases(*areas: str) -> dict[str, Recording]:
    return {
        case["id"]: Recording(case["id"], case["content"])
        for area in areas
        for path in sorted(RECORDINGS.glob(f"{area}-*.json"))
        for case in json.loads(path.read_text())
    }


def family(identity: str) -> str:
    return identity.partition("[")[0]


def cases(module: str, *areas: str, empty: bool = False) -> dict[str, Recording]:
    """The cases that this module has a scenario for; with `empty` those, too, of which nothing was recorded but that
    they went well."""
    return {
        name: each
        for name, each in recorded_cases(*areas).items()
        if getattr(SCENARIOS.get(family(name)), "__module__", "") == module and (each.content or empty)
    }


def replay(server: Server, case: Recording) -> None:
    on = Ground(server, case)
    SCENARIOS[family(case.identity)](on, case.identity.partition("[")[2].removesuffix("]"))
    on.check()
