"""Handlers with Powertools' batch processors, as its users write them: for a queue, a FIFO queue and a stream.

A record fails if its data say so. Run by the tests in this process and, as it stands, in an environment.
"""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    SqsFifoPartialProcessor,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes.kinesis_stream_event import KinesisStreamRecord
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

queue_processor = BatchProcessor(event_type=EventType.SQS)
fifo_processor = SqsFifoPartialProcessor()
stream_processor = BatchProcessor(event_type=EventType.KinesisDataStreams)


def sent(record: SQSRecord) -> str:
    if json.loads(record.body).get("poison"):
        raise ValueError("poison")
    return record.message_id


def put(record: KinesisStreamRecord) -> str:
    if record.kinesis.data_as_json().get("poison"):
        raise ValueError("poison")
    return record.kinesis.sequence_number


def queue(event: Any, context: Any) -> Any:
    return process_partial_response(event=event, record_handler=sent, processor=queue_processor, context=context)


def fifo(event: Any, context: Any) -> Any:
    return process_partial_response(event=event, record_handler=sent, processor=fifo_processor, context=context)


def stream(event: Any, context: Any) -> Any:
    return process_partial_response(event=event, record_handler=put, processor=stream_processor, context=context)
