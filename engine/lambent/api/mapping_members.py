"""A mapping's members on the wire and the engine's options: each as the other.

Decides which source an ARN or a set of members means, which options follow from members, what is shown of a mapping,
and in AWS's words what does not fit (Lambda API reference: CreateEventSourceMapping). What is valid beside that is
decided below the API. Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from lambent.api import kafka_members
from lambent.api.decisions import Answer
from lambent.api.destinations import arn_of, known
from lambent.api.functions import check_tags
from lambent.api.records import Asked
from lambent.api.refusals import Refusal, invalid, joined
from lambent.arns import function_arn
from lambent.consistency import Known
from lambent.model import LATEST, StreamMapping
from lambent.semantics.filtering import InvalidPattern, compile_filters
from lambent.settings import EngineSettings
from lambent.stored_mappings import NOTHING_PROCESSED, StoredMapping

REPORT: Final = "ReportBatchItemFailures"
MINIMUM_SQS_POLLERS: Final = 2  # Lambda API reference: ProvisionedPollerConfig
MAXIMUM_POLLERS: Final = 10_000  # the same
NO_FUNCTION: Final = "Function does not exist"
_NO_QUEUE: Final = (
    "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS Error Message: "
    "The specified queue does not exist."
)
_NO_POSITION: Final = joined(
    ["Value null at 'startingPosition' failed to satisfy constraint: Member must not be null."]
)
_OPTIONS: Final = {
    "BatchSize": "batch_size",
    "MaximumBatchingWindowInSeconds": "maximum_batching_window_seconds",
    "Enabled": "enabled",
    "ParallelizationFactor": "parallelization_factor",
    "BisectBatchOnFunctionError": "bisect_batch_on_function_error",
    "MaximumRetryAttempts": "maximum_retry_attempts",
    "MaximumRecordAgeInSeconds": "maximum_record_age_seconds",
    "TumblingWindowInSeconds": "tumbling_window_seconds",
    "StartingPosition": "starting_position",
    "StartingPositionTimestamp": "starting_position_timestamp",
}
_TOPICS: Final = ("topic",)
_STREAMS: Final = ("stream", "topic")
_TAKEN_BY: Final = {
    "ScalingConfig": ("queue",),
    "ProvisionedPollerConfig": ("queue", "topic"),
    "StartingPositionTimestamp": _STREAMS,
    "DestinationConfig": _STREAMS,
    "BisectBatchOnFunctionError": _STREAMS,
    "MaximumRetryAttempts": _STREAMS,
    "MaximumRecordAgeInSeconds": _STREAMS,
    "ParallelizationFactor": _STREAMS,  # of topics an extension, as is the next
    "TumblingWindowInSeconds": _STREAMS,
    "LoggingConfig": _TOPICS,
    "Topics": _TOPICS,
    "SourceAccessConfigurations": _TOPICS,
    "SelfManagedKafkaEventSourceConfig": _TOPICS,
}
"""Members that not every kind of source takes (Lambda API reference: CreateEventSourceMapping)."""
_BY_DEFAULT: Final[dict[str, Any]] = {
    "BisectBatchOnFunctionError": False,
    "DestinationConfig": {"OnFailure": {}},
    "FunctionResponseTypes": [],
    "MaximumBatchingWindowInSeconds": 0,
    "MaximumRecordAgeInSeconds": -1,
    "MaximumRetryAttempts": -1,
    "ParallelizationFactor": 1,
    "TumblingWindowInSeconds": 0,
}
_KEPT: Final = ("Tags", "KMSKeyArn", "MetricsConfig", "LoggingConfig", "ProvisionedPollerConfig")  # shown, no effect
_ARN: Final = re.compile(r"arn:aws[a-z-]*:lambda:([a-z0-9-]+):(\d{12}):event-source-mapping:([0-9a-f-]{36})")
_MEMBERS: Final = {option: name for name, option in _OPTIONS.items()} | {
    "filters": "FilterCriteria",
    "on_failure": "DestinationConfig.OnFailure",
    "maximum_concurrency": "ScalingConfig.MaximumConcurrency",
    "report_batch_item_failures": "FunctionResponseTypes",
}
_OPTION: Final = re.compile(rf"\b(?:{'|'.join(_MEMBERS)})\b")
_OWN_HINT: Final = re.compile(
    r"(?:(?<=does not exist) \([^()]*\)| \([a-z_]+ of [^()]*\)|; declare it with engine\.\w+\(…\))$"
)
_UNUSED: Final = ("AmazonManagedKafkaEventSourceConfig", "DocumentDBEventSourceConfig", "Queues")


def source_of(params: Mapping[str, Any], settings: EngineSettings) -> str:
    """The engine's source that is meant. Raises `Refusal`."""
    arn, own = params.get("EventSourceArn"), params.get("SelfManagedEventSource")
    if own is not None and arn is None:
        return kafka_members.source_of(params)
    if arn is None or own is not None:
        raise invalid("Unrecognized event source.")
    found = known(arn, settings)
    if found is not None and not found.startswith("function:"):
        return found
    service = arn.split(":")[2]
    if service in ("dynamodb", "kinesis") and params.get("StartingPosition") is None:
        raise invalid(_NO_POSITION)
    if service == "dynamodb":
        if params.get("StartingPosition") == "AT_TIMESTAMP":
            raise invalid(f"Unsupported starting position for arn type: {arn}")
        raise invalid(f"Stream not found: {arn}")
    if service == "kinesis":
        raise invalid(f"Stream not found: {arn}")
    if service == "sqs":
        raise invalid(_NO_QUEUE)
    if service == "kafka":
        raise kafka_members.no_cluster(arn)
    raise invalid("Unrecognized event source.")


