"""Counts since ever: what is settled stands in running totals, the rest is added on asking.

Each source is read in an order in which its rows come. A chore moves what can't change any
more into the totals; who asks adds what came since. Rows that become visible late, after
others with higher ids, are the trap: they must still be ahead of `upto` then. So the audit
is counted only up to where every transaction has ended that could write an earlier id.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.models import Count, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform

from recovery.models import RecoveryRun
from recovery.results import OPEN
from scheduling.models import AuditEntry, DeadLetter, RunningTotal

# Seconds; the service level objective is one second.
LATENESS_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3_600.0,
)  # fmt: skip
EXECUTION_BUCKETS: Final = (
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
)  # fmt: skip
DURATION_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
PUBLISHED: Final = "transition.completed"
# Every attempt that did not put its record on the topic, those of an outage too.
FAILURES: Final = (
    "transition.attempt_failed",
    "transition.failed",
    "transition.given_back",
)
COUNTED: Final = (PUBLISHED, *FAILURES)
# What a run changed: column of the run, and the metric's kind.
CHANGES: Final[Mapping[str, str]] = {
    "upcoming_phases_scheduled": "scheduled",
    "rescheduled_phases": "rescheduled",
    "overdue_phases_processed": "fired",
    "expired_phases": "expired",
    "cancelled_jobs": "cancelled",
    "rescued_jobs": "rescued",
}
# More entries are not counted at once, neither by the chore nor on asking.
MOST_IDS: Final = 50_000
# A dead letter is visible so long after its instant at the latest.
LATEST: Final = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How values are spread: how many up to each bound (and beyond), and their sum."""

    counts: Sequence[int]
    total: float


@dataclass
class Counts:
    """Numbers by name; a histogram's are `NAME|INDEX` and `NAME|sum`."""

    values: Counter[str] = field(default_factory=Counter)

    def add_value(self, name: str, value: float, bounds: Sequence[float]) -> None:
        """Add one value to a histogram."""
        self.values[f"{name}|{bisect_left(bounds, value)}"] += 1
        self.add_number(f"{name}|sum", value)

    def add_ms(self, name: str, text: str | float | None, bounds: Sequence[float]) -> None:
        """Add a value in milliseconds, as the audit has it, to a histogram in seconds.

        None, and less than nothing, is left out.
        """
        ms = -1.0 if text is None else float(text)
        if ms >= 0:
            self.add_value(name, ms / 1000, bounds)

    def add_number(self, name: str, number: float) -> None:
        """Add to a number."""
        self.values[name] += number  # type: ignore[assignment]

    def of(self, prefix: str) -> dict[str, float]:
        """Return the numbers whose names begin so, by the rest of their names."""
        return {
            name.removeprefix(prefix): number
            for name, number in self.values.items()
            if name.startswith(prefix)
        }

    def spread(self, name: str, bounds: Sequence[float]) -> Spread:
        """Return a histogram."""
        counts = [int(self.values[f"{name}|{i}"]) for i in range(len(bounds) + 1)]
        return Spread(counts=counts, total=float(self.values[f"{name}|sum"]))


# --- What each source has to tell -----------------------------------------------------
def _count_audit(entries: QuerySet[AuditEntry]) -> Counts:
    """Count what the engine did, and spread lateness and execution time.

    What a person demanded is left out of the lateness: it does not tell how exact the
    clockwork is, and one that is run before its time is late by less than nothing.
    """
    counts = Counts()
    told = [
        KeyTextTransform(name, "changes")
        for name in ("latenessMs", "executionMs", "isForced")
    ]
    rows = entries.order_by().filter(action__in=COUNTED).values_list("action", *told)
    for action, lateness, execution, is_forced in rows.iterator():
        counts.values[action] += 1
        if action != PUBLISHED:
            continue
        if is_forced != "true":
            counts.add_ms("lateness", lateness, LATENESS_BUCKETS)
        counts.add_ms("execution", execution, EXECUTION_BUCKETS)
    return counts


def _count_runs(runs: QuerySet[RecoveryRun]) -> Counts:
    """Count runs that have ended by status, their durations, and what they changed."""
    counts = Counts()
    for run in runs:
        counts.values[f"run|{run.status}"] += 1
        if run.started_at and run.finished_at:
            took = max(0.0, (run.finished_at - run.started_at).total_seconds())
            counts.add_value("duration", took, DURATION_BUCKETS)
        if not run.dry_run:
            for column, kind in CHANGES.items():
                counts.values[f"change|{kind}"] += getattr(run, column)
    return counts


def _count_letters(letters: QuerySet[DeadLetter]) -> Counts:
    """Count dead letters by code."""
    counts = Counts()
    for code, number in letters.order_by().values_list("code").annotate(Count("pk")):
        counts.values[f"letter|{code}"] += number
    return counts


