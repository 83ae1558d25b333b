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
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db.models import Count, F, FloatField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Floor, Greatest, Ln, TruncMinute

from scheduling.models import AuditEntry

SLICE: Final = timedelta(minutes=5)
SLICES: Final = 288
HOUR_SLICES: Final = 12
# So many are counted by one query: few, so that a page can stop when its time is up.
TOGETHER: Final = 3
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
        total: Counter[int] = Counter()
        for one in self.counted(last):
            total += one.lateness
        return total

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


class DayReader:
    """Counts slices and keeps those that have ended; shared by the process's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[datetime, Slice] = {}

    def read(self, *, now: datetime, seconds: float) -> Day:
        """Return the last 24 hours, counting for about so many seconds at the most."""
        give_up_at = time.monotonic() + seconds
        newest = _start_of(now)
        starts = [newest - SLICE * n for n in range(SLICES)]
        # What may still get entries is counted each time, and first of all.
        fresh = [one for one in starts if one + SLICE + SETTLES_AFTER > now]
        found = _count(fresh[-1], slices=len(fresh))
        missing = [one for one in starts[len(fresh) :] if one not in self._ended]
        is_first = True
        while missing and (is_first or time.monotonic() < give_up_at):
            is_first = False
            # A few that lie before one another in one question.
            run = [missing.pop(0)]
            while missing and len(run) < TOGETHER and missing[0] == run[-1] - SLICE:
                run.append(missing.pop(0))
            counted = _count(run[-1], slices=len(run))
            found |= counted
            for start, one in counted.items():
                self._keep(start, one, oldest=starts[-1])
        return Day(
            slices=[found.get(one) or self._ended.get(one) for one in reversed(starts)]
        )

    def _keep(self, start: datetime, counted: Slice, *, oldest: datetime) -> None:
        """Keep a slice, and forget those that are out of sight."""
        with self._lock:
            self._ended[start] = counted
            for gone in [one for one in self._ended if one < oldest]:
                del self._ended[gone]


day_reader = DayReader()


def _start_of(now: datetime) -> datetime:
    """Return the beginning of the slice that an instant is in."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + ((now - midnight) // SLICE) * SLICE


def _count(start: datetime, *, slices: int) -> dict[datetime, Slice]:
    """Count slices that follow one another: two queries, served by the audit's indexes."""
    stop = start + SLICE * slices
    entries = AuditEntry.objects.filter(at__gte=start, at__lt=stop).order_by()
    entries = entries.annotate(minute=TruncMinute("at", tzinfo=UTC))
    late = Cast(KeyTextTransform("latenessMs", "changes"), FloatField())
    published = (
        entries.filter(action="transition.completed")
        .annotate(late=late)
        .annotate(bucket=Floor(Ln(Greatest(F("late"), LEAST_MS)) / _LOG_STEP))
        .values_list("minute", "bucket")
        .annotate(Count("id"))
    )
    failed = (
        entries.filter(action="transition.failed")
        .values_list("minute")
        .annotate(Count("id"))
    )
    lateness: dict[datetime, Counter[int]] = {}
    for minute, bucket, count in published:
        if bucket is not None:
            lateness.setdefault(_start_of(minute), Counter())[int(bucket)] += count
    failures: Counter[datetime] = Counter()
    for minute, count in failed:
        failures[_start_of(minute)] += count
    return {
        one: Slice(lateness=lateness.get(one, Counter()), failed=failures[one])
        for one in (start + SLICE * n for n in range(slices))
    }
