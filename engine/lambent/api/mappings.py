"""Event source mappings: the API's members and the engine's options, each as the other.

Decides which source an ARN or a set of members means, what is shown of a mapping, and in AWS's words what does not fit
(Lambda API reference: CreateEventSourceMapping). Which mapping runs, and what is valid, is decided below the API.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from lambent.api.decisions import Answer
from lambent.api.destinations import arn_of, known
from lambent.api.names import reference
from lambent.api.records import Asked, page
from lambent.api.refusals import invalid, joined, not_found
from lambent.arns import function_arn
from lambent.control import NOTHING_PROCESSED, StoredMapping, read_function
from lambent.engine import Engine
from lambent.errors import ResourceNotFound
from lambent.model import LATEST, QueueMapping, StreamMapping
from lambent.semantics import routing
from lambent.semantics.filtering import InvalidPattern, compile_filters
from lambent.settings import EngineSettings
from lambent.sources import load_source

REPORT: Final = "ReportBatchItemFailures"
_NO_FUNCTION: Final = "Function does not exist"
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
_OF_STREAMS: Final = set(StreamMapping.model_fields) - set(QueueMapping.model_fields)
_KEPT: Final = ("Tags", "KMSKeyArn", "MetricsConfig", "LoggingConfig", "ProvisionedPollerConfig")  # shown, no effect
_UNUSED: Final = ("AmazonManagedKafkaEventSourceConfig", "DocumentDBEventSourceConfig", "Queues")


class MappingOperations:
    """The operations on mappings, of an engine that runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._control = engine.control

    async def create(self, asked: Asked) -> Answer:
        source = _source(asked.params, asked.settings)
        found = await self._control.get_stored_function(asked.reference.name)
        if found is None or not routing.known(read_function(found[0]), asked.reference.qualifier):
            raise invalid(_NO_FUNCTION)
        kind = await self._kind(source, asked)
        options = _options(asked, kind, source)
        _check(options, kind)
        if kind == "stream" and "starting_position" not in options:
            raise invalid(_NO_POSITION)
        kept = {name: asked.params[name] for name in _KEPT if asked.get(name) is not None}
        kept |= {"LastModified": asked.now, "FunctionArn": asked.reference.arn}
        for name in (
            "SelfManagedEventSource",
            "Topics",
            "SourceAccessConfigurations",
            "SelfManagedKafkaEventSourceConfig",
        ):
            if asked.get(name) is not None:
                kept[name] = asked.params[name]
        stored = await self._control.create_mapping(source, asked.reference.name, options, kept)
        return _shown(stored, asked.settings, "Creating" if stored.mapping.enabled else "Disabled")

    async def get(self, asked: Asked) -> Answer:
        stored = await self._stored(asked)
        return _shown(stored, asked.settings, *await self._state(stored))

    async def update(self, asked: Asked) -> Answer:
        stored = await self._stored(asked)
        if asked.get("FunctionName") is not None and asked.reference.name != stored.mapping.function:
            if await self._control.get_stored_function(asked.reference.name) is None:
                raise invalid(_NO_FUNCTION)
            raise invalid("FunctionName: a mapping keeps its function here: delete it, and create another one.")
        options = _options(asked, stored.mapping.kind, stored.mapping.source)
        _check({**stored.mapping.model_dump(), **options}, stored.mapping.kind)
        was = stored.mapping.enabled
        kept = {name: asked.params[name] for name in _KEPT if asked.get(name) is not None}
        stored = await self._control.update_mapping(stored.id, options, {**kept, "LastModified": asked.now})
        state = "Updating" if stored.mapping.enabled else "Disabling"
        if stored.mapping.enabled and not was:
            state = "Enabling"
        return _shown(stored, asked.settings, state if stored.mapping.enabled or was else "Disabled")

    async def delete(self, asked: Asked) -> Answer:
        stored = await self._stored(asked)
        try:
            await self._control.delete_mapping(stored.id)
        except ResourceNotFound:
            raise not_found() from None
        return _shown(stored, asked.settings, "Deleting")

    async def list_all(self, params: Mapping[str, Any]) -> Answer:
        settings = self._engine.settings
        found = list((await self._control.list_mappings()).values())
        if (given := params.get("FunctionName")) is not None:
            named = reference(given, None, settings)
            if await self._control.get_stored_function(named.name) is None:
                raise not_found(f"Function not found: {named.arn}")
            found = [
                each for each in found
                if each.mapping.function == named.name and named.qualifier in (None, each.mapping.qualifier)
            ]  # fmt: skip
        if (source := params.get("EventSourceArn")) is not None:
            found = [each for each in found if source in (arn_of(each.mapping.source, settings), each.mapping.source)]
        items, marker = page(sorted(found, key=lambda each: each.id), params, 100)
        return {
            "EventSourceMappings": [_shown(each, settings, *await self._state(each)) for each in items],
            "NextMarker": marker,
        }

    async def _stored(self, asked: Asked) -> StoredMapping:
        try:
            return await self._control.get_mapping(asked.params["UUID"].lower())
        except ResourceNotFound:
            raise not_found() from None

    async def _state(self, stored: StoredMapping) -> tuple[str, str]:
        """Its state in this engine, and its last result."""
        try:
            state = await self._engine.mapping_state(stored.id)
        except ResourceNotFound:
            return "Deleting", NOTHING_PROCESSED
        shown = await self._engine.mapping_details(stored.id)
        return state, str(shown.get("last_processing_result", NOTHING_PROCESSED))

    async def _kind(self, source: str, asked: Asked) -> str:
        """Is it a queue or a stream. Raises `Refusal` if it is not there."""
        if "://" in source:
            self._control.sources.setdefault(source, load_source(source).kind)
            return self._control.sources[source]
        kind, _, name = source.partition(":")
        known = await self._control.known()
        if kind == "queue" and name not in known.queues:
            raise invalid(
                "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS "
                "Error Message: The specified queue does not exist."
            )
        if kind == "stream" and name not in known.streams:
            raise invalid(f"Stream not found: {asked.params['EventSourceArn']}")
        return kind


