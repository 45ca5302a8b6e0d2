"""Does what waits get done?

Decides when an engine is in good health, from what it sees of itself at successive looks: green, or red with what is
wrong and what to do next, in words. Lag that grows while nothing completes is red, and so is work that cannot begin; a
failing handler alone is not, for in a queue a failed attempt makes way for the next (in a stream it does not: its shard
stands still). Who looks, and how often, is `vitals.py`'s; how engines tell others is `desk.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

STALLED_SECONDS: Final = 60.0  # without anything done, on top of what a call may take by its own settings
SHOWN_SHARDS: Final = 3  # that stand still, by name

BLOCKED: Final = (
    "The event loop was blocked a moment ago: a coroutine computes or waits without await. The log has its stack; make "
    "the handler a plain function (`def`), or let it await."
)
NOBODY: Final = "No engine is running on this store: start one with `lambent run FILE.py`."
SILENT: Final = (
    "{} of {} engines do not tell how they are: the event loop of one is blocked, its store is away, or it died a "
    "moment ago. Look at its log."
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What one engine sees at one moment of something that it works on: a mapping, a shard, a function's events.

    `done` is different whenever something of it got done; `waiting` is how many `items` wait, of which none is being
    worked on for longer than `within_seconds` by its own settings. `running` calls of its `function` are under way;
    `failed`: the last attempt did. `held`: why none of it shall run; `trouble`: why none can.
    """

    subject: str
    function: str
    waiting: int
    items: str
    done: float | str
    within_seconds: float
    running: int = 0
    failed: bool = False
    held: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A sight, and since when (monotonic seconds) there was neither progress nor less that waits. `least` is how little
    waited since then."""

    sight: Sight
    since: float
    least: int

    def stands_still(self, now: float) -> float | None:
        """For how many seconds its lag has grown and nothing of it was done, if that is too long."""
        stood = now - self.since
        still = self.sight.waiting > 0 and not self.sight.held
        return stood if still and stood >= STALLED_SECONDS + self.sight.within_seconds else None


@dataclass(frozen=True, slots=True)
class Finding:
    """How one thing is in one engine. Green ones have a sentence only if there is something to know."""

    engine: str
    subject: str
    red: bool
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """Of one engine, or of all that share a store."""

    engines: int
    findings: tuple[Finding, ...]

    @property
    def red(self) -> bool:
        return any(finding.red for finding in self.findings)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Health:
        """What `document` gave."""
        findings = [
            Finding(each["engine"], each["subject"], each["health"] == "red", tuple(each["sentences"]))
            for each in document["findings"]
        ]
        return cls(document["engines"], tuple(findings))

    def document(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "health": "red" if self.red else "green",
            "engines": self.engines,
            "findings": [
                {
                    "engine": each.engine,
                    "subject": each.subject,
                    "health": "red" if each.red else "green",
                    "sentences": list(each.sentences),
                }
                for each in self.findings
            ],
        }


def look(before: Mapping[str, Seen], sights: Mapping[str, Sight], now: float) -> dict[str, Seen]:
    """What is known after another look, `now` in monotonic seconds. Something that was done, or less that waits than
    ever since, is progress, as is nothing that waits; what is seen for the first time begins then."""
    return {name: _look(before.get(name), sight, now) for name, sight in sights.items()}


def _look(before: Seen | None, sight: Sight, now: float) -> Seen:
    same = before is not None and before.sight.done == sight.done and not (before.sight.held or sight.held)
    if before is None or not same or not 0 < before.least <= sight.waiting:
        return Seen(sight, now, sight.waiting)
    return Seen(sight, before.since, before.least)


def judge(
    engine: str, seen: Mapping[str, Seen], now: float, troubles: Sequence[str] = (), cautions: Sequence[str] = ()
) -> Health:
    """How an engine is; `troubles` are its own, not those of something that it works on. Shards of one mapping, which
    have one subject, are one finding. `cautions`: what environments lack on this machine, which is no trouble."""
    findings = [Finding(engine, "engine", True, (trouble,)) for trouble in troubles]
    if cautions:
        findings.append(Finding(engine, "environments", False, tuple(cautions)))
    by_subject: dict[str, list[tuple[str, Seen]]] = {}
    for name, each in seen.items():
        by_subject.setdefault(each.sight.subject, []).append((name, each))
    for subject, parts in by_subject.items():
        trouble = next((each.sight.trouble for _, each in parts if each.sight.trouble), "")
        held = next((each.sight.held for _, each in parts if each.sight.held), "")
        wrong = (trouble,) if trouble else _stands_still(parts, now)
        findings.append(Finding(engine, subject, bool(wrong), wrong or ((held,) if held else ())))
    return Health(1, tuple(findings))


def together(alive: int, told: Sequence[Health]) -> Health:
    """How all engines of a store are, of which so many are alive, by what those told that did."""
    findings = [finding for each in told for finding in each.findings]
    if not alive and not told:
        findings.append(Finding("", "engines", True, (NOBODY,)))
    elif len(told) < alive:
        findings.append(Finding("", "engines", True, (SILENT.format(alive - len(told), alive),)))
    return Health(max(alive, len(told)), tuple(findings))


def _stands_still(parts: Sequence[tuple[str, Seen]], now: float) -> tuple[str, ...]:
    still = [(name, each.sight, stood) for name, each in parts if (stood := each.stands_still(now)) is not None]
    if not still:
        return ()
    sight, longest = still[0][1], max(stood for _, _, stood in still)
    waiting = sum(each.waiting for _, each, _ in still)
    what = f"Of its {sight.items} at least {waiting} {'wait' if waiting > 1 else 'waits'}"
    names = [name.rpartition("/")[2] for name, _, _ in still]
    if sight.items == "records":
        more = f" and {len(names) - SHOWN_SHARDS} more" if len(names) > SHOWN_SHARDS else ""
        what += f" in {', '.join(names[:SHOWN_SHARDS])}{more}"
    return f"{what}, and for {longest:.0f} seconds nothing was done.", _advice(sight)


def _advice(sight: Sight) -> str:
    if sight.failed:
        return (
            f"The last attempt failed, and it is tried again and again: `lambent invoke {sight.function} PAYLOAD "
            "--tail` with such a payload shows why. Mend it, or limit its attempts (maximum_retry_attempts or "
            "maximum_record_age_seconds, of a queue max_receive_count)."
        )
    if sight.running:
        return (
            f"{sight.running} calls of {sight.function} run: look what they wait for. Each is cut off at its time "
            "limit (timeout_seconds)."
        )
    return (
        f"No call of {sight.function} runs: `lambent why ID` of one of the {sight.items} tells what holds it up; a "
        "limit is raised by reserved_concurrency, maximum_concurrency or account_concurrency."
    )
