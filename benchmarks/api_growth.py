"""10,000 CreateFunction over the API, one after the other: is the last thousand as fast as the first?

Decides the bound that `make bench` holds: what a function costs must not depend on how many there are. The server is
that of `api.py`, on SQLite; all functions have the same code, which is kept once.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import sys
import time
import zipfile
from urllib.parse import urlsplit

from benchmarks.api import FUNCTIONS, SIGNED, server
from benchmarks.table import Row, show

THOUSAND = 1000
LEAST_OF_FIRST = 0.5  # disks have moods


def creations(url: str) -> list[float]:
    """Functions a second, thousand by thousand."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("handler.py", "def handler(event, context):\n    return event\n")
    code = base64.b64encode(held.getvalue()).decode()
    document = {"Runtime": "python3.12", "Handler": "handler.handler", "Code": {"ZipFile": code}}
    document["Role"] = "arn:aws:iam::000000000000:role/any"
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    rates, began = [], time.monotonic()
    for number in range(1, FUNCTIONS + 1):
        body = json.dumps({**document, "FunctionName": f"made{number}"})
        connection.request("POST", "/2015-03-31/functions", body, {"Authorization": SIGNED})
        answer = connection.getresponse()
        told = answer.read()
        if answer.status != 201:
            raise RuntimeError(f"made{number}: {answer.status} {told.decode()}")
        if number % THOUSAND == 0:
            now = time.monotonic()
            rates.append(THOUSAND / (now - began))
            began = now
    connection.close()
    return rates


def rows() -> list[Row]:
    with server("async") as url:
        rates = creations(url)
    last = rates[-1] / rates[0]
    return [
        Row("CreateFunction, the first thousand of 10,000", rates[0], "per s"),
        Row("  the last thousand, by the first", last, "times", least=LEAST_OF_FIRST),
    ]


if __name__ == "__main__":
    sys.exit(show(rows()))
