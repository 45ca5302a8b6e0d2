"""The nouns. pydantic where users write configuration; slotted dataclasses for what the engine passes around.

Decides what is a valid configuration value on its own (type, range). What needs knowledge of other things (does the
queue exist, is it FIFO) is decided in `consistency.py`. Nothing here does anything. Ranges are those of the Lambda API
reference (CreateFunction, CreateEventSourceMapping, PutFunctionEventInvokeConfig) and of SQS's and Kinesis's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from lambent.configuration import (
    Alias,
    Configuration,
    DestinationRef,
    ExecutionEnvironment,
    FunctionName,
    PublishedVersion,
    ResourceName,
)

LATEST: Final = "$LATEST"
MAXIMUM_SYNC_PAYLOAD_BYTES: Final = 6 * 1024 * 1024  # Lambda quotas: synchronous request payload
MAXIMUM_RESPONSE_BYTES: Final = 6 * 1024 * 1024 + 100  # recorded: "6291556 bytes"
MAXIMUM_STREAMED_BYTES: Final = 200 * 1024 * 1024  # Lambda quotas: streamed response
MAXIMUM_ASYNC_PAYLOAD_BYTES: Final = 1024 * 1024  # Lambda quotas since October 2025
MAXIMUM_BATCH_BYTES: Final = 6 * 1024 * 1024  # invocation payload of an event source mapping
MAXIMUM_RECORD_BYTES: Final = 1024 * 1024  # one stream record or queue message
MAXIMUM_TIMESTAMP: Final = 32_503_680_000  # epoch seconds: the year 3000; milliseconds are above it
MAXIMUM_KEY_CHARACTERS: Final = 256  # Kinesis API: PutRecord, PartitionKey
DRAINED: Final = "drained"  # why work came back that a stop cut off; ours
DESTINATION_FAILED: Final = "destination-failed"  # how an item ended whose report no destination took; ours

# --------------------------------------------------------------------------- what users write


class EventInvokeConfig(Configuration):
    """How asynchronous events of one function are retried and where their results go (PutFunctionEventInvokeConfig)."""

    maximum_retry_attempts: Annotated[int, Field(ge=0, le=2)] = 2
    maximum_event_age_seconds: Annotated[int, Field(ge=60, le=21600)] = 21600
    on_success: DestinationRef | None = None
    on_failure: DestinationRef | None = None


class Function(Configuration):
    """A function's configuration (CreateFunction). Without an `environment` it is a callable of this process."""

    name: FunctionName
    description: Annotated[str, Field(max_length=256)] = ""
    timeout_seconds: Annotated[int, Field(ge=1, le=900)] = 3
    memory_size_mb: Annotated[int, Field(ge=128, le=10240)] = 128
    reserved_concurrency: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    recursive_loop: Literal["Allow", "Terminate"] = "Terminate"
    boundary: Literal["json", "reference"] = "json"
    dead_letter_queue: DestinationRef | None = None
    event_invoke: EventInvokeConfig = EventInvokeConfig()
    environment: ExecutionEnvironment | None = None
    version: str = LATEST  # which of its versions this is the configuration of
    versions: dict[str, PublishedVersion] = Field({})
    aliases: dict[str, Alias] = Field({})
    event_invoke_of: dict[str, EventInvokeConfig] = Field({})  # by version or alias; none has $LATEST's
    provisioned_of: dict[str, int] = Field({})  # environments to be kept ready, by version; none is $LATEST's

    @model_validator(mode="after")
    def _a_process_takes_json(self) -> Function:
        if self.environment is not None and self.boundary == "reference":
            raise ValueError("boundary='reference' is for callables of this process: an environment gets JSON")
        return self

    @property
    def destinations(self) -> dict[str, str]:
        """Where results of asynchronous events go, by the option that says so."""
        events, dead = self.event_invoke, self.dead_letter_queue
        named = {"on_success": events.on_success, "on_failure": events.on_failure, "dead_letter_queue": dead}
        return {option: reference for option, reference in named.items() if reference is not None}


Pattern = Annotated[dict[str, object] | str, Field(union_mode="left_to_right")]


class EventSourceMapping(Configuration):
    """What every mapping has. A mapping feeds one source to one function."""

    source: str
    function: str
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    qualifier: str = LATEST
    enabled: bool = True
    batch_size: Annotated[int, Field(ge=1, le=10_000)]
    maximum_batching_window_seconds: Annotated[float, Field(ge=0, le=300)] = 0
    report_batch_item_failures: bool = False
    filters: list[Pattern] = Field(default_factory=list, max_length=10)

    @property
    def called_qualifier(self) -> str | None:
        """What its calls name beside the function: $LATEST is not named, as on AWS."""
        return None if self.qualifier == LATEST else self.qualifier