def check_filters(params: Mapping[str, Any]) -> None:
    """Patterns are judged before it is looked for what they filter. Raises `Refusal`."""
    if params.get("FilterCriteria") is not None:
        _filters(params["FilterCriteria"])


def check_there(source: str, params: Mapping[str, Any], declared: Known) -> str:
    """Is a source of the store's own a "queue" or a "stream". Raises `Refusal`: it is not there."""
    kind, _, name = source.partition(":")
    if kind == "queue" and name not in declared.queues:
        raise invalid(_NO_QUEUE)
    if kind == "stream" and name not in declared.streams:
        raise invalid(f"Stream not found: {params['EventSourceArn']}")
    return kind


def options_of(asked: Asked, kind: str, before: Mapping[str, Any] | None = None) -> dict[str, object]:
    """The engine's options of these members; `before`: what the mapping has that they change. Raises `Refusal`."""
    topic = kafka_members.is_topic_url(str((before or {}).get("source", ""))) or asked.get("SelfManagedEventSource")
    _check_taken(asked, "topic" if topic else kind)
    options = _options(asked, kind)
    _check({**(before or {}), **options}, kind)
    needed = kind == "stream" and asked.get("SelfManagedEventSource") is None
    if before is None and needed and "starting_position" not in options:
        raise invalid(_NO_POSITION)
    return options


def kept_of(asked: Asked) -> dict[str, Any]:
    """What is kept of these members beside the engine's options. Raises `Refusal`."""
    check_tags(asked.get("Tags", {}))
    names = _KEPT if asked.operation.startswith("Update") else (*_KEPT, *kafka_members.KEPT)
    kept = {name: asked.params[name] for name in names if asked.get(name) is not None}
    if asked.get("FunctionName") is not None:
        kept["FunctionArn"] = asked.reference.arn
    return {**kept, "LastModified": asked.now}


def mapping_named(resource: str, settings: EngineSettings) -> str | None:
    """The UUID in a mapping's ARN; None: it is another's, elsewhere."""
    found = _ARN.fullmatch(resource)
    here = found is not None and (found[1], found[2]) == (settings.region, settings.account_id)
    return found[3] if here and found is not None else None


def in_members(message: str) -> str:
    """A refusal that speaks of the engine's options, in the words of those who gave members."""
    message = _OWN_HINT.sub("", message)
    return _OPTION.sub(lambda found: _MEMBERS[found[0]], message)


def state_after(was: bool, enabled: bool) -> str:
    """The state that UpdateEventSourceMapping answers, by whether the mapping was enabled before and is now."""
    if enabled:
        return "Updating" if was else "Enabling"
    return "Disabling" if was else "Disabled"


