"""kill -9 of `lambent serve`, or of its Redis server, while boto3 changes functions: what was acknowledged is there.

    python -m tests.durability.changes --store redis --kills 100

Decides what clients ask of Lambda's API, when what they talk to dies, and what must be there when it is back: each
acknowledged change of functions, their code, versions, aliases, settings, mappings and layers, and of each change that
was not answered all or nothing, as `ledger.py` judges. Only boto3 looks; how a store keeps all that is its own affair.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, ReadTimeoutError

from tests.api.asking import PYTHON, ROLE, zipped
from tests.durability.ledger import Changes, Ledger
from tests.servers.redis import RedisProcess, free_port, running

STORES = ("sqlite", "redis")
OPERATIONS = {
    *("create_function", "update_function_code", "update_function_configuration", "publish_version", "delete_function"),
    *("create_alias", "update_alias", "delete_alias", "tag_resource", "publish_layer_version", "delete_layer_version"),
    *("put_function_concurrency", "delete_function_concurrency"),
    *("put_function_event_invoke_config", "delete_function_event_invoke_config"),
    *("create_event_source_mapping", "update_event_source_mapping", "delete_event_source_mapping"),
}
CLIENTS = 4
FUNCTIONS = 2  # of each client, with names that come back after they were deleted
MAXIMUM_CALLS = 40  # of all clients, before something dies
EARLY = 0.2  # of the kills of a server come while it starts
START_SECONDS = 0.8
ANSWER_SECONDS = 0.5  # that a command of Redis is waited for
PATIENCE_SECONDS = 30.0  # for any answer
REGION = "eu-west-1"
ARN = f"arn:aws:lambda:{REGION}:000000000000:function:"
ORDERS = f"arn:aws:sqs:{REGION}:000000000000:orders"
APP = f"""
from lambent import Engine

engine = Engine(region="{REGION}", state_change_seconds=0, lease_seconds=1.5)
engine.queue("orders")
"""

Call = tuple[str, dict[str, Any], Changes]
"""An operation of boto3's client, its members, and what it leads to."""


@dataclass
class Found:
    """What came of it. `problems` are broken promises, each a sentence."""

    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    came: int = 0  # of the changes that were not answered
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        acknowledged, unanswered = self.acknowledged.total(), self.unanswered.total()
        calls = f"acknowledged {acknowledged}, unanswered {unanswered} of which {self.came} came"
        return f"{dict(self.kills)}, {calls}; {len(self.problems)} broken promises"


class Unanswered(Exception):
    """Whether a call was performed is not known."""


class Place:
    """`lambent serve` on a store, and where to ask it."""

    def __init__(self, directory: Path, redis: RedisProcess | None) -> None:
        self.redis = redis
        self.api = _client(port := free_port())
        self._log = directory / "log"
        store = f"{redis.url}?timeout={ANSWER_SECONDS}" if redis else f"sqlite:///{directory / 'lambent.db'}"
        (app := directory / "app.py").write_text(APP)
        serve = [sys.executable, "-m", "lambent.cli", "serve", str(app)]
        self._command = [*serve, "--store", store, "--api", str(port)]

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.server = subprocess.Popen(self._command, stdout=log, stderr=log)

    def await_answer(self) -> None:
        """Of the server and of its store."""
        for _ in range(int(PATIENCE_SECONDS / 0.02)):
            with contextlib.suppress(Unanswered):
                asked(self.api.list_functions)
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.wait(0.02)
                break
        raise AssertionError(f"the server does not answer:\n{self._log.read_text()[-3000:]}")

    def kill(self, chance: random.Random) -> str:
        """The server, or its store, or both; what died is begun again. Returns which."""
        what = "server" if self.redis is None else chance.choice(["server", "store", "both"])
        if what != "server":
            assert self.redis is not None
            self.redis.kill()
        if what != "store":
            self.server.kill()
            self.server.wait()
        if what != "server":
            assert self.redis is not None
            self.redis.start()
        if what != "store":
            self.start()
            while chance.random() < EARLY:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.server.wait(chance.uniform(0.0, START_SECONDS))
                self.server.kill()
                self.server.wait()
                self.start()
        return what

    def stop(self) -> int:
        """As an administrator would; its status."""
        self.server.send_signal(signal.SIGTERM)
        return self.server.wait(PATIENCE_SECONDS)


