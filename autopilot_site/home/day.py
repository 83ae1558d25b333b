"""The last 24 hours in slices: how much was published, how late, what failed.

Jobs are cleaned up after an hour, so the figures come from the audit, which nobody
changes: a slice that has ended is counted once, and kept in this process. Each reading
counts missing slices, the newest first, for as long as a page may wait for them; the next
one goes on.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db.models import Count, F, FloatField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Floor, Greatest, Ln, TruncMinute

from scheduling.models import AuditEntry

COMPLETED: Final = "transition.completed"
FAILED: Final = "transition.failed"
SLICE: Final = timedelta(minutes=5)
MINUTE: Final = timedelta(minutes=1)
SLICES: Final = 288
# So many are counted by one query at the most.
MOST_TOGETHER: Final = 12
HOUR_SLICES: Final = 12
# A transaction that began in a slice may be committed so long after its end.
SETTLES_AFTER: Final = timedelta(minutes=1)
# Bars of the histogram by decade of milliseconds.
PER_DECADE: Final = 8
LEAST_MS: Final = 0.1
_LOG_STEP: Final = math.log(10) / PER_DECADE


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What happened in five minutes.

    lateness: how many were so late, by bucket (see `bucket_of`).
    """

    failed: int = 0
    lateness: Counter[int] = field(default_factory=Counter)

    @property
    def published(self) -> int:
        """How many were published."""
        return self.lateness.total()


def bucket_of(lateness_ms: float) -> int:
    """Return the bucket of a lateness; an eighth of a decade each."""
    return math.floor(math.log(max(lateness_ms, LEAST_MS)) / _LOG_STEP)


def upper_ms(bucket: int) -> float:
    """Return the upper end of a bucket."""
    return math.exp((bucket + 1) * _LOG_STEP)


@dataclass(frozen=True, kw_only=True)
class Day:
    """The slices of the last 24 hours, oldest first; None where not counted yet."""

    slices: Sequence[Slice | None]

    @property
    def is_whole(self) -> bool:
        """Whether every slice is counted."""
        return None not in self.slices

    def counted(self, last: int = SLICES) -> list[Slice]:
        """Return the counted ones of the last so many slices."""
        return [one for one in self.slices[-last:] if one is not None]

    def lateness(self, last: int = SLICES) -> Counter[int]:
        """Return the histogram of the last so many slices."""
        return sum_up(self.counted(last)).lateness

    def hours(self) -> list[list[Slice]]:
        """Return the counted slices by hour, oldest first."""
        return [
            [one for one in self.slices[at : at + HOUR_SLICES] if one is not None]
            for at in range(0, SLICES, HOUR_SLICES)
        ]


def quantile_ms(lateness: Counter[int], share: float) -> float | None:
    """Return what that share of the histogram does not exceed, to an eighth of a decade."""
    total = lateness.total()
    if not total:
        return None
    wanted = math.ceil(share * total)
    seen = 0
    for bucket in sorted(lateness):
        seen += lateness[bucket]
        if seen >= wanted:
            return upper_ms(bucket)
    return None


def share_within(lateness: Counter[int], limit_ms: float) -> float | None:
    """Return the share that was no later than a limit; None without any."""
    total = lateness.total()
    if not total:
        return None
    within = sum(
        n for bucket, n in lateness.items() if upper_ms(bucket) <= limit_ms * 1.001
    )
    return within / total


@dataclass(frozen=True, kw_only=True)
class _Minutes:
    """The minutes before `counted_to` of slices that may still get entries, by begin."""

    counted_to: datetime
    counted: Mapping[datetime, Slice]


