"""The picture of a run: throughput, iterator age and outcomes over time.

Decides only how the samples look. matplotlib is loaded when the picture is drawn, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. Everything but `seconds` and `iterator_age` (seconds) counts from the beginning."""

    seconds: float
    put: int
    delivered: int
    isolated: int
    rebooked: int
    given_up: int
    alerts: int
    queries: int
    failed_attempts: int
    iterator_age: float


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    time = [sample.seconds for sample in samples]
    figure, (throughput, age, outcomes) = pyplot.subplots(3, 1, sharex=True, figsize=(9, 9), layout="constrained")
    figure.suptitle(f"{samples[-1].put:,} departures through four models in {time[-1]:.1f} s")

    throughput.plot(time[1:], _rates(samples, "put"), label="put", color="tab:gray", linestyle="--")
    throughput.plot(time[1:], _rates(samples, "delivered"), label="delivered", color="tab:blue")
    throughput.plot(time[1:], _rates(samples, "failed_attempts"), label="failed attempts", color="tab:red")
    throughput.set_ylabel("per second")
    throughput.set_title("throughput")

    age.plot(time, [sample.iterator_age for sample in samples], color="tab:purple")
    age.set_ylabel("seconds")
    age.set_title("iterator age")

    for name, label in (
        ("delivered", "delivered"),
        ("isolated", "poison isolated"),
        ("rebooked", "rebooked"),
        ("alerts", "alerts settled"),
        ("queries", "queries answered"),
        ("given_up", "rebooking given up"),
    ):
        outcomes.plot(time, [getattr(sample, name) for sample in samples], label=label)
    outcomes.set_yscale("symlog")
    outcomes.set_ylim(bottom=0)
    outcomes.set_ylabel("so far")
    outcomes.set_xlabel("seconds")
    outcomes.set_title("outcomes")

    for axes in (throughput, outcomes):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for axes in (throughput, age, outcomes):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _rates(samples: Sequence[Sample], name: str) -> list[float]:
    steps = pairwise(samples)
    return [(getattr(b, name) - getattr(a, name)) / max(b.seconds - a.seconds, 1e-9) for a, b in steps]
