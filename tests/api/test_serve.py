"""`lambent serve` as a process: the AWS CLI against it, and what is left of it after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.api.asking import PYTHON, ROLE, zipped

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = {"Delay": 0, "MaxAttempts": 10_000}
WHO = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "eu-west-1"}
APP = """
from lambent import Engine

engine = Engine(region="eu-west-1", lease_seconds=1.5)

@engine.function
async def echo(event):
    return event

engine.queue("orders")
"""


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`lambent serve` in this folder, and its URL; it is killed at the end."""
    command = [sys.executable, "-m", "lambent.cli", "serve", *arguments, "--api", "0", "--log-format", "json"]
    environment = {**os.environ, **WHO, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            lines = (json.loads(line) for line in process.stderr)
            yield process, next(line["api"] for line in lines if line["event"] == "serving")
        finally:
            process.kill()


def client(url: str) -> Any:
    config = Config(retries={"max_attempts": 0})
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    return boto3.client("lambda", endpoint_url=url, region_name="eu-west-1", config=config, **keys)


def test_the_aws_cli_walks_the_life_of_a_function(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, url):
        environment = {**os.environ, **WHO, "AWS_ENDPOINT_URL_LAMBDA": url, "AWS_PAGER": "", "HOME": str(tmp_path)}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        script = ROOT / "examples" / "function_life.sh"
        done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alias = "arn:aws:lambda:eu-west-1:000000000000:function:hello:live"
    assert done.stdout.splitlines() == ["Pending", "200", '"Hello Ada"', "10", "1", alias, "204"]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_calls_made_survives_kill_9(kind: str, tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    store = ["--store", redis_url] if kind == "redis" else []
    with serving(tmp_path, "app.py", *store) as (process, url):
        api = client(url)
        code = {"ZipFile": zipped()}
        api.create_function(FunctionName="made", Runtime=PYTHON, Handler="handler.handler", Role=ROLE, Code=code)
        api.get_waiter("function_active_v2").wait(FunctionName="made", WaiterConfig=AT_ONCE)
        api.publish_version(FunctionName="made")
        api.create_alias(FunctionName="made", Name="live", FunctionVersion="1")
        api.put_function_event_invoke_config(FunctionName="made", MaximumRetryAttempts=1)
        queue = "arn:aws:sqs:eu-west-1:000000000000:orders"
        mapping = api.create_event_source_mapping(FunctionName="echo", EventSourceArn=queue)["UUID"]
        before = everything(api, mapping)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with serving(tmp_path, "app.py", *store) as (_, url):
        api = client(url)
        assert everything(api, mapping) == before
        assert invoked(api, FunctionName="echo", Payload=b"[1]") == [1]
        assert json.load(api.invoke(FunctionName="made", Qualifier="live", Payload=b"[2]")["Payload"]) == [2]
        assert before["code"] == zipped()


def test_what_is_created_on_one_server_is_invoked_on_another(tmp_path: Path, redis_url: str) -> None:
    """Two servers of one Redis, each with code in a folder of its own."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    store = ("--store", redis_url)
    (tmp_path / "one" / "app.py").write_text(APP)
    with serving(tmp_path / "one", "app.py", *store) as (_, url), serving(tmp_path / "other", *store) as (_, elsewhere):
        one, other = client(url), client(elsewhere)
        code = {"ZipFile": zipped()}
        one.create_function(FunctionName="made", Runtime=PYTHON, Handler="handler.handler", Role=ROLE, Code=code)
        other.get_waiter("function_active_v2").wait(FunctionName="made", WaiterConfig=AT_ONCE)
        assert json.load(other.invoke(FunctionName="made", Payload=b"[1]")["Payload"]) == [1]
        location = other.get_function(FunctionName="made")["Code"]["Location"]
        assert location.startswith(elsewhere)
        assert urlopen(location, timeout=10).read() == zipped()
        assert invoked(other, FunctionName="echo", Payload=b'"carried"') == "carried", "a callable of the other's code"
        other.delete_function(FunctionName="made")
        with pytest.raises(ClientError, match="ResourceNotFoundException"):
            one.get_function(FunctionName="made")


def invoked(api: Any, **call: Any) -> Any:
    """The value; what the dead engine might run is lent to nobody else until its lease ends, which is a throttle."""
    while True:
        try:
            return json.load(api.invoke(**call)["Payload"])
        except api.exceptions.TooManyRequestsException:
            continue


def everything(api: Any, mapping: str) -> dict[str, Any]:
    found = api.get_function(FunctionName="made")
    return {
        "function": found["Configuration"],
        "code": urlopen(found["Code"]["Location"], timeout=10).read(),
        "versions": [each["RevisionId"] for each in api.list_versions_by_function(FunctionName="made")["Versions"]],
        "aliases": api.list_aliases(FunctionName="made")["Aliases"],
        "events": api.list_function_event_invoke_configs(FunctionName="made")["FunctionEventInvokeConfigs"],
        "source": api.get_event_source_mapping(UUID=mapping)["EventSourceArn"],
    }