class DayReader:
    """Counts slices and keeps those that have ended; shared by the process's threads.

    Of the slice that runs it keeps the minutes that have ended: a page that is asked for
    every few seconds counts no more than the last ones.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[datetime, Slice] = {}
        self._running = _Minutes(counted_to=datetime.min.replace(tzinfo=UTC), counted={})

    def read(self, *, now: datetime, seconds: float) -> Day:
        """Return the last 24 hours, counting for about so many seconds at the most."""
        give_up_at = time.monotonic() + seconds
        newest = _start_of(now, SLICE)
        starts = [newest - SLICE * n for n in range(SLICES)]
        # What may still get entries, first of all.
        fresh = [one for one in starts if one + SLICE + SETTLES_AFTER > now]
        found = self._count_fresh(fresh[-1], slices=len(fresh), now=now)
        missing = [one for one in starts[len(fresh) :] if one not in self._ended]
        together = 1
        while missing:
            began_at = time.monotonic()
            # A few that lie before one another in one question.
            run = [missing.pop(0)]
            while missing and len(run) < together and missing[0] == run[-1] - SLICE:
                run.append(missing.pop(0))
            minutes = _count(run[-1], run[0] + SLICE)
            for start, one in _as_slices(minutes, start=run[-1], slices=len(run)).items():
                self._keep(start, one, oldest=starts[-1])
            # Twice as many take about twice as long: while there is time for them.
            took = time.monotonic() - began_at
            if time.monotonic() + 2 * took > give_up_at:
                break
            together = min(2 * together, MOST_TOGETHER)
        return Day(
            slices=[found.get(one) or self._ended.get(one) for one in reversed(starts)]
        )

    def _count_fresh(
        self, begin: datetime, *, slices: int, now: datetime
    ) -> dict[datetime, Slice]:
        """Count the slices from `begin` on, of which settled minutes are known."""
        known = self._running
        # A clock that was put back makes what was kept useless.
        start = max(begin, known.counted_to) if known.counted_to <= now else begin
        minutes = {at: one for at, one in known.counted.items() if begin <= at < start}
        minutes |= _count(start, begin + SLICE * slices)
        settled_to = max(begin, _start_of(now - SETTLES_AFTER, MINUTE))
        with self._lock:
            if settled_to > self._running.counted_to:
                self._running = _Minutes(
                    counted_to=settled_to,
                    counted={at: one for at, one in minutes.items() if at < settled_to},
                )
        return _as_slices(minutes, start=begin, slices=slices)

    def _keep(self, start: datetime, counted: Slice, *, oldest: datetime) -> None:
        """Keep a slice, and forget those that are out of sight."""
        with self._lock:
            self._ended[start] = counted
            for gone in [one for one in self._ended if one < oldest]:
                del self._ended[gone]


day_reader = DayReader()


def _start_of(now: datetime, span: timedelta) -> datetime:
    """Return the beginning of the slice or minute that an instant is in."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + ((now - midnight) // span) * span


def _count(start: datetime, stop: datetime) -> dict[datetime, Slice]:
    """Count the minutes in which something happened: a query, by the audit's instants."""
    entries = AuditEntry.objects.filter(at__gte=start, at__lt=stop).order_by()
    late = Cast(KeyTextTransform("latenessMs", "changes"), FloatField())
    rows = (
        entries.filter(action__in=(COMPLETED, FAILED))
        .annotate(minute=TruncMinute("at", tzinfo=UTC), late=late)
        .annotate(bucket=Floor(Ln(Greatest(F("late"), LEAST_MS)) / _LOG_STEP))
        .values_list("action", "minute", "bucket")
        .annotate(Count("id"))
    )
    lateness: dict[datetime, Counter[int]] = {}
    failed: Counter[datetime] = Counter()
    for action, minute, bucket, count in rows:
        if action == FAILED:
            failed[minute] += count
        elif bucket is not None:
            lateness.setdefault(minute, Counter())[int(bucket)] += count
    return {
        minute: Slice(lateness=lateness.get(minute, Counter()), failed=failed[minute])
        for minute in {*lateness, *failed}
    }


def _as_slices(
    minutes: Mapping[datetime, Slice], *, start: datetime, slices: int
) -> dict[datetime, Slice]:
    """Return what minutes add up to, for each of the slices that follow `start`."""
    parts: dict[datetime, list[Slice]] = {start + SLICE * n: [] for n in range(slices)}
    for minute, one in minutes.items():
        parts[_start_of(minute, SLICE)].append(one)
    return {begin: sum_up(found) for begin, found in parts.items()}


def sum_up(found: Iterable[Slice]) -> Slice:
    """Return what happened in all of them together."""
    lateness: Counter[int] = Counter()
    failed = 0
    for one in found:
        lateness.update(one.lateness)
        failed += one.failed
    return Slice(lateness=lateness, failed=failed)
