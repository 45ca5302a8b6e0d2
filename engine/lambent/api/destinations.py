"""Destinations and dead-letter queues: ARNs on the wire, references of the engine inside.

Decides which ARN is which queue, stream or function here, and how others are refused (Lambda API reference:
DestinationConfig, DeadLetterConfig). Pure.
"""

from __future__ import annotations

import re
from typing import Final

from lambent.api.names import reference
from lambent.api.records import Asked
from lambent.api.refusals import invalid
from lambent.arns import function_arn, queue_arn, stream_arn, without_password
from lambent.consistency import Known
from lambent.semantics import routing
from lambent.settings import EngineSettings

_QUEUE: Final = re.compile(r"arn:aws[a-z-]*:sqs:([a-z0-9-]+):(\d{12}):([a-zA-Z0-9_-]{1,80}(?:\.fifo)?)")
_STREAM: Final = re.compile(r"arn:aws[a-z-]*:kinesis:([a-z0-9-]+):(\d{12}):stream/([a-zA-Z0-9_.-]{1,128})")
_FUNCTION: Final = re.compile(r"arn:aws[a-z-]*:lambda:([a-z0-9-]+):(\d{12}):function:([a-zA-Z0-9_-]{1,64})(?::[^:]+)?")
_FORMS: Final = {"queue": _QUEUE, "stream": _STREAM, "function": _FUNCTION}
_SERVICES: Final = ("sqs", "sns", "lambda", "events", "s3")  # what AWS delivers to


def reference_of(arn: str, side: str, asked: Asked) -> str:
    """The engine's reference of a destination. `side`: OnSuccess or OnFailure. Raises `Refusal`."""
    found = known(arn, asked.settings)
    if found is None:
        service = arn.split(":")[2] if arn.startswith("arn:") and arn.count(":") > 2 else ""
        if service in _SERVICES:
            raise invalid(f"The destination ARN {arn} is invalid.")
        sides = ", ".join(
            f"{each[0].lower()}{each[1:]}=" + (f"{each}(destination={arn})" if each == side else "null")
            for each in ("OnSuccess", "OnFailure")
        )
        raise invalid(f"The provided destination config DestinationConfig({sides}) is invalid.")
    kind, _, name = found.partition(":")
    if kind == "function":
        if name == asked.reference.name:
            raise invalid("You can't specify the function as a destination for itself.")
        meant = reference(arn, None, asked.settings)
        if name not in asked.others or not routing.known(asked.others[name], meant.qualifier):
            raise invalid(f"The destination ARN {arn} is invalid.")
    elif asked.there is not None and not _takes_results(kind, name, asked.there):
        raise invalid(f"The destination ARN {arn} is invalid.")
    return found


def _takes_results(kind: str, name: str, there: Known) -> bool:
    if kind == "stream":
        return name in there.streams
    return name in there.queues and not there.queues[name].fifo


def known(arn: str, settings: EngineSettings) -> str | None:
    """'queue:NAME', 'stream:NAME' or 'function:NAME' of an ARN of this region and account; None for any other."""
    for kind, form in _FORMS.items():
        found = form.fullmatch(arn)
        if found is not None and (found[1], found[2]) == (settings.region, settings.account_id):
            return f"{kind}:{found[3]}"
    return None


def arn_of(reference: str, settings: EngineSettings) -> str:
    """The ARN of a reference of the engine; a file, an endpoint or a topic is shown by its URL, without a password."""
    kind, _, name = reference.partition(":")
    arn = {"queue": queue_arn, "stream": stream_arn, "function": function_arn}.get(kind)
    if arn is None or name.startswith("//"):
        return without_password(reference)
    return arn(settings.region, settings.account_id, name)
