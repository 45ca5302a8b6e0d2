"""Options as editors and type checkers know them: their names and types, so that one which does not exist is red before
anything runs.

Decides nothing: ranges, defaults and meanings are the models' (`model.py`, `configuration.py`, `settings.py`), whose
fields these are; a test holds that they are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, TypedDict


class Named(Protocol):
    """A queue or a stream."""

    @property
    def destination(self) -> str: ...


Destination = str | Named | Callable[..., object] | None
"""A queue, a stream, a function of the engine, or the text that names one: 'queue:NAME', 'https://…'."""


class EventOptions(TypedDict, total=False):
    """The fields of `EventInvokeConfig`."""

    maximum_retry_attempts: int
    maximum_event_age_seconds: int
    on_success: Destination
    on_failure: Destination


class FunctionOptions(EventOptions, total=False):
    """The fields of `Function` that are not made by calls, and those of its events."""

    name: str
    description: str
    timeout_seconds: int
    memory_size_mb: int
    reserved_concurrency: int | None
    recursive_loop: Literal["Allow", "Terminate"]
    boundary: Literal["json", "reference"]
    dead_letter_queue: Destination


class FunctionFromOptions(FunctionOptions, total=False):
    """And the fields of `ExecutionEnvironment`, without the code."""

    runtime: str
    handler: str
    layers: Sequence[str | PathLike[str]]
    variables: Mapping[str, str]
    ephemeral_storage_mb: int
    log_format: Literal["Text", "JSON"]
    application_log_level: Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] | None
    log_group: str | None
    system_log_level: Literal["DEBUG", "INFO", "WARN"] | None
    recycle_after: int | None
    provisioned_concurrency: int


class MappingOptions(TypedDict, total=False):
    """The fields of `QueueMapping` and `StreamMapping`, without source, function and name."""

    qualifier: str
    enabled: bool
    batch_size: int
    maximum_batching_window_seconds: float
    report_batch_item_failures: bool
    filters: Sequence[Mapping[str, Any] | str]
    maximum_concurrency: int | None
    parallelization_factor: int
    starting_position: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]
    starting_position_timestamp: float | None
    bisect_batch_on_function_error: bool
    maximum_retry_attempts: int
    maximum_record_age_seconds: int
    tumbling_window_seconds: int
    on_failure: Destination


class MapOptions(MappingOptions, total=False):
    """With the mapping's own name."""

    name: str | None


class OnOptions(FunctionOptions, MappingOptions, total=False):
    """A function and its mapping; `name` is the function's."""


class QueueOptions(TypedDict, total=False):
    """The fields of `Queue`, without its name."""

    visibility_timeout_seconds: float
    delay_seconds: float
    message_retention_period_seconds: int
    max_receive_count: int | None
    dead_letter_queue: str | Named | None
    fifo: bool
    content_based_deduplication: bool


class StreamOptions(TypedDict, total=False):
    """The fields of `Stream`, without its name."""

    shards: int
    retention_seconds: int
    keep_unread: bool
    maximum_bytes: int | None


class EngineOptions(TypedDict, total=False):
    """The fields of `EngineSettings`."""

    account_concurrency: int
    async_retry_delays_seconds: tuple[float, float]
    delay_scale: float
    drain_seconds: float
    lease_seconds: float
    threads: int
    maximum_environments: int
    environment_idle_seconds: float
    watchdog_seconds: float
    allow_private_destinations: bool
    observe_seconds: float
    health_seconds: float
    code_directory: str | None
    reload_code: bool
    log_directory: str | None
    log_in_process: bool
    log_retention_seconds: int
    log_maximum_bytes: int
    state_change_seconds: float
    api_trail_seconds: float
    api_code_bytes: int
    release: int
    region: str
    account_id: str
