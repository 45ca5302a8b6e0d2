"""Quix Streams beside lambent, for `kafka_streams.py`: a program of its own, run by an interpreter that has it.

Decides its settings: JSON values, a commit for every 500 messages, one function that does nothing. It has no batches
and asks for another pydantic than lambent's constraints, therefore a virtual environment of its own; it knows nothing
of lambent. Prints seconds a message, from the first to the last commit.
"""

import sys
import time
from typing import Any


def main(address: str, topic: str, records: int, batch: int) -> None:
    from quixstreams import Application

    app: Any = Application(
        broker_address=address,
        consumer_group=f"quix-{time.time_ns()}",
        auto_offset_reset="earliest",
        commit_every=batch,
        loglevel="ERROR",
    )
    began = []

    def handler(event: object) -> None:
        if not began:
            began.append(time.perf_counter())

    app.dataframe(app.topic(topic, value_deserializer="json")).update(handler)
    app.run(count=records)
    print((time.perf_counter() - began[0]) / records)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
