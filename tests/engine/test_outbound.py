"""Results that leave the engine: files of JSON lines and HTTP endpoints (faults F26 and F56)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from lambent.egress import is_public
from lambent.model import Delivered, Delivery, Refused, Unavailable
from lambent.outbound import MAXIMUM_HTTP_RESPONSE_BYTES, FileDestination, HttpDestination

# --------------------------------------------------------------------------- files


async def in_thread(write: Callable[[], Delivery]) -> Delivery:
    return await asyncio.to_thread(write)


async def test_a_file_grows_by_one_json_line_a_record(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    file = FileDestination(path, in_thread)
    records = [b'{"n": 1}', b'{\n  "n":\r\n 2}', b"not json", b'"\\n"']
    for record in records:
        assert await file.deliver(record, {}, 0) == Delivered()
    assert path.read_bytes().endswith(b"\n")
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [{"n": 1}, {"n": 2}, "not json", "\n"]


async def test_a_dead_letter_stands_in_its_line_beside_its_attributes(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    await FileDestination(path, in_thread).deliver(b'{"n": 1}', {"RequestID": "id-1"}, 0)
    assert json.loads(path.read_text()) == {"attributes": {"RequestID": "id-1"}, "body": {"n": 1}}


async def test_after_a_crash_within_a_line_the_next_record_has_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": ')
    file = FileDestination(path, in_thread)
    await file.deliver(b'{"n": 3}', {}, 0)
    await file.deliver(b'{"n": 4}', {}, 0)
    assert path.read_bytes() == b'{"n": 1}\n{"n": \n{"n": 3}\n{"n": 4}\n'


async def test_records_written_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    writers = [FileDestination(path, in_thread) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for n in range(40):
            group.create_task(writers[n % 4].deliver(json.dumps({"n": n, "x": "x" * 9000}).encode(), {}, 0))
    assert sorted(json.loads(line)["n"] for line in path.read_text().splitlines()) == list(range(40))


async def test_a_file_that_cannot_be_made_refuses(tmp_path: Path) -> None:
    assert isinstance(await FileDestination(tmp_path, in_thread).deliver(b"{}", {}, 0), Refused)
    assert isinstance(await FileDestination(tmp_path / "no" / "file", in_thread).deliver(b"{}", {}, 0), Refused)


if Path("/dev/full").exists():

    async def test_a_full_disk_is_away() -> None:
        assert isinstance(await FileDestination(Path("/dev/full"), in_thread).deliver(b"{}", {}, 0), Unavailable)


# --------------------------------------------------------------------------- HTTP


@asynccontextmanager
async def endpoint(
    respond: Callable[[web.Request], web.StreamResponse],
) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A real server on the loopback: its URL, and the requests it got."""
    requests: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        requests.append(request)
        return respond(request)

    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/results", requests
    finally:
        await runner.cleanup()


async def post(
    url: str, record: bytes = b"{}", attributes: Mapping[str, str] | None = None, private: bool = True
) -> Delivery:
    destination = HttpDestination(url, allow_private=private)
    try:
        return await destination.deliver(record, attributes or {}, 0)
    finally:
        await destination.close()


async def test_an_endpoint_gets_the_record_as_json() -> None:
    async with endpoint(lambda _: web.Response(status=204)) as (url, requests):
        attributes = {"RequestID": "id-1", "ErrorMessage": "no\r\nX: é"}
        assert await post(url, b'{"n": 1}', attributes) == Delivered()
    (request,) = requests
    assert request.method == "POST"
    assert await request.read() == b'{"n": 1}'
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Lambent-RequestID"] == "id-1"
    assert request.headers["Lambent-ErrorMessage"] == "no%0D%0AX: %C3%A9"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Delivered), (202, Delivered), (299, Delivered),
        (301, Refused), (302, Refused), (307, Refused), (308, Refused), (304, Refused),
        (400, Refused), (401, Refused), (404, Refused), (413, Refused),
        (408, Unavailable), (425, Unavailable), (429, Unavailable), (500, Unavailable), (503, Unavailable),
    ],
)  # fmt: skip
async def test_the_status_says_whether_to_try_again(status: int, kind: type) -> None:
    headers = {"Location": "/elsewhere"}
    async with endpoint(lambda _: web.Response(status=status, headers=headers)) as (url, requests):
        assert isinstance(await post(url), kind)
    assert len(requests) == 1  # and no redirect is followed


async def test_an_endpoint_that_answers_too_much_is_not_read_to_the_end() -> None:
    body = b"x" * (100 * MAXIMUM_HTTP_RESPONSE_BYTES)
    async with endpoint(lambda _: web.Response(body=body)) as (url, _):
        assert await post(url) == Delivered()


async def test_an_endpoint_that_is_not_there_is_away() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert isinstance(await post(f"http://127.0.0.1:{port}/"), Unavailable)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::]", "0.0.0.0",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.0.0.1."],
)  # fmt: skip
async def test_no_spelling_of_a_private_address_is_reached(host: str) -> None:
    async with endpoint(lambda _: web.Response()) as (url, requests):
        port = url.rpartition(":")[2]
        answer = await post(f"http://{host}:{port}", private=False)
    assert not isinstance(answer, Delivered)
    assert requests == []


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "192.168.1.1", "[fe80::1]", "[fd00:ec2::254]"])
async def test_a_private_address_is_refused_and_not_tried_again(host: str) -> None:
    assert isinstance(await post(f"http://{host}/latest/meta-data/", private=False), Refused)


async def test_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    answer = await post("http://localhost:9/", private=False)
    assert answer == Refused("localhost: its address is not public (Engine(allow_private_destinations=True) allows it)")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://example.com/", "ftp://example.com/", "http://", "https:///x"]
)
def test_only_http_urls_are_http_destinations(url: str) -> None:
    with pytest.raises(ValueError, match="https://HOST"):
        HttpDestination(url)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("8.8.8.8", True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False), ("127.255.255.254", False), ("0.0.0.0", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("172.31.255.255", False), ("192.168.0.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("198.18.0.1", False), ("192.0.0.192", False), ("224.0.0.1", False),
        ("240.0.0.1", False), ("255.255.255.255", False), ("203.0.113.1", False),
        ("::", False), ("::1", False), ("fe80::1", False), ("fe80::1%eth0", False), ("fc00::1", False),
        ("fd00:ec2::254", False), ("ff02::1", False), ("fec0::1", False), ("2001:db8::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:169.254.169.254", False), ("::127.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False), ("2002:7f00:1::", False), ("2001:0:4136:e378::", False),
        ("2130706433", False), ("127.1", False), ("0x7f.1", False), ("localhost", False), ("", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
