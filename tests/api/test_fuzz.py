"""Whatever is asked of the API, it answers in AWS's form: values of botocore's model at their bounds and beyond."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lambent.api.shapes import Operation
from tests.api import fuzzing
from tests.api.asking import Api, api_of
from tests.api.fuzzing import check, hunt, make_engine, mixture, prepare, send

REQUESTS = 1000


async def wrong(api: Api, requests: list[tuple[Operation, dict[str, Any]]]) -> list[str]:
    found = []
    for operation, params in requests:
        what = check(api.wire, operation, await send(api, operation, params))
        if what is not None:
            found.append(f"{operation.name} {str(params)[:500]}: {what}")
    return found


async def test_every_member_at_its_bounds_and_beyond_gets_an_answer_in_awss_form() -> None:
    engine = make_engine(state_change_seconds=0.0)
    async with engine:
        api = api_of(engine)
        await prepare(api)
        requests = list(fuzzing.all_bounds(api.wire))
        assert len(requests) > 5000
        assert not await wrong(api, requests)


async def test_any_mixture_of_members_gets_an_answer_in_awss_form() -> None:
    chance = random.Random(7)
    engine = make_engine(state_change_seconds=0.0)
    async with engine:
        api = api_of(engine)
        await prepare(api)
        assert not await wrong(api, [mixture(api.wire, chance) for _ in range(REQUESTS)])


async def test_a_wrong_answer_is_found_out() -> None:
    engine = make_engine()
    async with engine:
        api = api_of(engine)
        reply = await api.ask("GetFunction", FunctionName="nothing")
        operation = api.wire.operations["GetFunction"]
        assert check(api.wire, operation, reply) is None
        reply.body = reply.body.replace(b"Message", b"message")
        assert check(api.wire, operation, reply) == "ResourceNotFoundException has its message in ['message']"


@pytest.mark.night
async def test_a_night_of_mixtures_gets_answers_in_awss_form() -> None:
    assert await hunt(1200.0, random.SystemRandom().randrange(2**32)) == 0