class Clerk:
    """A client that changes functions and a layer of its own, and keeps in mind what it was told."""

    def __init__(self, name: str, api: Any, chance: random.Random, found: Found) -> None:
        self.ledger = Ledger()
        self.functions = [f"{name}-{number}" for number in range(FUNCTIONS)]
        self._layer = f"{name}-layer"
        self._api = api
        self._chance = chance
        self._found = found
        self._numbers = itertools.count(1)
        self._codes: dict[str, int] = {}  # what the functions of a zip answer, by its hash
        self._last: dict[str, int] = {}  # the highest number of a version that there was
        self._mappings: dict[str, str] = {}  # ids

    # --- working

    def work(self, called: Callable[[], None], over: threading.Event) -> None:
        """Call until a call is not answered, or it is over. `called`: to be told of each, before and after it."""
        while not over.is_set():
            operation, members, changes = self._call()
            number = self.ledger.began(changes)
            called()
            try:
                answer = asked(getattr(self._api, operation), **members)
            except Unanswered as error:
                self._found.unanswered[operation] += 1
                if not over.is_set():
                    self.problem(f"{operation} {members} was not answered, though nothing had died: {error}")
                return
            except ClientError as error:
                self.problem(f"{operation} {members} was refused: {error}")
                return
            self.ledger.done(number)
            self._found.acknowledged[operation] += 1
            called()
            if "EventSourceArn" in members and "UUID" not in answer:
                return  # boto3 takes an answer for whole that was cut off after its head: `look` finds the id
            self._learned(members, answer)

    def problem(self, text: str) -> None:
        self._found.problems.append(text)

    def _call(self) -> Call:
        chance, states = self._chance, self.ledger.states
        if chance.random() < 0.1:
            return self._layer_call()
        name = chance.choice(self.functions)
        if name not in states:
            return self._creation(name)
        mapping = self._mapping_calls(name)
        calls = [self._code(name), self._configuration(name), *self._publication(name), *self._aliases(name), *mapping]
        calls += [*self._settings(name), self._tags(name)]
        if len(mapping) == 1 and chance.random() < 0.5:  # it has none
            gone = dict.fromkeys(key for key in states if key.split()[0] == name)
            calls.append(("delete_function", {"FunctionName": name}, gone))
        return chance.choice(calls)

    def _creation(self, name: str) -> Call:
        self._last[name] = 0
        members, content = self._content(name, True, True)
        tag = str(next(self._numbers))
        changes = {name: content, f"{name} tags": tag}
        if publish := self._chance.random() < 0.5:
            changes[f"{name} version 1"] = content
        constant = {"Runtime": PYTHON, "Handler": "handler.handler", "Role": ROLE, "Tags": {"n": tag}}
        code = {"ZipFile": members.pop("ZipFile")}
        return "create_function", {**members, **constant, "Code": code, "Publish": publish}, changes

    def _code(self, name: str) -> Call:
        members, content = self._content(name, True, False)
        changes = {name: content}
        if publish := self._chance.random() < 0.5:
            changes[self._next(name)] = content
        return "update_function_code", {**members, "Publish": publish}, changes

    def _configuration(self, name: str) -> Call:
        members, content = self._content(name, False, True)
        return "update_function_configuration", members, {name: content}

    def _publication(self, name: str) -> Sequence[Call]:
        states = self.ledger.states
        if states.get(f"{name} version {self._last[name]}") == states[name]:
            return []  # nothing changed: there would be no other one
        return [("publish_version", {"FunctionName": name}, {self._next(name): states[name]})]

    def _aliases(self, name: str) -> Iterator[Call]:
        states, chance = self.ledger.states, self._chance
        versions = [key.split()[2] for key in states if key.startswith(f"{name} version ")]
        pointing = {json.loads(states[key])[0] for key in states if key.startswith(f"{name} alias ")}
        alias = chance.choice(["live", "next"])
        key = f"{name} alias {alias}"
        if versions:
            version, said = chance.choice(versions), str(next(self._numbers))
            members = {"FunctionName": name, "Name": alias, "FunctionVersion": version, "Description": said}
            yield "update_alias" if key in states else "create_alias", members, {key: json.dumps([version, said])}
        if key in states:
            yield "delete_alias", {"FunctionName": name, "Name": alias}, {key: None}
        if free := [each for each in versions if each not in pointing]:
            version = chance.choice(free)
            yield "delete_function", {"FunctionName": name, "Qualifier": version}, {f"{name} version {version}": None}

    def _settings(self, name: str) -> Iterator[Call]:
        chance, named = self._chance, {"FunctionName": name}
        if f"{name} reserved" in self.ledger.states:
            yield "delete_function_concurrency", named, {f"{name} reserved": None}
        else:
            most = chance.randint(0, 5)
            members = {**named, "ReservedConcurrentExecutions": most}
            yield "put_function_concurrency", members, {f"{name} reserved": str(most)}
        if f"{name} events" in self.ledger.states and chance.random() < 0.5:
            yield "delete_function_event_invoke_config", named, {f"{name} events": None}
        else:
            tries, age = chance.randint(0, 2), chance.randint(60, 21600)
            members = {**named, "MaximumRetryAttempts": tries, "MaximumEventAgeInSeconds": age}
            yield "put_function_event_invoke_config", members, {f"{name} events": json.dumps([tries, age])}

    def _tags(self, name: str) -> Call:
        tag = str(next(self._numbers))
        return "tag_resource", {"Resource": ARN + name, "Tags": {"n": tag}}, {f"{name} tags": tag}

    def _mapping_calls(self, name: str) -> Sequence[Call]:
        key, chance = f"{name} mapping", self._chance
        size, enabled = chance.randint(1, 10), chance.random() < 0.5
        members, state = {"BatchSize": size, "Enabled": enabled}, {key: json.dumps([size, enabled])}
        if key not in self.ledger.states:
            created = {"FunctionName": name, "EventSourceArn": ORDERS, **members}
            return [("create_event_source_mapping", created, state)]
        named = {"UUID": self._mappings[name]}
        return [
            ("update_event_source_mapping", {**named, **members}, state),
            ("delete_event_source_mapping", named, {key: None}),
        ]

    def _layer_call(self) -> Call:
        there = [key for key in self.ledger.states if key.startswith(self._layer)]
        if there and self._chance.random() < 0.4:
            key = self._chance.choice(there)
            members = {"LayerName": self._layer, "VersionNumber": int(key.split()[2])}
            return "delete_layer_version", members, {key: None}
        zip_file = zipped(f"n = {next(self._numbers)}\n", "python/n.py")
        members = {"LayerName": self._layer, "Content": {"ZipFile": zip_file}}
        return "publish_layer_version", members, {self._next(self._layer): _sha256(zip_file)}

    def _content(self, name: str, code: bool, configuration: bool) -> tuple[dict[str, Any], str]:
        """Members that change the one, the other or both, and how the function is then."""
        number, members = next(self._numbers), dict[str, Any]()
        before = self.ledger.states.get(name, "[]")
        said, memory, sha256 = json.loads(before) if before != "[]" else ("", 0, "")
        if configuration:
            said, memory = f"number {number}", self._chance.randint(128, 512)
            members |= {"Description": said, "MemorySize": memory, "Environment": {"Variables": {"SAID": said}}}
        if code:
            members["ZipFile"] = zipped(f"def handler(event, context):\n    return {number}\n")
            sha256 = _sha256(members["ZipFile"])
            self._codes[sha256] = number
        return {"FunctionName": name, **members}, json.dumps([said, memory, sha256])

    def _next(self, name: str) -> str:
        return f"{name} version {self._last.get(name, 0) + 1}"

    def _learned(self, members: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """What only an answer tells."""
        if "EventSourceArn" in members:
            self._mappings[members["FunctionName"]] = answer["UUID"]
        self._count(self.ledger.states)

    def _count(self, states: Mapping[str, str]) -> None:
        for key in states:
            if " version " in key:
                name, _, number = key.split()
                self._last[name] = max(self._last.get(name, 0), int(number))

    # --- looking

    def look(self) -> None:
        """What was acknowledged is there, and of what was not answered all or nothing."""
        before = dict(self.ledger.states)
        found = dict(self._layers())
        for name in self.functions:
            found |= self._function(name)
        problems = self.ledger.check(found)
        self._found.came += self.ledger.states != before
        self._found.problems += problems
        self._count(found)

    def _function(self, name: str) -> Iterator[tuple[str, str]]:
        """Also of one that is not there: nothing may be left of it."""
        named, api = {"FunctionName": name}, self._api
        if whole := _there(api.get_function, **named):
            yield name, self._shown(name, whole)
            yield f"{name} tags", whole["Tags"]["n"]
            if "Concurrency" in whole:
                yield f"{name} reserved", str(whole["Concurrency"]["ReservedConcurrentExecutions"])
        for each in _all(api.list_versions_by_function, "Versions", **named):
            if each["Version"] != "$LATEST":
                yield f"{name} version {each['Version']}", _state(each)
        for each in _all(api.list_aliases, "Aliases", **named):
            yield f"{name} alias {each['Name']}", json.dumps([each["FunctionVersion"], each["Description"]])
        for each in _all(api.list_function_event_invoke_configs, "FunctionEventInvokeConfigs", **named):
            limits = [each["MaximumRetryAttempts"], each["MaximumEventAgeInSeconds"]]
            yield f"{name} events", json.dumps(limits)
        for each in _all(api.list_event_source_mappings, "EventSourceMappings"):
            if each["FunctionArn"] == ARN + name:
                self._mappings[name] = each["UUID"]
                enabled = each["State"] in ("Creating", "Enabling", "Enabled")
                yield f"{name} mapping", json.dumps([each["BatchSize"], enabled])

    def _layers(self) -> Iterator[tuple[str, str]]:
        for each in _all(self._api.list_layer_versions, "LayerVersions", LayerName=self._layer):
            number = each["Version"]
            content = asked(self._api.get_layer_version, LayerName=self._layer, VersionNumber=number)["Content"]
            self._check_code(f"{self._layer} {number}", content)
            yield f"{self._layer} version {number}", content["CodeSha256"]

    def _shown(self, what: str, whole: Mapping[str, Any]) -> str:
        self._check_code(what, {**whole["Code"], "CodeSha256": whole["Configuration"]["CodeSha256"]})
        return _state(whole["Configuration"])

    def _check_code(self, what: str, content: Mapping[str, Any]) -> None:
        with urlopen(content["Location"], timeout=PATIENCE_SECONDS) as answer:
            if _sha256(answer.read()) != content["CodeSha256"]:
                self.problem(f"the code of {what} is not what it says")

    def audit(self) -> None:
        """At the end: each version's code is whole, and what is called answers as its code says."""
        states = self.ledger.states
        for key, state in states.items():
            name, kind, qualifier = [*key.split(), "", ""][:3]
            if name not in self.functions or kind not in ("", "version", "alias"):
                continue
            named = {"FunctionName": name, **({"Qualifier": qualifier} if kind else {})}
            if kind == "version" and self._shown(key, asked(self._api.get_function, **named)) != state:
                self.problem(f"{key} is listed as {state}, and not shown so")
            if kind == "version" or states.get(f"{name} reserved") == "0":
                continue
            content = states[f"{name} version {json.loads(state)[0]}"] if kind else state
            answer = json.load(_called(self._api, **named)["Payload"])
            if answer != self._codes[json.loads(content)[2]]:
                self.problem(f"{key} answers {answer}, which is not what its code says")


def changes(store: str, kills: int, seed: int, tell: Callable[[str], None] = lambda line: None) -> Found:
    """So many kills, at moments that depend on the seed and on the machine."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as closing:
        redis = closing.enter_context(running(Path(directory) / "redis", "always")) if store == "redis" else None
        place = Place(Path(directory), redis)
        place.start()
        try:
            return _changes(place, kills, random.Random(seed), tell)
        finally:
            place.server.kill()
            place.server.wait()


def _changes(place: Place, kills: int, chance: random.Random, tell: Callable[[str], None]) -> Found:
    found = Found()
    clerks = [Clerk(f"f{number}", place.api, random.Random(chance.random()), found) for number in range(CLIENTS)]
    place.await_answer()
    with ThreadPoolExecutor(CLIENTS) as threads:

        def each(does: Callable[[Clerk], None]) -> None:
            for done in [threads.submit(does, clerk) for clerk in clerks]:
                done.result()

        for number in range(1, kills + 1):
            over, calls = threading.Event(), threading.Semaphore(0)
            working = [threads.submit(clerk.work, calls.release, over) for clerk in clerks]
            for _ in range(chance.randint(1, 2 * MAXIMUM_CALLS)):
                calls.acquire(timeout=PATIENCE_SECONDS)
            over.set()
            found.kills[place.kill(chance)] += 1
            for done in working:
                done.result()
            place.await_answer()
            each(Clerk.look)
            if found.problems:
                break
            if number % 10 == 0:
                tell(str(found))
        each(Clerk.audit)
    listed = {name["FunctionName"] for name in _all(place.api.list_functions, "Functions")}
    known = {name for clerk in clerks for name in clerk.functions if name in clerk.ledger.states}
    if listed != known:
        found.problems.append(f"functions that nobody knows, or that are not listed: {sorted(listed ^ known)}")
    if status := place.stop():
        found.problems.append(f"told to end, the server ended with status {status}")
    return found


def asked(call: Callable[..., Any], **members: Any) -> Any:
    """The answer. Raises ClientError for a refusal, Unanswered if nobody knows whether it was done."""
    try:
        return call(**members)
    except ReadTimeoutError as error:
        raise AssertionError(f"{members} hangs: {error}") from error
    except (ConnectionError, HTTPClientError) as error:
        raise Unanswered(str(error)) from error
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise Unanswered(str(error)) from error
        raise


def _there(call: Callable[..., Any], **members: Any) -> dict[str, Any]:
    """Nothing if there is no such thing."""
    try:
        answer: dict[str, Any] = asked(call, **members)
        return answer
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return {}
        raise


def _all(call: Callable[..., Any], items: str, **members: Any) -> Iterator[dict[str, Any]]:
    """Of all pages."""
    marker: dict[str, str] = {}
    while True:
        answer = _there(call, **members, **marker)
        yield from answer.get(items, ())
        if not answer.get("NextMarker"):
            return
        marker = {"Marker": answer["NextMarker"]}


def _called(api: Any, **members: Any) -> dict[str, Any]:
    """What a dead server might run is lent to nobody else until its lease ends, which is a throttle."""
    while True:
        try:
            answer: dict[str, Any] = asked(api.invoke, **members)
            return answer
        except api.exceptions.TooManyRequestsException:
            continue


def _state(found: Mapping[str, Any]) -> str:
    """A configuration, as far as calls change it: whole only if its parts are of the same call."""
    said = found["Description"] if found["Environment"]["Variables"]["SAID"] == found["Description"] else "torn"
    return json.dumps([said, found["MemorySize"], found["CodeSha256"]])


def _sha256(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _client(port: int) -> Any:
    config = Config(
        retries={"max_attempts": 0}, connect_timeout=5, read_timeout=PATIENCE_SECONDS, max_pool_connections=2 * CLIENTS
    )
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    return boto3.client("lambda", endpoint_url=f"http://127.0.0.1:{port}", region_name=REGION, config=config, **keys)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = changes(given.store, given.kills, given.seed, print)
    print(found, *found.problems[:20], sep="\n  ")
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
