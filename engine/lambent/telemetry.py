"""Everything that is counted, measured or said about the engine, and all of its names.

Decides the names (AWS's on every screen, Prometheus's and OpenTelemetry's on the wire) and what a snapshot looks like.
What is worth counting is decided where it happens. Counting is a dictionary's increment and never fails; `step` is the
one hook that logs, spans, live pictures and the simulator's trace hang on, and costs a look when nobody does. Logs are
for rare events: nothing is logged per invocation.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

INVOCATIONS: Final = "Invocations"
ERRORS: Final = "Errors"
DURATION: Final = "Duration"
THROTTLES: Final = "Throttles"
CONCURRENT_EXECUTIONS: Final = "ConcurrentExecutions"
ITERATOR_AGE: Final = "IteratorAge"
OFFSET_LAG: Final = "OffsetLag"
ASYNC_EVENTS_RECEIVED: Final = "AsyncEventsReceived"
ASYNC_EVENT_AGE: Final = "AsyncEventAge"
ASYNC_EVENTS_DROPPED: Final = "AsyncEventsDropped"
DEAD_LETTER_ERRORS: Final = "DeadLetterErrors"
DESTINATION_DELIVERY_FAILURES: Final = "DestinationDeliveryFailures"
RECURSIVE_INVOCATIONS_DROPPED: Final = "RecursiveInvocationsDropped"
POLLED_EVENT_COUNT: Final = "PolledEventCount"
FILTERED_OUT_EVENT_COUNT: Final = "FilteredOutEventCount"
INVOKED_EVENT_COUNT: Final = "InvokedEventCount"
FAILED_INVOKE_EVENT_COUNT: Final = "FailedInvokeEventCount"
DROPPED_EVENT_COUNT: Final = "DroppedEventCount"
DELETED_EVENT_COUNT: Final = "DeletedEventCount"
ON_FAILURE_DESTINATION_DELIVERED_EVENT_COUNT: Final = "OnFailureDestinationDeliveredEventCount"
# ours: what became of a stream's records where AWS counts only what went wrong
DELIVERED_EVENT_COUNT: Final = "DeliveredEventCount"
LOST_EVENT_COUNT: Final = "LostEventCount"
# ours: their lease, visibility time-out or claim was over before their invocation was: its outcome is void
OVERRUN_EVENT_COUNT: Final = "OverrunEventCount"
# ours, where AWS has an environment of its own for each call
ABANDONED_HANDLERS: Final = "AbandonedHandlers"
OVERRUN_THREADS: Final = "OverrunThreads"
LOOP_BLOCKED: Final = "LoopBlocked"
LOG_LINES_LOST: Final = "LogLinesLost"
INIT_DURATION: Final = "InitDuration"
PROVISIONED_INVOCATIONS: Final = "ProvisionedConcurrencyInvocations"
PROVISIONED_EXECUTIONS: Final = "ProvisionedConcurrentExecutions"
PROVISIONED_UTILIZATION: Final = "ProvisionedConcurrencyUtilization"
SPILLOVER_INVOCATIONS: Final = "ProvisionedConcurrencySpilloverInvocations"
UNAVAILABLE: Final = "Unavailable"
# ours: whether the engine finds itself well
HEALTHY: Final = "Healthy"


class OnWire(NamedTuple):
    """A metric as others see it; times are in seconds there as here. A gauge that is observed is its last value."""

    prometheus: str
    opentelemetry: str
    kind: Literal["counter", "gauge", "summary"]
    meaning: str


WIRE: Final[Mapping[str, OnWire]] = {
    INVOCATIONS: OnWire(
        "lambent_invocations_total", "faas.invocations", "counter", "Calls that ran, whatever came of them."
    ),
    ERRORS: OnWire("lambent_errors_total", "faas.errors", "counter", "Calls that ended with an error of the function."),
    DURATION: OnWire("lambent_invoke_duration_seconds", "faas.invoke_duration", "summary", "How long calls ran."),
    THROTTLES: OnWire(
        "lambent_throttles_total", "lambent.throttles", "counter", "Calls that were not begun, for want of room."
    ),
    CONCURRENT_EXECUTIONS: OnWire(
        "lambent_concurrent_executions", "lambent.concurrent_executions", "gauge", "Calls that run now."
    ),
    ITERATOR_AGE: OnWire(
        "lambent_iterator_age_seconds",
        "lambent.iterator_age",
        "gauge",
        "How old the last record of the latest batch was when it was handed over.",
    ),
    OFFSET_LAG: OnWire(
        "lambent_offset_lag", "lambent.offset_lag", "gauge", "Records that a shard has and that were not read yet."
    ),
    ASYNC_EVENTS_RECEIVED: OnWire(
        "lambent_async_events_received_total",
        "messaging.client.sent.messages",
        "counter",
        "Asynchronous events that were accepted.",
    ),
    ASYNC_EVENT_AGE: OnWire(
        "lambent_async_event_age_seconds",
        "lambent.async_event_age",
        "summary",
        "How old asynchronous events were when they were tried.",
    ),
    ASYNC_EVENTS_DROPPED: OnWire(
        "lambent_async_events_dropped_total",
        "lambent.async_events_dropped",
        "counter",
        "Asynchronous events that were given up.",
    ),
    DEAD_LETTER_ERRORS: OnWire(
        "lambent_dead_letter_errors_total",
        "lambent.dead_letter_errors",
        "counter",
        "Attempts to write to a dead-letter queue that failed.",
    ),
    DESTINATION_DELIVERY_FAILURES: OnWire(
        "lambent_destination_delivery_failures_total",
        "lambent.destination_failures",
        "counter",
        "Attempts to deliver to a destination that failed.",
    ),
    RECURSIVE_INVOCATIONS_DROPPED: OnWire(
        "lambent_recursive_invocations_dropped_total",
        "lambent.recursive_invocations",
        "counter",
        "Calls that were refused because a function called itself on and on.",
    ),
    POLLED_EVENT_COUNT: OnWire(
        "lambent_polled_events_total",
        "messaging.client.consumed.messages",
        "counter",
        "Records or messages that were read.",
    ),
    FILTERED_OUT_EVENT_COUNT: OnWire(
        "lambent_filtered_out_events_total",
        "lambent.filtered_out_events",
        "counter",
        "Records or messages that no filter let pass.",
    ),
    INVOKED_EVENT_COUNT: OnWire(
        "lambent_invoked_events_total",
        "lambent.invoked_events",
        "counter",
        "Records or messages with which the function was called; each attempt counts.",
    ),
    FAILED_INVOKE_EVENT_COUNT: OnWire(
        "lambent_failed_invoke_events_total",
        "lambent.failed_invoke_events",
        "counter",
        "Records or messages whose call failed; each attempt counts.",
    ),
    DROPPED_EVENT_COUNT: OnWire(
        "lambent_dropped_events_total", "lambent.dropped_events", "counter", "Records or messages that were given up."
    ),
    DELETED_EVENT_COUNT: OnWire(
        "lambent_deleted_events_total",
        "lambent.deleted_events",
        "counter",
        "Messages that were deleted from their queue, done.",
    ),
    ON_FAILURE_DESTINATION_DELIVERED_EVENT_COUNT: OnWire(
        "lambent_on_failure_destination_delivered_events_total",
        "lambent.on_failure_delivered_events",
        "counter",
        "Records that were given up and delivered to the on-failure destination.",
    ),
    DELIVERED_EVENT_COUNT: OnWire(
        "lambent_delivered_events_total", "lambent.delivered_events", "counter", "Records that were done."
    ),
    LOST_EVENT_COUNT: OnWire(
        "lambent_lost_events_total", "lambent.lost_events", "counter", "Records that were gone before they were read."
    ),
    OVERRUN_EVENT_COUNT: OnWire(
        "lambent_overrun_events_total",
        "lambent.overrun_events",
        "counter",
        "Events, records or messages whose call outlasted the right to it.",
    ),
    ABANDONED_HANDLERS: OnWire(
        "lambent_abandoned_handlers",
        "lambent.abandoned_handlers",
        "gauge",
        "Coroutines that were given up and have not ended.",
    ),
    OVERRUN_THREADS: OnWire(
        "lambent_overrun_threads",
        "lambent.overrun_threads",
        "gauge",
        "Threads whose call was given up and has not ended.",
    ),
    LOOP_BLOCKED: OnWire(
        "lambent_loop_blocked_seconds",
        "lambent.loop_blocked",
        "summary",
        "How long the event loop was blocked, each time that it was.",
    ),
    INIT_DURATION: OnWire(
        "lambent_init_duration_seconds", "faas.init_duration", "summary", "How long environments took to begin."
    ),
    PROVISIONED_INVOCATIONS: OnWire(
        "lambent_provisioned_invocations_total",
        "lambent.provisioned_invocations",
        "counter",
        "Calls that provisioned environments ran.",
    ),
    PROVISIONED_EXECUTIONS: OnWire(
        "lambent_provisioned_executions", "lambent.provisioned_executions", "gauge", "Calls that they run now."
    ),
    PROVISIONED_UTILIZATION: OnWire(
        "lambent_provisioned_utilization",
        "lambent.provisioned_utilization",
        "gauge",
        "The share of them, of those that are ready, that runs a call now: 0 to 1.",
    ),
    SPILLOVER_INVOCATIONS: OnWire(
        "lambent_spillover_invocations_total",
        "lambent.spillover_invocations",
        "counter",
        "Calls that others ran, because no provisioned environment was free.",
    ),
    LOG_LINES_LOST: OnWire(
        "lambent_log_lines_lost_total", "lambent.log_lines_lost", "counter", "Lines of logs that could not be kept."
    ),
    UNAVAILABLE: OnWire(
        "lambent_unavailable_total", "lambent.unavailable", "counter", "Calls that found no environment."
    ),
    HEALTHY: OnWire("lambent_healthy", "lambent.healthy", "gauge", "1 while the engine is green, 0 while it is red."),
}
"""By AWS's name, which is the one on every screen."""