class QueueMapping(EventSourceMapping):
    """A mapping of a queue. Retries are the queue's: visibility time-out, receive count, redrive."""

    kind: Literal["queue"] = "queue"
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 10
    maximum_concurrency: Annotated[int, Field(ge=2, le=1000)] | None = None

    @model_validator(mode="after")
    def _large_batches_need_a_window(self) -> QueueMapping:
        if self.batch_size > 10 and self.maximum_batching_window_seconds == 0:
            raise ValueError("maximum_batching_window_seconds must be greater than 0 if batch_size is greater than 10")
        return self


_AGES: Final = "-1 (no limit) or 60 to 604800 (int)"


def _age(value: int) -> int:
    if value != -1 and not 60 <= value <= 604_800:
        raise ValueError(f"it must be {_AGES}")
    return value


class StreamMapping(EventSourceMapping):
    """A mapping of a stream: per shard, in order, with checkpoints (CreateEventSourceMapping)."""

    kind: Literal["stream"] = "stream"
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 100
    parallelization_factor: Annotated[int, Field(ge=1, le=10)] = 1
    starting_position: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"] = "TRIM_HORIZON"
    starting_position_timestamp: Annotated[float, Field(ge=0, le=MAXIMUM_TIMESTAMP)] | None = None
    bisect_batch_on_function_error: bool = False
    maximum_retry_attempts: Annotated[int, Field(ge=-1, le=10_000)] = -1
    maximum_record_age_seconds: Annotated[int, AfterValidator(_age), Field(description=_AGES)] = -1
    tumbling_window_seconds: Annotated[int, Field(ge=0, le=900)] = 0
    on_failure: DestinationRef | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> StreamMapping:
        if (self.starting_position == "AT_TIMESTAMP") != (self.starting_position_timestamp is not None):
            raise ValueError("starting_position_timestamp (epoch seconds) goes with starting_position='AT_TIMESTAMP'")
        if self.tumbling_window_seconds and self.parallelization_factor > 1:
            raise ValueError("a shard with tumbling_window_seconds has one lane: parallelization_factor must be 1")
        return self


class Queue(Configuration):
    """A built-in queue (SQS API: CreateQueue attributes)."""

    name: ResourceName
    visibility_timeout_seconds: Annotated[float, Field(ge=0, le=43_200)] = 30
    delay_seconds: Annotated[float, Field(ge=0, le=900)] = 0
    message_retention_period_seconds: Annotated[int, Field(ge=60, le=1_209_600)] = 345_600
    max_receive_count: Annotated[int, Field(ge=1, le=1000)] | None = None
    dead_letter_queue: ResourceName | None = None
    fifo: bool = False
    content_based_deduplication: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Queue:
        if (self.max_receive_count is None) != (self.dead_letter_queue is None):
            raise ValueError("max_receive_count and dead_letter_queue go together (a redrive policy needs both)")
        if self.content_based_deduplication and not self.fifo:
            raise ValueError("content_based_deduplication is only for FIFO queues (fifo=True)")
        if self.dead_letter_queue == self.name:
            raise ValueError("dead_letter_queue must be another queue")
        return self


class Stream(Configuration):
    """A built-in stream (Kinesis API: CreateStream, IncreaseStreamRetentionPeriod). A record goes when it is older than
    the retention and, with `keep_unread`, when every mapping of the stream has passed it, be it paused or behind. A put
    that makes the stream hold more than `maximum_bytes` of data and keys, in all shards together, is refused."""

    name: ResourceName
    shards: Annotated[int, Field(ge=1, le=10_000)] = 1
    retention_seconds: Annotated[int, Field(ge=3600, le=31_536_000)] = 86_400
    keep_unread: bool = True
    maximum_bytes: Annotated[int, Field(ge=1, le=10**15)] | None = None


# --------------------------------------------------------------------------- one call and its result