# --- Where the settled part of each source ends ---------------------------------------
def _newest_entry() -> int:
    """Return the highest id that is seen; 0 without any."""
    return AuditEntry.objects.order_by("-id").values_list("id", flat=True).first() or 0


def _end_of_part(after: int, bound: int) -> int:
    """Return the last id of the part that comes next, up to the bound."""
    if bound - after <= MOST_IDS:
        return bound
    ids = AuditEntry.objects.filter(id__gt=after, id__lte=bound).order_by("id")
    last = list(ids.values_list("id", flat=True)[MOST_IDS - 1 : MOST_IDS])
    return last[0] if last else bound


def _audit_bound(total: RunningTotal) -> int:
    """Return the last id below which no entry can appear any more; note what is seen.

    On PostgreSQL ids are given before the commit. What the last round saw as the highest
    id is safe once all transactions of then have ended; rounds are seconds apart.
    """
    newest = _newest_entry()
    if newest <= total.upto or connection.vendor != "postgresql":
        return newest
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint"
            " FROM pg_current_snapshot() AS s"
        )
        oldest_open, next_one = cursor.fetchone()
    seen = total.seen
    is_over = bool(seen) and oldest_open >= seen["next"]
    if not seen or is_over:
        total.seen = {"id": newest, "next": next_one}
    return int(seen["id"]) if is_over else total.upto


def _runs_bound() -> int:
    """Return the last id of which all runs up to it have ended."""
    waiting = RecoveryRun.objects.open().order_by("id").values_list("id", flat=True).first()
    if waiting is not None:
        return waiting - 1
    newest = RecoveryRun.objects.order_by("-id").values_list("id", flat=True).first()
    return newest or 0


# --- Counting -------------------------------------------------------------------------
def settle(*, now: datetime) -> None:
    """Move what can't change any more into the running totals."""
    for name, advance in _ADVANCES.items():
        RunningTotal.objects.get_or_create(name=name)
        with transaction.atomic():
            total = RunningTotal.objects.select_for_update().get(name=name)
            before = (total.upto, total.upto_at, total.seen)
            counts = advance(total, now)
            for key, number in counts.values.items():
                total.counts[key] = total.counts.get(key, 0) + number
            if before != (total.upto, total.upto_at, total.seen):
                total.save()


def _advance_audit(total: RunningTotal, now: datetime) -> Counts:
    """Count the settled entries that come next."""
    bound = _end_of_part(total.upto, _audit_bound(total))
    if bound <= total.upto:
        return Counts()
    counts = _count_audit(AuditEntry.objects.filter(id__gt=total.upto, id__lte=bound))
    total.upto = bound
    return counts


def _advance_runs(total: RunningTotal, now: datetime) -> Counts:
    """Count the ended runs that come next."""
    bound = _runs_bound()
    if bound <= total.upto:
        return Counts()
    counts = _count_runs(RecoveryRun.objects.filter(id__gt=total.upto, id__lte=bound))
    total.upto = bound
    return counts


def _advance_letters(total: RunningTotal, now: datetime) -> Counts:
    """Count the dead letters that come next."""
    bound = now - LATEST
    if total.upto_at is not None and bound <= total.upto_at:
        return Counts()
    counts = _count_letters(DeadLetter.objects.filter(_between(total.upto_at, bound)))
    # Without any there is nothing to write: the next round begins where this one did.
    if counts.values or total.upto_at is None:
        total.upto_at = bound
    return counts


def _between(after: datetime | None, until: datetime | None) -> Q:
    """Return the condition of dead letters set aside within that time."""
    condition = Q()
    if after is not None:
        condition &= Q(set_aside_at__gt=after)
    if until is not None:
        condition &= Q(set_aside_at__lte=until)
    return condition


_ADVANCES: Final[Mapping[str, Callable[[RunningTotal, datetime], Counts]]] = {
    "audit": _advance_audit,
    "recovery runs": _advance_runs,
    "dead letters": _advance_letters,
}


def count_all() -> Counts:
    """Return the counts since ever: the running totals, and what came since."""
    totals: dict[str, RunningTotal] = {one.name: one for one in RunningTotal.objects.all()}
    audit = totals.get("audit", RunningTotal())
    runs = totals.get("recovery runs", RunningTotal())
    letters = totals.get("dead letters", RunningTotal())
    ended = RecoveryRun.objects.filter(id__gt=runs.upto).exclude(
        status__in=[one.value for one in OPEN]
    )
    counts = Counts()
    end = _end_of_part(audit.upto, _newest_entry())
    for part in (
        _count_audit(AuditEntry.objects.filter(id__gt=audit.upto, id__lte=end)),
        _count_runs(ended),
        _count_letters(DeadLetter.objects.filter(_between(letters.upto_at, None))),
    ):
        counts.values.update(part.values)
    for total in (audit, runs, letters):
        counts.values.update(total.counts)
    return counts