Level = Literal["debug", "info", "warning", "error", "critical"]
StepCallback = Callable[[str, object, object], None]


class Summary:
    """What was observed of one thing: how often, and the sum, least, greatest and last value."""

    __slots__ = ("count", "last", "max", "min", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.min = float("inf")
        self.max = float("-inf")
        self.last = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.last = value
        if value < self.min:
            self.min = value
        if value > self.max:
            self.max = value

    def as_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("count", "sum", "min", "max", "last")}


Measured = dict[str, float | dict[str, float]]


class Telemetry:
    """The engine's counters and its one hook. Subjects are functions, mappings, destinations: whatever is counted."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[str, float]] = {}
        self._summaries: dict[str, dict[str, Summary]] = {}
        self._gauges: dict[str, Callable[[], Mapping[str, float]]] = {}
        self._subscribers: tuple[StepCallback, ...] = ()
        self.mappings: dict[str, tuple[str, str]] = {}
        """Source and function of each mapping that ran here, by the id that is its subject."""

    def count(self, metric: str, subject: str, amount: float = 1) -> None:
        """Add to a counter."""
        self.counter(metric)[subject] += amount

    def counter(self, metric: str) -> dict[str, float]:
        """The counters of a metric by subject, for whoever counts so often that a call would be felt."""
        counters = self._counters.get(metric)
        if counters is None:
            counters = self._counters[metric] = defaultdict(int)
        return counters

    def observe(self, metric: str, subject: str, value: float) -> None:
        """Add a value to a summary; times in seconds."""
        self.summary(metric, subject).add(value)

    def summary(self, metric: str, subject: str) -> Summary:
        """The summary of a metric for one subject, to be kept by whoever observes often."""
        summaries = self._summaries.get(metric)
        if summaries is None:
            summaries = self._summaries[metric] = {}
        summary = summaries.get(subject)
        if summary is None:
            summary = summaries[subject] = Summary()
        return summary

    def gauge(self, metric: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A metric that someone else knows at any time, by subject; asked for at each snapshot."""
        self._gauges[metric] = read

    def step(self, where: str, step: object, answer: object = None) -> None:
        """Tell the subscribers what was done. A subscriber that fails is logged and told nothing more."""
        for callback in self._subscribers:
            try:
                callback(where, step, answer)
            except Exception as error:  # noqa: BLE001 - whoever watches must not stop what is watched
                self._forget(callback)
                self.log("error", "a subscriber failed and was dropped", subscriber=repr(callback), error=repr(error))

    def subscribe(self, callback: StepCallback) -> Callable[[], None]:
        """Call `callback(where, step, answer)` at each step, in the engine's thread; gives what ends that."""
        self._subscribers = (*self._subscribers, callback)
        return lambda: self._forget(callback)

    @property
    def watched(self) -> bool:
        """Whether anybody subscribed; for those who would have to build a step first."""
        return bool(self._subscribers)

    def log(self, level: Level, event: str, **fields: object) -> None:
        """Log something rare through structlog; to stderr, if the program has not configured it: stdout is its own."""
        import structlog  # costs a tenth of the start, and most programs that run well never log

        error = fields.pop("exc_info", None)
        if isinstance(error, BaseException):
            import traceback

            # as text: some renderers would show the variables of each frame, and so what is in events
            fields["exception"] = "".join(traceback.format_exception(error)).rstrip()
        if structlog.is_configured():
            log = structlog.get_logger("lambent")
        else:
            log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
        getattr(log, level)(event, **fields)

    def snapshot(self) -> dict[str, Measured]:
        """`{metric: {subject: number or {count, sum, min, max, last}}}`, a copy. May be asked for by any thread."""
        found: dict[str, Measured] = {metric: dict(counters) for metric, counters in list(self._counters.items())}
        for metric, summaries in list(self._summaries.items()):
            found[metric] = {subject: summary.as_dict() for subject, summary in list(summaries.items())}
        for metric, read in list(self._gauges.items()):
            found[metric] = dict(read())
        return found

    def _forget(self, callback: StepCallback) -> None:
        self._subscribers = tuple(each for each in self._subscribers if each is not callback)
