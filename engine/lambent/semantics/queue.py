"""Which messages of a queue's batch are done, and which the queue hands out again.

Decides only that. Retries are the queue's: what is not mentioned comes back at its visibility time-out with a higher
receive count, until the redrive policy moves it (Lambda developer guide, «Using Lambda with Amazon SQS»). Messages of a
FIFO group that follow a failed one are deleted unless the function names them too, as on AWS.

Ours: a throttled batch, or one that nothing could run, is given back at once and its receive is not counted. On AWS
throttles eat the receive count and can send messages to the dead-letter queue that no handler ever saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from lambent.model import Delete, Failed, Message, Outcome, Release, Settlement, Succeeded, Throttled, Unavailable
from lambent.semantics.responses import AllSucceeded, NoneSucceeded, SomeFailed, judge


def after(
    messages: Sequence[Message], outcome: Outcome, value: object, partial: bool, now: float
) -> tuple[Settlement, ...]:
    """Settle a batch that ended with `outcome` at `now` (epoch seconds). `value` is the decoded answer of a function
    that succeeded; it is read only if the mapping reports batch item failures (`partial`)."""
    match outcome:
        case Succeeded():
            return _answered(messages, value) if partial else _deleted(messages)
        case Failed():
            return ()
        case Throttled() | Unavailable():
            return tuple(Release(message.receipt, now, give_back=True) for message in messages)
        case _:
            assert_never(outcome)


def _answered(messages: Sequence[Message], value: object) -> tuple[Settlement, ...]:
    judgement = judge(value, [message.id for message in messages])
    match judgement:
        case AllSucceeded():
            return _deleted(messages)
        case NoneSucceeded():
            return ()
        case SomeFailed(failed):
            return _deleted([message for message in messages if message.id not in failed])
        case _:
            assert_never(judgement)


def _deleted(messages: Sequence[Message]) -> tuple[Settlement, ...]:
    return tuple(Delete(message.receipt) for message in messages)
