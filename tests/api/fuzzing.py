"""Requests made of botocore's model: each member at its bounds and beyond, and mixtures of all from a seed.

Decides what is sent, and what an answer must look like whatever was sent: no 5xx, AWS's form of an error, members that
the model knows. `python -m tests.api.fuzzing SECONDS [SEED]` goes on for so long.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from lambent import Engine
from lambent.api.refusals import Refusal
from lambent.api.shapes import Operation, Shape, Wire, parse_query
from lambent.model import QueueMapping, StreamMapping
from lambent.stored_mappings import mapping_id
from lambent.telemetry import Level, Telemetry
from tests.api.asking import ROLE, Api, Reply, api_of, carried, zipped

NAMES = ["declared", "made", "made:1", "made:live", "nothing", "arn:aws:lambda:us-east-1:111111111111:function:made"]
QUALIFIERS = ["$LATEST", "1", "2", "live", "other"]
MAPPINGS = [  # what has an id that is known before
    mapping_id(kind(source=source, function="made", qualifier=qualifier))
    for kind, source in ((QueueMapping, "queue:queue"), (StreamMapping, "stream:stream"))
    for qualifier in ("$LATEST", "1", "live")
]
LAYERS = ["arn:aws:lambda:us-east-1:111111111111:layer:layer:1", "arn:aws:lambda:us-east-1:111111111111:layer:layer:2"]
ZIP = base64.b64encode(zipped()).decode()
SEEDS = {  # what makes requests get further than their check
    "FunctionName": NAMES,
    "Qualifier": QUALIFIERS,
    "Name": ["live", "other"],
    "FunctionVersion": ["1", "$LATEST", "2"],
    "Role": [ROLE],
    "Runtime": ["python3.11", "provided.al2023", "nodejs22.x"],
    "Handler": ["handler.handler"],
    "ZipFile": [ZIP],
    "EventSourceArn": [
        "arn:aws:sqs:us-east-1:111111111111:queue", "arn:aws:kinesis:us-east-1:111111111111:stream/stream",
        "arn:aws:sqs:us-east-1:111111111111:nothing", "arn:aws:dynamodb:us-east-1:111111111111:table/t/stream/s",
    ],
    "Destination": ["arn:aws:sqs:us-east-1:111111111111:queue", "arn:aws:lambda:us-east-1:111111111111:function:made"],
    "TargetArn": ["arn:aws:sqs:us-east-1:111111111111:queue", ""],
    "Resource": [
        "arn:aws:lambda:us-east-1:111111111111:function:made",
        *(f"arn:aws:lambda:us-east-1:111111111111:event-source-mapping:{each}" for each in MAPPINGS),
    ],
    "UUID": MAPPINGS,
    "LayerName": ["layer", "other", "arn:aws:lambda:us-east-1:111111111111:layer:layer"],
    "VersionNumber": [1, 2, 9],
    "Arn": LAYERS,
    "Layers": [LAYERS[:1], LAYERS, []],
    "UpdateRuntimeOn": ["Auto", "Manual", "FunctionUpdate"],
    "StartingPosition": ["LATEST", "TRIM_HORIZON"],
    "Pattern": ['{"body": {"a": [1]}}', "{}", "no"],
    "Payload": [b"{}", b"", b'{"a": 1}', b"nope", b"n\x87r", b"\xc0\xc0\x80", b'"\xff"'],
    "RevisionId": ["00000000-0000-4000-8000-000000000000"],
}  # fmt: skip
TEXTS = ["", " ", "x", "é", "\U0001f600", "a" * 200, "a\nb", "\x00", "..", "/", "%2e", "$LATEST", "-1", "*", "null"]
NUMBERS = [-(2**63), -1, 0, 1, 2, 3, 10, 100, 2**31, 10**30, 0.5, 1e308]
WRONG: list[Any] = [None, True, 0, 1.5, "", "text", [], [None], {}, {"": None}]


def bounds(shape: Shape, depth: int = 0) -> list[Any]:
    """Values of a shape at its bounds and beside them, as JSON."""
    low, high = shape.model.get("min"), shape.model.get("max")
    if shape.type in ("integer", "long", "double", "float"):
        near = [each + step for each in (low, high) if each is not None for step in (-1, 0, 1)]
        return [*near, *NUMBERS, "1", None, True]
    if shape.type == "string":
        sizes = {each + step for each in (low or 0, min(high or 64, 11_000)) for step in (-1, 0, 1)}
        return [*("a" * size for size in sorted(sizes) if size >= 0), *shape.model.get("enum", ())[:3], *TEXTS, 1, []]
    if shape.type == "blob":
        return [ZIP, "", "no base64", base64.b64encode(b"no zip").decode(), 1]
    if shape.type == "timestamp":
        return [0, 1.5, -1, 1e12, 10**30, "text"]
    if shape.type == "boolean":
        return [True, False, "true", 1, None]
    if shape.type == "list" and shape.member is not None and depth < 3:
        items = bounds(shape.member, depth + 1)[:6]
        return [[], items[:1], items, items[:1] * ((high or 10) + 1 if (high or 10) < 200 else 11), {}, "text", [None]]
    if shape.type == "map" and shape.key is not None and shape.member is not None and depth < 3:
        keys = [each for each in bounds(shape.key, depth + 1) if isinstance(each, str)]
        values = bounds(shape.member, depth + 1)
        pairs = dict(zip(keys, values, strict=False))
        return [{}, pairs, dict(list(pairs.items())[:1]), [], "text", {"a": None}]
    if shape.type == "structure" and depth < 3:
        return [{}, [], "text", {"unknown": 1}, *(
            {member.wire: value} for member in shape.members.values() for value in bounds(member.shape, depth + 1)[:8]
        )]  # fmt: skip
    return WRONG


def valid(operation: Operation, chance: random.Random) -> dict[str, Any]:
    """Members that pass the check, as far as they are known."""
    return {name: _good(name, operation.input.members[name].shape, chance) for name in operation.input.required}


def _good(name: str, shape: Shape, chance: random.Random) -> Any:
    if name in SEEDS:
        return chance.choice(SEEDS[name])
    if shape.model.get("enum"):
        return chance.choice(shape.model["enum"])
    low = shape.model.get("min") or 0
    match shape.type:
        case "integer" | "long" | "double":
            return max(low, 1)
        case "string":
            return "a" * max(low, 3)
        case "blob":
            return ZIP
        case "boolean":
            return chance.random() < 0.5
        case "list":
            assert shape.member is not None
            return [_good("", shape.member, chance)]
        case "map":
            return {"a": "b"}
        case "structure":
            return {
                member.wire: _good(each, member.shape, chance)
                for each, member in shape.members.items()
                if each in shape.required or (each in SEEDS and chance.random() < 0.7)
            }
    return 1


def all_bounds(wire: Wire) -> Iterator[tuple[Operation, dict[str, Any]]]:
    """Each member of each operation at each of its bounds, the others valid."""
    chance = random.Random(1)
    for operation in wire.operations.values():
        for name, member in operation.input.members.items():
            if name == operation.payload:
                continue
            for value in bounds(member.shape):
                yield operation, {**valid(operation, chance), name: value}


def mixture(wire: Wire, chance: random.Random) -> tuple[Operation, dict[str, Any]]:
    """An operation with some members, most of them good."""
    operation = chance.choice(list(wire.operations.values()))
    params = valid(operation, chance)
    for name, member in operation.input.members.items():
        draw = chance.random()
        if name != operation.payload and draw < 0.15:
            params[name] = chance.choice(bounds(member.shape))
        elif draw < 0.5 and (name in SEEDS or member.shape.model.get("enum")):
            params[name] = _good(name, member.shape, chance)
    if chance.random() < 0.05 and params:
        params.pop(chance.choice(list(params)))
    return operation, params


def check(wire: Wire, operation: Operation, reply: Reply) -> str | None:
    """What is wrong with an answer, whatever was asked."""
    if reply.operation:  # an empty part of a path makes another operation of it
        operation = wire.operations[reply.operation]
    if reply.status >= 500:
        return f"{reply.status}: {reply.body[:300]!r}"
    if not reply.headers.get("x-amzn-requestid"):
        return "no request id"
    if reply.status < 400:
        if reply.error is not None:
            return "a success with an error's header"
        return None if operation.answer_payload or not reply.body else _unknown(operation.output, reply.document)
    document = reply.document
    status, called = wire.errors.get(reply.error or "", (reply.status, None))
    if status != reply.status:
        return f"{reply.error} with status {reply.status}"
    named = {"message", "Message"} & document.keys()
    if len(named) != 1 or (called is not None and named != {called}):
        return f"{reply.error} has its message in {sorted(named)}"
    if document.keys() - {"message", "Message", "Type", "Reason"} or document.get("Type", "User") != "User":
        return f"{reply.error} has {sorted(document)}"
    return None


def _unknown(shape: Shape, document: Any) -> str | None:
    known = {member.wire for member in shape.members.values() if not member.location}
    if not isinstance(document, dict) or document.keys() - known:
        return f"an answer with {sorted(document)}, which the model does not know"
    shape.read(document)
    return None


async def send(api: Api, operation: Operation, params: dict[str, Any]) -> Reply:
    """One request; values that no client could write stand where they fit."""
    method, path, query, body, headers = carried(operation, params)
    headers = {name: value for name, value in headers.items() if "\n" not in value and "\x00" not in value}
    headers = {name: value.encode("latin-1", "replace").decode("latin-1") for name, value in headers.items()}
    reply = await api.request(method, path, query, body, headers)
    with suppress(Refusal):
        reply.operation = api.wire.route(method, path.encode(), parse_query(query.encode()))[0].name
    return reply


class _Silent(Telemetry):
    """Says nothing: thousands of requests would be thousands of lines."""

    def log(self, level: Level, event: str, **fields: object) -> None:
        pass


def make_engine(**options: Any) -> Engine:
    """One with a function, a queue and a stream."""
    engine = Engine(
        account_id="111111111111", seed=1, watchdog_seconds=0, api_trail_seconds=0, telemetry=_Silent(), **options
    )

    @engine.function
    async def declared(event: Any) -> Any:
        return event

    engine.queue("queue", visibility_timeout_seconds=900)
    engine.stream("stream")
    return engine


async def prepare(api: Api) -> None:
    """A function that a call made, with a version and an alias."""
    made = await api.ask(
        "CreateFunction", FunctionName="made", Role=ROLE, Runtime="python3.11", Handler="a.b", Code={"ZipFile": ZIP}
    )
    assert made.status in (201, 409), made
    await asyncio.sleep(0)
    await api.ask("PublishVersion", FunctionName="made")
    await api.ask("CreateAlias", FunctionName="made", Name="live", FunctionVersion="1")


async def hunt(seconds: float, seed: int) -> int:
    """Mixtures until the time is over; says what was wrong, and gives how often."""
    chance = random.Random(seed)
    found = Counter[str]()
    sent, began = 0, time.monotonic()
    engine = make_engine(state_change_seconds=0.0)
    async with engine:
        api = api_of(engine)
        while time.monotonic() - began < seconds:
            if sent % 500 == 0:
                await prepare(api)
            operation, params = mixture(api.wire, chance)
            wrong = check(api.wire, operation, await send(api, operation, params))
            if wrong is not None:
                found[f"{operation.name}: {wrong}"] += 1
                print(f"{operation.name} {json.dumps(params, default=str)[:2000]}\n  {wrong}", flush=True)
            sent += 1
    print(f"{sent} requests of seed {seed}, {sum(found.values())} wrong answers")
    return sum(found.values())


if __name__ == "__main__":
    numbers = [*sys.argv[1:], "60", "1"]
    sys.exit(asyncio.run(hunt(float(numbers[0]), int(numbers[1]))) > 0)
