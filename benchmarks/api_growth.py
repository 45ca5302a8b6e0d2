"""10,000 functions, and 1,000 versions of one: does the API go on as it began?

Decides the bounds that `make bench` holds: what a function or a version costs must not depend on how many there are,
and what is asked of all functions must not read them. The server is that of `api.py`, on SQLite and on a real Redis
that syncs; all functions have the same code, which is kept once. One caller, one call after the other.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.api import FUNCTIONS, SIGNED
from benchmarks.api import server as serving
from benchmarks.redis_server import redis
from benchmarks.redis_server import server as redis_binary
from benchmarks.table import Row, median, show

THOUSAND = 1000
VERSIONS = 1000
HUNDRED = 100
CALLS = 30  # of what is asked of all functions
LEAST_OF_FIRST = 0.5  # disks have moods
MOST_OF_FIRST = 4.0  # a thousand references are gone through; with all versions in one document it would be 20
MOST_OF_ONE = 50.0  # times a call that reads one function: 10,000 names are gone through, and no document

Call = Callable[..., Any]


def caller(url: str) -> Call:
    """Asks and gives the answer's document."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def call(method: str, path: str, document: object = None) -> Any:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, {"Authorization": SIGNED})
        answer = connection.getresponse()
        told = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {told.decode()}")
        return json.loads(told or b"{}")

    return call


def creations(call: Call) -> list[float]:
    """Functions a second, thousand by thousand."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("handler.py", "def handler(event, context):\n    return event\n")
    code = base64.b64encode(held.getvalue()).decode()
    document = {"Runtime": "python3.12", "Handler": "handler.handler", "Code": {"ZipFile": code}}
    document["Role"] = "arn:aws:iam::000000000000:role/any"
    rates, began = [], time.monotonic()
    for number in range(1, FUNCTIONS + 1):
        call("POST", "/2015-03-31/functions", {**document, "FunctionName": f"made{number}"})
        if number % THOUSAND == 0:
            now = time.monotonic()
            rates.append(THOUSAND / (now - began))
            began = now
    return rates


def publications(call: Call) -> list[float]:
    """Milliseconds of each PublishVersion of one function, which is changed before each."""
    function, took = "/2015-03-31/functions/made1", []
    for number in range(VERSIONS):
        call("PUT", f"{function}/configuration", {"Description": f"number {number}"})
        began = time.monotonic()
        call("POST", f"{function}/versions", {})
        took.append((time.monotonic() - began) * 1000)
    return took


def asked(call: Call, method: str, path: str, document: object = None) -> float:
    """Milliseconds of a call, as a rule."""
    took = []
    for _ in range(CALLS):
        began = time.monotonic()
        call(method, path, document)
        took.append((time.monotonic() - began) * 1000)
    return median(took)


def growth(url: str, store: str) -> list[Row]:
    """Of a server on this store."""
    call = caller(url)
    rates = creations(call)
    one = asked(call, "GET", "/2015-03-31/functions/made2")
    reservation = {"ReservedConcurrentExecutions": 1}
    of_all = {
        "GetAccountSettings": asked(call, "GET", "/2016-08-19/account-settings"),
        "ListFunctions, 50 of them": asked(call, "GET", "/2015-03-31/functions"),
        "PutFunctionConcurrency": asked(call, "PUT", "/2017-10-31/functions/made2/concurrency", reservation),
    }
    took = publications(call)
    first, last = median(took[:HUNDRED]), median(took[-HUNDRED:])
    return [
        Row(f"CreateFunction on {store}, the first thousand of 10,000", rates[0], "per s"),
        Row("  the last thousand, by the first", rates[-1] / rates[0], "times", least=LEAST_OF_FIRST),
        Row("  with 10,000, GetFunction", one, "ms"),
        *(Row(f"  {name}, by GetFunction", each / one, "times", most=MOST_OF_ONE) for name, each in of_all.items()),
        Row(f"PublishVersion on {store}, the first hundred of 1,000", first, "ms"),
        Row("  the last hundred, by the first", last / first, "times", most=MOST_OF_FIRST),
    ]


def rows() -> list[Row]:
    with serving("async") as url:
        found = growth(url, "SQLite")
    if (binary := redis_binary()) is None:
        return [*found, Row("api_growth: no redis-server is here", 0.0, "")]
    with tempfile.TemporaryDirectory() as files, redis(binary, files) as store, serving(f"{store}/0") as url:
        return [*found, *growth(url, "Redis")]


if __name__ == "__main__":
    sys.exit(show(rows()))
