"""What happened to one job, in words: its audit entries around the due instant."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scheduling.domain.phases import parse_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.pages.texts import instant_text, lateness_text, offset_text


@dataclass(frozen=True, kw_only=True)
class Step:
    """One line: when, how far from the due instant, what, who, why.

    job_id: another job that the line names, to lead there.
    tone: how it is coloured: `good`, `bad`, `warning`, or nothing.
    """

    at: datetime
    offset: str
    what: str
    who: str = ""
    why: str = ""
    job_id: str = ""
    tone: str = ""


def tell(
    job: ScheduledTransition, entries: Iterable[AuditEntry], *, now: datetime
) -> list[Step]:
    """Return the lines of a job's life, newest last, with its due instant among them."""
    steps = [_step(entry, job, now=now) for entry in entries]
    due = Step(at=job.due_at, offset="", what="due", tone="due")
    # At the same instant the due one comes first: what happened then is owed to it.
    return sorted([due, *steps], key=lambda step: step.at)


def _step(entry: AuditEntry, job: ScheduledTransition, *, now: datetime) -> Step:
    """Return the line of one entry."""
    write, tone = _WORDS.get(entry.action, (_plain, ""))
    changes: Mapping[str, Any] = entry.changes if isinstance(entry.changes, dict) else {}
    return Step(
        at=entry.at,
        offset=offset_text(entry.at, start=job.due_at),
        what=write(entry, changes, now),
        who=entry.actor,
        why=entry.reason,
        job_id=_other_job(changes),
        tone=tone,
    )


Write = Callable[[AuditEntry, Mapping[str, Any], datetime], str]


def _plain(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Return the action's own words."""
    return entry.action.partition(".")[2].replace("_", " ")


def _scheduled(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell that a job was made, and for when."""
    due = _instant(changes.get("endTime"), now=now)
    replaced = changes.get("replaces")
    return f"scheduled for {due}" + (", in place of" if replaced else "")


def _updated(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell what an update changed."""
    told = []
    for name, pair in changes.items():
        if name == "endTime" and _is_pair(pair):
            told.append(f"{_instant(pair[0], now=now)} → {_instant(pair[1], now=now)}")
        elif _is_pair(pair):
            told.append(f"{name} {pair[0]} → {pair[1]}")
    return f"changed: {'; '.join(told) or 'other values'}, replaced by"


def _claimed(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell which attempt began."""
    return f"claimed by a worker, attempt {changes.get('attempt', '?')}"


def _completed(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell where the event stands on the topic, and how late it came there."""
    place = f"partition {changes.get('partition', '?')} offset {changes.get('offset', '?')}"
    late = changes.get("latenessMs")
    how_late = f", {_late(late)}" if isinstance(late, (int, float)) else ""
    return f"acknowledged, {place}{how_late}"


def _late(lateness_ms: float) -> str:
    """Return a lateness with its word."""
    text = lateness_text(lateness_ms)
    return text if lateness_ms < 0 else f"{text} late"


def _attempt_failed(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell why an attempt failed, and when the next one is."""
    again = changes.get("nextAttemptAt")
    next_one = f"; next attempt {_instant(again, now=now)}" if again else ""
    return f"attempt {changes.get('attempt', '?')} failed: {_error(changes)}{next_one}"


def _failed(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell why the last attempt failed."""
    return f"failed, no attempts left: {_error(changes)}"


def _given_back(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell why a claim was given back."""
    again = changes.get("nextAttemptAt")
    next_one = f"; next try {_instant(again, now=now)}" if again else ""
    return f"given back, no attempt used: {_error(changes)}{next_one}"


def _rescued(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell that a dead worker's claim was taken back."""
    return f"taken back from a worker that fell silent: {_error(changes)}"


def _cancelled(entry: AuditEntry, changes: Mapping[str, Any], now: datetime) -> str:
    """Tell that it will never fire."""
    return "cancelled" + (", replaced by" if changes.get("replacedBy") else "")


_WORDS: dict[str, tuple[Write, str]] = {
    "transition.scheduled": (_scheduled, ""),
    "transition.updated": (_updated, ""),
    "transition.claimed": (_claimed, ""),
    "transition.completed": (_completed, "good"),
    "transition.attempt_failed": (_attempt_failed, "warning"),
    "transition.failed": (_failed, "bad"),
    "transition.given_back": (_given_back, "warning"),
    "transition.rescued": (_rescued, "warning"),
    "transition.cancelled": (_cancelled, "warning"),
    "transition.expired": (lambda *_: "expired: too old to be published", "warning"),
    "transition.run_now": (lambda *_: "demanded now", ""),
    "transition.retried": (lambda *_: "retried as", ""),
    "transition.overtaken": (lambda *_: "overtaken by somebody else's event", "warning"),
    "transition.archived": (lambda *_: "cleaned up: this page is from the audit", ""),
}


def _error(changes: Mapping[str, Any]) -> str:
    """Return what went wrong."""
    return str(changes.get("error") or changes.get("reason") or "no cause was told")


def _other_job(changes: Mapping[str, Any]) -> str:
    """Return the job that a change names beside its own."""
    other = changes.get("replacedBy") or changes.get("replaces")
    return other if isinstance(other, str) else ""


def _is_pair(value: object) -> bool:
    """Tell whether a value is an old and a new one."""
    return isinstance(value, list) and len(value) == 2  # noqa: PLR2004 -- old, new


def _instant(value: object, *, now: datetime) -> str:
    """Return an instant of the audit for people; what is none, as it stands."""
    try:
        return instant_text(parse_instant(value), now=now)
    except ValueError:
        return str(value)