@dataclass(slots=True)
class Invocation:
    """One call of a function. `payload` is JSON bytes, or the event itself (the runtime encodes it unless the function
    asked for `boundary="reference"`). A source's batch is made into its event by `build`, as late as can be: a thousand
    batches that wait for their handlers hold no event."""

    request_id: str
    function: str
    payload: object
    qualifier: str | None = None
    hops: int = 0
    trace_id: str | None = None
    client_context: Mapping[str, object] | None = None
    version: str = LATEST  # that the qualifier means, once it is routed
    items: Sequence[Record] | Sequence[Message] | None = None  # what the batch was built from, for typed handlers
    partial: bool = False  # does the mapping report batch item failures
    tail: bool = False  # collect the log tail
    streamed: bool = False  # a streamed answer is handed on as it comes, else it is put together
    build: Callable[[], object] | None = None
    start_before: float = inf  # monotonic seconds: what it is made of is then somebody else's

    def event(self) -> object:
        """What the handler is for: the payload, or what is built in its place."""
        return self.payload if self.build is None else self.build()


@dataclass(slots=True)
class Succeeded:
    """The handler returned. `payload` is JSON bytes, or the value itself where `by_reference`."""

    payload: object
    by_reference: bool = False
    executed_version: str = LATEST
    run_seconds: float = 0.0
    log_tail: str = ""
    init_seconds: float | None = None  # of its environment, whose first it was


@dataclass(slots=True)
class Failed:
    """The handler failed: raised, timed out, returned what is not JSON. `document` is AWS's error document."""

    document: Mapping[str, object]
    function_error: str = "Unhandled"
    executed_version: str = LATEST
    run_seconds: float = 0.0
    log_tail: str = ""
    init_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Throttled:
    """Not admitted; `reason` is AWS's ThrottleReason. `reserved_zero` says that it never will be."""

    reason: str
    reserved_zero: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The world failed (no environment, store away, drained): nothing is known of the handler, no attempt is used."""

    reason: str


Outcome = Succeeded | Failed | Throttled | Unavailable

# --------------------------------------------------------------------------- items of sources


@dataclass(slots=True)
class Record:
    """One item of a shard. `position` is opaque, ordered only by its place in what was read. Treat it as a value."""

    position: str
    key: str
    data: bytes
    arrived_at: float  # epoch seconds
    hops: int = 0


@dataclass(slots=True)
class Message:
    """One item of a queue, as received. `receipt` names this receive; an older one can neither delete nor extend."""

    id: str
    body: str
    receipt: str
    receive_count: int
    sent_at: float  # epoch seconds
    first_received_at: float  # epoch seconds
    group: str | None = None
    deduplication_id: str | None = None
    sequence_number: str | None = None
    attributes: Mapping[str, MessageAttribute] = field(default_factory=dict)
    hops: int = 0


@dataclass(frozen=True, slots=True)
class MessageAttribute:
    """A message attribute of SQS: `data_type` String, Number or Binary (then `value` is base64)."""

    value: str
    data_type: str = "String"


@dataclass(frozen=True, slots=True)
class Send:
    """One message to be sent to a queue."""

    body: str
    delay_seconds: float | None = None
    group: str | None = None
    deduplication_id: str | None = None
    attributes: Mapping[str, MessageAttribute] = field(default_factory=dict)
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """One record to be put into a stream."""

    data: bytes
    key: str
    hops: int = 0


@dataclass(slots=True)
class Event:
    """An accepted asynchronous event. `attempts` counts claims; throttles, unavailability and drain give one back."""

    request_id: str
    function: str
    payload: bytes
    accepted_at: float  # epoch seconds
    qualifier: str | None = None
    attempts: int = 0
    deferrals: int = 0  # consecutive attempts given back; the exponent of the throttle backoff
    hops: int = 0
    trace_id: str | None = None
    client_context: Mapping[str, object] | None = None
    receipt: str = ""  # names this claim


# --------------------------------------------------------------------------- progress of a shard


@dataclass(frozen=True, slots=True)
class Piece:
    """An unfinished range of records whose `attempts` have begun; `first` and `last` are positions."""

    first: str
    last: str
    attempts: int


@dataclass(frozen=True, slots=True)
class WindowState:
    """A tumbling window that is open: `start`, `end` in epoch seconds, and what the handler last returned as state."""

    start: float
    end: float
    state: Mapping[str, object]
    terminated_early: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What a checkpoint stores, as one value: every record up to `position` is finished."""

    position: str
    pieces: tuple[Piece, ...] = ()
    window: WindowState | None = None
    ended: bool = False  # the shard is closed and everything in it finished
    seek: int = 0  # the mapping's seek generation that this progress belongs to
    start: str = ""  # the position after which the reading of this generation began


Fate = Literal["delivered", "failed", "filtered", "lost"]


