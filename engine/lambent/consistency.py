"""What fits together: a function, queue or mapping against everything else that is configured.

Decides whether what is named exists and may stand there (is the queue FIFO, does its visibility cover the time limit),
which options belong to which kind of mapping, and what is a duplicate. A value on its own is judged in `model.py`; what
is known, and when it is checked, is `control.py`'s. Texts of refusals are those that Lambda's API answers (Lambda API
reference: CreateEventSourceMapping, PutFunctionConcurrency, PutFunctionEventInvokeConfig), where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Literal, NamedTuple

from lambent.arns import queue_arn, stream_arn, without_password
from lambent.errors import InvalidParameterValue, ResourceConflict
from lambent.model import EventSourceMapping, Function, Queue, QueueMapping, Stream, StreamMapping
from lambent.semantics.concurrency import check_reservation
from lambent.semantics.filtering import InvalidPattern, compile_filters
from lambent.semantics.kafka import destination, same_topic
from lambent.semantics.routing import known, named
from lambent.settings import EngineSettings
from lambent.validation import unknown, validated

AnyMapping = QueueMapping | StreamMapping
Kind = Literal["queue", "stream"]


class Known(NamedTuple):
    """What things are checked against. `final`: nothing else will come, so what is named must be there."""

    functions: Mapping[str, Function]
    queues: Mapping[str, Queue]
    streams: Mapping[str, Stream]
    sources: Mapping[str, Kind]  # other than the store's, by URL
    settings: EngineSettings
    final: bool

    def check_function(self, function: Function) -> None:
        """Raises InvalidParameterValue: too much is reserved, or a destination is not there or may not be one."""
        if function.reserved_concurrency:
            others = sum(f.reserved_concurrency or 0 for name, f in self.functions.items() if name != function.name)
            check_reservation(function.reserved_concurrency, others, self.settings.account_concurrency)
        for option, target in function.destinations.items():
            if target == f"function:{function.name}":
                raise InvalidParameterValue(
                    f"{option}: You can't specify the function as a destination for itself. ({function.name})"
                )
            self._check_destination(option, target)

    def check_queue(self, queue: Queue) -> None:
        """Raises InvalidParameterValue if its dead-letter queue is of another type."""
        if queue.dead_letter_queue is not None and self.queues[queue.dead_letter_queue].fifo != queue.fifo:
            raise InvalidParameterValue(
                f'dead_letter_queue "{queue.dead_letter_queue}" of "{queue.name}" must be '
                f"{'a FIFO queue too (fifo=True)' if queue.fifo else 'a standard queue too'}"
            )

    def check_mapping(self, mapping: AnyMapping) -> None:
        """Raises InvalidParameterValue: no such function, source or destination, no event pattern, or an option that
        does not go with this source or function."""
        function = self.functions.get(mapping.function)
        if function is None and self.final:
            raise InvalidParameterValue(f"Function does not exist ({mapping.function})")
        if function is not None and not known(function, mapping.qualifier):
            raise InvalidParameterValue(
                f"qualifier: {mapping.qualifier!r} is not allowed; {mapping.function} has no such version or alias"
            )
        if function is not None:
            function = named(function, mapping.called_qualifier)
        try:
            compile_filters(mapping.filters)
        except InvalidPattern as invalid:
            raise InvalidParameterValue(f"filters: Invalid filter pattern definition. {invalid.reason}") from None
        kind, _, name = mapping.source.partition(":")
        builtin = "://" not in mapping.source
        if builtin and name not in (self.queues if kind == "queue" else self.streams):
            raise self.no_source(mapping.source)
        if isinstance(mapping, StreamMapping):
            to = mapping.on_failure and destination(mapping.source, mapping.on_failure)
            shown_to = f"on_failure: {without_password(to or '')} is"
            if to is not None and same_topic(mapping.source, to):
                raise InvalidParameterValue(f"{shown_to} a topic that the mapping reads")
            if to in (mapping.source, f"function:{mapping.function}"):
                raise InvalidParameterValue(f"{shown_to} the mapping's own source or function")
            self._check_destination("on_failure", to)
        elif builtin:
            _check_queue_mapping(mapping, self.queues[name], function)

    def check_duplicate(
        self, identity: str, mapping: AnyMapping, others: Iterable[tuple[str, AnyMapping]], *, same_id: bool = False
    ) -> None:
        """Raises ResourceConflict if one of `others` (id, mapping) feeds the same source to the same function; with
        `same_id`, also if it is this very mapping."""
        key = (mapping.source, mapping.function, mapping.qualifier)
        for other_id, other in others:
            if (same_id and other_id == identity) or (
                other_id != identity and (other.source, other.function, other.qualifier) == key
            ):
                raise self.duplicate(other_id, mapping)

    def duplicate(self, identity: str, mapping: AnyMapping) -> ResourceConflict:
        """There is such a mapping already, the one of this id."""
        arn = self._source_arn(mapping.source)
        advice = f"Please update or delete the existing mapping with UUID {identity}"
        if mapping.kind == "queue":
            return ResourceConflict(
                f'An event source mapping with SQS arn (" {arn} ") and function (" {mapping.function} ") '
                f"already exists. {advice}"
            )
        return ResourceConflict(
            f'The event source arn (" {arn} ") and function (" {mapping.function} ") provided mapping already exists. '
            f"{advice}"
        )

    def no_source(self, source: str) -> InvalidParameterValue:
        """There is no such queue or stream."""
        kind, _, name = source.partition(":")
        if kind == "stream":
            arn = self._source_arn(source)
            return InvalidParameterValue(f"Stream not found: {arn} (declare it with engine.stream({name!r}))")
        return InvalidParameterValue(
            "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS Error "
            f"Message: The specified queue does not exist. (declare it with engine.queue({name!r}))"
        )

    def _check_destination(self, option: str, target: str | None) -> None:
        kind, _, name = (target or "").partition(":")
        if kind == "queue" and name in self.queues and self.queues[name].fifo:
            raise InvalidParameterValue(f'{option}: "{name}" is a FIFO queue, which can\'t be a destination')
        there: Mapping[str, object] | None = {
            "queue": self.queues, "stream": self.streams, "function": self.functions
        }.get(kind)  # fmt: skip
        if self.final and there is not None and name not in there:
            raise InvalidParameterValue(f'{option}: there is no {kind} "{name}"; declare it with engine.{kind}(…)')
        if kind == "kafka" and "/" not in name[2:]:
            raise InvalidParameterValue(
                f"{option}: {target} names no cluster: write kafka://HOST:PORT/TOPIC; a topic alone is for "
                "mappings of topics, in the cluster that they read"
            )
        if kind == "kafka" and find_spec("aiokafka") is None:
            raise InvalidParameterValue(f"{option}: a topic needs aiokafka: pip install 'lambent[kafka]'")
        if kind in ("http", "https") and find_spec("aiohttp") is None:
            raise InvalidParameterValue(f"{option}: an HTTP destination needs aiohttp: pip install 'lambent[http]'")

    def _source_arn(self, source: str) -> str:
        if "://" in source:
            return without_password(source)
        kind, _, name = source.partition(":")
        arn = stream_arn if kind == "stream" else queue_arn
        return arn(self.settings.region, self.settings.account_id, name)


def new_mapping(kind: str, source: str, function: str, options: Mapping[str, object]) -> AnyMapping:
    """The mapping of these options. Raises InvalidParameterValue."""
    check_options(kind, source, options)
    fields = {**options, "source": source, "function": function}
    if kind == "stream":
        return validated(StreamMapping, fields, "stream mappings")
    return validated(QueueMapping, fields, "queue mappings")


def check_options(kind: str, source: str, options: Iterable[str]) -> None:
    """Raises InvalidParameterValue for an option that mappings of this kind of source do not have."""
    mine: type[EventSourceMapping] = StreamMapping if kind == "stream" else QueueMapping
    other: type[EventSourceMapping] = QueueMapping if kind == "stream" else StreamMapping
    hidden = {"kind", "source", "function"}
    for option in options:
        if option not in mine.model_fields and option in other.model_fields:
            theirs = "queue" if kind == "stream" else "stream"
            raise InvalidParameterValue(f"{option} is an option of {theirs} mappings; {shown(source)} is a {kind}")
        if option in hidden or option not in mine.model_fields:
            raise InvalidParameterValue(unknown(option, mine.model_fields.keys() - hidden, f"{kind} mappings"))


def shown(source: str) -> str:
    """A source as a refusal quotes it: its name, or its URL."""
    return f'"{without_password(source)}"' if "://" in source else f'"{source.partition(":")[2]}"'


def _check_queue_mapping(mapping: QueueMapping, queue: Queue, function: Function | None) -> None:
    if queue.fifo and mapping.maximum_batching_window_seconds:  # without one a batch has 10 messages at most, anyway
        raise InvalidParameterValue(
            "Batching window is not supported for FIFO queues (maximum_batching_window_seconds of the mapping of "
            f"{queue.name}; its batches have 10 messages at most)"
        )
    said = function is not None and "timeout_seconds" in function.model_fields_set  # a default is not held against it
    if function is not None and said and queue.visibility_timeout_seconds < function.timeout_seconds:
        raise InvalidParameterValue(
            f"Queue visibility timeout: {queue.visibility_timeout_seconds:g} seconds is less than Function timeout: "
            f"{function.timeout_seconds} seconds (visibility_timeout_seconds of {queue.name}, timeout_seconds of "
            f"{function.name})"
        )