def shown(stored: StoredMapping, settings: EngineSettings, state: str, result: str = NOTHING_PROCESSED) -> Answer:
    """EventSourceMappingConfiguration."""
    mapping, kept = stored.mapping, stored.api
    qualifier = None if mapping.qualifier == LATEST else mapping.qualifier
    topic = kafka_members.is_topic(mapping)
    answer: Answer = {
        "UUID": stored.id,
        "BatchSize": mapping.batch_size,
        "FunctionArn": kept.get("FunctionArn")
        or function_arn(settings.region, settings.account_id, mapping.function, qualifier),
        "LastModified": kept.get("LastModified", 0.0),
        "State": state,
        "StateTransitionReason": "User action" if mapping.kind == "stream" and not topic else "USER_INITIATED",
    }
    if not topic:
        arn = f"arn:aws:lambda:{settings.region}:{settings.account_id}:event-source-mapping:{stored.id}"
        answer["EventSourceMappingArn"] = arn
        answer["EventSourceArn"] = arn_of(mapping.source, settings)
    answer |= _told(
        {
            "FunctionResponseTypes": [REPORT] if mapping.report_batch_item_failures else [],
            "MaximumBatchingWindowInSeconds": math.ceil(mapping.maximum_batching_window_seconds),
        },
        topic,
    )
    if mapping.filters:
        patterns = [each if isinstance(each, str) else json.dumps(each) for each in mapping.filters]
        answer["FilterCriteria"] = {"Filters": [{"Pattern": each} for each in patterns]}
    if isinstance(mapping, StreamMapping):
        target = mapping.on_failure
        answer |= {"StartingPosition": mapping.starting_position, "LastProcessingResult": result}
        answer["StartingPositionTimestamp"] = mapping.starting_position_timestamp
        answer |= kafka_members.shown(stored, mapping) if topic else {}
        answer |= _told(
            {
                "BisectBatchOnFunctionError": mapping.bisect_batch_on_function_error,
                "DestinationConfig": {"OnFailure": {"Destination": arn_of(target, settings)} if target else {}},
                "MaximumRecordAgeInSeconds": mapping.maximum_record_age_seconds,
                "MaximumRetryAttempts": mapping.maximum_retry_attempts,
                "ParallelizationFactor": mapping.parallelization_factor,
                "TumblingWindowInSeconds": mapping.tumbling_window_seconds,
            },
            topic,
        )
    elif mapping.maximum_concurrency is not None:
        answer["ScalingConfig"] = {"MaximumConcurrency": mapping.maximum_concurrency}
    answer |= {name: kept[name] for name in _KEPT if name in kept and name != "Tags"}
    return answer


def _told(members: Answer, topic: bool) -> Answer:
    """Of a topic's mapping nothing is told that is as it is by default."""
    return {name: each for name, each in members.items() if not topic or each != _BY_DEFAULT[name]}


def _options(asked: Asked, kind: str) -> dict[str, object]:
    params = asked.params
    if any(params.get(name) for name in _UNUSED):
        raise invalid("Unrecognized event source.")
    options: dict[str, object] = {
        option: params[name] for name, option in _OPTIONS.items() if params.get(name) is not None
    }
    if "starting_position" in options and kind == "queue" and params.get("EventSourceArn"):
        raise invalid("StartingPosition is not valid for SQS event sources.")
    if asked.get("StartingPositionTimestamp", 0.0) > asked.now:
        raise invalid("StartingPositionTimestamp cannot be in the future.")
    if asked.operation.startswith("Update"):
        options.pop("starting_position", None)
        options.pop("starting_position_timestamp", None)
    destination = params.get("DestinationConfig")
    if destination is not None:
        target = destination.get("OnFailure", {}).get("Destination")
        if destination.get("OnSuccess"):
            raise _unsupported("DestinationConfig")
        options["on_failure"] = None
        if target:
            options["on_failure"] = target if target.startswith("kafka://") else known(target, asked.settings)
            if options["on_failure"] is None:
                raise invalid(f"The destination ARN {target} is invalid.")
    if params.get("FunctionResponseTypes") is not None:
        options["report_batch_item_failures"] = REPORT in params["FunctionResponseTypes"]
    if params.get("FilterCriteria") is not None:
        options["filters"] = _filters(params["FilterCriteria"])
    scaling = params.get("ScalingConfig")
    if scaling is not None:
        options["maximum_concurrency"] = scaling.get("MaximumConcurrency")
    if asked.get("FunctionName") is not None:
        options["function"], options["qualifier"] = asked.reference.name, asked.reference.resolved
    return options


def _check_taken(asked: Asked, kind: str) -> None:
    for name, kinds in _TAKEN_BY.items():
        if asked.get(name) is not None and kind not in kinds:
            raise _unsupported(name)
    pollers = asked.get("ProvisionedPollerConfig", {})
    least = MINIMUM_SQS_POLLERS if kind == "queue" else 1
    low, high = pollers.get("MinimumPollers", least), pollers.get("MaximumPollers", MAXIMUM_POLLERS)
    if not least <= low <= high:
        raise invalid(
            f"ProvisionedPollerConfig: MinimumPollers must be {least} at least, and MaximumPollers no less than that."
        )


def _unsupported(name: str) -> Refusal:
    return invalid(f"Unsupported {name} parameter for given event source mapping type.")


def _filters(criteria: Mapping[str, Any]) -> list[object]:
    patterns = [each.get("Pattern") for each in criteria.get("Filters") or []]
    for pattern in patterns:
        try:
            if not isinstance(json.loads(pattern or ""), dict):
                raise invalid("Invalid filter pattern definition.")
            compile_filters([pattern])
        except (InvalidPattern, ValueError, RecursionError):
            raise invalid("Invalid filter pattern definition.") from None
    return patterns


def _check(options: Mapping[str, Any], kind: str) -> None:
    size, window = options.get("batch_size", 0), options.get("maximum_batching_window_seconds", 0)
    if kind == "queue" and size > 10 and not window:
        raise invalid("Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10")
