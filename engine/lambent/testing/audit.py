"""What the books must say: fates that look like fates, and are not what was promised.

Decides, from a finished history and the workload, whether each event was reported before it ended, whether anything was
given up before its tries were made, before its age, or later than need be. Leaves orders, duplicates, owners and losses
to `history.py`, and what the store did to `witness.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from lambent.testing.history import History
from lambent.testing.workload import ROUNDING, Workload

__all__ = ["audit", "once"]

EXHAUSTED: Final = ("RetriesExhausted", "RetryAttemptsExhausted", "redriven")
UNREPORTED: Final = ("recorded as destination-failed", "recorded as function-deleted")


def audit(history: History, day: Workload, *, undisturbed: bool, times_tell: bool) -> Iterator[str]:
    """Sentences, one for each broken promise. `undisturbed`: no fault could use up an attempt or hold up a report.
    `times_tell`: wall clocks did not jump."""
    yield from _ended_unreported(history, day)
    yield from _rejoined(history, day)
    if undisturbed:
        yield from _given_up_untried(history, day)
    if times_tell:
        yield from _given_up_young(history, day)
        if undisturbed:
            yield from _given_up_late(history, day)


def once(history: History, day: Workload) -> Iterator[str]:
    """A sentence for each record that was done twice on a day on which nothing goes wrong, no handler either. That its
    shard was handed over is no excuse, unless lanes are ahead of each other."""
    if any(run.outcome not in ("ok", "interrupted") for run in history.runs):
        return
    sources = [mapped for mapped in day.mappings.values() if mapped.source.startswith("stream:")]
    lone = {mapped.function for mapped in sources if mapped.options.get("parallelization_factor", 1) == 1}
    done: dict[tuple[str, str], str] = {}
    for run in history.runs:
        for id in run.done if run.function in lone else ():
            if (run.function, id) in done:
                yield f"twice: {id} was done in {done[run.function, id]} and again in {run}"
            done[run.function, id] = str(run)


def _ended_unreported(history: History, day: Workload) -> Iterator[str]:
    told: dict[str, dict[str, int]] = defaultdict(dict)
    for report in history.reports:
        for id in report.ids:
            told[id].setdefault(report.destination, report.row)
    for end in history.settled:
        (id,) = end.ids if len(end.ids) == 1 else ("",)
        if not end.what.startswith("recorded as") or end.what in UNREPORTED or id not in history.born:
            continue
        options = day.functions[history.born[id].source]
        if end.what == "recorded as succeeded":
            due = [options.get("on_success")]
        else:
            letters = options.get("dead_letter_queue")
            due = [options.get("on_failure"), letters and f"{letters} as dead letter"]
        for destination in due:
            if destination and told[id].get(destination, end.row) >= end.row:
                yield f"unreported: {id} was {end.what} at {end.at:g} s, and {destination} had not heard of it"


def _rejoined(history: History, day: Workload) -> Iterator[str]:
    """Records that failed together are tried again together or in parts, but with no others, until they find a fate.
    Where nothing counts their tries, a crash may come before it is stored that there was one."""
    uncounted = {function for function in day.functions if day.uncounted(function)}
    fates = [(report.row, report.function, report.ids) for report in history.reports]
    fates += [(end.row, end.function, end.ids) for end in history.settled if end.function is not None]
    given_up = {(function, id): row for row, function, ids in reversed(fates) for id in ids}
    together: dict[tuple[str, str], frozenset[str]] = {}
    for run in history.runs:
        ids = frozenset(run.ids)
        if not ids or history.born[run.ids[0]].kind != "record" or run.function in uncounted:
            continue
        for id in run.ids:
            before = together.get((run.function, id), ids)
            if not ids <= before and given_up.get((run.function, id), run.row) >= run.row:
                yield f"rejoined: {run} got {list(run.ids)}, but {id} had failed in {sorted(before)}"
                return
        for id in run.ids:
            if run.done:
                together.pop((run.function, id), None)
            elif run.outcome != "interrupted":
                together[run.function, id] = ids


def _given_up_untried(history: History, day: Workload) -> Iterator[str]:
    tries: dict[tuple[str, str], int] = defaultdict(int)
    for run in history.runs:
        for id in run.ids if run.outcome != "interrupted" else ():
            tries[run.function, id] += 1
    for report in history.reports:
        allowed = day.tries(report.function) if report.condition in EXHAUSTED else 0
        for id in report.ids:
            if tries[report.function, id] < allowed:
                text = f"{report.condition} at {report.at:g} s after {tries[report.function, id]} of {allowed} tries"
                yield f"untried: {id} was given up by {report.function} as {text}"


def _given_up_young(history: History, day: Workload) -> Iterator[str]:
    for report in history.reports:
        mapped = day.mapping_of(report.function)
        if report.condition != "RecordAgeExceeded" or mapped is None:
            continue
        limit = mapped.options.get("maximum_record_age_seconds", 0)
        for id in report.ids:
            if (age := report.at - history.born[id].at) < limit - ROUNDING:
                yield f"young: {id} was given up by {report.function} for its age at {age:g} s, below {limit:g} s"


def _given_up_late(history: History, day: Workload) -> Iterator[str]:
    """An event whose next try would come too late is not kept until then."""
    delays = day.settings["async_retry_delays_seconds"]
    failures: dict[str, list[float]] = defaultdict(list)
    for run in history.runs:
        for id in run.ids if run.outcome in ("failed", "timed out") else ():
            failures[id].append(run.end_at)
    for report in history.reports:
        for id in report.ids if report.condition == "EventAgeExceeded" else ():
            if failures[id]:
                count, last = len(failures[id]), failures[id][-1]
                again = last + delays[min(count, len(delays)) - 1]
                limit = history.born[id].at + day.functions[report.function]["maximum_event_age_seconds"]
                if again >= limit and report.at >= again - ROUNDING:
                    text = f"though its last try failed at {last:g} s and another would come after {limit:g} s"
                    yield f"late: {id} was reported as EventAgeExceeded at {report.at:g} s, {text}"