def _source(params: Mapping[str, Any], settings: EngineSettings) -> str:
    """The engine's source that is meant. Raises `Refusal`."""
    arn, own = params.get("EventSourceArn"), params.get("SelfManagedEventSource")
    if own is not None and arn is None:
        if params.get("SourceAccessConfigurations") is None:
            raise invalid("Required 'sourceAccessConfigurations' parameter is missing.")
        servers = own.get("Endpoints", {}).get("KAFKA_BOOTSTRAP_SERVERS") or []
        topics = params.get("Topics") or []
        if not servers or not topics:
            raise invalid("Unrecognized event source.")
        return f"kafka://{','.join(servers)}/{topics[0]}"
    if arn is None:
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
        raise invalid(
            "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS Error "
            "Message: The specified queue does not exist."
        )
    raise invalid("Unrecognized event source.")


def _options(asked: Asked, kind: str, source: str) -> dict[str, object]:
    """The engine's options of these members. Raises `Refusal`."""
    params = asked.params
    if any(params.get(name) for name in _UNUSED):
        raise invalid("Unrecognized event source.")
    options: dict[str, object] = {
        option: params[name] for name, option in _OPTIONS.items() if params.get(name) is not None
    }
    foreign = [
        name for name, option in _OPTIONS.items() if option in options and kind == "queue" and option in _OF_STREAMS
    ]
    if foreign:
        raise invalid(f"Unsupported parameter for given event source mapping type: {', '.join(foreign)}.")
    if asked.operation.startswith("Update"):
        options.pop("starting_position", None)
        options.pop("starting_position_timestamp", None)
    destination = params.get("DestinationConfig")
    if destination is not None:
        target = destination.get("OnFailure", {}).get("Destination")
        if destination.get("OnSuccess") or kind == "queue":
            raise invalid("Unsupported DestinationConfig parameter for given event source mapping type.")
        options["on_failure"] = None
        if target:
            options["on_failure"] = known(target, asked.settings)
            if options["on_failure"] is None:
                raise invalid(f"The destination ARN {target} is invalid.")
    if params.get("FunctionResponseTypes") is not None:
        options["report_batch_item_failures"] = REPORT in params["FunctionResponseTypes"]
    if params.get("FilterCriteria") is not None:
        options["filters"] = _filters(params["FilterCriteria"])
    scaling = params.get("ScalingConfig")
    if scaling is not None:
        if kind != "queue":
            raise invalid("Unsupported ScalingConfig parameter for given event source mapping type.")
        options["maximum_concurrency"] = scaling.get("MaximumConcurrency")
    if asked.operation.startswith("Create") and asked.reference.qualifier not in (None, LATEST):
        options["qualifier"] = asked.reference.qualifier
    return options


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


