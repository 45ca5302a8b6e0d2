"""What an engine counts, as Prometheus scrapes it (extra `metrics`).

Decides the labels of a series: `function`, and for a mapping also `mapping` (its id), `source` and, where a shard has
a series of its own, `shard`; and how many series a metric may have. Names, kinds and meanings stand in
`telemetry.WIRE`. `lambent run --metrics` serves it; an application that has an endpoint of its own registers it there:

    from prometheus_client import REGISTRY
    from lambent.prometheus import EngineCollector

    REGISTRY.register(EngineCollector(engine))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, cast

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from lambent.arns import without_password
from lambent.engine import Engine
from lambent.errors import EngineStopped
from lambent.telemetry import HEALTHY, WIRE, Measured

MAXIMUM_SUBJECTS: Final = 1_000  # of a metric that have a series of their own, those that were counted first
OTHERS: Final = "(others)"  # the function of the series for all beyond that
LABELS: Final = ("function", "mapping", "source", "shard")

_Labels = tuple[str, ...]
_Mappings = Mapping[str, tuple[str, str]]
_ENGINE: Final[_Labels] = ("", "", "", "")


class EngineCollector(Collector):
    """A collector for a `prometheus_client` registry, which may ask from any thread.

    It reads the engine's counters, which begin at 0 with its process. Before the engine is started there is little to
    tell, and it is not healthy; neither is it while it drains."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        """All that there may be, so that a registry refuses a second engine's collector as it is registered."""
        return [Metric(wire.prometheus, wire.meaning, wire.kind) for wire in WIRE.values()]

    def collect(self) -> Iterator[Metric]:
        """What the engine counts now."""
        telemetry = self._engine.telemetry
        measured = telemetry.snapshot()
        measured[HEALTHY] = {"": self._healthy()}
        for name in WIRE.keys() & measured.keys():
            yield _family(name, measured[name], telemetry.mappings)

    def _healthy(self) -> float:
        try:
            return 0.0 if self._engine.health().red else 1.0
        except EngineStopped:
            return 0.0


def _family(name: str, measured: Measured, mappings: _Mappings) -> Metric:
    wire = WIRE[name]
    family = Metric(wire.prometheus.removesuffix("_total"), wire.meaning, wire.kind)
    subjects = iter(measured.items())
    for subject, value in islice(subjects, MAXIMUM_SUBJECTS):
        _add(family, _labels(subject, mappings), value)
    if others := [value for _, value in subjects]:
        _add(family, (OTHERS, *_ENGINE[1:]), _together(others, wire.kind))
    return family


def _labels(subject: str, mappings: _Mappings) -> _Labels:
    """A subject is a function's name, a mapping's id with or without a shard, or something of the whole engine."""
    identity, _, shard = subject.partition("/")
    if (known := mappings.get(identity)) is not None:
        source, function = known
        return function, identity, without_password(source), shard
    return (subject, *_ENGINE[1:])


def _add(family: Metric, labels: _Labels, value: float | dict[str, float]) -> None:
    # a label that is empty is the same as none, and need not be sent
    told = {name: label for name, label in zip(LABELS, labels, strict=True) if label}
    if family.type == "summary":
        summary = cast(dict[str, float], value)
        family.add_sample(f"{family.name}_count", told, summary["count"])
        family.add_sample(f"{family.name}_sum", told, summary["sum"])
    elif family.type == "counter":
        family.add_sample(f"{family.name}_total", told, cast(float, value))
    else:
        family.add_sample(family.name, told, _gauge(value))


def _together(values: list[float | dict[str, float]], kind: str) -> float | dict[str, float]:
    """Amounts add up; of gauges the greatest is what somebody has to look at."""
    if kind == "summary":
        summaries = cast(list[dict[str, float]], values)
        return {name: sum(each[name] for each in summaries) for name in ("count", "sum")}
    return sum(cast(list[float], values)) if kind == "counter" else max(map(_gauge, values))


def _gauge(value: float | dict[str, float]) -> float:
    return value["last"] if isinstance(value, dict) else value
