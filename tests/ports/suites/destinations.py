"""What Destination promises, wherever the results go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from lambent.errors import LambentError, StoreUnavailable
from lambent.model import Delivered, Delivery, Refused, Unavailable
from lambent.ports import Destination

from . import Suite, needs

ATTRIBUTES = {"RequestID": "id-1", "ErrorCode": "200", "ErrorMessage": "no such flight: é"}


@dataclass
class Arrival:
    """A record as it lies at the destination: its JSON value, or its text where it is none."""

    record: object
    attributes: Mapping[str, str] = field(default_factory=dict)
    hops: int = 0


class DestinationSuite(Suite):
    """`make` gives a destination; `away` one whose world does not answer now, `hopeless` one that never takes anything
    (each beside what `arrived` looks at). Capabilities: `attributes` and `hops` arrive, `limit` on a record's size."""

    async def make(self) -> Destination:
        raise NotImplementedError

    async def away(self) -> Destination:
        raise NotImplementedError

    async def hopeless(self) -> Destination:
        raise NotImplementedError

    async def arrived(self) -> Sequence[Arrival]:
        """Everything that has arrived, in the order in which it did; told once."""
        raise NotImplementedError

    async def test_a_delivered_record_has_arrived(self) -> None:
        destination = await self.make()
        assert await destination.deliver(b'{"requestContext":{"requestId":"id-1"},"n":1}', {}, 0) == Delivered()
        (arrival,) = await self.arrived()
        assert arrival.record == {"requestContext": {"requestId": "id-1"}, "n": 1}

    async def test_records_arrive_in_the_order_of_their_deliveries(self) -> None:
        destination = await self.make()
        for number in range(10):
            assert await destination.deliver(json.dumps(number).encode(), {}, 0) == Delivered()
        assert [arrival.record for arrival in await self.arrived()] == list(range(10))

    async def test_records_delivered_at_once_all_arrive_whole(self) -> None:
        destination = await self.make()
        records = [{"n": number, "x": "x" * 9000} for number in range(20)]
        answers = await asyncio.gather(*(destination.deliver(json.dumps(each).encode(), {}, 0) for each in records))
        assert set(answers) == {Delivered()}
        arrived = [arrival.record for arrival in await self.arrived()]
        assert len(arrived) == 20
        assert all(each in arrived for each in records)

    async def test_a_record_delivered_twice_arrives_twice(self) -> None:
        destination = await self.make()
        for _ in range(2):
            assert await destination.deliver(b'"again"', {}, 0) == Delivered()
        assert [arrival.record for arrival in await self.arrived()] == ["again", "again"]

    @pytest.mark.parametrize(
        "record",
        [
            '{"é": "\\ud83d\\ude00 \u2028"}',
            '{\n  "n":\r\n 2}',
            "null",
            '"\\n"',
            '{"id": 12345678901234567890.10}',
            "plain text",
        ],
    )
    async def test_any_record_arrives_as_it_is(self, record: str) -> None:
        destination = await self.make()
        assert await destination.deliver(record.encode(), {}, 0) == Delivered()
        (arrival,) = await self.arrived()
        assert arrival.record == value(record)

    @needs("attributes")
    async def test_a_dead_letter_arrives_with_its_attributes(self) -> None:
        destination = await self.make()
        assert await destination.deliver(b'{"n": 1}', ATTRIBUTES, 0) == Delivered()
        (arrival,) = await self.arrived()
        assert (arrival.record, arrival.attributes) == ({"n": 1}, ATTRIBUTES)

    async def test_attributes_never_keep_a_record_from_arriving(self) -> None:
        destination = await self.make()
        assert await destination.deliver(b'{"n": 1}', ATTRIBUTES, 0) == Delivered()
        (arrival,) = await self.arrived()
        assert arrival.record == {"n": 1}

    @needs("hops")
    async def test_the_length_of_the_chain_arrives_with_the_record(self) -> None:
        destination = await self.make()
        assert await destination.deliver(b"{}", {}, 7) == Delivered()
        (arrival,) = await self.arrived()
        assert arrival.hops == 7

    @needs("limit")
    async def test_a_record_that_is_too_large_is_refused_and_one_that_just_fits_is_not(self) -> None:
        destination = await self.make()
        limit: int = destination.maximum_record_bytes  # type: ignore[attr-defined]
        refused = await destination.deliver(b'"' + b"x" * (limit - 1) + b'"', {}, 0)
        assert isinstance(refused, Refused)
        assert str(limit + 1) in refused.reason
        assert not await self.arrived()
        assert await destination.deliver(b'"' + b"x" * (limit - 2) + b'"', {}, 0) == Delivered()
        (arrival,) = await self.arrived()
        assert arrival.record == "x" * (limit - 2)

    async def test_a_destination_that_is_away_has_refused_nothing(self) -> None:
        destination = await self.away()
        for _ in range(2):
            assert isinstance(await answer(destination), Unavailable)
        assert not await self.arrived()

    async def test_a_destination_that_will_never_take_it_says_so_at_once(self) -> None:
        destination = await self.hopeless()
        assert isinstance(await answer(destination), Refused)
        assert not await self.arrived()

    async def test_a_delivery_that_was_cancelled_can_be_made_again(self) -> None:
        destination = await self.make()
        for rounds in range(4):
            delivering = asyncio.ensure_future(destination.deliver(b'"a"', {}, 0))
            for _ in range(rounds):
                await asyncio.sleep(0)
            delivering.cancel()
            await asyncio.wait({delivering})
        await self.arrived()
        assert await destination.deliver(b'"b"', {}, 0) == Delivered()
        assert [arrival.record for arrival in await self.arrived() if arrival.record != "a"] == ["b"]


async def answer(destination: Destination) -> Delivery:
    """What the engine takes an answer for: that the store is away may be raised, and that it never will, too."""
    try:
        return await destination.deliver(b"{}", {}, 0)
    except StoreUnavailable as error:
        return Unavailable(error.message)
    except LambentError as error:
        return Refused(error.message)


def value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