def _shown(stored: StoredMapping, settings: EngineSettings, state: str, result: str = NOTHING_PROCESSED) -> Answer:
    """EventSourceMappingConfiguration."""
    mapping, kept = stored.mapping, stored.api
    qualifier = None if mapping.qualifier == LATEST else mapping.qualifier
    own = "SelfManagedEventSource" in kept
    answer: Answer = {
        "UUID": stored.id,
        "BatchSize": mapping.batch_size,
        "FunctionArn": kept.get("FunctionArn")
        or function_arn(settings.region, settings.account_id, mapping.function, qualifier),
        "LastModified": kept.get("LastModified", 0.0),
        "State": state,
        "StateTransitionReason": "User action" if mapping.kind == "stream" and not own else "USER_INITIATED",
    }
    if own:
        answer |= {name: kept[name] for name in ("SelfManagedEventSource", "Topics", "SourceAccessConfigurations")}
        answer["SelfManagedKafkaEventSourceConfig"] = kept.get(
            "SelfManagedKafkaEventSourceConfig", {"ConsumerGroupId": stored.id}
        )
    else:
        arn = f"arn:aws:lambda:{settings.region}:{settings.account_id}:event-source-mapping:{stored.id}"
        answer["EventSourceMappingArn"] = arn
        answer["EventSourceArn"] = arn_of(mapping.source, settings)
        answer["FunctionResponseTypes"] = [REPORT] if mapping.report_batch_item_failures else []
        answer["MaximumBatchingWindowInSeconds"] = math.ceil(mapping.maximum_batching_window_seconds)
    if mapping.filters:
        patterns = [each if isinstance(each, str) else json.dumps(each) for each in mapping.filters]
        answer["FilterCriteria"] = {"Filters": [{"Pattern": each} for each in patterns]}
    if isinstance(mapping, StreamMapping):
        answer |= {"StartingPosition": mapping.starting_position, "LastProcessingResult": result}
        answer["StartingPositionTimestamp"] = mapping.starting_position_timestamp
        if not own:
            target = mapping.on_failure
            answer |= {
                "BisectBatchOnFunctionError": mapping.bisect_batch_on_function_error,
                "DestinationConfig": {"OnFailure": {"Destination": arn_of(target, settings)} if target else {}},
                "MaximumRecordAgeInSeconds": mapping.maximum_record_age_seconds,
                "MaximumRetryAttempts": mapping.maximum_retry_attempts,
                "ParallelizationFactor": mapping.parallelization_factor,
                "TumblingWindowInSeconds": mapping.tumbling_window_seconds,
            }
    elif mapping.maximum_concurrency is not None:
        answer["ScalingConfig"] = {"MaximumConcurrency": mapping.maximum_concurrency}
    answer |= {name: kept[name] for name in _KEPT if name in kept and name != "Tags"}
    return answer