@dataclass(frozen=True, slots=True)
class Settled:
    """A range of records that found its fate; `reason` is the condition or the destination's refusal. Nobody knows the
    positions of lost records: both are empty."""

    first: str
    last: str
    count: int
    fate: Fate
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to read a shard for a mapping. `counter` rises with every new owner: a former one cannot write."""

    group: str  # the mapping's id
    name: str  # the shard
    owner: str
    counter: int
    progress: Progress | None = None
    free: bool = False  # expired or released: may be taken


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of a stream; it starts after its `parents` are finished."""

    id: str
    parents: tuple[str, ...] = ()


@dataclass(slots=True)
class Read:
    """What a reader found in one shard. `caught_up`: nothing more right now. `ended`: closed, and read to its end.
    `lost`: how many records the source dropped (retention, trimming) before they could be read; told with those that
    come after them, or at the end."""

    shard: str
    records: Sequence[Record]
    caught_up: bool = False
    ended: bool = False
    lost: int = 0


# --------------------------------------------------------------------------- steps: what next, as a value

StreamCondition = Literal["RetryAttemptsExhausted", "RecordAgeExceeded"]
AsyncCondition = Literal["Success", "RetriesExhausted", "EventAgeExceeded", "ZeroReservedConcurrency"]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read on after `position`."""

    position: str
    maximum_records: int
    maximum_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Invoke:
    """Hand this batch to the function. `window` is set in a shard with tumbling windows."""

    lane: int
    records: Sequence[Record]
    attempt: int
    window: WindowState | None = None
    final: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReportBatch:
    """Tell the on-failure destination that these records were given up. `outcome` is the last try's, if any."""

    lane: int
    records: Sequence[Record]
    condition: StreamCondition
    attempts: int
    outcome: Outcome | None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Store this progress under the lease, with the fates of exactly those records that lie between the last stored
    position and this one (lost ones included), in their order."""

    progress: Progress
    settled: tuple[Settled, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (monotonic seconds), unless something is answered."""

    until: float


@dataclass(frozen=True, slots=True)
class EndShard:
    """The shard is closed and finished: its children may start."""


StreamStep = Fetch | Invoke | ReportBatch | Checkpoint | Wait | EndShard


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the item for good. `state` says how an asynchronous event ended: succeeded, failed, expired, dropped or
    DESTINATION_FAILED; `result` is what its last attempt came to: the answer or the error document, as JSON; `reason`
    says what the state leaves open: the words of a destination that refused. `give_back`: the claim was no attempt."""

    receipt: str
    state: str = ""
    result: bytes = b""
    reason: str = ""
    give_back: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Give the item back, visible again at `at` (epoch seconds). `give_back`: the claim is no attempt. `reason` says
    why, to whoever asks what an event waits for: a throttle's reason or the error document, as JSON or plain text."""

    receipt: str
    at: float
    give_back: bool = False
    reason: str = ""


Settlement = Delete | Release


@dataclass(frozen=True, slots=True)
class ReportEvent:
    """Tell the destinations how an asynchronous event ended."""

    event: Event
    condition: AsyncCondition
    outcome: Outcome | None


EventStep = ReportEvent | Delete | Release

# --------------------------------------------------------------------------- what a destination answers


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has it durably."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The destination will never take it (too large, unknown, forbidden)."""

    reason: str


Delivery = Delivered | Refused | Unavailable

# --------------------------------------------------------------------------- what a store knows, for people who ask


@dataclass(frozen=True, slots=True)
class EventFact:
    """Where an asynchronous event is: `state` is "waiting" (until `due_at`, because of `reason`), "running" (`due_at`:
    when its claim ends), or how it ended, with its `result`; then its payload is gone, and `reason` is the deletion's,
    or else what it last waited for. Times in epoch seconds."""

    event: Event
    state: str
    due_at: float = 0.0
    reason: str = ""
    ended_at: float = 0.0
    result: bytes = b""


MessageState = Literal["visible", "in_flight", "delayed"]


@dataclass(frozen=True, slots=True)
class MessageFact:
    """Where a message is: in which queue, and visible again at `due_at` (epoch seconds) if it is not visible."""

    queue: str
    message: Message
    state: MessageState
    due_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ShardFact:
    """How far a mapping is in a shard, and how many of its records found which fate, by (fate, reason)."""

    lease: Lease
    counts: Mapping[tuple[Fate, str], int]


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages can be received now, are out, or are delayed."""

    visible: int
    in_flight: int
    delayed: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What lies in a shard after a position: how many records, and when the first of them arrived (epoch seconds)."""

    records: int
    oldest_at: float | None = None
